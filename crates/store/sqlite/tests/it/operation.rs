//! Backups, restores, panics, groups.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sqlite::backup::{AFTER_RESTORE, RESTORE_JOBS};
use sqlite::{LogPolicy, Options, Restored, Sqlite, prepare_restored};
use store::tables::core::{JobRow, LOST_POSITIONS, LostPositions, MetaRow};
use store::{CommitError, Engine, Error, Read, Row, StreamKind, StreamPosition, Value};

use crate::support::{numbered, numbers, open};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_one_moment_while_writers_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copy.db");
    let engine = Arc::new(open(&directory.path().join("hearth.db")));
    for number in 1..=300 {
        drop(engine.submit(numbered(number, 30_000)));
    }
    engine.submit(numbered(301, 10)).await.unwrap();
    // Each step of the copy lets one more batch in, so that writers do go on.
    let (writer, next) = (engine.clone(), AtomicUsize::new(302));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (progress, handle) = (seen.clone(), tokio::runtime::Handle::current());
    let (source, to) = (engine.clone(), copy.clone());
    let step = move |done, all| {
        progress.lock().push((done, all));
        let number = next.fetch_add(1, Ordering::Relaxed);
        handle.block_on(writer.submit(numbered(i64::try_from(number).unwrap(), 10))).unwrap();
    };
    tokio::task::spawn_blocking(move || source.backup(&to, step)).await.unwrap().unwrap();
    let seen = seen.lock().clone();
    assert!(seen.len() > 1, "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 == pair[1].1), "{seen:?}");
    assert_eq!(seen.last().map(|(done, all)| done == all), Some(true));
    assert_eq!(numbers(engine.as_ref()).await, 301 + i64::try_from(seen.len()).unwrap());
    let copied = open(&copy);
    assert_eq!(numbers(&copied).await, 301);
    assert!(!directory.path().join("copy.db.partial").exists());
}

#[tokio::test]
async fn a_backup_that_cannot_be_written_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let engine = open(&directory.path().join("hearth.db"));
    engine.submit(numbered(1, 10)).await.unwrap();
    assert!(engine.backup(&directory.path().join("no").join("copy.db"), |_, _| {}).is_err());
    assert_eq!(numbers(&engine).await, 1);
}

#[tokio::test]
async fn a_restored_database_goes_on_far_beyond_the_lost_future() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copy) = (directory.path().join("hearth.db"), directory.path().join("copy.db"));
    let engine = open(&path);
    engine.submit(numbered(1, 10)).await.unwrap();
    engine.backup(&copy, |_, _| {}).unwrap();
    assert!(prepare_restored(&path).is_err(), "not while it is in use");
    for number in 2..=50 {
        engine.submit(numbered(number, 10)).await.unwrap();
    }
    let lost = engine.notifier().watermark().0;
    engine.close().await;
    let first = prepare_restored(&copy).unwrap();
    let second = prepare_restored(&copy).unwrap();
    assert_eq!((first.token_epoch, second.token_epoch), (1, 2));
    assert!(first.counter > lost + (1 << 39) && second.counter > first.counter + (1 << 39));
    assert!(second.counter < 1 << 53, "still a number for JSON");
    let restored = open(&copy);
    assert_eq!(restored.notifier().watermark().0, second.counter);
    let store = store::Store::new(Arc::new(restored)).await.unwrap();
    assert_eq!(store.token_epoch(), 2);
    let told = store.meta(LOST_POSITIONS).await.unwrap().unwrap();
    let known = LostPositions::parse(&told);
    let last = |pos: i64| known.last_before(StreamPosition(pos)).map(|pos| pos.0);
    let saved = last(lost).unwrap();
    assert!(saved < lost && last(saved).is_none() && last(saved + 1) == Some(saved), "{told}");
    assert_eq!((last(first.counter), last(first.counter + 1)), (None, Some(first.counter)), "{told}");
    assert_eq!((last(second.counter), last(second.counter + 1)), (None, None), "{told}");
    let jobs: Vec<JobRow> = store.all(Read::prefix::<JobRow>(vec![AFTER_RESTORE.into()])).await.unwrap();
    let mut wanted = RESTORE_JOBS.to_vec();
    wanted.sort_unstable();
    assert_eq!(jobs.iter().map(|job| job.name.as_str()).collect::<Vec<_>>(), wanted);
    let mut batch = store::CommitBatch::new();
    batch.announce(StreamKind::Event, None, None, None);
    assert_eq!(store.commit(batch).await.unwrap().last.0, second.counter + 1);
    assert!(prepare_restored(&directory.path().join("nothing")).is_err());
    let _: Restored = second;
}

