//! Sticky events (MSC4354): they reach everybody in the room until they expire.

use event::Template;
use rooms::Accepted;
use serde_json::{Value, json};
use store::Clock as _;
use testkit::{Answer, Client, SERVER, Server, each, encoded, list, next_batch, signing_key, text};

const SLIDING: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
const EXTENSION: &str = "org.matrix.msc4354.sticky_events";
const HOUR_MS: i64 = 3_600_000;

/// Sends a sticky event, whose body is its transaction id.
async fn stick(client: &Client, room: &str, txn: &str, duration_ms: i64) -> Answer {
    let query = format!("org.matrix.msc4354.sticky_duration_ms={duration_ms}");
    let path = format!("/rooms/{room}/send/org.example.member/{txn}?{query}");
    client.put(&path, json!({ "body": txn })).await
}

/// The bodies of a room's sticky events in a sync, outside its timeline.
fn sticky(answer: &Value, room: &str) -> Vec<String> {
    let events = answer["rooms"]["join"][room]["msc4354_sticky"]["events"].as_array().cloned().unwrap_or_default();
    events.iter().map(|event| text(&event["content"]["body"])).collect()
}

/// So many messages that nothing before them is in a timeline of the usual length.
async fn fill(client: &Client, room: &str) {
    for n in 0..12 {
        client.say(room, &format!("message {n}")).await;
    }
}

#[tokio::test]
async fn msc4354_a_sticky_event_says_so_and_for_how_long() {
    let server = Server::new().await;
    server.state.rooms.prune_sticky().await.unwrap();
    let features = server.nobody().get("/_matrix/client/versions").await.ok()["unstable_features"].clone();
    assert_eq!(features["org.matrix.msc4354"], true);
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    stick(&alice, &room, "here", 600_000).await.ok();
    server.clock.advance(60_000);
    let answer = alice.sync("").await;
    let event = list(&answer["rooms"]["join"][&room]["timeline"]["events"]).pop().unwrap();
    assert_eq!(event["msc4354_sticky"], json!({ "duration_ms": 600_000 }));
    let left_ms = event["unsigned"]["msc4354_sticky_duration_ttl_ms"].as_i64().unwrap();
    assert!((530_000..=540_000).contains(&left_ms), "{left_ms}");
    assert!(sticky(&answer, &room).is_empty(), "the timeline has it");
    server.clock.advance(HOUR_MS);
    let event = alice.timeline(&room).await.pop().unwrap();
    assert!(event["unsigned"].get("msc4354_sticky_duration_ttl_ms").is_none(), "{event}");
    for wrong in [-1, HOUR_MS + 1] {
        stick(&alice, &room, "wrong", wrong).await.refused(400, "M_INVALID_PARAM");
    }
    stick(&alice, &room, "words", 1).await.ok();
    let state = format!("/rooms/{room}/state/org.example/?org.matrix.msc4354.sticky_duration_ms=1000");
    alice.put(&state, json!({})).await.ok();
    assert_eq!(alice.timeline(&room).await.pop().unwrap()["msc4354_sticky"]["duration_ms"], 1_000);
}

#[tokio::test]
async fn msc4354_a_sticky_event_reaches_everybody_once_whatever_else_happens() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    let since = next_batch(&bob.sync("").await);
    stick(&alice, &room, "one", HOUR_MS).await.ok();
    stick(&alice, &room, "two", 60_000).await.ok();
    fill(&alice, &room).await;
    let answer = bob.sync(&since).await;
    assert_eq!(sticky(&answer, &room), ["one", "two"]);
    let events = &answer["rooms"]["join"][&room]["msc4354_sticky"]["events"];
    assert!(events[0]["unsigned"]["msc4354_sticky_duration_ttl_ms"].as_i64().unwrap() > HOUR_MS - 60_000);
    assert!(sticky(&bob.sync(&next_batch(&answer)).await, &room).is_empty(), "once");
    assert_eq!(sticky(&bob.sync("").await, &room), ["one", "two"], "who begins anew gets all");
    server.clock.advance(60_000);
    assert_eq!(sticky(&bob.sync("").await, &room), ["one"]);
    server.clock.advance(HOUR_MS);
    assert!(sticky(&bob.sync("").await, &room).is_empty());
    server.state.rooms.prune_sticky().await.unwrap();
    assert!(!server.state.rooms.may_have_sticky(), "nothing is looked for");
    stick(&alice, &room, "three", HOUR_MS).await.ok();
    fill(&alice, &room).await;
    assert_eq!(sticky(&bob.sync(&next_batch(&answer)).await, &room), ["three"]);
}

