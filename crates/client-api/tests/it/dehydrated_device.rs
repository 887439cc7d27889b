//! Dehydrated devices over HTTP (MSC3814).

use serde_json::{Value, json};
use testkit::{Client, Server, encoded};

use crate::account::text;

const PATH: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";

fn device(id: &str) -> Value {
    json!({
        "device_id": id,
        "device_data": { "algorithm": "org.matrix.msc3814.v2", "device_pickle": "x", "nonce": "y" },
        "initial_device_display_name": "Asleep",
        "device_keys": {
            "user_id": "@bob:example.org",
            "device_id": id,
            "dehydrated": true,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": { format!("curve25519:{id}"): id },
            "signatures": {},
        },
        "one_time_keys": { "signed_curve25519:A": { "key": "a" } },
        "fallback_keys": { "signed_curve25519:F": { "key": "f", "fallback": true } },
    })
}

async fn send(sender: &Client, to: &str, number: usize) {
    let body = json!({ "messages": { "@bob:example.org": { to: { "n": number } } } });
    sender.put(&format!("/sendToDevice/m.test/t{number}"), body).await.ok();
}

fn numbers(answer: &Value) -> Vec<u64> {
    answer["events"].as_array().unwrap().iter().map(|event| event["content"]["n"].as_u64().unwrap()).collect()
}

/// It gets messages and keys are claimed of it as of any other, and what waits for it stays until it is deleted.
#[tokio::test]
async fn a_dehydrated_device_gets_messages_that_stay() {
    let server = Server::new().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    bob.get(PATH).await.refused(404, "M_NOT_FOUND");
    bob.delete(PATH).await.refused(404, "M_NOT_FOUND");
    let id = "ab/c+d";
    assert_eq!(bob.put(PATH, device(id)).await.ok(), json!({ "device_id": id }));
    let found = bob.get(PATH).await.ok();
    assert_eq!(found, json!({ "device_id": id, "device_data": device(id)["device_data"] }));
    alice.get(PATH).await.refused(404, "M_NOT_FOUND");
    let asked = json!({ "device_keys": { "@bob:example.org": [] } });
    let keys = alice.post("/keys/query", asked).await.ok();
    let keys = &keys["device_keys"]["@bob:example.org"][id];
    assert_eq!((&keys["dehydrated"], &keys["unsigned"]["device_display_name"]), (&json!(true), &json!("Asleep")));
    let claim = json!({ "one_time_keys": { "@bob:example.org": { id: "signed_curve25519" } } });
    for key in ["A", "F", "F"] {
        let claimed = alice.post("/keys/claim", claim.clone()).await.ok();
        let claimed = claimed["one_time_keys"]["@bob:example.org"][id].as_object().unwrap().clone();
        assert_eq!(claimed.keys().collect::<Vec<_>>(), [&format!("signed_curve25519:{key}")]);
    }
    for number in 0..250 {
        send(&alice, id, number).await;
    }
    let events = format!("{PATH}/{}/events", encoded(id));
    for _ in 0..2 {
        let (mut read, mut from) = (Vec::new(), String::new());
        loop {
            let answer = bob.get(&format!("{events}{from}")).await.ok();
            assert_eq!(answer["events"][0]["sender"], "@alice:example.org");
            read.extend(numbers(&answer));
            let Some(next) = answer.get("next_batch") else { break };
            from = format!("?from={}", text(next));
        }
        assert_eq!(read, (0..250).collect::<Vec<_>>(), "they are not deleted by being read");
    }
    // Clients that know earlier versions of the proposal end where nothing comes.
    let (mut read, mut body) = (Vec::new(), json!({}));
    loop {
        let answer = bob.post(&events, body).await.ok();
        if numbers(&answer).is_empty() {
            break;
        }
        read.extend(numbers(&answer));
        body = json!({ "next_batch": answer["next_batch"] });
    }
    assert_eq!(read.len(), 250);
}

/// Each user has one: another takes its place, and nothing of the old one is left.
#[tokio::test]
async fn another_dehydrated_device_takes_its_place() {
    let server = Server::new().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    bob.put(PATH, device("one")).await.ok();
    send(&alice, "one", 0).await;
    bob.put(PATH, device("one")).await.ok();
    let events = |id: &str| format!("{PATH}/{id}/events");
    assert_eq!(bob.get(&events("one")).await.ok(), json!({ "events": [] }), "the same id is a new device, too");
    let claim = json!({ "one_time_keys": { "@bob:example.org": { "one": "signed_curve25519" } } });
    let claimed = alice.post("/keys/claim", claim).await.ok();
    assert!(claimed["one_time_keys"]["@bob:example.org"]["one"].get("signed_curve25519:A").is_some());
    bob.put(PATH, device("two")).await.ok();
    bob.get(&events("one")).await.refused(403, "M_FORBIDDEN");
    alice.get(&events("two")).await.refused(403, "M_FORBIDDEN");
    let listed = async || {
        let devices = bob.get("/devices").await.ok();
        let ids = devices["devices"].as_array().unwrap().iter().map(|device| text(&device["device_id"]).to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(listed().await, ["DEVICE", "two"]);
    assert_eq!(bob.delete(PATH).await.ok(), json!({ "device_id": "two" }));
    assert_eq!(listed().await, ["DEVICE"]);
    bob.put(PATH, device("three")).await.ok();
    bob.post("/logout/all", json!({})).await.ok();
    let bob = bob.login("AGAIN").await;
    bob.get(PATH).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn dehydrated_devices_that_are_none_are_refused() {
    let server = Server::new().await;
    let bob = server.register("bob").await;
    let with = |member: &str, value: Value| {
        let mut body = device("one");
        body[member] = value;
        body
    };
    for (body, code) in [
        (device("DEVICE"), "M_INVALID_PARAM"),
        (with("device_id", json!("")), "M_INVALID_PARAM"),
        (with("device_id", json!("another")), "M_INVALID_PARAM"),
        (with("device_id", json!("x".repeat(300))), "M_INVALID_PARAM"),
        (with("device_id", json!(1)), "M_BAD_JSON"),
        (with("device_data", json!("x")), "M_BAD_JSON"),
        (with("device_data", json!({})), "M_BAD_JSON"),
        (with("device_keys", json!({})), "M_BAD_JSON"),
        (with("one_time_keys", json!({ "x": {} })), "M_INVALID_PARAM"),
        (with("fallback_keys", json!([])), "M_BAD_JSON"),
    ] {
        bob.put(PATH, body.clone()).await.refused(400, code);
        bob.get(PATH).await.refused(404, "M_NOT_FOUND");
    }
    let huge = json!({ "algorithm": "x", "device_pickle": "x".repeat(70_000) });
    bob.put(PATH, with("device_data", huge)).await.refused(413, "M_TOO_LARGE");
    bob.put(PATH, device("one")).await.ok();
    for token in ["x", "-1", "1.5"] {
        bob.get(&format!("{PATH}/one/events?from={token}")).await.refused(400, "M_INVALID_PARAM");
        bob.post(&format!("{PATH}/one/events"), json!({ "next_batch": token })).await.refused(400, "M_INVALID_PARAM");
    }
}
