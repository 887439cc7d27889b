//! Handshakes: joining, leaving, knocking, inviting (behaviours FJ1, FJ3, FJ5, FJ6, FJ9).

use event::Object;
use http::Method;
use rooms::{NewEvent, Preset, Room, flags};
use serde_json::{Value, json};
use store::UserId;

use crate::harness::{Peer, Sketch, US, World, encoded, id, object, user, value};

async fn make(world: &World, peer: &Peer, what: &str, room_id: &str, user: &str, query: &str) -> (u16, Value) {
    let path = format!("/_matrix/federation/v1/{what}/{}/{}{query}", encoded(room_id), encoded(user));
    let (status, answer) = peer.get(world, &path).await;
    (status.as_u16(), answer)
}

async fn put(world: &World, peer: &Peer, what: &str, room_id: &str, event_id: &str, body: Value) -> (u16, Value) {
    let path = format!("/_matrix/federation/{what}/{}/{}", encoded(room_id), encoded(event_id));
    let (status, answer) = peer.ask(world, Method::PUT, &path, Some(body)).await;
    (status.as_u16(), answer)
}

/// The event that a template becomes when its user's server signs it.
fn signed(world: &World, peer: &Peer, room: &Room, template: &Value) -> event::Verified {
    let ids = |name: &str| -> Vec<ruma_common::OwnedEventId> {
        let list = template[name].as_array().unwrap().iter();
        list.map(|edge| edge.as_str().or(edge[0].as_str()).unwrap().try_into().unwrap()).collect()
    };
    let sketch = Sketch {
        sender: template["sender"].as_str().unwrap(),
        kind: template["type"].as_str().unwrap(),
        state_key: template["state_key"].as_str(),
        content: template["content"].clone(),
    };
    let depth = template["depth"].as_i64().unwrap();
    peer.build(world, room.rules, &room.id, sketch, ids("prev_events"), ids("auth_events"), depth)
}

#[tokio::test]
async fn fj1_fj3_fj5_a_user_of_another_server_joins() {
    for version in ["1", "2", "3", "6", "10", "11", "12"] {
        let world = World::new().await;
        let room = world.room(version).await;
        world.say(&room, "before").await;
        let two = Peer::new("two.test");
        let bob = two.user("bob");
        let (status, answer) = make(&world, &two, "make_join", &room.id, &bob, &format!("?ver=99&ver={version}")).await;
        assert_eq!(status, 200, "{version}: {answer}");
        assert_eq!(answer["room_version"], version);
        let template = &answer["event"];
        assert_eq!((&template["sender"], &template["state_key"]), (&json!(bob), &json!(bob)));
        assert!(template.get("signatures").is_none() && template.get("hashes").is_none());
        let join = signed(&world, &two, &room, template);
        let (status, answer) = put(&world, &two, "v2/send_join", &room.id, &id(&join), value(&join)).await;
        assert_eq!(status, 200, "{version}: {answer}");
        assert_eq!((&answer["origin"], &answer["members_omitted"]), (&json!(US), &json!(false)));
        let kinds: Vec<&str> =
            answer["state"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert!(kinds.contains(&"m.room.create") && kinds.contains(&"m.room.power_levels"), "{kinds:?}");
        let members = kinds.iter().filter(|kind| **kind == "m.room.member").count();
        assert_eq!(members, 1, "the state is that before the join");
        assert!(!answer["auth_chain"].as_array().unwrap().is_empty());
        let room = world.now(&room).await;
        assert!(room.has_server("two.test"));
        let stored = world.rooms.event_by_id(&room, &id(&join)).await.unwrap().unwrap();
        assert!(stored.has(flags::FORWARDED), "FJ5: this server hands it on to the others");
        let again = put(&world, &two, "v2/send_join", &room.id, &id(&join), value(&join)).await;
        assert_eq!(again.0, 200, "a repetition is answered alike");
        assert_eq!(again.1["state"], answer["state"]);
    }
}

#[tokio::test]
async fn fj3_fj13_the_old_form_and_the_one_without_members() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "carol").await;
    let bob = two.user("bob");
    let (_, answer) = make(&world, &two, "make_join", &room.id, &bob, "?ver=10").await;
    let join = signed(&world, &two, &room, &answer["event"]);
    let (status, answer) = put(&world, &two, "v1/send_join", &room.id, &id(&join), value(&join)).await;
    assert_eq!((status, &answer[0]), (200, &json!(200)), "{answer}");
    assert!(answer[1]["state"].as_array().unwrap().len() > 5);
    let join = async |name: &str| {
        let (_, answer) = make(&world, &two, "make_join", &room.id, &two.user(name), "?ver=10").await;
        let join = signed(&world, &two, &room, &answer["event"]);
        let path =
            format!("/_matrix/federation/v2/send_join/{}/{}?omit_members=true", encoded(&room.id), encoded(&id(&join)));
        let (status, answer) = two.ask(&world, Method::PUT, &path, Some(value(&join))).await;
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let small = join("dan").await;
    assert_eq!(small["members_omitted"], false, "a small room comes whole");
    assert!(small["state"].as_array().unwrap().iter().any(|event| event["type"] == "m.room.member"));
    for n in 0..100 {
        world.rooms.join(&room.id, &user(&format!("user{n}")), None, Object::new()).await.unwrap();
    }
    let answer = join("erin").await;
    assert_eq!(answer["members_omitted"], true);
    assert_eq!(answer["servers_in_room"], json!([US, "two.test"]));
    let state = answer["state"].as_array().unwrap();
    assert!(state.iter().all(|event| event["type"] != "m.room.member"));
    let chain = answer["auth_chain"].as_array().unwrap();
    assert!(chain.iter().any(|event| event["state_key"] == json!(user("alice").as_str())), "{chain:?}");
}

