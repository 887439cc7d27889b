//! Power cuts, full disks and failing disks, on the disk shim.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlite::shim::Disk;
use sqlite::{LogPolicy, Options, Sqlite};
use store::{CommitError, Engine, Error, Ticket};

use crate::support::{numbered, numbers};

/// Power cuts where `HEARTH_POWER_CUTS` does not say another number.
const POWER_CUTS: u64 = 240;
/// Times that the power of one machine is cut.
const LIVES: u64 = 4;
/// Batches that a run submits at most.
const BATCHES: i64 = 120;

fn options(disk: &Disk, log: LogPolicy) -> Options {
    Options { readers: 1, vfs: Some(disk.vfs().to_owned()), log, ..Options::default() }
}

/// The log is moved at once, when it is tiny or not at all, by seed.
fn log_policy(seed: u64) -> LogPolicy {
    match seed % 4 {
        0 => LogPolicy { idle: Duration::ZERO, idle_bytes: 0, max_bytes: 1 << 20, commits_per_look: 1 },
        1 => LogPolicy { idle: Duration::ZERO, idle_bytes: 50_000, max_bytes: 200_000, commits_per_look: 2 },
        2 => LogPolicy { idle: Duration::from_secs(1), idle_bytes: 0, max_bytes: 30_000, commits_per_look: 1 },
        _ => LogPolicy::default(),
    }
}

/// Submits numbered batches until the power goes; returns how many were acknowledged.
async fn write_until_dark(engine: &Sqlite, from: i64, in_flight: usize, bytes: usize) -> i64 {
    let mut acknowledged = from - 1;
    let mut waiting: std::collections::VecDeque<(i64, Ticket)> = std::collections::VecDeque::new();
    for number in from..from + BATCHES {
        waiting.push_back((number, engine.submit(numbered(number, bytes))));
        if waiting.len() < in_flight {
            continue;
        }
        let Some((number, ticket)) = waiting.pop_front() else { break };
        match ticket.await {
            Ok(committed) => {
                assert_eq!(committed.last.0, number * 2);
                acknowledged = number;
            }
            Err(_) => return acknowledged,
        }
    }
    for (number, ticket) in waiting {
        match ticket.await {
            Ok(_) => acknowledged = number,
            Err(_) => break,
        }
    }
    acknowledged
}

fn quick_check(path: &Path) {
    let connection = rusqlite::Connection::open(path).unwrap();
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
}

/// One machine's life: written to, cut off, started again, several times over. Answers how many batches were
/// acknowledged.
async fn live(seed: u64) -> i64 {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.db");
    let disk = Disk::new(seed).unwrap();
    let mut there = 0;
    for life in 0..LIVES {
        let engine = Sqlite::open(&path, options(&disk, log_policy(seed + life))).unwrap();
        let found = numbers(&engine).await;
        assert!(found >= there, "seed {seed}, life {life}: {there} were acknowledged, {found} are there");
        let cut = (seed.wrapping_mul(life + 7).wrapping_mul(0x9E37_79B9)) % 700;
        disk.cut_power_after(cut);
        let in_flight = [1, 4, 40][usize::try_from(seed % 3).unwrap()];
        there = write_until_dark(&engine, found + 1, in_flight, usize::try_from(cut * 13 % 9_000).unwrap()).await;
        disk.cut_power();
        engine.close().await;
        disk.restore_power();
    }
    let engine = Sqlite::open(&path, options(&disk, log_policy(seed))).unwrap();
    let found = numbers(&engine).await;
    assert!(found >= there, "seed {seed}, at last: {there} were acknowledged, {found} are there");
    engine.close().await;
    quick_check(&path);
    there
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_nothing_acknowledged_and_halves_nothing() {
    let cuts = std::env::var("HEARTH_POWER_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(POWER_CUTS);
    let (machines, mut acknowledged) = (cuts.div_ceil(LIVES), 0);
    for seed in 0..machines {
        acknowledged += tokio::spawn(live(seed)).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    println!("figures: {} power cuts, {acknowledged} batches acknowledged, none lost", machines * LIVES);
}

/// The shim itself: what was not synced is in danger. Without a sync, acknowledged batches do get lost.
#[tokio::test]
async fn the_shim_loses_what_is_not_synced() {
    let mut lost = 0;
    for seed in 0..8 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plain.db");
        let disk = Disk::new(seed).unwrap();
        let flags = rusqlite::OpenFlags::default();
        let connection = rusqlite::Connection::open_with_flags_and_vfs(&path, flags, disk.vfs()).unwrap();
        connection
            .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER); PRAGMA wal_checkpoint(TRUNCATE)")
            .unwrap();
        connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
        for number in 0..20 {
            connection.execute("INSERT INTO t VALUES (?1)", [number]).unwrap();
        }
        disk.cut_power();
        drop(connection);
        disk.restore_power();
        let connection = rusqlite::Connection::open(&path).unwrap();
        let count: i64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        lost += 20 - count;
    }
    assert!(lost > 0, "the shim never lost anything");
}

#[tokio::test]
async fn each_commit_is_synced_once() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::new(1).unwrap();
    let engine = Sqlite::open(&directory.path().join("hearth.db"), options(&disk, log_policy(3))).unwrap();
    engine.submit(numbered(1, 10)).await.unwrap();
    let before = disk.syncs();
    for number in 2..=11 {
        engine.submit(numbered(number, 10)).await.unwrap();
    }
    assert_eq!(disk.syncs() - before, 10);
}

