//! What of a room's history is seen, page by page.

use serde_json::{Value, json};

use testkit::{Client, Server, each, encoded, list, text};

async fn set_visibility(client: &Client, room: &str, visibility: &str) -> String {
    client.set_state(room, "m.room.history_visibility", json!({ "history_visibility": visibility })).await
}

#[tokio::test]
async fn cr11_events_are_judged_by_the_state_at_the_event() {
    let server = Server::new().await;
    let [alice, bob, carol, stranger] = server.people(["alice", "bob", "carol", "stranger"]).await;
    let room = alice.public_room().await;
    for visibility in ["joined", "shared", "world_readable", "invited", "odd"] {
        set_visibility(&alice, &room, visibility).await;
        alice.say(&room, visibility).await;
    }
    set_visibility(&alice, &room, "invited").await;
    alice.invite(&room, &bob.user).await.ok();
    alice.say(&room, "bob is invited").await;
    set_visibility(&alice, &room, "joined").await;
    alice.say(&room, "only members").await;
    bob.join(&room).await;
    alice.say(&room, "bob is here").await;
    bob.leave(&room).await;
    alice.say(&room, "bob has left").await;
    carol.join(&room).await;
    let all = ["joined", "shared", "world_readable", "invited", "odd", "bob is invited", "only members", "bob is here"];
    assert_eq!(alice.bodies(&room).await[..8], all);
    // An unknown value is `shared`.
    let shown = ["shared", "world_readable", "odd", "bob is invited", "bob is here"];
    assert_eq!(bob.bodies(&room).await, shown);
    assert_eq!(carol.bodies(&room).await, ["shared", "world_readable", "odd"]);
    // Sync, context and relations judge alike.
    let timeline = carol.timeline(&room).await;
    let ids = |kinds: &[&str]| -> Vec<String> {
        let wanted =
            timeline.iter().filter(|event| kinds.is_empty() || kinds.contains(&event["type"].as_str().unwrap()));
        wanted.map(|event| text(&event["event_id"])).collect()
    };
    let synced = async |filter: Value| {
        let filter = json!({ "room": { "timeline": filter } }).to_string();
        let answer = carol.sync_with(&format!("filter={}", encoded(&filter))).await;
        let timeline = &answer["rooms"]["join"][&room]["timeline"];
        (each(&timeline["events"], "event_id"), timeline["limited"] == true)
    };
    let kinds = ["m.room.message"];
    assert_eq!(synced(json!({ "limit": 100, "types": kinds })).await, (ids(&kinds), false));
    // A timeline with state begins after what a hidden event has overridden since: here, the visibility.
    let (shown, limited) = synced(json!({ "limit": 100 })).await;
    assert!(limited && !shown.is_empty() && shown.len() < ids(&[]).len() && ids(&[]).ends_with(&shown), "{shown:?}");
    let odd = timeline.iter().find(|event| event["content"]["body"] == "odd").unwrap();
    let context = carol.get(&format!("/rooms/{room}/context/{}?limit=100", text(&odd["event_id"]))).await.ok();
    let around = [list(&context["events_before"]), list(&context["events_after"])].concat();
    assert_eq!(around.len() + 1, timeline.len(), "no more in the context than in the history");
    let child = json!({ "m.relates_to": { "rel_type": "m.reference", "event_id": odd["event_id"] } });
    set_visibility(&alice, &room, "joined").await;
    carol.leave(&room).await;
    alice.send(&room, "org.example.x", child).await;
    let relations = format!("/_matrix/client/v1/rooms/{room}/relations/{}", text(&odd["event_id"]));
    assert_eq!(list(&alice.get(&relations).await.ok()["chunk"]).len(), 1);
    assert_eq!(carol.get(&relations).await.ok()["chunk"], json!([]));
    let event = carol.get(&format!("/rooms/{room}/event/{}", text(&odd["event_id"]))).await.ok();
    assert_eq!(event["unsigned"]["m.relations"], Value::Null, "not in the aggregation either");
    stranger.get(&format!("/rooms/{room}/messages?dir=b")).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn cr11_own_memberships_and_changes_of_visibility_count_with_the_better() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    set_visibility(&alice, &room, "joined").await;
    let hidden = alice.say(&room, "hidden").await;
    let opened = set_visibility(&alice, &room, "world_readable").await;
    let closed = set_visibility(&alice, &room, "joined").await;
    bob.join(&room).await;
    let timeline = bob.timeline(&room).await;
    let ids: Vec<String> = timeline.iter().map(|event| text(&event["event_id"])).collect();
    assert_eq!(ids[ids.len() - 3..ids.len() - 1], [opened, closed]);
    assert_eq!(timeline.last().unwrap()["state_key"], bob.user.as_str());
    assert!(!ids.contains(&hidden));
    // Whoever is kicked sees it.
    let kick = json!({ "user_id": bob.user });
    alice.post(&format!("/rooms/{room}/kick"), kick).await.ok();
    let last = bob.timeline(&room).await.pop().unwrap();
    assert_eq!((&last["content"]["membership"], &last["sender"]), (&json!("leave"), &json!(alice.user)));
}

