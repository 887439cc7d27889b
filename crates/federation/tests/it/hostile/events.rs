//! Events that break the rules of their room, and what becomes of them (behaviours FE2, FE3, FE5, FE8, FE9, FE11).

use event::{Object, Template, Verified};
use http::Method;
use rooms::timeline::{Direction, PageQuery};
use rooms::visibility::Viewer;
use rooms::{Room, flags};
use ruma_common::OwnedEventId;
use serde_json::{Value, json};
use store::StreamPosition;

use super::{EVIL, Elsewhere, GOOD};
use crate::harness::{Peer, Sketch, World, encoded, id, user, value};

/// Sends events in one transaction and takes them into their rooms.
async fn send(world: &World, peer: &Peer, events: &[&Verified]) {
    let txn_id = format!("e{}", store::Clock::now_ms(world.clock.as_ref()));
    peer.transact(world, &txn_id, events, &[]).await;
    world.federation.receive_due().await;
}

async fn flags_of(world: &World, room: &Room, event: &Verified) -> i64 {
    let room = world.now(room).await;
    world.rooms.event_by_id(&room, &id(event)).await.unwrap().unwrap().row.flags
}

/// The ids that the timeline shows.
async fn shown(world: &World, room: &Room) -> Vec<String> {
    let room = world.now(room).await;
    let newest = world.rooms.newest(&room, StreamPosition::ZERO, world.store.watermark(), 100).await.unwrap();
    newest.iter().map(|event| event.id().to_string()).collect()
}

async fn extremities(world: &World, room: &Room) -> Vec<String> {
    world.now(room).await.head().extremities.iter().map(|one| one.id.to_string()).collect()
}

async fn current_id(world: &World, room: &Room, kind: &str, state_key: &str) -> Option<OwnedEventId> {
    let room = world.now(room).await;
    world.rooms.current(&room, kind, state_key).await.unwrap().map(|event| event.id().clone())
}

/// Bob sets the topic without the right to.
async fn topic(world: &World, peer: &Peer, room: &Room, topic: &str) -> Verified {
    let bob = peer.user("bob");
    let content = json!({ "topic": topic });
    peer.event(world, room, Sketch { sender: &bob, kind: "m.room.topic", state_key: Some(""), content }).await
}

/// SEC-rejected-events.
#[tokio::test]
async fn fe3_a_rejected_event_is_stored_hidden_and_no_extremity() {
    for version in ["1", "6", "10", "12"] {
        let world = World::new().await;
        let room = world.room(version).await;
        let two = Peer::new(GOOD);
        two.join(&world, &room, "bob").await;
        let bad = topic(&world, &two, &room, "taken over").await;
        // To have a rejected event before it is no fault.
        let after = two.after(&world, room.rules, &bad, Sketch::message(&two.user("bob"), "after"));
        send(&world, &two, &[&bad, &after]).await;
        assert_ne!(flags_of(&world, &room, &bad).await & flags::REJECTED, 0, "{version}");
        assert_eq!(world.fate(&room, &id(&after)).await, None, "{version}");
        assert_eq!(current_id(&world, &room, "m.room.topic", "").await, None, "{version}");
        assert_eq!(extremities(&world, &room).await, [id(&after)], "{version}");
        let shown = shown(&world, &room).await;
        assert!(shown.contains(&id(&after)) && !shown.contains(&id(&bad)), "{version}");
        // CVE-2022-39374: nor is it in any state that others are told.
        let path = format!("/_matrix/federation/v1/state_ids/{}?event_id={}", encoded(&room.id), encoded(&id(&after)));
        let (status, answer) = two.get(&world, &path).await;
        assert_eq!(status, 200);
        assert!(!answer.to_string().contains(&id(&bad)), "{answer}");
        // Nor does it come back by another way.
        send(&world, &Peer::new("three.test"), &[&bad]).await;
        assert_eq!(current_id(&world, &room, "m.room.topic", "").await, None, "{version}");
    }
}

