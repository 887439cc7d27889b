//! Joining, inviting, kicking, banning, leaving, forgetting, knocking.

use serde_json::{Value, json};

use testkit::{Client, Server, each, list, text};

/// The stripped state that comes with an invite.
fn invite_state(sync: &Value, room: &str) -> Vec<Value> {
    list(&sync["rooms"]["invite"][room]["invite_state"]["events"])
}

async fn count(client: &Client, room: &str, kind: &str) -> usize {
    client.timeline(room).await.iter().filter(|event| event["type"] == kind).count()
}

async fn moderate(client: &Client, action: &str, room: &str, user: &str) -> testkit::Answer {
    client.post(&format!("/rooms/{room}/{action}"), json!({ "user_id": user, "reason": "because" })).await
}

#[tokio::test]
async fn cr4_saying_the_same_again_adds_nothing() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    let first = alice.set_state(&room, "m.room.topic", json!({ "topic": "a", "x": { "b": [1, null] } })).await;
    let second = alice.set_state(&room, "m.room.topic", json!({ "x": { "b": [1, null] }, "topic": "a" })).await;
    assert_eq!(first, second);
    assert_eq!(count(&alice, &room, "m.room.topic").await, 1);
    assert_ne!(alice.set_state(&room, "m.room.topic", json!({ "topic": "b" })).await, first);
    bob.join(&room).await;
    let before = count(&alice, &room, "m.room.member").await;
    bob.join(&room).await;
    bob.post(&format!("/join/{room}"), json!({ "reason": "again" })).await.ok();
    assert_eq!(count(&alice, &room, "m.room.member").await, before);
}

#[tokio::test]
async fn cr5_invites_carry_what_the_invitee_needs() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    let encryption = json!({ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } });
    let avatar = json!({ "type": "m.room.avatar", "content": { "url": "mxc://a/b" } });
    let body = json!({
        "name": "Name", "topic": "Topic", "is_direct": true, "invite": [carol.user],
        "initial_state": [encryption, avatar],
    });
    let room = alice.create_room(body).await;
    alice.invite(&room, &alice.user).await.refused(403, "M_FORBIDDEN");
    let body = json!({ "user_id": bob.user, "reason": "come" });
    alice.post(&format!("/rooms/{room}/invite"), body).await.ok();
    let sync = bob.sync("").await;
    let state = invite_state(&sync, &room);
    let kinds: Vec<String> = state.iter().map(|event| text(&event["type"])).collect();
    for kind in [
        "m.room.create",
        "m.room.join_rules",
        "m.room.name",
        "m.room.avatar",
        "m.room.encryption",
        "m.room.topic",
        "m.room.member",
    ] {
        assert!(kinds.iter().any(|one| one == kind), "{kind} is not in {kinds:?}");
    }
    let own = state.iter().find(|event| event["state_key"] == bob.user.as_str()).unwrap();
    assert_eq!((&own["content"]["membership"], &own["content"]["reason"]), (&json!("invite"), &json!("come")));
    let member = alice.get(&format!("/rooms/{room}/state/m.room.member/{}", carol.user)).await.ok();
    assert_eq!(member["is_direct"], true);
    bob.join(&room).await;
    alice.invite(&room, &bob.user).await.refused(403, "M_FORBIDDEN");
    moderate(&alice, "ban", &room, &carol.user).await.ok();
    alice.invite(&room, &carol.user).await.refused(403, "M_FORBIDDEN");
    alice.post(&format!("/rooms/{room}/invite"), json!({})).await.refused(400, "M_BAD_JSON");
    alice.invite(&room, "dave").await.refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn cr5_unwanted_invites_never_arrive() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    let users = &server.state.users;
    let ignored = json!({ "ignored_users": { alice.user.clone(): {} } }).to_string();
    users.put_account_data(&bob.user.as_str().into(), "", "m.ignored_user_list", ignored).await.unwrap();
    let blocked = json!({ "default_action": "block" }).to_string();
    users.put_account_data(&carol.user.as_str().into(), "", "m.invite_permission_config", blocked).await.unwrap();
    let room = alice.create_room(json!({ "invite": [carol.user] })).await;
    alice.invite(&room, &bob.user).await.ok();
    alice.invite(&room, &carol.user).await.refused(403, "M_INVITE_BLOCKED");
    let body = json!({ "membership": "invite" });
    let path = format!("/rooms/{room}/state/m.room.member/{}", carol.user);
    alice.put(&path, body).await.refused(403, "M_INVITE_BLOCKED");
    for client in [&bob, &carol] {
        assert_eq!(client.sync("").await["rooms"]["invite"][&room], Value::Null);
    }
}

