//! What of an event is searched (client-server API, "Server Side Search").

use std::collections::BTreeSet;

use event::{Json, Object};
use rooms::Event;

/// A key of an event's content that is searched. Each is of one event type, and no type has two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// `content.body` of `m.room.message`.
    Body,
    /// `content.name` of `m.room.name`.
    Name,
    /// `content.topic` of `m.room.topic`, and its plain text in `m.topic`.
    Topic,
}

impl Key {
    /// All keys.
    pub const ALL: [Self; 3] = [Self::Body, Self::Name, Self::Topic];

    /// As the specification names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Body => "content.body",
            Self::Name => "content.name",
            Self::Topic => "content.topic",
        }
    }

    /// The key that is searched in events of this type.
    pub(crate) fn of(kind: &str) -> Option<Self> {
        match kind {
            "m.room.message" => Some(Self::Body),
            "m.room.name" => Some(Self::Name),
            "m.room.topic" => Some(Self::Topic),
            _ => None,
        }
    }
}

/// The key of an event, if it can have a text at all.
pub(crate) fn key_of(event: &Event) -> Option<Key> {
    let key = Key::of(&event.pdu.kind)?;
    let fits = match key {
        Key::Body => !event.pdu.is_state(),
        Key::Name | Key::Topic => event.pdu.state_key.as_deref() == Some(""),
    };
    fits.then_some(key)
}

/// The text of an event, or of its edit: with what it says now. Different texts are divided by line feeds.
pub(crate) fn text_of(event: &Event, edit: Option<&Event>) -> Option<String> {
    let key = key_of(event)?;
    let replaced = edit.and_then(|edit| edit.pdu.content.get("m.new_content")?.as_object());
    let content = replaced.unwrap_or(&event.pdu.content);
    let text = |name: &str| content.get(name).and_then(Json::as_str).map(str::to_owned);
    match key {
        Key::Body => text("body"),
        Key::Name => text("name"),
        Key::Topic => {
            let texts: BTreeSet<String> = text("topic").into_iter().chain(plain_topics(content)).collect();
            (!texts.is_empty()).then(|| texts.into_iter().collect::<Vec<_>>().join("\n"))
        }
    }
}

/// The representations of a topic that are plain text, as all are that do not say otherwise.
fn plain_topics(content: &Object) -> Vec<String> {
    let texts = content.get("m.topic").and_then(Json::as_object).and_then(|topic| topic.get("m.text"));
    let Some(Json::Array(texts)) = texts else { return Vec::new() };
    let plain = texts
        .iter()
        .filter_map(Json::as_object)
        .filter(|text| text.get("mimetype").is_none_or(|mimetype| mimetype.as_str() == Some("text/plain")));
    plain.filter_map(|text| text.get("body")?.as_str().map(str::to_owned)).collect()
}
