//! Simplified sliding sync: connections, lists, state (behaviours CZ1 to CZ6, CZ9), in both dialects.

use std::time::Duration;

use serde_json::{Value, json};
use sync::sliding::request::Dialect;
use testkit::{Answer, Client, Server, encoded};

/// Longest that a test waits for what must happen at once, on a busy machine: shorter than any request asks to wait.
const PATIENCE: Duration = Duration::from_secs(50);

/// Both dialects.
pub const DIALECTS: [Dialect; 2] = [Dialect::Deployed, Dialect::Accepted];

/// A client's connection.
#[derive(Clone)]
pub struct Slider {
    pub client: Client,
    pub dialect: Dialect,
    pub conn_id: Option<&'static str>,
}

impl Slider {
    pub fn new(client: &Client, dialect: Dialect) -> Self {
        Self { client: client.clone(), dialect, conn_id: None }
    }

    pub fn named(&self, conn_id: &'static str) -> Self {
        Self { conn_id: Some(conn_id), ..self.clone() }
    }

    /// A request. Bodies are written in the deployed dialect, and put into the words of the other where that is spoken.
    pub async fn ask(&self, pos: Option<&str>, timeout: u64, body: &Value) -> Answer {
        let mut body = body.clone();
        if let Some(conn_id) = self.conn_id {
            body["conn_id"] = json!(conn_id);
        }
        if self.dialect == Dialect::Deployed {
            let pos = pos.map(|pos| format!("&pos={}", encoded(pos))).unwrap_or_default();
            let path = format!("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout={timeout}{pos}");
            return self.client.post(&path, body).await;
        }
        for part in ["lists", "room_subscriptions"] {
            for wish in body.get_mut(part).and_then(Value::as_object_mut).into_iter().flat_map(|part| part.values_mut())
            {
                self.accept(wish);
            }
        }
        body["timeout"] = json!(timeout);
        if let Some(pos) = pos {
            body["pos"] = json!(pos);
        }
        self.client.post("/_matrix/client/v4/sync", body).await
    }

    fn accept(&self, wish: &mut Value) {
        let wish = wish.as_object_mut().unwrap();
        let (mut include, mut lazy) = (Vec::new(), false);
        for pair in wish.get("required_state").and_then(Value::as_array).into_iter().flatten() {
            let (kind, key) = (pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
            let mut pattern = json!({});
            if key == "$LAZY" {
                lazy = true;
                continue;
            }
            if kind != "*" {
                pattern["type"] = json!(kind);
            }
            if key != "*" {
                pattern["state_key"] = json!(if key == "$ME" { &self.client.user } else { key });
            }
            include.push(pattern);
        }
        wish.insert("required_state".to_owned(), json!({ "include": include, "lazy_members": lazy }));
        if let Some(ranges) = wish.remove("ranges") {
            wish.insert("range".to_owned(), ranges[0].clone());
        }
        if let Some(invite) = wish.get_mut("filters").and_then(|filters| filters.as_object_mut()?.remove("is_invite")) {
            wish["filters"]["is_invited"] = invite;
        }
    }

    /// The answer to a request that does not wait, from where another answer ended.
    pub async fn next(&self, answer: &Value, body: &Value) -> Value {
        self.ask(Some(pos(answer)), 0, body).await.ok()
    }

    /// The first answer of a connection.
    pub async fn first(&self, body: &Value) -> Value {
        self.ask(None, 0, body).await.ok()
    }

    /// Whether a room's timeline holds more of the past than before.
    pub fn expanded(&self, room: &Value) -> bool {
        let name = if self.dialect == Dialect::Deployed { "unstable_expanded_timeline" } else { "expanded_timeline" };
        room[name] == true
    }

    /// The stripped state of an invite or a knock.
    pub fn stripped<'a>(&self, room: &'a Value) -> &'a Value {
        &room[if self.dialect == Dialect::Deployed { "invite_state" } else { "stripped_state" }]
    }

    /// Begins to wait, runs `act`, and returns the answer of the wait.
    pub async fn woken_by<F: Future<Output = ()>>(&self, answer: &Value, body: &Value, act: F) -> Value {
        let (waiter, from, body) = (self.clone(), pos(answer).to_owned(), body.clone());
        let waiting = tokio::spawn(async move { waiter.ask(Some(&from), 60_000, &body).await.ok() });
        while self.client.state.sync.waker().n_waiting() == 0 {
            tokio::task::yield_now().await;
        }
        // Lets the waiter find nothing and fall asleep.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished(), "nothing was new");
        act.await;
        tokio::time::timeout(PATIENCE, waiting).await.expect("the request stayed asleep").unwrap()
    }
}

