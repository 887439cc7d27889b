//! Reactions, edits, threads.

use serde_json::{Value, json};
use store::Read;
use store::tables::rooms::EventBytesRow;

use testkit::{Client, Server, each, list};

fn related(rel_type: &str, event: &str) -> Value {
    json!({ "body": "x", "m.relates_to": { "rel_type": rel_type, "event_id": event } })
}

fn reaction(event: &str, key: &str) -> Value {
    json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": event, "key": key } })
}

fn edit(event: &str, body: &str) -> Value {
    json!({
        "body": format!("* {body}"),
        "m.new_content": { "body": body },
        "m.relates_to": { "rel_type": "m.replace", "event_id": event },
    })
}

async fn bundle(client: &Client, room: &str, event: &str) -> Value {
    client.get(&format!("/rooms/{room}/event/{event}")).await.ok()["unsigned"]["m.relations"].clone()
}

async fn ignore(server: &Server, client: &Client, user: &str) {
    let content = json!({ "ignored_users": { user: {} } }).to_string();
    let own = client.user.as_str().into();
    server.state.users.put_account_data(&own, "", "m.ignored_user_list", content).await.unwrap();
}

/// SEC-forged-edits.
#[tokio::test]
async fn cr16_edits_count_from_the_same_sender_only() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    let original = alice.say(&room, "original").await;
    bob.send(&room, "m.room.message", edit(&original, "bob's")).await;
    alice.send(&room, "m.room.other", edit(&original, "of another type")).await;
    let state = format!("/rooms/{room}/state/m.room.message/");
    alice.put(&state, edit(&original, "as state")).await.ok();
    let without = json!({ "body": "x", "m.relates_to": { "rel_type": "m.replace", "event_id": original } });
    alice.send(&room, "m.room.message", without).await;
    assert_eq!(bundle(&bob, &room, &original).await, Value::Null);
    let first = alice.send(&room, "m.room.message", edit(&original, "first")).await;
    let second = alice.send(&room, "m.room.message", edit(&original, "second")).await;
    alice.send(&room, "m.room.message", edit(&second, "of an edit")).await;
    let event = bob.get(&format!("/rooms/{room}/event/{original}")).await.ok();
    assert_eq!(event["content"]["body"], "original");
    let replace = &event["unsigned"]["m.relations"]["m.replace"];
    assert_eq!(
        (&replace["event_id"], &replace["content"]["m.new_content"]["body"]),
        (&json!(second), &json!("second"))
    );
    assert_eq!(bundle(&bob, &room, &second).await, Value::Null);
    alice.put(&format!("/rooms/{room}/redact/{second}/1"), json!({})).await.ok();
    assert_eq!(bundle(&bob, &room, &original).await["m.replace"]["event_id"], first);
}

#[tokio::test]
async fn cr17_relations_come_bundled() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    carol.join(&room).await;
    let root = alice.say(&room, "root").await;
    let reference = bob.send(&room, "org.example.x", related("m.reference", &root)).await;
    bob.send(&room, "m.room.message", related("m.thread", &root)).await;
    let last = bob.send(&room, "m.room.message", related("m.thread", &root)).await;
    let found = bundle(&carol, &room, &root).await;
    assert_eq!(found["m.reference"]["chunk"], json!([{ "event_id": reference }]));
    let thread = &found["m.thread"];
    assert_eq!((&thread["count"], &thread["latest_event"]["event_id"]), (&json!(2), &json!(last)));
    for (client, participated) in [(&alice, true), (&bob, true), (&carol, false)] {
        let thread = bundle(client, &room, &root).await["m.thread"].clone();
        assert_eq!(thread["current_user_participated"], participated);
    }
    let edited = bob.send(&room, "m.room.message", edit(&last, "edited")).await;
    let thread = bundle(&carol, &room, &root).await["m.thread"].clone();
    assert_eq!(thread["latest_event"]["unsigned"]["m.relations"]["m.replace"]["event_id"], edited);
    let relations = format!("/_matrix/client/v1/rooms/{room}/relations/{root}");
    let listed = carol.get(&format!("{relations}/m.thread")).await.ok();
    assert_eq!(each(&listed["chunk"], "event_id")[0], last);
    let context = carol.get(&format!("/rooms/{room}/context/{root}")).await.ok();
    assert_eq!(context["event"]["unsigned"]["m.relations"]["m.thread"]["count"], 2);
    let page = carol.timeline(&room).await;
    let event = page.iter().find(|event| event["event_id"] == root.as_str()).unwrap();
    assert_eq!(event["unsigned"]["m.relations"]["m.thread"]["count"], 2);
    ignore(&server, &carol, &bob.user).await;
    assert_eq!(bundle(&carol, &room, &root).await, Value::Null);
    assert_eq!(carol.get(&relations).await.ok()["chunk"], json!([]));
}

