//! The suite's own test: the model passes it, and engines with one deliberate fault each do not.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{Harness, Size, run};
use crate::model::Model;
use crate::notifier::Follower;
use crate::{
    CommitBatch, CommitError, Engine, Error, LIMIT_MAX, Notifier, Read, Rows, StreamEntry, StreamPosition, Table,
    Ticket, Value, Write,
};

/// What an engine does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Compare-and-swap is off.
    ChecksIgnored,
    /// Only values are compared: `Absent` always holds.
    AbsenceIgnored,
    /// Now and then followers are not told.
    PublishDropped,
    /// Followers are told one commit late.
    PublishLate,
    /// A batch that violates a unique index leaves its first write.
    HalfBatch,
    /// A row with the same unique value is replaced.
    UniqueReplaces,
    /// The bounds of a range delete are ignored.
    RangeTooWide,
    /// Now and then a write is forgotten.
    WriteLost,
    /// Outcomes tell positions that are one too high.
    PositionOff,
    LimitIgnored,
    ReverseIgnored,
    /// NULLs are part of ranges.
    NullsReturned,
    /// Text is cut at NUL.
    TextCut,
    /// Empty bytes become NULL.
    EmptyIsNull,
    /// Each read of a call sees a moment of its own.
    TornSnapshot,
    /// The last batch is not there when the database is opened again.
    LostOnCrash,
    /// Closing forgets to refuse later calls.
    OpenAfterClose,
    /// Batches that do not fit their tables are taken.
    MalformedTaken,
}

struct Mutant {
    fault: Fault,
    inner: Mutex<Arc<Model>>,
    log: Mutex<Vec<CommitBatch>>,
    told: Arc<Told>,
    commits: AtomicUsize,
}

/// Between the model's notifier and the mutant's own.
struct Told {
    fault: Fault,
    notifier: Notifier,
    calls: AtomicUsize,
    late: Mutex<Option<(StreamPosition, Vec<StreamEntry>)>>,
}

impl Follower for Told {
    fn committed(&self, first: StreamPosition, entries: &[StreamEntry]) {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::PublishDropped if call % 7 == 6 => {}
            Fault::PublishLate => {
                if let Some((first, entries)) = self.late.lock().replace((first, entries.to_vec())) {
                    self.notifier.publish(first, &entries);
                }
            }
            _ => self.notifier.publish(first, entries),
        }
    }
}

impl Mutant {
    fn new(fault: Fault, log: Vec<CommitBatch>) -> Self {
        let inner = Arc::new(Model::new());
        for batch in &log {
            drop(inner.submit(batch.clone()));
        }
        let told = Arc::new(Told {
            fault,
            notifier: Notifier::new(inner.notifier().watermark()),
            calls: AtomicUsize::new(0),
            late: Mutex::default(),
        });
        inner.notifier().add_follower(told.clone());
        Self { fault, inner: Mutex::new(inner), log: Mutex::new(log), told, commits: AtomicUsize::new(0) }
    }

    fn inner(&self) -> Arc<Model> {
        self.inner.lock().clone()
    }

    fn spoil(&self, batch: &mut CommitBatch) {
        let commit = self.commits.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::ChecksIgnored => batch.checks.clear(),
            Fault::AbsenceIgnored => batch.checks.retain(|check| check.expect != crate::Expect::Absent),
            Fault::WriteLost if commit % 13 == 12 => drop(batch.writes.pop()),
            Fault::RangeTooWide => {
                for write in &mut batch.writes {
                    if let Write::DeleteRange { lower, upper, .. } = write {
                        (*lower, *upper) = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
                    }
                }
            }
            Fault::MalformedTaken if crate::merge::well_formed(batch).is_err() => *batch = CommitBatch::new(),
            _ => {}
        }
    }

    async fn apply(&self, batch: CommitBatch) -> Result<crate::Committed, CommitError> {
        let inner = self.inner();
        let outcome = inner.submit(batch.clone()).await;
        match (&outcome, self.fault) {
            (Err(CommitError::Store(Error::Engine(detail))), fault) if detail.starts_with("unique") => match fault {
                Fault::HalfBatch => {
                    let first =
                        CommitBatch { writes: batch.writes.into_iter().take(1).collect(), ..Default::default() };
                    drop(inner.submit(first).await);
                    outcome
                }
                Fault::UniqueReplaces => replace(&inner, batch).await,
                _ => outcome,
            },
            (Ok(committed), Fault::PositionOff) => {
                Ok(crate::Committed { last: StreamPosition(committed.last.0 + 1), ..*committed })
            }
            _ => outcome,
        }
    }
}

/// Deletes the rows that are in the way, as `INSERT OR REPLACE` does.
async fn replace(inner: &Model, batch: CommitBatch) -> Result<crate::Committed, CommitError> {
    let mut forced = CommitBatch::new();
    for write in &batch.writes {
        let Write::Put { table, row } = write else { continue };
        for other in inner.rows(table) {
            let meets = table.indexes.iter().filter(|index| index.unique).any(|index| {
                index.columns.iter().all(|name| {
                    let place = table.column(name).unwrap();
                    other[place] == row[place] && row[place] != Value::Null
                })
            });
            if meets {
                forced.writes.push(Write::Delete { table, key: table.key_of(&other) });
            }
        }
        forced.writes.push(write.clone());
    }
    inner.submit(CommitBatch { checks: batch.checks, writes: forced.writes, stream: batch.stream }).await
}