/// SEC-power-levels.
#[tokio::test]
async fn rv10_power_levels_that_are_no_integers_are_stored_as_rejected() {
    for (version, allowed) in [("9", true), ("10", false), ("11", false), ("12", false)] {
        let world = World::new().await;
        let room = world.room(version).await;
        let two = Peer::new(GOOD);
        two.join(&world, &room, "bob").await;
        let bob = two.user("bob");
        let mut users = json!({ &bob: 100 });
        if !room.rules.privileged_creators {
            users[world.user("alice").as_str()] = 100.into();
        }
        let before = world.set(&room, "m.room.power_levels", json!({ "users": users })).await;
        for content in [
            json!({ "users": users, "ban": "50" }),
            json!({ "users": users, "events": { "m.room.topic": "50" } }),
            json!({ "users": users, "notifications": { "room": "50" } }),
        ] {
            let sketch = Sketch { sender: &bob, kind: "m.room.power_levels", state_key: Some(""), content };
            let levels = two.event(&world, &room, sketch).await;
            send(&world, &two, &[&levels]).await;
            let case = format!("{version}: {}", value(&levels)["content"]);
            let rejected = flags_of(&world, &room, &levels).await & flags::REJECTED != 0;
            assert_eq!(rejected, !allowed, "{case}");
            let current = current_id(&world, &room, "m.room.power_levels", "").await.unwrap();
            assert_eq!(current, if allowed { levels.pdu().event_id.clone() } else { before.clone() }, "{case}");
        }
    }
}

/// SEC-rejected-events.
#[tokio::test]
async fn fe3_what_cites_a_rejected_event_is_rejected() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new(GOOD);
    let join = two.join(&world, &room, "bob").await;
    let bob = two.user("bob");
    // Bob makes himself powerful, and acts by that.
    let content = json!({ "users": { &bob: 100 } });
    let power = Sketch { sender: &bob, kind: "m.room.power_levels", state_key: Some(""), content };
    let power = two.event(&world, &room, power).await;
    let mut auth = join.pdu().auth_events.clone();
    let old = current_id(&world, &room, "m.room.power_levels", "").await.unwrap();
    auth.retain(|id| *id != old);
    auth.push(power.pdu().event_id.clone());
    auth.push(join.pdu().event_id.clone());
    let rules = current_id(&world, &room, "m.room.join_rules", "").await.unwrap();
    auth.retain(|id| *id != rules);
    let sketch =
        Sketch { sender: &bob, kind: "m.room.topic", state_key: Some(""), content: json!({ "topic": "mine" }) };
    let prev = vec![power.pdu().event_id.clone()];
    let act = two.build(&world, room.rules, &room.id, sketch, prev, auth, power.pdu().depth + 1);
    send(&world, &two, &[&power, &act]).await;
    for event in [&power, &act] {
        assert_ne!(flags_of(&world, &room, event).await & flags::REJECTED, 0);
    }
    assert_eq!(current_id(&world, &room, "m.room.power_levels", "").await, Some(old));
    assert_eq!(current_id(&world, &room, "m.room.topic", "").await, None);
    // CVE-2026-45076: pages go on behind what is rejected.
    let shown = shown(&world, &room).await;
    assert!(!shown.contains(&id(&power)) && shown.contains(&id(&join)));
}

