//! A room is joined through another server.

use std::sync::Arc;

use rooms::{Accepted, Error, Preset, flags};
use serde_json::json;
use store::StreamPosition;
use store::tables::rooms::RemoteRoomRow;

use super::{Server, empty, join, make_join, received, send_join, state, two};
use crate::graphs::check_memberships;
use crate::harness::{history, room_of};

#[tokio::test]
async fn fj_a_joined_room_is_what_the_resident_has() {
    for version in ["1", "4", "6", "10", "11", "12"] {
        let (one, two, room_id) = two(version).await;
        assert_eq!(one.current(&room_id).await, two.current(&room_id).await, "version {version}");
        let room = two.room(&room_id).await;
        check_memberships(&two.rooms, &room, "two.test").await;
        assert_eq!(room.servers(), ["one.test".to_owned(), "two.test".to_owned()].into());
        // Both go on talking.
        let from_two = two.say(&room_id, "bob", "hello").await;
        let accepted = one.accept(two.sent(&room_id, &from_two).await).await;
        assert!(matches!(accepted, Accepted::Judged(event) if event.shown()), "version {version}");
        let from_one = one.say(&room_id, "alice", "welcome").await;
        assert!(
            matches!(two.accept(one.sent(&room_id, &from_one).await).await, Accepted::Judged(event) if event.shown())
        );
        let shown: Vec<_> = history(&two.rooms, &room_id, &two.user("bob")).await;
        let ids: Vec<String> = shown.iter().take(2).map(|event| event.id().to_string()).collect();
        assert_eq!(ids, [from_one.to_string(), from_two.to_string()]);
        // What is read anew from the store is the same.
        let again = two.restarted().await;
        assert_eq!(again.current(&room_id).await, one.current(&room_id).await);
        assert_eq!(again.room(&room_id).await.servers().len(), 2);
    }
}

/// Sync asks for the state as of the position before the first event of its timeline: it is the state before the join.
#[tokio::test]
async fn fj4_the_state_before_the_join_stands_before_it_in_the_stream() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let room_id = one.create("11").await;
    let event = join(&two, &one, &room_id, "bob").await.unwrap();
    let room = two.room(&room_id).await;
    let stored = two.get(&room_id, event.id()).await;
    let before = two.rooms.state_at(&room, StreamPosition(stored.pos().0 - 1)).await.unwrap();
    let expected: std::collections::BTreeSet<String> =
        one.state_ids_before(&room_id, event.id()).await.iter().map(ToString::to_string).collect();
    assert_eq!(two.ids(&room, before).await, expected);
    let newest = two.rooms.newest(&room, StreamPosition::ZERO, stored.pos(), 50).await.unwrap();
    assert_eq!(newest.len(), 1, "the state is no timeline");
}

#[tokio::test]
async fn fj4_state_that_cannot_be_judged_is_left_out() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let room_id = one.create("11").await;
    one.rooms.send(&room_id, state(&one.user("alice"), "m.room.topic", json!({ "topic": "lost" }))).await.unwrap();
    let bob = two.user("bob");
    let mut import = send_join(&one, &room_id, make_join(&two, &one, &room_id, &bob).await).await;
    // Alice's join, without which nothing that she did can be judged, is nowhere.
    let alice = one.user("alice");
    let is_alice = |event: &event::Verified| event.pdu().is_state_of("m.room.member", alice.as_str());
    import.state.retain(|event| !is_alice(event));
    import.auth_chain.retain(|event| !is_alice(event));
    let joined = two.rooms.import_join(import).await;
    // Bob cannot join by join rules that cannot be judged.
    assert!(matches!(joined, Err(Error::Forbidden(_))), "{joined:?}");
    assert!(two.rooms.room(&room_id).await.unwrap().is_none());

    let mut import = send_join(&one, &room_id, make_join(&two, &one, &room_id, &bob).await).await;
    let topic = import.state.iter().position(|event| event.pdu().kind == "m.room.topic").unwrap();
    let topic = import.state.remove(topic).pdu().event_id.clone();
    two.rooms.import_join(import).await.unwrap();
    assert!(!two.current(&room_id).await.contains(topic.as_str()));
    assert!(two.room(&room_id).await.head().local.contains(&bob), "a failed attempt is in nobody's way");
}

#[tokio::test]
async fn fj4_a_usable_create_event_is_required() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let room_id = one.create("11").await;
    let bob = two.user("bob");
    let import = send_join(&one, &room_id, make_join(&two, &one, &room_id, &bob).await).await;
    let is_create = |event: &event::Verified| event.pdu().is_create();
    let mut without = import.clone();
    without.state.retain(|event| !is_create(event));
    without.auth_chain.retain(|event| !is_create(event));
    assert!(matches!(two.rooms.import_join(without).await, Err(Error::Invalid(_))));
    let other = rooms::remote::Import { rules: event::Rules::of("10").unwrap(), ..import.clone() };
    assert!(matches!(two.rooms.import_join(other).await, Err(Error::Invalid(_))));
    two.rooms.import_join(import).await.unwrap();
}

