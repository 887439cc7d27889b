//! Where work that blocks (files, decoding) runs: on an executor that is given at boot, since only the program spawns.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::Error;

/// A piece of work that may block.
pub type Job = Box<dyn FnOnce() + Send + 'static>;

/// Runs jobs away from the async workers. Any `Fn(Job)` is one, for example a closure around a thread pool.
pub trait Blocking: Send + Sync + 'static {
    /// Runs the job, now or later, on any thread. A job must not be lost, except at shutdown.
    fn run(&self, job: Job);
}

impl<F: Fn(Job) + Send + Sync + 'static> Blocking for F {
    fn run(&self, job: Job) {
        self(job);
    }
}

/// Runs `work` on the executor and waits for its result.
///
/// # Errors
/// [`Error::JobDropped`] if it panicked or was dropped.
pub(crate) async fn run<T: Send + 'static>(
    blocking: &Arc<dyn Blocking>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let (sender, receiver) = oneshot::channel();
    blocking.run(Box::new(move || {
        // The asker may have gone.
        drop(sender.send(work()));
    }));
    receiver.await.map_err(|_| Error::JobDropped)
}
