//! Aliases and the public directory.

use serde_json::{Value, json};

use testkit::{Client, Server, each, encoded, list};

fn alias(name: &str) -> String {
    format!("/directory/room/{}", encoded(&format!("#{name}:example.org")))
}

async fn name(client: &Client, alias_name: &str, room: &str) {
    client.put(&alias(alias_name), json!({ "room_id": room })).await.ok();
}

#[tokio::test]
async fn cr18_only_new_canonical_aliases_are_checked() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    let other = alice.public_room().await;
    name(&alice, "here", &room).await;
    name(&alice, "too", &room).await;
    name(&alice, "elsewhere", &other).await;
    let path = format!("/rooms/{room}/state/m.room.canonical_alias");
    for (content, errcode) in [
        (json!({ "alias": "#none:example.org" }), "M_BAD_ALIAS"),
        (json!({ "alias": "#elsewhere:example.org" }), "M_BAD_ALIAS"),
        (json!({ "alt_aliases": ["#here:example.org", "#none:example.org"] }), "M_BAD_ALIAS"),
        (json!({ "alias": "here" }), "M_INVALID_PARAM"),
        (json!({ "alias": 1 }), "M_INVALID_PARAM"),
        (json!({ "alt_aliases": "#here:example.org" }), "M_INVALID_PARAM"),
    ] {
        alice.put(&path, content).await.refused(400, errcode);
    }
    let both = json!({ "alias": "#here:example.org", "alt_aliases": ["#too:example.org"] });
    alice.put(&path, both).await.ok();
    // Deleting an alias takes it out of the event; who may not change that may delete an own alias nevertheless.
    alice.delete(&alias("too")).await.ok();
    let content = alice.state(&room, "m.room.canonical_alias").await;
    assert_eq!(content, json!({ "alias": "#here:example.org", "alt_aliases": [] }));
    bob.join(&room).await;
    name(&bob, "bobs", &room).await;
    let all = json!({ "alias": "#bobs:example.org", "alt_aliases": ["#here:example.org"] });
    alice.put(&path, all.clone()).await.ok();
    bob.delete(&alias("here")).await.refused(403, "M_FORBIDDEN");
    bob.delete(&alias("bobs")).await.ok();
    assert_eq!(alice.state(&room, "m.room.canonical_alias").await, all);
    // The alias is gone, but it was named before.
    let mut changed = all;
    changed["x"] = json!(1);
    alice.put(&path, changed).await.ok();
    name(&bob, "again", &room).await;
    alice.delete(&alias("again")).await.ok();
    alice.delete(&alias("again")).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn aliases_are_made_once_and_found_by_anyone() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    name(&alice, "ünï/cöde", &room).await;
    let found = server.nobody().get(&alias("ünï/cöde")).await.ok();
    assert_eq!(found, json!({ "room_id": room, "servers": ["example.org"] }));
    alice.put(&alias("ünï/cöde"), json!({ "room_id": room })).await.refused(409, "M_UNKNOWN");
    bob.put(&alias("mine"), json!({ "room_id": room })).await.refused(403, "M_FORBIDDEN");
    alice.put("/directory/room/odd", json!({ "room_id": room })).await.refused(400, "M_INVALID_PARAM");
    let remote = format!("/directory/room/{}", encoded("#a:other.example"));
    alice.put(&remote, json!({ "room_id": room })).await.refused(400, "M_INVALID_PARAM");
    alice.get(&alias("none")).await.refused(404, "M_NOT_FOUND");
    alice.get("/directory/room/odd").await.refused(400, "M_INVALID_PARAM");
    let joined = bob.post(&format!("/join/{}", encoded("#ünï/cöde:example.org")), json!({})).await.ok();
    assert_eq!(joined["room_id"], room);
    bob.post(&format!("/join/{}", encoded("#none:example.org")), json!({})).await.refused(404, "M_NOT_FOUND");
    let aliases = bob.get(&format!("/rooms/{room}/aliases")).await.ok();
    assert_eq!(aliases, json!({ "aliases": ["#ünï/cöde:example.org"] }));
}

