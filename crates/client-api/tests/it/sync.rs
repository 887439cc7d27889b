//! `/sync`: what an answer holds (behaviours CY1 to CY6, CY10 to CY13, CY15, CY17, CY18).

use std::collections::BTreeMap;

use event::{Object, Template};
use rooms::Accepted;
use serde_json::{Value, json};
use testkit::{Client, SERVER, Server, encoded, next_batch};
use users::receipts::{ReadUpTo, ReceiptType};

/// The part of an answer about a joined room; null if there is none.
pub fn joined<'a>(answer: &'a Value, room: &str) -> &'a Value {
    &answer["rooms"]["join"][room]
}

/// The events of a part of a room.
pub fn events<'a>(section: &'a Value, part: &str) -> &'a [Value] {
    section[part]["events"].as_array().map_or(&[], Vec::as_slice)
}

/// The bodies of messages.
pub fn bodies(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

/// Types and state keys of events.
fn keys(events: &[Value]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events.iter().map(|event| (text(&event["type"]), text(&event["state_key"]))).collect()
}

/// The state event of a type among events.
pub fn of_type<'a>(events: &'a [Value], kind: &str) -> Option<&'a Value> {
    events.iter().find(|event| event["type"] == kind)
}

fn filter(value: Value) -> String {
    format!("filter={}", encoded(&value.to_string()))
}

/// Two users in a public room of the first, which is named.
async fn two(server: &Server) -> (Client, Client, String) {
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "a", "room_version": "11" })).await;
    bob.join(&room).await;
    (alice, bob, room)
}

fn object(value: Value) -> Object {
    match event::Json::from(value) {
        event::Json::Object(object) => object,
        other => panic!("not an object: {other:?}"),
    }
}

/// An event of a local user as another server of its name might have made it: on `prev` alone.
async fn fork(by: &Client, room: &str, prev: &str, kind: &str, state_key: Option<&str>, content: Value) -> Accepted {
    let rooms = &by.state.rooms;
    let held = rooms.room(room).await.unwrap().unwrap();
    let prev = rooms.event_by_id(&held, prev).await.unwrap().unwrap();
    let sender = by.user.clone();
    let pairs = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", sender.as_str())];
    let pairs = pairs.map(|(kind, key)| (kind.to_owned(), key.to_owned()));
    let state = rooms.state_map(&held, None, prev.state_after().unwrap(), &pairs).await.unwrap();
    let template = Template {
        room_id: Some(room.try_into().unwrap()),
        sender,
        kind: kind.to_owned(),
        state_key: state_key.map(str::to_owned),
        content: object(content),
        prev_events: vec![prev.id().clone()],
        auth_events: state.0.values().map(|event| event.id().clone()).collect(),
        depth: prev.row.depth + 1,
        origin_server_ts: 1_600_000_000_000,
        ..Template::default()
    };
    let built = event::build(held.rules, template, &testkit::signing_key(), SERVER).unwrap();
    rooms.accept(built).await.unwrap()
}

#[tokio::test]
async fn cy1_state_ends_where_the_timeline_starts() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    let start = bob.sync("").await;
    alice.set_state(&room, "m.room.topic", json!({ "topic": "first" })).await;
    for n in 0..9 {
        alice.say(&room, &n.to_string()).await;
    }
    alice.set_state(&room, "m.room.topic", json!({ "topic": "second" })).await;
    let answer = bob.sync_since(&start, "").await;
    let section = joined(&answer, &room);
    assert_eq!(section["timeline"]["limited"], true, "eleven events");
    let [topic] = events(section, "state") else { panic!("{section}") };
    assert_eq!(topic["content"]["topic"], "first", "the value before the timeline");
    assert_eq!(events(section, "timeline").last().unwrap()["content"]["topic"], "second");
    assert!(section.get("state_after").is_none());
    let answer = bob.sync_since(&start, "use_state_after=true").await;
    let section = joined(&answer, &room);
    let [topic] = events(section, "state_after") else { panic!("{section}") };
    assert_eq!(topic["content"]["topic"], "second", "the value at the end");
    assert!(section.get("state").is_none());
    alice.say(&room, "more").await;
    let answer = bob.sync_since(&answer, "use_state_after=true").await;
    assert_eq!(joined(&answer, &room)["state_after"], json!({ "events": [] }), "present even if empty");
    let answer = bob.sync("").await;
    let section = joined(&answer, &room);
    let mut ids: Vec<_> = [events(section, "state"), events(section, "timeline")].concat();
    let all = ids.len();
    ids.sort_by_key(|event| event["event_id"].to_string());
    ids.dedup_by_key(|event| event["event_id"].to_string());
    assert_eq!(ids.len(), all, "nothing twice");
}

#[tokio::test]
async fn cy2_state_that_resolution_changes_arrives() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    let levels = |bob_level: i64| {
        let users = json!({ "@alice:example.org": 100, "@bob:example.org": bob_level });
        json!({ "users": users, "state_default": 50 })
    };
    alice.set_state(&room, "m.room.topic", json!({ "topic": "old" })).await;
    let before = alice.set_state(&room, "m.room.power_levels", levels(50)).await;
    bob.set_state(&room, "m.room.topic", json!({ "topic": "new" })).await;
    let start = bob.sync("").await;
    let accepted = fork(&alice, &room, &before, "m.room.power_levels", Some(""), levels(0)).await;
    assert!(matches!(&accepted, Accepted::Judged(event) if event.shown()), "{accepted:?}");
    for (query, part) in [("", "state"), ("use_state_after=true", "state_after")] {
        let answer = bob.sync_since(&start, query).await;
        let section = joined(&answer, &room);
        assert_eq!(keys(events(section, "timeline")), [("m.room.power_levels".to_owned(), String::new())]);
        let topic = of_type(events(section, part), "m.room.topic").unwrap_or_else(|| panic!("{part}: {section}"));
        assert_eq!(topic["content"]["topic"], "old", "bob's topic fell with his power");
    }
}

