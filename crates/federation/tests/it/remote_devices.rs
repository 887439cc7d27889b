//! Device lists of other servers' users: what is told of them and how they are fetched (behaviour CE12).

use std::collections::BTreeMap;

use federation::receive::Edus as _;
use federation::remote_devices::RemoteDevices;
use serde_json::{Value, json};
use store::UserId;
use users::keys::device_keys::Queried;

use crate::harness::{Peer, Sketch, World, object};

const PATH: &str = "/_matrix/federation/v1/user/devices/";

fn keys(user: &UserId, id: &str) -> Value {
    json!({ "user_id": user, "device_id": id, "keys": { format!("ed25519:{id}"): "k" } })
}

fn list(user: &UserId, stream_id: i64, devices: &[&str]) -> Value {
    let devices: Vec<Value> = devices
        .iter()
        .map(|id| json!({ "device_id": id, "keys": keys(user, id), "device_display_name": "x" }))
        .collect();
    json!({ "user_id": user, "stream_id": stream_id, "devices": devices })
}

fn update(user: &UserId, stream_id: i64, prev_id: &[i64], device: &str) -> Value {
    json!({
        "user_id": user, "device_id": device, "stream_id": stream_id, "prev_id": prev_id, "keys": keys(user, device),
    })
}

struct Bench {
    world: World,
    devices: RemoteDevices,
}

impl Bench {
    async fn new() -> Self {
        let world = World::new().await;
        let devices = RemoteDevices::new(world.client.clone(), world.users.clone());
        Self { world, devices }
    }

    /// The devices in the copy of a user's list, if there is one that holds.
    async fn copy(&self, user: &UserId) -> Option<Vec<String>> {
        let mut queried = Queried::default();
        let wanted = BTreeMap::from([(user.clone(), Vec::new())]);
        self.world.users.add_remote_key_texts(&wanted, &mut queried).await.unwrap().pop()?;
        let devices = queried.device_keys.remove(user).unwrap_or_default();
        Some(devices.into_keys().collect())
    }

    async fn tell(&self, user: &UserId, content: Value) {
        self.devices.device_list_update(user.server_name(), user, &object(content)).await.unwrap();
    }
}

#[tokio::test]
async fn ce12_a_list_whose_update_was_lost_is_fetched_anew_and_told() {
    let bench = Bench::new().await;
    let (bob, net) = (UserId::from("@bob:two.test"), &bench.world.net);
    net.answer("two.test", PATH, 200, list(&bob, 5, &["PHONE"]));
    assert!(bench.devices.fetch(&bob).await.unwrap());
    bench.tell(&bob, update(&bob, 6, &[5], "TV")).await;
    assert_eq!(bench.copy(&bob).await.unwrap(), ["PHONE", "TV"]);
    bench.tell(&bob, update(&bob, 9, &[8], "CAR")).await;
    assert_eq!(bench.copy(&bob).await, None);
    net.clear("two.test", PATH);
    net.answer("two.test", PATH, 200, list(&bob, 9, &["CAR", "TV"]));
    bench.world.clock.advance(10_000);
    let before = bench.world.store.watermark();
    assert!(bench.devices.fetch_due().await);
    assert_eq!(bench.copy(&bob).await.unwrap(), ["CAR", "TV"]);
    let changed = bench.world.users.device_changes(before, bench.world.store.watermark()).await.unwrap();
    assert_eq!(changed.len(), 1, "whoever asked in vain meanwhile asks again");
    assert!(!bench.devices.fetch_due().await);
}

#[tokio::test]
async fn ce12_a_server_that_is_away_is_tried_for_one_of_its_users_and_again_later() {
    let bench = Bench::new().await;
    let net = &bench.world.net;
    let users: Vec<UserId> = (0..5).map(|n| UserId::from(format!("@u{n}:two.test"))).collect();
    let answer = || {
        for user in &users {
            let path = format!("{PATH}%40{}", &user.as_str()[1..3]);
            net.answer("two.test", &path, 200, list(user, 5, &["PHONE"]));
        }
    };
    answer();
    for user in &users {
        assert!(bench.devices.fetch(user).await.unwrap());
        bench.tell(user, update(user, 9, &[8], "TV")).await;
    }
    let asked = net.count("two.test", PATH);
    net.clear("two.test", PATH);
    bench.world.clock.advance(10_000);
    assert!(bench.devices.fetch_due().await);
    assert_eq!(net.count("two.test", PATH), asked + 1, "the others share its fate");
    assert!(!bench.devices.fetch_due().await, "not at once again");
    answer();
    bench.world.clock.advance(15_000);
    assert!(bench.devices.fetch_due().await);
    for user in &users {
        assert_eq!(bench.copy(user).await.unwrap(), ["PHONE"]);
    }
}

#[tokio::test]
async fn ce12_what_is_no_device_list_is_not_kept() {
    let bench = Bench::new().await;
    let (bob, net) = (UserId::from("@bob:two.test"), &bench.world.net);
    for wrong in [
        json!({}),
        json!({ "user_id": "@eve:two.test", "stream_id": 1, "devices": [] }),
        json!({ "user_id": bob, "stream_id": "1", "devices": [] }),
        json!({ "user_id": bob, "stream_id": 1 }),
    ] {
        net.clear("two.test", PATH);
        net.answer("two.test", PATH, 200, wrong.clone());
        assert!(bench.devices.fetch(&bob).await.is_err(), "{wrong}");
    }
    net.clear("two.test", PATH);
    let mut answer = list(&bob, 5, &["PHONE"]);
    let of_eve = keys(&UserId::from("@eve:two.test"), "EVIL");
    answer["devices"].as_array_mut().unwrap().push(json!({ "device_id": "EVIL", "keys": of_eve }));
    net.answer("two.test", PATH, 200, answer);
    assert!(bench.devices.fetch(&bob).await.unwrap());
    assert_eq!(bench.copy(&bob).await.unwrap(), ["PHONE"]);
    bench.tell(&bob, json!({ "user_id": bob, "stream_id": 6, "prev_id": [5] })).await;
    assert_eq!(bench.copy(&bob).await, None, "nobody knows what changed");
}

#[tokio::test]
async fn ce12_the_device_of_an_encrypted_message_is_looked_at() {
    let world = World::new().await;
    let two = Peer::new("two.test");
    let room = world.room("10").await;
    two.join(&world, &room, "bob").await;
    let bob = two.user("bob");
    let send = async |kind: &str, content: Value| {
        let event = two.event(&world, &room, Sketch { sender: &bob, kind, state_key: None, content }).await;
        two.transact(&world, &crate::harness::id(&event), &[&event], &[]).await;
        world.federation.receive_due().await;
    };
    send("m.room.encrypted", json!({ "algorithm": "m.megolm.v1.aes-sha2", "device_id": "TV", "ciphertext": "x" }))
        .await;
    send("m.room.message", json!({ "device_id": "NOT", "body": "x", "msgtype": "m.text" })).await;
    send("m.room.encrypted", json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x" })).await;
    assert_eq!(*world.edus.0.lock(), ["device TV of @bob:two.test"]);
}
