//! Several nodes of one database share the users among them (behaviour CP7).

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use push::{Answer, Gateways, Options, Parts, Push, Unreachable};
use serde_json::{Value, json};
use store::shards::Alone;
use store::{Clock, Nodes};
use testkit::SeededEntropy;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::world::World;

/// Shows which node pushes what to whom.
struct Wire {
    node: &'static str,
    heard: mpsc::UnboundedSender<(&'static str, Value)>,
}

#[async_trait::async_trait]
impl Gateways for Wire {
    async fn notify(&self, _url: &str, body: bytes::Bytes) -> Result<Answer, Unreachable> {
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        self.heard.send((self.node, body["notification"].take())).unwrap();
        Ok(Answer { status: 200, body: "{}".into() })
    }
}

/// The even shards, the odd ones, or all.
#[derive(Clone)]
struct Half(Arc<Mutex<Option<u32>>>);

impl Nodes for Half {
    fn is_mine(&self, name: &str) -> bool {
        let shard: u32 = name.rsplit('/').next().unwrap().parse().unwrap();
        self.0.lock().is_none_or(|rest| shard % 2 == rest)
    }
}

struct Node {
    half: Half,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Node {
    fn start(
        world: &World,
        (node, rest): (&'static str, u32),
        heard: &mpsc::UnboundedSender<(&'static str, Value)>,
    ) -> Self {
        let half = Half(Arc::new(Mutex::new(Some(rest))));
        let push = Push::new(Parts {
            store: world.running.store.clone(),
            rooms: Arc::clone(&world.running.rooms),
            users: Arc::clone(&world.running.users),
            gateways: Arc::new(Wire { node, heard: heard.clone() }),
            clock: Arc::clone(&world.clock) as Arc<dyn Clock>,
            entropy: Arc::new(SeededEntropy::new(2)),
            nodes: Arc::new(half.clone()),
            spawner: Arc::new(|work| drop(tokio::spawn(work))),
            options: Options::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move { push.run(stopped).await.unwrap() });
        Self { half, stop, task }
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn cp7_each_pusher_is_served_by_one_node_and_taken_over_by_another() {
    let world = World::and(&["push.enabled=false"]).await;
    assert!(Alone.is_mine("anything"));
    let bob = world.person("bob").await;
    let mut people = vec![bob.clone()];
    for n in 0..12 {
        people.push(world.person(&format!("user{n}")).await);
    }
    let room = world.room(&people.iter().collect::<Vec<_>>(), json!({})).await;
    for person in &people[1..] {
        world.set_pusher(person, "https://push.example.org/_matrix/push/v1/notify", json!({})).await;
    }
    let (heard, mut hears) = mpsc::unbounded_channel();
    let (a, b) = (Node::start(&world, ("a", 0), &heard), Node::start(&world, ("b", 1), &heard));
    let mut listen = async |text: &str| {
        let (mut nodes, mut keys) = (BTreeSet::new(), BTreeSet::new());
        while keys.len() < 12 {
            let (node, told) = hears.recv().await.unwrap();
            assert_eq!(told["content"]["body"], text, "{told}");
            assert!(keys.insert(told["devices"][0]["pushkey"].to_string()), "once each: {told}");
            nodes.insert(node);
        }
        nodes
    };
    world.say(&bob, &room, "shared").await;
    assert_eq!(listen("shared").await, BTreeSet::from(["a", "b"]));
    // One ends, what happens meanwhile waits for the other to notice, and nothing is told twice.
    a.end().await;
    *b.half.0.lock() = None;
    world.say(&bob, &room, "taken over").await;
    assert_eq!(listen("taken over").await, BTreeSet::from(["b"]));
    world.say(&bob, &room, "alone").await;
    assert_eq!(listen("alone").await, BTreeSet::from(["b"]));
    b.end().await;
}
