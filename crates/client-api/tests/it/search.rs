//! Search in what messages say.

use serde_json::{Value, json};
use testkit::{Client, Server, encoded, text};

/// What is asked for, but for the search term.
#[derive(Clone, Default)]
struct Asked {
    criteria: Value,
    next_batch: Option<String>,
}

impl Asked {
    fn with(criteria: Value) -> Self {
        Self { criteria, next_batch: None }
    }

    fn recent(filter: Value) -> Self {
        Self::with(json!({ "order_by": "recent", "filter": filter }))
    }

    fn from(self, token: &Value) -> Self {
        Self { next_batch: Some(text(token)), ..self }
    }
}

/// Searches once everything is indexed.
async fn search(client: &Client, term: &str, asked: Asked) -> Value {
    client.state.search.catch_up().await.unwrap();
    ask(client, term, asked).await
}

async fn ask(client: &Client, term: &str, asked: Asked) -> Value {
    let mut criteria = if asked.criteria.is_null() { json!({}) } else { asked.criteria };
    criteria["search_term"] = term.into();
    let path = asked.next_batch.map_or("/search".to_owned(), |token| format!("/search?next_batch={token}"));
    let answer = client.post(&path, json!({ "search_categories": { "room_events": criteria } })).await.ok();
    answer["search_categories"]["room_events"].clone()
}

/// What the hits say.
fn said(answer: &Value) -> Vec<String> {
    let results = answer["results"].as_array().unwrap();
    let body = |result: &Value| {
        let content = &result["result"]["content"];
        let edited = &result["result"]["unsigned"]["m.relations"]["m.replace"]["content"]["m.new_content"]["body"];
        let texts = [edited, &content["body"], &content["name"], &content["topic"]];
        texts.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned()
    };
    results.iter().map(body).collect()
}

async fn found(client: &Client, term: &str) -> Vec<String> {
    said(&search(client, term, Asked::recent(json!({}))).await)
}

async fn redact(client: &Client, room: &str, event: &str) {
    client.put(&format!("/rooms/{room}/redact/{}/{}", encoded(event), encoded(event)), json!({})).await.ok();
}

async fn edit(client: &Client, room: &str, event: &str, body: &str) -> String {
    let content = json!({
        "msgtype": "m.text", "body": format!("* {body}"),
        "m.new_content": { "msgtype": "m.text", "body": body },
        "m.relates_to": { "rel_type": "m.replace", "event_id": event },
    });
    client.send(room, "m.room.message", content).await
}

