//! Graphs without a network: rooms of three servers, built on each server's own view and handed on late, doubled and out
//! of order, give every server the same state at every event, and every engine the same room.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use event::auth_rules::{auth_types, check};
use event::{Keys, Pdu, Rules, SigningKey, Template, VerifyKey};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rooms::{Accepted, Error, Event, NewEvent, Preset, Room, Rooms, Roots, StateMap, flags};
use serde_json::json;
use store::model::Model;
use store::{Engine, StreamPosition, UserId};

use crate::database::Database;
use crate::harness::{content, key, room_of, rooms_on};
use crate::mutants::{Mutant, Off};

const SERVERS: [&str; 3] = ["one.test", "two.test", "three.test"];
/// A server that is in no room until it joins one.
const LATE: &str = "four.test";
const USERS: [&str; 2] = ["ann", "ben"];
/// When everything is verified.
pub const NOW_MS: u64 = 1_700_000_100_000;

/// The keys of all servers.
pub struct AllKeys(BTreeMap<&'static str, SigningKey>);

impl AllKeys {
    /// Makes them.
    pub fn new() -> Self {
        Self(SERVERS.into_iter().chain([LATE]).map(|server| (server, key(server))).collect())
    }
}

impl Keys for AllKeys {
    fn key(&self, server: &str, key_id: &str) -> Option<VerifyKey> {
        let key = self.0.get(server).filter(|key| key.key_id() == key_id)?;
        VerifyKey::from_b64(&key.public_b64(), u64::MAX, None)
    }
}

/// A room of three servers in the making.
pub struct World {
    random: StdRng,
    pub rules: &'static Rules,
    pub servers: Vec<Arc<Rooms>>,
    pub room_id: String,
    /// Every event, in the order of its making, and which servers have been given it.
    pub events: Vec<(Arc<Pdu>, BTreeSet<usize>)>,
}

impl World {
    async fn new(seed: u64, version: &str) -> Self {
        let mut servers = Vec::new();
        for (place, server) in SERVERS.into_iter().enumerate() {
            servers.push(rooms_on(Arc::new(Model::new()), server, seed * 1_000 + place as u64 * 100_000_000).await);
        }
        let creator = user(0, 0);
        let room_id = servers[0].create_room(&room_of(&creator, version, Preset::PublicChat)).await.unwrap();
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            rules: Rules::of(version).unwrap(),
            servers,
            room_id,
            events: Vec::new(),
        };
        let room = world.room(0).await;
        let mut state = world.servers[0].whole_state(&room, room.head().state).await.unwrap();
        state.sort_by_key(|event| event.num());
        for event in state {
            world.events.push((Arc::clone(&event.pdu), BTreeSet::from([0])));
        }
        world.deliver_all().await;
        for server in 0..SERVERS.len() {
            for one in 0..USERS.len() {
                let joined =
                    world.servers[server].join(&world.room_id, &user(server, one), None, content(json!({}))).await;
                world.keep(server, joined).await;
            }
            world.deliver_all().await;
        }
        world.give_power().await;
        world.deliver_all().await;
        world
    }

    pub async fn room(&self, server: usize) -> Arc<Room> {
        self.servers[server].room(&self.room_id).await.unwrap().unwrap()
    }

    /// One user of each server may do much, one of each little.
    async fn give_power(&mut self) {
        let mut levels: BTreeMap<String, i64> =
            (1..SERVERS.len()).map(|server| (user(server, 0).to_string(), 90)).collect();
        if !self.rules.privileged_creators {
            levels.insert(user(0, 0).to_string(), 100);
        }
        let levels = content(json!({ "users": levels, "state_default": 50, "events": { "m.room.topic": 0 } }));
        let sent =
            self.servers[0].send(&self.room_id, NewEvent::state(&user(0, 0), "m.room.power_levels", "", levels)).await;
        self.keep(0, sent).await;
    }

    async fn keep<T>(&mut self, server: usize, sent: Result<T, Error>) {
        match sent {
            Ok(_) | Err(Error::Forbidden(_) | Error::NotInRoom) => {}
            Err(other) => panic!("{other}"),
        }
        // What is new at the server's extremities was made just now.
        let room = self.room(server).await;
        for extremity in &room.head().extremities {
            if self.events.iter().any(|(pdu, _)| pdu.event_id == extremity.id) {
                continue;
            }
            let event = self.servers[server].event_by_id(&room, extremity.id.as_str()).await.unwrap().unwrap();
            self.events.push((Arc::clone(&event.pdu), BTreeSet::from([server])));
        }
    }

    /// An event that its server sends although the rules may forbid it.
    async fn forge(&mut self, server: usize) {
        let (room, sender) = (self.room(server).await, user(server, 1));
        let (kind, value) = match self.random.random_range(0..2) {
            0 => ("m.room.name", json!({ "name": "forged" })),
            _ => ("m.room.power_levels", json!({ "users": { sender.as_str(): 100 } })),
        };
        let content = content(value);
        let pairs = auth_types(self.rules, sender.as_str(), kind, Some(""), &content);
        let state = self.servers[server].whole_state(&room, room.head().state).await.unwrap();
        let needed = |event: &&Arc<Event>| {
            let pdu = &event.pdu;
            pairs.iter().any(|(kind, key)| pdu.is_state_of(kind, key))
        };
        let extremities = &room.head().extremities;
        let template = Template {
            room_id: Some(self.room_id.clone().try_into().unwrap()),
            sender: sender.to_string(),
            kind: kind.to_owned(),
            state_key: Some(String::new()),
            content,
            prev_events: extremities.iter().map(|extremity| extremity.id.clone()).collect(),
            auth_events: state.iter().filter(needed).map(|event| event.id().clone()).collect(),
            depth: Template::next_depth(extremities.iter().map(|extremity| extremity.depth)),
            origin_server_ts: 1_700_000_050_000 + i64::try_from(self.events.len()).unwrap(),
            ..Template::default()
        };
        let built = event::build(self.rules, template, &key(SERVERS[server]), SERVERS[server]).unwrap();
        let pdu = Arc::clone(built.pdu());
        self.servers[server].accept(built).await.unwrap();
        self.events.push((pdu, BTreeSet::from([server])));
    }

    async fn act(&mut self) {
        let server = self.random.random_range(0..SERVERS.len());
        if self.random.random_range(0..12) == 0 {
            return self.forge(server).await;
        }
        let sender = user(server, self.random.random_range(0..USERS.len()));
        let target = user(self.random.random_range(0..SERVERS.len()), self.random.random_range(0..USERS.len()));
        let number = self.random.random_range(0..4);
        let rooms = Arc::clone(&self.servers[server]);
        let state = |kind: &str, value| NewEvent::state(&sender, kind, "", content(value));
        let member = |membership: &str, target: &UserId| {
            let value = json!({ "membership": membership, "reason": number.to_string() });
            NewEvent::state(&sender, "m.room.member", target.as_str(), content(value))
        };
        let new = match self.random.random_range(0..12) {
            0..3 => NewEvent::message(&sender, "m.room.message", content(json!({ "body": number.to_string() }))),
            3 => state("m.room.topic", json!({ "topic": number.to_string() })),
            4 => state("m.room.name", json!({ "name": number.to_string() })),
            5 => state("m.room.join_rules", json!({ "join_rule": if number == 0 { "invite" } else { "public" } })),
            6 => {
                let (one, two) = (self.random.random_range(0..100), self.random.random_range(0..100));
                let mut users = json!({ user(1, 0).as_str(): 90, user(2, 0).as_str(): one, user(1, 1).as_str(): two });
                if !self.rules.privileged_creators {
                    users[user(0, 0).as_str()] = json!(100);
                }
                state("m.room.power_levels", json!({ "users": users, "events": { "m.room.topic": 0 } }))
            }
            7 => member("ban", &target),
            8 => member("leave", &target),
            9 => member("join", &sender.clone()),
            10 => member("invite", &target),
            _ => member("leave", &sender.clone()),
        };
        let sent = rooms.send(&self.room_id, new).await;
        self.keep(server, sent).await;
    }

    /// Hands some events on, in any order, some twice.
    async fn gossip(&mut self) {
        let to = self.random.random_range(0..SERVERS.len());
        let mut lacking: Vec<usize> =
            (0..self.events.len()).filter(|place| !self.events[*place].1.contains(&to)).collect();
        lacking.shuffle(&mut self.random);
        let share = self.random.random_range(0..=lacking.len());
        lacking.truncate(share);
        if let Some(again) = (0..self.events.len()).collect::<Vec<_>>().choose(&mut self.random) {
            lacking.push(*again);
        }
        for place in lacking {
            let pdu = Arc::clone(&self.events[place].0);
            give(&self.servers[to], self.rules, &pdu).await;
            self.events[place].1.insert(to);
        }
    }

    /// How many events follow two or more others.
    fn merges(&self) -> usize {
        self.events.iter().filter(|(pdu, _)| pdu.prev_events.len() > 1).count()
    }

    /// One of each server says something, all at once, and hears the others: whoever speaks next merges what was said.
    async fn meet(&mut self) {
        for server in 0..SERVERS.len() {
            let new = NewEvent::message(&user(server, 0), "m.room.message", content(json!({ "body": "all" })));
            let sent = self.servers[server].send(&self.room_id, new).await;
            self.keep(server, sent).await;
        }
        self.deliver_all().await;
    }

    async fn deliver_all(&mut self) {
        for to in 0..SERVERS.len() {
            for place in 0..self.events.len() {
                if self.events[place].1.insert(to) {
                    give(&self.servers[to], self.rules, &Arc::clone(&self.events[place].0)).await;
                }
            }
        }
    }
}

