//! The answer per event, repetition, ACLs, poison.

use event::Json;
use futures_util::future::join_all;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Peer, Sketch, World, id, object, value};

#[tokio::test]
async fn fe1_a_transaction_is_answered_per_event_and_taken_into_the_room() {
    for version in ["1", "3", "5", "6", "10", "12"] {
        let world = World::new().await;
        let room = world.room(version).await;
        let two = Peer::new("two.test");
        two.join(&world, &room, "bob").await;
        let good = two.message(&world, &room, "bob", "hello").await;
        let mut forged = value(&two.message(&world, &room, "bob", "forged").await);
        forged["signatures"] = json!({ "two.test": { two.key.key_id(): "AAAA" } });
        let mut text = value(&good);
        text["unsigned"] = json!({ "age": 5, "made": "up" });
        let body = json!({ "pdus": [forged, text, 5, { "room_id": room.id }], "edus": [] });
        let (status, answer) = two.ask(&world, Method::PUT, "/_matrix/federation/v1/send/t1", Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{version}: {answer}");
        assert_eq!(answer["pdus"][id(&good)], json!({}), "{version}: {answer}");
        let errors = answer["pdus"].as_object().unwrap().values().filter(|one| one.get("error").is_some()).count();
        assert!(errors >= 1, "{version}: {answer}");
        assert_eq!(world.fate(&room, &id(&good)).await.as_deref(), Some("unknown"), "it is in the queue");
        world.federation.receive_due().await;
        assert_eq!(world.fate(&room, &id(&good)).await, None, "{version}");
        let room = world.now(&room).await;
        let stored = world.rooms.event_by_id(&room, &id(&good)).await.unwrap().unwrap();
        assert!(stored.pdu.unsigned.is_none(), "nothing vouches for it");
        assert_eq!(*world.heard.lock(), vec!["two.test"]);
    }
}

#[tokio::test]
async fn fe1_the_same_transaction_gets_the_same_answer() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let message = two.message(&world, &room, "bob", "hello").await;
    let mut forged = value(&message);
    forged["content"]["body"] = json!("changed");
    forged["signatures"] = json!({});
    let first = two.transact(&world, "t1", &[&message], &[]).await;
    // What the repetition holds does not matter: it is answered from memory, also in another life.
    let again = two.transact(&world, "t1", &[], &[]).await;
    assert_eq!(first, again);
    assert_eq!(first[id(&message)], json!({}));
    let world = world.restarted().await;
    assert_eq!(two.transact(&world, "t1", &[], &[]).await, first);
    assert_eq!(Peer::new("three.test").transact(&world, "t1", &[], &[]).await, json!({}), "ids are the sender's own");
    world.federation.receive_due().await;
    assert_eq!(world.fate(&room, &id(&message)).await, None, "the queue outlives the process");
}

#[tokio::test]
async fn fe1_concurrent_duplicates_are_one() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let alice = world.register("alice").await;
    world.users.login(&alice, users::login::NewDevice::default()).await.unwrap();
    let edu = json!({ "edu_type": "m.direct_to_device", "content": {
        "sender": two.user("bob"), "type": "m.test", "message_id": "m1", "messages": { alice.as_str(): { "*": {} } } } });
    let message = two.message(&world, &room, "bob", "hello").await;
    let edus = [edu];
    let pdus = [&message];
    let all = join_all((0..4).map(|_| two.transact(&world, "t1", &pdus, &edus))).await;
    assert!(all.iter().all(|answer| *answer == all[0]), "{all:?}");
    world.federation.receive_due().await;
    assert_eq!(world.fate(&room, &id(&message)).await, None);
}

