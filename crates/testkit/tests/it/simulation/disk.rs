//! The real SQLite store in lockstep with the simulation: its threads work only while the simulation waits for them, so
//! that nothing depends on their speed. Batches that are submitted while the disk is busy are committed as one group.

use std::path::Path;
use std::pin::pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sqlite::shim::Disk;
use sqlite::{LogPolicy, Options, Sqlite};
use store::engine::Outcome;
use store::tables::core::CounterRow;
use store::tables::rooms::EventRow;
use store::{CommitBatch, Engine, Error, Follower, Notifier, Read, Row, Rows, StreamEntry, StreamPosition, Table};
use store::{Ticket, Value};
use tokio::sync::Notify;

use super::chance::Chance;
use super::node::Life;
use super::story::Mutant;

/// How long a commit takes at most, in milliseconds.
const COMMIT_MS_MAX: u64 = 6;

/// When the log is moved: often, and never because of time that passes outside the simulation.
const LOG: LogPolicy =
    LogPolicy { idle: Duration::from_secs(1 << 20), idle_bytes: i64::MAX, max_bytes: 400_000, commits_per_look: 8 };

/// Runs a future to its end on this thread, which sleeps meanwhile.
pub fn wait_for<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    // The budget of the task that runs here is not to be used up: nobody would renew it.
    let mut future = pin!(tokio::task::unconstrained(future));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// What the writer has published and nobody has been told of yet.
#[derive(Default)]
struct Published(Mutex<Vec<(StreamPosition, Vec<StreamEntry>)>>);

impl Follower for Published {
    fn committed(&self, first: StreamPosition, entries: &[StreamEntry]) {
        self.0.lock().push((first, entries.to_vec()));
    }
}

/// Holds the writer back in a group of one batch until all that are to be the next group wait for it.
struct Gate {
    armed: Mutex<bool>,
    entered: (Sender<()>, Mutex<Receiver<()>>),
    opened: (Sender<()>, Mutex<Receiver<()>>),
}

impl Gate {
    fn new() -> Self {
        let pair = || {
            let (sender, receiver) = channel();
            (sender, Mutex::new(receiver))
        };
        Self { armed: Mutex::new(false), entered: pair(), opened: pair() }
    }

    /// Called by the writer before it commits.
    fn pass(&self) {
        if std::mem::take(&mut *self.armed.lock()) {
            self.entered.0.send(()).unwrap();
            self.opened.1.lock().recv().unwrap();
        }
    }
}

/// An engine of one life of a server.
pub struct Lockstep {
    inner: Arc<Sqlite>,
    disk: Arc<Disk>,
    life: Life,
    mutant: Mutant,
    notifier: Notifier,
    published: Arc<Published>,
    gate: Arc<Gate>,
    waiting: Mutex<Vec<(CommitBatch, Outcome)>>,
    submitted: Notify,
}

impl Lockstep {
    /// Opens the database at a path, on a disk that has power.
    ///
    /// # Errors
    /// If the power goes meanwhile.
    pub fn open(
        path: &Path,
        disk: &Arc<Disk>,
        life: &Life,
        chance: &Chance,
        mutant: Mutant,
    ) -> Result<Arc<Self>, Error> {
        let gate = Arc::new(Gate::new());
        let passing = Arc::clone(&gate);
        let options = Options {
            readers: 1,
            cache_bytes: 8 << 20,
            vfs: Some(disk.vfs().to_owned()),
            on_group: Some(Arc::new(move |_| passing.pass())),
            log: LOG,
            // A busy machine is no reason for a simulated server to give up.
            read_time_max: Duration::from_secs(3_600),
            ..Options::default()
        };
        let inner = Arc::new(Sqlite::open(path, options)?);
        let published = Arc::new(Published::default());
        inner.notifier().add_follower(Arc::clone(&published) as _);
        let engine = Arc::new(Self {
            notifier: Notifier::new(inner.notifier().watermark()),
            inner,
            disk: Arc::clone(disk),
            life: life.clone(),
            mutant,
            published,
            gate,
            waiting: Mutex::default(),
            submitted: Notify::new(),
        });
        tokio::spawn(commit_now_and_then(Arc::downgrade(&engine), chance.fork()));
        Ok(engine)
    }

