//! Rooms that are joined with part of their state, and completed from one server or another (MSC3706, MSC3902).

use std::sync::Arc;

use event::{Json, Object};
use federation::Error;
use federation::client::path;
use federation::transport::Limits;
use http::Method;
use rooms::{NewEvent, Room};
use serde_json::json;

use crate::harness::{World, object};
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