/// Where an answer ends.
pub fn pos(answer: &Value) -> &str {
    answer["pos"].as_str().unwrap()
}

/// The same without the ages of events.
fn ageless(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members.iter().filter(|(name, _)| *name != "age");
            members.map(|(name, member)| (name.clone(), ageless(member))).collect()
        }
        Value::Array(items) => items.iter().map(ageless).collect(),
        other => other.clone(),
    }
}

/// The rooms of an answer.
pub fn rooms(answer: &Value) -> Vec<&str> {
    answer["rooms"].as_object().unwrap().keys().map(String::as_str).collect()
}

/// The bodies of a room's timeline.
pub fn bodies(answer: &Value, room: &str) -> Vec<String> {
    let timeline = answer["rooms"][room]["timeline"].as_array().map_or(&[][..], Vec::as_slice);
    timeline.iter().filter_map(|event| event["content"]["body"].as_str()).map(str::to_owned).collect()
}

/// Types and state keys of a room's state.
pub fn state(answer: &Value, room: &str) -> Vec<(String, String)> {
    let state = answer["rooms"][room]["required_state"].as_array().map_or(&[][..], Vec::as_slice);
    let text = |value: &Value| value.as_str().unwrap().trim_end_matches(":example.org").to_owned();
    let mut keys: Vec<_> = state.iter().map(|event| (text(&event["type"]), text(&event["state_key"]))).collect();
    keys.sort();
    keys
}

/// A pair of type and state key.
pub fn pair(kind: &str, state_key: &str) -> (String, String) {
    (kind.to_owned(), state_key.to_owned())
}

/// A list of these ranges of all rooms.
pub fn list(ranges: Value, timeline_limit: u64, required_state: Value) -> Value {
    json!({ "lists": { "all": {
        "ranges": ranges, "timeline_limit": timeline_limit, "required_state": required_state,
    } } })
}

/// A list of all rooms with a little of each.
pub fn all() -> Value {
    list(json!([[0, 99]]), 10, json!([["m.room.name", ""], ["m.room.topic", ""]]))
}

async fn named_room(client: &Client, name: &str) -> String {
    client.create_room(json!({ "preset": "public_chat", "name": name })).await
}

