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

    /// Runs a job that keeps a core busy for long, such as decoding an image: behind all that somebody waits for.
    fn run_long(&self, job: Job) {
        self.run(job);
    }
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
    let (job, receiver) = job_of(work);
    blocking.run(job);
    receiver.await.map_err(|_| Error::JobDropped)
}

/// As [`run`], for work that keeps a core busy for long.
///
/// # Errors
/// [`Error::JobDropped`] if it panicked or was dropped.
pub(crate) async fn run_long<T: Send + 'static>(
    blocking: &Arc<dyn Blocking>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let (job, receiver) = job_of(work);
    blocking.run_long(job);
    receiver.await.map_err(|_| Error::JobDropped)
}

fn job_of<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> (Job, oneshot::Receiver<T>) {
    let (sender, receiver) = oneshot::channel();
    // The asker may have gone.
    (Box::new(move || drop(sender.send(work()))), receiver)
}
