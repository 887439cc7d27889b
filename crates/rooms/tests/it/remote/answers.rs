//! What a resident answers other servers: history, what they miss, states, and how much of it they may see.

use std::sync::Arc;

use rooms::remote::{ServerViewer, Sight};
use rooms::{Accepted, Event, Preset, flags};
use ruma_common::OwnedEventId;
use serde_json::json;
use store::tables::users::ErasedUserRow;
use store::{CommitBatch, StreamKind};

use super::{Server, join, make_join, send_join, state, two};
use crate::harness::{content, room_of, text};

fn ids(events: &[Arc<Event>]) -> Vec<OwnedEventId> {
    events.iter().map(|event| event.id().clone()).collect()
}

#[tokio::test]
async fn fe15_backfill_begins_with_the_events_asked_for() {
    let one = Server::new("one.test").await;
    let room_id = one.create("11").await;
    let mut said = Vec::new();
    for number in 0..6 {
        said.push(one.say(&room_id, "alice", &number.to_string()).await);
    }
    let back = one.rooms.events_before(&room_id, &[said[4].clone()], 3).await.unwrap();
    assert_eq!(ids(&back), [said[4].clone(), said[3].clone(), said[2].clone()]);
    let unknown = OwnedEventId::try_from("$unknown").unwrap();
    assert!(one.rooms.events_before(&room_id, std::slice::from_ref(&unknown), 3).await.unwrap().is_empty());
    let whole = one.rooms.events_before(&room_id, &[said[5].clone()], 1_000).await.unwrap();
    assert!(whole.last().unwrap().pdu.is_create());
    assert!(one.rooms.events_before(&room_id, &said, 0).await.unwrap().is_empty());
}

#[tokio::test]
async fn fe10_missing_events_honour_limit_and_depth() {
    let one = Server::new("one.test").await;
    let room_id = one.create("11").await;
    let mut said = Vec::new();
    for number in 0..8 {
        said.push(one.say(&room_id, "alice", &number.to_string()).await);
    }
    let (earliest, latest) = ([said[1].clone()], [said[6].clone()]);
    let between = one.rooms.missing_between(&room_id, &earliest, &latest, 10, 0).await.unwrap();
    assert_eq!(ids(&between), said[2..6], "oldest first, without the ends");
    let few = one.rooms.missing_between(&room_id, &earliest, &latest, 2, 0).await.unwrap();
    assert_eq!(ids(&few), said[4..6], "the nearest to the latest");
    let depth = one.get(&room_id, &said[3]).await.row.depth;
    let shallow = one.rooms.missing_between(&room_id, &earliest, &latest, 10, depth).await.unwrap();
    assert_eq!(ids(&shallow), said[3..6]);
}

/// Both servers write at once, so that there are two branches between what both know and the newest event.
#[tokio::test]
async fn fe10_what_a_server_has_it_has_with_all_that_came_before() {
    let (one, two, room_id) = two("11").await;
    let base = one.say(&room_id, "alice", "base").await;
    two.accept(one.sent(&room_id, &base).await).await;
    let here = one.say(&room_id, "alice", "here").await;
    let mut there = Vec::new();
    for number in 0..2 {
        there.push(two.say(&room_id, "bob", &format!("there {number}")).await);
        one.accept(two.sent(&room_id, &there[number]).await).await;
    }
    let both = one.say(&room_id, "alice", "both").await;
    let last = one.say(&room_id, "alice", "last").await;
    let missing = async |earliest: &[&OwnedEventId], latest: &OwnedEventId| {
        let earliest: Vec<OwnedEventId> = earliest.iter().copied().cloned().collect();
        let latest = std::slice::from_ref(latest);
        ids(&one.rooms.missing_between(&room_id, &earliest, latest, 20, 0).await.unwrap())
    };
    assert_eq!(missing(&[&there[1]], &both).await, std::slice::from_ref(&here), "not what is behind both branches");
    assert_eq!(missing(&[&here], &both).await, there);
    assert_eq!(missing(&[&there[0], &here], &both).await, there[1..]);
    assert!(missing(&[&both], &both).await.is_empty());
    // It has an event from after a gap, and asks about one in it: what it has says nothing about that.
    assert_eq!(missing(&[&last, &base], &both).await.len(), 3);
    assert_eq!(missing(&[&last, &base], &there[1]).await, there[..1]);
    assert!(missing(&[&last], &there[1]).await.contains(&base));
    let unknown = OwnedEventId::try_from("$unknown").unwrap();
    assert_eq!(missing(&[&unknown, &here], &both).await, there, "what is not known here is passed over");
}