#[async_trait]
impl Engine for Mutant {
    fn submit(&self, batch: CommitBatch) -> Ticket {
        let (sender, ticket) = Ticket::new();
        let mut spoilt = batch.clone();
        self.spoil(&mut spoilt);
        // The model answers at once.
        let outcome = futures_now(self.apply(spoilt));
        if outcome.is_ok() {
            self.log.lock().push(batch);
        }
        drop(sender.send(outcome));
        ticket
    }

    async fn read(&self, mut reads: Vec<Read>) -> Result<Vec<Rows>, Error> {
        for read in &mut reads {
            match self.fault {
                Fault::LimitIgnored => read.limit = LIMIT_MAX,
                Fault::ReverseIgnored => read.reverse = false,
                _ => {}
            }
        }
        let mut answers = Vec::new();
        if self.fault == Fault::TornSnapshot {
            for read in reads {
                answers.extend(self.inner().read(vec![read]).await?);
                tokio::task::yield_now().await;
            }
            return Ok(answers);
        }
        for (read, rows) in reads.iter().zip(self.inner().read(reads.clone()).await?) {
            answers.push(self.spoil_rows(read, rows));
        }
        Ok(answers)
    }

    fn notifier(&self) -> &Notifier {
        &self.told.notifier
    }

    async fn import(&self, table: &'static Table, rows: Vec<Vec<Value>>) -> Result<(), Error> {
        self.inner().import(table, rows.clone()).await?;
        let writes = rows.into_iter().map(|row| Write::Put { table, row }).collect();
        self.log.lock().push(CommitBatch { writes, ..CommitBatch::default() });
        Ok(())
    }

    async fn close(&self) {
        if self.fault != Fault::OpenAfterClose {
            self.inner().close().await;
        }
    }
}

impl Mutant {
    fn spoil_rows(&self, read: &Read, rows: Rows) -> Rows {
        let order = read.table.order(read.index);
        if self.fault == Fault::NullsReturned
            && let Some(next) = order.get(read.prefix.len())
        {
            let mut all = rows.0;
            let nulls = |row: &Vec<Value>| {
                row[*next] == Value::Null && order.iter().zip(&read.prefix).all(|(place, value)| row[*place] == *value)
            };
            all.extend(self.inner().rows(read.table).into_iter().filter(nulls));
            return Rows(all);
        }
        let spoil = |value: Value| match (value, self.fault) {
            (Value::Text(text), Fault::TextCut) => Value::Text(text.split('\0').next().unwrap_or("").to_owned()),
            (Value::Blob(bytes), Fault::EmptyIsNull) if bytes.is_empty() => Value::Null,
            (value, _) => value,
        };
        Rows(rows.0.into_iter().map(|row| row.into_iter().map(spoil).collect()).collect())
    }
}

/// The output of a future that never waits.
fn futures_now<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(tokio::task::unconstrained(future));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("the model waited"),
    }
}

struct Nursery {
    fault: Fault,
    /// The engine that is open, to be opened again.
    current: Mutex<Option<Arc<Mutant>>>,
}

impl Nursery {
    fn open(&self, log: Vec<CommitBatch>) -> Arc<dyn Engine> {
        let mutant = Arc::new(Mutant::new(self.fault, log));
        *self.current.lock() = Some(mutant.clone());
        mutant
    }
}

#[async_trait]
impl Harness for Nursery {
    async fn fresh(&self) -> Arc<dyn Engine> {
        self.open(Vec::new())
    }

    async fn reopen(&self, engine: Arc<dyn Engine>, crash: bool) -> Arc<dyn Engine> {
        engine.close().await;
        let mut log = self.current.lock().take().unwrap().log.lock().clone();
        if crash && self.fault == Fault::LostOnCrash {
            drop(log.pop());
        }
        self.open(log)
    }
}

async fn judge(fault: Fault) -> Result<(), super::Failure> {
    let nursery = Nursery { fault, current: Mutex::default() };
    run(&nursery, &Size { seeds: 0..6, rounds: 15, batches: 20, reads: 25 }).await
}

#[tokio::test]
async fn the_model_passes() {
    judge(Fault::None).await.unwrap();
}

#[tokio::test]
async fn each_fault_is_found() {
    let faults = [
        Fault::ChecksIgnored,
        Fault::AbsenceIgnored,
        Fault::PublishDropped,
        Fault::PublishLate,
        Fault::HalfBatch,
        Fault::UniqueReplaces,
        Fault::RangeTooWide,
        Fault::WriteLost,
        Fault::PositionOff,
        Fault::LimitIgnored,
        Fault::ReverseIgnored,
        Fault::NullsReturned,
        Fault::TextCut,
        Fault::EmptyIsNull,
        Fault::TornSnapshot,
        Fault::LostOnCrash,
        Fault::OpenAfterClose,
        Fault::MalformedTaken,
    ];
    for fault in faults {
        assert!(judge(fault).await.is_err(), "the suite did not notice {fault:?}");
    }
}