#[tokio::test]
async fn what_was_said_is_found_in_every_language() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "name": "Tearoom", "topic": "All about tea" })).await;
    let texts =
        ["Green TEA, please", "Grüner Tee für Zoë", "зелёный чай", "緑茶をください", "我要绿茶", "녹차를 주세요"];
    for text in texts {
        alice.say(&room, text).await;
    }
    for (term, expected) in [
        ("tea green", "Green TEA, please"),
        ("ZOE", "Grüner Tee für Zoë"),
        ("зеленый", "зелёный чай"),
        ("緑茶", "緑茶をください"),
        ("ください", "緑茶をください"),
        ("绿茶", "我要绿茶"),
        ("녹차", "녹차를 주세요"),
        ("tearoom", "Tearoom"),
        ("about", "All about tea"),
    ] {
        assert_eq!(found(&alice, term).await, [expected], "{term}");
    }
    assert_eq!(found(&alice, "茶").await, ["我要绿茶", "緑茶をください"]);
    assert_eq!(found(&alice, "tea").await, ["Green TEA, please", "All about tea"], "newest first");
    for nothing in ["", "  ", "?!…", "gree", "tea coffee", "\u{200d}", "緑緑茶"] {
        assert_eq!(found(&alice, nothing).await, [""; 0], "{nothing:?}");
    }
    let only = |keys: Value| Asked::with(json!({ "keys": keys, "order_by": "recent" }));
    assert_eq!(said(&search(&alice, "tea", only(json!(["content.topic"]))).await), ["All about tea"]);
    assert_eq!(
        said(&search(&alice, "tea", only(json!(["content.body", "content.name"]))).await),
        ["Green TEA, please"]
    );
    let answer = search(&alice, "zoe", Asked::default()).await;
    assert_eq!(answer["count"], 1);
    assert_eq!(answer["highlights"], json!(["zoe", "zoë"]));
    assert_eq!(answer["results"][0]["result"]["room_id"], room);
    assert!(answer["results"][0]["rank"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn filters_narrow_a_search() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let rooms = [alice.create_room(json!({ "preset": "public_chat" })).await, alice.create_room(json!({})).await];
    bob.join(&rooms[0]).await;
    alice.say(&rooms[0], "one fish").await;
    bob.say(&rooms[0], "two fish").await;
    alice.say(&rooms[1], "red fish").await;
    let picture = json!({ "msgtype": "m.image", "body": "blue fish", "url": "mxc://example.org/fish" });
    alice.send(&rooms[1], "m.room.message", picture).await;
    for (filter, expected) in [
        (json!({ "rooms": [rooms[0]] }), vec!["two fish", "one fish"]),
        (json!({ "rooms": ["!unknown:example.org", rooms[1]] }), vec!["blue fish", "red fish"]),
        (json!({ "rooms": [] }), vec![]),
        (json!({ "rooms": ["!unknown:example.org", "x"] }), vec![]),
        (json!({ "not_rooms": [rooms[0], "?"] }), vec!["blue fish", "red fish"]),
        (json!({ "senders": [bob.user] }), vec!["two fish"]),
        (json!({ "not_senders": [alice.user] }), vec!["two fish"]),
        (json!({ "types": ["m.room.name"] }), vec![]),
        (json!({ "not_types": ["m.*"] }), vec![]),
        (json!({ "contains_url": true }), vec!["blue fish"]),
        (json!({ "contains_url": false, "rooms": [rooms[1]] }), vec!["red fish"]),
        (json!({ "limit": 2 }), vec!["blue fish", "red fish"]),
    ] {
        assert_eq!(said(&search(&alice, "fish", Asked::recent(filter.clone())).await), expected, "{filter}");
    }
    let list = json!({ "ignored_users": { bob.user.clone(): {} } });
    let path = format!("/user/{}/account_data/m.ignored_user_list", encoded(&alice.user));
    alice.put(&path, list).await.ok();
    assert_eq!(found(&alice, "two fish").await, [""; 0], "who is ignored is not found");
}

#[tokio::test]
async fn results_come_with_what_stands_around_them() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    alice.put(&format!("/profile/{}/displayname", alice.user), json!({ "displayname": "Alice" })).await.ok();
    let room = alice.create_room(json!({ "name": "Numbers" })).await;
    for n in 0..60 {
        alice.say(&room, if n == 30 { "needle" } else { "hay" }).await;
    }
    let context = async |context: Value| {
        let answer = search(&alice, "needle", Asked::with(json!({ "event_context": context }))).await;
        answer["results"][0]["context"].clone()
    };
    let lengths =
        |context: &Value| ["events_before", "events_after"].map(|side| context[side].as_array().unwrap().len());
    let usual = context(json!({})).await;
    assert_eq!(lengths(&usual), [5, 5]);
    assert_eq!(usual.get("profile_info"), None);
    let some = context(json!({ "before_limit": 2, "after_limit": 0, "include_profile": true })).await;
    assert_eq!(lengths(&some), [2, 0]);
    assert_eq!(some["profile_info"][&alice.user]["displayname"], "Alice");
    assert_eq!(
        lengths(&context(json!({ "before_limit": 1_000_000_000, "after_limit": 1_000_000_000 })).await),
        [20, 20]
    );
    let page = alice.get(&format!("/rooms/{room}/messages?dir=b&from={}&limit=1", text(&some["start"]))).await.ok();
    let before = alice.get(&format!("/rooms/{room}/messages?dir=f&from={}&limit=1", text(&some["start"]))).await.ok();
    assert_eq!(before["chunk"][0]["event_id"], some["events_before"][1]["event_id"]);
    assert_ne!(page["chunk"][0]["event_id"], before["chunk"][0]["event_id"]);
    let answer = search(&alice, "needle", Asked::default()).await;
    assert_eq!(answer["results"][0].get("context"), None);
    assert_eq!(answer.get("state"), None);
    let answer = search(&alice, "needle", Asked::with(json!({ "include_state": true }))).await;
    let kinds: Vec<&str> =
        answer["state"][&room].as_array().unwrap().iter().filter_map(|e| e["type"].as_str()).collect();
    assert!(kinds.contains(&"m.room.name") && kinds.contains(&"m.room.member"), "{kinds:?}");
}

