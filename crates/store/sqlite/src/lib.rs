//! The storage contract on SQLite: one file, one process, nothing to install.
//!
//! One thread owns the only connection that writes ([`writer`]): it drains its queue into a group, judges and merges it,
//! commits it in one transaction with one fsync, publishes it and only then answers; between groups it moves the
//! write-ahead log into the database file. Writer and checkpointer are one connection on purpose: the topology in which
//! SQLite lost pages before 3.51.3 cannot arise. Other threads ([`reader`]) own connections that only read. When the
//! writer ends otherwise than by [`store::Engine::close`], nothing works any more: a server that reads but cannot write
//! looks alive and is not.

pub mod backup;
mod errors;
mod lock;
mod open;
mod reader;
pub mod schema;
#[cfg(unix)]
pub mod shim;
mod sql;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use store::{
    CommitBatch, CommitError, Engine, Error, Notifier, Outcome, Read, Rows, Table, Ticket, Value, Write, merge,
};
use tokio::sync::oneshot;

pub use backup::{Restored, prepare_restored};

/// SQLite before this version can lose committed pages when a checkpoint meets a write.
const SQLITE_VERSION_MIN: i32 = 3_051_003;
/// Batches that may wait for the writer.
const QUEUE_BATCHES_MAX: usize = 65_536;
/// Bytes of values that may wait for the writer.
const QUEUE_BYTES_MAX: usize = 256 << 20;
/// Reads that may wait for a reader; further ones wait at the door.
const QUEUE_READS_MAX: usize = 1_024;

/// Called when the database can no longer be written: the process should end.
pub type OnFatal = Box<dyn Fn() + Send + Sync>;

/// A test's hook, called by the writer with the number of batches before it commits a group.
pub type OnGroup = Arc<dyn Fn(usize) + Send + Sync>;

/// How a database is opened.
pub struct Options {
    /// Threads that read, each with a connection. Half as many connections answer calls for a few rows on the spot.
    pub readers: usize,
    /// Page cache of all connections together, in bytes.
    pub cache_bytes: usize,
    /// The name of a registered SQLite VFS to use instead of the system's (see [`shim`]).
    pub vfs: Option<String>,
    /// How long one call to read may take: its snapshot keeps the log from being emptied.
    pub read_time_max: Duration,
    /// Called once, from the writer's thread, when it ends otherwise than by `close`.
    pub on_fatal: Option<OnFatal>,
    /// A hook for tests.
    pub on_group: Option<OnGroup>,
    /// When the write-ahead log is moved into the database file.
    pub log: LogPolicy,
    /// The tables and how older databases become this version.
    pub schema: schema::Schema,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            readers: 4,
            cache_bytes: 32 << 20,
            vfs: None,
            read_time_max: Duration::from_secs(10),
            on_fatal: None,
            on_group: None,
            log: LogPolicy::default(),
            schema: schema::Schema::current(),
        }
    }
}

/// When the writer moves the write-ahead log into the database file.
#[derive(Clone, Copy, Debug)]
pub struct LogPolicy {
    /// So long without work, and what is worth it is moved.
    pub idle: Duration,
    /// Bytes of log that are worth moving when idle.
    pub idle_bytes: i64,
    /// Bytes of log at which it is moved and cut even under load.
    pub max_bytes: i64,
    /// Commits between two looks at the log's size.
    pub commits_per_look: u32,
}

impl Default for LogPolicy {
    fn default() -> Self {
        Self { idle: Duration::from_millis(20), idle_bytes: 1 << 20, max_bytes: 64 << 20, commits_per_look: 32 }
    }
}

/// A SQLite database that this process has opened, alone.
pub struct Sqlite {
    path: PathBuf,
    vfs: Option<String>,
    shared: Arc<Shared>,
    jobs: flume::Sender<Job>,
    reads: flume::Sender<reader::Job>,
    /// Connections for calls for a few rows; none are left once closed.
    quick: Vec<Mutex<Option<reader::Quick>>>,
    waiting: Waiting,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The other ends of the queues, for who sends something to a thread that has just ended.
pub(crate) struct Waiting {
    jobs: flume::Receiver<Job>,
    reads: flume::Receiver<reader::Job>,
}

/// What the threads share.
pub(crate) struct Shared {
    notifier: Notifier,
    /// Why nothing works any more, once that is so.
    ended: OnceLock<Error>,
    /// Whether `close` was called: nothing more is taken in.
    closing: AtomicBool,
    /// Whether no reader is left.
    unread: AtomicBool,
    queued_bytes: AtomicUsize,
}

/// Work for the writer.
pub(crate) enum Job {
    /// A batch, its size and where its outcome goes.
    Commit(CommitBatch, usize, Outcome),
    /// Rows to be written as they are.
    Import(&'static Table, Vec<Vec<Value>>, oneshot::Sender<Result<(), Error>>),
    /// The last job.
    Close,
}

impl Sqlite {
    /// Opens the database at `path`, or makes it if nothing is there.
    ///
    /// # Errors
    /// [`Error::Unusable`], with what to do, if the file is something else, is of a newer version, is used by another
    /// process, is damaged, or lies on a network file system; nothing of it is changed then. [`Error::DiskFull`].
    pub fn open(path: &Path, options: Options) -> Result<Self, Error> {
        open::open(path, options)
    }

