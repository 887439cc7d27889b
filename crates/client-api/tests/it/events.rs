//! Sending events and state, transactions, redactions.

use http::Method;
use serde_json::{Value, json};

use testkit::{Server, encoded, list, text};

#[tokio::test]
async fn cb5_numbers_that_canonical_json_has_not_are_refused() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    for (content, errcode) in [
        (r#"{"x":1.5}"#, "M_BAD_JSON"),
        (r#"{"x":1e3}"#, "M_BAD_JSON"),
        (r#"{"x":[{"y":9007199254740992}]}"#, "M_BAD_JSON"),
        (r#"{"x":-9007199254740992}"#, "M_BAD_JSON"),
        (r#"{"x":NaN}"#, "M_NOT_JSON"),
        (r#"{"x":"\ud800"}"#, "M_NOT_JSON"),
        (r#"{"x":1,"x":2}"#, "M_BAD_JSON"),
        ("[]", "M_BAD_JSON"),
        ("", "M_NOT_JSON"),
    ] {
        let path = format!("/rooms/{room}/send/m.room.message/1");
        alice.request(Method::PUT, &path, content).await.refused(400, errcode);
        let path = format!("/rooms/{room}/state/org.example.x");
        alice.request(Method::PUT, &path, content).await.refused(400, errcode);
    }
    let kept = alice.send(&room, "org.example.x", json!({ "x": 9_007_199_254_740_991_i64 })).await;
    let event = alice.get(&format!("/rooms/{room}/event/{kept}")).await.ok();
    assert_eq!(event["content"]["x"], 9_007_199_254_740_991_i64);
}

#[tokio::test]
async fn cb6_events_have_a_size() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    let body = |length: usize| json!({ "body": "x".repeat(length) });
    alice.try_send(&room, "m.room.message", body(66_000)).await.refused(413, "M_TOO_LARGE");
    // Small enough as content, too large with what federation adds.
    alice.try_send(&room, "m.room.message", body(65_400)).await.refused(413, "M_TOO_LARGE");
    alice.send(&room, "m.room.message", body(63_000)).await;
    alice.try_send(&room, &"x".repeat(256), json!({})).await.refused(413, "M_TOO_LARGE");
    alice.send(&room, &"x".repeat(255), json!({})).await;
    let path = |key: &str| format!("/rooms/{room}/state/org.example.x/{}", encoded(key));
    alice.put(&path(&"é".repeat(128)), json!({})).await.refused(413, "M_TOO_LARGE");
    alice.put(&path(&"é".repeat(127)), json!({})).await.ok();
}

#[tokio::test]
async fn cb7_a_transaction_is_carried_out_once() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    let path = format!("/rooms/{room}/send/m.room.message/t1");
    let (one, two) = tokio::join!(alice.put(&path, json!({ "body": "a" })), alice.put(&path, json!({ "body": "a" })));
    let first = one.ok();
    assert_eq!(first, two.ok());
    assert_eq!(alice.put(&path, json!({ "body": "other" })).await.ok(), first);
    // The same device after a new login, and after leaving the room.
    let again = server.login(&alice.user, &alice.device).await;
    assert_eq!(again.put(&path, json!({ "body": "a" })).await.ok(), first);
    let new = server.login(&alice.user, "NEW").await;
    assert_ne!(new.put(&path, json!({ "body": "b" })).await.ok(), first);
    assert_ne!(bob.put(&path, json!({ "body": "c" })).await.ok(), first);
    let other = format!("/rooms/{room}/send/m.room.other/t1");
    assert_ne!(again.put(&other, json!({ "body": "d" })).await.ok(), first);
    assert_eq!(again.bodies(&room).await, ["a", "b", "c", "d"]);
    again.leave(&room).await;
    assert_eq!(again.put(&path, json!({ "body": "a" })).await.ok(), first);
}

#[tokio::test]
async fn cb7_a_transaction_survives_a_refresh_of_the_token() {
    let server = Server::new().await;
    let body = json!({
        "username": "alice", "password": "x", "auth": { "type": "m.login.dummy" }, "refresh_token": true,
    });
    let made = server.nobody().post("/register", body).await.ok();
    let mut alice = server.nobody();
    alice.token = text(&made["access_token"]);
    let room = alice.public_room().await;
    let path = format!("/rooms/{room}/send/m.room.message/t1");
    let first = alice.put(&path, json!({ "body": "a" })).await.ok();
    let fresh = alice.post("/refresh", json!({ "refresh_token": made["refresh_token"] })).await.ok();
    assert_ne!(fresh["access_token"], made["access_token"]);
    alice.token = text(&fresh["access_token"]);
    assert_eq!(alice.put(&path, json!({ "body": "a" })).await.ok(), first);
    assert_eq!(alice.bodies(&room).await, ["a"]);
}

#[tokio::test]
async fn cb8_only_the_sending_device_sees_its_transaction_id() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    let other = server.login(&alice.user, "OTHER").await;
    let sent = alice.put(&format!("/rooms/{room}/send/m.room.message/t1"), json!({ "body": "a" })).await.ok();
    let id = text(&sent["event_id"]);
    for (client, expected) in [(&alice, json!("t1")), (&other, Value::Null), (&bob, Value::Null)] {
        let event = client.get(&format!("/rooms/{room}/event/{id}")).await.ok();
        assert_eq!(event["unsigned"]["transaction_id"], expected);
        let last = client.timeline(&room).await.pop().unwrap();
        assert_eq!((text(&last["event_id"]), &last["unsigned"]["transaction_id"]), (id.clone(), &expected));
        let sync = client.sync("").await;
        let events = list(&sync["rooms"]["join"][&room]["timeline"]["events"]);
        assert_eq!(events.last().unwrap()["unsigned"]["transaction_id"], expected);
    }
}

#[tokio::test]
async fn cb10_paths_are_decoded_once() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    for key in ["a/b", "#a", "a+b c", "%41", "ünï😀", "x@bob", "!x?y=1"] {
        for room in [&room, &encoded(&room)] {
            let path = format!("/rooms/{room}/state/org.example.x/{}", encoded(key));
            alice.put(&path, json!({ "key": key })).await.ok();
            assert_eq!(alice.get(&path).await.ok()["key"], key);
        }
    }
    let whole = list(&alice.get(&format!("/rooms/{room}/state")).await.ok());
    let keys: Vec<&str> = whole
        .iter()
        .filter(|event| event["type"] == "org.example.x")
        .map(|event| event["state_key"].as_str().unwrap())
        .collect();
    assert_eq!(keys.len(), 7, "{keys:?}");
    let path = format!("/rooms/{room}/state/org.example.empty");
    alice.put(&format!("{path}/"), json!({ "x": 1 })).await.ok();
    for path in [path.clone(), format!("{path}/")] {
        assert_eq!(alice.get(&path).await.ok(), json!({ "x": 1 }));
    }
    let event = alice.get(&format!("{path}?format=event")).await.ok();
    assert_eq!(
        (&event["state_key"], &event["content"], &event["room_id"]),
        (&json!(""), &json!({ "x": 1 }), &json!(room))
    );
    alice.get(&format!("{path}/other")).await.refused(404, "M_NOT_FOUND");
    alice.get(&format!("{path}?format=odd")).await.refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn cr15_redactions_take_effect_where_they_may() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    for version in ["1", "10", "11", "12"] {
        let room = alice.create_room(json!({ "preset": "public_chat", "room_version": version })).await;
        bob.join(&room).await;
        carol.join(&room).await;
        let target = bob.say(&room, "wrong").await;
        let reply = json!({ "body": "r", "m.relates_to": { "rel_type": "m.reference", "event_id": target } });
        let child = carol.send(&room, "m.room.message", reply).await;
        let redact = |event: &str, txn: &str| format!("/rooms/{room}/redact/{event}/{txn}");
        carol.put(&redact(&target, "1"), json!({})).await.refused(403, "M_FORBIDDEN");
        carol.put(&redact("$unknown", "2"), json!({})).await.refused(404, "M_NOT_FOUND");
        let redaction = alice.put(&redact(&target, "3"), json!({ "reason": "rude" })).await.ok();
        assert_eq!(alice.put(&redact(&target, "3"), json!({ "reason": "rude" })).await.ok(), redaction);
        let redaction = text(&redaction["event_id"]);
        let event = carol.get(&format!("/rooms/{room}/event/{target}")).await.ok();
        assert_eq!(event["content"], json!({}));
        let because = &event["unsigned"]["redacted_because"];
        assert_eq!((&because["event_id"], &because["content"]["reason"]), (&json!(redaction), &json!("rude")));
        for at in [&because["redacts"], &because["content"]["redacts"]] {
            assert_eq!(*at, target);
        }
        // The sender may redact an own event without power, and then it relates to nothing.
        let parent = alice.say(&room, "parent").await;
        let relation = json!({ "body": "c", "m.relates_to": { "rel_type": "m.reference", "event_id": parent } });
        let related = carol.send(&room, "m.room.message", relation).await;
        let relations = format!("/_matrix/client/v1/rooms/{room}/relations/{parent}");
        assert_eq!(list(&alice.get(&relations).await.ok()["chunk"]).len(), 1);
        carol.put(&redact(&related, "4"), json!({})).await.ok();
        assert_eq!(alice.get(&relations).await.ok()["chunk"], json!([]));
        let parent = alice.get(&format!("/rooms/{room}/event/{parent}")).await.ok();
        assert_eq!(parent["unsigned"]["m.relations"], Value::Null);
        carol.get(&format!("/rooms/{room}/event/{child}")).await.ok();
    }
}

#[tokio::test]
async fn cr29_redactions_by_the_way_of_send_have_their_target_at_its_place() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    for (version, top_level) in [("10", true), ("11", false)] {
        let room = alice.create_room(json!({ "room_version": version })).await;
        let target = alice.say(&room, "x").await;
        alice.try_send(&room, "m.room.redaction", json!({})).await.refused(400, "M_BAD_JSON");
        let redaction = alice.send(&room, "m.room.redaction", json!({ "redacts": target, "reason": "r" })).await;
        let stored = server.state.rooms.room(&room).await.unwrap().unwrap();
        let stored = server.state.rooms.event_by_id(&stored, &redaction).await.unwrap().unwrap();
        let stored: Value = serde_json::from_slice(&stored.pdu.bytes).unwrap();
        let expected = if top_level { (json!(target), Value::Null) } else { (Value::Null, json!(target)) };
        assert_eq!((stored["redacts"].clone(), stored["content"]["redacts"].clone()), expected);
        let event = alice.get(&format!("/rooms/{room}/event/{target}")).await.ok();
        assert_eq!(event["content"], json!({}));
    }
}

#[tokio::test]
async fn state_events_say_what_they_replace() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    let first = alice.set_state(&room, "m.room.name", json!({ "name": "a" })).await;
    let second = alice.set_state(&room, "m.room.name", json!({ "name": "b" })).await;
    let event = alice.get(&format!("/rooms/{room}/event/{second}")).await.ok();
    assert_eq!(event["unsigned"]["prev_content"], json!({ "name": "a" }));
    assert_eq!(event["unsigned"]["replaces_state"], first);
    alice.get("/rooms/nowhere/state").await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn answers_of_events_are_json_and_open_to_browsers() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    let event = alice.say(&room, "x").await;
    for path in ["state".to_owned(), "messages?dir=b".to_owned(), format!("event/{event}"), "state/a.b".to_owned()] {
        let answer = alice.get(&format!("/rooms/{room}/{path}")).await;
        assert_eq!(answer.headers["content-type"], "application/json", "{path}");
        assert_eq!(answer.headers["access-control-allow-origin"], "*", "{path}");
    }
}

