//! Long work on the index, in steps that a restart goes on with: building it from nothing, and looking through what it has
//! of a room that was purged, in part or wholly, or became encrypted.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use store::tables::core::JobRow;
use store::tables::rooms::EventRow;
use store::tables::search::SearchDocumentRow;
use store::{CommitBatch, EventNum, Read, RoomNum, Value};

use crate::documents::Place;
use crate::text::Key;
use crate::{Result, Search};

/// The kind of the job that builds the index from nothing. Its cursor is [`CLEARING`], then the last event's number.
const REBUILD: &str = "search_rebuild";
/// What the old index had is being removed.
const CLEARING: &str = "clearing";
/// The kind of the jobs that look through a room. Their cursor is the last event's number.
const SWEEP: &str = "search_sweep";
/// Documents, or rows, that one step looks at.
const STEP: u32 = 500;
/// Events that one step of building looks at.
const REBUILD_STEP: u32 = 2_000;

/// How far the building of the index from nothing has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Events up to this number were looked at.
    pub seen: i64,
    /// The highest number of an event.
    pub all: i64,
}

pub(crate) fn rebuild_job() -> JobRow {
    JobRow { kind: REBUILD.to_owned(), name: String::new(), cursor: String::new(), due_ms: 0, failures: 0 }
}

pub(crate) fn sweep_job(room: RoomNum, after: Option<EventNum>) -> JobRow {
    let cursor = after.map(|event| event.to_string()).unwrap_or_default();
    JobRow { kind: SWEEP.to_owned(), name: room.to_string(), cursor, due_ms: 0, failures: 0 }
}

impl Search {
    /// Jobs may have been added.
    pub(crate) fn look_for_jobs(&self) {
        self.jobs.store(true, Ordering::Release);
    }

    /// Asks for the index to be built from nothing, by the node that has it.
    ///
    /// # Errors
    /// As the store says.
    pub async fn rebuild(&self) -> Result<()> {
        let mut batch = CommitBatch::new();
        batch.put(rebuild_job());
        match self.store.commit(batch).await {
            Ok(_) | Err(store::CommitError::Conflict { .. }) => {}
            Err(store::CommitError::Store(error)) => return Err(error.into()),
        }
        self.look_for_jobs();
        self.asked.notify_one();
        Ok(())
    }

    /// How far the building of the index has come; `None` if it is whole.
    ///
    /// # Errors
    /// As the store says.
    pub async fn rebuilding(&self) -> Result<Option<Progress>> {
        let Some(job) = self.rebuild_row().await? else { return Ok(None) };
        let newest = Read::prefix::<EventRow>(vec![]).reverse();
        let all = self.store.one::<EventRow>(newest).await?.map_or(0, |row| row.event.0);
        Ok(Some(Progress { seen: job.cursor.parse().unwrap_or(0), all }))
    }

    async fn rebuild_row(&self) -> Result<Option<JobRow>> {
        Ok(self.store.get::<JobRow>(vec![REBUILD.into(), "".into()]).await?)
    }

    /// Removes some of the old index if a new one is to be built; false if there is nothing to remove.
    pub(crate) async fn clear_for_rebuild(&self) -> Result<bool> {
        if !self.jobs.load(Ordering::Acquire) {
            return Ok(false);
        }
        let Some(job) = self.rebuild_row().await?.filter(|job| matches!(job.cursor.as_str(), "" | CLEARING)) else {
            return Ok(false);
        };
        let mut batch = CommitBatch::new();
        if job.cursor.is_empty() {
            self.bury_runs(&mut batch).await?;
            batch.put(JobRow { cursor: CLEARING.to_owned(), ..job });
            return self.commit_held(batch, None).await;
        }
        let read = Read::prefix::<SearchDocumentRow>(vec![]).limit(STEP);
        let rows: Vec<SearchDocumentRow> = self.store.all(read).await?;
        if rows.len() < STEP as usize {
            batch.put(JobRow { cursor: "0".to_owned(), ..job });
        }
        for row in rows {
            batch.delete::<SearchDocumentRow>(vec![row.room.into(), row.event.into()]);
        }
        self.commit_held(batch, None).await
    }

    /// Indexes some more events of an index that is being built; false if none is.
    pub(crate) async fn rebuild_some(&self) -> Result<bool> {
        if !self.jobs.load(Ordering::Acquire) {
            return Ok(false);
        }
        let Some(job) = self.rebuild_row().await? else {
            // In this order: what is added meanwhile is found, or says so itself.
            self.jobs.store(false, Ordering::Release);
            let sweep = self.store.one::<JobRow>(Read::prefix::<JobRow>(vec![SWEEP.into()])).await?;
            if sweep.is_some() || self.rebuild_row().await?.is_some() {
                self.look_for_jobs();
            }
            return Ok(false);
        };
        let after: i64 = job.cursor.parse().unwrap_or(0);
        let read = Read::prefix::<EventRow>(vec![]).after(after).limit(REBUILD_STEP);
        let rows: Vec<EventRow> = self.store.all(read).await?;
        let mut besides = CommitBatch::new();
        match rows.last() {
            Some(last) => besides.put(JobRow { cursor: last.event.to_string(), ..job }),
            None => besides.delete::<JobRow>(vec![REBUILD.into(), "".into()]),
        };
        let places: BTreeSet<Place> =
            rows.iter().filter(|row| Key::of(&row.kind).is_some()).map(|row| (row.room, row.event)).collect();
        self.index(&places, besides, None).await
    }

    /// Looks through some of what the index has of a room that is to be looked through; false if there is none.
    pub(crate) async fn sweep(&self) -> Result<bool> {
        if !self.jobs.load(Ordering::Acquire) {
            return Ok(false);
        }
        let Some(job) = self.store.one::<JobRow>(Read::prefix::<JobRow>(vec![SWEEP.into()])).await? else {
            return Ok(false);
        };
        let mut besides = CommitBatch::new();
        let key = || vec![SWEEP.into(), Value::from(job.name.as_str())];
        let Ok(room) = job.name.parse().map(RoomNum) else {
            besides.delete::<JobRow>(key());
            return self.commit_held(besides, None).await;
        };
        let after = EventNum(job.cursor.parse().unwrap_or(i64::MIN));
        let read = Read::prefix::<SearchDocumentRow>(vec![room.into()]).after(after).limit(STEP);
        let rows: Vec<SearchDocumentRow> = self.store.all(read).await?;
        match rows.last().filter(|_| rows.len() == STEP as usize) {
            Some(last) => besides.put(sweep_job(room, Some(last.event))),
            None => besides.delete::<JobRow>(key()),
        };
        let places = rows.iter().map(|row| (room, row.event)).collect();
        self.index(&places, besides, None).await
    }
}
