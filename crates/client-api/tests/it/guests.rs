//! Guests: what they may do, where, and how they become users (client-server API, guest access; behaviours CA3, CA14).

use http::Method;
use serde_json::{Value, json};
use store::{DeviceId, UserId};

use testkit::Server;

use crate::account::{code, get, login_body, post, text};

/// The routes of the specification: one a line, with what marks those of guests.
const ENDPOINTS: &str = include_str!("../../../xtask/endpoints.tsv");

#[tokio::test]
async fn ca3_of_a_guests_registration_all_but_the_devices_name_is_ignored() {
    let server = Server::with(|options| options.guests = true).await;
    let body = json!({
        "initial_device_display_name": "Kiosk", "device_id": "MINE", "username": "mine", "password": 5,
        "inhibit_login": true, "refresh_token": true, "auth": "none", "type": [],
    });
    let (status, guest) = post(&server, None, "/register?kind=guest", body).await;
    assert_eq!(status, 200, "{guest}");
    let (token, device) = (text(&guest["access_token"]), text(&guest["device_id"]));
    assert!(guest.get("refresh_token").is_none(), "{guest}");
    assert_ne!(device, "MINE");
    assert_ne!(text(&guest["user_id"]), "@mine:example.org");
    let (_, who) = get(&server, Some(token), "/account/whoami").await;
    assert_eq!(who, json!({ "user_id": guest["user_id"], "device_id": device, "is_guest": true }));
    let kept = server.state.users.device(&UserId::from(text(&guest["user_id"])), &DeviceId::from(device)).await;
    assert_eq!(kept.unwrap().unwrap().display_name.as_deref(), Some("Kiosk"));
    let wrong = post(&server, None, "/register?kind=guest", json!({ "initial_device_display_name": 5 })).await;
    assert_eq!(code(&wrong), (400, "M_BAD_JSON"));
}

#[tokio::test]
async fn ca3_a_guest_becomes_a_user_and_keeps_its_rooms() {
    let server = Server::with(|options| options.guests = true).await;
    let alice = server.register("alice").await;
    let access = json!({ "type": "m.room.guest_access", "content": { "guest_access": "can_join" } });
    let room = alice.create_room(json!({ "preset": "public_chat", "initial_state": [access] })).await;
    let (guest, other) = (server.guest().await, server.guest().await);
    guest.join(&room).await;
    let name = guest.user.trim_start_matches('@').split(':').next().unwrap().to_owned();
    let body = |token: &str, name: Option<&str>| {
        let mut body =
            json!({ "password": "a secret", "guest_access_token": token, "auth": { "type": "m.login.dummy" } });
        if let Some(name) = name {
            body["username"] = json!(name);
        }
        body
    };
    let refused = async |body: Value, status: u16, errcode: &str| {
        server.nobody().post("/register", body).await.refused(status, errcode);
    };
    // Another guest.
    refused(body(&other.token, Some(&name)), 400, "M_INVALID_PARAM").await;
    // Another name.
    refused(body(&guest.token, Some("free")), 400, "M_INVALID_PARAM").await;
    refused(body(&guest.token, None), 400, "M_MISSING_PARAM").await;
    // No guest.
    refused(body(&alice.token, Some("alice")), 403, "M_FORBIDDEN").await;
    refused(body("none", Some(&name)), 403, "M_FORBIDDEN").await;
    let (status, login) = post(&server, None, "/register", body(&guest.token, Some(&name))).await;
    assert_eq!((status, text(&login["user_id"])), (200, guest.user.as_str()), "{login}");
    for token in [text(&login["access_token"]), guest.token.as_str()] {
        let (_, who) = get(&server, Some(token), "/account/whoami").await;
        assert_eq!((&who["user_id"], &who["is_guest"]), (&json!(guest.user), &json!(false)));
    }
    guest.post("/createRoom", json!({})).await.ok();
    guest.say(&room, "still here").await;
    // No guest any more.
    refused(body(&guest.token, Some(&name)), 403, "M_FORBIDDEN").await;
    let login = post(&server, None, "/login", login_body(&name, "a secret")).await;
    assert_eq!(login.0, 200);
}

