//! Gaps that a hostile server opens: nobody but itself waits for them (behaviours FE4, FE6, FE7).

use std::sync::Arc;
use std::time::Duration;

use event::Verified;
use rooms::Room;
use serde_json::{Value, json};

use super::{EVENT, EVIL, GOOD, MISSING, STATE_IDS};
use crate::harness::{Answer, Peer, Sketch, World, id, value};

/// Events of a peer one after the other, of which none is known here; all but the first number are of no interest.
async fn chain(world: &World, room: &Room, peer: &Peer, name: &str, n: usize) -> Vec<Verified> {
    let sender = peer.user(name);
    let mut events = vec![peer.message(world, room, name, "0").await];
    for number in 1..n {
        let next = peer.after(world, room.rules, &events[number - 1], Sketch::message(&sender, &number.to_string()));
        events.push(next);
    }
    events
}

/// Two servers in a room, of which one is evil.
async fn scene(world: &World) -> (Arc<Room>, Peer, Peer) {
    let room = world.room("10").await;
    let (two, evil) = (Peer::new(GOOD), Peer::new(EVIL));
    two.join(world, &room, "bob").await;
    evil.join(world, &room, "mallory").await;
    (room, two, evil)
}

/// SEC-dead-peers.
#[tokio::test]
async fn fe6_who_never_answers_holds_up_nobody_else() {
    let world = World::new().await;
    let mut rooms = vec![scene(&world).await];
    for _ in 0..6 {
        rooms.push(scene(&world).await);
    }
    world.net.react(EVIL, MISSING, Answer::Never);
    let mut bad = Vec::new();
    for (number, (room, _, evil)) in rooms.iter().enumerate() {
        let chain = chain(&world, room, evil, "mallory", 2).await;
        evil.transact(&world, &format!("t{number}"), &[&chain[1]], &[]).await;
        bad.push(chain);
    }
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..federation::receive::WORKERS {
        let (federation, stopping) = (Arc::clone(&world.federation), stopping.clone());
        workers.spawn(async move { federation.receive(stopping).await });
    }
    let mut turns = 0;
    while world.net.count(EVIL, MISSING) == 0 {
        tokio::task::yield_now().await;
        turns += 1;
        assert!(turns < 1_000_000, "nobody asks what came before");
    }
    // In every one of the rooms, the same one that is waited for included.
    for (number, (room, two, _)) in rooms.iter().enumerate() {
        let message = two.message(&world, room, "bob", "hello").await;
        two.transact(&world, &format!("g{number}"), &[&message], &[]).await;
        let mut turns = 0;
        while world.fate(room, &id(&message)).await.is_some() {
            tokio::task::yield_now().await;
            turns += 1;
            assert!(turns < 100_000, "room {number} stands still");
        }
    }
    assert!(world.net.count(EVIL, MISSING) <= 4, "and few workers wait for one server");
    stop.send_replace(true);
    while workers.join_next().await.is_some() {}
}

/// SEC-gap-cost.
#[tokio::test]
async fn fe6_a_chain_without_end_is_not_followed() {
    let world = World::new().await;
    let (room, two, evil) = scene(&world).await;
    let events = chain(&world, &room, &evil, "mallory", 1_000).await;
    // Each answer tells of what came just before, and there is always more.
    for part in events[..999].rchunks(20) {
        let part: Vec<Value> = part.iter().map(value).collect();
        world.net.answer(EVIL, MISSING, 200, json!({ "events": part }));
    }
    world.net.answer(EVIL, STATE_IDS, 200, json!({ "pdu_ids": [], "auth_chain_ids": [] }));
    evil.transact(&world, "t1", &[&events[999]], &[]).await;
    world.federation.receive_due().await;
    let asked = world.net.asked.lock().len();
    assert!(asked <= 30, "{asked} requests for one event");
    let good = two.message(&world, &room, "bob", "good").await;
    two.transact(&world, "t1", &[&good], &[]).await;
    world.federation.receive_due().await;
    assert_eq!(world.fate(&room, &id(&good)).await, None);
    for _ in 0..6 {
        world.clock.advance(7 * 60 * 60_000);
        world.federation.receive_due().await;
    }
    assert!(world.federation.dropped(&room.id, &id(&events[999])).await.unwrap().is_some());
    let asked = world.net.asked.lock().len();
    assert!(asked <= 200, "{asked} requests until it is given up");
}

