//! Queues for decisions about the same thing: on one node they wait for each other instead of losing races. Between nodes
//! the expectations of each commit still decide.

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::sync::{Mutex, MutexGuard};

/// Queues that there are; things that fall into the same one wait without need, and come to no harm.
const QUEUES: usize = 64;

/// A fixed number of queues. Who holds a place may not ask for another: it could be in the same queue.
pub(crate) struct Queues([Mutex<()>; QUEUES]);

impl Default for Queues {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(())))
    }
}

impl Queues {
    /// Waits until it is this one's turn to change `thing`; the turn ends with the guard.
    pub(crate) async fn turn(&self, thing: &(impl Hash + ?Sized)) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        thing.hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % (QUEUES as u64)).unwrap_or_default();
        self.0[place % QUEUES].lock().await
    }
}