#[tokio::test]
async fn results_come_in_pages_also_of_groups() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let rooms = [alice.create_room(json!({ "preset": "public_chat" })).await, alice.create_room(json!({})).await];
    bob.join(&rooms[0]).await;
    let mut expected = Vec::new();
    for n in 0..23 {
        let (client, room) = if n % 3 == 0 { (&bob, &rooms[0]) } else { (&alice, &rooms[n % 2]) };
        let text = format!("page {n}{}", " filler".repeat(n % 5));
        client.say(room, &text).await;
        expected.push((text, room.clone(), client.user.clone()));
    }
    expected.reverse();
    for order in ["recent", "rank"] {
        let groups = json!({ "group_by": [{ "key": "room_id" }, { "key": "sender" }] });
        let asked = Asked::with(json!({ "order_by": order, "filter": { "limit": 4 }, "groupings": groups }));
        let all = async |first: Asked| {
            let (mut all, mut asked) = (Vec::new(), first);
            loop {
                let answer = search(&alice, "page", asked.clone()).await;
                all.extend(said(&answer));
                match answer.get("next_batch") {
                    Some(token) => asked = asked.from(token),
                    None => return all,
                }
            }
        };
        let texts = |keep: &dyn Fn(&(String, String, String)) -> bool| {
            let texts = expected.iter().filter(|one| keep(one)).map(|(text, ..)| text.clone());
            let mut texts: Vec<String> = texts.collect();
            if order == "rank" {
                texts.sort_by_key(|text| text.len() / 7);
            }
            texts
        };
        let got = all(asked.clone()).await;
        assert_eq!(got.len(), 23, "{order} {got:?}");
        if order == "recent" {
            assert_eq!(got, texts(&|_| true), "{order}");
        } else {
            let fillers = |text: &String| text.matches("filler").count();
            assert!(got.windows(2).all(|pair| fillers(&pair[0]) <= fillers(&pair[1])), "{got:?}");
        }
        let first = search(&alice, "page", asked.clone()).await;
        for (key, value) in [("room_id", &rooms[0]), ("room_id", &rooms[1]), ("sender", &bob.user)] {
            let Some(group) = first["groups"][key].get(value) else { continue };
            let shown = group["results"].as_array().unwrap().len();
            let in_group = |one: &(String, String, String)| one.1 == *value || one.2 == *value;
            let rest = match group.get("next_batch") {
                Some(token) => all(asked.clone().from(token)).await,
                None => Vec::new(),
            };
            assert_eq!(rest.len() + shown, texts(&in_group).len(), "{order} {key} {value} {rest:?}");
            assert!(rest.iter().all(|text| texts(&in_group).contains(text)), "{order} {key} {value}");
        }
    }
}

#[tokio::test]
async fn a_search_that_looks_at_much_in_vain_goes_on_in_the_next_page() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    bob.say(&room, "grain of gold").await;
    for _ in 0..1_100 {
        alice.say(&room, "grain of sand").await;
    }
    for order in ["recent", "rank"] {
        let mut asked = Asked::with(json!({ "order_by": order, "filter": { "senders": [bob.user] } }));
        let mut pages = Vec::new();
        loop {
            let answer = search(&alice, "grain", asked.clone()).await;
            pages.push(said(&answer));
            match answer.get("next_batch") {
                Some(token) => asked = asked.from(token),
                None => break,
            }
        }
        assert_eq!(pages, [vec![], vec!["grain of gold".to_owned()]], "{order}");
    }
}

#[tokio::test]
async fn cr11_only_what_one_may_see_is_found() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    let visibility =
        |value: &str| json!({ "type": "m.room.history_visibility", "content": { "history_visibility": value } });
    let joined = json!({ "preset": "public_chat", "initial_state": [visibility("joined")] });
    let room = alice.create_room(joined).await;
    alice.say(&room, "secret before").await;
    bob.join(&room).await;
    alice.say(&room, "secret meanwhile").await;
    bob.post(&format!("/rooms/{room}/leave"), json!({})).await.ok();
    alice.say(&room, "secret after").await;
    let open = json!({ "preset": "public_chat", "initial_state": [visibility("world_readable")] });
    let open = alice.create_room(open).await;
    bob.join(&open).await;
    alice.say(&open, "secret in the open").await;
    bob.post(&format!("/rooms/{open}/leave"), json!({})).await.ok();
    alice.say(&open, "secret later in the open").await;
    assert_eq!(found(&bob, "secret").await, ["secret in the open", "secret meanwhile"]);
    assert_eq!(found(&alice, "secret").await.len(), 5);
    assert_eq!(found(&carol, "secret").await, [""; 0], "who was in no room finds nothing");
    let around = json!({ "event_context": { "after_limit": 10 }, "filter": { "rooms": [open] } });
    let answer = search(&bob, "open", Asked::with(around)).await;
    assert!(!answer["results"][0]["context"].to_string().contains("later"), "{answer}");
    bob.post(&format!("/rooms/{room}/forget"), json!({})).await.ok();
    assert_eq!(found(&bob, "secret").await, ["secret in the open"]);
    bob.join(&room).await;
    alice.say(&room, "secret again").await;
    assert_eq!(found(&bob, "secret").await, ["secret again", "secret in the open", "secret meanwhile"]);
}

