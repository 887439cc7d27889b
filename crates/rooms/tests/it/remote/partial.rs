//! Rooms that were joined with part of their state, and completed later (MSC3706, MSC3902).

use std::collections::BTreeMap;
use std::sync::Arc;

use event::Template;
use rooms::remote::Import;
use rooms::remote::partial::{Lacks, Partial};
use rooms::{Accepted, Error, Event, flags};
use ruma_common::OwnedEventId;
use serde_json::json;
use store::tables::core::JobRow;
use store::tables::rooms::{PartialEventRow, PartialRoomRow, RoomServerRow};
use store::{Read, StreamPosition};

use super::{Server, all_received, closed_and_behind_a_gap, empty, join, make_join, received, send_join, state};
use crate::harness::{content, history, key, text};

/// What a resident answers that leaves members out.
async fn without_members(resident: &Server, room_id: &str, mut import: Import) -> Import {
    let join = import.join.pdu().event_id.clone();
    import.state.retain(|event| event.pdu().kind != "m.room.member");
    let mut ids: Vec<OwnedEventId> = import.state.iter().map(|event| event.pdu().event_id.clone()).collect();
    ids.push(join);
    let chain = resident.rooms.auth_chain(room_id, &ids).await.unwrap();
    import.auth_chain = all_received(&chain, import.rules);
    let servers = resident.room(room_id).await.servers().into_iter().collect();
    import.partial = Some(Partial { resident: resident.rooms.server_name().to_owned(), servers });
    import
}

/// A user of one server joins a room through another, which leaves members out.
async fn join_partly(joiner: &Server, resident: &Server, room_id: &str, name: &str) -> Arc<Event> {
    let join = make_join(joiner, resident, room_id, &joiner.user(name)).await;
    let import = send_join(resident, room_id, join).await;
    let import = without_members(resident, room_id, import).await;
    joiner.rooms.import_join(import).await.unwrap()
}

/// Fetches the state before the join, and completes the room.
async fn complete(joiner: &Server, resident: &Server, room_id: &str) -> Result<(), Error> {
    let partial = joiner.rooms.partial_room(room_id).await.unwrap().unwrap();
    let ids = tell_state(joiner, resident, room_id, &partial.join).await;
    joiner.rooms.complete_state(room_id, &ids, &[]).await
}

/// The state before an event, which is known to the first server then.
async fn tell_state(joiner: &Server, resident: &Server, room_id: &str, event: &OwnedEventId) -> Vec<OwnedEventId> {
    let rules = resident.room(room_id).await.rules;
    let state = resident.rooms.state_before(room_id, event).await.unwrap();
    let ids: Vec<OwnedEventId> = state.iter().map(|event| event.id().clone()).collect();
    let chain = resident.rooms.auth_chain(room_id, &ids).await.unwrap();
    let all = all_received(&state, rules).into_iter().chain(all_received(&chain, rules)).collect();
    joiner.rooms.accept_outliers(room_id, all).await.unwrap();
    ids
}

/// Takes in an event of another server, and what it cites where that is asked for.
async fn hear(hearer: &Server, teller: &Server, room_id: &str, id: &OwnedEventId) -> Arc<Event> {
    let event = teller.sent(room_id, id).await;
    if let Accepted::Waiting(_) = hearer.accept(event.clone()).await {
        let chain = teller.rooms.auth_chain(room_id, std::slice::from_ref(id)).await.unwrap();
        let rules = teller.room(room_id).await.rules;
        hearer.rooms.accept_outliers(room_id, all_received(&chain, rules)).await.unwrap();
    }
    hearer.get(room_id, id).await
}

/// A room with members on two servers, and a third that is to join.
async fn large(version: &str) -> (Server, Server, Server, String) {
    let (one, two, three) =
        (Server::new("one.test").await, Server::new("two.test").await, Server::new("three.test").await);
    let room_id = one.create(version).await;
    for number in 0..20 {
        one.rooms.join(&room_id, &one.user(&format!("user{number}")), None, empty()).await.unwrap();
    }
    join(&three, &one, &room_id, "mallory").await.unwrap();
    (one, two, three, room_id)
}

/// How many joined users each server has, as it is stored.
async fn servers(server: &Server, room_id: &str) -> BTreeMap<String, i64> {
    let room = server.room(room_id).await;
    let rows = server.rooms.store().all(Read::prefix::<RoomServerRow>(vec![room.num.into()])).await.unwrap();
    rows.into_iter().map(|row: RoomServerRow| (row.server, row.joined)).collect()
}

