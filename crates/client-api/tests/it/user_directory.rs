//! Searching for users.

use serde_json::{Value, json};
use store::UserId;

use testkit::{Client, Server, each};

async fn search(client: &Client, term: &str) -> Vec<String> {
    let found = client.post("/user_directory/search", json!({ "search_term": term })).await.ok();
    each(&found["results"], "user_id")
}

#[tokio::test]
async fn cr27_users_are_found_by_those_who_may_know_of_them() {
    let server = Server::new().await;
    let [alice, bob, carol, dave] = server.people(["alice", "bob", "carol", "dave"]).await;
    let users = &server.state.users;
    users.put_profile_field(&UserId::from(bob.user.as_str()), "displayname", json!("Robert Ünal")).await.unwrap();
    assert_eq!(search(&alice, "bob").await, [""; 0]);
    let private = alice.create_room(json!({ "invite": [bob.user] })).await;
    assert_eq!(search(&alice, "bob").await, [""; 0]);
    bob.join(&private).await;
    for term in ["bob", "@BOB:example.org", "ünal", "rob"] {
        assert_eq!(search(&alice, term).await, [bob.user.as_str()], "{term}");
    }
    // A name in one room is for that room.
    let nickname = json!({ "membership": "join", "displayname": "Nickname" });
    bob.put(&format!("/rooms/{private}/state/m.room.member/{}", bob.user), nickname).await.ok();
    assert_eq!(search(&alice, "nickname").await, [""; 0]);
    assert_eq!(search(&carol, "bob").await, [""; 0]);
    let open = dave.public_room().await;
    assert_eq!(search(&alice, "dave").await, [dave.user.as_str()]);
    dave.set_state(&open, "m.room.join_rules", json!({ "join_rule": "invite" })).await;
    assert_eq!(search(&alice, "dave").await, [""; 0]);
    dave.set_state(&open, "m.room.history_visibility", json!({ "history_visibility": "world_readable" })).await;
    assert_eq!(search(&alice, "dave").await, [dave.user.as_str()]);
    let some = alice.post("/user_directory/search", json!({ "search_term": "example", "limit": 1 })).await.ok();
    assert_eq!((some["results"].as_array().map(Vec::len), &some["limited"]), (Some(1), &json!(true)));
    let none = alice.post("/user_directory/search", json!({ "search_term": "" })).await.ok();
    assert_eq!(none, json!({ "results": Value::Array(Vec::new()), "limited": false }));
    alice.post("/user_directory/search", json!({})).await.refused(400, "M_BAD_JSON");
}
