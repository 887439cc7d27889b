//! Events that come after a gap, by reference only, or before what they build on.

use rooms::remote::partial::Partial;
use rooms::{Accepted, Error, Preset, flags};
use serde_json::json;
use store::UserId;

use super::{Server, all_received, join, make_join, send_join, state, two};
use crate::harness::{content, history, room_of};

/// The second server misses some events and is told the state by the first.
#[tokio::test]
async fn fe6_an_event_after_a_gap_is_judged_by_the_state_that_is_told() {
    for version in ["2", "6", "11", "12"] {
        let (one, two, room_id) = two(version).await;
        let alice = one.user("alice");
        let rules = two.room(&room_id).await.rules;
        for number in 0..3 {
            one.say(&room_id, "alice", &format!("missed {number}")).await;
        }
        one.rooms.send(&room_id, state(&alice, "m.room.topic", json!({ "topic": "missed" }))).await.unwrap();
        one.rooms.join(&room_id, &one.user("carol"), None, content(json!({}))).await.unwrap();
        let last = one.say(&room_id, "alice", "seen").await;
        let event = one.sent(&room_id, &last).await;
        let Accepted::Waiting(missing) = two.accept(event.clone()).await else { panic!("{version}") };
        assert_eq!(missing.len(), 1);
        let awaited = two.rooms.missing_events(&room_id).await.unwrap();
        assert_eq!((awaited.len(), &awaited[0].id, &awaited[0].children[..]), (1, &missing[0], &[last.clone()][..]));
        let told = one.rooms.state_before(&room_id, &last).await.unwrap();
        let ids: Vec<_> = told.iter().map(|event| event.id().clone()).collect();
        let unknown = two.rooms.accept_with_state(event.clone(), ids.clone()).await;
        assert!(matches!(unknown, Err(Error::Invalid(_))), "the state is not known yet: {unknown:?}");
        let chain = one.rooms.auth_chain(&room_id, &ids).await.unwrap();
        let outliers = [all_received(&told, rules), all_received(&chain, rules)].concat();
        assert!(two.rooms.accept_outliers(&room_id, outliers.clone()).await.unwrap() >= 2);
        assert_eq!(two.rooms.accept_outliers(&room_id, outliers).await.unwrap(), 0, "they are known now");
        let Accepted::Judged(judged) = two.rooms.accept_with_state(event.clone(), ids.clone()).await.unwrap() else {
            panic!()
        };
        assert!(judged.shown());
        assert!(two.rooms.missing_events(&room_id).await.unwrap().is_empty());
        assert_eq!(one.current(&room_id).await, two.current(&room_id).await, "version {version}");
        assert_eq!(two.room(&room_id).await.head().row.joined, 3);
        assert!(matches!(two.rooms.accept_with_state(event, ids.clone()).await.unwrap(), Accepted::Known(_)));
        // The gap can be paged through.
        let room = two.room(&room_id).await;
        let missing = one.get(&room_id, &last).await.pdu.prev_events.clone();
        assert_eq!(two.rooms.backward_gaps(&room, two.rooms.live_end(&room)).await.unwrap()[..1], missing);
        assert_eq!(room.head().extremities.len(), 2, "what was missed may follow another than the newest known");
        let back = one.rooms.events_before(&room_id, std::slice::from_ref(&last), 100).await.unwrap();
        two.rooms.accept_history(&room_id, all_received(&back, rules), Default::default()).await.unwrap();
        let here = history(&two.rooms, &room_id, &two.user("bob")).await;
        let there = history(&one.rooms, &room_id, &alice).await;
        let ids = |events: &[std::sync::Arc<rooms::Event>]| events.iter().map(|e| e.id().clone()).collect::<Vec<_>>();
        assert_eq!(ids(&here), ids(&there), "version {version}");
        // The newest event of before the gap has followers now.
        let head = two.room(&room_id).await.head();
        assert_eq!(head.extremities.iter().map(|extremity| &extremity.id).collect::<Vec<_>>(), [&last]);
        assert_eq!(one.current(&room_id).await, two.current(&room_id).await, "version {version}");
    }
}

