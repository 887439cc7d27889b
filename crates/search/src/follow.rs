//! Following the stream: one node at a time has the index, and brings it up to what was committed.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use store::tables::core::{JobRow, ReaderRow, StreamRow};
use store::tables::rooms::EventRow;
use store::{CommitBatch, CommitError, EventNum, Read, StreamKind, StreamPosition, Value};

use crate::documents::{ENCRYPTION, Place};
use crate::jobs::{rebuild_job, sweep_job};
use crate::{Result, Search};

/// The name of the reader. The number is that of the index's format: another one is another index.
pub(crate) const READER: &str = "search/1";
/// Entries that are read from the stream at a time.
const STREAM_PAGE: u32 = 500;
/// The least time between two commits while messages keep coming: each is a disk's sync.
const LINGER: Duration = Duration::from_millis(250);
/// How often it is looked whether the index is to be this node's, and whether there are jobs.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Entries of which nothing was indexed after which the position is stored all the same.
const KEEP_AFTER: i64 = 5_000;
/// Between two tries while the store is away.
const PAUSE: Duration = Duration::from_secs(1);

/// Who of several nodes has the index.
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

/// That this node has the index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    epoch: i64,
    /// Up to here everything is indexed.
    done: StreamPosition,
    /// What the row says.
    kept: StreamPosition,
}

/// What there was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Did {
    /// Something was indexed that had come.
    News,
    /// Something else was done, and there may be more of it.
    Work,
    Nothing,
}

