//! EDUs (behaviours FE13, FE16).

use rooms::Room;
use serde_json::{Value, json};
use store::StreamPosition;
use users::presence::PresenceState;

use crate::harness::{Peer, World, id, user};

fn typing(room: &Room, user: &str, typing: bool) -> Value {
    let content = json!({ "room_id": room.id, "user_id": user, "typing": typing });
    json!({ "edu_type": "m.typing", "content": content })
}

async fn send(world: &World, peer: &Peer, edus: &[Value]) {
    let txn_id = format!("e{}", store::Clock::now_ms(world.clock.as_ref()));
    peer.transact(world, &txn_id, &[], edus).await;
}

/// SEC-edu-authorization.
#[tokio::test]
async fn fe13_typing_is_for_users_of_the_sender_that_are_in_the_room() {
    let world = World::new().await;
    let room = world.room("10").await;
    let (two, evil) = (Peer::new("two.test"), Peer::new("evil.test"));
    two.join(&world, &room, "bob").await;
    let bob = two.user("bob");
    send(&world, &evil, &[typing(&room, &bob, true)]).await;
    send(&world, &two, &[typing(&room, &two.user("stranger"), true), typing(&room, user("alice").as_str(), true)])
        .await;
    assert!(world.users.typing_in(room.num).is_empty());
    send(&world, &two, &[typing(&room, &bob, true)]).await;
    assert_eq!(world.users.typing_in(room.num).len(), 1);
    send(&world, &two, &[typing(&room, &bob, false)]).await;
    assert!(world.users.typing_in(room.num).is_empty());
    send(&world, &two, &[typing(&room, &bob, true)]).await;
    world.clock.advance(61_000);
    assert!(world.users.typing_in(room.num).is_empty(), "it ends by itself");
}

/// SEC-edu-authorization.
#[tokio::test]
async fn fa9_typing_and_receipts_of_a_banned_server_are_ignored() {
    let world = World::new().await;
    let room = world.room("10").await;
    let evil = Peer::new("evil.test");
    evil.join(&world, &room, "mallory").await;
    let message = world.say(&room, "hello").await;
    world.set(&room, "m.room.server_acl", json!({ "allow": ["*"], "deny": ["evil.test"] })).await;
    let mallory = evil.user("mallory");
    let receipt = receipt(&room, &mallory, message.as_str());
    send(&world, &evil, &[typing(&room, &mallory, true), receipt]).await;
    assert!(world.users.typing_in(room.num).is_empty());
    assert!(world.users.receipts_of(room.num, &mallory.as_str().into()).await.unwrap().is_empty());
}

fn receipt(room: &Room, user: &str, event_id: &str) -> Value {
    let data = json!({ "event_ids": [event_id], "data": { "ts": 5 } });
    json!({ "edu_type": "m.receipt", "content": { &room.id: {
        "m.read": { user: data },
        "m.read.private": { user: { "event_ids": [event_id], "data": { "ts": 5 } } },
    } } })
}

/// SEC-edu-authorization.
#[tokio::test]
async fn fe16_receipts_are_read_receipts_only() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let message = world.say(&room, "hello").await;
    let bob = two.user("bob");
    send(&world, &two, &[receipt(&room, &bob, message.as_str())]).await;
    let rows = world.users.receipts_of(room.num, &bob.as_str().into()).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].receipt_type.as_str(), rows[0].event_id.as_str(), rows[0].ts), ("m.read", message.as_str(), 5));
    assert!(rows[0].event.is_some());
    // Of another server's user, of somebody who is not in the room: nothing.
    send(&world, &Peer::new("evil.test"), &[receipt(&room, &bob, message.as_str())]).await;
    let stranger = two.user("stranger");
    send(&world, &two, &[receipt(&room, &stranger, message.as_str())]).await;
    assert!(world.users.receipts_of(room.num, &stranger.as_str().into()).await.unwrap().is_empty());
    for nonsense in
        [json!({}), json!({ &room.id: 5 }), json!({ &room.id: { "m.read": { &bob: { "event_ids": [] } } } })]
    {
        send(&world, &two, &[json!({ "edu_type": "m.receipt", "content": nonsense })]).await;
    }
}