#[tokio::test(start_paused = true)]
async fn fe6_who_answers_slowly_is_not_waited_for_without_end() {
    let world = World::new().await;
    let (room, _, evil) = scene(&world).await;
    let sender = evil.user("mallory");
    let base = evil.message(&world, &room, "mallory", "base").await;
    // Ten forks, of which only the tips are ever told.
    let after =
        |before: &Verified, text: String| evil.after(&world, room.rules, before, Sketch::message(&sender, &text));
    let tips: Vec<Verified> =
        (0..10).map(|n| after(&after(&base, format!("hidden {n}")), format!("tip {n}"))).collect();
    let (prev, auth) = (tips.iter().map(|tip| tip.pdu().event_id.clone()).collect(), base.pdu().auth_events.clone());
    let depth = base.pdu().depth + 3;
    let last = evil.build(&world, room.rules, &room.id, Sketch::message(&sender, "last"), prev, auth, depth);

    let slowly = |body: Value| Answer::Late(Duration::from_secs(25), 200, body);
    world.net.react(EVIL, MISSING, slowly(json!({ "events": tips.iter().map(value).collect::<Vec<_>>() })));
    world.net.react(EVIL, MISSING, slowly(json!({ "events": [] })));
    // Each state has something that is known, and much that nobody has.
    for number in 0..10 {
        let made_up = (0..50).map(|event| format!("${}abc", format!("{:04}", number * 50 + event).repeat(10)));
        let state: Vec<String> = made_up.chain([room.create.event_id.to_string()]).collect();
        world.net.react(EVIL, STATE_IDS, slowly(json!({ "pdu_ids": state, "auth_chain_ids": [] })));
    }
    world.net.react(EVIL, EVENT, slowly(json!({ "pdus": [] })));
    evil.transact(&world, "t1", &[&last], &[]).await;
    let start = tokio::time::Instant::now();
    world.federation.receive_due().await;
    let took = start.elapsed().as_secs();
    assert!((590..=610).contains(&took), "{took} s for one event");
    assert!(world.fate(&room, &id(&last)).await.is_some(), "it still waits");
}

/// What an evil server may answer when it is asked for what came before.
fn nonsense(good: &Verified) -> Vec<Value> {
    let forged = |change: &dyn Fn(&mut Value)| {
        let mut event = value(good);
        change(&mut event);
        event
    };
    let list = |events: Value| json!({ "events": events, "pdus": events, "auth_chain": events });
    vec![
        json!([]),
        json!("x"),
        json!({ "events": 5 }),
        json!({ "events": {}, "pdus": {}, "pdu_ids": {}, "auth_chain_ids": {} }),
        list(json!([null, 5, "x", [], {}])),
        list(json!(vec![value(good); 500])),
        list(json!([forged(&|event| event["signatures"] = json!({}))])),
        list(json!([forged(&|event| event["hashes"] = json!({}))])),
        list(json!([forged(&|event| event["depth"] = json!(1_u64 << 60))])),
        list(json!([forged(&|event| event["prev_events"] = json!(vec!["$x"; 100]))])),
        list(json!([forged(&|event| event["auth_events"] = json!([event["room_id"]]))])),
        list(json!([forged(&|event| event["content"]["x"] = json!("x".repeat(100_000)))])),
        json!({ "pdu_ids": vec!["$x"; 10_000], "auth_chain_ids": ["", "$", "x".repeat(10_000)], "events": [] }),
        json!({ "pdu_ids": [id(good), id(good)], "auth_chain_ids": [id(good)], "events": [] }),
    ]
}

/// SEC-state-shrinking, SEC-verified-events.
#[tokio::test]
async fn fe6_no_answer_spoils_the_room() {
    let world = World::new().await;
    let (room, two, evil) = scene(&world).await;
    let other = world.room("10").await;
    evil.join(&world, &other, "mallory").await;
    let elsewhere = evil.message(&world, &other, "mallory", "elsewhere").await;
    let state_before = {
        let now = world.now(&room).await;
        world.rooms.whole_state(&now, now.head().state).await.unwrap().len()
    };
    for (number, answer) in nonsense(&elsewhere).into_iter().enumerate() {
        world.net.clear(EVIL, "/");
        world.net.answer(EVIL, "/_matrix/federation/", 200, answer.clone());
        let events = chain(&world, &room, &evil, "mallory", 2).await;
        evil.transact(&world, &format!("t{number}"), &[&events[1]], &[]).await;
        world.federation.receive_due().await;
        assert!(world.fate(&room, &id(&events[1])).await.is_some(), "{answer}");
        let good = two.message(&world, &room, "bob", &number.to_string()).await;
        two.transact(&world, &format!("t{number}"), &[&good], &[]).await;
        world.federation.receive_due().await;
        assert_eq!(world.fate(&room, &id(&good)).await, None, "{answer}");
        world.clock.advance(60 * 60_000);
        world.federation.receive_due().await;
    }
    assert_eq!(world.fate(&other, &id(&elsewhere)).await.as_deref(), Some("unknown"));
    let now = world.now(&room).await;
    // 1.15.2 of Synapse, July 2020: no told state makes ours smaller.
    assert_eq!(world.rooms.whole_state(&now, now.head().state).await.unwrap().len(), state_before);
}