#[tokio::test]
async fn cr12_paging_works_without_a_place_to_start() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    for body in ["a", "b", "c"] {
        alice.say(&room, body).await;
    }
    let page = alice.get(&format!("/rooms/{room}/messages?dir=b&limit=2")).await.ok();
    let bodies: Vec<&Value> = page["chunk"].as_array().unwrap().iter().map(|event| &event["content"]["body"]).collect();
    assert_eq!(bodies, ["c", "b"]);
    let page = alice.get(&format!("/rooms/{room}/messages?dir=f&limit=1")).await.ok();
    assert_eq!(page["chunk"][0]["type"], "m.room.create");
    alice.get(&format!("/rooms/{room}/messages")).await.refused(400, "M_MISSING_PARAM");
    alice.get(&format!("/rooms/{room}/messages?dir=x")).await.refused(400, "M_INVALID_PARAM");
    alice.get(&format!("/rooms/{room}/messages?dir=b&from=x")).await.refused(400, "M_INVALID_PARAM");
    alice.get(&format!("/rooms/{room}/messages?dir=b&filter=x")).await.refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn cb14_paging_comes_to_an_end() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    for number in 0..10 {
        alice.say(&room, &number.to_string()).await;
    }
    let all = alice.timeline(&room).await.len();
    for (dir, limit) in [("b", 1), ("b", 4), ("b", 16), ("f", 3), ("f", 1000)] {
        let (mut from, mut seen) = (String::new(), 0);
        for page in 0.. {
            assert!(page <= all, "paging {dir} by {limit} has no end");
            let page = alice.get(&format!("/rooms/{room}/messages?dir={dir}&limit={limit}{from}")).await.ok();
            seen += list(&page["chunk"]).len();
            match page["end"].as_str() {
                Some(end) => from = format!("&from={end}"),
                None => break,
            }
        }
        assert_eq!(seen, all, "paging {dir} by {limit}");
    }
}

#[tokio::test]
async fn cb13_tokens_of_every_kind_name_places() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    alice.say(&room, "a").await;
    let middle = alice.say(&room, "b").await;
    let sync = alice.sync("").await;
    alice.say(&room, "c").await;
    let next = text(&sync["next_batch"]);
    let prev = text(&alice.sync(&next).await["rooms"]["join"][&room]["timeline"]["prev_batch"]);
    let bodies = |page: Value| -> Vec<String> {
        list(&page["chunk"]).iter().filter_map(|event| event["content"]["body"].as_str()).map(str::to_owned).collect()
    };
    for token in [&next, &prev] {
        let page = alice.get(&format!("/rooms/{room}/messages?dir=b&limit=2&from={token}")).await.ok();
        assert_eq!(bodies(page), ["b", "a"]);
        let page = alice.get(&format!("/rooms/{room}/messages?dir=f&from={token}")).await.ok();
        assert_eq!(bodies(page), ["c"]);
    }
    let page = alice.get(&format!("/rooms/{room}/messages?dir=b&to={next}")).await.ok();
    assert_eq!(bodies(page), ["c"]);
    let context = alice.get(&format!("/rooms/{room}/context/{middle}?limit=0")).await.ok();
    assert_eq!((&context["events_before"], &context["events_after"]), (&json!([]), &json!([])));
    let (start, end) = (text(&context["start"]), text(&context["end"]));
    let page = alice.get(&format!("/rooms/{room}/messages?dir=b&limit=1&from={start}")).await.ok();
    assert_eq!(bodies(page), ["a"]);
    let page = alice.get(&format!("/rooms/{room}/messages?dir=f&from={end}")).await.ok();
    assert_eq!(bodies(page), ["c"]);
}

