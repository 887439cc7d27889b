//! `GET /notifications`: what notified a user, and what of it is read (behaviour CP10).

use serde_json::{Value, json};
use testkit::{Client, Server, list, text};

/// A page of notifications.
async fn page(client: &Client, query: &str) -> Value {
    client.get(&format!("/notifications?{query}")).await.ok()
}

/// The bodies of a page, with a star before what highlights and a line before what is read.
fn shown(page: &Value) -> Vec<String> {
    let one = |one: &Value| {
        let highlight = list(&one["actions"]).iter().any(|action| action["set_tweak"] == "highlight");
        assert_eq!(one["actions"][0], "notify");
        let (star, read) = (if highlight { "*" } else { "" }, if one["read"] == true { "-" } else { "" });
        format!("{read}{star}{}", one["event"]["content"]["body"].as_str().unwrap_or_default())
    };
    list(&page["notifications"]).iter().map(one).collect()
}

/// All pages of so many.
async fn pages(client: &Client, limit: usize, more: &str) -> Vec<String> {
    let (mut all, mut from) = (Vec::new(), String::new());
    loop {
        let page = page(client, &format!("limit={limit}{more}{from}")).await;
        let part = shown(&page);
        assert!(part.len() <= limit);
        all.extend(part);
        match page["next_token"].as_str() {
            Some(token) => from = format!("&from={token}"),
            None => return all,
        }
    }
}

async fn mention(client: &Client, room: &str, user: &Client, body: &str) -> String {
    let content = json!({ "msgtype": "m.text", "body": body, "m.mentions": { "user_ids": [user.user] } });
    client.send(room, "m.room.message", content).await
}

async fn reply(client: &Client, room: &str, root: &str, body: &str) -> String {
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    client.send(room, "m.room.message", json!({ "msgtype": "m.text", "body": body, "m.relates_to": relation })).await
}

async fn receipt(client: &Client, room: &str, event: &str, body: Value) {
    client.post(&format!("/rooms/{room}/receipt/m.read/{event}"), body).await.ok();
}

/// How much is unread in a room, main timeline and threads together: notifications and highlights.
async fn unread(client: &Client, room: &str) -> (usize, usize) {
    let answer = client.sync("").await;
    let counts = &answer["rooms"]["join"][room]["unread_notifications"];
    let count = |kind: &str| usize::try_from(counts[kind].as_u64().unwrap()).unwrap();
    (count("notification_count"), count("highlight_count"))
}

/// What is listed as unread in a room: all of it, and what highlights.
async fn listed(client: &Client, room: &str) -> (usize, usize) {
    let all = page(client, "limit=100").await;
    let unread = list(&all["notifications"]).into_iter().filter(|one| one["room_id"] == room && one["read"] == false);
    let highlights = unread.clone().filter(|one| one["actions"].to_string().contains("highlight")).count();
    (unread.count(), highlights)
}

#[tokio::test]
async fn cp10_notifications_of_all_rooms_come_newest_first() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let [one, two, muted] = [alice.public_room().await, alice.public_room().await, alice.public_room().await];
    alice.say(&one, "before the join").await;
    for room in [&one, &two, &muted] {
        bob.join(room).await;
    }
    bob.put(&format!("/pushrules/global/room/{muted}"), json!({ "actions": [] })).await.ok();
    alice.say(&one, "a").await;
    alice.say(&two, "b").await;
    alice.say(&muted, "not this").await;
    mention(&alice, &muted, &bob, "c").await;
    let redacted = alice.say(&one, "gone").await;
    alice.put(&format!("/rooms/{one}/redact/{redacted}/1"), json!({})).await.ok();
    mention(&alice, &one, &bob, "d").await;
    alice.set_state(&one, "m.room.topic", json!({ "topic": "no notification" })).await;
    let root = alice.say(&two, "e").await;
    reply(&alice, &two, &root, "f").await;

    let first = page(&bob, "").await;
    assert_eq!(shown(&first), ["f", "e", "*d", "*c", "b", "a"]);
    assert_eq!(first.get("next_token"), None);
    let newest = &first["notifications"][0];
    assert_eq!((&newest["room_id"], &newest["event"]["sender"]), (&json!(two), &json!(alice.user)));
    assert_eq!(newest["ts"], newest["event"]["origin_server_ts"]);
    assert_eq!(shown(&page(&bob, "only=highlight").await), ["*d", "*c"]);
    assert_eq!(shown(&page(&alice, "").await), [""; 0], "nobody is notified of what is one's own");
    for room in [&one, &two, &muted] {
        assert_eq!(listed(&bob, room).await, unread(&bob, room).await);
    }
    bob.leave(&two).await;
    assert_eq!(shown(&page(&bob, "").await), ["*d", "*c", "a"]);
    server.nobody().get("/notifications").await.refused(401, "M_MISSING_TOKEN");
    for token in ["x", "n", "n-1", "s5_a_0"] {
        bob.get(&format!("/notifications?from={token}")).await.refused(400, "M_INVALID_PARAM");
    }
}

