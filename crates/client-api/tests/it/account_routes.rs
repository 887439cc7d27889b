//! What the specification says of single routes of accounts and keys, route by route.

use http::Method;
use serde_json::{Value, json};
use testkit::{Client, Server};
use users::RegistrationMode;

use crate::account::{code, get, post, text};

/// A backed-up key.
fn key(verified: bool, index: i64, forwarded: i64, data: &str) -> Value {
    json!({
        "first_message_index": index,
        "forwarded_count": forwarded,
        "is_verified": verified,
        "session_data": { "ciphertext": data },
    })
}

/// A client with a backup of version 1.
async fn with_backup(server: &Server, name: &str) -> Client {
    let client = server.register(name).await;
    let version = json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {} });
    client.post("/room_keys/version", version).await.ok();
    client
}

/// Bodies that bring the key of the session `s` of the room `!a`, with the paths to which they go.
fn ways(key: &Value) -> [(&'static str, Value); 3] {
    [
        ("/room_keys/keys/!a/s?version=1", key.clone()),
        ("/room_keys/keys/!a?version=1", json!({ "sessions": { "s": key } })),
        ("/room_keys/keys?version=1", json!({ "rooms": { "!a": { "sessions": { "s": key } } } })),
    ]
}

#[tokio::test]
async fn ce9_the_better_key_stays_whichever_way_it_comes() {
    let server = Server::new().await;
    for (n, name) in ["alice", "bob", "carol"].into_iter().enumerate() {
        let client = with_backup(&server, name).await;
        let put = async |key: Value| {
            let (path, body) = ways(&key)[n].clone();
            let answer = client.put(path, body).await.ok();
            let held = client.get("/room_keys/keys/!a/s?version=1").await.ok();
            (answer["etag"].clone(), text(&held["session_data"]["ciphertext"]).to_owned(), answer["count"].clone())
        };
        let (first, ..) = put(key(false, 5, 2, "first")).await;
        // Worse, or the same: nothing changes, and the etag says so.
        for worse in [key(false, 6, 0, "later"), key(false, 5, 3, "forwarded"), key(false, 5, 2, "same")] {
            assert_eq!(put(worse).await, (first.clone(), "first".to_owned(), json!(1)), "{name}");
        }
        let mut before = first;
        for better in [key(false, 5, 1, "nearer"), key(false, 4, 9, "earlier"), key(true, 9, 9, "verified")] {
            let data = text(&better["session_data"]["ciphertext"]).to_owned();
            let (etag, held, count) = put(better).await;
            assert_eq!((held, count), (data, json!(1)), "{name}");
            assert_ne!(etag, before, "{name}");
            before = etag;
        }
        assert_eq!(put(key(false, 0, 0, "unverified")).await.1, "verified");
    }
}

#[tokio::test]
async fn ce9_keys_are_changed_in_the_newest_version_alone() {
    let server = Server::new().await;
    let alice = with_backup(&server, "alice").await;
    alice.put("/room_keys/keys/!a/s?version=1", key(true, 0, 0, "old")).await.ok();
    let version = json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {} });
    assert_eq!(alice.post("/room_keys/version", version).await.ok(), json!({ "version": "2" }));
    for (path, body) in ways(&key(true, 0, 0, "new")) {
        let refused = alice.put(path, body.clone()).await.pair();
        assert_eq!(code(&refused), (403, "M_WRONG_ROOM_KEYS_VERSION"), "{path}");
        assert_eq!(refused.1["current_version"], "2", "{path}");
        for version in ["3", "x"] {
            let other = path.replace("version=1", &format!("version={version}"));
            let status = alice.put(&other, body.clone()).await.status;
            assert!(matches!(status, 403 | 404), "{other}: {status}");
        }
        assert_eq!(code(&alice.put(path.split('?').next().unwrap(), body).await.pair()), (400, "M_MISSING_PARAM"));
        assert_eq!(code(&alice.put(path, json!({})).await.pair()), (400, "M_BAD_JSON"), "{path}");
    }
    let held = alice.get("/room_keys/keys/!a/s?version=1").await.ok();
    assert_eq!(held["session_data"]["ciphertext"], "old");
}