#[tokio::test]
async fn cr19_the_directory_is_paged_searched_and_filtered() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let mut rooms = Vec::new();
    for number in 0..5 {
        let body = json!({ "visibility": "public", "name": format!("Room {number}"), "room_alias_name": format!("r{number}") });
        rooms.push(alice.create_room(body).await);
    }
    bob.join(&rooms[3]).await;
    alice.create_room(json!({ "name": "Room unlisted" })).await;
    let (mut since, mut seen, mut previous) = (String::new(), Vec::new(), Vec::new());
    loop {
        let page = bob.get(&format!("/publicRooms?limit=2{since}")).await.ok();
        assert_eq!(page["total_room_count_estimate"], 5);
        seen.extend(each(&page["chunk"], "room_id"));
        previous.push(page["prev_batch"].clone());
        match page["next_batch"].as_str() {
            Some(next) => since = format!("&since={next}"),
            None => break,
        }
    }
    assert_eq!((seen.len(), &seen[0], previous.len()), (5, &rooms[3], 3));
    assert_eq!(previous[0], Value::Null);
    let back = bob.get(&format!("/publicRooms?limit=2&since={}", previous[1].as_str().unwrap())).await.ok();
    assert_eq!(each(&back["chunk"], "room_id"), seen[..2]);
    let space = json!({ "visibility": "public", "creation_content": { "type": "m.space" }, "topic": "The TOPIC" });
    let space = alice.create_room(space).await;
    let search = async |filter: Value| {
        let found = bob.post("/publicRooms", json!({ "filter": filter })).await.ok();
        each(&found["chunk"], "room_id")
    };
    assert_eq!(search(json!({ "generic_search_term": "room 4" })).await, [rooms[4].clone()]);
    assert_eq!(search(json!({ "generic_search_term": "#R2:" })).await, [rooms[2].clone()]);
    assert_eq!(search(json!({ "generic_search_term": "topic" })).await, [space.as_str()]);
    assert_eq!(search(json!({ "room_types": ["m.space"] })).await, [space.as_str()]);
    assert_eq!(search(json!({ "room_types": [null] })).await.len(), 5);
    assert_eq!(search(json!({ "room_types": [null, "m.space"] })).await.len(), 6);
    bob.get("/publicRooms?since=odd").await.refused(400, "M_INVALID_PARAM");
    let body = json!({ "visibility": "public", "initial_state": [
        { "type": "m.room.join_rules", "content": { "join_rule": "knock" } },
        { "type": "m.room.history_visibility", "content": { "history_visibility": "world_readable" } },
    ] });
    let knock = alice.create_room(body).await;
    let page = bob.get("/publicRooms").await.ok();
    let entry = list(&page["chunk"]).into_iter().find(|entry| entry["room_id"] == knock.as_str()).unwrap();
    assert_eq!((&entry["join_rule"], &entry["world_readable"]), (&json!("knock"), &json!(true)));
}

#[tokio::test]
async fn rooms_are_listed_by_those_who_may() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    let path = format!("/directory/list/room/{room}");
    assert_eq!(server.nobody().get(&path).await.ok(), json!({ "visibility": "private" }));
    bob.put(&path, json!({ "visibility": "public" })).await.refused(403, "M_FORBIDDEN");
    alice.put(&path, json!({})).await.ok();
    assert_eq!(bob.get(&path).await.ok(), json!({ "visibility": "public" }));
    alice.say(&room, "the room still works").await;
    alice.put(&path, json!({ "visibility": "private" })).await.ok();
    assert_eq!(bob.get("/publicRooms").await.ok()["chunk"], json!([]));
    alice.put(&path, json!({ "visibility": "odd" })).await.refused(400, "M_BAD_JSON");
    bob.get("/directory/list/room/!none:example.org").await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn summaries_are_for_those_who_could_get_in() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let open = alice.create_room(json!({ "preset": "public_chat", "name": "Open", "room_alias_name": "open" })).await;
    let closed = alice.create_room(json!({ "name": "Closed" })).await;
    for path in [
        "/_matrix/client/v1/room_summary/%23open%3Aexample.org".to_owned(),
        format!("/_matrix/client/v1/room_summary/{open}"),
        format!("/_matrix/client/unstable/im.nheko.summary/summary/{open}"),
    ] {
        let summary = bob.get(&path).await.ok();
        assert_eq!((&summary["room_id"], &summary["name"]), (&json!(open), &json!("Open")));
        assert_eq!((&summary["num_joined_members"], &summary["room_version"]), (&json!(1), &json!("12")));
    }
    let closed = format!("/_matrix/client/v1/room_summary/{closed}");
    bob.get(&closed).await.refused(404, "M_NOT_FOUND");
    assert_eq!(alice.get(&closed).await.ok()["membership"], "join");
}
