//! Beside the clients, phones: anything happens, gateways fail now and then, the server is started anew, and the number
//! that each phone was told last is what a slow count of the log of acknowledged events says (behaviours CP4, CP5, CP7).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use push::{Answer, Gateways, Unreachable};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use super::reference::MEMBER;
use super::world::{ROOMS, World};

/// Steps in one world.
const STEPS: usize = 150;
/// After so many steps everything is compared.
const SETTLED_EVERY: usize = 3;
/// An end for what hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What phones were told.
struct Phones {
    dice: Mutex<StdRng>,
    /// By user: the number told last, which may be of before this one.
    numbers: Mutex<BTreeMap<String, i64>>,
    /// Users and events of which they were told.
    events: Mutex<BTreeSet<(String, String)>>,
}

#[async_trait]
impl Gateways for Phones {
    async fn notify(&self, _url: &str, body: bytes::Bytes) -> Result<Answer, Unreachable> {
        // Some requests get lost, and some answers.
        let fate = self.dice.lock().random_range(0..12);
        if fate == 0 {
            return Err(Unreachable("it is away".to_owned()));
        }
        let body: Value = serde_json::from_slice(&body).unwrap();
        let told = &body["notification"];
        let user = told["devices"][0]["pushkey"].as_str().unwrap().to_owned();
        self.numbers.lock().insert(user.clone(), told["counts"]["unread"].as_i64().unwrap_or(0));
        if let Some(event) = told["event_id"].as_str() {
            self.events.lock().insert((user, event.to_owned()));
        }
        match fate {
            1 => Ok(Answer { status: 500, body: "".into() }),
            _ => Ok(Answer { status: 200, body: "{}".into() }),
        }
    }
}

/// The number by the log: rooms with something unread, and invites.
fn expected(world: &World, user: &str) -> i64 {
    let rooms = world.rooms.iter().map(|room| match room.membership(user) {
        "join" => i64::from(!room.unread_events(user).is_empty()),
        "invite" => 1,
        _ => 0,
    });
    rooms.sum()
}

/// What a phone must have been told of by now, and was not.
fn missing(world: &World, phones: &Phones, user: &str) -> Option<String> {
    let told = phones.events.lock();
    let rooms = world.rooms.iter().filter(|room| room.membership(user) == "join");
    let unread = rooms.flat_map(|room| room.unread_events(user).into_iter().map(move |(place, _)| (room, place)));
    // What is ignored when it would be told is not told later.
    let unread = unread.filter(|(room, place)| !room.is_silenced(user, *place));
    unread.map(|(room, place)| room.fact(place).id.clone()).find(|id| !told.contains(&(user.to_owned(), id.clone())))
}

/// Waits until a phone knows everything, however often the server has to try.
async fn settle(world: &World, phones: &Phones, user: &str, label: &str) {
    let told = |user: &str| phones.numbers.lock().get(user).copied().unwrap_or(0);
    let waiting = async {
        let mut turns = 0;
        while told(user) != expected(world, user) || missing(world, phones, user).is_some() {
            tokio::task::yield_now().await;
            turns += 1;
            if turns % 1_000 == 0 {
                world.pass().await;
            }
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        let (number, wanted, event) = (told(user), expected(world, user), missing(world, phones, user));
        panic!("{label}, {user}: told {number}, not {wanted}, and not told of {event:?}\n{:#?}", world.rooms);
    }
}

/// Of nothing is told that did not notify.
fn check_events(world: &World, phones: &Phones, label: &str) {
    for (user, event) in phones.events.lock().iter() {
        let place =
            |room: &super::reference::Room| Some((room.place(event)?, room.thread(room.place(event)?).is_some()));
        let found = world.rooms.iter().find_map(|room| Some((room, place(room)?.0)));
        let (room, place) = found.unwrap_or_else(|| panic!("{label}: {event} is not known"));
        let fact = room.fact(place);
        let invited = fact.kind == MEMBER && fact.state_key.as_ref() == Some(user);
        assert!(room.notified(user, place) || invited, "{label}: {user} was told of {fact:?}");
    }
}

async fn play(seed: u64) {
    let phones = Arc::new(Phones {
        dice: Mutex::new(StdRng::seed_from_u64(seed)),
        numbers: Mutex::default(),
        events: Mutex::default(),
    });
    let mut world = World::with(seed, Some(Arc::clone(&phones) as _)).await;
    let users = world.users.clone();
    for user in &users {
        world.set_pusher(user).await;
    }
    for step in 0..STEPS {
        world.act().await;
        if step % SETTLED_EVERY == 0 {
            let label = format!("seed {seed}, step {step}");
            for user in &users {
                settle(&world, &phones, user, &label).await;
            }
            check_events(&world, &phones, &label);
        }
    }
    let told = phones.events.lock().len();
    assert!(told > STEPS / 5 && ROOMS > 1, "seed {seed}: {told} pushes are few");
}

#[tokio::test]
async fn cp5_numbers_are_what_a_slow_count_says_whatever_happens() {
    let seeds = match std::env::var("HEARTH_SIDE_BY_SIDE") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => vec![1, 2, 3],
    };
    for seed in seeds {
        play(seed).await;
    }
}
