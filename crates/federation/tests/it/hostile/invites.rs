//! Invites, knocks, joins and leaves that an evil server sends us: what is not exactly what the path says is neither
//! signed nor kept (behaviours FJ1, FJ3, FJ6, FJ8, FJ9; forged invites, December 2025).

use event::Verified;
use http::Method;
use serde_json::{Value, json};

use super::{EVIL, Elsewhere, GOOD};
use crate::harness::{Peer, Sketch, US, World, encoded, id, object, user, value};

async fn put(world: &World, peer: &Peer, what: &str, room_id: &str, event_id: &str, body: Value) -> (u16, Value) {
    let path = format!("/_matrix/federation/{what}/{}/{}", encoded(room_id), encoded(event_id));
    let (status, answer) = peer.ask(world, Method::PUT, &path, Some(body)).await;
    (status.as_u16(), answer)
}

/// The invite of a user by Carol.
fn invitation(world: &World, room: &Elsewhere, target: &str) -> Verified {
    let carol = room.peer.user("carol");
    let content = json!({ "membership": "invite" });
    room.next(world, &room.peer, Sketch { sender: &carol, kind: "m.room.member", state_key: Some(target), content })
}

/// Carol invites a user of ours.
pub async fn invite(world: &World, room: &Elsewhere, target: &str) -> Verified {
    let invite = invitation(world, room, target);
    let body = json!({
        "room_version": room.rules.version(),
        "event": value(&invite),
        "invite_room_state": [value(&room.state[&("m.room.create".to_owned(), String::new())])],
    });
    let (status, answer) = put(world, &room.peer, "v2/invite", &room.room_id, &id(&invite), body).await;
    assert_eq!(status, 200, "{answer}");
    invite
}

/// What Alice is shown of a room is a list of state events.
pub async fn check_stripped(world: &World, room_id: &str) {
    let row = world.rooms.any_membership(room_id, &user("alice")).await.unwrap().unwrap();
    let stripped: Value = serde_json::from_slice(&row.stripped.unwrap()).unwrap();
    for event in stripped.as_array().unwrap() {
        assert!(event["type"].is_string() && event["state_key"].is_string() && event["sender"].is_string(), "{event}");
        assert!(event["content"].is_object(), "{event}");
        assert_eq!(event.as_object().unwrap().len(), 4, "{event}");
    }
}

/// SEC-invite-signing.
#[tokio::test]
async fn fj6_no_event_but_an_invite_of_our_user_is_signed() {
    for version in ["1", "6", "11", "12"] {
        let world = World::new().await;
        let alice = world.register("alice").await;
        let room = Elsewhere::new(&world, EVIL, version);
        let (carol, dan) = (room.peer.user("carol"), room.peer.user("dan"));
        let make = |sender: &str, kind: &str, state_key: Option<&str>, content: Value| {
            room.next(&world, &room.peer, Sketch { sender, kind, state_key, content })
        };
        let invite = json!({ "membership": "invite" });
        let (member, us) = ("m.room.member", Some(alice.as_str()));
        let events = [
            make(&carol, "m.room.power_levels", Some(""), json!({ "users": { alice.as_str(): 100 } })),
            make(&carol, "m.room.power_levels", us, invite.clone()),
            make(&carol, "m.room.message", None, invite.clone()),
            make(&carol, member, None, invite.clone()),
            make(&carol, member, Some(""), invite.clone()),
            make(&carol, member, Some(&dan), invite.clone()),
            make(&carol, member, Some("@alice:one.test:8448"), invite.clone()),
            make(&carol, member, Some("@alice:ONE.test"), invite.clone()),
            make(&carol, member, Some("alice:one.test"), invite.clone()),
            make(&carol, member, us, json!({ "membership": "join" })),
            make(&carol, member, us, json!({ "membership": "ban" })),
            make(&carol, member, us, json!({ "membership": "leave" })),
            make(&carol, member, us, json!({ "membership": ["invite"] })),
            make(&carol, member, us, json!({})),
        ];
        let state = json!([value(&room.state[&("m.room.create".to_owned(), String::new())])]);
        for event in &events {
            let body = json!({ "room_version": version, "event": value(event), "invite_room_state": state });
            let (status, answer) = put(&world, &room.peer, "v2/invite", &room.room_id, &id(event), body).await;
            assert!(matches!(status, 400 | 403), "{version} {}: {status} {answer}", value(event));
            assert!(!answer.to_string().contains("signatures"), "{answer}");
            if version == "1" {
                let (status, answer) =
                    put(&world, &room.peer, "v1/invite", &room.room_id, &id(event), value(event)).await;
                assert!(matches!(status, 400 | 403), "{status} {answer}");
            }
        }
        assert!(world.rooms.any_membership(&room.room_id, &alice).await.unwrap().is_none());
    }
}

