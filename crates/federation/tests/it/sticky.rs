//! Sticky events between servers (MSC4354): who gets them, and what becomes of those that were refused for a while.

use std::sync::Arc;
use std::time::Duration;

use event::{Template, Verified};
use rooms::{Accepted, NewEvent, Room};
use serde_json::json;
use store::StreamPosition;

use crate::harness::{Net, Peer, Sketch, TestClock, World, object};
use crate::outage::Server;

const HOUR_MS: i64 = 3_600_000;
const MINUTE: Duration = Duration::from_secs(60);

/// `@alice` sends a sticky event.
async fn stick(world: &World, room_id: &str) -> String {
    let content = object(json!({ "here": true }));
    let new = NewEvent::message(&world.user("alice"), "org.example.member", content);
    world.rooms.send(room_id, NewEvent { sticky_ms: Some(HOUR_MS), ..new }).await.unwrap().to_string()
}

/// The ids of the sticky events that clients get in a room.
async fn sticky(world: &World, room_id: &str) -> Vec<String> {
    let room = world.rooms.room(room_id).await.unwrap().unwrap();
    let rows = world.rooms.sticky_in(room.num, StreamPosition(i64::MAX)).await.unwrap();
    let events = world.rooms.sticky_events(&room, &rows).await.unwrap();
    events.iter().map(|event| event.id().to_string()).collect()
}

/// Two servers of one network.
async fn two_servers() -> (Arc<Net>, Server, Server) {
    let (net, clock) = (Arc::<Net>::default(), Arc::new(TestClock::paused()));
    let one = Server::start("one.test", &net, &clock).await;
    let two = Server::start("two.test", &net, &clock).await;
    one.world.register("alice").await;
    two.world.register("bob").await;
    (net, one, two)
}

#[tokio::test(start_paused = true)]
async fn msc4354_a_server_that_joins_gets_what_is_sticky() {
    let (_net, one, two) = two_servers().await;
    let room = one.world.room("11").await;
    let event = stick(&one.world, &room.id).await;
    for n in 0..30 {
        one.say(&room.id, "alice", &n.to_string()).await;
    }
    two.join(&room.id, "bob", "one.test").await;
    assert!(sticky(&two.world, &room.id).await.is_empty());
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(sticky(&two.world, &room.id).await, [event]);
    tokio::time::sleep(60 * MINUTE).await;
    assert!(sticky(&two.world, &room.id).await.is_empty());
    one.end().await;
    two.end().await;
}

#[tokio::test(start_paused = true)]
async fn msc4354_a_server_that_was_away_gets_what_is_sticky_however_much_it_missed() {
    let (net, one, two) = two_servers().await;
    let room = one.world.room("11").await;
    two.join(&room.id, "bob", "one.test").await;
    tokio::time::sleep(MINUTE).await;
    net.cut.lock().insert("two.test".to_owned());
    one.say(&room.id, "alice", "into the void").await;
    // It is given up for a while, and what follows is read from the rooms when it is back.
    tokio::time::sleep(10 * MINUTE).await;
    let event = stick(&one.world, &room.id).await;
    for n in 0..80 {
        one.say(&room.id, "alice", &n.to_string()).await;
    }
    tokio::time::sleep(5 * MINUTE).await;
    net.cut.lock().clear();
    let back = net.sent.lock().len();
    tokio::time::sleep(30 * MINUTE).await;
    assert_eq!(sticky(&two.world, &room.id).await, [event.as_str()]);
    let sent = net.sent.lock()[back..].to_vec();
    let told: Vec<_> = sent.iter().filter(|sent| sent.server == "two.test").map(|sent| sent.body.to_string()).collect();
    assert!(told.iter().any(|body| body.contains("msc4354_sticky")), "it is sent by itself");
    one.end().await;
    two.end().await;
}

/// The same event, sticky.
fn made_sticky(peer: &Peer, room: &Room, event: &Verified) -> Verified {
    let pdu = event.pdu();
    let template = Template {
        room_id: Some(pdu.room_id.clone()),
        sender: pdu.sender.clone(),
        kind: pdu.kind.clone(),
        content: pdu.content.clone(),
        prev_events: pdu.prev_events.clone(),
        auth_events: pdu.auth_events.clone(),
        depth: pdu.depth,
        origin_server_ts: pdu.origin_server_ts,
        sticky_ms: Some(HOUR_MS),
        ..Template::default()
    };
    event::build(room.rules, template, &peer.key, &peer.name).unwrap()
}

#[tokio::test]
async fn msc4354_what_was_soft_failed_is_judged_again_when_its_sender_is_back() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = world.room("11").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let bob = two.user("bob");
    let message = two.event(&world, &room, Sketch::message(&bob, "here")).await;
    let event = made_sticky(&two, &room, &message);
    let id = event.pdu().event_id.to_string();
    let kick = NewEvent::state(&alice, "m.room.member", &bob, object(json!({ "membership": "leave" })));
    world.rooms.send(&room.id, kick).await.unwrap();
    let Accepted::Judged(judged) = world.rooms.accept(event).await.unwrap() else { panic!("it is judged") };
    assert!(judged.has(rooms::flags::SOFT_FAILED), "{judged:?}");
    assert!(sticky(&world, &room.id).await.is_empty());
    let before = world.store.watermark();
    // Another one comes: that is no reason.
    Peer::new("three.test").join(&world, &room, "carol").await;
    assert!(sticky(&world, &room.id).await.is_empty());
    two.join(&world, &room, "bob").await;
    assert_eq!(sticky(&world, &room.id).await, [id]);
    let news = world.rooms.sticky_since(before, world.store.watermark()).await.unwrap();
    assert_eq!(news.len(), 1, "clients learn of it now");
}
