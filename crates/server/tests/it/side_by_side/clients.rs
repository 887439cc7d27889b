//! Clients of three dialects: each puts together what it is answered, as clients do.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::reference::{Counts, Key, MEMBER};

/// Old states that a client can go back to.
const OLD_MAX: usize = 6;

/// How a client syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `/v3/sync`.
    V3 {
        /// Asks for the state at the end of the timeline.
        after: bool,
        /// Asks for counts of threads apart.
        threads: bool,
    },
    /// `org.matrix.simplified_msc3575`.
    Deployed {
        /// Has one list only, of the rooms of a space.
        in_space: bool,
    },
    /// `/v4/sync` (MSC4186), with a window that moves.
    Accepted,
}

/// A piece of a timeline.
#[derive(Clone, Debug)]
pub enum Piece {
    /// An event: its id, and itself.
    Event(String, Value),
    /// Here events are missing.
    Gap {
        /// From where they are paged for, back in time.
        from: String,
        /// The token up to which all before is known.
        to: Option<String>,
    },
}

/// A room as a client knows it.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub membership: String,
    pub state: BTreeMap<Key, String>,
    pub timeline: Vec<Piece>,
    /// Whether the timeline is all that there is to see but for its gaps.
    pub whole: bool,
    pub counts: Counts,
    pub threads: BTreeMap<String, Counts>,
    /// By user, type and thread (empty if unthreaded).
    pub receipts: BTreeMap<Key3, String>,
    pub fully_read: Option<String>,
    pub joined: i64,
    pub invited: i64,
}

/// User, type and thread.
pub type Key3 = (String, String, String);

/// A user's client.
#[derive(Clone)]
pub struct Client {
    /// For messages: which client this is.
    pub label: String,
    pub user: String,
    pub token: String,
    pub dialect: Dialect,
    /// Wants only the members whose events it shows.
    pub lazy: bool,
    /// Events of a timeline.
    pub limit: usize,
    /// Where its last answer ended.
    pub at: Option<String>,
    pub views: BTreeMap<String, View>,
    /// Rooms in each list.
    pub lists: BTreeMap<String, u64>,
    pub old: Vec<(Option<String>, BTreeMap<String, View>)>,
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn entry_of(event: &Value) -> Option<Key> {
    event.get("state_key").map(|state_key| (text(&event["type"]), text(state_key)))
}

impl Client {
    /// The body of a request of sliding sync; of a window, if one is given.
    pub fn body(&self, space: &str, last: Option<usize>) -> Value {
        let (ranges, limit) = (json!([0, last.unwrap_or(99)]), self.limit);
        let extensions = json!({ "receipts": { "enabled": true }, "account_data": { "enabled": true } });
        if self.dialect == Dialect::Accepted {
            // Who wants the own membership kept beside lazy members says so.
            let own = json!({ "type": MEMBER, "state_key": self.user });
            let state = json!({ "include": [{}, own], "lazy_members": self.lazy });
            let all = json!({ "range": ranges, "timeline_limit": limit, "required_state": state });
            return json!({
                "pos": self.at, "set_presence": "offline", "lists": { "all": all }, "extensions": extensions,
            });
        }
        let state = match self.lazy {
            true => json!([["*", "*"], [MEMBER, "$LAZY"], [MEMBER, "$ME"]]),
            false => json!([["*", "*"]]),
        };
        let all = json!({ "ranges": [ranges], "timeline_limit": limit, "required_state": state });
        let mut within = all.clone();
        within["filters"] = json!({ "spaces": [space] });
        let lists = match self.dialect == (Dialect::Deployed { in_space: true }) {
            true => json!({ "space": within }),
            false => json!({ "all": all, "space": within }),
        };
        json!({ "lists": lists, "extensions": extensions })
    }

    /// The filter of `/v3/sync`.
    pub fn filter(&self) -> String {
        let threads = self.dialect == (Dialect::V3 { after: true, threads: true })
            || self.dialect == (Dialect::V3 { after: false, threads: true });
        let timeline = json!({ "limit": self.limit, "unread_thread_notifications": threads });
        let room = json!({ "timeline": timeline, "state": { "lazy_load_members": self.lazy } });
        json!({ "room": room, "presence": { "types": [] } }).to_string()
    }