/// SEC-state-resets.
#[tokio::test]
async fn fe8_auth_events_that_are_not_those_of_the_event_reject_it() {
    for version in ["1", "6", "11", "12"] {
        let world = World::new().await;
        let (room, other) = (world.room(version).await, world.room(version).await);
        let two = Peer::new(GOOD);
        let first = two.join(&world, &room, "bob").await;
        two.join(&world, &other, "bob").await;
        let bob = two.user("bob");
        let again = two.event(&world, &room, Sketch::member(&bob, "join")).await;
        send(&world, &two, &[&again]).await;
        let name = world.set(&room, "m.room.name", json!({ "name": "x" })).await;
        let good = two.message(&world, &room, "bob", "good").await;
        let of_other = two.message(&world, &other, "bob", "elsewhere").await;
        let create = room.create.event_id.clone();
        let auth = good.pdu().auth_events.clone();
        let with = |more: &OwnedEventId| [auth.clone(), vec![more.clone()]].concat();
        let without = |less: &OwnedEventId| auth.iter().filter(|id| *id != less).cloned().collect::<Vec<_>>();
        let foreign = of_other.pdu().auth_events.clone();
        let member = again.pdu().event_id.clone();
        let mut cases = vec![
            ("twice the same key", with(&first.pdu().event_id)),
            ("what has nothing to do with it", with(&name)),
            ("without the sender's membership", without(&member)),
            ("nothing at all", Vec::new()),
        ];
        match room.rules.special_create {
            true => cases.push(("the create event, which is implied", with(&create))),
            false => cases.push(("without the create event", without(&create))),
        }
        for (why, auth) in cases {
            let pdu = good.pdu();
            let sketch = Sketch::message(&bob, why);
            let event = two.build(&world, room.rules, &room.id, sketch, pdu.prev_events.clone(), auth, pdu.depth);
            send(&world, &two, &[&event]).await;
            assert_ne!(flags_of(&world, &room, &event).await & flags::REJECTED, 0, "{version}: {why}");
            assert!(!shown(&world, &room).await.contains(&id(&event)));
        }
        // CVE-2025-49090: those of another room are not found in this one, whatever is known elsewhere.
        let pdu = good.pdu();
        let sketch = Sketch::message(&bob, "by the right of another room");
        let event = two.build(&world, room.rules, &room.id, sketch, pdu.prev_events.clone(), foreign, pdu.depth);
        send(&world, &two, &[&event]).await;
        assert!(world.fate(&room, &id(&event)).await.is_some(), "{version}");
        send(&world, &two, &[&good]).await;
        assert_eq!(world.fate(&room, &id(&good)).await, None, "{version}");
    }
}

/// SEC-rejected-events.
#[tokio::test]
async fn fe5_a_soft_failed_event_is_hidden_until_others_build_on_it() {
    let world = World::new().await;
    let room = world.room("10").await;
    let (two, three) = (Peer::new(GOOD), Peer::new("three.test"));
    two.join(&world, &room, "bob").await;
    let join = three.join(&world, &room, "dan").await;
    let before = two.message(&world, &room, "bob", "as if before the ban").await;
    world.rooms.ban(&room.id, &user("alice"), &two.user("bob").as_str().into(), None).await.unwrap();
    send(&world, &two, &[]).await;
    let extremity = extremities(&world, &room).await;
    send(&world, &three, &[&before]).await;
    assert_eq!(flags_of(&world, &room, &before).await & flags::HIDDEN, flags::SOFT_FAILED);
    assert_eq!(extremities(&world, &room).await, extremity, "nothing of ours builds on it");
    assert!(!shown(&world, &room).await.contains(&id(&before)));
    // Who asks for it gets it.
    let (status, answer) = three.get(&world, &format!("/_matrix/federation/v1/event/{}", encoded(&id(&before)))).await;
    assert_eq!((status.as_u16(), &answer["pdus"][0]["type"]), (200, &json!("m.room.message")), "{answer}");
    // Somebody whose server let it pass builds on it.
    let prev = vec![before.pdu().event_id.clone(), OwnedEventId::try_from(extremity[0].as_str()).unwrap()];
    let dan = three.user("dan");
    let mut auth = before.pdu().auth_events.clone();
    let bobs = current_member(before.pdu().auth_events.as_slice(), &world, &room, &two.user("bob")).await;
    auth.retain(|id| *id != bobs);
    auth.push(join.pdu().event_id.clone());
    let depth = before.pdu().depth + 5;
    let after = three.build(&world, room.rules, &room.id, Sketch::message(&dan, "after"), prev, auth, depth);
    send(&world, &three, &[&after]).await;
    assert_eq!(world.fate(&room, &id(&after)).await, None);
    assert_eq!(extremities(&world, &room).await, [id(&after)]);
    assert!(!shown(&world, &room).await.contains(&id(&before)), "it stays hidden");
    // Asked for what came before, we tell of it, since the graph has a hole without it.
    let path = format!("/_matrix/federation/v1/get_missing_events/{}", encoded(&room.id));
    let body = json!({ "earliest_events": [], "latest_events": [id(&after)], "limit": 5 });
    let (_, answer) = three.ask(&world, Method::POST, &path, Some(body)).await;
    assert!(answer.to_string().contains("as if before the ban"), "{answer}");
}