#[tokio::test]
async fn cp10_what_is_read_is_what_counts_no_more() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    let root = alice.say(&room, "root").await;
    let second = mention(&alice, &room, &bob, "second").await;
    let answer = reply(&alice, &room, &root, "answer").await;
    alice.say(&room, "third").await;
    let agree = async || assert_eq!(listed(&bob, &room).await, unread(&bob, &room).await);
    assert_eq!(shown(&page(&bob, "").await), ["third", "answer", "*second", "root"]);
    agree().await;
    receipt(&bob, &room, &second, json!({ "thread_id": "main" })).await;
    assert_eq!(shown(&page(&bob, "").await), ["third", "answer", "-*second", "-root"]);
    agree().await;
    receipt(&bob, &room, &answer, json!({ "thread_id": root })).await;
    assert_eq!(shown(&page(&bob, "").await), ["third", "-answer", "-*second", "-root"]);
    agree().await;
    // Sending is reading: in the thread here, and there in the main timeline.
    let later = reply(&alice, &room, &root, "later").await;
    assert_eq!(shown(&page(&bob, "limit=1").await), ["later"]);
    reply(&bob, &room, &root, "own").await;
    assert_eq!(shown(&page(&bob, "limit=2").await), ["-later", "third"]);
    agree().await;
    bob.say(&room, "own").await;
    assert_eq!(shown(&page(&bob, "limit=2").await), ["-later", "-third"]);
    agree().await;
    // An unthreaded receipt is one for all.
    reply(&alice, &room, &root, "last").await;
    receipt(&bob, &room, &later, json!({})).await;
    assert_eq!(shown(&page(&bob, "limit=1").await), ["last"]);
    let newest = text(&page(&bob, "limit=1").await["notifications"][0]["event"]["event_id"]);
    receipt(&bob, &room, &newest, json!({})).await;
    assert_eq!(shown(&page(&bob, "limit=1").await), ["-last"]);
    agree().await;
}

#[tokio::test]
async fn cp10_pages_stay_while_more_comes() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let mut rooms = Vec::new();
    for _ in 0..3 {
        let room = alice.public_room().await;
        bob.join(&room).await;
        rooms.push(room);
    }
    // Of one room so much that it takes several looks, and much that notifies nobody.
    let mut said = Vec::new();
    for n in 0..150_usize {
        let (room, body) = (&rooms[if n < 90 { 0 } else { n % 3 }], n.to_string());
        match n % 10 {
            0 => {
                mention(&alice, room, &bob, &body).await;
                said.push(format!("*{body}"));
            }
            1 | 2 => drop(alice.send(room, "m.reaction", json!({ "body": body })).await),
            _ => {
                alice.say(room, &body).await;
                said.push(body);
            }
        }
    }
    said.reverse();
    for limit in [1, 7, 100] {
        assert_eq!(pages(&bob, limit, "").await, said, "{limit}");
    }
    let highlights: Vec<String> = said.iter().filter(|body| body.starts_with('*')).cloned().collect();
    assert_eq!(pages(&bob, 4, "&only=highlight").await, highlights);

    let first = page(&bob, "limit=5").await;
    for room in &rooms {
        alice.say(room, "news").await;
    }
    let token = text(&first["next_token"]);
    let second = page(&bob, &format!("limit=5&from={token}")).await;
    assert_eq!([shown(&first), shown(&second)].concat(), said[..10]);
    assert_eq!(shown(&page(&bob, "limit=4").await), ["news", "news", "news", said[0].as_str()]);
}

#[tokio::test]
async fn cp10_who_is_ignored_is_not_listed() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    carol.join(&room).await;
    alice.say(&room, "alice").await;
    carol.say(&room, "carol").await;
    let ignored = json!({ "ignored_users": { &carol.user: {} } });
    bob.put(&format!("/user/{}/account_data/m.ignored_user_list", bob.user), ignored).await.ok();
    carol.say(&room, "carol again").await;
    assert_eq!(shown(&page(&bob, "").await), ["alice"]);
}
