//! The cases that random batches rarely meet.

use std::collections::Bound;

use super::{Failure, Harness, Pair};
use crate::tables::core::{CounterRow, JobRow, ReaderRow, SequenceRow};
use crate::tables::media::MediaRow;
use crate::tables::rooms::{AliasRow, RoomHeadRow, StateKeyRow};
use crate::{CommitBatch, Engine, Error, Read, RoomNum, Row, StreamKind, Table, UserId, Value, Write};

const TABLES: &[&Table] = &[
    ReaderRow::TABLE,
    SequenceRow::TABLE,
    JobRow::TABLE,
    RoomHeadRow::TABLE,
    StateKeyRow::TABLE,
    AliasRow::TABLE,
    MediaRow::TABLE,
];

/// A named group of batches, submitted at once.
struct Case {
    name: &'static str,
    batches: Vec<CommitBatch>,
}

pub(super) async fn run(harness: &dyn Harness) -> Result<(), Failure> {
    // All at once, so that an engine may commit them as a group; and each when the one before is durable.
    for at_once in [true, false] {
        let mut pair = Pair::fresh(harness).await;
        for case in [dependents(), twice(), positions(), swap(), violation(), late_violation(), malformed(), nothing()]
        {
            let name = case.name;
            let outcome = check(&pair, case, at_once).await;
            outcome.map_err(|failure| Failure(format!("{name}, at once {at_once}: {failure}")))?;
        }
        nulls(&pair).await.map_err(|failure| Failure(format!("nulls: {failure}")))?;
        import(&pair).await.map_err(|failure| Failure(format!("import: {failure}")))?;
        unanswered(&pair).await?;
        let reopened = pair.reopen(harness, at_once, TABLES).await;
        reopened.map_err(|failure| Failure(format!("after the cases: {failure}")))?;
        pair.engine.close().await;
    }
    Ok(())
}

async fn check(pair: &Pair, case: Case, at_once: bool) -> Result<(), Failure> {
    let mut submitted = Vec::new();
    for batch in case.batches {
        if at_once {
            submitted.push(pair.submit(batch).await);
        } else {
            pair.commit(batch).await?;
        }
    }
    for submitted in submitted {
        pair.settle(submitted).await?;
    }
    pair.compare_all(TABLES).await
}

fn batch(fill: impl FnOnce(&mut CommitBatch)) -> CommitBatch {
    let mut batch = CommitBatch::new();
    fill(&mut batch);
    batch
}

fn reader(name: &str, done: i64) -> ReaderRow {
    ReaderRow { name: name.to_owned(), owner_epoch: 1, done }
}

fn state_key(key_id: i64, kind: &str) -> StateKeyRow {
    StateKeyRow { room: RoomNum(1), key_id, kind: kind.to_owned(), state_key: String::new() }
}

/// Batches that build on ones that are not durable yet, and those that fall with the one they were built on.
fn dependents() -> Case {
    let step = |from: i64, to: i64| {
        batch(|batch| {
            batch.expect_equals::<ReaderRow>(vec!["chain".into()], "done", from);
            batch.put(reader("chain", to));
            batch.announce(StreamKind::Event, Some(RoomNum(1)), None, Some(to));
        })
    };
    let start = batch(|batch| {
        batch.expect_absent::<ReaderRow>(vec!["chain".into()]);
        batch.put(reader("chain", 0));
    });
    let twin = start.clone();
    Case {
        name: "batches that depend on earlier ones of their group",
        batches: vec![start, twin, step(0, 1), step(1, 2), step(7, 8), step(8, 9), step(2, 3), step(2, 4)],
    }
}

/// One row many times in one group and in one batch.
fn twice() -> Case {
    let put = |done: i64| {
        batch(|batch| {
            batch.put(reader("twice", done));
        })
    };
    let both = batch(|batch| {
        batch.put(reader("twice", 10)).delete::<ReaderRow>(vec!["twice".into()]).put(reader("twice", 11));
        batch.put(reader("gone", 1)).delete::<ReaderRow>(vec!["gone".into()]);
    });
    let prefix = batch(|batch| {
        batch.put(reader("wiped", 1)).delete_prefix::<ReaderRow>(Vec::new()).put(reader("twice", 12));
    });
    Case { name: "one row more than once", batches: vec![put(1), put(2), both, put(3), prefix, put(4)] }
}