    /// Whether it looks at all rooms all the time.
    pub fn sees_all(&self) -> bool {
        self.dialect != Dialect::Accepted
    }

    /// The server has forgotten where it was.
    pub fn begin_anew(&mut self) {
        self.at = None;
        self.views.clear();
        self.old.clear();
    }

    /// Takes an answer. Says whether there was anything of rooms in it.
    pub fn take(&mut self, answer: &Value) -> bool {
        self.old.push((self.at.clone(), self.views.clone()));
        if self.old.len() > OLD_MAX {
            self.old.remove(0);
        }
        match self.dialect {
            Dialect::V3 { after, .. } => self.take_v3(answer, after),
            _ => self.take_sliding(answer),
        }
    }

    fn take_v3(&mut self, answer: &Value, after: bool) -> bool {
        let since = self.at.replace(text(&answer["next_batch"]));
        for (membership, rooms) in answer["rooms"].as_object().into_iter().flatten() {
            for (room_id, section) in rooms.as_object().into_iter().flatten() {
                let view = self.views.entry(room_id.clone()).or_default();
                match membership.as_str() {
                    "join" | "leave" => {
                        let context = format!("{} {room_id}", self.label);
                        view.take_v3(section, membership, since.as_deref(), after, &context);
                        if membership == "join" && self.lazy {
                            view.check_senders(&section["timeline"]["events"], &context);
                        }
                    }
                    _ => membership.clone_into(&mut view.membership),
                }
            }
        }
        answer["rooms"].as_object().is_some_and(|rooms| !rooms.is_empty())
    }

    fn take_sliding(&mut self, answer: &Value) -> bool {
        self.at = Some(text(&answer["pos"]));
        for (name, list) in answer["lists"].as_object().into_iter().flatten() {
            self.lists.insert(name.clone(), list["count"].as_u64().unwrap_or_default());
        }
        for (room_id, room) in answer["rooms"].as_object().into_iter().flatten() {
            let context = format!("{} {room_id}", self.label);
            if room["initial"] == true {
                self.views.insert(room_id.clone(), View { whole: true, ..View::default() });
            }
            let view = self.views.get_mut(room_id);
            let view = view.unwrap_or_else(|| panic!("{context}: what is not initial is not known: {room}"));
            view.take_sliding(room, &self.user, self.dialect == Dialect::Accepted, self.lazy, &context);
            if view.membership == "join" && self.lazy {
                view.check_senders(&room["timeline"], &context);
            }
        }
        let extensions = &answer["extensions"];
        for (room_id, receipts) in extensions["receipts"]["rooms"].as_object().into_iter().flatten() {
            self.views.get_mut(room_id).expect("receipts of what is not known").take_receipts(receipts);
        }
        for (room_id, data) in extensions["account_data"]["rooms"].as_object().into_iter().flatten() {
            self.views.get_mut(room_id).expect("account data of what is not known").take_account_data(data);
        }
        let any = |part: &Value| part.as_object().is_some_and(|part| !part.is_empty());
        any(&answer["rooms"]) || any(&extensions["receipts"]["rooms"]) || any(&extensions["account_data"]["rooms"])
    }
}

impl View {
    fn take_v3(&mut self, section: &Value, membership: &str, since: Option<&str>, after: bool, context: &str) {
        let was_joined = self.membership == "join";
        let timeline = &section["timeline"];
        let limited = timeline["limited"] == true;
        if !was_joined {
            // A new stay: what was known is of no use.
            self.state.clear();
            self.timeline.clear();
            self.whole = membership == "join";
        }
        membership.clone_into(&mut self.membership);
        if limited {
            let to = since.filter(|_| was_joined).map(str::to_owned);
            self.timeline.push(Piece::Gap { from: text(&timeline["prev_batch"]), to });
        }
        if after {
            assert!(section.get("state").is_none(), "{context}: {section}");
        }
        self.apply(&section["state"]["events"]);
        if !after {
            self.apply(&timeline["events"]);
        }
        self.apply(&section["state_after"]["events"]);
        self.extend(list(&timeline["events"]), context);
        let counts = |value: &Value| Counts {
            notifications: value["notification_count"].as_i64().unwrap_or_default(),
            highlights: value["highlight_count"].as_i64().unwrap_or_default(),
        };
        self.counts = counts(&section["unread_notifications"]);
        let threads = section["unread_thread_notifications"].as_object().into_iter().flatten();
        self.threads = threads.map(|(root, value)| (root.clone(), counts(value))).collect();
        for event in list(&section["ephemeral"]["events"]) {
            if event["type"] == "m.receipt" {
                self.take_receipts(event);
            }
        }
        self.take_account_data(&section["account_data"]["events"]);
        let summary = &section["summary"];
        self.joined = summary["m.joined_member_count"].as_i64().unwrap_or(self.joined);
        self.invited = summary["m.invited_member_count"].as_i64().unwrap_or(self.invited);
    }