#[tokio::test]
async fn cy3_a_limited_timeline_and_its_gap_are_whole() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    for (n_events, limit, kind) in
        [(10, 10, "m.room.message"), (11, 10, "m.room.message"), (30, 7, "*"), (30, 7, "x.y")]
    {
        let start = bob.sync("").await;
        let mut sent = Vec::new();
        for n in 0..n_events {
            let kind = if n % 3 == 0 && kind == "x.y" { "x.y" } else { "m.room.message" };
            let id = alice.send(&room, kind, json!({ "body": "x", "msgtype": "m.text" })).await;
            sent.push((kind, id));
        }
        let wanted: Vec<&String> =
            sent.iter().filter(|(sent, _)| kind == "*" || kind == *sent).map(|(_, id)| id).collect();
        let timeline = json!({ "limit": limit, "types": [kind] });
        let answer = bob.sync_since(&start, &filter(json!({ "room": { "timeline": timeline } }))).await;
        let section = joined(&answer, &room);
        let shown = events(section, "timeline");
        assert_eq!(section["timeline"]["limited"] == true, wanted.len() > limit, "{n_events} {kind}");
        assert_eq!(shown.len(), wanted.len().min(limit));
        let mut ids: Vec<String> = shown.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect();
        let mut from = section["timeline"]["prev_batch"].as_str().unwrap().to_owned();
        let only = encoded(&json!({ "types": [kind] }).to_string());
        loop {
            let to = next_batch(&start);
            let query = format!("dir=b&limit=4&from={from}&to={to}&filter={only}");
            let page = bob.get(&format!("/rooms/{}/messages?{query}", encoded(&room))).await.ok();
            let chunk = page["chunk"].as_array().unwrap();
            ids.splice(0..0, chunk.iter().rev().map(|event| event["event_id"].as_str().unwrap().to_owned()));
            match page["end"].as_str() {
                Some(end) if end != from => from = end.to_owned(),
                _ => break,
            }
        }
        assert_eq!(ids.iter().collect::<Vec<_>>(), wanted, "{n_events} {limit} {kind}");
    }
}

#[tokio::test]
async fn cy4_a_room_joined_since_comes_whole() {
    let server = Server::new().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "a", "topic": "b" })).await;
    let start = bob.sync("").await;
    let whole = |answer: &Value| {
        let section = joined(answer, &room);
        let all = [events(section, "state"), events(section, "timeline")].concat();
        for kind in ["m.room.create", "m.room.name", "m.room.topic", "m.room.join_rules", "m.room.power_levels"] {
            assert!(of_type(&all, kind).is_some(), "{kind} is missing in {section}");
        }
        assert!(!events(section, "timeline").is_empty());
        assert!(answer["rooms"].get("leave").is_none());
    };
    bob.join(&room).await;
    let first = bob.sync_since(&start, "").await;
    whole(&first);
    for n in 0..12 {
        alice.say(&room, &n.to_string()).await;
    }
    bob.leave(&room).await;
    bob.join(&room).await;
    whole(&bob.sync_since(&start, "").await);
    whole(&bob.sync_since(&first, "").await);
}

/// Who leaves and comes back between two syncs is not shown again what was before.
#[tokio::test]
async fn cy4_a_room_left_and_joined_since_shows_nothing_twice() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    alice.say(&room, "before").await;
    let first = bob.sync("").await;
    assert_eq!(bodies(events(joined(&first, &room), "timeline")), ["before"]);
    for stay in 0..2 {
        bob.leave(&room).await;
        alice.say(&room, "between").await;
        if stay == 1 {
            // The last of it is a leave.
            let left = bob.sync_since(&first, "").await;
            let timeline = events(&left["rooms"]["leave"][&room], "timeline");
            assert_eq!(bodies(timeline), ["between", "after"], "what was said before the leave");
        }
        bob.join(&room).await;
        alice.say(&room, "after").await;
        let second = bob.sync_since(&first, "").await;
        let section = joined(&second, &room);
        let said = ["between", "after"].repeat(stay + 1);
        assert_eq!(bodies(events(section, "timeline")), said);
        assert_eq!(of_type(events(section, "timeline"), "m.room.member").unwrap()["content"]["membership"], "leave");
        assert!(of_type(events(section, "state"), "m.room.create").is_some(), "the state is whole");
    }
}

