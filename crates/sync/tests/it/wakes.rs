//! No waiting sync is left asleep, in real time and on several processors: after the last commit of a burst every waiting
//! sync returns, without a time-out or another event having to fire. The same on a simulated clock: `simulated`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use store::model::Model;
use store::{Engine, Follower, StreamEntry, StreamPosition, UserId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::bench::{Bench, user};
use crate::deliveries::deliveries;

/// Rooms, all busy at once.
const ROOMS: usize = 8;
/// Users of each room, all waiting.
const MEMBERS: usize = 4;
/// Longer than any test: nothing may end by it.
const TIMEOUT: Duration = Duration::from_secs(600);
/// After so long without a delivery that is due a sync counts as asleep.
const ASLEEP: Duration = Duration::from_secs(30);
/// The mutant does not tell one commit in so many.
const LOST_ONE_IN: u64 = 1_000;

/// The bodies of the messages of a room in an answer.
pub fn bodies(answer: &Value, room: &str) -> Vec<u64> {
    let events = answer["rooms"]["join"][room]["timeline"]["events"].as_array();
    let bodies = events.into_iter().flatten().filter_map(|event| event["content"]["body"].as_str());
    bodies.map(|body| body.parse().unwrap()).collect()
}

/// Syncs on and on and reports every message.
async fn listen(bench: Arc<Bench>, me: UserId, room: String, mut since: String, heard: mpsc::UnboundedSender<u64>) {
    loop {
        let answer = bench.sync(&me, Some(&since), TIMEOUT).await;
        since = answer["next_batch"].as_str().unwrap().to_owned();
        for body in bodies(&answer, &room) {
            if heard.send(body).is_err() {
                return;
            }
        }
    }
}

/// Puts the follower of the sync engine into another.
type Wrap = fn(Arc<dyn Follower>) -> Arc<dyn Follower>;

/// Plays bursts until so many messages are delivered. `Err` says how many were delivered when a sync stayed asleep.
async fn play(engine: Arc<dyn Engine>, wrap: Wrap, deliveries: usize, longest: u64) -> Result<usize, usize> {
    let bench = Bench::new(engine, wrap).await;
    let mut listeners = JoinSet::new();
    let mut rooms = Vec::new();
    for n in 0..ROOMS {
        let members: Vec<UserId> = (0..MEMBERS).map(|m| user(&format!("u{n}x{m}"))).collect();
        let room = bench.room(&members).await;
        let mut ears = Vec::new();
        for member in &members {
            let since = bench.sync(member, None, TIMEOUT).await["next_batch"].as_str().unwrap().to_owned();
            let (heard, ear) = mpsc::unbounded_channel();
            listeners.spawn(listen(bench.clone(), member.clone(), room.clone(), since, heard));
            ears.push(ear);
        }
        rooms.push((room, members, ears));
    }
    let (mut delivered, mut burst) = (0, 0_u64);
    while delivered < deliveries {
        burst += 1;
        let mut sending = JoinSet::new();
        for (n, (room, members, _)) in (0_u64..).zip(&rooms) {
            let (bench, room, members) = (bench.clone(), room.clone(), members.clone());
            let length = 1 + (burst + n) % longest;
            sending.spawn(async move {
                for (message, sender) in (0..length).zip(members.iter().cycle()) {
                    bench.say(&room, sender, &(burst * 100 + message).to_string()).await;
                }
            });
        }
        sending.join_all().await;
        for (n, (_, _, ears)) in (0_u64..).zip(&mut rooms) {
            for ear in ears {
                for message in 0..1 + (burst + n) % longest {
                    match tokio::time::timeout(ASLEEP, ear.recv()).await {
                        Ok(heard) => assert_eq!(heard, Some(burst * 100 + message), "in order, none lost, none twice"),
                        Err(_) => return Err(delivered),
                    }
                    delivered += 1;
                }
            }
        }
    }
    Ok(delivered)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_waiting_sync_is_left_asleep() {
    // The model reads whole tables, so that long runs take too long.
    let played = play(Arc::new(Model::new()), |follower| follower, deliveries().min(2_000), 4).await;
    assert!(played.is_ok(), "a sync stayed asleep after {played:?} deliveries");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_waiting_sync_is_left_asleep_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let engine = sqlite::Sqlite::open(&directory.path().join("db"), sqlite::Options::default()).unwrap();
    let played = play(Arc::new(engine), |follower| follower, deliveries(), 4).await;
    assert!(played.is_ok(), "a sync stayed asleep after {played:?} deliveries");
}

/// Passes on all but one commit in [`LOST_ONE_IN`].
struct Lossy {
    follower: Arc<dyn Follower>,
    told: AtomicU64,
}

impl Follower for Lossy {
    fn committed(&self, first: StreamPosition, entries: &[StreamEntry]) {
        if self.told.fetch_add(1, Ordering::Relaxed) % LOST_ONE_IN != LOST_ONE_IN - 1 {
            self.follower.committed(first, entries);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lost_wake_up_would_be_noticed() {
    let wrap: Wrap = |follower| Arc::new(Lossy { follower, told: AtomicU64::new(0) });
    let played = play(Arc::new(Model::new()), wrap, deliveries(), 1).await;
    assert!(played.is_err(), "one wake-up in {LOST_ONE_IN} is lost, and nobody noticed");
}
