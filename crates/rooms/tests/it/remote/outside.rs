//! Memberships in rooms that this server is not in.

use event::Json;
use rooms::Error;
use rooms::remote::RemoteMembership;
use serde_json::json;
use store::tables::rooms::MembershipRow;

use super::{Server, empty, join, received, state, two};
use crate::harness::room_of;

/// Alice's invite of bob, as bob's server receives it.
async fn invited(one: &Server, two: &Server, room_id: &str) -> RemoteMembership {
    let (alice, bob) = (one.user("alice"), two.user("bob"));
    let rules = one.room(room_id).await.rules;
    let invite = one.rooms.build_invite(room_id, &alice, &bob, None, empty()).await.unwrap().unwrap();
    let signed = two.rooms.co_sign_invite(rules, room_id, &received(invite.pdu(), rules)).unwrap();
    one.accept(received(signed.pdu(), rules)).await;
    RemoteMembership {
        room_id: room_id.to_owned(),
        rules,
        user: bob,
        membership: "invite".to_owned(),
        sender: alice.clone(),
        event: Some(signed),
        stripped: vec![Json::from(json!({
            "type": "m.room.name", "state_key": "", "sender": alice, "content": { "name": "Club" },
            "event_id": "$secret", "unsigned": { "age": 7 },
        }))],
    }
}

async fn row(two: &Server, room_id: &str) -> MembershipRow {
    two.rooms.any_membership(room_id, &two.user("bob")).await.unwrap().unwrap()
}

#[tokio::test]
async fn fj6_an_invite_from_elsewhere_is_shown_with_its_stripped_state() {
    for version in ["1", "11", "12"] {
        let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
        let room_id = one.create_of(&room_of(&one.user("alice"), version, rooms::Preset::PrivateChat)).await;
        let invite = invited(&one, &two, &room_id).await;
        two.rooms.set_remote_membership(&invite).await.unwrap();
        let row = row(&two, &room_id).await;
        assert_eq!((row.membership.as_str(), row.sender.clone()), ("invite", one.user("alice")));
        let stripped: serde_json::Value = serde_json::from_slice(&row.stripped.unwrap()).unwrap();
        assert_eq!(stripped[0]["content"]["name"], "Club");
        assert!(stripped[0].get("event_id").is_none() && stripped[0].get("unsigned").is_none());
        assert_eq!(stripped[1]["type"], "m.room.member");
        assert_eq!(stripped[1]["content"]["membership"], "invite");
        let room = two.rooms.remote_room(row.room).await.unwrap().unwrap();
        assert_eq!((room.room_id.as_str(), room.room_version.as_str()), (room_id.as_str(), version));
        assert!(two.rooms.room(&room_id).await.unwrap().is_none());
        assert!(two.rooms.is_out_of_band(&room_id, &two.user("bob")).await.unwrap());
        // Once more changes nothing of substance.
        two.rooms.set_remote_membership(&invite).await.unwrap();
        assert_eq!(self::row(&two, &room_id).await.event, row.event);
        // The room keeps its number when it is joined.
        join(&two, &one, &room_id, "bob").await.unwrap();
        assert_eq!(two.room(&room_id).await.num, row.room);
        let joined = self::row(&two, &room_id).await;
        assert_eq!(joined.membership, "join");
        assert!(two.rooms.remote_room(row.room).await.unwrap().is_none());
        assert_eq!(one.current(&room_id).await, two.current(&room_id).await);
        let event = two.get(&room_id, &invite.event.unwrap().pdu().event_id).await;
        assert_eq!(event.num(), row.event);
        assert!(!event.has(rooms::flags::WAITING), "it is part of the room's auth chain now");
    }
}

