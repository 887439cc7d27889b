//! A whole server, what its users do on it, and the log of what it acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::body::Body;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use push::Gateways;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use server::boot::{self, Running};
use server::config::Config;
use server::world::World as Outside;
use store::model::Model;
use store::{DeviceId, Engine, Store, UserId};
use testkit::{FakeClock, SeededEntropy, encoded};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tower::ServiceExt as _;
use users::login::NewDevice;
use users::registration::NewAccount;

use super::reference::{Counts, Fact, MEMBER, Room, Sight};
use super::rules::Rules;

/// Rooms of a world, besides the space.
pub const ROOMS: usize = 4;
/// The newest events at which receipts and relations point.
const RECENT: usize = 12;
/// Words of which messages are made.
const WORDS: [&str; 4] = ["tea", "milk", "cake", "more cake"];
/// The user who makes the rooms and stays in them; then the others.
const NAMES: [&str; 4] = ["owner", "ann", "ben", "cat"];

/// The world.
pub struct World {
    pub dice: StdRng,
    running: Running,
    engine: Arc<dyn Engine>,
    outside: Outside,
    clock: Arc<FakeClock>,
    config: Config,
    _folder: tempfile::TempDir,
    pub users: Vec<String>,
    tokens: BTreeMap<String, String>,
    /// The rooms; the last one is a space of some of them.
    pub rooms: Vec<Room>,
    rules: Rules,
    pub ignored: BTreeMap<String, BTreeSet<String>>,
    pub ever_ignored: BTreeMap<String, BTreeSet<String>>,
    transactions: u64,
    /// Where there are gateways: the task that pushes, and what ends it.
    pushing: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

async fn boot_on(engine: &Arc<dyn Engine>, config: &Config, outside: &Outside) -> Running {
    let store = Store::new(Arc::clone(engine)).await.unwrap();
    boot::build_on(store.into(), config, outside, None).await.unwrap()
}

/// Begins to push, if there are gateways.
fn push(running: &Running, outside: &Outside) -> Option<(watch::Sender<bool>, JoinHandle<()>)> {
    outside.gateways.as_ref()?;
    let push = running.push.clone()?;
    let (stop, stopped) = watch::channel(false);
    Some((stop, tokio::spawn(async move { push.run(stopped).await.unwrap() })))
}

impl World {
    pub async fn new(seed: u64) -> Self {
        Self::with(seed, None).await
    }

    /// A world that pushes to gateways.
    pub async fn with(seed: u64, gateways: Option<Arc<dyn Gateways>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = format!("data_dir={}", folder.path().display());
        let settings = ["server_name=hearth.test", "rate_limits.enabled=false", "federation.enabled=false"];
        let config = Config::of(&[&[data_dir.as_str()], &settings[..]].concat()).unwrap();
        let clock = Arc::new(FakeClock::default());
        let outside = Outside::of(Arc::clone(&clock) as _, Arc::new(SeededEntropy::new(seed)));
        let outside = Outside { gateways, ..outside };
        let engine = Arc::new(Model::new()) as Arc<dyn Engine>;
        let running = boot_on(&engine, &config, &outside).await;
        let users: Vec<String> = NAMES.iter().map(|name| format!("@{name}:hearth.test")).collect();
        let pushing = push(&running, &outside);
        let mut world = Self {
            dice: StdRng::seed_from_u64(seed),
            running,
            engine,
            outside,
            clock,
            config,
            _folder: folder,
            rules: Rules::new(&users, &users[0]),
            users,
            tokens: BTreeMap::new(),
            rooms: Vec::new(),
            ignored: BTreeMap::new(),
            ever_ignored: BTreeMap::new(),
            transactions: 0,
            pushing,
        };
        for name in NAMES {
            world.register(name).await;
        }
        for n in 0..=ROOMS {
            world.create_room(n).await;
        }
        for child in 0..ROOMS / 2 {
            world.change_space(child, true).await;
        }
        world
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.dice.random_range(0..end)
    }

    fn anyone(&mut self) -> String {
        self.users[self.dice.random_range(0..NAMES.len())].clone()
    }

    /// Anyone but the owner.
    fn guest(&mut self) -> String {
        self.users[self.dice.random_range(1..NAMES.len())].clone()
    }

    pub fn space(&self) -> &str {
        &self.rooms[ROOMS].id
    }

    /// Whether a room is a child of the space.
    pub fn is_in_space(&self, room: usize) -> bool {
        let child = self.rooms[ROOMS].current("m.space.child", &self.rooms[room].id);
        child.is_some_and(|content| content["via"].is_array())
    }

