//! Templates and co-signatures: a server that is asked to let our user in, or to take an invite, gives us something else
//! to sign, or to believe (behaviours FJ2, FJ4, FJ7, FJ10, FJ14; the signing oracles of 2025 and 2026).

use federation::Error;
use serde_json::{Value, json};
use store::UserId;

use super::{EVIL, Elsewhere, GOOD, INVITE, MAKE_JOIN, MAKE_KNOCK, MAKE_LEAVE, SEND_JOIN, SEND_KNOCK, SEND_LEAVE};
use crate::harness::{Answer, Peer, Sketch, US, World, object, user, value};

fn via(servers: &[&str]) -> Vec<String> {
    servers.iter().map(ToString::to_string).collect()
}

/// Alice does what she can with the room of an evil server: joins, knocks, leaves.
async fn ask(world: &World, what: &str, room_id: &str) -> federation::Result<()> {
    let (alice, via, none) = (user("alice"), via(&[EVIL]), event::Object::new());
    match what {
        "join" => world.handshakes.join(room_id, &alice, &via, &none).await.map(drop),
        "knock" => world.handshakes.knock(room_id, &alice, &via, &none).await.map(drop),
        _ => world.handshakes.leave(room_id, &alice, &via, None).await,
    }
}

/// SEC-template-signing.
#[tokio::test]
async fn fj2_fj14_no_template_makes_this_server_sign_anything_else() {
    let world = World::new().await;
    let room = Elsewhere::new(&world, EVIL, "11");
    let changes: &[(&str, Value)] = &[
        ("/event/room_id", json!("!other:one.test")),
        ("/event/room_id", Value::Null),
        ("/event/type", json!("m.room.power_levels")),
        ("/event/sender", json!("@admin:one.test")),
        ("/event/sender", json!("@carol:evil.test")),
        ("/event/state_key", json!("@admin:one.test")),
        ("/event/state_key", json!("")),
        ("/event/content", json!({})),
        ("/event/content", json!([])),
        ("/event/content/membership", json!("ban")),
        ("/event/content/membership", json!("invite")),
        ("/event/prev_events", json!([["$x", {}], 5])),
        ("/event/prev_events", json!(vec!["$x"; 21])),
        ("/event/auth_events", json!(vec!["$x"; 11])),
        ("/event/auth_events", json!("$x")),
        ("/event", json!([])),
        ("/event", Value::Null),
        ("/room_version", json!("99")),
        ("/room_version", json!(11)),
    ];
    for (what, make) in [("join", MAKE_JOIN), ("knock", MAKE_KNOCK), ("leave", MAKE_LEAVE)] {
        for (place, change) in changes {
            let mut template = room.template(user("alice").as_str(), what);
            *template.pointer_mut(place).unwrap() = change.clone();
            world.net.clear(EVIL, make);
            world.net.answer(EVIL, make, 200, template);
            drop(ask(&world, what, &room.room_id).await);
            assert!(world.net.signed_events().is_empty(), "{what}: {place} = {change}");
        }
    }
}