#[tokio::test]
async fn fe7_an_event_that_comes_again_is_processed_once() {
    let world = World::new().await;
    let room = world.room("10").await;
    let (two, three) = (Peer::new("two.test"), Peer::new("three.test"));
    two.join(&world, &room, "bob").await;
    three.join(&world, &room, "carol").await;
    let message = two.message(&world, &room, "bob", "hello").await;
    two.transact(&world, "t1", &[&message], &[]).await;
    three.transact(&world, "t1", &[&message, &message], &[]).await;
    world.federation.receive_due().await;
    three.transact(&world, "t2", &[&message], &[]).await;
    world.federation.receive_due().await;
    let room = world.now(&room).await;
    let newest = world.rooms.newest(&room, store::StreamPosition::ZERO, world.store.watermark(), 100).await.unwrap();
    assert_eq!(newest.iter().filter(|event| event.id().as_str() == id(&message)).count(), 1);
}

#[tokio::test]
async fn fa9_fa10_a_banned_server_is_not_heard_per_event() {
    let world = World::new().await;
    let (room, open) = (world.room("10").await, world.room("10").await);
    let evil = Peer::new("evil.test");
    evil.join(&world, &room, "mallory").await;
    evil.join(&world, &open, "mallory").await;
    world.set(&room, "m.room.server_acl", json!({ "allow": ["*"], "deny": ["EVIL.*"] })).await;
    let refused = evil.message(&world, &room, "mallory", "one").await;
    let heard = evil.message(&world, &open, "mallory", "two").await;
    let answer = evil.transact(&world, "t1", &[&refused, &heard], &[]).await;
    assert!(answer[id(&refused)]["error"].as_str().unwrap().contains("banned"), "{answer}");
    assert_eq!(answer[id(&heard)], json!({}));
    world.federation.receive_due().await;
    assert_eq!(world.fate(&room, &id(&refused)).await.as_deref(), Some("unknown"));
    assert_eq!(world.fate(&open, &id(&heard)).await, None);
    // A server that is heard may hand on what a banned one said: the ACL is about who speaks.
    let two = Peer::new("two.test");
    let answer = two.transact(&world, "t1", &[&refused], &[]).await;
    assert_eq!(answer[id(&refused)], json!({}));
}

#[tokio::test]
async fn fa10_an_acl_that_is_nonsense_crashes_nothing() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    for acl in [json!({}), json!({ "allow": 5 }), json!({ "allow": [5, null, {}], "deny": "x" })] {
        world.set(&room, "m.room.server_acl", acl.clone()).await;
        let message = two.message(&world, &room, "bob", "hello").await;
        let answer = two
            .transact(&world, &format!("t{acl}").replace(['{', '}', '"', '/', '[', ']'], ""), &[&message], &[])
            .await;
        assert!(answer[id(&message)]["error"].is_string(), "nobody is allowed by {acl}: {answer}");
        world.say(&room, "we still speak").await;
    }
}

#[tokio::test]
async fn fe2_what_fails_the_checks_is_dropped_redacted_or_rejected() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    // Another content than the hash says: redacted.
    let changed = two.message(&world, &room, "bob", "original").await;
    let mut text = value(&changed);
    text["content"]["body"] = json!("changed");
    // Without the power for it: rejected.
    let bob = two.user("bob");
    let name = Sketch { sender: &bob, kind: "m.room.name", state_key: Some(""), content: json!({ "name": "Bob's" }) };
    let name = two.event(&world, &room, name).await;
    let body = json!({ "pdus": [text, value(&name)] });
    let (_, answer) = two.ask(&world, Method::PUT, "/_matrix/federation/v1/send/t1", Some(body)).await;
    assert_eq!(answer["pdus"], json!({ id(&changed): {}, id(&name): {} }));
    world.federation.receive_due().await;
    let now = world.now(&room).await;
    let stored = world.rooms.event_by_id(&now, &id(&changed)).await.unwrap().unwrap();
    assert!(stored.pdu.content.is_empty(), "{:?}", stored.pdu.content);
    let reason = world.fate(&room, &id(&name)).await.unwrap();
    assert_ne!(reason, "unknown");
}