#[tokio::test]
async fn cb13_tokens_of_sync_and_context_name_places_among_relations() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    let root = alice.say(&room, "root").await;
    let refer = async |body: &str| {
        let relation = json!({ "rel_type": "m.reference", "event_id": root });
        alice.send(&room, "m.room.message", json!({ "body": body, "m.relates_to": relation })).await
    };
    refer("a").await;
    refer("b").await;
    let next = text(&alice.sync("").await["next_batch"]);
    let middle = alice.say(&room, "between").await;
    refer("c").await;
    refer("d").await;
    let prev = text(&alice.sync(&next).await["rooms"]["join"][&room]["timeline"]["prev_batch"]);
    let context = alice.get(&format!("/rooms/{room}/context/{middle}?limit=0")).await.ok();
    let [start, end] = ["start", "end"].map(|member| text(&context[member]));
    let found = async |query: &str| {
        let path = format!("/_matrix/client/v1/rooms/{room}/relations/{root}/m.reference?{query}");
        let page = alice.get(&path).await.ok();
        list(&page["chunk"]).iter().map(|event| text(&event["content"]["body"])).collect::<Vec<_>>().concat()
    };
    for token in [&next, &prev, &start, &end] {
        assert_eq!(found(&format!("from={token}")).await, "ba", "backwards unless asked otherwise");
        assert_eq!(found(&format!("dir=b&limit=1&from={token}")).await, "b");
        assert_eq!(found(&format!("dir=f&from={token}")).await, "cd");
        assert_eq!(found(&format!("dir=b&to={token}")).await, "dc");
        assert_eq!(found(&format!("dir=f&to={token}")).await, "ab");
    }
    assert_eq!(found("").await, "dcba");
}

#[tokio::test]
async fn context_holds_events_around_and_the_state() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    alice.set_state(&room, "m.room.name", json!({ "name": "old" })).await;
    for body in ["a", "b"] {
        alice.say(&room, body).await;
    }
    let middle = bob.say(&room, "middle").await;
    alice.say(&room, "c").await;
    alice.set_state(&room, "m.room.name", json!({ "name": "new" })).await;
    let context = alice.get(&format!("/rooms/{room}/context/{middle}?limit=3")).await.ok();
    assert_eq!(context["event"]["event_id"], middle);
    assert_eq!(list(&context["events_before"]).iter().map(|e| &e["content"]["body"]).collect::<Vec<_>>(), ["b"]);
    assert_eq!(each(&context["events_after"], "type"), ["m.room.message", "m.room.name"]);
    let name = |context: &Value| {
        let state = list(&context["state"]);
        state.iter().find(|event| event["type"] == "m.room.name").unwrap()["content"]["name"].clone()
    };
    assert_eq!(name(&context), "new");
    let filter = "%7B%22lazy_load_members%22%3Atrue%2C%22types%22%3A%5B%22m.room.message%22%5D%7D";
    let context = alice.get(&format!("/rooms/{room}/context/{middle}?limit=0&filter={filter}")).await.ok();
    assert_eq!(name(&context), "old");
    let members: Vec<Value> =
        list(&context["state"]).into_iter().filter(|event| event["type"] == "m.room.member").collect();
    assert_eq!(each(&json!(members), "state_key"), [bob.user.as_str()]);
    let page = alice.get(&format!("/rooms/{room}/messages?dir=b&limit=2&filter={filter}")).await.ok();
    assert_eq!(each(&page["chunk"], "sender"), [alice.user.clone(), bob.user.clone()]);
    let mut members = each(&page["state"], "state_key");
    members.sort();
    assert_eq!(members, [alice.user, bob.user]);
}

