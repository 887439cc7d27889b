//! One lock per name, so that the same thing is not asked for twice at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// From so many names on, those that nobody holds are swept out before one is added.
const SWEEP_AT: usize = 256;

/// Locks by name.
#[derive(Default)]
pub(crate) struct Locks(Mutex<BTreeMap<String, Weak<AsyncMutex<()>>>>);

impl Locks {
    /// Waits until nobody else holds `name`.
    pub(crate) async fn hold(&self, name: &str) -> OwnedMutexGuard<()> {
        self.lock_of(name).lock_owned().await
    }

    fn lock_of(&self, name: &str) -> Arc<AsyncMutex<()>> {
        let mut locks = self.0.lock();
        if let Some(lock) = locks.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.len() >= SWEEP_AT {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::new(AsyncMutex::new(()));
        locks.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }
}
