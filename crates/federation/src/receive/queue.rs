//! The durable queue: a row per event between the answer to its transaction and its room's worker.

use std::collections::HashMap;

use event::Verified;
use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use store::tables::federation::{InboundDropRow, InboundPduRow};
use store::{CommitBatch, CommitError, Read, Store};

use super::schedule::Schedule;

/// The sequence that numbers queued events in the order of arrival.
const SEQUENCE: &str = "inbound_pdus";
/// Most events of one peer that are queued; more are refused for now.
const PDUS_PER_PEER_MAX: usize = 5_000;
/// Rows read at a time when the queue is taken up again.
const PAGE: u32 = 1_000;
/// Bytes of events that are kept in verified form until their worker comes.
const FRESH_BYTES_MAX: u64 = 16 << 20;

/// The queue, and what is in memory of it.
pub(super) struct Queue {
    store: Store,
    /// Whose turn it is.
    pub schedule: Schedule,
    /// How many events each peer has queued.
    counts: Mutex<HashMap<String, usize>>,
    /// Verified events, so that they need not be verified twice.
    fresh: Cache<(String, String), Verified, Weight>,
}

#[derive(Clone)]
struct Weight;

impl Weighter<(String, String), Verified> for Weight {
    fn weight(&self, _: &(String, String), event: &Verified) -> u64 {
        u64::try_from(event.pdu().bytes.len()).unwrap_or(0) * 3 + 512
    }
}

/// What became of a queued event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It needs no more work.
    Done,
    /// It came to a dead end.
    Dropped(String),
    /// It is to be tried again at this time, in milliseconds since the epoch.
    Later {
        /// When.
        due_ms: i64,
        /// How many tries are counted then.
        attempts: i64,
    },
}

impl Queue {
    pub fn new(store: Store) -> Self {
        let items = usize::try_from(FRESH_BYTES_MAX / 4_096).unwrap_or(1_024);
        Self {
            store,
            schedule: Schedule::default(),
            counts: Mutex::default(),
            fresh: Cache::with_weighter(items, FRESH_BYTES_MAX, Weight),
        }
    }

    /// After the start: takes up what a former life left.
    pub async fn resume(&self) -> Result<(), store::Error> {
        let mut room_id = String::new();
        loop {
            let next = Read::prefix::<InboundPduRow>(vec![]).after(room_id.as_str()).limit(1);
            let Some(row) = self.store.one::<InboundPduRow>(next).await? else { return Ok(()) };
            room_id = row.room_id;
            let mut event_id = String::new();
            loop {
                let read = Read::prefix::<InboundPduRow>(vec![room_id.as_str().into()]).after(event_id.as_str());
                let rows: Vec<InboundPduRow> = self.store.all(read.limit(PAGE)).await?;
                let Some(last) = rows.last() else { break };
                event_id = last.event_id.clone();
                for row in &rows {
                    self.count(&row.origin, 1);
                    self.schedule.add_later(&row.room_id, &row.origin, row.due_ms);
                }
            }
        }
    }

    /// Whether a peer may queue more.
    pub fn has_place(&self, origin: &str) -> bool {
        self.counts.lock().get(origin).is_none_or(|count| *count < PDUS_PER_PEER_MAX)
    }

