//! History from before is placed behind the fragment that it leads to, and is never news.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rooms::remote::left_out::ToldState;
use rooms::timeline::{Direction, PageQuery, Token};
use rooms::visibility::Viewer;
use rooms::{Accepted, Event, NewEvent};
use ruma_common::OwnedEventId;
use serde_json::json;
use store::tables::core::StreamRow;
use store::tables::rooms::FragmentRow;
use store::{Read, StreamKind, StreamPosition};

use super::{Server, all_received, join, two};
use crate::harness::{content, history, text};

async fn ids_of(server: &Server, room_id: &str, name: &str) -> Vec<String> {
    history(&server.rooms, room_id, &server.user(name)).await.iter().map(|event| event.id().to_string()).collect()
}

/// What the resident gives for `/backfill`, and the state before the oldest of it.
async fn backfill(
    resident: &Server,
    room_id: &str,
    from: &[OwnedEventId],
    limit: usize,
) -> (Vec<Arc<Event>>, BTreeMap<OwnedEventId, ToldState>) {
    let events = resident.rooms.events_before(room_id, from, limit).await.unwrap();
    let oldest = events.last().unwrap();
    let state = resident.state_ids_before(room_id, oldest.id()).await;
    let states = BTreeMap::from([(oldest.id().clone(), state.into())]);
    (events, states)
}

/// Bob's server joins a room of five messages and fetches them in two goes.
#[tokio::test]
async fn history_comes_page_by_page_down_to_the_creation() {
    for version in ["1", "6", "11", "12"] {
        let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
        let room_id = one.create(version).await;
        for number in 0..5 {
            one.say(&room_id, "alice", &number.to_string()).await;
        }
        let joined = join(&two, &one, &room_id, "bob").await.unwrap();
        let news = two.rooms.store().notifier().watermark();
        let rules = two.room(&room_id).await.rules;
        let token = two.rooms.live_end(&*two.room(&room_id).await);
        let mut rounds = 0;
        loop {
            let room = two.room(&room_id).await;
            let gaps = two.rooms.backward_gaps(&room, token).await.unwrap();
            if gaps.is_empty() {
                break;
            }
            let (events, states) = backfill(&one, &room_id, &gaps, 4).await;
            let placed = two.rooms.accept_history(&room_id, all_received(&events, rules), states).await.unwrap();
            assert!(!placed.is_empty() && placed.iter().all(|event| event.row.pos.is_none() && event.shown()));
            rounds += 1;
        }
        assert!(rounds > 1);
        let all = ids_of(&two, &room_id, "bob").await;
        assert_eq!(all, ids_of(&one, &room_id, "alice").await, "version {version}");
        let room = two.room(&room_id).await;
        // Old history is no news, and nothing of the present has changed.
        let newest = two.rooms.newest(&room, StreamPosition::ZERO, StreamPosition(i64::MAX - 9), 50).await.unwrap();
        assert_eq!(newest.len(), 1);
        assert!(two.rooms.store().notifier().watermark() > news);
        // But readers that want to know all events learn of each.
        let read = Read::prefix::<StreamRow>(vec![]).after(news);
        let told: Vec<StreamRow> = two.rooms.store().all(read).await.unwrap();
        let told = told.iter().filter(|row| row.kind == StreamKind::History as i64 && row.room.is_none());
        let told: BTreeSet<i64> = told.filter_map(|row| row.number).collect();
        let past = history(&two.rooms, &room_id, &two.user("bob")).await;
        let past = past.iter().filter(|event| event.row.pos.is_none()).map(|event| event.num().0);
        assert_eq!(told, past.collect());
        assert_eq!(room.head().extremities.len(), 1);
        assert_eq!(room.head().extremities[0].id, *joined.id());
        assert_eq!(one.current(&room_id).await, two.current(&room_id).await);
        let fragment = two.rooms.store().get::<FragmentRow>(vec![room.num.into(), 0_i64.into()]).await.unwrap();
        assert!(!fragment.unwrap().gap, "the creation is known");
        // The states at them are those of the resident.
        for event in two.rooms.events_before(&room_id, &[joined.id().clone()], 100).await.unwrap() {
            let there = one.get(&room_id, event.id()).await;
            let here = two.ids(&room, event.state_before().unwrap()).await;
            assert_eq!(here, one.ids(&*one.room(&room_id).await, there.state_before().unwrap()).await);
        }
    }
}