#[tokio::test]
async fn cy5_left_rooms_end_with_the_leave() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    for way in ["leave", "kick", "ban"] {
        let start = bob.sync("").await;
        alice.set_state(&room, "m.room.topic", json!({ "topic": way })).await;
        alice.say(&room, "before").await;
        let target = json!({ "user_id": bob.user });
        match way {
            "leave" => bob.leave(&room).await,
            other => drop(alice.post(&format!("/rooms/{}/{other}", encoded(&room)), target.clone()).await.ok()),
        }
        alice.say(&room, "after").await;
        alice.set_state(&room, "m.room.topic", json!({ "topic": "after" })).await;
        let answer = bob.sync_since(&start, "").await;
        let section = &answer["rooms"]["leave"][&room];
        assert!(joined(&answer, &room).is_null());
        let timeline = events(section, "timeline");
        assert_eq!(timeline[0]["content"]["topic"], way, "{section}");
        assert_eq!(timeline[1]["content"]["body"], "before");
        let last = timeline.last().unwrap();
        let expected = if way == "ban" { "ban" } else { "leave" };
        assert_eq!((&last["state_key"], &last["content"]["membership"]), (&json!(bob.user), &json!(expected)), "{way}");
        assert_eq!(timeline.len(), 3);
        assert!(events(section, "state").is_empty(), "{section}");
        let answer = bob.sync_since(&answer, "").await;
        assert!(answer["rooms"].get("leave").is_none(), "once");
        assert!(bob.sync("").await["rooms"].get("leave").is_none(), "not without include_leave");
        let answer = bob.sync_with(&filter(json!({ "room": { "include_leave": true } }))).await;
        let section = &answer["rooms"]["leave"][&room];
        let all = [events(section, "state"), events(section, "timeline")].concat();
        assert!(of_type(&all, "m.room.create").is_some(), "{answer}");
        let topics: Vec<_> = all.iter().filter(|event| event["type"] == "m.room.topic").collect();
        assert_eq!(topics.last().unwrap()["content"]["topic"], way, "state as of the leave");
        if way == "ban" {
            alice.post(&format!("/rooms/{}/unban", encoded(&room)), target).await.ok();
        }
        bob.join(&room).await;
    }
}

#[tokio::test]
async fn cy5_a_rejected_invite_is_shown_once() {
    let server = Server::new().await;
    let (alice, carol) = (server.register("alice").await, server.register("carol").await);
    let room = alice.create_room(json!({ "preset": "private_chat", "name": "secret" })).await;
    alice.invite(&room, &carol.user).await.ok();
    let invited = carol.sync("").await;
    assert!(invited["rooms"]["invite"].get(&room).is_some());
    carol.leave(&room).await;
    let answer = carol.sync_since(&invited, "").await;
    let section = &answer["rooms"]["leave"][&room];
    assert_eq!(events(section, "timeline").last().unwrap()["content"]["membership"], "leave", "{answer}");
    assert!(!answer.to_string().contains("secret"), "no state of a room that she never was in");
    let answer = carol.sync_since(&answer, "").await;
    assert!(answer.get("rooms").is_none(), "{answer}");
    let all = filter(json!({ "room": { "include_leave": true } }));
    assert!(carol.sync_with(&all).await["rooms"].get("leave").is_none(), "she never was in it");
}

#[tokio::test]
async fn cy6_filters_choose_and_not_beats_yes() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    let other = alice.public_room().await;
    bob.join(&other).await;
    let start = bob.sync("").await;
    alice.say(&room, "plain").await;
    bob.say(&room, "bob's").await;
    alice.send(&room, "m.room.message", json!({ "body": "picture", "msgtype": "m.image", "url": "mxc://a/b" })).await;
    alice.send(&room, "x.reaction", json!({ "body": "other" })).await;
    alice.set_state(&room, "m.room.topic", json!({ "topic": "t" })).await;
    alice.say(&other, "elsewhere").await;
    let table = [
        (json!({ "types": ["m.room.message"] }), vec!["plain", "bob's", "picture", "elsewhere"]),
        (json!({ "types": ["m.*", "x.*"], "not_types": ["m.room.*"] }), vec!["other"]),
        (json!({ "senders": [bob.user] }), vec!["bob's"]),
        (json!({ "senders": [bob.user], "not_senders": [bob.user] }), vec![]),
        (json!({ "rooms": [other] }), vec!["elsewhere"]),
        (json!({ "rooms": [other, room], "not_rooms": [other] }), vec!["plain", "bob's", "picture", "other"]),
        (json!({ "contains_url": true }), vec!["picture"]),
        (json!({ "limit": 1, "types": ["m.room.message"], "rooms": [room] }), vec!["picture"]),
        (json!({ "types": [] }), vec![]),
    ];
    for (timeline, expected) in table {
        let filter_text = filter(json!({ "room": { "timeline": timeline } }));
        let answer = bob.sync_since(&start, &filter_text).await;
        let mut found = bodies(events(joined(&answer, &room), "timeline"));
        found.extend(bodies(events(joined(&answer, &other), "timeline")));
        assert_eq!(found, expected, "{timeline}");
    }
    let only = filter(json!({ "room": { "rooms": [other], "not_rooms": [] } }));
    let answer = bob.sync_since(&start, &only).await;
    assert!(joined(&answer, &room).is_null() && !joined(&answer, &other).is_null());
    let answer =
        bob.sync_since(&start, &filter(json!({ "room": { "timeline": { "types": ["m.room.message"] } } }))).await;
    let topic = of_type(events(joined(&answer, &room), "state"), "m.room.topic");
    assert!(topic.is_some(), "a state event that the timeline leaves out still updates the state");
}

