//! Connections that end at the worst moments: nothing is lost, nothing is doubled, every answer is true.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use postgres::{Options, Postgres};
use store::tables::core::MetaRow;
use store::{CommitBatch, CommitError, Engine, Error, Read};

use crate::database::Database;
use crate::proxy::{Cut, Proxy};
use crate::work;

/// The proxy knows the writer's connection by this name.
const WRITER: &str = "test";

fn options() -> Options {
    // What ends a silence must be short, what waits for a slow machine long.
    let (commit_wait, patience) = (Duration::from_millis(1_500), Duration::from_secs(300));
    Options { writer: WRITER.to_owned(), commit_wait, patience, ..Options::default() }
}

async fn proxied(database: &Database) -> (Proxy, Arc<dyn Engine>) {
    let proxy = Proxy::start(database).await;
    let engine = Postgres::open(&proxy.url(), options()).await.unwrap();
    (proxy, Arc::new(engine))
}

/// Batches with and without checks, one after the other; position to number.
async fn commit_all(engine: Arc<dyn Engine>, numbers: impl Iterator<Item = i64>) -> BTreeMap<i64, i64> {
    let mut acknowledged = BTreeMap::new();
    for number in numbers {
        let committed = match number % 3 {
            0 => engine.submit(work::plain(number)).await.unwrap(),
            1 => engine.submit(work::claiming(number)).await.unwrap(),
            _ => work::raise(&engine, "shared", number).await.0,
        };
        assert_eq!(committed.first, committed.last);
        acknowledged.insert(committed.last.0, number);
    }
    acknowledged
}