/// A pagination token from before the history came leads into it.
#[tokio::test]
async fn tokens_survive_what_is_put_before_them() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let room_id = one.create("11").await;
    let hello = one.say(&room_id, "alice", "hello").await;
    let joined = join(&two, &one, &room_id, "bob").await.unwrap();
    let room = two.room(&room_id).await;
    let bob = two.user("bob");
    let mut viewer = Viewer::new(&two.rooms, &room, &bob).await.unwrap();
    let from = two.rooms.live_end(&room);
    let query = PageQuery { from, direction: Direction::Backward, until: None, limit: 1 };
    let page = two.rooms.page(&room, query, &mut viewer, |_| true).await.unwrap();
    assert_eq!(page.events[0].id(), joined.id());
    let before_join = rooms::timeline::Place::before(&page.events[0]).unwrap();
    assert_eq!(page.end, Some(before_join), "what is older may be had");
    let (events, states) = backfill(&one, &room_id, &[joined.id().clone()], 3).await;
    two.rooms.accept_history(&room_id, all_received(&events, room.rules), states).await.unwrap();
    let room = two.room(&room_id).await;
    let mut viewer = Viewer::new(&two.rooms, &room, &bob).await.unwrap();
    // As a client sends it back.
    let token = Token::parse(&before_join.to_string()).unwrap();
    let from = two.rooms.place(&room, token).await.unwrap();
    let query = PageQuery { from, direction: Direction::Backward, until: None, limit: 1 };
    let page = two.rooms.page(&room, query, &mut viewer, |_| true).await.unwrap();
    assert_eq!(page.events[0].id(), &hello);
    let older = Token::parse(&page.end.unwrap().to_string()).unwrap();
    let from = two.rooms.place(&room, older).await.unwrap();
    let query = PageQuery { from, direction: Direction::Forward, until: None, limit: 5 };
    let page = two.rooms.page(&room, query, &mut viewer, |_| true).await.unwrap();
    assert_eq!(page.events[0].id(), &hello);
    assert_eq!(page.events[1].id(), joined.id());
}

/// What was missed while away fills the gap between the fragments, and they meet.
#[tokio::test]
async fn a_gap_between_two_stays_is_filled() {
    let (one, two, room_id) = two("11").await;
    let bob = two.user("bob");
    two.rooms.leave(&room_id, &bob, None).await.unwrap();
    let leave = two.room(&room_id).await.head().extremities[0].id.clone();
    one.accept(two.sent(&room_id, &leave).await).await;
    let mut unseen = Vec::new();
    for number in 0..3 {
        unseen.push(one.say(&room_id, "alice", &format!("unseen {number}")).await);
    }
    let again = join(&two, &one, &room_id, "bob").await.unwrap();
    place_known(&two, &room_id).await;
    let rules = two.room(&room_id).await.rules;
    let (events, _) = backfill(&one, &room_id, &[again.id().clone()], 4).await;
    // Their previous event is known, so no state need be told.
    let placed = two.rooms.accept_history(&room_id, all_received(&events, rules), BTreeMap::new()).await.unwrap();
    assert_eq!(placed.len(), 3);
    let shown = ids_of(&two, &room_id, "bob").await;
    let expected: Vec<String> =
        [again.id()].into_iter().chain(unseen.iter().rev()).chain([&leave]).map(ToString::to_string).collect();
    assert_eq!(shown[..5], expected);
    let room = two.room(&room_id).await;
    let fragment = two.rooms.store().get::<FragmentRow>(vec![room.num.into(), 1_i64.into()]).await.unwrap().unwrap();
    assert!(!fragment.gap && fragment.previous == Some(0));
    // Once more changes nothing.
    let placed = two.rooms.accept_history(&room_id, all_received(&events, rules), BTreeMap::new()).await.unwrap();
    assert!(placed.is_empty());
    assert_eq!(shown, ids_of(&two, &room_id, "bob").await);
}