#[tokio::test]
async fn fj1_who_gets_no_template() {
    let world = World::new().await;
    let room = world.room("10").await;
    let private = world.room_of("10", Preset::PrivateChat).await;
    let two = Peer::new("two.test");
    let bob = two.user("bob");
    let make = async |room_id: &str, user: &str, query: &str| {
        let (status, answer) = make(&world, &two, "make_join", room_id, user, query).await;
        (status, answer["errcode"].as_str().unwrap_or_default().to_owned(), answer)
    };
    let (status, errcode, _) = make("!unknown:one.test", &bob, "?ver=10").await;
    assert_eq!((status, errcode.as_str()), (404, "M_NOT_FOUND"));
    for query in ["", "?ver=1", "?ver=9&ver=11"] {
        let (status, errcode, answer) = make(&room.id, &bob, query).await;
        assert_eq!((status, errcode.as_str()), (400, "M_INCOMPATIBLE_ROOM_VERSION"), "{query}");
        assert_eq!(answer["room_version"], "10");
    }
    for stranger in ["@carol:three.test", user("alice").as_str(), "nobody", "@:"] {
        let (status, errcode, _) = make(&room.id, stranger, "?ver=10").await;
        assert_eq!((status, errcode.as_str()), (403, "M_FORBIDDEN"), "{stranger}");
    }
    let (status, errcode, _) = make(&private.id, &bob, "?ver=10").await;
    assert_eq!((status, errcode.as_str()), (403, "M_FORBIDDEN"));
    world.rooms.ban(&room.id, &user("alice"), &UserId::from(bob.as_str()), None).await.unwrap();
    let (status, errcode, _) = make(&room.id, &bob, "?ver=10").await;
    assert_eq!((status, errcode.as_str()), (403, "M_FORBIDDEN"));
    world.set(&room, "m.room.server_acl", json!({ "allow": ["*"], "deny": ["two.test"] })).await;
    let (status, errcode, _) = make(&room.id, &two.user("dan"), "?ver=10").await;
    assert_eq!((status, errcode.as_str()), (403, "M_FORBIDDEN"), "by the room's ACL");
}

