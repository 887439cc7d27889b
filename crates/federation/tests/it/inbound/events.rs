//! Questions about events: who may ask, and what is told (behaviours FA9, FE10, FE14, FE15).

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Peer, Sketch, World, encoded, id, user, value};

/// The routes about a room's events, with an event of it.
fn routes(room_id: &str, event_id: &str) -> Vec<(Method, String, Option<Value>)> {
    let (room, event) = (encoded(room_id), encoded(event_id));
    let get = |path: String| (Method::GET, format!("/_matrix/federation/v1/{path}"), None);
    let missing = json!({ "earliest_events": [], "latest_events": [event_id] });
    vec![
        get(format!("state/{room}?event_id={event}")),
        get(format!("state_ids/{room}?event_id={event}")),
        get(format!("event_auth/{room}/{event}")),
        get(format!("backfill/{room}?v={event}&limit=10")),
        get(format!("timestamp_to_event/{room}?ts=0&dir=f")),
        (Method::POST, format!("/_matrix/federation/v1/get_missing_events/{room}"), Some(missing)),
    ]
}

/// SEC-event-access.
#[tokio::test]
async fn fa9_only_servers_in_the_room_may_ask() {
    let world = World::new().await;
    let room = world.room("10").await;
    let (two, evil) = (Peer::new("two.test"), Peer::new("evil.test"));
    two.join(&world, &room, "bob").await;
    let message = world.say(&room, "secret").await;
    for (method, path, body) in routes(&room.id, message.as_str()) {
        let (status, answer) = two.ask(&world, method.clone(), &path, body.clone()).await;
        assert_eq!(status, 200, "{path}: {answer}");
        let refused = evil.ask(&world, method, &path, body).await;
        assert_eq!((refused.0.as_u16(), &refused.1["errcode"]), (403, &json!("M_FORBIDDEN")), "{path}");
    }
    // Neither the room's nor the event's existence can be told from the answers.
    for event_id in [message.as_str(), "$unknown"] {
        for room_id in [room.id.as_str(), "!unknown:one.test"] {
            for (method, path, body) in routes(room_id, event_id) {
                let (status, answer) = evil.ask(&world, method, &path, body).await;
                let expected = json!({ "errcode": "M_FORBIDDEN", "error": "Your server is not in this room." });
                assert_eq!((status.as_u16(), answer), (403, expected), "{path}");
            }
        }
    }
    let event = |event_id: &str| format!("/_matrix/federation/v1/event/{}", encoded(event_id));
    assert_eq!(two.get(&world, &event(message.as_str())).await.0, 200);
    assert_eq!(evil.get(&world, &event(message.as_str())).await, evil.get(&world, &event("$unknown")).await);
    world.set(&room, "m.room.server_acl", json!({ "allow": ["*"], "deny": ["two.test"] })).await;
    for (method, path, body) in routes(&room.id, message.as_str()) {
        assert_eq!(two.ask(&world, method, &path, body).await.0, 403, "by the ACL: {path}");
    }
}

/// SEC-former-residents: who has left, or was thrown out, gets no more; not even what it could see before.
#[tokio::test]
async fn fa9_a_server_that_has_left_may_not_ask() {
    let world = World::new().await;
    let room = world.room("10").await;
    let (two, evil) = (Peer::new("two.test"), Peer::new("evil.test"));
    two.join(&world, &room, "bob").await;
    evil.join(&world, &room, "mallory").await;
    let before = world.say(&room, "while they were here").await;
    for (method, path, body) in routes(&room.id, before.as_str()) {
        assert_eq!(evil.ask(&world, method, &path, body).await.0, 200, "{path}");
    }
    let bob = two.user("bob");
    let leave = two.event(&world, &room, Sketch::member(&bob, "leave")).await;
    two.transact(&world, "t1", &[&leave], &[]).await;
    world.federation.receive_due().await;
    world.rooms.ban(&room.id, &user("alice"), &evil.user("mallory").as_str().into(), None).await.unwrap();
    let after = world.say(&room, "secret").await;
    for peer in [&two, &evil] {
        for event_id in [&before, &after] {
            for (method, path, body) in routes(&room.id, event_id.as_str()) {
                let (status, answer) = peer.ask(&world, method, &path, body).await;
                assert_eq!(status, 403, "{} {path}: {answer}", peer.name);
            }
            let path = format!("/_matrix/federation/v1/event/{}", encoded(event_id.as_str()));
            let unknown = peer.get(&world, "/_matrix/federation/v1/event/%24unknown").await;
            assert_eq!(peer.get(&world, &path).await, unknown, "{}", peer.name);
        }
    }
}