#[tokio::test]
async fn cr13_members_can_be_asked_for_as_of_a_token() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    let room = alice.public_room().await;
    let before = text(&alice.sync("").await["next_batch"]);
    bob.join(&room).await;
    let middle = text(&alice.sync("").await["next_batch"]);
    bob.leave(&room).await;
    carol.join(&room).await;
    let after = alice.sync(&middle).await;
    let prev = text(&after["rooms"]["join"][&room]["timeline"]["prev_batch"]);
    let members = async |query: &str| {
        let page = alice.get(&format!("/rooms/{room}/members?{query}")).await.ok();
        let mut members: Vec<String> = list(&page["chunk"])
            .iter()
            .map(|event| format!("{} {}", text(&event["state_key"]), text(&event["content"]["membership"])))
            .collect();
        members.sort();
        members
    };
    let (a, b, c) = (&alice.user, &bob.user, &carol.user);
    assert_eq!(members(&format!("at={before}")).await, [format!("{a} join")]);
    for at in [&middle, &prev] {
        assert_eq!(members(&format!("at={at}")).await, [format!("{a} join"), format!("{b} join")]);
    }
    assert_eq!(members("").await, [format!("{a} join"), format!("{b} leave"), format!("{c} join")]);
    assert_eq!(members("membership=leave").await, [format!("{b} leave")]);
    assert_eq!(members("not_membership=leave").await, [format!("{a} join"), format!("{c} join")]);
    assert_eq!(members("membership=leave&not_membership=join").await, [format!("{b} leave")]);
    assert_eq!(members(&format!("at={middle}&not_membership=join")).await, [""; 0]);
    // Whoever has left sees nothing later than the leave.
    let now = text(&alice.sync("").await["next_batch"]);
    let page = bob.get(&format!("/rooms/{room}/members?at={now}")).await.ok();
    assert_eq!(list(&page["chunk"]).len(), 2);
    alice.get(&format!("/rooms/{room}/members?at=odd")).await.refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn cr14_events_that_may_not_be_seen_do_not_exist() {
    let server = Server::new().await;
    let [alice, bob, stranger] = server.people(["alice", "bob", "stranger"]).await;
    let room = alice.public_room().await;
    set_visibility(&alice, &room, "joined").await;
    let hidden = alice.say(&room, "hidden").await;
    bob.join(&room).await;
    let seen = alice.say(&room, "seen").await;
    let other = alice.public_room().await;
    let elsewhere = alice.say(&other, "elsewhere").await;
    for event in [hidden.as_str(), "$unknown", "odd", &elsewhere] {
        bob.get(&format!("/rooms/{room}/event/{event}")).await.refused(404, "M_NOT_FOUND");
        bob.get(&format!("/rooms/{room}/context/{event}")).await.refused(404, "M_NOT_FOUND");
        bob.get(&format!("/_matrix/client/v1/rooms/{room}/relations/{event}")).await.refused(404, "M_NOT_FOUND");
    }
    bob.get(&format!("/rooms/{room}/event/{seen}")).await.ok();
    stranger.get(&format!("/rooms/{room}/event/{seen}")).await.refused(404, "M_NOT_FOUND");
    let path = format!("/_matrix/client/v1/rooms/{room}/timestamp_to_event");
    bob.get(&format!("{path}?ts=0&dir=b")).await.refused(404, "M_NOT_FOUND");
    let first = bob.get(&format!("{path}?ts=0&dir=f")).await.ok();
    let create = alice.timeline(&room).await.remove(0);
    assert_eq!(first["event_id"], create["event_id"]);
    assert_eq!(first["origin_server_ts"], create["origin_server_ts"]);
    let last = bob.get(&format!("{path}?ts=9007199254740991&dir=b")).await.ok();
    assert_eq!(last["event_id"], seen);
}