#[tokio::test]
async fn cy6_filters_by_id_and_hostile_ones() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    let start = bob.sync("").await;
    for n in 0..120 {
        alice.say(&room, &n.to_string()).await;
    }
    let text = json!({ "room": { "timeline": { "limit": 3 } } }).to_string();
    let id = server.state.users.put_filter(&bob.id(), text).await.unwrap();
    for _ in 0..2 {
        let answer = bob.sync_since(&start, &format!("filter={id}")).await;
        assert_eq!(bodies(events(joined(&answer, &room), "timeline")), ["117", "118", "119"]);
    }
    let answer = bob.sync_since(&start, &filter(json!({ "room": { "timeline": { "limit": 1_000_000 } } }))).await;
    assert_eq!(events(joined(&answer, &room), "timeline").len(), 100, "the limit is capped");
    let answer = bob.sync_since(&start, &filter(json!({ "room": { "timeline": { "limit": 0 } } }))).await;
    let timeline = &joined(&answer, &room)["timeline"];
    assert_eq!((&timeline["limited"], &timeline["events"]), (&json!(true), &json!([])));
    for refused in ["filter=nosuchfilter", "filter=%7Bx", "filter=%7B%22room%22%3A1%7D"] {
        let answer = bob.get(&format!("/sync?{refused}")).await;
        assert_eq!(answer.status, 400, "{refused}: {}", answer.json);
    }
    let harmless = json!({ "event_format": "federation", "event_fields": ["content.body"], "x": 1 });
    let answer = bob.sync_since(&start, &filter(harmless)).await;
    assert_eq!(events(joined(&answer, &room), "timeline").len(), 10);
    let answer = alice.get(&format!("/sync?filter={id}")).await;
    assert_eq!(answer.status, 400, "another user's filter");
}

#[tokio::test]
async fn cy10_counts_come_with_the_event_that_they_count() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    let start = bob.sync("").await;
    let first = alice.say(&room, "one").await;
    let mention = json!({ "msgtype": "m.text", "body": "hello", "m.mentions": { "user_ids": [bob.user] } });
    alice.send(&room, "m.room.message", mention).await;
    let answer = bob.sync_since(&start, "").await;
    let counts = |answer: &Value| joined(answer, &room)["unread_notifications"].clone();
    assert_eq!(counts(&answer)["notification_count"], 2);
    assert_eq!(counts(&answer)["highlight_count"], 1, "he is mentioned: {answer}");
    read(&bob, &room, &first, ReceiptType::Read).await;
    let answer = bob.sync_since(&answer, "").await;
    assert_eq!(counts(&answer)["notification_count"], 1, "{answer}");
    let second = alice.say(&room, "two").await;
    let only_state = filter(json!({ "room": { "ephemeral": { "types": [] } } }));
    let answer = bob.sync_since(&answer, &only_state).await;
    assert_eq!(counts(&answer)["notification_count"], 2);
    read(&bob, &room, &second, ReceiptType::ReadPrivate).await;
    let seen_by_alice = alice.sync("").await;
    assert!(!seen_by_alice.to_string().contains("m.read.private"), "CR25");
    let answer = bob.sync_since(&answer, &only_state).await;
    assert_eq!(counts(&answer)["notification_count"], 0, "counts change without any shown receipt: {answer}");
    alice.say(&room, "three").await;
    let late = bob.sync_since(&answer, "").await;
    bob.say(&room, "mine").await;
    assert_eq!(counts(&late)["notification_count"], 1);
    let answer = bob.sync_since(&answer, "").await;
    assert_eq!(counts(&answer)["notification_count"], 0, "sending is reading");
}

#[tokio::test]
async fn cy10_what_is_redacted_is_not_unread() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    let carol = server.register("carol").await;
    carol.join(&room).await;
    let mute =
        json!({ "actions": [], "conditions": [{ "kind": "event_match", "key": "type", "pattern": "m.room.message" }] });
    carol.put("/pushrules/global/override/mute", mute).await.ok();
    let mut answer = bob.sync("").await;
    let counts = |answer: &Value| {
        let section = joined(answer, &room);
        let count = |kind: &str| section["unread_notifications"][kind].as_i64().unwrap();
        (count("notification_count"), count("highlight_count"))
    };
    let root = alice.say(&room, "plain").await;
    let mention = json!({ "msgtype": "m.text", "body": "hello", "m.mentions": { "user_ids": [bob.user, carol.user] } });
    let mention = alice.send(&room, "m.room.message", mention).await;
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    let reply = json!({
        "msgtype": "m.text", "body": "x", "m.relates_to": relation, "m.mentions": { "user_ids": [bob.user] },
    });
    let reply = alice.send(&room, "m.room.message", reply).await;
    answer = bob.sync_since(&answer, "").await;
    assert_eq!(counts(&answer), (3, 2));
    assert_eq!(counts(&carol.sync("").await), (0, 0), "she is told of nothing");
    for (event, left) in [(&mention, (2, 1)), (&reply, (1, 0)), (&root, (0, 0))] {
        alice.put(&format!("/rooms/{}/redact/{}/1", encoded(&room), encoded(event)), json!({})).await.ok();
        answer = bob.sync_since(&answer, "").await;
        assert_eq!(counts(&answer), left, "in the answer that carries the redaction");
        assert_eq!(counts(&carol.sync("").await), (0, 0), "what did not count is not taken off");
    }
    // Whoever has read it loses nothing by it, and what comes after it counts as ever.
    let first = alice.say(&room, "first").await;
    let second = alice.say(&room, "second").await;
    read(&bob, &room, &first, ReceiptType::Read).await;
    alice.put(&format!("/rooms/{}/redact/{}/1", encoded(&room), encoded(&first)), json!({})).await.ok();
    assert_eq!(counts(&bob.sync("").await), (1, 0));
    alice.put(&format!("/rooms/{}/redact/{}/1", encoded(&room), encoded(&second)), json!({})).await.ok();
    assert_eq!(counts(&bob.sync("").await), (0, 0));
    alice.say(&room, "third").await;
    assert_eq!(counts(&bob.sync("").await), (1, 0));
}