#[tokio::test]
async fn cz5_a_room_comes_whole_and_then_what_is_new() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let [alice, bob] = server.people(["alice", "bob"]).await;
        let room = named_room(&alice, "tea").await;
        bob.join(&room).await;
        alice.say(&room, "one").await;
        let slider = Slider::new(&bob, dialect);
        let first = slider.first(&all()).await;
        assert_eq!(first["lists"], json!({ "all": { "count": 1 } }));
        let told = &first["rooms"][&room];
        assert_eq!((&told["initial"], &told["name"], &told["joined_count"]), (&json!(true), &json!("tea"), &json!(2)));
        assert_eq!(told["invited_count"], 0);
        assert_eq!((bodies(&first, &room), &told["num_live"]), (vec!["one".to_owned()], &json!(0)));
        assert_eq!(state(&first, &room), [pair("m.room.name", "")]);
        assert!(told["bump_stamp"].as_i64().unwrap() > 0, "{told}");
        if dialect == Dialect::Deployed {
            assert_eq!((&told["notification_count"], &told["highlight_count"]), (&json!(1), &json!(0)));
        } else {
            assert_eq!((&told["membership"], &told["lists"]), (&json!("join"), &json!(["all"])));
        }
        let idle = slider.next(&first, &all()).await;
        assert!(rooms(&idle).is_empty(), "{idle}");
        assert_eq!(idle["lists"]["all"]["count"], 1, "clients wait for it in each answer");
        alice.say(&room, "two").await;
        let second = slider.next(&idle, &all()).await;
        let told = &second["rooms"][&room];
        assert_eq!((bodies(&second, &room), &told["num_live"]), (vec!["two".to_owned()], &json!(1)));
        for absent in ["initial", "name", "required_state", "joined_count", "heroes"] {
            assert!(told.get(absent).is_none(), "{absent}: {told}");
        }
        assert_eq!(told["limited"], false);
        alice.set_state(&room, "m.room.topic", json!({ "topic": "leaves" })).await;
        let third = slider.next(&second, &all()).await;
        assert_eq!(state(&third, &room), [pair("m.room.topic", "")]);
        assert!(third["rooms"][&room].get("name").is_none());
        alice.set_state(&room, "m.room.name", json!({})).await;
        let fourth = slider.next(&third, &all()).await;
        assert_eq!(fourth["rooms"][&room].get("name"), Some(&Value::Null), "{fourth}");
        assert_eq!(fourth["rooms"][&room]["heroes"][0]["user_id"], json!(alice.user), "it has no name any more");
    }
}

#[tokio::test]
async fn cz1_a_position_asked_again_gives_the_same_again() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let alice = server.register("alice").await;
        let (one, two) = (named_room(&alice, "one").await, named_room(&alice, "two").await);
        let slider = Slider::new(&alice, dialect);
        let window = list(json!([[0, 0]]), 10, json!([["m.room.name", ""]]));
        let first = slider.first(&window).await;
        assert_eq!(rooms(&first), [two.as_str()]);
        alice.say(&one, "a").await;
        let lost = slider.next(&first, &window).await;
        let again = slider.next(&first, &window).await;
        assert_eq!(ageless(&lost["rooms"]), ageless(&again["rooms"]), "the answer was lost");
        assert_eq!(again["rooms"][&one]["initial"], true);
        alice.say(&one, "b").await;
        let more = slider.next(&first, &window).await;
        assert_eq!(bodies(&more, &one), ["a", "b"]);
        // It came after all: what it told is not told again.
        let late = slider.next(&lost, &window).await;
        assert_eq!((bodies(&late, &one), &late["rooms"][&one]["initial"]), (vec!["b".to_owned()], &Value::Null));
        // A room that comes into view is no reason to write.
        let generation =
            |answer: &Value| pos(answer).rsplit_once("_c").unwrap().1.split('.').next().unwrap().to_owned();
        assert_eq!([generation(&lost), generation(&more)], [generation(&first), generation(&first)]);
        alice.say(&two, "c").await;
        let next = slider.next(&more, &window).await;
        assert_eq!((bodies(&next, &two), &next["rooms"][&two]["initial"]), (vec!["c".to_owned()], &Value::Null));
        alice.say(&one, "d").await;
        alice.say(&two, "e").await;
        let next = slider.next(&next, &window).await;
        assert_eq!(rooms(&next), [two.as_str()]);
        alice.say(&one, "f").await;
        let next = slider.next(&next, &window).await;
        assert_eq!(bodies(&next, &one), ["d", "f"], "it lagged from where it left the window");
        slider.ask(Some(pos(&first)), 0, &window).await.refused(400, "M_UNKNOWN_POS");
        let anew = slider.first(&window).await;
        assert_eq!(anew["rooms"][&one]["initial"], true);
        slider.ask(Some(pos(&next)), 0, &window).await.refused(400, "M_UNKNOWN_POS");
        // Every kind of token names a place.
        let path = format!("/rooms/{}/messages?dir=b&from={}", encoded(&one), encoded(pos(&anew)));
        assert_eq!(alice.get(&path).await.ok()["chunk"][0]["content"]["body"], "f");
    }
}

