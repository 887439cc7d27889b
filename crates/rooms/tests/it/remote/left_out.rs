//! States that are taken over while some of their events cannot be verified, and what becomes of these later.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use rooms::remote::left_out::{LeftOut, ToldState};
use rooms::{Accepted, Event, NewEvent, flags};
use ruma_common::OwnedEventId;
use serde_json::json;
use store::Read;
use store::tables::core::JobRow;
use store::tables::rooms::{LeftOutRow, PartialEventRow};

use super::{Server, all_received, closed_and_behind_a_gap, join, make_join, send_join, state, two};
use crate::harness::content;

/// A state as it is told to somebody who cannot verify some of its events.
fn told(ids: Vec<OwnedEventId>, unverified: &[Arc<Event>]) -> ToldState {
    let without: HashSet<&OwnedEventId> = unverified.iter().map(|event| event.id()).collect();
    let left_out = unverified.iter().map(|event| LeftOut {
        event_id: event.id().clone(),
        in_state: ids.contains(event.id()),
        json: event.pdu.bytes.clone(),
    });
    ToldState { left_out: left_out.collect(), ids: ids.iter().filter(|id| !without.contains(id)).cloned().collect() }
}

/// How many events are noted to be judged again, how many are left out, and how many jobs there are.
async fn left(server: &Server) -> (usize, usize, usize) {
    let store = server.rooms.store();
    let noted: Vec<PartialEventRow> = store.all(Read::prefix::<PartialEventRow>(vec![])).await.unwrap();
    let left_out: Vec<LeftOutRow> = store.all(Read::prefix::<LeftOutRow>(vec![])).await.unwrap();
    let jobs: Vec<JobRow> = store.all(Read::prefix::<JobRow>(vec![])).await.unwrap();
    (noted.len(), left_out.len(), jobs.len())
}

/// The events with these ids, as a server has them.
async fn events(server: &Server, room_id: &str, ids: &[OwnedEventId]) -> Vec<Arc<Event>> {
    let mut events = Vec::new();
    for id in ids {
        events.push(server.get(room_id, id).await);
    }
    events
}

/// Behind a gap stand the join of somebody of a third server, and what they have done. Their events are taken in as soon
/// as they cite what is known, and what is left out gets its place when it comes.
#[tokio::test]
async fn what_is_left_out_behind_a_gap_gets_its_place_later() {
    for version in ["1", "6", "11", "12"] {
        let (one, two, room_id) = two(version).await;
        let three = Server::new("three.test").await;
        let joined = join(&three, &one, &room_id, "eve").await.unwrap().id().clone();
        let eve = three.user("eve");
        let name = content(json!({ "membership": "join", "displayname": "Eve" }));
        let named =
            three.rooms.send(&room_id, NewEvent::state(&eve, "m.room.member", eve.as_str(), name)).await.unwrap();
        one.accept(three.sent(&room_id, &named).await).await;
        let edge = one.say(&room_id, "alice", "behind the gap").await;
        let unverified = events(&one, &room_id, &[joined, named.clone()]).await;
        let ids = one.state_ids_before(&room_id, &edge).await;
        let accepted = two.rooms.accept_with_state(one.sent(&room_id, &edge).await, told(ids, &unverified)).await;
        assert!(matches!(accepted.unwrap(), Accepted::Judged(event) if event.shown()), "version {version}");
        assert_eq!(left(&two).await, (1, 2, 1));
        assert!(!two.current(&room_id).await.contains(named.as_str()));
        assert!(!two.room(&room_id).await.is_partial());
        assert!(two.rooms.awaits_left_out(&*two.room(&room_id).await).await.unwrap());
        let two = two.restarted().await;
        let topic = one.rooms.send(&room_id, state(&one.user("alice"), "m.room.topic", json!({ "topic": "t" }))).await;
        two.accept(one.sent(&room_id, &topic.unwrap()).await).await;
        assert_eq!(left(&two).await, (2, 2, 1), "what comes meanwhile is noted");

        let rules = two.room(&room_id).await.rules;
        let come = all_received(&unverified[..1], rules);
        assert_eq!(two.rooms.accept_left_out(&room_id, come).await.unwrap(), (1, 1), "the rest is still open");
        assert_eq!(left(&two).await.1, 1);
        let come = all_received(&unverified, rules);
        assert_eq!(two.rooms.accept_left_out(&room_id, come).await.unwrap(), (1, 0));
        assert_eq!(left(&two).await, (0, 0, 0));
        assert_eq!(two.current(&room_id).await, one.current(&room_id).await, "version {version}");
        assert_eq!(two.room(&room_id).await.servers(), one.room(&room_id).await.servers());
        assert_eq!(two.room(&room_id).await.head().row.joined, 3);
        assert!(!two.get(&room_id, &edge).await.has(flags::PARTIAL));
        // The same as a server has it that loads it from its store.
        let two = two.restarted().await;
        assert_eq!(two.current(&room_id).await, one.current(&room_id).await);
        assert!(!two.rooms.awaits_left_out(&*two.room(&room_id).await).await.unwrap());
    }
}

