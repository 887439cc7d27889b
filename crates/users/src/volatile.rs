//! The volatile counter: typing and presence change too often, and matter too little, to be written to disk. They are
//! counted within one process epoch; a sync token names epoch and number, and another epoch means "send all again".

use std::sync::Arc;

use parking_lot::RwLock;
use store::{RoomNum, UserId};
use tokio::sync::watch;

/// Characters of an epoch's random name.
pub(crate) const EPOCH_LENGTH: usize = 6;

/// A place among the volatile changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolatilePosition {
    /// Random name of the process's life.
    pub epoch: Arc<str>,
    /// Number of the last change.
    pub number: i64,
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolatileChange<'a> {
    /// Who types in a room.
    Typing(RoomNum),
    /// A user's presence.
    Presence(&'a UserId),
}

/// Something that is told of each volatile change: the waker of waiting syncs.
pub trait VolatileFollower: Send + Sync {
    /// Change number `number` has happened. Must be quick and must not call back.
    fn changed(&self, number: i64, change: VolatileChange<'_>);
}

/// The counter of volatile changes.
pub struct Volatile {
    epoch: Arc<str>,
    number: watch::Sender<i64>,
    followers: RwLock<Vec<Arc<dyn VolatileFollower>>>,
}

impl Volatile {
    pub(crate) fn new(epoch: String) -> Self {
        Self { epoch: epoch.into(), number: watch::Sender::new(0), followers: RwLock::default() }
    }

    /// Where the counter stands.
    pub fn position(&self) -> VolatilePosition {
        VolatilePosition { epoch: Arc::clone(&self.epoch), number: *self.number.borrow() }
    }

    /// The number after which a reader with this position wants changes: 0, that is all, if it is of another epoch.
    pub fn since(&self, epoch: &str, number: i64) -> i64 {
        let known = *epoch == *self.epoch && number <= *self.number.borrow();
        if known { number } else { 0 }
    }

    /// A receiver that sees every move of the counter.
    pub fn subscribe(&self) -> watch::Receiver<i64> {
        self.number.subscribe()
    }

    /// Adds a follower; at boot, before anything is served.
    pub fn add_follower(&self, follower: Arc<dyn VolatileFollower>) {
        self.followers.write().push(follower);
    }

    /// Counts one change. `keep` stores it under its number before readers can see the number.
    pub(crate) fn change(&self, change: VolatileChange<'_>, keep: impl FnOnce(i64)) {
        let mut keep = Some(keep);
        self.number.send_modify(|number| {
            *number += 1;
            if let Some(keep) = keep.take() {
                keep(*number);
            }
        });
        let number = *self.number.borrow();
        for follower in self.followers.read().iter() {
            follower.changed(number, change);
        }
    }
}
