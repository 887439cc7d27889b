//! Bytes that are no JSON, and JSON that is no event's (CVE-2020-26890, CVE-2025-30355; behaviours FE1, FE10, RV3).

use axum::body::Body;
use bytes::Bytes;
use event::Json;
use http::Method;
use rooms::Room;
use serde_json::{Value, json};

use super::{EVIL, GOOD, MISSING};
use crate::harness::{Answer, Peer, Sketch, World, encoded, id, object, value};

const SEND: &str = "/_matrix/federation/v1/send/";

/// An event with a content of any JSON, hashed and signed by its server, whatever the version says of it.
fn signed(peer: &Peer, room: &Room, model: &Value, content: &str) -> String {
    let mut event = object(model.clone());
    event.insert("content".to_owned(), Json::from_slice_shallow(content.as_bytes()).unwrap());
    event.remove("signatures");
    event.insert("hashes".to_owned(), Json::Object(event::Object::from([("sha256".to_owned(), hash(&event))])));
    let mut redacted = event::redact(room.rules, &event);
    redacted.remove("unsigned");
    peer.key.sign_json(&mut redacted, &peer.name);
    event.insert("signatures".to_owned(), redacted["signatures"].clone());
    serde_json::to_string(&Json::Object(event)).unwrap()
}

fn hash(event: &event::Object) -> Json {
    use base64::Engine as _;
    Json::from(base64::prelude::BASE64_STANDARD_NO_PAD.encode(event::content_hash(event)))
}

/// Sends a transaction whose body is given as text.
async fn send(world: &World, peer: &Peer, txn_id: &str, body: String) -> (u16, Value) {
    let path = format!("{SEND}{txn_id}");
    let content = Json::from_slice_shallow(body.as_bytes()).unwrap().as_object().unwrap().clone();
    let us = crate::harness::US;
    let canonical = event::canonical_json::to_bytes(&content);
    let header = federation::x_matrix::sign(&peer.key, &Method::PUT, &path, &peer.name, us, Some(&canonical)).header();
    let request = http::Request::builder().method(Method::PUT).uri(&path).header("authorization", header);
    // Numbers as they stand in the text.
    let bytes = serde_json::to_vec(&Json::Object(content)).unwrap();
    let (status, _, answer) = world.send(request.body(Body::from(bytes)).unwrap()).await;
    (status.as_u16(), serde_json::from_slice(&answer).unwrap_or_default())
}

/// Contents that strict canonical JSON refuses.
const LENIENT: &[&str] = &[
    r#"{"body":"x","n":1.5}"#,
    r#"{"body":"x","n":1e300}"#,
    r#"{"body":"x","n":-0}"#,
    r#"{"body":"x","n":1e3}"#,
    r#"{"body":"x","n":9007199254740992}"#,
    r#"{"body":"x","n":-9007199254740992}"#,
    r#"{"body":"x","n":123456789012345678901234567890}"#,
    r#"{"body":"x","deep":[[[{"n":0.1}]]]}"#,
];

