//! What clients and the services beside the server need for calls.

use http::Method;
use serde_json::{Value, json};
use server::config::Config;

use crate::in_process::start;

const TRANSPORTS: &str = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports";
const WELL_KNOWN: &str = "/.well-known/matrix/client";

#[tokio::test]
async fn clients_find_the_services_for_calls() {
    let urls = "calls.livekit_urls=https://rtc.hearth.test, https://spare.hearth.test/jwt";
    let here = start(&["public_base_url=https://matrix.hearth.test", urls]).await;
    let alice = here.person("alice").await;
    let transports = json!([
        { "type": "livekit", "livekit_service_url": "https://rtc.hearth.test" },
        { "type": "livekit", "livekit_service_url": "https://spare.hearth.test/jwt" },
    ]);
    let (head, answer) = here.ask(Method::GET, &format!("{TRANSPORTS}?access_token={alice}"), Value::Null).await;
    assert_eq!((head.status().as_u16(), answer), (200, json!({ "rtc_transports": transports })));
    let (head, answer) = here.ask(Method::GET, TRANSPORTS, Value::Null).await;
    assert_eq!((head.status().as_u16(), &answer["errcode"]), (401, &json!("M_MISSING_TOKEN")));
    let (_, answer) = here.ask(Method::GET, WELL_KNOWN, Value::Null).await;
    assert_eq!(answer["org.matrix.msc4143.rtc_foci"], transports);
    assert_eq!(answer["m.homeserver"]["base_url"], "https://matrix.hearth.test");
}

#[tokio::test]
async fn where_there_is_no_service_for_calls_none_is_named() {
    let here = start(&["public_base_url=https://matrix.hearth.test"]).await;
    let alice = here.person("alice").await;
    let (head, answer) = here.ask(Method::GET, &format!("{TRANSPORTS}?access_token={alice}"), Value::Null).await;
    assert_eq!((head.status().as_u16(), answer), (200, json!({ "rtc_transports": [] })));
    let (_, answer) = here.ask(Method::GET, WELL_KNOWN, Value::Null).await;
    assert_eq!(answer, json!({ "m.homeserver": { "base_url": "https://matrix.hearth.test" } }));
    let turn = here.ask_as(&alice, Method::GET, "voip/turnServer", Value::Null).await;
    assert_eq!(turn, (200, json!({})));
}

/// As coturn computes it: the MAC in base64 over the end of the credentials and the name.
#[tokio::test]
async fn turn_credentials_are_for_a_user_and_a_time() {
    let here = start(&[
        "calls.turn_uris=turn:turn.hearth.test:3478?transport=udp, turns:turn.hearth.test",
        "calls.turn_shared_secret=coturn and hearth know it",
        "calls.turn_lifetime=2 h",
    ])
    .await;
    let alice = here.person("alice").await;
    let (status, answer) = here.ask_as(&alice, Method::GET, "voip/turnServer", Value::Null).await;
    let expected = json!({
        "username": "1700007200:@alice:hearth.test",
        "password": "DFeB5WG7ICVyZJtIZzlT+0Bn6GM=",
        "uris": ["turn:turn.hearth.test:3478?transport=udp", "turns:turn.hearth.test"],
        "ttl": 7_200,
    });
    assert_eq!((status, answer), (200, expected));
    let (head, _) = here.ask(Method::GET, "/_matrix/client/v3/voip/turnServer", Value::Null).await;
    assert_eq!(head.status(), 401);
}

#[test]
fn services_for_calls_are_configured_whole_or_not_at_all() {
    let uris = "calls.turn_uris=turn:a.test";
    let secret = "calls.turn_shared_secret=s";
    for (pairs, key) in [
        (vec![uris], "calls.turn_shared_secret"),
        (vec![secret], "calls.turn_uris"),
        (vec!["calls.turn_uris=a.test", secret], "calls.turn_uris"),
        (vec![uris, secret, "calls.turn_lifetime=10 s"], "calls.turn_lifetime"),
        (vec![uris, secret, "calls.turn_lifetime=forever"], "calls.turn_lifetime"),
        (vec!["calls.livekit_urls=rtc.hearth.test"], "calls.livekit_urls"),
    ] {
        let error = Config::of(&pairs).unwrap_err().to_string();
        assert!(error.contains(&format!("`{key}`")), "{pairs:?}: {error}");
    }
    let config = Config::of(&[uris, secret]).unwrap();
    assert_eq!(config.calls.turn.as_ref().map(|turn| turn.lifetime_ms), Some(86_400_000));
    assert!(!format!("{config:?}").contains("secret: \"s\""));
}

/// Services that let users into calls ask who a user is, also of a server that speaks with no other.
#[tokio::test]
async fn openid_tokens_are_confirmed_with_federation_or_without() {
    for settings in
        [vec!["federation.enabled=false"], vec!["federation.allow=other.test"], vec!["federation.enabled=true"]]
    {
        let here = start(&[&settings[..], &["public_base_url=https://matrix.hearth.test"]].concat()).await;
        let alice = here.person("alice").await;
        let path = "user/@alice:hearth.test/openid/request_token";
        let (_, token) = here.ask_as(&alice, Method::POST, path, json!({})).await;
        let path =
            format!("/_matrix/federation/v1/openid/userinfo?access_token={}", token["access_token"].as_str().unwrap());
        let (head, answer) = here.ask(Method::GET, &path, Value::Null).await;
        assert_eq!((head.status().as_u16(), answer), (200, json!({ "sub": "@alice:hearth.test" })), "{settings:?}");
        let (head, _) = here.ask(Method::GET, &format!("{path}x"), Value::Null).await;
        assert_eq!(head.status(), 401, "{settings:?}");
        // That is where they look for this server.
        let (_, answer) = here.ask(Method::GET, "/.well-known/matrix/server", Value::Null).await;
        assert_eq!(answer, json!({ "m.server": "matrix.hearth.test:443" }), "{settings:?}");
    }
    // Nothing else of federation is there.
    let here = start(&["federation.enabled=false"]).await;
    let (head, _) = here.ask(Method::GET, "/_matrix/federation/v1/version", Value::Null).await;
    assert_eq!(head.status(), 404);
}