/// The state before an event of history names an event that is in no newer state.
#[tokio::test]
async fn what_is_left_out_of_the_state_before_history_gets_its_place_later() {
    let (one, two, three) =
        (Server::new("one.test").await, Server::new("two.test").await, Server::new("three.test").await);
    let room_id = one.create("11").await;
    one.say(&room_id, "alice", "older than what is asked for").await;
    let joined = join(&three, &one, &room_id, "eve").await.unwrap().id().clone();
    let old = one.say(&room_id, "alice", "old").await;
    three.accept(one.sent(&room_id, &old).await).await;
    three.rooms.leave(&room_id, &three.user("eve"), None).await.unwrap();
    let gone = three.rooms.current(&*three.room(&room_id).await, "m.room.member", three.user("eve").as_str()).await;
    let gone = gone.unwrap().unwrap().id().clone();
    one.accept(three.sent(&room_id, &gone).await).await;
    join(&two, &one, &room_id, "bob").await.unwrap();
    let unverified = events(&one, &room_id, std::slice::from_ref(&joined)).await;
    let states = BTreeMap::from([(old.clone(), told(one.state_ids_before(&room_id, &old).await, &unverified))]);
    let rules = two.room(&room_id).await.rules;
    let history = all_received(&events(&one, &room_id, &[gone, old.clone()]).await, rules);
    let placed = two.rooms.accept_history(&room_id, history, states).await.unwrap();
    assert_eq!(placed.len(), 2);
    let before = async |server: &Server| {
        let event = server.get(&room_id, &old).await;
        server.ids(&*server.room(&room_id).await, event.state_before().unwrap()).await
    };
    assert!(!before(&two).await.contains(joined.as_str()));
    assert_eq!(left(&two).await, (2, 1, 1));
    let current = two.current(&room_id).await;
    assert_eq!(two.rooms.accept_left_out(&room_id, all_received(&unverified, rules)).await.unwrap(), (1, 0));
    assert_eq!(left(&two).await, (0, 0, 0));
    assert_eq!(before(&two).await, before(&one).await);
    assert_eq!(two.current(&room_id).await, current);
    assert!(two.get(&room_id, &old).await.shown());
}

/// What never comes is given up: nothing of it is left, and the room goes on as it is.
#[tokio::test]
async fn what_never_comes_is_given_up() {
    let (one, two, room_id) = two("11").await;
    let three = Server::new("three.test").await;
    let joined = join(&three, &one, &room_id, "eve").await.unwrap().id().clone();
    let edge = one.say(&room_id, "alice", "behind the gap").await;
    let unverified = events(&one, &room_id, &[joined]).await;
    let ids = one.state_ids_before(&room_id, &edge).await;
    two.rooms.accept_with_state(one.sent(&room_id, &edge).await, told(ids, &unverified)).await.unwrap();
    let current = two.current(&room_id).await;
    two.rooms.give_up_left_out(&room_id).await.unwrap();
    assert_eq!(left(&two).await, (0, 0, 0));
    assert_eq!(two.current(&room_id).await, current);
    let two = two.restarted().await;
    two.say(&room_id, "bob", "life goes on").await;
    assert_eq!(left(&two).await, (0, 0, 0));
}

