//! A whole server in this process, on the in-memory store and a clock that tests move: what tests of behaviour use.

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use server::boot::{self, Running};
use server::config::Config;
use server::world::{SystemEntropy, World};
use store::model::Model;
use store::{Engine, Store};
use testkit::FakeClock;
use tower::ServiceExt;
use users::registration::NewAccount;

/// A server.
pub struct Here {
    /// Its clock.
    pub clock: Arc<FakeClock>,
    running: Running,
    _folder: tempfile::TempDir,
}

/// Starts one.
pub async fn start(settings: &[&str]) -> Here {
    start_on(|_| Arc::new(Model::new()), settings).await
}

async fn start_on(engine: impl FnOnce(&Path) -> Arc<dyn Engine>, settings: &[&str]) -> Here {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = format!("data_dir={}", folder.path().display());
    let config = Config::of(&[&[data_dir.as_str(), "server_name=hearth.test"], settings].concat()).unwrap();
    let clock = Arc::new(FakeClock::default());
    let world = World::of(Arc::clone(&clock) as _, Arc::new(SystemEntropy));
    let store = Store::new(engine(folder.path())).await.unwrap();
    let running = boot::build_on(store.into(), &config, &world, None).await.unwrap();
    Here { clock, running, _folder: folder }
}

impl Here {
    /// One request of nobody.
    pub async fn ask(&self, method: Method, path: &str, body: Value) -> (Response<()>, Value) {
        let request = Request::builder().method(method).uri(path);
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    /// One request with a token; the path without its prefix.
    pub async fn ask_as(&self, token: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(format!("/_matrix/client/v3/{path}"))
            .header("authorization", format!("Bearer {token}"));
        let (head, body) = self.send(request.body(Body::from(body.to_string())).unwrap()).await;
        (head.status().as_u16(), body)
    }

    async fn send(&self, request: Request<Body>) -> (Response<()>, Value) {
        let (head, bytes) = self.raw(request).await.into_parts();
        (Response::from_parts(head, ()), serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// One request, and the answer as it came.
    pub async fn raw(&self, request: Request<Body>) -> Response<Bytes> {
        let (head, body) = self.running.router.clone().oneshot(request).await.unwrap().into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    /// Another node of the same server.
    pub async fn neighbor(&self) -> Self {
        let config = &self.running.config;
        let world = World::of(Arc::clone(&self.clock) as _, Arc::new(SystemEntropy));
        let running = boot::build_on(self.running.store.clone().into(), config, &world, None).await.unwrap();
        Self { clock: Arc::clone(&self.clock), running, _folder: tempfile::tempdir().unwrap() }
    }

    /// Makes an account and signs it in; answers its token.
    pub async fn person(&self, name: &str) -> String {
        let (localpart, password) = (Some(name.to_owned()), Some("a secret!".to_owned()));
        let new = NewAccount { localpart, password, ..NewAccount::default() };
        self.running.users.register(new).await.unwrap();
        let identifier = json!({ "type": "m.id.user", "user": name });
        let body = json!({ "type": "m.login.password", "identifier": identifier, "password": "a secret!" });
        let (_, answer) = self.ask(Method::POST, "/_matrix/client/v3/login", body).await;
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// What a sync says, and the token to go on from.
    async fn sync(&self, token: &str, since: &str) -> (Value, String) {
        let (status, answer) = self.ask_as(token, Method::GET, &format!("sync?since={since}"), Value::Null).await;
        assert_eq!(status, 200, "{answer}");
        let next = answer["next_batch"].as_str().unwrap().to_owned();
        (answer, next)
    }

    /// What is done about once a minute.
    pub async fn keep_house(&self) {
        self.running.housekeeping().await;
    }

    /// Moves the clock, and lets the server notice.
    pub async fn pass(&self, ms: i64) {
        self.clock.advance(ms);
        self.running.tick().await;
    }
}

impl Here {
    /// Makes a room and schedules a message to it; answers the room's id.
    async fn schedule(&self, token: &str, delay_ms: i64) -> String {
        let (_, made) = self.ask_as(token, Method::POST, "createRoom", json!({})).await;
        let room = made["room_id"].as_str().unwrap().to_owned();
        let path = format!("rooms/{room}/send/m.room.message/1?org.matrix.msc4140.delay={delay_ms}");
        let (status, answer) = self.ask_as(token, Method::PUT, &path, json!({ "body": "late" })).await;
        assert_eq!(status, 200, "{answer}");
        room
    }
}

#[tokio::test]
async fn msc4140_what_fell_due_while_the_server_was_away_is_sent_when_it_is_back() {
    let before = start(&[]).await;
    let token = before.person("alice").await;
    let room = before.schedule(&token, 10_000).await;
    before.running.send_delayed().await;
    let after = before.neighbor().await;
    drop(before);
    after.running.send_delayed().await;
    assert!(texts(&after.sync(&token, "").await.0, &room).is_empty(), "not before it is due");
    after.clock.advance(3_600_000);
    after.running.send_delayed().await;
    assert_eq!(texts(&after.sync(&token, "").await.0, &room), ["late"]);
}

#[tokio::test]
async fn msc4140_two_nodes_that_do_not_know_of_each_other_send_an_event_once() {
    let one = start(&[]).await;
    let other = one.neighbor().await;
    let token = one.person("alice").await;
    let room = one.schedule(&token, 10_000).await;
    one.clock.advance(60_000);
    tokio::join!(one.running.send_delayed(), other.running.send_delayed());
    for node in [&one, &other] {
        assert_eq!(texts(&node.sync(&token, "").await.0, &room), ["late"]);
    }
}

#[tokio::test]
async fn msc4140_the_administrator_says_what_may_be_delayed() {
    let here = start(&["rooms.delay_max=60", "rooms.delayed_events_max=0"]).await;
    let token = here.person("alice").await;
    let (_, answer) = here.ask_as(&token, Method::GET, "capabilities", Value::Null).await;
    assert!(answer["capabilities"].get("m.delayed_events").is_none(), "{answer}");
    let (_, made) = here.ask_as(&token, Method::POST, "createRoom", json!({})).await;
    let path = format!("rooms/{}/send/m/1?org.matrix.msc4140.delay=1", made["room_id"].as_str().unwrap());
    let (status, answer) = here.ask_as(&token, Method::PUT, &path, json!({})).await;
    assert_eq!((status, &answer["errcode"]), (403, &json!("M_FORBIDDEN")));

    let here = start(&["rooms.delay_max=60", "rooms.delayed_events_max=7"]).await;
    let token = here.person("alice").await;
    let (_, answer) = here.ask_as(&token, Method::GET, "capabilities", Value::Null).await;
    let expected = json!({ "max_delay_ms": 60_000, "max_scheduled": 7 });
    assert_eq!(answer["capabilities"]["org.matrix.msc4140.delayed_events"], expected);
}

#[tokio::test]
async fn cb9_a_limited_client_is_told_when_to_come_back() {
    let here = start(&["rate_limits.logins.burst=2", "rate_limits.logins.per_second=0.5"]).await;
    let login = async || {
        let identifier = json!({ "type": "m.id.user", "user": "nobody" });
        let body = json!({ "type": "m.login.password", "identifier": identifier, "password": "guess" });
        here.ask(Method::POST, "/_matrix/client/v3/login", body).await
    };
    let mut refused = login().await;
    for _ in 0..10 {
        if refused.0.status() == 429 {
            break;
        }
        assert_eq!(refused.0.status(), 403);
        refused = login().await;
    }
    let (head, body) = refused;
    assert_eq!((head.status().as_u16(), body["errcode"].as_str()), (429, Some("M_LIMIT_EXCEEDED")));
    let wait_s: i64 = head.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait_s), "{wait_s}");
    assert!(body["retry_after_ms"].as_i64().unwrap() <= wait_s * 1_000);

    here.clock.advance(wait_s * 1_000);
    assert_eq!(login().await.0.status(), 403);
}

#[tokio::test]
async fn a_switch_turns_rate_limits_off() {
    let here = start(&["rate_limits.enabled=false", "rate_limits.registrations.burst=1"]).await;
    for _ in 0..50 {
        let (head, _) = here.ask(Method::GET, "/_matrix/client/v3/register/available?username=a", Value::Null).await;
        assert_eq!(head.status(), 200);
    }
}

#[tokio::test]
async fn every_route_of_the_server_can_be_built_together() {
    // Two routes of one path would panic here, and nowhere earlier.
    let here = start(&[]).await;
    assert_eq!(here.running.server_name, "hearth.test");
    let (head, body) = here.ask(Method::GET, "/health", Value::Null).await;
    assert_eq!((head.status().as_u16(), body), (200, json!({ "status": "ok" })));
    here.running.tick().await;
    here.running.housekeeping().await;
}

/// The texts of a room's new messages in a sync.
fn texts(answer: &Value, room: &str) -> Vec<String> {
    let events = answer["rooms"]["join"][room]["timeline"]["events"].as_array().cloned().unwrap_or_default();
    let bodies = events.iter().filter_map(|event| event["content"]["body"].as_str());
    bodies.map(str::to_owned).collect()
}

fn typists(answer: &Value, room: &str) -> Option<Value> {
    let events = answer["rooms"]["join"][room]["ephemeral"]["events"].as_array()?;
    events.iter().find(|event| event["type"] == "m.typing").map(|event| event["content"]["user_ids"].clone())
}

#[tokio::test]
async fn cr21_the_same_upgrade_asked_for_several_times_at_once_makes_one_room() {
    let disk = |folder: &Path| -> Arc<dyn Engine> {
        Arc::new(sqlite::Sqlite::open(&folder.join("rooms.db"), sqlite::Options::default()).unwrap())
    };
    let here = start_on(disk, &["rate_limits.enabled=false"]).await;
    let alice = here.person("alice").await;
    let (_, made) = here.ask_as(&alice, Method::POST, "createRoom", json!({})).await;
    let old = made["room_id"].as_str().unwrap();
    let upgrade = async |version: &str| {
        let path = format!("rooms/{old}/upgrade");
        let (status, answer) = here.ask_as(&alice, Method::POST, &path, json!({ "new_version": version })).await;
        assert_eq!(status, 200, "{answer}");
        answer["replacement_room"].as_str().unwrap().to_owned()
    };
    // All of them are under way before the first is done: each waits for the disk.
    let (one, two, three, other) = tokio::join!(upgrade("11"), upgrade("11"), upgrade("11"), upgrade("10"));
    assert_eq!((&one, &one), (&two, &three));
    assert_ne!(other, one, "another version is another request");
    assert_ne!(upgrade("10").await, other, "and so is one that comes later");
}

#[tokio::test]
async fn a_clock_that_jumps_back_disturbs_nobody() {
    let here = start(&["rate_limits.messages.burst=3", "rate_limits.messages.per_second=1"]).await;
    let (alice, bob) = (here.person("alice").await, here.person("bob").await);
    let public = json!({ "preset": "public_chat" });
    let (_, made) = here.ask_as(&alice, Method::POST, "createRoom", public).await;
    let room = made["room_id"].as_str().unwrap();
    assert_eq!(here.ask_as(&bob, Method::POST, &format!("join/{room}"), json!({})).await.0, 200);
    let say = async |text: &str| {
        let path = format!("rooms/{room}/send/m.room.message/{text}");
        here.ask_as(&alice, Method::PUT, &path, json!({ "msgtype": "m.text", "body": text })).await
    };
    let typing = format!("rooms/{room}/typing/@alice:hearth.test");
    let types = async |timeout: i64| {
        let body = json!({ "typing": true, "timeout": timeout });
        assert_eq!(here.ask_as(&alice, Method::PUT, &typing, body).await.0, 200);
    };

    // In mid-use: messages up to the limit, somebody types, a new password waits for the old one.
    let (_, start) = here.sync(&bob, "").await;
    let before = say("before").await;
    assert_eq!(before.0, 200);
    types(30_000).await;
    let mut said = 0;
    while say(&format!("more{said}")).await.0 == 200 {
        said += 1;
        assert!(said < 10, "the limit holds");
    }
    let other = here.person("carol").await;
    let password = json!({ "new_password": "another secret" });
    let (status, challenge) = here.ask_as(&other, Method::POST, "account/password", password.clone()).await;
    assert_eq!(status, 401);

    here.pass(-3_600_000).await;

    // Tokens of access and of sync stay valid, and what was said and typed is seen.
    let (seen, next) = here.sync(&bob, &start).await;
    assert_eq!(texts(&seen, room)[0], "before");
    assert_eq!(typists(&seen, room), Some(json!(["@alice:hearth.test"])));
    // A limit fills at its usual pace from the first request on, and a transaction is known again.
    assert_eq!(say("early").await.0, 429);
    here.pass(5_000).await;
    assert_eq!(say("before").await, before);
    assert_eq!(say("after").await.0, 200);
    let (seen, next) = here.sync(&bob, &next).await;
    assert_eq!(texts(&seen, room), ["after"]);
    // Who typed does not type for an hour, and may type again.
    here.pass(120_000).await;
    let (seen, next) = here.sync(&bob, &next).await;
    assert_eq!(typists(&seen, room), Some(json!([])));
    types(30_000).await;
    let (seen, _) = here.sync(&bob, &next).await;
    assert_eq!(typists(&seen, room), Some(json!(["@alice:hearth.test"])));
    // The new password goes on where it was.
    let identifier = json!({ "type": "m.id.user", "user": "carol" });
    let auth = json!({
        "type": "m.login.password", "identifier": identifier, "password": "a secret!", "session": challenge["session"],
    });
    let mut proven = password;
    proven["auth"] = auth;
    let (status, answer) = here.ask_as(&other, Method::POST, "account/password", proven).await;
    assert_eq!((status, answer), (200, json!({})));
    here.running.housekeeping().await;
    let (_, older) = here.ask_as(&bob, Method::GET, &format!("rooms/{room}/messages?dir=b&limit=2"), Value::Null).await;
    assert_eq!(older["chunk"][0]["content"]["body"], "after", "order does not follow the clock");
}
