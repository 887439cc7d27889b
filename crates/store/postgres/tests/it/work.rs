//! Work for engines under test, whose traces show whether anything was lost, doubled or out of order.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use store::tables::core::{JobRow, ReaderRow, StreamRow};
use store::{
    CommitBatch, CommitError, Committed, Engine, Follower, LIMIT_MAX, Notifier, Read, RoomNum, StreamEntry, StreamKind,
    StreamPosition,
};

/// A batch without checks, known by its number in the stream and in a row.
pub fn plain(number: i64) -> CommitBatch {
    let mut batch = CommitBatch::new();
    batch.announce(StreamKind::Event, Some(RoomNum(1)), None, Some(number));
    batch.put(job(number, 0));
    batch
}

/// A batch that must find its row absent, known by its number.
pub fn claiming(number: i64) -> CommitBatch {
    let mut batch = plain(number);
    batch.expect_absent::<JobRow>(vec!["work".into(), number.to_string().into()]);
    batch
}

/// A row known by its number.
pub fn job(number: i64, failures: i64) -> JobRow {
    JobRow { kind: "work".to_owned(), name: number.to_string(), cursor: String::new(), due_ms: number, failures }
}

/// Raises a row by one with compare-and-swap, as often as it takes. Returns the commit and the number of conflicts.
pub async fn raise(engine: &Arc<dyn Engine>, row: &str, number: i64) -> (Committed, usize) {
    for conflicts in 0.. {
        let found = engine.read(vec![Read::get::<ReaderRow>(vec![row.into()])]).await.unwrap().remove(0);
        let done = found.one::<ReaderRow>().unwrap().map_or(0, |row| row.done);
        let mut batch = CommitBatch::new();
        if done == 0 {
            batch.expect_absent::<ReaderRow>(vec![row.into()]);
        } else {
            batch.expect_equals::<ReaderRow>(vec![row.into()], "done", done);
        }
        batch.put(ReaderRow { name: row.to_owned(), owner_epoch: 0, done: done + 1 });
        batch.announce(StreamKind::Event, Some(RoomNum(2)), None, Some(number));
        match engine.submit(batch).await {
            Ok(committed) => return (committed, conflicts),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("the loop ends by returning")
}

/// The value of a raised row.
pub async fn raised(engine: &Arc<dyn Engine>, row: &str) -> i64 {
    let found = engine.read(vec![Read::get::<ReaderRow>(vec![row.into()])]).await.unwrap().remove(0);
    found.one::<ReaderRow>().unwrap().map_or(0, |row| row.done)
}

/// A follower that notes what it is told, and panics at a gap.
pub struct Noting {
    next: Mutex<i64>,
    told: Mutex<Vec<StreamEntry>>,
}

impl Noting {
    /// Follows from the notifier's end.
    pub fn follow(notifier: &Notifier) -> Arc<Self> {
        let noting = Arc::new(Self { next: Mutex::new(notifier.watermark().0 + 1), told: Mutex::default() });
        notifier.add_follower(noting.clone());
        noting
    }

    /// Everything told so far.
    pub fn told(&self) -> Vec<StreamEntry> {
        self.told.lock().clone()
    }
}

impl Follower for Noting {
    fn committed(&self, first: StreamPosition, entries: &[StreamEntry]) {
        let mut next = self.next.lock();
        assert_eq!(first.0, *next, "positions come in order, each once");
        *next += i64::try_from(entries.len()).unwrap();
        self.told.lock().extend_from_slice(entries);
    }
}

/// Waits until the node has published a position.
pub async fn reach(engine: &Arc<dyn Engine>, position: StreamPosition) {
    let mut watermark = engine.notifier().subscribe();
    watermark.wait_for(|reached| *reached >= position).await.unwrap();
}

/// The whole stream: position to number.
pub async fn stream(engine: &Arc<dyn Engine>) -> BTreeMap<i64, i64> {
    let rows = engine.read(vec![Read::prefix::<StreamRow>(vec![]).limit(LIMIT_MAX)]).await.unwrap().remove(0);
    rows.all::<StreamRow>().unwrap().into_iter().map(|row| (row.pos.0, row.number.unwrap())).collect()
}

/// Demands that the stream holds exactly what was acknowledged, each where the acknowledgement said, without gaps.
pub async fn check_stream(engine: &Arc<dyn Engine>, acknowledged: &BTreeMap<i64, i64>) {
    let stream = stream(engine).await;
    assert_eq!(&stream, acknowledged, "what was acknowledged is there, once, at its position");
    let positions: Vec<i64> = stream.keys().copied().collect();
    let end = i64::try_from(stream.len()).unwrap();
    assert_eq!(positions, (1..=end).collect::<Vec<_>>(), "positions have no gaps");
}