#[tokio::test]
async fn two_imports_of_one_room_at_once_are_one_room() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let room_id = one.create("12").await;
    let bob = send_join(&one, &room_id, make_join(&two, &one, &room_id, &two.user("bob")).await).await;
    let eve = send_join(&one, &room_id, make_join(&two, &one, &room_id, &two.user("eve")).await).await;
    let (first, second, same) =
        tokio::join!(two.rooms.import_join(bob.clone()), two.rooms.import_join(eve), two.rooms.import_join(bob));
    let (first, same) = (first.unwrap(), same.unwrap());
    second.unwrap();
    assert_eq!(first.num(), same.num(), "the same answer twice is one join");
    let room = two.room(&room_id).await;
    assert!(room.head().local.contains(&two.user("bob")) && room.head().local.contains(&two.user("eve")));
    check_memberships(&two.rooms, &room, "two.test").await;
    assert!(two.rooms.store().get::<RemoteRoomRow>(vec![room_id.as_str().into()]).await.unwrap().is_none());
}

/// More events than one batch writes, some of them redacted, rejected or without a right to be there.
#[tokio::test]
async fn a_large_room_is_written_in_chunks() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let room_id = one.create("11").await;
    for number in 0..600 {
        one.rooms.join(&room_id, &one.user(&format!("user{number}")), None, empty()).await.unwrap();
    }
    let started = two.rooms.store().notifier().watermark();
    let import = send_join(&one, &room_id, make_join(&two, &one, &room_id, &two.user("bob")).await).await;
    two.rooms.import_join(import).await.unwrap();
    let room = two.room(&room_id).await;
    assert_eq!(room.head().row.joined, 602);
    assert_eq!(one.current(&room_id).await, two.current(&room_id).await);
    let entries = two.rooms.store().notifier().watermark().0 - started.0;
    assert!(entries < 10, "outliers have no entries in the stream, but there are {entries}");
    let nums = two.rooms.nums_of_state(&room, room.head().state).await.unwrap();
    let chain =
        one.rooms.nums_of_state(&*one.room(&room_id).await, one.room(&room_id).await.head().state).await.unwrap();
    assert_eq!((nums.state.len(), nums.auth_chain.len()), (chain.state.len(), chain.auth_chain.len()));
}

#[tokio::test]
async fn fj12_a_later_join_begins_behind_a_gap() {
    let (one, two, room_id) = two("11").await;
    let (alice, bob) = (one.user("alice"), two.user("bob"));
    let early = two.say(&room_id, "bob", "early").await;
    one.accept(two.sent(&room_id, &early).await).await;
    two.rooms.leave(&room_id, &bob, None).await.unwrap();
    let room = two.room(&room_id).await;
    let leave = room.head().extremities[0].id.clone();
    one.accept(two.sent(&room_id, &leave).await).await;
    let mut unseen = Vec::new();
    for number in 0..3 {
        unseen.push(one.say(&room_id, "alice", &format!("unseen {number}")).await);
    }
    one.rooms.send(&room_id, state(&alice, "m.room.topic", json!({ "topic": "new" }))).await.unwrap();
    let again = join(&two, &one, &room_id, "bob").await.unwrap();
    assert_eq!(one.current(&room_id).await, two.current(&room_id).await);
    let room = two.room(&room_id).await;
    check_memberships(&two.rooms, &room, "two.test").await;
    assert_eq!(room.head().extremities.len(), 1, "the old extremities are no more");
    assert_eq!(room.servers().len(), 2);
    let gaps = two.rooms.backward_gaps(&room, two.rooms.live_end(&room)).await.unwrap();
    assert_eq!(gaps[..1], again.pdu.prev_events);
    // The old history stands behind the gap.
    let shown: Vec<String> =
        history(&two.rooms, &room_id, &bob).await.iter().map(|event| event.id().to_string()).collect();
    let place = |id: &str| shown.iter().position(|shown| shown == id);
    assert_eq!(place(again.id().as_str()), Some(0));
    assert!(place(early.as_str()).unwrap() > place(leave.as_str()).unwrap());
    assert!(unseen.iter().all(|id| place(id.as_str()).is_none()));
}

/// A late transaction brings what was state at the join: that is older than the join, so the present does not fork there.
#[tokio::test]
async fn fj4_state_at_the_join_is_no_extremity_when_it_comes_by_itself() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let room_id = one.create("11").await;
    let topic = state(&one.user("alice"), "m.room.topic", json!({ "topic": "old" }));
    let topic = one.rooms.send(&room_id, topic).await.unwrap();
    one.say(&room_id, "alice", "hello").await;
    join(&two, &one, &room_id, "bob").await.unwrap();
    let (head, current) = (two.room(&room_id).await.head(), two.current(&room_id).await);
    let accepted = two.accept(one.sent(&room_id, &topic).await).await;
    assert!(matches!(accepted, Accepted::Known(_)), "{accepted:?}");
    let before = one.rooms.state_before(&room_id, &topic).await.unwrap();
    let told: Vec<_> = before.iter().map(|event| event.id().clone()).collect();
    let accepted = two.rooms.accept_with_state(one.sent(&room_id, &topic).await, told.clone()).await.unwrap();
    assert!(matches!(accepted, Accepted::Known(_)), "{accepted:?}");
    assert_eq!(two.room(&room_id).await.head().extremities, head.extremities);
    assert_eq!(two.current(&room_id).await, current);
}

