//! CPU time of syncs on SQLite: idle ones, one message to many waiting ones, and initial ones. Run with `--release`.
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a tool for developers")]

#[path = "../tests/it/bench.rs"]
mod bench;

use std::sync::Arc;
use std::time::Duration;

use bench::{Bench, user};
use serde_json::Value;
use store::UserId;
use tokio::task::JoinSet;

/// CPU time of all threads so far, in milliseconds.
fn cpu_ms() -> f64 {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        nanoseconds += text.split(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    }
    nanoseconds / 1e6
}

fn token(answer: &Value) -> String {
    answer["next_batch"].as_str().unwrap().to_owned()
}

/// A user who is alone in so many rooms, and what an idle sync costs.
async fn idle(bench: &Bench, name: &str, rooms: usize) {
    let me = user(name);
    for _ in 0..rooms {
        bench.room(std::slice::from_ref(&me)).await;
    }
    let mut since = token(&bench.sync(&me, None, Duration::ZERO).await);
    let (times, from) = (2_000, cpu_ms());
    for _ in 0..times {
        since = token(&bench.sync(&me, Some(&since), Duration::ZERO).await);
    }
    println!("idle sync, {rooms} rooms: {:.4} ms", (cpu_ms() - from) / f64::from(times));
}

async fn wait(bench: &Arc<Bench>, members: &[UserId], since: &[String]) -> JoinSet<(UserId, String)> {
    let mut waiting = JoinSet::new();
    for (member, since) in members.iter().cloned().zip(since.iter().cloned()) {
        let bench = bench.clone();
        waiting.spawn(async move {
            let answer = bench.sync(&member, Some(&since), Duration::from_secs(60)).await;
            assert!(answer["rooms"]["join"].is_object());
            (member, token(&answer))
        });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    waiting
}

/// One message to so many waiting syncs.
async fn fan_out(bench: &Arc<Bench>, n_members: usize) {
    let members: Vec<UserId> = (0..n_members).map(|n| user(&format!("m{n}"))).collect();
    let room = bench.room(&members).await;
    let mut since = Vec::new();
    for member in &members {
        since.push(token(&bench.sync(member, None, Duration::ZERO).await));
    }
    for round in 0..4 {
        let waiting = wait(bench, &members, &since).await;
        let from = cpu_ms();
        bench.say(&room, &members[0], "1").await;
        let answers: std::collections::BTreeMap<UserId, String> = waiting.join_all().await.into_iter().collect();
        println!("one message to {n_members} waiting syncs, round {round}: {:.2} ms", cpu_ms() - from);
        since = members.iter().map(|member| answers[member].clone()).collect();
    }
}

/// An initial sync of so many rooms with so many members each.
async fn initial(bench: &Bench, n_rooms: usize, n_members: usize) {
    let members: Vec<UserId> = (0..n_members).map(|n| user(&format!("i{n}"))).collect();
    for _ in 0..n_rooms {
        let room = bench.room(&members).await;
        for n in 0..15 {
            bench.say(&room, &members[n % n_members], "1").await;
        }
    }
    for (round, member) in members.iter().take(4).enumerate() {
        let from = cpu_ms();
        bench.sync(member, None, Duration::ZERO).await;
        println!("initial sync, {n_rooms} rooms of {n_members}, round {round}: {:.2} ms", cpu_ms() - from);
    }
}

#[tokio::main]
async fn main() {
    let directory = tempfile::tempdir().unwrap();
    let engine = sqlite::Sqlite::open(&directory.path().join("db"), sqlite::Options::default()).unwrap();
    let bench = Bench::new(Arc::new(engine), |follower| follower).await;
    idle(&bench, "forty", 40).await;
    idle(&bench, "many", 2_000).await;
    fan_out(&bench, 100).await;
    initial(&bench, 40, 30).await;
}
