//! What is built on decisions that are not yet durable: nothing of them shows, and their placeholders stay theirs.

use std::sync::Arc;

use event::{Pdu, Rules, Template};
use rooms::{Error, NewEvent, Preset, Rooms, flags};
use serde_json::json;
use store::model::Model;
use tokio::task::JoinHandle;

use crate::graphs::{AllKeys, NOW_MS, check_memberships};
use crate::harness::{content, key, room_of, rooms_on, text, user};
use crate::mutants::{Mutant, Off};

const VERSION: &str = "11";

/// Lets everything go on that can.
pub async fn settle() {
    for _ in 0..500 {
        tokio::task::yield_now().await;
    }
}

pub fn verified(pdu: &Pdu) -> event::Verified {
    event::verify(Rules::of(VERSION).unwrap(), pdu.bytes.clone(), &AllKeys::new(), NOW_MS).unwrap()
}

/// A room and a way to make events for it, on an engine of its own.
pub struct Source {
    pub rooms: Arc<Rooms>,
    pub room_id: String,
    pdus: Vec<Arc<Pdu>>,
}

impl Source {
    pub async fn new() -> Self {
        let rooms = rooms_on(Arc::new(Model::new()), "one.test", 1).await;
        let room_id = rooms.create_room(&room_of(&user("alice"), VERSION, Preset::PublicChat)).await.unwrap();
        let room = rooms.room(&room_id).await.unwrap().unwrap();
        let mut state = rooms.whole_state(&room, room.head().state).await.unwrap();
        state.sort_by_key(|event| event.num());
        let pdus = state.iter().map(|event| Arc::clone(&event.pdu)).collect();
        Self { rooms, room_id, pdus }
    }

    pub async fn send(&self, new: NewEvent) -> Arc<Pdu> {
        let id = self.rooms.send(&self.room_id, new).await.unwrap();
        let room = self.rooms.room(&self.room_id).await.unwrap().unwrap();
        Arc::clone(&self.rooms.event_by_id(&room, id.as_str()).await.unwrap().unwrap().pdu)
    }

    pub async fn redact(&self, target: &Pdu) -> Arc<Pdu> {
        let mut redaction = NewEvent::message(&user("alice"), "m.room.redaction", content(json!({})));
        redaction.redacts = Some(target.event_id.clone());
        self.send(redaction).await
    }

    /// An event like another, but at another place of the graph.
    pub async fn moved(&self, pdu: &Pdu, prev: &[&Pdu]) -> event::Verified {
        let template = Template {
            room_id: Some(pdu.room_id.clone()),
            sender: pdu.sender.clone(),
            kind: pdu.kind.clone(),
            state_key: pdu.state_key.clone(),
            content: pdu.content.clone(),
            redacts: pdu.redacts.clone(),
            prev_events: prev.iter().map(|pdu| pdu.event_id.clone()).collect(),
            auth_events: pdu.auth_events.clone(),
            depth: Template::next_depth(prev.iter().map(|pdu| pdu.depth)),
            origin_server_ts: pdu.origin_server_ts,
            ..Template::default()
        };
        event::build(Rules::of(VERSION).unwrap(), template, &key("one.test"), "one.test").unwrap()
    }

    /// The room as it was at the beginning, on an engine that can hold batches back.
    pub async fn copy(&self) -> (Arc<Mutant>, Arc<Rooms>) {
        let engine = Mutant::new(Off::Nothing);
        let rooms = rooms_on(engine.clone(), "one.test", 2).await;
        for pdu in &self.pdus {
            rooms.accept(verified(pdu)).await.unwrap();
        }
        (engine, rooms)
    }
}

pub fn accepting(rooms: &Arc<Rooms>, event: event::Verified) -> JoinHandle<Result<rooms::Accepted, Error>> {
    let rooms = Arc::clone(rooms);
    tokio::spawn(async move { rooms.accept(event).await })
}

fn sending(rooms: &Arc<Rooms>, room_id: &str, new: NewEvent) -> JoinHandle<ruma_common::OwnedEventId> {
    let (rooms, room_id) = (Arc::clone(rooms), room_id.to_owned());
    tokio::spawn(async move { rooms.send(&room_id, new).await.unwrap() })
}