#[tokio::test]
async fn ca14_guests_have_the_routes_that_are_marked_as_theirs_and_no_others() {
    let server = Server::with(|options| options.guests = true).await;
    let alice = server.register("alice").await;
    let access = json!({ "type": "m.room.guest_access", "content": { "guest_access": "can_join" } });
    let room = alice.create_room(json!({ "preset": "public_chat", "initial_state": [access] })).await;
    let event = alice.say(&room, "x").await;
    let guest = server.guest().await;
    guest.join(&room).await;
    let mut open = 0;
    for line in ENDPOINTS.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [api, method, path, _, auth, _, _, _, kind, _, marked, _] = fields[..] else { panic!("{line}") };
        // Two more, as everywhere: a session that was begun can be ended, and a client learns what its user may do.
        let more = path.contains("/logout") || path.ends_with("/capabilities");
        if (api, auth, kind) != ("client-server", "yes", "bearer") || more {
            continue;
        }
        let path = path.replace("{roomId}", &room).replace("{eventId}", &event).replace("{userId}", &guest.user);
        let path = path.replace("{eventType}", "org.example.x").replace("{keyName}", "displayname");
        let path = path.replace(['{', '}'], "");
        let answer = guest.request(method.parse().unwrap(), &path, "{}").await;
        let code = answer.json["errcode"].as_str().unwrap_or_default();
        if code == "M_UNRECOGNIZED" {
            continue;
        }
        assert_eq!(code != "M_GUEST_ACCESS_FORBIDDEN", marked == "yes", "{method} {path}: {}", answer.json);
        open += usize::from(marked == "yes");
    }
    assert!(open > 20, "{open} routes are open to guests");
    let who = guest.get("/account/whoami").await.ok();
    assert_eq!((&who["is_guest"], &who["device_id"]), (&json!(true), &json!(guest.device)));
    // Of the profile, their name alone is theirs to change.
    for (field, allowed) in [("displayname", true), ("avatar_url", false), ("org.example.field", false)] {
        let path = format!("/profile/{}/{field}", guest.user);
        let put = guest.put(&path, json!({ field: "mxc://example.org/a" })).await;
        let deleted = guest.request(Method::DELETE, &path, "").await;
        for answer in [put, deleted] {
            assert_eq!(answer.status == 200, allowed, "{field}: {}", answer.json);
            assert!(allowed || answer.json["errcode"] == "M_GUEST_ACCESS_FORBIDDEN", "{field}: {}", answer.json);
        }
    }
}

#[tokio::test]
async fn ca14_guests_join_where_they_may_and_create_nothing() {
    let server = Server::with(|options| options.guests = true).await;
    let alice = server.register("alice").await;
    let guest = server.guest().await;
    guest.post("/createRoom", json!({})).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    let closed = alice.public_room().await;
    guest.post(&format!("/rooms/{closed}/join"), json!({})).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    guest.post("/rooms/!none:example.org/join", json!({})).await.refused(403, "M_FORBIDDEN");
    let access = json!({ "type": "m.room.guest_access", "content": { "guest_access": "can_join" } });
    let open = alice.create_room(json!({ "preset": "public_chat", "initial_state": [access] })).await;
    guest.join(&open).await;
    guest.say(&open, "hello").await;
    assert_eq!(guest.bodies(&open).await, ["hello"]);
    guest.invite(&open, "@x:example.org").await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    guest.leave(&open).await;
}

#[tokio::test]
async fn ca14_guests_leave_rooms_that_close_to_them() {
    let server = Server::with(|options| options.guests = true).await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let (guest, other) = (server.guest().await, server.guest().await);
    let access = |access: &str| json!({ "type": "m.room.guest_access", "content": { "guest_access": access } });
    let open = alice.create_room(json!({ "preset": "public_chat", "initial_state": [access("can_join")] })).await;
    let stays = alice.create_room(json!({ "preset": "public_chat", "initial_state": [access("can_join")] })).await;
    for who in [&bob, &guest, &other] {
        who.join(&open).await;
    }
    guest.join(&stays).await;
    let part = || async {
        let closed = server.state.rooms.has_closed_to_guests();
        client_api::account::jobs::part_with_guests(&server.state.users, &server.state.rooms).await.unwrap();
        closed
    };
    assert!(!part().await, "no room has closed");
    let joined = async |room: &str| {
        let members = alice.get(&format!("/rooms/{room}/joined_members")).await.ok();
        members["joined"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(joined(&open).await.len(), 4);

    // Any value but `can_join` closes the room, also what is no text.
    let content = json!({ "guest_access": 1 });
    alice.put(&format!("/rooms/{open}/state/m.room.guest_access"), content).await.ok();
    assert!(part().await, "a room has closed");
    assert_eq!(joined(&open).await, [alice.user.as_str(), bob.user.as_str()]);
    assert_eq!(joined(&stays).await.len(), 2);
    guest.post(&format!("/rooms/{open}/join"), json!({})).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    assert!(!part().await, "nothing is left to do");

    // Closed and opened again before anybody was made to leave.
    let set = async |value: &str| {
        let path = format!("/rooms/{open}/state/m.room.guest_access");
        alice.put(&path, json!({ "guest_access": value })).await.ok();
    };
    set("can_join").await;
    guest.join(&open).await;
    set("forbidden").await;
    set("can_join").await;
    part().await;
    assert_eq!(joined(&open).await.len(), 3);
}