/// Nothing is left of what was partial, and all is as a server that knew it from the beginning has it.
async fn check_whole(server: &Server, resident: &Server, room_id: &str) {
    assert_eq!(server.current(room_id).await, resident.current(room_id).await);
    assert_eq!(servers(server, room_id).await, servers(resident, room_id).await);
    let (room, other) = (server.room(room_id).await, resident.room(room_id).await);
    assert!(!room.is_partial() && room.whole_pos() > StreamPosition::ZERO);
    assert_eq!((room.head().row.joined, room.head().row.invited), (other.head().row.joined, other.head().row.invited));
    assert_eq!(room.servers(), other.servers());
    let store = server.rooms.store();
    assert!(store.all::<PartialEventRow>(Read::prefix::<PartialEventRow>(vec![])).await.unwrap().is_empty());
    assert!(store.all::<JobRow>(Read::prefix::<JobRow>(vec![])).await.unwrap().is_empty());
    assert!(server.rooms.partial_rooms().await.unwrap().is_empty());
}

#[tokio::test]
async fn people_talk_before_the_members_have_come() {
    for version in ["1", "6", "11", "12"] {
        let (one, two, _, room_id) = large(version).await;
        let joined = join_partly(&two, &one, &room_id, "bob").await;
        let room = two.room(&room_id).await;
        assert!(joined.shown() && room.is_partial());
        assert_eq!(room.servers(), one.room(&room_id).await.servers(), "who is to hear of it is known");
        assert!(room.head().row.joined < 5, "{}", room.head().row.joined);

        let hello = two.say(&room_id, "bob", "hello").await;
        assert!(hear(&one, &two, &room_id, &hello).await.shown());
        let answer = one.say(&room_id, "user7", "welcome").await;
        assert!(hear(&two, &one, &room_id, &answer).await.shown(), "its auth events tell that user7 is a member");
        one.rooms.join(&room_id, &one.user("late"), None, empty()).await.unwrap();
        let late = one.room(&room_id).await.head().extremities[0].id.clone();
        assert!(hear(&two, &one, &room_id, &late).await.shown());

        complete(&two, &one, &room_id).await.unwrap();
        check_whole(&two, &one, &room_id).await;
        for id in [joined.id(), &hello, &answer, &late] {
            let event = two.get(&room_id, id).await;
            assert!(event.shown() && !event.has(flags::PARTIAL));
            let room = two.room(&room_id).await;
            let before = two.ids(&room, event.state_before().unwrap()).await;
            let other = one.room(&room_id).await;
            let expected = one.ids(&other, one.get(&room_id, id).await.state_before().unwrap()).await;
            assert_eq!(before, expected, "{version}");
        }
        check_whole(&two.restarted().await, &one, &room_id).await;
        let again = two.say(&room_id, "bob", "all here").await;
        assert!(hear(&one, &two, &room_id, &again).await.shown());
    }
}

#[tokio::test]
async fn a_restart_in_between_loses_nothing() {
    let (one, two, _, room_id) = large("11").await;
    join_partly(&two, &one, &room_id, "bob").await;
    let hello = two.say(&room_id, "bob", "hello").await;
    hear(&one, &two, &room_id, &hello).await;
    let two = two.restarted().await;
    assert!(two.room(&room_id).await.is_partial());
    let answer = one.say(&room_id, "user3", "welcome").await;
    assert!(hear(&two, &one, &room_id, &answer).await.shown());
    let claim = two.rooms.claim_partial(1_000_000).await.unwrap().unwrap();
    let Lacks::Members(room) = &claim.lacks else { panic!("{claim:?}") };
    assert_eq!((claim.room_id.as_str(), room.servers[0].as_str()), (room_id.as_str(), "one.test"));
    assert!(two.rooms.claim_partial(1_000_000).await.unwrap().is_none(), "another one is at it");
    complete(&two, &one, &room_id).await.unwrap();
    check_whole(&two, &one, &room_id).await;
}

/// The second joins, and hears a message of a user who was banned before. Nobody has told it of the ban.
async fn hear_a_banned_user(one: &Server, two: &Server, three: &Server, room_id: &str) -> OwnedEventId {
    let mallory = three.user("mallory");
    let room = one.room(room_id).await;
    let member = one.rooms.current(&room, "m.room.member", mallory.as_str()).await.unwrap().unwrap();
    let levels = one.rooms.current(&room, "m.room.power_levels", "").await.unwrap().unwrap();
    one.rooms.ban(room_id, &one.user("alice"), &mallory, None).await.unwrap();
    let joined = join_partly(two, one, room_id, "bob").await;
    let mut auth_events = vec![levels.id().clone(), member.id().clone()];
    if room.rules.version() != "12" {
        auth_events.push(room.create.event_id.clone());
    }
    let template = Template {
        room_id: Some(room.create.room_id.clone()),
        sender: mallory.to_string(),
        kind: "m.room.message".to_owned(),
        content: content(json!({ "msgtype": "m.text", "body": "I am still here" })),
        prev_events: vec![joined.id().clone()],
        auth_events,
        depth: Template::next_depth([joined.row.depth]),
        origin_server_ts: 1_700_000_050_000,
        ..Template::default()
    };
    let bad = event::build(room.rules, template, &key("three.test"), "three.test").unwrap();
    let id = bad.pdu().event_id.clone();
    let bad = received(bad.pdu(), room.rules);
    let waiting = two.accept(bad).await;
    assert!(matches!(waiting, Accepted::Waiting(missing) if missing == [member.id().clone()]));
    two.rooms.accept_outliers(room_id, all_received(&[member], room.rules)).await.unwrap();
    assert!(two.get(room_id, &id).await.shown());
    id
}

