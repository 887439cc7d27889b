//! A server, its clock, and peers that sign what they send.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use event::{Json, Object, Rules, SigningKey, Template, Verified};
use federation::client::{Client, Reach};
use federation::handshakes::Handshakes;
use federation::key_ring::{self, KeyRing, OwnKeys};
use federation::outbound::Outbound;
use federation::policy::PolicyClient;
use federation::receive::Edus;
use federation::transport::{Incoming, Limits, Outgoing, Transport, TransportError};
use federation::{Federation, Options, Parts, x_matrix};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use media::Media;
use parking_lot::Mutex;
use rooms::state::type_key;
use rooms::{CreateRoom, MessagesCount, NewEvent, Preset, Room, Rooms};
use ruma_common::{OwnedEventId, OwnedRoomId};
use serde_json::{Value, json};
use store::model::Model;
use store::{Clock, Engine, Entropy, Store, UserId};
use tower::ServiceExt as _;
use users::registration::NewAccount;
use users::{Inline, Users};

/// The server's name.
pub const US: &str = "one.test";

/// A clock that moves one millisecond with each look, and with the time of the runtime where that is paused.
pub struct TestClock {
    now_ms: AtomicI64,
    since: Option<tokio::time::Instant>,
}

impl Default for TestClock {
    fn default() -> Self {
        Self { now_ms: AtomicI64::new(1_700_000_000_000), since: None }
    }
}

impl TestClock {
    /// A clock for a runtime whose time is paused, and passes by sleeping.
    pub fn paused() -> Self {
        Self { since: Some(tokio::time::Instant::now()), ..Self::default() }
    }

    /// Moves it on.
    pub fn advance(&self, ms: i64) {
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        let slept = self.since.map_or(0, |since| i64::try_from(since.elapsed().as_millis()).unwrap());
        self.now_ms.fetch_add(1, Ordering::SeqCst) + slept
    }
}

/// Bytes that differ at each call and are the same in each run.
pub struct TestEntropy(AtomicU64);