#[tokio::test]
async fn fj3_what_is_no_good_join_is_refused() {
    let world = World::new().await;
    let room = world.room("10").await;
    let (two, evil) = (Peer::new("two.test"), Peer::new("evil.test"));
    let (bob, mallory) = (two.user("bob"), evil.user("mallory"));
    let (_, answer) = make(&world, &two, "make_join", &room.id, &bob, "?ver=10").await;
    let join = signed(&world, &two, &room, &answer["event"]);
    let send = async |peer: &Peer, room_id: &str, event_id: &str, body: Value| {
        let (status, answer) = put(&world, peer, "v2/send_join", room_id, event_id, body).await;
        (status, answer["errcode"].as_str().unwrap_or_default().to_owned())
    };
    let invalid = (400, "M_INVALID_PARAM".to_owned());
    assert_eq!(send(&evil, &room.id, &id(&join), value(&join)).await, invalid, "of another server's user");
    assert_eq!(send(&two, &room.id, "$other", value(&join)).await, invalid, "another id");
    let other = world.room("10").await;
    assert_eq!(send(&two, &other.id, &id(&join), value(&join)).await, invalid, "another room");
    let mut forged = value(&join);
    forged["signatures"] = json!({ "two.test": { "ed25519:x": "AAAA" } });
    assert_eq!(send(&two, &room.id, &id(&join), forged).await, invalid, "a wrong signature");
    let leave = two.event(&world, &room, Sketch::member(&bob, "leave")).await;
    assert_eq!(send(&two, &room.id, &id(&leave), value(&leave)).await, invalid, "no join");
    let message = evil.event(&world, &room, Sketch::message(&mallory, "hello")).await;
    assert_eq!(send(&evil, &room.id, &id(&message), value(&message)).await, invalid, "no membership");
    let sketch = Sketch { sender: &mallory, state_key: Some(&bob), ..Sketch::member(&mallory, "join") };
    let foreign = evil.event(&world, &room, sketch).await;
    assert_eq!(send(&evil, &room.id, &id(&foreign), value(&foreign)).await, invalid, "of somebody else");
    for body in [json!({}), json!({ "type": 5 }), json!({ "room_id": room.id })] {
        assert_eq!(send(&two, &room.id, &id(&join), body).await, invalid);
    }
    let unknown = two.after(&world, room.rules, &leave, Sketch::member(&bob, "join"));
    assert_eq!(send(&two, &room.id, &id(&unknown), value(&unknown)).await, invalid, "it builds on what is not known");
    world.rooms.ban(&room.id, &user("alice"), &UserId::from(bob.as_str()), None).await.unwrap();
    let (status, errcode) = send(&two, &room.id, &id(&join), value(&join)).await;
    assert_eq!((status, errcode.as_str()), (403, "M_FORBIDDEN"), "banned meanwhile");
    assert!(!world.now(&room).await.has_server("two.test"));
}

#[tokio::test]
async fn fj3_a_restricted_join_is_signed_here_too() {
    let world = World::new().await;
    let (room, club) = (world.room("10").await, world.room("10").await);
    let allow = json!([{ "type": "m.room_membership", "room_id": club.id }]);
    world.set(&room, "m.room.join_rules", json!({ "join_rule": "restricted", "allow": allow })).await;
    let two = Peer::new("two.test");
    let bob = two.user("bob");
    let (status, answer) = make(&world, &two, "make_join", &room.id, &bob, "?ver=10").await;
    assert_eq!((status, &answer["errcode"]), (403, &json!("M_FORBIDDEN")));
    two.join(&world, &club, "bob").await;
    let (status, answer) = make(&world, &two, "make_join", &room.id, &bob, "?ver=10").await;
    assert_eq!(status, 200, "{answer}");
    let authorizer = answer["event"]["content"]["join_authorised_via_users_server"].as_str().unwrap();
    assert_eq!(authorizer, user("alice").as_str());
    let join = signed(&world, &two, &room, &answer["event"]);
    let (status, answer) = put(&world, &two, "v2/send_join", &room.id, &id(&join), value(&join)).await;
    assert_eq!(status, 200, "{answer}");
    let signatures = answer["event"]["signatures"].as_object().unwrap();
    assert!(signatures.contains_key(US) && signatures.contains_key("two.test"), "{signatures:?}");
    assert!(world.now(&room).await.has_server("two.test"));
    let allow = json!([{ "type": "m.room_membership", "room_id": "!elsewhere:two.test" }]);
    world.set(&room, "m.room.join_rules", json!({ "join_rule": "restricted", "allow": allow })).await;
    let (status, answer) = make(&world, &two, "make_join", &room.id, &two.user("dan"), "?ver=10").await;
    assert_eq!((status, &answer["errcode"]), (400, &json!("M_UNABLE_TO_AUTHORISE_JOIN")));
}

