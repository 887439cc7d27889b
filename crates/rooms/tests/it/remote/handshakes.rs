//! Templates, restricted joins, and invites: what is signed for others, and what is refused.

use event::{Json, Verified};
use rooms::remote::TemplateError;
use rooms::{Accepted, Error, NewEvent, Preset};
use serde_json::json;
use store::UserId;

use super::{Server, empty, join, make_join, received, send_join, state};
use crate::graphs::{AllKeys, NOW_MS};
use crate::harness::{content, room_of};

fn id_of(event: &Verified) -> &ruma_common::OwnedEventId {
    &event.pdu().event_id
}

#[tokio::test]
async fn fj1_templates_are_for_who_may_have_the_membership() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let bob = two.user("bob");
    let unknown = one.rooms.member_template("!none:one.test", &bob, "join").await;
    assert!(matches!(unknown, Err(TemplateError::Rooms(Error::NotInRoom))));
    let room_id = one.create("10").await;
    let template = one.rooms.member_template(&room_id, &bob, "join").await.unwrap();
    assert_eq!(template.rules.version(), "10");
    for name in ["hashes", "signatures", "event_id"] {
        assert!(!template.event.contains_key(name), "{name}");
    }
    let own = one.rooms.member_template(&room_id, &one.user("carol"), "join").await;
    assert!(matches!(own, Err(TemplateError::Rooms(Error::Invalid(_)))), "only for others' users");
    let ban = one.rooms.member_template(&room_id, &bob, "ban").await;
    assert!(matches!(ban, Err(TemplateError::Rooms(Error::Invalid(_)))));
    // fj14: leaves and knocks are checked like joins.
    for membership in ["leave", "knock"] {
        let refused = one.rooms.member_template(&room_id, &bob, membership).await;
        assert!(matches!(refused, Err(TemplateError::Rooms(Error::Forbidden(_)))), "{membership}: {refused:?}");
    }
    let alice = one.user("alice");
    one.rooms.send(&room_id, state(&alice, "m.room.join_rules", json!({ "join_rule": "knock" }))).await.unwrap();
    assert!(one.rooms.member_template(&room_id, &bob, "join").await.is_err());
    one.rooms.member_template(&room_id, &bob, "knock").await.unwrap();
    one.rooms.send(&room_id, state(&alice, "m.room.join_rules", json!({ "join_rule": "public" }))).await.unwrap();
    one.rooms.ban(&room_id, &alice, &bob, None).await.unwrap();
    let banned = one.rooms.member_template(&room_id, &bob, "join").await;
    assert!(matches!(banned, Err(TemplateError::Rooms(Error::Forbidden(_)))));
    // A room that this server has left is none that it lets others into.
    one.rooms.leave(&room_id, &alice, None).await.unwrap();
    let left = one.rooms.member_template(&room_id, &UserId::from("@eve:three.test"), "join").await;
    assert!(matches!(left, Err(TemplateError::Rooms(Error::NotInRoom))));
}

#[tokio::test]
async fn fj2_a_template_for_something_else_is_malformed() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    for version in ["1", "11", "12"] {
        let room_id = one.create(version).await;
        let bob = two.user("bob");
        let template = one.rooms.member_template(&room_id, &bob, "join").await.unwrap();
        let complete = |event| two.rooms.complete_template(template.rules, &room_id, &bob, "join", &event, empty());
        let join = complete(template.event.clone()).unwrap();
        assert_eq!(join.pdu().membership(), Some("join"));
        let wrong = [
            ("type", json!("m.room.power_levels")),
            ("room_id", json!("!other:one.test")),
            ("sender", json!("@eve:two.test")),
            ("state_key", json!("@eve:two.test")),
            ("content", json!({ "membership": "leave" })),
            ("content", json!("join")),
            ("prev_events", json!([])),
            ("prev_events", json!([7])),
            ("prev_events", json!(vec!["$a"; 21])),
            ("auth_events", json!("$a")),
            ("depth", json!("deep")),
        ];
        for (name, value) in wrong {
            let mut event = template.event.clone();
            event.insert(name.to_owned(), Json::from(value.clone()));
            assert!(matches!(complete(event), Err(Error::Invalid(_))), "version {version}: {name} {value}");
            let mut event = template.event.clone();
            event.remove(name);
            assert!(matches!(complete(event), Err(Error::Invalid(_))), "version {version}: no {name}");
        }
        // Nothing else of it is signed.
        let mut event = template.event.clone();
        event.insert("content".to_owned(), Json::from(json!({ "membership": "join", "displayname": "Mallory" })));
        event.insert("redacts".to_owned(), Json::from("$x"));
        let join = complete(event).unwrap();
        assert!(!join.pdu().content.contains_key("displayname") && join.pdu().redacts.is_none());
    }
}

