//! Sliding sync against the rooms themselves: whatever happens, whatever is asked for, and whichever answers are lost, a
//! client that puts the answers together ends with the right picture, and gets no event twice (behaviours CZ1 to CZ7).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use event::{Json, Object};
use rooms::NewEvent;
use serde_json::{Value, json};
use store::model::Model;
use store::{DeviceId, StreamPosition, UserId};
use sync::sliding::config::{Config, Rule, Rules};
use sync::sliding::request::{Dialect, Extensions, List, Lists, Request, Scope, Subscriptions};
use sync::{Error, Sync};
use users::presence::PresenceState;

use crate::bench::{Bench, user};
use crate::stepped::Dice;

/// Worlds that are played. The model looks through whole tables, so that many small ones are faster than a large one.
const WORLDS: u64 = 40;
/// Steps in one world.
const STEPS: u64 = 120;
/// Rooms of a world.
const ROOMS: usize = 4;
/// Most requests until a client has everything.
const REQUESTS_MAX: usize = 20;

type Key = (String, String);

/// A room as a client knows it.
#[derive(Debug, Default)]
struct View {
    joined: bool,
    state: BTreeMap<Key, String>,
    /// Since the last gap.
    timeline: Vec<String>,
    name: Option<String>,
    joined_count: i64,
    account_data: BTreeMap<String, String>,
}

/// A client of a user who watches.
struct Client {
    conn_id: &'static str,
    dialect: Dialect,
    /// Whether it looks through changing windows.
    moving: bool,
    pos: Option<String>,
    old: Vec<String>,
    views: BTreeMap<String, View>,
}

struct World {
    bench: Arc<Bench>,
    engine: Arc<Sync>,
    dice: Dice,
    rooms: Vec<String>,
    watcher: UserId,
    actors: [UserId; 2],
}

fn object(value: Value) -> Object {
    match Json::from(value) {
        Json::Object(object) => object,
        other => panic!("not an object: {other:?}"),
    }
}

fn config(pairs: &[(&str, &str)], timeline_limit: usize, user: &UserId) -> Config {
    let pairs: Vec<Key> = pairs.iter().map(|(kind, key)| ((*kind).to_owned(), (*key).to_owned())).collect();
    Config { rules: std::sync::Arc::new(Rules(vec![Rule::of_pairs(&pairs, user)])), timeline_limit }
}

impl World {
    async fn new(seed: u64) -> Self {
        let bench = Bench::new(Arc::new(Model::new()), |follower| follower).await;
        let (watcher, actors) = (user("watcher"), [user("ann"), user("carol")]);
        let mut rooms = Vec::new();
        for _ in 0..ROOMS {
            rooms.push(bench.named_room(None, &[actors[0].clone(), actors[1].clone(), watcher.clone()]).await);
        }
        let engine = Arc::clone(&bench.sync);
        Self { bench, engine, dice: Dice::new(seed), rooms, watcher, actors }
    }

    fn below(&self, end: usize) -> usize {
        usize::try_from(self.dice.below(u64::try_from(end).unwrap())).unwrap()
    }

    fn room(&self) -> &String {
        &self.rooms[self.below(ROOMS)]
    }

    /// Something happens. What the rules do not allow just now does not.
    async fn act(&mut self) {
        let rooms = &self.bench.rooms;
        let (room, ann) = (self.room().clone(), self.actors[0].clone());
        let actor = self.actors[self.below(2)].clone();
        let word = self.below(3).to_string();
        let state = |kind: &str, key: &str, content: Value| NewEvent::state(&ann, kind, key, object(content));
        match self.below(20) {
            0..8 => drop(
                rooms.send(&room, NewEvent::message(&actor, "m.room.message", object(json!({ "body": word })))).await,
            ),
            8 => drop(rooms.send(&room, state("m.room.name", "", json!({ "name": word }))).await),
            9 => drop(rooms.send(&room, state("m.room.name", "", json!({}))).await),
            10..12 => drop(rooms.send(&room, state("x.y", &word, json!({ "a": self.below(99) }))).await),
            12 => drop(rooms.leave(&room, &self.actors[1], None).await),
            13 => drop(rooms.join(&room, &self.actors[1], None, Object::new()).await),
            14 => drop(rooms.leave(&room, &self.watcher, None).await),
            15 => drop(rooms.kick(&room, &ann, &self.watcher, None).await),
            16 => drop(rooms.join(&room, &self.watcher, None, Object::new()).await),
            17 => drop(rooms.invite(&room, &ann, &self.watcher, None, Object::new()).await),
            18 => {
                let content = json!({ "a": self.below(99) }).to_string();
                self.bench.users.put_account_data(&self.watcher, &room, &word, content).await.unwrap();
            }
            _ => {
                let Bench { store, rooms, users, .. } = &*self.bench;
                self.engine = Sync::new(store.clone(), Arc::clone(rooms), Arc::clone(users));
            }
        }
    }