/// The one of these events that is a user's membership.
async fn current_member(ids: &[OwnedEventId], world: &World, room: &Room, user: &str) -> OwnedEventId {
    let room = world.now(room).await;
    for id in ids {
        let event = world.rooms.event_by_id(&room, id.as_str()).await.unwrap().unwrap();
        if event.pdu.state_key.as_deref() == Some(user) {
            return id.clone();
        }
    }
    panic!("{user} is not among them")
}

/// A redaction by a peer's user of an event that need not be known.
async fn redaction(world: &World, peer: &Peer, room: &Room, sender: &str, target: &str) -> Verified {
    let sketch = Sketch { sender, kind: "m.room.redaction", state_key: None, content: json!({}) };
    let model = peer.event(world, room, sketch).await;
    let pdu = model.pdu();
    let template = Template {
        room_id: Some(room.id.as_str().try_into().unwrap()),
        sender: sender.to_owned(),
        kind: "m.room.redaction".to_owned(),
        content: Object::new(),
        redacts: Some(target.try_into().unwrap()),
        prev_events: pdu.prev_events.clone(),
        auth_events: pdu.auth_events.clone(),
        depth: pdu.depth,
        origin_server_ts: pdu.origin_server_ts,
        ..Template::default()
    };
    event::build(room.rules, template, &peer.key, &peer.name).unwrap()
}

/// SEC-redaction.
#[tokio::test]
async fn fe9_a_redaction_waits_for_its_target_and_needs_the_right_to_it() {
    for version in ["3", "10", "11", "12"] {
        let world = World::new().await;
        let room = world.room(version).await;
        let (two, evil) = (Peer::new(GOOD), Peer::new(EVIL));
        two.join(&world, &room, "bob").await;
        evil.join(&world, &room, "mallory").await;
        let (bob, mallory) = (two.user("bob"), evil.user("mallory"));
        let said = two.message(&world, &room, "bob", "secret").await;
        let kept = two.message(&world, &room, "bob", "kept").await;
        let good = redaction(&world, &two, &room, &bob, &id(&said)).await;
        let bad = redaction(&world, &evil, &room, &mallory, &id(&kept)).await;
        let nothing = redaction(&world, &evil, &room, &mallory, "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").await;
        send(&world, &two, &[&good]).await;
        send(&world, &evil, &[&bad, &nothing]).await;
        assert!(!shown(&world, &room).await.contains(&id(&good)), "{version}: its target has not come");
        send(&world, &two, &[&said, &kept]).await;
        let now = world.now(&room).await;
        let content = async |event: &Verified| {
            world.rooms.event_by_id(&now, &id(event)).await.unwrap().unwrap().pdu.content.clone()
        };
        assert!(content(&said).await.is_empty(), "{version}");
        assert_eq!(content(&kept).await["body"].as_str(), Some("kept"), "{version}: Mallory may not");
        let shown = shown(&world, &room).await;
        assert!(shown.contains(&id(&good)) && !shown.contains(&id(&bad)), "{version}");
    }
}

