//! Two room engines on one database write to one room at once: nothing is doubled, lost or read stale, and both get on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use event::Pdu;
use rooms::{Accepted, NewEvent, Preset, Rooms, Transaction};
use serde_json::json;
use store::model::Model;
use store::{Engine, UserId};

use crate::database::Database;
use crate::harness::{content, room_of, rooms_on, text, user};
use crate::proxy::{Cut, Proxy};

/// Tasks on each node.
const TASKS: usize = 3;
/// What each task sends.
const SENDS: usize = 10;

/// Two room engines with one room, whose members are `user0` to `user5`.
pub struct Nodes {
    pub both: [Arc<Rooms>; 2],
    pub room_id: String,
}

impl Nodes {
    pub async fn on(first: Arc<dyn Engine>, second: Arc<dyn Engine>) -> Self {
        let both = [rooms_on(first, "one.test", 1).await, rooms_on(second, "one.test", 1_000_000_000).await];
        let room_id = both[0].create_room(&room_of(&user("alice"), "12", Preset::PublicChat)).await.unwrap();
        for number in 0..TASKS * 2 {
            both[0].join(&room_id, &user(&format!("user{number}")), None, content(json!({}))).await.unwrap();
        }
        let nodes = Self { both, room_id };
        nodes.catch_up().await;
        nodes
    }

    async fn on_model() -> Self {
        let engine: Arc<dyn Engine> = Arc::new(Model::new());
        Self::on(engine.clone(), engine).await
    }

    /// Waits until the second node knows what the first has committed, and the other way round.
    async fn catch_up(&self) {
        for (one, other) in [(0, 1), (1, 0)] {
            let end = self.both[one].store().notifier().watermark();
            let mut watermark = self.both[other].store().notifier().subscribe();
            watermark.wait_for(|reached| *reached >= end).await.unwrap();
        }
    }

    /// What a reader who comes anew finds wrong, given the bodies of all messages that were acknowledged.
    pub async fn check(&self, acknowledged: &BTreeMap<String, String>) -> Result<(), String> {
        let engine = Arc::clone(self.both[0].store().engine());
        let rooms = rooms_on(engine, "one.test", 77).await;
        let found = reachable(&rooms, &self.room_id).await?;
        let mut bodies = BTreeMap::new();
        let mut places = BTreeSet::new();
        for (id, (pdu, place)) in &found {
            if !places.insert(*place) {
                return Err(format!("two events have the place {place:?}"));
            }
            if let Some(body) = pdu.content.get("body").and_then(|body| body.as_str())
                && let Some(other) = bodies.insert(body.to_owned(), id.clone())
            {
                return Err(format!("{body:?} is there twice: {id} and {other}"));
            }
        }
        match bodies == *acknowledged {
            true => Ok(()),
            false => Err(format!("{} messages were acknowledged, {} are there", acknowledged.len(), bodies.len())),
        }
    }
}

type Found = BTreeMap<String, (Arc<Pdu>, Option<(i64, i64)>)>;

/// All events from the forward extremities back, with their places in the timeline.
async fn reachable(rooms: &Rooms, room_id: &str) -> Result<Found, String> {
    let room = rooms.room(room_id).await.unwrap().unwrap();
    let mut queue: Vec<String> = room.head().extremities.iter().map(|extremity| extremity.id.to_string()).collect();
    let mut found = Found::new();
    while let Some(id) = queue.pop() {
        if found.contains_key(&id) {
            continue;
        }
        let event = rooms.event_by_id(&room, &id).await.map_err(|error| error.to_string())?;
        let event = event.ok_or_else(|| format!("{id} is referenced but not stored"))?;
        queue.extend(event.pdu.prev_events.iter().map(ToString::to_string));
        found.insert(id, (Arc::clone(&event.pdu), event.row.fragment.zip(event.row.idx)));
    }
    Ok(found)
}

fn with_transaction(mut new: NewEvent, txn_id: &str) -> NewEvent {
    new.transaction = Some(Transaction { device: "A".into(), path: "send".to_owned(), txn_id: txn_id.to_owned() });
    new
}