#[tokio::test]
async fn fj8_an_invite_is_rejected_here_whatever_happens_there() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let room_id = one.create("11").await;
    let bob = two.user("bob");
    assert!(matches!(two.rooms.leave(&room_id, &bob, None).await, Err(Error::NotInRoom)));
    two.rooms.set_remote_membership(&invited(&one, &two, &room_id).await).await.unwrap();
    let invite = row(&two, &room_id).await;
    two.rooms.leave(&room_id, &bob, None).await.unwrap();
    let left = row(&two, &room_id).await;
    assert_eq!((left.membership.as_str(), left.stripped.is_none()), ("leave", true));
    assert!(left.pos > invite.pos, "sync tells of it");
    two.rooms.leave(&room_id, &bob, None).await.unwrap();
    two.rooms.forget(&room_id, &bob).await.unwrap();
    assert!(row(&two, &room_id).await.forgotten);
    // A restart forgets nothing.
    let again = two.restarted().await;
    assert!(row(&again, &room_id).await.forgotten);
    // Another invite is one.
    one.rooms.kick(&room_id, &one.user("alice"), &bob, None).await.unwrap();
    two.rooms.set_remote_membership(&invited(&one, &two, &room_id).await).await.unwrap();
    let row = row(&two, &room_id).await;
    assert_eq!((row.membership.as_str(), row.forgotten), ("invite", false));
}

/// The server was in the room once: its old state stays as it is, and the invite stands beside it.
#[tokio::test]
async fn fj8_an_invite_to_a_room_that_was_left() {
    let (one, two, room_id) = two("11").await;
    let bob = two.user("bob");
    let in_it = RemoteMembership { membership: "leave".to_owned(), ..invited_form(&one, &two, &room_id).await };
    assert!(matches!(two.rooms.set_remote_membership(&in_it).await, Err(Error::Invalid(_))), "two.test is in the room");
    two.rooms.leave(&room_id, &bob, None).await.unwrap();
    let leave = two.room(&room_id).await.head().extremities[0].id.clone();
    one.accept(two.sent(&room_id, &leave).await).await;
    one.rooms.send(&room_id, state(&one.user("alice"), "m.room.topic", json!({ "topic": "new" }))).await.unwrap();
    let old = two.current(&room_id).await;
    two.rooms.set_remote_membership(&invited(&one, &two, &room_id).await).await.unwrap();
    let invite = row(&two, &room_id).await;
    assert_eq!(invite.membership, "invite");
    assert!(invite.left_pos.0 > 0, "what was seen then can be seen still");
    assert_eq!(two.current(&room_id).await, old);
    assert!(two.rooms.is_out_of_band(&room_id, &bob).await.unwrap());
    two.rooms.leave(&room_id, &bob, None).await.unwrap();
    assert_eq!(row(&two, &room_id).await.membership, "leave");
    two.rooms
        .set_remote_membership(&RemoteMembership { event: None, ..invited_form(&one, &two, &room_id).await })
        .await
        .unwrap();
    join(&two, &one, &room_id, "bob").await.unwrap();
    assert_eq!(one.current(&room_id).await, two.current(&room_id).await);
    assert_eq!(row(&two, &room_id).await.membership, "join");
}

/// An invite without an event of its own.
async fn invited_form(one: &Server, two: &Server, room_id: &str) -> RemoteMembership {
    RemoteMembership {
        room_id: room_id.to_owned(),
        rules: one.room(room_id).await.rules,
        user: two.user("bob"),
        membership: "invite".to_owned(),
        sender: one.user("alice"),
        event: None,
        stripped: Vec::new(),
    }
}

#[tokio::test]
async fn only_memberships_of_the_outside_are_set_from_outside() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let room_id = one.create("11").await;
    let form = invited_form(&one, &two, &room_id).await;
    let join = RemoteMembership { membership: "join".to_owned(), ..form.clone() };
    assert!(matches!(two.rooms.set_remote_membership(&join).await, Err(Error::Invalid(_))));
    let foreign = RemoteMembership { user: one.user("alice"), ..form };
    assert!(matches!(two.rooms.set_remote_membership(&foreign).await, Err(Error::Invalid(_))));
    assert!(two.rooms.any_membership(&room_id, &two.user("bob")).await.unwrap().is_none());
}