/// An event is not shown while an event that it cites is missing, and is judged again when that comes, also by itself.
#[tokio::test]
async fn fe4_an_event_is_judged_again_when_its_auth_event_comes() {
    let (one, two, room_id) = two("11").await;
    let carol = one.user("carol");
    one.rooms.join(&room_id, &carol, None, content(json!({}))).await.unwrap();
    let joined = one.room(&room_id).await.head().extremities[0].id.clone();
    let said = one.say(&room_id, "carol", "hello").await;
    // Its previous event is also the one that it cites: as an outlier it is good for the one, not for the other.
    let Accepted::Waiting(missing) = two.accept(one.sent(&room_id, &said).await).await else { panic!() };
    assert_eq!(missing, std::slice::from_ref(&joined));
    two.rooms.accept_outliers(&room_id, vec![one.sent(&room_id, &joined).await]).await.unwrap();
    assert!(!two.get(&room_id, &said).await.shown(), "there is no state before it yet");
    assert_eq!(two.rooms.missing_events(&room_id).await.unwrap().len(), 1);
    let Accepted::Judged(real) = two.accept(one.sent(&room_id, &joined).await).await else { panic!() };
    assert!(real.shown());
    assert!(two.get(&room_id, &said).await.shown());
    assert_eq!(one.current(&room_id).await, two.current(&room_id).await);

    // Another whose previous event is known, but not the one that it cites.
    let dora = one.user("dora");
    one.rooms.join(&room_id, &dora, None, content(json!({}))).await.unwrap();
    let joined = one.room(&room_id).await.head().extremities[0].id.clone();
    let between = one.say(&room_id, "alice", "between").await;
    let said = one.say(&room_id, "dora", "hello").await;
    let rules = two.room(&room_id).await.rules;
    let ids = one.state_ids_before(&room_id, &between).await;
    let known: Vec<_> = ids.iter().filter(|id| **id != joined).cloned().collect();
    two.rooms.accept_with_state(one.sent(&room_id, &between).await, known.clone()).await.unwrap();
    let Accepted::Waiting(missing) = two.accept(one.sent(&room_id, &said).await).await else { panic!() };
    assert_eq!(missing, std::slice::from_ref(&joined));
    let cited = one.get(&room_id, &joined).await;
    two.rooms.accept_outliers(&room_id, all_received(&[cited], rules)).await.unwrap();
    let event = two.get(&room_id, &said).await;
    assert!(!event.has(flags::WAITING), "it has been judged");
    // By the state that was told dora is not in the room.
    assert!(event.rejected());
}

/// A redacted copy of an event does not take the place of the whole; the whole takes that of a redacted outlier.
#[tokio::test]
async fn fe9_the_whole_form_of_an_outlier_wins() {
    let (one, two, room_id) = two("11").await;
    let alice = one.user("alice");
    let topic = one.rooms.send(&room_id, state(&alice, "m.room.topic", json!({ "topic": "whole" }))).await.unwrap();
    let rules = two.room(&room_id).await.rules;
    let whole = one.sent(&room_id, &topic).await;
    let pruned = whole.pdu().redacted(rules).unwrap();
    let pruned = super::received(&pruned, rules);
    assert!(pruned.redacted());
    two.rooms.accept_outliers(&room_id, vec![pruned.clone()]).await.unwrap();
    assert!(two.get(&room_id, &topic).await.pdu.content.is_empty());
    two.rooms.accept_outliers(&room_id, vec![pruned.clone(), whole]).await.unwrap();
    two.rooms.accept_outliers(&room_id, vec![pruned.clone()]).await.unwrap();
    assert!(!two.get(&room_id, &topic).await.pdu.content.is_empty());
    // It becomes real by way of a redacted copy, and stays whole.
    assert!(matches!(two.accept(pruned).await, Accepted::Judged(event) if event.shown()));
    let event = two.get(&room_id, &topic).await;
    assert!(!event.pdu.content.is_empty() && !event.has(flags::REDACTED));
    let again = two.restarted().await;
    assert!(!again.get(&room_id, &topic).await.pdu.content.is_empty());
}

/// Who may not act by the state that is told is rejected, also where the present state would allow it.
#[tokio::test]
async fn a_told_state_is_what_decides() {
    let (one, two, room_id) = two("11").await;
    one.say(&room_id, "alice", "missed").await;
    let said = one.say(&room_id, "alice", "seen").await;
    let event = one.sent(&room_id, &said).await;
    let alice = one.user("alice");
    let room = two.room(&room_id).await;
    let current = two.rooms.whole_state(&room, room.head().state).await.unwrap();
    let without: Vec<_> = current
        .iter()
        .filter(|event| !event.pdu.is_state_of("m.room.member", alice.as_str()))
        .map(|event| event.id().clone())
        .collect();
    let Accepted::Judged(judged) = two.rooms.accept_with_state(event, without.clone()).await.unwrap() else { panic!() };
    assert!(judged.rejected());
    let head = two.room(&room_id).await.head();
    assert!(head.extremities.iter().all(|extremity| extremity.id != said));
    assert_eq!(head.row.fragment, 0, "a rejected event begins no fragment");
}

