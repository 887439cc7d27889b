//! History from before this server was in a room, and from between two stays in it (behaviours CR12, FJ12, FQ9): two
//! whole servers on one network.

use std::sync::Arc;
use std::time::Duration;

use rooms::timeline::Direction;
use store::Clock;

use crate::harness::{Net, TestClock};
use crate::outage::Server;

/// Two servers; `@alice` of the first has made a room and said so many things in it, one a second.
async fn room_of(n: usize) -> (Server, Server, String) {
    let (net, clock) = (Arc::<Net>::default(), Arc::new(TestClock::paused()));
    let one = Server::start("one.test", &net, &clock).await;
    let two = Server::start("two.test", &net, &clock).await;
    one.world.register("alice").await;
    two.world.register("bob").await;
    let room = one.world.room("11").await.id.to_string();
    for n in 0..n {
        one.say(&room, "alice", &format!("message {n}")).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    (one, two, room)
}

async fn end(one: Server, two: Server) {
    one.end().await;
    two.end().await;
}

#[tokio::test(start_paused = true)]
async fn cr12_history_from_before_the_join_is_fetched() {
    let (one, two, room) = room_of(250).await;
    two.join(&room, "bob", "one.test").await;
    let asked = two.world.net.asked.lock().len();
    assert_eq!(two.timeline(&room).await, one.timeline(&room).await);
    let asked = two.world.net.asked.lock().len() - asked;
    assert!(asked <= 8, "{asked} requests for 250 events");
    assert_eq!(two.extremities(&room).await, one.extremities(&room).await);
    end(one, two).await;
}

#[tokio::test(start_paused = true)]
async fn fj12_a_later_join_brings_the_state_and_what_was_missed_can_be_fetched() {
    let (one, two, room) = room_of(5).await;
    let bob = two.world.user("bob");
    two.join(&room, "bob", "one.test").await;
    two.say(&room, "bob", "hello").await;
    two.world.rooms.leave(&room, &bob, None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let asked = one.world.net.count("two.test", "/_matrix/federation/v1/send/");
    for n in 0..30 {
        one.say(&room, "alice", &format!("missed {n}")).await;
    }
    one.world.set(&*one.room(&room).await, "m.room.topic", serde_json::json!({ "topic": "missed" })).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(one.world.net.count("two.test", "/_matrix/federation/v1/send/"), asked, "it is not in the room");
    two.join(&room, "bob", "one.test").await;
    assert_eq!(two.state(&room).await, one.state(&room).await);
    assert_eq!(two.timeline(&room).await, one.timeline(&room).await);
    end(one, two).await;
}

#[tokio::test(start_paused = true)]
async fn fq9_an_event_of_a_time_before_the_join_is_asked_for() {
    let (one, two, room_id) = room_of(20).await;
    let there = one.room(&room_id).await;
    let begins = there.create.origin_server_ts;
    two.join(&room_id, "bob", "one.test").await;
    let room = two.room(&room_id).await;
    let rooms = &two.world.rooms;
    let joined = rooms.event_by_id(&room, &two.extremities(&room_id).await.into_iter().next().unwrap()).await.unwrap();
    let joined = joined.unwrap();
    let behind = rooms.gap_beside(&room, Some(&joined), Direction::Forward).await.unwrap().unwrap();
    assert!(rooms.gap_beside(&room, Some(&joined), Direction::Backward).await.unwrap().is_none(), "it is the newest");
    assert_eq!(rooms.gap_beside(&room, None, Direction::Backward).await.unwrap(), Some(behind));

    // Nobody knows an event that is nearer to the present.
    let now = two.world.clock.now_ms();
    let federation = &two.world.federation;
    let nearer = federation.fetch_by_time(&room, now, Direction::Backward, Some(joined.row.ts), behind).await.unwrap();
    assert!(!nearer);
    assert_eq!(two.world.net.count("one.test", "/_matrix/federation/v1/backfill/"), 0);

    let known = Some(joined.row.ts);
    assert!(federation.fetch_by_time(&room, begins, Direction::Forward, known, behind).await.unwrap());
    assert!(rooms.event_by_id(&room, there.create.event_id.as_str()).await.unwrap().unwrap().shown());
    assert!(rooms.gap_beside(&room, Some(&joined), Direction::Forward).await.unwrap().is_none(), "it is filled");
    end(one, two).await;
}
