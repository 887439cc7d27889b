//! Rooms that are joined with part of their state, and completed from one server or another (MSC3706, MSC3902).

use std::sync::Arc;

use event::{Json, Object};
use federation::Error;
use federation::client::path;
use federation::transport::Limits;
use http::Method;
use rooms::remote::left_out;
use rooms::{NewEvent, Room};
use ruma_common::OwnedEventId;
use serde_json::json;
use store::Read;
use store::tables::core::JobRow;

use crate::harness::{Net, TestClock, World, object};
use crate::joining::{MEMBERS, state, worlds};

/// The second server's room, in which it knows few members yet.
async fn joined(one: &World, two: &World, room: &Room) -> Arc<Room> {
    let (bob, via) = (two.user("bob"), [one.name.clone()]);
    two.handshakes.join(&room.id, &bob, &via, &Object::new()).await.unwrap();
    let partial = two.rooms.room(&room.id).await.unwrap().unwrap();
    assert!(partial.is_partial());
    partial
}

/// Asks a server something of a room in another one's name; what it answers.
async fn ask(asker: &World, server: &str, path: &str) -> Result<Object, Error> {
    asker.client.json(server, Method::GET, path, None, Limits::default()).await
}

/// Whether a server said that it does not know enough of the room yet.
fn is_unable(answer: &Result<Object, Error>) -> bool {
    matches!(answer, Err(Error::Remote { status, errcode, .. })
        if status.as_u16() == 404 && errcode == "M_UNABLE_DUE_TO_PARTIAL_STATE")
}

#[tokio::test]
async fn a_person_talks_before_the_members_have_come() {
    let (one, two, room) = worlds().await;
    let partial = joined(&one, &two, &room).await;
    assert_eq!(one.net.count("one.test", "/_matrix/federation/v1/state"), 0);
    assert!(partial.has_server("one.test"));
    let content = object(json!({ "msgtype": "m.text", "body": "hello" }));
    let sent = two.rooms.send(&room.id, NewEvent::message(&two.user("bob"), "m.room.message", content)).await.unwrap();
    let hello = two.rooms.event_by_id(&partial, sent.as_str()).await.unwrap().unwrap();
    let rules = room.rules;
    let keys = &one.key_ring;
    let hello = federation::verify::pdu(keys, rules, hello.pdu.bytes.clone(), event::EdgeLimits::Enforced).await;
    one.rooms.accept(hello.unwrap().unwrap()).await.unwrap();
    assert_eq!(one.fate(&room, sent.as_str()).await, None);

    assert_eq!(two.federation.complete_rooms().await, 1);
    assert_eq!(state(&two, &room.id).await, state(&one, &room.id).await);
    let whole = two.now(&room).await;
    assert!(!whole.is_partial());
    assert_eq!(usize::try_from(whole.head().row.joined).unwrap(), MEMBERS + 2);
    assert_eq!(two.federation.complete_rooms().await, 0, "there is nothing left to do");
}