/// One client's messages, each by one node or, as an impatient client does, by both at once.
async fn talk(nodes: [Arc<Rooms>; 2], room_id: String, task: usize) -> BTreeMap<String, String> {
    let mut acknowledged = BTreeMap::new();
    let sender: UserId = user(&format!("user{task}"));
    for step in 0..SENDS {
        let body = format!("{task} {step}");
        let new = with_transaction(text(&sender, &body), &body);
        let id = if step % 3 == 0 {
            let (one, other) = tokio::join!(nodes[0].send(&room_id, new.clone()), nodes[1].send(&room_id, new));
            let (one, other) = (one.unwrap(), other.unwrap());
            assert_eq!(one, other, "one transaction is one event");
            one
        } else {
            nodes[task % 2].send(&room_id, new).await.unwrap()
        };
        acknowledged.insert(body, id.to_string());
    }
    acknowledged
}

/// Everyone talks at once; returns what was acknowledged. A send that loses too often fails, so that this ends.
pub async fn talk_all(nodes: &Nodes) -> BTreeMap<String, String> {
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS * 2 {
        tasks.spawn(talk(nodes.both.clone(), nodes.room_id.clone(), task));
    }
    let mut acknowledged = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        acknowledged.extend(done.unwrap());
    }
    acknowledged
}

/// Nodes take turns: each sees what the other was just answered.
async fn check_turns(nodes: &Nodes) {
    for step in 0..10 {
        let (one, other) = (&nodes.both[step % 2], &nodes.both[(step + 1) % 2]);
        let sender = user("user1");
        let id = one.send(&nodes.room_id, text(&sender, &step.to_string())).await.unwrap();
        let room = one.room(&nodes.room_id).await.unwrap().unwrap();
        let pos = one.event_by_id(&room, id.as_str()).await.unwrap().unwrap().pos();
        let mut watermark = other.store().notifier().subscribe();
        watermark.wait_for(|reached| *reached >= pos).await.unwrap();
        let room = other.room(&nodes.room_id).await.unwrap().unwrap();
        let extremities: Vec<_> = room.head().extremities.iter().map(|extremity| extremity.id.clone()).collect();
        assert_eq!(extremities, *std::slice::from_ref(&id), "step {step}");
        assert!(other.event_by_id(&room, id.as_str()).await.unwrap().is_some());
        // The same state through the other node adds nothing.
        let topic = NewEvent::state(&user("alice"), "m.room.topic", "", content(json!({ "topic": step.to_string() })));
        let set = one.send(&nodes.room_id, topic.clone()).await.unwrap();
        nodes.catch_up().await;
        assert_eq!(other.send(&nodes.room_id, topic).await.unwrap(), set);
    }
}

