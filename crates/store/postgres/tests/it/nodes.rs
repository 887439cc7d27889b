//! Several nodes on one database: compare-and-swap between them, and one order of positions that nobody misses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use store::tables::core::StreamRow;
use store::tables::users::DeviceChangeRow;
use store::{CommitError, Engine, Read};

use crate::database::Database;
use crate::work::{self, Noting};

const NODES: usize = 3;
/// Tasks of each node.
const TASKS: i64 = 4;
/// What each task commits.
const STEPS: i64 = 25;

async fn nodes(database: &Database) -> Vec<Arc<dyn Engine>> {
    let mut nodes: Vec<Arc<dyn Engine>> = Vec::new();
    for _ in 0..NODES {
        nodes.push(database.open().await);
    }
    nodes
}

/// Follows the stream by reading it, always only beyond the last position seen; panics at a gap.
async fn tail(engine: Arc<dyn Engine>, stop: Arc<AtomicBool>) -> Vec<i64> {
    let mut seen = Vec::new();
    let mut end = 0;
    loop {
        let last_look = stop.load(Ordering::Acquire);
        let rows = engine.read(vec![Read::prefix::<StreamRow>(vec![]).after(end)]).await.unwrap().remove(0);
        for row in rows.all::<StreamRow>().unwrap() {
            assert_eq!(row.pos.0, end + 1, "a reader never misses a position");
            end = row.pos.0;
            seen.push(row.number.unwrap());
        }
        if last_look {
            return seen;
        }
        tokio::task::yield_now().await;
    }
}

