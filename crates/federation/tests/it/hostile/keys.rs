//! Keys and signatures that are not what they claim to be (behaviours FA4, FA5, FA6, FA7, FA10, FA11, FA14).

use axum::body::Body;
use event::{Json, SigningKey, Verified};
use federation::x_matrix;
use http::header::AUTHORIZATION;
use http::{Method, Request};
use serde_json::{Value, json};

use super::{EVIL, GOOD};
use crate::harness::{Peer, Sketch, US, World, id, key, object, value};

const ROOMS: &str = "/_matrix/federation/v1/publicRooms";

/// A request with these headers.
async fn ask(world: &World, headers: &[String]) -> u16 {
    let mut request = Request::builder().method(Method::GET).uri(ROOMS);
    for header in headers {
        request = request.header(AUTHORIZATION, header.as_bytes());
    }
    world.send(request.body(Body::empty()).unwrap()).await.0.as_u16()
}

/// The header of a peer for a request, signed with a key.
fn header(key: &SigningKey, origin: &str, destination: &str) -> x_matrix::XMatrix {
    x_matrix::sign(key, &Method::GET, ROOMS, origin, destination, None)
}

/// SEC-origin.
#[tokio::test]
async fn fa4_no_trick_with_headers_lets_anybody_speak_for_another() {
    let world = World::new().await;
    let (mine, theirs) = (key(EVIL), key(GOOD));
    let good = header(&theirs, GOOD, US);
    assert_eq!(ask(&world, &[good.header()]).await, 200);
    let evil = header(&mine, EVIL, US);
    assert_eq!(ask(&world, &[evil.header()]).await, 200);
    let mut stolen = header(&mine, GOOD, US);
    stolen.key = theirs.key_id().to_owned();
    let (mut unkeyed, mut empty, mut padded) = (good.clone(), good.clone(), good.clone());
    unkeyed.key = "ed25519:".to_owned();
    empty.signature = String::new();
    padded.origin = format!("{GOOD} ");
    let elsewhere = header(&theirs, GOOD, "three.test");
    let mut renamed = elsewhere.clone();
    renamed.destination = Some(US.to_owned());
    let mut unnamed = elsewhere.clone();
    unnamed.destination = None;
    let with = |more: &str| format!("{},{more}", good.header());
    let tricks: Vec<(&str, Vec<String>)> = vec![
        ("a key of its own under another's name", vec![header(&mine, GOOD, US).header()]),
        ("the other's key id", vec![stolen.header()]),
        ("two servers at once", vec![good.header(), evil.header()]),
        ("the good one last", vec![evil.header(), good.header()]),
        ("no key id", vec![unkeyed.header()]),
        ("no signature", vec![empty.header()]),
        ("white space in the name", vec![padded.header()]),
        ("for another server", vec![elsewhere.header()]),
        ("for another server, said to be for us", vec![renamed.header()]),
        ("for another server, not said for whom", vec![unnamed.header()]),
        ("a name twice", vec![with("origin=\"evil.test\"")]),
        ("a signature twice", vec![with("sig=\"AAAA\"")]),
        ("the name in another case", vec![good.header().replace("two.test", "TWO.test")]),
        ("our own name", vec![header(&key(US), US, US).header()]),
        ("an address that names nothing", vec![header(&mine, "127.1", US).header()]),
        ("a line break", vec![format!("X-Matrix origin=\"{GOOD}\\\n\",key=\"a\",sig=\"b\"")]),
        ("too much", vec![with(&format!("x=\"{}\"", "x".repeat(10_000)))]),
        ("too many", vec![good.header(); 20]),
        ("another scheme", vec![good.header().replace("X-Matrix", "Bearer")]),
        ("nothing", vec![String::new()]),
    ];
    for (why, headers) in tricks {
        // What cannot be sent at all is no trick.
        if headers.iter().any(|header| http::HeaderValue::from_bytes(header.as_bytes()).is_err()) {
            continue;
        }
        assert_eq!(ask(&world, &headers).await, 401, "{why}");
    }
}

/// What a server publishes as its keys, changed.
fn published(world: &World, signer: &SigningKey, change: impl Fn(&mut Value)) -> Value {
    let mut response = json!({
        "server_name": EVIL,
        "valid_until_ts": store::Clock::now_ms(world.clock.as_ref()) + 86_400_000,
        "verify_keys": { signer.key_id(): { "key": signer.public_b64() } },
        "old_verify_keys": {},
    });
    change(&mut response);
    let mut response = object(response);
    signer.sign_json(&mut response, EVIL);
    Json::Object(response).into()
}