#[tokio::test]
async fn cz1_a_position_is_one_connections() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let [alice, bob] = server.people(["alice", "bob"]).await;
        named_room(&alice, "one").await;
        let slider = Slider::new(&alice, dialect).named("list");
        let first = slider.first(&all()).await;
        let other = Slider::new(&alice.login("OTHER").await, dialect).named("list");
        other.first(&all()).await;
        let bobs = Slider::new(&bob, dialect).named("list");
        bobs.first(&all()).await;
        for foreign in [&other, &bobs, &slider.named("else"), &Slider::new(&alice, dialect)] {
            foreign.ask(Some(pos(&first)), 0, &all()).await.refused(400, "M_UNKNOWN_POS");
        }
        for nonsense in ["x", "5", "s5_a_1", "s999999_a_1_c1"] {
            slider.ask(Some(nonsense), 0, &all()).await.refused(400, "M_UNKNOWN_POS");
        }
        slider.named("else").first(&all()).await;
        slider.next(&first, &all()).await;
    }
}

#[tokio::test]
async fn cz1_connections_survive_a_restart() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let (one, two) = (named_room(&alice, "one").await, named_room(&alice, "two").await);
    let slider = Slider::new(&alice, Dialect::Deployed);
    let window = list(json!([[0, 0]]), 10, json!([]));
    let first = slider.first(&window).await;
    alice.say(&one, "a").await;
    let second = slider.next(&first, &window).await;
    alice.say(&two, "b").await;
    alice.say(&one, "c").await;
    let state = &server.state;
    let engine = sync::Sync::new(state.store.clone(), state.rooms.clone(), state.users.clone());
    let restarted = server.with_sync(engine);
    let slider = Slider::new(&restarted.again(&alice), Dialect::Deployed);
    let third = slider.next(&second, &window).await;
    assert_eq!((rooms(&third), bodies(&third, &one)), (vec![one.as_str()], vec!["c".to_owned()]));
    assert!(third["rooms"][&one].get("initial").is_none());
    let wide = list(json!([[0, 1]]), 10, json!([]));
    let fourth = slider.next(&third, &wide).await;
    assert_eq!((rooms(&fourth), bodies(&fourth, &two)), (vec![two.as_str()], vec!["b".to_owned()]));
    assert!(fourth["rooms"][&two].get("initial").is_none(), "{fourth}");
}

#[tokio::test]
async fn cz2_the_newest_event_orders_and_counts_ignore_ranges() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let alice = server.register("alice").await;
        let mut made = Vec::new();
        for n in 0..4 {
            made.push(named_room(&alice, &n.to_string()).await);
        }
        let slider = Slider::new(&alice, dialect);
        let window = |last: u64| list(json!([[0, last]]), 0, json!([]));
        let first = slider.first(&window(1)).await;
        let mut expected = [made[3].as_str(), &made[2]];
        expected.sort_unstable();
        assert_eq!((rooms(&first), &first["lists"]["all"]["count"]), (expected.to_vec(), &json!(4)));
        let stamp = first["rooms"][&made[2]]["bump_stamp"].clone();
        // No message: it bumps nothing, and yet is the newest event.
        alice.set_state(&made[0], "m.room.topic", json!({ "topic": "x" })).await;
        let second = slider.next(&first, &window(0)).await;
        assert_eq!(rooms(&second), [made[0].as_str()]);
        assert!(second["rooms"][&made[0]]["bump_stamp"].as_i64() < stamp.as_i64(), "{second} {stamp}");
        let third = slider.next(&second, &window(99)).await;
        assert_eq!(rooms(&third), [made[1].as_str()], "the others are known");
        for no_room in [json!([[4, 9]]), json!([[3, 2]])] {
            let answer = slider.named("other").first(&list(no_room, 1, json!([]))).await;
            assert!(rooms(&answer).is_empty());
            assert_eq!(answer["lists"]["all"]["count"], 4);
        }
    }
    let server = Server::new().await;
    let alice = server.register("alice").await;
    named_room(&alice, "x").await;
    let slider = Slider::new(&alice, Dialect::Deployed);
    let count_only = slider.first(&list(json!([]), 1, json!([]))).await;
    assert_eq!((rooms(&count_only).len(), &count_only["lists"]["all"]["count"]), (0, &json!(1)));
    let whole = slider.first(&json!({ "lists": { "all": { "timeline_limit": 1 } }, "txn_id": "t" })).await;
    assert_eq!((rooms(&whole).len(), &whole["txn_id"]), (1, &json!("t")));
}