async fn raise_often(node: Arc<dyn Engine>, base: i64) -> (BTreeMap<i64, i64>, usize) {
    let mut positions = BTreeMap::new();
    let mut conflicts = 0;
    for step in 0..STEPS {
        let number = base * 1_000 + step;
        let (committed, lost) = work::raise(&node, "contended", number).await;
        conflicts += lost;
        positions.insert(committed.last.0, number);
        // A commit beside the contended one, so that groups of both kinds meet.
        let number = number + 500;
        let committed = node.submit(work::plain(number)).await.unwrap();
        positions.insert(committed.last.0, number);
    }
    (positions, conflicts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_raise_one_row_and_nobody_misses_a_position() {
    let Some(database) = Database::make().await else { return };
    let nodes = nodes(&database).await;
    let noting: Vec<_> = nodes.iter().map(|node| Noting::follow(node.notifier())).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let tails: Vec<_> = nodes.iter().map(|node| tokio::spawn(tail(node.clone(), stop.clone()))).collect();
    let mut tasks = Vec::new();
    for (place, node) in (0..).zip(&nodes) {
        for task in 0..TASKS {
            tasks.push(tokio::spawn(raise_often(node.clone(), place * TASKS + task)));
        }
    }
    let mut acknowledged = BTreeMap::new();
    let mut conflicts = 0;
    for task in tasks {
        let (positions, lost) = task.await.unwrap();
        acknowledged.extend(positions);
        conflicts += lost;
    }
    stop.store(true, Ordering::Release);
    let total = i64::try_from(NODES).unwrap() * TASKS * STEPS;
    println!("{total} raises met {conflicts} conflicts");
    assert_eq!(work::raised(&nodes[0], "contended").await, total);
    work::check_stream(&nodes[0], &acknowledged).await;
    let numbers: Vec<i64> = acknowledged.values().copied().collect();
    for tail in tails {
        assert_eq!(tail.await.unwrap(), numbers);
    }
    for (node, noting) in nodes.iter().zip(noting) {
        work::reach(node, store::StreamPosition(total * 2)).await;
        assert_eq!(noting.told().iter().map(|entry| entry.number.unwrap()).collect::<Vec<_>>(), numbers);
        node.close().await;
    }
    database.dispose().await;
}

/// Of all nodes that want a row which is absent, exactly one gets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absent_row_is_claimed_once() {
    let Some(database) = Database::make().await else { return };
    let nodes = nodes(&database).await;
    for number in 0..40 {
        let tickets: Vec<_> = nodes.iter().map(|node| node.submit(work::claiming(number))).collect();
        let mut won = 0;
        for ticket in tickets {
            match ticket.await {
                Ok(_) => won += 1,
                Err(CommitError::Conflict { check: 0 }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(won, 1, "claim {number}");
    }
    database.dispose().await;
}

/// A row that one node claims and others put without checks: no commit fails but by its check, and a claim that was
/// granted lies before all the puts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unchecked_puts_meet_claims() {
    let Some(database) = Database::make().await else { return };
    let nodes = nodes(&database).await;
    for number in 0..40 {
        let mut tickets = vec![nodes[0].submit(work::claiming(number))];
        tickets.extend(nodes[1..].iter().map(|node| node.submit(work::plain(number))));
        let mut positions = Vec::new();
        for (place, ticket) in tickets.into_iter().enumerate() {
            match ticket.await {
                Ok(committed) => positions.push(committed.last),
                Err(CommitError::Conflict { .. }) if place == 0 => {}
                Err(error) => panic!("{error}"),
            }
        }
        let claimed = positions.len() == NODES;
        assert!(!claimed || positions[0] == positions.iter().copied().min().unwrap(), "{number}: {positions:?}");
    }
    database.dispose().await;
}

/// A node that lost a swap knows, when it is told so, of the commit to which it lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loser_knows_the_winner() {
    let Some(database) = Database::make().await else { return };
    let nodes = nodes(&database).await;
    for number in 0..20 {
        let won = nodes[0].submit(work::claiming(number)).await.unwrap();
        let lost = nodes[1].submit(work::claiming(number)).await;
        assert!(matches!(lost, Err(CommitError::Conflict { check: 0 })), "{lost:?}");
        assert!(nodes[1].notifier().watermark() >= won.last);
    }
    database.dispose().await;
}

/// Batches that write the same rows in opposite orders, and ranges over them, on all nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crossing_writes_all_come_through() {
    let Some(database) = Database::make().await else { return };
    let nodes = nodes(&database).await;
    let mut tickets = Vec::new();
    for round in 0..30 {
        for (place, node) in (0..).zip(&nodes) {
            let mut batch = work::plain(1_000 * (place + 1) + round);
            for row in 0..10 {
                let row = if place == 1 { 9 - row } else { row };
                batch.put(work::job(row, round));
            }
            if place == 2 {
                batch.delete_range::<store::tables::core::JobRow>(
                    vec!["work".into()],
                    std::collections::Bound::Included("3".into()),
                    std::collections::Bound::Excluded("8".into()),
                );
            }
            tickets.push(node.submit(batch));
        }
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(work::stream(&nodes[0]).await.len(), 90);
    database.dispose().await;
}

async fn change_devices(node: Arc<dyn Engine>, checked: bool) {
    for _ in 0..150 {
        let user = store::UserId::from("@a:b");
        let mut batch = store::CommitBatch::new();
        if checked {
            batch.expect_present::<DeviceChangeRow>(vec![(&user).into()]);
        }
        let pos = batch.announce(store::StreamKind::DeviceList, None, Some(user.clone()), None);
        batch.put(DeviceChangeRow { user_id: user, pos });
        node.submit(batch).await.unwrap();
    }
}

/// One node locks a row that carries a position, since it checks it; another writes it without checks. Neither may hold
/// the counter while it waits for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_with_positions_make_no_deadlock() {
    let Some(database) = Database::make().await else { return };
    let nodes = nodes(&database).await;
    change_devices(nodes[1].clone(), false).await;
    // Nodes lock with care once they have heard of each other.
    for (number, node) in (0..).zip(&nodes) {
        let last = node.submit(work::plain(number)).await.unwrap().last;
        for node in &nodes {
            work::reach(node, last).await;
        }
    }
    let tasks: Vec<_> = nodes
        .iter()
        .zip([true, false, true])
        .map(|(node, checked)| tokio::spawn(change_devices(node.clone(), checked)))
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for node in nodes {
        node.close().await;
    }
    // The server's processes tell their figures when they end.
    let connected = "SELECT 1 FROM pg_stat_activity WHERE datname = $1";
    while !database.admin.query(connected, &[&database.name()]).await.unwrap().is_empty() {}
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = $1";
    let deadlocks: i64 = database.admin.query_one(deadlocks, &[&database.name()]).await.unwrap().get(0);
    assert_eq!(deadlocks, 0);
    database.dispose().await;
}

/// Text with NUL and all else survives, in keys and values, and orders bytewise.
#[tokio::test]
async fn nul_in_text_is_stored_and_ordered() {
    let Some(database) = Database::make().await else { return };
    let engine = database.open().await;
    let names = ["", "\0", "\0\0", "\0\u{1}", "\0a", "\u{1}", "\u{1}\0", "\u{2}", "A", "a", "a\0", "a\0b", "ab", "é"];
    let mut batch = store::CommitBatch::new();
    for name in names.iter().rev() {
        batch.put(store::tables::core::MetaRow { name: (*name).to_owned(), value: format!("{name}\0{name}") });
    }
    engine.submit(batch).await.unwrap();
    let all = Read::prefix::<store::tables::core::MetaRow>(vec![]);
    let rows = engine.read(vec![all]).await.unwrap().remove(0).all::<store::tables::core::MetaRow>().unwrap();
    assert_eq!(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), names);
    assert!(rows.iter().all(|row| row.value == format!("{0}\0{0}", row.name)));
    engine.close().await;
    database.dispose().await;
}
