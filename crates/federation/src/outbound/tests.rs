//! Tests of one destination's queue. What is sent over a network is tested by the stories.

#![expect(clippy::unwrap_used, reason = "tests")]

use event::{Json, Object, Rules, SigningKey, Template};
use rooms::Event;
use std::sync::Arc;
use store::tables::rooms::EventRow;
use store::{EventNum, RoomNum, StreamPosition, UserId};

use super::destination::{EduKey, Queue};
use super::transaction;

fn event(number: i64) -> Arc<Event> {
    let template = Template {
        room_id: Some("!r:us".try_into().unwrap()),
        sender: "@a:us".to_owned(),
        kind: "m.room.message".to_owned(),
        content: Object::from([("body".to_owned(), Json::from(number))]),
        depth: number,
        ..Template::default()
    };
    let key = SigningKey::generate(&[1; 32]);
    let pdu = event::build(Rules::of("11").unwrap(), template, &key, "us").unwrap().into_pdu();
    let row = EventRow {
        event: EventNum(number),
        room: RoomNum(1),
        event_id: pdu.event_id.to_string(),
        pos: Some(StreamPosition(number)),
        fragment: Some(0),
        idx: Some(number),
        depth: number,
        ts: 0,
        sender: UserId::from("@a:us"),
        kind: pdu.kind.clone(),
        state_key: None,
        flags: 0,
        reason: None,
        state_before: None,
        state_after: None,
        messages: 0,
        thread: None,
        redacted_by: None,
        replaces: None,
        transaction: None,
        prev: Vec::new(),
        auth: Vec::new(),
    };
    Arc::new(Event::new(row, pdu))
}

fn typing(typing: bool) -> Object {
    Object::from([("typing".to_owned(), Json::from(typing))])
}

#[test]
fn a_queue_that_is_full_falls_behind_from_its_first_event() {
    let mut queue = Queue::default();
    let one = event(10);
    for pos in 10..510 {
        queue.add_event(StreamPosition(pos), Arc::clone(&one));
    }
    assert_eq!((queue.events.len(), queue.behind_from), (500, None));
    assert_eq!(queue.waits_from(), Some(StreamPosition(9)));
    queue.add_event(StreamPosition(510), Arc::clone(&one));
    assert_eq!((queue.events.len(), queue.behind_from), (0, Some(StreamPosition(9))));
    // What comes later is read from the rooms too.
    queue.add_event(StreamPosition(511), one);
    assert_eq!((queue.events.len(), queue.last_meant), (0, StreamPosition(511)));
    assert_eq!(queue.waits_from(), Some(StreamPosition(9)));
    // Once a row says so, nobody else need wait for it.
    queue.stored = true;
    assert_eq!(queue.waits_from(), None);
}

#[test]
fn a_newer_edu_takes_the_place_of_an_older() {
    let mut queue = Queue::default();
    let key = EduKey::Typing(RoomNum(1), UserId::from("@a:us"));
    queue.add_edu(key.clone(), typing(true));
    queue.add_edu(key.clone(), typing(false));
    assert_eq!(queue.edus.len(), 1);
    assert_eq!(queue.edus.get(&key), Some(&typing(false)));
    queue.add_edu(EduKey::Single(0), typing(true));
    queue.add_edu(EduKey::Single(0), typing(true));
    assert_eq!(queue.edus.len(), 3, "single ones replace none");
}

#[test]
fn fa12_a_transaction_holds_events_as_they_are() {
    let events: Vec<_> = (1..=3).map(|number| (StreamPosition(number), event(number))).collect();
    let text = transaction::body("us", 7, &events, &[typing(true), typing(false)]);
    let body = Json::object_from_slice(&text).unwrap();
    assert_eq!(text, event::canonical_json::to_bytes(&body), "what is sent is what is signed");
    assert_eq!(body.get("origin"), Some(&Json::from("us")));
    assert_eq!(body.get("origin_server_ts"), Some(&Json::from(7)));
    assert_eq!(body.get("edus").and_then(Json::as_array).map(<[Json]>::len), Some(2));
    let pdus = body.get("pdus").and_then(Json::as_array).unwrap();
    for (pdu, (_, event)) in pdus.iter().zip(&events) {
        assert_eq!(pdu.to_canonical_string().as_bytes(), &event.pdu.bytes[..]);
    }
    assert_eq!(pdus.len(), 3);
}
