//! Which form of events a filter asks for: the client's or the raw one of federation, whole or only some fields
//! (client-server API, filtering; appendices, dot-separated property paths).

use std::collections::BTreeMap;
use std::sync::Arc;

use rooms::Event;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::Filter;
use crate::json::Object;

/// Most fields that one filter may name.
pub const FIELDS_MAX: usize = 1_000;

/// The format of events.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum EventFormat {
    /// As clients usually get them.
    #[default]
    Client,
    /// The raw event as received over federation.
    Federation,
}

/// The fields to include, as a tree of names: no names below means the whole value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(BTreeMap<String, Fields>);

impl Fields {
    /// The tree of these paths. A path that goes deeper than another one names nothing new.
    pub fn new<'a>(paths: impl Iterator<Item = &'a str>) -> Self {
        let mut fields = Self::default();
        for path in paths.take(FIELDS_MAX) {
            fields.add(&split(path));
        }
        fields
    }

    fn add(&mut self, path: &[String]) {
        let Some((name, rest)) = path.split_first() else { return };
        let known = self.0.contains_key(name);
        let below = self.0.entry(name.clone()).or_default();
        if rest.is_empty() {
            below.0.clear();
        } else if !known || !below.0.is_empty() {
            below.add(rest);
        }
    }

    /// The named fields of an object, as they are written; all of it, if it is no object.
    pub fn of(&self, json: &str) -> String {
        let Ok(members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(json) else { return json.to_owned() };
        let mut object = Object::new();
        for (name, below) in &self.0 {
            let Some(value) = members.get(name) else { continue };
            if below.0.is_empty() {
                object.raw(name, value.get());
            } else if value.get().starts_with('{') {
                object.raw(name, &below.of(value.get()));
            }
        }
        object.finish()
    }
}

/// The names of a path: `\.` is a dot and `\\` a backslash within a name, any other backslash stands for itself.
fn split(path: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut characters = path.chars().peekable();
    while let Some(character) = characters.next() {
        let escaped = (character == '\\').then(|| characters.next_if(|next| matches!(next, '.' | '\\'))).flatten();
        match (escaped.unwrap_or(character), escaped, names.last_mut()) {
            ('.', None, _) => names.push(String::new()),
            (character, _, Some(name)) => name.push(character),
            (_, _, None) => {}
        }
    }
    names
}

impl Filter {
    /// Events of a room in the form that the filter asks for. `rendered` are they in the client's.
    pub(crate) fn formed(&self, events: &[Arc<Event>], rendered: Vec<String>) -> Vec<String> {
        let rendered = match self.event_format {
            EventFormat::Client => rendered,
            EventFormat::Federation => {
                events.iter().map(|event| String::from_utf8_lossy(&event.pdu.bytes).into_owned()).collect()
            }
        };
        match &self.fields {
            None => rendered,
            Some(fields) => rendered.iter().map(|event| fields.of(event)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cy6_paths_are_split_at_unescaped_dots() {
        let table: [(&str, &[&str]); 8] = [
            ("content.body", &["content", "body"]),
            (r"content.m\.relates_to", &["content", "m.relates_to"]),
            (r"content.m\.foo.b\.ar", &["content", "m.foo", "b.ar"]),
            (r"a\\.b", &[r"a\", "b"]),
            (r"a\\\.b", &[r"a\.b"]),
            (r"a\b", &[r"a\b"]),
            (r"a\", &[r"a\"]),
            ("", &[""]),
        ];
        for (path, names) in table {
            assert_eq!(split(path), names, "{path}");
        }
    }

    #[test]
    fn cy6_only_named_fields_are_left() {
        let event = r#"{"content":{"body":"b","m.x":{"a":1.0,"b":2},"list":[{}]},"type":"t","sender":null}"#;
        let table: [(&[&str], &str); 9] = [
            (&["type"], r#"{"type":"t"}"#),
            (&["content.body", "type"], r#"{"content":{"body":"b"},"type":"t"}"#),
            (&[r"content.m\.x.a"], r#"{"content":{"m.x":{"a":1.0}}}"#),
            (&["content.m.x.a"], r#"{"content":{}}"#),
            (&["content.body", "content"], r#"{"content":{"body":"b","m.x":{"a":1.0,"b":2},"list":[{}]}}"#),
            (&["content.list", "content.list.a"], r#"{"content":{"list":[{}]}}"#),
            (&["content.list.a", "sender"], r#"{"content":{},"sender":null}"#),
            (&["type.more", "none", ""], "{}"),
            (&[], "{}"),
        ];
        for (paths, left) in table {
            assert_eq!(Fields::new(paths.iter().copied()).of(event), left, "{paths:?}");
        }
    }
}
