//! Accounts, sessions, devices, authentication and what users keep, over HTTP.

use http::Method;
use serde_json::{Value, json};
use store::UserId;
use testkit::{Client, Server, encoded, next_batch};
use users::SessionKind;
use users::login::NewDevice;

/// Status and body of a request with this access token.
async fn ask(server: &Server, method: Method, path: &str, token: Option<&str>, body: Option<Value>) -> (u16, Value) {
    let mut client = server.nobody();
    client.token = token.unwrap_or_default().to_owned();
    client.request(method, path, body.map_or_else(String::new, |body| body.to_string())).await.pair()
}

pub async fn post(server: &Server, token: Option<&str>, path: &str, body: Value) -> (u16, Value) {
    ask(server, Method::POST, path, token, Some(body)).await
}

pub async fn get(server: &Server, token: Option<&str>, path: &str) -> (u16, Value) {
    ask(server, Method::GET, path, token, None).await
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Registers with the password `secret` and returns the whole answer.
async fn register(server: &Server, name: &str, more: Value) -> Value {
    let mut body = json!({ "username": name, "password": "secret", "auth": { "type": "m.login.dummy" } });
    for (member, value) in more.as_object().unwrap() {
        body[member] = value.clone();
    }
    let (status, answer) = post(server, None, "/register", body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

pub fn login_body(name: &str, password: &str) -> Value {
    json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": name },
        "password": password,
    })
}

pub fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["errcode"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn ca1_ca3_registration_step_by_step() {
    let server = Server::new().await;
    let (status, first) = post(&server, None, "/register", json!({})).await;
    assert_eq!((status, first.get("errcode")), (401, None));
    let dummy = json!({ "stages": ["m.login.dummy"] });
    assert!(first["flows"].as_array().unwrap().contains(&dummy) && first["params"].is_object());
    let auth = json!({ "type": "m.login.dummy", "session": first["session"] });
    let body = json!({ "username": "Alice", "password": "secret", "device_id": "PHONE", "auth": auth });
    let (status, made) = post(&server, None, "/register", body).await;
    assert_eq!(status, 200, "{made}");
    assert_eq!((text(&made["user_id"]), text(&made["device_id"])), ("@alice:example.org", "PHONE"));
    let who = get(&server, made["access_token"].as_str(), "/account/whoami").await;
    let expected = json!({ "user_id": "@alice:example.org", "device_id": "PHONE", "is_guest": false });
    assert_eq!(who, (200, expected));
    let quiet = register(&server, "bob", json!({ "inhibit_login": true })).await;
    assert_eq!(quiet, json!({ "user_id": "@bob:example.org" }));
}

#[tokio::test]
async fn ca3_ca19_names_are_judged_before_authentication() {
    let server = Server::new().await;
    register(&server, "alice", json!({})).await;
    // The last is no `k`, though Unicode's lower case of it is.
    let bad = ["a b", "ü", "\u{212a}"].map(|name| (name, "M_INVALID_USERNAME"));
    for (name, errcode) in bad.into_iter().chain([("alice", "M_USER_IN_USE"), ("ALICE", "M_USER_IN_USE")]) {
        let answer = post(&server, None, "/register", json!({ "username": name, "password": "x" })).await;
        assert_eq!(code(&answer), (400, errcode), "{name}");
        let answer = get(&server, None, &format!("/register/available?username={}", encoded(name))).await;
        assert_eq!(code(&answer), (400, errcode), "{name}");
    }
    assert_eq!(get(&server, None, "/register/available?username=free").await, (200, json!({ "available": true })));
    let guest = post(&server, None, "/register?kind=guest", json!({})).await;
    assert_eq!(code(&guest), (403, "M_FORBIDDEN"));
    assert_eq!(code(&post(&server, None, "/register?kind=other", json!({})).await), (400, "M_INVALID_PARAM"));
    let number = json!({ "username": 5 });
    assert_eq!(code(&post(&server, None, "/register", number).await), (400, "M_BAD_JSON"));
}

#[tokio::test]
async fn ca4_logins_that_fail_look_alike() {
    let server = Server::new().await;
    register(&server, "alice", json!({})).await;
    let wrong = post(&server, None, "/login", login_body("alice", "wrong")).await;
    let nobody = post(&server, None, "/login", login_body("nobody", "secret")).await;
    assert_eq!(code(&wrong), (403, "M_FORBIDDEN"));
    assert_eq!(wrong, nobody);
    let (status, login) = post(&server, None, "/login", login_body("@ALICE:example.org", "secret")).await;
    assert_eq!((status, text(&login["user_id"])), (200, "@alice:example.org"));
    let old = json!({ "type": "m.login.password", "user": "alice", "password": "secret" });
    assert_eq!(post(&server, None, "/login", old).await.0, 200);
    for (body, errcode) in [
        (json!({ "type": "m.login.unknown" }), "M_UNKNOWN"),
        (json!({ "type": "m.login.password", "user": "alice" }), "M_MISSING_PARAM"),
        (json!({}), "M_BAD_JSON"),
    ] {
        assert_eq!(code(&post(&server, None, "/login", body.clone()).await), (400, errcode), "{body}");
    }
    let (_, flows) = get(&server, None, "/login").await;
    assert_eq!(flows["flows"][0]["type"], "m.login.password");
}

#[tokio::test]
async fn ca6_cb3_a_logout_ends_the_token() {
    let server = Server::new().await;
    let made = register(&server, "alice", json!({})).await;
    let token = made["access_token"].as_str();
    assert_eq!(post(&server, token, "/logout", json!({})).await, (200, json!({})));
    let dead = get(&server, token, "/account/whoami").await;
    assert_eq!(code(&dead), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(dead.1["soft_logout"], false);
    assert_eq!(code(&get(&server, None, "/account/whoami").await), (401, "M_MISSING_TOKEN"));
}

#[tokio::test]
async fn ca9_refreshing_over_http() {
    let server = Server::new().await;
    let made = register(&server, "alice", json!({ "refresh_token": true })).await;
    let token = made["access_token"].as_str();
    server.clock.advance(made["expires_in_ms"].as_i64().unwrap());
    let expired = get(&server, token, "/account/whoami").await;
    assert_eq!((code(&expired), &expired.1["soft_logout"]), ((401, "M_UNKNOWN_TOKEN"), &json!(true)));
    let (status, fresh) = post(&server, None, "/refresh", json!({ "refresh_token": made["refresh_token"] })).await;
    assert_eq!(status, 200);
    assert_eq!(get(&server, fresh["access_token"].as_str(), "/account/whoami").await.0, 200);
    let used = post(&server, None, "/refresh", json!({ "refresh_token": made["refresh_token"] })).await;
    assert_eq!(code(&used), (401, "M_UNKNOWN_TOKEN"));
}

fn proof(session: &Value, name: &str, password: &str) -> Value {
    let identifier = json!({ "type": "m.id.user", "user": name });
    json!({ "type": "m.login.password", "session": session, "identifier": identifier, "password": password })
}

#[tokio::test]
async fn ca1_ca2_ca19_deleting_a_device() {
    let server = Server::new().await;
    let laptop = register(&server, "alice", json!({ "device_id": "LAPTOP" })).await;
    register(&server, "bob", json!({})).await;
    let mut body = login_body("alice", "secret");
    body["device_id"] = "PHONE".into();
    post(&server, None, "/login", body).await;
    let token = laptop["access_token"].as_str();
    let path = "/_matrix/client/v3/devices/PHONE";
    let delete = |body: Value| ask(&server, Method::DELETE, path, token, Some(body));
    let (status, first) = delete(json!({})).await;
    assert_eq!((status, &first["flows"]), (401, &json!([{ "stages": ["m.login.password"] }])));
    let session = &first["session"];
    let wrong = delete(json!({ "auth": proof(session, "alice", "wrong") })).await;
    assert_eq!((code(&wrong), wrong.1["flows"].is_array()), ((401, "M_FORBIDDEN"), true));
    let others = delete(json!({ "auth": proof(session, "bob", "secret") })).await;
    assert_eq!(code(&others), (403, "M_FORBIDDEN"));
    assert_eq!(delete(json!({ "auth": proof(session, "alice", "secret") })).await, (200, json!({})));
    assert_eq!(delete(json!({ "auth": proof(&Value::Null, "alice", "secret") })).await.0, 200, "again: still 200");
    let (_, devices) = get(&server, token, "/devices").await;
    assert_eq!(devices["devices"].as_array().unwrap().len(), 1);
    let rename = ask(&server, Method::PUT, path, token, Some(json!({ "display_name": "x" }))).await;
    assert_eq!(code(&rename), (404, "M_NOT_FOUND"));
    let own = "/_matrix/client/v3/devices/LAPTOP";
    assert_eq!(ask(&server, Method::PUT, own, token, Some(json!({ "display_name": "x" }))).await.0, 200);
    let (_, device) = get(&server, token, "/devices/LAPTOP").await;
    assert_eq!((text(&device["device_id"]), text(&device["display_name"])), ("LAPTOP", "x"));
}

#[tokio::test]
async fn ca7_ca8_a_new_password_and_the_end_of_an_account() {
    let server = Server::new().await;
    let made = register(&server, "alice", json!({})).await;
    let (_, other) = post(&server, None, "/login", login_body("alice", "secret")).await;
    let (token, other) = (made["access_token"].as_str(), other["access_token"].as_str());
    let change = json!({ "new_password": "changed", "auth": proof(&Value::Null, "alice", "secret") });
    assert_eq!(post(&server, token, "/account/password", change).await.0, 200);
    assert_eq!(get(&server, token, "/account/whoami").await.0, 200);
    assert_eq!(get(&server, other, "/account/whoami").await.0, 401);

    let (_, room) = post(&server, token, "/createRoom", json!({ "preset": "public_chat" })).await;
    let bob = server.register("bob").await;
    bob.join(text(&room["room_id"])).await;
    let end = json!({ "auth": proof(&Value::Null, "alice", "changed") });
    let ended = post(&server, token, "/account/deactivate", end).await;
    assert_eq!(ended, (200, json!({ "id_server_unbind_result": "success" })));
    assert_eq!(get(&server, token, "/account/whoami").await.0, 401);
    let members = bob.get(&format!("/rooms/{}/joined_members", encoded(text(&room["room_id"])))).await.ok();
    assert_eq!(members["joined"].as_object().unwrap().keys().collect::<Vec<_>>(), ["@bob:example.org"]);
    assert_eq!(code(&post(&server, None, "/login", login_body("alice", "changed")).await), (403, "M_FORBIDDEN"));
    let taken = post(&server, None, "/register", json!({ "username": "alice", "password": "x" })).await;
    assert_eq!(code(&taken), (400, "M_USER_IN_USE"));
    assert_eq!(get(&server, None, "/profile/@alice:example.org").await.0, 404);
}

#[tokio::test]
async fn ca10_a_login_token_works_once() {
    let server = Server::with(|options| options.login_tokens = true).await;
    let made = register(&server, "alice", json!({})).await;
    let path = "/_matrix/client/v1/login/get_token";
    let ask = |body: Value| ask(&server, Method::POST, path, made["access_token"].as_str(), Some(body));
    assert_eq!(ask(json!({})).await.0, 401);
    let (status, answer) = ask(json!({ "auth": proof(&Value::Null, "alice", "secret") })).await;
    assert_eq!((status, &answer["expires_in_ms"]), (200, &json!(120_000)));
    assert_eq!(ask(json!({})).await.0, 401, "authentication is asked for anew (CA19)");
    let login = json!({ "type": "m.login.token", "token": answer["login_token"] });
    assert_eq!(post(&server, None, "/login", login.clone()).await.0, 200);
    assert_eq!(code(&post(&server, None, "/login", login).await), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn ca10_login_tokens_are_off_unless_advertised() {
    for on in [false, true] {
        let server = match on {
            true => Server::with(|options| options.login_tokens = true).await,
            false => Server::new().await,
        };
        let made = register(&server, "alice", json!({})).await;
        let token = made["access_token"].as_str();
        let (_, login) = get(&server, None, "/login").await;
        let flows = login["flows"].as_array().unwrap();
        let offered: Vec<_> = flows.iter().filter(|flow| !flow["get_login_token"].is_null()).collect();
        let by_token = json!({ "type": "m.login.token", "get_login_token": true });
        assert_eq!(offered, if on { vec![&by_token] } else { vec![] }, "{login}");
        let (_, answer) = get(&server, token, "/capabilities").await;
        assert_eq!(answer["capabilities"]["m.get_login_token"], json!({ "enabled": on }));
        let path = "/_matrix/client/v1/login/get_token";
        let auth = json!({ "auth": proof(&Value::Null, "alice", "secret") });
        for (who, body, expected) in [
            (token, auth, if on { (200, "") } else { (404, "M_UNRECOGNIZED") }),
            (token, json!({}), if on { (401, "") } else { (404, "M_UNRECOGNIZED") }),
            (None, json!({}), if on { (401, "M_MISSING_TOKEN") } else { (404, "M_UNRECOGNIZED") }),
        ] {
            assert_eq!(code(&ask(&server, Method::POST, path, who, Some(body)).await), expected, "{who:?}");
        }
    }
}

#[tokio::test]
async fn ca13_the_locked_may_do_nothing_but_log_out() {
    let server = Server::new().await;
    let made = register(&server, "bob", json!({ "refresh_token": true })).await;
    let (_, other) = post(&server, None, "/login", login_body("bob", "secret")).await;
    let (token, other) = (made["access_token"].as_str(), other["access_token"].as_str());
    server.register("root").await;
    let (root, bob) = (UserId::from("@root:example.org"), UserId::from("@bob:example.org"));
    server.state.users.set_locked(&root, &bob, true).await.unwrap();
    for (method, path, body) in [
        (Method::GET, "/account/whoami", None),
        (Method::GET, "/sync?timeout=0", None),
        (Method::GET, "/capabilities", None),
        (Method::GET, "/devices", None),
        (Method::GET, "/joined_rooms", None),
        (Method::GET, "/_matrix/client/v1/media/config", None),
        (Method::POST, "/createRoom", Some(json!({}))),
        (Method::POST, "/keys/query", Some(json!({ "device_keys": {} }))),
        (Method::PUT, "/profile/@bob:example.org/displayname", Some(json!({ "displayname": "B" }))),
        (Method::POST, "/account/deactivate", Some(json!({ "auth": proof(&Value::Null, "bob", "secret") }))),
        (Method::POST, "/account/password", Some(json!({ "new_password": "x" }))),
        (Method::POST, "/refresh", Some(json!({ "refresh_token": made["refresh_token"] }))),
        (Method::POST, "/login", Some(login_body("bob", "secret"))),
    ] {
        let answer = ask(&server, method, path, token.filter(|_| !matches!(path, "/refresh" | "/login")), body).await;
        assert_eq!((code(&answer), &answer.1["soft_logout"]), ((401, "M_USER_LOCKED"), &json!(true)), "{path}");
    }
    assert_eq!(post(&server, token, "/logout/all", json!({})).await, (200, json!({})));
    server.state.users.set_locked(&root, &bob, false).await.unwrap();
    for ended in [token, other] {
        assert_eq!(code(&get(&server, ended, "/account/whoami").await), (401, "M_UNKNOWN_TOKEN"));
    }
}

#[tokio::test]
async fn ca13_the_suspended_keep_their_sessions_and_keys_and_may_go() {
    let server = Server::new().await;
    let made = register(&server, "bob", json!({})).await;
    let (alice, bob) = (server.register("alice").await, UserId::from("@bob:example.org"));
    let room = alice.public_room().await;
    assert_eq!(post(&server, made["access_token"].as_str(), &format!("/join/{room}"), json!({})).await.0, 200);
    alice.say(&room, "seen").await;
    server.state.users.set_suspended(&alice.id(), &bob, true).await.unwrap();
    let mut login = login_body("bob", "secret");
    login["device_id"] = "PHONE".into();
    let (status, login) = post(&server, None, "/login", login).await;
    assert_eq!(status, 200, "{login}");
    let token = login["access_token"].as_str();
    let say = ask(&server, Method::PUT, &format!("/rooms/{room}/send/m.room.message/1"), token, Some(json!({}))).await;
    assert_eq!(code(&say), (403, "M_USER_SUSPENDED"), "the new session is suspended too");
    assert!(get(&server, token, "/sync?timeout=0").await.1.to_string().contains("seen"));
    assert!(get(&server, token, &format!("/rooms/{room}/messages?dir=b")).await.1.to_string().contains("seen"));
    let public = event::SigningKey::generate(&[1; 32]).public_b64();
    let key = json!({ "user_id": bob.as_str(), "usage": ["master"], "keys": { format!("ed25519:{public}"): public } });
    let auth = proof(&Value::Null, "bob", "secret");
    let backup = json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {} });
    let room_key = json!({
        "first_message_index": 1, "forwarded_count": 0, "is_verified": false, "session_data": {},
    });
    for (method, path, body) in [
        (Method::POST, "/keys/device_signing/upload", json!({ "master_key": key, "auth": auth })),
        (Method::POST, "/keys/signatures/upload", json!({})),
        (Method::POST, "/room_keys/version", backup),
        (Method::PUT, "/room_keys/keys/!r:x/s?version=1", room_key),
        (Method::PUT, "/sendToDevice/m.key.verification.request/1", json!({ "messages": {} })),
        (Method::DELETE, &format!("/devices/{}", text(&made["device_id"])), json!({ "auth": auth })),
        (Method::POST, "/account/deactivate", json!({ "auth": auth })),
    ] {
        let answer = ask(&server, method, path, token, Some(body)).await;
        assert_eq!(answer.0, 200, "{path}: {}", answer.1);
    }
    assert_eq!(get(&server, token, "/account/whoami").await.0, 401);
}

#[tokio::test]
async fn ca13_ca18_locking_and_suspending() {
    let server = Server::new().await;
    let (root, alice) = (server.register("root").await, server.register("alice").await);
    let made = register(&server, "bob", json!({})).await;
    let bob = made["access_token"].as_str();
    let lock = |user: &str| format!("/_matrix/client/v1/admin/lock/{user}");
    let suspend = "/_matrix/client/v1/admin/suspend/@bob:example.org";
    for user in ["@bob:example.org", "@nobody:example.org", "@x:elsewhere.org"] {
        assert_eq!(code(&alice.get(&lock(user)).await.pair()), (403, "M_FORBIDDEN"), "{user}");
    }
    server.state.users.set_admin(&root.id(), true).await.unwrap();
    assert_eq!(code(&root.get(&lock("@nobody:example.org")).await.pair()), (404, "M_NOT_FOUND"));
    assert_eq!(code(&root.get(&lock("@x:elsewhere.org")).await.pair()), (400, "M_INVALID_PARAM"));
    let oneself = root.put(&lock("@root:example.org"), json!({ "locked": true })).await.pair();
    assert_eq!(code(&oneself), (403, "M_FORBIDDEN"));
    assert_eq!(root.put(&lock("@bob:example.org"), json!({ "locked": true })).await.ok(), json!({ "locked": true }));
    let locked = get(&server, bob, "/account/whoami").await;
    assert_eq!((code(&locked), &locked.1["soft_logout"]), ((401, "M_USER_LOCKED"), &json!(true)));
    root.put(&lock("@bob:example.org"), json!({ "locked": false })).await.ok();
    assert_eq!(get(&server, bob, "/account/whoami").await.0, 200, "tokens survive the unlock");

    root.put(suspend, json!({ "suspended": true })).await.ok();
    assert_eq!(root.get(suspend).await.ok(), json!({ "suspended": true }));
    let path = "/_matrix/client/v3/profile/@bob:example.org/displayname";
    let rename = ask(&server, Method::PUT, path, bob, Some(json!({ "displayname": "B" }))).await;
    assert_eq!(code(&rename), (403, "M_USER_SUSPENDED"));
    root.put(suspend, json!({ "suspended": false })).await.ok();
    root.put(&lock("@bob:example.org"), json!({ "locked": true })).await.ok();
    assert_eq!(post(&server, bob, "/logout", json!({})).await.0, 200, "the locked may log out");
    let whois = root.get("/admin/whois/@alice:example.org").await.ok();
    assert!(whois["devices"]["DEVICE"]["sessions"].is_array());
    assert_eq!(code(&alice.get("/admin/whois/@root:example.org").await.pair()), (403, "M_FORBIDDEN"));
    assert_eq!(alice.get("/admin/whois/@alice:example.org").await.status, 200);
}

#[tokio::test]
async fn shared_secret_registration_is_not_there_without_a_secret() {
    let server = Server::new().await;
    let path = "/_synapse/admin/v1/register";
    assert_eq!(code(&ask(&server, Method::GET, path, None, None).await), (404, "M_UNRECOGNIZED"));
    let body = json!({ "nonce": "x", "username": "x", "password": "x", "mac": "x" });
    assert_eq!(code(&ask(&server, Method::POST, path, None, Some(body)).await), (404, "M_UNRECOGNIZED"));
}

async fn two_in_a_room() -> (Server, Client, Client, String) {
    let server = Server::new().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.public_room().await;
    bob.join(&room).await;
    (server, alice, bob, room)
}

#[tokio::test]
async fn cr26_a_profile_change_reaches_the_rooms() {
    let (_server, alice, bob, room) = two_in_a_room().await;
    alice.put("/profile/@alice:example.org/displayname", json!({ "displayname": "Alice" })).await.ok();
    alice.put("/profile/@alice:example.org/org.example.x", json!({ "org.example.x": [1] })).await.ok();
    let profile = bob.get("/profile/@alice:example.org").await.ok();
    assert_eq!(profile, json!({ "displayname": "Alice", "org.example.x": [1] }));
    let field = bob.get("/profile/@alice:example.org/displayname").await.ok();
    assert_eq!(field, json!({ "displayname": "Alice" }));
    let path = format!("/rooms/{}/state/m.room.member/@alice:example.org", encoded(&room));
    assert_eq!(bob.get(&path).await.ok()["displayname"], "Alice");
    let others = bob.put("/profile/@alice:example.org/displayname", json!({ "displayname": "B" })).await.pair();
    assert_eq!(code(&others), (403, "M_FORBIDDEN"));
    let own = "/profile/@alice:example.org";
    let missing = alice.put(&format!("{own}/displayname"), json!({ "other": 1 })).await.pair();
    assert_eq!(code(&missing), (400, "M_MISSING_PARAM"));
    let bad = alice.put(&format!("{own}/Bad"), json!({ "Bad": 1 })).await.pair();
    assert_eq!(code(&bad), (400, "M_INVALID_PARAM"));
    let large = alice.put(&format!("{own}/a.b"), json!({ "a.b": "x".repeat(65_536) })).await.pair();
    assert_eq!(code(&large), (400, "M_PROFILE_TOO_LARGE"));
    let gone = alice.delete(&format!("{own}/displayname")).await.pair();
    assert_eq!(gone, (200, json!({})));
    assert_eq!(bob.get(&path).await.ok().get("displayname"), None);
    assert_eq!(code(&bob.get(&format!("{own}/displayname")).await.pair()), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn ca8_cr26_a_crash_amid_the_rooms_is_made_good() {
    let (server, alice, bob, room) = two_in_a_room().await;
    let resume = || client_api::account::jobs::resume(&server.state.users, &server.state.rooms);
    server.state.users.put_profile_field(&alice.id(), "displayname", "Alice".into()).await.unwrap();
    server.clock.advance(10 * 60_000);
    resume().await.unwrap();
    let path = format!("/rooms/{}/state/m.room.member/@alice:example.org", encoded(&room));
    assert_eq!(bob.get(&path).await.ok()["displayname"], "Alice");
    server.state.users.deactivate(&alice.id(), false).await.unwrap();
    resume().await.unwrap();
    assert_eq!(bob.get(&path).await.ok()["membership"], "join", "not yet overdue");
    server.clock.advance(10 * 60_000);
    resume().await.unwrap();
    assert_eq!(bob.get(&path).await.ok()["membership"], "leave");
}

fn ephemeral<'a>(sync: &'a Value, room: &str, kind: &str) -> Option<&'a Value> {
    let events = sync["rooms"]["join"][room]["ephemeral"]["events"].as_array()?;
    events.iter().find(|event| event["type"] == kind)
}

#[tokio::test]
async fn cr24_typing_is_ones_own_and_for_members() {
    let (server, alice, bob, room) = two_in_a_room().await;
    let carol = server.register("carol").await;
    let since = bob.sync("").await;
    let path = |user: &str| format!("/rooms/{}/typing/{user}", encoded(&room));
    let typing = json!({ "typing": true, "timeout": 30_000 });
    assert_eq!(code(&alice.put(&path("@bob:example.org"), typing.clone()).await.pair()), (403, "M_FORBIDDEN"));
    assert_eq!(code(&carol.put(&path("@carol:example.org"), typing.clone()).await.pair()), (403, "M_FORBIDDEN"));
    alice.put(&path("@alice:example.org"), typing).await.ok();
    let seen = bob.sync_since(&since, "").await;
    let event = ephemeral(&seen, &room, "m.typing").unwrap();
    assert_eq!(*event, json!({ "type": "m.typing", "content": { "user_ids": ["@alice:example.org"] } }));
}

#[tokio::test]
async fn cr24_who_leaves_does_not_type_on() {
    let (_server, alice, bob, room) = two_in_a_room().await;
    let typing = json!({ "typing": true, "timeout": 30_000 });
    bob.put(&format!("/rooms/{}/typing/{}", encoded(&room), bob.user), typing).await.ok();
    let since = alice.sync("").await;
    assert_eq!(ephemeral(&since, &room, "m.typing").unwrap()["content"]["user_ids"], json!([bob.user]));
    bob.leave(&room).await;
    let seen = alice.sync_since(&since, "").await;
    assert_eq!(ephemeral(&seen, &room, "m.typing").unwrap()["content"]["user_ids"], json!([]));
}

#[tokio::test]
async fn cr25_cr32_receipts_and_markers() {
    let (_server, alice, bob, room) = two_in_a_room().await;
    let event = alice.say(&room, "hi").await;
    let thread =
        json!({ "body": "x", "msgtype": "m.text", "m.relates_to": { "rel_type": "m.thread", "event_id": event } });
    let reply = alice.send(&room, "m.room.message", thread).await;
    let since = alice.sync("").await;
    let path = |kind: &str, id: &str| format!("/rooms/{}/receipt/{kind}/{}", encoded(&room), encoded(id));
    for (kind, id, body, expected) in [
        ("m.read", event.as_str(), json!({ "thread_id": 5 }), (400, "M_INVALID_PARAM")),
        ("m.read", &event, json!({ "thread_id": "" }), (400, "M_INVALID_PARAM")),
        ("m.read", &event, json!({ "thread_id": "$other" }), (400, "M_INVALID_PARAM")),
        ("m.read", &reply, json!({ "thread_id": "main" }), (400, "M_INVALID_PARAM")),
        ("m.fully_read", &event, json!({ "thread_id": "main" }), (400, "M_INVALID_PARAM")),
        ("m.other", &event, json!({}), (400, "M_INVALID_PARAM")),
        ("m.read", "$unknown", json!({}), (404, "M_NOT_FOUND")),
    ] {
        assert_eq!(code(&bob.post(&path(kind, id), body.clone()).await.pair()), expected, "{kind} {id} {body}");
    }
    bob.post(&path("m.read.private", &reply), json!({ "thread_id": event })).await.ok();
    let private = alice.sync_since(&since, "").await;
    assert_eq!(ephemeral(&private, &room, "m.receipt"), None);
    bob.post(&path("m.read", &event), json!({ "thread_id": "main" })).await.ok();
    let public = alice.sync_since(&since, "").await;
    let receipt = &ephemeral(&public, &room, "m.receipt").unwrap()["content"][&event]["m.read"]["@bob:example.org"];
    assert_eq!(receipt["thread_id"], "main");
    let markers = json!({ "m.fully_read": reply, "m.read": reply });
    bob.post(&format!("/rooms/{}/read_markers", encoded(&room)), markers).await.ok();
    let marker = format!("/user/@bob:example.org/rooms/{}/account_data/m.fully_read", encoded(&room));
    assert_eq!(bob.get(&marker).await.ok(), json!({ "event_id": reply }));
    let newest = alice.say(&room, "newest").await;
    bob.post(&path("m.fully_read", &newest), json!({})).await.ok();
    assert_eq!(bob.get(&marker).await.ok(), json!({ "event_id": newest }), "either route moves it");
    let both = json!({ "m.fully_read": event, "m.read": "$unknown" });
    let refused = bob.post(&format!("/rooms/{}/read_markers", encoded(&room)), both).await.pair();
    assert_eq!(code(&refused), (404, "M_NOT_FOUND"));
    assert_eq!(bob.get(&marker).await.ok(), json!({ "event_id": newest }), "all or nothing");
}

#[tokio::test]
async fn cr32_the_more_advanced_receipt_clears_the_counts() {
    let (_server, alice, bob, room) = two_in_a_room().await;
    let path = |kind: &str, id: &str| format!("/rooms/{}/receipt/{kind}/{}", encoded(&room), encoded(id));
    let unread = async || {
        let sync = bob.sync("").await;
        sync["rooms"]["join"][&room]["unread_notifications"]["notification_count"].clone()
    };
    let mut said = Vec::new();
    for n in 0..4 {
        said.push(alice.say(&room, &n.to_string()).await);
    }
    for (kind, at, left) in [("m.read", 0, 3), ("m.read.private", 2, 1), ("m.read", 1, 1), ("m.read", 3, 0)] {
        bob.post(&path(kind, &said[at]), json!({})).await.ok();
        assert_eq!(unread().await, json!(left), "{kind} at {at}");
    }
}

#[tokio::test]
async fn cr25_cy9_account_data_tags_and_filters() {
    let (_server, alice, bob, room) = two_in_a_room().await;
    let since = alice.sync("").await;
    let own = "/user/@alice:example.org";
    let of_room = format!("{own}/rooms/{}", encoded(&room));
    alice.put(&format!("{own}/account_data/org.example"), json!({ "a": 1 })).await.ok();
    alice.put(&format!("{of_room}/account_data/org.example"), json!({ "b": 2 })).await.ok();
    alice.put(&format!("{of_room}/tags/m.favourite"), json!({ "order": 0.25 })).await.ok();
    let news = alice.sync_since(&since, "").await;
    let expected = json!([{ "type": "org.example", "content": { "a": 1 } }]);
    assert_eq!(news["account_data"]["events"], expected);
    let kept = news["rooms"]["join"][&room]["account_data"]["events"].as_array().unwrap();
    assert_eq!(kept.len(), 2);
    assert_eq!(alice.get(&format!("{own}/account_data/org.example")).await.ok(), json!({ "a": 1 }));
    assert_eq!(
        alice.get(&format!("{of_room}/tags")).await.ok(),
        json!({ "tags": { "m.favourite": { "order": 0.25 } } })
    );
    alice.delete(&format!("{of_room}/tags/m.favourite")).await.pair();
    assert_eq!(alice.get(&format!("{of_room}/tags")).await.ok(), json!({ "tags": {} }));

    let refused = [
        (alice.put(&format!("{own}/account_data/m.push_rules"), json!({})).await.pair(), (405, "M_BAD_JSON")),
        (alice.put(&format!("{of_room}/account_data/m.fully_read"), json!({})).await.pair(), (405, "M_BAD_JSON")),
        (alice.put(&format!("{own}/account_data/x"), json!([])).await.pair(), (400, "M_BAD_JSON")),
        (alice.put(&format!("{own}/rooms/nonsense/account_data/x"), json!({})).await.pair(), (400, "M_INVALID_PARAM")),
        (bob.put(&format!("{own}/account_data/x"), json!({})).await.pair(), (403, "M_FORBIDDEN")),
        (bob.get(&format!("{own}/account_data/org.example")).await.pair(), (403, "M_FORBIDDEN")),
        (alice.get(&format!("{own}/account_data/none")).await.pair(), (404, "M_NOT_FOUND")),
        (alice.post(&format!("{own}/filter"), json!({ "room": 5 })).await.pair(), (400, "M_BAD_JSON")),
        (bob.post(&format!("{own}/filter"), json!({})).await.pair(), (403, "M_FORBIDDEN")),
        (alice.get(&format!("{own}/filter/none")).await.pair(), (404, "M_NOT_FOUND")),
    ];
    for (place, (answer, expected)) in refused.iter().enumerate() {
        assert_eq!(code(answer), *expected, "case {place}");
    }
    let filter = json!({ "room": { "timeline": { "limit": 1 } } });
    let id = alice.post(&format!("{own}/filter"), filter.clone()).await.ok()["filter_id"].clone();
    assert_eq!(alice.get(&format!("{own}/filter/{}", text(&id))).await.ok(), filter);
}

#[tokio::test]
async fn cp1_push_rules_over_http() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let since = alice.sync("").await;
    let rule = "/pushrules/global/content/cake";
    let body = json!({ "pattern": "cake*lie", "actions": ["notify"] });
    assert_eq!(code(&alice.get(rule).await.pair()), (404, "M_NOT_FOUND"));
    assert_eq!(alice.put(rule, body.clone()).await.ok(), json!({}));
    let expected = json!({
        "rule_id": "cake", "default": false, "enabled": true, "pattern": "cake*lie", "actions": ["notify"],
    });
    assert_eq!(alice.get(rule).await.ok(), expected);
    alice.put(&format!("{rule}/enabled"), json!({ "enabled": false })).await.ok();
    assert_eq!(alice.get(&format!("{rule}/enabled")).await.ok(), json!({ "enabled": false }));
    alice.put(&format!("{rule}/actions"), json!({ "actions": ["dont_notify"] })).await.ok();
    assert_eq!(alice.get(&format!("{rule}/actions")).await.ok(), json!({ "actions": [] }));
    let news = alice.sync_since(&since, "").await;
    let shown = &news["account_data"]["events"][0];
    assert_eq!(
        (text(&shown["type"]), &shown["content"]["global"]["content"][0]["rule_id"]),
        ("m.push_rules", &json!("cake"))
    );
    let all = alice.get("/pushrules/").await.ok();
    assert_eq!(all["global"], alice.get("/pushrules/global/").await.ok());
    assert_eq!(all["global"]["override"][0]["rule_id"], ".m.rule.master");
    for (path, expected) in [
        ("/pushrules/global/content/.own", (400, "M_INVALID_PARAM")),
        ("/pushrules/global/content/a%2Fb", (400, "M_INVALID_PARAM")),
        ("/pushrules/global/nonsense/x", (400, "M_INVALID_PARAM")),
        ("/pushrules/global/content/x?before=none", (400, "M_UNKNOWN")),
    ] {
        assert_eq!(code(&alice.put(path, body.clone()).await.pair()), expected, "{path}");
    }
    assert_eq!(alice.delete(rule).await.status, 200);
    assert_eq!(code(&alice.delete(rule).await.pair()), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn ce10_cy12_cy13_to_device_messages_and_keys() {
    let (_server, alice, bob, _) = two_in_a_room().await;
    let first = bob.sync("").await;
    assert_eq!(first["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
    let send = json!({ "messages": { "@bob:example.org": { "*": { "n": 1 } } } });
    for _ in 0..2 {
        alice.put("/sendToDevice/m.test/t1", send.clone()).await.ok();
    }
    let news = bob.sync_since(&first, "").await;
    let expected = json!([{ "sender": "@alice:example.org", "type": "m.test", "content": { "n": 1 } }]);
    assert_eq!(news["to_device"]["events"], expected);
    assert_eq!(bob.sync_since(&first, "").await["to_device"]["events"], expected, "repeated");
    assert_eq!(bob.sync_since(&news, "").await.get("to_device"), None);

    let keys = json!({
        "one_time_keys": { "signed_curve25519:A": { "key": "a" } },
        "fallback_keys": { "signed_curve25519:F": { "key": "f", "fallback": true } },
    });
    let counts = bob.post("/keys/upload", keys).await.ok();
    assert_eq!(counts, json!({ "one_time_key_counts": { "signed_curve25519": 1 } }));
    let synced = bob.sync("").await;
    assert_eq!(synced["device_unused_fallback_key_types"], json!(["signed_curve25519"]));
    let claim = json!({ "one_time_keys": { "@bob:example.org": { "DEVICE": "signed_curve25519" } } });
    for id in ["A", "F"] {
        let claimed = alice.post("/keys/claim", claim.clone()).await.ok();
        let keys = claimed["one_time_keys"]["@bob:example.org"]["DEVICE"].as_object().unwrap().clone();
        assert_eq!(keys.keys().collect::<Vec<_>>(), [&format!("signed_curve25519:{id}")]);
    }
    let wrong = json!({ "device_keys": { "@bob:example.org": {} } });
    assert_eq!(code(&alice.post("/keys/query", wrong).await.pair()), (400, "M_BAD_JSON"));
    let remote = alice.post("/keys/query", json!({ "device_keys": { "@x:elsewhere.org": [] } })).await.ok();
    assert_eq!(remote["failures"], json!({ "elsewhere.org": {} }));
}

#[tokio::test]
async fn ce4_ce5_a_changed_device_is_told_to_those_who_share_a_room() {
    let (server, alice, bob, _) = two_in_a_room().await;
    let carol = server.register("carol").await;
    let (since, others) = (alice.sync("").await, carol.sync("").await);
    bob.put("/devices/DEVICE", json!({ "display_name": "Phone" })).await.ok();
    let news = alice.sync_since(&since, "").await;
    assert_eq!(news["device_lists"]["changed"], json!(["@bob:example.org"]));
    assert_eq!(carol.sync_since(&others, "").await.get("device_lists"), None);
    let (from, to) = (next_batch(&since), next_batch(&news));
    let changes = alice.get(&format!("/keys/changes?from={from}&to={to}")).await.ok();
    assert_eq!(changes["changed"], json!(["@bob:example.org"]));
}

#[tokio::test]
async fn ce9_key_backups_over_http() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    assert_eq!(code(&alice.get("/room_keys/version").await.pair()), (404, "M_NOT_FOUND"));
    let version = json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": { "public_key": "x" } });
    assert_eq!(alice.post("/room_keys/version", version).await.ok(), json!({ "version": "1" }));
    let key = json!({ "first_message_index": 1, "forwarded_count": 0, "is_verified": false, "session_data": {} });
    let path = "/room_keys/keys/!r%3Ax/s";
    assert_eq!(alice.put(&format!("{path}?version=1"), key.clone()).await.ok(), json!({ "count": 1, "etag": "1" }));
    assert_eq!(alice.get(&format!("{path}?version=1")).await.ok(), key);
    let all = alice.get("/room_keys/keys?version=1").await.ok();
    assert_eq!(all, json!({ "rooms": { "!r:x": { "sessions": { "s": key } } } }));
    let stale = alice.put(&format!("{path}?version=7"), key.clone()).await.pair();
    assert_eq!((code(&stale), &stale.1["current_version"]), ((403, "M_WRONG_ROOM_KEYS_VERSION"), &json!("1")));
    assert_eq!(alice.delete("/room_keys/version/1").await.status, 200);
    assert_eq!(code(&alice.get("/room_keys/version/1").await.pair()), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn presence_is_for_those_who_share_a_room() {
    let (server, alice, bob, _) = two_in_a_room().await;
    let carol = server.register("carol").await;
    let path = "/presence/@alice:example.org/status";
    alice.put(path, json!({ "presence": "unavailable", "status_msg": "away" })).await.ok();
    let seen = bob.get(path).await.ok();
    assert_eq!((text(&seen["presence"]), text(&seen["status_msg"])), ("unavailable", "away"));
    assert_eq!(code(&carol.get(path).await.pair()), (403, "M_FORBIDDEN"));
    assert_eq!(code(&bob.put(path, json!({ "presence": "online" })).await.pair()), (403, "M_FORBIDDEN"));
    assert_eq!(code(&alice.put(path, json!({ "presence": "busy" })).await.pair()), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn an_openid_token_names_its_user() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let answer = alice.post("/user/@alice:example.org/openid/request_token", json!({})).await.ok();
    assert_eq!((text(&answer["token_type"]), &answer["expires_in"]), ("Bearer", &json!(3_600)));
    let named = server.state.users.openid_user(text(&answer["access_token"])).await.unwrap();
    assert_eq!(named, Some(alice.id()));
}

#[tokio::test]
async fn ca17_the_validity_of_a_registration_token_can_be_asked_for() {
    let server = Server::new().await;
    server.state.users.set_registration_token(Some("abc".to_owned()), Some(1), None).await.unwrap();
    for (token, valid) in [("abc", true), ("abd", false)] {
        let path = format!("/_matrix/client/v1/register/m.login.registration_token/validity?token={token}");
        assert_eq!(ask(&server, Method::GET, &path, None, None).await, (200, json!({ "valid": valid })));
    }
}

#[tokio::test]
async fn the_status_of_accounts_is_for_administrators() {
    let server = Server::new().await;
    let (root, alice) = (server.register("root").await, server.register("alice").await);
    server.state.users.set_admin(&root.id(), true).await.unwrap();
    for (path, member) in [
        ("/_matrix/client/v1/admin/lock/@alice:example.org", "locked"),
        ("/_matrix/client/v1/admin/suspend/@alice:example.org", "suspended"),
    ] {
        assert_eq!(root.get(path).await.ok(), json!({ member: false }));
        assert_eq!(root.put(path, json!({ member: true })).await.ok(), json!({ member: true }));
        assert_eq!(root.get(path).await.ok(), json!({ member: true }));
        assert_eq!(root.put(path, json!({ member: false })).await.ok(), json!({ member: false }));
        assert_eq!(code(&alice.put(path, json!({ member: true })).await.pair()), (403, "M_FORBIDDEN"));
        assert_eq!(code(&root.put(path, json!({})).await.pair()), (400, "M_BAD_JSON"));
    }
}

#[tokio::test]
async fn ca19_several_devices_at_once() {
    let server = Server::new().await;
    let made = register(&server, "alice", json!({ "device_id": "LAPTOP" })).await;
    let token = made["access_token"].as_str();
    for device in ["A", "B"] {
        let mut body = login_body("alice", "secret");
        body["device_id"] = device.into();
        post(&server, None, "/login", body).await;
    }
    let ask = |devices: Value, auth: Value| {
        let body =
            if auth.is_null() { json!({ "devices": devices }) } else { json!({ "devices": devices, "auth": auth }) };
        post(&server, token, "/delete_devices", body)
    };
    let (status, first) = ask(json!(["A"]), Value::Null).await;
    assert_eq!(status, 401);
    let session = &first["session"];
    let other = ask(json!(["A", "B"]), proof(session, "alice", "secret")).await;
    assert_eq!(code(&other), (403, "M_FORBIDDEN"), "the session is bound to the body (CA1)");
    assert_eq!(ask(json!(["A"]), proof(session, "alice", "secret")).await.0, 200);
    let (_, devices) = get(&server, token, "/devices").await;
    let ids: Vec<&str> = devices["devices"].as_array().unwrap().iter().map(|one| text(&one["device_id"])).collect();
    assert_eq!(ids, ["B", "LAPTOP"]);
    assert_eq!(post(&server, token, "/logout/all", json!({})).await.0, 200);
    assert_eq!(get(&server, token, "/account/whoami").await.0, 401);
}

#[tokio::test]
async fn ce6_the_first_cross_signing_keys_need_no_proof_and_others_do() {
    let server = Server::new().await;
    let made = register(&server, "alice", json!({})).await;
    let token = made["access_token"].as_str();
    let master = |seed: u8| {
        let public = event::SigningKey::generate(&[seed; 32]).public_b64();
        let keys = json!({ format!("ed25519:{public}"): public });
        json!({ "user_id": "@alice:example.org", "usage": ["master"], "keys": keys })
    };
    let upload = |body: Value| post(&server, token, "/keys/device_signing/upload", body);
    assert_eq!(code(&upload(json!({ "self_signing_key": master(9) })).await), (400, "M_MISSING_PARAM"));
    assert_eq!(upload(json!({ "master_key": master(1) })).await, (200, json!({})));
    assert_eq!(upload(json!({ "master_key": master(1) })).await, (200, json!({})));
    let (status, challenge) = upload(json!({ "master_key": master(2) })).await;
    assert_eq!((status, challenge["flows"].is_array()), (401, true));
    let auth = proof(&challenge["session"], "alice", "secret");
    assert_eq!(upload(json!({ "master_key": master(2), "auth": auth })).await.0, 200);
    let (_, found) = post(&server, token, "/keys/query", json!({ "device_keys": { "@alice:example.org": [] } })).await;
    assert_eq!(found["master_keys"]["@alice:example.org"]["keys"], master(2)["keys"]);

    let signatures = json!({ "@alice:example.org": { "NONE": { "device_id": "NONE" } } });
    let (status, answer) = post(&server, token, "/keys/signatures/upload", signatures).await;
    let failure = &answer["failures"]["@alice:example.org"]["NONE"];
    assert_eq!((status, text(&failure["errcode"])), (200, "M_NOT_FOUND"));
}

#[tokio::test]
async fn ce9_backed_up_keys_by_room_and_all_together() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let version = json!({ "algorithm": "m.a", "auth_data": {} });
    alice.post("/room_keys/version", version).await.ok();
    alice.put("/room_keys/version/1", json!({ "algorithm": "m.a", "auth_data": { "x": 1 } })).await.ok();
    assert_eq!(alice.get("/room_keys/version/1").await.ok()["auth_data"], json!({ "x": 1 }));
    let other = json!({ "algorithm": "m.b", "auth_data": {} });
    assert_eq!(code(&alice.put("/room_keys/version/1", other).await.pair()), (400, "M_INVALID_PARAM"));
    let key = json!({ "first_message_index": 1, "forwarded_count": 0, "is_verified": false, "session_data": {} });
    let all = json!({ "rooms": { "!a": { "sessions": { "s": key, "t": key } }, "!b": { "sessions": { "u": key } } } });
    assert_eq!(alice.put("/room_keys/keys?version=1", all.clone()).await.ok()["count"], 3);
    assert_eq!(alice.get("/room_keys/keys?version=1").await.ok(), all);
    let room = json!({ "sessions": { "v": key } });
    assert_eq!(alice.put("/room_keys/keys/!c?version=1", room.clone()).await.ok()["count"], 4);
    assert_eq!(alice.get("/room_keys/keys/!c?version=1").await.ok(), room);
    assert_eq!(alice.get("/room_keys/keys/!none?version=1").await.ok(), json!({ "sessions": {} }));
    assert_eq!(code(&alice.get("/room_keys/keys/!c/none?version=1").await.pair()), (404, "M_NOT_FOUND"));
    let delete = async |path: &str| alice.delete(path).await.pair();
    assert_eq!(delete("/room_keys/keys/!a/s?version=1").await.1["count"], 3);
    assert_eq!(delete("/room_keys/keys/!a?version=1").await.1["count"], 2);
    assert_eq!(delete("/room_keys/keys?version=1").await.1["count"], 0);
}

#[tokio::test]
async fn as16_application_services_need_a_token_of_theirs() {
    let server = Server::new().await;
    for path in ["/register", "/login"] {
        let body = json!({ "type": "m.login.application_service", "username": "x" });
        assert_eq!(code(&post(&server, None, path, body.clone()).await), (401, "M_MISSING_TOKEN"), "{path}");
        assert_eq!(code(&post(&server, Some("x"), path, body).await), (401, "M_UNKNOWN_TOKEN"), "{path}");
    }
}

/// A master key as clients upload it; of these only the names count here.
fn master_key(public: &str) -> Value {
    let keys = json!({ format!("ed25519:{public}"): public });
    json!({ "master_key": { "user_id": "@alice:example.org", "usage": ["master"], "keys": keys } })
}

#[tokio::test]
async fn ca12_oauth_sessions_authenticate_on_the_account_page_only() {
    let page = "https://example.org/account";
    let server = Server::with(|options| {
        options.login_tokens = true;
        options.account_management_url = Some(page.to_owned());
    })
    .await;
    let legacy = register(&server, "alice", json!({ "device_id": "LAPTOP" })).await;
    let new = NewDevice { kind: SessionKind::OAuth, ..NewDevice::default() };
    let login = server.state.users.login(&UserId::from("@alice:example.org"), new).await.unwrap();
    let (token, legacy) = (Some(login.access_token.as_str()), legacy["access_token"].as_str());
    assert_eq!(get(&server, token, "/account/whoami").await.0, 200);

    let auth = proof(&Value::Null, "alice", "secret");
    let refused = [
        (Method::DELETE, "/devices/LAPTOP", json!({})),
        (Method::POST, "/delete_devices", json!({ "devices": ["LAPTOP"] })),
        (Method::POST, "/account/password", json!({ "new_password": "other" })),
        (Method::POST, "/account/deactivate", json!({})),
        (Method::POST, "/_matrix/client/v1/login/get_token", json!({})),
    ];
    for (method, path, mut body) in refused {
        let answer = ask(&server, method.clone(), path, token, Some(body.clone())).await;
        assert_eq!((code(&answer), answer.1.get("flows")), ((403, "M_FORBIDDEN"), None), "{path}");
        body["auth"] = auth.clone();
        let answer = ask(&server, method, path, token, Some(body)).await;
        assert_eq!(code(&answer), (403, "M_FORBIDDEN"), "{path}: the password proves nothing here");
    }

    let upload = "/keys/device_signing/upload";
    assert_eq!(post(&server, token, upload, master_key("AAAA")).await, (200, json!({})), "the first needs no proof");
    let (status, first) = post(&server, token, upload, master_key("BBBB")).await;
    assert_eq!((status, &first["flows"][0]), (401, &json!({ "stages": ["m.oauth"] })));
    let url = format!("{page}?action=org.matrix.cross_signing_reset");
    assert_eq!(first["params"]["m.oauth"], json!({ "url": url }));
    let mut named = master_key("BBBB");
    named["auth"] = json!({ "session": first["session"] });
    let early = post(&server, token, upload, named.clone()).await;
    assert_eq!((early.0, early.1["flows"].is_array()), (401, true), "not before the user has allowed it");
    server.state.users.allow_cross_signing_reset(&UserId::from("@alice:example.org")).await.unwrap();
    assert_eq!(post(&server, token, upload, named).await, (200, json!({})));

    let (status, by_password) = post(&server, legacy, upload, master_key("CCCC")).await;
    assert_eq!((status, &by_password["flows"]), (401, &json!([{ "stages": ["m.login.password"] }])));
}

#[tokio::test]
async fn logins_by_unknown_identifiers_are_told_apart_from_wrong_ones() {
    let server = Server::new().await;
    register(&server, "alice", json!({})).await;
    for (kind, expected) in [
        ("org.example.unknown", (400, "M_UNKNOWN")),
        ("m.id.thirdparty", (403, "M_FORBIDDEN")),
        ("m.id.phone", (403, "M_FORBIDDEN")),
    ] {
        let identifier = json!({ "type": kind, "user": "alice", "medium": "email", "address": "a@b.example" });
        let body = json!({ "type": "m.login.password", "identifier": identifier, "password": "secret" });
        assert_eq!(code(&post(&server, None, "/login", body).await), expected, "{kind}");
    }
}

#[tokio::test]
async fn a_reported_event_stays_readable_when_it_is_redacted() {
    let (server, alice, bob, room) = two_in_a_room().await;
    let said = alice.say(&room, "very rude").await;
    let event = format!("/rooms/{}/report/{}", encoded(&room), encoded(&said));
    bob.post(&event, json!({ "reason": "rude" })).await.ok();
    alice.put(&format!("/rooms/{}/redact/{}/1", encoded(&room), encoded(&said)), json!({})).await.ok();
    let shown = bob.get(&format!("/rooms/{}/event/{}", encoded(&room), encoded(&said))).await.ok();
    assert_eq!(shown["content"], json!({}), "{shown}");
    let report = server.state.users.reports(None, 1).await.unwrap().remove(0);
    let kept: Value = serde_json::from_str(report.event.as_deref().unwrap()).unwrap();
    assert_eq!((&kept["content"]["body"], &kept["sender"]), (&json!("very rude"), &json!(alice.id().as_str())));
    assert_eq!((report.reporter, report.room_id, report.event_id), (bob.id(), Some(room), Some(said)));
}

#[tokio::test]
async fn reports_of_rooms_events_and_users_are_kept() {
    let (server, alice, bob, room) = two_in_a_room().await;
    let carol = server.register("carol").await;
    let said = alice.say(&room, "rude").await;
    let reason = json!({ "reason": "rude" });
    let event = format!("/rooms/{}/report/{}", encoded(&room), encoded(&said));
    assert_eq!(bob.post(&event, reason.clone()).await.ok(), json!({}));
    assert_eq!(bob.post(&event, json!({})).await.ok(), json!({}), "the reason may be missing");
    carol.post(&event, reason.clone()).await.refused(404, "M_NOT_FOUND");
    let unknown = format!("/rooms/{}/report/$unknown", encoded(&room));
    bob.post(&unknown, reason.clone()).await.refused(404, "M_NOT_FOUND");
    let of_room = |room: &str| format!("/rooms/{}/report", encoded(room));
    assert_eq!(carol.post(&of_room(&room), reason.clone()).await.ok(), json!({}), "strangers may report rooms");
    assert_eq!(carol.post(&of_room("!unknown:example.org"), reason.clone()).await.ok(), json!({}), "nobody finds out");
    carol.post(&of_room(&room), json!({})).await.refused(400, "M_BAD_JSON");
    for user in ["@alice:example.org", "@nobody:example.org", "@somebody:elsewhere.org"] {
        assert_eq!(carol.post(&format!("/users/{user}/report"), reason.clone()).await.ok(), json!({}), "{user}");
    }
    carol.post("/users/alice/report", reason).await.refused(400, "M_INVALID_PARAM");
    let kept = server.state.users.reports(None, 100).await.unwrap();
    let kept: Vec<_> = kept.iter().map(|report| (report.about.as_str(), report.user_id.as_ref())).collect();
    let (alice, somebody) = (alice.id(), UserId::from("@somebody:elsewhere.org"));
    let expected = [
        ("user", Some(&somebody)),
        ("user", Some(&alice)),
        ("room", None),
        ("event", Some(&alice)),
        ("event", Some(&alice)),
    ];
    assert_eq!(kept, expected);
}
