//! A room state that tests put together by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use event::auth_rules::{self, Denied};
use event::{Pdu, Rules};
use serde_json::{Value, json};

use crate::support::{pdu, rules};

pub const ALICE: &str = "@alice:a.example";
pub const BOB: &str = "@bob:b.example";
pub const CAROL: &str = "@carol:c.example";

/// A state in a room that Alice created.
#[derive(Clone)]
pub struct State {
    pub rules: &'static Rules,
    pub create: Arc<Pdu>,
    pub entries: BTreeMap<(String, String), Arc<Pdu>>,
    n_events: i64,
}

impl State {
    /// A room with its create event alone.
    pub fn new(version: &str) -> State {
        State::with_create(version, json!({}))
    }

    /// A room with some keys added to the content of its create event.
    pub fn with_create(version: &str, extra: Value) -> State {
        let rules = rules(version);
        let mut content = json!({ "room_version": version });
        if !rules.creator_is_sender {
            content["creator"] = ALICE.into();
        }
        merge(&mut content, extra);
        let mut create = json!({
            "type": "m.room.create", "state_key": "", "sender": ALICE, "content": content,
            "origin_server_ts": 1, "depth": 1, "prev_events": [], "auth_events": [],
        });
        if !rules.special_create {
            create["room_id"] = "!room:a.example".into();
        }
        if !rules.event_id_is_hash() {
            create["event_id"] = "$create:a.example".into();
        }
        let create = pdu(rules, create);
        let mut state = State { rules, create: create.clone(), entries: BTreeMap::new(), n_events: 0 };
        state.add(create);
        state
    }

    /// A public room in which Alice (100 by the power levels; a creator in
    /// version 12) and Bob are joined.
    pub fn public(version: &str) -> State {
        let mut state = State::new(version);
        state.member(ALICE, "join");
        state.join_rule("public");
        let users = if state.rules.privileged_creators { json!({}) } else { json!({ ALICE: 100 }) };
        state.power_levels(json!({ "users": users }));
        state.member(BOB, "join");
        state
    }

    pub fn add(&mut self, event: Arc<Pdu>) {
        let (kind, state_key) = event.state_entry().unwrap();
        self.entries.insert((kind.to_owned(), state_key.to_owned()), event.clone());
    }

    /// An event of the room; `extra` overrides its keys.
    pub fn event(&mut self, sender: &str, kind: &str, state_key: Option<&str>, content: Value) -> Value {
        self.n_events += 1;
        let mut event = json!({
            "type": kind, "sender": sender, "content": content, "room_id": self.create.room_id,
            "origin_server_ts": self.n_events, "depth": self.n_events + 1,
            "prev_events": self.edges(&["$some"]), "auth_events": [],
        });
        if let Some(state_key) = state_key {
            event["state_key"] = state_key.into();
        }
        if !self.rules.event_id_is_hash() {
            let server = sender.split_once(':').unwrap().1;
            event["event_id"] = format!("$e{}:{server}", self.n_events).into();
        }
        event
    }

    /// Edges in the format of the room version.
    pub fn edges(&self, ids: &[&str]) -> Value {
        let edge = |id: &&str| match self.rules.event_id_is_hash() {
            true => json!(id),
            false if id.contains(':') => json!([id, {}]),
            false => json!([format!("{id}:a.example"), {}]),
        };
        ids.iter().map(edge).collect()
    }

    fn put(&mut self, sender: &str, kind: &str, state_key: &str, content: Value) {
        let event = self.event(sender, kind, Some(state_key), content);
        self.add(pdu(self.rules, event));
    }

    pub fn member(&mut self, user: &str, membership: &str) -> &mut Self {
        self.put(user, "m.room.member", user, json!({ "membership": membership }));
        self
    }

    pub fn join_rule(&mut self, join_rule: &str) -> &mut Self {
        self.put(ALICE, "m.room.join_rules", "", json!({ "join_rule": join_rule }));
        self
    }

    pub fn power_levels(&mut self, content: Value) -> &mut Self {
        self.put(ALICE, "m.room.power_levels", "", content);
        self
    }

    pub fn other(&mut self, kind: &str, state_key: &str, content: Value) -> &mut Self {
        self.put(ALICE, kind, state_key, content);
        self
    }

    pub fn get(&self, kind: &str) -> Option<&Arc<Pdu>> {
        self.entries.get(&(kind.to_owned(), String::new()))
    }

    /// Checks an event given as JSON against this state.
    pub fn check_json(&self, event: Value) -> Result<(), Denied> {
        let event = pdu(self.rules, event);
        auth_rules::check(self.rules, &event, &self.entries, &self.create)
    }

    /// Checks an event; the answer is the number of the rule that denies it,
    /// or `ok`.
    pub fn verdict(&mut self, sender: &str, kind: &str, state_key: Option<&str>, content: Value) -> &'static str {
        let event = self.event(sender, kind, state_key, content);
        self.check_json(event).map_or_else(|denied| denied.rule, |()| "ok")
    }

    /// [`State::verdict`] for a membership event.
    pub fn membership(&mut self, sender: &str, target: &str, membership: &str) -> &'static str {
        self.verdict(sender, "m.room.member", Some(target), json!({ "membership": membership }))
    }
}

pub fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}
