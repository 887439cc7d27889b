//! Who pushes to whom: the nodes of one database share the users among them, so that each pusher has one sender. Users
//! are in [`SHARDS`] shards by their ids; a shard has a reader's row with the epoch of its owner and the position up to
//! which everything is queued. Who of the nodes that live is to have a shard follows from their names; a node takes it by
//! raising the epoch, and whoever had it finds that out at its next write.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use store::tables::core::ReaderRow;
use store::{CommitBatch, CommitError, StreamPosition, UserId, Value};

use crate::{Push, Result};

/// Shards of users. Their rows outlive the process: the number is never changed.
pub(crate) const SHARDS: usize = 16;

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

/// A shard that this node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    /// The owner's epoch in the row.
    pub epoch: i64,
    /// Up to here everything is queued.
    pub dispatched: StreamPosition,
    /// What the row says.
    pub kept: StreamPosition,
}

/// The shards that this node has.
#[derive(Default)]
pub(crate) struct Shards(Mutex<[Option<Shard>; SHARDS]>);

impl Shards {
    /// The shard of a user.
    pub fn of(user: &UserId) -> usize {
        usize::from(Sha256::digest(user.as_str())[0]) % SHARDS
    }

    /// Name of a shard's reader.
    pub fn reader(shard: usize) -> String {
        format!("push/{shard:02}")
    }

    /// A shard, if this node has it.
    pub fn get(&self, shard: usize) -> Option<Shard> {
        self.0.lock().get(shard).copied().flatten()
    }

    /// Whether a user's pushers are this node's.
    pub fn has(&self, user: &UserId) -> bool {
        self.get(Self::of(user)).is_some()
    }

    fn set(&self, shard: usize, to: Option<Shard>) {
        if let Some(place) = self.0.lock().get_mut(shard) {
            *place = to;
        }
    }

    /// From where on there is something to dispatch; `None` if this node has no shard.
    pub fn position(&self) -> Option<StreamPosition> {
        self.0.lock().iter().flatten().map(|shard| shard.dispatched).min()
    }

    /// Whether a change at a position is this node's to tell a user.
    pub fn is_due(&self, user: &UserId, pos: StreamPosition) -> bool {
        self.get(Self::of(user)).is_some_and(|shard| shard.dispatched < pos)
    }

    /// Everything up to here is queued.
    pub fn passed(&self, pos: StreamPosition) {
        for shard in self.0.lock().iter_mut().flatten() {
            shard.dispatched = shard.dispatched.max(pos);
        }
    }

    /// The row says so.
    pub fn kept(&self, shard: usize, pos: StreamPosition) {
        if let Some(shard) = self.0.lock().get_mut(shard).and_then(Option::as_mut) {
            shard.kept = shard.kept.max(pos);
        }
    }
}

impl Push {
    /// Takes the shards that are this node's now, and leaves those that are not. True if there are new ones.
    /// Where it fails, the new ones are left again, to be taken the next time: nobody would be told anything.
    pub(crate) async fn share(self: &Arc<Self>) -> Result<bool> {
        let had_none = self.shards.position().is_none();
        let mut new = BTreeSet::new();
        let mut shared = self.divide(&mut new).await;
        if shared.is_ok() && !new.is_empty() {
            if had_none {
                // Nothing was noted of what has happened meanwhile.
                self.badges.forget();
            }
            shared = self.take_up(&new).await;
        }
        if shared.is_err() {
            new.iter().for_each(|shard| self.leave(*shard));
        }
        shared.map(|()| !new.is_empty())
    }

    /// Takes and leaves shards, and notes the new ones.
    async fn divide(&self, new: &mut BTreeSet<usize>) -> Result<()> {
        for shard in 0..SHARDS {
            match (self.nodes.is_mine(&Shards::reader(shard)), self.shards.get(shard)) {
                (true, None) if self.take(shard).await? => drop(new.insert(shard)),
                (false, Some(_)) => {
                    self.keep_shard(shard).await?;
                    self.leave(shard);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Becomes the owner of a shard. False if another node was faster.
    async fn take(&self, shard: usize) -> Result<bool> {
        let key = vec![Value::from(Shards::reader(shard))];
        let row: Option<ReaderRow> = self.store.get(key.clone()).await?;
        let mut batch = CommitBatch::new();
        let (epoch, done) = match row {
            Some(row) => {
                batch.expect_equals::<ReaderRow>(key, "owner_epoch", row.owner_epoch);
                (row.owner_epoch + 1, StreamPosition(row.done))
            }
            None => {
                batch.expect_absent::<ReaderRow>(key);
                // What was before anybody looked is no news.
                (1, self.store.watermark_at_open())
            }
        };
        batch.put(ReaderRow { name: Shards::reader(shard), owner_epoch: epoch, done: done.0 });
        match self.store.commit(batch).await {
            Ok(_) => {}
            Err(CommitError::Conflict { .. }) => return Ok(false),
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
        self.shards.set(shard, Some(Shard { epoch, dispatched: done, kept: done }));
        Ok(true)
    }

    /// Pushes no more for the users of a shard; a push under way comes to its end.
    pub(crate) fn leave(&self, shard: usize) {
        self.shards.set(shard, None);
        self.people.leave(|user| Shards::of(user) == shard);
    }

    /// Stores how far everything has come in each shard, where it has moved.
    pub(crate) async fn keep_positions(&self) -> Result<()> {
        for shard in 0..SHARDS {
            self.keep_shard(shard).await?;
        }
        Ok(())
    }

    async fn keep_shard(&self, shard: usize) -> Result<()> {
        let Some(owned) = self.shards.get(shard).filter(|owned| owned.dispatched > owned.kept) else { return Ok(()) };
        self.commit_owned(shard, CommitBatch::new(), Some(owned.dispatched)).await.map(drop)
    }

    /// Writes what belongs to a shard, with the position up to which everything is queued if that is to be stored, unless
    /// another node has the shard: then false.
    pub(crate) async fn commit_owned(
        &self,
        shard: usize,
        mut batch: CommitBatch,
        done: Option<StreamPosition>,
    ) -> Result<bool> {
        let Some(Shard { epoch, .. }) = self.shards.get(shard) else { return Ok(false) };
        let name = Shards::reader(shard);
        batch.expect_equals::<ReaderRow>(vec![Value::from(name.as_str())], "owner_epoch", epoch);
        if let Some(done) = done {
            batch.put(ReaderRow { name, owner_epoch: epoch, done: done.0 });
        }
        match self.store.commit(batch).await {
            Ok(_) => {
                if let Some(done) = done {
                    self.shards.kept(shard, done);
                }
                Ok(true)
            }
            Err(CommitError::Conflict { .. }) => {
                tracing::info!(shard, "another node pushes to these users now");
                self.leave(shard);
                Ok(false)
            }
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }
}
