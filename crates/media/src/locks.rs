//! One lock per name, so that the same work is not done twice at once; and so many places per name.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// From so many names on, those that nobody holds any more are forgotten before one is added.
const FORGET_AT: usize = 256;

/// Locks by name. A name that nobody holds or waits for costs nothing.
#[derive(Default)]
pub(crate) struct Locks(Mutex<BTreeMap<String, Weak<AsyncMutex<()>>>>);

/// Places by name, of which each name has the same number.
#[derive(Clone, Default)]
pub(crate) struct Places(Arc<Mutex<BTreeMap<String, u32>>>);

/// A place that is taken until this is dropped.
pub(crate) struct Place {
    places: Places,
    name: String,
}

impl Places {
    /// Takes a place of `name`; `None` if all `max` are taken.
    pub(crate) fn take(&self, name: &str, max: u32) -> Option<Place> {
        let mut taken = self.0.lock();
        let count = taken.get(name).copied().unwrap_or(0);
        if count >= max {
            return None;
        }
        taken.insert(name.to_owned(), count + 1);
        Some(Place { places: self.clone(), name: name.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock();
        match taken.get_mut(&self.name) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.name)),
        }
    }
}

impl Locks {
    /// Waits until nobody else holds `name`.
    pub(crate) async fn hold(&self, name: String) -> OwnedMutexGuard<()> {
        self.lock_of(name).lock_owned().await
    }

    fn lock_of(&self, name: String) -> Arc<AsyncMutex<()>> {
        let mut locks = self.0.lock();
        if let Some(lock) = locks.get(&name).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.len() >= FORGET_AT {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::default();
        locks.insert(name, Arc::downgrade(&lock));
        lock
    }
}