#[tokio::test]
async fn cr17_nobody_reacts_twice() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    let event = alice.say(&room, "x").await;
    let path = format!("/rooms/{room}/send/m.reaction/t");
    let first = alice.put(&path, reaction(&event, "👍")).await.ok();
    assert_eq!(alice.put(&path, reaction(&event, "👍")).await.ok(), first);
    alice.try_send(&room, "m.reaction", reaction(&event, "👍")).await.refused(400, "M_DUPLICATE_ANNOTATION");
    alice.send(&room, "m.reaction", reaction(&event, "👎")).await;
    bob.send(&room, "m.reaction", reaction(&event, "👍")).await;
    let id = first["event_id"].as_str().unwrap();
    alice.put(&format!("/rooms/{room}/redact/{id}/1"), json!({})).await.ok();
    alice.send(&room, "m.reaction", reaction(&event, "👍")).await;
}

#[tokio::test]
async fn cr30_some_things_are_not_bundled_and_threads_start_at_plain_events() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    let root = alice.say(&room, "root").await;
    let reply = bob.send(&room, "m.room.message", related("m.thread", &root)).await;
    bob.try_send(&room, "m.room.message", related("m.thread", &reply)).await.refused(400, "M_UNKNOWN");
    let plain = alice.say(&room, "plain").await;
    bob.send(&room, "m.reaction", reaction(&plain, "👍")).await;
    assert_eq!(bundle(&alice, &room, &plain).await, Value::Null);
    let state = alice.set_state(&room, "m.room.topic", json!({ "topic": "x" })).await;
    bob.send(&room, "m.room.message", related("m.reference", &state)).await;
    assert_eq!(bundle(&alice, &room, &state).await, Value::Null);
    // `/sync` bundles only where it skipped something: else the client has seen all that relates to the event.
    let of_root = |sync: &Value| {
        let timeline = list(&sync["rooms"]["join"][&room]["timeline"]["events"]);
        let found = timeline.into_iter().find(|event| event["event_id"] == root.as_str()).unwrap();
        found["unsigned"]["m.relations"].clone()
    };
    let filter = |limit: u32| format!("filter=%7B%22room%22%3A%7B%22timeline%22%3A%7B%22limit%22%3A{limit}%7D%7D%7D");
    assert_eq!(of_root(&alice.sync_with(&filter(100)).await), Value::Null);
    let since_root = 5;
    let limited = alice.sync_with(&filter(since_root + 1)).await;
    assert_eq!(limited["rooms"]["join"][&room]["timeline"]["limited"], true);
    assert_eq!(of_root(&limited)["m.thread"]["count"], 1);
    let threads = format!("/_matrix/client/v1/rooms/{room}/threads");
    assert_eq!(list(&bob.get(&threads).await.ok()["chunk"])[0]["content"]["body"], "root");
    ignore(&server, &bob, &alice.user).await;
    let listed = list(&bob.get(&threads).await.ok()["chunk"]);
    assert_eq!((&listed[0]["event_id"], &listed[0]["content"]), (&json!(root), &json!({})));
}

#[tokio::test]
async fn relations_are_paged_both_ways() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    let root = alice.say(&room, "root").await;
    let mut children = Vec::new();
    for number in 0..5 {
        let kind = if number % 2 == 0 { "m.room.message" } else { "org.example.x" };
        children.push(alice.send(&room, kind, related("m.thread", &root)).await);
    }
    let grandchild = alice.send(&room, "m.reaction", reaction(&children[0], "x")).await;
    let path = format!("/_matrix/client/v1/rooms/{room}/relations/{root}");
    for dir in ["b", "f"] {
        let (mut from, mut seen) = (String::new(), Vec::new());
        loop {
            let page = alice.get(&format!("{path}?dir={dir}&limit=2{from}")).await.ok();
            seen.extend(each(&page["chunk"], "event_id"));
            match page["next_batch"].as_str() {
                Some(next) => from = format!("&from={next}"),
                None => break,
            }
        }
        if dir == "b" {
            seen.reverse();
        }
        assert_eq!(seen, children);
    }
    let some = alice.get(&format!("{path}/m.thread/org.example.x?dir=f")).await.ok();
    assert_eq!(each(&some["chunk"], "event_id"), [children[1].clone(), children[3].clone()]);
    assert_eq!(alice.get(&format!("{path}/m.annotation")).await.ok()["chunk"], json!([]));
    let all = alice.get(&format!("{path}?recurse=true")).await.ok();
    assert_eq!(each(&all["chunk"], "event_id")[0], grandchild);
    assert!(all["recursion_depth"].as_u64().unwrap() >= 2);
    let sync = alice.sync("").await;
    let token = sync["next_batch"].as_str().unwrap();
    let page = alice.get(&format!("{path}?limit=1&from={token}")).await.ok();
    assert_eq!(each(&page["chunk"], "event_id"), [children[4].clone()]);
}