/// Sets a receipt.
pub async fn read(by: &Client, room: &str, event: &str, kind: ReceiptType) {
    let held = by.state.rooms.room(room).await.unwrap().unwrap();
    let event = by.state.rooms.event_by_id(&held, event).await.unwrap().unwrap();
    let target = ReadUpTo {
        event_id: event.id().to_string(),
        event: Some(event.num()),
        pos: event.pos(),
        messages: event.row.messages,
    };
    by.state.users.set_receipt(held.num, room, &by.id(), kind, "", &target).await.unwrap();
}

#[tokio::test]
async fn cy10_threads_are_counted_apart() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    let root = alice.say(&room, "root").await;
    let start = bob.sync("").await;
    alice.say(&room, "main").await;
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    for _ in 0..3 {
        let content = json!({ "msgtype": "m.text", "body": "in thread", "m.relates_to": relation });
        alice.send(&room, "m.room.message", content).await;
    }
    let answer = bob.sync_since(&start, "").await;
    let section = joined(&answer, &room);
    assert_eq!(section["unread_notifications"]["notification_count"], 5, "{section}");
    assert!(section.get("unread_thread_notifications").is_none());
    let split = filter(json!({ "room": { "timeline": { "unread_thread_notifications": true } } }));
    let answer = bob.sync_since(&start, &split).await;
    let section = joined(&answer, &room);
    assert_eq!(section["unread_notifications"]["notification_count"], 2, "{section}");
    assert_eq!(section["unread_thread_notifications"][&root]["notification_count"], 3, "{section}");
}

#[tokio::test]
async fn cy10_cr25_edits_and_reactions_count_in_the_thread_of_their_target() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    let root = alice.say(&room, "root").await;
    read(&bob, &room, &root, ReceiptType::Read).await;
    let start = bob.sync("").await;
    let in_thread = json!({ "rel_type": "m.thread", "event_id": root });
    let content = json!({ "msgtype": "m.text", "body": "reply", "m.relates_to": in_thread });
    let reply = alice.send(&room, "m.room.message", content).await;
    let edit = json!({
        "msgtype": "m.text", "body": "* bob", "m.mentions": { "user_ids": [bob.user] },
        "m.new_content": { "msgtype": "m.text", "body": "bob", "m.mentions": { "user_ids": [bob.user] } },
        "m.relates_to": { "rel_type": "m.replace", "event_id": reply },
    });
    let edit = alice.send(&room, "m.room.message", edit).await;
    alice.say(&room, "main").await;
    let split = filter(json!({ "room": { "timeline": { "unread_thread_notifications": true } } }));
    let counts = |answer: &Value| {
        let section = joined(answer, &room);
        let main = section["unread_notifications"]["notification_count"].clone();
        (main, section["unread_thread_notifications"][&root]["notification_count"].clone())
    };
    let answer = bob.sync_since(&start, &split).await;
    let (main, thread) = counts(&answer);
    assert_eq!(main, 1, "the edit is none of the main timeline: {answer}");
    assert!(thread.as_i64() >= Some(1), "{answer}");
    // A reaction to a reply reads nothing of the main timeline.
    let reaction = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": reply, "key": "x" } });
    bob.send(&room, "m.reaction", reaction).await;
    assert_eq!(counts(&bob.sync_since(&start, &split).await).0, 1);
    let path = format!("/rooms/{room}/receipt/m.read/{edit}");
    bob.post(&path, json!({ "thread_id": root })).await.ok();
    let answer = bob.sync_since(&start, &split).await;
    assert_eq!(counts(&answer), (json!(1), Value::Null), "{answer}");
}

#[tokio::test]
async fn cy11_tokens_go_forward_and_old_ones_work() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    let mut answers = vec![bob.sync("").await];
    let position = |answer: &Value| {
        let token = next_batch(answer);
        token.trim_start_matches('s').split('_').next().unwrap().parse::<i64>().unwrap()
    };
    for n in 0..4 {
        alice.say(&room, &n.to_string()).await;
        let answer = bob.sync_since(answers.last().unwrap(), "").await;
        assert!(position(&answer) > position(answers.last().unwrap()));
        assert_eq!(bodies(events(joined(&answer, &room), "timeline")), [n.to_string()]);
        answers.push(answer);
    }
    for (n, old) in answers.iter().enumerate() {
        let again = bob.sync_since(old, "").await;
        let expected: Vec<String> = (n..4).map(|n| n.to_string()).collect();
        assert_eq!(bodies(events(joined(&again, &room), "timeline")), expected);
    }
    let idle = bob.sync_since(answers.last().unwrap(), "").await;
    assert!(position(&idle) >= position(answers.last().unwrap()));
    for token in ["x", "s", "sabc_1", "s1_2_3_4_5", "t0_1", "s999999999_a_0", "s-1", "%00"] {
        let answer = bob.get(&format!("/sync?since={token}")).await;
        assert_eq!((answer.status, &answer.json["errcode"]), (400, &json!("M_INVALID_PARAM")), "{token}");
    }
    // What no node ever gave is not waited for.
    let ahead = format!("/sync?since=s{}_a_0&timeout=0", position(&idle) + 1_000);
    let refused = tokio::time::timeout(std::time::Duration::from_secs(5), bob.get(&ahead)).await.unwrap();
    refused.refused(400, "M_INVALID_PARAM");
    let bare = format!("since=s{}", position(&answers[0]));
    assert_eq!(
        bodies(events(joined(&bob.sync_with(&bare).await, &room), "timeline")).len(),
        4,
        "without the volatile part"
    );
}

