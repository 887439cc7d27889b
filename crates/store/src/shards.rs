//! Who does a piece of background work: the nodes of one database share it among them, so that each part has one doer.
//!
//! What the work is about (users, destinations) is spread over shards by its name. A shard has a reader's row with the
//! epoch of its owner and the position up to which the stream is worked off. Who of the nodes that live is to have a
//! shard follows from their names; a node takes it by raising the epoch, and whoever had it finds that out at its next
//! write. Between the two both may be at work: what they do must be idempotent.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use crate::tables::core::ReaderRow;
use crate::{CommitBatch, CommitError, Error, Store, StreamPosition, Value};

/// The nodes of the database that live now.
pub trait Nodes: Send + Sync + 'static {
    /// Whether this node is the one that is to do what has this name.
    fn is_mine(&self, name: &str) -> bool;
}

/// A node that has the database for itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Nodes for Alone {
    fn is_mine(&self, _name: &str) -> bool {
        true
    }
}

/// Whether `own` is the first of the nodes in the order that a name gives them: each node comes first for its share of
/// the names, and when one goes, only the names that it was first for get another (rendezvous hashing).
pub fn is_first<'a>(own: &str, others: impl IntoIterator<Item = &'a str>, name: &str) -> bool {
    let rank = |node: &str| Sha256::digest([node.as_bytes(), b"\0", name.as_bytes()].concat());
    let mine = rank(own);
    others.into_iter().filter(|other| *other != own).all(|other| rank(other) < mine)
}

/// A shard that this node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The owner's epoch in the row.
    pub epoch: i64,
    /// Up to here the stream is worked off, in memory.
    pub dispatched: StreamPosition,
    /// What the row says.
    pub kept: StreamPosition,
}

/// Whoever does the work of the shards that this node has.
pub trait Worker: Send + Sync + 'static {
    /// What can go wrong.
    type Error: From<Error> + Send;

    /// The position that a shard's row may name: what waits in memory alone must lie behind it. `dispatched` is how far
    /// the stream was worked off.
    fn done(&self, _shard: usize, dispatched: StreamPosition) -> StreamPosition {
        dispatched
    }

    /// Takes up what waits in shards that are this node's from now on.
    fn take_up(self: &Arc<Self>, shards: &BTreeSet<usize>) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// A shard is no longer this node's: what is in memory of it is to be forgotten.
    fn leave(&self, shard: usize);
}

/// The shards of one piece of work, and which of them this node has.
pub struct Shards {
    store: Store,
    nodes: Arc<dyn Nodes>,
    /// Name of the work, with which the names of its readers begin.
    work: &'static str,
    places: Mutex<Vec<Option<Shard>>>,
}

impl Shards {
    /// The shards of a piece of work. Their rows outlive the process: neither name nor number is ever changed.
    pub fn new(store: Store, nodes: Arc<dyn Nodes>, work: &'static str, number: usize) -> Self {
        Self { store, nodes, work, places: Mutex::new(vec![None; number.max(1)]) }
    }

    /// The shard in which something of this name is.
    pub fn of(&self, name: &str) -> usize {
        usize::from(Sha256::digest(name)[0]) % self.places.lock().len()
    }

    fn reader(&self, shard: usize) -> String {
        format!("{}/{shard:02}", self.work)
    }

    /// A shard, if this node has it.
    pub fn get(&self, shard: usize) -> Option<Shard> {
        self.places.lock().get(shard).copied().flatten()
    }

    /// The shard in which something of this name is, if this node has it.
    pub fn holding(&self, name: &str) -> Option<Shard> {
        self.get(self.of(name))
    }

    /// From where on there is something to work off; `None` if this node has no shard.
    pub fn position(&self) -> Option<StreamPosition> {
        self.places.lock().iter().flatten().map(|shard| shard.dispatched).min()
    }

    /// Whether a change at a position is this node's to work off for what has this name.
    pub fn is_due(&self, name: &str, pos: StreamPosition) -> bool {
        self.holding(name).is_some_and(|shard| shard.dispatched < pos)
    }

    /// Everything up to here is worked off.
    pub fn passed(&self, pos: StreamPosition) {
        for shard in self.places.lock().iter_mut().flatten() {
            shard.dispatched = shard.dispatched.max(pos);
        }
    }

    fn set(&self, shard: usize, to: Option<Shard>) {
        if let Some(place) = self.places.lock().get_mut(shard) {
            *place = to;
        }
    }