/// Only the whole event is signed: not one whose content hash is wrong, which would be redacted, nor one that claims a
/// sender of ours or of a third server.
/// SEC-invite-signing.
#[tokio::test]
async fn fj6_invites_that_do_not_verify_are_not_signed() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = Elsewhere::new(&world, EVIL, "11");
    let good = invitation(&world, &room, alice.as_str());
    let send = async |event: Value, event_id: &str| {
        let body = json!({ "room_version": "11", "event": event, "invite_room_state": [] });
        put(&world, &room.peer, "v2/invite", &room.room_id, event_id, body).await
    };
    let resign = |mut event: Value, change: &dyn Fn(&mut Value)| -> Value {
        change(&mut event);
        event["signatures"] = json!({});
        let mut event = object(event);
        room.peer.key.sign_json(&mut event, EVIL);
        event::Json::Object(event).into()
    };
    let mut wrong_hash = value(&good);
    wrong_hash["content"]["reason"] = json!("not hashed");
    let mut unsigned = value(&good);
    unsigned["signatures"] = json!({});
    let mut by_us = value(&good);
    by_us["signatures"] = json!({ US: { "ed25519:a": "AAAA" } });
    let events = [
        wrong_hash,
        unsigned,
        by_us,
        resign(value(&good), &|event| event["sender"] = json!("@carol:two.test")),
        resign(value(&good), &|event| event["sender"] = json!(user("bob").as_str())),
        resign(value(&good), &|event| event["depth"] = json!(i64::MAX)),
        resign(value(&good), &|event| event["origin_server_ts"] = json!(-1.5)),
        resign(value(&good), &|event| event["content"]["n"] = json!(1.5)),
        resign(value(&good), &|event| event["type"] = json!("m.room.member\0")),
    ];
    for event in events {
        let event_id = event_id(&event);
        let (status, answer) = send(event.clone(), &event_id).await;
        assert!((400..500).contains(&status), "{event}: {status} {answer}");
        assert!(!answer.to_string().contains("signatures"), "{answer}");
    }
    // The redacted form of an invite hides nothing: membership is kept. It is refused for its hash alone.
    assert!(world.rooms.any_membership(&room.room_id, &alice).await.unwrap().is_none());
    assert_eq!(send(value(&good), &id(&good)).await.0, 200);
}

/// The id that an event of room version 11 has, also one that would not be accepted.
fn event_id(event: &Value) -> String {
    use base64::Engine as _;
    let rules = event::Rules::of("11").unwrap();
    let hash = event::reference_hash(rules, &object(event.clone()));
    format!("${}", base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(hash))
}