#[tokio::test]
async fn a_full_disk_refuses_batches_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.db");
    let disk = Disk::new(5).unwrap();
    let engine = Sqlite::open(&path, options(&disk, log_policy(3))).unwrap();
    engine.submit(numbered(1, 100)).await.unwrap();
    disk.limit_growth(Some(200_000));
    let mut last = 1;
    let refused = loop {
        match engine.submit(numbered(last + 1, 5_000)).await {
            Ok(_) => last += 1,
            Err(error) => break error,
        }
        assert!(last < 1_000, "the disk never filled");
    };
    assert!(matches!(refused, CommitError::Store(Error::DiskFull)), "{refused:?}");
    assert_eq!(numbers(&engine).await, last, "reads go on, and nothing of the refused batch is there");
    let again = engine.submit(numbered(last + 1, 900_000)).await;
    assert!(matches!(again, Err(CommitError::Store(Error::DiskFull))), "{again:?}");
    disk.limit_growth(None);
    engine.submit(numbered(last + 1, 5_000)).await.unwrap();
    engine.close().await;
    let engine = Sqlite::open(&path, options(&disk, log_policy(3))).unwrap();
    assert_eq!(numbers(&engine).await, last + 1);
    engine.close().await;
    quick_check(&path);
}

#[tokio::test]
async fn a_failed_sync_ends_the_store_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.db");
    let disk = Disk::new(6).unwrap();
    let fatal = Arc::new(AtomicUsize::new(0));
    let counted = fatal.clone();
    let on_fatal = Box::new(move || _ = counted.fetch_add(1, Ordering::Relaxed));
    let engine = Sqlite::open(&path, Options { on_fatal: Some(on_fatal), ..options(&disk, log_policy(3)) }).unwrap();
    engine.submit(numbered(1, 100)).await.unwrap();
    disk.fail_syncs(true);
    let failed = engine.submit(numbered(2, 100)).await;
    assert!(matches!(failed, Err(CommitError::Store(Error::Unusable(_)))), "{failed:?}");
    disk.fail_syncs(false);
    let later = engine.submit(numbered(2, 100)).await;
    assert!(matches!(later, Err(CommitError::Store(Error::Unusable(_)))), "{later:?}");
    assert!(matches!(engine.read(Vec::new()).await, Err(Error::Unusable(_))));
    engine.close().await;
    assert_eq!(fatal.load(Ordering::Relaxed), 1);
    disk.cut_power();
    disk.restore_power();
    let engine = Sqlite::open(&path, options(&disk, log_policy(3))).unwrap();
    let there = numbers(&engine).await;
    assert!((1..=2).contains(&there), "the failed batch is there wholly or not at all");
}
