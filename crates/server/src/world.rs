//! The real clock, the real randomness, and threads for work that blocks; a simulation gives a server others.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use federation::transport::Transport;
use push::Gateways;
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
            false => Arc::new(|job: media::Job| drop(tokio::task::spawn_blocking(job))),
        }
    }

    /// Where passwords are hashed.
    pub fn password_threads(&self) -> Arc<dyn users::Blocking> {
        if self.inline { Arc::new(users::Inline) } else { Arc::new(Threads) }
    }
}

/// Threads for work that keeps a core busy.
struct Threads;

impl users::Blocking for Threads {
    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        drop(tokio::task::spawn_blocking(work));
    }
}