#[tokio::test]
async fn fj9_knocking_and_taking_it_back() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    let bob = two.user("bob");
    let (status, answer) = make(&world, &two, "make_knock", &room.id, &bob, "?ver=10").await;
    assert_eq!((status, &answer["errcode"]), (403, &json!("M_FORBIDDEN")), "the room does not take knocks");
    world.set(&room, "m.room.join_rules", json!({ "join_rule": "knock" })).await;
    assert_eq!(make(&world, &two, "make_knock", &room.id, &bob, "").await.0, 400, "`ver` is required");
    assert_eq!(make(&world, &two, "make_knock", &room.id, &bob, "?ver=6").await.0, 400);
    let (status, answer) = make(&world, &two, "make_knock", &room.id, &bob, "?ver=10").await;
    assert_eq!(status, 200, "{answer}");
    let knock = signed(&world, &two, &room, &answer["event"]);
    let (status, answer) = put(&world, &two, "v1/send_knock", &room.id, &id(&knock), value(&knock)).await;
    assert_eq!(status, 200, "{answer}");
    let state = answer["knock_room_state"].as_array().unwrap();
    assert!(state.iter().any(|event| event["type"] == "m.room.create"), "{state:?}");
    let now = world.now(&room).await;
    let member = world.rooms.current(&now, "m.room.member", &bob).await.unwrap().unwrap();
    assert_eq!(member.pdu.membership(), Some("knock"));
    let (status, answer) = make(&world, &two, "make_leave", &room.id, &bob, "").await;
    assert_eq!(status, 200, "{answer}");
    let leave = signed(&world, &two, &room, &answer["event"]);
    let (status, answer) = put(&world, &two, "v2/send_leave", &room.id, &id(&leave), value(&leave)).await;
    assert_eq!((status, answer), (200, json!({})));
    let now = world.now(&room).await;
    let member = world.rooms.current(&now, "m.room.member", &bob).await.unwrap().unwrap();
    assert_eq!(member.pdu.membership(), Some("leave"));
    assert_eq!(make(&world, &two, "make_leave", &room.id, &bob, "").await.0, 403, "there is nothing to leave");
}

#[tokio::test]
async fn rv9_a_room_that_does_not_federate_takes_no_knock_and_lets_nobody_leave() {
    for (version, federates) in [("10", true), ("10", false), ("12", true), ("12", false)] {
        let case = format!("version {version}, m.federate {federates}");
        let world = World::new().await;
        let creation = json!({ "m.federate": federates });
        let room = world.room_with(version, Preset::PublicChat, creation).await;
        world.set(&room, "m.room.join_rules", json!({ "join_rule": "knock" })).await;
        let two = Peer::new("two.test");
        let (bob, carol) = (two.user("bob"), two.user("carol"));
        // No client of this server can invite her there, but an older server may have let one.
        let invite = object(json!({ "membership": "invite" }));
        let alice = world.user("alice");
        world.rooms.send(&room.id, NewEvent::state(&alice, "m.room.member", &carol, invite)).await.unwrap();
        for (user, what, membership) in [(&bob, "knock", "knock"), (&carol, "leave", "leave"), (&bob, "join", "join")] {
            let path = format!("make_{what}");
            let (status, answer) = make(&world, &two, &path, &room.id, user, &format!("?ver={version}")).await;
            let expected = if federates && what != "join" { (200, None) } else { (403, Some("M_FORBIDDEN")) };
            assert_eq!((status, answer["errcode"].as_str()), expected, "{case}: {path}: {answer}");
            // Whoever needs no template is refused too.
            let event = two.event(&world, &room, Sketch::member(user, membership)).await;
            let path = if what == "knock" { "v1/send_knock".to_owned() } else { format!("v2/send_{what}") };
            let (status, answer) = put(&world, &two, &path, &room.id, &id(&event), value(&event)).await;
            assert_eq!((status, answer["errcode"].as_str()), expected, "{case}: {path}: {answer}");
            let now = world.now(&room).await;
            let current = world.rooms.current(&now, "m.room.member", user).await.unwrap();
            let current = current.and_then(|event| event.pdu.membership().map(str::to_owned));
            assert_eq!(current.as_deref() == Some(membership), expected.0 == 200, "{case}: {path}: {current:?}");
        }
    }
}

