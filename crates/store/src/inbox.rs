//! What was committed since a reader last looked: in memory as long as it keeps up, else from the stream.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Interval, MissedTickBehavior};

use crate::tables::core::StreamRow;
use crate::{Error, Follower, Read, Store, StreamEntry, StreamKind, StreamPosition};

/// Entries that wait in memory; beyond, they are read from the stream.
const ENTRIES_MAX: usize = 10_000;
/// Entries that are read from the stream at a time.
const PAGE: u32 = 1_000;

/// Entries with their positions, in their order.
pub type Entries = VecDeque<(StreamPosition, StreamEntry)>;

#[derive(Default)]
struct Waiting {
    entries: Entries,
    /// Entries were passed over.
    overflow: bool,
}

/// Collects the entries that a reader looks at.
pub struct Inbox {
    is_wanted: fn(StreamKind) -> bool,
    waiting: Mutex<Waiting>,
    /// Told of everything that comes.
    pub filled: Notify,
}

impl Inbox {
    /// An inbox for entries of some kinds; to be added to the notifier as a follower.
    pub fn new(is_wanted: fn(StreamKind) -> bool) -> Self {
        Self { is_wanted, waiting: Mutex::default(), filled: Notify::new() }
    }

    /// All that waits, and whether more came than waits: the stream is to be read on from the last of these.
    pub fn take(&self) -> (Entries, bool) {
        let Waiting { entries, overflow } = std::mem::take(&mut *self.waiting.lock());
        (entries, overflow)
    }

    /// The next entries in the stream after a position, and the position up to which they were looked for; `None` at its
    /// end.
    ///
    /// # Errors
    /// As the store says.
    pub async fn read(&self, store: &Store, after: StreamPosition) -> Result<Option<(Entries, StreamPosition)>, Error> {
        let read = Read::prefix::<StreamRow>(vec![]).after(after).up_to(store.watermark()).limit(PAGE);
        let rows: Vec<StreamRow> = store.all(read).await?;
        let Some(last) = rows.last().map(|row| row.pos) else { return Ok(None) };
        let entries = rows.into_iter().filter_map(|row| {
            let kind = StreamKind::from_number(row.kind).filter(|kind| (self.is_wanted)(*kind))?;
            Some((row.pos, StreamEntry { kind, room: row.room, user: row.user_id, number: row.number }))
        });
        Ok(Some((entries.collect(), last)))
    }
}

impl Follower for Inbox {
    fn committed(&self, first: StreamPosition, entries: &[StreamEntry]) {
        let mut waiting = self.waiting.lock();
        let before = waiting.entries.len();
        for (pos, entry) in (first.0..).map(StreamPosition).zip(entries) {
            if !(self.is_wanted)(entry.kind) {
                continue;
            }
            if waiting.entries.len() >= ENTRIES_MAX {
                waiting.overflow = true;
                break;
            }
            waiting.entries.push_back((pos, entry.clone()));
        }
        if waiting.overflow || waiting.entries.len() > before {
            drop(waiting);
            self.filled.notify_one();
        }
    }
}

/// Ticks at this pace for what a reader does besides; after a delay the pace begins anew.
pub fn ticks(every: Duration) -> Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
