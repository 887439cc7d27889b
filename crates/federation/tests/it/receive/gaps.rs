//! Events that build on what is not known here (behaviour FE6).

use event::Verified;
use rooms::Room;
use serde_json::json;

use crate::harness::{Peer, Sketch, World, encoded, id, value};

/// A chain of messages of which the server knows none.
async fn chain(world: &World, room: &Room, peer: &Peer, n: usize) -> Vec<Verified> {
    let bob = peer.user("bob");
    let mut events = vec![peer.message(world, room, "bob", "0").await];
    for number in 1..n {
        let next = peer.after(world, room.rules, &events[number - 1], Sketch::message(&bob, &number.to_string()));
        events.push(next);
    }
    events
}

#[tokio::test]
async fn fe6_what_is_missing_is_asked_for_and_taken_in_order() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let events = chain(&world, &room, &two, 5).await;
    let between: Vec<_> = events[..4].iter().rev().map(value).collect();
    world.net.answer("two.test", "/_matrix/federation/v1/get_missing_events/", 200, json!({ "events": between }));
    two.transact(&world, "t1", &[&events[4]], &[]).await;
    world.federation.receive_due().await;
    for event in &events {
        assert_eq!(world.fate(&room, &id(event)).await, None);
    }
    let head = world.now(&room).await.head();
    assert_eq!(head.extremities.len(), 1);
    assert_eq!(head.extremities[0].id.as_str(), id(&events[4]));
    assert_eq!(world.net.count("two.test", "/_matrix/federation/v1/get_missing_events/"), 1);
}

/// A Synapse walks past what it is told is known here, down to what is older.
#[tokio::test]
async fn fe6_what_is_older_than_what_is_known_is_no_news() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    // Two events on an old branch: nothing that is known here follows them.
    let old = chain(&world, &room, &two, 2).await;
    world.say(&room, "goes on").await;
    let events = chain(&world, &room, &two, 3).await;
    let between: Vec<_> = old.iter().chain(&events[..2]).map(value).collect();
    let path = "/_matrix/federation/v1/get_missing_events/";
    world.net.answer("two.test", path, 200, json!({ "events": between }));
    two.transact(&world, "t1", &[&events[2]], &[]).await;
    world.federation.receive_due().await;
    assert_eq!(world.fate(&room, &id(&events[2])).await, None);
    for event in &old {
        assert_eq!(world.fate(&room, &id(event)).await.as_deref(), Some("unknown"));
    }
    let ends: Vec<String> = world.now(&room).await.head().extremities.iter().map(|end| end.id.to_string()).collect();
    assert_eq!(ends, [id(&events[2])]);
    assert_eq!(world.net.count("two.test", "/_matrix/federation/v1/state_ids/"), 0);
}

#[tokio::test]
async fn fe6_several_rounds_fill_a_longer_gap() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let events = chain(&world, &room, &two, 7).await;
    let path = "/_matrix/federation/v1/get_missing_events/";
    for part in [&events[4..6], &events[2..4], &events[0..2]] {
        let part: Vec<_> = part.iter().map(value).collect();
        world.net.answer("two.test", path, 200, json!({ "events": part }));
    }
    two.transact(&world, "t1", &[&events[6]], &[]).await;
    world.federation.receive_due().await;
    assert_eq!(world.fate(&room, &id(&events[6])).await, None);
    assert_eq!(world.net.count("two.test", path), 3);
}

#[tokio::test]
async fn fe6_after_a_gap_the_state_is_asked_for() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    let join = two.join(&world, &room, "bob").await;
    // A state event in the gap that nobody has told us of, and a message after it.
    let events = chain(&world, &room, &two, 2).await;
    let bob = two.user("bob");
    let carol = two.user("carol");
    let members = Sketch::member(&carol, "join");
    let lost = {
        let joins: Vec<_> = two.event(&world, &room, members.clone()).await.pdu().auth_events.clone();
        let pdu = events[1].pdu();
        two.build(&world, room.rules, &room.id, members, vec![pdu.event_id.clone()], joins, pdu.depth + 1)
    };
    let last = two.build(
        &world,
        room.rules,
        &room.id,
        Sketch::message(&bob, "after the gap"),
        vec![lost.pdu().event_id.clone()],
        events[0].pdu().auth_events.clone(),
        lost.pdu().depth + 1,
    );
    let now = world.now(&room).await;
    let state = world.rooms.whole_state(&now, now.head().state).await.unwrap();
    let mut ids: Vec<String> = state.iter().map(|event| event.id().to_string()).collect();
    assert!(ids.contains(&id(&join)));
    ids.push(id(&lost));
    world.net.answer("two.test", "/_matrix/federation/v1/get_missing_events/", 200, json!({ "events": [] }));
    let state_ids = json!({ "pdu_ids": ids, "auth_chain_ids": [] });
    world.net.answer("two.test", "/_matrix/federation/v1/state_ids/", 200, state_ids);
    let path = format!("/_matrix/federation/v1/event/{}", encoded(&id(&lost)).replace("%5F", "_").replace("%2D", "-"));
    world.net.answer("two.test", &path, 200, json!({ "origin": "two.test", "pdus": [value(&lost)] }));
    two.transact(&world, "t1", &[&last], &[]).await;
    world.federation.receive_due().await;
    assert_eq!(world.fate(&room, &id(&last)).await, None, "{:?}", world.net.asked.lock());
    let now = world.now(&room).await;
    let member = world.rooms.current(&now, "m.room.member", &carol).await.unwrap();
    assert_eq!(member.unwrap().id().as_str(), id(&lost));
}

