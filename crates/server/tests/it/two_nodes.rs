//! Two `hearth` processes on one PostgreSQL database are one server: any node serves any request.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use testkit::{encoded, list, text};

use crate::postgres::{admin, drop_database, make};
use crate::program::Program;

/// Concurrent senders of each node.
const SENDERS: usize = 3;
/// What each of them says.
const MESSAGES: usize = 12;
/// How long a sync may wait for news: an end for what hangs.
const WAIT_MS: u64 = 300_000;

type Http = Client<HttpConnector, Full<bytes::Bytes>>;

/// Two nodes, and what they share.
struct Nodes {
    admin: tokio_postgres::Client,
    database: String,
    folder: tempfile::TempDir,
    a: Program,
    b: Program,
}

fn node(folder: &Path) -> Program {
    // All else stands in the configuration file.
    Program::start(folder, &[])
}

impl Nodes {
    /// Starts both, or says that the test is skipped.
    async fn start(name: &str) -> Option<Self> {
        let (admin, base) = admin().await?;
        let (database, setting) = make(&admin, &base, name).await;
        let url = setting.strip_prefix("database.url=").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "server_name = 'hearth.test'\ndatabase.url = '{url}'\nregistration.mode = 'open'\n\
             rate_limits.enabled = false\n"
        );
        std::fs::write(folder.path().join("hearth.toml"), config).unwrap();
        let (a, b) = (node(folder.path()), node(folder.path()));
        Some(Self { admin, database, folder, a, b })
    }

    async fn end(self) {
        let Self { admin, database, a, b, .. } = self;
        drop((a, b));
        drop_database(&admin, &database).await;
    }
}

/// A user's client, which may speak with any node.
#[derive(Clone)]
struct Person {
    http: Http,
    user: String,
    token: String,
}

impl Person {
    /// Registers by one node, and completes that by another.
    async fn register(name: &str, begin: &Program, end: &Program) -> Self {
        let nobody = Self {
            http: Client::builder(TokioExecutor::new()).build_http(),
            user: String::new(),
            token: String::new(),
        };
        let mut body = json!({ "username": name, "password": "a secret!" });
        let (status, flows) = nobody.ask(&begin.url, Method::POST, "register", body.clone()).await;
        assert_eq!(status, 401, "{flows}");
        body["auth"] = json!({ "type": "m.login.dummy", "session": flows["session"] });
        let made = nobody.ok(&end.url, Method::POST, "register", body).await;
        Self { user: text(&made["user_id"]), token: text(&made["access_token"]), ..nobody }
    }