#[tokio::test(start_paused = true)]
async fn another_server_helps_when_the_resident_does_not_answer() {
    let (one, two, room) = worlds().await;
    let three = World::named("three.test", &one.net, &one.clock).await;
    three.handshakes.join(&room.id, &three.user("eve"), std::slice::from_ref(&one.name), &Object::new()).await.unwrap();
    assert_eq!(three.federation.complete_rooms().await, 1);
    let partial = joined(&one, &two, &room).await;
    assert!(partial.has_server("three.test"));
    // The third hears of the join, as it would of any event.
    let join = two.rooms.current(&partial, "m.room.member", two.user("bob").as_str()).await.unwrap().unwrap();
    let join =
        federation::verify::pdu(&three.key_ring, room.rules, join.pdu.bytes.clone(), event::EdgeLimits::Enforced);
    three.rooms.accept(join.await.unwrap().unwrap()).await.unwrap();
    one.net.cut.lock().insert("one.test".to_owned());
    assert_eq!(two.federation.complete_rooms().await, 1);
    assert_eq!(state(&two, &room.id).await, state(&three, &room.id).await);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_had_is_tried_again_later_and_after_a_restart() {
    let (one, two, room) = worlds().await;
    joined(&one, &two, &room).await;
    one.net.cut.lock().insert("one.test".to_owned());
    assert_eq!(two.federation.complete_rooms().await, 0);
    one.net.cut.lock().clear();
    assert_eq!(two.federation.complete_rooms().await, 0, "not at once");
    let two = two.restarted().await;
    assert!(two.now(&room).await.is_partial());
    two.clock.advance(5_000);
    assert_eq!(two.federation.complete_rooms().await, 1);
    assert_eq!(state(&two, &room.id).await, state(&one, &room.id).await);
}

#[tokio::test]
async fn others_are_sent_elsewhere_until_all_members_are_known() {
    let (one, two, room) = worlds().await;
    let three = World::named("three.test", &one.net, &one.clock).await;
    three.handshakes.join(&room.id, &three.user("eve"), std::slice::from_ref(&one.name), &Object::new()).await.unwrap();
    let partial = joined(&one, &two, &room).await;
    let join = two.rooms.current(&partial, "m.room.member", two.user("bob").as_str()).await.unwrap().unwrap();
    let user = three.user("frank");
    let make = path("/_matrix/federation/v1/make_join", &[&room.id, user.as_str()], &[("ver", "11")]);
    let knock = path("/_matrix/federation/v1/make_knock", &[&room.id, user.as_str()], &[("ver", "11")]);
    let whole = path("/_matrix/federation/v1/state", &[&room.id], &[("event_id", join.id().as_str())]);
    let ids = path("/_matrix/federation/v1/state_ids", &[&room.id], &[("event_id", join.id().as_str())]);
    for asked in [&make, &knock, &whole, &ids] {
        let answer = ask(&three, "two.test", asked).await;
        assert!(is_unable(&answer), "{asked}: {answer:?}");
    }
    // A single event is known.
    ask(&three, "two.test", &path("/_matrix/federation/v1/event", &[join.id().as_str()], &[])).await.unwrap();
    assert_eq!(two.federation.complete_rooms().await, 1);
    let answer = ask(&three, "two.test", &make).await.unwrap();
    assert_eq!(answer.get("room_version").and_then(Json::as_str), Some("11"));
    let answer = ask(&three, "two.test", &ids).await.unwrap();
    let Some(Json::Array(ids)) = answer.get("pdu_ids") else { panic!("{answer:?}") };
    assert!(ids.len() > MEMBERS, "{}", ids.len());
}

/// How long keys are not asked for again that could not be had, in milliseconds.
const KEYS_PAUSE_MS: i64 = 60_000;

/// A third server, whose user is in the room and has changed its topic, and which cannot be reached any more.
async fn third(one: &World, room: &Room) -> World {
    let three = World::named("three.test", &one.net, &one.clock).await;
    three.handshakes.join(&room.id, &three.user("eve"), std::slice::from_ref(&one.name), &Object::new()).await.unwrap();
    three.federation.complete_rooms().await;
    let eve = three.user("eve");
    let levels = one.rooms.current(&*one.now(room).await, "m.room.power_levels", "").await.unwrap().unwrap();
    let mut levels = serde_json::to_value(&levels.pdu.content).unwrap();
    levels["users"][eve.as_str()] = json!(50);
    let levels = one.set(room, "m.room.power_levels", levels).await;
    tell(one, &three, room, levels.as_str()).await;
    let topic = NewEvent::state(&eve, "m.room.topic", "", object(json!({ "topic": "keys" })));
    let topic = three.rooms.send(&room.id, topic).await.unwrap();
    tell(&three, one, room, topic.as_str()).await;
    one.net.cut.lock().insert(three.name.clone());
    three
}

/// One server has another one take in an event.
async fn tell(teller: &World, hearer: &World, room: &Room, id: &str) {
    let event = teller.rooms.event_by_id(&*teller.now(room).await, id).await.unwrap().unwrap();
    let bytes = event.pdu.bytes.clone();
    let event = federation::verify::pdu(&hearer.key_ring, room.rules, bytes, event::EdgeLimits::Enforced).await;
    hearer.rooms.accept(event.unwrap().unwrap()).await.unwrap();
    assert_eq!(hearer.fate(room, id).await, None);
}

/// What one server has of the current state and another one has not: kinds and state keys.
async fn lacks(two: &World, one: &World, room: &Room) -> Vec<(String, String)> {
    let known = state(two, &room.id).await;
    let mut lacks = Vec::new();
    for event in one.rooms.whole_state(room, one.now(room).await.head().state).await.unwrap() {
        if !known.contains(event.id().as_str()) {
            let (kind, state_key) = event.pdu.state_entry().unwrap();
            lacks.push((kind.to_owned(), state_key.to_owned()));
        }
    }
    lacks.sort();
    lacks
}

/// The second server has what the first has. The third hears this news from it, and is heard by the second.
async fn check_same(one: &World, two: &World, three: &World, room: &Room, news: &[&OwnedEventId]) {
    for id in news {
        tell(one, three, room, id.as_str()).await;
    }
    assert_eq!(lacks(two, one, room).await, []);
    assert_eq!(state(two, &room.id).await, state(one, &room.id).await);
    let (counted, other) = (two.now(room).await, one.now(room).await);
    assert_eq!(counted.head().row.joined, other.head().row.joined);
    assert_eq!(counted.servers(), other.servers());
    let content = object(json!({ "msgtype": "m.text", "body": "here I am" }));
    let message = NewEvent::message(&three.user("eve"), "m.room.message", content);
    let said = three.rooms.send(&room.id, message).await.unwrap();
    tell(three, two, room, said.as_str()).await;
}

#[tokio::test(start_paused = true)]
async fn events_of_a_server_that_was_away_when_we_joined_take_their_places_later() {
    let (net, clock) = (Arc::<Net>::default(), Arc::<TestClock>::default());
    let one = World::named("one.test", &net, &clock).await;
    let two = World::named("two.test", &net, &clock).await;
    let room = one.room("11").await;
    let three = third(&one, &room).await;
    let bob = two.user("bob");
    two.handshakes.join(&room.id, &bob, std::slice::from_ref(&one.name), &Object::new()).await.unwrap();
    let join = two.rooms.current(&*two.now(&room).await, "m.room.member", bob.as_str()).await.unwrap().unwrap();
    tell(&two, &one, &room, join.id().as_str()).await;
    let left_out =
        [("m.room.member".to_owned(), three.user("eve").to_string()), ("m.room.topic".to_owned(), String::new())];
    assert_eq!(lacks(&two, &one, &room).await, left_out);
    assert!(!two.now(&room).await.is_partial(), "nobody waits for it");
    let ids = path("/_matrix/federation/v1/state_ids", &[&room.id], &[("event_id", join.id().as_str())]);
    assert!(is_unable(&ask(&one, "two.test", &ids).await), "others would take it over");
    assert_eq!(two.federation.complete_rooms().await, 0, "not at once");
    one.net.cut.lock().clear();
    let two = two.restarted().await;
    let talk = one.say(&room, "what is said meanwhile").await;
    tell(&one, &two, &room, talk.as_str()).await;
    two.clock.advance(KEYS_PAUSE_MS);
    assert_eq!(two.federation.complete_rooms().await, 1);
    check_same(&one, &two, &three, &room, &[join.id(), &talk]).await;
    ask(&one, "two.test", &ids).await.unwrap();
    two.clock.advance(KEYS_PAUSE_MS);
    assert_eq!(two.federation.complete_rooms().await, 0, "there is nothing left to do");
    check_same(&one, &two.restarted().await, &three, &room, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_left_out_of_a_whole_state_that_came_later_is_tried_again_too() {
    let (one, two, room) = worlds().await;
    let three = third(&one, &room).await;
    let partial = joined(&one, &two, &room).await;
    let join = two.rooms.current(&partial, "m.room.member", two.user("bob").as_str()).await.unwrap().unwrap();
    tell(&two, &one, &room, join.id().as_str()).await;
    assert_eq!(two.federation.complete_rooms().await, 1);
    assert!(!two.now(&room).await.is_partial());
    assert_eq!(lacks(&two, &one, &room).await.len(), 2);
    one.net.cut.lock().clear();
    two.clock.advance(KEYS_PAUSE_MS);
    assert_eq!(two.federation.complete_rooms().await, 1);
    check_same(&one, &two, &three, &room, &[join.id()]).await;
}

#[tokio::test(start_paused = true)]
async fn keys_that_never_come_are_given_up() {
    let (net, clock) = (Arc::<Net>::default(), Arc::<TestClock>::default());
    let one = World::named("one.test", &net, &clock).await;
    let two = World::named("two.test", &net, &clock).await;
    let room = one.room("11").await;
    third(&one, &room).await;
    let bob = two.user("bob");
    two.handshakes.join(&room.id, &bob, std::slice::from_ref(&one.name), &Object::new()).await.unwrap();
    let jobs = || async {
        let jobs: Vec<JobRow> = two.store.all(Read::prefix::<JobRow>(vec![])).await.unwrap();
        jobs.into_iter().filter(|job| job.kind == left_out::JOB).count()
    };
    let (mut n_attempts, mut asked) = (0, one.net.count("three.test", "/_matrix/key/v2/server"));
    while jobs().await > 0 {
        n_attempts += 1;
        assert!(n_attempts < 200, "it goes on for ever");
        two.clock.advance(600_000);
        two.federation.complete_rooms().await;
        let now = one.net.count("three.test", "/_matrix/key/v2/server");
        assert!(now <= asked + 1, "keys are asked for once at a time");
        asked = now;
    }
    assert!(n_attempts > 100, "{n_attempts} attempts");
    assert_eq!(lacks(&two, &one, &room).await.len(), 2);
    assert_eq!(two.rooms.left_out(&room.id).await.unwrap().len(), 0);
    assert!(!two.now(&room).await.head().is_provisional());
    let content = object(json!({ "msgtype": "m.text", "body": "life goes on" }));
    two.rooms.send(&room.id, NewEvent::message(&bob, "m.room.message", content)).await.unwrap();
}

/// A resident tells of a topic that nobody could verify when we joined, and of which the key has come back by the time
/// the members do.
#[tokio::test(start_paused = true)]
async fn what_was_left_out_at_the_join_is_not_lost_when_the_members_come() {
    let (one, two, room) = worlds().await;
    let three = third(&one, &room).await;
    let partial = joined(&one, &two, &room).await;
    let join = two.rooms.current(&partial, "m.room.member", two.user("bob").as_str()).await.unwrap().unwrap();
    tell(&two, &one, &room, join.id().as_str()).await;
    one.net.cut.lock().clear();
    two.clock.advance(KEYS_PAUSE_MS);
    // The first makes the members known, the second gives what had been left out its place.
    assert_eq!(two.federation.complete_rooms().await, 1);
    two.clock.advance(KEYS_PAUSE_MS);
    two.federation.complete_rooms().await;
    check_same(&one, &two, &three, &room, &[join.id()]).await;
}
