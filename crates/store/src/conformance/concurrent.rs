//! Submitters and readers at the same time: nothing is counted twice or lost, and a call to read sees one moment.

use std::sync::Arc;

use super::{Failure, Harness, watcher::Watcher};
use crate::tables::core::{MetaRow, ReaderRow};
use crate::{CommitBatch, CommitError, Engine, Error, Read, RoomNum, Rows, StreamKind, StreamPosition, Value};

/// Tasks that submit.
const SUBMITTERS: i64 = 8;
/// Increments that each of them makes.
const INCREMENTS: i64 = 25;
/// Tasks that read meanwhile.
const READERS: i64 = 3;
/// Attempts at one increment before the suite gives up.
const ATTEMPTS_MAX: usize = 10_000;

/// How often a watching reader asks for both rows in one call: long enough for a commit to come between.
const LOOKS_PER_CALL: usize = 50;

/// The rows that are only ever written together.
const TWINS: [&str; 2] = ["left", "right"];

pub(super) async fn run(harness: &dyn Harness) -> Result<(), Failure> {
    let engine = harness.fresh().await;
    let watcher = Watcher::watch(engine.notifier());
    let mut start = CommitBatch::new();
    for name in TWINS {
        start.put(ReaderRow { name: name.to_owned(), owner_epoch: 0, done: 0 });
    }
    engine.submit(start).await.map_err(|error| Failure(format!("the first batch failed: {error}")))?;
    let submitters: Vec<_> = (0..SUBMITTERS).map(|task| tokio::spawn(increment(engine.clone(), task))).collect();
    let readers: Vec<_> = (0..READERS).map(|_| tokio::spawn(watch_twins(engine.clone()))).collect();
    let mut positions = Vec::new();
    for task in submitters {
        positions.extend(task.await.map_err(|error| Failure(error.to_string()))??);
    }
    for task in readers {
        task.await.map_err(|error| Failure(error.to_string()))??;
    }
    let total = SUBMITTERS * INCREMENTS;
    let (left, right) = twins(&engine).await?;
    if (left, right) != (total, total) {
        return Err(Failure(format!("{total} increments were acknowledged, the rows hold {left} and {right}")));
    }
    positions.sort_unstable();
    positions.dedup();
    if i64::try_from(positions.len()) != Ok(total) || watcher.count()? != positions.len() {
        return Err(Failure(format!("{total} commits had {} positions", positions.len())));
    }
    closed(&engine).await
}

/// Raises both rows by compare-and-swap; returns the positions of its commits.
async fn increment(engine: Arc<dyn Engine>, task: i64) -> Result<Vec<StreamPosition>, Failure> {
    let mut positions = Vec::new();
    for _ in 0..INCREMENTS {
        let mut attempts = 0;
        loop {
            attempts += 1;
            if attempts > ATTEMPTS_MAX {
                return Err(Failure("compare-and-swap never wins".to_owned()));
            }
            let (value, _) = twins(&engine).await?;
            let mut batch = CommitBatch::new();
            for name in TWINS {
                batch.expect_equals::<ReaderRow>(vec![name.into()], "done", value);
                batch.put(ReaderRow { name: name.to_owned(), owner_epoch: task, done: value + 1 });
            }
            batch.announce(StreamKind::Event, Some(RoomNum(task)), None, Some(value));
            match engine.submit(batch).await {
                Ok(committed) => {
                    visible(&engine, committed.last, value + 1).await?;
                    positions.push(committed.first);
                    break;
                }
                Err(CommitError::Conflict { .. }) => {}
                Err(CommitError::Store(error)) => return Err(Failure(error.to_string())),
            }
        }
    }
    Ok(positions)
}

/// What was acknowledged is published and is read.
async fn visible(engine: &Arc<dyn Engine>, position: StreamPosition, least: i64) -> Result<(), Failure> {
    let watermark = engine.notifier().watermark();
    if watermark < position {
        return Err(Failure(format!("{position} was acknowledged while the watermark was {watermark}")));
    }
    let (left, _) = twins(engine).await?;
    if left < least {
        return Err(Failure(format!("read {left} after {least} was acknowledged")));
    }
    Ok(())
}

/// Sees one moment in each call, and never an earlier one than before.
async fn watch_twins(engine: Arc<dyn Engine>) -> Result<(), Failure> {
    let mut seen = 0;
    for _ in 0..SUBMITTERS * INCREMENTS {
        let looks = look(&engine, LOOKS_PER_CALL).await?;
        let first = looks.first().copied().unwrap_or_default();
        if let Some(other) = looks.iter().find(|done| **done != first) {
            return Err(Failure(format!("one call to read saw {first} and {other}, which were never true together")));
        }
        if first < seen {
            return Err(Failure(format!("read {first} after {seen}")));
        }
        seen = first;
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn twins(engine: &Arc<dyn Engine>) -> Result<(i64, i64), Failure> {
    match look(engine, 1).await?.as_slice() {
        [left, right] => Ok((*left, *right)),
        _ => Err(Failure("a row is missing".to_owned())),
    }
}

/// What both rows hold, asked `times` over in one call.
async fn look(engine: &Arc<dyn Engine>, times: usize) -> Result<Vec<i64>, Failure> {
    let both = std::iter::repeat_n(TWINS, times).flatten();
    let reads = both.map(|name| Read::get::<ReaderRow>(vec![Value::from(name)])).collect();
    let answers = engine.read(reads).await.map_err(|error| Failure(error.to_string()))?;
    let done = |rows: Rows| rows.one::<ReaderRow>().ok().flatten().map(|row| row.done);
    answers.into_iter().map(done).collect::<Option<_>>().ok_or_else(|| Failure("a row is missing".to_owned()))
}

/// After closing, what was queued is there and everything else is refused.
async fn closed(engine: &Arc<dyn Engine>) -> Result<(), Failure> {
    let mut last = CommitBatch::new();
    last.put(MetaRow { name: "last".to_owned(), value: String::new() });
    let queued = engine.submit(last);
    engine.close().await;
    if let Err(error) = queued.await {
        return Err(Failure(format!("a batch queued before the end failed: {error}")));
    }
    let late = engine.submit(CommitBatch::new()).await;
    let read = engine.read(vec![Read::prefix::<MetaRow>(Vec::new())]).await;
    match (late, read) {
        (Err(CommitError::Store(Error::Closed)), Err(Error::Closed)) => Ok(()),
        (late, read) => Err(Failure(format!("after the end, a batch got {late:?} and a read {:?}", read.map(drop)))),
    }
}
