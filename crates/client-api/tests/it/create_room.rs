//! Creating rooms.

use serde_json::{Value, json};

use testkit::{Server, each, list, text};

/// The types of a room's events in order, with the names of set keys.
async fn types(client: &testkit::Client, room: &str) -> Vec<String> {
    let page = client.get(&format!("/rooms/{room}/messages?dir=f&limit=100")).await.ok();
    each(&page["chunk"], "type")
}

#[tokio::test]
async fn cr1_what_a_new_room_holds_is_applied_in_order() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice
        .create_room(json!({
            "preset": "private_chat",
            "visibility": "public",
            "room_alias_name": "here",
            "name": "The name",
            "topic": "The topic",
            "power_level_content_override": { "events_default": 7 },
            "initial_state": [
                { "type": "m.room.name", "content": { "name": "Another" } },
                { "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } },
                { "type": "org.example.x", "state_key": "key", "content": { "x": 1 } },
            ],
            // The invite of oneself fails, and neither the room nor the other invite is lost.
            "invite": [alice.user, bob.user],
        }))
        .await;
    let expected = [
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.canonical_alias",
        "m.room.history_visibility",
        "m.room.guest_access",
        "m.room.join_rules",
        "org.example.x",
        "m.room.name",
        "m.room.topic",
        "m.room.member",
    ];
    assert_eq!(types(&alice, &room).await, expected);
    assert_eq!(alice.state(&room, "m.room.name").await["name"], "The name");
    assert_eq!(alice.state(&room, "m.room.topic").await["topic"], "The topic");
    assert_eq!(alice.state(&room, "m.room.join_rules").await["join_rule"], "knock");
    assert_eq!(alice.state(&room, "m.room.canonical_alias").await["alias"], "#here:example.org");
    let levels = alice.state(&room, "m.room.power_levels").await;
    assert_eq!((&levels["events_default"], &levels["state_default"]), (&json!(7), &json!(50)));
    let member = alice.get(&format!("/rooms/{room}/state/m.room.member/{}", bob.user)).await.ok();
    assert_eq!(member["membership"], "invite");
    let listed = server.nobody().get("/publicRooms").await.ok();
    assert_eq!(each(&listed["chunk"], "room_id"), [room]);
}

#[tokio::test]
async fn cr1_presets_set_what_the_specification_says() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    for (body, join_rule, guests) in [
        (json!({}), "invite", "can_join"),
        (json!({ "visibility": "public" }), "public", "forbidden"),
        (json!({ "preset": "public_chat" }), "public", "forbidden"),
        (json!({ "preset": "trusted_private_chat", "visibility": "public" }), "invite", "can_join"),
    ] {
        let room = alice.create_room(body).await;
        assert_eq!(alice.state(&room, "m.room.join_rules").await["join_rule"], join_rule);
        assert_eq!(alice.state(&room, "m.room.guest_access").await["guest_access"], guests);
        assert_eq!(alice.state(&room, "m.room.history_visibility").await["history_visibility"], "shared");
    }
}

#[tokio::test]
async fn cr2_room_versions_and_aliases_are_checked() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    alice.post("/createRoom", json!({ "room_version": 10 })).await.refused(400, "M_BAD_JSON");
    alice.post("/createRoom", json!({ "room_version": "none" })).await.refused(400, "M_UNSUPPORTED_ROOM_VERSION");
    alice.post("/createRoom", json!({ "preset": "none" })).await.refused(400, "M_BAD_JSON");
    alice.post("/createRoom", json!({ "invite": ["bob"] })).await.refused(400, "M_INVALID_PARAM");
    alice.post("/createRoom", json!({ "room_alias_name": "a:b" })).await.refused(400, "M_INVALID_PARAM");
    let room = alice.create_room(json!({ "creation_content": { "room_version": "3", "x": "y" } })).await;
    let create = alice.state(&room, "m.room.create").await;
    assert_eq!((&create["room_version"], &create["x"]), (&json!("12"), &json!("y")));
    alice.create_room(json!({ "room_alias_name": "taken" })).await;
    alice.post("/createRoom", json!({ "room_alias_name": "taken" })).await.refused(400, "M_ROOM_IN_USE");
    assert_eq!(list(&alice.get("/joined_rooms").await.ok()["joined_rooms"]).len(), 2);
    for version in event::SUPPORTED_VERSIONS {
        let room = alice.create_room(json!({ "room_version": version })).await;
        assert_eq!(alice.state(&room, "m.room.create").await["room_version"], *version);
    }
}

