//! Delayed events (MSC4140): scheduled, kept alive, sent once, cancelled, refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use client_api::State;
use client_api::room::delayed_events::send_due;
use endpoint::rate_limit::Rate;
use endpoint::{Door, Options, RateClass, RateLimits};
use http::Method;
use rooms::NewEvent;
use serde_json::{Value, json};
use store::CommitBatch;
use store::tables::rooms::{DelayRow, DelayedEventRow};
use testkit::{Answer, Client, Server, encoded, list, text};

const UNSTABLE: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";
const STABLE: &str = "/_matrix/client/v1/delayed_events";
const MEMBER: &str = "org.matrix.msc3401.call.member";

/// A server, and a user's room on it.
async fn call() -> (Server, Client, String) {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    (server, alice, room)
}

/// Schedules a message as clients of the query parameter do.
async fn delay(client: &Client, room: &str, txn: &str, delay_ms: i64) -> Answer {
    let path = format!("/rooms/{room}/send/m.room.message/{txn}?org.matrix.msc4140.delay={delay_ms}");
    client.put(&path, json!({ "msgtype": "m.text", "body": txn })).await
}

/// Schedules the end of a call membership as Element Call does.
async fn delay_leave(client: &Client, room: &str, delay_ms: i64) -> String {
    let state_key = encoded(&format!("_{}_DEVICE", client.user));
    let path = format!("/rooms/{room}/state/{MEMBER}/{state_key}?org.matrix.msc4140.delay={delay_ms}");
    text(&client.put(&path, json!({})).await.ok()["delay_id"])
}

/// Decides about a delayed event, as who knows its id may without a token.
async fn decide(server: &Server, id: &str, action: &str) -> Answer {
    server.nobody().post(&format!("{UNSTABLE}/{id}/{action}"), json!({})).await
}

async fn pass(server: &Server, ms: i64) {
    server.clock.advance(ms);
    send_due(&server.state).await.unwrap();
}

/// What the owner is told of a delayed event.
async fn told(client: &Client, id: &str) -> Value {
    client.get(&format!("{STABLE}/{id}")).await.ok()
}