/// SEC-template-signing.
#[tokio::test]
async fn fj2_what_a_template_says_besides_is_not_signed() {
    for version in ["1", "6", "11", "12"] {
        let world = World::new().await;
        let room = Elsewhere::new(&world, EVIL, version);
        for (what, make) in [("join", MAKE_JOIN), ("knock", MAKE_KNOCK), ("leave", MAKE_LEAVE)] {
            let mut template = room.template(user("alice").as_str(), what);
            let event = template["event"].as_object_mut().unwrap();
            event["content"]["displayname"] = json!("Mallory");
            event["content"]["third_party_invite"] = json!({ "signed": {} });
            event["content"]["reason"] = json!("because");
            event["depth"] = json!(i64::MAX);
            for (name, value) in [
                ("redacts", json!("$x")),
                ("event_id", json!("$chosen:one.test")),
                ("origin_server_ts", json!(7)),
                ("unsigned", json!({ "age": 5 })),
                ("hashes", json!({ "sha256": "AAAA" })),
                ("signatures", json!({ "one.test": { "ed25519:a": "AAAA" } })),
                ("membership", json!("ban")),
                ("m.made.up", json!(true)),
            ] {
                event.insert(name.to_owned(), value);
            }
            world.net.clear(EVIL, make);
            world.net.answer(EVIL, make, 200, template);
            world.net.sent.lock().clear();
            drop(ask(&world, what, &room.room_id).await);
            let signed = world.net.signed_events();
            assert!(!signed.is_empty(), "{version} {what}");
            for event in signed {
                let alice = json!(user("alice").as_str());
                assert_eq!(event["content"], json!({ "membership": what }), "{version}");
                assert_eq!((&event["type"], &event["sender"]), (&json!("m.room.member"), &alice));
                assert_eq!((&event["state_key"], &event["room_id"]), (&alice, &json!(room.room_id)));
                assert_ne!(event["origin_server_ts"], json!(7));
                let max = room.rules.max_depth;
                assert!(event["depth"].as_i64().unwrap() <= max, "{version} {}", event["depth"]);
                for name in ["redacts", "m.made.up", "membership", "unsigned"] {
                    assert!(event.get(name).is_none(), "{version} {name}: {event}");
                }
                assert!(event.get("event_id").is_none_or(|id| id != "$chosen:one.test"));
                let signatures = &event["signatures"];
                assert_eq!(signatures.as_object().unwrap().len(), 1, "{signatures}");
                assert_ne!(event["hashes"]["sha256"], "AAAA");
            }
        }
    }
}

/// A template of the old format for a room of a new one, and the other way round, makes no event of the other format.
#[tokio::test]
async fn fj14_a_template_of_another_version_leads_into_no_room() {
    let world = World::new().await;
    let room = Elsewhere::new(&world, EVIL, "11");
    let alice = user("alice");
    for version in [json!("10"), json!("12"), json!("1"), Value::Null] {
        let mut template = room.template(alice.as_str(), "join");
        template["room_version"] = version.clone();
        if version.is_null() {
            template.as_object_mut().unwrap().remove("room_version");
        }
        world.net.clear(EVIL, MAKE_JOIN);
        world.net.answer(EVIL, MAKE_JOIN, 200, template);
        world.net.answer(EVIL, SEND_JOIN, 200, room.joined());
        let refused = ask(&world, "join", &room.room_id).await;
        assert!(refused.is_err(), "{version}");
        assert!(world.rooms.room(&room.room_id).await.unwrap().is_none(), "{version}");
    }
}

/// The answers that an evil server may give to `send_join`, by name.
fn answers(world: &World, room: &Elsewhere) -> Vec<(&'static str, Value)> {
    let good = room.joined();
    let create = ("m.room.create".to_owned(), String::new());
    let without_create: Vec<Value> =
        room.state.iter().filter(|(key, _)| **key != create).map(|(_, event)| value(event)).collect();
    let other = Elsewhere::new(world, EVIL, "11");
    let mut forged = room.state_values();
    for event in &mut forged {
        event["signatures"] = json!({ EVIL: { "ed25519:x": "AAAA" } });
    }
    let older = Elsewhere::with(world, EVIL, "11", json!({ "room_version": "10" }));
    let closed = Elsewhere::with(world, EVIL, "11", json!({ "m.federate": false }));
    let change = |state: Value| json!({ "state": state, "auth_chain": good["auth_chain"] });
    vec![
        ("nothing", json!({})),
        ("no list", json!({ "state": {}, "auth_chain": 5 })),
        ("no event", json!({ "state": [null, 5, "x", [], {}], "auth_chain": [null] })),
        ("without create", json!({ "state": without_create, "auth_chain": without_create })),
        ("another room's", json!({ "state": other.state_values(), "auth_chain": other.state_values() })),
        ("forged", json!({ "state": forged, "auth_chain": forged })),
        ("create of another version", change(json!(older.state_values()))),
        ("a room that does not federate", json!({ "state": closed.state_values(), "auth_chain": [] })),
        (
            "without members",
            json!({ "state": good["state"], "auth_chain": good["auth_chain"], "members_omitted": true }),
        ),
        ("an event in the place of ours", {
            let mut answer = good.clone();
            answer["event"] = value(&room.last);
            answer["members_omitted"] = json!("x");
            answer
        }),
    ]
}

