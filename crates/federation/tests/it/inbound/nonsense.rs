//! No input gets a 5xx.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Peer, World, encoded};

/// Routes with `{}` where something stands that the other server chooses.
const ROUTES: &[(&str, &str)] = &[
    ("PUT", "/_matrix/federation/v1/send/{}"),
    ("GET", "/_matrix/federation/v1/make_join/{}/{}?ver={}"),
    ("PUT", "/_matrix/federation/v1/send_join/{}/{}"),
    ("PUT", "/_matrix/federation/v2/send_join/{}/{}?omit_members={}"),
    ("GET", "/_matrix/federation/v1/make_leave/{}/{}"),
    ("PUT", "/_matrix/federation/v1/send_leave/{}/{}"),
    ("PUT", "/_matrix/federation/v2/send_leave/{}/{}"),
    ("GET", "/_matrix/federation/v1/make_knock/{}/{}?ver={}"),
    ("PUT", "/_matrix/federation/v1/send_knock/{}/{}"),
    ("PUT", "/_matrix/federation/v1/invite/{}/{}"),
    ("PUT", "/_matrix/federation/v2/invite/{}/{}"),
    ("GET", "/_matrix/federation/v1/backfill/{}?v={}&limit={}"),
    ("POST", "/_matrix/federation/v1/get_missing_events/{}"),
    ("GET", "/_matrix/federation/v1/state/{}?event_id={}"),
    ("GET", "/_matrix/federation/v1/state_ids/{}?event_id={}"),
    ("GET", "/_matrix/federation/v1/event/{}"),
    ("GET", "/_matrix/federation/v1/event_auth/{}/{}"),
    ("GET", "/_matrix/federation/v1/timestamp_to_event/{}?ts={}&dir={}"),
    ("GET", "/_matrix/federation/v1/publicRooms?limit={}&since={}"),
    ("POST", "/_matrix/federation/v1/publicRooms"),
    ("GET", "/_matrix/federation/v1/hierarchy/{}?suggested_only={}"),
    ("GET", "/_matrix/federation/v1/query/directory?room_alias={}"),
    ("GET", "/_matrix/federation/v1/query/profile?user_id={}&field={}"),
    ("GET", "/_matrix/federation/v1/query/{}"),
    ("GET", "/_matrix/federation/v1/user/devices/{}"),
    ("POST", "/_matrix/federation/v1/user/keys/query"),
    ("POST", "/_matrix/federation/v1/user/keys/claim"),
    ("GET", "/_matrix/federation/v1/openid/userinfo?access_token={}"),
    ("GET", "/_matrix/federation/v1/media/download/{}?timeout_ms=0"),
    ("GET", "/_matrix/federation/v1/media/thumbnail/{}?width={}&height={}&timeout_ms=0"),
];

#[tokio::test]
async fn no_input_gets_an_internal_error() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let long = "x".repeat(5_000);
    let chosen: Vec<String> = [
        "",
        ".",
        "..",
        "\0",
        "é",
        "x",
        "$x",
        "!x",
        "#x:y",
        "@:",
        "@bob:two.test",
        "-1",
        "99999999999999999999",
        "true",
        "a/b?c#d",
        "%2F",
        &long,
        &room.id,
    ]
    .iter()
    .map(|text| encoded(text))
    .collect();
    let bodies: Vec<Value> = [
        json!({}),
        json!({ "event": {}, "room_version": "10", "invite_room_state": [null] }),
        json!({ "type": "m.room.member", "room_id": room.id, "sender": "@bob:two.test", "content": [] }),
        json!({ "pdus": [{ "room_id": room.id, "type": [] }], "edus": [{ "edu_type": "m.receipt", "content": { "x": 1 } }] }),
        json!({ "latest_events": ["", "$", long], "earliest_events": [], "min_depth": i64::MIN, "limit": 0 }),
        json!({ "device_keys": { "": [""] }, "one_time_keys": { "@:": { "": "" } }, "filter": null, "limit": 0 }),
    ]
    .to_vec();
    for (method, route) in ROUTES {
        let method: Method = method.parse().unwrap();
        for text in &chosen {
            let path = route.replace("{}", text);
            let bodies: &[Value] = if method == Method::GET { &[] } else { &bodies };
            for body in bodies.iter().map(Some).chain((method == Method::GET).then_some(None)) {
                let (status, answer) = two.ask(&world, method.clone(), &path, body.cloned()).await;
                assert!(status.as_u16() < 500, "{method} {path} {body:?}: {status} {answer}");
            }
        }
    }
    world.federation.receive_due().await;
    world.say(&room, "and we go on").await;
}
