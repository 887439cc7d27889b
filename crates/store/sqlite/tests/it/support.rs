//! What several tests need.

use std::path::Path;

use sqlite::{Options, Sqlite};
use store::tables::core::{JobRow, MetaRow, ReaderRow, StreamRow};
use store::{CommitBatch, Engine, Read, RoomNum, Row, Rows, StreamKind};

/// A database at `path` with the usual options.
pub fn open(path: &Path) -> Sqlite {
    Sqlite::open(path, Options::default()).unwrap()
}

/// A batch of several rows in several tables, whole or not there.
pub fn numbered(number: i64, bytes: usize) -> CommitBatch {
    let mut batch = CommitBatch::new();
    batch.put(ReaderRow { name: format!("{number:06}"), owner_epoch: number, done: 0 });
    batch.put(JobRow {
        kind: "k".into(),
        name: format!("{number:06}"),
        cursor: "c".repeat(bytes),
        due_ms: number,
        failures: 0,
    });
    batch.put(MetaRow { name: "last".into(), value: number.to_string() });
    batch.announce(StreamKind::Event, Some(RoomNum(number)), None, Some(number));
    batch.announce(StreamKind::Receipt, None, None, Some(number));
    batch
}

/// Which numbered batches are there; panics if one is there in part or they are not the first ones submitted.
pub async fn numbers(engine: &dyn Engine) -> i64 {
    let reads = vec![
        Read::prefix::<ReaderRow>(Vec::new()),
        Read::prefix::<JobRow>(Vec::new()),
        Read::prefix::<MetaRow>(Vec::new()),
        Read::prefix::<StreamRow>(Vec::new()),
        Read::along::<JobRow>(JobRow::BY_DUE, Vec::new()),
    ];
    let answers: [Rows; 5] = engine.read(reads).await.unwrap().try_into().unwrap();
    let [readers, jobs, meta, stream, by_due] = answers;
    let readers: Vec<ReaderRow> = readers.all().unwrap();
    let count = i64::try_from(readers.len()).unwrap();
    let wanted: Vec<i64> = (1..=count).collect();
    assert_eq!(readers.iter().map(|row| row.owner_epoch).collect::<Vec<_>>(), wanted);
    assert_eq!(jobs.all::<JobRow>().unwrap().iter().map(|row| row.due_ms).collect::<Vec<_>>(), wanted);
    assert_eq!(by_due.all::<JobRow>().unwrap().iter().map(|row| row.due_ms).collect::<Vec<_>>(), wanted);
    let last = meta.one::<MetaRow>().unwrap().map_or(0, |row| row.value.parse().unwrap());
    assert_eq!(last, count, "the row that every batch rewrites");
    let stream: Vec<StreamRow> = stream.all().unwrap();
    let entries: Vec<_> = stream.iter().map(|row| (row.pos.0, row.number.unwrap())).collect();
    let wanted: Vec<_> = wanted.iter().flat_map(|number| [(number * 2 - 1, *number), (number * 2, *number)]).collect();
    assert_eq!(entries, wanted);
    assert_eq!(engine.notifier().watermark().0, count * 2, "the counter");
    count
}

/// The rows of a table, undecoded.
pub async fn rows<R: Row>(engine: &dyn Engine) -> usize {
    engine.read(vec![Read::prefix::<R>(Vec::new())]).await.unwrap().remove(0).0.len()
}