/// SEC-hostile-joins.
#[tokio::test]
async fn fj4_an_answer_that_is_no_room_makes_none_and_another_server_is_asked() {
    let world = World::new().await;
    let alice = user("alice");
    let room = Elsewhere::new(&world, GOOD, "11");
    for (name, answer) in answers(&world, &Elsewhere::new(&world, EVIL, "11")) {
        let world = World::new().await;
        // The evil server knows the room, of course.
        world.net.answer(EVIL, MAKE_JOIN, 200, room.template(alice.as_str(), "join"));
        world.net.answer(EVIL, SEND_JOIN, 200, answer);
        let refused = ask(&world, "join", &room.room_id).await;
        assert!(refused.is_err(), "{name}");
        assert!(world.rooms.room(&room.room_id).await.unwrap().is_none(), "{name}");
        // `make_join` and `send_join` both go to the next one.
        room.serve_join(&world, alice.as_str());
        let joined = world.handshakes.join(&room.room_id, &alice, &via(&[EVIL, GOOD]), &event::Object::new()).await;
        assert!(joined.is_ok(), "{name}: {joined:?}");
        let here = world.rooms.room(&room.room_id).await.unwrap().unwrap();
        assert!(here.head().local.contains(&alice), "{name}");
    }
}

/// SEC-verified-events, SEC-hostile-joins.
#[tokio::test]
async fn fj4_events_that_do_not_verify_are_left_out_of_the_state() {
    let world = World::new().await;
    let mut room = Elsewhere::new(&world, EVIL, "11");
    let name = room.set(&world, "m.room.name", json!({ "name": "x" }));
    let other = Elsewhere::new(&world, EVIL, "11");
    let two = Peer::new(GOOD);
    let bob = two.user("bob");
    let mut answer = room.joined();
    let state = answer["state"].as_array_mut().unwrap();
    let mut forged = value(&name);
    forged["content"]["name"] = json!("forged");
    forged["state_key"] = json!("forged");
    state.push(forged);
    // Of another server's user, without that server.
    let mut member = value(&room.next(&world, &two, Sketch::member(&bob, "join")));
    member["signatures"] = json!({ EVIL: value(&name)["signatures"][EVIL] });
    state.push(member);
    // Without the right to it: @dan never joined.
    let dan = room.peer.user("dan");
    let topic = Sketch { sender: &dan, kind: "m.room.topic", state_key: Some(""), content: json!({ "topic": "x" }) };
    state.push(value(&room.next(&world, &room.peer, topic)));
    // Twice the same key, and of another room.
    state.push(value(&name));
    state.extend(other.state_values());
    state.extend([json!(null), json!({ "type": "m.room.name" }), json!("x".repeat(70_000))]);
    world.net.answer(EVIL, MAKE_JOIN, 200, room.template(user("alice").as_str(), "join"));
    world.net.answer(EVIL, SEND_JOIN, 200, answer);
    ask(&world, "join", &room.room_id).await.unwrap();
    let here = world.rooms.room(&room.room_id).await.unwrap().unwrap();
    let current = world.rooms.whole_state(&here, here.head().state).await.unwrap();
    let mut ids: Vec<String> = current.iter().map(|event| event.id().to_string()).collect();
    ids.sort();
    let mut expected: Vec<String> = room.state.values().map(|event| event.pdu().event_id.to_string()).collect();
    let join = current.iter().find(|event| event.pdu.state_key.as_deref() == Some(user("alice").as_str())).unwrap();
    expected.push(join.id().to_string());
    expected.sort();
    assert_eq!(ids, expected);
    assert_eq!(here.servers(), [EVIL.to_owned(), US.to_owned()].into());
}