    /// Where the database lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies the database to the file `to` while everything goes on; `progress` is told (pages done, pages in all).
    /// The copy is one snapshot, is checked, and stands at `to` only once it is whole and durable. Takes long: call it
    /// where blocking is allowed.
    ///
    /// # Errors
    /// [`Error::Unusable`] if the copy fails its check or the log grows too large meanwhile; [`Error::DiskFull`].
    pub fn backup(&self, to: &Path, progress: impl Fn(u64, u64)) -> Result<(), Error> {
        self.shared.usable()?;
        backup::copy(&self.path, self.vfs.as_deref(), to, progress)
    }
}

impl Sqlite {
    /// Has SQLite check the whole file; long, so call it where blocking is allowed.
    ///
    /// # Errors
    /// [`Error::Unusable`] with the first thing found wrong.
    pub fn check(&self) -> Result<(), Error> {
        self.shared.usable()?;
        let connection = open::connect(&self.path, self.vfs.as_deref())?;
        match backup::quick_check(&connection).map_err(errors::engine)? {
            verdict if verdict == "ok" => Ok(()),
            verdict => Err(Error::Unusable(format!(
                "the database {} is damaged ({verdict}): restore the last backup",
                self.path.display()
            ))),
        }
    }

    /// Answers a call for a few rows on the spot, if a connection is free. What fails here is left to the threads.
    fn read_quick(&self, reads: &[Read]) -> Option<Vec<Rows>> {
        if !reader::Quick::may_answer(reads) {
            return None;
        }
        let mut free = self.quick.iter().find_map(|quick| quick.try_lock())?;
        free.as_mut()?.answer(reads).ok().flatten()
    }

    /// Answers what was sent to threads that had ended by then. Each of them drains its queue after it has said that it
    /// ended; who sends and then sees that drains it again.
    fn refuse_late(&self) {
        if self.shared.ended.get().is_some() {
            writer::refuse_rest(&self.waiting.jobs, &self.shared);
        }
        if self.shared.unread.load(Ordering::Acquire) {
            reader::refuse_rest(&self.waiting.reads, &self.shared);
        }
    }
}

impl Shared {
    fn usable(&self) -> Result<(), Error> {
        match self.ended.get() {
            Some(error) => Err(error.clone()),
            None if self.closing.load(Ordering::Acquire) => Err(Error::Closed),
            None => Ok(()),
        }
    }

    /// What to say of work that was taken in and then forgotten.
    fn lost(&self) -> Error {
        self.ended.get().cloned().unwrap_or(Error::Closed)
    }
}

fn batch_bytes(batch: &CommitBatch) -> usize {
    let size = |values: &[Value]| values.iter().map(Value::size).sum::<usize>();
    batch
        .writes
        .iter()
        .map(|write| match write {
            Write::Put { row, .. } => size(row),
            Write::Delete { key, .. } => size(key),
            Write::DeleteRange { prefix, .. } => size(prefix),
        })
        .sum::<usize>()
        + batch.checks.iter().map(|check| size(&check.key)).sum::<usize>()
}

#[async_trait]
impl Engine for Sqlite {
    fn submit(&self, batch: CommitBatch) -> Ticket {
        let (outcome, ticket) = Ticket::new();
        let bytes = batch_bytes(&batch);
        let refused = self.shared.usable().and_then(|()| merge::well_formed(&batch)).err().or_else(|| {
            let waiting = self.shared.queued_bytes.load(Ordering::Relaxed);
            (waiting > 0 && waiting + bytes > QUEUE_BYTES_MAX).then(too_busy)
        });
        if let Some(error) = refused {
            drop(outcome.send(Err(CommitError::Store(error))));
            return ticket;
        }
        self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Err(refused) = self.jobs.try_send(Job::Commit(batch, bytes, outcome)) {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            let full = matches!(refused, flume::TrySendError::Full(_));
            if let Job::Commit(_, _, outcome) = refused.into_inner() {
                let error = if full { too_busy() } else { self.shared.lost() };
                drop(outcome.send(Err(CommitError::Store(error))));
            }
        }
        self.refuse_late();
        ticket
    }

    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Rows>, Error> {
        self.shared.usable()?;
        for read in &reads {
            read.well_formed()?;
        }
        if let Some(rows) = self.read_quick(&reads) {
            return Ok(rows);
        }
        let (answer, rows) = oneshot::channel();
        let job = reader::Job::Read(reads, answer);
        self.reads.send_async(job).await.map_err(|_| self.shared.lost())?;
        self.refuse_late();
        rows.await.unwrap_or_else(|_| Err(self.shared.lost()))
    }

    fn notifier(&self) -> &Notifier {
        &self.shared.notifier
    }

    async fn import(&self, table: &'static Table, rows: Vec<Vec<Value>>) -> Result<(), Error> {
        self.shared.usable()?;
        for row in &rows {
            merge::row_fits(table, row)?;
        }
        let (answer, done) = oneshot::channel();
        self.jobs.send_async(Job::Import(table, rows, answer)).await.map_err(|_| self.shared.lost())?;
        self.refuse_late();
        done.await.unwrap_or_else(|_| Err(self.shared.lost()))
    }

    async fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        for quick in &self.quick {
            drop(quick.lock().take());
        }
        let threads = std::mem::take(&mut *self.threads.lock());
        for _ in 1..threads.len() {
            drop(self.reads.send_async(reader::Job::Close).await);
        }
        drop(self.jobs.send_async(Job::Close).await);
        let join = move || threads.into_iter().for_each(|thread| drop(thread.join()));
        drop(tokio::task::spawn_blocking(join).await);
        self.shared.unread.store(true, Ordering::Release);
        self.refuse_late();
    }
}

fn too_busy() -> Error {
    Error::Engine("more writes are waiting than the disk can take".to_owned())
}