/// A peer that sends the redacted copy of an event first, or a copy whose content was changed, does not spoil ours.
#[tokio::test]
async fn fe9_a_redacted_copy_takes_the_place_of_nothing() {
    let world = World::new().await;
    let room = world.room("10").await;
    let (two, evil) = (Peer::new(GOOD), Peer::new(EVIL));
    two.join(&world, &room, "bob").await;
    evil.join(&world, &room, "mallory").await;
    let said = two.message(&world, &room, "bob", "whole").await;
    send(&world, &two, &[&said]).await;
    let mut changed = value(&said);
    changed["content"] = json!({});
    let body = json!({ "pdus": [changed], "edus": [] });
    let (status, _) = evil.ask(&world, Method::PUT, "/_matrix/federation/v1/send/t1", Some(body)).await;
    assert_eq!(status, 200);
    world.federation.receive_due().await;
    let now = world.now(&room).await;
    let stored = world.rooms.event_by_id(&now, &id(&said)).await.unwrap().unwrap();
    assert_eq!(stored.pdu.content["body"].as_str(), Some("whole"));
}

/// SEC-poison-events.
#[tokio::test]
async fn fe11_our_events_name_what_they_must() {
    let depth_max = (1 << 53) - 1;
    for version in ["1", "5", "6", "12"] {
        let world = World::new().await;
        let room = world.room(version).await;
        let two = Peer::new(GOOD);
        two.join(&world, &room, "bob").await;
        let forks: Vec<Verified> = {
            let base = two.message(&world, &room, "bob", "base").await;
            let fork = |n: i64| {
                let pdu = base.pdu();
                let sketch = Sketch::message(pdu.sender.as_str(), &n.to_string());
                let (prev, auth) = (pdu.prev_events.clone(), pdu.auth_events.clone());
                two.build(&world, room.rules, &room.id, sketch, prev, auth, if n == 7 { depth_max } else { pdu.depth })
            };
            (0..30).map(fork).collect()
        };
        for forks in forks.chunks(10) {
            send(&world, &two, &forks.iter().collect::<Vec<_>>()).await;
        }
        let before = extremities(&world, &room).await;
        assert_eq!(before.len(), 30, "{version}");
        let said = world.say(&room, "now").await;
        let now = world.now(&room).await;
        let ours = world.rooms.event_by_id(&now, said.as_str()).await.unwrap().unwrap();
        let mut prev: Vec<&str> = ours.pdu.prev_events.iter().map(|id| id.as_str()).collect();
        prev.dedup();
        assert_eq!(prev.len(), 20, "{version}: as many as may be");
        assert!(prev.iter().all(|id| before.iter().any(|known| known == id)));
        assert_eq!(extremities(&world, &room).await.len(), 11, "{version}: ten are left, and this one");
        let pairs =
            event::auth_rules::auth_types(room.rules, "@alice:one.test", "m.room.message", None, &Object::new());
        let mut expected = Vec::new();
        for (kind, state_key) in pairs {
            expected.extend(current_id(&world, &room, &kind, &state_key).await);
        }
        let mut auth = ours.pdu.auth_events.clone();
        expected.sort();
        auth.sort();
        assert_eq!(auth, expected, "{version}");
        let deepest = forks.iter().filter(|event| prev.contains(&event.pdu().event_id.as_str()));
        let deepest = deepest.map(|event| event.pdu().depth).max().unwrap();
        assert_eq!(ours.pdu.depth, deepest.saturating_add(1).min(depth_max), "{version}");
        world.say(&room, "and again").await;
        assert_eq!(extremities(&world, &room).await.len(), 1, "{version}");
    }
}