#[tokio::test]
async fn ce9_keys_are_deleted_one_by_one_by_room_and_all() {
    let server = Server::new().await;
    let alice = with_backup(&server, "alice").await;
    let bob = with_backup(&server, "bob").await;
    let some = || key(true, 0, 0, "x");
    let all = json!({ "rooms": {
        "!a": { "sessions": { "s": some(), "t": some() } },
        "!b": { "sessions": { "u": some() } },
        "!c": { "sessions": { "v": some() } },
    } });
    for client in [&alice, &bob] {
        client.put("/room_keys/keys?version=1", all.clone()).await.ok();
    }
    let mut before = alice.get("/room_keys/version").await.ok()["etag"].clone();
    for (path, left) in [
        ("/room_keys/keys/!a/s?version=1", json!({ "!a": ["t"], "!b": ["u"], "!c": ["v"] })),
        ("/room_keys/keys/!b?version=1", json!({ "!a": ["t"], "!c": ["v"] })),
        ("/room_keys/keys?version=1", json!({})),
    ] {
        let answer = alice.delete(path).await.ok();
        let held = alice.get("/room_keys/keys?version=1").await.ok();
        let rooms = held["rooms"].as_object().unwrap().iter();
        let ids = |room: &Value| room["sessions"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let sessions: Value = rooms.map(|(id, room)| (id.clone(), json!(ids(room)))).collect();
        assert_eq!(sessions, left, "{path}");
        let count: usize = left.as_object().unwrap().values().map(|ids| ids.as_array().unwrap().len()).sum();
        assert_eq!(answer["count"], count, "{path}");
        assert_ne!(answer["etag"], before, "{path}");
        // Once more: there is nothing to delete, and nothing changes.
        assert_eq!(alice.delete(path).await.ok(), answer, "{path}");
        before = answer["etag"].clone();
        let missing = path.replace("version=1", "version=9");
        assert_eq!(code(&alice.delete(&missing).await.pair()), (404, "M_NOT_FOUND"), "{path}");
        server.nobody().delete(path).await.refused(401, "M_MISSING_TOKEN");
    }
    assert_eq!(bob.get("/room_keys/keys?version=1").await.ok(), all, "another user's keys are none of it");
}

#[tokio::test]
async fn ca17_a_registration_token_is_valid_as_long_as_it_can_be_used() {
    let server = Server::with(|options| options.registration = RegistrationMode::Token).await;
    let users = &server.state.users;
    let valid = async |token: &str| {
        let path = format!("/_matrix/client/v1/register/m.login.registration_token/validity?token={token}");
        get(&server, None, &path).await.1["valid"].clone()
    };
    let until_ms = server.state.clock.now_ms() + 60_000;
    users.set_registration_token(Some("timed".to_owned()), None, Some(until_ms)).await.unwrap();
    users.set_registration_token(Some("once".to_owned()), Some(1), None).await.unwrap();
    assert_eq!([valid("timed").await, valid("once").await, valid("none").await], [true, true, false]);

    let register = async |session: Value, auth: Value| {
        let mut auth = auth;
        auth["session"] = session;
        post(&server, None, "/register", json!({ "username": "bob", "password": "secret", "auth": auth })).await
    };
    let (status, asked) = post(&server, None, "/register", json!({ "username": "bob", "password": "secret" })).await;
    assert_eq!(status, 401, "{asked}");
    let by_token = |token: &str| json!({ "type": "m.login.registration_token", "token": token });
    let wrong = register(asked["session"].clone(), by_token("none")).await;
    assert_eq!(wrong.0, 401, "{}", wrong.1);
    let (status, mut made) = register(asked["session"].clone(), by_token("once")).await;
    if status == 401 {
        made = register(asked["session"].clone(), json!({ "type": "m.login.dummy" })).await.1;
    }
    assert_eq!(made["user_id"], "@bob:example.org", "{made}");
    assert_eq!(valid("once").await, false, "it is used up");
    server.clock.advance(60_000);
    assert_eq!(valid("timed").await, false, "its time is over");
    let closed = Server::with(|options| options.registration = RegistrationMode::Closed).await;
    let path = "/_matrix/client/v1/register/m.login.registration_token/validity";
    assert_eq!(code(&get(&closed, None, &format!("{path}?token=x")).await), (403, "M_FORBIDDEN"));
    assert_eq!(code(&get(&closed, None, path).await), (400, "M_MISSING_PARAM"));
}

#[tokio::test]
async fn cr26_fields_of_ones_own_profile_are_deleted() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let field = |name: &str| format!("/profile/@alice:example.org/{name}");
    for name in ["displayname", "m.tz", "org.example.x"] {
        alice.put(&field(name), json!({ name: "Europe/Berlin" })).await.ok();
    }
    bob.delete(&field("m.tz")).await.refused(403, "M_FORBIDDEN");
    server.nobody().delete(&field("m.tz")).await.refused(401, "M_MISSING_TOKEN");
    assert_eq!(alice.delete(&field("m.tz")).await.ok(), json!({}));
    assert_eq!(alice.delete(&field("m.tz")).await.ok(), json!({}), "there is none: that is what was wanted");
    bob.get(&field("m.tz")).await.refused(404, "M_NOT_FOUND");
    let old = field("org.example.x").replace("/profile", "/_matrix/client/unstable/uk.tcpip.msc4133/profile");
    assert_eq!(alice.delete(&old).await.ok(), json!({}));
    let left = bob.get("/profile/@alice:example.org").await.ok();
    assert_eq!(left, json!({ "displayname": "Europe/Berlin" }));
    server.state.users.set_suspended(&bob.id(), &alice.id(), true).await.unwrap();
    alice.delete(&field("displayname")).await.refused(403, "M_USER_SUSPENDED");
}

#[tokio::test]
async fn ca18_the_status_of_accounts_needs_a_token_and_a_user() {
    let server = Server::new().await;
    let [root, alice, carol] = server.people(["root", "alice", "carol"]).await;
    server.state.users.set_admin(&root.id(), true).await.unwrap();
    for (kind, member) in [("lock", "locked"), ("suspend", "suspended")] {
        let of = |user: &str| format!("/_matrix/client/v1/admin/{kind}/{user}");
        for (method, body) in [(Method::GET, String::new()), (Method::PUT, json!({ member: true }).to_string())] {
            let asked =
                async |client: &Client, user: &str| client.request(method.clone(), &of(user), body.clone()).await;
            asked(&server.nobody(), &carol.user).await.refused(401, "M_MISSING_TOKEN");
            asked(&alice, &carol.user).await.refused(403, "M_FORBIDDEN");
            asked(&root, "@nobody:example.org").await.refused(404, "M_NOT_FOUND");
            asked(&root, "@bob:elsewhere.org").await.refused(400, "M_INVALID_PARAM");
        }
        root.put(&of(&carol.user), json!({ member: true })).await.ok();
        assert_eq!(root.get(&of(&carol.user)).await.ok(), json!({ member: true }));
    }
}