#[tokio::test]
async fn cr6_kicks_and_bans_need_a_target_and_power() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    let levels = json!({ "ban": 50, "kick": 60, "users": { bob.user.clone(): 55 } });
    let room = alice.create_room(json!({ "preset": "public_chat", "power_level_content_override": levels })).await;
    bob.join(&room).await;
    moderate(&alice, "kick", &room, &carol.user).await.refused(403, "M_FORBIDDEN");
    moderate(&alice, "unban", &room, &carol.user).await.refused(403, "M_FORBIDDEN");
    carol.join(&room).await;
    moderate(&bob, "kick", &room, &carol.user).await.refused(403, "M_FORBIDDEN");
    moderate(&bob, "ban", &room, &carol.user).await.ok();
    carol.post(&format!("/rooms/{room}/join"), json!({})).await.refused(403, "M_FORBIDDEN");
    alice.invite(&room, &carol.user).await.refused(403, "M_FORBIDDEN");
    // To unban takes the level of kicking too.
    moderate(&bob, "unban", &room, &carol.user).await.refused(403, "M_FORBIDDEN");
    moderate(&alice, "unban", &room, &carol.user).await.ok();
    alice.invite(&room, &carol.user).await.ok();
    carol.join(&room).await;
    moderate(&alice, "kick", &room, &carol.user).await.ok();
    let member = alice.get(&format!("/rooms/{room}/state/m.room.member/{}", carol.user)).await.ok();
    assert_eq!((&member["membership"], &member["reason"]), (&json!("leave"), &json!("because")));
    moderate(&bob, "ban", &room, &alice.user).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn cr7_an_invite_can_be_left_when_the_room_is_empty() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.create_room(json!({ "invite": [bob.user] })).await;
    alice.leave(&room).await;
    bob.leave(&room).await;
    assert_eq!(bob.sync("").await["rooms"]["invite"][&room], Value::Null);
    bob.leave(&room).await;
}

#[tokio::test]
async fn cr8_forgotten_rooms_vanish_until_the_next_invite() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.create_room(json!({ "invite": [bob.user] })).await;
    bob.join(&room).await;
    let forget = format!("/rooms/{room}/forget");
    bob.post(&forget, json!({})).await.refused(400, "M_UNKNOWN");
    let since = text(&bob.sync("").await["next_batch"]);
    bob.leave(&room).await;
    bob.get(&format!("/rooms/{room}/messages?dir=b")).await.ok();
    bob.post(&forget, json!({})).await.ok();
    bob.post(&forget, json!({})).await.ok();
    bob.get(&format!("/rooms/{room}/messages?dir=b")).await.refused(403, "M_FORBIDDEN");
    let left = bob.sync(&since).await;
    assert!(left["rooms"]["leave"][&room].is_object(), "{left}");
    let all = bob.get("/sync?timeout=0&filter=%7B%22room%22%3A%7B%22include_leave%22%3Atrue%7D%7D").await.ok();
    assert_eq!(all["rooms"]["leave"][&room], Value::Null);
    alice.invite(&room, &bob.user).await.ok();
    assert!(bob.sync("").await["rooms"]["invite"][&room].is_object());
    bob.join(&room).await;
    bob.get(&format!("/rooms/{room}/messages?dir=b")).await.ok();
    alice.post(&forget, json!({})).await.refused(400, "M_UNKNOWN");
    let stranger = server.register("stranger").await;
    stranger.post(&forget, json!({})).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn cr9_what_was_seen_stays_as_it_was_at_the_leave() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "before" })).await;
    bob.join(&room).await;
    let seen = alice.say(&room, "before").await;
    bob.leave(&room).await;
    alice.set_state(&room, "m.room.name", json!({ "name": "after" })).await;
    let unseen = alice.say(&room, "after").await;
    carol.join(&room).await;
    assert_eq!(bob.state(&room, "m.room.name").await["name"], "before");
    let whole = list(&bob.get(&format!("/rooms/{room}/state")).await.ok());
    let name = whole.iter().find(|event| event["type"] == "m.room.name").unwrap();
    assert_eq!(name["content"]["name"], "before");
    let members = bob.get(&format!("/rooms/{room}/members")).await.ok();
    assert_eq!(list(&members["chunk"]).len(), 2);
    assert_eq!(bob.bodies(&room).await, ["before"]);
    let context = bob.get(&format!("/rooms/{room}/context/{seen}")).await.ok();
    let after = list(&context["events_after"]);
    assert_eq!(each(&json!(after), "type"), ["m.room.member"]);
    bob.get(&format!("/rooms/{room}/context/{unseen}")).await.refused(404, "M_NOT_FOUND");
    bob.get(&format!("/rooms/{room}/joined_members")).await.refused(403, "M_FORBIDDEN");
    let joined = alice.get(&format!("/rooms/{room}/joined_members")).await.ok();
    assert_eq!(joined["joined"].as_object().unwrap().len(), 2);
    bob.try_send(&room, "m.room.message", json!({ "body": "x" })).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn cr9_what_came_after_the_leave_is_shown_in_neither_direction() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    alice.say(&room, "before").await;
    bob.leave(&room).await;
    for visibility in ["world_readable", "joined"] {
        alice.set_state(&room, "m.room.history_visibility", json!({ "history_visibility": visibility })).await;
        alice.say(&room, &format!("after {visibility}")).await;
    }
    for dir in ["b", "f"] {
        let page = bob.get(&format!("/rooms/{room}/messages?dir={dir}&limit=100")).await.ok();
        let bodies: Vec<_> =
            list(&page["chunk"]).iter().filter_map(|event| event["content"].get("body").cloned()).collect();
        assert_eq!(bodies, ["before"], "{dir}");
    }
}

