//! Measures the engine on this machine's disk: commits by one and by sixteen submitters, point reads, and the CPU time of
//! each. `cargo run --release -p sqlite --example measure_store [DIRECTORY] [SECONDS]`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use sqlite::{Options, Sqlite};
use store::tables::rooms::{EventBytesRow, EventRow, RelationRow, RoomRow};
use store::{ColumnType, CommitBatch, Engine, EventNum, Read, RoomNum, Row, StreamKind, StreamPosition, Value, Write};

/// Bytes of an event's JSON.
const EVENT_BYTES: usize = 633;
/// Rooms that the events go to.
const ROOMS: i64 = 50;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let path = directory.join("hearth-measure.db");
    for suffix in ["", "-wal", "-shm", ".lock"] {
        drop(std::fs::remove_file(format!("{}{suffix}", path.display())));
    }
    let engine = match Sqlite::open(&path, Options { cache_bytes: 128 << 20, ..Options::default() }) {
        Ok(engine) => Arc::new(engine),
        Err(error) => return eprintln!("{error}"),
    };
    let (time, next) = (Duration::from_secs(seconds), Arc::new(AtomicI64::new(1)));
    for submitters in [1, 16, 64] {
        commits(&engine, &next, submitters, time).await;
    }
    for readers in [1, 16] {
        reads(&engine, next.load(Ordering::Relaxed), readers, time, 1).await;
    }
    reads(&engine, next.load(Ordering::Relaxed), 4, time, 100).await;
    engine.close().await;
    let start = Instant::now();
    let opened = Sqlite::open(&path, Options::default());
    println!("open: {:?}", start.elapsed());
    if let Ok(engine) = opened {
        engine.close().await;
    }
}

/// What one message commits: its event, its bytes, its room's head, a relation, a stream entry. The columns between are
/// filled by their types, so that this follows the tables.
fn message(number: i64) -> CommitBatch {
    let room = number % ROOMS;
    let mut batch = CommitBatch::new();
    batch.announce(StreamKind::Event, Some(RoomNum(room)), None, Some(number));
    batch.put(EventBytesRow { event: EventNum(number), json: vec![b'x'; EVENT_BYTES] });
    let event_id = number.wrapping_mul(0x5DEE_CE66_D1CE_4E5B);
    let rows = [(EventRow::TABLE, number, event_id), (RelationRow::TABLE, room, number), (RoomRow::TABLE, room, room)];
    for (table, key, text) in rows {
        let row = table.columns.iter().enumerate().map(|(place, column)| match column.column_type {
            _ if column.nullable && column.name != "pos" => Value::Null,
            ColumnType::Position => StreamPosition::pending(0).into(),
            ColumnType::Int if place == 0 => Value::Int(key),
            ColumnType::Int => Value::Int(number),
            ColumnType::Text => Value::Text(format!("{}{text:030}", column.name)),
            ColumnType::Blob => Value::Blob(vec![0; 24]),
        });
        batch.writes.push(Write::Put { table, row: row.collect() });
    }
    batch
}

async fn commits(engine: &Arc<Sqlite>, next: &Arc<AtomicI64>, submitters: usize, time: Duration) {
    let (start, cpu) = (Instant::now(), cpu_time());
    let tasks: Vec<_> = (0..submitters)
        .map(|_| {
            let (engine, next) = (engine.clone(), next.clone());
            tokio::spawn(async move {
                let mut waits = Vec::new();
                while start.elapsed() < time {
                    let batch = message(next.fetch_add(1, Ordering::Relaxed));
                    let asked = Instant::now();
                    if let Err(error) = engine.submit(batch).await {
                        eprintln!("{error}");
                        break;
                    }
                    waits.push(asked.elapsed());
                }
                waits
            })
        })
        .collect();
    let waits = collect(tasks).await;
    report(&format!("commit, {submitters} submitters"), waits, start, cpu);
}

async fn reads(engine: &Arc<Sqlite>, end: i64, readers: usize, time: Duration, each: i64) {
    let (start, cpu) = (Instant::now(), cpu_time());
    let tasks: Vec<_> = (0..readers)
        .map(|reader| {
            let engine = engine.clone();
            tokio::spawn(async move {
                let mut waits = Vec::new();
                let mut number = i64::try_from(reader).unwrap_or(0);
                while start.elapsed() < time {
                    let gets = (0..each).map(|_| {
                        number = (number * 48_271 + 11) % end.max(2);
                        Read::get::<EventBytesRow>(vec![number.into()])
                    });
                    let gets = gets.collect();
                    let asked = Instant::now();
                    if let Err(error) = engine.read(gets).await {
                        eprintln!("{error}");
                        break;
                    }
                    waits.push(asked.elapsed());
                }
                waits
            })
        })
        .collect();
    let waits = collect(tasks).await;
    report(&format!("{each} point reads per call, {readers} readers"), waits, start, cpu);
}

async fn collect(tasks: Vec<tokio::task::JoinHandle<Vec<Duration>>>) -> Vec<Duration> {
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await.unwrap_or_default());
    }
    waits.sort_unstable();
    waits
}

fn report(what: &str, waits: Vec<Duration>, start: Instant, cpu: Option<Duration>) {
    let count = u32::try_from(waits.len().max(1)).unwrap_or(u32::MAX);
    let rate = f64::from(count) / start.elapsed().as_secs_f64();
    let at = |percent: usize| waits.get(waits.len() * percent / 100).copied().unwrap_or_default();
    let used = cpu.and_then(|before| Some(cpu_time()?.saturating_sub(before) / count));
    println!("{what}: {rate:.0}/s, p50 {:?}, p99 {:?}, CPU each {:?}", at(50), at(99), used.unwrap_or_default());
}

/// CPU time of this process so far; from `/proc`, in its clock ticks of 10 ms.
fn cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|place| fields.get(*place)?.parse::<u64>().ok()).sum();
    Some(Duration::from_millis(ticks * 10))
}
