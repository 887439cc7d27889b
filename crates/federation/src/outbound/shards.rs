//! Who sends to whom: the nodes of one database share the destinations among them, so that each destination has one
//! sender. The destinations are in [`SHARDS`] shards by their names; a shard has a reader's row with the epoch of its
//! owner and the position up to which everything in it was sent. Who of the nodes that live is to have a shard follows
//! from their names; a node takes it by raising the epoch, and whoever had it finds that out at its next write.
//!
//! Between the two both may send: other servers take each event, and each message to a device, once.

use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use store::tables::core::ReaderRow;
use store::tables::federation::{DestinationRow, DeviceListDueRow, OutboundEduRow};
use store::{CommitBatch, CommitError, Read, StreamPosition, Value};

use super::Outbound;
use crate::Result;

/// Shards of destinations. Their rows outlive the process: the number is never changed.
pub(super) const SHARDS: usize = 16;
/// The reader's row of the time when all destinations had one.
const WHOLE: &str = "federation";

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
pub(super) struct Shard {
    /// The owner's epoch in the row.
    pub epoch: i64,
    /// Up to here everything is in the queues.
    pub dispatched: StreamPosition,
    /// What the row says.
    pub kept: StreamPosition,
}

/// The shards that this node has.
#[derive(Default)]
pub(super) struct Shards(Mutex<[Option<Shard>; SHARDS]>);

impl Shards {
    /// The shard of a server.
    pub fn of(server: &str) -> usize {
        usize::from(Sha256::digest(server)[0]) % SHARDS
    }

    /// Name of a shard's reader.
    pub fn reader(shard: usize) -> String {
        format!("{WHOLE}/{shard:02}")
    }

    /// A shard, if this node has it.
    pub fn get(&self, shard: usize) -> Option<Shard> {
        self.0.lock().get(shard).copied().flatten()
    }

    /// Those that this node has.
    fn all(&self) -> Vec<(usize, Shard)> {
        self.0.lock().iter().enumerate().filter_map(|(n, shard)| Some((n, (*shard)?))).collect()
    }

    fn set(&self, shard: usize, to: Option<Shard>) {
        if let Some(place) = self.0.lock().get_mut(shard) {
            *place = to;
        }
    }

    /// From where on there is something to dispatch; `None` if this node has no shard.
    pub fn position(&self) -> Option<StreamPosition> {
        self.all().into_iter().map(|(_, shard)| shard.dispatched).min()
    }

    /// Whether a change at a position is this node's to tell a server.
    pub fn is_due(&self, server: &str, pos: StreamPosition) -> bool {
        self.get(Self::of(server)).is_some_and(|shard| shard.dispatched < pos)
    }

    /// Everything up to here is in the queues.
    pub fn passed(&self, pos: StreamPosition) {
        for shard in self.0.lock().iter_mut().flatten() {
            shard.dispatched = shard.dispatched.max(pos);
        }
    }

    /// Up to where everything for a server is in its queue.
    pub fn dispatched(&self, server: &str) -> StreamPosition {
        self.get(Self::of(server)).map_or(StreamPosition::ZERO, |shard| shard.dispatched)
    }
}

impl Outbound {
    /// Takes the shards that are this node's now, and leaves those that are not. True if there are new ones.
    pub(super) async fn share(self: &Arc<Self>) -> Result<bool> {
        let mut new = false;
        for shard in 0..SHARDS {
            match (self.nodes.is_mine(&Shards::reader(shard)), self.shards.get(shard)) {
                (true, None) => new |= self.take(shard).await?,
                (false, Some(_)) => {
                    self.keep_shard(shard).await?;
                    self.leave(shard);
                }
                _ => {}
            }
        }
        Ok(new)
    }