#[tokio::test]
async fn cr10_strangers_learn_nothing_of_a_room() {
    let server = Server::new().await;
    let [alice, mallory] = server.people(["alice", "mallory"]).await;
    let room = alice.create_room(json!({ "name": "secret" })).await;
    let event = alice.say(&room, "secret").await;
    let nowhere = "!nowhere:example.org".to_owned();
    for path in ["state", "state/m.room.name", "state/m.room.name/", "members", "joined_members", "aliases"] {
        mallory.get(&format!("/rooms/{room}/{path}")).await.refused(403, "M_FORBIDDEN");
    }
    mallory.get(&format!("/rooms/{room}/messages?dir=b")).await.refused(403, "M_FORBIDDEN");
    mallory.get(&format!("/rooms/{room}/context/{event}")).await.refused(403, "M_FORBIDDEN");
    mallory.get(&format!("/_matrix/client/v1/rooms/{room}/relations/{event}")).await.refused(403, "M_FORBIDDEN");
    mallory.get(&format!("/_matrix/client/v1/rooms/{room}/threads")).await.refused(403, "M_FORBIDDEN");
    let mut answers = Vec::new();
    for room in [&room, &nowhere] {
        let rooms = format!("/rooms/{room}");
        let user = json!({ "user_id": "@x:example.org" });
        let leave = json!({ "membership": "leave" });
        answers.push([
            mallory.get(&format!("{rooms}/state/m.room.name")).await.json,
            mallory.get(&format!("{rooms}/messages?dir=b")).await.json,
            mallory.get(&format!("{rooms}/event/{event}")).await.json,
            mallory.put(&format!("{rooms}/send/m.room.message/1"), json!({})).await.json,
            mallory.put(&format!("{rooms}/state/m.room.name"), json!({})).await.json,
            mallory.put(&format!("{rooms}/redact/{event}/1"), json!({})).await.json,
            mallory.post(&format!("{rooms}/leave"), json!({})).await.json,
            mallory.post(&format!("{rooms}/join"), json!({})).await.json,
            mallory.put(&format!("{rooms}/state/m.room.member/{}", mallory.user), leave.clone()).await.json,
            mallory.post(&format!("{rooms}/invite"), user.clone()).await.json,
            mallory.post(&format!("{rooms}/kick"), user.clone()).await.json,
            mallory.post(&format!("{rooms}/ban"), user).await.json,
        ]);
    }
    assert_eq!(answers[0], answers[1]);
    assert!(answers[0].iter().all(|answer| !answer["errcode"].is_null()), "{answers:?}");
    alice.set_state(&room, "m.room.history_visibility", json!({ "history_visibility": "world_readable" })).await;
    alice.say(&room, "open").await;
    assert_eq!(mallory.state(&room, "m.room.name").await["name"], "secret");
    assert_eq!(mallory.bodies(&room).await, ["open"]);
}