/// Positions in rows and keys, and ranges that must not reach rows whose position is yet to come.
fn positions() -> Case {
    let head = |members: &[u8]| {
        batch(|batch| {
            let pos = batch.announce(StreamKind::RoomHead, Some(RoomNum(1)), None, None);
            batch.put(RoomHeadRow { room: RoomNum(1), pos, members: members.to_vec(), rest: Vec::new() });
        })
    };
    let prune = |end: Bound<Value>| {
        batch(|batch| {
            batch.delete_range::<RoomHeadRow>(vec![Value::Int(1)], Bound::Unbounded, end);
        })
    };
    let shy = batch(|batch| {
        batch.announce(StreamKind::Event, None, None, None);
        let pos = batch.announce(StreamKind::RoomHead, Some(RoomNum(1)), None, None);
        let row = RoomHeadRow { room: RoomNum(2), pos, members: vec![9], rest: vec![0] };
        batch.put(row).delete::<RoomHeadRow>(vec![Value::Int(2), pos.into()]);
    });
    let small = Bound::Excluded(Value::Int(3));
    let all = Bound::Included(Value::Int(i64::MAX));
    Case {
        name: "positions in keys",
        batches: vec![head(&[1]), head(&[]), prune(small), head(&[3]), shy, prune(all), head(&[4]), head(&[0; 9_000])],
    }
}

/// Two rows of one batch change their unique values with each other, in both orders of key.
fn swap() -> Case {
    let start = batch(|batch| {
        batch.put(state_key(1, "one")).put(state_key(2, "two")).put(state_key(3, "three"));
    });
    let swap = batch(|batch| {
        batch.put(state_key(1, "two")).put(state_key(2, "one"));
    });
    let hand_down = batch(|batch| {
        batch.put(state_key(3, "four")).put(state_key(0, "three"));
    });
    let inherit = batch(|batch| {
        batch.delete::<StateKeyRow>(vec![Value::Int(1), Value::Int(3)]).put(state_key(-1, "four"));
    });
    Case { name: "unique values that change hands", batches: vec![start, swap, hand_down, inherit] }
}

/// A batch that violates a unique index leaves nothing, takes no other batch along, and replaces no other row.
fn violation() -> Case {
    let fine = |name: &str| {
        batch(|batch| {
            batch.put(reader(name, 1));
            batch.announce(StreamKind::Event, None, None, None);
        })
    };
    let breaks = batch(|batch| {
        batch.put(reader("broken", 1)).put(state_key(50, "two"));
        batch.announce(StreamKind::Event, None, None, Some(1));
    });
    let built_on_it = batch(|batch| {
        batch.expect_present::<ReaderRow>(vec!["broken".into()]).put(reader("built on broken", 1));
        batch.announce(StreamKind::Event, None, None, Some(2));
    });
    let alike = batch(|batch| {
        batch.put(state_key(60, "alike")).put(state_key(61, "alike"));
    });
    Case {
        name: "a violated unique index",
        batches: vec![fine("before"), breaks, built_on_it, alike, fine("after"), fine("later")],
    }
}

/// The second of two batches of one group takes a unique value that the first took.
fn late_violation() -> Case {
    let take = |key_id: i64| {
        batch(|batch| {
            batch.put(state_key(key_id, "taken"));
            batch.announce(StreamKind::Event, None, None, Some(key_id));
        })
    };
    let other = batch(|batch| {
        batch.put(state_key(73, "free"));
    });
    Case { name: "a unique value taken twice in a group", batches: vec![take(70), take(71), other, take(72), take(70)] }
}

/// What does not fit its table is refused as a whole.
fn malformed() -> Case {
    let raw = |writes: Vec<Write>| CommitBatch { writes, ..CommitBatch::default() };
    let fine = Write::Put { table: ReaderRow::TABLE, row: reader("beside malformed", 1).into_values() };
    let put = |row: Vec<Value>| raw(vec![fine.clone(), Write::Put { table: ReaderRow::TABLE, row }]);
    let position = Write::Put {
        table: RoomHeadRow::TABLE,
        row: vec![Value::Int(1), Value::Int(-1), Value::Blob(Vec::new()), Value::Blob(Vec::new())],
    };
    let counter = Write::Put { table: CounterRow::TABLE, row: vec![Value::Int(1), Value::Int(99)] };
    let key = Write::Delete { table: JobRow::TABLE, key: vec!["kind".into()] };
    Case {
        name: "malformed batches",
        batches: vec![
            put(vec!["short".into()]),
            put(vec!["null".into(), Value::Null, Value::Int(1)]),
            put(vec![Value::Int(1), Value::Int(1), Value::Int(1)]),
            put(vec!["text".into(), "1".into(), Value::Int(1)]),
            raw(vec![fine.clone(), position]),
            raw(vec![fine.clone(), counter]),
            raw(vec![fine, key]),
        ],
    }
}