/// Redactions and joins, which change rows of known events and users, through both nodes at once.
async fn check_changes(nodes: &Nodes) {
    let mut sent = Vec::new();
    for step in 0..8 {
        let new = text(&user("user0"), &format!("to be redacted {step}"));
        sent.push(nodes.both[step % 2].send(&nodes.room_id, new).await.unwrap());
    }
    nodes.catch_up().await;
    let mut tasks = tokio::task::JoinSet::new();
    for (step, target) in sent.iter().cloned().enumerate() {
        let (rooms, room_id) = (Arc::clone(&nodes.both[(step + 1) % 2]), nodes.room_id.clone());
        tasks.spawn(async move {
            let mut redaction = NewEvent::message(&user("user0"), "m.room.redaction", content(json!({})));
            redaction.redacts = Some(target);
            rooms.send(&room_id, redaction).await.unwrap();
            let guest = user(&format!("guest{step}"));
            rooms.join(&room_id, &guest, None, content(json!({}))).await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    nodes.catch_up().await;
    for rooms in &nodes.both {
        let room = rooms.room(&nodes.room_id).await.unwrap().unwrap();
        assert_eq!(room.head().row.joined, i64::try_from(1 + TASKS * 2 + sent.len()).unwrap());
        assert_eq!(room.head().local.len(), 1 + TASKS * 2 + sent.len());
        for id in &sent {
            let event = rooms.event_by_id(&room, id.as_str()).await.unwrap().unwrap();
            assert!(event.pdu.content.is_empty(), "{id} was redacted on the other node");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_on_the_model() {
    let nodes = Nodes::on_model().await;
    let acknowledged = talk_all(&nodes).await;
    nodes.check(&acknowledged).await.unwrap();
    check_turns(&nodes).await;
    check_changes(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = sqlite::Sqlite::open(&folder.path().join("hearth.db"), sqlite::Options::default()).unwrap();
    let engine: Arc<dyn Engine> = Arc::new(sqlite);
    let nodes = Nodes::on(engine.clone(), engine).await;
    let acknowledged = talk_all(&nodes).await;
    nodes.check(&acknowledged).await.unwrap();
    check_turns(&nodes).await;
    check_changes(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_on_postgres() {
    let Some(database) = Database::make().await else { return };
    let nodes = Nodes::on(database.open().await, database.open().await).await;
    let acknowledged = talk_all(&nodes).await;
    nodes.check(&acknowledged).await.unwrap();
    check_turns(&nodes).await;
    check_changes(&nodes).await;
    database.dispose().await;
}

/// One node is paused in mid-commit, cut off before and after it, and comes late, while the other goes on writing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_of_which_one_is_cut_off() {
    let Some(database) = Database::make().await else { return };
    let proxy = Proxy::start(&database).await;
    let options = postgres::Options {
        writer: "test".to_owned(),
        commit_wait: Duration::from_millis(500),
        ..postgres::Options::default()
    };
    let cut_off = Arc::new(postgres::Postgres::open(&proxy.url(), options).await.unwrap());
    let nodes = Nodes::on(database.open().await, cut_off).await;
    let cuts = [Cut::AfterCommit, Cut::Hold, Cut::BeforeCommit, Cut::LateCommit, Cut::Begin, Cut::Stall];
    proxy.plan(cuts.into_iter().flat_map(|cut| [Some(cut), None]));
    let acknowledged = talk_all(&nodes).await;
    assert_eq!(proxy.cuts(), cuts.len());
    nodes.check(&acknowledged).await.unwrap();
    check_turns(&nodes).await;
    database.dispose().await;
}

/// An event that waits is judged by both nodes at once: it takes one place, and both know that it waits no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_event_is_judged_once() {
    let source = rooms_on(Arc::new(Model::new()), "one.test", 5).await;
    let room_id = source.create_room(&room_of(&user("alice"), "11", Preset::PublicChat)).await.unwrap();
    let mut ids = Vec::new();
    for step in 0..12 {
        ids.push(source.send(&room_id, text(&user("alice"), &step.to_string())).await.unwrap());
    }
    let found = reachable(&source, &room_id).await.unwrap();
    let mut pdus: Vec<Arc<Pdu>> = found.into_values().map(|(pdu, _)| pdu).collect();
    pdus.sort_by_key(|pdu| pdu.depth);
    let engine: Arc<dyn Engine> = Arc::new(Model::new());
    let both = [rooms_on(engine.clone(), "one.test", 1).await, rooms_on(engine, "one.test", 1_000_000_000).await];
    let (known, rest) = pdus.split_at(pdus.len() - 12);
    for pdu in known {
        give(&both[0], pdu).await;
    }
    for three in rest.chunks(3) {
        let (missing, child) = (&three[0], &three[1]);
        // The last one becomes the extremity, which is read anew with the room.
        for pdu in &three[1..] {
            assert!(matches!(give(&both[1], pdu).await, Accepted::Waiting(_)));
        }
        // Both nodes have it in their caches as waiting.
        for rooms in &both {
            let room = rooms.room(&room_id).await.unwrap().unwrap();
            assert!(rooms.event_by_id(&room, child.event_id.as_str()).await.unwrap().unwrap().row.pos.is_none());
        }
        tokio::join!(give(&both[0], missing), give(&both[1], missing));
        for rooms in &both {
            let room = rooms.room(&room_id).await.unwrap().unwrap();
            let event = rooms.event_by_id(&room, child.event_id.as_str()).await.unwrap().unwrap();
            assert!(event.row.pos.is_some_and(|pos| pos.0 > 0), "it waits no more: {:?}", event.row);
        }
    }
    let nodes = Nodes { both, room_id };
    let acknowledged = ids.iter().enumerate().map(|(step, id)| (step.to_string(), id.to_string())).collect();
    nodes.check(&acknowledged).await.unwrap();
}

async fn give(rooms: &Rooms, pdu: &Pdu) -> Accepted {
    let verified = event::verify(
        event::Rules::of("11").unwrap(),
        pdu.bytes.clone(),
        &crate::graphs::AllKeys::new(),
        crate::graphs::NOW_MS,
    );
    rooms.accept(verified.unwrap()).await.unwrap()
}