/// Someone who left before does not see what was said later, although it came as history for someone else.
#[tokio::test]
async fn history_is_not_shown_to_those_who_had_left_before_it() {
    let (one, two, room_id) = two("11").await;
    let bob = two.user("bob");
    two.rooms.leave(&room_id, &bob, None).await.unwrap();
    let leave = two.room(&room_id).await.head().extremities[0].id.clone();
    one.accept(two.sent(&room_id, &leave).await).await;
    let secret = one.say(&room_id, "alice", "bob has gone").await;
    let dora = join(&two, &one, &room_id, "dora").await.unwrap();
    let rules = two.room(&room_id).await.rules;
    let (events, _) = backfill(&one, &room_id, &[dora.id().clone()], 3).await;
    two.rooms.accept_history(&room_id, all_received(&events, rules), BTreeMap::new()).await.unwrap();
    assert!(ids_of(&two, &room_id, "dora").await.contains(&secret.to_string()));
    assert!(!ids_of(&two, &room_id, "bob").await.contains(&secret.to_string()));
}

/// An event that the join names as previous comes by itself: it belongs before the join and is no news.
#[tokio::test]
async fn fe7_an_event_that_fills_a_gap_takes_its_place_in_it() {
    let (one, two, room_id) = two("11").await;
    let bob = two.user("bob");
    two.rooms.leave(&room_id, &bob, None).await.unwrap();
    let leave = two.room(&room_id).await.head().extremities[0].id.clone();
    one.accept(two.sent(&room_id, &leave).await).await;
    let unseen = one.say(&room_id, "alice", "unseen").await;
    let again = join(&two, &one, &room_id, "bob").await.unwrap();
    let accepted = two.accept(one.sent(&room_id, &unseen).await).await;
    let Accepted::Judged(event) = accepted else { panic!("{accepted:?}") };
    assert!(event.row.pos.is_none());
    let head = two.room(&room_id).await.head();
    assert_eq!(head.extremities.len(), 1, "an event that another names is no extremity");
    assert_eq!(head.extremities[0].id, *again.id());
    let shown = ids_of(&two, &room_id, "bob").await;
    assert_eq!(shown[..3], [again.id(), &unseen, &leave].map(ToString::to_string));
    assert!(matches!(two.accept(one.sent(&room_id, &unseen).await).await, Accepted::Known(_)));
}

/// The second server leaves, misses four messages, and joins again: its leave, these, and its join.
async fn away_and_back(one: &Server, two: &Server, room_id: &str) -> (OwnedEventId, Vec<OwnedEventId>, Arc<Event>) {
    two.rooms.leave(room_id, &two.user("bob"), None).await.unwrap();
    let leave = two.room(room_id).await.head().extremities[0].id.clone();
    one.accept(two.sent(room_id, &leave).await).await;
    let mut unseen = Vec::new();
    for number in 0..4 {
        unseen.push(one.say(room_id, "alice", &format!("unseen {number}")).await);
    }
    (leave, unseen, join(two, one, room_id, "bob").await.unwrap())
}

/// What waits for an event is missing in the timeline: with it, it takes its place there, in the order of the graph.
#[tokio::test]
async fn fe7_an_event_for_which_one_in_a_gap_waits_takes_its_place_before_that() {
    let (one, two, room_id) = two("11").await;
    let (leave, unseen, again) = away_and_back(&one, &two, &room_id).await;
    for id in unseen[1..].iter().rev() {
        assert!(matches!(two.accept(one.sent(&room_id, id).await).await, Accepted::Waiting(_)));
    }
    let accepted = two.accept(one.sent(&room_id, &unseen[0]).await).await;
    assert!(matches!(&accepted, Accepted::Judged(event) if event.row.pos.is_none()), "{accepted:?}");
    let head = two.room(&room_id).await.head();
    assert_eq!(head.extremities.iter().map(|extremity| &extremity.id).collect::<Vec<_>>(), [again.id()]);
    let shown = ids_of(&two, &room_id, "bob").await;
    let expected: Vec<String> =
        [again.id()].into_iter().chain(unseen.iter().rev()).chain([&leave]).map(ToString::to_string).collect();
    assert_eq!(shown[..6], expected);
    assert!(two.rooms.missing_events(&room_id).await.unwrap().is_empty());
}