#[tokio::test]
async fn a_panic_of_the_writer_ends_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.db");
    let (armed, fatal) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (trigger, counted) = (armed.clone(), fatal.clone());
    let options = Options {
        on_group: Some(Arc::new(move |_| assert!(!trigger.load(Ordering::Relaxed), "a test's panic"))),
        on_fatal: Some(Box::new(move || _ = counted.fetch_add(1, Ordering::Relaxed))),
        ..Options::default()
    };
    let engine = Sqlite::open(&path, options).unwrap();
    engine.submit(numbered(1, 10)).await.unwrap();
    armed.store(true, Ordering::Relaxed);
    let during: Vec<_> = (2..10).map(|number| engine.submit(numbered(number, 10))).collect();
    for ticket in during {
        assert!(ticket.await.is_err());
    }
    // The writer's end is told to those who ask later; give its thread the time to end.
    engine.close().await;
    let later = engine.submit(numbered(2, 10)).await;
    assert!(
        matches!(&later, Err(CommitError::Store(Error::Unusable(text))) if text.contains("a test's panic")),
        "{later:?}"
    );
    let read = engine.read(vec![Read::prefix::<MetaRow>(Vec::new())]).await;
    assert!(matches!(read, Err(Error::Unusable(_))), "{read:?}");
    assert_eq!(fatal.load(Ordering::Relaxed), 1);
    drop(engine);
    assert_eq!(numbers(&open(&path)).await, 1);
}

#[tokio::test]
async fn what_waits_is_committed_together() {
    let directory = tempfile::tempdir().unwrap();
    let groups = Arc::new(Mutex::new(Vec::new()));
    let gate = Arc::new(Mutex::new(()));
    let (seen, door) = (groups.clone(), gate.clone());
    let hook = move |batches| {
        drop(door.lock());
        seen.lock().push(batches);
    };
    let options = Options { on_group: Some(Arc::new(hook)), ..Options::default() };
    let engine = Sqlite::open(&directory.path().join("hearth.db"), options).unwrap();
    let shut = gate.lock();
    let tickets: Vec<_> = (1..=100).map(|number| engine.submit(numbered(number, 10))).collect();
    drop(shut);
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(numbers(&engine).await, 100);
    let groups = groups.lock().clone();
    assert_eq!(groups.iter().sum::<usize>(), 100);
    assert!(groups.len() <= 3, "{groups:?}");
}

#[tokio::test]
async fn a_read_that_takes_too_long_is_cut_and_holds_no_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { readers: 1, read_time_max: Duration::ZERO, ..Options::default() };
    let engine = Sqlite::open(&directory.path().join("hearth.db"), options).unwrap();
    let rows = (0..100_000).map(|name| vec![Value::Text(format!("{name:09}")), "value".into()]);
    engine.import(MetaRow::TABLE, rows.collect()).await.unwrap();
    let all = Read::prefix::<MetaRow>(Vec::new());
    for reads in [vec![all.clone()], vec![all.clone().limit(1), all.clone()]] {
        let cut = engine.read(reads).await;
        assert!(matches!(&cut, Err(Error::Engine(text)) if text.contains("too long")), "{:?}", cut.map(drop));
    }
    engine.submit(numbered(1, 10)).await.unwrap();
    let few = engine.read(vec![all.clone().limit(2), Read::get::<MetaRow>(vec!["last".into()])]).await.unwrap();
    assert_eq!(few.iter().map(|rows| rows.0.len()).collect::<Vec<_>>(), [2, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_store_that_closes() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..30 {
        let engine = Arc::new(open(&directory.path().join(format!("{round}.db"))));
        let callers: Vec<_> = (0..4)
            .map(|caller| {
                let engine = engine.clone();
                tokio::spawn(async move {
                    for number in 0.. {
                        let read = engine.read(vec![Read::prefix::<MetaRow>(Vec::new()).limit(1)]).await;
                        let written = engine.submit(numbered(caller * 1_000_000 + number, 10)).await;
                        if read.is_err() && written.is_err() {
                            break;
                        }
                    }
                })
            })
            .collect();
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        engine.close().await;
        for caller in callers {
            tokio::time::timeout(Duration::from_secs(20), caller).await.expect("a caller waits for ever").unwrap();
        }
    }
}

#[tokio::test]
async fn files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let engine = open(&directory.path().join("hearth.db"));
    engine.submit(numbered(1, 10)).await.unwrap();
    engine.check().unwrap();
    engine.backup(&directory.path().join("copy.db"), |_, _| {}).unwrap();
    for name in ["hearth.db", "hearth.db-wal", "copy.db"] {
        let mode = std::fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}: {mode:o}");
    }
}

#[tokio::test]
async fn the_log_is_moved_and_cut() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.db");
    let log = LogPolicy { max_bytes: 200_000, commits_per_look: 1, ..LogPolicy::default() };
    let engine = Sqlite::open(&path, Options { log, ..Options::default() }).unwrap();
    let mut largest = 0;
    for number in 1..=100 {
        engine.submit(numbered(number, 20_000)).await.unwrap();
        largest = largest.max(std::fs::metadata(directory.path().join("hearth.db-wal")).unwrap().len());
    }
    assert!(largest > 150_000 && largest < 600_000, "{largest}");
    assert_eq!(numbers(&engine).await, 100);
    engine.close().await;
}

#[tokio::test]
async fn a_malformed_batch_never_reaches_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let engine = open(&directory.path().join("hearth.db"));
    // A number where the column holds text never reaches SQLite.
    let mut batch = numbered(1, 10);
    batch.writes.push(store::Write::Put { table: MetaRow::TABLE, row: vec![Value::Int(1), Value::Int(2)] });
    assert!(matches!(engine.submit(batch).await, Err(CommitError::Store(Error::Engine(_)))));
    engine.submit(numbered(1, 10)).await.unwrap();
    assert_eq!(numbers(&engine).await, 1);
}