#[tokio::test]
async fn cr22_a_restricted_room_lets_in_members_of_another() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    let space = alice.public_room().await;
    let allow = json!([{ "type": "m.room_membership", "room_id": space }, { "type": "odd" }, "odd", { "room_id": 1 }]);
    let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": "restricted", "allow": allow } });
    let room = alice.create_room(json!({ "initial_state": [rule] })).await;
    bob.join(&space).await;
    bob.join(&room).await;
    carol.post(&format!("/rooms/{room}/join"), json!({})).await.refused(403, "M_FORBIDDEN");
    // Nobody but the server says who lets a user in.
    let content = json!({ "membership": "join", "join_authorised_via_users_server": alice.user });
    let path = format!("/rooms/{room}/state/m.room.member/{}", carol.user);
    carol.put(&path, content).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn cr23_knocks_are_repeatable_and_can_be_answered() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let room = alice.create_room(json!({ "initial_state": [rule] })).await;
    let closed = alice.create_room(json!({})).await;
    bob.post(&format!("/knock/{closed}"), json!({})).await.refused(403, "M_FORBIDDEN");
    bob.post(&format!("/knock/{room}"), json!({ "reason": "please" })).await.ok();
    bob.post(&format!("/knock/{room}"), json!({ "reason": "please!" })).await.ok();
    assert!(bob.sync("").await["rooms"]["knock"][&room].is_object());
    let path = format!("/rooms/{room}/state/m.room.member/{}", bob.user);
    assert_eq!(alice.get(&path).await.ok()["reason"], "please!");
    bob.leave(&room).await;
    assert_eq!(alice.get(&path).await.ok()["membership"], "leave");
    bob.post(&format!("/knock/{room}"), json!({})).await.ok();
    alice.invite(&room, &bob.user).await.ok();
    bob.post(&format!("/knock/{room}"), json!({})).await.refused(403, "M_FORBIDDEN");
    bob.join(&room).await;
    bob.post(&format!("/knock/{room}"), json!({})).await.refused(403, "M_FORBIDDEN");
    moderate(&alice, "ban", &room, &bob.user).await.ok();
    bob.post(&format!("/knock/{room}"), json!({})).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn cr31_inviting_twice_is_once() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.create_room(json!({})).await;
    alice.invite(&room, &bob.user).await.ok();
    let before = count(&alice, &room, "m.room.member").await;
    alice.invite(&room, &bob.user).await.ok();
    assert_eq!(count(&alice, &room, "m.room.member").await, before);
}

#[tokio::test]
async fn ca13_suspended_users_may_leave_and_little_else() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    let own = bob.say(&room, "x").await;
    let other = alice.say(&room, "y").await;
    let users = &server.state.users;
    users.set_suspended(&alice.user.as_str().into(), &bob.user.as_str().into(), true).await.unwrap();
    bob.post("/createRoom", json!({})).await.refused(403, "M_USER_SUSPENDED");
    bob.try_send(&room, "m.room.message", json!({})).await.refused(403, "M_USER_SUSPENDED");
    bob.invite(&room, "@x:example.org").await.refused(403, "M_USER_SUSPENDED");
    bob.put(&format!("/rooms/{room}/redact/{other}/1"), json!({})).await.refused(403, "M_USER_SUSPENDED");
    bob.put(&format!("/rooms/{room}/redact/{own}/2"), json!({})).await.ok();
    assert_eq!(bob.bodies(&room).await, ["y"]);
    bob.leave(&room).await;
    bob.post(&format!("/rooms/{room}/join"), json!({})).await.refused(403, "M_USER_SUSPENDED");
}

#[tokio::test]
async fn ca13_suspended_users_decline_invites_and_come_into_no_room() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let knockable = alice.create_room(json!({ "initial_state": [rule] })).await;
    let knocked = alice.create_room(json!({ "initial_state": [rule] })).await;
    let invited = alice.create_room(json!({ "invite": [bob.user] })).await;
    bob.post(&format!("/knock/{knocked}"), json!({})).await.ok();
    server.state.users.set_suspended(&alice.id(), &bob.id(), true).await.unwrap();
    bob.post(&format!("/knock/{knockable}"), json!({})).await.refused(403, "M_USER_SUSPENDED");
    let own = |room: &str| format!("/rooms/{room}/state/m.room.member/{}", bob.user);
    bob.put(&own(&knockable), json!({ "membership": "knock" })).await.refused(403, "M_USER_SUSPENDED");
    bob.post(&format!("/join/{invited}"), json!({})).await.refused(403, "M_USER_SUSPENDED");
    bob.post(&format!("/rooms/{invited}/join"), json!({})).await.refused(403, "M_USER_SUSPENDED");
    bob.put(&own(&invited), json!({ "membership": "join" })).await.refused(403, "M_USER_SUSPENDED");
    bob.leave(&invited).await;
    bob.leave(&knocked).await;
    for room in [&invited, &knocked] {
        assert_eq!(alice.get(&own(room)).await.ok()["membership"], "leave");
    }
    alice.get(&own(&knockable)).await.refused(404, "M_NOT_FOUND");
}
