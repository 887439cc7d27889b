//! What a new fork costs in a room with very much state and very many forward extremities, on SQLite. Run with
//! `--release`; arguments: state events, extremities, forks with states of their own.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for developers")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use event::{Json, Object, Rules, SigningKey, Template, Verified};
use rooms::{CreateRoom, MessagesCount, NewEvent, Options, Preset, Rooms};
use ruma_common::OwnedEventId;
use serde_json::json;
use store::{Clock, Entropy, Store, UserId};

const SERVER: &str = "bench.test";
const VERSION: &str = "12";

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

fn key() -> SigningKey {
    SigningKey::generate(&[7; 32])
}

fn content(value: serde_json::Value) -> Object {
    match Json::from(value) {
        Json::Object(object) => object,
        _ => Object::new(),
    }
}

async fn engine(path: &std::path::Path) -> Arc<Rooms> {
    let engine = sqlite::Sqlite::open(path, sqlite::Options::default()).unwrap();
    let store = Store::new(Arc::new(engine)).await.unwrap();
    let clock = Arc::new(Ticking(AtomicI64::new(1_700_000_000_000)));
    let entropy = Arc::new(Counting(AtomicU64::new(1)));
    Rooms::new(store, clock, entropy, Arc::new(key()), Arc::new(MessagesCount), Options::new(SERVER))
}

async fn create(rooms: &Rooms, creator: &UserId, state: usize) -> String {
    let one = |n| {
        let value = content(json!({ "value": n, "text": "as long as a state event usually is" }));
        ("org.example.bench".to_owned(), format!("key{n}"), value)
    };
    let request = CreateRoom {
        creator: creator.clone(),
        version: Some(VERSION.to_owned()),
        preset: Preset::PublicChat,
        published: false,
        alias_localpart: None,
        name: None,
        topic: None,
        invite: Vec::new(),
        creation_content: Object::new(),
        initial_state: (0..state).map(one).collect(),
        is_direct: false,
        power_level_content_override: None,
        creator_profile: Object::new(),
        predecessor: None,
    };
    rooms.create_room(&request).await.unwrap()
}

/// Where all forks begin, and what authorizes their events.
struct Base {
    rooms: Arc<Rooms>,
    room_id: String,
    creator: UserId,
    event: OwnedEventId,
    depth: i64,
    auth: Vec<OwnedEventId>,
}

impl Base {
    async fn new(rooms: Arc<Rooms>, room_id: String, creator: UserId) -> Self {
        let room = rooms.room(&room_id).await.unwrap().unwrap();
        let mut auth = Vec::new();
        for (kind, state_key) in [("m.room.power_levels", ""), ("m.room.member", creator.as_str())] {
            auth.push(rooms.current(&room, kind, state_key).await.unwrap().unwrap().id().clone());
        }
        let head = room.head();
        let (event, depth) = (head.extremities[0].id.clone(), head.extremities[0].depth);
        Self { rooms, room_id, creator, event, depth, auth }
    }

    /// An event on a fork of its own.
    fn fork(&self, n: usize, key: Option<usize>) -> Verified {
        let template = Template {
            room_id: Some(self.room_id.clone().try_into().unwrap()),
            sender: self.creator.to_string(),
            kind: if key.is_some() { "org.example.bench" } else { "m.room.message" }.to_owned(),
            state_key: key.map(|key| format!("key{key}")),
            content: content(json!({ "body": n })),
            prev_events: vec![self.event.clone()],
            auth_events: self.auth.clone(),
            depth: self.depth + 1,
            origin_server_ts: 1_800_000_000_000 + i64::try_from(n).unwrap(),
            ..Template::default()
        };
        event::build(Rules::of(VERSION).unwrap(), template, &crate::key(), SERVER).unwrap()
    }

    /// Accepts forks one after the other and says what CPU time one took.
    async fn measure(&self, name: &str, forks: Vec<Verified>) {
        let mut times = Vec::new();
        for fork in forks {
            let from = cpu_ms();
            self.rooms.accept(fork).await.unwrap();
            times.push(cpu_ms() - from);
        }
        let (first, last) = (times[0], times[times.len() - 1]);
        times.sort_by(f64::total_cmp);
        let (middle, worst) = (times[times.len() / 2], times[times.len() - 1]);
        println!("{name}: first {first:.2} ms, median {middle:.2} ms, worst {worst:.2} ms, last {last:.2} ms");
    }
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1).map(|text| text.parse::<usize>().unwrap());
    let state = args.next().unwrap_or(100_000);
    let extremities = args.next().unwrap_or(1_000);
    let forks = args.next().unwrap_or(20);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bench.db");
    let creator = UserId::from(format!("@creator:{SERVER}"));
    let rooms = engine(&path).await;
    let from = Instant::now();
    let room_id = create(&rooms, &creator, state).await;
    println!("{state} state events made in {:.1} s", from.elapsed().as_secs_f64());
    rooms.store().engine().close().await;
    drop(rooms);
    let rooms = engine(&path).await;
    let base = Base::new(rooms, room_id, creator).await;
    let messages = (0..extremities).map(|n| base.fork(n, None)).collect();
    base.measure(&format!("{extremities} forks with a message each"), messages).await;
    let states = (0..forks).map(|n| base.fork(extremities + n, Some(n))).collect();
    base.measure(&format!("{forks} more that set a state each"), states).await;
    let same = (0..forks).map(|n| base.fork(extremities + forks + n, Some(0))).collect();
    base.measure(&format!("{forks} more that set the same state"), same).await;
    let new = NewEvent::message(&base.creator, "m.room.message", content(json!({ "body": "done" })));
    let from = cpu_ms();
    base.rooms.send(&base.room_id, new).await.unwrap();
    println!("a message of our own: {:.2} ms", cpu_ms() - from);
    let room = base.rooms.room(&base.room_id).await.unwrap().unwrap();
    println!("forward extremities in the end: {}", room.head().extremities.len());
}