/// trap 17: a server whose last user has left still learns of the leave, and of nothing after it.
#[tokio::test]
async fn the_servers_at_a_position_are_known() {
    let (one, two, room_id) = two("12").await;
    let three = Server::new("three.test").await;
    join(&three, &one, &room_id, "eve").await.unwrap();
    let room = one.room(&room_id).await;
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let at = async |id: &ruma_common::OwnedEventId| {
        let pos = one.get(&room_id, id).await.pos();
        one.rooms.servers_at(&*one.room(&room_id).await, pos).await.unwrap()
    };
    let all: std::collections::BTreeSet<String> = names(&["one.test", "three.test", "two.test"]);
    let said = one.say(&room_id, "alice", "all of you").await;
    assert_eq!(at(&said).await, all);
    let eve = UserId::from("@eve:three.test");
    one.rooms.kick(&room_id, &one.user("alice"), &eve, None).await.unwrap();
    let kick = one.room(&room_id).await.head().extremities[0].id.clone();
    assert_eq!(at(&kick).await, all, "it learns that it is out");
    let after = one.say(&room_id, "alice", "she is gone").await;
    let few: std::collections::BTreeSet<String> = names(&["one.test", "two.test"]);
    assert_eq!(at(&after).await, few);
    assert_eq!(at(&said).await, all, "what was is not changed by what came");
    assert_eq!(one.rooms.servers(&room_id).await.unwrap(), few);
    let pos = one.get(&room_id, &after).await.pos();
    assert!(!one.rooms.was_resident(&room, "three.test", pos).await.unwrap());
    assert!(one.rooms.was_resident(&room, "two.test", pos).await.unwrap());
    assert_eq!(one.restarted().await.rooms.servers(&room_id).await.unwrap(), few);
    drop(two);
}

/// A member whom not every state knows, and of whom no two say different things, is no conflict of version 1: what that
/// member has set counts, whichever of the states comes first.
#[tokio::test]
async fn fe7_what_the_states_agree_on_counts_in_version_1() {
    for version in ["1", "2"] {
        let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
        let mut request = room_of(&one.user("alice"), version, Preset::PublicChat);
        request.power_level_content_override = Some(content(json!({ "state_default": 0 })));
        let room_id = one.create_of(&request).await;
        join(&two, &one, &room_id, "bob").await.unwrap();
        let topic = |of: &UserId| state(of, "m.room.topic", json!({ "topic": of.as_str() }));
        let bobs = two.rooms.send(&room_id, topic(&two.user("bob"))).await.unwrap();
        let carol = one.user("carol");
        one.rooms.join(&room_id, &carol, None, content(json!({}))).await.unwrap();
        let joined = one.room(&room_id).await.head().extremities[0].id.clone();
        let carols = one.rooms.send(&room_id, topic(&carol)).await.unwrap();
        for id in [&joined, &carols] {
            two.accept(one.sent(&room_id, id).await).await;
        }
        one.accept(two.sent(&room_id, &bobs).await).await;
        assert_eq!(one.current(&room_id).await, two.current(&room_id).await, "version {version}");
        assert!(two.current(&room_id).await.contains(carols.as_str()), "version {version}");
    }
}

/// Soft-failed events that a later one makes part of the graph may follow others that were never sent: these are history
/// that is missing, and are placed before it.
#[tokio::test]
async fn fe5_what_is_missing_behind_soft_failed_events_is_found() {
    for (hidden, looks) in [(1, 0), (199, 0), (201, 1), (450, 1)] {
        missing_behind(hidden, looks).await;
    }
}