#[tokio::test]
async fn cz3_lists_and_subscriptions_are_united() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let alice = server.register("alice").await;
        let room = named_room(&alice, "x").await;
        alice.set_state(&room, "m.room.topic", json!({ "topic": "x" })).await;
        for n in 0..9 {
            alice.say(&room, &n.to_string()).await;
        }
        let wish = |limit: u64, state: Value| json!({ "timeline_limit": limit, "required_state": state });
        let listed = |limit: u64, state: Value| {
            let mut wish = wish(limit, state);
            wish["ranges"] = json!([[0, 9]]);
            wish
        };
        let body = json!({
            "lists": { "a": listed(1, json!([["m.room.name", ""]])), "b": listed(3, json!([["m.room.topic", ""]])) },
            "room_subscriptions": { &room: wish(2, json!([["m.room.member", "$ME"]])) },
        });
        let answer = Slider::new(&alice, dialect).first(&body).await;
        assert_eq!(bodies(&answer, &room), ["6", "7", "8"]);
        let expected = [pair("m.room.member", "@alice"), pair("m.room.name", ""), pair("m.room.topic", "")];
        assert_eq!(state(&answer, &room), expected);
        if dialect == Dialect::Accepted {
            assert_eq!(answer["rooms"][&room]["lists"], json!(["a", "b"]));
        }
    }
}

#[tokio::test]
async fn cz4_more_that_is_wanted_comes_at_once() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let alice = server.register("alice").await;
        let room = named_room(&alice, "x").await;
        alice.set_state(&room, "m.room.topic", json!({ "topic": "x" })).await;
        for n in 0..9 {
            alice.say(&room, &n.to_string()).await;
        }
        let slider = Slider::new(&alice, dialect);
        let narrow = list(json!([[0, 9]]), 1, json!([["m.room.name", ""]]));
        let first = slider.first(&narrow).await;
        let with = |limit: u64, state: Value| {
            let mut body = narrow.clone();
            body["room_subscriptions"] = json!({ &room: { "timeline_limit": limit, "required_state": state } });
            body
        };
        let at_once = async |answer: &Value, body: &Value| {
            let waiting = slider.ask(Some(pos(answer)), 60_000, body);
            tokio::time::timeout(PATIENCE, waiting).await.expect("it waits").ok()
        };
        let longer = at_once(&first, &with(4, json!([["m.room.name", ""]]))).await;
        let told = &longer["rooms"][&room];
        assert_eq!(
            (bodies(&longer, &room), &told["num_live"]),
            (["5", "6", "7", "8"].map(str::to_owned).to_vec(), &json!(0))
        );
        assert!(slider.expanded(told) && told.get("initial").is_none(), "{told}");
        assert!(state(&longer, &room).is_empty(), "the state is known");
        let wider = at_once(&longer, &with(4, json!([["m.room.name", ""], ["m.room.topic", ""]]))).await;
        assert_eq!(state(&wider, &room), [pair("m.room.topic", "")]);
        assert!(bodies(&wider, &room).is_empty() && !slider.expanded(&wider["rooms"][&room]));
        // Narrowed and widened again: what was asked for once is kept up to date.
        let narrowed = slider.next(&wider, &narrow).await;
        assert!(rooms(&narrowed).is_empty());
        alice.set_state(&room, "m.room.topic", json!({ "topic": "y" })).await;
        let kept = slider.next(&narrowed, &narrow).await;
        assert_eq!(state(&kept, &room), [pair("m.room.topic", "")]);
        let again = slider.next(&kept, &with(4, json!([["m.room.topic", ""]]))).await;
        assert!(rooms(&again).is_empty(), "{again}");
        // A gap makes the client's timeline short again.
        for n in 10..14 {
            alice.say(&room, &n.to_string()).await;
        }
        let gap = slider.next(&again, &narrow).await;
        assert_eq!((bodies(&gap, &room), &gap["rooms"][&room]["limited"]), (vec!["13".to_owned()], &json!(true)));
        let longer = at_once(&gap, &with(4, json!([]))).await;
        assert_eq!(bodies(&longer, &room), ["10", "11", "12", "13"]);
        let other = named_room(&alice, "other").await;
        let body = json!({ "room_subscriptions": { &other: { "timeline_limit": 1, "required_state": [] } } });
        let subscribed = at_once(&longer, &body).await;
        assert_eq!((rooms(&subscribed), &subscribed["rooms"][&other]["initial"]), (vec![other.as_str()], &json!(true)));
    }
}