/// How many rows the index has.
async fn rows(server: &Server) -> [usize; 2] {
    use store::Read;
    use store::tables::search::{SearchBlockRow, SearchDocumentRow};
    server.state.search.catch_up().await.unwrap();
    let store = &server.state.store;
    let documents: Vec<SearchDocumentRow> = store.all(Read::prefix::<SearchDocumentRow>(vec![])).await.unwrap();
    let blocks: Vec<SearchBlockRow> = store.all(Read::prefix::<SearchBlockRow>(vec![])).await.unwrap();
    [documents.len(), blocks.iter().map(|block| block.postings.len()).sum()]
}

#[tokio::test]
async fn what_is_gone_is_gone_from_the_index_too() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let empty = rows(&server).await;
    let message = alice.say(&room, "treasure island").await;
    assert_eq!(found(&bob, "treasure").await, ["treasure island"]);
    assert_ne!(rows(&server).await, empty);
    redact(&alice, &room, &message).await;
    // Also at once, before the index knows.
    assert_eq!(said(&ask(&bob, "treasure", Asked::default()).await), [""; 0]);
    assert_eq!(rows(&server).await, empty, "no posting is left");

    let message = alice.say(&room, "first draft").await;
    let mut last = String::new();
    for n in 0..100 {
        last = edit(&alice, &room, &message, &format!("version {n}")).await;
    }
    edit(&bob, &room, &message, "vandalism").await;
    assert_eq!(found(&bob, "version 99").await, ["version 99"]);
    for old in ["first", "version 98", "vandalism"] {
        assert_eq!(found(&bob, old).await, [""; 0], "{old}");
    }
    redact(&alice, &room, &last).await;
    assert_eq!(found(&bob, "98").await, ["version 98"], "the edit before counts");
    assert_eq!(found(&bob, "99").await, [""; 0]);
    redact(&alice, &room, &message).await;
    assert_eq!(found(&bob, "version").await, [""; 0]);

    // More than one step of the work looks at.
    for n in 0..1_100 {
        alice.say(&room, &format!("purged {n}")).await;
    }
    assert_eq!(found(&bob, "purged").await.len(), 10);
    server.state.rooms.purge_room(&room).await.unwrap();
    assert_eq!(found(&bob, "purged").await, [""; 0]);
    assert_eq!(rows(&server).await, [0, 0], "nothing of a purged room is left");
}

#[tokio::test]
async fn purged_history_and_encrypted_rooms_are_not_searched() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    for n in 0..5 {
        alice.say(&room, &format!("old {n}")).await;
    }
    server.state.search.catch_up().await.unwrap();
    let known = server.state.rooms.room(&room).await.unwrap().unwrap();
    let place = server.state.rooms.live_end(&known);
    alice.say(&room, "new").await;
    server.state.rooms.purge_history(&room, place).await.unwrap();
    assert_eq!(found(&alice, "old").await, [""; 0]);
    assert_eq!(found(&alice, "new").await, ["new"]);
    assert_eq!(rows(&server).await[0], 1);
    alice.set_state(&room, "m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })).await;
    // Also before the index knows.
    assert_eq!(said(&ask(&alice, "new", Asked::default()).await), [""; 0]);
    alice.say(&room, "plain new").await;
    assert_eq!(found(&alice, "new").await, [""; 0]);
    assert_eq!(rows(&server).await, [0, 0]);
}

#[tokio::test]
async fn erased_users_are_found_by_those_who_knew_what_they_said() {
    let server = Server::new().await;
    let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    bob.say(&room, "farewell").await;
    server.state.users.deactivate(&bob.user.as_str().into(), true).await.unwrap();
    client_api::account::jobs::leave_rooms(&server.state.users, &server.state.rooms, &bob.user.as_str().into())
        .await
        .unwrap();
    carol.join(&room).await;
    assert_eq!(found(&alice, "farewell").await, ["farewell"]);
    assert_eq!(found(&carol, "farewell").await, [""; 0]);
}

#[tokio::test]
async fn cr21_a_search_finds_what_was_said_before_an_upgrade() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let old = alice.create_room(json!({ "preset": "public_chat" })).await;
    alice.say(&old, "ancient wisdom").await;
    let body = json!({ "new_version": "12" });
    let new = text(&alice.post(&format!("/rooms/{old}/upgrade"), body).await.ok()["replacement_room"]);
    alice.say(&new, "modern wisdom").await;
    bob.join(&new).await;
    let in_new = Asked::recent(json!({ "rooms": [new] }));
    assert_eq!(said(&search(&alice, "wisdom", in_new.clone()).await), ["modern wisdom", "ancient wisdom"]);
    assert_eq!(said(&search(&bob, "wisdom", in_new).await), ["modern wisdom"], "who was not in the old one");
    let without = Asked::recent(json!({ "rooms": [new], "not_rooms": [old] }));
    assert_eq!(said(&search(&alice, "wisdom", without).await), ["modern wisdom"]);
}