impl TestEntropy {
    /// The bytes that follow from a seed.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Entropy for TestEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.0.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
            let number = (number ^ (number >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            chunk.copy_from_slice(&number.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// What a peer answers to a request.
#[derive(Clone)]
pub enum Answer {
    /// Status and body.
    Json(u16, Value),
    /// A body of any bytes, with 200.
    Bytes(Bytes),
    /// Status and body, after a while.
    Late(Duration, u16, Value),
    /// It takes the request and keeps silent.
    Never,
}

impl From<(u16, Value)> for Answer {
    fn from((status, body): (u16, Value)) -> Self {
        Self::Json(status, body)
    }
}

/// A request that left.
#[derive(Clone)]
pub struct Sent {
    /// To whom.
    pub server: String,
    /// The body; null if there was none.
    pub body: Value,
}

/// A network of peers that answer as they are told.
#[derive(Default)]
pub struct Net {
    /// Key responses, by server.
    keys: Mutex<BTreeMap<String, Value>>,
    /// Answers by server and beginning of the path; the last stays.
    answers: Mutex<BTreeMap<(String, String), VecDeque<Answer>>>,
    /// What is answered to paths that begin so, whatever the body says.
    replies: Mutex<BTreeMap<(String, String), Arc<Reply>>>,
    /// What was asked: server, method and path.
    pub asked: Mutex<Vec<String>>,
    /// Whole servers, which answer for themselves.
    routers: Mutex<BTreeMap<String, Router>>,
    /// Those of them to and from which nothing comes through.
    pub cut: Mutex<BTreeSet<String>>,
    /// All that left.
    pub sent: Mutex<Vec<Sent>>,
}

/// Makes an answer of a request's body.
type Reply = dyn Fn(Value) -> Answer + Send + Sync;

impl Net {
    /// From now on a server answers so to paths that begin so; several answers are given one after the other.
    pub fn answer(&self, server: &str, path: &str, status: u16, body: Value) {
        self.react(server, path, Answer::Json(status, body));
    }

    /// From now on a server does so at paths that begin so.
    pub fn react(&self, server: &str, path: &str, answer: Answer) {
        let key = (server.to_owned(), path.to_owned());
        self.answers.lock().entry(key).or_default().push_back(answer);
    }

    /// Forgets how a server answers to paths that begin so.
    pub fn clear(&self, server: &str, path: &str) {
        self.answers.lock().retain(|(of, beginning), _| of != server || !beginning.starts_with(path));
    }

    /// What a server publishes as its keys from now on.
    pub fn publish(&self, server: &str, response: Value) {
        self.keys.lock().insert(server.to_owned(), response);
    }

    /// The events that left with this server's signature.
    pub fn signed_events(&self) -> Vec<Value> {
        let sent = self.sent.lock();
        let events = sent.iter().flat_map(|sent| [sent.body.clone(), sent.body["event"].clone()]);
        events.filter(|event| event["signatures"][US].is_object()).collect()
    }

    /// From now on a server answers so to paths that begin so, after the body of the request.
    pub fn reply<A: Into<Answer>>(&self, server: &str, path: &str, reply: impl Fn(Value) -> A + Send + Sync + 'static) {
        let reply = Arc::new(move |body| reply(body).into());
        self.replies.lock().insert((server.to_owned(), path.to_owned()), reply);
    }

    /// How often a server was asked something that begins so.
    pub fn count(&self, server: &str, path: &str) -> usize {
        let beginning = format!("{server} {path}");
        self.asked.lock().iter().filter(|asked| asked.starts_with(&beginning)).count()
    }

    /// The answer of a whole server, after a little while; none, after a long one, if it is cut off.
    async fn forward(&self, router: Router, request: Outgoing) -> Result<Incoming, TransportError> {
        let origin =
            request.headers.get(AUTHORIZATION).and_then(|header| x_matrix::XMatrix::parse(header.to_str().ok()?).ok());
        let is_cut = {
            let cut = self.cut.lock();
            cut.contains(&request.destination) || origin.is_some_and(|origin| cut.contains(&origin.origin))
        };
        tokio::time::sleep(if is_cut { request.limits.timeout } else { Duration::from_millis(10) }).await;
        if is_cut {
            return Err(TransportError::Timeout);
        }
        let body = request.body.map_or_else(Body::empty, Body::from);
        let mut ask = Request::builder().method(request.method).uri(request.path_and_query).body(body).unwrap();
        *ask.headers_mut() = request.headers;
        let (head, body) = router.oneshot(ask).await.unwrap().into_parts();
        let body = body.map_err(|error| TransportError::Connection(error.to_string())).boxed_unsync();
        Ok(Incoming { status: head.status, headers: head.headers, body })
    }

    fn find(&self, server: &str, path: &str, body: Option<&Bytes>) -> Option<Answer> {
        let begins = |(of, beginning): &(String, String)| of == server && path.starts_with(beginning.as_str());
        let reply = self.replies.lock().iter().find(|(key, _)| begins(key)).map(|(_, reply)| Arc::clone(reply));
        if let Some(reply) = reply {
            return Some(reply(serde_json::from_slice(body.unwrap_or(&Bytes::new())).unwrap_or_default()));
        }
        if path.starts_with("/_matrix/key/v2/server") {
            return Some(Answer::Json(200, self.keys.lock().get(server)?.clone()));
        }
        let mut answers = self.answers.lock();
        let queue = answers.iter_mut().filter(|(key, _)| begins(key)).max_by_key(|((_, path), _)| path.len())?.1;
        if queue.len() > 1 { queue.pop_front() } else { queue.front().cloned() }
    }
}

#[async_trait]
impl Transport for Net {
    async fn send(&self, request: Outgoing) -> Result<Incoming, TransportError> {
        let path = request.path_and_query.as_str();
        self.asked.lock().push(format!("{} {path}", request.destination));
        self.sent.lock().push(Sent {
            server: request.destination.clone(),
            body: serde_json::from_slice(request.body.as_deref().unwrap_or_default()).unwrap_or_default(),
        });
        let router = self.routers.lock().get(&request.destination).cloned();
        if let Some(router) = router {
            return self.forward(router, request).await;
        }
        let found = self.find(&request.destination, path, request.body.as_ref());
        incoming(found.ok_or_else(|| TransportError::NotFound(request.destination.clone()))?).await
    }

    /// What lies at a URL is answered as if by a server without a name.
    async fn fetch(&self, url: &str, _: Limits) -> Result<Incoming, TransportError> {
        self.asked.lock().push(url.to_owned());
        incoming(self.find("", url, None).ok_or_else(|| TransportError::NotFound(url.to_owned()))?).await
    }
}

async fn incoming(answer: Answer) -> Result<Incoming, TransportError> {
    let (status, body) = match answer {
        Answer::Json(status, body) => (status, Bytes::from(body.to_string())),
        Answer::Bytes(body) => (200, body),
        Answer::Late(delay, status, body) => {
            tokio::time::sleep(delay).await;
            (status, body.to_string().into())
        }
        Answer::Never => std::future::pending().await,
    };
    let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
    Ok(Incoming { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body })
}

/// What came of EDUs about keys.
#[derive(Default)]
pub struct SeenEdus(pub Mutex<Vec<String>>);

#[async_trait]
impl Edus for SeenEdus {
    async fn device_list_update(&self, origin: &str, user: &UserId, _: &Object) -> Result<(), store::Error> {
        self.0.lock().push(format!("device list of {user} by {origin}"));
        Ok(())
    }

    async fn signing_key_update(&self, origin: &str, user: &UserId, _: &Object) -> Result<(), store::Error> {
        self.0.lock().push(format!("signing key of {user} by {origin}"));
        Ok(())
    }

    async fn device_named(&self, user: &UserId, device: &str) -> Result<(), store::Error> {
        self.0.lock().push(format!("device {device} of {user}"));
        Ok(())
    }
}

/// The server.
pub struct World {
    pub name: String,
    pub client: Client,
    pub key_ring: Arc<KeyRing>,
    pub engine: Arc<Model>,
    pub store: Store,
    pub rooms: Arc<Rooms>,
    pub users: Arc<Users>,
    pub media: Media,
    pub federation: Arc<Federation>,
    pub handshakes: Arc<Handshakes>,
    pub net: Arc<Net>,
    pub clock: Arc<TestClock>,
    pub edus: Arc<SeenEdus>,
    pub heard: Arc<Mutex<Vec<String>>>,
    /// What is told of it when a server is heard from, once it is set.
    pub outbound: Arc<OnceLock<Arc<Outbound>>>,
    router: Router,
    directory: Arc<tempfile::TempDir>,
}

/// A key that follows from the server's name.
pub fn key(name: &str) -> SigningKey {
    let mut seed = [7_u8; 32];
    for (byte, name) in seed.iter_mut().zip(name.bytes()) {
        *byte = name;
    }
    SigningKey::generate(&seed)
}

/// The full id of a user of the server.
pub fn user(name: &str) -> UserId {
    UserId::from(format!("@{name}:{US}"))
}

/// An object of JSON.
pub fn object(value: Value) -> Object {
    Json::object_from_slice(value.to_string().as_bytes()).unwrap()
}

impl World {
    /// A server on a fresh store, with peers `two.test`, `three.test` and `evil.test` that publish their keys.
    pub async fn new() -> Self {
        Self::without(&[]).await
    }

    /// A server in a runtime whose time is paused.
    pub async fn paused() -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let clock = Arc::new(TestClock::paused());
        Self::on(US, Arc::new(Model::new()), Arc::default(), clock, directory, Reach::default()).await
    }

    /// A whole server of a network, which finds the others there.
    pub async fn named(name: &str, net: &Arc<Net>, clock: &Arc<TestClock>) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let (net, clock) = (Arc::clone(net), Arc::clone(clock));
        let world = Self::on(name, Arc::new(Model::new()), net, clock, directory, Reach::default()).await;
        world.net.routers.lock().insert(name.to_owned(), world.router.clone());
        world
    }

    /// A server that does not federate with these.
    pub async fn without(denied: &[&str]) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let denied: Vec<String> = denied.iter().map(ToString::to_string).collect();
        let (net, clock) = (Arc::default(), Arc::default());
        Self::on(US, Arc::new(Model::new()), net, clock, directory, Reach::new(None, &denied)).await
    }

    /// The same server after its process ended.
    pub async fn restarted(self) -> Self {
        let world = Self::on(&self.name, self.engine, self.net, self.clock, self.directory, Reach::default()).await;
        world.federation.resume().await.unwrap();
        world
    }

    // Long: puts together what the program does, one thing on the other.
    async fn on(
        name: &str,
        engine: Arc<Model>,
        net: Arc<Net>,
        clock: Arc<TestClock>,
        directory: Arc<tempfile::TempDir>,
        reach: Reach,
    ) -> Self {
        let store = Store::new(Arc::clone(&engine) as Arc<dyn Engine>).await.unwrap();
        let ticks: Arc<dyn Clock> = Arc::clone(&clock) as _;
        let entropy: Arc<dyn Entropy> = Arc::new(TestEntropy(AtomicU64::new(u64::try_from(clock.now_ms()).unwrap())));
        let key = Arc::new(key(name));
        let users_options = users::Options::new(name);
        let users =
            Users::new(store.clone(), Arc::clone(&ticks), Arc::clone(&entropy), Arc::new(Inline), users_options);
        let users = users.await.unwrap();
        let client = Client::new(name, Arc::clone(&key), Arc::clone(&net) as Arc<dyn Transport>, reach);
        let policy = PolicyClient::new(client.clone(), Arc::clone(&ticks));
        let rooms = Rooms::new(
            store.clone(),
            Arc::clone(&ticks),
            Arc::clone(&entropy),
            Arc::clone(&key),
            Arc::new(MessagesCount),
            rooms::Options { policy_servers: Some(Arc::new(policy)), ..rooms::Options::new(name) },
        );
        let media_options = media::Options::new(name, directory.path());
        let blocking = Arc::new(|job: media::Job| job());
        let media = Media::open(media_options, store.clone(), Arc::clone(&ticks), Arc::clone(&entropy), blocking, None)
            .await
            .unwrap();
        let key_ring = Arc::new(KeyRing::new(key_ring::Parts {
            store: store.clone(),
            client: client.clone(),
            clock: Arc::clone(&ticks),
            own: OwnKeys::load(&store, name, Arc::clone(&key)).await.unwrap(),
            notaries: Vec::new(),
            blocking: Arc::new(Inline),
            cores: 1,
        }));
        let handshakes = Arc::new(Handshakes::new(Arc::new(client.clone()), Arc::clone(&key_ring), Arc::clone(&rooms)));
        let edus = Arc::new(SeenEdus::default());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        let outbound: Arc<OnceLock<Arc<Outbound>>> = Arc::default();
        let told = Arc::clone(&outbound);
        let federation = Federation::new(Parts {
            store: store.clone(),
            rooms: Arc::clone(&rooms),
            users: Arc::clone(&users),
            media: media.clone(),
            client: client.clone(),
            key_ring: Arc::clone(&key_ring),
            handshakes: Arc::clone(&handshakes),
            clock: ticks,
            entropy,
            edus: Arc::clone(&edus) as _,
            heard_from: Box::new(move |server| {
                hears.lock().push(server.to_owned());
                if let Some(outbound) = told.get() {
                    outbound.heard_from(server);
                }
            }),
            options: Options::default(),
        });
        let router = endpoint::layers::with_fallbacks(federation.router());
        let name = name.to_owned();
        let world = Self {
            name,
            client,
            key_ring,
            engine,
            store,
            rooms,
            users,
            media,
            federation,
            handshakes,
            net,
            clock,
            edus,
            heard,
            outbound,
            router,
            directory,
        };
        for peer in ["two.test", "three.test", "evil.test"] {
            Peer::new(peer).publish(&world);
        }
        world
    }

    /// Sends a request as it is.
    pub async fn send(&self, request: Request<Body>) -> (StatusCode, HeaderMap, Bytes) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        (head.status, head.headers, axum::body::to_bytes(body, usize::MAX).await.unwrap())
    }

