//! What a server that runs for months relies on: rooms leave memory, history can be purged, what failed is tried again.

use std::sync::Arc;

use rooms::timeline::{Direction, PageQuery, Place};
use rooms::visibility::Viewer;
use rooms::{Accepted, Options, Preset, Rooms, flags};
use store::model::Model;
use store::tables::rooms::{EventBytesRow, EventRow, RedactionRow};
use store::{Read, RoomNum};

use crate::harness::{content, history, room_of, rooms_on, rooms_with, text, user};
use crate::mutants::{Mutant, Off};
use crate::pipeline::{Source, accepting, settle, verified};

const ROOMS_MAX: usize = 4;

async fn num(rooms: &Rooms, room_id: &str) -> RoomNum {
    rooms.room(room_id).await.unwrap().unwrap().num
}

/// Rooms on an engine that keeps few of them in memory, with a message each.
async fn many_rooms(rooms: &Rooms) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..3 * ROOMS_MAX {
        let room_id = rooms.create_room(&room_of(&user("alice"), "12", Preset::PublicChat)).await.unwrap();
        rooms.send(&room_id, text(&user("alice"), &n.to_string())).await.unwrap();
        ids.push(room_id);
    }
    ids
}

fn few() -> Options {
    Options { rooms_max: ROOMS_MAX, ..Options::new("one.test") }
}

#[tokio::test]
async fn rooms_leave_memory_and_come_back_as_they_were() {
    let rooms = rooms_with(Arc::new(Model::new()), few(), 1).await;
    let first = rooms.create_room(&room_of(&user("alice"), "12", Preset::PublicChat)).await.unwrap();
    let held = rooms.room(&first).await.unwrap().unwrap();
    assert_eq!(rooms.local_circles(&user("alice")).unwrap().len(), 1);
    let ids = many_rooms(&rooms).await;
    let mut nums = Vec::new();
    for room_id in &ids {
        nums.push(num(&rooms, room_id).await);
    }
    let in_memory = nums.iter().filter(|num| rooms.local_members(**num).is_some()).count();
    assert!(in_memory <= ROOMS_MAX, "{in_memory} rooms are in memory");
    assert!(rooms.local_members(*nums.last().unwrap()).is_some(), "what was used last stays");
    let again = rooms.room(&first).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&held, &again), "a room that is in use must not be in memory twice");
    assert!(rooms.local_circles(&user("alice")).is_none(), "not all circles are in memory any more");
    let friends = rooms.local_friends(&user("alice")).await.unwrap();
    assert_eq!(friends, [user("alice")].into());
    for room_id in &ids {
        rooms.send(room_id, text(&user("alice"), "later")).await.unwrap();
        let seen = history(&rooms, room_id, &user("alice")).await;
        let messages = seen.iter().filter(|event| event.pdu.kind == "m.room.message").count();
        assert_eq!(messages, 2);
    }
}

#[tokio::test]
async fn a_room_with_something_unwritten_stays_in_memory() {
    let engine = Mutant::new(Off::Nothing);
    let rooms = rooms_with(engine.clone(), few(), 1).await;
    let ids = many_rooms(&rooms).await;
    let written_to = num(&rooms, &ids[0]).await;
    engine.hold();
    let sending = {
        let (rooms, room_id) = (Arc::clone(&rooms), ids[0].clone());
        tokio::spawn(async move { rooms.send(&room_id, text(&user("alice"), "meanwhile")).await })
    };
    settle().await;
    assert_eq!(engine.held(), 1);
    // Who asked has gone; the batch has not.
    sending.abort();
    settle().await;
    for room_id in &ids[1..] {
        rooms.room(room_id).await.unwrap().unwrap();
    }
    assert!(rooms.local_members(written_to).is_some());
    engine.release();
    settle().await;
    rooms.send(&ids[0], text(&user("alice"), "later")).await.unwrap();
    let seen = history(&rooms, &ids[0], &user("alice")).await;
    let said: Vec<_> = seen.iter().filter_map(|event| event.pdu.content.get("body")?.as_str()).collect();
    assert_eq!(said, ["later", "meanwhile", "0"]);
}

#[tokio::test]
async fn what_a_hidden_event_names_may_be_purged() {
    let source = Source::new().await;
    let (rooms, alice, bob) = (&source.rooms, user("alice"), user("bob"));
    rooms.join(&source.room_id, &bob, None, content(serde_json::json!({}))).await.unwrap();
    let old = source.send(text(&bob, "old")).await;
    source.send(text(&bob, "between")).await;
    let late = source.send(text(&bob, "late")).await;
    rooms.ban(&source.room_id, &alice, &bob, None).await.unwrap();
    let hidden = source.moved(&late, &[&old]).await;
    let hidden_pdu = Arc::clone(hidden.pdu());
    let Accepted::Judged(event) = rooms.accept(hidden).await.unwrap() else { panic!("it is new") };
    assert!(event.has(flags::SOFT_FAILED));
    let last = source.send(text(&alice, "last")).await;
    let room = rooms.room(&source.room_id).await.unwrap().unwrap();
    let event = rooms.event_by_id(&room, last.event_id.as_str()).await.unwrap().unwrap();
    let before = Place::before(&event).unwrap();
    assert_eq!(rooms.purge_history(&source.room_id, before).await.unwrap(), 3);
    assert_eq!(rooms.purge_history(&source.room_id, before).await.unwrap(), 0);
    // It covers what the hidden one covers, which is gone.
    let next = source.moved(&last, &[&hidden_pdu, &last]).await;
    let Accepted::Judged(event) = rooms.accept(next).await.unwrap() else { panic!("it is new") };
    assert!(!event.has(flags::HIDDEN), "{:?}", event.row);
}

