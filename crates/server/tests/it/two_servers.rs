//! Two whole servers that talk to each other in this process: keys of devices and users across servers (behaviours CE3,
//! CE7, CE8, CE12).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use event::SigningKey;
use federation::transport::{Incoming, Outgoing, Transport, TransportError};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use push::{Answer, Gateways, Unreachable};
use serde_json::{Value, json};
use server::boot::{self, Running};
use server::config::Config;
use server::world::World;
use store::model::Model;
use store::{Store, StreamPosition, UserId};
use tokio::sync::{mpsc, watch};
use tower::ServiceExt;
use users::login::NewDevice;
use users::registration::NewAccount;

/// What lies between the servers.
#[derive(Default)]
struct Net {
    routers: Mutex<BTreeMap<String, Router>>,
    /// The requests that were made, as `destination path`.
    asked: Mutex<Vec<String>>,
    /// Nothing passes.
    cut: Mutex<bool>,
    /// Transactions are answered, and never arrive.
    swallowing: Mutex<bool>,
    /// How many of those told of devices.
    swallowed: watch::Sender<usize>,
    /// Shows what the servers push.
    phones: Mutex<Option<Arc<dyn Gateways>>>,
}

/// Shows what is pushed.
struct Phones(mpsc::UnboundedSender<Value>);

#[async_trait]
impl Gateways for Phones {
    async fn notify(&self, _url: &str, body: bytes::Bytes) -> Result<Answer, Unreachable> {
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        self.0.send(body["notification"].take()).unwrap();
        Ok(Answer { status: 200, body: "{}".into() })
    }
}

impl Net {
    /// How many lists of devices have been asked for.
    fn lists(&self) -> usize {
        self.asked.lock().iter().filter(|asked| asked.contains("/user/devices/")).count()
    }

    /// How many requests for keys have been made, by list or by query.
    fn key_requests(&self) -> usize {
        self.lists() + self.asked.lock().iter().filter(|asked| asked.contains("/user/keys/query")).count()
    }
}

#[async_trait]
impl Transport for Net {
    async fn send(&self, request: Outgoing) -> Result<Incoming, TransportError> {
        let path = request.path_and_query.clone();
        self.asked.lock().push(format!("{} {path}", request.destination));
        let router = self.routers.lock().get(&request.destination).cloned().filter(|_| !*self.cut.lock());
        let router = router.ok_or_else(|| TransportError::Connection("it is away".to_owned()))?;
        if *self.swallowing.lock() && path.contains("/federation/v1/send/") {
            let body = String::from_utf8(request.body.unwrap_or_default().to_vec()).unwrap();
            self.swallowed.send_modify(|n| *n += usize::from(body.contains("m.device_list_update")));
            let body = Full::new("{\"pdus\":{}}".into()).map_err(|never| match never {}).boxed_unsync();
            return Ok(Incoming { status: StatusCode::OK, headers: HeaderMap::new(), body });
        }
        let mut arriving = Request::builder().method(&request.method).uri(&path);
        arriving.headers_mut().unwrap().extend(request.headers.clone());
        let arriving = arriving.body(request.body.clone().map_or_else(Body::empty, Body::from)).unwrap();
        let (head, body) = router.oneshot(arriving).await.unwrap().into_parts();
        let body = Full::new(body.collect().await.unwrap().to_bytes());
        let body = body.map_err(|never| match never {}).boxed_unsync();
        Ok(Incoming { status: head.status, headers: head.headers, body })
    }

    async fn fetch(&self, url: &str, _: federation::transport::Limits) -> Result<Incoming, TransportError> {
        Err(TransportError::NotFound(url.to_owned()))
    }
}

/// A server.
struct Node {
    running: Arc<Running>,
    _stop: watch::Sender<bool>,
    _folder: tempfile::TempDir,
}

