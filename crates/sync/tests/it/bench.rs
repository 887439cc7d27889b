//! Users, rooms and a sync engine on any store.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use event::{Json, Object, SigningKey};
use rooms::{CreateRoom, MessagesCount, NewEvent, Preset, Rooms};
use serde_json::{Value, json};
use store::{Clock, DeviceId, Engine, Entropy, Follower, Store, UserId};
use sync::{Request, Sync};
use users::Users;
use users::presence::PresenceState;

/// The name of the server.
const NAME: &str = "one.test";

/// A clock that moves one millisecond with each look.
struct Ticking(AtomicI64);

impl Clock for Ticking {
    fn now_ms(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Bytes that differ at each call and are the same in each run.
struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            let mut state = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
            state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            *byte = (state >> 29).to_le_bytes()[0];
        }
    }
}

/// The crates below, and the sync engine.
pub struct Bench {
    /// The store.
    pub store: Store,
    /// The room engine.
    pub rooms: Arc<Rooms>,
    /// Accounts.
    pub users: Arc<Users>,
    /// The sync engine.
    pub sync: Arc<Sync>,
}

impl Bench {
    /// On a store engine, with the sync engine's follower wrapped.
    pub async fn new(engine: Arc<dyn Engine>, wrap: impl FnOnce(Arc<dyn Follower>) -> Arc<dyn Follower>) -> Arc<Self> {
        Self::of_life(engine, wrap, 1).await
    }

    /// Another process life on a store engine.
    pub async fn restarted(engine: Arc<dyn Engine>) -> Arc<Self> {
        Self::of_life(engine, |follower| follower, 2).await
    }

    async fn of_life(
        engine: Arc<dyn Engine>,
        wrap: impl FnOnce(Arc<dyn Follower>) -> Arc<dyn Follower>,
        life: u64,
    ) -> Arc<Self> {
        let store = Store::new(engine).await.unwrap();
        let clock: Arc<dyn Clock> = Arc::new(Ticking(AtomicI64::new(1_700_000_000_000)));
        let entropy: Arc<dyn Entropy> = Arc::new(Counting(AtomicU64::new(life)));
        let options = users::Options::new(NAME);
        let users =
            Users::new(store.clone(), clock.clone(), entropy.clone(), Arc::new(users::Inline), options).await.unwrap();
        let key = Arc::new(SigningKey::generate(&[7; 32]));
        let options = rooms::Options::new(NAME);
        let rooms = Rooms::new(store.clone(), clock, entropy, key, Arc::new(MessagesCount), options);
        let sync = Sync::following(store.clone(), rooms.clone(), users.clone(), wrap);
        Arc::new(Self { store, rooms, users, sync })
    }

    /// A public room of the first of these users, joined by the others.
    pub async fn room(&self, members: &[UserId]) -> String {
        self.named_room(Some("room"), members).await
    }

    /// The same with another name, or none.
    pub async fn named_room(&self, name: Option<&str>, members: &[UserId]) -> String {
        let request = CreateRoom {
            creator: members[0].clone(),
            version: Some("11".to_owned()),
            preset: Preset::PublicChat,
            published: false,
            alias_localpart: None,
            name: name.map(str::to_owned),
            topic: None,
            invite: Vec::new(),
            creation_content: Object::new(),
            initial_state: Vec::new(),
            is_direct: false,
            power_level_content_override: None,
            creator_profile: Object::new(),
            predecessor: None,
        };
        let room = self.rooms.create_room(&request).await.unwrap();
        for member in &members[1..] {
            self.rooms.join(&room, member, None, Object::new()).await.unwrap();
        }
        room
    }

    /// Sends a text.
    pub async fn say(&self, room: &str, sender: &UserId, body: &str) {
        let Json::Object(content) = Json::from(json!({ "msgtype": "m.text", "body": body })) else { panic!() };
        self.rooms.send(room, NewEvent::message(sender, "m.room.message", content)).await.unwrap();
    }

    /// One sync.
    pub async fn sync(&self, user: &UserId, since: Option<&str>, timeout: Duration) -> Value {
        self.sync_with(user, since, r#"{"room":{"timeline":{"limit":100}}}"#, timeout).await
    }

    /// One sync with a filter.
    pub async fn sync_with(&self, user: &UserId, since: Option<&str>, filter: &str, timeout: Duration) -> Value {
        let request = Request {
            user: user.clone(),
            device: Some(DeviceId::from("DEVICE")),
            since: since.map(str::to_owned),
            filter: Some(filter.to_owned()),
            full_state: false,
            use_state_after: false,
            set_presence: PresenceState::Offline,
            timeout,
            now_ms: 0,
        };
        serde_json::from_str(&self.sync.sync(&request).await.unwrap()).unwrap()
    }
}

/// A user of the server.
pub fn user(name: &str) -> UserId {
    UserId::from(format!("@{name}:{NAME}"))
}