impl Search {
    /// Follows the stream for ever. It waits while the store is away.
    pub(crate) async fn follow(&self) -> Infallible {
        let mut watermark = self.store.notifier().subscribe();
        loop {
            watermark.borrow_and_update();
            match self.work().await {
                Ok(Did::News) => tokio::time::sleep(LINGER).await,
                Ok(Did::Work) => {}
                Ok(Did::Nothing) => {
                    // Who does not have the index has nothing to do with what comes.
                    let has = self.held.lock().is_some();
                    tokio::select! {
                        Ok(()) = watermark.changed(), if has => {}
                        () = self.asked.notified() => {}
                        () = tokio::time::sleep(LOOK_EVERY) => self.look_for_jobs(),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "nothing is indexed for search at the moment");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Does the next piece of work.
    pub(crate) async fn work(&self) -> Result<Did> {
        if !self.hold().await? {
            return Ok(Did::Nothing);
        }
        if self.clear_for_rebuild().await? {
            return Ok(Did::Work);
        }
        if let Some(did) = self.read_stream().await? {
            return Ok(did);
        }
        let busy = self.tidy_runs().await? || self.sweep().await? || self.rebuild_some().await?;
        Ok(if busy { Did::Work } else { Did::Nothing })
    }

    /// Whether the index is this node's; takes and leaves it.
    async fn hold(&self) -> Result<bool> {
        let held = *self.held.lock();
        match (self.nodes.is_mine(READER), held) {
            (true, Some(_)) => Ok(true),
            (true, None) => self.take().await,
            (false, Some(held)) => {
                if held.done > held.kept {
                    self.commit_held(CommitBatch::new(), Some(held.done)).await?;
                }
                *self.held.lock() = None;
                Ok(false)
            }
            (false, None) => Ok(false),
        }
    }

    /// Becomes the owner of the index. False if another node was faster.
    async fn take(&self) -> Result<bool> {
        let key = vec![Value::from(READER)];
        let row: Option<ReaderRow> = self.store.get(key.clone()).await?;
        let mut batch = CommitBatch::new();
        let (epoch, done) = match row {
            Some(row) => {
                batch.expect_equals::<ReaderRow>(key, "owner_epoch", row.owner_epoch);
                (row.owner_epoch + 1, StreamPosition(row.done))
            }
            None => {
                batch.expect_absent::<ReaderRow>(key);
                // What was there before is read from the events themselves.
                batch.put(rebuild_job());
                (1, self.store.watermark())
            }
        };
        batch.put(ReaderRow { name: READER.to_owned(), owner_epoch: epoch, done: done.0 });
        match self.store.commit(batch).await {
            Ok(_) => {
                *self.held.lock() = Some(Held { epoch, done, kept: done });
                self.indexed.send_replace(done);
                self.look_for_jobs();
                Ok(true)
            }
            Err(CommitError::Conflict { .. }) => Ok(false),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// Writes what belongs to the index, with the position up to which everything is indexed if that is to be stored,
    /// unless another node has the index: then false.
    pub(crate) async fn commit_held(&self, mut batch: CommitBatch, done: Option<StreamPosition>) -> Result<bool> {
        let Some(Held { epoch, .. }) = *self.held.lock() else { return Ok(false) };
        batch.expect_equals::<ReaderRow>(vec![Value::from(READER)], "owner_epoch", epoch);
        if let Some(done) = done {
            batch.put(ReaderRow { name: READER.to_owned(), owner_epoch: epoch, done: done.0 });
        }
        match self.store.commit(batch).await {
            Ok(_) => {
                if let (Some(done), Some(held)) = (done, &mut *self.held.lock()) {
                    (held.done, held.kept) = (done, done);
                }
                Ok(true)
            }
            Err(CommitError::Conflict { .. }) => {
                tracing::info!("another node has the search index now");
                *self.held.lock() = None;
                Ok(false)
            }
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// Stores how far the stream is read, if that has moved.
    pub(crate) async fn keep_position(&self) -> Result<()> {
        let held = *self.held.lock();
        if let Some(held) = held.filter(|held| held.done > held.kept) {
            self.commit_held(CommitBatch::new(), Some(held.done)).await?;
        }
        Ok(())
    }

    /// Indexes what the stream holds that is not indexed. `None` if there was nothing of that.
    async fn read_stream(&self) -> Result<Option<Did>> {
        let Some(held) = *self.held.lock() else { return Ok(None) };
        let read = Read::prefix::<StreamRow>(vec![]).after(held.done).up_to(self.store.watermark());
        let rows: Vec<StreamRow> = self.store.all(read.limit(STREAM_PAGE)).await?;
        let Some(last) = rows.last().map(|row| row.pos) else { return Ok(None) };
        let full = rows.len() == STREAM_PAGE as usize;
        let (places, besides) = self.news_of(rows).await?;
        let found = !places.is_empty() || !besides.is_empty();
        if found || last.0 - held.kept.0 >= KEEP_AFTER {
            if !self.index(&places, besides, Some(last)).await? {
                return Ok(Some(Did::Nothing));
            }
        } else if let Some(held) = &mut *self.held.lock() {
            held.done = last;
        }
        self.indexed.send_replace(last);
        Ok(Some(if found && !full { Did::News } else { Did::Work }))
    }

    /// The events that may have to be indexed anew, and the jobs that come of it.
    async fn news_of(&self, rows: Vec<StreamRow>) -> Result<(BTreeSet<Place>, CommitBatch)> {
        let (mut places, mut numbers, mut swept) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
        for row in rows {
            match (StreamKind::from_number(row.kind), row.room, row.number) {
                (Some(StreamKind::Event | StreamKind::EventChanged), Some(room), Some(number)) => {
                    places.insert((room, EventNum(number)));
                    numbers.push(number);
                }
                (Some(StreamKind::History), None, Some(number)) => numbers.push(number),
                (Some(StreamKind::RoomPurged), Some(room), _) => drop(swept.insert(room)),
                _ => {}
            }
        }
        let reads = numbers.into_iter().map(|number| Read::get::<EventRow>(vec![number.into()])).collect();
        for rows in self.store.read(reads).await? {
            let Some(row) = rows.one::<EventRow>()? else { continue };
            if row.kind == ENCRYPTION {
                swept.insert(row.room);
            }
            places.insert((row.room, row.event));
        }
        let mut besides = CommitBatch::new();
        for room in &swept {
            besides.put::<JobRow>(sweep_job(*room, None));
        }
        if !swept.is_empty() {
            self.look_for_jobs();
        }
        Ok((places, besides))
    }
}