    /// SQLite itself.
    pub fn sqlite(&self) -> Arc<Sqlite> {
        Arc::clone(&self.inner)
    }

    /// Closes everything, with power or without.
    pub fn end(&self) {
        wait_for(self.inner.close());
    }

    /// Commits what waits as one group, or as two: the first batch alone where there are several.
    fn commit_waiting(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        if waiting.is_empty() || self.life.is_over() {
            return self.forget(waiting);
        }
        let (batches, outcomes): (Vec<CommitBatch>, Vec<Outcome>) = waiting.into_iter().unzip();
        let several = batches.len() > 1;
        *self.gate.armed.lock() = several;
        let mut batches = batches.into_iter();
        let mut tickets: Vec<Ticket> = batches.by_ref().take(1).map(|batch| self.inner.submit(batch)).collect();
        if several {
            self.gate.entered.1.lock().recv().unwrap();
            tickets.extend(batches.map(|batch| self.inner.submit(batch)));
            self.gate.opened.0.send(()).unwrap();
        }
        let results: Vec<_> = tickets.into_iter().map(wait_for).collect();
        // The writer looks at its log after it has answered.
        drop(wait_for(self.inner.import(CounterRow::TABLE, Vec::new())));
        if self.disk.is_dead() {
            // Nobody learns what became of it before the next life.
            outcomes.into_iter().for_each(std::mem::forget);
            return self.life.end();
        }
        for (first, entries) in std::mem::take(&mut *self.published.0.lock()) {
            self.notifier.publish(first, &entries);
        }
        for (outcome, result) in outcomes.into_iter().zip(results) {
            drop(outcome.send(result));
        }
    }

    /// Who waits for these waits for ever, like everything of a life that is over.
    fn forget(&self, waiting: Vec<(CommitBatch, Outcome)>) {
        waiting.into_iter().for_each(|(_, outcome)| std::mem::forget(outcome));
    }
}

async fn commit_now_and_then(engine: Weak<Lockstep>, chance: Chance) {
    loop {
        let Some(engine) = engine.upgrade() else { return };
        engine.submitted.notified().await;
        tokio::time::sleep(Duration::from_millis(chance.below(COMMIT_MS_MAX))).await;
        engine.commit_waiting();
        if engine.life.is_over() {
            return;
        }
    }
}

/// Whether a read looks for what another server has missed in a room.
fn is_catching_up(read: &Read) -> bool {
    let by_position = read.index.is_some_and(|index| index.name == EventRow::BY_POS.name);
    read.table == EventRow::TABLE && by_position && read.reverse && read.limit == 1_000
}

#[async_trait]
impl Engine for Lockstep {
    fn submit(&self, batch: CommitBatch) -> Ticket {
        let (outcome, ticket) = Ticket::new();
        if self.life.is_over() {
            std::mem::forget(outcome);
            return ticket;
        }
        self.waiting.lock().push((batch, outcome));
        self.submitted.notify_one();
        ticket
    }

    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Rows>, Error> {
        if self.life.is_over() {
            return std::future::pending().await;
        }
        let mut rows = match wait_for(self.inner.read(reads.clone())) {
            Err(_) if self.disk.is_dead() => {
                self.life.end();
                return std::future::pending().await;
            }
            rows => rows?,
        };
        if self.mutant.no_catch_up {
            let missed = reads.iter().zip(&mut rows).filter(|(read, _)| is_catching_up(read));
            missed.for_each(|(_, rows)| rows.0.clear());
        }
        Ok(rows)
    }

    fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    async fn import(&self, _: &'static Table, _: Vec<Vec<Value>>) -> Result<(), Error> {
        unreachable!("databases are not moved here")
    }

    async fn close(&self) {
        self.end();
    }
}