/// A peer tells a state with little in it, or with what it made up: what this room has does not go.
/// SEC-state-shrinking.
#[tokio::test]
async fn fe6_a_told_state_takes_nothing_away() {
    for version in ["6", "11", "12"] {
        let world = World::new().await;
        let room = world.room(version).await;
        let (two, evil) = (Peer::new(GOOD), Peer::new(EVIL));
        two.join(&world, &room, "bob").await;
        let join = evil.join(&world, &room, "mallory").await;
        world.set(&room, "m.room.name", json!({ "name": "ours" })).await;
        let current = async || {
            let now = world.now(&room).await;
            let state = world.rooms.whole_state(&now, now.head().state).await.unwrap();
            let mut ids: Vec<String> = state.iter().map(|event| event.id().to_string()).collect();
            ids.sort();
            ids
        };
        let before = current().await;
        let events = chain(&world, &room, &evil, "mallory", 2).await;
        // Only what Mallory's message cites, and levels that Mallory made.
        let mallory = evil.user("mallory");
        let content = json!({ "users": { &mallory: 100 }, "ban": 0 });
        let power = Sketch { sender: &mallory, kind: "m.room.power_levels", state_key: Some(""), content };
        let power = evil.event(&world, &room, power).await;
        let mut told: Vec<String> = join.pdu().auth_events.iter().map(ToString::to_string).collect();
        told.extend([room.create.event_id.to_string(), id(&join), id(&power)]);
        world.net.answer(EVIL, MISSING, 200, json!({ "events": [] }));
        world.net.answer(EVIL, STATE_IDS, 200, json!({ "pdu_ids": told, "auth_chain_ids": [] }));
        world.net.answer(EVIL, EVENT, 200, json!({ "pdus": [value(&power)] }));
        evil.transact(&world, "t1", &[&events[1]], &[]).await;
        world.federation.receive_due().await;
        assert_eq!(world.fate(&room, &id(&events[1])).await, None, "{version}: {:?}", world.net.asked.lock());
        assert_eq!(current().await, before, "{version}");
        world.say(&room, "and we go on").await;
        let good = two.message(&world, &room, "bob", "so do we").await;
        two.transact(&world, "t1", &[&good], &[]).await;
        world.federation.receive_due().await;
        assert_eq!(world.fate(&room, &id(&good)).await, None, "{version}");
    }
}

/// FE4: what waits for an auth event is not rejected for its absence, however late it comes, and is judged then.
#[tokio::test]
async fn fe4_an_event_whose_auth_events_come_late_is_accepted_then() {
    let world = World::new().await;
    let (room, two, _) = scene(&world).await;
    let dan = two.user("dan");
    let join = two.event(&world, &room, Sketch::member(&dan, "join")).await;
    let mut auth = join.pdu().auth_events.clone();
    let rules = world.now(&room).await;
    let rules = world.rooms.current(&rules, "m.room.join_rules", "").await.unwrap().unwrap();
    auth.retain(|id| id != rules.id());
    auth.push(join.pdu().event_id.clone());
    let pdu = join.pdu();
    let sketch = Sketch::message(&dan, "hello");
    let said = two.build(&world, room.rules, &room.id, sketch, vec![pdu.event_id.clone()], auth, pdu.depth + 1);
    two.transact(&world, "t1", &[&said], &[]).await;
    world.federation.receive_due().await;
    for _ in 0..6 {
        world.clock.advance(7 * 60 * 60_000);
        world.federation.receive_due().await;
    }
    assert!(world.federation.dropped(&room.id, &id(&said)).await.unwrap().is_some(), "nobody helped");
    let world = world.restarted().await;
    two.transact(&world, "t2", &[&join], &[]).await;
    world.federation.receive_due().await;
    assert_eq!(world.fate(&room, &id(&join)).await, None);
    assert_eq!(world.fate(&room, &id(&said)).await, None, "it was kept, and is judged now");
}

/// Several servers send, and are asked for, the same events at the same time.
#[tokio::test]
async fn fe7_by_several_paths_an_event_comes_once() {
    let world = World::new().await;
    let (room, two, evil) = scene(&world).await;
    let events = chain(&world, &room, &two, "bob", 6).await;
    let between: Vec<Value> = events[..5].iter().map(value).collect();
    let twice = [between.clone(), between].concat();
    for server in [GOOD, EVIL] {
        world.net.answer(server, MISSING, 200, json!({ "events": twice }));
    }
    two.transact(&world, "t1", &[&events[5], &events[3]], &[]).await;
    evil.transact(&world, "t1", &[&events[5], &events[5], &events[4]], &[]).await;
    world.federation.receive_due().await;
    two.transact(&world, "t2", &[&events[0], &events[5]], &[]).await;
    world.federation.receive_due().await;
    let now = world.now(&room).await;
    let newest = world.rooms.newest(&now, store::StreamPosition::ZERO, world.store.watermark(), 100).await.unwrap();
    let ids: Vec<String> = newest.iter().map(|event| event.id().to_string()).collect();
    for event in &events {
        assert_eq!(ids.iter().filter(|one| **one == id(event)).count(), 1);
    }
}