/// SEC-poison-events.
#[tokio::test]
async fn fe1_poison_harms_only_itself() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let good = two.message(&world, &room, "bob", "good").await;
    let poison = |change: &dyn Fn(&mut Value)| {
        let mut event = value(&good);
        change(&mut event);
        event
    };
    let pdus = vec![
        poison(&|event| event["depth"] = json!(9_007_199_254_740_992_i64)),
        poison(&|event| event["depth"] = json!(-1)),
        poison(&|event| event["prev_events"] = json!("no list")),
        poison(&|event| event["auth_events"] = json!(vec!["$x"; 11])),
        poison(&|event| event["sender"] = json!("nobody")),
        poison(&|event| event["type"] = json!("x".repeat(300))),
        poison(&|event| event["content"] = json!("x".repeat(70_000))),
        poison(&|event| event["room_id"] = json!("!unknown:two.test")),
        poison(&|event| event["room_id"] = json!(7)),
        poison(&|event| event["signatures"] = json!([])),
        poison(&|event| event["hashes"] = json!(null)),
        poison(&|event| event["origin_server_ts"] = json!("now")),
        json!(null),
        json!([]),
        json!({}),
        value(&good),
    ];
    let edus = json!([null, 5, {}, { "edu_type": 5 }, { "edu_type": "m.typing", "content": [] },
        { "edu_type": "m.unknown", "content": {} }]);
    let body = json!({ "pdus": pdus, "edus": edus });
    let (status, answer) = two.ask(&world, Method::PUT, "/_matrix/federation/v1/send/t1", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["pdus"][id(&good)], json!({}), "{answer}");
    world.federation.receive_due().await;
    assert_eq!(world.fate(&room, &id(&good)).await, None);
    assert!(world.federation.prune().await.is_ok());
}

#[tokio::test]
async fn a_transaction_has_bounds() {
    let world = World::new().await;
    let two = Peer::new("two.test");
    let send = async |txn_id: &str, body: Value| {
        two.ask(&world, Method::PUT, &format!("/_matrix/federation/v1/send/{txn_id}"), Some(body)).await
    };
    let (status, answer) = send("t1", json!({ "pdus": vec![json!({}); 51] })).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_BAD_JSON")));
    let (status, _) = send("t1", json!({ "edus": vec![json!({}); 101] })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, _) = send("t1", json!({ "pdus": {} })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, _) = send(&"t".repeat(256), json!({})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, answer) = send("t1", json!({ "pdus": null })).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({ "pdus": {} })), "what was refused is not remembered");
}

#[tokio::test]
async fn fe13_events_of_rooms_that_are_not_known_here_are_passed_over() {
    let world = World::new().await;
    let two = Peer::new("two.test");
    let message = two.build(
        &world,
        event::Rules::of("10").unwrap(),
        "!elsewhere:two.test",
        Sketch::message(&two.user("bob"), "hello"),
        vec![],
        vec![],
        1,
    );
    assert_eq!(two.transact(&world, "t1", &[&message], &[]).await, json!({}));
    world.federation.receive_due().await;
    assert!(world.rooms.room("!elsewhere:two.test").await.unwrap().is_none());
}

#[tokio::test]
async fn fj12_a_room_that_all_have_left_takes_no_events() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let message = two.message(&world, &room, "bob", "hello").await;
    world.rooms.leave(&room.id, &crate::harness::user("alice"), None).await.unwrap();
    let answer = two.transact(&world, "t1", &[&message], &[]).await;
    assert!(answer[id(&message)]["error"].is_string(), "{answer}");
    world.federation.receive_due().await;
    assert_eq!(world.fate(&room, &id(&message)).await.as_deref(), Some("unknown"));
    assert_eq!(world.federation.dropped(&room.id, &id(&message)).await.unwrap(), None, "nothing is kept of it");
}

#[test]
fn the_canonical_form_keeps_what_is_signed() {
    let text = object(json!({ "b": 1, "a": { "d": [1, 2], "c": "é" } }));
    assert_eq!(Json::Object(text).to_canonical_string(), "{\"a\":{\"c\":\"é\",\"d\":[1,2]},\"b\":1}");
}
