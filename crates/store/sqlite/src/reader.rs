//! The threads that read: each owns a connection that cannot write, and answers one call from one snapshot. Calls for a
//! few rows are answered without a thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use store::{Error, LIMIT_MAX, Read, Rows, Value};
use tokio::sync::oneshot;

use crate::sql::{STATEMENTS_MAX, Statements, Texts};
use crate::{Shared, errors};

/// Steps of SQLite's machine between two looks at the clock.
const STEPS_PER_LOOK: i32 = 20_000;

/// Work for a reader.
pub(crate) enum Job {
    /// Reads to answer from one snapshot.
    Read(Vec<Read>, oneshot::Sender<Result<Vec<Rows>, Error>>),
    /// The reader's last job.
    Close,
}

/// A connection that only reads, and the clock that cuts its reads.
pub(crate) struct Reader {
    connection: Connection,
    since: Instant,
    /// Milliseconds after `since` at which the current read is cut.
    cut_at_ms: Arc<AtomicU64>,
    time_max_ms: u64,
}

impl Reader {
    pub(crate) fn new(mut connection: Connection, time_max: Duration) -> rusqlite::Result<Self> {
        let since = Instant::now();
        let cut_at_ms = Arc::new(AtomicU64::new(u64::MAX));
        let seen = cut_at_ms.clone();
        let late = move || elapsed_ms(since) > seen.load(Ordering::Relaxed);
        connection.progress_handler(STEPS_PER_LOOK, Some(late))?;
        let time_max_ms = u64::try_from(time_max.as_millis()).unwrap_or(u64::MAX);
        Ok(Self { connection, since, cut_at_ms, time_max_ms })
    }

    /// A reader's life.
    pub(crate) fn run(self, jobs: &flume::Receiver<Job>, shared: &Shared) {
        let mut statements = Statements::new(&self.connection);
        while let Ok(Job::Read(reads, answer)) = jobs.recv() {
            if answer.is_closed() {
                continue;
            }
            let outcome = match shared.ended.get() {
                Some(error) => Err(error.clone()),
                None => catch_unwind(AssertUnwindSafe(|| self.answer(&mut statements, &reads)))
                    .unwrap_or_else(|_| Err(Error::Engine("a database reader panicked".to_owned()))),
            };
            // Who asked may have gone.
            drop(answer.send(outcome));
        }
    }

    fn answer(&self, statements: &mut Statements<'_>, reads: &[Read]) -> Result<Vec<Rows>, Error> {
        let cut_at = elapsed_ms(self.since).saturating_add(self.time_max_ms);
        self.cut_at_ms.store(cut_at, Ordering::Relaxed);
        let outcome = snapshot(&self.connection, reads, |read| statements.select(read));
        if outcome.is_err() && !self.connection.is_autocommit() {
            drop(self.connection.execute_batch("ROLLBACK"));
        }
        outcome
    }
}

/// Reads of one call that are answered where they are asked, without a thread in between.
const QUICK_READS_MAX: usize = 8;
/// Rows of each of them.
const QUICK_ROWS_MAX: u32 = 4;

/// A connection for the calls that are over sooner than another thread would wake: a few rows by their keys.
pub(crate) struct Quick {
    connection: Connection,
    texts: Texts,
}

impl Quick {
    pub(crate) fn new(connection: Connection) -> rusqlite::Result<Self> {
        // Who waits here must not wait long: a busy file is left to the threads.
        connection.busy_timeout(Duration::ZERO)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        Ok(Self { connection, texts: Texts::default() })
    }

    /// Whether the reads may touch so little that they can be answered on the spot. One that asks for more is tried too:
    /// most have few rows.
    pub(crate) fn may_answer(reads: &[Read]) -> bool {
        let is_bounded = |read: &Read| read.limit <= QUICK_ROWS_MAX || read.limit == LIMIT_MAX;
        reads.len() <= QUICK_READS_MAX && reads.iter().all(is_bounded)
    }

    /// Answers the reads; `None` if there is more to read than this is meant for.
    pub(crate) fn answer(&mut self, reads: &[Read]) -> Result<Option<Vec<Rows>>, Error> {
        let Self { connection, texts } = self;
        let mut is_much = false;
        let outcome = snapshot(connection, reads, |read| {
            if read.limit <= QUICK_ROWS_MAX {
                return texts.select(connection, read);
            }
            if is_much {
                return Ok(Vec::new());
            }
            let rows = texts.select(connection, &read.clone().limit(QUICK_ROWS_MAX + 1))?;
            is_much = rows.len() > QUICK_ROWS_MAX as usize;
            Ok(rows)
        });
        if outcome.is_err() && !connection.is_autocommit() {
            drop(connection.execute_batch("ROLLBACK"));
        }
        Ok(outcome.map(Some)?.filter(|_| !is_much))
    }
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Answers what still waits when no reader is left.
pub(crate) fn refuse_rest(jobs: &flume::Receiver<Job>, shared: &Shared) {
    for job in jobs.drain() {
        if let Job::Read(_, answer) = job {
            drop(answer.send(Err(shared.lost())));
        }
    }
}

fn snapshot(
    connection: &Connection,
    reads: &[Read],
    mut select: impl FnMut(&Read) -> Result<Vec<Vec<Value>>, Error>,
) -> Result<Vec<Rows>, Error> {
    // One statement is one snapshot by itself.
    let several = reads.len() > 1;
    if several {
        connection.prepare_cached("BEGIN DEFERRED").and_then(|mut begin| begin.execute([])).map_err(errors::engine)?;
    }
    let rows = reads.iter().map(|read| select(read).map(Rows)).collect::<Result<_, _>>()?;
    if several {
        connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])).map_err(errors::engine)?;
    }
    Ok(rows)
}