async fn send_to_device(from: &Client, to: &Client, n: usize) {
    let content = json!({ "n": n }).to_string();
    let messages = BTreeMap::from([(to.id(), BTreeMap::from([(to.device.clone(), content)]))]);
    from.state.users.send_to_device(&from.id(), "x.message", None, &messages).await.unwrap();
}

#[tokio::test]
async fn cy12_to_device_messages_are_repeated_until_acknowledged() {
    let server = Server::new().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let numbers = |answer: &Value| -> Vec<u64> {
        events(answer, "to_device").iter().map(|event| event["content"]["n"].as_u64().unwrap()).collect()
    };
    let start = bob.sync("").await;
    for n in 0..230 {
        send_to_device(&alice, &bob, n).await;
    }
    let other = bob.login("OTHER").await;
    assert!(numbers(&other.sync("").await).is_empty(), "another device");
    let first = bob.sync_since(&start, "").await;
    assert_eq!(numbers(&first), (0..100).collect::<Vec<_>>());
    assert_eq!(events(&first, "to_device")[0]["sender"], json!(alice.user));
    assert_eq!(events(&first, "to_device")[0]["type"], "x.message");
    assert_eq!(numbers(&bob.sync_since(&start, "").await), (0..100).collect::<Vec<_>>(), "repeated");
    let second = bob.sync_since(&first, "").await;
    assert_eq!(numbers(&second), (100..200).collect::<Vec<_>>());
    send_to_device(&alice, &bob, 230).await;
    let third = bob.sync_since(&second, "").await;
    assert_eq!(numbers(&third), (200..231).collect::<Vec<_>>());
    assert_eq!(numbers(&bob.sync_since(&second, "").await), (200..231).collect::<Vec<_>>());
    let fourth = bob.sync_since(&third, "").await;
    assert!(numbers(&fourth).is_empty());
    assert!(numbers(&bob.sync("").await).is_empty(), "deleted");
    send_to_device(&alice, &bob, 231).await;
    assert_eq!(numbers(&bob.sync_since(&fourth, "").await), [231]);
}

