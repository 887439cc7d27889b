//! A server in process, with a clock and a random source that tests decide, and its clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use endpoint::requester::Origin;
use endpoint::{Door, Error, Lookup, RateLimits, Session, Sessions, layers};
use event::{Pdu, SigningKey};
use http::{Method, Request};
use rooms::notify::{Exception, Judgement, Notify, RoomContext};
use rooms::{Options, Rooms};
use serde_json::{Value, json};
use store::model::Model;
use store::{Clock, DeviceId, Engine, Entropy, Store, UserId};
use sync::Sync;
use tempfile::TempDir;
use tower::ServiceExt as _;
use users::login::NewDevice;
use users::push_rules::evaluate::Context;
use users::registration::NewAccount;
use users::{TokenError, Users};

/// The name of the server.
pub const NAME: &str = "example.org";

/// A clock that stands until it is told to go on.
pub struct FakeClock(AtomicI64);

impl FakeClock {
    /// Lets time pass.
    pub fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
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

/// The accounts, as the door asks for them.
struct Accounts(Arc<Users>);

#[async_trait]
impl Sessions for Accounts {
    async fn session(&self, token: &str, _origin: &Origin) -> Result<Lookup, Error> {
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
            rate_limited: false,
        }))
    }
}

/// The push rules, as the room engine asks for them.
struct PushRules(Arc<Users>);

#[async_trait]
impl Notify for PushRules {
    async fn judge(&self, event: &Arc<Pdu>, context: &RoomContext<'_>, users: &[UserId]) -> Judgement {
        let display_name = |user: &UserId| {
            let member = context.state.event("m.room.member", user.as_str())?;
            Some(member.pdu.content.get("displayname")?.as_str()?.to_owned())
        };
        let asked = Context {
            room_id: context.room_id,
            joined: context.joined,
            sender_level: context.sender_level,
            room_notification_level: context.room_notification_level,
            display_name: &display_name,
        };
        let judged = self.0.judge(event, &asked, users).await.unwrap();
        let exception = |(user, says): (UserId, users::push_rules::evaluate::Notified)| Exception {
            user,
            notify: says.notify,
            highlight: says.highlight,
        };
        Judgement { by_default: judged.by_default, exceptions: judged.exceptions.into_iter().map(exception).collect() }
    }
}

/// A whole server.
pub struct Server {
    /// All routes.
    pub router: Router,
    /// Accounts and what belongs to them.
    pub users: Arc<Users>,
    /// The room engine.
    pub rooms: Arc<Rooms>,
    /// The sync engine.
    pub sync: Arc<Sync>,
    /// The time.
    pub clock: Arc<FakeClock>,
    _media: TempDir,
}

/// One logged-in device.
#[derive(Clone)]
pub struct Client {
    /// Its server.
    pub server: Arc<Server>,
    /// Its user.
    pub user: UserId,
    /// Itself.
    pub device: DeviceId,
    token: String,
}

impl Server {
    /// A server on an empty in-memory store.
    pub async fn new() -> Arc<Self> {
        Self::on(Arc::new(Model::new()), 1).await
    }

    /// A server on a store engine. Servers that follow each other on one engine need different seeds.
    pub async fn on(engine: Arc<dyn Engine>, seed: u64) -> Arc<Self> {
        let store = Store::new(engine).await.unwrap();
        let clock = Arc::new(FakeClock(AtomicI64::new(1_700_000_000_000)));
        let entropy: Arc<dyn Entropy> = Arc::new(FakeEntropy(AtomicU64::new(seed)));
        let given: Arc<dyn Clock> = Arc::<FakeClock>::clone(&clock);
        let inline = Arc::new(users::Inline);
        let options = users::Options {
            registration: users::RegistrationMode::Open,
            login_tokens: true,
            ..users::Options::new(NAME)
        };
        let users = Users::new(store.clone(), given.clone(), entropy.clone(), inline, options).await.unwrap();
        let key = Arc::new(SigningKey::generate(&[7; 32]));
        let notify = Arc::new(PushRules(users.clone()));
        let rooms = Rooms::new(store.clone(), given.clone(), entropy.clone(), key, notify, Options::new(NAME));
        let sync = Sync::new(store.clone(), rooms.clone(), users.clone());
        let directory = tempfile::tempdir().unwrap();
        let media = media::Options::new(NAME, directory.path());
        let threads = Arc::new(|job: media::Job| job());
        let media = media::Media::open(media, store.clone(), given.clone(), entropy, threads, None).await.unwrap();
        let rate_limits = RateLimits { enabled: false, ..RateLimits::default() };
        let door = endpoint::Options { rate_limits, ..endpoint::Options::default() };
        let door = Arc::new(Door::new(Arc::new(Accounts(users.clone())), given.clone(), door));
        let state = client_api::State {
            store,
            users: users.clone(),
            rooms: rooms.clone(),
            sync: sync.clone(),
            clock: given,
            media,
            door,
            options: Arc::new(client_api::Options {
                server_name: NAME.to_owned(),
                default_room_version: "12".to_owned(),
                public_base_url: None,
                support_contacts: Vec::new(),
                support_page: None,
            }),
        };
        let router = layers::wrap(layers::with_fallbacks(client_api::router(state)));
        Arc::new(Self { router, users, rooms, sync, clock, _media: directory })
    }