/// The other server names an event that is so far up that the way down to what it asks about is not worth it.
#[tokio::test]
async fn fe10_a_walk_is_bounded_from_above() {
    let one = Server::new("one.test").await;
    let room_id = one.create("11").await;
    let mut said = Vec::new();
    for number in 0..520 {
        said.push(one.say(&room_id, "alice", &number.to_string()).await);
    }
    let (earliest, latest) = ([said[519].clone(), said[1].clone()], [said[5].clone()]);
    let between = one.rooms.missing_between(&room_id, &earliest, &latest, 20, 0).await.unwrap();
    assert_eq!(ids(&between), said[2..5]);
}

/// A soft-failed event is in no timeline, but it is part of what came before an event that names it.
#[tokio::test]
async fn fe5_soft_failed_events_are_given_where_others_name_them() {
    let (one, two, room_id) = two("11").await;
    let alice = one.user("alice");
    let bob = two.user("bob");
    // Bob says something that alice's server gets only after it has banned him.
    let said = two.say(&room_id, "bob", "before the ban").await;
    one.rooms.ban(&room_id, &alice, &bob, None).await.unwrap();
    let Accepted::Judged(event) = one.accept(two.sent(&room_id, &said).await).await else { panic!() };
    assert!(event.has(flags::SOFT_FAILED) && event.row.fragment.is_none());
    let head = one.room(&room_id).await.head();
    assert!(head.extremities.iter().all(|extremity| extremity.id != said));
    let latest: Vec<_> = head.extremities.iter().map(|extremity| extremity.id.clone()).collect();
    assert!(!ids(&one.rooms.events_before(&room_id, &latest, 100).await.unwrap()).contains(&said));
    // A third server, which knew of no ban, has built on it.
    let further = two.say(&room_id, "bob", "and more").await;
    one.accept(two.sent(&room_id, &further).await).await;
    let back = one.rooms.events_before(&room_id, std::slice::from_ref(&further), 100).await.unwrap();
    assert!(ids(&back).contains(&said));
    let missing = one.rooms.missing_between(&room_id, &[], &[further], 10, 0).await.unwrap();
    assert!(ids(&missing).contains(&said));
}

/// SEC-history-visibility.
#[tokio::test]
async fn fe10_a_server_sees_what_its_users_might() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let alice = one.user("alice");
    let mut request = room_of(&alice, "11", Preset::PublicChat);
    let joined = ("m.room.history_visibility".to_owned(), String::new());
    request.initial_state = vec![(joined.0, joined.1, content(json!({ "history_visibility": "joined" })))];
    let room_id = one.create_of(&request).await;
    let before = one.say(&room_id, "alice", "before").await;
    let bobs = join(&two, &one, &room_id, "bob").await.unwrap();
    let during = one.say(&room_id, "alice", "during").await;
    one.rooms.kick(&room_id, &alice, &two.user("bob"), None).await.unwrap();
    let kick = one.room(&room_id).await.head().extremities[0].id.clone();
    let after = one.say(&room_id, "alice", "after").await;
    let visibility = |value: &str| state(&alice, "m.room.history_visibility", json!({ "history_visibility": value }));
    let shared = one.rooms.send(&room_id, visibility("shared")).await.unwrap();
    let open = one.say(&room_id, "alice", "shared").await;
    let room = one.room(&room_id).await;
    let mut viewer = ServerViewer::new(&one.rooms, &room, "two.test");
    for (id, expected) in [
        (&before, Sight::Redacted),
        (bobs.id(), Sight::Whole),
        (&during, Sight::Whole),
        (&kick, Sight::Whole),
        (&after, Sight::Redacted),
        (&shared, Sight::Whole),
        (&open, Sight::Whole),
    ] {
        let event = one.get(&room_id, id).await;
        assert_eq!(viewer.sees(&event).await.unwrap(), expected, "{}", event.pdu.kind);
    }
    let mut own = ServerViewer::new(&one.rooms, &room, "one.test");
    assert_eq!(own.sees(&*one.get(&room_id, &before).await).await.unwrap(), Sight::Whole);
    let mut stranger = ServerViewer::new(&one.rooms, &room, "three.test");
    assert_eq!(stranger.sees(&*one.get(&room_id, &during).await).await.unwrap(), Sight::Redacted);
}