/// So it does where the state before it had to be told, since what came before it cannot be had.
#[tokio::test]
async fn fe7_an_event_with_a_told_state_for_which_one_in_a_gap_waits_takes_its_place_before_that() {
    let (one, two, room_id) = two("11").await;
    let (_, unseen, again) = away_and_back(&one, &two, &room_id).await;
    for id in unseen[2..].iter().rev() {
        assert!(matches!(two.accept(one.sent(&room_id, id).await).await, Accepted::Waiting(_)));
    }
    let state = one.state_ids_before(&room_id, &unseen[1]).await;
    let accepted = two.rooms.accept_with_state(one.sent(&room_id, &unseen[1]).await, state).await.unwrap();
    assert!(matches!(&accepted, Accepted::Judged(event) if event.row.pos.is_none()), "{accepted:?}");
    let head = two.room(&room_id).await.head();
    assert_eq!(head.extremities.iter().map(|extremity| &extremity.id).collect::<Vec<_>>(), [again.id()]);
    let shown = ids_of(&two, &room_id, "bob").await;
    let expected: Vec<String> =
        [again.id()].into_iter().chain(unseen[1..].iter().rev()).map(ToString::to_string).collect();
    assert_eq!(shown[..4], expected);
    let room = two.room(&room_id).await;
    assert_eq!(two.rooms.backward_gaps(&room, two.rooms.live_end(&room)).await.unwrap(), unseen[..1]);
}

/// Nobody who has a missing event in his timeline is in the room any more, but all know it as part of the state: what came
/// before it is asked for, and gives it a place.
#[tokio::test]
async fn fe7_what_is_known_as_state_alone_does_not_end_the_history() {
    let (one, two, three) =
        (Server::new("one.test").await, Server::new("two.test").await, Server::new("three.test").await);
    let room_id = one.create("11").await;
    let hello = one.say(&room_id, "alice", "hello").await;
    let bobs = join(&two, &one, &room_id, "bob").await.unwrap();
    join(&three, &one, &room_id, "carol").await.unwrap();
    assert!(three.rooms.accept_history(&room_id, Vec::new(), BTreeMap::new()).await.unwrap().is_empty());
    let room = three.room(&room_id).await;
    let named = three.rooms.backward_gaps(&room, three.rooms.live_end(&room)).await.unwrap();
    assert_eq!(named, [bobs.id().clone(), hello.clone()]);
    let events = one.rooms.events_before(&room_id, std::slice::from_ref(&hello), 1).await.unwrap();
    three.rooms.accept_history(&room_id, all_received(&events, room.rules), BTreeMap::new()).await.unwrap();
    assert_eq!(ids_of(&three, &room_id, "carol").await, ids_of(&one, &room_id, "alice").await);
    let room = three.room(&room_id).await;
    assert!(three.rooms.backward_gaps(&room, three.rooms.live_end(&room)).await.unwrap().is_empty());
}

/// State events that the join brought as outliers become real when their history comes.
#[tokio::test]
async fn fe7_outliers_become_real_when_their_state_is_known() {
    let (one, two, room_id) = two("6").await;
    let joined = two.room(&room_id).await.head().extremities[0].id.clone();
    let room = two.room(&room_id).await;
    let create = two.get(&room_id, &room.create.event_id).await;
    assert!(create.row.fragment.is_none() && !create.shown());
    let events = one.rooms.events_before(&room_id, &[joined], 100).await.unwrap();
    two.rooms.accept_history(&room_id, all_received(&events, room.rules), BTreeMap::new()).await.unwrap();
    let real = two.get(&room_id, &room.create.event_id).await;
    assert!(real.shown() && real.row.fragment.is_some() && real.num() == create.num());
    assert_eq!(ids_of(&two, &room_id, "bob").await, ids_of(&one, &room_id, "alice").await);
}

