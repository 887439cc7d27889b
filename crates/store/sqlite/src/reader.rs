//! The threads that read: each owns a connection that cannot write, and answers one call from one snapshot.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use store::{Error, Read, Rows};
use tokio::sync::oneshot;

use crate::sql::Statements;
use crate::{Shared, errors};

/// A snapshot that is held longer keeps the log from being emptied, so it is cut.
const READ_TIME_MAX: Duration = Duration::from_secs(10);
/// Steps of SQLite's machine between two looks at the clock.
const STEPS_PER_LOOK: i32 = 20_000;

/// Work for a reader.
pub(crate) enum Job {
    /// Reads to answer from one snapshot.
    Read(Vec<Read>, oneshot::Sender<Result<Vec<Rows>, Error>>),
    /// The reader's last job.
    Close,
}

/// Cuts reads that take too long.
struct Deadline {
    since: Instant,
    /// Milliseconds after `since` at which the current read is cut.
    at_ms: Arc<AtomicU64>,
}

impl Deadline {
    fn new(connection: &mut Connection) -> rusqlite::Result<Self> {
        let since = Instant::now();
        let at_ms = Arc::new(AtomicU64::new(u64::MAX));
        let seen = at_ms.clone();
        let late = move || elapsed_ms(since) > seen.load(Ordering::Relaxed);
        connection.progress_handler(STEPS_PER_LOOK, Some(late))?;
        Ok(Self { since, at_ms })
    }

    fn start(&self) {
        let at = elapsed_ms(self.since).saturating_add(u64::try_from(READ_TIME_MAX.as_millis()).unwrap_or(u64::MAX));
        self.at_ms.store(at, Ordering::Relaxed);
    }
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A reader's life.
pub(crate) fn run(mut connection: Connection, jobs: &flume::Receiver<Job>, shared: &Shared) {
    let deadline = match Deadline::new(&mut connection) {
        Ok(deadline) => deadline,
        Err(error) => {
            tracing::error!(%error, "a database reader cannot start");
            return;
        }
    };
    let connection = &connection;
    let mut statements = Statements::new(connection);
    while let Ok(Job::Read(reads, answer)) = jobs.recv() {
        if answer.is_closed() {
            continue;
        }
        deadline.start();
        let outcome = match shared.ended.get() {
            Some(error) => Err(error.clone()),
            None => catch_unwind(AssertUnwindSafe(|| snapshot(connection, &mut statements, &reads)))
                .unwrap_or_else(|_| Err(Error::Engine("a database reader panicked".to_owned()))),
        };
        if outcome.is_err() && !connection.is_autocommit() {
            drop(connection.execute_batch("ROLLBACK"));
        }
        // Who asked may have gone.
        drop(answer.send(outcome));
    }
}

fn snapshot(connection: &Connection, statements: &mut Statements<'_>, reads: &[Read]) -> Result<Vec<Rows>, Error> {
    // One statement is one snapshot by itself.
    let several = reads.len() > 1;
    if several {
        connection.prepare_cached("BEGIN DEFERRED").and_then(|mut begin| begin.execute([])).map_err(errors::engine)?;
    }
    let rows = reads.iter().map(|read| statements.select(read).map(Rows)).collect::<Result<_, _>>()?;
    if several {
        connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])).map_err(errors::engine)?;
    }
    Ok(rows)
}
