//! CPU time of syncs on SQLite: idle ones, one message to one and to many waiting ones, and initial ones, at the sizes of
//! the goals and at ten times these. Run with `--release`; arguments choose among `idle`, `seen`, `fan` and `initial`.
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a tool for developers")]

#[expect(dead_code, reason = "tests use more of it")]
#[path = "../tests/it/bench.rs"]
mod bench;

use std::sync::Arc;
use std::time::Duration;

use bench::{Bench, user};
use serde_json::Value;
use store::{DeviceId, UserId};
use sync::Request;
use tokio::task::JoinSet;
use users::presence::PresenceState;

/// CPU time of all threads so far, in milliseconds.
fn cpu_ms() -> f64 {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        nanoseconds += text.split(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    }
    nanoseconds / 1e6
}

fn median(mut costs: Vec<f64>) -> f64 {
    costs.sort_by(f64::total_cmp);
    costs[costs.len() / 2]
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
    let (rounds, mut costs) = (8, Vec::new());
    for _ in 0..rounds {
        let waiting = wait(bench, &members, &since).await;
        let from = cpu_ms();
        bench.say(&room, &members[0], "1").await;
        let answers: std::collections::BTreeMap<UserId, String> = waiting.join_all().await.into_iter().collect();
        costs.push(cpu_ms() - from);
        since = members.iter().map(|member| answers[member].clone()).collect();
    }
    println!("one message to {n_members} waiting syncs: {:.2} ms", median(costs));
}

/// One message to one waiting sync in a room of two.
async fn seen(bench: &Arc<Bench>) {
    let members = [user("sender"), user("listener")];
    let room = bench.room(&members).await;
    let listener = &members[1..];
    let mut since = vec![token(&bench.sync(&listener[0], None, Duration::ZERO).await)];
    let mut costs = Vec::new();
    for _ in 0..40 {
        let waiting = wait(bench, listener, &since).await;
        let from = cpu_ms();
        bench.say(&room, &members[0], "1").await;
        since = waiting.join_all().await.into_iter().map(|(_, since)| since).collect();
        costs.push(cpu_ms() - from);
    }
    println!("send until another's sync answers: {:.3} ms", median(costs));
}

/// Initial syncs of so many rooms with so many members each.
async fn initial(bench: &Bench, n_rooms: usize, n_members: usize) {
    let members: Vec<UserId> = (0..n_members).map(|n| user(&format!("i{n}x{n_rooms}"))).collect();
    for _ in 0..n_rooms {
        let room = bench.room(&members).await;
        for n in 0..15 {
            bench.say(&room, &members[n % n_members], "1").await;
        }
    }
    let (mut costs, mut bytes) = (Vec::new(), 0);
    for member in members.iter().cycle().take(30) {
        let request = Request {
            user: member.clone(),
            device: Some(DeviceId::from("DEVICE")),
            since: None,
            filter: None,
            full_state: false,
            use_state_after: false,
            set_presence: PresenceState::Offline,
            timeout: Duration::ZERO,
            now_ms: 0,
        };
        let from = cpu_ms();
        bytes = bench.sync.sync(&request).await.unwrap().len();
        costs.push(cpu_ms() - from);
    }
    let first = costs[0];
    println!(
        "initial sync, {n_rooms} rooms of {n_members}: {:.2} ms (the first {first:.2} ms), {bytes} bytes",
        median(costs)
    );
}

#[tokio::main]
async fn main() {
    let directory = tempfile::tempdir().unwrap();
    let engine = sqlite::Sqlite::open(&directory.path().join("db"), sqlite::Options::default()).unwrap();
    let bench = Bench::new(Arc::new(engine), |follower| follower).await;
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|one| one == name);
    if wanted("idle") {
        idle(&bench, "twenty", 20).await;
        idle(&bench, "many", 2_000).await;
    }
    if wanted("seen") {
        seen(&bench).await;
    }
    if wanted("fan") {
        fan_out(&bench, 100).await;
        fan_out(&bench, 1_000).await;
    }
    if wanted("initial") {
        initial(&bench, 40, 30).await;
        initial(&bench, 400, 30).await;
    }
}
