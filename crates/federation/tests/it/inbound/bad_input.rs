//! Bad bodies and parameters get the code that the specification names, and leave nothing behind.

use axum::body::Body;
use http::header::AUTHORIZATION;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::harness::{Peer, World, encoded};

/// A route with a body: what is good, and what of it is bad. `{}` stands for what is not given, `null` and all the rest for
/// itself.
struct Route {
    method: Method,
    path: String,
    good: Value,
    /// Member (as JSON pointer), value in its place (none: it is missing), code.
    bad: Vec<(&'static str, Option<Value>, &'static str)>,
}

const NOT_JSON: [&[u8]; 5] = [b"{", b"hello", b"{\"\xff\":1}", b"{} {}", b"{\"a\":NaN}"];
const NO_OBJECTS: [&str; 5] = ["[]", "\"x\"", "null", "12", "true"];

fn wrong(member: &'static str, values: &[Value]) -> Vec<(&'static str, Option<Value>, &'static str)> {
    values.iter().map(|value| (member, Some(value.clone()), "M_BAD_JSON")).collect()
}

// Long: a table, route by route.
fn routes(room: &str) -> Vec<Route> {
    let no_text = [json!(12), json!(true), json!([]), json!({})];
    let no_list = [json!(12), json!("x"), json!({})];
    let no_object = [json!(12), json!("x"), json!([])];
    let no_count = [json!(-1), json!(1.5), json!("1"), json!([])];
    let v1 = "/_matrix/federation/v1";
    let room = encoded(room);
    let member = |version: &str, what: &str| Route {
        method: Method::PUT,
        path: format!("/_matrix/federation/{version}/{what}/{room}/$x"),
        good: json!({ "type": "m.room.member", "content": {} }),
        bad: vec![
            ("/type", None, "M_INVALID_PARAM"),
            ("/content", Some(json!([])), "M_INVALID_PARAM"),
            ("/type", Some(json!(12)), "M_INVALID_PARAM"),
        ],
    };
    let invite = json!({ "room_version": "10", "event": { "type": "m.room.member" }, "invite_room_state": [] });
    let invite_bad = [
        vec![("/room_version", None, "M_MISSING_PARAM"), ("/event", None, "M_MISSING_PARAM")],
        vec![("/room_version", Some(json!("none")), "M_INCOMPATIBLE_ROOM_VERSION")],
        wrong("/room_version", &no_text),
        wrong("/event", &no_object),
        wrong("/invite_room_state", &no_list),
    ];
    let keys_bad = |all: &'static str, of_user: &'static str, no: &[Value]| {
        [vec![(all, None, "M_BAD_JSON")], wrong(all, &no_object), wrong(of_user, no)].concat()
    };
    vec![
        Route {
            method: Method::PUT,
            path: format!("{v1}/send/bad"),
            good: json!({ "origin": "two.test", "origin_server_ts": 1, "pdus": [], "edus": [] }),
            bad: [wrong("/pdus", &no_list), wrong("/edus", &no_list)].concat(),
        },
        Route {
            method: Method::POST,
            path: format!("{v1}/get_missing_events/{room}"),
            good: json!({ "limit": 1, "min_depth": 0, "earliest_events": ["$a"], "latest_events": ["$b"] }),
            bad: [
                vec![("/latest_events", None, "M_BAD_JSON"), ("/earliest_events", None, "M_BAD_JSON")],
                wrong("/limit", &no_count),
                wrong("/min_depth", &[json!(1.5), json!("1"), json!([])]),
                wrong("/latest_events", &no_list),
                wrong("/earliest_events", &no_list),
                wrong("/latest_events/0", &no_text),
            ]
            .concat(),
        },
        Route {
            method: Method::POST,
            path: format!("{v1}/publicRooms"),
            good: json!({ "limit": 1, "filter": { "generic_search_term": "x", "room_types": [null] } }),
            bad: [
                wrong("/limit", &no_count),
                wrong("/since", &no_text),
                wrong("/filter", &no_object),
                wrong("/filter/generic_search_term", &no_text),
                wrong("/filter/room_types", &no_list),
            ]
            .concat(),
        },
        Route {
            method: Method::POST,
            path: format!("{v1}/user/keys/query"),
            good: json!({ "device_keys": { "@a:one.test": [] } }),
            bad: keys_bad("/device_keys", "/device_keys/@a:one.test", &no_list),
        },
        Route {
            method: Method::POST,
            path: format!("{v1}/user/keys/claim"),
            good: json!({ "one_time_keys": { "@a:one.test": { "D": "signed_curve25519" } } }),
            bad: [
                keys_bad("/one_time_keys", "/one_time_keys/@a:one.test", &no_object),
                wrong("/one_time_keys/@a:one.test/D", &no_text),
            ]
            .concat(),
        },
        Route {
            method: Method::PUT,
            path: format!("/_matrix/federation/v2/invite/{room}/$x"),
            good: invite,
            bad: invite_bad.concat(),
        },
        member("v2", "send_join"),
        member("v1", "send_join"),
        member("v2", "send_leave"),
        member("v1", "send_leave"),
        member("v1", "send_knock"),
    ]
}

/// `good` with another value at a pointer, or without what stands there.
fn changed(good: &Value, pointer: &str, value: Option<Value>) -> Value {
    let mut body = good.clone();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match (body.pointer_mut(parent).unwrap(), value) {
        (Value::Object(members), Some(value)) => drop(members.insert(name.to_owned(), value)),
        (Value::Object(members), None) => drop(members.remove(name)),
        (Value::Array(list), Some(value)) => list[name.parse::<usize>().unwrap()] = value,
        (other, _) => panic!("{pointer} of {other}"),
    }
    body
}

