//! Several engines hand signed events to each other: joining through another server, gaps, history, and what a resident
//! answers. The network is left out; what would be sent is taken from one engine and given to the other.

mod answers;
mod handshakes;
mod history;
mod joining;
mod left_out;
mod outside;
mod partial;
mod resync;
mod worlds;

use std::collections::BTreeSet;
use std::sync::Arc;

use event::{Object, Pdu, Rules, Verified};
use rooms::remote::Import;
use rooms::{Accepted, CreateRoom, Error, Event, Preset, Room, Rooms, Roots};
use ruma_common::OwnedEventId;
use serde_json::json;
use store::model::Model;
use store::{Engine, UserId};

use crate::graphs::{AllKeys, NOW_MS};
use crate::harness::{content, room_of, rooms_on, text};

/// A server in a world of several.
pub struct Server {
    pub rooms: Arc<Rooms>,
    pub engine: Arc<dyn Engine>,
}

impl Server {
    /// A fresh server of this name.
    pub async fn new(name: &str) -> Self {
        Self::on(Arc::new(Model::new()), name).await
    }

    pub async fn on(engine: Arc<dyn Engine>, name: &str) -> Self {
        let seed = name.bytes().fold(0_u64, |seed, byte| seed * 31 + u64::from(byte)) << 20;
        Self { rooms: rooms_on(Arc::clone(&engine), name, seed).await, engine }
    }

    /// The same server after a restart.
    pub async fn restarted(&self) -> Self {
        Self::on(Arc::clone(&self.engine), self.rooms.server_name()).await
    }

    pub fn user(&self, name: &str) -> UserId {
        UserId::from(format!("@{name}:{}", self.rooms.server_name()))
    }

    pub async fn room(&self, room_id: &str) -> Arc<Room> {
        self.rooms.room(room_id).await.unwrap().unwrap()
    }

    pub async fn create(&self, version: &str) -> String {
        self.create_of(&room_of(&self.user("alice"), version, Preset::PublicChat)).await
    }

    pub async fn create_of(&self, request: &CreateRoom) -> String {
        self.rooms.create_room(request).await.unwrap()
    }

    /// A text message of a user of this server.
    pub async fn say(&self, room_id: &str, name: &str, body: &str) -> OwnedEventId {
        self.rooms.send(room_id, text(&self.user(name), body)).await.unwrap()
    }

    pub async fn event(&self, room_id: &str, id: &OwnedEventId) -> Option<Arc<Event>> {
        let room = self.room(room_id).await;
        self.rooms.event_by_id(&room, id.as_str()).await.unwrap()
    }

    pub async fn get(&self, room_id: &str, id: &OwnedEventId) -> Arc<Event> {
        self.event(room_id, id).await.unwrap()
    }

    /// An event of this server as it is sent to others.
    pub async fn sent(&self, room_id: &str, id: &OwnedEventId) -> Verified {
        received(&self.get(room_id, id).await.pdu, self.room(room_id).await.rules)
    }

    pub async fn accept(&self, event: Verified) -> Accepted {
        self.rooms.accept(event).await.unwrap()
    }

    /// Ids of the current state.
    pub async fn current(&self, room_id: &str) -> BTreeSet<String> {
        let room = self.room(room_id).await;
        self.ids(&room, room.head().state).await
    }

    pub async fn ids(&self, room: &Room, roots: Roots) -> BTreeSet<String> {
        let state = self.rooms.whole_state(room, roots).await.unwrap();
        state.iter().map(|event| event.id().to_string()).collect()
    }

    pub async fn state_ids_before(&self, room_id: &str, id: &OwnedEventId) -> Vec<OwnedEventId> {
        let state = self.rooms.state_before(room_id, id).await.unwrap();
        state.iter().map(|event| event.id().clone()).collect()
    }
}

/// An event as another server receives it: checked anew, from its bytes.
pub fn received(pdu: &Pdu, rules: &Rules) -> Verified {
    event::verify(rules, pdu.bytes.clone(), &AllKeys::new(), NOW_MS).unwrap()
}

pub fn all_received(events: &[Arc<Event>], rules: &Rules) -> Vec<Verified> {
    events.iter().map(|event| received(&event.pdu, rules)).collect()
}

/// The signed join of a user, made of the resident's template.
pub async fn make_join(joiner: &Server, resident: &Server, room_id: &str, user: &UserId) -> Verified {
    let template = resident.rooms.member_template(room_id, user, "join").await.unwrap();
    let extra = content(json!({ "displayname": "Somebody" }));
    joiner.rooms.complete_template(template.rules, room_id, user, "join", &template.event, extra).unwrap()
}

/// What the resident answers to a join that it has accepted.
pub async fn send_join(resident: &Server, room_id: &str, join: Verified) -> Import {
    let rules = resident.room(room_id).await.rules;
    let id = join.pdu().event_id.clone();
    let join = received(join.pdu(), rules);
    assert!(
        matches!(resident.rooms.accept_to_forward(join.clone()).await.unwrap(), Accepted::Judged(event) if event.shown())
    );
    let state = resident.rooms.state_before(room_id, &id).await.unwrap();
    let ids: Vec<OwnedEventId> = state.iter().map(|event| event.id().clone()).collect();
    let chain = resident.rooms.auth_chain(room_id, &ids).await.unwrap();
    let (state, auth_chain) = (all_received(&state, rules), all_received(&chain, rules));
    Import { rules, join, state, auth_chain, partial: None, left_out: Vec::new() }
}

/// A user of one server joins a room through another.
pub async fn join(joiner: &Server, resident: &Server, room_id: &str, name: &str) -> Result<Arc<Event>, Error> {
    let join = make_join(joiner, resident, room_id, &joiner.user(name)).await;
    let import = send_join(resident, room_id, join).await;
    joiner.rooms.import_join(import).await
}

/// Two servers that share a room: the first has alice, the second bob.
pub async fn two(version: &str) -> (Server, Server, String) {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let room_id = one.create(version).await;
    join(&two, &one, &room_id, "bob").await.unwrap();
    (one, two, room_id)
}

/// The first server closes the room, of which the second hears; then each says something, and the first something more that
/// follows both. What it had said before the second does not hear.
pub async fn closed_and_behind_a_gap(one: &Server, two: &Server, room_id: &str) -> OwnedEventId {
    let rule = state(&one.user("alice"), "m.room.join_rules", serde_json::json!({ "join_rule": "invite" }));
    let closed = one.rooms.send(room_id, rule).await.unwrap();
    two.accept(one.sent(room_id, &closed).await).await;
    let known = two.say(room_id, "bob", "known").await;
    one.say(room_id, "alice", "missed").await;
    one.accept(two.sent(room_id, &known).await).await;
    one.say(room_id, "alice", "behind the gap").await
}

/// A restricted-room or other state by type.
pub fn state(sender: &UserId, kind: &str, value: serde_json::Value) -> rooms::NewEvent {
    rooms::NewEvent::state(sender, kind, "", content(value))
}

pub fn empty() -> Object {
    Object::new()
}