#[tokio::test]
async fn what_is_redacted_is_gone_from_the_store_when_the_time_has_come() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    let event = alice.say(&room, "secret").await;
    alice.put(&format!("/rooms/{room}/redact/{event}/1"), json!({})).await.ok();
    assert_eq!(server.state.rooms.rewrite_redacted(10).await.unwrap(), 0);
    server.clock.advance(8 * 24 * 3_600 * 1_000);
    assert_eq!(server.state.rooms.rewrite_redacted(10).await.unwrap(), 1);
    let read = store::Read::prefix::<store::tables::rooms::EventBytesRow>(Vec::new());
    let rows: Vec<store::tables::rooms::EventBytesRow> = server.state.store.all(read).await.unwrap();
    assert!(!rows.iter().any(|row| String::from_utf8_lossy(&row.json).contains("secret")));
    assert_eq!(alice.get(&format!("/rooms/{room}/event/{event}")).await.ok()["content"], json!({}));
}

#[tokio::test]
async fn events_have_a_type() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    for path in [format!("/rooms/{room}/send//1"), format!("/rooms/{room}/state//key")] {
        let answer = alice.put(&path, json!({})).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
    }
}

/// Longer than what indexes take, and nothing that compresses.
fn long_text() -> String {
    let mut state = 1_u64;
    (0..4_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from_digit(u32::try_from(state >> 60).unwrap(), 16).unwrap()
        })
        .collect()
}