/// SEC-cross-room.
#[tokio::test]
async fn fe14_an_event_of_another_room_looks_like_none() {
    let world = World::new().await;
    let (room, other) = (world.room("10").await, world.room("10").await);
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let secret = world.say(&other, "secret").await;
    for ((method, path, body), (_, unknown, nothing)) in
        routes(&room.id, secret.as_str()).into_iter().zip(routes(&room.id, "$unknown"))
    {
        let of_other = two.ask(&world, method.clone(), &path, body).await;
        let of_none = two.ask(&world, method, &unknown, nothing).await;
        let timeless = |(status, mut answer): (http::StatusCode, Value)| {
            if answer.get("origin_server_ts").is_some() && answer.get("pdus").is_some() {
                answer["origin_server_ts"] = json!(0);
            }
            (status, answer)
        };
        assert_eq!(timeless(of_other), timeless(of_none), "{path}");
    }
}

#[tokio::test]
async fn fe15_state_is_that_before_the_event() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    let join = two.join(&world, &room, "bob").await;
    let name = world.set(&room, "m.room.name", json!({ "name": "x" })).await;
    let message = world.say(&room, "after").await;
    let ids = async |event_id: &str| {
        let path = format!("/_matrix/federation/v1/state_ids/{}?event_id={}", encoded(&room.id), encoded(event_id));
        let (status, answer) = two.get(&world, &path).await;
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let has = |answer: &Value, event_id: &str| answer["pdu_ids"].as_array().unwrap().contains(&json!(event_id));
    assert!(!has(&ids(&id(&join)).await, &id(&join)));
    assert!(has(&ids(name.as_str()).await, &id(&join)) && !has(&ids(name.as_str()).await, name.as_str()));
    let answer = ids(message.as_str()).await;
    assert!(has(&answer, name.as_str()));
    let path = format!("/_matrix/federation/v1/state/{}?event_id={}", encoded(&room.id), encoded(message.as_str()));
    let (_, whole) = two.get(&world, &path).await;
    assert_eq!(whole["pdus"].as_array().unwrap().len(), answer["pdu_ids"].as_array().unwrap().len());
    assert_eq!(whole["auth_chain"].as_array().unwrap().len(), answer["auth_chain_ids"].as_array().unwrap().len());
    assert!(!answer["auth_chain_ids"].as_array().unwrap().is_empty());
    for query in ["", "?event_id=$unknown"] {
        let path = format!("/_matrix/federation/v1/state_ids/{}{query}", encoded(&room.id));
        let (status, _) = two.get(&world, &path).await;
        assert_eq!(status.as_u16(), if query.is_empty() { 400 } else { 404 });
    }
}

#[tokio::test]
async fn fe10_fe15_backfill_and_missing_events() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let mut said = Vec::new();
    for n in 0..15 {
        said.push(world.say(&room, &n.to_string()).await);
    }
    let last = said.last().unwrap().as_str();
    let path = format!("/_matrix/federation/v1/backfill/{}?v={}&limit=3", encoded(&room.id), encoded(last));
    let (_, answer) = two.get(&world, &path).await;
    let bodies = |list: &Value| -> Vec<String> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|event| event["content"]["body"].as_str().unwrap_or("?").to_owned())
            .collect()
    };
    assert_eq!(bodies(&answer["pdus"]), ["14", "13", "12"], "the named event is among them");
    for query in ["?limit=3", "?v=$x", "?v=$x&limit=many"] {
        let path = format!("/_matrix/federation/v1/backfill/{}{query}", encoded(&room.id));
        assert_eq!(two.get(&world, &path).await.0, 400, "{query}");
    }
    let missing = async |body: Value| {
        let path = format!("/_matrix/federation/v1/get_missing_events/{}", encoded(&room.id));
        two.ask(&world, Method::POST, &path, Some(body)).await
    };
    let (_, answer) = missing(json!({ "earliest_events": [said[10]], "latest_events": [said[14]], "limit": 5 })).await;
    assert_eq!(bodies(&answer["events"]), ["11", "12", "13"]);
    let (_, answer) = missing(json!({ "earliest_events": [], "latest_events": [said[14]] })).await;
    assert_eq!(answer["events"].as_array().unwrap().len(), 10, "ten is the usual number");
    let (_, answer) = missing(json!({ "earliest_events": [], "latest_events": [said[14]], "limit": 1_000_000 })).await;
    assert!(answer["events"].as_array().unwrap().len() <= 50);
    assert_eq!(missing(json!({ "latest_events": 5 })).await.0, 400);
    assert_eq!(missing(json!({ "latest_events": vec!["$x"; 1_000] })).await.0, 400);
}

