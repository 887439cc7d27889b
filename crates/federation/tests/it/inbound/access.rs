//! Who is let in at all.

use axum::body::Body;
use http::header::AUTHORIZATION;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Peer, World};

/// Every route that wants a signature, and those that do not exist.
const SIGNED: &[(&str, &str)] = &[
    ("PUT", "/_matrix/federation/v1/send/t1"),
    ("GET", "/_matrix/federation/v1/query/directory?room_alias=%23a:one.test"),
    ("GET", "/_matrix/federation/v1/query/profile?user_id=%40alice:one.test"),
    ("GET", "/_matrix/federation/v1/query/other"),
    ("GET", "/_matrix/federation/v1/publicRooms"),
    ("POST", "/_matrix/federation/v1/publicRooms"),
    ("GET", "/_matrix/federation/v1/hierarchy/!a:one.test"),
    ("GET", "/_matrix/federation/v1/user/devices/%40alice:one.test"),
    ("POST", "/_matrix/federation/v1/user/keys/query"),
    ("POST", "/_matrix/federation/v1/user/keys/claim"),
    ("GET", "/_matrix/federation/v1/media/download/abc"),
    ("GET", "/_matrix/federation/v1/media/thumbnail/abc?width=10&height=10"),
];

#[tokio::test]
async fn fa4_requests_are_signed() {
    let world = World::new().await;
    for (method, path) in SIGNED {
        let (status, answer) = world.unsigned(method.parse().unwrap(), path).await;
        assert_eq!((status.as_u16(), &answer["errcode"]), (401, &json!("M_UNAUTHORIZED")), "{method} {path}");
        let request = Request::builder().method(*method).uri(*path);
        let request = request.header(AUTHORIZATION, "X-Matrix origin=two.test,key=\"ed25519:x\",sig=\"AAAA\"");
        let (status, _, _) = world.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(status, 401, "{method} {path}");
    }
    assert!(world.heard.lock().is_empty(), "nobody has proven anything");
}

#[tokio::test]
async fn fa5_the_uri_is_signed_as_it_was_sent() {
    let world = World::new().await;
    let two = Peer::new("two.test");
    // Unusual, but the bytes are what counts.
    for path in [
        "/_matrix/federation/v1/query/profile?user_id=%40nobody%3Aone.test",
        "/_matrix/federation/v1/query/profile?user_id=@nobody:one.test&x=%7e%7E+",
        "/_matrix/federation/v1/query/profile?&&user_id=@nobody:one.test",
    ] {
        let (status, answer) = two.get(&world, path).await;
        assert_eq!(status, 404, "{path}: {answer}");
    }
    let signed = two.signed(&Method::GET, "/_matrix/federation/v1/publicRooms", None);
    let (mut head, body) = signed.into_parts();
    head.uri = "/_matrix/federation/v1/publicRooms?limit=5".parse().unwrap();
    assert_eq!(world.send(Request::from_parts(head, body)).await.0, 401);
}

#[tokio::test]
async fn fa5_the_body_is_signed() {
    let world = World::new().await;
    let two = Peer::new("two.test");
    let signed = two.signed(&Method::POST, "/_matrix/federation/v1/publicRooms", Some(&json!({ "limit": 1 })));
    let (head, _) = signed.into_parts();
    let other = Request::from_parts(head, Body::from("{\"limit\":2}"));
    assert_eq!(world.send(other).await.0, 401);
    // White space does not count.
    let signed = two.signed(&Method::POST, "/_matrix/federation/v1/publicRooms", Some(&json!({ "limit": 1 })));
    let (head, _) = signed.into_parts();
    let spaced = Request::from_parts(head, Body::from("{ \"limit\" : 1 }"));
    assert_eq!(world.send(spaced).await.0, 200);
    for (body, errcode) in [("no json", "M_NOT_JSON"), ("[]", "M_BAD_JSON"), ("{\"a\":1,\"a\":2}", "M_NOT_JSON")] {
        let signed = two.signed(&Method::POST, "/_matrix/federation/v1/publicRooms", None);
        let (head, _) = signed.into_parts();
        let (status, _, answer) = world.send(Request::from_parts(head, Body::from(body))).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!((status.as_u16(), &answer["errcode"]), (400, &json!(errcode)), "{body}");
    }
}

/// SEC-denied-servers.
#[tokio::test]
async fn servers_that_are_denied_are_told_so() {
    let world = World::without(&["evil.test"]).await;
    let (status, answer) = Peer::new("evil.test").get(&world, "/_matrix/federation/v1/publicRooms").await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN")));
    assert_eq!(Peer::new("two.test").get(&world, "/_matrix/federation/v1/publicRooms").await.0, 200);
}

#[tokio::test]
async fn fa11_only_server_names_may_ask() {
    let world = World::new().await;
    for name in ["", "two.test:http", "two test", "two.test/..", "one.test", "two.test:999999999"] {
        let (status, _) = Peer::new(name).get(&world, "/_matrix/federation/v1/publicRooms").await;
        assert_eq!(status, 401, "{name:?}");
    }
    // Names are told apart by case.
    assert_eq!(Peer::new("TWO.test").get(&world, "/_matrix/federation/v1/publicRooms").await.0, 401);
}

#[tokio::test]
async fn unknown_routes_and_methods_are_unrecognized() {
    let world = World::new().await;
    for (method, path, expected) in [
        ("GET", "/_matrix/federation/v1/nothing", 404),
        ("GET", "/_matrix/federation/v9/version", 404),
        ("POST", "/_matrix/federation/v1/version", 405),
        ("GET", "/_matrix/federation/v1/send/t1", 405),
    ] {
        let (status, answer) = world.unsigned(method.parse().unwrap(), path).await;
        assert_eq!((status.as_u16(), &answer["errcode"]), (expected, &json!("M_UNRECOGNIZED")), "{method} {path}");
    }
    let (status, answer) = Peer::new("two.test").get(&world, "/_matrix/federation/v1/query/other").await;
    assert_eq!((status.as_u16(), &answer["errcode"]), (404, &json!("M_UNRECOGNIZED")));
}
