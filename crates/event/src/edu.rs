//! The envelope of ephemeral data units (server-server API, "EDUs").

use crate::json::{Json, Object};

/// An EDU as it stands in a transaction; what it says is checked per type by
/// whoever handles it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edu {
    /// `edu_type`, for example `m.typing`.
    pub kind: String,
    /// The content.
    pub content: Object,
}

impl Edu {
    /// Reads an EDU; `None` if it lacks a type or an object as content.
    pub fn from_json(mut edu: Object) -> Option<Edu> {
        match (edu.remove("edu_type")?, edu.remove("content")?) {
            (Json::String(kind), Json::Object(content)) => Some(Edu { kind, content }),
            _ => None,
        }
    }

    /// The EDU for a transaction.
    pub fn into_json(self) -> Object {
        Object::from([
            ("edu_type".to_owned(), Json::String(self.kind)),
            ("content".to_owned(), Json::Object(self.content)),
        ])
    }
}