#[tokio::test]
async fn msc4354_who_joins_gets_what_is_sticky_whatever_history_shows() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    alice.set_state(&room, "m.room.history_visibility", json!({ "history_visibility": "joined" })).await;
    stick(&alice, &room, "here", HOUR_MS).await.ok();
    let since = next_batch(&bob.sync("").await);
    bob.join(&room).await;
    let answer = bob.sync(&since).await;
    assert_eq!(sticky(&answer, &room), ["here"]);
    assert!(!answer["rooms"]["join"][&room]["timeline"].to_string().contains("org.example.member"));
    // Who is not in the room gets nothing more.
    bob.leave(&room).await;
    stick(&alice, &room, "gone", HOUR_MS).await.ok();
    let left = bob.sync(&next_batch(&answer)).await;
    assert!(!left.to_string().contains("gone"), "{left}");
    bob.join(&room).await;
    assert_eq!(sticky(&bob.sync(&next_batch(&left)).await, &room), ["here", "gone"]);
}

#[tokio::test]
async fn msc4354_filters_do_not_hold_and_redactions_and_ignored_users_do() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    let room = alice.public_room().await;
    for client in [&bob, &carol] {
        client.join(&room).await;
    }
    let since = next_batch(&bob.sync("").await);
    let redacted = text(&stick(&alice, &room, "redacted", HOUR_MS).await.ok()["event_id"]);
    stick(&alice, &room, "kept", HOUR_MS).await.ok();
    stick(&carol, &room, "ignored", HOUR_MS).await.ok();
    alice.put(&format!("/rooms/{room}/redact/{redacted}/r"), json!({})).await.ok();
    let list = json!({ "ignored_users": { carol.user.clone(): {} } });
    let path = format!("/user/{}/account_data/m.ignored_user_list", bob.user);
    bob.put(&path, list).await.ok();
    let filter = encoded(&json!({ "room": { "timeline": { "types": ["m.room.message"] } } }).to_string());
    let answer = bob.sync_with(&format!("timeout=0&since={since}&filter={filter}")).await;
    assert_eq!(sticky(&answer, &room), ["kept"]);
}

#[tokio::test]
async fn msc4354_a_delayed_event_can_be_sticky_from_when_it_is_sent() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    let query = "org.matrix.msc4140.delay=10000&org.matrix.msc4354.sticky_duration_ms=60000";
    let path = format!("/rooms/{room}/send/org.example.member/t?{query}");
    alice.put(&path, json!({ "body": "leave" })).await.ok();
    server.clock.advance(50_000);
    client_api::room::delayed_events::send_due(&server.state).await.unwrap();
    let event = alice.timeline(&room).await.pop().unwrap();
    assert_eq!(event["msc4354_sticky"]["duration_ms"], 60_000);
    assert!(event["unsigned"]["msc4354_sticky_duration_ttl_ms"].as_i64().unwrap() > 50_000);
}

/// An event that its sender's server built before the sender was kicked, and that comes afterwards.
async fn overtaken(by: &Client, room: &str, before: &str, now_ms: i64) -> Accepted {
    let rooms = &by.state.rooms;
    let held = rooms.room(room).await.unwrap().unwrap();
    let prev = rooms.event_by_id(&held, before).await.unwrap().unwrap();
    let pairs = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", by.user.as_str())];
    let pairs = pairs.map(|(kind, key)| (kind.to_owned(), key.to_owned()));
    let state = rooms.state_map(&held, None, prev.state_after().unwrap(), &pairs).await.unwrap();
    let template = Template {
        room_id: Some(room.try_into().unwrap()),
        sender: by.user.clone(),
        kind: "org.example.member".to_owned(),
        content: event::Object::from([("body".to_owned(), event::Json::String("overtaken".to_owned()))]),
        prev_events: vec![prev.id().clone()],
        auth_events: state.0.values().map(|event| event.id().clone()).collect(),
        depth: prev.row.depth + 1,
        origin_server_ts: now_ms,
        sticky_ms: Some(HOUR_MS),
        ..Template::default()
    };
    rooms.accept(event::build(held.rules, template, &signing_key(), SERVER).unwrap()).await.unwrap()
}