/// A room of a restricted join, into which its server is ready to let Alice.
fn restricted_room(world: &World) -> Elsewhere {
    let mut room = Elsewhere::new(world, EVIL, "11");
    let allow = json!([{ "type": "m.room_membership", "room_id": "!club:evil.test" }]);
    room.set(world, "m.room.join_rules", json!({ "join_rule": "restricted", "allow": allow }));
    let mut template = room.template(user("alice").as_str(), "join");
    template["event"]["content"]["join_authorised_via_users_server"] = json!(room.peer.user("carol"));
    let auth = room.state.values().filter(|event| event.pdu().kind != "m.room.name");
    template["event"]["auth_events"] = auth.map(|event| event.pdu().event_id.to_string()).collect();
    world.net.answer(EVIL, MAKE_JOIN, 200, template);
    room
}

/// What comes back of a restricted join bears the signature that was asked for, and is the join that was sent.
#[tokio::test]
async fn fj4_a_restricted_join_comes_back_as_it_was_sent() {
    let world = World::new().await;
    let room = restricted_room(&world);
    for event in [Value::Null, value(&room.last), json!({}), json!(5)] {
        let mut answer = room.joined();
        answer["event"] = event.clone();
        world.net.clear(EVIL, SEND_JOIN);
        world.net.answer(EVIL, SEND_JOIN, 200, answer);
        assert!(ask(&world, "join", &room.room_id).await.is_err(), "{event}");
        assert!(world.rooms.room(&room.room_id).await.unwrap().is_none());
    }
}

/// Events of this server are sent on as the bytes that they are: also one that another server has signed and written anew.
#[tokio::test]
async fn fj4_a_restricted_join_is_kept_in_canonical_form() {
    let world = World::new().await;
    let room = restricted_room(&world);
    let (peer, rules, joined) = (room.peer.clone(), room.rules, room.joined());
    world.net.reply(EVIL, SEND_JOIN, move |body| {
        let mut event = object(body);
        let mut redacted = event::redact(rules, &event);
        peer.key.sign_json(&mut redacted, &peer.name);
        event.insert("signatures".to_owned(), redacted["signatures"].clone());
        let mut answer = joined.clone();
        answer["event"] = event::Json::Object(event).into();
        answer["event"]["unsigned"] = json!({ "age": 5 });
        Answer::Bytes(serde_json::to_vec_pretty(&answer).unwrap().into())
    });
    ask(&world, "join", &room.room_id).await.unwrap();
    let here = world.rooms.room(&room.room_id).await.unwrap().unwrap();
    let join = world.rooms.current(&here, "m.room.member", user("alice").as_str()).await.unwrap().unwrap();
    let event = join.pdu.object();
    assert!(event["signatures"].get(EVIL).is_some() && !event.contains_key("unsigned"));
    assert_eq!(join.pdu.bytes, event::canonical_json::to_bytes(&event));
}

#[tokio::test]
async fn fj10_the_named_servers_are_asked_in_order_and_the_one_in_the_id_last() {
    let world = World::new().await;
    let alice = user("alice");
    let none = event::Object::new();
    let asked = || -> Vec<String> { world.net.sent.lock().drain(..).map(|sent| sent.server).collect() };
    let named = via(&["dead.test", US, "no name!", "three.test", "dead.test", "THREE.test:"]);
    let room = Elsewhere::new(&world, GOOD, "11");
    drop(world.handshakes.join(&room.room_id, &alice, &named, &none).await);
    assert_eq!(asked(), ["dead.test", "three.test", GOOD]);
    // The id of a room of version 12 names no server.
    let room = Elsewhere::new(&world, GOOD, "12");
    assert!(world.handshakes.join(&room.room_id, &alice, &[], &none).await.is_err());
    assert_eq!(asked(), [""; 0]);
    room.serve_join(&world, alice.as_str());
    world.handshakes.join(&room.room_id, &alice, &via(&["dead.test", GOOD]), &none).await.unwrap();
    assert_eq!(asked()[..3], ["dead.test", GOOD, GOOD]);
    let many: Vec<String> = (0..1_000).map(|number| format!("s{number}.test")).collect();
    drop(world.handshakes.join("!x:two.test", &alice, &many, &none).await);
    assert!(asked().len() <= 20, "nobody makes this server ask the whole world");
}