/// A redaction in the history works on what is older still, and is shown at its own place, not as news.
#[tokio::test]
async fn redactions_in_the_history_are_applied() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let room_id = one.create("11").await;
    let alice = one.user("alice");
    let target = one.say(&room_id, "alice", "regret").await;
    let mut redaction = NewEvent::message(&alice, "m.room.redaction", content(json!({})));
    redaction.redacts = Some(target.clone());
    let redaction = one.rooms.send(&room_id, redaction).await.unwrap();
    one.say(&room_id, "alice", "later").await;
    let joined = join(&two, &one, &room_id, "bob").await.unwrap();
    let rules = two.room(&room_id).await.rules;
    // The redaction comes with one answer, its target with the next.
    for (from, limit) in [(joined.id().clone(), 3), (redaction.clone(), 2)] {
        let (mut events, states) = backfill(&one, &room_id, &[from], limit).await;
        events.retain(|event| event.id() != &target || limit == 2);
        let events = events.iter().map(|event| whole(&one, event)).collect::<Vec<_>>();
        let mut verified = Vec::new();
        for event in events {
            verified.push(super::received(&event.await, rules));
        }
        two.rooms.accept_history(&room_id, verified, states).await.unwrap();
    }
    let target = two.get(&room_id, &target).await;
    assert!(target.pdu.content.is_empty() && target.row.redacted_by.is_some());
    let redaction = two.get(&room_id, &redaction).await;
    assert!(redaction.row.pos.is_none() && redaction.row.fragment.is_some());
    assert_eq!(ids_of(&two, &room_id, "bob").await, ids_of(&one, &room_id, "alice").await);
}

/// Gives those events a place that a join has brought as state, as far as all is known that came before them.
async fn place_known(server: &Server, room_id: &str) {
    let placed = server.rooms.accept_history(room_id, Vec::new(), BTreeMap::new()).await.unwrap();
    assert!(!placed.is_empty() && placed.iter().all(|event| event.shown() && event.row.pos.is_none()));
    assert!(server.rooms.accept_history(room_id, Vec::new(), BTreeMap::new()).await.unwrap().is_empty());
}

/// What is missing branched off far below an event that names it, and the way from there is known: it is found all the same
/// by a request for few events.
#[tokio::test]
async fn what_branched_off_far_below_is_found() {
    let (one, two, room_id) = two("11").await;
    let (three, rules) = (Server::new("three.test").await, two.room(&room_id).await.rules);
    let carol = join(&three, &one, &room_id, "carol").await.unwrap();
    two.accept(one.sent(&room_id, carol.id()).await).await;
    let aside = three.say(&room_id, "carol", "aside").await;
    for number in 0..20 {
        let said = one.say(&room_id, "alice", &number.to_string()).await;
        two.accept(one.sent(&room_id, &said).await).await;
    }
    one.accept(three.sent(&room_id, &aside).await).await;
    let both = one.say(&room_id, "alice", "follows both").await;
    let state = one.state_ids_before(&room_id, &both).await;
    two.rooms.accept_with_state(one.sent(&room_id, &both).await, state).await.unwrap();
    let room = two.room(&room_id).await;
    place_known(&two, &room_id).await;
    let gaps = two.rooms.backward_gaps(&room, two.rooms.live_end(&room)).await.unwrap();
    let events = one.rooms.events_before(&room_id, &gaps, 5).await.unwrap();
    let placed = two.rooms.accept_history(&room_id, all_received(&events, rules), BTreeMap::new()).await.unwrap();
    assert_eq!(placed.iter().map(|event| event.id()).collect::<Vec<_>>(), [&aside]);
}

/// A redaction behind a gap is not shown, since what it redacts is not known; but what lies between is missing all the
/// same, and when it has come the redaction is applied and shown.
#[tokio::test]
async fn what_is_missing_before_a_withheld_redaction_is_found() {
    let (one, two, room_id) = two("11").await;
    let (rules, alice) = (two.room(&room_id).await.rules, one.user("alice"));
    let between = one.say(&room_id, "alice", "between").await;
    let target = one.say(&room_id, "alice", "regret").await;
    let mut redaction = NewEvent::message(&alice, "m.room.redaction", content(json!({})));
    redaction.redacts = Some(target.clone());
    let redaction = one.rooms.send(&room_id, redaction).await.unwrap();
    let state = one.state_ids_before(&room_id, &redaction).await;
    let judged = two.rooms.accept_with_state(one.sent(&room_id, &redaction).await, state.clone()).await.unwrap();
    assert!(matches!(judged, Accepted::Judged(event) if event.row.fragment.is_none()), "it is withheld");
    let later = one.say(&room_id, "alice", "later").await;
    two.accept(one.sent(&room_id, &later).await).await;
    let room = two.room(&room_id).await;
    let gaps = two.rooms.backward_gaps(&room, two.rooms.live_end(&room)).await.unwrap();
    assert_eq!(gaps, std::slice::from_ref(&target));
    let mut verified = Vec::new();
    for event in one.rooms.events_before(&room_id, &gaps, 100).await.unwrap() {
        verified.push(super::received(&whole(&one, &event).await, rules));
    }
    two.rooms.accept_history(&room_id, verified, BTreeMap::new()).await.unwrap();
    let room = two.room(&room_id).await;
    let live = two.rooms.live_end(&room);
    assert!(!two.rooms.backward_gaps(&room, live).await.unwrap().contains(&target));
    let here = ids_of(&two, &room_id, "bob").await;
    let expected = [&redaction, &later, &target, &between].map(ToString::to_string);
    assert_eq!(here[..4], expected, "it becomes visible now");
    assert!(two.get(&room_id, &target).await.row.redacted_by.is_some());
}

