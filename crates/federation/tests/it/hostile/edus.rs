//! EDUs about users and rooms that are none of the sender's business, and many of them (behaviours FE13, FE16; CVE-2023-42453).

use std::collections::BTreeMap;

use serde_json::{Value, json};
use store::tables::federation::InboundTransactionRow;
use store::tables::users::ToDeviceTransactionRow;
use store::{DeviceId, Read, StreamPosition, UserId};

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

/// SEC-edu-floods.
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
    assert_eq!(world.store.watermark(), before, "nobody is woken");
    let mallory = evil.user("mallory");
    let push = json!([{ "user_id": mallory, "presence": "online" }]);
    send(&world, &evil, &[edu("m.presence", json!({ "push": push }))]).await;
    assert!(world.users.presence(&UserId::from(mallory.as_str())).is_some(), "who is known is heard of");
}

/// SEC-edu-floods.
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

/// SEC-to-device-scope.
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

impl World {
    /// What waits for a device: how many of each sender.
    async fn waiting(&self, user: &UserId, device: &DeviceId) -> BTreeMap<String, usize> {
        let up_to = self.store.watermark();
        let rows = self.users.to_device(user, device, StreamPosition::ZERO, up_to, u32::MAX).await.unwrap();
        rows.iter().fold(BTreeMap::new(), |mut counts, row| {
            *counts.entry(row.sender.to_string()).or_default() += 1;
            counts
        })
    }
}

/// An `m.direct_to_device` with a content of about so many bytes for one device.
fn to_device(sender: &str, id: &str, (user, device): (&UserId, &DeviceId), size: usize) -> Value {
    let messages = json!({ user.as_str(): { device.as_str(): { "x": "x".repeat(size) } } });
    edu("m.direct_to_device", json!({ "sender": sender, "type": "m.test", "message_id": id, "messages": messages }))
}

/// SEC-edu-floods: what one sender leaves for a device that never fetches it has a bound. Beyond it only its own messages are
/// lost, nobody is told to wait, and when the device has fetched them there is place again.
#[tokio::test]
async fn fe13_a_flood_of_to_device_messages_ends_at_the_bound_of_its_sender() {
    let world = World::new().await;
    let room = world.room("10").await;
    let alice = world.register("alice").await;
    let login = async || world.users.login(&alice, users::login::NewDevice::default()).await.unwrap().device;
    let (phone, laptop) = (login().await, login().await);
    let (evil, two) = (Peer::new(EVIL), Peer::new(GOOD));
    for name in ["mallory", "carol"] {
        evil.join(&world, &room, name).await;
    }
    two.join(&world, &room, "bob").await;
    let (mallory, carol, bob) = (evil.user("mallory"), evil.user("carol"), two.user("bob"));
    // Fifteen units each.
    let flood: Vec<Value> = (0..700).map(|n| to_device(&mallory, &format!("m{n}"), (&alice, &phone), 61_000)).collect();
    for edus in flood.chunks(70) {
        send(&world, &evil, edus).await;
    }
    let kept = world.waiting(&alice, &phone).await[&mallory];
    assert_eq!((kept, world.users.to_device_dropped()), (667, 33));
    // Somebody of whom nothing is known yet may have come just now.
    send(&world, &evil, &[to_device(&evil.user("stranger"), "m", (&alice, &phone), 1)]).await;
    // Others are heard, also of that server, and so are the others of the user's devices.
    send(&world, &evil, &[to_device(&carol, "m", (&alice, &phone), 1), to_device(&mallory, "l", (&alice, &laptop), 1)])
        .await;
    send(
        &world,
        &two,
        &[to_device(&bob, "m", (&alice, &phone), 1), to_device(&two.user("stranger"), "m", (&alice, &phone), 1)],
    )
    .await;
    let strangers = [(evil.user("stranger"), 1), (two.user("stranger"), 1)];
    let expected = [(mallory.clone(), kept), (carol, 1), (bob, 1)].into_iter().chain(strangers);
    assert_eq!(world.waiting(&alice, &phone).await, expected.collect::<BTreeMap<_, _>>());
    assert_eq!(world.waiting(&alice, &laptop).await, BTreeMap::from([(mallory.clone(), 1)]));
    // The phone comes back. A message that was dropped may come again: its id was not used up.
    world.users.delete_to_device(&alice, &phone, world.store.watermark()).await.unwrap();
    send(&world, &evil, &flood[699..]).await;
    assert_eq!(world.waiting(&alice, &phone).await, BTreeMap::from([(mallory, 1)]));
}

/// SEC-edu-floods: strangers of one server have one bound together, and a new process counts what is there.
#[tokio::test]
async fn fe13_made_up_senders_share_one_bound() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let phone = world.users.login(&alice, users::login::NewDevice::default()).await.unwrap().device;
    let evil = Peer::new(EVIL);
    let flood = |beginning: usize| -> Vec<Value> {
        (beginning..beginning + 1_400)
            .map(|n| to_device(&evil.user(&format!("x{n}")), "m", (&alice, &phone), 61_000))
            .collect()
    };
    for edus in flood(0).chunks(70) {
        send(&world, &evil, edus).await;
    }
    let kept = world.waiting(&alice, &phone).await.len();
    assert_eq!(kept, 1_334);
    let world = world.restarted().await;
    for edus in flood(2_000).chunks(70).take(10) {
        send(&world, &evil, edus).await;
    }
    assert_eq!(world.waiting(&alice, &phone).await.len(), kept);
    // Ids of messages to nobody are not kept either.
    let before = world.store.stored_counter().await.unwrap();
    let nobody = [to_device(&evil.user("x"), "n", (&UserId::from("@nobody:one.test"), &phone), 1)];
    send(&world, &evil, &nobody).await;
    send(&world, &evil, &[to_device(&evil.user("x"), "n", (&alice, &DeviceId::from("NONE")), 1)]).await;
    assert_eq!(world.store.stored_counter().await.unwrap(), before);
    assert!(
        world.store.all::<ToDeviceTransactionRow>(Read::prefix::<ToDeviceTransactionRow>(vec![])).await.unwrap().len()
            <= kept
    );
}

/// SEC-edu-floods: EDUs leave nothing of the transaction that brought them.
#[tokio::test]
async fn fe1_transactions_without_events_leave_nothing_behind() {
    let world = World::new().await;
    let room = world.room("10").await;
    let evil = Peer::new(EVIL);
    evil.join(&world, &room, "mallory").await;
    for number in 0..100 {
        evil.transact(&world, &format!("t{number}"), &[], &[edu("m.made.up", json!({}))]).await;
    }
    let rows = async || {
        let read = Read::prefix::<InboundTransactionRow>(vec![]);
        world.store.all::<InboundTransactionRow>(read).await.unwrap().len()
    };
    assert_eq!(rows().await, 0);
    let message = evil.message(&world, &room, "mallory", "hello").await;
    evil.transact(&world, "t", &[&message], &[]).await;
    assert_eq!(rows().await, 1);
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