    /// A new account, logged in on the device `DEVICE`.
    pub async fn register(self: &Arc<Self>, name: &str) -> Client {
        let new = NewAccount {
            localpart: Some(name.to_owned()),
            password: None,
            login: Some(NewDevice { id: Some(DeviceId::from("DEVICE")), ..NewDevice::default() }),
            ..NewAccount::default()
        };
        let login = self.users.register(new).await.unwrap().login.unwrap();
        Client { server: self.clone(), user: login.user, device: login.device, token: login.access_token }
    }

    /// Sends a request past any client: method, path, token and body as they are.
    pub async fn ask(&self, method: Method, path: &str, token: Option<&str>, body: Option<Value>) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = body.map_or(Body::empty(), |body| Body::from(body.to_string()));
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (parts.status.as_u16(), serde_json::from_slice(&body).unwrap_or(Value::Null))
    }
}

/// A path under `/_matrix/client/v3`, unless it names another place.
fn full(path: &str) -> String {
    if path.starts_with("/_matrix") { path.to_owned() } else { format!("/_matrix/client/v3{path}") }
}

/// A text as part of a path or query.
pub fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

impl Client {
    /// Another device of the same user.
    pub async fn login(&self, device: &str) -> Client {
        let new = NewDevice { id: Some(DeviceId::from(device)), ..NewDevice::default() };
        let login = self.server.users.login(&self.user, new).await.unwrap();
        Client { server: self.server.clone(), user: login.user, device: login.device, token: login.access_token }
    }

    /// Sends a request; paths are under `/_matrix/client/v3` unless they begin with `/_matrix`.
    pub async fn send(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        self.server.ask(method, &full(path), Some(&self.token), body).await
    }

    /// GET.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.send(Method::GET, path, None).await
    }

    /// PUT.
    pub async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(Method::PUT, path, Some(body)).await
    }

    /// POST.
    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(Method::POST, path, Some(body)).await
    }

    /// POST that must succeed.
    pub async fn do_post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.post(path, body).await;
        assert_eq!(status, 200, "POST {path}: {answer}");
        answer
    }

    /// PUT that must succeed.
    pub async fn do_put(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.put(path, body).await;
        assert_eq!(status, 200, "PUT {path}: {answer}");
        answer
    }

    /// GET that must succeed.
    pub async fn do_get(&self, path: &str) -> Value {
        let (status, answer) = self.get(path).await;
        assert_eq!(status, 200, "GET {path}: {answer}");
        answer
    }

    /// Creates a room and returns its id.
    pub async fn create_room(&self, request: Value) -> String {
        // The id of a room of version 12 is a hash of who, what and when.
        self.server.clock.advance(1);
        self.do_post("/createRoom", request).await["room_id"].as_str().unwrap().to_owned()
    }

    /// A public room without a name.
    pub async fn public_room(&self) -> String {
        self.create_room(json!({ "preset": "public_chat" })).await
    }

    /// Joins a room.
    pub async fn join(&self, room: &str) {
        self.do_post(&format!("/rooms/{}/join", escape(room)), json!({})).await;
    }

    /// Leaves a room.
    pub async fn leave(&self, room: &str) {
        self.do_post(&format!("/rooms/{}/leave", escape(room)), json!({})).await;
    }

    /// Invites a user.
    pub async fn invite(&self, room: &str, user: &UserId) {
        self.do_post(&format!("/rooms/{}/invite", escape(room)), json!({ "user_id": user })).await;
    }

    /// Sends an event without state key and returns its id.
    pub async fn send_event(&self, room: &str, kind: &str, content: Value) -> String {
        static TXN: AtomicU64 = AtomicU64::new(0);
        let txn = TXN.fetch_add(1, Ordering::Relaxed);
        let path = format!("/rooms/{}/send/{kind}/t{txn}", escape(room));
        self.do_put(&path, content).await["event_id"].as_str().unwrap().to_owned()
    }

    /// Sends a text and returns the event's id.
    pub async fn say(&self, room: &str, body: &str) -> String {
        self.send_event(room, "m.room.message", json!({ "msgtype": "m.text", "body": body })).await
    }

    /// Sets state and returns the event's id.
    pub async fn set_state(&self, room: &str, kind: &str, state_key: &str, content: Value) -> String {
        let path = format!("/rooms/{}/state/{kind}/{}", escape(room), escape(state_key));
        self.do_put(&path, content).await["event_id"].as_str().unwrap().to_owned()
    }

    /// `/sync` with this query (`since=…&timeout=…`).
    pub async fn sync(&self, query: &str) -> Value {
        self.do_get(&format!("/sync?{query}")).await
    }

    /// `/sync` since a token, with more of a query.
    pub async fn sync_since(&self, since: &Value, query: &str) -> Value {
        self.sync(&format!("since={}&{query}", next_batch(since))).await
    }
}

/// The token of an answer.
pub fn next_batch(answer: &Value) -> String {
    answer["next_batch"].as_str().unwrap().to_owned()
}
