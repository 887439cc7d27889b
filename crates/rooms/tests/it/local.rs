//! The local half: rooms of one server.

use std::sync::Arc;

use event::SUPPORTED_VERSIONS;
use rooms::{CreateRoom, Error, NewEvent, Preset, Transaction};
use ruma_common::OwnedEventId;
use serde_json::{Value, json};
use store::{DeviceId, UserId};

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

fn reaction(sender: &UserId, parent: &OwnedEventId, key: &str) -> NewEvent {
    let relation = json!({ "rel_type": "m.annotation", "event_id": parent, "key": key });
    NewEvent::message(sender, "m.reaction", content(json!({ "m.relates_to": relation })))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cr17_of_many_equal_reactions_at_a_time_one_is_taken() {
    let rooms = rooms().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room_id = rooms.create_room(&room_of(&alice, "11", Preset::PublicChat)).await.unwrap();
    rooms.join(&room_id, &bob, None, content(json!({}))).await.unwrap();
    let parent = rooms.send(&room_id, text(&alice, "hello")).await.unwrap();
    let mut sending = Vec::new();
    for number in 0..20 {
        let (rooms, room_id) = (Arc::clone(&rooms), room_id.clone());
        let transaction = Transaction {
            device: DeviceId::from("DEVICE"),
            path: format!("/rooms/{room_id}/send/m.reaction"),
            txn_id: number.to_string(),
        };
        let new = NewEvent { transaction: Some(transaction), ..reaction(&bob, &parent, "+1") };
        sending.push(tokio::spawn(async move { rooms.send(&room_id, new).await }));
    }
    let mut taken = Vec::new();
    for sent in sending {
        match sent.await.unwrap() {
            Ok(event_id) => taken.push(event_id),
            Err(error) => assert!(matches!(error, Error::DuplicateAnnotation), "{error:?}"),
        }
    }
    assert_eq!(taken.len(), 1, "{taken:?}");

    // Of another user, with another key, on another event, of another type: none of these is the same.
    rooms.send(&room_id, reaction(&alice, &parent, "+1")).await.unwrap();
    rooms.send(&room_id, reaction(&bob, &parent, "-1")).await.unwrap();
    rooms.send(&room_id, reaction(&bob, &taken[0], "+1")).await.unwrap();
    rooms.send(&room_id, NewEvent { kind: "test.mark".to_owned(), ..reaction(&bob, &parent, "+1") }).await.unwrap();
    // Taken back, it can be given again, once.
    let mut redaction = NewEvent::message(&bob, "m.room.redaction", content(json!({ "redacts": taken[0] })));
    redaction.redacts = Some(taken[0].clone());
    rooms.send(&room_id, redaction).await.unwrap();
    rooms.send(&room_id, reaction(&bob, &parent, "+1")).await.unwrap();
    let again = rooms.send(&room_id, reaction(&bob, &parent, "+1")).await;
    assert!(matches!(again, Err(Error::DuplicateAnnotation)), "{again:?}");
}

#[tokio::test]
async fn cr17_a_reaction_behind_many_others_is_found() {
    /// More than are read at a time.
    const MANY: usize = 1_003;
    let rooms = rooms().await;
    let alice = user("alice");
    let room_id = rooms.create_room(&room_of(&alice, "11", Preset::PublicChat)).await.unwrap();
    let parent = rooms.send(&room_id, text(&alice, "hello")).await.unwrap();
    for number in 0..MANY {
        rooms.send(&room_id, reaction(&alice, &parent, &number.to_string())).await.unwrap();
    }
    for number in [0, 999, 1_000, MANY - 1] {
        let again = rooms.send(&room_id, reaction(&alice, &parent, &number.to_string())).await;
        assert!(matches!(again, Err(Error::DuplicateAnnotation)), "{number}: {again:?}");
    }
}

#[tokio::test]
async fn an_alias_that_is_too_long_makes_no_room() {
    let rooms = rooms().await;
    let alice = user("alice");
    // `#`, `:` and the server's name are part of the alias.
    let longest = 255 - "#:one.test".len();
    for (localpart, fits) in [("q".repeat(longest), true), ("q".repeat(longest + 1), false), ("q".repeat(300), false)] {
        let request =
            CreateRoom { alias_localpart: Some(localpart.clone()), ..room_of(&alice, "11", Preset::PublicChat) };
        let created = rooms.create_room(&request).await;
        let alias = format!("#{localpart}:one.test");
        if fits {
            assert_eq!(rooms.resolve_alias(&alias).await.unwrap().0, created.unwrap());
            rooms.delete_alias(&alias, &alice, false).await.unwrap();
        } else {
            assert!(matches!(created, Err(Error::Invalid(_))), "{created:?}");
            assert!(rooms.alias(&alias).await.unwrap().is_none());
        }
    }
    assert_eq!(rooms.memberships(&alice).await.unwrap().len(), 1);
}

#[tokio::test]
async fn who_knocks_again_stands_once_in_the_stripped_state() {
    let rooms = rooms().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room_id = rooms.create_room(&room_of(&alice, "11", Preset::PrivateChat)).await.unwrap();
    let rules = content(json!({ "join_rule": "knock" }));
    rooms.send(&room_id, NewEvent::state(&alice, "m.room.join_rules", "", rules)).await.unwrap();
    for reason in ["please", "pretty please"] {
        rooms.knock(&room_id, &bob, Some(reason), content(json!({}))).await.unwrap();
        let row = rooms.membership(&room_id, &bob).await.unwrap().unwrap().row;
        assert_eq!(row.membership, "knock");
        let stripped: Vec<Value> = serde_json::from_slice(&row.stripped.unwrap()).unwrap();
        let members: Vec<_> = stripped.iter().filter(|event| event["type"] == "m.room.member").collect();
        assert_eq!(members.len(), 1, "{stripped:?}");
        assert_eq!(members[0]["content"]["reason"], reason);
    }
}
