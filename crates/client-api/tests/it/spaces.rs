//! Spaces, summaries of rooms, rooms shared with others, peeking.

use serde_json::{Value, json};

use testkit::{Client, Server, each, list};

async fn space(client: &Client, name: &str) -> String {
    let body = json!({ "name": name, "preset": "public_chat", "creation_content": { "type": "m.space" } });
    client.create_room(body).await
}

async fn add(client: &Client, space: &str, child: &str, content: Value) {
    client.put(&format!("/rooms/{space}/state/m.space.child/{child}"), content).await.ok();
}

/// SEC-loops.
#[tokio::test]
async fn cr20_a_hierarchy_is_walked_in_order_and_to_an_end() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let root = space(&alice, "root").await;
    let inner = space(&alice, "inner").await;
    let mut rooms = Vec::new();
    for name in ["a", "b", "c", "d"] {
        rooms.push(alice.create_room(json!({ "name": name, "preset": "public_chat" })).await);
    }
    let secret = alice.create_room(json!({ "name": "secret" })).await;
    let via = json!({ "via": ["example.org"] });
    add(&alice, &root, &rooms[0], via.clone()).await;
    add(&alice, &root, &secret, via.clone()).await;
    add(&alice, &root, &rooms[1], json!({ "via": ["example.org"], "order": "b", "suggested": true })).await;
    add(&alice, &root, &inner, json!({ "via": ["example.org"], "order": "a", "suggested": true })).await;
    add(&alice, &root, &rooms[2], json!({ "via": [] })).await;
    add(&alice, &root, &rooms[3], json!({ "via": ["example.org"], "order": "\u{1}" })).await;
    add(&alice, &inner, &rooms[2], via.clone()).await;
    add(&alice, &inner, &root, via).await;
    let path = format!("/_matrix/client/v1/rooms/{root}/hierarchy");
    let names = |page: &Value| each(&page["rooms"], "name");
    assert_eq!(names(&alice.get(&path).await.ok()), ["root", "inner", "c", "b", "a", "secret", "d"]);
    let all = bob.get(&path).await.ok();
    let expected = ["root", "inner", "c", "b", "a", "d"];
    assert_eq!(names(&all), expected);
    let children = list(&all["rooms"][0]["children_state"]);
    assert_eq!((children.len(), &children[0]["state_key"]), (5, &json!(inner)));
    assert!(children[0]["origin_server_ts"].is_i64());
    assert_eq!(all["rooms"][2]["children_state"], json!([]));
    let (mut from, mut seen) = (String::new(), Vec::new());
    loop {
        let page = bob.get(&format!("{path}?limit=2{from}")).await.ok();
        seen.extend(names(&page));
        match page["next_batch"].as_str() {
            Some(next) => from = format!("&from={next}"),
            None => break,
        }
    }
    assert_eq!(seen, expected);
    assert_eq!(names(&bob.get(&format!("{path}?max_depth=1")).await.ok()), ["root", "inner", "b", "a", "d"]);
    assert_eq!(names(&bob.get(&format!("{path}?max_depth=0")).await.ok()), ["root"]);
    assert_eq!(names(&bob.get(&format!("{path}?suggested_only=true")).await.ok()), ["root", "inner", "b"]);
    let first = bob.get(&format!("{path}?limit=1&max_depth=2")).await.ok();
    let next = first["next_batch"].as_str().unwrap();
    bob.get(&format!("{path}?max_depth=3&from={next}")).await.refused(400, "M_INVALID_PARAM");
    bob.get(&format!("{path}?limit=0")).await.refused(400, "M_INVALID_PARAM");
    bob.get(&format!("/_matrix/client/v1/rooms/{secret}/hierarchy")).await.refused(403, "M_FORBIDDEN");
    bob.get("/_matrix/client/v1/rooms/!none:example.org/hierarchy").await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn rooms_shared_with_another_are_found() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let shared = alice.public_room().await;
    alice.public_room().await;
    let left = alice.public_room().await;
    bob.join(&shared).await;
    bob.join(&left).await;
    bob.leave(&left).await;
    let path = "/_matrix/client/v1/mutual_rooms";
    let found = alice.get(&format!("{path}?user_id={}", bob.user)).await.ok();
    assert_eq!(found, json!({ "joined": [shared], "count": 1 }));
    alice.get(&format!("{path}?user_id={}", alice.user)).await.refused(400, "M_INVALID_PARAM");
    alice.get(path).await.refused(400, "M_MISSING_PARAM");
}

#[tokio::test]
async fn world_readable_rooms_can_be_peeked_into() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    let path = format!("/rooms/{room}/initialSync?limit=1");
    bob.get(&path).await.refused(403, "M_FORBIDDEN");
    alice.set_state(&room, "m.room.history_visibility", json!({ "history_visibility": "world_readable" })).await;
    alice.say(&room, "open").await;
    let peek = bob.get(&path).await.ok();
    assert_eq!((&peek["room_id"], &peek["visibility"]), (&json!(room), &json!("private")));
    assert_eq!(peek["messages"]["chunk"][0]["content"]["body"], "open");
    assert!(list(&peek["state"]).iter().any(|event| event["type"] == "m.room.create"));
    let start = peek["messages"]["start"].as_str().unwrap();
    bob.get(&format!("/rooms/{room}/messages?dir=b&from={start}")).await.ok();
}
