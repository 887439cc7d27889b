//! A hostile peer: a server with keys of its own that says what no good server says, and answers with what nobody asked
//! for.

mod edus;
mod events;
mod floods;
mod gaps;
mod invites;
mod json;
mod keys;
mod sockets;
mod templates;

use std::collections::BTreeMap;

use event::{Rules, Verified};
use ruma_common::OwnedEventId;
use serde_json::{Value, json};

use crate::harness::{Peer, Sketch, World, object, value};

/// The servers of these stories.
pub const EVIL: &str = "evil.test";
pub const GOOD: &str = "two.test";

/// A room that a peer has made: `@carol` of that peer is alone in it and has all power.
pub struct Elsewhere {
    pub peer: Peer,
    pub rules: &'static Rules,
    pub room_id: String,
    /// The current state.
    pub state: BTreeMap<(String, String), Verified>,
    /// What came last.
    pub last: Verified,
}

impl Elsewhere {
    /// A room that everybody may join.
    pub fn new(world: &World, peer: &str, version: &str) -> Self {
        Self::with(world, peer, version, json!({}))
    }

    /// A room with more in its create event.
    pub fn with(world: &World, peer: &str, version: &str, creation: Value) -> Self {
        let peer = Peer::new(peer);
        let rules = Rules::of(version).unwrap();
        let carol = peer.user("carol");
        let mut content = object(json!({ "room_version": version }));
        content.extend(object(creation));
        if !rules.creator_is_sender {
            content.insert("creator".to_owned(), event::Json::from(carol.as_str()));
        }
        let template = event::Template {
            room_id: (!rules.special_create).then(|| format!("!room{version}:{}", peer.name).try_into().unwrap()),
            sender: carol.clone(),
            kind: "m.room.create".to_owned(),
            state_key: Some(String::new()),
            content,
            depth: 1,
            origin_server_ts: store::Clock::now_ms(world.clock.as_ref()),
            ..event::Template::default()
        };
        let create = event::build(rules, template, &peer.key, &peer.name).unwrap();
        let room_id = create.pdu().room_id.to_string();
        let state = BTreeMap::from([(("m.room.create".to_owned(), String::new()), create.clone())]);
        let mut room = Self { peer, rules, room_id, state, last: create };
        room.add(world, Sketch::member(&carol, "join"));
        let mut levels = json!({ "users": { &carol: 100 } });
        if rules.special_create {
            levels = json!({ "users": {} });
        }
        room.set(world, "m.room.power_levels", levels);
        room.set(world, "m.room.join_rules", json!({ "join_rule": "public" }));
        room
    }

    /// Carol sets a piece of state.
    pub fn set(&mut self, world: &World, kind: &str, content: Value) -> Verified {
        let carol = self.peer.user("carol");
        self.add(world, Sketch { sender: &carol, kind, state_key: Some(""), content })
    }

    /// The next event of the room.
    pub fn add(&mut self, world: &World, sketch: Sketch<'_>) -> Verified {
        let state_key = sketch.state_key.map(|key| (sketch.kind.to_owned(), key.to_owned()));
        let event = self.next(world, &self.peer, sketch);
        self.last = event.clone();
        self.state.extend(state_key.map(|key| (key, event.clone())));
        event
    }

    /// What a peer could send next.
    pub fn next(&self, world: &World, peer: &Peer, sketch: Sketch<'_>) -> Verified {
        let auth = self.auth_for(&sketch);
        let pdu = self.last.pdu();
        peer.build(world, self.rules, &self.room_id, sketch, vec![pdu.event_id.clone()], auth, pdu.depth + 1)
    }

    /// The auth events of what is said next.
    pub fn auth_for(&self, sketch: &Sketch<'_>) -> Vec<OwnedEventId> {
        let content = object(sketch.content.clone());
        let pairs = event::auth_rules::auth_types(self.rules, sketch.sender, sketch.kind, sketch.state_key, &content);
        pairs.iter().filter_map(|pair| self.state.get(pair)).map(|event| event.pdu().event_id.clone()).collect()
    }

    /// What the peer answers to `make_join`, `make_leave` and `make_knock`.
    pub fn template(&self, user: &str, membership: &str) -> Value {
        let sketch = Sketch::member(user, membership);
        let edges = |ids: Vec<OwnedEventId>| -> Vec<Value> {
            let hashed = |id: OwnedEventId| if self.rules.event_id_is_hash() { json!(id) } else { json!([id, {}]) };
            ids.into_iter().map(hashed).collect()
        };
        json!({ "room_version": self.rules.version(), "event": {
            "room_id": self.room_id,
            "type": "m.room.member",
            "sender": user,
            "state_key": user,
            "content": { "membership": membership },
            "auth_events": edges(self.auth_for(&sketch)),
            "prev_events": edges(vec![self.last.pdu().event_id.clone()]),
            "depth": self.last.pdu().depth + 1,
            "origin": self.peer.name,
            "origin_server_ts": 1,
        } })
    }

    /// All events of the current state.
    pub fn state_values(&self) -> Vec<Value> {
        self.state.values().map(value).collect()
    }

    /// What the peer answers to `send_join`.
    pub fn joined(&self) -> Value {
        json!({ "origin": self.peer.name, "state": self.state_values(), "auth_chain": self.state_values() })
    }

    /// The peer lets a user join from now on.
    pub fn serve_join(&self, world: &World, user: &str) {
        world.net.answer(&self.peer.name, MAKE_JOIN, 200, self.template(user, "join"));
        world.net.answer(&self.peer.name, SEND_JOIN, 200, self.joined());
    }
}

pub const MAKE_JOIN: &str = "/_matrix/federation/v1/make_join/";
pub const SEND_JOIN: &str = "/_matrix/federation/v2/send_join/";
pub const MAKE_LEAVE: &str = "/_matrix/federation/v1/make_leave/";
pub const SEND_LEAVE: &str = "/_matrix/federation/v2/send_leave/";
pub const MAKE_KNOCK: &str = "/_matrix/federation/v1/make_knock/";
pub const SEND_KNOCK: &str = "/_matrix/federation/v1/send_knock/";
pub const INVITE: &str = "/_matrix/federation/v2/invite/";
pub const MISSING: &str = "/_matrix/federation/v1/get_missing_events/";
pub const STATE_IDS: &str = "/_matrix/federation/v1/state_ids/";
pub const EVENT: &str = "/_matrix/federation/v1/event/";