/// An event follows so many hidden ones, of which the first follows some that are missing. At once that is found, or after
/// a further look.
async fn missing_behind(hidden: usize, looks: usize) {
    let (one, two, room_id) = two("11").await;
    let (three, rules) = (Server::new("three.test").await, one.room(&room_id).await.rules);
    join(&three, &one, &room_id, "carol").await.unwrap();
    let carols = one.room(&room_id).await.head().extremities[0].id.clone();
    two.accept(one.sent(&room_id, &carols).await).await;
    // Bob's words reach the third server, and the first only after it has removed him.
    let mut said = Vec::new();
    for number in 0..2 + hidden {
        said.push(two.say(&room_id, "bob", &number.to_string()).await);
        three.accept(two.sent(&room_id, said.last().unwrap()).await).await;
    }
    let further = three.say(&room_id, "carol", "she has heard him").await;
    one.rooms.kick(&room_id, &one.user("alice"), &two.user("bob"), None).await.unwrap();
    let first = &said[2];
    let told = three.rooms.state_before(&room_id, first).await.unwrap();
    let ids: Vec<_> = told.iter().map(|event| event.id().clone()).collect();
    one.rooms.accept_outliers(&room_id, all_received(&told, rules)).await.unwrap();
    assert!(matches!(one.accept(two.sent(&room_id, first).await).await, Accepted::Waiting(_)));
    let judged = one.rooms.accept_with_state(two.sent(&room_id, first).await, ids.clone()).await.unwrap();
    assert!(matches!(judged, Accepted::Judged(event) if event.has(flags::SOFT_FAILED)));
    for id in &said[3..] {
        let judged = one.accept(two.sent(&room_id, id).await).await;
        assert!(matches!(judged, Accepted::Judged(event) if event.has(flags::SOFT_FAILED)));
    }
    let gaps = async || {
        let room = one.room(&room_id).await;
        one.rooms.backward_gaps(&room, one.rooms.live_end(&room)).await.unwrap()
    };
    assert!(gaps().await.is_empty(), "nothing that is shown leads there");
    let Accepted::Judged(event) = one.accept(three.sent(&room_id, &further).await).await else { panic!() };
    assert!(event.shown());
    let at_once = gaps().await;
    let missing = &said[1];
    assert_eq!((at_once.len(), at_once[0] == *missing), (1, looks == 0), "behind {hidden} hidden events");
    for _ in 0..2 {
        // Once more changes nothing.
        one.rooms.look_further(&room_id, one.rooms.live_end(&*one.room(&room_id).await)).await.unwrap();
        assert_eq!(gaps().await, std::slice::from_ref(missing));
    }
    let back = three.rooms.events_before(&room_id, &gaps().await, 100).await.unwrap();
    one.rooms.accept_history(&room_id, all_received(&back, rules), Default::default()).await.unwrap();
    assert!(gaps().await.is_empty());
    let here: Vec<_> = history(&one.rooms, &room_id, &one.user("alice")).await.iter().map(|e| e.id().clone()).collect();
    assert_eq!(here[..3], [further, said[1].clone(), said[0].clone()], "before what follows them");
}

/// A look that was broken off behind very many hidden events finds that nothing is missing.
#[tokio::test]
async fn fe5_nothing_is_missing_behind_many_hidden_events_that_follow_shown_ones() {
    let (one, two, room_id) = two("11").await;
    let three = Server::new("three.test").await;
    join(&three, &one, &room_id, "carol").await.unwrap();
    let carols = one.room(&room_id).await.head().extremities[0].id.clone();
    two.accept(one.sent(&room_id, &carols).await).await;
    one.rooms.kick(&room_id, &one.user("alice"), &two.user("bob"), None).await.unwrap();
    for number in 0..250 {
        let said = two.say(&room_id, "bob", &number.to_string()).await;
        three.accept(two.sent(&room_id, &said).await).await;
        let judged = one.accept(two.sent(&room_id, &said).await).await;
        assert!(matches!(judged, Accepted::Judged(event) if event.has(flags::SOFT_FAILED)));
    }
    let further = three.say(&room_id, "carol", "she has heard him").await;
    one.accept(three.sent(&room_id, &further).await).await;
    let room = one.room(&room_id).await;
    one.rooms.look_further(&room_id, one.rooms.live_end(&room)).await.unwrap();
    assert!(one.rooms.backward_gaps(&room, one.rooms.live_end(&room)).await.unwrap().is_empty());
    let key = vec![room.num.into(), one.rooms.live_end(&room).fragment.into()];
    let fragment = one.rooms.store().get::<store::tables::rooms::FragmentRow>(key).await.unwrap().unwrap();
    assert!(!fragment.gap && fragment.previous.is_some());
}

/// How many rooms are partial, and since when, is told without taking them into memory (MSC3902).
#[tokio::test]
async fn the_ages_of_partial_rooms_are_listed() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let (whole, partial) = (one.create("11").await, one.create("11").await);
    join(&two, &one, &whole, "bob").await.unwrap();
    assert!(two.rooms.partial_since().await.unwrap().is_empty());
    let mut import = send_join(&one, &partial, make_join(&two, &one, &partial, &two.user("bob")).await).await;
    import.state.retain(|event| event.pdu().kind != "m.room.member");
    let servers = vec!["one.test".to_owned(), "two.test".to_owned()];
    import.partial = Some(Partial { resident: "one.test".to_owned(), servers });
    two.rooms.import_join(import).await.unwrap();
    let since_ms = two.rooms.partial_room(&partial).await.unwrap().unwrap().since_ms;
    let expected = std::collections::BTreeMap::from([(two.room(&partial).await.num, since_ms)]);
    assert_eq!(two.rooms.partial_since().await.unwrap(), expected);
}