#[tokio::test]
async fn msc4354_clients_learn_of_what_was_soft_failed_when_its_sender_is_back() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    let room = alice.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
    for client in [&bob, &carol] {
        client.join(&room).await;
    }
    let before = alice.say(&room, "before").await;
    alice.post(&format!("/rooms/{room}/kick"), json!({ "user_id": carol.user })).await.ok();
    let accepted = overtaken(&carol, &room, &before, server.clock.now_ms()).await;
    assert!(matches!(&accepted, Accepted::Judged(event) if !event.shown()), "{accepted:?}");
    let start = bob.sync("").await;
    assert!(sticky(&start, &room).is_empty());
    let (pos, nothing) = slide(&bob, "", json!({ "enabled": true }), 1).await;
    assert!(nothing.is_null(), "{nothing}");
    carol.join(&room).await;
    assert_eq!(sticky(&bob.sync(&next_batch(&start)).await, &room), ["overtaken"]);
    let (_, extension) = slide(&bob, &pos, json!({ "enabled": true, "since": nothing["next_batch"] }), 1).await;
    assert_eq!(bodies(&extension, &room), ["overtaken"]);
}

/// One request of sliding sync with the extension; the answer's position and the extension.
async fn slide(client: &Client, pos: &str, extension: Value, timeline_limit: u64) -> (String, Value) {
    let list = json!({ "ranges": [[0, 9]], "timeline_limit": timeline_limit, "required_state": [] });
    let body = json!({ "lists": { "all": list }, "extensions": { EXTENSION: extension } });
    let path = if pos.is_empty() { format!("{SLIDING}?timeout=0") } else { format!("{SLIDING}?timeout=0&pos={pos}") };
    let answer = client.post(&path, body).await.ok();
    (text(&answer["pos"]), answer["extensions"][EXTENSION].clone())
}

fn bodies(extension: &Value, room: &str) -> Vec<String> {
    let events = extension["rooms"][room]["events"].as_array().cloned().unwrap_or_default();
    each(&events.iter().map(|event| event["content"].clone()).collect(), "body")
}

#[tokio::test]
async fn msc4354_msc4480_sliding_sync_brings_sticky_events_of_all_rooms_page_by_page() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let (one, other) = (alice.public_room().await, alice.public_room().await);
    bob.join(&one).await;
    for txn in ["a", "b", "c"] {
        stick(&alice, &one, txn, HOUR_MS).await.ok();
    }
    fill(&alice, &one).await;
    let (pos, first) = slide(&bob, "", json!({ "enabled": true, "limit": 2 }), 1).await;
    assert_eq!(bodies(&first, &one), ["a", "b"]);
    let since = |extension: &Value| json!({ "enabled": true, "since": extension["next_batch"] });
    let (pos, second) = slide(&bob, &pos, since(&first), 1).await;
    assert_eq!(bodies(&second, &one), ["c"]);
    let (pos, nothing) = slide(&bob, &pos, since(&second), 1).await;
    assert!(nothing.is_null(), "{nothing}");
    // What the timeline shows is not told twice.
    stick(&alice, &one, "shown", HOUR_MS).await.ok();
    let (pos, third) = slide(&bob, &pos, since(&second), 1).await;
    assert!(bodies(&third, &one).is_empty() && third["next_batch"].is_string(), "{third}");
    // All of a room that is joined, though it was sent before.
    stick(&alice, &other, "before", HOUR_MS).await.ok();
    fill(&alice, &other).await;
    let (pos, fourth) = slide(&bob, &pos, since(&third), 1).await;
    assert!(fourth.is_null(), "{fourth}");
    bob.join(&other).await;
    let (_, fifth) = slide(&bob, &pos, since(&third), 1).await;
    assert_eq!(bodies(&fifth, &other), ["before"]);
    let (_, off) = slide(&bob, "", json!({}), 1).await;
    assert!(off.is_null(), "{off}");
}
