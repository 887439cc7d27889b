//! What a join through another server costs in a large room, on SQLite. Run with `--release`; argument: members.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for developers")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use event::{Json, Object, Rules, SigningKey, Template, Verified};
use rooms::remote::Import;
use rooms::{MessagesCount, Options, Rooms};
use ruma_common::{OwnedEventId, OwnedRoomId};
use serde_json::json;
use store::{Clock, Entropy, Store, UserId};

const SERVER: &str = "bench.test";
const VERSION: &str = "11";
const ROOM: &str = "!large:srv0.test";
/// Servers among which the members are spread.
const SERVERS: usize = 1_000;

struct Ticking(AtomicI64);

impl Clock for Ticking {
    fn now_ms(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
            chunk.copy_from_slice(&number.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// CPU time of all threads that live, in milliseconds.
fn cpu_ms() -> f64 {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        nanoseconds += text.split(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    }
    nanoseconds / 1e6
}

/// A line of `/proc/self/status`.
fn status(name: &str) -> String {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned()
}

fn content(value: serde_json::Value) -> Object {
    match Json::from(value) {
        Json::Object(object) => object,
        _ => Object::new(),
    }
}

/// The events of a room in the making.
struct Maker {
    key: SigningKey,
    events: Vec<Verified>,
    auth: Vec<OwnedEventId>,
}

impl Maker {
    fn add(
        &mut self,
        server: &str,
        sender: &str,
        kind: &str,
        state_key: &str,
        value: serde_json::Value,
    ) -> OwnedEventId {
        let last = self.events.last().map(|event| event.pdu().event_id.clone());
        let template = Template {
            room_id: Some(OwnedRoomId::try_from(ROOM).unwrap()),
            sender: sender.to_owned(),
            kind: kind.to_owned(),
            state_key: Some(state_key.to_owned()),
            content: content(value),
            prev_events: last.into_iter().collect(),
            auth_events: self.auth.clone(),
            depth: i64::try_from(self.events.len()).unwrap() + 1,
            origin_server_ts: 1_700_000_000_000,
            ..Template::default()
        };
        let built = event::build(Rules::of(VERSION).unwrap(), template, &self.key, server).unwrap();
        let id = built.pdu().event_id.clone();
        self.events.push(built);
        id
    }
}

fn room(members: usize) -> Maker {
    let mut maker = Maker { key: SigningKey::generate(&[7; 32]), events: Vec::new(), auth: Vec::new() };
    let creator = "@creator:srv0.test";
    let create = maker.add("srv0.test", creator, "m.room.create", "", json!({ "room_version": VERSION }));
    maker.auth = vec![create.clone()];
    let joined = maker.add("srv0.test", creator, "m.room.member", creator, json!({ "membership": "join" }));
    maker.auth = vec![create.clone(), joined.clone()];
    let power = maker.add("srv0.test", creator, "m.room.power_levels", "", json!({ "users": { creator: 100 } }));
    maker.auth = vec![create.clone(), joined, power.clone()];
    let rules = maker.add("srv0.test", creator, "m.room.join_rules", "", json!({ "join_rule": "public" }));
    maker.auth = vec![create, power, rules];
    for number in 0..members {
        let server = format!("srv{}.test", number % SERVERS);
        let user = format!("@user{number}:{server}");
        let value = json!({ "membership": "join", "displayname": format!("User {number}"), "avatar_url": "mxc://a/b" });
        maker.add(&server, &user, "m.room.member", &user, value);
    }
    maker
}

#[tokio::main]
async fn main() {
    let members = std::env::args().nth(1).map_or(50_000, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let engine = sqlite::Sqlite::open(&folder.path().join("hearth.db"), sqlite::Options::default()).unwrap();
    let store = Store::new(Arc::new(engine)).await.unwrap();
    let clock = Arc::new(Ticking(AtomicI64::new(1_700_000_000_000)));
    let entropy = Arc::new(Counting(AtomicU64::new(1)));
    let key = Arc::new(SigningKey::generate(&[9; 32]));
    let rooms = Rooms::new(store, clock, entropy, key, Arc::new(MessagesCount), Options::new(SERVER));
    let maker = room(members);
    let bob = UserId::from(format!("@bob:{SERVER}"));
    let last = maker.events.last().unwrap().pdu().event_id.to_string();
    let auth: Vec<String> = maker.auth.iter().map(ToString::to_string).collect();
    let template = content(json!({
        "type": "m.room.member", "room_id": ROOM, "sender": bob, "state_key": bob, "depth": members + 9,
        "content": { "membership": "join" }, "prev_events": [last], "auth_events": auth,
    }));
    let rules = Rules::of(VERSION).unwrap();
    let join = rooms.complete_template(rules, ROOM, &bob, "join", &template, Object::new()).unwrap();
    let import =
        Import { rules, join, state: maker.events, auth_chain: Vec::new(), partial: None, left_out: Vec::new() };
    println!("{members} members; before: {}", status("VmRSS"));
    let (started, cpu) = (Instant::now(), cpu_ms());
    rooms.import_join(import).await.unwrap();
    let (wall, cpu) = (started.elapsed().as_millis(), cpu_ms() - cpu);
    let room = rooms.room(ROOM).await.unwrap().unwrap();
    println!("joined {} of {} servers: {wall} ms, {cpu:.0} ms of CPU", room.head().row.joined, room.servers().len());
    println!("after: {}, {}", status("VmRSS"), status("VmHWM"));
}
