//! A server on the in-memory store with a clock that the tests move, and clients of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use client_api::State;
use endpoint::requester::Origin;
use endpoint::{Door, Error, Lookup, RateLimits, Session, Sessions, layers};
use http::{HeaderMap, Method, Request};
use rooms::{MessagesCount, Rooms};
use serde_json::{Value, json};
use store::model::Model;
use store::{Clock, Engine, Entropy, Store, UserId};
use tempfile::TempDir;
use tower::ServiceExt as _;
use users::login::NewDevice;
use users::registration::NewAccount;
use users::{Inline, TokenError, Users};

/// The name of the server.
pub const SERVER: &str = "example.org";

/// A clock of which each look is a millisecond later.
pub struct FakeClock(AtomicI64);

impl FakeClock {
    /// Moves the clock on.
    pub fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now_ms(&self) -> i64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// Bytes that differ at each call and are the same in each run.
struct FakeEntropy(AtomicU64);

impl Entropy for FakeEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            let mut state = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
            state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            *byte = (state >> 29).to_le_bytes()[0];
        }
    }
}

/// The accounts as the door sees them.
struct Accounts(Arc<Users>);

#[async_trait]
impl Sessions for Accounts {
    async fn session(&self, token: &str, _: &Origin) -> Result<Lookup, Error> {
        let session = match self.0.authenticate(token).await {
            Ok(session) => session,
            Err(TokenError::Unknown) => return Ok(Lookup::Unknown),
            Err(TokenError::Expired) => return Ok(Lookup::Expired),
            Err(TokenError::Store(error)) => return Err(error.into()),
        };
        Ok(Lookup::Known(Session {
            user_id: session.user.clone(),
            device_id: Some(session.device.clone()),
            guest: session.guest,
            admin: session.admin,
            locked: session.locked,
            suspended: session.suspended,
            rate_limited: true,
        }))
    }
}

/// The engine of a test's store: in memory, or SQLite where `HEARTH_TEST_STORE=sqlite` asks for it.
fn engine(directory: &TempDir) -> Arc<dyn Engine> {
    match std::env::var("HEARTH_TEST_STORE").as_deref() {
        Ok("sqlite") => {
            let path = directory.path().join("hearth.db");
            Arc::new(sqlite::Sqlite::open(&path, sqlite::Options::default()).unwrap())
        }
        _ => Arc::new(Model::new()),
    }
}

/// A server.
pub struct Server {
    /// What its handlers are given.
    pub state: State,
    /// Its clock.
    pub clock: Arc<FakeClock>,
    router: Router,
    _directory: TempDir,
}

/// A user's client on one device.
#[derive(Clone)]
pub struct Client {
    router: Router,
    /// The user id.
    pub user: String,
    /// The device id.
    pub device: String,
    /// The access token; empty for nobody's.
    pub token: String,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; null if it is no JSON.
    pub json: Value,
}

impl Answer {
    /// The body of an answer that must be 200.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.json);
        self.json
    }

    /// Asserts status and code.
    #[track_caller]
    pub fn refused(self, status: u16, errcode: &str) {
        assert_eq!((self.status, self.json["errcode"].as_str()), (status, Some(errcode)), "{}", self.json);
    }
}

impl Server {
    /// A server with open registration and without rate limits.
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// A server whose options of accounts are changed.
    pub async fn with(change: impl FnOnce(&mut users::Options)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(FakeClock(AtomicI64::new(1_700_000_000_000)));
        let entropy = Arc::new(FakeEntropy(AtomicU64::new(1)));
        let store = Store::new(engine(&directory)).await.unwrap();
        let mut user_options = users::Options::new(SERVER);
        user_options.registration = users::RegistrationMode::Open;
        change(&mut user_options);
        let users =
            Users::new(store.clone(), clock.clone(), entropy.clone(), Arc::new(Inline), user_options).await.unwrap();
        let key = Arc::new(event::SigningKey::generate(&[7; 32]));
        let notify = Arc::new(MessagesCount);
        let options = rooms::Options::new(SERVER);
        let rooms = Rooms::new(store.clone(), clock.clone(), entropy.clone(), key, notify, options);
        let sync = sync::Sync::new(store.clone(), Arc::clone(&rooms), Arc::clone(&users));
        let options = media::Options::new(SERVER, directory.path());
        let blocking = Arc::new(|job: media::Job| job());
        let media = media::Media::open(options, store.clone(), clock.clone(), entropy, blocking, None).await.unwrap();
        let rate_limits = RateLimits { enabled: false, ..RateLimits::default() };
        let options = endpoint::Options { rate_limits, ..endpoint::Options::default() };
        let door = Arc::new(Door::new(Arc::new(Accounts(Arc::clone(&users))), clock.clone(), options));
        let options = Arc::new(client_api::Options {
            server_name: SERVER.to_owned(),
            default_room_version: "12".to_owned(),
            public_base_url: None,
            support_contacts: Vec::new(),
            support_page: None,
        });
        let state = State { store, users, rooms, sync, clock: clock.clone(), media, door, options };
        let router = layers::wrap(layers::with_fallbacks(client_api::router(state.clone())));
        Self { state, clock, router, _directory: directory }
    }

    /// Registers a user without password, with one device.
    pub async fn register(&self, localpart: &str) -> Client {
        let device = NewDevice { id: Some("DEVICE".into()), ..NewDevice::default() };
        let localpart = Some(localpart.to_owned());
        let account = NewAccount { localpart, login: Some(device), ..NewAccount::default() };
        let login = self.state.users.register(account).await.unwrap().login.unwrap();
        self.client(login)
    }

