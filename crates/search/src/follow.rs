//! Following the stream: one node at a time has the index, and brings it up to what was committed.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use store::inbox::ticks;
use store::shards::Worker;
use store::tables::core::{JobRow, MetaRow, StreamRow};
use store::tables::rooms::EventRow;
use store::{CommitBatch, EventNum, Read, RoomNum, StreamKind, StreamPosition};

use crate::documents::{ENCRYPTION, Place};
use crate::jobs::{rebuild_job, sweep_job};
use crate::text::Key;
use crate::{Error, Result, Search};

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

/// The index is one shard: one node at a time has it.
pub(crate) const SHARD: usize = 0;
/// The fact that says which form the index has.
const FORMAT: &str = "search_format";
/// The form that this build writes and reads. Where the database has another one, or none, the index is built anew.
const FORMAT_NOW: &str = "1";

/// What there was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Did {
    /// Something was indexed that had come.
    News,
    /// Something else was done, and there may be more of it.
    Work,
    Nothing,
}

impl Worker for Search {
    type Error = Error;

    async fn take_up(self: &Arc<Self>, _shards: &BTreeSet<usize>) -> Result<()> {
        self.look_for_jobs();
        if let Some(held) = self.shards.get(SHARD) {
            self.indexed.send_replace(held.dispatched);
        }
        if self.store.meta(FORMAT).await?.as_deref() != Some(FORMAT_NOW) {
            let mut batch = CommitBatch::new();
            batch.put(rebuild_job());
            batch.put(MetaRow { name: FORMAT.to_owned(), value: FORMAT_NOW.to_owned() });
            self.commit_held(batch, None).await?;
        }
        Ok(())
    }

    fn leave(&self, _shard: usize) {}
}

impl Search {
    /// Follows the stream for ever. It waits while the store is away.
    pub(crate) async fn follow(self: &Arc<Self>) -> Infallible {
        let mut watermark = self.store.notifier().subscribe();
        let mut look = ticks(LOOK_EVERY);
        loop {
            watermark.borrow_and_update();
            // However busy the server is.
            if tokio::time::timeout(Duration::ZERO, look.tick()).await.is_ok() {
                self.look_for_jobs();
            }
            match self.work().await {
                Ok(Did::News) => tokio::time::sleep(LINGER).await,
                Ok(Did::Work) => {}
                Ok(Did::Nothing) => {
                    // Who does not have the index has nothing to do with what comes.
                    let has = self.shards.get(SHARD).is_some();
                    tokio::select! {
                        Ok(()) = watermark.changed(), if has => {}
                        () = self.asked.notified() => {}
                        _ = look.tick() => self.look_for_jobs(),
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
    pub(crate) async fn work(self: &Arc<Self>) -> Result<Did> {
        let _turn = self.working.lock().await;
        self.shards.share(self).await?;
        if self.shards.get(SHARD).is_none() {
            return Ok(Did::Nothing);
        }
        if self.clear_for_rebuild().await? {
            return Ok(Did::Work);
        }
        // A step of each in turn, so that news that never ends holds up nothing else.
        let news = self.read_stream().await?;
        let busy = [self.tidy_runs().await?, self.sweep().await?, self.rebuild_some().await?];
        Ok(if busy.contains(&true) { Did::Work } else { news })
    }

    /// Writes what belongs to the index, with the position up to which everything is indexed if that is to be stored,
    /// unless another node has the index: then false.
    pub(crate) async fn commit_held(&self, batch: CommitBatch, done: Option<StreamPosition>) -> Result<bool> {
        Ok(self.shards.commit(self, SHARD, batch, done).await?)
    }

    /// Indexes what the stream holds that is not indexed.
    async fn read_stream(&self) -> Result<Did> {
        let Some(held) = self.shards.get(SHARD) else { return Ok(Did::Nothing) };
        let read = Read::prefix::<StreamRow>(vec![]).after(held.dispatched).up_to(self.store.watermark());
        let rows: Vec<StreamRow> = self.store.all(read.limit(STREAM_PAGE)).await?;
        let Some(last) = rows.last().map(|row| row.pos) else { return Ok(Did::Nothing) };
        let full = rows.len() == STREAM_PAGE as usize;
        let (places, besides) = self.news_of(rows).await?;
        let found = !places.is_empty() || !besides.is_empty();
        let keep = found || last.0 - held.kept.0 >= KEEP_AFTER;
        if keep && !self.index(&places, besides, Some(last)).await? {
            return Ok(Did::Nothing);
        }
        self.shards.passed(last);
        self.indexed.send_replace(last);
        Ok(if full { Did::Work } else { Did::News })
    }

    /// The events that may have to be indexed anew, and the jobs that come of it.
    async fn news_of(&self, rows: Vec<StreamRow>) -> Result<(BTreeSet<Place>, CommitBatch)> {
        let (mut places, mut swept) = (BTreeSet::new(), BTreeSet::new());
        // Of events of history the stream does not say in which room they are.
        let mut rooms: BTreeMap<i64, Option<RoomNum>> = BTreeMap::new();
        for row in rows {
            match (StreamKind::from_number(row.kind), row.room, row.number) {
                (Some(StreamKind::Event | StreamKind::EventChanged), Some(room), Some(number)) => {
                    rooms.insert(number, Some(room));
                }
                (Some(StreamKind::History), None, Some(number)) => drop(rooms.entry(number).or_default()),
                (Some(StreamKind::RoomPurged), Some(room), _) => drop(swept.insert(room)),
                _ => {}
            }
        }
        let reads = rooms.keys().map(|number| Read::get::<EventRow>(vec![(*number).into()])).collect();
        let found = self.store.read(reads).await?;
        for ((number, room), rows) in rooms.into_iter().zip(found) {
            match (rows.one::<EventRow>()?, room) {
                (Some(row), _) if row.kind == ENCRYPTION => drop(swept.insert(row.room)),
                (Some(row), _) if Key::of(&row.kind).is_some() => drop(places.insert((row.room, row.event))),
                // It is gone.
                (None, Some(room)) => drop(places.insert((room, EventNum(number)))),
                _ => {}
            }
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