/// SEC-json-strictness.
#[tokio::test]
async fn rv3_numbers_that_are_not_canonical_harm_only_their_event_and_only_from_version_6_on() {
    for (version, strict) in [("5", false), ("6", true), ("10", true), ("12", true)] {
        let world = World::new().await;
        let room = world.room(version).await;
        let two = Peer::new(GOOD);
        two.join(&world, &room, "bob").await;
        for (number, content) in LENIENT.iter().enumerate() {
            let model = two.message(&world, &room, "bob", "model").await;
            let bad = signed(&two, &room, &value(&model), content);
            let good = two.message(&world, &room, "bob", &format!("good {number}")).await;
            let body = format!(r#"{{"edus":[],"pdus":[{bad},{}]}}"#, value(&good));
            let (status, answer) = send(&world, &two, &format!("t{number}"), body).await;
            assert_eq!(status, 200, "{version} {content}: {answer}");
            assert_eq!(answer["pdus"][id(&good)], json!({}), "{version} {content}");
            let refused = answer["pdus"].as_object().unwrap().values().filter(|one| one["error"].is_string()).count();
            assert_eq!(refused == 1, strict, "{version} {content}: {answer}");
            world.federation.receive_due().await;
            assert_eq!(world.fate(&room, &id(&good)).await, None, "{version} {content}");
        }
        // And what was taken in can be told to others again.
        let now = world.now(&room).await;
        let from = now.head().extremities[0].id.clone();
        let path =
            format!("/_matrix/federation/v1/backfill/{}?v={}&limit=100", encoded(&room.id), encoded(from.as_str()));
        let (status, _) = two.get(&world, &path).await;
        assert_eq!(status, 200, "{version}");
    }
}

/// SEC-json-strictness.
#[tokio::test]
async fn fe1_bodies_that_are_no_json_are_refused() {
    let world = World::new().await;
    let evil = Peer::new(EVIL);
    let bodies: Vec<Vec<u8>> = vec![
        b"{".to_vec(),
        b"{\"pdus\":[]".to_vec(),
        b"{\"pdus\":[],}".to_vec(),
        b"{\"pdus\":NaN}".to_vec(),
        b"{\"pdus\":[Infinity]}".to_vec(),
        b"{\"pdus\":[],\"pdus\":[]}".to_vec(),
        b"{\"edus\":[{\"content\":{\"a\":1,\"a\":2}}]}".to_vec(),
        b"{\"x\":\"\\ud800\"}".to_vec(),
        b"{\"x\":\"\\ud800\\u0041\"}".to_vec(),
        b"{\"x\":\"\xff\"}".to_vec(),
        b"{\"x\":\"\xed\xa0\x80\"}".to_vec(),
        b"{\"x\":\"\0\"}".to_vec(),
        b"\xef\xbb\xbf{}".to_vec(),
        b"{\"x\":01}".to_vec(),
        b"{} {}".to_vec(),
        b"[".repeat(1_000_000),
        b"{\"x\":".repeat(1_000_000),
    ];
    for body in bodies {
        let request = evil.signed(&Method::PUT, &format!("{SEND}t1"), Some(&json!({})));
        let (head, _) = request.into_parts();
        let (status, _, answer) = world.send(http::Request::from_parts(head, Body::from(body.clone()))).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let beginning = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        assert_eq!((status.as_u16(), &answer["errcode"]), (400, &json!("M_NOT_JSON")), "{beginning}");
    }
}

/// A server that reads JSON more deeply nested than this one does hands on such an event in good faith, with others, and
/// would go on doing so for ever.
/// SEC-poison-events.
#[tokio::test]
async fn fe1_an_event_that_is_nested_too_deeply_harms_only_itself() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new(GOOD);
    two.join(&world, &room, "bob").await;
    for (number, depth) in [110, 130, 500, 900].into_iter().enumerate() {
        let model = two.message(&world, &room, "bob", "model").await;
        let content = format!("{{\"body\":\"x\",\"deep\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        let bad = signed(&two, &room, &value(&model), &content);
        let good = two.message(&world, &room, "bob", &format!("good {number}")).await;
        let body = format!(r#"{{"edus":[{{"edu_type":"m.x","content":{content}}}],"pdus":[{bad},{}]}}"#, value(&good));
        let (status, answer) = send(&world, &two, &format!("t{number}"), body).await;
        assert_eq!(status, 200, "{depth}: {answer}");
        assert_eq!(answer["pdus"][id(&good)], json!({}), "{depth}");
        let refused = answer["pdus"].as_object().unwrap().values().filter(|one| one["error"].is_string()).count();
        assert_eq!(refused, usize::from(depth > 120), "{depth}: {answer}");
        world.federation.receive_due().await;
        assert_eq!(world.fate(&room, &id(&good)).await, None, "{depth}");
    }
}

/// FE10: of an answer with events that this room version does not read, the others are taken.
/// SEC-json-strictness.
#[tokio::test]
async fn fe10_bad_events_of_an_answer_are_dropped_singly() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new(GOOD);
    two.join(&world, &room, "bob").await;
    let first = two.message(&world, &room, "bob", "first").await;
    let last = two.after(&world, room.rules, &first, Sketch::message(&two.user("bob"), "last"));
    let mut events: Vec<String> = LENIENT.iter().map(|content| signed(&two, &room, &value(&first), content)).collect();
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(500), "]".repeat(500));
    events.extend([deep, "{\"a\":1,\"a\":2}".to_owned(), "\"\\ud800\"".to_owned(), "{}".to_owned()]);
    events.push(value(&first).to_string());
    let answer = format!("{{\"events\":[{}]}}", events.join(","));
    world.net.react(GOOD, MISSING, Answer::Bytes(Bytes::from(answer)));
    two.transact(&world, "t1", &[&last], &[]).await;
    world.federation.receive_due().await;
    assert_eq!(world.fate(&room, &id(&last)).await, None);
}