/// SEC-key-validity.
#[tokio::test]
async fn fa6_key_responses_that_prove_nothing_are_not_believed() {
    let mine = key(EVIL);
    type Change = Box<dyn Fn(&mut Value)>;
    let changes: Vec<(&str, Change)> = vec![
        ("of another server", Box::new(|response| response["server_name"] = json!(GOOD))),
        ("of no server", Box::new(|response| drop(response.as_object_mut().unwrap().remove("server_name")))),
        ("long expired", Box::new(|response| response["valid_until_ts"] = json!(1_000))),
        ("never valid", Box::new(|response| response["valid_until_ts"] = json!(-5))),
        ("valid until no time", Box::new(|response| response["valid_until_ts"] = json!("tomorrow"))),
        ("without keys", Box::new(|response| response["verify_keys"] = json!({}))),
        ("no list of keys", Box::new(|response| response["verify_keys"] = json!([]))),
        (
            "with a key of another form",
            Box::new(|response| {
                response["verify_keys"] = json!({ key(EVIL).key_id(): { "key": "AAAA" } });
            }),
        ),
        (
            "with the key among the old ones",
            Box::new(|response| {
                response["old_verify_keys"] =
                    json!({ key(EVIL).key_id(): { "key": key(EVIL).public_b64(), "expired_ts": 5 } });
                response["verify_keys"] = json!({});
            }),
        ),
        (
            "with too many keys",
            Box::new(|response| {
                for number in 0..100 {
                    let other = SigningKey::generate(&[number; 32]);
                    response["verify_keys"][other.key_id()] = json!({ "key": other.public_b64() });
                }
            }),
        ),
        ("too large", Box::new(|response| response["x"] = json!("x".repeat(300_000)))),
    ];
    for (why, change) in changes {
        let world = World::new().await;
        world.net.publish(EVIL, published(&world, &mine, change));
        assert_eq!(ask(&world, &[header(&mine, EVIL, US).header()]).await, 401, "{why}");
    }
    let world = World::new().await;
    // Signed by somebody else; or not at all.
    let mut response = published(&world, &mine, |_| ());
    let other = published(&world, &key(GOOD), |_| ());
    response["signatures"] = other["signatures"].clone();
    for signatures in [response["signatures"].clone(), json!({}), json!({ EVIL: {} }), json!([]), Value::Null] {
        let world = World::new().await;
        let mut response = response.clone();
        response["signatures"] = signatures.clone();
        world.net.publish(EVIL, response);
        assert_eq!(ask(&world, &[header(&mine, EVIL, US).header()]).await, 401, "{signatures}");
    }
    // A key of another server's, claimed as one's own, says nothing about the other.
    let claimed = published(&world, &mine, |response| {
        response["verify_keys"][key(GOOD).key_id()] = json!({ "key": key(GOOD).public_b64() });
    });
    world.net.publish(EVIL, claimed);
    assert_eq!(ask(&world, &[header(&key(GOOD), EVIL, US).header()]).await, 401);
    assert_eq!(ask(&world, &[header(&mine, EVIL, US).header()]).await, 200);
}

/// Sends an event that was changed after it was built, and signed again by its server.
async fn fate_of(world: &World, peer: &Peer, event: Value) -> Value {
    let txn_id = format!("k{}", store::Clock::now_ms(world.clock.as_ref()));
    let path = format!("/_matrix/federation/v1/send/{txn_id}");
    let body = json!({ "pdus": [event], "edus": [] });
    let (status, answer) = peer.ask(world, Method::PUT, &path, Some(body)).await;
    assert_eq!(status, 200, "{answer}");
    answer["pdus"].as_object().unwrap().values().next().cloned().unwrap_or_default()
}

#[tokio::test]
async fn fa7_a_restricted_join_needs_the_signature_of_whoever_lets_in() {
    for (version, needed) in [("7", false), ("8", true), ("11", true)] {
        let world = World::new().await;
        let room = world.room(version).await;
        let (two, three) = (Peer::new(GOOD), Peer::new("three.test"));
        let bob = two.user("bob");
        let content = json!({ "membership": "join", "join_authorised_via_users_server": three.user("carol") });
        let join = two.event(&world, &room, Sketch { content, ..Sketch::member(&bob, "join") }).await;
        let answer = fate_of(&world, &two, value(&join)).await;
        assert_eq!(answer["error"].is_string(), needed, "{version}: {answer}");
        let mut both = value(&join);
        both["signatures"]["three.test"] = json!({ three.key.key_id(): "A".repeat(86) });
        let answer = fate_of(&world, &two, both).await;
        assert_eq!(answer["error"].is_string(), needed, "{version}: a wrong one is none");
    }
}