    async fn register(&mut self, name: &str) {
        let account = NewAccount { localpart: Some(name.to_owned()), ..NewAccount::default() };
        self.running.users.register(account).await.unwrap();
        let user = format!("@{name}:hearth.test");
        let token = self.login(&user, "ACTS").await;
        self.tokens.insert(user, token);
    }

    /// The access token of another device.
    pub async fn login(&self, user: &str, device: &str) -> String {
        let device = NewDevice { id: Some(DeviceId::from(device)), ..NewDevice::default() };
        self.running.users.login(&UserId::from(user), device).await.unwrap().access_token
    }

    /// A request with a token; the path below `/_matrix/client`.
    pub async fn ask(&self, token: &str, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = Request::builder().method(method).uri(format!("/_matrix/client/{path}"));
        let request = request.header("authorization", format!("Bearer {token}")).body(body).unwrap();
        let (head, body) = self.running.router.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        assert!(head.status.as_u16() < 500, "{path}: {head:?}");
        (head.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn ask_as(&self, user: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.ask(&self.tokens[user], method, &format!("v3/{path}"), &body).await
    }

    /// The program ends, and another one begins on the same store.
    async fn restart(&mut self) {
        if let Some((stop, task)) = self.pushing.take() {
            stop.send_replace(true);
            task.await.unwrap();
        }
        self.running = boot_on(&self.engine, &self.config, &self.outside).await;
        self.pushing = push(&self.running, &self.outside);
    }

    /// Gives a user a pusher, whose key is the user's id.
    pub async fn set_pusher(&self, user: &str) {
        let body = json!({
            "kind": "http", "app_id": "org.example.app", "pushkey": user, "app_display_name": "App",
            "device_display_name": "Phone", "lang": "en",
            "data": { "url": "https://push.example.org/_matrix/push/v1/notify" },
        });
        let (status, answer) = self.ask_as(user, Method::POST, "pushers/set", body).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// Moves the clock, and lets the server notice.
    pub async fn pass(&self) {
        self.clock.advance(60_000);
        self.running.tick().await;
    }

    async fn create_room(&mut self, n: usize) {
        let owner = self.users[0].clone();
        let power = json!({ "events": { "x.y": 0, "m.room.topic": 0 } });
        let mut body = json!({ "preset": "public_chat", "name": n.to_string(), "power_level_content_override": power });
        if n == ROOMS {
            body["creation_content"] = json!({ "type": "m.space" });
        }
        let (_, made) = self.ask_as(&owner, Method::POST, "createRoom", body).await;
        let id = made["room_id"].as_str().unwrap().to_owned();
        let path = format!("rooms/{}/messages?dir=f&limit=99", encoded(&id));
        let (_, page) = self.ask_as(&owner, Method::GET, &path, Value::Null).await;
        let mut room = Room::new(id);
        for event in page["chunk"].as_array().unwrap() {
            room.append(fact_of(event), BTreeMap::new());
        }
        let kinds: BTreeSet<&str> = (0..room.len()).map(|place| room.fact(place).kind.as_str()).collect();
        for kind in ["m.room.create", MEMBER, "m.room.power_levels", "m.room.join_rules", "m.room.name"] {
            assert!(kinds.contains(kind), "{kind}: {page}");
        }
        self.rooms.push(room);
        for user in self.users.clone().iter().skip(1) {
            self.change_member(n, user, user, "join").await;
        }
    }

    async fn change_space(&mut self, child: usize, inside: bool) {
        let content = if inside { json!({ "via": ["hearth.test"] }) } else { json!({}) };
        let (owner, state_key) = (self.users[0].clone(), self.rooms[child].id.clone());
        self.set_state(ROOMS, &owner, "m.space.child", &state_key, content).await;
    }

    /// What an event that is about to be added counts for whom.
    async fn judged(&self, room: usize, fact: &Fact) -> BTreeMap<String, Counts> {
        let (room, mut judged) = (&self.rooms[room], BTreeMap::new());
        for user in &self.users {
            if room.membership(user) != "join" || *user == fact.sender {
                continue;
            }
            if let Some(counts) = self.rules.judge(room, fact, user).await {
                judged.insert(user.clone(), counts);
            }
        }
        judged
    }

    async fn log(&mut self, room: usize, fact: Fact) {
        if self.rooms[room].place(&fact.id).is_some() {
            assert!(fact.state_key.is_some(), "{fact:?} has been before");
            return;
        }
        let judged = self.judged(room, &fact).await;
        self.rooms[room].append(fact, judged);
    }

    async fn set_state(&mut self, room: usize, sender: &str, kind: &str, state_key: &str, content: Value) {
        let path = format!("rooms/{}/state/{kind}/{}", encoded(&self.rooms[room].id), encoded(state_key));
        let (status, answer) = self.ask_as(sender, Method::PUT, &path, content.clone()).await;
        if status == 200 {
            let (kind, sender) = (kind.to_owned(), sender.to_owned());
            let id = answer["event_id"].as_str().unwrap().to_owned();
            self.log(room, Fact { id, kind, sender, state_key: Some(state_key.to_owned()), content }).await;
        }
    }

    /// Joins, leaves, or does something to another one's membership.
    async fn change_member(&mut self, room: usize, actor: &str, target: &str, what: &str) {
        let id = encoded(&self.rooms[room].id);
        let body = if actor == target { json!({}) } else { json!({ "user_id": target }) };
        let (status, _) = self.ask_as(actor, Method::POST, &format!("rooms/{id}/{what}"), body).await;
        if status != 200 {
            return;
        }
        let path = format!("rooms/{id}/state/{MEMBER}/{}?format=event", encoded(target));
        let (_, event) = self.ask_as(&self.users[0], Method::GET, &path, Value::Null).await;
        let expected = match what {
            "kick" | "unban" => "leave",
            other => other,
        };
        assert_eq!(event["content"]["membership"], expected, "{what}: {event}");
        self.log(room, fact_of(&event)).await;
    }

    /// Sends an event. The answer may be lost, the server may be started anew, and the client asks again.
    async fn send(&mut self, room: usize, sender: &str, path: &str, kind: &str, content: Value) {
        self.transactions += 1;
        let path = format!("rooms/{}/{path}/t{}", encoded(&self.rooms[room].id), self.transactions);
        let (status, answer) = self.ask_as(sender, Method::PUT, &path, content.clone()).await;
        if status != 200 {
            return;
        }
        let id = answer["event_id"].as_str().unwrap().to_owned();
        self.log(room, Fact { id, kind: kind.to_owned(), sender: sender.to_owned(), state_key: None, content }).await;
        if self.below(8) == 0 {
            if self.below(4) == 0 {
                self.restart().await;
            }
            let again = self.ask_as(sender, Method::PUT, &path, json!({ "body": "again" })).await;
            assert_eq!(again, (200, answer), "the same request once more");
        }
    }

    async fn say(&mut self, room: usize, sender: &str, relation: Option<Value>) {
        let word = WORDS[self.below(WORDS.len())];
        let mut content = json!({ "msgtype": "m.text", "body": word });
        match self.below(12) {
            0 => content["msgtype"] = json!("m.notice"),
            1 => content["m.mentions"] = json!({ "room": true }),
            2 | 3 => {
                let named = self.anyone();
                content["m.mentions"] = json!({ "user_ids": [named] });
            }
            _ => {}
        }
        if let Some(relation) = relation {
            content["m.relates_to"] = relation;
        }
        self.send(room, sender, "send/m.room.message", "m.room.message", content).await;
    }

    /// A recent message that still stands.
    fn recent(&mut self, room: usize) -> Option<usize> {
        let log = &self.rooms[room];
        let fits = |place: &usize| log.fact(*place).kind == "m.room.message" && !log.is_redacted(*place);
        let places: Vec<usize> = (0..log.len()).filter(fits).collect();
        let places = &places[places.len().saturating_sub(RECENT)..];
        if places.is_empty() { None } else { Some(places[self.dice.random_range(0..places.len())]) }
    }

    /// Says something about something that was said.
    async fn answer(&mut self, room: usize, sender: &str) {
        let Some(place) = self.recent(room) else { return };
        let (fact, thread) = (self.rooms[room].fact(place).clone(), self.rooms[room].thread(place).map(str::to_owned));
        match self.below(6) {
            0 => {
                let relation = json!({ "rel_type": "m.annotation", "event_id": fact.id, "key": "+" });
                self.send(room, sender, "send/m.reaction", "m.reaction", json!({ "m.relates_to": relation })).await;
            }
            1 => {
                let relation = json!({ "rel_type": "m.replace", "event_id": fact.id });
                self.say(room, &fact.sender, Some(relation)).await;
            }
            2 => {
                let owner = self.users[0].clone();
                let redactor = if self.below(2) == 0 { owner } else { fact.sender.clone() };
                self.redact(room, &redactor, &fact.id).await;
            }
            _ => {
                let root = thread.unwrap_or(fact.id);
                self.say(room, sender, Some(json!({ "rel_type": "m.thread", "event_id": root }))).await;
            }
        }
    }

    async fn redact(&mut self, room: usize, redactor: &str, target: &str) {
        // What the event says, the path says to the server.
        let path = format!("redact/{}", encoded(target));
        self.send(room, redactor, &path, "m.room.redaction", json!({ "redacts": target })).await;
    }

    async fn read(&mut self, room: usize, user: &str) {
        let sights = self.rooms[room].sights(user);
        let seen: Vec<usize> = (0..sights.len()).filter(|place| sights[*place] == Sight::Must).collect();
        let seen = &seen[seen.len().saturating_sub(RECENT)..];
        if seen.is_empty() {
            return;
        }
        let place = seen[self.below(seen.len())];
        let (id, event) = (encoded(&self.rooms[room].id), self.rooms[room].fact(place).id.clone());
        if self.below(5) == 0 {
            let body = json!({ "m.fully_read": event, "m.read": event });
            let (status, _) = self.ask_as(user, Method::POST, &format!("rooms/{id}/read_markers"), body).await;
            for kind in ["m.fully_read", "m.read"].into_iter().filter(|_| status == 200) {
                self.rooms[room].receive(user, kind, "", place);
            }
            return;
        }
        let kind = ["m.read", "m.read.private"][self.below(2)];
        let of_event = self.rooms[room].thread(place).unwrap_or("main").to_owned();
        let thread = if self.below(2) == 0 { String::new() } else { of_event };
        let body = if thread.is_empty() { json!({}) } else { json!({ "thread_id": thread }) };
        let path = format!("rooms/{id}/receipt/{kind}/{}", encoded(&event));
        if self.ask_as(user, Method::POST, &path, body).await.0 == 200 {
            self.rooms[room].receive(user, kind, &thread, place);
        }
    }

    async fn change_rules(&mut self, user: &str) {
        let notify = json!(["notify"]);
        let loud = json!(["notify", { "set_tweak": "highlight" }]);
        let actions = [json!([]), notify, loud][self.below(3)].clone();
        let room = self.rooms[self.dice.random_range(0..ROOMS)].id.clone();
        let other = self.anyone();
        let matches = |key: &str, pattern: &str| json!({ "kind": "event_match", "key": key, "pattern": pattern });
        let crowd = json!({ "kind": "room_member_count", "is": ">3" });
        let (kind, id, mut body) = match self.below(8) {
            0 => ("room", room, json!({})),
            1 => ("sender", other, json!({})),
            2 => ("content", "cake".to_owned(), json!({ "pattern": "cake" })),
            3 => ("override", "topic".to_owned(), json!({ "conditions": [matches("type", "m.room.topic")] })),
            4 => ("override", "heart".to_owned(), json!({ "conditions": [matches("type", "m.reaction")] })),
            5 => {
                let conditions = json!([crowd, matches("type", "m.room.message")]);
                ("underride", "crowd".to_owned(), json!({ "conditions": conditions }))
            }
            n => {
                let rule = [".m.rule.message", ".m.rule.room_one_to_one", ".m.rule.suppress_edits", ".m.rule.master"];
                let rule = rule[self.below(4)];
                let kind = if rule.contains("message") || rule.contains("room_") { "underride" } else { "override" };
                self.change_default(user, kind, rule, (n == 6).then_some(actions)).await;
                return;
            }
        };
        let path = format!("pushrules/global/{kind}/{}", encoded(&id));
        if self.below(4) == 0 {
            if self.ask_as(user, Method::DELETE, &path, Value::Null).await.0 == 200 {
                self.rules.delete(user, kind, &id);
            }
            return;
        }
        body["actions"] = actions;
        let (status, answer) = self.ask_as(user, Method::PUT, &path, body.clone()).await;
        assert_eq!(status, 200, "{answer}");
        self.rules.put(user, kind, &id, &body);
    }

    /// Follows the thread of what was said, or does so no more.
    async fn follow(&mut self, room: usize, user: &str) {
        let Some(place) = self.recent(room) else { return };
        let log = &self.rooms[room];
        let root = log.thread(place).map_or_else(|| log.fact(place).id.clone(), str::to_owned);
        let (id, thread) = (encoded(&log.id), encoded(&root));
        let path = format!("unstable/io.element.msc4306/rooms/{id}/thread/{thread}/subscription");
        let follows = self.below(3) > 0;
        let (method, body) = if follows { (Method::PUT, json!({})) } else { (Method::DELETE, Value::Null) };
        // Of what one may not see there is nothing to follow.
        if self.ask(&self.tokens[user], method, &path, &body).await.0 == 200 {
            self.rules.follow(user, &root, follows);
        }
    }

    /// Gives a default rule other actions, or turns it on or off.
    async fn change_default(&mut self, user: &str, kind: &str, rule: &str, actions: Option<Value>) {
        let path = format!("pushrules/global/{kind}/{rule}");
        // Whoever wants no notifications at all would test little.
        let enabled = self.below(if rule == ".m.rule.master" { 8 } else { 2 }) == 0;
        match actions.filter(|_| rule != ".m.rule.master") {
            Some(actions) => {
                let body = json!({ "actions": actions });
                assert_eq!(self.ask_as(user, Method::PUT, &format!("{path}/actions"), body).await.0, 200);
                self.rules.set_actions(user, kind, rule, &actions);
            }
            None => {
                let body = json!({ "enabled": enabled });
                assert_eq!(self.ask_as(user, Method::PUT, &format!("{path}/enabled"), body).await.0, 200);
                self.rules.enable(user, kind, rule, enabled);
            }
        }
    }

    /// Ann ignores Ben, or no longer.
    async fn ignore(&mut self) {
        let (ann, ben) = (self.users[1].clone(), self.users[2].clone());
        let ignores = self.ignored.get(&ann).is_none_or(BTreeSet::is_empty);
        let ignored = if ignores { json!({ &ben: {} }) } else { json!({}) };
        let path = format!("user/{}/account_data/m.ignored_user_list", encoded(&ann));
        let (status, _) = self.ask_as(&ann, Method::PUT, &path, json!({ "ignored_users": ignored })).await;
        assert_eq!(status, 200);
        let now = if ignores { BTreeSet::from([ben.clone()]) } else { BTreeSet::new() };
        for room in &mut self.rooms {
            room.ignore(&ann, &now);
        }
        self.ignored.insert(ann.clone(), now);
        self.ever_ignored.entry(ann).or_default().insert(ben);
    }

    async fn set_something(&mut self, room: usize, user: &str) {
        let word = WORDS[self.below(WORDS.len())];
        let owner = self.users[0].clone();
        match self.below(10) {
            0 | 1 => self.set_state(room, user, "x.y", word, json!({ "n": self.transactions })).await,
            2 | 3 => self.set_state(room, user, "m.room.topic", "", json!({ "topic": word })).await,
            4 => self.set_state(room, &owner, "m.room.name", "", json!({ "name": word })).await,
            5..8 => {
                let words = ["joined", "invited", "invited", "shared", "world_readable"];
                let content = json!({ "history_visibility": words[self.below(5)] });
                self.set_state(room, &owner, "m.room.history_visibility", "", content).await;
            }
            8 => {
                if self.rooms[room].membership(user) == "join" {
                    let content = json!({ "membership": "join", "displayname": word });
                    self.set_state(room, user, MEMBER, user, content).await;
                }
            }
            _ => {
                let inside = !self.is_in_space(room);
                self.change_space(room, inside).await;
            }
        }
    }

    /// Something happens. What may not be just now, does not.
    pub async fn act(&mut self) {
        let room = self.below(ROOMS);
        let owner = self.users[0].clone();
        let guest = self.guest();
        let anyone = self.anyone();
        match self.below(100) {
            0..28 => self.say(room, &anyone, None).await,
            28..46 => self.answer(room, &anyone).await,
            46..56 => self.set_something(room, &anyone).await,
            56..63 => self.change_member(room, &guest, &guest, "join").await,
            63..66 => self.change_member(room, &guest, &guest, "leave").await,
            66..69 => self.change_member(room, &owner, &guest, "kick").await,
            69..71 => self.change_member(room, &owner, &guest, "ban").await,
            71..74 => self.change_member(room, &owner, &guest, "unban").await,
            74..79 => self.change_member(room, &owner, &guest, "invite").await,
            79..92 => self.read(room, &guest).await,
            92..95 => self.change_rules(&guest).await,
            95..97 => self.follow(room, &guest).await,
            97 => self.ignore().await,
            _ => self.restart().await,
        }
    }
}

fn fact_of(event: &Value) -> Fact {
    let text = |name: &str| event[name].as_str().unwrap_or_else(|| panic!("{name}: {event}")).to_owned();
    Fact {
        id: text("event_id"),
        kind: text("type"),
        sender: text("sender"),
        state_key: event.get("state_key").map(|_| text("state_key")),
        content: event["content"].clone(),
    }
}