    /// One request; `None` if the node does not answer.
    async fn try_ask(&self, node: &str, method: Method, path: &str, body: Value) -> Option<(u16, Value)> {
        let request = Request::builder().method(method).uri(format!("{node}/_matrix/client/v3/{path}"));
        let request = match self.token.as_str() {
            "" => request,
            token => request.header("authorization", format!("Bearer {token}")),
        };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.http.request(request.body(body.into()).unwrap()).await.ok()?;
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.ok()?.to_bytes();
        Some((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }

    async fn ask(&self, node: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.try_ask(node, method, path, body).await.unwrap()
    }

    async fn ok(&self, node: &str, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(node, method, path, body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn login(&self, node: &str) -> Self {
        let identifier = json!({ "type": "m.id.user", "user": self.user });
        let body = json!({ "type": "m.login.password", "identifier": identifier, "password": "a secret!" });
        let login = self.ok(node, Method::POST, "login", body).await;
        Self { token: text(&login["access_token"]), ..self.clone() }
    }

    async fn room(&self, node: &str) -> String {
        text(&self.ok(node, Method::POST, "createRoom", json!({ "preset": "public_chat" })).await["room_id"])
    }

    async fn join(&self, node: &str, room: &str) {
        self.ok(node, Method::POST, &format!("join/{}", encoded(room)), json!({})).await;
    }

    async fn try_say(&self, node: &str, room: &str, body: &str) -> Option<(u16, Value)> {
        let path = format!("rooms/{}/send/m.room.message/{}", encoded(room), encoded(body));
        self.try_ask(node, Method::PUT, &path, json!({ "msgtype": "m.text", "body": body })).await
    }

    /// Says something, with its text as transaction id.
    async fn say(&self, node: &str, room: &str, body: &str) -> String {
        let (status, answer) = self.try_say(node, room, body).await.unwrap();
        assert_eq!(status, 200, "{body}: {answer}");
        text(&answer["event_id"])
    }

    /// A sync that does not wait, without a token from before.
    async fn first_sync(&self, node: &str) -> String {
        text(&self.ok(node, Method::GET, &format!("sync?filter={}", *FILTER), Value::Null).await["next_batch"])
    }

    /// Syncs on, and on, until an answer has something; answers that and the token after it.
    async fn sync_until<T>(&self, node: &str, since: &str, has: impl Fn(&Value) -> Option<T>) -> (T, String) {
        let mut since = since.to_owned();
        loop {
            let path = format!("sync?since={since}&timeout={WAIT_MS}&filter={}", *FILTER);
            let asked = Instant::now();
            let answer = self.ok(node, Method::GET, &path, Value::Null).await;
            assert!(asked.elapsed() < Duration::from_millis(WAIT_MS), "no news: {answer}");
            since = text(&answer["next_batch"]);
            if let Some(found) = has(&answer) {
                return (found, since);
            }
        }
    }

    /// Id and text of a room's messages, oldest first.
    async fn messages(&self, node: &str, room: &str) -> Vec<(String, String)> {
        let path = format!("rooms/{}/messages?dir=f&limit=1000", encoded(room));
        said(&self.ok(node, Method::GET, &path, Value::Null).await["chunk"])
    }

    /// Follows a room by sync from a token until a text comes; answers id and text of all messages on the way.
    async fn follow(&self, node: &str, since: &str, room: &str, last: &str) -> (Vec<(String, String)>, String) {
        let mut all = Vec::new();
        let mut since = since.to_owned();
        while !all.iter().any(|(_, body): &(String, String)| body == last) {
            let (section, next) = self.sync_until(node, &since, |answer| Some(joined(answer, room))).await;
            assert_ne!(section["timeline"]["limited"], true, "the filter asks for all");
            all.extend(said(&section["timeline"]["events"]));
            since = next;
        }
        (all, since)
    }
}

/// Timelines as long as they are.
static FILTER: LazyLock<String> =
    LazyLock::new(|| encoded(&json!({ "room": { "timeline": { "limit": 1_000 } } }).to_string()));

fn joined(answer: &Value, room: &str) -> Value {
    answer["rooms"]["join"][room].clone()
}

fn said(events: &Value) -> Vec<(String, String)> {
    let events = events.as_array().cloned().unwrap_or_default();
    let messages = events.iter().filter(|event| event["type"] == "m.room.message");
    messages.map(|event| (text(&event["event_id"]), text(&event["content"]["body"]))).collect()
}

/// The content of an ephemeral event of a room.
fn ephemeral(answer: &Value, room: &str, kind: &str) -> Option<Value> {
    let events = joined(answer, room)["ephemeral"]["events"].as_array()?.clone();
    events.into_iter().find(|event| event["type"] == kind).map(|event| event["content"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_by_one_node_is_seen_by_the_other() {
    let Some(nodes) = Nodes::start("seen").await else { return };
    let (a, b) = (nodes.a.url.clone(), nodes.b.url.clone());
    let alice = Person::register("alice", &nodes.a, &nodes.b).await;
    let bob = Person::register("bob", &nodes.b, &nodes.a).await;
    let room = alice.room(&a).await;
    bob.join(&b, &room).await;
    let since = bob.first_sync(&b).await;

    // A sync that waits on B ends by what is said on A.
    let waiting = tokio::spawn({
        let (bob, b, since, room) = (bob.clone(), b.clone(), since.clone(), room.clone());
        async move { bob.follow(&b, &since, &room, "hello").await }
    });
    let hello = alice.say(&a, &room, "hello").await;
    let (seen, since) = waiting.await.unwrap();
    assert_eq!(seen, [(hello.clone(), "hello".to_owned())]);

    // One transaction, whichever nodes it comes to.
    assert_eq!(alice.say(&b, &room, "hello").await, hello);
    for number in 0..5 {
        let body = format!("twice {number}");
        let (one, other) = tokio::join!(alice.say(&a, &room, &body), alice.say(&b, &room, &body));
        assert_eq!(one, other);
    }
    let (seen, since) = bob.follow(&b, &since, &room, "twice 4").await;
    assert_eq!(seen.len(), 5, "{seen:?}");

    // A token that one node gave is good for the other, also when it is ahead of it.
    for number in 0..5 {
        let body = format!("ahead {number}");
        alice.say(&a, &room, &body).await;
        let ahead = text(&alice.ok(&a, Method::GET, "sync", Value::Null).await["next_batch"]);
        let path = format!("sync?since={ahead}&timeout=0");
        assert!(
            said(&joined(&alice.ok(&b, Method::GET, &path, Value::Null).await, &room)["timeline"]["events"]).is_empty()
        );
    }

    // Account data, receipts and to-device messages.
    let account_data = format!("user/{}/account_data/test.note", encoded(&alice.user));
    let alice_since = alice.first_sync(&b).await;
    alice.ok(&a, Method::PUT, &account_data, json!({ "note": 1 })).await;
    let note = |answer: &Value| {
        let events = answer["account_data"]["events"].as_array()?.clone();
        events.into_iter().find(|event| event["type"] == "test.note").map(|event| event["content"]["note"].clone())
    };
    let (found, alice_since) = alice.sync_until(&b, &alice_since, note).await;
    assert_eq!(found, 1);
    let receipt = format!("rooms/{}/receipt/m.read/{}", encoded(&room), encoded(&hello));
    bob.ok(&b, Method::POST, &receipt, json!({})).await;
    let receipts = |answer: &Value| ephemeral(answer, &room, "m.receipt");
    let (found, _) = alice.sync_until(&a, &alice_since, receipts).await;
    assert!(found[&hello]["m.read"][&bob.user].is_object(), "{found}");
    let messages = json!({ "messages": { &bob.user: { "*": { "secret": 7 } } } });
    alice.ok(&a, Method::PUT, "sendToDevice/test.secret/1", messages.clone()).await;
    alice.ok(&b, Method::PUT, "sendToDevice/test.secret/1", messages).await;
    let to_device = |answer: &Value| Some(list(answer.get("to_device")?.get("events")?)).filter(|all| !all.is_empty());
    let (found, _) = bob.sync_until(&b, &since, to_device).await;
    assert_eq!(found.len(), 1, "sent once, though by both: {found:?}");
    assert_eq!(found[0]["content"]["secret"], 7);
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typing_and_presence_cross_between_nodes() {
    let Some(nodes) = Nodes::start("volatile").await else { return };
    let (a, b) = (nodes.a.url.clone(), nodes.b.url.clone());
    let alice = Person::register("alice", &nodes.a, &nodes.a).await;
    let bob = Person::register("bob", &nodes.b, &nodes.b).await;
    let room = alice.room(&a).await;
    bob.join(&b, &room).await;
    let mut since = bob.first_sync(&b).await;
    let typing = format!("rooms/{}/typing/{}", encoded(&room), encoded(&alice.user));
    let typists = |answer: &Value| ephemeral(answer, &room, "m.typing").map(|content| list(&content["user_ids"]));
    for stop_by in [&a, &b] {
        alice.ok(&a, Method::PUT, &typing, json!({ "typing": true, "timeout": 120_000 })).await;
        let types = |answer: &Value| typists(answer).filter(|users| users.contains(&json!(alice.user)));
        since = bob.sync_until(&b, &since, types).await.1;
        alice.ok(stop_by, Method::PUT, &typing, json!({ "typing": false })).await;
        since = bob.sync_until(&b, &since, |answer| typists(answer).filter(Vec::is_empty)).await.1;
    }
    let status = json!({ "presence": "unavailable", "status_msg": "tea" });
    let presence = format!("presence/{}/status", encoded(&alice.user));
    alice.ok(&a, Method::PUT, &presence, status).await;
    let tea = |answer: &Value| {
        let events = answer["presence"]["events"].as_array()?.clone();
        let alice = events.into_iter().find(|event| event["sender"] == alice.user.as_str())?;
        Some(alice["content"].clone()).filter(|content| content["status_msg"] == "tea")
    };
    let (found, _) = bob.sync_until(&b, &since, tea).await;
    assert_eq!(found["presence"], "unavailable");
    assert_eq!(bob.ok(&b, Method::GET, &presence, Value::Null).await["status_msg"], "tea");
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_and_accounts_change_on_all_nodes() {
    let Some(nodes) = Nodes::start("sessions").await else { return };
    let (a, b) = (nodes.a.url.clone(), nodes.b.url.clone());
    let alice = Person::register("alice", &nodes.a, &nodes.a).await;
    let whoami =
        async |person: &Person, node: &str| person.ask(node, Method::GET, "account/whoami", Value::Null).await.0;
    // Known to both, and so remembered by both, when it ends.
    let phone = alice.login(&a).await;
    assert_eq!((whoami(&phone, &a).await, whoami(&phone, &b).await), (200, 200));
    phone.ok(&b, Method::POST, "logout", json!({})).await;
    assert_eq!(whoami(&phone, &b).await, 401);
    while whoami(&phone, &a).await != 401 {}
    assert_eq!(whoami(&alice, &a).await, 200);

    // A waiting sync ends with its session, by whichever node that ends.
    let tablet = alice.login(&b).await;
    let since = tablet.first_sync(&a).await;
    let waiting = tokio::spawn({
        let (tablet, a) = (tablet.clone(), a.clone());
        async move {
            let path = format!("sync?since={since}&timeout={WAIT_MS}");
            while tablet.ask(&a, Method::GET, &path, Value::Null).await.0 == 200 {}
        }
    });
    alice.ok(&b, Method::POST, "logout/all", json!({})).await;
    waiting.await.unwrap();
    while whoami(&alice, &a).await != 401 {}

    // The name of a user is everywhere the new one, the password too.
    let alice = alice.login(&a).await;
    let name = format!("profile/{}/displayname", encoded(&alice.user));
    alice.ok(&a, Method::PUT, &name, json!({ "displayname": "Alice" })).await;
    assert_eq!(alice.ok(&b, Method::GET, &name, Value::Null).await["displayname"], "Alice");
    nodes.end().await;
}

/// Says things one after the other, by whichever node answers, until each is acknowledged; answers their ids and texts.
async fn talk(person: Person, places: Vec<String>, room: String, name: String) -> Vec<(String, String)> {
    let mut acknowledged = Vec::new();
    for number in 0..MESSAGES {
        let body = format!("{name} {number}");
        let mut place = 0;
        let id = loop {
            match person.try_say(&places[place % places.len()], &room, &body).await {
                Some((200, answer)) => break text(&answer["event_id"]),
                // Away, or stopped in the middle: the same again, by the next node.
                None | Some((503, _)) => place += 1,
                Some(other) => panic!("{body}: {other:?}"),
            }
        };
        acknowledged.push((id, body));
    }
    acknowledged
}

/// Demands that what was acknowledged is there, once, in the order in which each sender said it.
fn check(messages: &[(String, String)], acknowledged: &[Vec<(String, String)>]) {
    let all: BTreeSet<_> = messages.iter().collect();
    assert_eq!(all.len(), messages.len(), "nothing is doubled");
    for said in acknowledged {
        let of_sender: Vec<_> = messages.iter().filter(|message| said.contains(message)).collect();
        assert!(of_sender.into_iter().eq(said), "nothing is lost or out of order: {said:?} in {messages:?}");
    }
    let total: usize = acknowledged.iter().map(Vec::len).sum();
    let others = messages.iter().filter(|(_, body)| body != "end");
    assert_eq!(others.count(), total, "nothing is there that was not acknowledged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_messages_on_both_nodes_have_one_order() {
    let Some(nodes) = Nodes::start("order").await else { return };
    let (a, b) = (nodes.a.url.clone(), nodes.b.url.clone());
    let alice = Person::register("alice", &nodes.a, &nodes.a).await;
    let bob = Person::register("bob", &nodes.b, &nodes.b).await;
    let room = alice.room(&a).await;
    bob.join(&b, &room).await;
    let mut readers = Vec::new();
    for node in [&a, &b] {
        let (bob, node, room, since) = (bob.clone(), node.clone(), room.clone(), bob.first_sync(node).await);
        readers.push(tokio::spawn(async move { bob.follow(&node, &since, &room, "end").await.0 }));
    }
    let mut senders = Vec::new();
    for sender in 0..SENDERS {
        for (person, node, name) in [(&alice, &a, "a"), (&bob, &b, "b")] {
            let name = format!("{name}{sender}");
            senders.push(tokio::spawn(talk(person.clone(), vec![node.clone()], room.clone(), name)));
        }
    }
    let mut acknowledged = Vec::new();
    for sender in senders {
        acknowledged.push(sender.await.unwrap());
    }
    alice.say(&b, &room, "end").await;
    let first = readers.pop().unwrap().await.unwrap();
    check(&first, &acknowledged);
    for reader in readers {
        assert_eq!(reader.await.unwrap(), first, "both nodes tell one order");
    }
    assert_eq!(alice.messages(&b, &room).await, first);
    assert_eq!(alice.messages(&a, &room).await, first);
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_is_stood_in_for_and_catches_up() {
    let Some(mut nodes) = Nodes::start("killed").await else { return };
    let (a, b) = (nodes.a.url.clone(), nodes.b.url.clone());
    let alice = Person::register("alice", &nodes.a, &nodes.a).await;
    let bob = Person::register("bob", &nodes.b, &nodes.b).await;
    let room = alice.room(&a).await;
    bob.join(&b, &room).await;
    let since = alice.first_sync(&a).await;
    let mut senders = Vec::new();
    for sender in 0..SENDERS {
        let by_a = talk(alice.clone(), vec![a.clone(), b.clone()], room.clone(), format!("a{sender}"));
        let by_b = talk(bob.clone(), vec![b.clone()], room.clone(), format!("b{sender}"));
        senders.extend([tokio::spawn(by_a), tokio::spawn(by_b)]);
    }
    // In mid-load: some of what A's clients say is there.
    let (_, since) = alice.follow(&a, &since, &room, "a0 2").await;
    nodes.a.kill();
    let mut acknowledged = Vec::new();
    for sender in senders {
        acknowledged.push(sender.await.unwrap());
    }
    bob.say(&b, &room, "end").await;
    check(&bob.messages(&b, &room).await, &acknowledged);

    // The client goes on by B with the token that A gave, and misses and doubles nothing.
    let all = bob.messages(&b, &room).await;
    let (seen, by_b) = alice.follow(&b, &since, &room, "end").await;
    assert_eq!(seen, all[all.len() - seen.len()..], "a stretch without gaps up to the end");
    assert!(seen.len() < all.len(), "what came before the token is not told again");

    nodes.a = node(nodes.folder.path());
    let a = nodes.a.url.clone();
    bob.say(&b, &room, "back").await;
    let (seen, _) = alice.follow(&a, &by_b, &room, "back").await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(alice.messages(&a, &room).await, alice.messages(&b, &room).await);
    alice.say(&a, &room, "and on").await;
    let (seen, _) = bob.follow(&b, &by_b, &room, "and on").await;
    assert_eq!(seen.len(), 2, "{seen:?}");
    nodes.end().await;
}