#[tokio::test]
async fn cy13_key_counts_are_in_every_answer() {
    let server = Server::new().await;
    let bob = server.register("bob").await;
    let start = bob.sync("").await;
    assert_eq!(start["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
    assert_eq!(start["device_unused_fallback_key_types"], json!([]));
    let key = |id: &str| (format!("signed_curve25519:{id}"), json!({ "key": "abc", "signatures": {} }));
    let one_time = [key("A"), key("B")].into_iter().collect();
    let fallback = [key("F")].into_iter().collect();
    server.state.users.put_one_time_keys(&bob.id(), &bob.device_id(), &one_time, &fallback).await.unwrap();
    for answer in [bob.sync_since(&start, "").await, bob.sync("").await] {
        assert_eq!(answer["device_one_time_keys_count"], json!({ "signed_curve25519": 2 }));
        assert_eq!(answer["device_unused_fallback_key_types"], json!(["signed_curve25519"]));
    }
    let wanted = BTreeMap::from([(bob.id(), BTreeMap::from([(bob.device.clone(), "signed_curve25519".to_owned())]))]);
    for (left, unused) in [(1, true), (0, true), (0, false)] {
        assert!(!server.state.users.claim_keys(&wanted).await.unwrap().is_empty());
        let answer = bob.sync_since(&start, "").await;
        assert_eq!(answer["device_one_time_keys_count"], json!({ "signed_curve25519": left }));
        assert_eq!(answer["device_unused_fallback_key_types"].as_array().unwrap().len(), usize::from(unused));
    }
    let other = bob.login("OTHER").await;
    assert_eq!(other.sync("").await["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
}

#[tokio::test]
async fn cy15_ignored_users_fall_silent() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    let ignore = |users: Value| {
        let content = json!({ "ignored_users": users }).to_string();
        let users = server.state.users.clone();
        let bob = bob.id();
        async move { users.put_account_data(&bob, "", "m.ignored_user_list", content).await.unwrap() }
    };
    let start = bob.sync("").await;
    ignore(json!({ "@alice:example.org": {} })).await;
    alice.say(&room, "unheard").await;
    alice.set_state(&room, "m.room.topic", json!({ "topic": "kept" })).await;
    let unseen = alice.create_room(json!({ "invite": [bob.user] })).await;
    let held = server.state.rooms.room(&room).await.unwrap().unwrap();
    server.state.users.set_typing(held.num, &alice.id(), Some(30_000));
    let answer = bob.sync_since(&start, "").await;
    let section = joined(&answer, &room);
    assert!(!section.to_string().contains("unheard"), "{section}");
    assert!(of_type(events(section, "timeline"), "m.room.topic").is_some(), "state stays");
    assert!(answer["rooms"]["invite"].get(&unseen).is_none(), "{answer}");
    let typing = of_type(events(section, "ephemeral"), "m.typing");
    assert!(typing.is_none_or(|typing| typing["content"]["user_ids"] == json!([])));
    ignore(json!({})).await;
    let answer = bob.sync_since(&answer, "").await;
    assert!(!answer.to_string().contains("unheard"), "un-ignoring does not replay");
    alice.say(&room, "heard").await;
    assert_eq!(bodies(events(joined(&bob.sync_since(&answer, "").await, &room), "timeline")), ["heard"]);
}

#[tokio::test]
async fn cy15_nobody_ignores_themselves() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    let content = json!({ "ignored_users": { alice.user.clone(): {}, bob.user.clone(): {} } }).to_string();
    server.state.users.put_account_data(&bob.id(), "", "m.ignored_user_list", content).await.unwrap();
    let start = bob.sync("").await;
    alice.say(&room, "unheard").await;
    bob.say(&room, "own").await;
    assert_eq!(bodies(events(joined(&bob.sync_since(&start, "").await, &room), "timeline")), ["own"]);
}

/// The state that a client has of a room after an answer, as it applies it: the state, then the timeline.
fn apply(known: &mut std::collections::BTreeMap<(String, String), Value>, section: &Value) {
    let state = events(section, "state").iter().chain(events(section, "timeline"));
    for event in state.filter(|event| event["state_key"].is_string()) {
        let key = (testkit::text(&event["type"]), testkit::text(&event["state_key"]));
        known.insert(key, event["content"].clone());
    }
}

#[tokio::test]
async fn cy4_what_changed_while_the_history_was_hidden_comes_as_state() {
    for visibility in ["joined", "invited", "shared"] {
        let server = Server::new().await;
        let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
        let hidden = json!({ "type": "m.room.history_visibility", "content": { "history_visibility": visibility } });
        let room = alice.create_room(json!({ "preset": "public_chat", "initial_state": [hidden] })).await;
        bob.join(&room).await;
        let first = bob.sync("").await;
        let mut known = std::collections::BTreeMap::new();
        apply(&mut known, joined(&first, &room));
        carol.join(&room).await;
        alice.set_state(&room, "m.room.topic", json!({ "topic": "seen" })).await;
        bob.leave(&room).await;
        carol.leave(&room).await;
        alice.set_state(&room, "m.room.topic", json!({ "topic": "unseen" })).await;
        bob.join(&room).await;
        let mut of_new = std::collections::BTreeMap::new();
        apply(&mut of_new, joined(&bob.sync("").await, &room));
        apply(&mut known, joined(&bob.sync_since(&first, "").await, &room));
        for known in [known, of_new] {
            let member = |user: &str| &known[&("m.room.member".to_owned(), user.to_owned())]["membership"];
            assert_eq!((member(&carol.user), member(&bob.user)), (&json!("leave"), &json!("join")), "{visibility}");
            assert_eq!(known[&("m.room.topic".to_owned(), String::new())]["topic"], "unseen", "{visibility}");
        }
    }
}

#[tokio::test]
async fn cy17_the_timeline_is_in_order_of_arrival() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    let before = alice.say(&room, "before").await;
    let start = bob.sync("").await;
    alice.say(&room, "first").await;
    let late = json!({ "msgtype": "m.text", "body": "older by its own word" });
    let Accepted::Judged(_) = fork(&alice, &room, &before, "m.room.message", None, late).await else { panic!() };
    alice.say(&room, "third").await;
    let answer = bob.sync_since(&start, "").await;
    let expected = ["first", "older by its own word", "third"];
    assert_eq!(bodies(events(joined(&answer, &room), "timeline")), expected);
    let carol = server.register("carol").await;
    carol.join(&room).await;
    let before = alice.say(&room, "fourth").await;
    alice.post(&format!("/rooms/{}/ban", encoded(&room)), json!({ "user_id": carol.user })).await.ok();
    let start = bob.sync_since(&answer, "").await;
    let soft = json!({ "msgtype": "m.text", "body": "soft-failed" });
    let Accepted::Judged(soft) = fork(&carol, &room, &before, "m.room.message", None, soft).await else { panic!() };
    assert!(soft.has(rooms::flags::SOFT_FAILED), "{soft:?}");
    let rejected = fork(&bob, &room, &before, "m.room.topic", Some(""), json!({ "topic": "rejected" })).await;
    assert!(matches!(&rejected, Accepted::Judged(event) if event.rejected()), "{rejected:?}");
    alice.say(&room, "last").await;
    let answer = bob.sync_since(&start, "").await;
    assert_eq!(bodies(events(joined(&answer, &room), "timeline")), ["last"]);
    for text in ["soft-failed", "rejected"] {
        assert!(!answer.to_string().contains(text) && !bob.sync("").await.to_string().contains(text));
    }
}

#[tokio::test]
async fn cy18_stripped_state_has_the_create_event_and_four_members() {
    let server = Server::new().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let stripped = |events: &[Value]| {
        for kind in ["m.room.create", "m.room.join_rules", "m.room.name", "m.room.member"] {
            assert!(of_type(events, kind).is_some(), "{kind} is missing: {events:?}");
        }
        for event in events {
            let members: Vec<&String> = event.as_object().unwrap().keys().collect();
            assert_eq!(members, ["content", "sender", "state_key", "type"], "{event}");
        }
    };
    let start = bob.sync("").await;
    let room = alice.create_room(json!({ "name": "a", "invite": [bob.user] })).await;
    for answer in [bob.sync_since(&start, "").await, bob.sync("").await] {
        let found = events(&answer["rooms"]["invite"][&room], "invite_state");
        stripped(found);
        assert!(found.iter().any(|event| event["state_key"] == json!(bob.user)), "the invite itself");
    }
    let rule = json!({ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } });
    let room = alice.create_room(json!({ "name": "b", "initial_state": [rule] })).await;
    server.state.rooms.knock(&room, &bob.id(), None, Object::new()).await.unwrap();
    let answer = bob.sync_since(&start, "").await;
    stripped(events(&answer["rooms"]["knock"][&room], "knock_state"));
}