#[tokio::test]
async fn what_the_whole_state_does_not_allow_is_hidden_then() {
    let (one, two, three, room_id) = large("11").await;
    let bad = hear_a_banned_user(&one, &two, &three, &room_id).await;
    let after = two.say(&room_id, "bob", "who are you?").await;
    assert!(two.get(&room_id, &after).await.pdu.prev_events.contains(&bad));
    let unread = two.room(&room_id).await.head().row.messages;
    assert_eq!(unread, 2);

    complete(&two, &one, &room_id).await.unwrap();
    let hidden = two.get(&room_id, &bad).await;
    assert!(!hidden.shown() && hidden.rejected());
    assert!(two.get(&room_id, &after).await.shown());
    let room = two.room(&room_id).await;
    assert_eq!(room.head().extremities.iter().map(|one| &one.id).collect::<Vec<_>>(), [&after]);
    assert!(!room.has_server("three.test"));
    let shown = history(&two.rooms, &room_id, &two.user("bob")).await;
    let shown: Vec<&OwnedEventId> = shown.iter().map(|event| event.id()).collect();
    assert!(!shown.contains(&&bad) && shown.contains(&&after));
    assert_eq!(two.current(&room_id).await, one.current(&room_id).await);
}

#[tokio::test]
async fn a_hidden_event_at_the_front_is_no_extremity() {
    let (one, two, three, room_id) = large("12").await;
    hear_a_banned_user(&one, &two, &three, &room_id).await;
    complete(&two, &one, &room_id).await.unwrap();
    check_whole(&two, &one, &room_id).await;
    let join = two.rooms.current(&*two.room(&room_id).await, "m.room.member", two.user("bob").as_str()).await.unwrap();
    let head = two.room(&room_id).await.head();
    assert_eq!(head.extremities.iter().map(|one| one.num).collect::<Vec<_>>(), [join.unwrap().num()]);
    let next = two.say(&room_id, "bob", "hello").await;
    assert!(hear(&one, &two, &room_id, &next).await.shown());
}

#[tokio::test]
async fn a_state_that_lacks_what_is_known_is_not_taken() {
    let (one, two, _, room_id) = large("11").await;
    one.rooms.send(&room_id, state(&one.user("alice"), "m.room.topic", json!({ "topic": "x" }))).await.unwrap();
    join_partly(&two, &one, &room_id, "bob").await;
    let partial = two.rooms.partial_room(&room_id).await.unwrap().unwrap();
    let ids = tell_state(&two, &one, &room_id, &partial.join).await;
    let topic = two.rooms.current(&*two.room(&room_id).await, "m.room.topic", "").await.unwrap().unwrap();
    let lacking: Vec<OwnedEventId> = ids.iter().filter(|id| *id != topic.id()).cloned().collect();
    assert!(matches!(two.rooms.complete_state(&room_id, &lacking, &[]).await, Err(Error::Invalid(_))));
    assert!(matches!(two.rooms.complete_state(&room_id, &[], &[]).await, Err(Error::Invalid(_))));
    assert!(two.room(&room_id).await.is_partial());
    two.rooms.complete_state(&room_id, &ids, &[]).await.unwrap();
    two.rooms.complete_state(&room_id, &ids, &[]).await.unwrap();
    check_whole(&two, &one, &room_id).await;
}

