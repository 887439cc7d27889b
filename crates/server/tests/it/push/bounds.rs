//! What one user, one gateway or a store that stumbles may cost the others (behaviours CP7, CP8).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use push::{Answer, Gateways, Options, Parts, Push, Unreachable};
use serde_json::{Value as Json, json};
use store::shards::Alone;
use store::tables::push::PushRow;
use store::{Clock, CommitBatch, CommitError, Engine, Error, Notifier, Read, Rows, Store, Table, Ticket, Value};
use testkit::SeededEntropy;
use tokio::sync::{mpsc, watch};

use super::world::{Person, World};

/// Gateways of which those with `slow` in the name do not answer before they are let, if they are there at all.
struct Halting {
    heard: mpsc::UnboundedSender<Json>,
    /// The keys of what the slow ones were told.
    slow: Arc<Mutex<Vec<String>>>,
    open: watch::Receiver<bool>,
    away: Arc<AtomicBool>,
}

#[async_trait::async_trait]
impl Gateways for Halting {
    async fn notify(&self, url: &str, body: bytes::Bytes) -> Result<Answer, Unreachable> {
        let mut body: Json = serde_json::from_slice(&body).unwrap();
        if url.contains("slow") {
            if self.away.load(Ordering::Relaxed) {
                return Err(Unreachable("it is away".to_owned()));
            }
            self.slow.lock().push(body["notification"]["devices"][0]["pushkey"].as_str().unwrap().to_owned());
            drop(self.open.clone().wait_for(|open| *open).await);
        } else {
            self.heard.send(body["notification"].take()).unwrap();
        }
        Ok(Answer { status: 200, body: "{}".into() })
    }
}

/// Pushing over gateways of which some are slow.
struct Node {
    push: Arc<Push>,
    heard: mpsc::UnboundedReceiver<Json>,
    slow: Arc<Mutex<Vec<String>>>,
    open: watch::Sender<bool>,
    away: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
}

impl Node {
    fn start(world: &World, store: Store, options: Options) -> Self {
        let (heard, hears) = mpsc::unbounded_channel();
        let (slow, away) = (Arc::default(), Arc::default());
        let (open, stop) = (watch::Sender::new(false), watch::Sender::new(false));
        let (told, is_away) = (Arc::clone(&slow), Arc::clone(&away));
        let push = Push::new(Parts {
            store,
            rooms: Arc::clone(&world.running.rooms),
            users: Arc::clone(&world.running.users),
            gateways: Arc::new(Halting { heard, slow: told, open: open.subscribe(), away: is_away }),
            clock: Arc::clone(&world.clock) as Arc<dyn Clock>,
            entropy: Arc::new(SeededEntropy::new(2)),
            nodes: Arc::new(Alone),
            spawner: Arc::new(|work| drop(tokio::spawn(work))),
            options,
        });
        let (stopped, runs) = (stop.subscribe(), Arc::clone(&push));
        tokio::spawn(async move { runs.run(stopped).await.unwrap() });
        Self { push, heard: hears, slow, open, away, stop }
    }

    async fn hears(&mut self, body: &str) {
        let told = self.heard.recv().await.unwrap();
        assert_eq!(told["content"]["body"], body, "{told}");
    }

    async fn until(&self, slow: impl Fn(&[String]) -> bool) {
        while !slow(&self.slow.lock()) {
            tokio::task::yield_now().await;
        }
    }
}

/// Bob, who speaks, Alice and Zoe, who are told in this order, and the room that they are in.
async fn three() -> (World, [Person; 3], String) {
    let world = World::and(&["push.enabled=false"]).await;
    let [alice, bob, zoe] = world.people(["alice", "bob", "zoe"]).await;
    let room = world.room(&[&bob, &alice, &zoe], json!({})).await;
    world.set_pusher(&zoe, "https://quick.example/_matrix/push/v1/notify", json!({})).await;
    (world, [alice, bob, zoe], room)
}

/// A gateway that answers in the end, but more slowly than there is something to tell it, has a bounded queue.
#[tokio::test]
async fn cp8_the_queue_of_a_slow_gateway_is_bounded() {
    let (world, [alice, bob, _], room) = three().await;
    world.set_pusher(&alice, "https://slow.example/_matrix/push/v1/notify", json!({})).await;
    let options = Options { queued_max: 10, ..Options::default() };
    let mut node = Node::start(&world, world.running.store.clone(), options);
    for n in 0..50 {
        world.say(&bob, &room, &n.to_string()).await;
        node.hears(&n.to_string()).await;
    }
    let waiting = Read::prefix::<PushRow>(vec![(&alice.id()).into()]);
    let waiting = world.running.store.all::<PushRow>(waiting).await.unwrap().len();
    assert!((1..=20).contains(&waiting), "{waiting} wait");
    node.stop.send_replace(true);
}

