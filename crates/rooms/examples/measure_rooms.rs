//! CPU time of the room engine's writes and pages on SQLite, without HTTP. Run with `--release`; an argument picks the
//! operations whose name contains it, a second one says how often each is done.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for developers")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use event::{Json, Object, SigningKey};
use rooms::timeline::{Direction, PageQuery};
use rooms::visibility::Viewer;
use rooms::{CreateRoom, MessagesCount, NewEvent, Options, Preset, Rooms, Transaction};
use serde_json::json;
use store::{Clock, DeviceId, Entropy, Store, UserId};
use tokio::task::JoinSet;

const SENDERS: usize = 16;
const MANY_ROOMS: usize = 50;
const STATE_EVENTS: usize = 1_000;

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

fn user(n: usize) -> UserId {
    UserId::from(format!("@user{n}:bench.test"))
}

fn content(value: serde_json::Value) -> Object {
    match Json::from(value) {
        Json::Object(object) => object,
        _ => Object::new(),
    }
}

struct Bench {
    rooms: Arc<Rooms>,
    made: AtomicU64,
    wanted: String,
    times: usize,
}

impl Bench {
    async fn create(&self) -> String {
        let request = CreateRoom {
            creator: user(0),
            version: Some("11".to_owned()),
            preset: Preset::PublicChat,
            published: false,
            alias_localpart: None,
            name: Some("bench".to_owned()),
            topic: None,
            invite: Vec::new(),
            creation_content: Object::new(),
            initial_state: Vec::new(),
            is_direct: false,
            power_level_content_override: None,
            creator_profile: Object::new(),
            predecessor: None,
        };
        self.rooms.create_room(&request).await.unwrap()
    }

    async fn room_of(&self, members: usize) -> String {
        let room = self.create().await;
        for n in 1..members {
            self.rooms.join(&room, &user(n), None, Object::new()).await.unwrap();
        }
        room
    }

    async fn say(&self, sender: usize, room: &str) {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        let body = format!("a message of usual length, number {n}");
        let mut new =
            NewEvent::message(&user(sender), "m.room.message", content(json!({ "msgtype": "m.text", "body": body })));
        new.transaction = Some(Transaction {
            device: DeviceId::from("ABCDEFGHIJ"),
            path: format!("/rooms/{room}/send/m.room.message"),
            txn_id: format!("load{n}"),
        });
        self.rooms.send(room, new).await.unwrap();
    }

    async fn set_state(&self, room: &str, key: usize) {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        let value = json!({ "value": n, "text": "as long as a state event usually is" });
        let new = NewEvent::state(&user(0), "org.example.bench", &format!("key{key}"), content(value));
        self.rooms.send(room, new).await.unwrap();
    }

    fn wants(&self, name: &str) -> bool {
        name.contains(&self.wanted)
    }

    async fn measure(&self, name: &str, times: usize, work: impl AsyncFn(usize)) {
        for n in 0..times / 10 {
            work(n).await;
        }
        let from = cpu_ms();
        for n in times / 10..times {
            work(n).await;
        }
        let done = times - times / 10;
        println!("{name}: {:.4} ms", (cpu_ms() - from) / f64::from(u32::try_from(done).unwrap()));
    }
}

/// All senders at once, each in a closed loop, in rooms of their own or in one.
async fn senders(bench: &Arc<Bench>, name: &str, rooms: Vec<String>) {
    let each = bench.times / SENDERS;
    let from = cpu_ms();
    let mut tasks = JoinSet::new();
    for sender in 0..SENDERS {
        let (bench, rooms) = (Arc::clone(bench), rooms.clone());
        tasks.spawn(async move {
            for n in 0..each {
                bench.say(sender, &rooms[(sender + n * SENDERS) % rooms.len()]).await;
            }
        });
    }
    tasks.join_all().await;
    println!("{name}: {:.4} ms", (cpu_ms() - from) / f64::from(u32::try_from(each * SENDERS).unwrap()));
}

async fn sends(bench: &Arc<Bench>) {
    if bench.wants("send, one sender") {
        let room = bench.room_of(SENDERS).await;
        bench.measure("send, one sender", bench.times, async |_| bench.say(0, &room).await).await;
    }
    if bench.wants("send, 16 senders, one room") {
        let room = bench.room_of(SENDERS).await;
        senders(bench, "send, 16 senders, one room", vec![room]).await;
    }
    if bench.wants("send, 16 senders, 50 rooms") {
        let mut rooms = Vec::new();
        for _ in 0..MANY_ROOMS {
            rooms.push(bench.room_of(SENDERS).await);
        }
        senders(bench, "send, 16 senders, 50 rooms", rooms).await;
    }
}

async fn page(bench: &Bench, room_id: &str) {
    let me = user(0);
    let room = bench.rooms.room(room_id).await.unwrap().unwrap();
    let mut viewer = Viewer::new(&bench.rooms, &room, &me).await.unwrap();
    let mut from = bench.rooms.live_end(&room);
    for _ in 0..4 {
        let query = PageQuery { from, direction: Direction::Backward, until: None, limit: 100 };
        let page = bench.rooms.page(&room, query, &mut viewer, |_| true).await.unwrap();
        let Some(end) = page.end else { break };
        from = end;
    }
}

async fn others(bench: &Arc<Bench>) {
    if bench.wants("create a room") {
        bench.measure("create a room", bench.times / 10, async |_| drop(bench.create().await)).await;
    }
    if bench.wants("set one state event among 1,000") {
        let room = bench.create().await;
        for key in 0..STATE_EVENTS {
            bench.set_state(&room, key).await;
        }
        let set = async |n| bench.set_state(&room, n * 7 % STATE_EVENTS).await;
        bench.measure("set one state event among 1,000", bench.times, set).await;
    }
    if bench.wants("local join") {
        let mut rooms = Vec::new();
        for _ in 0..bench.times.div_ceil(100) {
            rooms.push(bench.create().await);
        }
        let join = async |n: usize| {
            let (room, member) = (&rooms[n / 100], user(1 + n % 100));
            bench.rooms.join(room, &member, None, Object::new()).await.unwrap();
        };
        bench.measure("local join", bench.times, join).await;
    }
    if bench.wants("pages of 100 old events") {
        let room = bench.create().await;
        for _ in 0..400 {
            bench.say(0, &room).await;
        }
        bench.measure("4 pages of 100 old events", bench.times / 10, async |_| page(bench, &room).await).await;
    }
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let wanted = args.next().unwrap_or_default();
    let times = args.next().map_or(2_000, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let engine = sqlite::Sqlite::open(&folder.path().join("bench.db"), sqlite::Options::default()).unwrap();
    let store = Store::new(Arc::new(engine)).await.unwrap();
    let clock = Arc::new(Ticking(AtomicI64::new(1_700_000_000_000)));
    let entropy = Arc::new(Counting(AtomicU64::new(1)));
    let key = Arc::new(SigningKey::generate(&[7; 32]));
    let rooms = Rooms::new(store, clock, entropy, key, Arc::new(MessagesCount), Options::new("bench.test"));
    let bench = Arc::new(Bench { rooms, made: AtomicU64::new(0), wanted, times });
    sends(&bench).await;
    others(&bench).await;
}