/// The bodies that a user sees, and the texts of all edits, topics and thread summaries beside them.
async fn all_words(client: &Client, room: &str, events: &[&str]) -> String {
    let mut words = client.get(&format!("/rooms/{room}/messages?dir=b&limit=100")).await.ok().to_string();
    words += &client.sync_with("").await.to_string();
    for event in events {
        words += &client.get(&format!("/rooms/{room}/event/{event}")).await.ok().to_string();
        words += &client.get(&format!("/rooms/{room}/context/{event}?limit=100")).await.ok().to_string();
        words += &client.get(&format!("/_matrix/client/v1/rooms/{room}/relations/{event}")).await.ok().to_string();
    }
    words + &client.get(&format!("/_matrix/client/v1/rooms/{room}/threads")).await.ok().to_string()
}

async fn deactivate_and_erase(server: &Server, client: &Client) {
    server.state.users.change_password(&client.id(), "secret", false, Some(&client.device_id())).await.unwrap();
    let (status, asked) = client.post("/account/deactivate", json!({ "erase": true })).await.pair();
    assert_eq!(status, 401);
    let identifier = json!({ "type": "m.id.user", "user": client.user });
    let auth = json!({
        "type": "m.login.password", "identifier": identifier, "password": "secret", "session": asked["session"],
    });
    client.post("/account/deactivate", json!({ "erase": true, "auth": auth })).await.ok();
}

#[tokio::test]
async fn ca8_an_erased_users_words_are_not_shown_to_those_who_come_later() {
    let server = Server::new().await;
    let [alice, bob, early, late, left] = server.people(["alice", "bob", "early", "late", "left"]).await;
    let room = alice.public_room().await;
    set_visibility(&alice, &room, "shared").await;
    for user in [&bob, &early, &left] {
        user.join(&room).await;
    }
    let power = alice.state(&room, "m.room.power_levels").await;
    let mut power = power.as_object().cloned().unwrap();
    power.insert("users_default".to_owned(), json!(50));
    alice.set_state(&room, "m.room.power_levels", power.into()).await;
    let said = bob.say(&room, "word-said").await;
    let edit = json!({
        "msgtype": "m.text", "body": "word-edit", "m.new_content": { "msgtype": "m.text", "body": "word-new" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": said },
    });
    bob.send(&room, "m.room.message", edit).await;
    let root = alice.say(&room, "root").await;
    let reply = json!({
        "msgtype": "m.text", "body": "word-reply", "m.relates_to": { "rel_type": "m.thread", "event_id": root },
    });
    bob.send(&room, "m.room.message", reply).await;
    bob.set_state(&room, "m.room.topic", json!({ "topic": "word-old-topic" })).await;
    bob.set_state(&room, "m.room.topic", json!({ "topic": "topic of now" })).await;
    left.leave(&room).await;
    let words = ["word-said", "word-edit", "word-new", "word-reply", "word-old-topic"];
    late.join(&room).await;
    late.leave(&room).await;
    let other_room = alice.create_room(json!({ "preset": "private_chat", "invite": [bob.user] })).await;
    deactivate_and_erase(&server, &bob).await;
    for room in [&room, &other_room] {
        let member = alice.get(&format!("/rooms/{room}/state/m.room.member/{}", bob.user)).await.ok();
        assert_eq!(member["membership"], "leave");
    }
    let [newcomer] = server.people(["newcomer"]).await;
    for user in [&newcomer, &left] {
        user.join(&room).await;
    }
    for (user, name) in [(&alice, "alice"), (&early, "early"), (&late, "late")] {
        let seen = all_words(user, &room, &[&said, &root]).await;
        assert!(words.iter().all(|word| seen.contains(word)), "{name} could see all of it before");
    }
    let seen = all_words(&newcomer, &room, &[&said, &root]).await;
    assert!(words.iter().all(|word| !seen.contains(word)), "{seen}");
    assert!(seen.contains("topic of now"), "what the room consists of stays");
    let event = newcomer.get(&format!("/rooms/{room}/event/{said}")).await.ok();
    assert_eq!((&event["content"], &event["unsigned"]["redacted_because"]), (&json!({}), &Value::Null));
    // Who was in the room when it was said sees it though they have come anew.
    assert_eq!(left.get(&format!("/rooms/{room}/event/{said}")).await.ok()["content"]["body"], "word-said");
}
