//! The real clock, the real randomness, and threads for work that blocks; a simulation gives a server others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::{SystemTime, UNIX_EPOCH};

use federation::transport::Transport;
use parking_lot::Mutex;
use push::Gateways;
use rand::Rng;
use store::{Clock, Entropy};

/// How far work that takes long steps back for all else, as `nice` counts.
const LONG_JOBS_NICE: i32 = 10;

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// The system's random bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        rand::rng().fill_bytes(bytes);
    }
}

/// What is around a server: time, randomness, the way to other servers, threads.
#[derive(Clone)]
pub struct World {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
    /// What carries requests to other servers, in place of the network.
    pub transport: Option<Arc<dyn Transport>>,
    /// What carries pushes to their gateways, in place of the network.
    pub gateways: Option<Arc<dyn Gateways>>,
    /// What carries mails, in place of the network.
    pub mailer: Option<Arc<dyn users::Mailer>>,
    /// Whether work that blocks is done where it is asked for instead of on threads of its own: then the order in which
    /// things happen is the same in each run.
    pub inline: bool,
}

impl World {
    /// The real one.
    pub fn real() -> Self {
        Self::of(Arc::new(SystemClock), Arc::new(SystemEntropy))
    }

    /// The real network and real threads, with time and randomness as given.
    pub fn of(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { clock, entropy, transport: None, gateways: None, mailer: None, inline: false }
    }

    /// Where files are read and images decoded.
    pub fn media_threads(&self) -> Arc<dyn media::Blocking> {
        match self.inline {
            true => Arc::new(|job: media::Job| job()),
            false => Arc::new(MediaThreads::new()),
        }
    }

    /// Where passwords are hashed.
    pub fn password_threads(&self) -> Arc<dyn users::Blocking> {
        if self.inline { Arc::new(users::Inline) } else { Arc::new(Threads) }
    }
}

/// Threads for files, and some that decode images: half as many as there are cores, and at a low priority, so that they
/// take no time from who sends and syncs.
struct MediaThreads {
    long: mpsc::Sender<media::Job>,
}

impl MediaThreads {
    fn new() -> Self {
        let (long, jobs) = mpsc::channel::<media::Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        let count = std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
        for _ in 0..count {
            let jobs = Arc::clone(&jobs);
            let worker = std::thread::Builder::new().name("hearth-images".to_owned());
            if let Err(error) = worker.spawn(move || run_long_jobs(&jobs)) {
                tracing::error!(%error, "no thread can be started for images");
            }
        }
        Self { long }
    }
}

impl media::Blocking for MediaThreads {
    fn run(&self, job: media::Job) {
        drop(tokio::task::spawn_blocking(job));
    }

    fn run_long(&self, job: media::Job) {
        // Without a thread that takes it the job is dropped, and who waits for it is told so.
        drop(self.long.send(job));
    }
}

/// Runs jobs until nobody can send any more.
fn run_long_jobs(jobs: &Mutex<mpsc::Receiver<media::Job>>) {
    // On Linux this is about the calling thread alone.
    if let Err(error) = rustix::process::setpriority_process(None, LONG_JOBS_NICE) {
        tracing::debug!(%error, "images are decoded at the priority of all else");
    }
    loop {
        let job = jobs.lock().recv();
        let Ok(job) = job else { return };
        // A decoder that panics at a file must not take the thread along.
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::warn!("a decoder panicked");
        }
    }
}

/// Threads for work that keeps a core busy.
struct Threads;

impl users::Blocking for Threads {
    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        drop(tokio::task::spawn_blocking(work));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use media::Blocking as _;

    use super::*;

    #[test]
    fn long_jobs_step_back_and_outlast_a_panic() {
        let threads = MediaThreads::new();
        for _ in 0..8 {
            threads.run_long(Box::new(|| panic!("on purpose")));
        }
        let (sender, receiver) = mpsc::channel();
        threads.run_long(Box::new(move || {
            let nice = rustix::process::getpriority_process(None).unwrap();
            sender.send((std::thread::current().name().map(str::to_owned), nice)).unwrap();
        }));
        let (name, nice) = receiver.recv().unwrap();
        assert_eq!(name.as_deref(), Some("hearth-images"));
        let own = rustix::process::getpriority_process(None).unwrap();
        assert!(nice > own || own >= LONG_JOBS_NICE, "{nice} beside {own}");
    }
}