fn said(answer: &(http::StatusCode, Value)) -> (u16, &str) {
    (answer.0.as_u16(), answer.1["errcode"].as_str().unwrap_or_default())
}

/// A request with a header that looks signed and a body that no signature can cover.
async fn raw(world: &World, peer: &Peer, method: &Method, path: &str, body: &[u8]) -> (http::StatusCode, Value) {
    let signed = peer.signed(method, path, None);
    let mut request = Request::builder().method(method.clone()).uri(path);
    request = request.header(AUTHORIZATION, signed.headers()[AUTHORIZATION].clone());
    let (status, _, answer) = world.send(request.body(Body::from(body.to_vec())).unwrap()).await;
    (status, serde_json::from_slice(&answer).unwrap_or_default())
}

#[tokio::test]
async fn cb4_bad_bodies_get_their_code_and_leave_nothing_behind() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    world.federation.receive_due().await;
    for route in routes(&room.id) {
        let (method, path) = (&route.method, route.path.as_str());
        let before = world.store.stored_counter().await.unwrap();
        for body in NOT_JSON {
            let answer = raw(&world, &two, method, path, body).await;
            assert_eq!(said(&answer), (400, "M_NOT_JSON"), "{method} {path} {}", body.escape_ascii());
        }
        for body in NO_OBJECTS {
            let answer = raw(&world, &two, method, path, body.as_bytes()).await;
            assert_eq!(said(&answer), (400, "M_BAD_JSON"), "{method} {path} {body}");
        }
        let without = two.ask(&world, method.clone(), path, None).await;
        assert_eq!(said(&without), (400, "M_NOT_JSON"), "{method} {path} without a body");
        for (pointer, value, code) in route.bad {
            let body = changed(&route.good, pointer, value);
            let answer = two.ask(&world, method.clone(), path, Some(body.clone())).await;
            assert_eq!(said(&answer), (400, code), "{method} {path} {body}: {}", answer.1);
        }
        world.federation.receive_due().await;
        assert_eq!(world.store.stored_counter().await.unwrap(), before, "{method} {path} has changed something");
        // The good body is wrong in nothing that was looked at: it is refused, if at all, for what it means.
        let answer = two.ask(&world, method.clone(), path, Some(route.good)).await;
        assert!(!["M_BAD_JSON", "M_NOT_JSON", "M_MISSING_PARAM"].contains(&said(&answer).1), "{path}: {answer:?}");
    }
    world.say(&room, "and we go on").await;
}

#[tokio::test]
async fn cb4_bad_parameters_get_their_code() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let room = encoded(&room.id);
    for (path, code) in [
        ("backfill/ROOM?v=$x", "M_MISSING_PARAM"),
        ("backfill/ROOM?limit=1", "M_MISSING_PARAM"),
        ("backfill/ROOM?v=$x&limit=-1", "M_INVALID_PARAM"),
        ("backfill/ROOM?v=$x&limit=many", "M_INVALID_PARAM"),
        ("state/ROOM", "M_MISSING_PARAM"),
        ("state_ids/ROOM", "M_MISSING_PARAM"),
        ("timestamp_to_event/ROOM?dir=b", "M_MISSING_PARAM"),
        ("timestamp_to_event/ROOM?ts=0", "M_MISSING_PARAM"),
        ("timestamp_to_event/ROOM?ts=x&dir=b", "M_INVALID_PARAM"),
        ("timestamp_to_event/ROOM?ts=0&dir=up", "M_INVALID_PARAM"),
        ("publicRooms?limit=-1", "M_INVALID_PARAM"),
        ("publicRooms?limit=x", "M_INVALID_PARAM"),
        ("hierarchy/ROOM?suggested_only=maybe", "M_INVALID_PARAM"),
        ("query/directory", "M_MISSING_PARAM"),
        ("query/profile", "M_MISSING_PARAM"),
        ("media/thumbnail/x?width=1", "M_MISSING_PARAM"),
        ("media/thumbnail/x?width=-1&height=1", "M_INVALID_PARAM"),
        ("media/download/x?timeout_ms=x", "M_INVALID_PARAM"),
        ("make_knock/ROOM/@bob:two.test", "M_MISSING_PARAM"),
    ] {
        let path = format!("/_matrix/federation/v1/{}", path.replace("ROOM", &room));
        let answer = two.get(&world, &path).await;
        assert_eq!(said(&answer), (400, code), "{path}: {}", answer.1);
    }
    let (status, answer) = world.unsigned(Method::GET, "/_matrix/key/v2/query/one.test?minimum_valid_until_ts=x").await;
    assert_eq!(said(&(status, answer)), (400, "M_INVALID_PARAM"));
    for (body, code) in [
        (&b"{"[..], "M_NOT_JSON"),
        (b"{\"server_keys\":{\"\xff\":{}}}", "M_NOT_JSON"),
        (b"[]", "M_BAD_JSON"),
        (b"{}", "M_BAD_JSON"),
        (b"{\"server_keys\":[]}", "M_BAD_JSON"),
        (b"{\"server_keys\":{\"one.test\":[]}}", "M_BAD_JSON"),
        (b"{\"server_keys\":{\"one.test\":{\"ed25519:1\":{\"minimum_valid_until_ts\":-1}}}}", "M_BAD_JSON"),
        (b"{\"server_keys\":{\"one.test\":{\"ed25519:1\":{\"minimum_valid_until_ts\":1e400}}}}", "M_BAD_JSON"),
    ] {
        let request = Request::builder().method(Method::POST).uri("/_matrix/key/v2/query");
        let (status, _, answer) = world.send(request.body(Body::from(body.to_vec())).unwrap()).await;
        let answer = (status, serde_json::from_slice(&answer).unwrap());
        assert_eq!(said(&answer), (400, code), "{}", body.escape_ascii());
    }
}