#[tokio::test]
async fn fa7_in_versions_1_and_2_the_server_in_the_id_signs_too() {
    for version in ["1", "2"] {
        let world = World::new().await;
        let room = world.room(version).await;
        let (two, three) = (Peer::new(GOOD), Peer::new("three.test"));
        two.join(&world, &room, "bob").await;
        let message = two.message(&world, &room, "bob", "hello").await;
        let named = |id: &str, signers: &[&Peer]| -> Value {
            let mut event = value(&message);
            event["event_id"] = json!(id);
            let mut event = object(event);
            event.remove("signatures");
            let hash = {
                use base64::Engine as _;
                base64::prelude::BASE64_STANDARD_NO_PAD.encode(event::content_hash(&event))
            };
            event.insert("hashes".to_owned(), Json::Object(event::Object::from([("sha256".to_owned(), hash.into())])));
            let mut signed = event::redact(room.rules, &event);
            for signer in signers {
                signer.key.sign_json(&mut signed, &signer.name);
            }
            event.insert("signatures".to_owned(), signed["signatures"].clone());
            Json::Object(event).into()
        };
        let refused = fate_of(&world, &two, named("$one:three.test", &[&two])).await;
        assert!(refused["error"].is_string(), "{version}: {refused}");
        let taken = fate_of(&world, &two, named("$two:three.test", &[&two, &three])).await;
        assert_eq!(taken, json!({}), "{version}");
        let taken = fate_of(&world, &two, named("$three:two.test", &[&two])).await;
        assert_eq!(taken, json!({}), "{version}");
        // Nobody takes an id that is taken already.
        let ours = world.say(&room, "ours").await;
        drop(fate_of(&world, &two, named(ours.as_str(), &[&two])).await);
        world.federation.receive_due().await;
        let now = world.now(&room).await;
        let kept = world.rooms.event_by_id(&now, ours.as_str()).await.unwrap().unwrap();
        assert_eq!(kept.pdu.content["body"].as_str(), Some("ours"), "{version}");
    }
}

/// FA10: whatever ports, case and forms a name is written in.
/// SEC-acl-evasion.
#[tokio::test]
async fn fa10_no_form_of_a_name_evades_an_acl() {
    let world = World::new().await;
    let room = world.room("10").await;
    let acl = json!({ "allow": ["*"], "deny": ["EVIL.test", "10.*", "*.bad.test"], "allow_ip_literals": false });
    for name in [
        "evil.test",
        "Evil.Test",
        "EVIL.TEST",
        "evil.test:8448",
        "evil.test:1",
        "a.bad.test",
        "A.BAD.test:443",
        "10.0.0.1",
        "10.0.0.1:8448",
        "192.0.2.1",
        "192.0.2.1:5",
        "[2001:db8::1]",
        "[2001:db8::1]:8448",
        "[::1]",
    ] {
        let peer = Peer::new(name);
        peer.publish(&world);
        peer.join(&world, &room, "mallory").await;
    }
    let peers: Vec<String> = world.now(&room).await.servers().into_iter().filter(|name| name != US).collect();
    assert_eq!(peers.len(), 14);
    world.set(&room, "m.room.server_acl", acl).await;
    for name in &peers {
        let peer = Peer::new(name);
        let message: Verified = peer.message(&world, &room, "mallory", "heard?").await;
        let answer = peer.transact(&world, &format!("t-{}", name.len()), &[&message], &[]).await;
        assert!(answer[id(&message)]["error"].is_string(), "{name}: {answer}");
        let path = format!("/_matrix/federation/v1/state_ids/{}?event_id=x", crate::harness::encoded(&room.id));
        assert_eq!(peer.get(&world, &path).await.0, 403, "{name}");
    }
    // We ban ourselves: that shuts nobody out of what is ours, and crashes nothing.
    world.set(&room, "m.room.server_acl", json!({ "allow": [], "deny": ["*"] })).await;
    world.say(&room, "we still speak").await;
    world.set(&room, "m.room.server_acl", json!({ "allow": ["*"] })).await;
    let two = Peer::new(GOOD);
    two.join(&world, &room, "bob").await;
    let message = two.message(&world, &room, "bob", "open again").await;
    assert_eq!(two.transact(&world, "t1", &[&message], &[]).await[id(&message)], json!({}));
}

/// FA14: what cannot be a user of today is good in events and nowhere else.
#[tokio::test]
async fn fa14_historical_users_are_members_and_can_be_asked_for_nothing() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new(GOOD);
    for name in ["", "Ünï ☃", "a b", "{}", "../..", "A"] {
        let join = two.event(&world, &room, Sketch::member(&two.user(name), "join")).await;
        two.transact(&world, &format!("t{}", join.pdu().depth), &[&join], &[]).await;
        world.federation.receive_due().await;
        assert_eq!(world.fate(&room, &id(&join)).await, None, "{name:?}");
    }
    for name in ["a:b", "a\0b"] {
        let model = value(&two.event(&world, &room, Sketch::member(&two.user("x"), "join")).await);
        let mut event = model.clone();
        event["sender"] = json!(two.user(name));
        event["state_key"] = json!(two.user(name));
        assert!(fate_of(&world, &two, event).await["error"].is_string(), "{name:?}");
    }
    let now = world.now(&room).await;
    let state = world.rooms.whole_state(&now, now.head().state).await.unwrap();
    let members = state.iter().filter(|event| event.pdu.kind == "m.room.member").count();
    assert_eq!(members, 7, "Alice, and six of another time");
}