/// CVE-2024-52815: an invite that is accepted can be shown.
/// SEC-poison-invites.
#[tokio::test]
async fn fj6_no_state_of_an_invite_breaks_what_shows_it() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = Elsewhere::new(&world, EVIL, "10");
    let invite = invitation(&world, &room, alice.as_str());
    let state = json!([
        null, 5, "x", [], {},
        { "type": "m.room.name" },
        { "type": 5, "state_key": "", "sender": "@a:b", "content": {} },
        { "type": "m.room.name", "state_key": 5, "sender": "@a:b", "content": {} },
        { "type": "m.room.name", "state_key": "", "sender": "@a:b", "content": [] },
        { "type": "m.room.name", "state_key": "", "sender": "@a:b", "content": { "name": 7, "x": 1e300 }, "more": 1 },
    ]);
    let body = json!({ "room_version": "10", "event": value(&invite), "invite_room_state": state });
    let (status, answer) = put(&world, &room.peer, "v2/invite", &room.room_id, &id(&invite), body).await;
    assert_eq!(status, 200, "{answer}");
    check_stripped(&world, &room.room_id).await;
    // CVE-2023-32323: too much of it is refused.
    let other = invitation(&world, &room, alice.as_str());
    let event =
        json!({ "type": "m.room.name", "state_key": "", "sender": "@a:b", "content": { "x": "x".repeat(3_000) } });
    let body = json!({ "room_version": "10", "event": value(&other), "invite_room_state": vec![event; 101] });
    assert_eq!(put(&world, &room.peer, "v2/invite", &room.room_id, &id(&other), body).await.0, 413);
}

/// The paths of all handshakes must say what the event says (CVE-2020-26257), and the event be the caller's user's.
/// SEC-handshake-paths.
#[tokio::test]
async fn fj3_fj9_paths_and_events_of_handshakes_agree() {
    for version in ["1", "6", "11", "12"] {
        let world = World::new().await;
        let (room, other) = (world.room(version).await, world.room(version).await);
        let (two, evil) = (Peer::new(GOOD), Peer::new(EVIL));
        let knockable = world.room(version).await;
        if room.rules.knock {
            world.set(&knockable, "m.room.join_rules", json!({ "join_rule": "knock" })).await;
        }
        two.join(&world, &room, "bob").await;
        let bob = two.user("bob");
        let cases = [
            ("v1/send_join", "join", &room),
            ("v2/send_join", "join", &room),
            ("v1/send_leave", "leave", &room),
            ("v2/send_leave", "leave", &room),
            ("v1/send_knock", "knock", &knockable),
        ];
        for (what, membership, at) in cases {
            let event = two.event(&world, at, Sketch::member(&bob, membership)).await;
            let (good, event_id) = (value(&event), id(&event));
            let other_kind = two.event(&world, at, Sketch::member(&bob, "invite")).await;
            let message = two.message(&world, at, "bob", "no member event").await;
            let of_alice = Sketch { state_key: Some("@alice:one.test"), ..Sketch::member(&bob, membership) };
            let of_alice = two.event(&world, at, of_alice).await;
            let mut unsigned = good.clone();
            unsigned["signatures"] = json!({});
            for (why, peer, room_id, event_id, body) in [
                ("another room", &two, &other.id, &event_id, &good),
                ("an unknown room", &two, &"!none:one.test".to_owned(), &event_id, &good),
                ("another event", &two, &at.id, &"$other".to_owned(), &good),
                ("another server", &evil, &at.id, &event_id, &good),
                ("another membership", &two, &at.id, &id(&other_kind), &value(&other_kind)),
                ("no membership", &two, &at.id, &id(&message), &value(&message)),
                ("another's membership", &two, &at.id, &id(&of_alice), &value(&of_alice)),
                ("no signature", &two, &at.id, &event_id, &unsigned),
                ("no event", &two, &at.id, &event_id, &json!({})),
            ] {
                let (status, answer) = put(&world, peer, what, room_id, event_id, body.clone()).await;
                assert!(matches!(status, 400 | 403 | 404), "{version} {what}, {why}: {status} {answer}");
                assert!(answer.get("event").is_none() && answer.get("state").is_none(), "{what}, {why}: {answer}");
            }
        }
        let now = world.now(&room).await;
        let member = world.rooms.current(&now, "m.room.member", &bob).await.unwrap().unwrap();
        assert_eq!(member.pdu.membership(), Some("join"), "{version}: nothing of it had any effect");
    }
}

