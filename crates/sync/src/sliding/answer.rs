//! An answer, before it is put into the words of a dialect.

use std::collections::BTreeSet;

use rooms::unread::Counts;

use crate::json::{Object, quote};
use crate::sliding::request::Dialect;
use crate::sliding::{accepted, deployed};

/// What is told of a room. What is `None`, or empty, has not changed or is not wanted.
#[derive(Debug, Default)]
pub(crate) struct RoomAnswer {
    /// Whatever the client knows of the room is replaced.
    pub initial: bool,
    /// The timeline holds more of the past than the client has asked for before.
    pub expanded: bool,
    /// The user's membership.
    pub membership: String,
    /// The room's own name, or that it has none any more.
    pub name: Option<Option<String>>,
    /// The room's own avatar, or that it has none any more.
    pub avatar: Option<Option<String>>,
    /// Some members, as JSON objects, of a room without name.
    pub heroes: Option<Vec<String>>,
    /// Whether it is a direct chat.
    pub is_dm: Option<bool>,
    /// State as of the end of the timeline, as events.
    pub state: Vec<String>,
    /// State that there is no more: types and state keys.
    pub gone: Vec<(String, String)>,
    /// The timeline, if any was asked for.
    pub timeline: Option<TimelineAnswer>,
    /// Joined and invited members.
    pub members: Option<(i64, i64)>,
    /// What is unread.
    pub unread: Counts,
    /// By what clients sort rooms.
    pub bump_stamp: Option<i64>,
    /// Stripped state of an invite or a knock, as a JSON array.
    pub stripped: Option<String>,
    /// The lists in which it stands, if in any.
    pub lists: Vec<String>,
}

/// A timeline.
#[derive(Debug, Default)]
pub(crate) struct TimelineAnswer {
    /// The events, oldest first.
    pub events: Vec<String>,
    /// Their ids.
    pub ids: BTreeSet<String>,
    /// Whether events are missing before the first of them.
    pub limited: bool,
    /// Where the past goes on.
    pub prev_batch: String,
    /// How many of the last ones have come since the client's last request.
    pub n_live: usize,
}

/// An answer, but for the position.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// How many rooms each list has.
    pub counts: Vec<(String, usize)>,
    /// The rooms of which there is something to tell, by room id.
    pub rooms: Vec<(String, RoomAnswer)>,
    /// The extensions that have something to say, by name, as JSON objects.
    pub extensions: Vec<(&'static str, String)>,
    /// Whether any of it is news.
    pub news: bool,
}

impl Answer {
    /// The answer as JSON text.
    pub fn write(&self, dialect: Dialect, pos: &str, txn_id: Option<&str>) -> String {
        let mut body = Object::new();
        body.text("pos", pos);
        if let Some(txn_id) = txn_id {
            body.text("txn_id", txn_id);
        }
        let (mut lists, mut rooms, mut extensions) = (Object::new(), Object::new(), Object::new());
        for (name, count) in &self.counts {
            lists.raw(name, &format!("{{\"count\":{count}}}"));
        }
        for (room_id, room) in &self.rooms {
            let written = match dialect {
                Dialect::Deployed => deployed::room(room),
                Dialect::Accepted => accepted::room(room),
            };
            rooms.raw(room_id, &written.finish());
        }
        for (name, extension) in &self.extensions {
            extensions.raw(name, extension);
        }
        body.raw("lists", &lists.finish()).raw("rooms", &rooms.finish()).raw("extensions", &extensions.finish());
        body.finish()
    }
}

impl RoomAnswer {
    /// What both dialects say in the same words.
    pub(crate) fn common(&self) -> Object {
        let mut room = Object::new();
        if self.initial {
            room.boolean("initial", true);
        }
        for (name, value) in [("name", &self.name), ("avatar", &self.avatar)] {
            if let Some(value) = value {
                room.raw(name, &value.as_deref().map_or_else(|| "null".to_owned(), quote));
            }
        }
        if let Some(heroes) = &self.heroes {
            room.raw("heroes", &crate::json::array(heroes));
        }
        if let Some(timeline) = &self.timeline {
            room.raw("timeline", &crate::json::array(&timeline.events));
            room.boolean("limited", timeline.limited).text("prev_batch", &timeline.prev_batch);
            room.number("num_live", i64::try_from(timeline.n_live).unwrap_or(i64::MAX));
        }
        if let Some((joined, invited)) = self.members {
            room.number("joined_count", joined).number("invited_count", invited);
        }
        if let Some(bump_stamp) = self.bump_stamp {
            room.number("bump_stamp", bump_stamp);
        }
        room
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use serde_json::{Value, json};

    use super::*;

    /// The room of an answer in both dialects: deployed, accepted.
    fn written(room: impl Fn() -> RoomAnswer) -> [Value; 2] {
        [Dialect::Deployed, Dialect::Accepted].map(|dialect| {
            let answer = Answer { rooms: vec![("!r".to_owned(), room())], ..Answer::default() };
            let body: Value = serde_json::from_str(&answer.write(dialect, "p", None)).unwrap();
            assert_eq!((&body["pos"], &body["lists"], &body["extensions"]), (&json!("p"), &json!({}), &json!({})));
            body["rooms"]["!r"].clone()
        })
    }

    #[test]
    fn cz5_what_is_gone_is_told_by_null_and_by_stubs() {
        let room = || RoomAnswer {
            name: Some(None),
            avatar: Some(Some("mxc://a/b".to_owned())),
            state: vec!["{\"a\":1}".to_owned()],
            gone: vec![("x.y".to_owned(), "k".to_owned())],
            membership: "join".to_owned(),
            ..RoomAnswer::default()
        };
        let counts = json!({ "notification_count": 0, "highlight_count": 0 });
        let [mut deployed, accepted] = written(room);
        let stub = json!({ "type": "x.y", "state_key": "k" });
        let mut expected = json!({ "name": null, "avatar": "mxc://a/b", "membership": "join" });
        expected["required_state"] = json!([{ "a": 1 }, stub]);
        assert_eq!(accepted, expected);
        for name in ["notification_count", "highlight_count"] {
            assert_eq!(deployed.as_object_mut().unwrap().remove(name).as_ref(), counts.get(name));
        }
        assert_eq!(deployed, json!({ "name": null, "avatar": "mxc://a/b", "required_state": [{ "a": 1 }] }));
    }

    #[test]
    fn cz4_cz7_each_dialect_has_its_own_words() {
        let room = || RoomAnswer {
            expanded: true,
            stripped: Some("[]".to_owned()),
            membership: "invite".to_owned(),
            lists: vec!["a".to_owned()],
            ..RoomAnswer::default()
        };
        let [deployed, accepted] = written(room);
        let counts = json!({ "unstable_expanded_timeline": true, "invite_state": [], "notification_count": 0, "highlight_count": 0 });
        assert_eq!(deployed, counts);
        let words = json!({ "expanded_timeline": true, "stripped_state": [], "membership": "invite", "lists": ["a"] });
        assert_eq!(accepted, words);
    }
}