#[tokio::test]
async fn cz6_lazy_members_are_those_of_the_timeline() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
        let room = named_room(&alice, "x").await;
        bob.join(&room).await;
        carol.join(&room).await;
        alice.say(&room, "a").await;
        let slider = Slider::new(&bob, dialect);
        let lazy = list(json!([[0, 9]]), 1, json!([["m.room.member", "$LAZY"], ["m.room.member", "$ME"]]));
        let first = slider.first(&lazy).await;
        assert_eq!(state(&first, &room), [pair("m.room.member", "@alice"), pair("m.room.member", "@bob")]);
        alice.say(&room, "b").await;
        let second = slider.next(&first, &lazy).await;
        assert!(state(&second, &room).is_empty(), "alice is known");
        carol.say(&room, "c").await;
        let lost = slider.next(&second, &lazy).await;
        assert_eq!(state(&lost, &room), [pair("m.room.member", "@carol")]);
        let third = slider.next(&second, &lazy).await;
        assert_eq!(state(&third, &room), [pair("m.room.member", "@carol")], "the answer was lost");
        carol.say(&room, "d").await;
        let fourth = slider.next(&third, &lazy).await;
        assert!(state(&fourth, &room).is_empty(), "carol is known");
        alice
            .set_state_of(&room, "m.room.member", &alice.user, json!({ "membership": "join", "displayname": "A" }))
            .await;
        let fifth = slider.next(&fourth, &lazy).await;
        assert_eq!(state(&fifth, &room), [pair("m.room.member", "@alice")], "a change is told");
        carol
            .set_state_of(&room, "m.room.member", &carol.user, json!({ "membership": "join", "displayname": "C" }))
            .await;
        alice.say(&room, "e").await;
        alice.say(&room, "f").await;
        let gap = slider.next(&fifth, &lazy).await;
        assert_eq!(gap["rooms"][&room]["limited"], true);
        assert!(!state(&gap, &room).contains(&pair("m.room.member", "@carol")), "the client forgets its members");
        carol.say(&room, "g").await;
        let known = slider.next(&gap, &lazy).await;
        assert_eq!(state(&known, &room), [pair("m.room.member", "@carol")], "so she is told anew");
        let everybody = list(json!([[0, 9]]), 1, json!([["m.room.member", "*"]]));
        let all = slider.next(&known, &everybody).await;
        let members = ["@alice", "@carol"].map(|user| pair("m.room.member", user));
        assert_eq!(state(&all, &room), members, "bob is kept up to date since the beginning");
    }
}