/// An event with the content that it was sent with.
async fn whole(server: &Server, event: &Arc<Event>) -> event::Pdu {
    use store::tables::rooms::EventBytesRow;
    let row = server.rooms.store().get::<EventBytesRow>(vec![event.num().into()]).await.unwrap().unwrap();
    let rules = event::Rules::of("11").unwrap();
    event::Pdu::parse(rules, row.json.into()).unwrap()
}

/// Events that lead to no gap, or that nothing is known to judge by, are not taken in.
#[tokio::test]
async fn unconnected_history_is_left_out() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let room_id = one.create("11").await;
    for body in ["first", "second"] {
        one.say(&room_id, "alice", body).await;
    }
    join(&two, &one, &room_id, "bob").await.unwrap();
    let joined = two.room(&room_id).await.head().extremities[0].id.clone();
    let rules = two.room(&room_id).await.rules;
    let later = one.say(&room_id, "alice", "later").await;
    let later = one.get(&room_id, &later).await;
    let placed = two.rooms.accept_history(&room_id, all_received(&[later], rules), BTreeMap::new()).await.unwrap();
    assert!(placed.is_empty(), "it is no history");
    let (events, _) = backfill(&one, &room_id, &[joined], 2).await;
    let placed = two.rooms.accept_history(&room_id, all_received(&events, rules), BTreeMap::new()).await.unwrap();
    assert!(placed.is_empty(), "without the state before the oldest nothing can be judged");
}

/// Messages of the history are not unread, and do not make others so.
#[tokio::test]
async fn history_is_not_unread() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let room_id = one.create("11").await;
    for number in 0..3 {
        one.rooms.send(&room_id, text(&one.user("alice"), &number.to_string())).await.unwrap();
    }
    let joined = join(&two, &one, &room_id, "bob").await.unwrap();
    let before = two.room(&room_id).await.head().row.messages;
    let (events, states) = backfill(&one, &room_id, &[joined.id().clone()], 4).await;
    let rules = two.room(&room_id).await.rules;
    two.rooms.accept_history(&room_id, all_received(&events, rules), states).await.unwrap();
    let head = two.room(&room_id).await.head();
    assert_eq!(head.row.messages, before);
    let row = two.rooms.membership_row(head.row.room, &two.user("bob")).await.unwrap().unwrap();
    assert!(row.joined_messages <= before);
}

/// Where the events that are known fill a page exactly, its token leads on to what is missing.
#[tokio::test]
async fn a_full_page_that_ends_at_a_gap_is_not_the_end() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let room_id = one.create("11").await;
    join(&two, &one, &room_id, "bob").await.unwrap();
    two.say(&room_id, "bob", "hello").await;
    let (room, bob) = (two.room(&room_id).await, two.user("bob"));
    let mut viewer = Viewer::new(&two.rooms, &room, &bob).await.unwrap();
    let mut query =
        PageQuery { from: two.rooms.live_end(&room), direction: Direction::Backward, until: None, limit: 2 };
    let page = two.rooms.page(&room, query, &mut viewer, |_| true).await.unwrap();
    assert_eq!(page.events.len(), 2);
    query.from = page.end.expect("more may be had");
    let page = two.rooms.page(&room, query, &mut viewer, |_| true).await.unwrap();
    assert_eq!((page.events.len(), page.end), (0, None), "nobody asked for more");
    query.until = Some(query.from);
    query.from = two.rooms.live_end(&room);
    let page = two.rooms.page(&room, query, &mut viewer, |_| true).await.unwrap();
    assert_eq!((page.events.len(), page.end), (2, None), "more was not wanted");
}
