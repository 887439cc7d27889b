//! A follower that notes what is published, to be compared with what was committed.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Failure;
use crate::notifier::Follower;
use crate::{Notifier, StreamEntry, StreamPosition};

pub(super) struct Watcher {
    opened_at: StreamPosition,
    published: Mutex<Vec<(StreamPosition, StreamEntry)>>,
    expected: Mutex<Vec<StreamEntry>>,
}

impl Watcher {
    pub(super) fn watch(notifier: &Notifier) -> Arc<Self> {
        let watcher =
            Arc::new(Self { opened_at: notifier.watermark(), published: Mutex::default(), expected: Mutex::default() });
        notifier.add_follower(watcher.clone());
        watcher
    }

    /// Notes that these entries were committed next.
    pub(super) fn expect(&self, entries: &[StreamEntry]) {
        self.expected.lock().extend(entries.iter().cloned());
    }

    /// Whether all that was committed was published: once each, in order, without a gap.
    pub(super) fn check(&self, notifier: &Notifier) -> Result<(), Failure> {
        let (published, expected) = (self.published.lock(), self.expected.lock());
        self.consecutive(&published)?;
        if published.len() != expected.len() {
            return Err(Failure(format!("{} entries published, {} committed", published.len(), expected.len())));
        }
        for ((position, got), wanted) in published.iter().zip(expected.iter()) {
            if got != wanted {
                return Err(Failure(format!("published {got:?} at {position}, wanted {wanted:?}")));
            }
        }
        let last = published.last().map_or(self.opened_at, |(position, _)| *position);
        if notifier.watermark() != last {
            return Err(Failure(format!("the watermark is {}, the last entry {last}", notifier.watermark())));
        }
        Ok(())
    }

    /// How many entries were published; fails if not consecutive.
    pub(super) fn count(&self) -> Result<usize, Failure> {
        let published = self.published.lock();
        self.consecutive(&published)?;
        Ok(published.len())
    }

    fn consecutive(&self, published: &[(StreamPosition, StreamEntry)]) -> Result<(), Failure> {
        for ((position, _), wanted) in published.iter().zip(self.opened_at.0 + 1..) {
            if position.0 != wanted {
                return Err(Failure(format!("position {position} was published where {wanted} was due")));
            }
        }
        Ok(())
    }
}

impl Follower for Watcher {
    fn committed(&self, first: StreamPosition, entries: &[StreamEntry]) {
        let positions = (first.0..).map(StreamPosition);
        self.published.lock().extend(positions.zip(entries.iter().cloned()));
    }
}
