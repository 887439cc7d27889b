//! The real clock, the real randomness, and threads for work that blocks.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rand::Rng;
use store::{Clock, Entropy};

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

/// Time and randomness, as a server is given them.
#[derive(Clone)]
pub struct World {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
}

impl World {
    /// The real ones.
    pub fn real() -> Self {
        Self { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) }
    }
}

impl World {
    /// Where files are read and images decoded.
    pub fn media_threads(&self) -> Arc<dyn media::Blocking> {
        Arc::new(|job: media::Job| drop(tokio::task::spawn_blocking(job)))
    }
}

/// Threads for work that keeps a core busy.
struct Threads;

impl users::Blocking for Threads {
    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        drop(tokio::task::spawn_blocking(work));
    }
}

impl World {
    /// Where passwords are hashed.
    pub fn password_threads(&self) -> Arc<dyn users::Blocking> {
        Arc::new(Threads)
    }
}