/// A restricted join is signed for those alone who satisfy a condition, and for nothing but that join.
/// SEC-join-signing.
#[tokio::test]
async fn fj3_a_restricted_join_that_is_not_permitted_is_not_signed() {
    let world = World::new().await;
    let (room, club) = (world.room("10").await, world.room("10").await);
    let allow = json!([{ "type": "m.room_membership", "room_id": club.id }, { "type": "m.other" }, 5, {}]);
    world.set(&room, "m.room.join_rules", json!({ "join_rule": "restricted", "allow": allow })).await;
    let evil = Peer::new(EVIL);
    let mallory = evil.user("mallory");
    let join = |via: Value| {
        let content = json!({ "membership": "join", "join_authorised_via_users_server": via });
        Sketch { content, ..Sketch::member(&mallory, "join") }
    };
    for via in [json!("@alice:one.test"), json!("@nobody:one.test"), json!(5), json!("@carol:evil.test"), Value::Null] {
        let event = evil.event(&world, &room, join(via.clone())).await;
        let (status, answer) = put(&world, &evil, "v2/send_join", &room.id, &id(&event), value(&event)).await;
        assert!(matches!(status, 400 | 403), "{via}: {status} {answer}");
        assert!(!answer.to_string().contains("signatures"), "{answer}");
    }
    // In the club, but banned from the room; and a join whose content has been tampered with.
    evil.join(&world, &club, "mallory").await;
    let event = evil.event(&world, &room, join(json!("@alice:one.test"))).await;
    let mut changed = value(&event);
    changed["content"]["displayname"] = json!("not hashed");
    let (status, answer) = put(&world, &evil, "v2/send_join", &room.id, &id(&event), changed).await;
    assert!(matches!(status, 400 | 403), "{status} {answer}");
    world.rooms.ban(&room.id, &user("alice"), &mallory.as_str().into(), None).await.unwrap();
    let (status, answer) = put(&world, &evil, "v2/send_join", &room.id, &id(&event), value(&event)).await;
    assert_eq!(status, 403, "{answer}");
    assert!(!world.now(&room).await.has_server(EVIL));
}

/// An invite can be taken back by its sender and by nobody else who only says so (FJ8).
#[tokio::test]
async fn fj8_third_parties_do_not_end_invites() {
    for version in ["6", "11", "12"] {
        let world = World::new().await;
        let alice = world.register("alice").await;
        let room = Elsewhere::new(&world, GOOD, version);
        let invite = invite(&world, &room, alice.as_str()).await;
        let evil = Peer::new(EVIL);
        let (mallory, dan) = (evil.user("mallory"), room.peer.user("dan"));
        let end = |peer: &Peer, sender: &str, membership: &str| {
            let content = json!({ "membership": membership });
            let sketch = Sketch { sender, kind: "m.room.member", state_key: Some(alice.as_str()), content };
            let prev = vec![invite.pdu().event_id.clone()];
            peer.build(&world, room.rules, &room.room_id, sketch, prev.clone(), prev, invite.pdu().depth + 1)
        };
        let by_evil = [end(&evil, &mallory, "leave"), end(&evil, &mallory, "ban"), end(&evil, &mallory, "join")];
        evil.transact(&world, "t1", &by_evil.iter().collect::<Vec<_>>(), &[]).await;
        room.peer.transact(&world, "t1", &[&end(&room.peer, &dan, "leave")], &[]).await;
        world.federation.receive_due().await;
        let row = world.rooms.any_membership(&room.room_id, &alice).await.unwrap().unwrap();
        assert_eq!(row.membership, "invite", "{version}");
        let carol = room.peer.user("carol");
        room.peer.transact(&world, "t2", &[&end(&room.peer, &carol, "leave")], &[]).await;
        world.federation.receive_due().await;
        let row = world.rooms.any_membership(&room.room_id, &alice).await.unwrap().unwrap();
        assert_eq!(row.membership, "leave", "{version}");
    }
}

#[tokio::test]
async fn fj6_the_same_invite_again_is_one() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = Elsewhere::new(&world, GOOD, "11");
    let event = invite(&world, &room, alice.as_str()).await;
    let first = world.rooms.any_membership(&room.room_id, &alice).await.unwrap().unwrap();
    room.peer.transact(&world, "t1", &[&event], &[]).await;
    world.federation.receive_due().await;
    let again = world.rooms.any_membership(&room.room_id, &alice).await.unwrap().unwrap();
    assert_eq!((first.pos, first.event), (again.pos, again.event), "by a transaction too");
}
