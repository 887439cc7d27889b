//! Which threads a user follows: MSC4306, and its extension of sliding sync (MSC4308).

use serde_json::{Value, json};
use testkit::{Client, Server, encoded, text};

const EXTENSION: &str = "io.element.msc4308.thread_subscriptions";
const PAGES: &str = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions";

fn path(room: &str, root: &str) -> String {
    format!("/_matrix/client/unstable/io.element.msc4306/rooms/{room}/thread/{}/subscription", encoded(root))
}

async fn reply(client: &Client, room: &str, root: &str) -> String {
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    client.send(room, "m.room.message", json!({ "msgtype": "m.text", "body": "x", "m.relates_to": relation })).await
}

/// A request of sliding sync with the extension; the position, and what the extension says.
async fn sliding(client: &Client, pos: &str, limit: Option<u64>) -> (String, Value) {
    let mut asked = json!({ "enabled": true });
    if let Some(limit) = limit {
        asked["limit"] = limit.into();
    }
    let pos = if pos.is_empty() { String::new() } else { format!("?pos={pos}") };
    let path = format!("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync{pos}");
    let answer = client.post(&path, json!({ "extensions": { EXTENSION: asked } })).await.ok();
    (text(&answer["pos"]), answer["extensions"].get(EXTENSION).cloned().unwrap_or_default())
}

/// The threads of a part of an answer, without their stamps.
fn threads(answer: &Value, part: &str, room: &str) -> Vec<String> {
    let Some(found) = answer[part][room].as_object() else { return Vec::new() };
    assert!(found.values().all(|one| one["bump_stamp"].is_i64()), "{answer}");
    found.keys().cloned().collect()
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

#[tokio::test]
async fn a_thread_is_followed_until_that_is_ended() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    let room = alice.create_room(json!({})).await;
    let root = alice.say(&room, "root").await;
    alice.invite(&room, &bob.user).await.ok();
    bob.join(&room).await;
    let path = path(&room, &root);
    bob.get(&path).await.refused(404, "M_NOT_FOUND");
    assert_eq!(bob.put(&path, json!({})).await.ok(), json!({}));
    assert_eq!(bob.get(&path).await.ok(), json!({ "automatic": false }));
    alice.get(&path).await.refused(404, "M_NOT_FOUND");
    for _ in 0..2 {
        assert_eq!(bob.delete(&path).await.ok(), json!({}));
        bob.get(&path).await.refused(404, "M_NOT_FOUND");
    }
    // What one may not see, or what is not there, looks the same.
    let missing = self::path(&room, "$nothing");
    for (client, path) in [(&carol, &path), (&bob, &missing)] {
        client.get(path).await.refused(404, "M_NOT_FOUND");
        client.put(path, json!({})).await.refused(404, "M_NOT_FOUND");
        client.delete(path).await.refused(404, "M_NOT_FOUND");
    }
    server.nobody().put(&path, json!({})).await.refused(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn a_client_does_not_undo_what_the_user_has_decided_since() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    let root = alice.say(&room, "root").await;
    let first = reply(&alice, &room, &root).await;
    let outside = alice.say(&room, "outside").await;
    let path = path(&room, &root);
    let by_itself = |event: &str| json!({ "automatic": event });
    let not_in_thread = "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD";
    for event in [outside.as_str(), "$nothing"] {
        bob.put(&path, by_itself(event)).await.refused(400, not_in_thread);
    }
    bob.put(&path, by_itself(&first)).await.ok();
    assert_eq!(bob.get(&path).await.ok(), json!({ "automatic": true }));
    // The user's own word counts more, in either order.
    bob.put(&path, json!({})).await.ok();
    assert_eq!(bob.get(&path).await.ok(), json!({ "automatic": false }));
    bob.put(&path, by_itself(&first)).await.ok();
    assert_eq!(bob.get(&path).await.ok(), json!({ "automatic": false }));

    let second = reply(&alice, &room, &root).await;
    bob.delete(&path).await.ok();
    for event in [&first, &second, &root] {
        let conflict = "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION";
        bob.put(&path, by_itself(event)).await.refused(409, conflict);
    }
    bob.get(&path).await.refused(404, "M_NOT_FOUND");
    let third = reply(&alice, &room, &root).await;
    bob.put(&path, by_itself(&third)).await.ok();
    assert_eq!(bob.get(&path).await.ok(), json!({ "automatic": true }));
    bob.delete(&path).await.ok();
    bob.put(&path, json!({})).await.ok();
    assert_eq!(bob.get(&path).await.ok(), json!({ "automatic": false }), "the user may change the mind at any time");
}

#[tokio::test]
async fn sliding_sync_tells_what_changed() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    let (one, two) = (alice.say(&room, "one").await, alice.say(&room, "two").await);
    let (pos, told) = sliding(&bob, "", None).await;
    assert_eq!(told, Value::Null, "there is nothing");
    bob.put(&path(&room, &one), json!({})).await.ok();
    let (pos, told) = sliding(&bob, &pos, None).await;
    assert_eq!((threads(&told, "subscribed", &room), told.get("unsubscribed")), (vec![one.clone()], None));
    assert_eq!(told["subscribed"][&room][&one]["automatic"], false);
    let stamp = told["subscribed"][&room][&one]["bump_stamp"].as_i64().unwrap();
    let cause = reply(&alice, &room, &two).await;
    bob.put(&path(&room, &two), json!({ "automatic": cause })).await.ok();
    bob.delete(&path(&room, &one)).await.ok();
    let (next, told) = sliding(&bob, &pos, None).await;
    assert_eq!(threads(&told, "subscribed", &room), std::slice::from_ref(&two));
    assert_eq!(told["subscribed"][&room][&two]["automatic"], true);
    assert_eq!(threads(&told, "unsubscribed", &room), std::slice::from_ref(&one));
    assert!(told["unsubscribed"][&room][&one]["bump_stamp"].as_i64().unwrap() > stamp);
    // An answer that was lost is given again; one that came is not.
    assert_eq!(sliding(&bob, &pos, None).await.1, told);
    let (pos, told) = sliding(&bob, &next, None).await;
    assert_eq!(told, Value::Null);
    alice.put(&path(&room, &two), json!({})).await.ok();
    assert_eq!(sliding(&bob, &pos, None).await.1, Value::Null, "those of others are none of it");
    // Only who asks is told.
    let answer = bob.post("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", json!({})).await.ok();
    assert_eq!(answer["extensions"].get(EXTENSION), None);
}

