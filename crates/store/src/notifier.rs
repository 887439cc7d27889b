//! "Position n is committed; these rooms and users changed": how followers learn of commits, in order and without loss.

use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::{StreamEntry, StreamPosition};

/// Something that is told of each committed stream entry, in position order, before the watermark moves past it.
/// It runs on the engine's writer: it must be quick and must not block.
pub trait Follower: Send + Sync {
    /// The entries from position `first` on have been committed.
    fn committed(&self, first: StreamPosition, entries: &[StreamEntry]);
}

/// Where engines publish commits and followers learn of them.
pub struct Notifier {
    watermark: watch::Sender<StreamPosition>,
    followers: RwLock<Vec<Arc<dyn Follower>>>,
}

impl Notifier {
    /// A notifier whose stream ends at `end`.
    pub fn new(end: StreamPosition) -> Self {
        Self { watermark: watch::Sender::new(end), followers: RwLock::new(Vec::new()) }
    }

    /// Adds a follower; at boot, before anything is served. Followers are called in the order of their adding.
    pub fn add_follower(&self, follower: Arc<dyn Follower>) {
        self.followers.write().push(follower);
    }

    /// The last position that is committed and of which all followers know.
    pub fn watermark(&self) -> StreamPosition {
        *self.watermark.borrow()
    }

    /// A receiver that sees every move of the watermark (the last value, never a missed one).
    pub fn subscribe(&self) -> watch::Receiver<StreamPosition> {
        self.watermark.subscribe()
    }

    /// For engines: tells that `entries`, the first at position `first`, have been committed. Calls must come in order.
    /// What is already behind the watermark is left out, so a gap may be filled by telling too much.
    pub fn publish(&self, first: StreamPosition, entries: &[StreamEntry]) {
        let known = self.watermark().0;
        let skip = usize::try_from((known + 1 - first.0).max(0)).unwrap_or(usize::MAX);
        let Some(fresh) = entries.get(skip..) else { return };
        if fresh.is_empty() {
            return;
        }
        let first = StreamPosition(first.0.max(known + 1));
        for follower in self.followers.read().iter() {
            follower.committed(first, fresh);
        }
        let last = first.0 + i64::try_from(fresh.len()).unwrap_or(0) - 1;
        self.watermark.send_replace(StreamPosition(last));
    }
}