    /// Becomes the owner of a shard, and takes up what waits in it. False if another node was faster.
    async fn take(self: &Arc<Self>, shard: usize) -> Result<bool> {
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
                let whole: Option<ReaderRow> = self.store.get(vec![Value::from(WHOLE)]).await?;
                (1, whole.map_or_else(|| self.store.watermark_at_open(), |row| StreamPosition(row.done)))
            }
        };
        batch.put(ReaderRow { name: Shards::reader(shard), owner_epoch: epoch, done: done.0 });
        match self.store.commit(batch).await {
            Ok(_) => {}
            Err(CommitError::Conflict { .. }) => return Ok(false),
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
        self.shards.set(shard, Some(Shard { epoch, dispatched: done, kept: done }));
        let taken_up = self.take_up(shard).await;
        if taken_up.is_err() {
            self.leave(shard);
        }
        taken_up.map(|()| true)
    }

    /// Destinations that were behind, or have stored EDUs or device lists to get, when their last owner ended.
    async fn take_up(self: &Arc<Self>, shard: usize) -> Result<()> {
        let is_here = |server: &str| Shards::of(server) == shard;
        let rows: Vec<DestinationRow> = self.store.all(Read::prefix::<DestinationRow>(vec![])).await?;
        for row in rows.into_iter().filter(|row| is_here(&row.server)) {
            let Some(destination) = self.destination(&row.server) else { continue };
            destination.restore(&row);
            self.wake(&destination);
        }
        let mut after = String::new();
        while let Some(row) =
            self.store.one::<OutboundEduRow>(Read::prefix::<OutboundEduRow>(vec![]).after(after.as_str())).await?
        {
            if is_here(&row.server)
                && let Some(destination) = self.destination(&row.server)
            {
                destination.queue.lock().stored_edus = true;
                self.wake(&destination);
            }
            after = row.server;
        }
        let mut after = String::new();
        while let Some(row) =
            self.store.one::<DeviceListDueRow>(Read::prefix::<DeviceListDueRow>(vec![]).after(after.as_str())).await?
        {
            if is_here(&row.server) {
                self.wake_for_device_lists(&row.server);
            }
            after = row.server;
        }
        Ok(())
    }

    /// Sends no more to the destinations of a shard; a transaction under way comes to its end.
    fn leave(&self, shard: usize) {
        self.shards.set(shard, None);
        self.destinations.lock().retain(|server, destination| {
            let leaves = Shards::of(server) == shard;
            if leaves {
                destination.leave();
            }
            !leaves
        });
    }

    /// Stores how far everything has come in each shard, where it has moved.
    pub(super) async fn keep_positions(&self) -> Result<()> {
        for (shard, _) in self.shards.all() {
            self.keep_shard(shard).await?;
        }
        Ok(())
    }

    async fn keep_shard(&self, shard: usize) -> Result<()> {
        let Some(owned) = self.shards.get(shard) else { return Ok(()) };
        let mut done = owned.dispatched;
        for (server, destination) in self.destinations.lock().iter() {
            if Shards::of(server) == shard
                && let Some(from) = destination.queue.lock().waits_from()
            {
                done = done.min(from);
            }
        }
        if done <= owned.kept {
            return Ok(());
        }
        let mut batch = CommitBatch::new();
        self.expect_owned(&mut batch, shard, owned.epoch);
        batch.put(ReaderRow { name: Shards::reader(shard), owner_epoch: owned.epoch, done: done.0 });
        match self.store.commit(batch).await {
            Ok(_) => {
                if let Some(place) = self.shards.0.lock().get_mut(shard).and_then(Option::as_mut) {
                    place.kept = done;
                }
                Ok(())
            }
            Err(CommitError::Conflict { .. }) => {
                tracing::info!(shard, "another node sends to these servers now");
                self.leave(shard);
                Ok(())
            }
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// A batch about destinations holds only while their shard is this node's.
    pub(super) fn expect_owned(&self, batch: &mut CommitBatch, shard: usize, epoch: i64) {
        batch.expect_equals::<ReaderRow>(vec![Value::from(Shards::reader(shard))], "owner_epoch", epoch);
    }
}
