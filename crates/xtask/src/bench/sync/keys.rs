//! Keys of many devices: asked for in one request, and claimed one by one.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::meter::{Meter, Round, timed};
use super::people::World;
use crate::bench::http::Connection;
use crate::bench::world::User;

/// Queries in a round.
const QUERIES: usize = 20;
/// Clients that claim at once.
const CLAIMERS: usize = 8;
/// Keys that each of them claims in a round at most. Each of the people has ten.
const CLAIMS_EACH_MAX: usize = 30;

/// The keys of all people, again and again.
pub fn query(world: &mut World) -> Result<Vec<Round>, String> {
    let all: Map<String, Value> = world.people.iter().map(|user| (user.id.clone(), json!([]))).collect();
    let body = json!({ "device_keys": all }).to_string();
    let mut link = world.connect();
    let mut meter = Meter::new(&world.server);
    for _ in 0..QUERIES {
        let ask = || link.request("POST", "/_matrix/client/v3/keys/query", &world.alice.token, &body);
        let answer = meter.run(1, |walls| timed(walls, ask))?.json()?;
        let found = answer["device_keys"].as_object().map_or(0, |keys| keys.values().filter(has_one).count());
        if found != world.people.len() {
            return Err(format!("keys of {found} people"));
        }
    }
    Ok(vec![meter.finish()])
}

fn has_one(devices: &&Value) -> bool {
    devices.as_object().is_some_and(|devices| devices.len() == 1)
}

/// One key a request, several clients at once.
pub fn claim(world: &mut World) -> Result<Vec<Round>, String> {
    // A round takes two keys of each of the people at most, and goes on where the last one ended.
    let each = (world.people.len() * 2 / CLAIMERS).clamp(1, CLAIMS_EACH_MAX);
    let (first, count) = (world.claimed, CLAIMERS * each);
    world.claimed += count;
    let mut meter = Meter::new(&world.server);
    meter.run(count, |walls| {
        let world = &*world;
        let all: Vec<Result<Vec<Duration>, String>> = std::thread::scope(|scope| {
            let claimers: Vec<_> = (0..CLAIMERS).map(|n| scope.spawn(move || claims(world, first + n, each))).collect();
            claimers.into_iter().map(|one| one.join().unwrap_or_else(|_| Err("a thread ended".to_owned()))).collect()
        });
        for times in all {
            walls.extend(times?);
        }
        Ok(())
    })?;
    Ok(vec![meter.finish()])
}

/// The claims of one client, which leaves to the others the people between its own.
fn claims(world: &World, first: usize, each: usize) -> Result<Vec<Duration>, String> {
    let (mut link, mut walls) = (world.connect(), Vec::new());
    for n in 0..each {
        let user = &world.people[(first + n * CLAIMERS) % world.people.len()];
        timed(&mut walls, || claim_one(&mut link, &world.alice, user))?;
    }
    Ok(walls)
}

fn claim_one(link: &mut Connection, claimer: &User, user: &User) -> Result<(), String> {
    let body = json!({ "one_time_keys": { &user.id: { &user.device: "signed_curve25519" } } });
    let answer = link.request("POST", "/_matrix/client/v3/keys/claim", &claimer.token, &body.to_string())?.json()?;
    let claimed = answer["one_time_keys"][&user.id][&user.device].as_object().map_or(0, |keys| keys.len());
    if claimed == 1 { Ok(()) } else { Err(format!("no key of {}", user.id)) }
}