/// SEC-history-visibility.
#[tokio::test]
async fn fe10_history_is_pruned_for_servers_that_may_not_see_it() {
    let world = World::new().await;
    let room = world.room("10").await;
    world.set(&room, "m.room.history_visibility", json!({ "history_visibility": "joined" })).await;
    let secret = world.say(&room, "secret").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let open = world.say(&room, "open").await;
    let path = format!("/_matrix/federation/v1/backfill/{}?v={}&limit=10", encoded(&room.id), encoded(open.as_str()));
    let (_, answer) = two.get(&world, &path).await;
    let text = answer.to_string();
    assert!(text.contains("open") && !text.contains("secret"), "{text}");
    let (_, answer) = two.get(&world, &format!("/_matrix/federation/v1/event/{}", encoded(secret.as_str()))).await;
    assert_eq!(answer["pdus"][0]["content"], json!({}));
    assert_eq!(answer["origin"], "one.test");
    let path = format!("/_matrix/federation/v1/timestamp_to_event/{}?ts=0&dir=f", encoded(&room.id));
    let (status, answer) = two.get(&world, &path).await;
    assert_eq!(status, 200);
    assert_ne!(answer["event_id"], json!(secret));
    let path = format!("/_matrix/federation/v1/timestamp_to_event/{}?ts=9999999999999&dir=b", encoded(&room.id));
    assert_eq!(two.get(&world, &path).await.1["event_id"], json!(open));
    let path = format!("/_matrix/federation/v1/timestamp_to_event/{}?ts=0&dir=b", encoded(&room.id));
    assert_eq!(two.get(&world, &path).await.0, 404);
}

#[tokio::test]
async fn event_auth_is_the_whole_auth_chain() {
    for version in ["1", "6", "11", "12"] {
        let world = World::new().await;
        let room = world.room(version).await;
        let two = Peer::new("two.test");
        let join = two.join(&world, &room, "bob").await;
        let message = two.message(&world, &room, "bob", "hello").await;
        world.rooms.accept(message.clone()).await.unwrap();
        let path = format!("/_matrix/federation/v1/event_auth/{}/{}", encoded(&room.id), encoded(&id(&message)));
        let (status, answer) = two.get(&world, &path).await;
        assert_eq!(status, 200, "{version}: {answer}");
        let chain = answer["auth_chain"].as_array().unwrap();
        let has = |kind: &str, key: &str| chain.iter().any(|event| event["type"] == kind && event["state_key"] == key);
        // In room version 12 the room's id names the create event; no event cites it.
        let cited = version != "12";
        assert_eq!(has("m.room.create", ""), cited, "{version}: {answer}");
        for (kind, key) in [
            ("m.room.power_levels", ""),
            ("m.room.join_rules", ""),
            ("m.room.member", user("alice").as_str()),
            ("m.room.member", &two.user("bob")),
        ] {
            assert!(has(kind, key), "{version}: {kind} {key} in {answer}");
        }
        assert!(chain.contains(&value(&join)), "{version}: events are whole");
        assert!(!chain.contains(&value(&message)), "{version}: the event itself is none of it");
        assert_eq!(chain.len(), 4 + usize::from(cited), "{version}: {answer}");
    }
}