fn user(server: usize, one: usize) -> UserId {
    UserId::from(format!("@{}:{}", USERS[one], SERVERS[server]))
}

async fn give(rooms: &Rooms, rules: &Rules, pdu: &Pdu) -> Accepted {
    let verified = event::verify(rules, pdu.bytes.clone(), &AllKeys::new(), NOW_MS).unwrap();
    rooms.accept(verified).await.unwrap()
}

/// A state by event ids.
async fn ids(rooms: &Rooms, room: &Room, roots: Roots) -> BTreeSet<String> {
    rooms.whole_state(room, roots).await.unwrap().iter().map(|event| event.id().to_string()).collect()
}

/// What every server must agree on, whatever the order of arrival.
async fn fate(rooms: &Rooms, room: &Room, event: &Event) -> (bool, BTreeSet<String>, BTreeSet<String>) {
    let before = ids(rooms, room, event.state_before().unwrap()).await;
    let after = ids(rooms, room, event.state_after().unwrap()).await;
    (event.rejected(), before, after)
}

/// Plays a world and returns it with everything delivered everywhere.
pub async fn play(seed: u64, version: &str, steps: usize) -> World {
    let mut world = World::new(seed, version).await;
    for _ in 0..steps {
        world.act().await;
        if world.random.random_range(0..3) == 0 {
            world.gossip().await;
        }
    }
    // At the end everyone goes their own way for a while, and then all meet.
    for _ in 0..steps / 4 {
        world.act().await;
    }
    world.deliver_all().await;
    world.meet().await;
    for _ in 0..ROUNDS_MAX {
        if world.merges() >= MERGES {
            break;
        }
        // Chance kept the servers together, or away from each other's events.
        for _ in 0..steps / 4 {
            world.act().await;
        }
        world.deliver_all().await;
        world.meet().await;
    }
    world
}