#[tokio::test]
async fn cb4_absurdly_long_names_are_refused_or_mean_nothing() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    let event = alice.say(&room, "hi").await;
    let long = long_text();
    let refused = [
        (format!("/rooms/{room}/send/m.room.message/{long}"), json!({ "body": "x", "msgtype": "m.text" })),
        (format!("/rooms/{room}/redact/{event}/{long}"), json!({})),
        (format!("/sendToDevice/m.x/{long}"), json!({ "messages": {} })),
        (format!("/sendToDevice/{long}/x"), json!({ "messages": {} })),
    ];
    for (path, body) in refused {
        alice.put(&path, body).await.refused(400, "M_INVALID_PARAM");
    }
    for keys in ["one_time_keys", "fallback_keys"] {
        let key = json!({ (keys): { (format!("{long}:A")): "AAAA" } });
        alice.post("/keys/upload", key).await.refused(400, "M_INVALID_PARAM");
    }
    // Relations to what no event is called are none.
    for relation in [json!({ "rel_type": long, "event_id": event }), json!({ "rel_type": "m.x", "event_id": long })] {
        alice.send(&room, "m.room.message", json!({ "body": "x", "m.relates_to": relation })).await;
    }
    let children = alice.get(&format!("/_matrix/client/v1/rooms/{room}/relations/{event}")).await.ok();
    assert_eq!(children["chunk"], json!([]));
}
