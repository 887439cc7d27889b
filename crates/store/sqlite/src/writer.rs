//! The one thread that writes: group commit, publishing in order, checkpoints.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::wal::CheckpointMode;
use store::merge::{self, Address, Merged};
use store::tables::core::CounterRow;
use store::{CommitBatch, CommitError, Committed, Error, Outcome, Row, StreamEntry, StreamPosition, Table, Value};
use tokio::sync::oneshot;

use crate::sql::Statements;
use crate::{Job, LogPolicy, OnGroup, Shared, errors};

/// Batches that one transaction takes.
const GROUP_BATCHES_MAX: usize = 256;
/// Bytes of values that one transaction takes, unless one batch alone is larger.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Further bytes of log before cutting is tried again after readers were in the way.
const LOG_BYTES_RETRY: i64 = 16 << 20;
/// Bytes of values between two looks at the log's size.
const BYTES_PER_LOOK: usize = 1 << 20;
/// How long cutting the log waits for readers.
const CUT_PATIENCE: Duration = Duration::from_millis(50);
/// How long a transaction waits for another program that writes to the file.
pub(crate) const BUSY_PATIENCE: Duration = Duration::from_secs(5);

/// Why the writer has to end: after this, what is on disk is known only after a restart.
pub(crate) struct Fatal(pub(crate) String);

/// Why a transaction did not happen. It is rolled back.
enum Failure {
    /// A batch broke a constraint.
    Constraint(String),
    /// The engine failed; the next transaction may succeed.
    Engine(Error),
    /// It may have happened.
    Unknown(String),
}

/// What a transaction did.
struct Done {
    outcomes: Vec<Result<Committed, CommitError>>,
    first: StreamPosition,
    stream: Vec<StreamEntry>,
}

pub(crate) struct Writer<'c> {
    connection: &'c Connection,
    statements: Statements<'c>,
    jobs: &'c flume::Receiver<Job>,
    shared: &'c Shared,
    on_group: Option<OnGroup>,
    log: LogPolicy,
    page_bytes: i64,
    /// Log size at which cutting it is tried.
    cut_at: i64,
    commits_since_look: u32,
    bytes_since_look: usize,
}

impl<'c> Writer<'c> {
    pub(crate) fn new(
        connection: &'c Connection,
        jobs: &'c flume::Receiver<Job>,
        shared: &'c Shared,
        on_group: Option<OnGroup>,
        log: LogPolicy,
    ) -> rusqlite::Result<Self> {
        Ok(Self {
            connection,
            statements: Statements::new(connection),
            jobs,
            shared,
            on_group,
            log,
            page_bytes: connection.pragma_query_value(None, "page_size", |row| row.get(0))?,
            cut_at: log.max_bytes,
            commits_since_look: 0,
            bytes_since_look: 0,
        })
    }

    /// Works until told to close.
    pub(crate) fn run(mut self) -> Result<(), Fatal> {
        let mut aside = None;
        loop {
            let job = match aside.take().map_or_else(|| self.next(), Some) {
                Some(job) => job,
                None => return Ok(()),
            };
            match job {
                Job::Commit(batch, bytes, outcome) => aside = self.group(batch, bytes, outcome)?,
                Job::Import(table, rows, answer) => self.import(table, rows, answer)?,
                Job::Close => return Ok(()),
            }
        }
    }

