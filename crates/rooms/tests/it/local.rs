//! The local half: rooms of one server.

use event::SUPPORTED_VERSIONS;
use rooms::{Error, NewEvent, Preset};
use serde_json::json;

use crate::harness::{content, history, room_of, rooms, text, user};

#[tokio::test]
async fn every_room_version_can_be_used() {
    for version in SUPPORTED_VERSIONS {
        let rooms = rooms().await;
        let (alice, bob) = (user("alice"), user("bob"));
        let room_id = rooms.create_room(&room_of(&alice, version, Preset::PublicChat)).await.unwrap();
        rooms.join(&room_id, &bob, None, content(json!({}))).await.unwrap();
        let first = rooms.send(&room_id, text(&alice, "hello")).await.unwrap();
        let second = rooms.send(&room_id, text(&bob, "hello yourself")).await.unwrap();
        let seen = history(&rooms, &room_id, &bob).await;
        let ids: Vec<_> = seen.iter().map(|event| event.id().clone()).collect();
        assert_eq!(ids[..2], [second, first.clone()], "version {version}");
        assert_eq!(seen.last().unwrap().pdu.kind, "m.room.create", "version {version}");
        let mut redaction = NewEvent::message(&alice, "m.room.redaction", content(json!({ "reason": "no" })));
        redaction.redacts = Some(first.clone());
        rooms.send(&room_id, redaction).await.unwrap();
        let room = rooms.room(&room_id).await.unwrap().unwrap();
        let redacted = rooms.event_by_id(&room, first.as_str()).await.unwrap().unwrap();
        assert!(redacted.pdu.content.is_empty(), "version {version}: {:?}", redacted.pdu.content);
        assert_eq!(room.head().row.joined, 2);
        assert_eq!(room.head().extremities.len(), 1);
    }
}

#[tokio::test]
async fn cr4_the_same_state_again_adds_nothing() {
    let rooms = rooms().await;
    let alice = user("alice");
    let room_id = rooms.create_room(&room_of(&alice, "11", Preset::PrivateChat)).await.unwrap();
    let name = || NewEvent::state(&alice, "m.room.name", "", content(json!({ "name": "a" })));
    let first = rooms.send(&room_id, name()).await.unwrap();
    assert_eq!(rooms.send(&room_id, name()).await.unwrap(), first);
    let other = NewEvent::state(&alice, "m.room.name", "", content(json!({ "name": "b" })));
    let second = rooms.send(&room_id, other).await.unwrap();
    assert_ne!(second, first);
    let room = rooms.room(&room_id).await.unwrap().unwrap();
    let event = rooms.event_by_id(&room, second.as_str()).await.unwrap().unwrap();
    let replaced = rooms.event(&room, event.row.replaces.unwrap()).await.unwrap();
    assert_eq!(*replaced.id(), first);
}

#[tokio::test]
async fn strangers_may_not_send() {
    let rooms = rooms().await;
    let room_id = rooms.create_room(&room_of(&user("alice"), "12", Preset::PublicChat)).await.unwrap();
    let refused = rooms.send(&room_id, text(&user("bob"), "hi")).await;
    assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
    let refused = rooms.send("!none:one.test", text(&user("bob"), "hi")).await;
    assert!(matches!(refused, Err(Error::NotInRoom)), "{refused:?}");
}

#[tokio::test]
async fn an_event_is_one_entry_of_the_stream() {
    let rooms = rooms().await;
    let room_id = rooms.create_room(&room_of(&user("alice"), "12", Preset::PublicChat)).await.unwrap();
    let watermark = || rooms.store().notifier().watermark().0;
    let before = watermark();
    rooms.join(&room_id, &user("bob"), None, content(json!({}))).await.unwrap();
    assert_eq!(watermark() - before, 1, "the entry of the member event tells the user too");
    rooms.send(&room_id, text(&user("bob"), "hello")).await.unwrap();
    assert_eq!(watermark() - before, 2);
}

#[tokio::test]
async fn many_senders_at_once_lose_nothing() {
    let rooms = rooms().await;
    let alice = user("alice");
    let room_id = rooms.create_room(&room_of(&alice, "12", Preset::PublicChat)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for sender in 0..8 {
        let (rooms, room_id) = (rooms.clone(), room_id.clone());
        tasks.spawn(async move {
            let me = user(&format!("user{sender}"));
            rooms.join(&room_id, &me, None, content(json!({}))).await.unwrap();
            let mut sent = Vec::new();
            for n in 0..20 {
                sent.push(rooms.send(&room_id, text(&me, &n.to_string())).await.unwrap());
            }
            sent
        });
    }
    let mut sent = Vec::new();
    while let Some(ids) = tasks.join_next().await {
        sent.extend(ids.unwrap());
    }
    let seen: Vec<_> = history(&rooms, &room_id, &alice).await.iter().map(|event| event.id().clone()).collect();
    for id in sent {
        assert_eq!(seen.iter().filter(|other| **other == id).count(), 1);
    }
    let room = rooms.room(&room_id).await.unwrap().unwrap();
    assert_eq!((room.head().row.joined, room.head().extremities.len()), (9, 1));
}

#[tokio::test]
async fn a_transaction_is_one_event() {
    let rooms = rooms().await;
    let alice = user("alice");
    let room_id = rooms.create_room(&room_of(&alice, "12", Preset::PublicChat)).await.unwrap();
    let send = |device: &str| {
        let mut new = text(&alice, "once");
        new.transaction =
            Some(rooms::Transaction { device: device.into(), path: "send".to_owned(), txn_id: "1".to_owned() });
        rooms.send(&room_id, new)
    };
    let (first, second) = tokio::join!(send("A"), send("A"));
    let third = send("A").await.unwrap();
    assert_eq!(first.unwrap(), third);
    assert_eq!(second.unwrap(), third);
    assert_ne!(send("B").await.unwrap(), third);
}
