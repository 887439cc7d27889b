//! EDUs about users and rooms that are none of the sender's business, and many of them (behaviours FE13, FE16; CVE-2023-42453).

use serde_json::{Value, json};
use store::{StreamPosition, UserId};

use super::{EVIL, GOOD};
use crate::harness::{Peer, World, user};

async fn send(world: &World, peer: &Peer, edus: &[Value]) {
    for (number, edus) in edus.chunks(100).enumerate() {
        let txn_id = format!("e{number}-{}", store::Clock::now_ms(world.clock.as_ref()));
        peer.transact(world, &txn_id, &[], edus).await;
    }
}

fn edu(kind: &str, content: Value) -> Value {
    json!({ "edu_type": kind, "content": content })
}

#[tokio::test]
async fn fe13_made_up_users_leave_nothing_behind() {
    let world = World::new().await;
    let room = world.room("10").await;
    let evil = Peer::new(EVIL);
    evil.join(&world, &room, "mallory").await;
    let before = world.store.watermark();
    let names: Vec<String> = (0..500).map(|number| evil.user(&format!("nobody{number}"))).collect();
    let push: Vec<Value> = names.iter().map(|name| json!({ "user_id": name, "presence": "online" })).collect();
    let mut edus = vec![edu("m.presence", json!({ "push": push }))];
    edus.extend(names.iter().map(|name| edu("m.device_list_update", json!({ "user_id": name, "device_id": "X" }))));
    edus.extend(names.iter().map(|name| edu("m.signing_key_update", json!({ "user_id": name }))));
    edus.extend(
        names.iter().map(|name| edu("m.typing", json!({ "room_id": room.id, "user_id": name, "typing": true }))),
    );
    send(&world, &evil, &edus).await;
    for name in &names {
        assert!(world.users.presence(&UserId::from(name.as_str())).is_none());
    }
    assert!(world.edus.0.lock().is_empty());
    assert!(world.users.typing_in(room.num).is_empty());
    // Each transaction is written down, and nothing besides.
    assert_eq!(world.store.watermark(), before, "nobody is woken");
    let mallory = evil.user("mallory");
    let push = json!([{ "user_id": mallory, "presence": "online" }]);
    send(&world, &evil, &[edu("m.presence", json!({ "push": push }))]).await;
    assert!(world.users.presence(&UserId::from(mallory.as_str())).is_some(), "who is known is heard of");
}

#[tokio::test]
async fn fe16_receipts_in_made_up_threads_and_rooms_leave_nothing_behind() {
    let world = World::new().await;
    let room = world.room("10").await;
    let evil = Peer::new(EVIL);
    evil.join(&world, &room, "mallory").await;
    let (mallory, alice) = (evil.user("mallory"), user("alice"));
    let said = world.say(&room, "hello").await;
    let receipt = |room_id: &str, user: &str, thread: Value| {
        let data = json!({ "event_ids": [said], "data": { "ts": 5, "thread_id": thread } });
        edu("m.receipt", json!({ room_id: { "m.read": { user: data } } }))
    };
    let mut edus: Vec<Value> =
        (0..200).map(|number| receipt(&room.id, &mallory, json!(format!("$thread{number}")))).collect();
    edus.push(receipt(&room.id, alice.as_str(), json!("main")));
    edus.push(receipt("!nowhere:evil.test", &mallory, json!("main")));
    let rooms: serde_json::Map<_, _> =
        (0..5_000).map(|n| (format!("!{n}:evil.test"), json!({ "m.read": {} }))).collect();
    edus.push(edu("m.receipt", Value::Object(rooms)));
    send(&world, &evil, &edus).await;
    let of = async |name: &str| world.users.receipts_of(room.num, &UserId::from(name)).await.unwrap().len();
    assert_eq!((of(&mallory).await, of(alice.as_str()).await), (0, 0));
    let threads = [json!("main"), json!(said), Value::Null];
    send(&world, &evil, &threads.map(|thread| receipt(&room.id, &mallory, thread))).await;
    assert_eq!(of(&mallory).await, 3, "what there is can be read");
}

#[tokio::test]
async fn fe13_to_device_messages_that_are_not_as_they_should_be_are_passed_over() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let login = world.users.login(&alice, users::login::NewDevice::default()).await.unwrap();
    let evil = Peer::new(EVIL);
    let mallory = evil.user("mallory");
    let message = |change: &dyn Fn(&mut Value)| {
        let mut content = json!({ "sender": mallory, "type": "m.test", "message_id": "m1",
            "messages": { alice.as_str(): { "*": { "hello": "you" } } } });
        change(&mut content);
        edu("m.direct_to_device", content)
    };
    let bad = [
        message(&|content| content["sender"] = json!("@alice:one.test")),
        message(&|content| content["sender"] = json!("@carol:two.test")),
        message(&|content| content["sender"] = json!(5)),
        message(&|content| content["message_id"] = json!("m".repeat(256))),
        message(&|content| content["message_id"] = Value::Null),
        message(&|content| content["type"] = json!("t".repeat(256))),
        message(&|content| content["type"] = json!({})),
        message(&|content| content["messages"] = json!([])),
        message(&|content| content["messages"] = json!({ alice.as_str(): [] })),
        message(&|content| content["messages"] = json!({ alice.as_str(): { "*": "no object" } })),
        message(&|content| content["messages"] = json!({ alice.as_str(): { "*": { "x": "x".repeat(70_000) } } })),
        message(&|content| content["messages"] = json!({ "@nobody:one.test": { "*": {} }, "": {}, "@:": { "*": {} } })),
    ];
    send(&world, &evil, &bad).await;
    let waiting = async || {
        let up_to = world.store.watermark();
        world.users.to_device(&alice, &login.device, StreamPosition::ZERO, up_to, 10_000).await.unwrap().len()
    };
    assert_eq!(waiting().await, 0);
    // Many good ones are all there, in order.
    let good: Vec<Value> =
        (0..300).map(|n| message(&|content| content["message_id"] = json!(format!("g{n}")))).collect();
    send(&world, &evil, &good).await;
    assert_eq!(waiting().await, 300);
    send(&world, &evil, &good).await;
    assert_eq!(waiting().await, 300);
}

/// Presence that is believed of a known user alone, and only as far as it makes sense.
#[tokio::test]
async fn fe13_presence_beyond_reason_is_bounded() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new(GOOD);
    two.join(&world, &room, "bob").await;
    let bob = two.user("bob");
    for ago in [json!(i64::MAX), json!(i64::MIN), json!(1.5), json!("5"), Value::Null] {
        let push = json!([{ "user_id": bob, "presence": "online", "last_active_ago": ago, "status_msg": 5 }]);
        send(&world, &two, &[edu("m.presence", json!({ "push": push }))]).await;
        let presence = world.users.presence(&UserId::from(bob.as_str())).unwrap();
        assert!(presence.active_ms <= store::Clock::now_ms(world.clock.as_ref()), "{ago}");
    }
    for content in [json!({}), json!({ "push": {} }), json!({ "push": [[[]]] }), json!([])] {
        send(&world, &two, &[edu("m.presence", content)]).await;
    }
}