/// What is told of the state behind a gap counts only once it is resolved with what is known here: nobody speaks by it
/// who is no member.
#[tokio::test]
async fn what_is_left_out_behind_a_gap_lets_nobody_in() {
    let (one, two, room_id) = two("11").await;
    let three = Server::new("three.test").await;
    let joined = join(&three, &one, &room_id, "eve").await.unwrap().id().clone();
    let rules = two.room(&room_id).await.rules;
    let invite_only = state(&two.user("bob"), "m.room.join_rules", json!({ "join_rule": "invite" }));
    let levels = json!({ "state_default": 0, "users": { one.user("alice").as_str(): 100 } });
    let levels = one.rooms.send(&room_id, state(&one.user("alice"), "m.room.power_levels", levels)).await.unwrap();
    // The second server knows nothing of the third, and closes the room.
    let between = events(&one, &room_id, std::slice::from_ref(&joined)).await;
    let ids = one.state_ids_before(&room_id, &levels).await;
    let told_of = ToldState { ids: told(ids.clone(), &between).ids, left_out: Vec::new() };
    two.rooms.accept_with_state(one.sent(&room_id, &levels).await, told_of).await.unwrap();
    two.rooms.send(&room_id, invite_only).await.unwrap();
    // Somebody tells of a state in which she is a member, and her message cites it.
    let edge = one.say(&room_id, "alice", "behind another gap").await;
    let ids = one.state_ids_before(&room_id, &edge).await;
    let told_of = told(ids, &between);
    assert_eq!(told_of.left_out.len(), 1);
    two.rooms.accept_with_state(one.sent(&room_id, &edge).await, told_of).await.unwrap();
    two.rooms.accept_outliers(&room_id, all_received(&between, rules)).await.unwrap();
    three.accept(one.sent(&room_id, &levels).await).await;
    let said = three.say(&room_id, "eve", "let me in").await;
    let said = three.sent(&room_id, &said).await;
    two.accept(said.clone()).await;
    let judged = two.event(&room_id, &said.pdu().event_id).await.unwrap();
    assert!(!judged.shown(), "{:?}", judged.row);
    assert!(!two.room(&room_id).await.servers().contains("three.test"));
}

/// A member whose join could not be verified when we joined has been verified meanwhile, and the room has been closed.
/// That the state before a gap has the member does not contradict what is known, where it was only left out.
#[tokio::test]
async fn what_was_left_out_at_the_join_is_a_member_behind_a_gap() {
    let (one, two, three) =
        (Server::new("one.test").await, Server::new("two.test").await, Server::new("three.test").await);
    let room_id = one.create("11").await;
    let joined = join(&three, &one, &room_id, "eve").await.unwrap().id().clone();
    let unverified = events(&one, &room_id, std::slice::from_ref(&joined)).await;
    let import = make_join(&two, &one, &room_id, &two.user("bob")).await;
    let mut import = send_join(&one, &room_id, import).await;
    import.state.retain(|event| event.pdu().event_id != joined);
    import.left_out = told(vec![joined.clone()], &unverified).left_out;
    two.rooms.import_join(import).await.unwrap();
    assert_eq!(left(&two).await.1, 1);
    let edge = closed_and_behind_a_gap(&one, &two, &room_id).await;
    two.rooms.accept_outliers(&room_id, all_received(&unverified, two.room(&room_id).await.rules)).await.unwrap();
    let ids = one.state_ids_before(&room_id, &edge).await;
    two.rooms.accept_with_state(one.sent(&room_id, &edge).await, ids).await.unwrap();
    assert_eq!(two.current(&room_id).await, one.current(&room_id).await);
    assert_eq!(two.rooms.accept_left_out(&room_id, Vec::new()).await.unwrap(), (1, 0));
    assert_eq!(two.current(&room_id).await, one.current(&room_id).await);
}
