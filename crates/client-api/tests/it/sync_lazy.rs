//! `/sync`: lazily loaded members and room summaries (behaviours CY7, CY8).

use serde_json::{Value, json};
use testkit::{Client, Server, encoded};

use crate::sync::{events, joined, of_type};

const LAZY: &str = r#"{"room":{"state":{"lazy_load_members":true}}}"#;

fn lazy() -> String {
    format!("filter={}", encoded(LAZY))
}

/// The users whose member events are in the state part.
fn members(answer: &Value, room: &str) -> Vec<String> {
    let state = events(joined(answer, room), "state");
    let members = state.iter().filter(|event| event["type"] == "m.room.member");
    let mut users: Vec<String> =
        members.map(|event| event["state_key"].as_str().unwrap().trim_end_matches(":example.org").to_owned()).collect();
    users.sort();
    users
}

/// A named room of alice with these further members.
async fn room_of(server: &Server, names: &[&str]) -> (Client, Vec<Client>, String) {
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "named" })).await;
    let mut others = Vec::new();
    for name in names {
        let client = server.register(name).await;
        client.join(&room).await;
        others.push(client);
    }
    (alice, others, room)
}

#[tokio::test]
async fn cy7_only_needed_members_come_and_not_again() {
    let server = Server::new().await;
    let (alice, others, room) = room_of(&server, &["bob", "carol", "dave", "erin"]).await;
    let [bob, carol, _, _] = &others[..] else { panic!() };
    for n in 0..20 {
        alice.say(&room, &n.to_string()).await;
    }
    let start = bob.sync_with(&lazy()).await;
    assert_eq!(members(&start, &room), ["@alice", "@bob"], "the senders and oneself");
    alice.say(&room, "again").await;
    let answer = bob.sync_since(&start, &lazy()).await;
    assert!(members(&answer, &room).is_empty(), "alice is known");
    carol.say(&room, "hello").await;
    let answer = bob.sync_since(&answer, &lazy()).await;
    assert_eq!(members(&answer, &room), ["@carol"]);
    carol.say(&room, "hello again").await;
    let answer = bob.sync_since(&answer, &lazy()).await;
    assert!(members(&answer, &room).is_empty());
    carol.say(&room, "still").await;
    let redundant = r#"{"room":{"state":{"lazy_load_members":true,"include_redundant_members":true}}}"#;
    let again = bob.sync_since(&answer, &format!("filter={}", encoded(redundant))).await;
    assert_eq!(members(&again, &room), ["@carol"], "as the filter wants");
    let other = bob.login("OTHER").await;
    let fresh = other.sync_with(&lazy()).await;
    assert!(members(&fresh, &room).contains(&"@carol".to_owned()), "another device knows nobody");
    let full = bob.sync_since(&again, &format!("{}&full_state=true", lazy())).await;
    assert!(members(&full, &room).contains(&"@bob".to_owned()), "oneself on full state");
    assert!(!members(&full, &room).contains(&"@erin".to_owned()));
    let whole = bob.sync("").await;
    assert_eq!(members(&whole, &room).len(), 5, "without lazy loading all");
}

#[tokio::test]
async fn cy7_members_of_a_gap_come_and_device_lists_are_whole() {
    let server = Server::new().await;
    let (alice, others, room) = room_of(&server, &["bob", "carol"]).await;
    let (bob, carol) = (&others[0], &others[1]);
    carol.say(&room, "known").await;
    let start = bob.sync_with(&lazy()).await;
    let renamed = json!({ "membership": "join", "displayname": "Carol" });
    carol.set_state_of(&room, "m.room.member", carol.user.as_str(), renamed).await;
    let dave = server.register("dave").await;
    dave.join(&room).await;
    for n in 0..15 {
        alice.say(&room, &n.to_string()).await;
    }
    let answer = bob.sync_since(&start, &lazy()).await;
    assert_eq!(joined(&answer, &room)["timeline"]["limited"], true);
    let found = members(&answer, &room);
    assert!(found.contains(&"@carol".to_owned()) && found.contains(&"@dave".to_owned()), "{found:?}");
    let changed = answer["device_lists"]["changed"].as_array().unwrap();
    assert!(changed.contains(&json!(dave.user)), "{answer}");
    let erin = server.register("erin").await;
    let start = erin.sync_with(&lazy()).await;
    erin.join(&room).await;
    let answer = erin.sync_since(&start, &lazy()).await;
    let timeline = events(joined(&answer, &room), "timeline");
    let own = timeline.iter().any(|event| event["state_key"] == json!(erin.user));
    assert!(own || members(&answer, &room).contains(&"@erin".to_owned()), "oneself on join");
    let changed = answer["device_lists"]["changed"].as_array().unwrap();
    for other in [&alice, bob, carol, &dave] {
        assert!(changed.contains(&json!(other.user)), "{} in {changed:?}", other.user);
    }
}