/// A room of alice that lets the members of another in, with bob's server in both.
async fn restricted(version: &str) -> (Server, Server, String, String) {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let club = one.create(version).await;
    let mut request = room_of(&one.user("alice"), version, Preset::PrivateChat);
    let rule = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": club }] });
    request.initial_state = vec![("m.room.join_rules".to_owned(), String::new(), content(rule))];
    let room_id = one.create_of(&request).await;
    (one, two, club, room_id)
}

#[tokio::test]
async fn fj3_a_restricted_join_is_signed_by_both() {
    for version in ["8", "11", "12"] {
        let (one, two, club, room_id) = restricted(version).await;
        let bob = two.user("bob");
        let refused = one.rooms.member_template(&room_id, &bob, "join").await;
        assert!(matches!(refused, Err(TemplateError::Rooms(Error::Forbidden(_)))), "{version}: {refused:?}");
        join(&two, &one, &club, "bob").await.unwrap();
        let unsigned = make_join(&two, &one, &room_id, &bob).await;
        assert!(unsigned.pdu().content.contains_key("join_authorised_via_users_server"));
        let rules = one.room(&room_id).await.rules;
        let bytes = unsigned.pdu().bytes.clone();
        assert!(event::verify(rules, bytes.clone(), &AllKeys::new(), NOW_MS).is_err(), "a signature is missing");
        let parsed = event::Pdu::parse(rules, bytes.clone()).unwrap();
        let permit = one.rooms.permit_join(&room_id, &parsed).await.unwrap().unwrap();
        let signed = permit.sign(bytes, &AllKeys::new(), NOW_MS).unwrap();
        let import = send_join(&one, &room_id, signed).await;
        two.rooms.import_join(import).await.unwrap();
        assert_eq!(one.current(&room_id).await, two.current(&room_id).await, "version {version}");
    }
}

#[tokio::test]
async fn fj3_what_was_not_permitted_is_not_signed() {
    let (one, two, club, room_id) = restricted("11").await;
    let bob = two.user("bob");
    join(&two, &one, &club, "bob").await.unwrap();
    let unsigned = make_join(&two, &one, &room_id, &bob).await;
    let rules = one.room(&room_id).await.rules;
    let parsed = |event: &Verified| event::Pdu::parse(rules, event.pdu().bytes.clone()).unwrap();
    let permit = one.rooms.permit_join(&room_id, &parsed(&unsigned)).await.unwrap().unwrap();
    let other = make_join(&two, &one, &room_id, &bob).await;
    assert_ne!(id_of(&other), id_of(&unsigned));
    assert!(permit.sign(other.pdu().bytes.clone(), &AllKeys::new(), NOW_MS).is_err(), "another event");
    // Somebody who satisfies nothing, with a template that was meant for bob.
    let template = one.rooms.member_template(&room_id, &bob, "join").await.unwrap();
    let mut event = template.event.clone();
    let eve = two.user("eve");
    event.insert("sender".to_owned(), Json::from(eve.as_str()));
    event.insert("state_key".to_owned(), Json::from(eve.as_str()));
    let forged = two.rooms.complete_template(rules, &room_id, &eve, "join", &event, empty()).unwrap();
    let refused = one.rooms.permit_join(&room_id, &parsed(&forged)).await;
    assert!(matches!(refused, Err(TemplateError::Rooms(Error::Forbidden(_)))), "{refused:?}");
    // Who is named must be in the room and have the power.
    let mut event = template.event.clone();
    let named = json!({ "membership": "join", "join_authorised_via_users_server": "@nobody:one.test" });
    event.insert("content".to_owned(), Json::from(named));
    let forged = two.rooms.complete_template(rules, &room_id, &bob, "join", &event, empty()).unwrap();
    let refused = one.rooms.permit_join(&room_id, &parsed(&forged)).await;
    assert!(matches!(refused, Err(TemplateError::UnableToGrantJoin)), "{refused:?}");
    let wrong_room = one.rooms.permit_join(&club, &parsed(&unsigned)).await;
    assert!(matches!(wrong_room, Err(TemplateError::Rooms(Error::Invalid(_)))));
}

