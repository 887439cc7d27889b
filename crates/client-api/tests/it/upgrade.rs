//! Replacing a room by one of another version.

use serde_json::{Value, json};
use store::UserId;

use testkit::{Server, text};

#[tokio::test]
async fn cr21_an_upgrade_moves_what_makes_a_room() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let encryption = json!({ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } });
    let body = json!({
        "room_version": "9",
        "visibility": "public",
        "name": "Name", "topic": "Topic", "room_alias_name": "here",
        "creation_content": { "type": "m.space" },
        "initial_state": [encryption],
        "power_level_content_override": { "users": { alice.user.clone(): 100, bob.user.clone(): 60 }, "kick": "70" },
    });
    let old = alice.create_room(body).await;
    bob.join(&old).await;
    let path = format!("/rooms/{old}/upgrade");
    bob.post(&path, json!({ "new_version": "12" })).await.refused(403, "M_FORBIDDEN");
    alice.post(&path, json!({ "new_version": "none" })).await.refused(400, "M_UNSUPPORTED_ROOM_VERSION");
    alice.post(&path, json!({})).await.refused(400, "M_BAD_JSON");
    let new = text(&alice.post(&path, json!({ "new_version": "12" })).await.ok()["replacement_room"]);
    let create = alice.state(&new, "m.room.create").await;
    assert_eq!((&create["room_version"], &create["type"]), (&json!("12"), &json!("m.space")));
    assert_eq!(create["predecessor"]["room_id"], old);
    for kind in ["m.room.name", "m.room.topic", "m.room.encryption", "m.room.join_rules", "m.room.guest_access"] {
        assert_eq!(alice.state(&new, kind).await, alice.state(&old, kind).await, "{kind}");
    }
    let levels = alice.state(&new, "m.room.power_levels").await;
    assert_eq!((&levels["users"], &levels["kick"]), (&json!({ bob.user.clone(): 60 }), &json!(70)));
    assert_eq!(alice.state(&old, "m.room.tombstone").await["replacement_room"], new);
    let found = bob.get("/directory/room/%23here%3Aexample.org").await.ok();
    assert_eq!(found["room_id"], new);
    assert_eq!(alice.state(&new, "m.room.canonical_alias").await["alias"], "#here:example.org");
    let quiet = alice.state(&old, "m.room.power_levels").await;
    assert_eq!((&quiet["events_default"], &quiet["invite"]), (&json!(50), &json!(50)));
    let listed = bob.get("/publicRooms").await.ok();
    assert_eq!(testkit::each(&listed["chunk"], "room_id"), [new]);
}

#[tokio::test]
async fn cr21_power_is_neither_won_nor_lost() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let levels = json!({
        "users": { alice.user.clone(): 50, bob.user.clone(): 200 },
        "events": { "m.room.tombstone": 50, "m.room.power_levels": 200 },
    });
    let body = json!({ "room_version": "10", "preset": "public_chat", "power_level_content_override": levels });
    // The power levels take the creator's power away, so that the settings that come after them cannot need it.
    let mut body = body;
    body["power_level_content_override"]["state_default"] = json!(0);
    let old = alice.create_room(body).await;
    let path = format!("/rooms/{old}/upgrade");
    let new = text(&alice.post(&path, json!({ "new_version": "11" })).await.ok()["replacement_room"]);
    let levels = alice.state(&new, "m.room.power_levels").await;
    assert_eq!(levels["users"], json!({ alice.user.clone(): 50, bob.user.clone(): 200 }));
    // From a room of creators to one of levels, and back with another creator.
    let body = json!({ "preset": "public_chat", "creation_content": { "additional_creators": [bob.user] } });
    let old = alice.create_room(body).await;
    let path = format!("/rooms/{old}/upgrade");
    let new = text(&alice.post(&path, json!({ "new_version": "11" })).await.ok()["replacement_room"]);
    let levels = alice.state(&new, "m.room.power_levels").await;
    assert_eq!(levels["users"], json!({ alice.user.clone(): 150, bob.user.clone(): 150 }));
    let path = format!("/rooms/{new}/upgrade");
    let body = json!({ "new_version": "12", "additional_creators": [bob.user] });
    let newest = text(&alice.post(&path, body).await.ok()["replacement_room"]);
    assert_eq!(alice.state(&newest, "m.room.create").await["additional_creators"], json!([bob.user]));
    assert_eq!(alice.state(&newest, "m.room.power_levels").await["users"], json!({}));
}

#[tokio::test]
async fn cr21_what_users_keep_about_a_room_goes_along() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let old = alice.public_room().await;
    bob.join(&old).await;
    let users = &server.state.users;
    let direct = json!({ alice.user.clone(): [old] }).to_string();
    for client in [&alice, &bob] {
        let user = UserId::from(client.user.as_str());
        users.put_tag(&user, &old, "m.favourite", json!({ "order": 0.5 })).await.unwrap();
        users.put_account_data(&user, "", "m.direct", direct.clone()).await.unwrap();
    }
    let path = format!("/rooms/{old}/upgrade");
    let new = text(&alice.post(&path, json!({ "new_version": "11" })).await.ok()["replacement_room"]);
    let kept = async |client: &testkit::Client| {
        let user = UserId::from(client.user.as_str());
        let tags = users.tags(&user, &new).await.unwrap();
        let direct = users.account_data(&user, "", "m.direct").await.unwrap().unwrap();
        let direct: Value = serde_json::from_str(&direct).unwrap();
        (tags.contains_key("m.favourite"), direct[&alice.user].as_array().unwrap().contains(&json!(new)))
    };
    assert_eq!(kept(&alice).await, (true, true));
    assert_eq!(kept(&bob).await, (false, false));
    bob.join(&new).await;
    assert_eq!(kept(&bob).await, (true, true));
}