    /// Its routes, as a listener serves them.
    pub fn routes(&self) -> Router {
        self.router.clone()
    }

    /// Sends an unsigned request.
    pub async fn unsigned(&self, method: Method, path: &str) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let (status, _, body) = self.send(request).await;
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Registers a local user.
    pub async fn register(&self, name: &str) -> UserId {
        let account = NewAccount { localpart: Some(name.to_owned()), ..NewAccount::default() };
        self.users.register(account).await.unwrap();
        self.user(name)
    }

    /// The full id of a user of this server.
    pub fn user(&self, name: &str) -> UserId {
        UserId::from(format!("@{name}:{}", self.name))
    }

    /// A room of a version that `@alice` made and everybody may join.
    pub async fn room(&self, version: &str) -> Arc<Room> {
        self.room_of(version, Preset::PublicChat).await
    }

    /// A room of a version that `@alice` made.
    pub async fn room_of(&self, version: &str, preset: Preset) -> Arc<Room> {
        self.room_with(version, preset, json!({})).await
    }

    /// A room of a version that `@alice` made, with more in its create event.
    pub async fn room_with(&self, version: &str, preset: Preset, creation: Value) -> Arc<Room> {
        let request = CreateRoom {
            creator: self.user("alice"),
            version: Some(version.to_owned()),
            preset,
            published: false,
            alias_localpart: None,
            name: None,
            topic: None,
            invite: Vec::new(),
            creation_content: object(creation),
            initial_state: Vec::new(),
            is_direct: false,
            power_level_content_override: None,
            creator_profile: Object::new(),
            predecessor: None,
        };
        let id = self.rooms.create_room(&request).await.unwrap();
        self.rooms.room(&id).await.unwrap().unwrap()
    }