#[tokio::test]
async fn fe6_other_servers_are_asked_when_the_sender_cannot_help() {
    let world = World::new().await;
    let room = world.room("10").await;
    let (two, three) = (Peer::new("two.test"), Peer::new("three.test"));
    two.join(&world, &room, "bob").await;
    three.join(&world, &room, "carol").await;
    let events = chain(&world, &room, &two, 3).await;
    let between: Vec<_> = events[..2].iter().map(value).collect();
    let path = "/_matrix/federation/v1/get_missing_events/";
    world.net.answer("two.test", path, 403, json!({ "errcode": "M_FORBIDDEN" }));
    world.net.answer("three.test", path, 200, json!({ "events": between }));
    two.transact(&world, "t1", &[&events[2]], &[]).await;
    world.federation.receive_due().await;
    assert_eq!(world.fate(&room, &id(&events[2])).await, None);
}

/// Who sends an event does not decide alone that what another said before it is lost, and no news when it comes.
#[tokio::test]
async fn fe6_what_is_between_is_asked_of_others_before_a_state_is_believed() {
    let world = World::new().await;
    let room = world.room("10").await;
    let (two, three) = (Peer::new("two.test"), Peer::new("three.test"));
    two.join(&world, &room, "bob").await;
    three.join(&world, &room, "bob").await;
    let said = chain(&world, &room, &three, 2).await;
    let auth = two.message(&world, &room, "bob", "unsent").await.pdu().auth_events.clone();
    let (bob, last) = (two.user("bob"), said[1].pdu());
    let message = Sketch::message(&bob, "after");
    let after = two.build(&world, room.rules, &room.id, message, vec![last.event_id.clone()], auth, last.depth + 1);
    let path = "/_matrix/federation/v1/get_missing_events/";
    let between: Vec<_> = said.iter().map(value).collect();
    world.net.answer("two.test", path, 200, json!({ "events": [] }));
    world.net.answer("three.test", path, 200, json!({ "events": between }));
    let now = world.now(&room).await;
    let state = world.rooms.whole_state(&now, now.head().state).await.unwrap();
    let ids: Vec<String> = state.iter().map(|event| event.id().to_string()).collect();
    let state_ids = json!({ "pdu_ids": ids, "auth_chain_ids": [] });
    world.net.answer("two.test", "/_matrix/federation/v1/state_ids/", 200, state_ids);
    two.transact(&world, "t1", &[&after], &[]).await;
    world.federation.receive_due().await;
    for event in said.iter().chain([&after]) {
        let now = world.now(&room).await;
        let event = world.rooms.event_by_id(&now, &id(event)).await.unwrap().unwrap();
        assert!(event.shown() && event.row.pos.is_some(), "{event:?} is no news");
    }
    assert_eq!(world.net.count("two.test", "/_matrix/federation/v1/state_ids/"), 0);
}

#[tokio::test]
async fn fe6_a_dead_end_drops_only_its_event_after_some_tries() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let events = chain(&world, &room, &two, 2).await;
    let other = world.room("10").await;
    two.join(&world, &other, "bob").await;
    let unrelated = two.message(&world, &other, "bob", "elsewhere").await;
    two.transact(&world, "t1", &[&events[1], &unrelated], &[]).await;
    world.federation.receive_due().await;
    assert_eq!(world.fate(&other, &id(&unrelated)).await, None, "another room is not held up");
    let good = two.message(&world, &room, "bob", "good").await;
    two.transact(&world, "t2", &[&good], &[]).await;
    world.federation.receive_due().await;
    assert_eq!(world.fate(&room, &id(&good)).await, None, "nor are other events of the room");
    for _ in 0..5 {
        assert_eq!(world.federation.dropped(&room.id, &id(&events[1])).await.unwrap(), None);
        world.clock.advance(7 * 60 * 60_000);
        world.federation.receive_due().await;
    }
    let reason = world.federation.dropped(&room.id, &id(&events[1])).await.unwrap().unwrap();
    assert!(reason.contains("two.test"), "{reason}");
    let asked = world.net.asked.lock().len();
    world.clock.advance(24 * 60 * 60_000);
    world.federation.receive_due().await;
    assert_eq!(world.net.asked.lock().len(), asked, "it is left alone now");
}

