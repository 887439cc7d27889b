//! How fast it is: run by hand, with `--ignored --nocapture`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use store::tables::core::JobRow;
use store::{Engine, Read};

use crate::database::Database;
use crate::work;

const SUBMITTERS: i64 = 16;
const BATCHES: i64 = 300;

/// CPU time of this process so far.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

async fn measure<F>(what: &str, count: i64, work: F)
where
    F: Future<Output = ()>,
{
    let (start, used) = (Instant::now(), cpu());
    work.await;
    let (elapsed, used) = (start.elapsed().as_secs_f64(), (cpu() - used).as_secs_f64());
    let count = f64::from(i32::try_from(count).unwrap());
    println!("{what}: {:.0}/s, {:.0} µs CPU each in this process", count / elapsed, used / count * 1e6);
}

async fn submit_all(node: Arc<dyn Engine>, base: i64, checked: bool) {
    for step in 0..BATCHES {
        let number = base * BATCHES + step;
        let batch = if checked { work::claiming(number) } else { work::plain(number) };
        node.submit(batch).await.unwrap();
    }
}

async fn join(tasks: Vec<tokio::task::JoinHandle<()>>) {
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn speed() {
    let Some(database) = Database::make().await else { return };
    let nodes: Vec<Arc<dyn Engine>> = vec![database.open().await, database.open().await, database.open().await];
    for (what, nodes, checked, base) in [
        ("1 node, unchecked batches", &nodes[..1], false, 0),
        ("1 node, checked batches", &nodes[..1], true, 1_000),
        ("3 nodes, checked batches", &nodes[..], true, 2_000),
    ] {
        let tasks = (0..SUBMITTERS).map(|task| {
            let node = nodes[usize::try_from(task).unwrap() % nodes.len()].clone();
            tokio::spawn(submit_all(node, base + task, checked))
        });
        measure(what, SUBMITTERS * BATCHES, join(tasks.collect())).await;
    }
    let node = &nodes[0];
    measure("single reads, one after the other", 3_000, async {
        for number in 0..3_000_i64 {
            let key = vec!["work".into(), number.to_string().into()];
            assert_eq!(node.read(vec![Read::get::<JobRow>(key)]).await.unwrap()[0].0.len(), 1);
        }
    })
    .await;
    measure("calls with 200 reads alike", 200, async {
        for call in 0..200_i64 {
            let key = |number: i64| vec!["work".into(), (call + number).to_string().into()];
            let reads = (0..200).map(|number| Read::get::<JobRow>(key(number))).collect();
            assert_eq!(node.read(reads).await.unwrap().len(), 200);
        }
    })
    .await;
    for node in nodes {
        node.close().await;
    }
    database.dispose().await;
}