    /// The room as it is now.
    pub async fn now(&self, room: &Room) -> Arc<Room> {
        self.rooms.room(&room.id).await.unwrap().unwrap()
    }

    /// `@alice` sends a message.
    pub async fn say(&self, room: &Room, text: &str) -> OwnedEventId {
        let content = object(json!({ "msgtype": "m.text", "body": text }));
        self.rooms.send(&room.id, NewEvent::message(&self.user("alice"), "m.room.message", content)).await.unwrap()
    }

    /// `@alice` sets a piece of state.
    pub async fn set(&self, room: &Room, kind: &str, content: Value) -> OwnedEventId {
        self.rooms.send(&room.id, NewEvent::state(&self.user("alice"), kind, "", object(content))).await.unwrap()
    }

    /// Why an event that is known is not shown; `None` if it is.
    pub async fn fate(&self, room: &Room, id: &str) -> Option<String> {
        let room = self.now(room).await;
        match self.rooms.event_by_id(&room, id).await.unwrap() {
            None => Some("unknown".to_owned()),
            Some(event) if event.has(rooms::flags::HIDDEN) => {
                Some(event.row.reason.clone().unwrap_or_else(|| "hidden".to_owned()))
            }
            Some(_) => None,
        }
    }
}

/// Another server.
#[derive(Clone)]
pub struct Peer {
    pub name: String,
    pub key: Arc<SigningKey>,
}