#[tokio::test]
async fn ca8_a_server_that_comes_after_an_erasure_gets_events_pruned() {
    let (one, two, room_id) = two("11").await;
    let said = one.say(&room_id, "alice", "a word").await;
    let topic =
        one.rooms.send(&room_id, state(&one.user("alice"), "m.room.topic", json!({ "topic": "t" }))).await.unwrap();
    let mut batch = CommitBatch::new();
    let pos = batch.announce(StreamKind::Erasure, None, Some(one.user("alice")), None);
    batch.put(ErasedUserRow { user_id: one.user("alice"), pos });
    one.rooms.store().commit(batch).await.unwrap();
    let three = Server::new("three.test").await;
    join(&three, &one, &room_id, "carol").await.unwrap();
    let room = one.room(&room_id).await;
    for (server, expected) in [("two.test", Sight::Whole), ("three.test", Sight::Redacted)] {
        let mut viewer = ServerViewer::new(&one.rooms, &room, server);
        assert_eq!(viewer.sees(&*one.get(&room_id, &said).await).await.unwrap(), expected, "{server}");
        assert_eq!(viewer.sees(&*one.get(&room_id, &topic).await).await.unwrap(), Sight::Whole, "the state stays");
    }
    drop(two);
}

#[tokio::test]
async fn fe10_an_invited_user_lets_the_server_see_from_the_invite_on() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let alice = one.user("alice");
    let room_id = one.create("11").await;
    let rule = json!({ "history_visibility": "invited" });
    one.rooms.send(&room_id, state(&alice, "m.room.history_visibility", rule)).await.unwrap();
    let before = one.say(&room_id, "alice", "before").await;
    let invite = one.rooms.build_invite(&room_id, &alice, &two.user("bob"), None, super::empty()).await;
    one.accept(invite.unwrap().unwrap()).await;
    let after = one.rooms.send(&room_id, text(&alice, "after")).await.unwrap();
    let room = one.room(&room_id).await;
    let mut viewer = ServerViewer::new(&one.rooms, &room, "two.test");
    assert_eq!(viewer.sees(&*one.get(&room_id, &before).await).await.unwrap(), Sight::Redacted);
    assert_eq!(viewer.sees(&*one.get(&room_id, &after).await).await.unwrap(), Sight::Whole);
}

#[tokio::test]
async fn fe15_states_are_before_the_event() {
    let (one, two, room_id) = two("11").await;
    let alice = one.user("alice");
    let topic = one.rooms.send(&room_id, state(&alice, "m.room.topic", json!({ "topic": "t" }))).await.unwrap();
    let after = one.say(&room_id, "alice", "after").await;
    assert!(!one.state_ids_before(&room_id, &topic).await.contains(&topic));
    assert!(one.state_ids_before(&room_id, &after).await.contains(&topic));
    // By number and by id it is the same.
    let (_, nums) = one.rooms.state_nums_before(&room_id, &after).await.unwrap();
    let mut by_num = one.rooms.event_ids(&nums.state).await.unwrap();
    let mut by_event = one.state_ids_before(&room_id, &after).await;
    by_num.sort();
    by_event.sort();
    assert_eq!(by_num, by_event);
    let chain = one.rooms.auth_chain(&room_id, &by_event).await.unwrap();
    assert_eq!(chain.len(), nums.auth_chain.len());
    // The chain is closed.
    let known = ids(&chain);
    assert!(chain.iter().flat_map(|event| &event.pdu.auth_events).all(|id| known.contains(id)));
    // Of an outlier no state is known.
    let outlier = two.room(&room_id).await.create.event_id.clone();
    assert!(matches!(two.rooms.state_before(&room_id, &outlier).await, Err(rooms::Error::EventNotFound)));
    // The auth chain of a message, which is no state itself.
    let of_message = one.rooms.auth_chain(&room_id, &[after]).await.unwrap();
    assert!(of_message.iter().any(|event| event.pdu.is_create()));
    // A room that was joined answers as the one it came from.
    let bob = make_join(&Server::new("three.test").await, &one, &room_id, &"@eve:three.test".into()).await;
    drop(send_join(&one, &room_id, bob).await);
    let head = two.room(&room_id).await.head().extremities[0].id.clone();
    let (room, nums) = two.rooms.state_nums_before(&room_id, &head).await.unwrap();
    assert_eq!(two.rooms.events(&room, None, &nums.auth_chain).await.unwrap().len(), nums.auth_chain.len());
}
