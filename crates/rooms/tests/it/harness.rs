//! A room engine with a clock and a random source that tests decide.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use event::{Json, Object, SigningKey};
use rooms::timeline::{Direction, PageQuery};
use rooms::visibility::Viewer;
use rooms::{CreateRoom, Event, MessagesCount, NewEvent, Notify, Options, Preset, Rooms};
use store::model::Model;
use store::{Clock, Engine, Entropy, Store, UserId};

/// A clock that moves one millisecond with each look.
pub struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// A counter spread over the bytes: never twice the same, always the same in each run.
pub struct TestEntropy(AtomicU64);

impl Entropy for TestEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
            let number = (number ^ (number >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            chunk.copy_from_slice(&number.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// An engine named `name` on a store engine.
pub async fn rooms_on(engine: Arc<dyn Engine>, name: &str, seed: u64) -> Arc<Rooms> {
    rooms_with(engine, Options::new(name), seed).await
}

/// An engine with settings of its own.
pub async fn rooms_with(engine: Arc<dyn Engine>, options: Options, seed: u64) -> Arc<Rooms> {
    rooms_notifying(engine, options, seed, Arc::new(MessagesCount)).await
}

/// An engine with push rules of its own.
pub async fn rooms_notifying(
    engine: Arc<dyn Engine>,
    options: Options,
    seed: u64,
    notify: Arc<dyn Notify>,
) -> Arc<Rooms> {
    let store = Store::new(engine).await.unwrap();
    let clock = Arc::new(TestClock(AtomicI64::new(1_700_000_000_000)));
    let entropy = Arc::new(TestEntropy(AtomicU64::new(seed)));
    let key = Arc::new(key(&options.server_name));
    Rooms::new(store, clock, entropy, key, notify, options)
}

/// An engine on a fresh in-memory store.
pub async fn rooms() -> Arc<Rooms> {
    rooms_on(Arc::new(Model::new()), "one.test", 1).await
}

/// The signing key of a server.
pub fn key(name: &str) -> SigningKey {
    let mut seed = [7_u8; 32];
    for (byte, name) in seed.iter_mut().zip(name.bytes()) {
        *byte = name;
    }
    SigningKey::generate(&seed)
}

/// A user of `one.test`.
pub fn user(name: &str) -> UserId {
    UserId::from(format!("@{name}:one.test"))
}

/// An event content.
pub fn content(value: serde_json::Value) -> Object {
    match Json::from(value) {
        Json::Object(object) => object,
        other => panic!("not an object: {other:?}"),
    }
}

/// A request for a room of a version.
pub fn room_of(creator: &UserId, version: &str, preset: Preset) -> CreateRoom {
    CreateRoom {
        creator: creator.clone(),
        version: Some(version.to_owned()),
        preset,
        published: false,
        alias_localpart: None,
        name: None,
        topic: None,
        invite: Vec::new(),
        creation_content: Object::new(),
        initial_state: Vec::new(),
        is_direct: false,
        power_level_content_override: None,
        creator_profile: Object::new(),
        predecessor: None,
    }
}

/// A text message.
pub fn text(sender: &UserId, body: &str) -> NewEvent {
    NewEvent::message(sender, "m.room.message", content(serde_json::json!({ "msgtype": "m.text", "body": body })))
}

/// All that a user sees of a room, newest first, page by page.
pub async fn history(rooms: &Rooms, room_id: &str, user: &UserId) -> Vec<Arc<Event>> {
    let room = rooms.room(room_id).await.unwrap().unwrap();
    let mut viewer = Viewer::new(rooms, &room, user).await.unwrap();
    let mut from = rooms.live_end(&room);
    let mut events = Vec::new();
    loop {
        let query = PageQuery { from, direction: Direction::Backward, until: None, limit: 3 };
        let page = rooms.page(&room, query, &mut viewer, |_| true).await.unwrap();
        events.extend(page.events);
        match page.end {
            Some(end) => from = end,
            None => return events,
        }
    }
}