impl Peer {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), key: Arc::new(key(name)) }
    }

    /// A user of this server.
    pub fn user(&self, name: &str) -> String {
        format!("@{name}:{}", self.name)
    }

    /// Puts its keys where they are asked for.
    pub fn publish(&self, world: &World) {
        let keys = json!({ self.key.key_id(): { "key": self.key.public_b64() } });
        let mut response = object(json!({
            "server_name": self.name,
            "valid_until_ts": world.clock.now_ms() + 86_400_000,
            "verify_keys": keys,
            "old_verify_keys": {},
        }));
        self.key.sign_json(&mut response, &self.name);
        world.net.publish(&self.name, Json::Object(response).into());
    }

    /// Its signed request.
    pub fn signed(&self, method: &Method, path: &str, content: Option<&Value>) -> Request<Body> {
        let content = content.map(|content| Json::Object(object(content.clone())).to_canonical_string());
        let text = content.as_ref().map(String::as_bytes);
        let header = x_matrix::sign(&self.key, method, path, &self.name, US, text).header();
        let request = Request::builder().method(method.clone()).uri(path).header(AUTHORIZATION, header);
        let body = content.map_or_else(Body::empty, Body::from);
        request.header(CONTENT_TYPE, "application/json").body(body).unwrap()
    }

    /// The bytes of a signed request over HTTP/1.1, which leaves the connection open.
    pub fn wire(&self, method: &Method, path: &str, content: Option<&Value>) -> Vec<u8> {
        let content = content.map(|content| Json::Object(object(content.clone())).to_canonical_string());
        let header = self.authorization(method, path, content.as_deref());
        let body = content.unwrap_or_default();
        let size = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {US}\r\nAuthorization: {header}\r\nContent-Length: {size}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    /// What it puts into the header of a request with this body.
    pub fn authorization(&self, method: &Method, path: &str, body: Option<&str>) -> String {
        x_matrix::sign(&self.key, method, path, &self.name, US, body.map(str::as_bytes)).header()
    }

    /// Sends a signed request and reads the answer as JSON.
    pub async fn ask(&self, world: &World, method: Method, path: &str, content: Option<Value>) -> (StatusCode, Value) {
        let (status, _, body) = world.send(self.signed(&method, path, content.as_ref())).await;
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// `GET`.
    pub async fn get(&self, world: &World, path: &str) -> (StatusCode, Value) {
        self.ask(world, Method::GET, path, None).await
    }

    /// `PUT /send` with these events and EDUs; the answer per event.
    pub async fn transact(&self, world: &World, txn_id: &str, pdus: &[&Verified], edus: &[Value]) -> Value {
        let pdus: Vec<Value> = pdus.iter().map(|event| value(event)).collect();
        let body = json!({ "origin": self.name, "origin_server_ts": 1, "pdus": pdus, "edus": edus });
        let path = format!("/_matrix/federation/v1/send/{txn_id}");
        let (status, answer) = self.ask(world, Method::PUT, &path, Some(body)).await;
        assert_eq!(status, 200, "{answer}");
        answer["pdus"].clone()
    }

    /// An event on the room's extremities, authorized by its current state.
    pub async fn event(&self, world: &World, room: &Room, sketch: Sketch<'_>) -> Verified {
        let room = world.now(room).await;
        let head = room.head();
        let content = object(sketch.content);
        let pairs = event::auth_rules::auth_types(room.rules, sketch.sender, sketch.kind, sketch.state_key, &content);
        let pairs: Vec<_> = pairs.iter().map(|(kind, state_key)| type_key(kind, state_key)).collect();
        let state = world.rooms.state_map(&room, None, head.state, &pairs).await.unwrap();
        let prev = head.extremities.iter().map(|extremity| extremity.id.clone()).collect();
        let depth = Template::next_depth(head.extremities.iter().map(|extremity| extremity.depth));
        let auth = state.0.values().map(|event| event.id().clone()).collect();
        let sketch = Sketch { content: Json::Object(content).into(), ..sketch };
        self.build(world, room.rules, &room.id, sketch, prev, auth, depth)
    }

    /// An event with these edges.
    #[expect(clippy::too_many_arguments, reason = "an event has so many parts")]
    pub fn build(
        &self,
        world: &World,
        rules: &Rules,
        room_id: &str,
        sketch: Sketch<'_>,
        prev: Vec<OwnedEventId>,
        auth: Vec<OwnedEventId>,
        depth: i64,
    ) -> Verified {
        let template = Template {
            room_id: Some(OwnedRoomId::try_from(room_id).unwrap()),
            sender: sketch.sender.to_owned(),
            kind: sketch.kind.to_owned(),
            state_key: sketch.state_key.map(str::to_owned),
            content: object(sketch.content),
            prev_events: prev,
            auth_events: auth,
            depth,
            origin_server_ts: world.clock.now_ms(),
            ..Template::default()
        };
        event::build(rules, template, &self.key, &self.name).unwrap()
    }

    /// An event that follows another one and is authorized alike.
    pub fn after(&self, world: &World, rules: &Rules, before: &Verified, sketch: Sketch<'_>) -> Verified {
        let pdu = before.pdu();
        let (prev, auth) = (vec![pdu.event_id.clone()], pdu.auth_events.clone());
        self.build(world, rules, pdu.room_id.as_str(), sketch, prev, auth, pdu.depth + 1)
    }

    /// A user of this server joins, as if by a handshake.
    pub async fn join(&self, world: &World, room: &Room, name: &str) -> Verified {
        let sender = self.user(name);
        let sketch = Sketch::member(&sender, "join");
        let join = self.event(world, room, sketch).await;
        let accepted = world.rooms.accept(join.clone()).await.unwrap();
        assert!(
            matches!(&accepted, rooms::Accepted::Judged(event) if !event.has(rooms::flags::HIDDEN)),
            "{accepted:?}"
        );
        join
    }

    /// A message of a user of this server.
    pub async fn message(&self, world: &World, room: &Room, name: &str, text: &str) -> Verified {
        let sender = self.user(name);
        self.event(world, room, Sketch::message(&sender, text)).await
    }
}

/// What an event says.
#[derive(Clone)]
pub struct Sketch<'a> {
    pub sender: &'a str,
    pub kind: &'a str,
    pub state_key: Option<&'a str>,
    pub content: Value,
}

impl<'a> Sketch<'a> {
    /// A membership that a user sets for itself.
    pub fn member(sender: &'a str, membership: &str) -> Self {
        let content = json!({ "membership": membership });
        Self { sender, kind: "m.room.member", state_key: Some(sender), content }
    }

    /// A text message.
    pub fn message(sender: &'a str, text: &str) -> Self {
        let content = json!({ "msgtype": "m.text", "body": text });
        Self { sender, kind: "m.room.message", state_key: None, content }
    }
}

/// An event as JSON.
pub fn value(event: &Verified) -> Value {
    serde_json::from_slice(&event.pdu().bytes).unwrap()
}

/// An event's id.
pub fn id(event: &Verified) -> String {
    event.pdu().event_id.to_string()
}

/// A text that may stand in a path.
pub fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
