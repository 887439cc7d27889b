//! The routes of keys, as anybody may ask them.

use axum::body::Body;
use event::{Keys, VerifyKey};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Peer, US, World, key, object};

/// Knows the key of the server that is asked for.
struct Known;

impl Keys for Known {
    fn key(&self, server: &str, _: &str) -> Option<VerifyKey> {
        VerifyKey::from_b64(&key(server).public_b64(), u64::MAX, None)
    }
}

fn is_signed(response: &Value, server: &str) -> bool {
    event::verify_json(&object(response.clone()), server, &Known).is_ok()
}

async fn post(world: &World, body: &str) -> (StatusCode, Value) {
    let request = Request::builder().method(Method::POST).uri("/_matrix/key/v2/query");
    let (status, _, answer) = world.send(request.body(Body::from(body.to_owned())).unwrap()).await;
    (status, serde_json::from_slice(&answer).unwrap())
}

#[tokio::test]
async fn fa8_our_keys_are_there_for_anybody() {
    let world = World::new().await;
    for path in ["/_matrix/key/v2/server", "/_matrix/key/v2/server/ed25519:any"] {
        let (status, keys) = world.unsigned(Method::GET, path).await;
        assert_eq!((status.as_u16(), keys["server_name"].as_str()), (200, Some(US)));
        assert!(is_signed(&keys, US));
        assert_eq!(keys["verify_keys"][key(US).key_id()]["key"], key(US).public_b64());
        assert_eq!(keys["old_verify_keys"], json!({}));
    }
    let (status, answer) = world.unsigned(Method::POST, "/_matrix/key/v2/server").await;
    assert_eq!((status.as_u16(), answer["errcode"].as_str()), (405, Some("M_UNRECOGNIZED")));
}

#[tokio::test]
async fn fa13_a_query_is_answered_for_one_server_or_many() {
    let world = World::new().await;
    let (status, answer) = world.unsigned(Method::GET, "/_matrix/key/v2/query/two.test").await;
    assert_eq!(status, 200);
    let keys = answer["server_keys"].as_array().unwrap();
    assert_eq!(keys.len(), 1);
    assert!(is_signed(&keys[0], "two.test") && is_signed(&keys[0], US));
    let (status, answer) = world.unsigned(Method::GET, "/_matrix/key/v2/query/nobody.test").await;
    assert_eq!((status.as_u16(), answer), (200, json!({ "server_keys": [] })));
    let three = Peer::new("three.test").key;
    let query = json!({ "server_keys": {
        "two.test": {}, "nobody.test": {}, US: {},
        "three.test": { three.key_id(): { "minimum_valid_until_ts": 1 } },
    } });
    let (status, answer) = post(&world, &query.to_string()).await;
    assert_eq!(status, 200);
    let mut names: Vec<&str> =
        answer["server_keys"].as_array().unwrap().iter().map(|keys| keys["server_name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, [US, "three.test", "two.test"]);
    assert!(answer["server_keys"].as_array().unwrap().iter().all(|keys| is_signed(keys, US)));
    let (_, answer) = post(&world, r#"{"server_keys":{}}"#).await;
    assert_eq!(answer, json!({ "server_keys": [] }));
}

#[tokio::test]
async fn a_query_that_is_wrong_or_too_large_is_refused() {
    let world = World::new().await;
    let check = async |body: &str, status: u16, errcode: &str| {
        let (is, answer) = post(&world, body).await;
        assert_eq!((is.as_u16(), answer["errcode"].as_str()), (status, Some(errcode)), "{body:.60}");
    };
    check("", 400, "M_NOT_JSON").await;
    check("{}", 400, "M_BAD_JSON").await;
    check(r#"{"server_keys":{"a.test":1}}"#, 400, "M_BAD_JSON").await;
    let many: serde_json::Map<String, Value> = (0..101).map(|number| (format!("s{number}.test"), json!({}))).collect();
    check(&json!({ "server_keys": many }).to_string(), 413, "M_TOO_LARGE").await;
    check(&" ".repeat(300_000), 413, "M_TOO_LARGE").await;
    let (status, _) = world.unsigned(Method::GET, "/_matrix/key/v2/query/two.test?minimum_valid_until_ts=x").await;
    assert_eq!(status, 400);
}
