//! One lock per name, so that the same work is not done twice at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// From so many names on, those that nobody holds any more are forgotten before one is added.
const FORGET_AT: usize = 256;

/// Locks by name. A name that nobody holds or waits for costs nothing.
#[derive(Default)]
pub(crate) struct Locks(Mutex<BTreeMap<String, Weak<AsyncMutex<()>>>>);

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