/// An invite of our user comes back from the other server: it must be the one that was sent, signed there.
#[tokio::test]
async fn fj7_an_invite_that_comes_back_changed_is_none() {
    let world = World::new().await;
    let room = world.room("11").await;
    let evil = Peer::new(EVIL);
    let mallory = UserId::from(evil.user("mallory").as_str());
    let mallory = &mallory;
    let invite = async || world.handshakes.invite(&room.id, &user("alice"), mallory, event::Object::new()).await;
    let power = Sketch {
        sender: mallory.as_str(),
        kind: "m.room.power_levels",
        state_key: Some(""),
        content: json!({ "users": { mallory.as_str(): 100 } }),
    };
    let other = evil.event(&world, &room, power).await;
    for answer in [
        json!({}),
        json!({ "event": {} }),
        json!({ "event": null }),
        json!([200, {}]),
        json!({ "event": value(&other) }),
        json!({ "event": value(&evil.event(&world, &room, Sketch::member(mallory.as_str(), "join")).await) }),
    ] {
        world.net.clear(EVIL, INVITE);
        world.net.answer(EVIL, INVITE, 200, answer.clone());
        assert!(invite().await.is_err(), "{answer}");
    }
    // Unsigned by the other, or with a content that was changed on the way.
    let sent = world.net.signed_events().pop().unwrap();
    let mut changed = sent.clone();
    changed["content"]["reason"] = json!("changed");
    let mut parsed = object(changed);
    evil.key.sign_json(&mut parsed, EVIL);
    for event in [sent, event::Json::Object(parsed).into()] {
        world.net.clear(EVIL, INVITE);
        world.net.answer(EVIL, INVITE, 200, json!({ "event": event }));
        assert!(invite().await.is_err());
    }
    for status in [400, 403, 500] {
        world.net.clear(EVIL, INVITE);
        world.net.answer(EVIL, INVITE, status, json!({ "errcode": "M_INVALID_PARAM", "error": "no" }));
        assert!(matches!(invite().await, Err(Error::Remote { .. })));
    }
    let room = world.now(&room).await;
    assert!(world.rooms.current(&room, "m.room.member", mallory.as_str()).await.unwrap().is_none());
}

/// An invite is rejected here whatever the other server does (FJ8).
#[tokio::test]
async fn fj8_no_answer_keeps_a_user_in_an_invite() {
    for (make, send) in [
        (json!({}), json!({})),
        (json!([]), json!({})),
        (json!({ "room_version": "12", "event": { "type": "m.room.create" } }), json!({})),
    ] {
        let world = World::new().await;
        let alice = world.register("alice").await;
        let room = Elsewhere::new(&world, EVIL, "11");
        super::invites::invite(&world, &room, alice.as_str()).await;
        world.net.answer(EVIL, MAKE_LEAVE, 200, make);
        world.net.answer(EVIL, SEND_LEAVE, 200, send);
        ask(&world, "leave", &room.room_id).await.unwrap();
        let row = world.rooms.any_membership(&room.room_id, &alice).await.unwrap().unwrap();
        assert_eq!(row.membership, "leave");
    }
}

/// What a server says of a room on which our user knocks is shown, so it must not break what shows it.
#[tokio::test]
async fn fj9_the_state_behind_a_knock_is_only_shown() {
    let world = World::new().await;
    world.register("alice").await;
    let room = Elsewhere::new(&world, EVIL, "11");
    world.net.answer(EVIL, MAKE_KNOCK, 200, room.template(user("alice").as_str(), "knock"));
    let nonsense =
        json!([5, null, [], { "type": 5 }, { "type": "m.room.name", "state_key": "", "content": "no object" }]);
    world.net.answer(EVIL, SEND_KNOCK, 200, json!({ "knock_room_state": nonsense }));
    ask(&world, "knock", &room.room_id).await.unwrap();
    super::invites::check_stripped(&world, &room.room_id).await;
}