#[tokio::test]
async fn cr3_version_12_rooms_belong_to_their_creators() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let levels = |user: &str| json!({ "power_level_content_override": { "users": { user: 100 } } });
    alice.post("/createRoom", levels(&alice.user)).await.refused(400, "M_INVALID_PARAM");
    for creators in [json!(["nobody"]), json!("@bob:example.org"), json!([1])] {
        let body = json!({ "creation_content": { "additional_creators": creators } });
        assert_eq!(alice.post("/createRoom", body).await.status, 400);
    }
    let body = json!({
        "creation_content": { "additional_creators": [bob.user] },
        "power_level_content_override": { "users": { bob.user.clone(): 50 } },
    });
    assert_eq!(alice.post("/createRoom", body).await.status, 400);
    let room = alice.create_room(json!({ "preset": "trusted_private_chat", "invite": [bob.user] })).await;
    let events = alice.timeline(&room).await;
    assert_eq!((text(&events[0]["type"]), text(&events[0]["room_id"])), ("m.room.create".to_owned(), room.clone()));
    let id = text(&events[0]["event_id"]);
    assert_eq!(room.strip_prefix('!'), id.strip_prefix('$'));
    assert_eq!(events[0]["content"]["additional_creators"], json!([bob.user]));
    let levels = alice.state(&room, "m.room.power_levels").await;
    assert_eq!(levels["users"], json!({}));
    assert_eq!(levels["events"]["m.room.tombstone"], 150);
    // A creator has more power than any level.
    bob.join(&room).await;
    bob.set_state(&room, "m.room.tombstone", json!({ "body": "", "replacement_room": "!a:b" })).await;
    let old =
        alice.create_room(json!({ "room_version": "11", "preset": "trusted_private_chat", "invite": [bob.user] }));
    let levels = alice.state(&old.await, "m.room.power_levels").await;
    assert_eq!(levels["users"], json!({ alice.user.clone(): 100, bob.user.clone(): 100 }));
}

#[tokio::test]
async fn cr31_rooms_whose_state_cannot_be_are_refused() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let body = json!({
        "room_version": "10",
        "name": "Name",
        "power_level_content_override": { "users": { alice.user.clone(): 0 } },
    });
    alice.post("/createRoom", body).await.refused(400, "M_INVALID_ROOM_STATE");
    let member =
        json!({ "type": "m.room.member", "state_key": "@other:example.org", "content": { "membership": "join" } });
    alice.post("/createRoom", json!({ "initial_state": [member] })).await.refused(400, "M_INVALID_ROOM_STATE");
    assert_eq!(alice.get("/joined_rooms").await.ok(), json!({ "joined_rooms": [] }));
}

#[tokio::test]
async fn contents_of_new_rooms_are_strict() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let with = |content: Value| json!({ "initial_state": [{ "type": "org.example.x", "content": content }] });
    alice.post("/createRoom", with(json!({ "x": 1.5 }))).await.refused(400, "M_BAD_JSON");
    alice.post("/createRoom", with(json!("text"))).await.refused(400, "M_BAD_JSON");
    alice.post("/createRoom", json!({ "invite_3pid": [{}] })).await.refused(403, "M_THREEPID_DENIED");
}

#[tokio::test]
async fn rooms_made_at_the_same_time_are_different_rooms() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    server.clock.advance(60_000);
    let first = alice.create_room(json!({})).await;
    server.clock.advance(-60_000);
    // The clock has been set back: many rooms are made within what has been already.
    for _ in 0..10 {
        server.clock.advance(-2);
        assert_ne!(alice.create_room(json!({})).await, first);
    }
    assert_eq!(list(&alice.get("/joined_rooms").await.ok()["joined_rooms"]).len(), 11);
}

#[tokio::test]
async fn what_is_nested_too_deeply_to_be_read_again_is_refused() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let nested = |levels: usize| json!({ "a": (1..levels).fold(json!(1), |inner, _| json!([inner])) });
    for (levels, taken) in [(100, true), (101, false), (127, false)] {
        let state = format!("/rooms/{room}/state/org.example.deep/{levels}");
        let initial = json!([{ "type": "org.example.deep", "content": nested(levels) }]);
        let answers = [
            alice.try_send(&room, "org.example.deep", nested(levels)).await,
            alice.put(&state, nested(levels)).await,
            alice.post("/createRoom", json!({ "creation_content": nested(levels) })).await,
            alice.post("/createRoom", json!({ "initial_state": initial })).await,
        ];
        for answer in answers {
            match taken {
                true => drop(answer.ok()),
                false => answer.refused(400, "M_BAD_JSON"),
            }
        }
    }
}

#[tokio::test]
async fn a_redaction_is_no_state() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let levels = json!({ "redact": 100, "state_default": 0 });
    let body = json!({ "preset": "public_chat", "room_version": "11", "power_level_content_override": levels });
    let room = alice.create_room(body).await;
    bob.join(&room).await;
    let event = alice.say(&room, "stays").await;
    let path = format!("/rooms/{room}/state/m.room.redaction/k");
    bob.put(&path, json!({ "redacts": event })).await.refused(400, "M_INVALID_PARAM");
    assert_eq!(alice.bodies(&room).await, ["stays"]);
}