/// SEC-edu-authorization.
#[tokio::test]
async fn fe13_presence_is_for_users_of_the_sender() {
    let world = World::new().await;
    let two = Peer::new("two.test");
    let room = world.room("10").await;
    two.join(&world, &room, "bob").await;
    two.join(&world, &room, "eve").await;
    let push = json!([
        { "user_id": two.user("bob"), "presence": "online", "last_active_ago": 10, "currently_active": true,
          "status_msg": "here" },
        { "user_id": "@carol:three.test", "presence": "online" },
        { "user_id": two.user("dan"), "presence": "asleep" },
        { "user_id": two.user("eve"), "presence": "unavailable", "status_msg": "x".repeat(5_000), "last_active_ago": -5 },
        7,
    ]);
    send(&world, &two, &[json!({ "edu_type": "m.presence", "content": { "push": push } })]).await;
    let bob = world.users.presence(&two.user("bob").as_str().into()).unwrap();
    assert_eq!((bob.state, bob.status.as_deref(), bob.currently_active), (PresenceState::Online, Some("here"), true));
    assert!(world.users.presence(&"@carol:three.test".into()).is_none());
    assert!(world.users.presence(&two.user("dan").as_str().into()).is_none());
    assert_eq!(world.users.presence(&two.user("eve").as_str().into()).unwrap().status, None);
}

/// SEC-to-device-scope.
#[tokio::test]
async fn fe13_to_device_messages_come_once_and_to_active_local_users_only() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let login = world.users.login(&alice, users::login::NewDevice::default()).await.unwrap();
    let two = Peer::new("two.test");
    let edu = |sender: &str, id: &str| {
        json!({ "edu_type": "m.direct_to_device", "content": {
            "sender": sender, "type": "m.test", "message_id": id,
            "messages": { alice.as_str(): { "*": { "hello": id } }, "@nobody:one.test": { "*": {} }, two.user("bob"): { "*": {} } },
        } })
    };
    let waiting = async |world: &World| {
        let up_to = world.store.watermark();
        world.users.to_device(&alice, &login.device, StreamPosition::ZERO, up_to, 100).await.unwrap().len()
    };
    send(&world, &two, &[edu(&two.user("bob"), "m1")]).await;
    assert_eq!(waiting(&world).await, 1);
    send(&world, &two, &[edu(&two.user("bob"), "m1"), edu(&two.user("bob"), "m2")]).await;
    assert_eq!(waiting(&world).await, 2, "m1 came before");
    send(&world, &two, &[edu("@carol:three.test", "m3"), edu(&two.user("bob"), &"m".repeat(300))]).await;
    assert_eq!(waiting(&world).await, 2);
    let world = world.restarted().await;
    send(&world, &two, &[edu(&two.user("bob"), "m2")]).await;
    assert_eq!(waiting(&world).await, 2, "also in another life");
}

/// SEC-edu-authorization.
#[tokio::test]
async fn fe13_device_lists_are_for_users_of_the_sender() {
    let world = World::new().await;
    let two = Peer::new("two.test");
    let room = world.room("10").await;
    two.join(&world, &room, "bob").await;
    let edu = |kind: &str, user: &str| json!({ "edu_type": kind, "content": { "user_id": user } });
    let (bob, carol) = (two.user("bob"), "@carol:three.test");
    let edus = ["m.device_list_update", "m.signing_key_update"].map(|kind| [edu(kind, &bob), edu(kind, carol)]);
    send(&world, &two, &edus.concat()).await;
    let expected = vec!["device list of @bob:two.test by two.test", "signing key of @bob:two.test by two.test"];
    assert_eq!(*world.edus.0.lock(), expected);
}

#[tokio::test]
async fn edus_come_with_events() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let message = two.message(&world, &room, "bob", "hello").await;
    let answer = two.transact(&world, "t1", &[&message], &[typing(&room, &two.user("bob"), true)]).await;
    assert_eq!(answer[id(&message)], json!({}));
    assert_eq!(world.users.typing_in(room.num).len(), 1);
}