/// A batch without writes, and one with checks alone.
fn nothing() -> Case {
    let holds = batch(|batch| {
        batch.expect_present::<ReaderRow>(vec!["before".into()]);
    });
    let fails = batch(|batch| {
        batch.expect_present::<ReaderRow>(vec!["before".into()]).expect_absent::<ReaderRow>(vec!["before".into()]);
    });
    let announces = batch(|batch| {
        batch.announce(StreamKind::Profile, None, Some("@a:b".into()), None);
        batch.announce(StreamKind::Profile, None, None, Some(i64::MIN));
    });
    Case { name: "batches without writes", batches: vec![CommitBatch::new(), holds, fails, announces, batch(|_| {})] }
}

/// A row that has no value in the column by which an index goes on is not found along it.
async fn nulls(pair: &Pair) -> Result<(), Failure> {
    let media = |id: &str, uploader: Option<&str>| MediaRow {
        server_name: "nulls.test".to_owned(),
        media_id: id.to_owned(),
        uploader: uploader.map(UserId::from),
        content_type: String::new(),
        file_name: None,
        size: 0,
        sha256: Vec::new(),
        file: format!("nulls {id}"),
        created_ms: 1,
        quarantined_by: None,
        unauthenticated: false,
    };
    let rows = batch(|batch| {
        batch.put(media("one", None)).put(media("two", Some("@a:nulls.test"))).put(media("three", None));
    });
    pair.commit(rows).await?;
    let along = || Read::along::<MediaRow>(MediaRow::BY_UPLOADER, Vec::new());
    pair.compare(vec![along(), along().reverse(), along().after("")]).await
}

/// Imported rows replace those of equal key; a bad import leaves nothing.
async fn import(pair: &Pair) -> Result<(), Failure> {
    let sets: [Vec<Vec<Value>>; 4] = [
        vec![state_key(100, "import").into_values(), state_key(101, "import too").into_values()],
        vec![state_key(100, "import again").into_values(), state_key(100, "and again").into_values()],
        vec![state_key(102, "fine").into_values(), state_key(103, "and again").into_values()],
        vec![state_key(104, "fine").into_values(), vec![Value::Null]],
    ];
    for (place, rows) in sets.into_iter().enumerate() {
        let got = pair.engine.import(StateKeyRow::TABLE, rows.clone()).await;
        let wanted = pair.model.import(StateKeyRow::TABLE, rows).await;
        if got.is_ok() != wanted.is_ok() {
            return Err(Failure(format!("set {place}: got {got:?}, wanted {wanted:?}")));
        }
        pair.compare_all(TABLES).await?;
    }
    Ok(())
}

/// A read that does not fit its table is an error, not an empty answer.
async fn unanswered(pair: &Pair) -> Result<(), Failure> {
    let reads = [
        Read { index: Some(JobRow::BY_DUE), ..Read::prefix::<ReaderRow>(Vec::new()) },
        Read::prefix::<ReaderRow>(vec![Value::Int(1)]),
        Read::prefix::<ReaderRow>(vec!["a".into(), "b".into()]),
        Read::prefix::<ReaderRow>(Vec::new()).after(5_i64),
    ];
    for read in reads {
        let place = super::describe(&read);
        match pair.engine.read(vec![read]).await {
            Err(Error::Engine(_)) => {}
            other => return Err(Failure(format!("a malformed read got {other:?}: {place}"))),
        }
    }
    // A dropped ticket does not undo its batch.
    let kept = batch(|batch| {
        batch.put(reader("dropped ticket", 1));
    });
    drop(pair.engine.submit(kept.clone()));
    pair.model.submit(kept).await.map_err(|error| Failure(error.to_string()))?;
    pair.commit(CommitBatch::new()).await?;
    pair.compare_all(TABLES).await
}