    fn request(&self, client: &Client, whole: bool) -> Request {
        let configs: [&[Key2]; 3] = [&[("*", "*")], &[("m.room.name", "")], &[("x.y", "*"), ("m.room.member", "*")]];
        let moving = client.moving && !whole;
        let (last, limit) = if moving { (self.below(ROOMS), 1 + self.below(4)) } else { (99, 3) };
        let pairs = if moving { configs[self.below(3)] } else { configs[0] };
        let ranges = Some(vec![(0, last)]);
        let list = List { ranges, config: config(pairs, limit, &self.watcher), ..List::default() };
        let mut subscriptions = Subscriptions::new();
        if moving && self.below(2) == 0 {
            subscriptions.insert(self.room().clone(), config(configs[self.below(3)], self.below(6), &self.watcher));
        }
        let account_data = (!moving || self.below(2) == 0).then(Scope::default);
        Request {
            user: self.watcher.clone(),
            device: Some(DeviceId::from("DEVICE")),
            dialect: client.dialect,
            conn_id: client.conn_id.to_owned(),
            pos: client.pos.clone(),
            timeout: Duration::ZERO,
            set_presence: PresenceState::Offline,
            txn_id: None,
            lists: Lists::from([("all".to_owned(), list)]),
            subscriptions,
            extensions: Extensions { account_data, ..Extensions::default() },
        }
    }

    /// A client asks: perhaps the answer is lost, perhaps it asks with an old position.
    async fn ask(&self, client: &mut Client) {
        let mut request = self.request(client, false);
        if self.below(10) == 0 && !client.old.is_empty() {
            request.pos = Some(client.old[self.below(client.old.len())].clone());
            match self.engine.sliding(&request).await {
                Ok(_) | Err(Error::UnknownPos) => {}
                Err(error) => panic!("{error}"),
            }
            // A client that goes back and forth has to start anew if the server has gone on.
            request.pos.clone_from(&client.pos);
        }
        let answer = match self.engine.sliding(&request).await {
            Ok(answer) => answer,
            Err(Error::UnknownPos) => {
                client.begin_anew();
                return;
            }
            Err(error) => panic!("{error}"),
        };
        if self.below(4) > 0 {
            client.take(&serde_json::from_str(&answer).unwrap());
        }
    }

    /// Lets a client have everything, and compares.
    async fn settle(&self, client: &mut Client) {
        for n in 0.. {
            assert!(n < REQUESTS_MAX, "there is always something new");
            let Ok(answer) = self.engine.sliding(&self.request(client, true)).await else {
                client.begin_anew();
                continue;
            };
            let answer: Value = serde_json::from_str(&answer).unwrap();
            client.take(&answer);
            if answer["rooms"].as_object().unwrap().is_empty() {
                break;
            }
        }
        for room_id in &self.rooms {
            self.compare(client, room_id).await;
        }
    }