#[tokio::test]
async fn cy7_device_lists_name_who_is_gone() {
    let server = Server::new().await;
    let (_alice, others, room) = room_of(&server, &["bob", "carol"]).await;
    let (bob, carol) = (&others[0], &others[1]);
    let start = bob.sync("").await;
    carol.leave(&room).await;
    let answer = bob.sync_since(&start, "").await;
    assert_eq!(answer["device_lists"]["left"], json!([carol.user]), "{answer}");
    carol.join(&room).await;
    let start = bob.sync_since(&answer, "").await;
    assert_eq!(start["device_lists"]["changed"], json!([carol.user]), "{start}");
    bob.leave(&room).await;
    let answer = bob.sync_since(&start, "").await;
    let left = answer["device_lists"]["left"].as_array().unwrap();
    assert!(left.contains(&json!(carol.user)) && left.contains(&json!("@alice:example.org")), "{answer}");
    assert!(!left.contains(&json!(bob.user)));
}

#[tokio::test]
async fn cy8_heroes_are_the_first_five_others_who_are_there() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let mut others = Vec::new();
    for name in ["zoe", "bob", "carol", "dave", "erin", "frank", "grace"] {
        let client = server.register(name).await;
        client.join(&room).await;
        others.push(client);
    }
    let summary = |answer: &Value| joined(answer, &room)["summary"].clone();
    let first = alice.sync_with(&lazy()).await;
    let names = |n: std::ops::Range<usize>| others[n].iter().map(|client| json!(client.user)).collect::<Vec<_>>();
    assert_eq!(summary(&first)["m.heroes"], json!(names(0..5)));
    assert_eq!(
        (&summary(&first)["m.joined_member_count"], &summary(&first)["m.invited_member_count"]),
        (&json!(8), &json!(0))
    );
    let state = [events(joined(&first, &room), "state"), events(joined(&first, &room), "timeline")].concat();
    for hero in names(0..5) {
        assert!(state.iter().any(|event| event["state_key"] == hero), "the hero's member event: {hero}");
    }
    others[1].leave(&room).await;
    let henry = server.register("henry").await;
    alice.invite(&room, &henry.user).await.ok();
    let second = alice.sync_since(&first, &lazy()).await;
    let heroes = summary(&second)["m.heroes"].clone();
    let mut expected = names(0..1);
    expected.extend(names(2..6));
    assert_eq!(heroes, json!(expected), "who left is no hero");
    assert_eq!(
        (&summary(&second)["m.joined_member_count"], &summary(&second)["m.invited_member_count"]),
        (&json!(7), &json!(1))
    );
    alice.say(&room, "x").await;
    let third = alice.sync_since(&second, &lazy()).await;
    assert_eq!(summary(&third).get("m.joined_member_count"), None, "sent when it changes");
    alice.set_state(&room, "m.room.name", json!({ "name": "n" })).await;
    let whole = alice.sync("").await;
    alice.set_state(&room, "m.room.name", json!({ "name": "" })).await;
    let cleared = alice.sync_since(&whole, "").await;
    assert_eq!(summary(&cleared)["m.heroes"].as_array().map(Vec::len), Some(5), "unnamed again: {cleared}");
}

#[tokio::test]
async fn cy8_without_others_those_who_left_are_heroes() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    bob.leave(&room).await;
    let answer = alice.sync("").await;
    assert_eq!(joined(&answer, &room)["summary"]["m.heroes"], json!([bob.user]));
    assert!(of_type(events(joined(&answer, &room), "timeline"), "m.room.create").is_some());
}

#[tokio::test]
async fn cy7_who_left_while_one_was_out_oneself_is_told_of() {
    let server = Server::new().await;
    let (alice, others, room) = room_of(&server, &["bob", "carol"]).await;
    let [bob, carol] = &others[..] else { panic!() };
    carol.say(&room, "hello").await;
    let short = json!({ "room": { "timeline": { "limit": 1 }, "state": { "lazy_load_members": true } } }).to_string();
    for after in ["", "&use_state_after=true"] {
        let query = format!("filter={}{after}", encoded(&short));
        carol.join(&room).await;
        carol.say(&room, "hello again").await;
        let start = bob.sync_with(&query).await;
        bob.leave(&room).await;
        carol.leave(&room).await;
        bob.join(&room).await;
        alice.say(&room, "bye").await;
        let answer = bob.sync_since(&start, &query).await;
        let part = if after.is_empty() { "state" } else { "state_after" };
        let state = events(joined(&answer, &room), part);
        let of_carol = state.iter().find(|event| event["state_key"] == json!(carol.user));
        assert_eq!(of_carol.map(|event| &event["content"]["membership"]), Some(&json!("leave")), "{answer}");
    }
}
