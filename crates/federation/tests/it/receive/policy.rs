//! Rooms with a policy server on another server (behaviour FE2).

use event::policy::POLICY_KEY_ID;
use event::{Rules, SigningKey, redact};
use rooms::{Error, NewEvent};
use serde_json::{Value, json};

use crate::harness::{Peer, World, id, object, user};

const SIGN: &str = "/_matrix/policy/v1/sign";

fn policy_key() -> SigningKey {
    SigningKey::from_seed_b64(POLICY_KEY_ID, &SigningKey::generate(&[9; 32]).seed_b64()).unwrap()
}

/// What the policy server answers: nothing that says `spam` is signed.
fn answer(event: &Value) -> (u16, Value) {
    if event["content"]["body"] == "spam" {
        return (400, json!({ "errcode": "M_FORBIDDEN", "error": "that is spam" }));
    }
    let mut redacted = redact(Rules::of("11").unwrap(), &object(event.clone()));
    redacted.remove("signatures");
    policy_key().sign_json(&mut redacted, "three.test");
    (200, redacted["signatures"].clone().into())
}

/// A room in which `two.test` and the policy server have users.
async fn guarded(world: &World) -> std::sync::Arc<rooms::Room> {
    let room = world.room("11").await;
    for peer in ["two.test", "three.test"] {
        Peer::new(peer).join(world, &room, "bob").await;
    }
    let named = json!({ "via": "three.test", "public_keys": { "ed25519": policy_key().public_b64() } });
    world.set(&room, "m.room.policy", named).await;
    room
}

async fn send(world: &World, room: &rooms::Room, body: &str) -> Result<String, Error> {
    let content = object(json!({ "msgtype": "m.text", "body": body }));
    let sent = world.rooms.send(&room.id, NewEvent::message(&user("alice"), "m.room.message", content)).await;
    sent.map(|id| id.to_string())
}

#[tokio::test]
async fn fe2_what_the_policy_server_does_not_sign_is_soft_failed() {
    let world = World::new().await;
    world.net.reply("three.test", SIGN, |event| answer(&event));
    let room = guarded(&world).await;
    assert_eq!(world.net.count("three.test", SIGN), 0);
    let two = Peer::new("two.test");
    let good = two.message(&world, &room, "bob", "hello").await;
    let spam = two.message(&world, &room, "bob", "spam").await;
    two.transact(&world, "t1", &[&good, &spam], &[]).await;
    world.federation.receive_due().await;
    assert_eq!(world.fate(&room, &id(&good)).await, None);
    assert!(world.fate(&room, &id(&spam)).await.unwrap().contains("does not recommend"));
    assert_eq!(world.net.count("three.test", SIGN), 2);
    assert!(send(&world, &room, "hello").await.is_ok());
    let refused = send(&world, &room, "spam").await;
    assert!(matches!(&refused, Err(Error::NotRecommended(reason)) if reason == "that is spam"), "{refused:?}");
}

#[tokio::test]
async fn a_policy_server_that_is_away_is_left_alone_for_a_while() {
    for nonsense in
        [(500, json!({})), (404, json!({ "errcode": "M_UNRECOGNIZED" })), (200, json!({})), (200, json!([]))]
    {
        let world = World::new().await;
        let shown = format!("{nonsense:?}");
        world.net.reply("three.test", SIGN, move |_| nonsense.clone());
        let room = guarded(&world).await;
        for _ in 0..3 {
            let failed = send(&world, &room, "hello").await;
            assert!(matches!(failed, Err(Error::PolicyServerAway(_))), "{shown}: {failed:?}");
        }
        assert_eq!(world.net.count("three.test", SIGN), 1, "{shown}");
        world.net.reply("three.test", SIGN, |event| answer(&event));
        world.clock.advance(31_000);
        assert!(send(&world, &room, "hello").await.is_ok(), "{shown}");
    }
}