#[tokio::test]
async fn fe6_a_waiting_event_is_tried_again_and_outlives_the_process() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let events = chain(&world, &room, &two, 2).await;
    two.transact(&world, "t1", &[&events[1]], &[]).await;
    world.federation.receive_due().await;
    assert!(world.fate(&room, &id(&events[1])).await.is_some());
    let world = world.restarted().await;
    let path = "/_matrix/federation/v1/get_missing_events/";
    world.net.answer("two.test", path, 200, json!({ "events": [value(&events[0])] }));
    world.federation.receive_due().await;
    assert!(world.fate(&room, &id(&events[1])).await.is_some(), "not before its time");
    world.clock.advance(60_000);
    world.federation.receive_due().await;
    assert_eq!(world.fate(&room, &id(&events[1])).await, None);
}

/// SEC-verified-events.
#[tokio::test]
async fn fe6_a_hostile_answer_is_not_believed() {
    let world = World::new().await;
    let room = world.room("10").await;
    let (two, evil) = (Peer::new("two.test"), Peer::new("evil.test"));
    two.join(&world, &room, "bob").await;
    evil.join(&world, &room, "mallory").await;
    let other = world.room("10").await;
    evil.join(&world, &other, "mallory").await;
    let elsewhere = evil.message(&world, &other, "mallory", "of another room").await;
    let mut forged = value(&two.message(&world, &room, "bob", "forged").await);
    forged["content"] = json!({ "body": "not what was signed" });
    forged["signatures"]["two.test"] = json!({});
    let events = chain(&world, &room, &two, 2).await;
    let nonsense = json!({ "events": [value(&elsewhere), forged, 5, null, "x", { "type": [] }] });
    world.net.answer("evil.test", "/_matrix/federation/v1/get_missing_events/", 200, nonsense);
    world.net.answer("evil.test", "/_matrix/federation/v1/state_ids/", 200, json!({ "pdu_ids": ["x", 5] }));
    evil.transact(&world, "t1", &[&events[1]], &[]).await;
    world.federation.receive_due().await;
    assert!(world.fate(&room, &id(&events[1])).await.is_some());
    assert_eq!(world.fate(&other, &id(&elsewhere)).await.as_deref(), Some("unknown"));
    world.say(&room, "and we go on").await;
}

#[tokio::test]
async fn fe4_a_missing_auth_event_is_fetched() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    // A join that only two.test knows, on an old fork, by which a message is authorized.
    let carol = two.user("carol");
    let join = two.event(&world, &room, Sketch::member(&carol, "join")).await;
    let mut auth = join.pdu().auth_events.clone();
    let power = auth.clone();
    auth.push(join.pdu().event_id.clone());
    let join_rules: Vec<_> = {
        let now = world.now(&room).await;
        let rules = world.rooms.current(&now, "m.room.join_rules", "").await.unwrap().unwrap();
        vec![rules.id().clone()]
    };
    auth.retain(|id| !join_rules.contains(id));
    assert!(power.len() > auth.len() - 2);
    let message = two.build(
        &world,
        room.rules,
        &room.id,
        Sketch::message(&carol, "hello"),
        vec![join.pdu().event_id.clone()],
        auth,
        join.pdu().depth + 1,
    );
    let path = "/_matrix/federation/v1/get_missing_events/";
    world.net.answer("two.test", path, 200, json!({ "events": [value(&join)] }));
    two.transact(&world, "t1", &[&message], &[]).await;
    world.federation.receive_due().await;
    assert_eq!(world.fate(&room, &id(&message)).await, None);
}

#[tokio::test]
async fn fe6_what_stands_behind_one_gap_shares_its_fate() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let events = chain(&world, &room, &two, 12).await;
    let pdus: Vec<&Verified> = events[1..].iter().collect();
    two.transact(&world, "t1", &pdus, &[]).await;
    world.federation.receive_due().await;
    let path = "/_matrix/federation/v1/get_missing_events/";
    assert_eq!(world.net.count("two.test", path), 1, "one question for all");
    for _ in 0..5 {
        world.clock.advance(7 * 60 * 60_000);
        world.federation.receive_due().await;
    }
    for event in &events[1..] {
        assert!(world.federation.dropped(&room.id, &id(event)).await.unwrap().is_some());
    }
    assert_eq!(world.net.count("two.test", path), 6);
}

#[tokio::test]
async fn a_worker_can_be_a_task_and_ends_when_told() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let message = two.message(&world, &room, "bob", "hello").await;
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let federation = std::sync::Arc::clone(&world.federation);
    let worker = tokio::spawn(async move { federation.receive(stopping).await });
    two.transact(&world, "t1", &[&message], &[]).await;
    let mut entries = 0;
    while world.fate(&room, &id(&message)).await.is_some() {
        tokio::task::yield_now().await;
        entries += 1;
        assert!(entries < 1_000_000, "the worker never came");
    }
    stop.send_replace(true);
    worker.await.unwrap();
}
