//! Servers that are away for long: what they get when they are back, what that costs, and that nobody else waits for
//! them (behaviours FA12, FE6). Time is the runtime's, which is paused: it passes as fast as everybody sleeps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use event::Object;
use federation::handshakes::Handshakes;
use federation::outbound::Options;
use federation::transport::{Incoming, Outgoing, Transport, TransportError};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Full};
use parking_lot::Mutex;
use rooms::{NewEvent, Room};
use serde_json::{Value, json};
use store::shards::Alone;
use store::tables::federation::{DestinationRow, OutboundEduRow};
use store::tables::rooms::EventRow;
use store::{Clock, DeviceId, Read, StreamPosition, UserId};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use users::presence::PresenceState;

use crate::harness::{Net, Peer, Sketch, TestClock, World, object};
use crate::sending::Sending;

const HOUR: Duration = Duration::from_secs(3_600);

/// A whole server: it receives, and sends.
pub struct Server {
    pub world: World,
    pub handshakes: Handshakes,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Server {
    pub async fn start(name: &str, net: &Arc<Net>, clock: &Arc<TestClock>) -> Self {
        let world = World::named(name, net, clock).await;
        let handshakes =
            Handshakes::new(Arc::new(world.client.clone()), Arc::clone(&world.key_ring), Arc::clone(&world.rooms));
        let seed = name.len() as u64 + u64::from(name.as_bytes()[0]);
        let outbound = world.queues(world.client.clone(), Arc::new(Alone), seed, Options::default());
        assert!(world.outbound.set(Arc::clone(&outbound)).is_ok());
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let stops = stopping.clone();
        tasks.spawn(async move { outbound.run(stops).await.unwrap() });
        for _ in 0..4 {
            let (federation, stops) = (Arc::clone(&world.federation), stopping.clone());
            tasks.spawn(async move { federation.receive(stops).await });
        }
        let federation = Arc::clone(&world.federation);
        tasks.spawn(async move { federation.complete(stopping).await });
        Self { world, handshakes, stop, tasks }
    }

    pub async fn join(&self, room_id: &str, name: &str, via: &str) {
        let user = self.world.user(name);
        self.handshakes.join(room_id, &user, &[via.to_owned()], &Object::new()).await.unwrap();
    }

    pub async fn room(&self, id: &str) -> Arc<Room> {
        self.world.rooms.room(id).await.unwrap().unwrap()
    }

    pub async fn say(&self, room_id: &str, name: &str, text: &str) {
        let content = object(json!({ "msgtype": "m.text", "body": text }));
        let message = NewEvent::message(&self.world.user(name), "m.room.message", content);
        self.world.rooms.send(room_id, message).await.unwrap();
    }

    pub async fn extremities(&self, room_id: &str) -> BTreeSet<String> {
        let room = self.room(room_id).await;
        room.head().extremities.iter().map(|extremity| extremity.id.to_string()).collect()
    }

    pub async fn state(&self, room_id: &str) -> BTreeSet<String> {
        let room = self.room(room_id).await;
        let state = self.world.rooms.whole_state(&room, room.head().state).await.unwrap();
        state.iter().map(|event| event.id().to_string()).collect()
    }

    /// The ids of all events that have a place in the room's timeline, once other servers were asked for all gaps in it.
    pub async fn timeline(&self, room_id: &str) -> BTreeSet<String> {
        let room = self.room(room_id).await;
        while self.world.federation.fill_history(&room, self.world.rooms.live_end(&room), 100).await.unwrap() {}
        let rows: Vec<EventRow> =
            self.world.store.all(Read::along::<EventRow>(EventRow::BY_TIMELINE, vec![room.num.into()])).await.unwrap();
        let ids: Vec<String> = rows.into_iter().filter(|row| row.fragment.is_some()).map(|row| row.event_id).collect();
        let set: BTreeSet<String> = ids.iter().cloned().collect();
        assert_eq!(ids.len(), set.len(), "each once");
        set
    }

    pub async fn end(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// How often requests were made to a server, by route, from the `from`th request of all on.
fn requests(net: &Net, server: &str, from: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let asked = net.asked.lock();
    for path in asked[from..].iter().filter_map(|asked| asked.strip_prefix(server)) {
        let route = path.trim_start().trim_start_matches("/_matrix/federation/v").split('/').nth(1).unwrap_or_default();
        *counts.entry(route.to_owned()).or_default() += 1;
    }
    counts
}

/// `@alice` writes to a device of bob's.
async fn send_to_bob(world: &World, n: usize) {
    let content = BTreeMap::from([("PHONE".to_owned(), json!({ "n": n }).to_string())]);
    let messages = BTreeMap::from([(UserId::from("@bob:two.test"), content)]);
    let (alice, device) = (world.user("alice"), DeviceId::from("LAPTOP"));
    let txn_id = format!("t{n}");
    world.users.send_to_device(&alice, "m.test", Some((&device, &txn_id)), &messages).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn fa12_a_server_that_was_away_for_a_day_gets_everything() {
    let (net, clock) = (Arc::<Net>::default(), Arc::new(TestClock::paused()));
    let one = Server::start("one.test", &net, &clock).await;
    let two = Server::start("two.test", &net, &clock).await;
    one.world.register("alice").await;
    let bob = two.world.register("bob").await;
    two.world.users.put_device(&bob, &DeviceId::from("PHONE"), None, true).await.unwrap();
    // A room in which little happens, one in which much does, one in which both sides go on.
    let mut rooms = Vec::new();
    for _ in 0..3 {
        let room = one.world.room("11").await;
        two.join(&room.id, "bob", "one.test").await;
        rooms.push(room.id.to_string());
    }
    let [little, much, both] = [&rooms[0], &rooms[1], &rooms[2]];
    tokio::time::sleep(Duration::from_secs(60)).await;

    net.cut.lock().insert("two.test".to_owned());
    let away = net.asked.lock().len();
    let mut written = 0;
    for hour in 0..24 {
        one.say(little, "alice", &format!("hour {hour}")).await;
        for n in 0..20 {
            one.say(much, "alice", &format!("hour {hour}, {n}")).await;
            send_to_bob(&one.world, written).await;
            written += 1;
        }
        one.say(both, "alice", &format!("hour {hour} here")).await;
        two.say(both, "bob", &format!("hour {hour} there")).await;
        tokio::time::sleep(HOUR).await;
    }
    one.world.set(&*one.room(much).await, "m.room.topic", json!({ "topic": "of the day" })).await;
    let tries = requests(&net, "two.test", away);
    assert!(tries.values().sum::<usize>() <= 30, "it is tried less and less often: {tries:?}");

    net.cut.lock().clear();
    let back = net.asked.lock().len();
    tokio::time::sleep(6 * HOUR).await;
    for room in &rooms {
        assert_eq!(two.state(room).await, one.state(room).await, "the state of {room}");
        let (here, there) = (one.timeline(room).await, two.timeline(room).await);
        let missing: Vec<&String> = here.difference(&there).collect();
        assert!(missing.is_empty(), "{} of {} are missing in {room}", missing.len(), here.len());
        assert_eq!(there, here);
        // Where more was missed than is fetched at once, what lies between had to come first.
        assert_eq!(two.extremities(room).await, one.extremities(room).await, "the ends of {room}");
        assert_eq!(two.state(room).await, one.state(room).await, "the state of {room}");
    }
    let device = DeviceId::from("PHONE");
    let last = StreamPosition(i64::MAX);
    let got = two.world.users.to_device(&bob, &device, StreamPosition::ZERO, last, 1_000).await.unwrap();
    let got: Vec<Value> = got.iter().map(|row| serde_json::from_str(&row.content).unwrap()).collect();
    let sent: Vec<Value> = (0..written).map(|n| json!({ "n": n })).collect();
    assert_eq!(got, sent, "all, in order, each once");

    let (to_one, to_two) = (requests(&net, "one.test", back), requests(&net, "two.test", back));
    println!("to one.test: {to_one:?}; to two.test: {to_two:?}");
    let of = |counts: &BTreeMap<String, usize>, route: &str| counts.get(route).copied().unwrap_or(0);
    // 480 to-device messages in portions of fifty, with the events beside them.
    assert!(of(&to_two, "send") <= 15, "{to_two:?}");
    assert!(of(&to_one, "get_missing_events") <= 5 * rooms.len(), "{to_one:?}");
    // 480 events of which none came, by hundreds.
    assert!(of(&to_one, "backfill") <= 8, "{to_one:?}");
    assert!(of(&to_one, "state_ids") <= 10, "{to_one:?}");
    assert!(to_one.values().sum::<usize>() <= 40, "{to_one:?}");
    one.end().await;
    two.end().await;
}

/// What a server sends is not one line: an invite goes to be signed before it has a place, a join comes through a handshake
/// that began earlier. The last of what was missed then leads to little of it.
#[tokio::test(start_paused = true)]
async fn fa12_a_server_that_was_away_comes_to_all_that_it_missed_on_several_branches() {
    let (net, clock) = (Arc::<Net>::default(), Arc::new(TestClock::paused()));
    let one = Server::start("one.test", &net, &clock).await;
    let two = Server::start("two.test", &net, &clock).await;
    one.world.register("alice").await;
    two.world.register("bob").await;
    let room = one.world.room("11").await;
    two.join(&room.id, "bob", "one.test").await;
    tokio::time::sleep(Duration::from_secs(60)).await;

    net.cut.lock().insert("two.test".to_owned());
    one.say(&room.id, "alice", "into the void").await;
    tokio::time::sleep(HOUR).await;
    let overtaken = Peer::new("one.test").message(&one.world, &room, "alice", "on its way").await;
    for n in 0..60 {
        one.say(&room.id, "alice", &n.to_string()).await;
    }
    one.world.rooms.accept(overtaken).await.unwrap();
    assert_eq!(one.extremities(&room.id).await.len(), 2, "it follows none of the others, and none follows it");
    tokio::time::sleep(HOUR).await;
    net.cut.lock().clear();
    let back = net.sent.lock().len();
    tokio::time::sleep(6 * HOUR).await;

    let (here, there) = (one.timeline(&room.id).await, two.timeline(&room.id).await);
    assert_eq!(here.difference(&there).count(), 0, "what was said while it was away");
    assert_eq!(two.extremities(&room.id).await, one.extremities(&room.id).await);
    let sent = net.sent.lock()[back..].to_vec();
    let told = sent.iter().filter(|sent| sent.server == "two.test").filter_map(|sent| sent.body["pdus"].as_array());
    let counts: Vec<usize> = told.map(Vec::len).collect();
    assert_eq!(counts, [1, 2], "what was under way when it was cut off, then the ends alone");
    one.end().await;
    two.end().await;
}

/// What nothing has followed can be learned of nobody else, however much others have said since.
#[tokio::test(start_paused = true)]
async fn fa12_what_nothing_follows_is_sent_however_much_has_happened_since() {
    let world = World::paused().await;
    world.register("alice").await;
    let room = world.room("11").await;
    Peer::new("two.test").join(&world, &room, "bob").await;
    let three = Peer::new("three.test");
    three.join(&world, &room, "carol").await;
    let mut last = three.message(&world, &room, "carol", "before").await;
    world.rooms.accept(last.clone()).await.unwrap();
    let from = world.now(&room).await.head().row.last_pos;
    let ours = world.say(&room, "to the wind").await;
    let carol = three.user("carol");
    for n in 0..1_001 {
        last = three.after(&world, room.rules, &last, Sketch::message(&carol, &n.to_string()));
        world.rooms.accept(last.clone()).await.unwrap();
    }
    let row = DestinationRow {
        server: "two.test".to_owned(),
        behind_from: from,
        failing_since_ms: 1,
        failures: 3,
        retry_at_ms: 0,
    };
    let mut batch = store::CommitBatch::new();
    batch.put(row);
    world.store.commit(batch).await.unwrap();
    let transport = Arc::new(OneAlive { alive: "two.test", seen: Mutex::default(), tried: Mutex::default() });
    let sending = Sending::start(&world, Arc::clone(&transport) as _, Options::default());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let seen = transport.seen.lock().clone();
    let event = world.rooms.event_by_id(&*world.now(&room).await, ours.as_str()).await.unwrap().unwrap();
    let pdu: Value = serde_json::from_slice(&event.pdu.bytes).unwrap();
    let sent: Vec<&Value> = seen.iter().flat_map(|(_, body)| body["pdus"].as_array().unwrap()).collect();
    assert_eq!(sent, [&pdu]);
    sending.stop().await;
}

/// Answers at once for one server, and never for others. Shows when each transaction to it came, and what was in it.
struct OneAlive {
    alive: &'static str,
    seen: Mutex<Vec<(Instant, Value)>>,
    tried: Mutex<BTreeMap<String, usize>>,
}

#[async_trait]
impl Transport for OneAlive {
    async fn send(&self, request: Outgoing) -> Result<Incoming, TransportError> {
        *self.tried.lock().entry(request.destination.clone()).or_default() += 1;
        if request.destination != self.alive {
            tokio::time::sleep(request.limits.timeout).await;
            return Err(TransportError::Timeout);
        }
        let body: Value = serde_json::from_slice(&request.body.unwrap_or_default()).unwrap();
        self.seen.lock().push((Instant::now(), body));
        let body = Full::new(Bytes::from("{}")).map_err(|never| match never {}).boxed_unsync();
        Ok(Incoming { status: StatusCode::OK, headers: HeaderMap::new(), body })
    }
}

/// What a living server gets of a room in which so many dead ones are: after how long each message came.
async fn delays_beside(dead: usize) -> Vec<Duration> {
    let world = World::paused().await;
    world.register("alice").await;
    let room = world.room("11").await;
    Peer::new("two.test").join(&world, &room, "bob").await;
    for n in 0..dead {
        Peer::new(&format!("dead{n}.test")).join(&world, &room, "nobody").await;
    }
    let transport = Arc::new(OneAlive { alive: "two.test", seen: Mutex::default(), tried: Mutex::default() });
    // Fewer than are dead: those that are tried again must not wait with the others.
    let options = Options { transactions_max: dead.max(1) + 1, tries_max: 2, ..Options::default() };
    let sending = Sending::start(&world, Arc::clone(&transport) as _, options);
    let mut delays = Vec::new();
    for n in 0..50 {
        tokio::time::sleep(Duration::from_secs(20)).await;
        let said = Instant::now();
        let id = world.say(&room, &n.to_string()).await;
        let event = world.rooms.event_by_id(&*world.now(&room).await, id.as_str()).await.unwrap().unwrap();
        let pdu: Value = serde_json::from_slice(&event.pdu.bytes).unwrap();
        tokio::time::sleep(Duration::from_secs(15)).await;
        let seen = transport.seen.lock();
        let came = seen.iter().filter(|(_, body)| body["pdus"].as_array().unwrap().contains(&pdu));
        let came: Vec<Instant> = came.map(|(at, _)| *at).collect();
        assert_eq!(came.len(), 1, "message {n} beside {dead}");
        delays.push(came[0] - said);
    }
    assert_eq!(transport.seen.lock().len(), 50, "one transaction each");
    for (server, tried) in transport.tried.lock().iter().filter(|(server, _)| *server != "two.test") {
        assert!((2..=12).contains(tried), "{server} was tried {tried} times in half an hour");
    }
    assert_eq!(transport.tried.lock().len(), dead + 1);
    sending.stop().await;
    delays
}

/// A message to a device of a server that is away: it is tried ever less often, also after a restart, and soon again
/// when that server speaks.
#[tokio::test(start_paused = true)]
async fn fa12_back_off_outlives_the_process_and_ends_when_the_peer_speaks() {
    let world = World::paused().await;
    world.register("alice").await;
    let transport = Arc::new(OneAlive { alive: "nobody.test", seen: Mutex::default(), tried: Mutex::default() });
    let tried = || transport.tried.lock().get("two.test").copied().unwrap_or(0);
    let sending = Sending::start(&world, Arc::clone(&transport) as _, Options::default());
    send_to_bob(&world, 0).await;
    tokio::time::sleep(12 * HOUR).await;
    let before = tried();
    assert!((8..=20).contains(&before), "{before} tries in twelve hours");
    sending.stop().await;

    let row: DestinationRow = world.store.get(vec!["two.test".into()]).await.unwrap().unwrap();
    let left = row.retry_at_ms - world.clock.now_ms();
    assert!(left > 60_000, "{left}");
    let sending = Sending::start(&world, Arc::clone(&transport) as _, Options::default());
    tokio::time::sleep(Duration::from_millis(u64::try_from(left / 2).unwrap())).await;
    assert_eq!(tried(), before, "a restart is no reason to try");
    for heard in 1..=3 {
        for _ in 0..100 {
            sending.outbound.heard_from("two.test");
        }
        // A try takes a minute, since nobody answers.
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert_eq!(tried(), before + heard, "once for all that is heard");
        tokio::time::sleep(Duration::from_secs(54)).await;
    }
    sending.stop().await;
}

/// What nobody can read is no reason to keep a destination busy, nor to keep a row of it.
#[tokio::test(start_paused = true)]
async fn a_destination_for_which_nothing_is_left_has_no_row_and_no_work() {
    let world = World::paused().await;
    world.register("alice").await;
    let edu =
        OutboundEduRow { server: "two.test".to_owned(), pos: StreamPosition(1), number: 0, edu: "{broken".to_owned() };
    let row = DestinationRow {
        server: "two.test".to_owned(),
        behind_from: StreamPosition(1),
        failing_since_ms: 1,
        failures: 3,
        retry_at_ms: 0,
    };
    let mut batch = store::CommitBatch::new();
    batch.put(edu).put(row);
    world.store.commit(batch).await.unwrap();
    let transport = Arc::new(OneAlive { alive: "two.test", seen: Mutex::default(), tried: Mutex::default() });
    let sending = Sending::start(&world, Arc::clone(&transport) as _, Options::default());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(transport.tried.lock().is_empty(), "there is nothing to send");
    assert!(world.store.get::<DestinationRow>(vec!["two.test".into()]).await.unwrap().is_none());
    let left: Vec<OutboundEduRow> = world.store.all(Read::prefix::<OutboundEduRow>(vec![])).await.unwrap();
    assert!(left.is_empty());
    send_to_bob(&world, 7).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(transport.seen.lock().len(), 1, "what can be read is sent");
    sending.stop().await;
}

/// A hundred users come online: a server learns it in one EDU, not in a hundred transactions.
#[tokio::test(start_paused = true)]
async fn fq4_presence_is_told_a_little_later_and_together() {
    let world = World::paused().await;
    world.register("alice").await;
    let room = world.room("11").await;
    Peer::new("two.test").join(&world, &room, "bob").await;
    let mut names = vec!["alice".to_owned()];
    for n in 0..99 {
        let user = world.register(&format!("user{n}")).await;
        world.rooms.join(&room.id, &user, None, Object::new()).await.unwrap();
        names.push(format!("user{n}"));
    }
    let transport = Arc::new(OneAlive { alive: "two.test", seen: Mutex::default(), tried: Mutex::default() });
    let sending = Sending::start(&world, Arc::clone(&transport) as _, Options::default());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before = transport.seen.lock().len();
    for _ in 0..3 {
        for state in [PresenceState::Unavailable, PresenceState::Online] {
            for name in &names {
                world.users.set_presence(&world.user(name), state, None).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let seen = transport.seen.lock().clone();
    let told: Vec<&Value> = seen[before..]
        .iter()
        .flat_map(|(_, body)| body["edus"].as_array().unwrap())
        .filter(|edu| edu["edu_type"] == "m.presence")
        .collect();
    assert!((1..=2).contains(&told.len()), "{} EDUs", told.len());
    let last: BTreeMap<&str, &str> = told
        .iter()
        .flat_map(|edu| edu["content"]["push"].as_array().unwrap())
        .map(|push| (push["user_id"].as_str().unwrap(), push["presence"].as_str().unwrap()))
        .collect();
    assert_eq!(last.len(), 100);
    assert!(last.values().all(|presence| *presence == "online"));
    sending.stop().await;
}

/// SEC-dead-peers.
#[tokio::test(start_paused = true)]
async fn fa12_ten_dead_destinations_do_not_slow_a_living_one() {
    let alone = delays_beside(0).await;
    let beside = delays_beside(10).await;
    assert!(beside.iter().all(|delay| *delay < Duration::from_millis(50)), "{beside:?}");
    assert_eq!(beside, alone);
}