/// A user with many slow gateways holds few places; and what was deleted while it waited for one is told nothing.
#[tokio::test]
async fn cp7_a_user_with_many_slow_gateways_holds_few_places() {
    let (world, [alice, bob, _], room) = three().await;
    for n in 0..8 {
        let url = format!("https://slow{n}.example/_matrix/push/v1/notify");
        world.set_pusher(&alice, &url, json!({ "pushkey": n.to_string() })).await;
    }
    let mut node = Node::start(&world, world.running.store.clone(), Options::default());
    for text in ["one", "two", "three"] {
        world.say(&bob, &room, text).await;
        node.hears(text).await;
    }
    node.until(|slow| slow.len() >= 4).await;
    world.say(&bob, &room, "four").await;
    node.hears("four").await;
    let under_way = node.slow.lock().clone();
    assert_eq!(under_way.len(), 4, "{under_way:?}");

    let waiting: Vec<String> = (0..8).map(|n| n.to_string()).filter(|key| !under_way.contains(key)).collect();
    for key in &waiting[..3] {
        world.running.users.delete_pusher(&alice.id(), "org.example.app", key).await.unwrap();
    }
    world.say(&bob, &room, "five").await;
    node.hears("five").await;
    node.open.send_replace(true);
    // The other five hear all five messages.
    node.until(|slow| slow.len() >= 25).await;
    world.say(&bob, &room, "six").await;
    node.hears("six").await;
    node.until(|slow| slow.len() >= 30).await;
    let told = node.slow.lock().clone();
    assert!(!waiting[..3].iter().any(|key| told.contains(key)), "{told:?} without {waiting:?}");
    node.stop.send_replace(true);
}

/// Who sets pushers again and again gets no places among those whose gateways answer.
#[tokio::test]
async fn cp7_a_gateway_that_failed_is_not_trusted_because_its_pusher_is_set_anew() {
    let (world, [alice, bob, _], room) = three().await;
    let options = Options { tries_max: 1, ..Options::default() };
    let mut node = Node::start(&world, world.running.store.clone(), options);
    let set_all = async |data: Json| {
        for n in 0..3 {
            let url = format!("https://slow{n}.example/_matrix/push/v1/notify");
            world.set_pusher(&alice, &url, json!({ "pushkey": n.to_string(), "data": data })).await;
        }
    };
    set_all(json!({})).await;
    node.away.store(true, Ordering::Relaxed);
    world.say(&bob, &room, "one").await;
    node.hears("one").await;
    while node.push.report().failed < 3 {
        tokio::task::yield_now().await;
    }
    node.away.store(false, Ordering::Relaxed);
    set_all(json!({ "new": true })).await;
    node.until(|slow| !slow.is_empty()).await;
    for text in ["two", "three"] {
        world.say(&bob, &room, text).await;
        node.hears(text).await;
    }
    assert_eq!(node.slow.lock().len(), 1);
    // They come one by one, and are trusted from then on.
    node.open.send_replace(true);
    node.until(|slow| slow.len() >= 9).await;
    assert_eq!(node.push.report().failing, 0);
    node.stop.send_replace(true);
}

/// An engine that refuses one commit.
struct Stumbling {
    engine: Arc<dyn Engine>,
    commits: AtomicUsize,
    refused: usize,
}

#[async_trait::async_trait]
impl Engine for Stumbling {
    fn submit(&self, batch: CommitBatch) -> Ticket {
        if self.commits.fetch_add(1, Ordering::Relaxed) + 1 != self.refused {
            return self.engine.submit(batch);
        }
        let (outcome, ticket) = Ticket::new();
        drop(outcome.send(Err(CommitError::Store(Error::Unavailable("it stumbles".to_owned())))));
        ticket
    }

    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Rows>, Error> {
        self.engine.read(reads).await
    }

    fn notifier(&self) -> &Notifier {
        self.engine.notifier()
    }

    async fn import(&self, table: &'static Table, rows: Vec<Vec<Value>>) -> Result<(), Error> {
        self.engine.import(table, rows).await
    }

    async fn close(&self) {
        self.engine.close().await;
    }
}

/// The store stumbles when half of the users are taken on: all are told all the same, and what was said before too.
#[tokio::test]
async fn cp7_a_store_that_stumbles_at_the_start_silences_nobody() {
    let (world, [alice, bob, _], room) = three().await;
    let url = "https://quick.example/_matrix/push/v1/notify";
    world.set_pusher(&alice, url, json!({})).await;
    let mut all = vec!["alice".to_owned(), "zoe".to_owned()];
    for n in 0..30 {
        let name = format!("user{n}");
        let person = world.person(&name).await;
        world.post(&person, &format!("join/{}", testkit::encoded(&room)), json!({})).await;
        world.set_pusher(&person, url, json!({})).await;
        all.push(name);
    }
    all.sort();
    let engine = Arc::clone(world.running.store.engine());
    let stumbling = Stumbling { engine, commits: AtomicUsize::new(0), refused: 8 };
    let store = Store::new(Arc::new(stumbling)).await.unwrap();
    let mut node = Node::start(&world, store, Options::default());
    world.say(&bob, &room, "hello").await;
    let mut told = Vec::new();
    while told.len() < all.len() {
        let push = node.heard.recv().await.unwrap();
        if push["content"]["body"] == "hello" {
            told.push(push["devices"][0]["pushkey"].as_str().unwrap().to_owned());
        }
    }
    told.sort();
    assert_eq!(told, all);
    node.stop.send_replace(true);
}