#[tokio::test]
async fn a_redaction_does_not_bring_back_what_is_being_purged() {
    let source = Source::new().await;
    let message = source.send(text(&user("alice"), "secret")).await;
    let last = source.send(text(&user("alice"), "last")).await;
    let redaction = source.redact(&message).await;
    let (engine, rooms) = source.copy().await;
    for pdu in [&message, &last] {
        rooms.accept(verified(pdu)).await.unwrap();
    }
    let room = rooms.room(&source.room_id).await.unwrap().unwrap();
    let target = rooms.event_by_id(&room, message.event_id.as_str()).await.unwrap().unwrap().num();
    let before = rooms.live_end(&room);
    engine.hold();
    let purging = {
        let (rooms, room_id) = (Arc::clone(&rooms), source.room_id.clone());
        tokio::spawn(async move { rooms.purge_history(&room_id, before).await })
    };
    settle().await;
    assert_eq!(engine.held(), 1);
    let redacting = accepting(&rooms, verified(&redaction));
    settle().await;
    engine.release();
    assert_eq!(purging.await.unwrap().unwrap(), 1);
    redacting.await.unwrap().unwrap();
    let store = rooms.store();
    assert_eq!(store.get::<EventRow>(vec![target.into()]).await.unwrap(), None);
    assert_eq!(store.get::<EventBytesRow>(vec![target.into()]).await.unwrap(), None);
    let left: Vec<RedactionRow> = store.all(Read::prefix::<RedactionRow>(vec![])).await.unwrap();
    assert!(left.iter().all(|row| row.rewrite_due_ms == i64::MAX), "it waits for its target: {left:?}");
    let anew = rooms_on(Arc::clone(store.engine()), "one.test", 3).await;
    assert!(!history(&anew, &source.room_id, &user("alice")).await.is_empty());
}

#[tokio::test]
async fn what_waited_is_judged_although_the_store_failed_once() {
    let source = Source::new().await;
    let mut chain = Vec::new();
    for n in 0..4 {
        chain.push(source.send(text(&user("alice"), &n.to_string())).await);
    }
    let other = source.send(text(&user("alice"), "other")).await;
    for failing in 2..10 {
        for by_next_event in [true, false] {
            let (engine, rooms) = source.copy().await;
            rooms.retry_waiting().await.unwrap();
            for pdu in [&chain[2], &chain[3], &chain[1]] {
                assert!(matches!(rooms.accept(verified(pdu)).await.unwrap(), Accepted::Waiting(_)));
            }
            engine.refuse(failing);
            // What has come is there, whatever becomes of the rest.
            assert!(matches!(rooms.accept(verified(&chain[0])).await.unwrap(), Accepted::Judged(_)));
            engine.refuse(0);
            if by_next_event {
                rooms.accept(source.moved(&other, &[&chain[0]]).await).await.unwrap();
            } else {
                rooms.retry_waiting().await.unwrap();
            }
            let room = rooms.room(&source.room_id).await.unwrap().unwrap();
            for pdu in &chain {
                let event = rooms.event_by_id(&room, pdu.event_id.as_str()).await.unwrap().unwrap();
                assert!(!event.has(flags::HIDDEN), "failing batch {failing}: {:?}", event.row);
            }
        }
    }
}

#[tokio::test]
async fn a_page_is_whole_though_reading_it_pushes_out_what_was_cached() {
    const MESSAGES: i64 = 300;
    const PAGE: i64 = 100;
    let options = Options { event_cache_bytes: 256 << 10, ..Options::new("one.test") };
    let rooms = rooms_with(Arc::new(Model::new()), options, 1).await;
    let alice = user("alice");
    let room_id = rooms.create_room(&room_of(&alice, "12", Preset::PublicChat)).await.unwrap();
    for n in 0..MESSAGES {
        rooms.send(&room_id, text(&alice, &n.to_string())).await.unwrap();
    }
    let room = rooms.room(&room_id).await.unwrap().unwrap();
    let mut viewer = Viewer::new(&rooms, &room, &alice).await.unwrap();
    let fragment = rooms.live_end(&room).fragment;
    // Pages that overlap, so that each finds a part of itself in a cache that is too small for it.
    for n in 0..200 {
        let from = Place { fragment, idx: n * 37 % (MESSAGES - PAGE) };
        let query = PageQuery { from, direction: Direction::Forward, until: None, limit: 100 };
        let page = rooms.page(&room, query, &mut viewer, |_| true).await.unwrap();
        assert_eq!(page.events.len(), 100, "page {n}");
    }
}