    fn numbers(&self) -> std::ops::Range<usize> {
        0..self.places.lock().len()
    }

    /// Takes the shards that are this node's now, and leaves those that are not. True if there are new ones: what lies
    /// between their positions and the end of the stream is to be read from it.
    ///
    /// # Errors
    /// As the store or the worker says. The new shards are left again then, to be taken the next time.
    pub async fn share<W: Worker>(&self, worker: &Arc<W>) -> Result<bool, W::Error> {
        let mut new = BTreeSet::new();
        let mut shared = self.divide(worker, &mut new).await;
        if shared.is_ok() && !new.is_empty() {
            shared = worker.take_up(&new).await;
        }
        if shared.is_err() {
            new.iter().for_each(|shard| self.leave(worker.as_ref(), *shard));
        }
        shared.map(|()| !new.is_empty())
    }

    /// Takes and leaves shards, and notes the new ones.
    async fn divide<W: Worker>(&self, worker: &Arc<W>, new: &mut BTreeSet<usize>) -> Result<(), W::Error> {
        for shard in self.numbers() {
            match (self.nodes.is_mine(&self.reader(shard)), self.get(shard)) {
                (true, None) if self.take(shard).await? => drop(new.insert(shard)),
                (false, Some(_)) => {
                    self.keep(worker.as_ref(), shard).await?;
                    self.leave(worker.as_ref(), shard);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Becomes the owner of a shard. False if another node was faster.
    async fn take(&self, shard: usize) -> Result<bool, Error> {
        let key = vec![Value::from(self.reader(shard))];
        let row: Option<ReaderRow> = self.store.get(key.clone()).await?;
        let mut batch = CommitBatch::new();
        let (epoch, done) = match row {
            Some(row) => {
                batch.expect_equals::<ReaderRow>(key, "owner_epoch", row.owner_epoch);
                (row.owner_epoch + 1, StreamPosition(row.done))
            }
            None => {
                batch.expect_absent::<ReaderRow>(key);
                (1, self.beginning().await?)
            }
        };
        batch.put(ReaderRow { name: self.reader(shard), owner_epoch: epoch, done: done.0 });
        match self.store.commit(batch).await {
            Ok(_) => {}
            Err(CommitError::Conflict { .. }) => return Ok(false),
            Err(CommitError::Store(error)) => return Err(error),
        }
        self.set(shard, Some(Shard { epoch, dispatched: done, kept: done }));
        Ok(true)
    }

    /// Where a shard begins that nobody had. What was before anybody looked is no news, unless the work was one piece
    /// once, with a reader of its own.
    async fn beginning(&self) -> Result<StreamPosition, Error> {
        let whole: Option<ReaderRow> = self.store.get(vec![Value::from(self.work)]).await?;
        Ok(whole.map_or_else(|| self.store.watermark_at_open(), |row| StreamPosition(row.done)))
    }

    /// Works on a shard no more.
    pub fn leave<W: Worker>(&self, worker: &W, shard: usize) {
        self.set(shard, None);
        worker.leave(shard);
    }

    /// Stores how far everything has come in each shard, where it has moved.
    ///
    /// # Errors
    /// As the store says.
    pub async fn keep_all<W: Worker>(&self, worker: &W) -> Result<(), W::Error> {
        for shard in self.numbers() {
            self.keep(worker, shard).await?;
        }
        Ok(())
    }

    async fn keep<W: Worker>(&self, worker: &W, shard: usize) -> Result<(), W::Error> {
        let Some(owned) = self.get(shard) else { return Ok(()) };
        let done = worker.done(shard, owned.dispatched);
        if done > owned.kept {
            self.commit(worker, shard, CommitBatch::new(), Some(done)).await?;
        }
        Ok(())
    }

    /// Writes what belongs to a shard, with the position up to which everything is done if that is to be stored. False
    /// if another node has the shard: nothing was written then, and the shard is left.
    ///
    /// # Errors
    /// As the store says.
    pub async fn commit<W: Worker>(
        &self,
        worker: &W,
        shard: usize,
        mut batch: CommitBatch,
        done: Option<StreamPosition>,
    ) -> Result<bool, Error> {
        let Some(Shard { epoch, .. }) = self.get(shard) else { return Ok(false) };
        self.expect_owned(&mut batch, shard, epoch);
        if let Some(done) = done {
            batch.put(ReaderRow { name: self.reader(shard), owner_epoch: epoch, done: done.0 });
        }
        match self.store.commit(batch).await {
            Ok(_) => {
                if let Some((place, done)) = self.places.lock().get_mut(shard).and_then(Option::as_mut).zip(done) {
                    place.kept = place.kept.max(done);
                }
                Ok(true)
            }
            Err(CommitError::Conflict { .. }) => {
                tracing::info!(work = self.work, shard, "another node does this now");
                self.leave(worker, shard);
                Ok(false)
            }
            Err(CommitError::Store(error)) => Err(error),
        }
    }

    /// A batch holds only while the shard has the owner that it had in this epoch.
    pub fn expect_owned(&self, batch: &mut CommitBatch, shard: usize, epoch: i64) {
        batch.expect_equals::<ReaderRow>(vec![Value::from(self.reader(shard))], "owner_epoch", epoch);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::StreamKind;
    use crate::model::Model;

    const NUMBER: usize = 4;

    #[derive(Default)]
    struct Bench {
        fails: AtomicBool,
        taken: Mutex<Vec<usize>>,
        left: Mutex<Vec<usize>>,
    }

    impl Worker for Bench {
        type Error = Error;

        async fn take_up(self: &Arc<Self>, shards: &BTreeSet<usize>) -> Result<(), Error> {
            if self.fails.load(Ordering::Relaxed) {
                return Err(Error::Unavailable("it stumbles".to_owned()));
            }
            self.taken.lock().extend(shards);
            Ok(())
        }

        fn leave(&self, shard: usize) {
            self.left.lock().push(shard);
        }
    }

    async fn store() -> Store {
        Store::new(Arc::new(Model::new())).await.unwrap()
    }

    fn shards(store: &Store) -> Shards {
        Shards::new(store.clone(), Arc::new(Alone), "work", NUMBER)
    }

    async fn entry(store: &Store) {
        let mut batch = CommitBatch::new();
        let _pos = batch.announce(StreamKind::Account, None, Some("@a:us".into()), None);
        store.commit(batch).await.unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_taken_up_is_taken_the_next_time() {
        let store = store().await;
        let (shards, bench) = (shards(&store), Arc::new(Bench::default()));
        entry(&store).await;
        bench.fails.store(true, Ordering::Relaxed);
        assert!(shards.share(&bench).await.is_err());
        assert_eq!((shards.position(), bench.left.lock().len()), (None, NUMBER));
        bench.fails.store(false, Ordering::Relaxed);
        assert!(shards.share(&bench).await.unwrap());
        assert_eq!(*bench.taken.lock(), [0, 1, 2, 3]);
        // What came meanwhile is still to be worked off.
        assert_eq!(shards.position(), Some(StreamPosition::ZERO));
        assert!(!shards.share(&bench).await.unwrap());
    }

    #[tokio::test]
    async fn who_has_lost_a_shard_writes_nothing_of_it() {
        let store = store().await;
        let (old, new) = (shards(&store), shards(&store));
        let (first, second) = (Arc::new(Bench::default()), Arc::new(Bench::default()));
        old.share(&first).await.unwrap();
        entry(&store).await;
        old.passed(StreamPosition(1));
        old.keep_all(first.as_ref()).await.unwrap();
        new.share(&second).await.unwrap();
        assert_eq!(new.position(), Some(StreamPosition(1)), "it goes on where the other has come to");
        assert!(!old.commit(first.as_ref(), 2, CommitBatch::new(), None).await.unwrap());
        assert_eq!((old.get(2), first.left.lock().clone()), (None, vec![2]));
        assert!(new.commit(second.as_ref(), 2, CommitBatch::new(), Some(StreamPosition(1))).await.unwrap());
    }

    #[tokio::test]
    async fn work_that_had_one_reader_goes_on_from_there() {
        let store = store().await;
        for _ in 0..3 {
            entry(&store).await;
        }
        let mut batch = CommitBatch::new();
        batch.put(ReaderRow { name: "work".to_owned(), owner_epoch: 7, done: 2 });
        store.commit(batch).await.unwrap();
        let (shards, bench) = (shards(&store), Arc::new(Bench::default()));
        shards.share(&bench).await.unwrap();
        assert_eq!(shards.position(), Some(StreamPosition(2)));
        let name = "anybody";
        assert!(shards.is_due(name, StreamPosition(3)) && !shards.is_due(name, StreamPosition(2)));
        shards.passed(StreamPosition(3));
        assert!(!shards.is_due(name, StreamPosition(3)));
    }
}
