//! Offers in a room's state that become invites, once an identity server knows whom they are for (behaviour FJ11).

use std::sync::Arc;

use http::Method;
use rooms::{NewEvent, Preset, Room};
use serde_json::{Value, json};

use crate::harness::{Peer, US, World, encoded, key, object, user};

const VALID: &str = "https://id.test/valid";

/// The `signed` block of an identity server.
fn signed(target: &str, token: &str) -> Value {
    let mut signed = object(json!({ "mxid": target, "token": token }));
    key("id.test").sign_json(&mut signed, "id.test");
    event::Json::Object(signed).into()
}

/// A private room in which `@alice` has offered an invite under a token.
async fn offered(world: &World, version: &str) -> Arc<Room> {
    let room = world.room_of(version, Preset::PrivateChat).await;
    let public = key("id.test").public_b64();
    let offer = json!({
        "display_name": "b…@example.org",
        "key_validity_url": VALID,
        "public_key": key("other.test").public_b64(),
        "public_keys": [{ "public_key": public, "key_validity_url": VALID }],
    });
    let offer = NewEvent::state(&user("alice"), "m.room.third_party_invite", "token", object(offer));
    world.rooms.send(&room.id, offer).await.unwrap();
    world.net.answer("", VALID, 200, json!({ "valid": true }));
    room
}

/// A server that signs the invites of its users.
fn takes_invites(world: &World, peer: &Peer, version: &str) {
    let (peer, rules) = (peer.clone(), event::Rules::of(version).unwrap());
    world.net.reply(&peer.name.clone(), "/_matrix/federation/v2/invite/", move |body| {
        let mut event = object(body["event"].clone());
        let mut redacted = event::redact(rules, &event);
        peer.key.sign_json(&mut redacted, &peer.name);
        event.insert("signatures".to_owned(), redacted["signatures"].clone());
        (200, json!({ "event": Value::from(event::Json::Object(event)) }))
    });
}

fn partial(room: &Room, target: &str) -> Value {
    json!({
        "type": "m.room.member",
        "room_id": room.id,
        "sender": user("alice"),
        "state_key": target,
        "content": {
            "membership": "invite",
            "third_party_invite": { "display_name": "anything", "signed": signed(target, "token") },
        },
    })
}

async fn exchange(world: &World, peer: &Peer, room_id: &str, body: Value) -> (u16, Value) {
    let path = format!("/_matrix/federation/v1/exchange_third_party_invite/{}", encoded(room_id));
    let (status, answer) = peer.ask(world, Method::PUT, &path, Some(body)).await;
    (status.as_u16(), answer)
}

async fn onbind(world: &World, body: Value) -> (u16, Value) {
    let request = http::Request::put("/_matrix/federation/v1/3pid/onbind");
    let (status, _, body) = world.send(request.body(body.to_string().into()).unwrap()).await;
    (status.as_u16(), serde_json::from_slice(&body).unwrap())
}

/// The content of a member event.
async fn member(world: &World, room: &Room, target: &str) -> Value {
    let room = world.now(room).await;
    let event = world.rooms.current(&room, "m.room.member", target).await.unwrap();
    event.map_or(Value::Null, |event| event::Json::Object(event.pdu.content.clone()).into())
}

#[tokio::test]
async fn fj11_an_offer_becomes_an_invite_of_another_servers_user() {
    for version in ["1", "6", "11", "12"] {
        let world = World::new().await;
        let room = offered(&world, version).await;
        let two = Peer::new("two.test");
        takes_invites(&world, &two, version);
        let bob = two.user("bob");
        let answer = exchange(&world, &two, &room.id, partial(&room, &bob)).await;
        assert_eq!(answer, (200, json!({})), "{version}");
        let content = member(&world, &room, &bob).await;
        assert_eq!(content["membership"], "invite");
        assert_eq!(content["third_party_invite"]["display_name"], "b…@example.org", "that of the offer");
        assert_eq!(content["third_party_invite"]["signed"]["mxid"], bob);
        let asked = format!("{VALID}?public_key={}", encoded(&key("id.test").public_b64()));
        assert!(world.net.asked.lock().contains(&asked), "the key that signed is asked for");
        // Again: there is nothing to do.
        assert_eq!(exchange(&world, &two, &room.id, partial(&room, &bob)).await.0, 200);
        assert_eq!(world.net.count("two.test", "/_matrix/federation/v2/invite/"), 1);
    }
}