    async fn compare(&self, client: &Client, room_id: &str) {
        let room = self.bench.rooms.room(room_id).await.unwrap().unwrap();
        let head = room.head();
        let view = client.views.get(room_id);
        let joined = head.local.contains(&self.watcher);
        assert_eq!(view.is_some_and(|view| view.joined), joined, "{} {room_id}", client.conn_id);
        let Some(view) = view.filter(|_| joined) else { return };
        let state = self.bench.rooms.whole_state(&room, head.state).await.unwrap();
        let id = |event: &Arc<rooms::Event>| event.id().to_string();
        let key =
            |event: &Arc<rooms::Event>| event.pdu.state_entry().map(|(kind, key)| (kind.to_owned(), key.to_owned()));
        let state: BTreeMap<Key, String> = state.iter().map(|event| (key(event).unwrap(), id(event))).collect();
        assert_eq!(view.state, state, "{} {room_id}", client.conn_id);
        let name = self.bench.rooms.current(&room, "m.room.name", "").await.unwrap();
        let name = name.and_then(|event| event.pdu.content.get("name").and_then(Json::as_str).map(str::to_owned));
        assert_eq!((&view.name, view.joined_count), (&name, head.row.joined), "{} {room_id}", client.conn_id);
        let mut events =
            self.bench.rooms.newest(&room, StreamPosition::ZERO, StreamPosition(i64::MAX), 999).await.unwrap();
        assert!(view.timeline.len() >= 3.min(events.len()), "{} {room_id}: {view:?}", client.conn_id);
        events.truncate(view.timeline.len());
        let events: Vec<String> = events.iter().rev().map(id).collect();
        assert_eq!(view.timeline, events, "{} {room_id}", client.conn_id);
        let data = self.bench.users.room_account_data(&self.watcher, room_id).await.unwrap();
        let data: BTreeMap<String, String> = data.into_iter().map(|one| (one.kind, one.content)).collect();
        assert_eq!(view.account_data, data, "{} {room_id}", client.conn_id);
    }
}

type Key2 = (&'static str, &'static str);

impl Client {
    fn new(conn_id: &'static str, dialect: Dialect, moving: bool) -> Self {
        Self { conn_id, dialect, moving, pos: None, old: Vec::new(), views: BTreeMap::new() }
    }

    fn begin_anew(&mut self) {
        self.pos = None;
        self.views.clear();
    }

    fn take(&mut self, answer: &Value) {
        self.old.extend(self.pos.take());
        self.pos = Some(answer["pos"].as_str().unwrap().to_owned());
        for (room_id, room) in answer["rooms"].as_object().unwrap() {
            let initial = room["initial"] == true;
            if initial {
                self.views.insert(room_id.clone(), View::default());
            }
            let view = self.views.get_mut(room_id).expect("what is not initial is known");
            view.take(room, initial);
        }
        let Some(rooms) = answer["extensions"]["account_data"]["rooms"].as_object() else { return };
        for (room_id, data) in rooms {
            let view = self.views.get_mut(room_id).expect("account data of what is not known");
            for one in data.as_array().unwrap() {
                view.account_data.insert(one["type"].as_str().unwrap().to_owned(), one["content"].to_string());
            }
        }
    }
}

impl View {
    fn take(&mut self, room: &Value, initial: bool) {
        let list = |name: &str| room[name].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut membership =
            if room["invite_state"].is_array() || room["stripped_state"].is_array() { "invite" } else { "join" };
        for event in list("required_state") {
            let key = (text(&event["type"]), text(&event["state_key"]));
            let own = key.0 == "m.room.member" && key.1.starts_with("@watcher:");
            if own && event["content"]["membership"] != "join" {
                membership = "leave";
            }
            match event.get("content") {
                Some(_) => drop(self.state.insert(key, text(&event["event_id"]))),
                None => drop(self.state.remove(&key)),
            }
        }
        self.joined = membership == "join";
        if let Some(name) = room.get("name") {
            self.name = name.as_str().map(str::to_owned);
        }
        self.joined_count = room["joined_count"].as_i64().unwrap_or(self.joined_count);
        let expanded = room["expanded_timeline"] == true || room["unstable_expanded_timeline"] == true;
        if room["limited"] == true || expanded || initial {
            self.timeline.clear();
        }
        self.timeline.extend(list("timeline").iter().map(|event| text(&event["event_id"])));
        let distinct: BTreeSet<&String> = self.timeline.iter().collect();
        assert_eq!(distinct.len(), self.timeline.len(), "an event came twice");
    }
}

#[tokio::test]
async fn cz1_views_are_right_whatever_is_lost() {
    for seed in 0..WORLDS {
        let mut world = World::new(seed).await;
        let mut clients = [
            Client::new("whole", Dialect::Deployed, false),
            Client::new("moving", Dialect::Deployed, true),
            Client::new("accepted", Dialect::Accepted, true),
        ];
        for step in 0..STEPS {
            world.act().await;
            for client in &mut clients {
                if world.below(3) == 0 {
                    world.ask(client).await;
                }
            }
            if step % 40 == 39 {
                for client in &mut clients {
                    world.settle(client).await;
                }
            }
        }
    }
}
