//! Several nodes of one database send to other servers: each server is sent to by one of them, and nothing is lost when
//! a node dies (docs: design trap 21). Time is the runtime's, which is paused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use federation::transport::{Incoming, Outgoing, Transport, TransportError};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Full};
use parking_lot::Mutex;
use serde_json::Value;
use store::shards::is_first;
use store::tables::core::ReaderRow;
use store::{Nodes, Read};

use crate::harness::{Peer, World};
use crate::sending::Sending;

/// Servers in the room.
const PEERS: usize = 12;

/// Everybody's answers, and what came: (node, server, text of the message).
#[derive(Default)]
struct Wires {
    seen: Mutex<Vec<(String, String, String)>>,
    cut: Mutex<BTreeSet<String>>,
}

/// One node's way to the others.
struct Wire {
    node: String,
    wires: Arc<Wires>,
}

#[async_trait]
impl Transport for Wire {
    async fn send(&self, request: Outgoing) -> Result<Incoming, TransportError> {
        if self.wires.cut.lock().contains(&self.node) {
            tokio::time::sleep(request.limits.timeout).await;
            return Err(TransportError::Timeout);
        }
        let body: Value = serde_json::from_slice(&request.body.unwrap_or_default()).unwrap();
        for pdu in body["pdus"].as_array().unwrap() {
            let text = pdu["content"]["body"].as_str().unwrap_or_default().to_owned();
            self.wires.seen.lock().push((self.node.clone(), request.destination.clone(), text));
        }
        let body = Full::new(Bytes::from("{}")).map_err(|never| match never {}).boxed_unsync();
        Ok(Incoming { status: StatusCode::OK, headers: HeaderMap::new(), body })
    }
}

/// The nodes that live, as the test says.
struct Living {
    own: String,
    all: Arc<Mutex<BTreeSet<String>>>,
}

impl Nodes for Living {
    fn is_mine(&self, name: &str) -> bool {
        is_first(&self.own, self.all.lock().iter().map(String::as_str), name)
    }
}

/// The queues of a node, which lives from now on.
fn start(name: &str, world: &World, wires: &Arc<Wires>, living: &Arc<Mutex<BTreeSet<String>>>) -> Sending {
    living.lock().insert(name.to_owned());
    let wire = Arc::new(Wire { node: name.to_owned(), wires: Arc::clone(wires) });
    let nodes = Arc::new(Living { own: name.to_owned(), all: Arc::clone(living) });
    Sending::of_node(world, wire, nodes, name.len() as u64)
}

/// Who sent each of these messages to each server; each was sent once.
fn senders(wires: &Wires, texts: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let mut senders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut count: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let seen = wires.seen.lock();
    for (node, server, text) in seen.iter().filter(|(_, _, text)| texts.contains(text)) {
        *count.entry((server, text)).or_default() += 1;
        senders.entry(server.clone()).or_default().insert(node.clone());
    }
    assert_eq!(count.len(), PEERS * texts.len(), "each came to each server");
    let twice: Vec<_> = count.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    senders
}

#[tokio::test(start_paused = true)]
async fn fe16_each_server_is_sent_to_by_one_node_and_nothing_is_lost_when_it_dies() {
    let world = World::paused().await;
    world.register("alice").await;
    let room = world.room("11").await;
    for n in 0..PEERS {
        Peer::new(&format!("peer{n}.test")).join(&world, &room, "bob").await;
    }
    let (wires, living) = (Arc::<Wires>::default(), Arc::default());
    let a = start("a", &world, &wires, &living);
    let b = start("b", &world, &wires, &living);
    // Until both know of each other.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let say = async |from: usize, to: usize| {
        let texts: Vec<String> = (from..to).map(|n| format!("message {n}")).collect();
        for text in &texts {
            world.say(&room, text).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        texts
    };
    let both = senders(&wires, &say(0, 5).await);
    assert!(both.values().all(|nodes| nodes.len() == 1), "{both:?}");
    assert_eq!(both.values().flatten().collect::<BTreeSet<_>>().len(), 2, "both send: {both:?}");

    // Nothing of the second node comes through any more, then it dies, and after a while the first knows that.
    wires.cut.lock().insert("b".to_owned());
    let lost = say(5, 10).await;
    b.kill();
    let more = say(10, 12).await;
    living.lock().remove("b");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let texts = [lost, more, say(12, 14).await].concat();
    let alone = senders(&wires, &texts);
    assert!(alone.values().flatten().all(|node| node == "a"), "{alone:?}");

    // Another comes, and gets its share; the first goes in order, and the other sends to all.
    let c = start("c", &world, &wires, &living);
    let between = say(14, 16).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    senders(&wires, &between);
    let both = senders(&wires, &say(16, 18).await);
    assert_eq!(both.values().flatten().collect::<BTreeSet<_>>().len(), 2, "both send: {both:?}");
    a.stop().await;
    living.lock().remove("a");
    let texts = say(18, 20).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let last = senders(&wires, &texts);
    assert!(last.values().flatten().all(|node| node == "c"), "{last:?}");
    c.stop().await;
    let readers: Vec<ReaderRow> = world.store.all(Read::prefix::<ReaderRow>(vec![])).await.unwrap();
    let done: BTreeSet<i64> =
        readers.iter().filter(|row| row.name.starts_with("federation/")).map(|row| row.done).collect();
    assert_eq!(done.len(), 1, "everything was sent: {readers:?}");
}