/// FE2 in order: each check decides only what the ones before it let pass.
#[tokio::test]
async fn fe2_the_checks_come_in_order() {
    let world = World::new().await;
    let room = world.room("11").await;
    let two = Peer::new(GOOD);
    two.join(&world, &room, "bob").await;
    let bob = two.user("bob");
    let good = two.message(&world, &room, "bob", "good").await;
    let change = |name: &str, content: Value| {
        let mut event = value(&good);
        event[name] = content;
        event
    };
    // A wrong format is told although the signature is wrong too; a wrong signature although the content is.
    let mut unsigned = change("content", json!({ "body": "changed" }));
    unsigned["signatures"][GOOD][two.key.key_id()] = json!("A".repeat(86));
    let cases = [(change("depth", json!("deep")), "unknown"), (unsigned, "unknown")];
    for (number, (event, expected)) in cases.into_iter().enumerate() {
        let body = json!({ "pdus": [event], "edus": [] });
        let path = format!("/_matrix/federation/v1/send/o{number}");
        let (status, answer) = two.ask(&world, Method::PUT, &path, Some(body)).await;
        assert_eq!(status, 200);
        let results = answer["pdus"].as_object().unwrap();
        assert!(results.values().all(|result| result["error"].is_string()), "{answer}");
        world.federation.receive_due().await;
        assert_eq!(world.fate(&room, &id(&good)).await.as_deref(), Some(expected));
    }
    // By its own auth events it passes; by the state before it, it does not: rejected. Bob has left in between.
    let leave = two.event(&world, &room, Sketch::member(&bob, "leave")).await;
    let after = two.after(&world, room.rules, &leave, Sketch::message(&bob, "gone"));
    let auth = good.pdu().auth_events.clone();
    let pdu = after.pdu();
    let sketch = Sketch::message(&bob, "gone");
    let after = two.build(&world, room.rules, &room.id, sketch, pdu.prev_events.clone(), auth.clone(), pdu.depth);
    // By the state before it too; by the current state it does not: soft-failed.
    send(&world, &two, &[&leave, &after, &good]).await;
    assert_eq!(flags_of(&world, &room, &after).await & flags::HIDDEN, flags::REJECTED);
    assert_eq!(flags_of(&world, &room, &good).await & flags::HIDDEN, flags::SOFT_FAILED);
}

/// SEC-hidden-history: many rejected events in a row hide nothing that stands before them, from clients or servers.
#[tokio::test]
async fn fe3_a_wall_of_rejected_events_ends_no_history() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new(GOOD);
    two.join(&world, &room, "bob").await;
    let before = world.say(&room, "before").await;
    let mut last = two.message(&world, &room, "bob", "first of them").await;
    send(&world, &two, &[&last]).await;
    let bob = two.user("bob");
    for _ in 0..6 {
        let mut wall = Vec::new();
        for _ in 0..50 {
            let content = json!({ "topic": wall.len() });
            let sketch = Sketch { sender: &bob, kind: "m.room.topic", state_key: Some(""), content };
            let next = two.after(&world, room.rules, &last, sketch);
            wall.push(next.clone());
            last = next;
        }
        send(&world, &two, &wall.iter().collect::<Vec<_>>()).await;
        assert_ne!(flags_of(&world, &room, &last).await & flags::REJECTED, 0);
    }
    let after = two.after(&world, room.rules, &last, Sketch::message(&bob, "after"));
    send(&world, &two, &[&after]).await;
    let shown = shown(&world, &room).await;
    assert!(shown.contains(&id(&after)) && shown.contains(&before.to_string()), "{shown:?}");
    let now = world.now(&room).await;
    let query = PageQuery { from: world.rooms.live_end(&now), direction: Direction::Backward, until: None, limit: 3 };
    let alice = world.user("alice");
    let mut viewer = Viewer::new(&world.rooms, &now, &alice).await.unwrap();
    let page = world.rooms.page(&now, query, &mut viewer, |_| true).await.unwrap();
    let texts: Vec<_> =
        page.events.iter().map(|event| event.pdu.content["body"].as_str().unwrap_or_default()).collect();
    assert_eq!(texts, ["after", "first of them", "before"]);
    assert!(page.end.is_some());
}