#[tokio::test]
async fn a_change_wakes_a_waiting_client() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    let root = alice.say(&room, "root").await;
    let (pos, _) = sliding(&alice, "", None).await;
    let wait = format!("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?pos={pos}&timeout=600000");
    let body = json!({ "extensions": { EXTENSION: { "enabled": true } } });
    let path = path(&room, &root);
    let (waiting, _) = tokio::join!(alice.post(&wait, body), alice.put(&path, json!({})));
    let told = &waiting.ok()["extensions"][EXTENSION];
    assert_eq!(threads(told, "subscribed", &room), [root]);
}

#[tokio::test]
async fn what_does_not_fit_is_paged_back() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    let mut roots = Vec::new();
    for n in 0..6_usize {
        roots.push(alice.say(&room, &n.to_string()).await);
    }
    alice.put(&path(&room, &roots[0]), json!({})).await.ok();
    let (pos, _) = sliding(&alice, "", None).await;
    for root in &roots[1..] {
        alice.put(&path(&room, root), json!({})).await.ok();
    }
    let (_, told) = sliding(&alice, &pos, Some(2)).await;
    assert_eq!(threads(&told, "subscribed", &room), sorted(roots[4..].to_vec()), "the newest");
    let mut from = text(&told["prev_batch"]);
    let mut found = Vec::new();
    loop {
        let page = alice.get(&format!("{PAGES}?dir=b&limit=2&from={from}&to={pos}")).await.ok();
        let part = threads(&page, "subscribed", &room);
        assert!((1..=2).contains(&part.len()), "{page}");
        found.extend(part);
        match page["end"].as_str() {
            Some(end) => from = end.to_owned(),
            None => break,
        }
    }
    assert_eq!(sorted(found), sorted(roots[1..4].to_vec()), "back to the client's position");
    let all = alice.get(&format!("{PAGES}?dir=b")).await.ok();
    assert_eq!((threads(&all, "subscribed", &room), all.get("end")), (sorted(roots.clone()), None));
    for (query, errcode) in [
        ("", "M_MISSING_PARAM"),
        ("?dir=f", "M_INVALID_PARAM"),
        ("?dir=b&limit=0", "M_INVALID_PARAM"),
        ("?dir=b&from=x", "M_INVALID_PARAM"),
        ("?dir=b&to=t0_1", "M_INVALID_PARAM"),
    ] {
        alice.get(&format!("{PAGES}{query}")).await.refused(400, errcode);
    }
}

