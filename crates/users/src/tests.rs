//! Tests of the whole crate on the in-memory store, with a clock and randomness that the tests decide.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod accounts;
mod data;
mod email;
mod interactive;
mod keys;
mod live;
mod push;
mod remote_devices;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use store::model::Model;
use store::{Clock, Entropy, Store, UserId};
use store::{CommitBatch, Engine, Error, Notifier, Read, Rows, Table, Ticket, Value};

use crate::login::{LoggedIn, NewDevice};
use crate::registration::NewAccount;
use crate::{Blocking, Options, Users};

/// A clock that stands until it is told to go on.
pub(crate) struct FakeClock(AtomicI64);

impl FakeClock {
    pub(crate) fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Bytes that differ at each call and are the same in each run.
struct FakeEntropy(AtomicU64);

impl Entropy for FakeEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            let mut state = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
            state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            *byte = (state >> 29).to_le_bytes()[0];
        }
    }
}

/// An engine on which everybody else goes on between a read and what is done with it, so that decisions race.
struct Hesitant(Model);

#[async_trait::async_trait]
impl Engine for Hesitant {
    fn submit(&self, batch: CommitBatch) -> Ticket {
        self.0.submit(batch)
    }

    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Rows>, Error> {
        let rows = self.0.read(reads).await;
        tokio::task::yield_now().await;
        rows
    }

    fn notifier(&self) -> &Notifier {
        self.0.notifier()
    }

    async fn import(&self, table: &'static Table, rows: Vec<Vec<Value>>) -> Result<(), Error> {
        self.0.import(table, rows).await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

/// Runs work at once and counts it: whoever hashes a password has done so here.
#[derive(Default)]
pub(crate) struct Counted(AtomicUsize);

impl Counted {
    /// How often something was run since the last call.
    pub(crate) fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl Blocking for Counted {
    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        work();
    }
}

/// A server's users.
pub(crate) struct Bench {
    pub(crate) users: Arc<Users>,
    pub(crate) clock: Arc<FakeClock>,
    pub(crate) store: Store,
    pub(crate) hashing: Arc<Counted>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Options)) -> Self {
        Self::over(Arc::new(Model::new()), change).await
    }

    /// On an engine on which decisions race.
    pub(crate) async fn racing() -> Self {
        Self::racing_with(|_| {}).await
    }

    /// The same, with other options.
    pub(crate) async fn racing_with(change: impl FnOnce(&mut Options)) -> Self {
        Self::over(Arc::new(Hesitant(Model::new())), change).await
    }

    async fn over(engine: Arc<dyn Engine>, change: impl FnOnce(&mut Options)) -> Self {
        let store = Store::new(engine).await.unwrap();
        let clock = Arc::new(FakeClock(AtomicI64::new(1_000_000)));
        let mut options = Options::new("example.org");
        change(&mut options);
        let entropy = Arc::new(FakeEntropy(AtomicU64::new(1)));
        let hashing = Arc::new(Counted::default());
        let blocking = Arc::clone(&hashing) as Arc<dyn Blocking>;
        let users = Users::new(store.clone(), Arc::clone(&clock) as Arc<dyn Clock>, entropy, blocking, options);
        Self { users: users.await.unwrap(), clock, store, hashing }
    }

    /// Another node on the same store.
    pub(crate) async fn neighbor(&self) -> Arc<Users> {
        let (clock, entropy) = (Arc::clone(&self.clock) as Arc<dyn Clock>, Arc::new(FakeEntropy(AtomicU64::new(2))));
        let blocking = Arc::clone(&self.hashing) as Arc<dyn Blocking>;
        Users::new(self.store.clone(), clock, entropy, blocking, Options::new("example.org")).await.unwrap()
    }

    /// A logged-in user with the password `secret`.
    pub(crate) async fn join(&self, name: &str) -> LoggedIn {
        let new = NewAccount {
            localpart: Some(name.to_owned()),
            password: Some("secret".to_owned()),
            login: Some(NewDevice::default()),
            ..NewAccount::default()
        };
        self.users.register(new).await.unwrap().login.unwrap()
    }

    pub(crate) async fn works(&self, token: &str) -> bool {
        self.users.authenticate(token).await.is_ok()
    }
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::from(format!("@{name}:example.org"))
}