/// What an invite of a user of this server to a room of the peer says.
struct Invitation {
    room_id: String,
    create: event::Verified,
    invite: event::Verified,
}

fn invitation(world: &World, peer: &Peer, version: &str, target: &str) -> Invitation {
    let rules = event::Rules::of(version).unwrap();
    let creator = peer.user("carol");
    let mut content = object(json!({ "room_version": version, "creator": creator }));
    let room_id = (!rules.special_create).then(|| format!("!invites{version}:{}", peer.name));
    if rules.creator_is_sender {
        content.remove("creator");
    }
    let template = event::Template {
        room_id: room_id.map(|id| id.try_into().unwrap()),
        sender: creator.clone(),
        kind: "m.room.create".to_owned(),
        state_key: Some(String::new()),
        content,
        depth: 1,
        origin_server_ts: 1_700_000_000_000,
        ..event::Template::default()
    };
    let create = event::build(rules, template, &peer.key, &peer.name).unwrap();
    let room_id = create.pdu().room_id.to_string();
    let sketch = Sketch {
        sender: &creator,
        kind: "m.room.member",
        state_key: Some(target),
        content: json!({ "membership": "invite" }),
    };
    let prev = vec![create.pdu().event_id.clone()];
    let invite = peer.build(world, rules, &room_id, sketch, prev.clone(), prev, 2);
    Invitation { room_id, create, invite }
}

#[tokio::test]
async fn fj6_an_invite_is_signed_and_shown() {
    for version in ["1", "6", "10", "12"] {
        let world = World::new().await;
        let alice = world.register("alice").await;
        let two = Peer::new("two.test");
        let Invitation { room_id, create, invite } = invitation(&world, &two, version, alice.as_str());
        let body = json!({ "room_version": version, "event": value(&invite), "invite_room_state": [value(&create)] });
        let (status, answer) = put(&world, &two, "v2/invite", &room_id, &id(&invite), body).await;
        assert_eq!(status, 200, "{version}: {answer}");
        let signatures = answer["event"]["signatures"].as_object().unwrap();
        assert!(signatures.contains_key(US) && signatures.contains_key("two.test"));
        let row = world.rooms.any_membership(&room_id, &alice).await.unwrap().unwrap();
        assert_eq!((row.membership.as_str(), row.sender.as_str()), ("invite", two.user("carol").as_str()));
        let stripped: Value = serde_json::from_slice(&row.stripped.unwrap()).unwrap();
        assert_eq!(stripped.as_array().unwrap().len(), 2, "{stripped}");
        assert!(stripped[0].get("signatures").is_none());
        // FJ8: whoever invited may take it back, others may not.
        let carol = two.user("carol");
        let rules = event::Rules::of(version).unwrap();
        let leave = |peer: &Peer, sender: &str| {
            let content = json!({ "membership": "leave" });
            let sketch = Sketch { sender, kind: "m.room.member", state_key: Some(alice.as_str()), content };
            let prev = vec![invite.pdu().event_id.clone()];
            peer.build(&world, rules, &room_id, sketch, prev.clone(), prev, 3)
        };
        let evil = Peer::new("evil.test");
        evil.transact(&world, "t1", &[&leave(&evil, &evil.user("mallory"))], &[]).await;
        world.federation.receive_due().await;
        let row = world.rooms.any_membership(&room_id, &alice).await.unwrap().unwrap();
        assert_eq!(row.membership, "invite");
        two.transact(&world, "t1", &[&leave(&two, &carol)], &[]).await;
        world.federation.receive_due().await;
        let row = world.rooms.any_membership(&room_id, &alice).await.unwrap().unwrap();
        assert_eq!(row.membership, "leave", "{version}");
    }
}