#[tokio::test(start_paused = true)]
async fn what_needs_all_members_waits_for_them() {
    let (one, two, _, room_id) = large("11").await;
    join_partly(&two, &one, &room_id, "bob").await;
    let (bob, eve, user) = (two.user("bob"), two.user("eve"), one.user("user3"));
    let rooms = &two.rooms;
    assert!(matches!(rooms.invite(&room_id, &bob, &eve, None, empty()).await, Err(Error::PartialState)));
    assert!(matches!(rooms.kick(&room_id, &bob, &user, None).await, Err(Error::PartialState)));
    assert!(matches!(rooms.ban(&room_id, &bob, &user, None).await, Err(Error::PartialState)));
    assert!(matches!(rooms.unban(&room_id, &bob, &user, None).await, Err(Error::PartialState)));
    assert!(matches!(rooms.join(&room_id, &eve, None, empty()).await, Err(Error::PartialState)));
    assert!(matches!(rooms.build_invite(&room_id, &bob, &user, None, empty()).await, Err(Error::PartialState)));
    // What does not, does not.
    rooms.join(&room_id, &bob, None, empty()).await.unwrap();
    rooms.send(&room_id, text(&bob, "hello")).await.unwrap();

    let waiting = rooms.join(&room_id, &eve, None, empty());
    let (joined, completed) = tokio::join!(waiting, complete(&two, &one, &room_id));
    completed.unwrap();
    joined.unwrap();
    assert_eq!(two.room(&room_id).await.head().row.joined, 24);
}

#[tokio::test]
async fn a_room_that_was_left_before_it_was_whole_is_completed_when_it_is_joined_again() {
    let (one, two, _, room_id) = large("11").await;
    join_partly(&two, &one, &room_id, "bob").await;
    two.rooms.leave(&room_id, &two.user("bob"), None).await.unwrap();
    let left = two.room(&room_id).await.head().extremities[0].id.clone();
    assert!(hear(&one, &two, &room_id, &left).await.shown());
    assert!(two.rooms.claim_partial(1_000).await.unwrap().is_none(), "nobody needs it");
    assert!(two.rooms.store().all::<JobRow>(Read::prefix::<JobRow>(vec![])).await.unwrap().is_empty());
    assert!(two.room(&room_id).await.is_partial());

    let again = make_join(&two, &one, &room_id, &two.user("bob")).await;
    let import = send_join(&one, &room_id, again).await;
    let partly = without_members(&one, &room_id, import.clone()).await;
    assert!(matches!(two.rooms.import_join(partly).await, Err(Error::PartialState)), "it is known from before");
    two.rooms.import_join(import).await.unwrap();
    assert_eq!(two.current(&room_id).await, one.current(&room_id).await);
    let two = two.restarted().await;
    let claim = two.rooms.claim_partial(1_000_000).await.unwrap().unwrap();
    let Lacks::Members(room) = claim.lacks else { panic!("{claim:?}") };
    assert_ne!(
        two.rooms
            .current(&*two.room(&room_id).await, "m.room.member", two.user("bob").as_str())
            .await
            .unwrap()
            .unwrap()
            .id(),
        &room.join,
        "the first join is what it is about"
    );
    complete(&two, &one, &room_id).await.unwrap();
    check_whole(&two, &one, &room_id).await;
    let left = two.get(&room_id, &left).await;
    let room = two.room(&room_id).await;
    let before = two.ids(&room, left.state_before().unwrap()).await;
    let expected = one.get(&room_id, left.id()).await.state_before().unwrap();
    assert_eq!(
        before,
        one.ids(&*one.room(&room_id).await, expected).await,
        "of the first stay everything is known too"
    );
}

#[tokio::test]
async fn a_purged_room_is_not_partial_any_more() {
    let (one, two, _, room_id) = large("11").await;
    join_partly(&two, &one, &room_id, "bob").await;
    two.say(&room_id, "bob", "hello").await;
    two.rooms.purge_room(&room_id).await.unwrap();
    let store = two.rooms.store();
    assert!(store.all::<PartialRoomRow>(Read::prefix::<PartialRoomRow>(vec![])).await.unwrap().is_empty());
    assert!(store.all::<PartialEventRow>(Read::prefix::<PartialEventRow>(vec![])).await.unwrap().is_empty());
    assert!(two.rooms.claim_partial(1_000).await.unwrap().is_none());
}

/// Members that are still to come are not contradicted by a state behind a gap that has them, though the room has been
/// closed since they came.
#[tokio::test]
async fn members_that_are_to_come_are_those_behind_a_gap() {
    for version in ["6", "11", "12"] {
        let (one, two, _, room_id) = large(version).await;
        join_partly(&two, &one, &room_id, "bob").await;
        let edge = closed_and_behind_a_gap(&one, &two, &room_id).await;
        let ids = tell_state(&two, &one, &room_id, &edge).await;
        two.rooms.accept_with_state(one.sent(&room_id, &edge).await, ids).await.unwrap();
        assert_eq!(two.current(&room_id).await, one.current(&room_id).await, "version {version}");
        complete(&two, &one, &room_id).await.unwrap();
        check_whole(&two, &one, &room_id).await;
    }
}