/// The state in the room was known from before: what agrees is neither judged nor written again.
#[tokio::test]
async fn a_known_event_keeps_its_number_and_place() {
    let (one, two, room_id) = two("10").await;
    let bob = two.user("bob");
    let room = two.room(&room_id).await;
    let create = two.get(&room_id, &room.create.event_id).await;
    assert!(create.has(flags::OUTLIER));
    two.rooms.leave(&room_id, &bob, None).await.unwrap();
    let leave = room.head().extremities[0].id.clone();
    one.accept(two.sent(&room_id, &leave).await).await;
    let again = join(&two, &one, &room_id, "bob").await.unwrap();
    assert_eq!(two.get(&room_id, &room.create.event_id).await.num(), create.num());
    // Nothing happened meanwhile, so there is no gap.
    let room = two.room(&room_id).await;
    assert_eq!(again.row.fragment, Some(0));
    let gaps = two.rooms.backward_gaps(&room, two.rooms.live_end(&room)).await.unwrap();
    assert!(again.pdu.prev_events.iter().all(|id| !gaps.contains(id)));
}

#[tokio::test]
async fn rv9_a_room_that_does_not_federate_is_closed_at_every_door() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let mut request = room_of(&one.user("alice"), "11", Preset::PublicChat);
    request.creation_content = crate::harness::content(json!({ "m.federate": false }));
    let room_id = one.create_of(&request).await;
    let bob = two.user("bob");
    let template = one.rooms.member_template(&room_id, &bob, "join").await;
    assert!(matches!(template, Err(rooms::remote::TemplateError::Rooms(Error::Forbidden(_)))), "{template:?}");
    let invite = one.rooms.build_invite(&room_id, &one.user("alice"), &bob, None, empty()).await;
    assert!(matches!(invite, Err(Error::Forbidden(_))));
    // A join that is made up is rejected, and so is the room by who would join it.
    let open = one.create("11").await;
    let template = one.rooms.member_template(&open, &bob, "join").await.unwrap();
    let mut forged = template.event.clone();
    forged.insert("room_id".to_owned(), event::Json::from(room_id.as_str()));
    let head = one.room(&room_id).await.head();
    let ids = |ids: Vec<String>| event::Json::Array(ids.into_iter().map(event::Json::from).collect());
    forged.insert("prev_events".to_owned(), ids(vec![head.extremities[0].id.to_string()]));
    let room = one.room(&room_id).await;
    let current = one.rooms.whole_state(&room, head.state).await.unwrap();
    let auth = current.iter().filter(|event| {
        matches!(event.pdu.kind.as_str(), "m.room.create" | "m.room.power_levels" | "m.room.join_rules")
    });
    forged.insert("auth_events".to_owned(), ids(auth.map(|event| event.id().to_string()).collect()));
    let rules = room.rules;
    let join = two.rooms.complete_template(rules, &room_id, &bob, "join", &forged, empty()).unwrap();
    let Accepted::Judged(event) = one.accept(received(join.pdu(), rules)).await else { panic!() };
    assert!(event.rejected());
    let everything: Vec<Arc<rooms::Event>> = current;
    let state = super::all_received(&everything, rules);
    let import =
        rooms::remote::Import { rules, join, state, auth_chain: Vec::new(), partial: None, left_out: Vec::new() };
    assert!(matches!(two.rooms.import_join(import).await, Err(Error::Forbidden(_))));
}

/// Only another server can let the user in, while this one is in the room: what it knows stays, and the two sides meet.
#[tokio::test]
async fn fj12_a_join_through_another_server_gives_up_nothing() {
    let (one, two, room_id) = two("11").await;
    let said = two.say(&room_id, "bob", "not yet told to anyone").await;
    for number in 0..2 {
        one.say(&room_id, "alice", &format!("missed {number}")).await;
    }
    one.rooms.send(&room_id, state(&one.user("alice"), "m.room.topic", json!({ "topic": "missed" }))).await.unwrap();
    let dora = join(&two, &one, &room_id, "dora").await.unwrap();
    let room = two.room(&room_id).await;
    let extremities: std::collections::BTreeSet<_> =
        room.head().extremities.iter().map(|extremity| extremity.id.clone()).collect();
    assert_eq!(extremities, [said.clone(), dora.id().clone()].into());
    assert_eq!(one.current(&room_id).await, two.current(&room_id).await);
    check_memberships(&two.rooms, &room, "two.test").await;
    assert!(room.head().local.contains(&two.user("dora")) && room.head().local.contains(&two.user("bob")));
    one.accept(two.sent(&room_id, &said).await).await;
    let merge = one.say(&room_id, "alice", "both").await;
    assert!(matches!(two.accept(one.sent(&room_id, &merge).await).await, Accepted::Judged(event) if event.shown()));
    assert_eq!(two.room(&room_id).await.head().extremities.len(), 1);
}