async fn check_cut(cut: Cut) {
    let Some(database) = Database::make().await else { return };
    let (proxy, engine) = proxied(&database).await;
    proxy.plan([None, None, Some(cut), None, Some(cut), Some(cut), None, Some(cut), None]);
    let acknowledged = commit_all(engine.clone(), 0..12).await;
    assert_eq!(proxy.cuts(), 4, "{cut:?}");
    work::check_stream(&engine, &acknowledged).await;
    assert_eq!(work::raised(&engine, "shared").await, 4);
    engine.close().await;
    database.dispose().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_at_begin() {
    check_cut(Cut::Begin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_before_commit() {
    check_cut(Cut::BeforeCommit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_after_commit() {
    check_cut(Cut::AfterCommit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_with_a_late_commit() {
    check_cut(Cut::LateCommit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_after_commit() {
    check_cut(Cut::Stall).await;
}

/// A whole transaction lies in a buffer on the way while its connection is lost, and comes to be executed after the same
/// batch was committed anew: its number is burnt by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_transaction_is_refused() {
    let Some(database) = Database::make().await else { return };
    let (proxy, engine) = proxied(&database).await;
    proxy.plan([Some(Cut::LateAll)]);
    assert_eq!(engine.submit(work::plain(1)).await.unwrap().last.0, 1);
    proxy.late_is_done().await;
    assert_eq!(proxy.cuts(), 1);
    assert_eq!(engine.submit(work::plain(2)).await.unwrap().last.0, 2);
    work::check_stream(&engine, &BTreeMap::from([(1, 1), (2, 2)])).await;
    engine.close().await;
    database.dispose().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_before_commit() {
    check_cut(Cut::Hold).await;
}

/// A node that stops in the middle of a commit holds its locks; another that wants the same row gets it in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_lock_is_waited_for() {
    let Some(database) = Database::make().await else { return };
    let (proxy, stopped) = proxied(&database).await;
    let other: Arc<dyn Engine> = database.open().await;
    work::raise(&other, "wanted", 1).await;
    proxy.plan([Some(Cut::Hold)]);
    let raising = tokio::spawn(async move { work::raise(&stopped, "wanted", 2).await });
    for number in 3..6 {
        work::raise(&other, "wanted", number).await;
    }
    raising.await.unwrap();
    assert_eq!(work::raised(&other, "wanted").await, 5);
    assert_eq!(work::stream(&other).await.len(), 5);
    database.dispose().await;
}

/// Many submitters, two nodes of which one is cut again and again, while the other works on the same rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_under_load() {
    let Some(database) = Database::make().await else { return };
    let (proxy, cut_node) = proxied(&database).await;
    let other: Arc<dyn Engine> = database.open().await;
    let cuts = [Cut::AfterCommit, Cut::BeforeCommit, Cut::Begin, Cut::LateCommit, Cut::AfterCommit, Cut::Begin];
    proxy.plan((0..36).map(|place| if place % 3 == 2 { Some(cuts[place / 3 % cuts.len()]) } else { None }));
    let mut tasks = Vec::new();
    for task in 0..8 {
        let node = if task % 4 == 3 { other.clone() } else { cut_node.clone() };
        tasks.push(tokio::spawn(commit_all(node, (0..30).map(move |step| task * 300 + step))));
    }
    let mut acknowledged = BTreeMap::new();
    for task in tasks {
        acknowledged.extend(task.await.unwrap());
    }
    assert_eq!(proxy.cuts(), 12);
    work::check_stream(&cut_node, &acknowledged).await;
    assert_eq!(work::raised(&other, "shared").await, 80);
    let end = i64::try_from(acknowledged.len()).unwrap();
    for node in [cut_node, other] {
        work::reach(&node, store::StreamPosition(end)).await;
        node.close().await;
    }
    database.dispose().await;
}

/// The server ends the engine's processes, again and again, in whatever they do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_backends_under_load() {
    let Some(database) = Database::make().await else { return };
    let engine: Arc<dyn Engine> = database.open().await;
    let tasks: Vec<_> = (0..8)
        .map(|task| tokio::spawn(commit_all(engine.clone(), (0..60).map(move |step| task * 600 + step))))
        .collect();
    let mut watermark = engine.notifier().subscribe();
    let mut killed = 0;
    for step in 1..=15 {
        watermark.wait_for(|reached| reached.0 >= step * 30).await.unwrap();
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
        killed += database.admin.query(kill, &[&database.name()]).await.unwrap().len();
    }
    let mut acknowledged = BTreeMap::new();
    for task in tasks {
        acknowledged.extend(task.await.unwrap());
    }
    println!("{killed} server processes were ended");
    assert!(killed >= 15);
    work::check_stream(&engine, &acknowledged).await;
    assert_eq!(work::raised(&engine, "shared").await, 160);
    engine.close().await;
    database.dispose().await;
}

/// The whole server crashes and recovers, several times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "crashes the server of the other tests"]
async fn crashed_server_under_load() {
    let Ok(command) = std::env::var("HEARTH_TEST_POSTGRES_CRASH") else { return };
    let Some(database) = Database::make().await else { return };
    let nodes: [Arc<dyn Engine>; 2] = [database.open().await, database.open().await];
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let node = nodes[usize::try_from(task % 2).unwrap()].clone();
            tokio::spawn(commit_all(node, (0..300).map(move |step| task * 600 + step)))
        })
        .collect();
    let mut watermark = nodes[0].notifier().subscribe();
    for step in 1..=5 {
        watermark.wait_for(|reached| reached.0 >= step * 400).await.unwrap();
        let crash = tokio::process::Command::new("sh").args(["-c", &command]).output().await.unwrap();
        assert!(crash.status.success(), "{crash:?}");
    }
    let mut acknowledged = BTreeMap::new();
    for task in tasks {
        acknowledged.extend(task.await.unwrap());
    }
    work::check_stream(&nodes[0], &acknowledged).await;
    assert_eq!(work::raised(&nodes[1], "shared").await, 800);
    for node in nodes {
        node.close().await;
    }
    database.dispose_anew().await;
}

/// Reads and commits wait while PostgreSQL is away, and go on by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_waited_out() {
    let Some(database) = Database::make().await else { return };
    let (proxy, engine) = proxied(&database).await;
    engine.submit(work::claiming(1)).await.unwrap();
    proxy.set_down(true);
    let ticket = engine.submit(work::claiming(2));
    let reading = engine.clone();
    let read = tokio::spawn(async move { reading.read(vec![Read::prefix::<MetaRow>(vec![])]).await });
    proxy.set_down(false);
    assert_eq!(ticket.await.unwrap().last.0, 2);
    read.await.unwrap().unwrap();
    // Several round trips later, everything still works, listening to other nodes included.
    let other: Arc<dyn Engine> = database.open().await;
    let last = other.submit(work::claiming(3)).await.unwrap().last;
    work::reach(&engine, last).await;
    engine.close().await;
    database.dispose().await;
}

/// When PostgreSQL stays away, reads say so after their patience.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_outage_is_told() {
    let Some(database) = Database::make().await else { return };
    let proxy = Proxy::start(&database).await;
    let hurried = Options { patience: Duration::from_millis(300), ..options() };
    let engine = loop {
        // Where the machine is too slow for this patience.
        if let Ok(engine) = Postgres::open(&proxy.url(), hurried.clone()).await {
            break engine;
        }
    };
    proxy.set_down(true);
    match engine.read(vec![Read::prefix::<MetaRow>(vec![])]).await {
        Err(Error::Unavailable(text)) => assert!(text.contains("PostgreSQL cannot be reached"), "{text}"),
        other => panic!("{other:?}"),
    }
    // Once it is back, so are the answers.
    proxy.set_down(false);
    while engine.read(vec![Read::prefix::<MetaRow>(vec![])]).await.is_err() {}
    database.dispose().await;
}

/// A batch that PostgreSQL refuses fails alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_batch_fails_alone() {
    let Some(database) = Database::make().await else { return };
    let engine = database.open().await;
    let mut refused = CommitBatch::new();
    // Beyond what an index of PostgreSQL can hold, and not compressible.
    let mut state: u64 = 1;
    let long: String = (0..9_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'!' + u8::try_from((state >> 33) % 90).unwrap())
        })
        .collect();
    refused.put(MetaRow { name: long, value: String::new() });
    let before = engine.submit(work::plain(1));
    let refused = engine.submit(refused);
    let after = engine.submit(work::plain(2));
    assert_eq!(before.await.unwrap().last.0, 1);
    assert!(matches!(refused.await, Err(CommitError::Store(Error::Engine(_)))));
    assert_eq!(after.await.unwrap().last.0, 2);
    engine.close().await;
    database.dispose().await;
}