impl Node {
    async fn start(name: &str, net: &Arc<Net>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = [
            format!("data_dir={}", folder.path().display()),
            format!("server_name={name}"),
            "rate_limits.enabled=false".to_owned(),
        ];
        let config = Config::of(&settings.each_ref().map(String::as_str)).unwrap();
        let gateways = net.phones.lock().clone();
        let world = World { transport: Some(Arc::clone(net) as _), gateways, ..World::real() };
        let store = Store::new(Arc::new(Model::new())).await.unwrap();
        let running = Arc::new(boot::build_on(store.into(), &config, &world, None).await.unwrap());
        net.routers.lock().insert(name.to_owned(), running.router.clone());
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(server::outgoing::run(Arc::clone(&running), stopped));
        Self { running, _stop: stop, _folder: folder }
    }

    /// Makes an account with a device.
    async fn person(&self, name: &str) -> Person<'_> {
        let device = NewDevice { id: Some("PHONE".into()), ..NewDevice::default() };
        let new = NewAccount { localpart: Some(name.to_owned()), login: Some(device), ..NewAccount::default() };
        let login = self.running.users.register(new).await.unwrap().login.unwrap();
        Person { node: self, id: login.user, token: login.access_token, since: String::new() }
    }

    /// Waits until this server has been told that a user's devices changed since a position.
    async fn told_of(&self, user: &UserId, since: StreamPosition) {
        let store = &self.running.store;
        let mut watermark = store.notifier().subscribe();
        loop {
            watermark.borrow_and_update();
            let changes = self.running.users.device_changes(since, store.watermark()).await.unwrap();
            if changes.iter().any(|(changed, _)| changed == user) {
                return;
            }
            watermark.changed().await.unwrap();
        }
    }
}

/// A user with a token.
struct Person<'a> {
    node: &'a Node,
    id: UserId,
    token: String,
    since: String,
}