#[tokio::test]
async fn cz6_all_state_but_members() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let [alice, bob] = server.people(["alice", "bob"]).await;
        let room = named_room(&alice, "x").await;
        bob.join(&room).await;
        alice.say(&room, "a").await;
        let every = list(json!([[0, 9]]), 1, json!([["*", "*"], ["m.room.member", "$LAZY"]]));
        let answer = Slider::new(&bob, dialect).first(&every).await;
        let found = state(&answer, &room);
        for kind in ["m.room.create", "m.room.name", "m.room.power_levels", "m.room.join_rules"] {
            assert!(found.contains(&pair(kind, "")), "{kind}: {found:?}");
        }
        let members: Vec<_> = found.iter().filter(|(kind, _)| kind == "m.room.member").collect();
        assert_eq!(members, [&pair("m.room.member", "@alice")]);
    }
}

/// Some clients begin anew at any refusal, so what does no harm is let pass.
#[tokio::test]
async fn cz1_odd_requests_are_refused_only_where_they_must_be() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let deployed = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let accepted = "/_matrix/client/v4/sync";
    let many = |n: usize| {
        let list = json!({ "required_state": {}, "timeline_limit": 1 });
        let lists: serde_json::Map<String, Value> = (0..n).map(|n| (n.to_string(), list.clone())).collect();
        json!({ "lists": lists })
    };
    let table = [
        (deployed, json!({ "extensions": { "x.unknown": { "enabled": true }, "e2ee": {} } }), None),
        (deployed, json!({ "lists": { "a": { "ranges": [[9, 1]], "timeline_limit": 1_000_000 } } }), None),
        (deployed, json!({ "lists": { "a": { "filters": { "room_name_like": "x" }, "sort": ["by_name"] } } }), None),
        (deployed, json!({ "unsubscribe_rooms": ["!a"], "delta_token": "x", "conn_id": null }), None),
        (deployed, json!({ "room_subscriptions": { "no room": {} } }), None),
        (deployed, json!({ "conn_id": "c".repeat(256) }), Some("M_INVALID_PARAM")),
        (deployed, json!({ "lists": { "a": { "ranges": [[-1, 1]] } } }), Some("M_BAD_JSON")),
        (deployed, json!([]), Some("M_BAD_JSON")),
        (accepted, many(100), None),
        (accepted, many(101), Some("M_INVALID_PARAM")),
        (accepted, json!({ "lists": { "a": { "timeline_limit": 1 } } }), Some("M_BAD_JSON")),
        (accepted, json!({ "room_subscriptions": { "!a": { "required_state": {} } } }), Some("M_BAD_JSON")),
        (accepted, json!({ "pos": "" }), Some("M_UNKNOWN_POS")),
    ];
    for (path, body, refusal) in table {
        let answer = alice.post(path, body.clone()).await;
        assert_eq!(answer.json["errcode"].as_str(), refusal, "{body} {}", answer.json);
        assert_eq!(answer.status, if refusal.is_none() { 200 } else { 400 }, "{body}");
    }
    for path in [deployed, accepted] {
        server.nobody().post(path, json!({})).await.refused(401, "M_MISSING_TOKEN");
    }
    let flags = server.nobody().get("/_matrix/client/versions").await.ok();
    assert_eq!(flags["unstable_features"]["org.matrix.simplified_msc3575"], true);
}

/// Positions are no secret, and clients can write them: whoever has left learns nothing of what came later by naming one.
#[tokio::test]
async fn cz1_a_made_up_position_tells_nothing_of_what_came_after_a_leave() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
        let room = named_room(&alice, "ours").await;
        bob.join(&room).await;
        let everything = json!({ "room_subscriptions": { &room: { "timeline_limit": 5, "required_state": [["m.room.member", "*"]] } } });
        let slider = Slider::new(&bob, dialect);
        let joined = slider.first(&everything).await;
        bob.leave(&room).await;
        carol.join(&room).await;
        let between = alice.sync("").await;
        let between = between["next_batch"].as_str().unwrap().split('_').next().unwrap().to_owned();
        alice.post(&format!("/rooms/{room}/ban"), json!({ "user_id": bob.user })).await.ok();
        let (_, rest) = pos(&joined).split_once('_').unwrap();
        let told = slider.ask(Some(&format!("{between}_{rest}")), 0, &everything).await.ok();
        assert!(!told.to_string().contains(&carol.user), "{told}");
    }
}