#[tokio::test]
async fn the_index_is_built_from_nothing() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    for n in 0..150 {
        let said = alice.say(&room, &format!("number {n}")).await;
        if n % 10 == 0 {
            server.state.search.catch_up().await.unwrap();
        }
        if n % 50 == 0 {
            edit(&alice, &room, &said, &format!("number {n} edited")).await;
        }
    }
    let before = rows(&server).await;
    assert_eq!(found(&alice, "edited").await, ["number 100 edited", "number 50 edited", "number 0 edited"]);
    server.state.search.rebuild().await.unwrap();
    assert!(server.state.search.rebuilding().await.unwrap().is_some());
    assert_eq!(found(&alice, "number 77").await, ["number 77"]);
    assert_eq!(server.state.search.rebuilding().await.unwrap(), None);
    assert_eq!(rows(&server).await[0], before[0]);
    assert_eq!(found(&alice, "edited").await, ["number 100 edited", "number 50 edited", "number 0 edited"]);
    assert_eq!(said(&search(&alice, "number", Asked::recent(json!({ "limit": 100 }))).await).len(), 100);
}

#[tokio::test]
async fn bad_questions_are_refused_and_strange_ones_answered() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let ask_for = |criteria: Value| alice.post("/search", json!({ "search_categories": { "room_events": criteria } }));
    for (criteria, code) in [
        (json!({}), "M_BAD_JSON"),
        (json!({ "search_term": 1 }), "M_BAD_JSON"),
        (json!({ "search_term": "a", "order_by": "oldest" }), "M_BAD_JSON"),
        (json!({ "search_term": "a", "groupings": { "group_by": [{ "key": "type" }] } }), "M_BAD_JSON"),
        (json!({ "search_term": "a", "event_context": { "before_limit": -1 } }), "M_BAD_JSON"),
        (json!({ "search_term": "a", "keys": ["content.url"] }), "M_INVALID_PARAM"),
        (json!({ "search_term": "a", "filter": [] }), "M_BAD_JSON"),
        (json!({ "search_term": "a", "filter": { "limit": "x" } }), "M_BAD_JSON"),
        (json!({ "search_term": "a".repeat(5_000) }), "M_INVALID_PARAM"),
        (json!({ "search_term": "a", "filter": { "rooms": vec!["!r:x"; 2_000] } }), "M_INVALID_PARAM"),
    ] {
        ask_for(criteria).await.refused(400, code);
    }
    for token in ["x", "%F0%9F%98%80", "e30x", &"A".repeat(5_000)] {
        let body = json!({ "search_categories": { "room_events": { "search_term": "a" } } });
        alice.post(&format!("/search?next_batch={token}"), body).await.refused(400, "M_INVALID_PARAM");
    }
    alice.post("/search", json!({})).await.refused(400, "M_BAD_JSON");
    assert_eq!(
        alice.post("/search", json!({ "search_categories": {} })).await.ok(),
        json!({ "search_categories": {} })
    );
    let guest = server.guest().await;
    let body = json!({ "search_categories": { "room_events": { "search_term": "a" } } });
    guest.post("/search", body).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");

    let long: String = (0..6_000).map(|n| format!("w{n} ")).collect();
    alice.say(&room, &long).await;
    let kanji: String = (0x4e00..0x4e00 + 18_000_u32).filter_map(char::from_u32).collect();
    alice.say(&room, &kanji).await;
    let strange = ["🎉", "e\u{301}\u{302}\u{303}t\u{e9}", "\u{202e}שלום", "👩‍👩‍👧", "a\u{0}b", "C++", "\u{fdfa}"];
    for text in strange {
        alice.say(&room, text).await;
        assert_eq!(found(&alice, text).await, [text], "{text:?}");
    }
    assert_eq!(found(&alice, "w5999 w0").await, std::slice::from_ref(&long));
    let words: String = (0..700).map(|n| format!("w{n} ")).collect();
    assert_eq!(found(&alice, &words).await, [long]);
    let run: String = kanji.chars().skip(9_000).take(300).collect();
    assert_eq!(found(&alice, &run).await, std::slice::from_ref(&kanji));
    assert_eq!(found(&alice, "丁").await, [kanji]);
}