impl Person<'_> {
    async fn ask(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.try_ask(method, &format!("v3/{path}"), body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn try_ask(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let request = Request::builder()
            .method(method)
            .uri(format!("/_matrix/client/{path}"))
            .header("authorization", format!("Bearer {}", self.token));
        let request = request.body(Body::from(body.to_string())).unwrap();
        let (head, body) = self.node.running.router.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (head.status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Makes a public room with a name; `more` is added to the request.
    async fn named_room(&self, name: &str, more: Value) -> String {
        let mut body = json!({ "preset": "public_chat", "visibility": "public", "name": name });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.ask(Method::POST, "createRoom", body).await["room_id"].as_str().unwrap().to_owned()
    }

    async fn create_room(&self) -> String {
        let room = self.ask(Method::POST, "createRoom", json!({ "preset": "public_chat" })).await;
        room["room_id"].as_str().unwrap().to_owned()
    }

    async fn join(&self, room: &str, via: &str) {
        self.ask(Method::POST, &format!("join/{room}?server_name={via}"), json!({})).await;
    }

    /// The keys of a user.
    async fn keys_of(&self, user: &UserId) -> Value {
        self.ask(Method::POST, "keys/query", json!({ "device_keys": { user.as_str(): [] } })).await
    }

    /// The devices of a user that have keys, as this person sees them.
    async fn devices_of(&self, user: &UserId) -> Vec<String> {
        let keys = self.keys_of(user).await;
        let devices = keys["device_keys"][user.as_str()].as_object();
        devices.into_iter().flatten().map(|(id, _)| id.clone()).collect()
    }

    /// Signs in on another device, which uploads its keys.
    async fn add_device(&self, id: &str) {
        let device = NewDevice { id: Some(id.into()), ..NewDevice::default() };
        let login = self.node.running.users.login(&self.id, device).await.unwrap();
        let other = Person { node: self.node, id: login.user, token: login.access_token, since: String::new() };
        other.upload_device(id).await;
    }

    async fn sync(&mut self) -> Value {
        let answer = self.ask(Method::GET, &format!("sync?timeout=30000&since={}", self.since), Value::Null).await;
        self.since = answer["next_batch"].as_str().unwrap().to_owned();
        answer
    }

    /// Syncs until a user is in a device list.
    async fn synced_until(&mut self, list: &str, user: &UserId) {
        loop {
            let answer = self.sync().await;
            let names = answer["device_lists"][list].as_array().cloned().unwrap_or_default();
            if names.contains(&json!(user)) {
                return;
            }
        }
    }

    async fn upload_device(&self, id: &str) {
        let keys = json!({
            "user_id": self.id,
            "device_id": id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": { format!("ed25519:{id}"): key(&self.id, 1).public_b64(), format!("curve25519:{id}"): "x" },
        });
        let keys = signed(&keys, &self.id, &key(&self.id, 1), id);
        self.ask(Method::POST, "keys/upload", json!({ "device_keys": keys })).await;
    }
}

/// A key that follows from whose it is.
fn key(user: &UserId, number: u8) -> SigningKey {
    SigningKey::generate(&[number + user.as_str().as_bytes()[1]; 32])
}

/// The object with a signature under the id `ed25519:<name>`.
fn signed(object: &Value, signer: &UserId, key: &SigningKey, name: &str) -> Value {
    let mut parsed = event::Json::object_from_slice(object.to_string().as_bytes()).unwrap();
    key.sign_json(&mut parsed, signer.as_str());
    let mut object: Value = serde_json::from_str(&event::canonical_json::to_string(&parsed)).unwrap();
    let made = object["signatures"][signer.as_str()][key.key_id()].take();
    object["signatures"] = json!({ signer.as_str(): { format!("ed25519:{name}"): made } });
    object
}

async fn both(net: &Arc<Net>) -> (Node, Node) {
    (Node::start("one.test", net).await, Node::start("two.test", net).await)
}

#[tokio::test]
async fn ce12_a_copy_follows_what_is_told_and_is_fetched_anew_after_a_gap() {
    let net = Arc::new(Net::default());
    let (one, two) = both(&net).await;
    let (mut alice, bob) = (one.person("alice").await, two.person("bob").await);
    bob.upload_device("PHONE").await;
    let room = alice.create_room().await;
    alice.sync().await;
    bob.join(&room, "one.test").await;
    alice.synced_until("changed", &bob.id).await;
    one.told_of(&bob.id, StreamPosition::ZERO).await;
    let since = one.running.store.watermark();
    bob.add_device("A").await;
    one.told_of(&bob.id, since).await;
    assert_eq!(alice.devices_of(&bob.id).await, ["A", "PHONE"]);
    let asked = net.key_requests();
    assert_eq!(alice.devices_of(&bob.id).await, ["A", "PHONE"]);
    assert_eq!(net.key_requests(), asked, "the copy is as new as what was told");

    let since = one.running.store.watermark();
    bob.add_device("B").await;
    one.told_of(&bob.id, since).await;
    *net.cut.lock() = true;
    let answer = alice.keys_of(&bob.id).await;
    assert_eq!(answer["failures"], json!({}), "it was told, and the server need not be there");
    assert_eq!(alice.devices_of(&bob.id).await, ["A", "B", "PHONE"]);
    *net.cut.lock() = false;
    assert_eq!(net.key_requests(), asked);

    *net.swallowing.lock() = true;
    bob.add_device("LOST").await;
    net.swallowed.subscribe().wait_for(|swallowed| *swallowed > 0).await.unwrap();
    *net.swallowing.lock() = false;
    let (since, lists) = (one.running.store.watermark(), net.lists());
    two.running.users.delete_devices(&bob.id, &["A".into()]).await.unwrap();
    one.told_of(&bob.id, since).await;
    assert_eq!(alice.devices_of(&bob.id).await, ["B", "LOST", "PHONE"]);
    assert!(net.lists() > lists, "an update before it was lost: the whole list is asked for");
}

#[tokio::test]
async fn ce12_a_copy_ends_with_the_last_shared_room() {
    let net = Arc::new(Net::default());
    let (one, two) = both(&net).await;
    let (mut alice, bob) = (one.person("alice").await, two.person("bob").await);
    bob.upload_device("PHONE").await;
    let room = alice.create_room().await;
    alice.sync().await;
    bob.join(&room, "one.test").await;
    alice.synced_until("changed", &bob.id).await;
    assert_eq!(alice.devices_of(&bob.id).await, ["PHONE"]);
    bob.ask(Method::POST, &format!("rooms/{room}/leave"), json!({})).await;
    alice.synced_until("left", &bob.id).await;
    bob.add_device("UNSEEN").await;
    bob.join(&room, "one.test").await;
    alice.synced_until("changed", &bob.id).await;
    assert_eq!(alice.devices_of(&bob.id).await, ["PHONE", "UNSEEN"], "of this nothing was told");
}

/// Who makes a room may name users of other servers; those who cannot be invited do not lose it.
#[tokio::test]
async fn cr1_a_new_room_invites_users_of_other_servers() {
    let net = Arc::new(Net::default());
    let (one, two) = both(&net).await;
    let (alice, mut bob) = (one.person("alice").await, two.person("bob").await);
    let invite = [bob.id.as_str(), "@nobody:nowhere.test"];
    let body = json!({ "preset": "trusted_private_chat", "is_direct": true, "invite": invite });
    let room = alice.ask(Method::POST, "createRoom", body).await;
    let room = room["room_id"].as_str().unwrap();
    let synced = bob.sync().await;
    let events = synced["rooms"]["invite"][room]["invite_state"]["events"].as_array().unwrap().clone();
    let own = events.iter().find(|event| event["state_key"] == bob.id.as_str()).unwrap();
    assert_eq!((&own["content"]["membership"], &own["content"]["is_direct"]), (&json!("invite"), &json!(true)));
    bob.join(room, "one.test").await;
    let members = alice.ask(Method::GET, &format!("rooms/{room}/joined_members"), json!({})).await;
    assert_eq!(members["joined"].as_object().unwrap().len(), 2);
}

/// A cross-signing key without signatures.
fn cross_key(user: &UserId, usage: &str, number: u8) -> Value {
    let public = key(user, number).public_b64();
    json!({ "user_id": user, "usage": [usage], "keys": { format!("ed25519:{public}"): public } })
}

impl Person<'_> {
    /// Makes the three cross-signing keys: 100 is the master key, 101 signs devices, 102 signs others.
    async fn cross_sign(&self) {
        let master = key(&self.id, 100);
        let by_master = |key: &Value| signed(key, &self.id, &master, &master.public_b64());
        let keys = json!({
            "master_key": cross_key(&self.id, "master", 100),
            "self_signing_key": by_master(&cross_key(&self.id, "self_signing", 101)),
            "user_signing_key": by_master(&cross_key(&self.id, "user_signing", 102)),
        });
        self.ask(Method::POST, "keys/device_signing/upload", keys).await;
    }

    /// Uploads a signature of somebody's key; answers what failed.
    async fn sign(&self, user: &UserId, object: &Value, by: &SigningKey) -> Value {
        let public = object["keys"].as_object().unwrap().values().next().unwrap().as_str().unwrap();
        let object = signed(object, &self.id, by, &by.public_b64());
        let body = json!({ user.as_str(): { public: object } });
        self.ask(Method::POST, "keys/signatures/upload", body).await["failures"].clone()
    }

    /// The signatures by a user on another's master key, as this person sees them.
    async fn signatures(&self, of: &UserId, by: &UserId) -> Value {
        self.keys_of(of).await["master_keys"][of.as_str()]["signatures"][by.as_str()].clone()
    }
}

#[tokio::test]
async fn ce3_ce7_a_key_of_another_server_is_signed_for_the_signers_eyes() {
    let net = Arc::new(Net::default());
    let (one, two) = both(&net).await;
    let (mut alice, carol, bob) = (one.person("alice").await, one.person("carol").await, two.person("bob").await);
    bob.cross_sign().await;
    alice.cross_sign().await;
    carol.cross_sign().await;
    let room = alice.create_room().await;
    carol.join(&room, "one.test").await;
    bob.join(&room, "one.test").await;
    let master = alice.keys_of(&bob.id).await["master_keys"][bob.id.as_str()].clone();
    let by = key(&alice.id, 102);
    let failed = alice.sign(&bob.id, &master, &key(&alice.id, 101)).await;
    assert_eq!(failed[bob.id.as_str()].as_object().unwrap().len(), 1, "that key signs devices: {failed}");
    let failed = alice.sign(&bob.id, &cross_key(&bob.id, "master", 99), &by).await;
    let error = failed[bob.id.as_str()].as_object().unwrap().values().next().unwrap();
    assert_eq!(error["errcode"], "M_NOT_FOUND", "that is no key of bob's: {failed}");
    alice.sync().await;
    assert_eq!(alice.sign(&bob.id, &master, &by).await, json!({}));
    let made = alice.signatures(&bob.id, &alice.id).await;
    assert!(made[format!("ed25519:{}", by.public_b64())].is_string(), "{made}");
    alice.synced_until("changed", &bob.id).await;
    for other in [&carol, &bob] {
        assert!(other.signatures(&bob.id, &alice.id).await.is_null(), "{} sees it", other.id);
    }
    let dan = UserId::from("@dan:nowhere.test");
    let failed = alice.sign(&dan, &cross_key(&dan, "master", 99), &by).await;
    assert_eq!(failed[dan.as_str()].as_object().unwrap().len(), 1, "nobody can ask that server: {failed}");
}

/// An invite of a room that this server is not in, and what others' users say there, push.
#[tokio::test]
async fn cp4_what_comes_from_another_server_pushes() {
    let (net, (shown, mut phone)) = (Arc::<Net>::default(), mpsc::unbounded_channel());
    *net.phones.lock() = Some(Arc::new(Phones(shown)));
    let (one, two) = both(&net).await;
    let (alice, bob) = (one.person("alice").await, two.person("bob").await);
    alice.ask(Method::PUT, &format!("profile/{}/displayname", alice.id), json!({ "displayname": "Alice A." })).await;
    let pusher = json!({
        "kind": "http", "app_id": "app", "pushkey": "bob", "app_display_name": "App", "device_display_name": "Phone",
        "lang": "en", "data": { "url": "https://push.example.org/_matrix/push/v1/notify" },
    });
    bob.ask(Method::POST, "pushers/set", pusher).await;
    let room = alice.ask(Method::POST, "createRoom", json!({ "name": "Afar" })).await;
    let room = room["room_id"].as_str().unwrap();
    alice.ask(Method::POST, &format!("rooms/{room}/invite"), json!({ "user_id": bob.id })).await;
    let told = phone.recv().await.unwrap();
    let seen = ["type", "room_id", "room_name", "sender", "sender_display_name"].map(|member| told[member].clone());
    assert_eq!(
        seen,
        [json!("m.room.member"), json!(room), json!("Afar"), json!(alice.id), json!("Alice A.")],
        "{told}"
    );
    assert_eq!((&told["user_is_target"], &told["counts"]["unread"]), (&json!(true), &json!(1)));
    assert_eq!(told["devices"][0]["tweaks"], json!({ "sound": "default" }));
    // The invite is taken back, and comes again.
    alice.ask(Method::POST, &format!("rooms/{room}/kick"), json!({ "user_id": bob.id })).await;
    let told = phone.recv().await.unwrap();
    assert_eq!((told.get("event_id"), &told["counts"]), (None, &json!({})), "{told}");
    alice.ask(Method::POST, &format!("rooms/{room}/invite"), json!({ "user_id": bob.id })).await;
    assert_eq!(phone.recv().await.unwrap()["content"]["membership"], "invite");
    bob.join(room, "one.test").await;
    let told = phone.recv().await.unwrap();
    assert_eq!((told.get("event_id"), &told["counts"]), (None, &json!({})), "{told}");
    let message = json!({ "msgtype": "m.text", "body": "hello from afar" });
    alice.ask(Method::PUT, &format!("rooms/{room}/send/m.room.message/t"), message).await;
    let told = phone.recv().await.unwrap();
    assert_eq!((&told["content"]["body"], &told["counts"]["unread"]), (&json!("hello from afar"), &json!(1)));
}

/// The names of the rooms in a list.
fn names(rooms: &Value) -> Vec<&str> {
    rooms.as_array().unwrap().iter().map(|room| room["name"].as_str().unwrap_or("-")).collect()
}

#[tokio::test]
async fn cr19_the_directory_of_another_server_is_paged_and_searched() {
    let net = Arc::new(Net::default());
    let (one, two) = (Node::start("one.test", &net).await, Node::start("two.test", &net).await);
    let (alice, bob) = (one.person("alice").await, two.person("bob").await);
    for name in ["apples", "pears", "plums"] {
        bob.named_room(name, json!({ "room_alias_name": name })).await;
    }
    alice.named_room("ours", json!({})).await;
    let first = alice.ask(Method::GET, "publicRooms?server=two.test&limit=2", json!({})).await;
    let next = first["next_batch"].as_str().unwrap();
    let second = alice.ask(Method::GET, &format!("publicRooms?server=two.test&limit=2&since={next}"), json!({})).await;
    let mut found = [names(&first["chunk"]), names(&second["chunk"])].concat();
    found.sort_unstable();
    assert_eq!((found, second.get("next_batch")), (vec!["apples", "pears", "plums"], None));
    let search = json!({ "filter": { "generic_search_term": "PEAR" } });
    let found = alice.ask(Method::POST, "publicRooms?server=two.test", search).await;
    assert_eq!(names(&found["chunk"]), ["pears"]);
    assert_eq!(names(&alice.ask(Method::GET, "publicRooms", json!({})).await["chunk"]), ["ours"]);
    let own = alice.ask(Method::GET, "publicRooms?server=one.test", json!({})).await;
    assert_eq!(names(&own["chunk"]), ["ours"]);
    let alias = alice.ask(Method::GET, "directory/room/%23plums:two.test", json!({})).await;
    assert_eq!(alias["servers"], json!(["two.test"]));
    for (path, body, status, code) in [
        ("v3/publicRooms?server=a%20b", json!({}), 400, "M_INVALID_PARAM"),
        ("v3/publicRooms?server=two.test", json!({ "filter": 5 }), 400, "M_BAD_JSON"),
        ("v3/publicRooms?server=two.test", json!({ "since": "nonsense" }), 502, "M_UNKNOWN"),
        ("v3/publicRooms?server=three.test", json!({}), 502, "M_UNKNOWN"),
        (
            "v3/publicRooms",
            json!({ "include_all_networks": true, "third_party_instance_id": "irc" }),
            400,
            "M_INVALID_PARAM",
        ),
    ] {
        let (found, answer) = alice.try_ask(Method::POST, path, body).await;
        assert_eq!((found.as_u16(), answer["errcode"].as_str().unwrap()), (status, code), "{path}");
    }
}

/// SEC-loops.
#[tokio::test]
async fn cr20_a_hierarchy_goes_on_with_rooms_of_other_servers() {
    let net = Arc::new(Net::default());
    let (one, two) = (Node::start("one.test", &net).await, Node::start("two.test", &net).await);
    let (alice, bob) = (one.person("alice").await, two.person("bob").await);
    let space = json!({ "creation_content": { "type": "m.space" } });
    let root = alice.named_room("root", space.clone()).await;
    let far = bob.named_room("far", space).await;
    let room = bob.named_room("room", json!({})).await;
    let members = bob.named_room("for members", json!({})).await;
    let closed = bob.named_room("closed", json!({ "preset": "private_chat" })).await;
    let allow = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": root }] });
    bob.ask(Method::PUT, &format!("rooms/{members}/state/m.room.join_rules"), allow).await;
    // Whom its server lets in is said to a server of which somebody is in the room that allows it.
    bob.join(&root, "one.test").await;
    let add = async |who: &Person<'_>, space: &str, child: &str, via: &str, order: &str| {
        let path = format!("rooms/{space}/state/m.space.child/{child}");
        who.ask(Method::PUT, &path, json!({ "via": [via], "order": order })).await;
    };
    add(&alice, &root, &far, "two.test", "a").await;
    for (child, order) in [(&room, "a"), (&members, "b"), (&closed, "c")] {
        add(&bob, &far, child, "two.test", order).await;
    }
    add(&bob, &far, &root, "one.test", "d").await;
    let path = format!("v1/rooms/{root}/hierarchy");
    let whole = alice.try_ask(Method::GET, &path, json!({})).await.1;
    assert_eq!(names(&whole["rooms"]), ["root", "far", "room", "for members"]);
    let children = whole["rooms"][1]["children_state"].as_array().unwrap();
    assert_eq!((children.len(), &children[0]["state_key"]), (4, &json!(room)));
    assert_eq!(whole["rooms"][2]["children_state"], json!([]));
    let carol = one.person("carol").await;
    let seen = carol.try_ask(Method::GET, &path, json!({})).await.1;
    assert_eq!(names(&seen["rooms"]), ["root", "far", "room"], "who is not in the space may not join");
    let (mut from, mut paged) = (String::new(), Vec::new());
    loop {
        let page = alice.try_ask(Method::GET, &format!("{path}?limit=1{from}"), json!({})).await.1;
        paged.extend(names(&page["rooms"]).into_iter().map(str::to_owned));
        let Some(next) = page["next_batch"].as_str() else { break };
        from = format!("&from={next}");
    }
    assert_eq!(paged, names(&whole["rooms"]));
    let asked = net.asked.lock().iter().filter(|asked| asked.contains("/hierarchy/")).count();
    assert_eq!(asked, 1, "what was said is remembered");
    *net.cut.lock() = true;
    let cut = alice.try_ask(Method::GET, &format!("{path}?suggested_only=false"), json!({})).await.1;
    assert_eq!(names(&cut["rooms"]).len(), 4);
}

#[tokio::test]
async fn a_room_of_another_server_is_summarized() {
    let net = Arc::new(Net::default());
    let (one, two) = (Node::start("one.test", &net).await, Node::start("two.test", &net).await);
    let (alice, bob) = (one.person("alice").await, two.person("bob").await);
    let open = bob.named_room("open", json!({ "room_alias_name": "open", "topic": "all of it" })).await;
    let secret = bob.named_room("secret", json!({ "preset": "private_chat" })).await;
    let by_alias = alice.try_ask(Method::GET, "v1/room_summary/%23open:two.test", json!({})).await;
    assert_eq!((by_alias.0, &by_alias.1["room_id"]), (StatusCode::OK, &json!(open)));
    let path = |room: &str| format!("v1/room_summary/{room}?via=two.test");
    let by_id = alice.try_ask(Method::GET, &path(&open), json!({})).await.1;
    assert_eq!((&by_id["topic"], by_id.get("children_state")), (&json!("all of it"), None));
    assert_eq!(alice.try_ask(Method::GET, &path(&secret), json!({})).await.0, 404);
    assert_eq!(alice.try_ask(Method::GET, &path("!nothing:two.test"), json!({})).await.0, 404);
}

/// SEC-loops.
#[tokio::test]
async fn cr20_an_endless_tree_of_another_server_ends() {
    let net = Arc::new(Net::default());
    let (_one, two) = both(&net).await;
    let bob = two.person("bob").await;
    let telling = async |axum::extract::Path(room): axum::extract::Path<String>| {
        let number: u64 = room.trim_start_matches("!s").split(':').next().unwrap().parse().unwrap();
        let child = json!({ "type": "m.space.child", "state_key": format!("!s{}:odd.test", number + 1),
            "content": { "via": ["odd.test"] }, "sender": "@a:odd.test", "origin_server_ts": 1 });
        let room = json!({ "room_id": room, "room_type": "m.space", "children_state": [child] });
        json!({ "room": room, "children": [], "inaccessible_children": [] }).to_string()
    };
    let router = Router::new().route("/_matrix/federation/v1/hierarchy/{room}", axum::routing::get(telling));
    net.routers.lock().insert("odd.test".to_owned(), router);
    let (_, page) = bob.try_ask(Method::GET, "v1/rooms/!s0:odd.test/hierarchy", json!({})).await;
    assert_eq!((names(&page["rooms"]).len(), page.get("next_batch")), (33, None));
    assert_eq!(net.asked.lock().len(), 33);
}

#[tokio::test]
async fn cr26_the_profile_of_another_servers_user_is_asked_for() {
    let net = Arc::new(Net::default());
    let (one, two) = both(&net).await;
    let (alice, bob) = (one.person("alice").await, two.person("bob").await);
    let path = format!("profile/{}", bob.id);
    bob.ask(Method::PUT, &format!("{path}/displayname"), json!({ "displayname": "Bob" })).await;
    assert_eq!(alice.ask(Method::GET, &path, json!({})).await["displayname"], "Bob");
    assert_eq!(
        alice.ask(Method::GET, &format!("{path}/displayname"), json!({})).await,
        json!({ "displayname": "Bob" })
    );
    let (status, answer) = alice.try_ask(Method::GET, "v3/profile/@nobody:two.test", json!({})).await;
    assert_eq!((status.as_u16(), &answer["errcode"]), (404, &json!("M_NOT_FOUND")));
}

#[tokio::test]
async fn ce2_ce10_keys_and_messages_reach_devices_of_another_server() {
    let net = Arc::new(Net::default());
    let (one, two) = both(&net).await;
    let (alice, mut bob) = (one.person("alice").await, two.person("bob").await);
    bob.upload_device("PHONE").await;
    bob.ask(Method::POST, "keys/upload", json!({ "one_time_keys": { "signed_curve25519:A": { "key": "x" } } })).await;
    let wanted = json!({ "one_time_keys": { bob.id.as_str(): { "PHONE": "signed_curve25519" } } });
    let claim = async || alice.ask(Method::POST, "keys/claim", wanted.clone()).await["one_time_keys"].clone();
    assert_eq!(claim().await[bob.id.as_str()]["PHONE"]["signed_curve25519:A"]["key"], "x");
    assert_eq!(claim().await[bob.id.as_str()].get("PHONE"), None, "each key once");
    let body = json!({ "messages": { bob.id.as_str(): { "PHONE": { "n": 1 } } } });
    alice.ask(Method::PUT, "sendToDevice/m.test/t1", body).await;
    let message = loop {
        let answer = bob.sync().await;
        if let Some(message) = answer["to_device"]["events"].as_array().and_then(|events| events.first()) {
            break message.clone();
        }
    };
    assert_eq!(message, json!({ "type": "m.test", "sender": alice.id, "content": { "n": 1 } }));
}

#[tokio::test]
async fn the_presence_of_another_servers_user_is_known() {
    let net = Arc::new(Net::default());
    let (one, two) = both(&net).await;
    let (mut alice, bob) = (one.person("alice").await, two.person("bob").await);
    let room = alice.create_room().await;
    bob.join(&room, "one.test").await;
    let status = format!("presence/{}/status", bob.id);
    let body = json!({ "presence": "unavailable", "status_msg": "out" });
    bob.ask(Method::PUT, &status, body).await;
    loop {
        let answer = alice.sync().await;
        let told = answer["presence"]["events"].as_array().cloned().unwrap_or_default();
        if told.iter().any(|event| event["sender"] == json!(bob.id) && event["content"]["status_msg"] == "out") {
            break;
        }
    }
    let known = alice.ask(Method::GET, &status, json!({})).await;
    assert_eq!((&known["presence"], &known["status_msg"]), (&json!("unavailable"), &json!("out")));
}

/// What one server says of a room is its own word: it is not taken for that of the room's server, whoever was asked first.
#[tokio::test]
async fn cr20_no_server_speaks_for_another() {
    let net = Arc::new(Net::default());
    let (one, two) = both(&net).await;
    let (alice, carol, bob) = (one.person("alice").await, one.person("carol").await, two.person("bob").await);
    let room = bob.named_room("honest", json!({})).await;
    let lying = async |axum::extract::Path(room): axum::extract::Path<String>| {
        json!({ "room": { "room_id": room, "name": "forged", "join_rule": "invite" } }).to_string()
    };
    let router = Router::new().route("/_matrix/federation/v1/hierarchy/{room}", axum::routing::get(lying));
    net.routers.lock().insert("evil.test".to_owned(), router);
    let by = |server: &str| format!("v1/room_summary/{room}?via={server}");
    assert_eq!(alice.try_ask(Method::GET, &by("evil.test"), json!({})).await.0, 404);
    let told = carol.try_ask(Method::GET, &by("two.test"), json!({})).await;
    assert_eq!((told.0, &told.1["name"]), (StatusCode::OK, &json!("honest")));
}
