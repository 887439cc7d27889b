//! Names that features had as proposals: clients ask for these, and look for these flags, for years after the acceptance.

use serde_json::{Value, json};
use testkit::{Client, Server, each, encoded, list, text};

/// The flags that are on.
async fn flags(client: &Client) -> Vec<String> {
    let answer = client.get("/_matrix/client/versions").await.ok();
    let flags = answer["unstable_features"].as_object().unwrap();
    flags.iter().filter(|(_, on)| **on == Value::Bool(true)).map(|(name, _)| name.clone()).collect()
}

#[tokio::test]
async fn flags_that_clients_look_for_are_set() {
    let server = Server::new().await;
    let found = flags(&server.nobody()).await;
    for flag in [
        "org.matrix.msc2285.stable",
        "org.matrix.msc2946",
        "org.matrix.msc3030",
        "org.matrix.msc3440.stable",
        "org.matrix.msc3715.stable",
        "org.matrix.msc3771",
        "org.matrix.msc3773",
        "org.matrix.msc3827.stable",
        "org.matrix.msc3916.stable",
        "org.matrix.msc3952_intentional_mentions",
        "org.matrix.msc3981",
        "org.matrix.msc4306",
        "uk.half-shot.msc2666.query_mutual_rooms",
        "uk.half-shot.msc2666.query_mutual_rooms.stable",
        "uk.tcpip.msc4133",
        "uk.tcpip.msc4133.stable",
    ] {
        assert!(found.iter().any(|name| name == flag), "{flag}: {found:?}");
    }
    // What is not there (QR sign-in, which needs the OAuth 2.0 API; login tokens, which are off) is not advertised.
    for flag in ["org.matrix.msc4108", "org.matrix.msc3882"] {
        assert!(!found.iter().any(|name| name == flag), "{flag}: {found:?}");
    }
}

#[tokio::test]
async fn login_tokens_have_their_old_name() {
    let path = "/_matrix/client/unstable/org.matrix.msc3882/login/get_token";
    for on in [false, true] {
        let server = Server::with(|options| options.login_tokens = on).await;
        let alice = server.register("alice").await;
        assert_eq!(flags(&alice).await.iter().any(|name| name == "org.matrix.msc3882"), on);
        let answer = alice.get("/capabilities").await.ok();
        assert_eq!(answer["capabilities"]["org.matrix.msc3882.get_login_token"], json!({ "enabled": on }));
        assert_eq!(alice.post(path, json!({})).await.status, if on { 401 } else { 404 });
    }
}

#[tokio::test]
async fn shared_rooms_are_paged_by_the_old_names() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let mut rooms = Vec::new();
    for _ in 0..101 {
        let room = alice.public_room().await;
        bob.join(&room).await;
        rooms.push(room);
    }
    rooms.sort();
    let path = format!("/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms?user_id={}", bob.user);
    let first = alice.get(&path).await.ok();
    assert_eq!(first["next_batch"], first["next_batch_token"]);
    let more = format!("{path}&batch_token={}", text(&first["next_batch_token"]));
    let second = alice.get(&more).await.ok();
    assert_eq!((second.get("next_batch_token"), &second["count"]), (None, &json!(101)));
    let found = [list(&first["joined"]), list(&second["joined"])].concat();
    assert_eq!(found, rooms.iter().map(|room| json!(room)).collect::<Vec<_>>());
}

#[tokio::test]
async fn events_are_found_by_time_under_the_old_name() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    let event = alice.say(&room, "first").await;
    let path =
        |prefix: &str| format!("/_matrix/client/{prefix}/rooms/{room}/timestamp_to_event?dir=b&ts=9999999999999");
    let found = alice.get(&path("unstable/org.matrix.msc3030")).await.ok();
    assert_eq!(text(&found["event_id"]), event);
    assert_eq!(found, alice.get(&path("v1")).await.ok());
}

#[tokio::test]
async fn spaces_are_walked_under_the_old_name() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let space = alice.create_room(json!({ "creation_content": { "type": "m.space" } })).await;
    let room = alice.public_room().await;
    alice.set_state_of(&space, "m.space.child", &room, json!({ "via": ["example.org"] })).await;
    let path = |prefix: &str| format!("/_matrix/client/{prefix}/rooms/{space}/hierarchy");
    let found = alice.get(&path("unstable/org.matrix.msc2946")).await.ok();
    assert_eq!(each(&found["rooms"], "room_id"), [space.clone(), room]);
    assert_eq!(found, alice.get(&path("v1")).await.ok());
}

#[tokio::test]
async fn summaries_have_their_old_names() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    alice.set_state(&room, "m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })).await;
    let new = alice.get(&format!("/_matrix/client/v1/room_summary/{room}")).await.ok();
    for path in [format!("summary/{room}"), format!("rooms/{room}/summary")] {
        let mut old = alice.get(&format!("/_matrix/client/unstable/im.nheko.summary/{path}")).await.ok();
        for (name, value) in [("room_version", "12"), ("encryption", "m.megolm.v1.aes-sha2")] {
            let named = old.as_object_mut().unwrap().remove(&format!("im.nheko.summary.{name}"));
            assert_eq!(named, Some(json!(value)), "{path}");
        }
        assert_eq!(old, new, "{path}");
    }
}

#[tokio::test]
async fn relations_are_asked_for_by_the_old_names() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    let root = alice.say(&room, "root").await;
    let relate = |event: &str, kind: &str, key: Option<&str>| {
        let mut content = json!({ "msgtype": "m.text", "body": "x" });
        content["m.relates_to"] = json!({ "rel_type": kind, "event_id": event });
        content["m.relates_to"].as_object_mut().unwrap().extend(key.map(|key| ("key".to_owned(), json!(key))));
        content
    };
    let first = alice.send(&room, "m.room.message", relate(&root, "m.thread", None)).await;
    let second = alice.send(&room, "m.room.message", relate(&root, "m.thread", None)).await;
    let reaction = alice.send(&room, "m.reaction", relate(&first, "m.annotation", Some("+"))).await;
    let ids = async |query: &str| {
        let path = format!("/_matrix/client/unstable/rooms/{room}/relations/{}?{query}", encoded(&root));
        each(&alice.get(&path).await.ok()["chunk"], "event_id")
    };
    assert_eq!(ids("org.matrix.msc3715.dir=f").await, [first.clone(), second.clone()]);
    assert_eq!(ids("org.matrix.msc3715.dir=b").await, [second.clone(), first.clone()]);
    assert_eq!(ids("dir=f&org.matrix.msc3981.recurse=true").await, [first, second, reaction]);
}

#[tokio::test]
async fn the_state_after_is_asked_for_by_the_old_name() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    let sync = alice.sync_with("timeout=0&org.matrix.msc4222.use_state_after=true").await;
    let section = &sync["rooms"]["join"][room.as_str()];
    let state = list(&section["org.matrix.msc4222.state_after"]["events"]);
    assert!(state.iter().any(|event| event["type"] == "m.room.join_rules"), "{section}");
    assert_eq!((section["state_after"]["events"].as_array(), section.get("state")), (Some(&state), None));
}