#[tokio::test]
async fn msc4140_a_delayed_event_is_sent_when_it_is_due_and_not_before() {
    let (server, alice, room) = call().await;
    let bob = server.register("bob").await;
    bob.join(&room).await;
    let since = testkit::next_batch(&bob.sync("").await);
    let late = text(&delay(&alice, &room, "late", 20_000).await.ok()["delay_id"]);
    let soon = text(&delay(&alice, &room, "soon", 10_000).await.ok()["delay_id"]);
    assert!(late.len() >= 32 && late != soon, "ids are secrets: {late} {soon}");
    pass(&server, 9_000).await;
    assert!(alice.bodies(&room).await.is_empty());
    let scheduled = list(&alice.get(UNSTABLE).await.ok()["delayed_events"]);
    let ids: Vec<&str> = scheduled.iter().map(|event| event["delay_id"].as_str().unwrap()).collect();
    assert_eq!(ids, [&soon, &late], "the next one first");
    assert_eq!(scheduled[0]["content"]["body"], "soon");
    assert_eq!((&scheduled[0]["delay_ms"], &scheduled[0]["delay"]), (&json!(10_000), &json!(10_000)));
    assert_eq!(scheduled[0]["delayed_since_ts"], scheduled[0]["running_since"]);
    assert!(bob.get(UNSTABLE).await.ok()["delayed_events"].as_array().unwrap().is_empty());
    pass(&server, 1_000).await;
    assert_eq!(alice.bodies(&room).await, ["soon"]);
    pass(&server, 30_000).await;
    assert_eq!(alice.bodies(&room).await, ["soon", "late"]);
    pass(&server, 30_000).await;
    assert_eq!(alice.bodies(&room).await, ["soon", "late"], "once");
    let sent = told(&alice, &soon).await;
    assert!(sent["finalised"]["event_id"].is_string() && sent["finalised"]["finalised_ts"].is_number(), "{sent}");
    // Its sender finds out which delayed event it was, and nobody else.
    let own = alice.timeline(&room).await.pop().unwrap();
    assert_eq!(own["unsigned"]["delay_id"], late.as_str());
    assert_eq!(own["unsigned"]["org.matrix.msc4140.delay_id"], late.as_str());
    let others = bob.sync(&since).await["rooms"]["join"][&room]["timeline"]["events"].clone();
    assert_eq!(others.as_array().unwrap().len(), 2);
    assert!(!others.to_string().contains("delay_id"), "{others}");
    bob.get(&format!("{STABLE}/{late}")).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn msc4140_who_is_not_heard_of_any_more_leaves_the_call() {
    let (server, alice, room) = call().await;
    let id = delay_leave(&alice, &room, 8_000).await;
    let state_key = format!("_{}_DEVICE", alice.user);
    alice.set_state_of(&room, MEMBER, &state_key, json!({ "application": "m.call" })).await;
    let path = format!("/rooms/{room}/state/{MEMBER}/{}", encoded(&state_key));
    for _ in 0..5 {
        pass(&server, 5_000).await;
        decide(&server, &id, "restart").await.ok();
        assert_eq!(alice.get(&path).await.ok()["application"], "m.call");
    }
    // Who logs out does not take back what was scheduled.
    let phone = alice.login("PHONE").await;
    alice.post("/logout", json!({})).await.ok();
    pass(&server, 8_000).await;
    assert_eq!(phone.get(&path).await.ok(), json!({}));
    // To a heart-beat that comes too late it is as if there were none: the client schedules anew.
    decide(&server, &id, "restart").await.refused(404, "M_NOT_FOUND");
    phone.post(&format!("{STABLE}/{id}/restart"), json!({})).await.refused(409, "M_UNKNOWN");
}

#[tokio::test]
async fn msc4140_what_others_set_meanwhile_does_not_cancel() {
    let (server, alice, room) = call().await;
    let id = delay_leave(&alice, &room, 8_000).await;
    let state_key = format!("_{}_DEVICE", alice.user);
    alice.set_state_of(&room, MEMBER, &state_key, json!({})).await;
    pass(&server, 8_000).await;
    // It says what is so already: that is the event which it became.
    let sent = told(&alice, &id).await;
    assert!(sent["finalised"]["event_id"].is_string(), "{sent}");
    decide(&server, &id, "send").await.ok();
}

#[tokio::test]
async fn msc4140_decisions_by_id_by_body_and_by_the_owner() {
    let (server, alice, room) = call().await;
    let bob = server.register("bob").await;
    let schedule = async |txn: &str| text(&delay(&alice, &room, txn, 60_000).await.ok()["delay_id"]);
    let (one, two, three) = (schedule("one").await, schedule("two").await, schedule("three").await);

    decide(&server, &one, "send").await.ok();
    assert_eq!(alice.bodies(&room).await, ["one"]);
    decide(&server, &one, "send").await.ok();
    decide(&server, &one, "cancel").await.refused(404, "M_NOT_FOUND");
    alice.post(&format!("{STABLE}/{one}/cancel"), json!({})).await.refused(409, "M_UNKNOWN");

    let nobody = server.nobody();
    let path = format!("{UNSTABLE}/{two}");
    nobody.post(&path, json!({})).await.refused(400, "M_MISSING_PARAM");
    nobody.post(&path, json!({ "action": "dance" })).await.refused(400, "M_INVALID_PARAM");
    nobody.post(&path, json!({ "action": "cancel" })).await.ok();
    alice.post(&path, json!({ "action": "cancel" })).await.ok();
    decide(&server, &two, "restart").await.refused(404, "M_NOT_FOUND");
    decide(&server, &two, "send").await.refused(404, "M_NOT_FOUND");

    bob.post(&format!("{STABLE}/{three}/cancel"), json!({})).await.refused(404, "M_NOT_FOUND");
    nobody.post(&format!("{STABLE}/{three}/cancel"), json!({})).await.refused(401, "M_MISSING_TOKEN");
    alice.post(&format!("{STABLE}/{three}/cancel"), json!({})).await.ok();
    assert!(told(&alice, &three).await["finalised"].get("event_id").is_none());

    decide(&server, "nothing", "restart").await.refused(404, "M_NOT_FOUND");
    decide(&server, &three, "dance").await.refused(404, "M_UNRECOGNIZED");
    let mut stale = alice.clone();
    stale.token = "stale".to_owned();
    stale.post(&format!("{UNSTABLE}/{three}/restart"), json!({})).await.refused(401, "M_UNKNOWN_TOKEN");
    pass(&server, 120_000).await;
    assert_eq!(alice.bodies(&room).await, ["one"]);
}

#[tokio::test]
async fn msc4140_a_repeated_request_schedules_nothing_more() {
    let (server, alice, room) = call().await;
    let first = delay(&alice, &room, "txn", 5_000).await.ok();
    assert_eq!(delay(&alice, &room, "txn", 5_000).await.ok(), first);
    let stable = format!("/rooms/{room}/delayed_event/m.room.message/txn");
    let body = json!({ "delay_ms": 5_000, "content": { "msgtype": "m.text", "body": "stable" } });
    let other = alice.put(&stable, body.clone()).await.ok();
    assert_ne!(other, first, "another path");
    assert_eq!(alice.put(&stable, body).await.ok(), other);
    pass(&server, 5_000).await;
    assert_eq!(delay(&alice, &room, "txn", 5_000).await.ok(), first, "also after it was sent");
    pass(&server, 5_000).await;
    assert_eq!(alice.bodies(&room).await.len(), 2);
}

#[tokio::test]
async fn msc4140_the_route_of_its_own_checks_what_it_is_given() {
    let (server, alice, room) = call().await;
    let path = |kind: &str| format!("/_matrix/client/unstable/org.matrix.msc4140/rooms/{room}/delayed_event/{kind}/t");
    let state = json!({ "delay_ms": 1_000, "state_key": "", "content": { "topic": "later" } });
    alice.put(&path("m.room.topic"), state.clone()).await.ok();
    pass(&server, 1_000).await;
    assert_eq!(alice.state(&room, "m.room.topic").await["topic"], "later");
    for (body, code) in [
        (json!({ "content": {} }), "M_BAD_JSON"),
        (json!({ "delay_ms": "1000", "content": {} }), "M_BAD_JSON"),
        (json!({ "delay_ms": 1_000 }), "M_BAD_JSON"),
        (json!({ "delay_ms": 1_000, "state_key": 1, "content": {} }), "M_BAD_JSON"),
        (json!({ "delay_ms": 0, "content": {} }), "M_INVALID_PARAM"),
        (json!({ "delay_ms": -1, "content": {} }), "M_INVALID_PARAM"),
    ] {
        alice.put(&path("m.room.message"), body).await.refused(400, code);
    }
    alice.put(&path("m.room.redaction"), state).await.refused(400, "M_INVALID_PARAM");
    delay(&alice, &room, "none", 0).await.refused(400, "M_INVALID_PARAM");
    let large = json!({ "delay_ms": 1_000, "content": { "body": "x".repeat(70_000) } });
    alice.put(&path("m.room.message"), large).await.refused(413, "M_TOO_LARGE");
    let bob = server.register("bob").await;
    delay(&bob, &room, "stranger", 1_000).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn msc4140_there_are_limits_and_clients_learn_of_them() {
    let (server, alice, room) = call().await;
    let limits = alice.get("/capabilities").await.ok()["capabilities"]["m.delayed_events"].clone();
    assert_eq!(limits, json!({ "max_delay_ms": 86_400_000, "max_scheduled": 100 }));
    let features = server.nobody().get("/_matrix/client/versions").await.ok()["unstable_features"].clone();
    assert_eq!((&features["org.matrix.msc4140"], &features["org.matrix.msc4140.stable"]), (&json!(true), &json!(true)));

    let refused = delay(&alice, &room, "long", 86_400_001).await;
    assert_eq!(refused.json["org.matrix.msc4140.errcode"], "M_MAX_DELAY_EXCEEDED");
    assert_eq!(refused.json["org.matrix.msc4140.max_delay"], 86_400_000);
    refused.refused(400, "M_UNKNOWN");
    let stable = format!("/rooms/{room}/delayed_event/m.room.message/long");
    let body = |delay_ms: i64| json!({ "delay_ms": delay_ms, "content": {} });
    alice.put(&stable, body(86_400_001)).await.refused(403, "M_FORBIDDEN");

    for n in 0..100 {
        delay(&alice, &room, &n.to_string(), 60_000).await.ok();
    }
    let refused = delay(&alice, &room, "more", 60_000).await;
    assert_eq!(refused.json["org.matrix.msc4140.errcode"], "M_MAX_DELAYED_EVENTS_EXCEEDED");
    refused.refused(400, "M_UNKNOWN");
    let refused = alice.put(&stable, body(60_000)).await;
    let wait_s: i64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((50..=60).contains(&wait_s), "until the next one is sent: {wait_s}");
    refused.refused(429, "M_LIMIT_EXCEEDED");
    let bob = server.register("bob").await;
    bob.join(&room).await;
    delay(&bob, &room, "other", 60_000).await.ok();
    pass(&server, 60_000).await;
    delay(&alice, &room, "more", 60_000).await.ok();
    assert_eq!(alice.bodies(&room).await.len(), 101);
}

#[tokio::test]
async fn msc4140_who_may_not_when_it_is_due_does_not() {
    let (server, alice, room) = call().await;
    let [bob, carol, dora, erik, frida] = server.people(["bob", "carol", "dora", "erik", "frida"]).await;
    let mut ids = BTreeMap::new();
    for client in [&bob, &carol, &dora, &erik, &frida] {
        client.join(&room).await;
        let id = text(&delay(client, &room, &client.user, 10_000).await.ok()["delay_id"]);
        ids.insert(client.user.clone(), id);
    }
    bob.leave(&room).await;
    let kick = json!({ "user_id": carol.user });
    alice.post(&format!("/rooms/{room}/ban"), kick).await.ok();
    server.state.users.deactivate(&dora.id(), false).await.unwrap();
    let admin = server.register("admin").await;
    server.state.users.set_admin(&admin.id(), true).await.unwrap();
    server.state.users.set_suspended(&admin.id(), &erik.id(), true).await.unwrap();
    pass(&server, 10_000).await;
    assert_eq!(alice.bodies(&room).await, [frida.user.as_str()]);
    for (client, errcode) in [(&bob, "M_FORBIDDEN"), (&carol, "M_FORBIDDEN"), (&erik, "M_USER_SUSPENDED")] {
        let told = told(client, &ids[&client.user]).await;
        assert_eq!(told["finalised"]["error"]["errcode"], errcode, "{told}");
        decide(&server, &ids[&client.user], "cancel").await.ok();
    }
    decide(&server, &ids[&dora.user], "cancel").await.ok();

    // What fails when it is asked for stays scheduled: the cause may go before it is due.
    let levels = json!({ "events_default": 50 });
    let id = text(&delay(&frida, &room, "later", 10_000).await.ok()["delay_id"]);
    let before = alice.state(&room, "m.room.power_levels").await;
    alice.set_state(&room, "m.room.power_levels", levels).await;
    decide(&server, &id, "send").await.refused(403, "M_FORBIDDEN");
    alice.set_state(&room, "m.room.power_levels", before).await;
    pass(&server, 10_000).await;
    assert_eq!(alice.bodies(&room).await, [frida.user.as_str(), "later"]);
}

#[tokio::test]
async fn msc4140_what_fails_for_a_reason_that_may_pass_is_tried_again_for_an_hour() {
    let (server, alice, room) = call().await;
    let id = text(&delay(&alice, &room, "patient", 10_000).await.ok()["delay_id"]);
    let since = told(&alice, &id).await["delayed_since_ts"].clone();
    // A policy server that cannot be asked.
    let policy = json!({ "via": "example.org", "public_keys": { "ed25519": "A".repeat(43) } });
    alice.set_state(&room, "m.room.policy", policy.clone()).await;
    for _ in 0..2 {
        pass(&server, 10_000).await;
        let waiting = told(&alice, &id).await;
        assert!(waiting.get("finalised").is_none(), "{waiting}");
        assert_eq!(waiting["delayed_since_ts"], since);
    }
    alice.set_state(&room, "m.room.policy", json!({})).await;
    pass(&server, 1_000).await;
    assert!(alice.bodies(&room).await.is_empty(), "not more often than every ten seconds");
    pass(&server, 9_000).await;
    assert_eq!(alice.bodies(&room).await, ["patient"]);

    alice.set_state(&room, "m.room.policy", policy).await;
    let id = text(&delay(&alice, &room, "vain", 10_000).await.ok()["delay_id"]);
    pass(&server, 10_000).await;
    pass(&server, 3_600_000).await;
    let told = told(&alice, &id).await;
    assert_eq!(told["finalised"]["error"]["errcode"], "M_UNKNOWN", "{told}");
}

#[tokio::test]
async fn msc4140_a_deactivated_user_leaves_nothing_scheduled() {
    let (server, alice, room) = call().await;
    let id = text(&delay(&alice, &room, "never", 10_000).await.ok()["delay_id"]);
    server.state.users.deactivate(&alice.id(), true).await.unwrap();
    client_api::account::jobs::leave_rooms(&server.state.users, &server.state.rooms, &alice.id()).await.unwrap();
    assert_eq!(server.state.rooms.delayed(&id).await.unwrap(), None);
    assert!(server.state.rooms.scheduled(&alice.id()).await.unwrap().is_empty());
}

#[tokio::test]
async fn msc4140_redactions_and_memberships_can_wait_too() {
    let (server, alice, room) = call().await;
    let bob = server.register("bob").await;
    bob.join(&room).await;
    let secret = alice.say(&room, "for a minute").await;
    let redaction = format!("/rooms/{room}/send/m.room.redaction/r?org.matrix.msc4140.delay=60000");
    alice.put(&redaction, json!({ "redacts": secret })).await.ok();
    let unban =
        |user: &str| format!("/rooms/{room}/state/m.room.member/{}?org.matrix.msc4140.delay=60000", encoded(user));
    let kick = text(&alice.put(&unban(&bob.user), json!({ "membership": "leave" })).await.ok()["delay_id"]);
    let carol = server.register("carol").await;
    let invite = text(&alice.put(&unban(&carol.user), json!({ "membership": "invite" })).await.ok()["delay_id"]);
    pass(&server, 60_000).await;
    assert!(alice.bodies(&room).await.is_empty());
    for (id, user, membership) in [(kick, &bob.user, "leave"), (invite, &carol.user, "invite")] {
        let content = alice.get(&format!("/rooms/{room}/state/m.room.member/{}", encoded(user))).await.ok();
        assert_eq!(content["membership"], membership);
        assert!(told(&alice, &id).await["finalised"]["event_id"].is_string());
    }
    assert!(server.state.rooms.due(10).await.unwrap().is_empty());
}

/// What was read as due may be sent by another node, cancelled or restarted before it is sent: it is sent once, or not.
#[tokio::test]
async fn msc4140_an_event_is_sent_once_whoever_tries_and_whatever_happens_in_between() {
    let (server, alice, room) = call().await;
    for txn in ["sent", "cancelled", "restarted"] {
        delay(&alice, &room, txn, 10_000).await.ok();
    }
    server.clock.advance(10_000);
    let rooms = &server.state.rooms;
    let due = rooms.due(10).await.unwrap();
    let [sent, cancelled, restarted] = due.as_slice() else { panic!("three are due: {due:?}") };
    let as_event = |delayed: &rooms::Delayed| NewEvent {
        delayed: Some(Box::new(delayed.clone())),
        ..NewEvent::message(&alice.id(), "m.room.message", delayed.content().unwrap())
    };
    let first = rooms.send(&room, as_event(sent)).await.unwrap();
    rooms.cancel(cancelled.clone()).await.unwrap();
    rooms.restart(restarted.clone()).await.unwrap();

    assert_eq!(rooms.send(&room, as_event(sent)).await.unwrap(), first, "the event that it became");
    assert!(matches!(rooms.send(&room, as_event(cancelled)).await, Err(rooms::Error::NotFound(_))));
    assert!(matches!(rooms.send(&room, as_event(restarted)).await, Err(rooms::Error::Busy)));
    assert_eq!(alice.bodies(&room).await, ["sent"]);
    pass(&server, 10_000).await;
    assert_eq!(alice.bodies(&room).await, ["sent", "restarted"]);

    // Both at the same time.
    delay(&alice, &room, "raced", 10_000).await.ok();
    server.clock.advance(10_000);
    let due = rooms.due(10).await.unwrap();
    let (one, other) = tokio::join!(rooms.send(&room, as_event(&due[0])), rooms.send(&room, as_event(&due[0])));
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(alice.bodies(&room).await, ["sent", "restarted", "raced"]);
}

#[tokio::test]
async fn msc4140_what_became_of_events_is_forgotten_after_a_week() {
    let (server, alice, room) = call().await;
    let old = text(&delay(&alice, &room, "old", 1_000).await.ok()["delay_id"]);
    pass(&server, 1_000).await;
    server.clock.advance(6 * 86_400_000);
    let new = text(&delay(&alice, &room, "new", 1_000).await.ok()["delay_id"]);
    pass(&server, 1_000).await;
    let waiting = text(&delay(&alice, &room, "waiting", 86_400_000).await.ok()["delay_id"]);
    server.clock.advance(2 * 86_400_000);
    server.state.rooms.prune_delayed().await.unwrap();
    alice.get(&format!("{STABLE}/{old}")).await.refused(404, "M_NOT_FOUND");
    assert!(told(&alice, &new).await["finalised"]["event_id"].is_string());
    assert!(told(&alice, &waiting).await.get("finalised").is_none());
}

/// A request that was given up may have scheduled an event all the same, of which this process was not told.
#[tokio::test]
async fn msc4140_what_was_scheduled_unnoticed_is_sent_a_little_later() {
    let (server, alice, room) = call().await;
    let known = text(&delay(&alice, &room, "later", 3_600_000).await.ok()["delay_id"]);
    pass(&server, 1).await;
    let known = server.state.rooms.delayed(&known).await.unwrap().unwrap();
    let (delay_id, now_ms) = ("unnoticed".to_owned(), server.state.clock.now_ms());
    let mut batch = CommitBatch::new();
    batch.put(DelayRow { delay_id: delay_id.clone(), due_ms: now_ms + 1_000, ..known.timer.unwrap() });
    let content = json!({ "msgtype": "m.text", "body": "unnoticed" }).to_string();
    batch.put(DelayedEventRow { delay_id, content, ..known.row });
    server.state.store.commit(batch).await.unwrap();
    pass(&server, 31_000).await;
    assert_eq!(alice.bodies(&room).await, ["unnoticed"]);
}

/// Of what has become of a user's events only so much is kept, and of what was sent not the content: that stands in the
/// event, where it can be redacted.
#[tokio::test]
async fn msc4140_what_is_remembered_of_finalised_events_is_bounded() {
    let (server, alice, room) = call().await;
    let sent = text(&delay(&alice, &room, "sent", 1_000).await.ok()["delay_id"]);
    assert_eq!(told(&alice, &sent).await["content"]["body"], "sent");
    pass(&server, 1_000).await;
    assert_eq!(told(&alice, &sent).await["content"], json!({}));
    for n in 0..101 {
        let id = text(&delay(&alice, &room, &format!("more{n}"), 1_000).await.ok()["delay_id"]);
        decide(&server, &id, "cancel").await.ok();
        server.clock.advance(1);
    }
    let last = text(&delay(&alice, &room, "last", 1_000).await.ok()["delay_id"]);
    alice.get(&format!("{STABLE}/{sent}")).await.refused(404, "M_NOT_FOUND");
    assert!(told(&alice, &last).await.get("finalised").is_none());
}

/// A server at whose door of these classes so much is allowed at once.
fn limited(server: &Server, rates: &[(RateClass, f64)]) -> State {
    let rate = |burst| Rate { per_second: 0.001, burst };
    let rates = rates.iter().map(|(class, burst)| (*class, rate(*burst))).collect();
    let options = Options { rate_limits: RateLimits { enabled: true, rates }, ..Options::default() };
    let sessions = Arc::clone(&server.state.door.sessions);
    State { door: Arc::new(Door::new(sessions, server.state.clock.clone(), options)), ..server.state.clone() }
}

#[tokio::test]
async fn msc4140_heart_beats_have_a_budget_of_their_own() {
    let (server, alice, room) = call().await;
    let id = text(&delay(&alice, &room, "one", 10_000).await.ok()["delay_id"]);
    let state =
        limited(&server, &[(RateClass::DelayedEvents, 3.0), (RateClass::Messages, 1.0), (RateClass::Requests, 2.0)]);
    let limited = server.with_state(state.clone());
    let (alice, nobody) = (limited.again(&alice), limited.again(&server.nobody()));
    let restart = format!("{UNSTABLE}/{id}/restart");
    alice.post(&restart, json!({})).await.ok();
    nobody.post(&restart, json!({})).await.ok();
    alice.post(&restart, json!({})).await.ok();
    let refused = nobody.post(&restart, json!({})).await;
    assert!(refused.headers.contains_key("retry-after"));
    refused.refused(429, "M_LIMIT_EXCEEDED");
    // Messages go on: of these one is allowed, and what is due then fails for good.
    alice.say(&room, "now").await;
    server.clock.advance(10_000);
    send_due(&state).await.unwrap();
    let told = state.rooms.delayed(&id).await.unwrap().unwrap();
    assert!(told.timer.is_none() && told.row.error.unwrap().contains("M_LIMIT_EXCEEDED"));
    // Who guesses ids may do so twice.
    for status in [404, 404, 429] {
        let answer = nobody.request(Method::POST, &format!("{UNSTABLE}/guess/restart"), "").await;
        assert_eq!(answer.status, status);
    }
}
