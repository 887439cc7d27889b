//! Push rules end to end: what a rule says of a message is what `/sync` counts (behaviours CP2, CP3).

use serde_json::{Value, json};
use testkit::{Client, Server, encoded};

/// What is unread in a room: what notifies, and what highlights.
async fn unread(client: &Client, room: &str) -> (i64, i64) {
    let answer = client.sync("").await;
    let counts = &answer["rooms"]["join"][room]["unread_notifications"];
    let count = |kind: &str| counts[kind].as_i64().unwrap();
    (count("notification_count"), count("highlight_count"))
}

/// Puts a rule that highlights where a condition holds.
async fn highlight(client: &Client, id: &str, condition: Value) {
    let rule = json!({ "conditions": [condition], "actions": ["notify", { "set_tweak": "highlight" }] });
    client.put(&format!("/pushrules/global/override/{id}"), rule).await.ok();
}

#[tokio::test]
async fn cp2_cp3_a_rule_may_look_for_the_display_name_in_the_room() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    bob.put(&format!("/profile/{}/displayname", bob.user), json!({ "displayname": "Bobby B." })).await.ok();
    let [room, other] = [alice.public_room().await, alice.public_room().await];
    for room in [&room, &other] {
        bob.join(room).await;
        carol.join(room).await;
    }
    let nick = json!({ "membership": "join", "displayname": "The *Captain*" });
    bob.put(&format!("/rooms/{room}/state/m.room.member/{}", encoded(&bob.user)), nick).await.ok();
    alice.say(&room, "the *captain*, before there is a rule").await;
    assert_eq!(unread(&bob, &room).await, (1, 0));
    highlight(&bob, "name", json!({ "kind": "contains_display_name" })).await;
    for (body, expected) in [
        ("aye, the *CAPTAIN*!", (2, 1)),
        ("aye, the red captain!", (3, 1)),
        ("a bathe *captain*", (4, 1)),
        ("hello Bobby B.", (5, 1)),
    ] {
        alice.say(&room, body).await;
        assert_eq!(unread(&bob, &room).await, expected, "{body}");
    }
    alice.say(&other, "hello bobby b.").await;
    assert_eq!(unread(&bob, &other).await, (1, 1));
    assert_eq!(unread(&carol, &room).await, (5, 0), "she has no such rule");
}

#[tokio::test]
async fn cp3_the_levels_of_notifications_are_those_of_the_room() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    let room = alice.public_room().await;
    for user in [&bob, &carol] {
        user.join(&room).await;
    }
    for key in ["loud", "unnamed"] {
        highlight(&bob, key, json!({ "kind": "sender_notification_permission", "key": key })).await;
    }
    let say_at = async |carols: i64, loud: i64| {
        let levels = json!({ "users": { &carol.user: carols }, "notifications": { "loud": loud, "room": 0 } });
        alice.set_state(&room, "m.room.power_levels", levels).await;
        let (before, now) = (unread(&bob, &room).await.1, carol.say(&room, "x").await);
        let highlights = unread(&bob, &room).await.1 > before;
        bob.post(&format!("/rooms/{room}/receipt/m.read/{now}"), json!({})).await.ok();
        highlights
    };
    assert!(!say_at(39, 40).await);
    assert!(say_at(40, 40).await);
    assert!(!say_at(40, 41).await);
    assert!(!say_at(49, 60).await);
    assert!(say_at(50, 60).await, "a kind that the room does not name needs 50");
}

#[tokio::test]
async fn cp3_the_creator_of_a_room_of_version_12_always_may_call_everybody() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    for (version, creator_may) in [("12", true), ("11", false)] {
        let levels = json!({ "notifications": { "room": 101 }, "users_default": 99 });
        let levels = match version {
            "11" => json!({ "users": { &alice.user: 100 }, "notifications": levels["notifications"] }),
            _ => levels,
        };
        let body = json!({
            "preset": "public_chat", "room_version": version, "power_level_content_override": levels,
        });
        let room = alice.create_room(body).await;
        bob.join(&room).await;
        carol.join(&room).await;
        let call = json!({ "msgtype": "m.text", "body": "all of you!", "m.mentions": { "room": true } });
        bob.send(&room, "m.room.message", call.clone()).await;
        assert_eq!(unread(&carol, &room).await, (1, 0), "{version}: a plain member may not");
        alice.send(&room, "m.room.message", call).await;
        assert_eq!(unread(&carol, &room).await, (2, i64::from(creator_may)), "{version}");
    }
}
