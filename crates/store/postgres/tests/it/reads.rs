//! Reads of one call that are merged into one statement answer as each alone does.

use std::collections::Bound;

use store::tables::core::JobRow;
use store::tables::rooms::EventRow;
use store::{CommitBatch, Engine, Read, Row, Rows, Value};

use crate::database::Database;
use crate::work;

const KINDS: i64 = 4;
const NAMES: i64 = 12;

fn jobs() -> CommitBatch {
    let mut batch = CommitBatch::new();
    for kind in 0..KINDS {
        for name in 0..NAMES {
            let row = JobRow { kind: kind.to_string(), name: format!("{name:02}"), ..work::job(name % 5, kind) };
            batch.put(row);
        }
    }
    batch
}

/// Rows with NULL in an indexed column.
fn events() -> CommitBatch {
    let mut batch = CommitBatch::new();
    for number in 0..NAMES {
        let row = EventRow::TABLE.columns.iter().enumerate().map(|(place, column)| match (column.name, place) {
            ("event", _) => Value::Int(number),
            ("room", _) => Value::Int(number % 2),
            ("pos", _) if number % 3 != 0 => Value::Int(number),
            ("event_id", _) => Value::Text(format!("${number}")),
            _ if column.nullable => Value::Null,
            _ => match column.column_type {
                store::ColumnType::Text => Value::Text(String::new()),
                store::ColumnType::Blob => Value::Blob(Vec::new()),
                _ => Value::Int(0),
            },
        });
        batch.writes.push(store::Write::Put { table: EventRow::TABLE, row: row.collect() });
    }
    batch
}

fn shapes(value: i64) -> Vec<Read> {
    let kind = || Value::from((value % (KINDS + 1)).to_string());
    let name = |number: i64| Value::Text(format!("{:02}", number % NAMES));
    let number = |number: i64| Bound::Included(Value::Int(number));
    vec![
        Read::get::<JobRow>(vec![kind(), name(value)]),
        Read::prefix::<JobRow>(vec![kind()]).limit(3),
        Read::prefix::<JobRow>(vec![kind()]).reverse().limit(2),
        Read { lower: Bound::Excluded(name(value)), ..Read::prefix::<JobRow>(vec![kind()]) }.limit(4),
        Read { upper: Bound::Included(name(value)), ..Read::prefix::<JobRow>(vec![kind()]) }.reverse(),
        Read { lower: Bound::Included(kind()), ..Read::prefix::<JobRow>(vec![]) }.limit(5),
        Read::along::<JobRow>(JobRow::BY_DUE, vec![Value::Int(value % 6)]),
        Read { lower: number(1), upper: number(value % 7), ..Read::along::<JobRow>(JobRow::BY_DUE, vec![]) },
        Read { upper: Bound::Excluded(Value::Null), ..Read::along::<JobRow>(JobRow::BY_DUE, vec![]) },
        Read::prefix::<JobRow>(vec![]).limit(u32::try_from(value).unwrap()),
        Read::along::<EventRow>(EventRow::BY_POS, vec![Value::Int(value % 3)]).reverse(),
        Read::along::<EventRow>(EventRow::BY_POS, vec![Value::Int(value % 3), Value::Null]),
        Read { upper: number(value), ..Read::along::<EventRow>(EventRow::BY_POS, vec![Value::Int(value % 2)]) },
    ]
}

#[tokio::test]
async fn merged_reads_answer_as_single_ones() {
    let Some(database) = Database::make().await else { return };
    let engine = database.open().await;
    engine.submit(jobs()).await.unwrap();
    engine.submit(events()).await.unwrap();
    // Of each shape many, of different shapes side by side.
    let reads: Vec<Read> = (0..20).flat_map(shapes).collect();
    let together = engine.read(reads.clone()).await.unwrap();
    let mut rows = 0;
    for (read, together) in reads.into_iter().zip(together) {
        let alone: Rows = engine.read(vec![read.clone()]).await.unwrap().remove(0);
        assert_eq!(together, alone, "{read:?}");
        rows += alone.0.len();
    }
    assert!(rows > 500, "there was something to compare: {rows}");
    engine.close().await;
    database.dispose().await;
}