fn n_seeds(default: u64) -> u64 {
    std::env::var("ROOMS_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Merges that each world has at least: events that follow two or more others.
const MERGES: usize = 5;

/// How often a world with too few merges goes on: one in which nobody may speak any more never has them.
const ROUNDS_MAX: usize = 20;

/// How often something happened in the worlds of one room version: a generator that never forks proves nothing.
#[derive(Debug, Default)]
struct Happened {
    worlds: usize,
    /// The fewest merges in one world.
    merges_min: Option<usize>,
    rejected: usize,
    soft_failed: usize,
    /// Sum over the worlds: the greatest share of state keys, in percent, on which merged states differed.
    conflict: usize,
}

/// The share of state keys, in percent, on which the states after an event's previous events differ.
async fn conflict_of(rooms: &Rooms, room: &Room, pdu: &Pdu) -> usize {
    let mut values: BTreeMap<(String, Option<String>), BTreeSet<Option<String>>> = BTreeMap::new();
    let mut states = Vec::new();
    for id in &pdu.prev_events {
        let event = rooms.event_by_id(room, id.as_str()).await.unwrap().unwrap();
        let state = rooms.whole_state(room, event.state_after().unwrap()).await.unwrap();
        let pair = |event: &Arc<Event>| (event.pdu.kind.clone(), event.pdu.state_key.clone());
        states.push(state.iter().map(|event| (pair(event), event.id().to_string())).collect::<BTreeMap<_, _>>());
    }
    for pair in states.iter().flat_map(BTreeMap::keys).collect::<BTreeSet<_>>() {
        values.insert(pair.clone(), states.iter().map(|state| state.get(pair).cloned()).collect());
    }
    values.values().filter(|values| values.len() > 1).count() * 100 / values.len().max(1)
}

impl Happened {
    async fn count(&mut self, world: &World) {
        let room = world.room(0).await;
        let (merges, mut conflict) = (world.merges(), 0);
        for (pdu, _) in &world.events {
            let event = world.servers[0].event_by_id(&room, pdu.event_id.as_str()).await.unwrap().unwrap();
            self.rejected += usize::from(event.rejected());
            if pdu.prev_events.len() > 1 {
                conflict = conflict.max(conflict_of(&world.servers[0], &room, pdu).await);
            }
            for server in 0..SERVERS.len() {
                let room = world.room(server).await;
                let event = world.servers[server].event_by_id(&room, pdu.event_id.as_str()).await.unwrap().unwrap();
                self.soft_failed += usize::from(event.has(flags::SOFT_FAILED));
            }
        }
        self.merges_min = Some(self.merges_min.map_or(merges, |fewest| fewest.min(merges)));
        self.worlds += 1;
        self.conflict += conflict;
    }

    fn is_enough(&self) -> bool {
        let enough_merges = self.merges_min.is_some_and(|fewest| fewest >= MERGES);
        enough_merges && self.rejected > 0 && self.soft_failed > 0 && self.conflict >= self.worlds * 33
    }
}

#[tokio::test]
async fn fe12_the_state_at_an_event_is_the_same_everywhere() {
    let mut happened: BTreeMap<&str, Happened> = BTreeMap::new();
    for seed in 0..n_seeds(12) {
        let version = ["1", "2", "6", "10", "11", "12"][usize::try_from(seed % 6).unwrap()];
        let world = play(seed, version, 100).await;
        happened.entry(version).or_default().count(&world).await;
        let mut first: BTreeMap<String, (bool, BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
        for (place, rooms) in world.servers.iter().enumerate() {
            let room = world.room(place).await;
            check_memberships(rooms, &room, SERVERS[place]).await;
            for (pdu, _) in &world.events {
                let event = rooms.event_by_id(&room, pdu.event_id.as_str()).await.unwrap().unwrap();
                assert!(!event.has(flags::WAITING), "seed {seed}: {} waits for ever", pdu.event_id);
                let fate = fate(rooms, &room, &event).await;
                let expected = first.entry(pdu.event_id.to_string()).or_insert_with(|| fate.clone());
                assert!(*expected == fate, "seed {seed}, version {version}, server {place}: {}", pdu.event_id);
            }
        }
    }
    println!("{happened:?}");
    assert!(happened.values().all(Happened::is_enough), "{happened:?}");
}

/// Counts and rows of memberships are what the current state says.
pub async fn check_memberships(rooms: &Rooms, room: &Room, server: &str) {
    let head = room.head();
    let state = rooms.whole_state(room, head.state).await.unwrap();
    let members: Vec<_> = state.iter().filter(|event| event.pdu.kind == "m.room.member").collect();
    let count = |membership: &str| members.iter().filter(|event| event.pdu.membership() == Some(membership)).count();
    assert_eq!(usize::try_from(head.row.joined).unwrap(), count("join"), "joined members");
    assert_eq!(usize::try_from(head.row.invited).unwrap(), count("invite"), "invited users");
    for member in members {
        let user = UserId::from(member.pdu.state_key.clone().unwrap());
        if user.server_name() == server {
            let row = rooms.membership_row(room.num, &user).await.unwrap().unwrap();
            assert_eq!((Some(row.membership.as_str()), row.event), (member.pdu.membership(), member.num()), "{user}");
            assert_eq!(head.local.contains(&user), row.membership == "join", "{user}");
        }
    }
}

/// The whole of a room as an engine holds it.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    head: BTreeSet<String>,
    extremities: BTreeSet<String>,
    flags: BTreeMap<String, i64>,
    timeline: Vec<String>,
    at_positions: Vec<BTreeSet<String>>,
}

async fn held(rooms: &Rooms, world: &World) -> Held {
    let room = rooms.room(&world.room_id).await.unwrap().unwrap();
    let head = room.head();
    let (mut flags, mut timeline, mut at_positions) = (BTreeMap::new(), Vec::new(), Vec::new());
    for (pdu, _) in &world.events {
        let event = rooms.event_by_id(&room, pdu.event_id.as_str()).await.unwrap().unwrap();
        flags.insert(event.id().to_string(), event.row.flags);
        timeline.extend(event.row.pos.map(|pos| (pos, event.id().to_string())));
    }
    timeline.sort();
    for (pos, _) in &timeline {
        let state = rooms.state_at(&room, *pos).await.unwrap();
        at_positions.push(ids(rooms, &room, state).await);
    }
    Held {
        head: ids(rooms, &room, head.state).await,
        extremities: head.extremities.iter().map(|extremity| extremity.id.to_string()).collect(),
        flags,
        timeline: timeline.into_iter().map(|(_, id)| id).collect(),
        at_positions,
    }
}

/// What came of feeding a room, with what it should have been.
struct Fed {
    held: Held,
    /// What readers saw as the current state, at each position that the stream reached.
    heads: Vec<(StreamPosition, BTreeSet<String>)>,
    /// Events that were judged as they came: whether the rules refuse them by the current state, and their flags.
    judged: Vec<(bool, i64)>,
    rooms: Arc<Rooms>,
}

async fn feed(engine: Arc<dyn Engine>, world: &World, order: &[usize]) -> Fed {
    let rooms = rooms_on(engine, "one.test", 5).await;
    give(&rooms, world.rules, &world.events[0].0).await;
    let (mut heads, mut judged) = (Vec::new(), Vec::new());
    for place in order {
        let room = rooms.room(&world.room_id).await.unwrap().unwrap();
        let before = rooms.whole_state(&room, room.head().state).await.unwrap();
        if let Accepted::Judged(event) = give(&rooms, world.rules, &world.events[*place].0).await {
            let pair = |event: &Arc<Event>| (event.pdu.kind.clone(), event.pdu.state_key.clone().unwrap());
            let state = StateMap(before.iter().map(|event| (pair(event), Arc::clone(event))).collect());
            let refused = check(world.rules, &event.pdu, &state, &room.create).is_err();
            judged.push((refused, event.row.flags));
        }
        let room = rooms.room(&world.room_id).await.unwrap().unwrap();
        let end = rooms.store().notifier().watermark();
        heads.push((end, ids(&rooms, &room, room.head().state).await));
    }
    check_memberships(&rooms, &rooms.room(&world.room_id).await.unwrap().unwrap(), "one.test").await;
    Fed { held: held(&rooms, world).await, heads, judged, rooms }
}

impl Fed {
    /// Whether the head of every position is still known.
    async fn keeps_heads(&self, world: &World) -> bool {
        let room = self.rooms.room(&world.room_id).await.unwrap().unwrap();
        for (pos, head) in &self.heads {
            let state = self.rooms.state_at(&room, *pos).await.unwrap();
            if ids(&self.rooms, &room, state).await != *head {
                return false;
            }
        }
        true
    }

    /// Whether what is read anew from the store is what is in memory.
    async fn survives(&self, world: &World) -> bool {
        let again = rooms_on(Arc::clone(self.rooms.store().engine()), "one.test", 6).await;
        held(&again, world).await == self.held
    }
}

/// Whether exactly those events are soft-failed that the current state refuses, those that are rejected aside.
fn soft_failures_are_right(judged: &[(bool, i64)]) -> bool {
    judged.iter().all(|(refused, flags)| {
        let soft_failed = flags & flags::SOFT_FAILED != 0;
        flags & flags::REJECTED != 0 || *refused == soft_failed
    })
}

fn any_order(world: &mut World) -> Vec<usize> {
    let mut order: Vec<usize> = (1..world.events.len()).chain(1..world.events.len() / 2).collect();
    order.shuffle(&mut world.random);
    order
}

/// An order in which few events wait, so that most are judged as they come.
fn mild_order(world: &mut World) -> Vec<usize> {
    let mut order: Vec<usize> = (1..world.events.len()).collect();
    order.chunks_mut(3).for_each(|chunk| chunk.shuffle(&mut world.random));
    order
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_engine_holds_the_same_room() {
    for seed in 100..100 + n_seeds(4) {
        let version = ["6", "11", "12", "1"][usize::try_from(seed % 4).unwrap()];
        let mut world = play(seed, version, 40).await;
        let order = any_order(&mut world);
        let model = feed(Arc::new(Model::new()), &world, &order).await;
        assert!(model.survives(&world).await, "seed {seed}: the model, read anew");
        let folder = tempfile::tempdir().unwrap();
        let sqlite = sqlite::Sqlite::open(&folder.path().join("hearth.db"), sqlite::Options::default()).unwrap();
        let on_sqlite = feed(Arc::new(sqlite), &world, &order).await;
        assert!(on_sqlite.held == model.held, "seed {seed}: SQLite differs");
        assert!(on_sqlite.survives(&world).await, "seed {seed}: SQLite, read anew");
        let Some(database) = Database::make().await else { continue };
        let on_postgres = feed(database.open().await, &world, &order).await;
        assert!(on_postgres.held == model.held, "seed {seed}: PostgreSQL differs");
        assert!(on_postgres.survives(&world).await, "seed {seed}: PostgreSQL, read anew");
        database.dispose().await;
    }
}

#[tokio::test]
async fn heads_and_soft_failures_are_right() {
    let mut n_soft_failed = 0;
    for seed in 200..200 + n_seeds(4) {
        let version = ["11", "1", "12", "4"][usize::try_from(seed % 4).unwrap()];
        let mut world = play(seed, version, 40).await;
        let order = mild_order(&mut world);
        let fed = feed(Mutant::new(Off::Nothing), &world, &order).await;
        assert!(fed.keeps_heads(&world).await, "seed {seed}: the head of every position is known");
        assert!(soft_failures_are_right(&fed.judged), "seed {seed}");
        let soft_failed = fed.judged.iter().filter(|(_, flags)| flags & flags::SOFT_FAILED != 0).count();
        n_soft_failed += soft_failed;
        let never: Vec<_> = fed.judged.iter().map(|(refused, flags)| (*refused, flags & !flags::SOFT_FAILED)).collect();
        assert_eq!(soft_failures_are_right(&never), soft_failed == 0, "an engine that never soft-fails is noticed");
        let mutant = Mutant::new(Off::HeadHistory);
        mutant.begin();
        assert!(!feed(mutant, &world, &order).await.keeps_heads(&world).await, "lost heads are noticed");
    }
    assert!(n_soft_failed > 0, "nothing was soft-failed");
}