    /// Adds the rows of events to a batch. Those that are queued already stay as they are.
    pub async fn put(
        &self,
        batch: &mut CommitBatch,
        origin: &str,
        events: Vec<Verified>,
    ) -> Result<Vec<InboundPduRow>, store::Error> {
        let reads = events.iter().map(|event| {
            let pdu = event.pdu();
            Read::get::<InboundPduRow>(vec![pdu.room_id.as_str().into(), pdu.event_id.as_str().into()])
        });
        let known = self.store.read(reads.collect()).await?;
        let fresh: Vec<Verified> =
            events.into_iter().zip(known).filter(|(_, known)| known.0.is_empty()).map(|(event, _)| event).collect();
        let count = i64::try_from(fresh.len()).unwrap_or(i64::MAX);
        if count == 0 {
            return Ok(Vec::new());
        }
        let first = self.store.next_numbers(SEQUENCE, count).await?;
        let mut rows = Vec::with_capacity(fresh.len());
        for (number, event) in (first..).zip(fresh) {
            let pdu = event.pdu();
            let row = InboundPduRow {
                room_id: pdu.room_id.to_string(),
                event_id: pdu.event_id.to_string(),
                number,
                origin: origin.to_owned(),
                pdu: pdu.bytes.to_vec(),
                attempts: 0,
                due_ms: 0,
            };
            batch.put(row.clone());
            // A redacted form lacks what its signatures were checked with: it is verified again.
            self.fresh.insert((row.room_id.clone(), row.event_id.clone()), event);
            rows.push(row);
        }
        Ok(rows)
    }

    /// The rows of a batch are durable: their rooms are to be worked on.
    pub fn added(&self, rows: &[InboundPduRow]) {
        for row in rows {
            self.count(&row.origin, 1);
            self.schedule.add(&row.room_id, &row.origin);
        }
    }

    /// The events of a room that are due, in order, at most `limit`.
    pub async fn due(&self, room_id: &str, now_ms: i64, limit: u32) -> Result<Vec<InboundPduRow>, store::Error> {
        let read = Read::along::<InboundPduRow>(InboundPduRow::BY_DUE, vec![room_id.into()]);
        self.store.all(read.up_to(now_ms).limit(limit)).await
    }

    /// The verified form of an event that came in this life and has not been worked on.
    pub fn take_fresh(&self, row: &InboundPduRow) -> Option<Verified> {
        self.fresh.remove(&(row.room_id.clone(), row.event_id.clone())).map(|(_, event)| event)
    }

    /// Writes down what became of events.
    pub async fn settle(&self, settled: Vec<(InboundPduRow, Outcome)>, now_ms: i64) -> Result<(), store::Error> {
        let mut batch = CommitBatch::new();
        let mut gone = Vec::new();
        let mut later = Vec::new();
        for (row, outcome) in settled {
            match outcome {
                Outcome::Later { due_ms, attempts } => {
                    later.push((row.room_id.clone(), row.origin.clone(), due_ms));
                    batch.put(InboundPduRow { due_ms, attempts, ..row });
                    continue;
                }
                Outcome::Dropped(reason) => {
                    tracing::info!(room_id = row.room_id, event_id = row.event_id, reason, "an event was dropped");
                    batch.put(InboundDropRow {
                        room_id: row.room_id.clone(),
                        event_id: row.event_id.clone(),
                        origin: row.origin.clone(),
                        reason,
                        at_ms: now_ms,
                    });
                }
                Outcome::Done => {}
            }
            batch.delete::<InboundPduRow>(vec![row.room_id.as_str().into(), row.event_id.as_str().into()]);
            gone.push(row.origin);
        }
        if batch.is_empty() {
            return Ok(());
        }
        commit(&self.store, batch).await?;
        gone.iter().for_each(|origin| self.count(origin, -1));
        later.iter().for_each(|(room_id, origin, due_ms)| self.schedule.add_later(room_id, origin, *due_ms));
        Ok(())
    }

    fn count(&self, origin: &str, change: isize) {
        let mut counts = self.counts.lock();
        let count = counts.entry(origin.to_owned()).or_default();
        *count = count.saturating_add_signed(change);
        if *count == 0 {
            counts.remove(origin);
        }
    }
}

/// Commits a batch without checks.
pub(super) async fn commit(store: &Store, batch: CommitBatch) -> Result<(), store::Error> {
    match store.commit(batch).await {
        Ok(_) => Ok(()),
        Err(CommitError::Store(error)) => Err(error),
        Err(error @ CommitError::Conflict { .. }) => Err(store::Error::Engine(error.to_string())),
    }
}
