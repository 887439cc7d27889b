//! Which nodes of one database live: each says so to the others from time to time, and what
//! is to be done by one alone is done by the first of them in an order that differs for each thing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use store::shards::is_first;
use store::{Clock, Store, Whispers};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// How often a node says that it lives.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// How long a node counts as living that says nothing, in milliseconds.
const ALIVE_MS: i64 = 20_000;
/// How long a new node waits for the others' answers before it does anything alone.
const HELLO: Duration = Duration::from_secs(1);

/// What nodes tell each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Whisper {
    /// The node lives.
    Alive { node: String },
    /// The node ends.
    Gone { node: String },
}

/// The nodes that live, as far as this one has heard.
pub struct Nodes {
    own: String,
    clock: Arc<dyn Clock>,
    whispers: Option<Arc<Whispers>>,
    /// The others, and until when they count as living.
    others: Mutex<BTreeMap<String, i64>>,
}

impl Nodes {
    /// The nodes of a store's database, of which this is the one that is called `own`.
    pub fn new(own: String, store: &Store, clock: &Arc<dyn Clock>) -> Arc<Self> {
        let (whispers, clock) = (store.engine().whispers(), Arc::clone(clock));
        Arc::new(Self { own, clock, whispers, others: Mutex::default() })
    }

    /// Waits until the other nodes have had time to say that they live.
    pub async fn meet(&self) {
        if self.whispers.is_some() {
            tokio::time::sleep(HELLO).await;
        }
    }

    /// Says that this node lives, and hears the others, until `stop` becomes true.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        let Some(whispers) = &self.whispers else { return };
        let mut ear = whispers.listen();
        let mut ticks = tokio::time::interval(ALIVE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                _ = ticks.tick() => self.tell(&Whisper::Alive { node: self.own.clone() }),
                heard = ear.recv() => match heard {
                    Ok(text) => self.hear(&text),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    /// Says that this node ends: the others need not wait until they miss it.
    pub fn leave(&self) {
        self.tell(&Whisper::Gone { node: self.own.clone() });
    }

    fn tell(&self, whisper: &Whisper) {
        if let (Some(whispers), Ok(text)) = (&self.whispers, serde_json::to_string(whisper)) {
            whispers.tell(text);
        }
    }

    fn hear(&self, text: &str) {
        match serde_json::from_str(text) {
            Ok(Whisper::Alive { node }) if node != self.own => {
                let until_ms = self.clock.now_ms().saturating_add(ALIVE_MS);
                if self.others.lock().insert(node, until_ms).is_none() {
                    // It is new, and does not know of this one.
                    self.tell(&Whisper::Alive { node: self.own.clone() });
                }
            }
            Ok(Whisper::Gone { node }) => drop(self.others.lock().remove(&node)),
            // What others tell of typing and presence.
            Ok(Whisper::Alive { .. }) | Err(_) => {}
        }
    }
}

impl store::Nodes for Nodes {
    fn is_mine(&self, name: &str) -> bool {
        let now_ms = self.clock.now_ms();
        let mut others = self.others.lock();
        others.retain(|_, until_ms| *until_ms > now_ms);
        is_first(&self.own, others.keys().map(String::as_str), name)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use store::Nodes as _;
    use store::model::Model;
    use testkit::FakeClock;

    use super::*;

    struct Node {
        nodes: Nodes,
        sending: tokio::sync::mpsc::Receiver<String>,
    }

    fn node(name: &str, clock: &Arc<FakeClock>) -> Node {
        let (whispers, sending) = Whispers::new();
        let (own, clock) = (name.to_owned(), Arc::clone(clock) as Arc<dyn Clock>);
        Node { nodes: Nodes { own, clock, whispers: Some(Arc::new(whispers)), others: Mutex::default() }, sending }
    }

    /// Lets all hear what all have told.
    fn exchange(nodes: &mut [Node]) {
        for n in 0..nodes.len() {
            while let Ok(text) = nodes[n].sending.try_recv() {
                for (place, other) in nodes.iter().enumerate() {
                    if place != n {
                        other.nodes.hear(&text);
                    }
                }
            }
        }
    }

    /// Who does each of a hundred things.
    fn shares(nodes: &[Node]) -> Vec<usize> {
        let doers = |name: &str| (0..nodes.len()).filter(|n| nodes[*n].nodes.is_mine(name)).collect::<Vec<_>>();
        (0..100)
            .map(|thing| {
                let doers = doers(&format!("thing {thing}"));
                assert_eq!(doers.len(), 1, "{thing} is done by {doers:?}");
                doers[0]
            })
            .collect()
    }

    #[test]
    fn each_thing_is_done_by_one_of_the_nodes_that_live() {
        let clock = Arc::new(FakeClock::default());
        let mut nodes: Vec<Node> = ["a", "b", "c"].map(|name| node(name, &clock)).into();
        let alive = |node: &Node| node.nodes.tell(&Whisper::Alive { node: node.nodes.own.clone() });
        // Each is told of by one of the others, or answers.
        alive(&nodes[0]);
        alive(&nodes[2]);
        exchange(&mut nodes);
        exchange(&mut nodes);
        let all = shares(&nodes);
        assert!((0..3).all(|n| all.iter().filter(|doer| **doer == n).count() > 15), "{all:?}");
        // One ends, and what the others do stays theirs.
        nodes[2].nodes.leave();
        exchange(&mut nodes);
        nodes.pop();
        let two = shares(&nodes);
        assert!(all.iter().zip(&two).all(|(before, now)| *before == 2 || before == now));
        // One dies.
        clock.advance(ALIVE_MS / 2);
        alive(&nodes[0]);
        exchange(&mut nodes);
        clock.advance(ALIVE_MS / 2 + 1_000);
        assert!((0..100).all(|thing| nodes[0].nodes.is_mine(&format!("thing {thing}"))));
    }

    #[tokio::test]
    async fn a_node_that_has_its_database_alone_does_everything() {
        let store = Store::new(Arc::new(Model::new())).await.unwrap();
        let clock: Arc<dyn Clock> = Arc::new(FakeClock::default());
        let nodes = Nodes::new("a".to_owned(), &store, &clock);
        nodes.meet().await;
        assert!((0..100).all(|thing| nodes.is_mine(&format!("thing {thing}"))));
    }
}