/// SEC-odd-keys: keys that mean something to some language are kept, told and sent as they are.
#[tokio::test]
async fn keys_that_mean_something_elsewhere_are_only_keys() {
    let world = World::new().await;
    let room = world.room("11").await;
    let (two, three) = (Peer::new(GOOD), Peer::new("three.test"));
    two.join(&world, &room, "bob").await;
    three.join(&world, &room, "dan").await;
    let odd = ["__proto__", "constructor", "prototype", "toString", "", "\u{0}", "$ref", "a.b", "\u{202e}", "😀"];
    let mut content = json!({ "body": "x", "msgtype": "m.text" });
    for key in odd {
        content[key] = json!({ "__proto__": { "polluted": true }, key: key });
    }
    let bob = two.user("bob");
    let message = Sketch { content: content.clone(), ..Sketch::message(&bob, "") };
    let message = two.event(&world, &room, message).await;
    send(&world, &two, &[&message]).await;
    assert_eq!(world.fate(&room, &id(&message)).await, None);
    let (_, answer) = three.get(&world, &format!("/_matrix/federation/v1/event/{}", encoded(&id(&message)))).await;
    assert_eq!(answer["pdus"][0]["content"], content);
    // As types and state keys they need the right to it, and are that.
    let levels = json!({ "users": { "@alice:one.test": 100, &bob: 100 } });
    world.set(&room, "m.room.power_levels", levels).await;
    for key in odd {
        let state = Sketch { sender: &bob, kind: "__proto__", state_key: Some(key), content: json!({ key: 1 }) };
        let state = two.event(&world, &room, state).await;
        send(&world, &two, &[&state]).await;
        assert_eq!(current_id(&world, &room, "__proto__", key).await.as_ref(), Some(&state.pdu().event_id), "{key:?}");
    }
}

/// SEC-outliers: an event that is only part of another's state is told to servers in the room, which need it to make up the
/// state, and to nobody else. Of a state before it nothing is told: none is known.
#[tokio::test]
async fn fe10_what_is_only_part_of_a_state_is_not_told() {
    let world = World::new().await;
    let mut room = Elsewhere::new(&world, EVIL, "10");
    let two = Peer::new(GOOD);
    let bob = two.user("bob");
    let join = room.next(&world, &two, Sketch::member(&bob, "join"));
    room.state.insert(("m.room.member".to_owned(), bob.clone()), join.clone());
    room.last = join;
    let name = room.set(&world, "m.room.name", json!({ "name": "secret" }));
    room.set(&world, "m.room.history_visibility", json!({ "history_visibility": "joined" }));
    room.serve_join(&world, user("alice").as_str());
    let none = Object::new();
    world.handshakes.join(&room.room_id, &user("alice"), &[EVIL.to_owned()], &none).await.unwrap();
    let here = world.rooms.room(&room.room_id).await.unwrap().unwrap();
    assert!(here.has_server(GOOD));
    assert_ne!(flags_of(&world, &here, &name).await & flags::OUTLIER, 0);
    let ask = async |peer: &Peer, what: &str, event_id: &str| {
        let path = what.replace("ROOM", &encoded(&room.room_id)).replace("EVENT", &encoded(event_id));
        peer.get(&world, &format!("/_matrix/federation/v1/{path}")).await
    };
    let three = Peer::new("three.test");
    assert_eq!(ask(&three, "event/EVENT", &id(&name)).await, ask(&three, "event/EVENT", "$unknown").await);
    assert_eq!(ask(&two, "event/EVENT", &id(&name)).await.1["pdus"][0]["content"], json!({ "name": "secret" }));
    for what in ["state/ROOM?event_id=EVENT", "state_ids/ROOM?event_id=EVENT"] {
        for peer in [&two, &three] {
            let (status, answer) = ask(peer, what, &id(&name)).await;
            assert!(matches!(status.as_u16(), 403 | 404), "{what}: {status} {answer}");
        }
    }
}