/// The event is redacted and stands where it stood, in memory and in the store.
async fn check_redacted(rooms: &Arc<Rooms>, room_id: &str, id: &ruma_common::EventId, redaction: &Pdu) {
    let anew = rooms_on(Arc::clone(rooms.store().engine()), "one.test", 3).await;
    for rooms in [rooms, &anew] {
        let room = rooms.room(room_id).await.unwrap().unwrap();
        let event = rooms.event_by_id(&room, id.as_str()).await.unwrap().unwrap();
        let redaction = rooms.event_by_id(&room, redaction.event_id.as_str()).await.unwrap().unwrap();
        assert!(event.has(flags::REDACTED) && event.pdu.content.is_empty(), "{:?}", event.row);
        assert!(event.pos().0 > 0 && redaction.pos().0 > 0, "{:?} {:?}", event.row, redaction.row);
        assert_ne!(event.pos(), redaction.pos());
        let by_pos = rooms.newest(&room, store::StreamPosition::ZERO, store::StreamPosition(i64::MAX), 500).await;
        let places: Vec<_> = by_pos.unwrap().iter().map(|event| event.row.idx.unwrap()).collect();
        assert!(places.is_sorted_by(|newer, older| newer > older), "order of positions is order of places: {places:?}");
    }
}

#[tokio::test]
async fn cr15_a_target_that_is_not_yet_durable_keeps_its_position() {
    let source = Source::new().await;
    let message = source.send(text(&user("alice"), "secret")).await;
    let redaction = source.redact(&message).await;
    let (engine, rooms) = source.copy().await;
    engine.hold();
    let first = accepting(&rooms, verified(&message));
    settle().await;
    assert_eq!(engine.held(), 1);
    let second = accepting(&rooms, verified(&redaction));
    settle().await;
    engine.release();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    check_redacted(&rooms, &source.room_id, &message.event_id, &redaction).await;
}

#[tokio::test]
async fn cr15_a_withheld_redaction_that_is_not_yet_durable_is_applied() {
    let source = Source::new().await;
    let base = source.send(text(&user("alice"), "base")).await;
    let message = source.send(text(&user("alice"), "secret")).await;
    let redaction = source.redact(&message).await;
    // On a fork of its own, so that it can come before its target.
    let redaction = source.moved(&redaction, &[&base]).await;
    let redaction_pdu = Arc::clone(redaction.pdu());
    let (engine, rooms) = source.copy().await;
    rooms.accept(verified(&base)).await.unwrap();
    engine.hold();
    let first = accepting(&rooms, redaction);
    settle().await;
    assert_eq!(engine.held(), 1);
    let second = accepting(&rooms, verified(&message));
    settle().await;
    engine.release();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    check_redacted(&rooms, &source.room_id, &message.event_id, &redaction_pdu).await;
}

#[tokio::test]
async fn what_was_said_already_is_answered_when_it_is_durable() {
    let source = Source::new().await;
    let (engine, rooms) = source.copy().await;
    let topic = || NewEvent::state(&user("alice"), "m.room.topic", "", content(json!({ "topic": "a" })));
    engine.hold();
    let first = sending(&rooms, &source.room_id, topic());
    settle().await;
    let second = sending(&rooms, &source.room_id, topic());
    settle().await;
    assert!(!first.is_finished() && !second.is_finished(), "nothing is answered before it is durable");
    engine.release();
    assert_eq!(first.await.unwrap(), second.await.unwrap());
    // The same for an event of another server that comes twice.
    let message = source.send(text(&user("alice"), "twice")).await;
    engine.hold();
    let first = accepting(&rooms, verified(&message));
    settle().await;
    let second = accepting(&rooms, verified(&message));
    settle().await;
    assert!(!first.is_finished() && !second.is_finished(), "nothing is answered before it is durable");
    engine.release();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
}

/// An event that names an older event beside the extremity has a resolved state before it, which may take a membership
/// back: rows of memberships follow.
#[tokio::test]
async fn memberships_follow_a_state_that_was_resolved_anew() {
    let source = Source::new().await;
    let bob = user("bob");
    let member = |name: &str, ts| NewEvent {
        ts: Some(ts),
        ..NewEvent::state(
            &bob,
            "m.room.member",
            bob.as_str(),
            content(json!({ "membership": "join", "displayname": name })),
        )
    };
    let later = source.send(member("one", 1_700_000_090_000)).await;
    let earlier = source.send(member("two", 1_700_000_010_000)).await;
    let message = source.send(text(&bob, "hello")).await;
    let message = source.moved(&message, &[&earlier, &later]).await;
    let (_, rooms) = source.copy().await;
    for pdu in [&later, &earlier] {
        rooms.accept(verified(pdu)).await.unwrap();
    }
    rooms.accept(message).await.unwrap();
    let room = rooms.room(&source.room_id).await.unwrap().unwrap();
    let current = rooms.current(&room, "m.room.member", bob.as_str()).await.unwrap().unwrap();
    assert_eq!(*current.id(), later.event_id, "the resolution prefers the later time");
    check_memberships(&rooms, &room, "one.test").await;
}