    /// Registers several users.
    pub async fn people<const N: usize>(&self, localparts: [&str; N]) -> [Client; N] {
        let mut clients = Vec::new();
        for localpart in localparts {
            clients.push(self.register(localpart).await);
        }
        clients.try_into().unwrap_or_else(|_| panic!("as many clients as names"))
    }

    /// Registers a guest.
    pub async fn guest(&self) -> Client {
        let login = Some(NewDevice::default());
        let account = NewAccount { guest: true, login, ..NewAccount::default() };
        let login = self.state.users.register(account).await.unwrap().login.unwrap();
        self.client(login)
    }

    /// Logs a user in on another device, or on the same one again.
    pub async fn login(&self, user: &str, device: &str) -> Client {
        let device = NewDevice { id: Some(device.into()), ..NewDevice::default() };
        let login = self.state.users.login(&UserId::from(user), device).await.unwrap();
        self.client(login)
    }

    /// A client without access token.
    pub fn nobody(&self) -> Client {
        Client { router: self.router.clone(), user: String::new(), device: String::new(), token: String::new() }
    }

    fn client(&self, login: users::login::LoggedIn) -> Client {
        Client {
            router: self.router.clone(),
            user: login.user.to_string(),
            device: login.device.to_string(),
            token: login.access_token,
        }
    }
}

impl Client {
    /// Sends a request. Paths are below `/_matrix/client/v3` unless they begin with `/_matrix`.
    pub async fn request(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        let uri = if path.starts_with("/_matrix") { path.to_owned() } else { format!("/_matrix/client/v3{path}") };
        let mut request = Request::builder().method(method).uri(uri);
        if !self.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let json = serde_json::from_slice(&body).unwrap_or_default();
        Answer { status: parts.status.as_u16(), headers: parts.headers, json }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, "").await
    }

    /// PUT.
    pub async fn put(&self, path: &str, json: Value) -> Answer {
        self.request(Method::PUT, path, json.to_string()).await
    }

    /// POST.
    pub async fn post(&self, path: &str, json: Value) -> Answer {
        self.request(Method::POST, path, json.to_string()).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        self.request(Method::DELETE, path, "").await
    }

    /// Creates a room and returns its id.
    pub async fn create_room(&self, json: Value) -> String {
        text(&self.post("/createRoom", json).await.ok()["room_id"])
    }

    /// Creates a room that anyone may join.
    pub async fn public_room(&self) -> String {
        self.create_room(json!({ "preset": "public_chat" })).await
    }

    /// Joins a room.
    pub async fn join(&self, room: &str) {
        self.post(&format!("/rooms/{room}/join"), json!({})).await.ok();
    }

    /// Leaves a room.
    pub async fn leave(&self, room: &str) {
        self.post(&format!("/rooms/{room}/leave"), json!({})).await.ok();
    }

    /// Invites a user.
    pub async fn invite(&self, room: &str, user: &str) -> Answer {
        self.post(&format!("/rooms/{room}/invite"), json!({ "user_id": user })).await
    }

    /// Sends an event, with a transaction id of its own, and returns its id.
    pub async fn send(&self, room: &str, kind: &str, content: Value) -> String {
        text(&self.try_send(room, kind, content).await.ok()["event_id"])
    }

    /// Sends an event, with a transaction id of its own.
    pub async fn try_send(&self, room: &str, kind: &str, content: Value) -> Answer {
        static TRANSACTIONS: AtomicU64 = AtomicU64::new(0);
        let transaction = TRANSACTIONS.fetch_add(1, Ordering::Relaxed);
        self.put(&format!("/rooms/{room}/send/{kind}/own{transaction}"), content).await
    }

    /// Sends a message and returns its event id.
    pub async fn say(&self, room: &str, body: &str) -> String {
        self.send(room, "m.room.message", json!({ "msgtype": "m.text", "body": body })).await
    }

    /// Sets a state event with an empty state key and returns its event id.
    pub async fn set_state(&self, room: &str, kind: &str, content: Value) -> String {
        text(&self.put(&format!("/rooms/{room}/state/{kind}"), content).await.ok()["event_id"])
    }

    /// The content of a state event with an empty state key.
    pub async fn state(&self, room: &str, kind: &str) -> Value {
        self.get(&format!("/rooms/{room}/state/{kind}")).await.ok()
    }

    /// Syncs without waiting; `since` may be empty.
    pub async fn sync(&self, since: &str) -> Value {
        let since = if since.is_empty() { String::new() } else { format!("&since={since}") };
        self.get(&format!("/sync?timeout=0{since}")).await.ok()
    }

    /// All events of a room that the user sees, oldest first.
    pub async fn timeline(&self, room: &str) -> Vec<Value> {
        let page = self.get(&format!("/rooms/{room}/messages?dir=b&limit=1000")).await.ok();
        let mut events = list(&page["chunk"]);
        events.reverse();
        events
    }

    /// The bodies of all messages of a room that the user sees, oldest first.
    pub async fn bodies(&self, room: &str) -> Vec<String> {
        let timeline = self.timeline(room).await;
        timeline.iter().filter_map(|event| event["content"]["body"].as_str()).map(str::to_owned).collect()
    }
}

/// The text of a JSON string.
#[track_caller]
pub fn text(json: &Value) -> String {
    json.as_str().unwrap_or_else(|| panic!("{json} is no string")).to_owned()
}

/// The elements of a JSON array.
#[track_caller]
pub fn list(json: &Value) -> Vec<Value> {
    json.as_array().unwrap_or_else(|| panic!("{json} is no array")).clone()
}

/// The values of a member of each element of a JSON array.
#[track_caller]
pub fn each(json: &Value, member: &str) -> Vec<String> {
    list(json).iter().map(|element| text(&element[member])).collect()
}

/// A text as one segment of a path.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