#[tokio::test]
async fn fj6_the_old_form_of_an_invite() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let two = Peer::new("two.test");
    let Invitation { room_id, invite, .. } = invitation(&world, &two, "1", alice.as_str());
    let mut body = value(&invite);
    body["unsigned"] = json!({ "invite_room_state": [{ "type": "m.room.name", "state_key": "", "content": { "name": "x" },
        "sender": two.user("carol") }] });
    let (status, answer) = put(&world, &two, "v1/invite", &room_id, &id(&invite), body).await;
    assert_eq!((status, &answer[0]), (200, &json!(200)), "{answer}");
    assert!(answer[1]["event"]["signatures"][US].is_object());
    let row = world.rooms.any_membership(&room_id, &alice).await.unwrap().unwrap();
    let stripped: Value = serde_json::from_slice(&row.stripped.unwrap()).unwrap();
    assert_eq!(stripped[0]["content"]["name"], "x");
}

/// SEC-handshake-paths.
#[tokio::test]
async fn fj6_what_is_no_good_invite_is_refused() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let (two, evil) = (Peer::new("two.test"), Peer::new("evil.test"));
    let send = async |peer: &Peer, room_id: &str, event_id: &str, body: Value| {
        let (status, answer) = put(&world, peer, "v2/invite", room_id, event_id, body).await;
        (status, answer["errcode"].as_str().unwrap_or_default().to_owned())
    };
    let invalid = (400, "M_INVALID_PARAM".to_owned());
    let Invitation { room_id, create, invite } = invitation(&world, &two, "12", alice.as_str());
    let body = |version: &str, state: Value| json!({ "room_version": version, "event": value(&invite), "invite_room_state": state });
    let good = json!([value(&create)]);
    let id = id(&invite);
    assert_eq!(
        send(&two, &room_id, &id, body("99", good.clone())).await,
        (400, "M_INCOMPATIBLE_ROOM_VERSION".to_owned())
    );
    assert_eq!(send(&evil, &room_id, &id, body("12", good.clone())).await, invalid, "another sender's");
    assert_eq!(send(&two, "!other:two.test", &id, body("12", good.clone())).await, invalid);
    assert_eq!(send(&two, &room_id, "$other", body("12", good.clone())).await, invalid);
    assert_eq!(send(&two, &room_id, &id, body("12", json!([]))).await, invalid, "no create event");
    assert_eq!(send(&two, &room_id, &id, body("12", json!([5]))).await, invalid);
    let foreign = invitation(&world, &evil, "12", alice.as_str());
    assert_eq!(send(&two, &room_id, &id, body("12", json!([value(&foreign.create)]))).await, invalid, "another room's");
    assert_eq!(send(&two, &room_id, &id, body("12", json!({}))).await, (400, "M_BAD_JSON".to_owned()));
    for broken in [json!({}), json!({ "room_version": "12" }), json!({ "room_version": "12", "event": 5 })] {
        assert_eq!(send(&two, &room_id, &id, broken).await.0, 400);
    }
    let nobody = invitation(&world, &two, "10", "@nobody:one.test");
    let text = json!({ "room_version": "10", "event": value(&nobody.invite) });
    assert_eq!(send(&two, &nobody.room_id, &crate::harness::id(&nobody.invite), text).await.0, 403);
    let other = invitation(&world, &two, "10", "@bob:three.test");
    let text = json!({ "room_version": "10", "event": value(&other.invite) });
    assert_eq!(send(&two, &other.room_id, &crate::harness::id(&other.invite), text).await, invalid);
    let ignored = json!({ "ignored_users": { two.user("carol"): {} } }).to_string();
    world.users.put_account_data(&alice, "", "m.ignored_user_list", ignored).await.unwrap();
    let (status, errcode) = send(&two, &room_id, &id, body("12", good)).await;
    assert_eq!((status, errcode.as_str()), (403, "M_INVITE_BLOCKED"));
    assert!(world.rooms.any_membership(&room_id, &alice).await.unwrap().is_none());
}