/// SEC-handshake-paths.
#[tokio::test]
async fn fj11_what_is_not_signed_by_the_offers_key_is_refused() {
    let two = Peer::new("two.test");
    let bob = two.user("bob");
    let world = World::new().await;
    let room = offered(&world, "11").await;
    takes_invites(&world, &two, "11");
    let signed_block = "/content/third_party_invite/signed";
    let cases = [
        ("/type", json!("m.room.message"), 400),
        ("/room_id", json!("!other:one.test"), 400),
        ("/sender", json!("@eve:two.test"), 400),
        ("/sender", json!("@mallory:one.test"), 403),
        ("/state_key", json!("@eve:three.test"), 400),
        ("/content/membership", json!("join"), 400),
        ("/content/third_party_invite", json!("x"), 400),
        (signed_block, signed(&two.user("eve"), "token"), 400),
        (signed_block, signed(&bob, "another"), 403),
        (signed_block, json!({ "mxid": bob, "token": "token" }), 403),
        (
            signed_block,
            json!({ "mxid": bob, "token": "token", "signatures": { "id.test": { "ed25519:1": "AA" } } }),
            403,
        ),
    ];
    for (path, value, expected) in cases {
        let mut body = partial(&room, &bob);
        *body.pointer_mut(path).unwrap() = value.clone();
        let (status, answer) = exchange(&world, &two, &room.id, body).await;
        assert_eq!(status, expected, "{path} {value}: {answer}");
    }
    let third = Peer::new("three.test");
    assert_eq!(exchange(&world, &third, &room.id, partial(&room, &bob)).await.0, 403, "its user is another server's");
    assert_eq!(exchange(&world, &two, "!unknown:one.test", partial(&room, &bob)).await.0, 400);
    assert_eq!(member(&world, &room, &bob).await, Value::Null);
    assert_eq!(world.net.asked.lock().iter().filter(|asked| asked.starts_with(VALID)).count(), 0, "nobody was asked");
    assert_eq!(world.net.count("two.test", "/_matrix/federation/v2/invite/"), 0);
}

#[tokio::test]
async fn fj11_a_revoked_key_invites_nobody() {
    for (answer, expected) in
        [((200, json!({ "valid": false })), 403), ((200, json!([])), 502), ((500, json!({})), 502)]
    {
        let world = World::new().await;
        let room = offered(&world, "11").await;
        let two = Peer::new("two.test");
        takes_invites(&world, &two, "11");
        let shown = format!("{answer:?}");
        world.net.reply("", VALID, move |_| answer.clone());
        let (status, body) = exchange(&world, &two, &room.id, partial(&room, &two.user("bob"))).await;
        assert_eq!(status, expected, "{shown}: {body}");
        assert_eq!(member(&world, &room, &two.user("bob")).await, Value::Null);
    }
}

#[tokio::test]
async fn fj11_who_is_banned_or_in_the_room_is_not_invited() {
    let world = World::new().await;
    let room = offered(&world, "11").await;
    let two = Peer::new("two.test");
    takes_invites(&world, &two, "11");
    let bob = two.user("bob");
    let ban = NewEvent::state(&user("alice"), "m.room.member", &bob, object(json!({ "membership": "ban" })));
    world.rooms.send(&room.id, ban).await.unwrap();
    assert_eq!(exchange(&world, &two, &room.id, partial(&room, &bob)).await.0, 403);
    let eve = two.user("eve");
    world.set(&room, "m.room.join_rules", json!({ "join_rule": "public" })).await;
    two.join(&world, &room, "eve").await;
    assert_eq!(exchange(&world, &two, &room.id, partial(&room, &eve)).await.0, 200);
    assert_eq!(member(&world, &room, &eve).await["membership"], "join");
}

#[tokio::test]
async fn fj11_a_bound_identifier_redeems_what_was_offered() {
    let world = World::new().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let room = offered(&world, "11").await;
    let path = "/_matrix/federation/v1/exchange_third_party_invite/";
    let asked = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let asks = Arc::clone(&asked);
    world.net.reply("two.test", path, move |body| {
        asks.lock().push(body);
        (200, json!({}))
    });
    let invite = |sender: &str, room_id: &str, mxid: &str| {
        json!({
            "medium": "email", "address": "bob@example.org", "mxid": mxid, "room_id": room_id, "sender": sender,
            "signed": signed(mxid, "token"),
        })
    };
    let body = json!({ "medium": "email", "address": "bob@example.org", "mxid": bob, "invites": [
        invite("@carol:away.test", "!r:away.test", bob.as_str()),
        invite(alice.as_str(), &room.id, alice.as_str()),
        invite("nobody", &room.id, bob.as_str()),
        invite("@carol:two.test", "!theirs:two.test", bob.as_str()),
        invite(alice.as_str(), &room.id, bob.as_str()),
    ] });
    assert_eq!(onbind(&world, body.clone()).await, (200, json!({})));
    let content = member(&world, &room, bob.as_str()).await;
    assert_eq!(
        (&content["membership"], &content["third_party_invite"]["signed"]["token"]),
        (&json!("invite"), &json!("token"))
    );
    let sent = asked.lock().clone();
    let [sent] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!(
        (&sent["type"], &sent["sender"], &sent["state_key"]),
        (&json!("m.room.member"), &json!("@carol:two.test"), &json!(bob))
    );
    assert_eq!((&sent["room_id"], &sent["content"]["membership"]), (&json!("!theirs:two.test"), &json!("invite")));
    assert_eq!(sent["content"]["third_party_invite"]["signed"], signed(bob.as_str(), "token"));

    for (change, expected) in [
        (json!({ "mxid": "@bob:two.test" }), 400),
        (json!({ "mxid": "bob" }), 400),
        (json!({ "mxid": format!("@stranger:{US}") }), 200),
        (json!({ "invites": vec![invite(alice.as_str(), &room.id, bob.as_str()); 51] }), 413),
        (json!({ "invites": 7 }), 400),
    ] {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        assert_eq!(onbind(&world, body).await.0, expected, "{change}");
    }
    assert_eq!(asked.lock().len(), 1);
}
