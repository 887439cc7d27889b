//! No waiting sync is left asleep, on a simulated clock: after the last commit of a burst every waiting sync returns,
//! without a time-out or another event having to fire.
//!
//! Everything runs on one thread, whose clock stands still as long as anything can run and jumps to the next time-out
//! when nothing can. A lost wake-up therefore shows as a clock that moved, at once and however slow the machine. The
//! seed says who has the next turn at each step of a read, a commit and a message. (Not everything: who of those that one
//! commit wakes runs first is up to the order of hash maps, so that a seed that failed may pass the next time.)
//!
//! Nothing may wait for another thread unseen, since the clock would take that for idleness. The in-memory store needs
//! no thread, and passwords, for which the server has some, are not used. The one other thread, which publishes
//! commits, only ever runs while this one stands still waiting for it (see [`crate::stepped`]).
//!
//! What happens at the same instant on two processors is for `wakes`, which runs in real time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use store::{Follower, StreamEntry, StreamPosition, UserId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bench::{Bench, user};
use crate::deliveries::deliveries;
use crate::stepped::{Dice, Stepped};
use crate::wakes::bodies;

/// Rooms of a world, all busy at once.
const ROOMS: usize = 4;
/// Users of each room besides the one who is in all of them.
const MEMBERS: usize = 3;
/// Deliveries in one world. The model looks through whole tables, so that many small worlds are faster than a large one.
const DELIVERIES: usize = 1_000;
/// Most messages of a room in one burst.
const BURST_MAX: u64 = 4;
/// The time-out of syncs.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The mutant does not tell one commit in so many.
const LOST_ONE_IN: u64 = 1_000;

/// Which commits the sync engine is not told of.
#[derive(Clone, Default)]
struct Loss {
    /// Whether any is lost, now.
    armed: Arc<AtomicBool>,
    told: Arc<AtomicU64>,
}

struct Lossy(Arc<dyn Follower>, Loss);

impl Follower for Lossy {
    fn committed(&self, first: StreamPosition, entries: &[StreamEntry]) {
        let Self(follower, loss) = self;
        let lost = loss.armed.load(Ordering::Relaxed)
            && loss.told.fetch_add(1, Ordering::Relaxed) % LOST_ONE_IN == LOST_ONE_IN - 1;
        if !lost {
            follower.committed(first, entries);
        }
    }
}

/// A room, its senders, and where each of its members reports what it hears.
struct Place {
    room: String,
    members: Vec<UserId>,
    ears: Vec<mpsc::UnboundedReceiver<u64>>,
}

type Reports = BTreeMap<String, mpsc::UnboundedSender<u64>>;

/// Syncs on and on and reports every message by its room.
async fn listen(bench: Arc<Bench>, dice: Arc<Dice>, me: UserId, reports: Reports, mut since: String) {
    loop {
        let answer = bench.sync(&me, Some(&since), TIMEOUT).await;
        since = answer["next_batch"].as_str().unwrap().to_owned();
        for (room, heard) in &reports {
            for body in bodies(&answer, room) {
                if heard.send(body).is_err() {
                    return;
                }
            }
        }
        dice.pause().await;
    }
}

/// Rooms with members, one of them in all rooms, and everybody listens.
async fn settle(bench: &Arc<Bench>, dice: &Arc<Dice>, listeners: &mut JoinSet<()>) -> Vec<Place> {
    let everywhere = user("everywhere");
    let (mut places, mut reports) = (Vec::new(), BTreeMap::<UserId, Reports>::new());
    for n in 0..ROOMS {
        let own = (0..MEMBERS).map(|m| user(&format!("u{n}x{m}")));
        let members: Vec<UserId> = own.chain([everywhere.clone()]).collect();
        let room = bench.room(&members).await;
        let mut ears = Vec::new();
        for member in &members {
            let (heard, ear) = mpsc::unbounded_channel();
            reports.entry(member.clone()).or_default().insert(room.clone(), heard);
            ears.push(ear);
        }
        places.push(Place { room, members, ears });
    }
    for (member, reports) in reports {
        let since = bench.sync(&member, None, TIMEOUT).await["next_batch"].as_str().unwrap().to_owned();
        listeners.spawn(listen(bench.clone(), dice.clone(), member, reports, since));
    }
    places
}

/// Plays one world. `Err` says what happened after how many deliveries.
async fn play(seed: u64, deliveries: usize, loss: &Loss) -> Result<usize, String> {
    loss.armed.store(false, Ordering::Relaxed);
    let dice = Arc::new(Dice::new(seed));
    let engine = Stepped::new(dice.clone());
    let bench = Bench::new(engine.clone(), |follower| Arc::new(Lossy(follower, loss.clone()))).await;
    engine.all_follow();
    let mut listeners = JoinSet::new();
    let mut places = settle(&bench, &dice, &mut listeners).await;
    loss.armed.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let (mut delivered, mut burst) = (0, 0_u64);
    while delivered < deliveries {
        burst += 1;
        let (mut sending, mut lengths) = (JoinSet::new(), Vec::new());
        for place in &places {
            let length = dice.below(BURST_MAX + 1);
            lengths.push(length);
            let (bench, dice, room, members) = (bench.clone(), dice.clone(), place.room.clone(), place.members.clone());
            sending.spawn(async move {
                for (message, sender) in (0..length).zip(members.iter().cycle()) {
                    dice.pause().await;
                    bench.say(&room, sender, &(burst * 100 + message).to_string()).await;
                }
            });
        }
        sending.join_all().await;
        for (place, length) in places.iter_mut().zip(lengths) {
            for ear in &mut place.ears {
                for message in 0..length {
                    // Before a sync's time-out could repair anything.
                    match tokio::time::timeout(TIMEOUT / 2, ear.recv()).await {
                        Ok(heard) if heard == Some(burst * 100 + message) => {}
                        Ok(heard) => {
                            return Err(format!("seed {seed}, delivery {delivered}: lost or twice: {heard:?}"));
                        }
                        Err(_) => return Err(format!("seed {seed}, delivery {delivered}: asleep")),
                    }
                    delivered += 1;
                }
            }
        }
        if Instant::now() != began {
            return Err(format!("seed {seed}, delivery {delivered}: something waited for a time-out"));
        }
    }
    Ok(delivered)
}

#[tokio::test(start_paused = true)]
async fn no_waiting_sync_is_left_asleep_whatever_the_order() {
    let (mut delivered, mut seed) = (0, 0);
    while delivered < deliveries() {
        seed += 1;
        delivered += play(seed, DELIVERIES, &Loss::default()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_wake_up_moves_the_clock() {
    let loss = Loss::default();
    let (mut delivered, mut seed) = (0, 0);
    while delivered < deliveries() {
        seed += 1;
        match play(seed, DELIVERIES, &loss).await {
            Ok(more) => delivered += more,
            Err(noticed) => return println!("{noticed}"),
        }
    }
    panic!("one commit in {LOST_ONE_IN} is not told, and nobody noticed in {delivered} deliveries");
}