    fn next(&mut self) -> Option<Job> {
        match self.jobs.recv_timeout(self.log.idle) {
            Ok(job) => Some(job),
            Err(flume::RecvTimeoutError::Timeout) => {
                self.checkpoint_idle();
                self.jobs.recv().ok()
            }
            Err(flume::RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Commits what waits; returns a job that came between and is no commit.
    fn group(&mut self, batch: CommitBatch, bytes: usize, outcome: Outcome) -> Result<Option<Job>, Fatal> {
        let (mut batches, mut tickets, mut size) = (vec![batch], vec![outcome], bytes);
        let mut aside = None;
        while batches.len() < GROUP_BATCHES_MAX && size < GROUP_BYTES_MAX {
            match self.jobs.try_recv() {
                Ok(Job::Commit(batch, bytes, outcome)) => {
                    batches.push(batch);
                    tickets.push(outcome);
                    size += bytes;
                }
                Ok(job) => {
                    aside = Some(job);
                    break;
                }
                Err(_) => break,
            }
        }
        self.shared.queued_bytes.fetch_sub(size, Ordering::Relaxed);
        if let Some(hook) = &self.on_group {
            hook(batches.len());
        }
        let outcomes = match self.commit(&batches) {
            Ok(done) => {
                self.shared.notifier.publish(done.first, &done.stream);
                done.outcomes
            }
            Err(Failure::Unknown(detail)) => return Err(unknown(&detail, tickets)),
            Err(failure) => vec![Err(CommitError::Store(failure.into_error())); batches.len()],
        };
        for (ticket, outcome) in tickets.into_iter().zip(outcomes) {
            // Who asked may have gone; the commit stands.
            drop(ticket.send(outcome));
        }
        self.look_at_log(size);
        Ok(aside)
    }

    fn commit(&mut self, batches: &[CommitBatch]) -> Result<Done, Failure> {
        let done = self.transaction(|writer| writer.merged(batches, false));
        let done = match done {
            // One batch must not take the others down, and two rows may have met only on the way.
            Err(Failure::Constraint(_)) => self.transaction(|writer| writer.one_by_one(batches)),
            done => done,
        };
        if matches!(done, Err(Failure::Engine(Error::DiskFull))) {
            // Room that the log takes twice can be had back.
            self.cut_log();
        }
        done
    }

    fn transaction<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Failure>) -> Result<T, Failure> {
        self.execute("BEGIN IMMEDIATE")?;
        let done = match work(self) {
            Ok(done) => done,
            Err(failure) => {
                self.roll_back()?;
                return Err(failure);
            }
        };
        if let Err(error) = self.raw("COMMIT") {
            // A full disk left no whole commit record in the log; after anything else, whether it is whole is open.
            let known =
                matches!(errors::code(&error), Some(rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::DatabaseBusy));
            let failure =
                if known { Failure::Engine(errors::engine(error)) } else { Failure::Unknown(error.to_string()) };
            self.roll_back()?;
            return Err(failure);
        }
        Ok(done)
    }

    /// SQLite has often rolled back by itself.
    fn roll_back(&mut self) -> Result<(), Failure> {
        if !self.connection.is_autocommit()
            && let Err(error) = self.raw("ROLLBACK")
            && !self.connection.is_autocommit()
        {
            return Err(Failure::Unknown(format!("a transaction cannot be rolled back: {error}")));
        }
        Ok(())
    }

    fn raw(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(drop)
    }

    fn execute(&self, sql: &str) -> Result<(), Failure> {
        self.raw(sql).map_err(Failure::from)
    }

    /// Judges and writes all batches as one.
    fn merged(&mut self, batches: &[CommitBatch], delete_first: bool) -> Result<Done, Failure> {
        let stored = self.checked_rows(batches)?;
        let mut merged = merge::merge(batches, &stored);
        let end = self.counter()?;
        let first = StreamPosition(end + 1);
        self.apply(&mut merged, &stored, first, delete_first)?;
        let last = end + i64::try_from(merged.stream.len()).unwrap_or(0);
        if last > end {
            self.statements.upsert(CounterRow::TABLE, &CounterRow { id: 1, pos: last }.into_values())?;
        }
        let outcomes = merged.outcomes.iter().map(|outcome| match outcome {
            Ok((place, count)) => {
                let before = end + i64::try_from(*place).unwrap_or(0);
                let last = before + i64::try_from(*count).unwrap_or(0);
                Ok(Committed { first: StreamPosition(last.min(before + 1)), last: StreamPosition(last) })
            }
            Err(check) => Err(CommitError::Conflict { check: *check }),
        });
        Ok(Done { outcomes: outcomes.collect(), first, stream: merged.stream })
    }

    /// Judges and writes each batch alone, within one transaction: one that breaks a constraint leaves nothing.
    fn one_by_one(&mut self, batches: &[CommitBatch]) -> Result<Done, Failure> {
        let mut all = Done { outcomes: Vec::new(), first: StreamPosition(self.counter()? + 1), stream: Vec::new() };
        for batch in batches {
            self.execute("SAVEPOINT batch")?;
            match self.merged(std::slice::from_ref(batch), true) {
                Ok(done) => {
                    all.outcomes.extend(done.outcomes);
                    all.stream.extend(done.stream);
                }
                Err(Failure::Constraint(detail)) => {
                    self.execute("ROLLBACK TO batch")?;
                    all.outcomes.push(Err(CommitError::Store(Error::Engine(detail))));
                }
                Err(failure) => return Err(failure),
            }
            self.execute("RELEASE batch")?;
        }
        Ok(all)
    }

    fn checked_rows(&mut self, batches: &[CommitBatch]) -> Result<BTreeMap<Address, Vec<Value>>, Failure> {
        let mut stored = BTreeMap::new();
        for (table, key) in merge::checked_rows(batches) {
            if let Some(row) = self.statements.row(table, key.clone()).map_err(Failure::Engine)? {
                stored.insert((table.name, key), row);
            }
        }
        Ok(stored)
    }

    fn counter(&mut self) -> Result<i64, Failure> {
        let row = self.statements.row(CounterRow::TABLE, vec![Value::Int(1)]).map_err(Failure::Engine)?;
        row.map_or(Ok(0), |row| CounterRow::from_values(row).map(|row| row.pos).map_err(Failure::Engine))
    }

    fn apply(
        &mut self,
        merged: &mut Merged,
        stored: &BTreeMap<Address, Vec<Value>>,
        first: StreamPosition,
        delete_first: bool,
    ) -> Result<(), Failure> {
        for range in &merged.ranges {
            self.statements.delete_range(range)?;
        }
        for (table, rows) in merged.rows.values() {
            for (key, _) in rows.iter().filter(|(_, row)| delete_first || row.is_none()) {
                self.statements.delete(table, key)?;
            }
        }
        for (table, rows) in merged.rows.values_mut() {
            // What was read to be checked is as it was, unless something was deleted just now.
            let untouched = !delete_first && merged.ranges.iter().all(|range| range.table != *table);
            for (key, row) in rows.iter_mut().filter_map(|(key, row)| Some((key, row.as_mut()?))) {
                merge::resolve(table, row, first);
                match stored.get(&(table.name, key.clone())).filter(|_| untouched) {
                    Some(old) => self.statements.replace(table, old, row)?,
                    None => self.statements.upsert(table, row)?,
                }
            }
        }
        Ok(())
    }

    fn import(
        &mut self,
        table: &'static Table,
        rows: Vec<Vec<Value>>,
        answer: oneshot::Sender<Result<(), Error>>,
    ) -> Result<(), Fatal> {
        if rows.is_empty() {
            // Who imports nothing waits for what was asked before, and the disk is left alone.
            drop(answer.send(Ok(())));
            return Ok(());
        }
        let bytes = rows.iter().flatten().map(Value::size).sum();
        let done = self.transaction(|writer| {
            rows.iter().try_for_each(|row| writer.statements.upsert(table, row).map_err(Failure::from))
        });
        let outcome = match done {
            Ok(()) => Ok(()),
            Err(Failure::Unknown(detail)) => return Err(unknown(&detail, Vec::new())),
            Err(failure) => Err(failure.into_error()),
        };
        drop(answer.send(outcome));
        self.look_at_log(bytes);
        Ok(())
    }

    /// Bytes of the log in all, and of those not yet in the database file.
    fn log_bytes(&self) -> Option<(i64, i64)> {
        let (frames, moved) = self.connection.wal_checkpoint_v2(Some(c"main"), CheckpointMode::NOOP).ok()?;
        let (frames, moved) = (i64::from(frames.max(0)), i64::from(moved.max(0)));
        Some((frames * self.page_bytes, (frames - moved) * self.page_bytes))
    }

    fn checkpoint_idle(&mut self) {
        if self.log_bytes().is_some_and(|(_, unmoved)| unmoved > self.log.idle_bytes) {
            self.checkpoint(CheckpointMode::PASSIVE);
        }
    }

    fn look_at_log(&mut self, bytes: usize) {
        self.commits_since_look += 1;
        self.bytes_since_look += bytes;
        if self.commits_since_look < self.log.commits_per_look && self.bytes_since_look < BYTES_PER_LOOK {
            return;
        }
        (self.commits_since_look, self.bytes_since_look) = (0, 0);
        if self.log_bytes().is_some_and(|(all, _)| all > self.cut_at) {
            self.cut_log();
        }
    }

    fn cut_log(&mut self) {
        drop(self.connection.busy_timeout(CUT_PATIENCE));
        self.checkpoint(CheckpointMode::TRUNCATE);
        drop(self.connection.busy_timeout(BUSY_PATIENCE));
        let left = self.log_bytes().map_or(0, |(all, _)| all);
        let retry = if left > 0 { left + LOG_BYTES_RETRY } else { 0 };
        self.cut_at = self.log.max_bytes.max(retry);
    }

    /// A checkpoint that fails loses nothing: the log keeps what was not moved, and the next one goes on.
    fn checkpoint(&self, mode: CheckpointMode) {
        if let Err(error) = self.connection.wal_checkpoint_v2(Some(c"main"), mode)
            && errors::code(&error) != Some(rusqlite::ErrorCode::DatabaseBusy)
        {
            tracing::warn!(%error, "the database's log could not be moved into its file");
        }
    }
}

fn unknown(detail: &str, tickets: Vec<Outcome>) -> Fatal {
    let fatal = format!("the disk failed during a commit ({detail}): restart the server to see what is there");
    for ticket in tickets {
        drop(ticket.send(Err(CommitError::Store(Error::Unusable(fatal.clone())))));
    }
    Fatal(fatal)
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        if errors::is_constraint(&error) {
            Failure::Constraint(error.to_string())
        } else {
            Failure::Engine(errors::engine(error))
        }
    }
}

impl Failure {
    fn into_error(self) -> Error {
        match self {
            Failure::Constraint(detail) | Failure::Unknown(detail) => Error::Engine(detail),
            Failure::Engine(error) => error,
        }
    }
}

/// Answers what still waits when the writer has ended.
pub(crate) fn refuse_rest(jobs: &flume::Receiver<Job>, shared: &Shared) {
    for job in jobs.drain() {
        match job {
            Job::Commit(_, bytes, outcome) => {
                shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                drop(outcome.send(Err(CommitError::Store(shared.lost()))));
            }
            Job::Import(_, _, answer) => drop(answer.send(Err(shared.lost()))),
            Job::Close => {}
        }
    }
}