#[tokio::test]
async fn threads_are_listed_by_their_last_reply() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    let mut roots = Vec::new();
    for number in 0..3 {
        let root = alice.say(&room, &number.to_string()).await;
        alice.send(&room, "m.room.message", related("m.thread", &root)).await;
        roots.push(root);
    }
    bob.send(&room, "m.room.message", related("m.thread", &roots[0])).await;
    let path = format!("/_matrix/client/v1/rooms/{room}/threads");
    let first = alice.get(&format!("{path}?limit=2")).await.ok();
    assert_eq!(each(&first["chunk"], "event_id"), [roots[0].clone(), roots[2].clone()]);
    let next = first["next_batch"].as_str().unwrap();
    let second = alice.get(&format!("{path}?limit=2&from={next}")).await.ok();
    assert_eq!(each(&second["chunk"], "event_id"), [roots[1].clone()]);
    assert_eq!(second["next_batch"], Value::Null);
    let own = bob.get(&format!("{path}?include=participated")).await.ok();
    assert_eq!(each(&own["chunk"], "event_id"), [roots[0].clone()]);
}

#[tokio::test]
async fn cr16_cr17_many_children_hide_neither_the_edit_nor_the_thread() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    let parent = alice.say(&room, "original").await;
    for number in 0..120 {
        alice.send(&room, "m.reaction", reaction(&parent, &number.to_string())).await;
    }
    alice.send(&room, "m.room.message", edit(&parent, "edited")).await;
    let mut replies = Vec::new();
    for _ in 0..110 {
        replies.push(alice.send(&room, "m.room.message", related("m.thread", &parent)).await);
    }
    let bundle = bundle(&alice, &room, &parent).await;
    assert_eq!(bundle["m.replace"]["content"]["m.new_content"]["body"], "edited");
    assert_eq!(
        (&bundle["m.thread"]["count"], &bundle["m.thread"]["latest_event"]["event_id"]),
        (&json!(110), &json!(replies.last()),)
    );
}

#[tokio::test]
async fn ce13_encrypted_events_stay_as_they_are_until_nothing_is_kept_of_them() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.create_room(json!({
        "preset": "public_chat",
        "initial_state": [{
            "type": "m.room.encryption", "state_key": "", "content": { "algorithm": "m.megolm.v1.aes-sha2" },
        }],
    }));
    let room = room.await;
    bob.join(&room).await;
    let secret = |text: &str, relation: Value| {
        let mut content = json!({
            "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": text, "session_id": "S", "sender_key": "K",
            "device_id": "DEVICE", "org.example.more": { "z": 1, "a": [null, ""] },
        });
        if !relation.is_null() {
            content["m.relates_to"] = relation;
        }
        content
    };
    let root_content = secret("SECRET-root", Value::Null);
    let root = alice.send(&room, "m.room.encrypted", root_content.clone()).await;
    let reply_content = secret("SECRET-reply", json!({ "rel_type": "m.thread", "event_id": root }));
    let reply = bob.send(&room, "m.room.encrypted", reply_content.clone()).await;
    let edit_content = secret("SECRET-edit", json!({ "rel_type": "m.replace", "event_id": root }));
    let edited = alice.send(&room, "m.room.encrypted", edit_content.clone()).await;
    let seen = async |event: &str| bob.get(&format!("/rooms/{room}/event/{event}")).await.ok();
    for (event, content) in [(&root, &root_content), (&reply, &reply_content), (&edited, &edit_content)] {
        assert_eq!(seen(event).await["content"], *content);
    }
    let found = bundle(&bob, &room, &root).await;
    assert_eq!((&found["m.thread"]["count"], &found["m.replace"]["event_id"]), (&json!(1), &json!(edited)));
    let start = bob.sync("").await;
    for event in [&root, &reply, &edited] {
        let sender = if *event == reply { &bob } else { &alice };
        sender.put(&format!("/rooms/{room}/redact/{event}/gone-{event}"), json!({})).await.ok();
    }
    for event in [&root, &reply, &edited] {
        assert_eq!(seen(event).await["content"], json!({}));
    }
    let everything = [
        seen(&root).await,
        bob.get(&format!("/rooms/{room}/messages?dir=b&limit=100")).await.ok(),
        bob.get(&format!("/rooms/{room}/context/{root}")).await.ok(),
        bob.get(&format!("/_matrix/client/v1/rooms/{room}/relations/{root}")).await.ok(),
        bob.get(&format!("/_matrix/client/v1/rooms/{room}/threads")).await.ok(),
        bob.sync_since(&start, "").await,
        bob.sync("").await,
    ];
    for answer in everything {
        assert!(!answer.to_string().contains("SECRET"), "{answer}");
    }
    server.clock.advance(365 * 24 * 3_600_000);
    server.state.rooms.rewrite_redacted(100).await.unwrap();
    let bytes: Vec<EventBytesRow> = server.state.store.all(Read::prefix::<EventBytesRow>(vec![])).await.unwrap();
    assert!(bytes.len() > 3);
    for row in bytes {
        assert!(!String::from_utf8_lossy(&row.json).contains("SECRET"), "kept in the store");
    }
}
