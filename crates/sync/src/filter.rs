//! Filters of sync and of pagination (client-server API, filtering). "Not" beats "yes"; `*` at the end of a type stands
//! for any rest.

use rooms::Event;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;
use crate::fields::{EventFormat, FIELDS_MAX, Fields};

/// Most events of a room's timeline in one answer.
pub const TIMELINE_LIMIT_MAX: usize = 100;
/// Events of a room's timeline where the filter does not say.
pub const TIMELINE_LIMIT_DEFAULT: usize = 10;

/// The parts of a filter that are objects.
const PARTS: &[&str] =
    &["/presence", "/account_data", "/room", "/room/state", "/room/timeline", "/room/ephemeral", "/room/account_data"];

/// A filter as clients define it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Presence events.
    pub presence: EventFilter,
    /// Global account data.
    pub account_data: EventFilter,
    /// What belongs to rooms.
    pub room: RoomFilter,
    /// The format of events.
    pub event_format: EventFormat,
    /// Paths of the fields of events to include.
    event_fields: Option<Vec<String>>,
    /// The same, read.
    #[serde(skip)]
    pub fields: Option<Fields>,
}

/// The part of a filter about rooms.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RoomFilter {
    /// Only these rooms.
    pub rooms: Option<Vec<String>>,
    /// Not these rooms.
    pub not_rooms: Vec<String>,
    /// Also rooms that were left before.
    pub include_leave: bool,
    /// State events.
    pub state: EventFilter,
    /// Timeline events.
    pub timeline: EventFilter,
    /// Typing and receipts.
    pub ephemeral: EventFilter,
    /// Account data of rooms.
    pub account_data: EventFilter,
}

/// Which events to include.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EventFilter {
    /// At most so many.
    pub limit: Option<u64>,
    /// Only these types.
    pub types: Option<Vec<String>>,
    /// Not these types.
    pub not_types: Vec<String>,
    /// Only these senders.
    pub senders: Option<Vec<String>>,
    /// Not these senders.
    pub not_senders: Vec<String>,
    /// Only these rooms.
    pub rooms: Option<Vec<String>>,
    /// Not these rooms.
    pub not_rooms: Vec<String>,
    /// Only events with (or without) a `url` in their content.
    pub contains_url: Option<bool>,
    /// Only the members whose events are shown.
    pub lazy_load_members: bool,
    /// Repeat members that were sent before.
    pub include_redundant_members: bool,
    /// Split unread counts by thread.
    pub unread_thread_notifications: bool,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// [`Error::BadFilter`] naming what is wrong.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut filter: Self = parse(text, PARTS)?;
        if let Some(paths) = filter.event_fields.take() {
            if paths.len() > FIELDS_MAX {
                return Err(Error::BadFilter(format!("`event_fields` may have {FIELDS_MAX} entries")));
            }
            filter.fields = Some(Fields::new(paths.iter().map(String::as_str)));
        }
        Ok(filter)
    }
}

impl RoomFilter {
    /// Whether a room is included at all.
    pub fn includes(&self, room_id: &str) -> bool {
        listed(self.rooms.as_deref(), &self.not_rooms, room_id)
    }
}

impl EventFilter {
    /// Reads a filter of room events, as `/messages` and `/context` take it.
    ///
    /// # Errors
    /// [`Error::BadFilter`] naming what is wrong.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse(text, &[])
    }

    /// The number of timeline events, within bounds.
    pub fn timeline_limit(&self) -> usize {
        let limit = self.limit.map_or(TIMELINE_LIMIT_DEFAULT, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        limit.min(TIMELINE_LIMIT_MAX)
    }

    /// Whether something of this type and sender is included.
    pub fn accepts(&self, kind: &str, sender: Option<&str>) -> bool {
        let types = self.types.as_ref().is_none_or(|types| types.iter().any(|pattern| matches(pattern, kind)));
        let type_excluded = self.not_types.iter().any(|pattern| matches(pattern, kind));
        let sender = sender.is_none_or(|sender| listed(self.senders.as_deref(), &self.not_senders, sender));
        types && !type_excluded && sender
    }

    /// Whether this part of the filter includes a room.
    pub fn accepts_room(&self, room_id: &str) -> bool {
        listed(self.rooms.as_deref(), &self.not_rooms, room_id)
    }

    /// Whether an event is included.
    pub fn accepts_event(&self, event: &Event) -> bool {
        let has_url = || event.pdu.content.get("url").is_some_and(|url| url.as_str().is_some());
        self.accepts(&event.pdu.kind, Some(&event.pdu.sender))
            && self.contains_url.is_none_or(|wanted| wanted == has_url())
    }
}

/// Reads a filter whose named parts, and which itself, must be objects where they are given: to the deserializer of a
/// struct a list would do as well.
fn parse<T: DeserializeOwned>(text: &str, parts: &[&str]) -> Result<T, Error> {
    let value: Value = serde_json::from_str(text).map_err(|error| Error::BadFilter(error.to_string()))?;
    for part in [""].iter().chain(parts) {
        if value.pointer(part).is_some_and(|part| !part.is_object()) {
            return Err(Error::BadFilter(format!("`{}` must be an object", part.trim_start_matches('/'))));
        }
    }
    T::deserialize(value).map_err(|error| Error::BadFilter(error.to_string()))
}

fn listed(only: Option<&[String]>, not: &[String], name: &str) -> bool {
    only.is_none_or(|only| only.iter().any(|one| one == name)) && !not.iter().any(|one| one == name)
}

/// Whether a type matches a pattern in which `*` stands for any text.
fn matches(pattern: &str, kind: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| kind.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn cy6_patterns_match_as_globs() {
        let table = [
            ("m.room.message", "m.room.message", true),
            ("m.room.message", "m.room.messages", false),
            ("m.room.*", "m.room.message", true),
            ("m.room.*", "m.rooms", false),
            ("*", "", true),
            ("m.*.message", "m.room.message", true),
            ("m.*.message", "m.room.member", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
        ];
        for (pattern, kind, expected) in table {
            assert_eq!(matches(pattern, kind), expected, "{pattern} {kind}");
        }
    }

    #[test]
    fn cy6_not_beats_yes() {
        let filter =
            EventFilter::parse(r#"{"types":["m.*"],"not_types":["m.room.*"],"not_senders":["@b:s"]}"#).unwrap();
        assert!(filter.accepts("m.typing", Some("@a:s")));
        assert!(!filter.accepts("m.room.name", Some("@a:s")));
        assert!(!filter.accepts("m.typing", Some("@b:s")));
        assert!(!filter.accepts("org.x", None));
        for refused in [
            "[]",
            "1",
            "",
            r#"{"room":[]}"#,
            r#"{"room":{"state":[]}}"#,
            r#"{"presence":1}"#,
            r#"{"event_format":"x"}"#,
        ] {
            assert!(Filter::parse(refused).is_err(), "{refused}");
        }
        assert!(Filter::parse(r#"{"room":{"timeline":{"limit":"x"}}}"#).is_err());
    }
}