#[tokio::test]
async fn cy6_only_the_named_fields_of_events_are_sent() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    let content = json!({ "body": "b", "msgtype": "m.text", "m.dotted": { "a": 1, "b": 2 } });
    alice.send(&room, "m.room.message", content).await;
    let wanted = json!({ "event_fields": ["type", "content.body", r"content.m\.dotted.b", "content.name"] });
    let answer = bob.sync_with(&filter(wanted.clone())).await;
    let section = joined(&answer, &room);
    let expected = json!({ "type": "m.room.message", "content": { "body": "b", "m.dotted": { "b": 2 } } });
    assert_eq!(events(section, "timeline").last(), Some(&expected));
    let state =
        of_type(events(section, "state"), "m.room.name").or(of_type(events(section, "timeline"), "m.room.name"));
    assert_eq!(state, Some(&json!({ "type": "m.room.name", "content": { "name": "a" } })));
    // The same by the id of a stored filter.
    let path = format!("/_matrix/client/v3/user/{}/filter", bob.user);
    let id = bob.post(&path, wanted).await.ok()["filter_id"].as_str().unwrap().to_owned();
    let stored = bob.sync_with(&format!("filter={id}")).await;
    assert_eq!(events(joined(&stored, &room), "timeline"), events(section, "timeline"));
}

#[tokio::test]
async fn cy6_events_come_as_in_federation() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    let sent = alice.say(&room, "raw").await;
    let answer = bob.sync_with(&filter(json!({ "event_format": "federation" }))).await;
    let section = joined(&answer, &room);
    let raw = events(section, "timeline").last().unwrap();
    assert_eq!(raw["content"]["body"], "raw");
    assert!(raw["hashes"].is_object() && raw["signatures"].is_object() && raw["prev_events"].is_array());
    assert!(raw["event_id"].is_null(), "from room version 3 on the id is a hash of the rest");
    assert!(events(section, "state").iter().all(|event| event["signatures"].is_object()));
    let both = json!({ "event_format": "federation", "event_fields": ["depth", "room_id"] });
    let answer = bob.sync_with(&filter(both)).await;
    let last = events(joined(&answer, &room), "timeline").last().unwrap().clone();
    assert_eq!(last, json!({ "depth": raw["depth"], "room_id": room }));
    let redacted = format!("/_matrix/client/v3/rooms/{}/redact/{}/1", encoded(&room), encoded(&sent));
    alice.put(&redacted, json!({})).await.ok();
    let answer = bob.sync_with(&filter(json!({ "event_format": "federation" }))).await;
    let timeline = events(joined(&answer, &room), "timeline");
    let bodies = bodies(timeline);
    assert!(!bodies.contains(&"raw"), "what was redacted is pruned in every form");
    let refused = bob.get(&format!("/_matrix/client/v3/sync?{}", filter(json!({ "event_format": "other" })))).await;
    refused.refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn cy4_account_data_that_was_set_outside_comes_with_the_room() {
    let server = Server::new().await;
    let (_, bob, room) = two(&server).await;
    bob.leave(&room).await;
    let first = bob.sync("").await;
    let path = format!("/user/{}/rooms/{}/account_data/x.y", encoded(&bob.user), encoded(&room));
    bob.put(&path, json!({ "a": 1 })).await.ok();
    let second = bob.sync_since(&first, "").await;
    bob.join(&room).await;
    let third = bob.sync_since(&second, "").await;
    let expected = json!({ "type": "x.y", "content": { "a": 1 } });
    assert_eq!(events(joined(&third, &room), "account_data"), [expected]);
}

#[tokio::test]
async fn cr25_receipts_for_several_threads_at_one_event_all_come() {
    let server = Server::new().await;
    let (alice, bob, room) = two(&server).await;
    let message = alice.say(&room, "x").await;
    let path = format!("/rooms/{}/receipt/m.read/{}", encoded(&room), encoded(&message));
    bob.post(&path, json!({})).await.ok();
    bob.post(&path, json!({ "thread_id": "main" })).await.ok();
    let answer = alice.sync("").await;
    let receipts = events(joined(&answer, &room), "ephemeral").iter().filter(|event| event["type"] == "m.receipt");
    let threads: Vec<&Value> =
        receipts.map(|event| &event["content"][&message]["m.read"][&bob.user]["thread_id"]).collect();
    assert_eq!(threads, [&Value::Null, &json!("main")]);
}