    fn take_sliding(&mut self, room: &Value, user: &str, accepted: bool, lazy: bool, context: &str) {
        let (initial, limited) = (room["initial"] == true, room["limited"] == true);
        let expanded = room["expanded_timeline"] == true || room["unstable_expanded_timeline"] == true;
        if lazy && limited {
            self.state.retain(|(kind, state_key), _| kind != MEMBER || state_key == user);
        }
        let invited = room["invite_state"].is_array();
        let mut membership = if invited { "invite" } else { "join" };
        for event in list(&room["required_state"]) {
            if entry_of(event).is_some_and(|(kind, key)| kind == MEMBER && key == user) {
                membership = event["content"]["membership"].as_str().unwrap_or("leave");
            }
        }
        self.membership = if accepted { text(&room["membership"]) } else { membership.to_owned() };
        if expanded {
            self.timeline.clear();
        }
        if limited {
            let beginning = initial || expanded;
            assert!(beginning || !self.timeline.is_empty(), "{context}: {room}");
            self.timeline.push(Piece::Gap { from: text(&room["prev_batch"]), to: None });
        }
        self.apply(&room["required_state"]);
        self.extend(list(&room["timeline"]), context);
        self.counts.notifications = room["notification_count"].as_i64().unwrap_or_default();
        self.counts.highlights = room["highlight_count"].as_i64().unwrap_or_default();
        self.joined = room["joined_count"].as_i64().unwrap_or(self.joined);
        self.invited = room["invited_count"].as_i64().unwrap_or(self.invited);
    }

    fn apply(&mut self, events: &Value) {
        for event in list(events) {
            if let Some(key) = entry_of(event) {
                self.state.insert(key, text(&event["event_id"]));
            }
        }
    }

    fn extend(&mut self, events: &[Value], context: &str) {
        let known = self.known();
        for event in events {
            let id = text(&event["event_id"]);
            assert!(!known.contains(&id), "{context}: {event} came twice");
            self.timeline.push(Piece::Event(id, event.clone()));
        }
    }

    /// With lazy loading, the members whose events are shown are known.
    fn check_senders(&self, events: &Value, context: &str) {
        for event in list(events) {
            let key = (MEMBER.to_owned(), text(&event["sender"]));
            assert!(self.state.contains_key(&key), "{context}: the sender of {event} is not known");
        }
    }

    /// The events of the timeline.
    pub fn known(&self) -> BTreeSet<String> {
        let ids = self.timeline.iter().filter_map(|piece| match piece {
            Piece::Event(id, _) => Some(id.clone()),
            Piece::Gap { .. } => None,
        });
        ids.collect()
    }

    fn take_receipts(&mut self, event: &Value) {
        for (event_id, of_event) in event["content"].as_object().into_iter().flatten() {
            for (kind, of_kind) in of_event.as_object().into_iter().flatten() {
                for (user, receipt) in of_kind.as_object().into_iter().flatten() {
                    let key = (user.clone(), kind.clone(), text(&receipt["thread_id"]));
                    self.receipts.insert(key, event_id.clone());
                }
            }
        }
    }

    fn take_account_data(&mut self, events: &Value) {
        for event in list(events) {
            if event["type"] == "m.fully_read" {
                self.fully_read = Some(text(&event["content"]["event_id"]));
            }
        }
    }
}
