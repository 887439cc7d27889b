//! What a look for users costs.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use store::model::Model;
use store::{CommitBatch, Engine, Notifier, Row as _, Rows, StreamPosition, Table, Ticket, Value};

use super::*;

/// Counts how often it is asked for residencies, and how often for members.
#[derive(Default)]
struct Counting {
    model: Model,
    residencies: AtomicUsize,
    members: AtomicUsize,
}

#[async_trait]
impl Engine for Counting {
    fn submit(&self, batch: CommitBatch) -> Ticket {
        self.model.submit(batch)
    }

    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Rows>, Error> {
        let of_residencies = reads.iter().any(|read| read.table.name == ResidencyRow::TABLE.name);
        let count = if of_residencies { &self.residencies } else { &self.members };
        count.fetch_add(1, Ordering::SeqCst);
        self.model.read(reads).await
    }

    fn notifier(&self) -> &Notifier {
        self.model.notifier()
    }

    async fn import(&self, table: &'static Table, rows: Vec<Vec<Value>>) -> Result<(), Error> {
        self.model.import(table, rows).await
    }

    async fn close(&self) {
        self.model.close().await;
    }
}

/// A server in three rooms, with `@bob` as a member of the last.
async fn counting() -> (Arc<Counting>, Acquaintances) {
    let engine = Arc::new(Counting::default());
    let store = Store::new(Arc::clone(&engine) as Arc<dyn Engine>).await.unwrap();
    let mut batch = CommitBatch::new();
    for room in 1..=3 {
        let (room, pos) = (RoomNum(room), StreamPosition(1));
        batch.put(ResidencyRow { room, server: "two.test".to_owned(), pos, resident: true });
    }
    let bob = "@bob:two.test".to_owned();
    batch.put(StateKeyRow { room: RoomNum(3), key_id: 1, kind: MEMBER.to_owned(), state_key: bob });
    store.commit(batch).await.unwrap();
    engine.members.store(0, Ordering::SeqCst);
    (engine, Acquaintances::new(store))
}

fn user(name: impl std::fmt::Display) -> UserId {
    UserId::from(format!("@{name}:two.test"))
}

#[tokio::test]
async fn the_rooms_of_a_server_and_each_stranger_are_looked_for_once_in_a_transaction() {
    let (engine, acquaintances) = counting().await;
    let counts = || (engine.residencies.swap(0, Ordering::SeqCst), engine.members.swap(0, Ordering::SeqCst));
    let mut search = acquaintances.of("two.test");
    for n in 0..100 {
        assert!(!search.knows(&user(n % 10)).await.unwrap());
    }
    assert!(!search.knows(&"@carol:three.test".into()).await.unwrap());
    assert_eq!(counts(), (1, 10));
    assert!(search.knows(&user("bob")).await.unwrap());
    assert!(search.knows(&user("bob")).await.unwrap());
    assert_eq!(counts(), (0, 1));
    assert!(acquaintances.of("two.test").knows(&user("bob")).await.unwrap());
    assert_eq!(counts(), (0, 0), "whoever is known is remembered");
}

#[tokio::test]
async fn many_strangers_end_the_look_for_what_is_volatile_alone() {
    let (engine, acquaintances) = counting().await;
    let mut search = acquaintances.of("two.test");
    for n in 0..200 {
        assert!(!search.knows_at_once(&user(n)).await.unwrap());
    }
    assert_eq!(engine.members.load(Ordering::SeqCst), STRANGERS_MAX + 1);
    assert!(!search.knows_at_once(&user("bob")).await.unwrap(), "not looked for");
    assert!(search.knows(&user("bob")).await.unwrap());
    assert!(search.knows_at_once(&user("bob")).await.unwrap(), "remembered");
}
