//! The suite that every engine passes: what an engine does is compared, step by step, with the in-memory [`Model`].
//!
//! [`run`] drives databases of the engine through seeded random batches and reads ([`random`]), through the cases that
//! random ones rarely meet ([`cases`]), and through submitters and readers that run at the same time ([`concurrent`]).
//! Batches are submitted without waiting for each other, so that an engine that commits groups has groups to commit.
//! A failure names the seed that reproduces it.

mod cases;
mod concurrent;
#[cfg(test)]
mod mutants;
mod random;
mod rng;
mod watcher;

use std::sync::Arc;

use async_trait::async_trait;

use crate::model::Model;
use crate::tables::core::{CounterRow, StreamRow};
use crate::{CommitBatch, CommitError, Committed, Engine, LIMIT_MAX, Read, Row, Table, Ticket, Write};

/// How the suite gets at databases of the engine under test.
#[async_trait]
pub trait Harness: Send + Sync {
    /// An empty database.
    async fn fresh(&self) -> Arc<dyn Engine>;

    /// The same database opened again: after [`Engine::close`] or, if `crash`, as after kill -9.
    async fn reopen(&self, engine: Arc<dyn Engine>, crash: bool) -> Arc<dyn Engine>;
}

/// How much the suite does.
#[derive(Clone, Debug)]
pub struct Size {
    /// The seeds of the random runs: one database each.
    pub seeds: std::ops::Range<u64>,
    /// Rounds of each random run; after each, everything is compared and every fifth time the database reopened.
    pub rounds: usize,
    /// Batches of each round, submitted at once.
    pub batches: usize,
    /// Calls to read of each round.
    pub reads: usize,
}

impl Default for Size {
    fn default() -> Self {
        Self { seeds: 0..12, rounds: 20, batches: 24, reads: 30 }
    }
}

/// Where an engine breaks the contract.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

/// Runs the whole suite.
///
/// # Errors
/// The first [`Failure`].
pub async fn run(harness: &dyn Harness, size: &Size) -> Result<(), Failure> {
    cases::run(harness).await?;
    for seed in size.seeds.clone() {
        random::run(harness, seed, size).await.map_err(|failure| Failure(format!("seed {seed}: {failure}")))?;
    }
    concurrent::run(harness).await
}

/// An engine beside the model that does the same.
struct Pair {
    engine: Arc<dyn Engine>,
    model: Model,
    watcher: Arc<watcher::Watcher>,
}

/// A batch on its way: the engine's ticket and what the model made of it.
struct Submitted {
    batch: CommitBatch,
    ticket: Ticket,
    wanted: Result<Committed, CommitError>,
}

impl Pair {
    async fn fresh(harness: &dyn Harness) -> Self {
        let engine = harness.fresh().await;
        let watcher = watcher::Watcher::watch(engine.notifier());
        Self { engine, model: Model::new(), watcher }
    }

    /// Gives a batch to both.
    async fn submit(&self, batch: CommitBatch) -> Submitted {
        let ticket = self.engine.submit(batch.clone());
        let wanted = self.model.submit(batch.clone()).await;
        Submitted { batch, ticket, wanted }
    }

    /// Waits for a batch and compares its outcome with the model's.
    async fn settle(&self, submitted: Submitted) -> Result<(), Failure> {
        let Submitted { batch, ticket, wanted } = submitted;
        let got = ticket.await;
        let same = match (&got, &wanted) {
            (Ok(got), Ok(wanted)) => got == wanted,
            (Err(CommitError::Conflict { check: got }), Err(CommitError::Conflict { check: wanted })) => got == wanted,
            (Err(CommitError::Store(_)), Err(CommitError::Store(_))) => true,
            _ => false,
        };
        if !same {
            return Err(Failure(format!("outcome {got:?}, wanted {wanted:?}, of {}", describe_batch(&batch))));
        }
        if let Ok(committed) = wanted {
            let seen = self.engine.notifier().watermark();
            if seen < committed.last {
                return Err(Failure(format!("the ticket resolved at {seen}, before {} was published", committed.last)));
            }
            self.watcher.expect(&batch.stream);
        }
        Ok(())
    }

    /// Gives both a batch and compares the outcomes.
    async fn commit(&self, batch: CommitBatch) -> Result<(), Failure> {
        let submitted = self.submit(batch).await;
        self.settle(submitted).await
    }

    /// Compares the answers to reads of one call.
    async fn compare(&self, reads: Vec<Read>) -> Result<(), Failure> {
        let got = self.engine.read(reads.clone()).await;
        let wanted = self.model.read(reads.clone()).await;
        match (got, wanted) {
            (Ok(got), Ok(wanted)) => {
                if got.len() != wanted.len() {
                    return Err(Failure(format!("{} answers to {} reads", got.len(), wanted.len())));
                }
                for ((got, wanted), read) in got.iter().zip(&wanted).zip(&reads) {
                    if got != wanted {
                        return Err(Failure(format!("got {got:?}\nwanted {wanted:?}\nof {}", describe(read))));
                    }
                }
                Ok(())
            }
            (Err(_), Err(_)) => Ok(()),
            (got, wanted) => Err(Failure(format!("got {got:?}, wanted {wanted:?}, of {reads:?}"))),
        }
    }

    /// Compares everything in these tables, the stream, the counter and what was published.
    async fn compare_all(&self, tables: &[&'static Table]) -> Result<(), Failure> {
        let all = |table| Read {
            table,
            index: None,
            prefix: Vec::new(),
            lower: std::collections::Bound::Unbounded,
            upper: std::collections::Bound::Unbounded,
            reverse: false,
            limit: LIMIT_MAX,
        };
        let own = [StreamRow::TABLE, CounterRow::TABLE];
        self.compare(tables.iter().copied().chain(own).map(all).collect()).await?;
        self.watcher.check(self.engine.notifier())
    }

    /// Opens the engine's database again and compares everything.
    async fn reopen(&mut self, harness: &dyn Harness, crash: bool, tables: &[&'static Table]) -> Result<(), Failure> {
        self.engine = harness.reopen(self.engine.clone(), crash).await;
        self.watcher = watcher::Watcher::watch(self.engine.notifier());
        let (got, wanted) = (self.engine.notifier().watermark(), self.model.notifier().watermark());
        if got != wanted {
            return Err(Failure(format!("opened again, the stream ends at {got} instead of {wanted}")));
        }
        self.compare_all(tables).await
    }
}

fn describe_batch(batch: &CommitBatch) -> String {
    let mut lines = vec![format!("a batch with {} stream entries", batch.stream.len())];
    lines.extend(
        batch.checks.iter().map(|check| format!("check {} {:?}: {:?}", check.table.name, check.key, check.expect)),
    );
    lines.extend(batch.writes.iter().map(|write| match write {
        Write::Put { table, row } => format!("put {} {row:?}", table.name),
        Write::Delete { table, key } => format!("delete {} {key:?}", table.name),
        Write::DeleteRange { table, prefix, lower, upper } => {
            format!("delete {} {prefix:?} from {lower:?} to {upper:?}", table.name)
        }
    }));
    lines.join("\n")
}

fn describe(read: &Read) -> String {
    format!(
        "{} along {:?}: prefix {:?}, {:?} to {:?}, reverse {}, limit {}",
        read.table.name,
        read.index.map(|index| index.name),
        read.prefix,
        read.lower,
        read.upper,
        read.reverse,
        read.limit
    )
}
