//! What clients called before there was `/sync`.

use serde_json::{Value, json};
use testkit::{Server, each, list};

/// The bodies of messages in a list of events.
fn said(events: &Value) -> Vec<&str> {
    events.as_array().unwrap().iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

#[tokio::test]
async fn an_initial_sync_is_gone_on_with_by_events() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.create_room(json!({ "name": "ours", "preset": "public_chat", "visibility": "public" })).await;
    let left = bob.public_room().await;
    alice.join(&left).await;
    bob.say(&left, "bye").await;
    alice.leave(&left).await;
    let invited = bob.create_room(json!({ "invite": [alice.user] })).await;
    for n in 0..5 {
        alice.say(&room, &n.to_string()).await;
    }
    alice.put(&format!("/user/{}/account_data/m.own", alice.user), json!({ "a": 1 })).await.ok();
    let first = alice.get("/initialSync?limit=2").await.ok();
    assert!(each(&first["account_data"], "type").contains(&"m.own".to_owned()));
    let of = |room: &str| list(&first["rooms"]).iter().find(|one| one["room_id"] == room).cloned().unwrap_or_default();
    let ours = of(&room);
    assert_eq!((&ours["membership"], &ours["visibility"]), (&json!("join"), &json!("public")));
    assert_eq!(said(&ours["messages"]["chunk"]), ["3", "4"]);
    assert_eq!(ours["messages"]["chunk"][0]["room_id"], json!(room));
    assert!(each(&ours["state"], "type").contains(&"m.room.name".to_owned()), "the current state");
    let start = ours["messages"]["start"].as_str().unwrap();
    let earlier = alice.get(&format!("/rooms/{room}/messages?dir=b&from={start}&limit=1")).await.ok();
    assert_eq!(said(&earlier["chunk"]), ["2"]);
    assert_eq!(of(&invited)["membership"], "invite");
    assert_eq!(of(&invited)["invite"]["sender"], json!(bob.user));
    assert_eq!(of(&left), Value::Null);
    let all = alice.get("/initialSync?archived=true").await.ok();
    let gone = list(&all["rooms"]).into_iter().find(|one| one["room_id"] == json!(left)).unwrap();
    assert_eq!((&gone["membership"], said(&gone["messages"]["chunk"])), (&json!("leave"), vec!["bye"]));

    let end = first["end"].as_str().unwrap();
    bob.join(&room).await;
    bob.say(&room, "news").await;
    let next = alice.get(&format!("/events?from={end}&timeout=1000")).await.ok();
    assert_eq!(said(&next["chunk"]), ["news"]);
    assert_eq!(list(&next["chunk"]).last().unwrap()["room_id"], json!(room));
    let end = next["end"].as_str().unwrap();
    let nothing = alice.get(&format!("/events?from={end}")).await.ok();
    assert_eq!(said(&nothing["chunk"]), Vec::<&str>::new());
    alice.get("/events?from=nonsense").await.refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn events_take_no_message_from_a_device() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let body = json!({ "messages": { alice.user.as_str(): { "*": { "n": 1 } } } });
    bob.put("/sendToDevice/m.test/1", body).await.ok();
    let first = alice.get("/initialSync").await.ok();
    alice.get(&format!("/events?from={}", first["end"].as_str().unwrap())).await.ok();
    assert_eq!(list(&alice.sync("").await["to_device"]["events"]).len(), 1);
}

#[tokio::test]
async fn whoever_may_read_a_room_peeks_at_its_events() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.get(&format!("/events?room_id={room}")).await.refused(403, "M_FORBIDDEN");
    alice.set_state(&room, "m.room.history_visibility", json!({ "history_visibility": "world_readable" })).await;
    let now = bob.get(&format!("/events?room_id={room}")).await.ok();
    assert_eq!(now["chunk"], json!([]));
    alice.say(&room, "open").await;
    let from = now["end"].as_str().unwrap();
    let peeked = bob.get(&format!("/events?room_id={room}&from={from}")).await.ok();
    assert_eq!(said(&peeked["chunk"]), ["open"]);
    let from = peeked["end"].as_str().unwrap();
    let path = format!("/events?room_id={room}&from={from}&timeout=60000");
    let (waited, _) = tokio::join!(bob.get(&path), alice.say(&room, "later"));
    assert_eq!(said(&waited.ok()["chunk"]), ["later"]);
}

/// SEC-cross-room.
#[tokio::test]
async fn one_event_is_found_by_its_id_alone() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let (room, other) = (alice.public_room().await, bob.public_room().await);
    let own = alice.say(&room, "mine").await;
    let foreign = bob.say(&other, "not yours").await;
    let found = alice.get(&format!("/events/{own}")).await.ok();
    assert_eq!((&found["content"]["body"], &found["room_id"]), (&json!("mine"), &json!(room)));
    for id in [foreign.as_str(), "$nothing", "nonsense"] {
        alice.get(&format!("/events/{id}")).await.refused(404, "M_NOT_FOUND");
    }
}