#[tokio::test]
async fn fj1_who_cannot_authorise_says_so() {
    let (one, two, club, room_id) = restricted("11").await;
    let alice = one.user("alice");
    // No user has the power.
    join(&two, &one, &club, "bob").await.unwrap();
    let carol = one.user("carol");
    for room in [&club, &room_id] {
        one.rooms.join(room, &carol, None, empty()).await.unwrap();
    }
    let levels = json!({ "users": { alice.as_str(): 100 }, "invite": 60 });
    one.rooms.send(&room_id, state(&alice, "m.room.power_levels", levels)).await.unwrap();
    one.rooms.leave(&room_id, &alice, None).await.unwrap();
    let refused = one.rooms.member_template(&room_id, &two.user("bob"), "join").await;
    assert!(matches!(refused, Err(TemplateError::UnableToGrantJoin)), "{refused:?}");
    // The condition names a room that this server is not in.
    let (one, two, _, room_id) = restricted("11").await;
    let rule = json!({ "join_rule": "restricted", "allow": [
        { "type": "m.room_membership", "room_id": "!elsewhere:three.test" },
        { "type": "org.example.other" },
        7,
    ] });
    one.rooms.send(&room_id, state(&one.user("alice"), "m.room.join_rules", rule)).await.unwrap();
    let refused = one.rooms.member_template(&room_id, &two.user("bob"), "join").await;
    assert!(matches!(refused, Err(TemplateError::UnableToAuthoriseJoin)), "{refused:?}");
    // An invite needs no condition.
    let invite = one.rooms.build_invite(&room_id, &one.user("alice"), &two.user("bob"), None, empty()).await;
    one.accept(invite.unwrap().unwrap()).await;
    let template = one.rooms.member_template(&room_id, &two.user("bob"), "join").await.unwrap();
    let content = template.event.get("content").and_then(Json::as_object).unwrap();
    assert!(!content.contains_key("join_authorised_via_users_server"));
}

#[tokio::test]
async fn fj7_an_invite_is_in_the_room_only_when_both_have_signed() {
    for version in ["1", "11", "12"] {
        let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
        let room_id = one.create_of(&room_of(&one.user("alice"), version, Preset::PrivateChat)).await;
        let (alice, bob) = (one.user("alice"), two.user("bob"));
        let before = one.current(&room_id).await;
        let invite = one.rooms.build_invite(&room_id, &alice, &bob, Some("do come"), empty()).await.unwrap().unwrap();
        assert!(one.event(&room_id, id_of(&invite)).await.is_none() && one.current(&room_id).await == before);
        let rules = one.room(&room_id).await.rules;
        let signed = two.rooms.co_sign_invite(rules, &room_id, &received(invite.pdu(), rules)).unwrap();
        assert_eq!(id_of(&signed), id_of(&invite));
        let signatures = signed.pdu().object().get("signatures").and_then(Json::as_object).unwrap().len();
        assert_eq!(signatures, 2);
        assert!(matches!(one.accept(received(signed.pdu(), rules)).await, Accepted::Judged(event) if event.shown()));
        assert_eq!(one.room(&room_id).await.head().row.invited, 1);
        let again = one.rooms.build_invite(&room_id, &alice, &bob, None, empty()).await.unwrap();
        assert!(again.is_none(), "who is invited is not invited again");
        join(&two, &one, &room_id, "bob").await.unwrap();
        let joined = one.rooms.build_invite(&room_id, &alice, &bob, None, empty()).await;
        assert!(matches!(joined, Err(Error::Forbidden(_))));
    }
}

#[tokio::test]
async fn fj6_nothing_but_an_invite_of_our_own_user_is_signed() {
    let (one, two) = (Server::new("one.test").await, Server::new("two.test").await);
    let room_id = one.create("11").await;
    let rules = one.room(&room_id).await.rules;
    let alice = one.user("alice");
    let refused = |event: &Verified| {
        matches!(two.rooms.co_sign_invite(rules, &room_id, &received(event.pdu(), rules)), Err(Error::Invalid(_)))
    };
    let invite = async |target: &str| {
        one.rooms.build_invite(&room_id, &alice, &UserId::from(target), None, empty()).await.unwrap().unwrap()
    };
    let other_server = invite("@eve:three.test").await;
    assert!(refused(&other_server));
    let good = invite("@bob:two.test").await;
    let wrong_room = two.rooms.co_sign_invite(rules, "!other:one.test", &received(good.pdu(), rules));
    assert!(matches!(wrong_room, Err(Error::Invalid(_))));
    let pruned = received(&good.pdu().redacted(rules).unwrap(), rules);
    assert!(!pruned.redacted() || refused(&pruned), "a redacted copy");
    let message = one.say(&room_id, "alice", "sign this").await;
    assert!(refused(&one.sent(&room_id, &message).await));
    let create = one.room(&room_id).await.create.event_id.clone();
    assert!(refused(&one.sent(&room_id, &create).await));
    let kick = NewEvent::state(&alice, "m.room.member", "@bob:two.test", content(json!({ "membership": "ban" })));
    let ban = one.rooms.send(&room_id, kick).await.unwrap();
    assert!(refused(&one.sent(&room_id, &ban).await));
    assert!(two.rooms.co_sign_invite(rules, &room_id, &received(good.pdu(), rules)).is_ok());
}