/// What is unread in a room, main timeline and threads together: what notifies, and what highlights.
async fn unread(client: &Client, room: &str) -> (i64, i64) {
    let answer = client.sync("").await;
    let counts = &answer["rooms"]["join"][room]["unread_notifications"];
    let count = |kind: &str| counts[kind].as_i64().unwrap();
    (count("notification_count"), count("highlight_count"))
}

const UNSUBSCRIBED: &str = ".io.element.msc4306.rule.unsubscribed_thread";
const SUBSCRIBED: &str = ".io.element.msc4306.rule.subscribed_thread";

#[tokio::test]
async fn who_follows_threads_hears_of_these_alone() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    carol.join(&room).await;
    let (one, two) = (alice.say(&room, "one").await, alice.say(&room, "two").await);
    reply(&alice, &room, &two).await;
    assert_eq!(unread(&bob, &room).await, (3, 0), "as ever, before any subscription");
    assert_eq!(bob.get("/pushrules/").await.ok()["global"].get("postcontent"), None);

    let since = text(&bob.sync("").await["next_batch"]);
    bob.put(&path(&room, &one), json!({})).await.ok();
    let rules = bob.get("/pushrules/").await.ok();
    let ids = testkit::each(&rules["global"]["postcontent"], "rule_id");
    assert_eq!(ids, [UNSUBSCRIBED, SUBSCRIBED]);
    let condition = json!([{ "kind": "io.element.msc4306.thread_subscription", "subscribed": false }]);
    assert_eq!(rules["global"]["postcontent"][0]["conditions"], condition);
    assert!(bob.sync(&since).await["account_data"].to_string().contains(UNSUBSCRIBED), "clients learn of it");

    reply(&alice, &room, &one).await;
    assert_eq!(unread(&bob, &room).await, (4, 0));
    reply(&alice, &room, &two).await;
    assert_eq!(unread(&bob, &room).await, (4, 0), "in a thread that is not followed");
    let relation = json!({ "rel_type": "m.thread", "event_id": two });
    let mention = json!({
        "msgtype": "m.text", "body": "you", "m.mentions": { "user_ids": [bob.user] }, "m.relates_to": relation,
    });
    alice.send(&room, "m.room.message", mention).await;
    assert_eq!(unread(&bob, &room).await, (5, 1), "but a mention there");
    bob.put(&format!("/pushrules/global/room/{room}"), json!({ "actions": [] })).await.ok();
    alice.say(&room, "in a muted room").await;
    assert_eq!(unread(&bob, &room).await, (5, 1));
    reply(&alice, &room, &one).await;
    assert_eq!(unread(&bob, &room).await, (6, 1), "what is followed is heard there too");
    bob.delete(&path(&room, &one)).await.ok();
    reply(&alice, &room, &one).await;
    assert_eq!(unread(&bob, &room).await, (6, 1));
    assert_eq!(unread(&carol, &room).await, (9, 0), "who never subscribed hears of all");
}

#[tokio::test]
async fn rules_about_threads_can_be_switched_but_not_made() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    let root = alice.say(&room, "root").await;
    let rule = format!("/pushrules/global/postcontent/{UNSUBSCRIBED}");
    bob.get(&rule).await.refused(404, "M_NOT_FOUND");
    bob.put(&path(&room, &root), json!({})).await.ok();
    bob.delete(&path(&room, &root)).await.ok();
    reply(&alice, &room, &root).await;
    assert_eq!(unread(&bob, &room).await, (1, 0));
    bob.put(&format!("{rule}/enabled"), json!({ "enabled": false })).await.ok();
    assert_eq!(bob.get(&format!("{rule}/enabled")).await.ok(), json!({ "enabled": false }));
    reply(&alice, &room, &root).await;
    assert_eq!(unread(&bob, &room).await, (2, 0));
    let new = json!({ "actions": ["notify"], "conditions": [] });
    bob.put("/pushrules/global/postcontent/mine", new).await.refused(400, "M_INVALID_PARAM");
    bob.delete(&rule).await.refused(400, "M_INVALID_PARAM");
}
