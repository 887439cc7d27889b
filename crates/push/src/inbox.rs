//! What was committed and is not yet dispatched.

use std::collections::VecDeque;

use parking_lot::Mutex;
use store::{Follower, StreamEntry, StreamKind, StreamPosition};
use tokio::sync::Notify;

/// Entries that wait in memory; beyond, they are read from the stream.
const INBOX_MAX: usize = 10_000;

/// What waits.
#[derive(Default)]
pub(crate) struct Waiting {
    /// In the order of positions.
    pub entries: VecDeque<(StreamPosition, StreamEntry)>,
    /// Entries were passed over: read on from the stream.
    pub overflow: bool,
}

/// Follows the stream.
#[derive(Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    /// Told of everything that comes.
    pub filled: Notify,
}

impl Inbox {
    /// All that waits.
    pub fn take(&self) -> Waiting {
        std::mem::take(&mut *self.waiting.lock())
    }
}

impl Follower for Inbox {
    fn committed(&self, first: StreamPosition, entries: &[StreamEntry]) {
        let mut waiting = self.waiting.lock();
        let before = waiting.entries.len();
        for (pos, entry) in (first.0..).map(StreamPosition).zip(entries) {
            if !is_looked_at(entry.kind) {
                continue;
            }
            if waiting.entries.len() >= INBOX_MAX {
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

/// Kinds of changes that make a push, or change who gets one or what is unread.
pub(crate) fn is_looked_at(kind: StreamKind) -> bool {
    use StreamKind::*;
    matches!(kind, Event | EventChanged | RoomHead | RoomPurged | Receipt | AccountData | Membership | Pusher | Account)
}
