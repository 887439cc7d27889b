//! Syncs of an account with many rooms: the first, and the next after one message.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::meter::{Meter, Round, timed};
use super::people::{WINDOW, Way, World, ending, holds, sliding};
use crate::bench::world::send;

/// A round does so many …
const EACH_MAX: usize = 200;
/// … or as many as it can in this time …
const ROUND_MAX: Duration = Duration::from_secs(6);
/// … but never fewer than this.
const EACH_MIN: usize = 5;
/// Rooms that follow each other in a round lie this far apart in the order in which they were made.
const STRIDE: usize = 37;

/// Runs `body` as often as one round takes.
fn repeat(mut body: impl FnMut() -> Result<(), String>) -> Result<(), String> {
    let started = Instant::now();
    let mut count = 0;
    while count < EACH_MIN || (count < EACH_MAX && started.elapsed() < ROUND_MAX) {
        body()?;
        count += 1;
    }
    Ok(())
}

/// Syncs on a connection that the server does not know.
fn first(world: &mut World, meter: &mut Meter) -> Result<(), String> {
    let conn_id = format!("first{}", world.next());
    let mut link = world.connect();
    let body = meter.run(1, |walls| timed(walls, || sliding(&mut link, &world.alice, &conn_id, "", 0)))?;
    let answer: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    let (shown, all) = (answer["rooms"].as_object().map_or(0, |rooms| rooms.len()), &answer["lists"]["all"]["count"]);
    if shown != WINDOW.min(world.rooms.len()) || all.as_u64() != u64::try_from(world.rooms.len()).ok() {
        return Err(format!("{shown} rooms of {all}"));
    }
    Ok(())
}

/// The first request that a server gets after its start.
pub fn first_cold(world: &mut World) -> Result<Vec<Round>, String> {
    world.server.restart().map_err(|e| e.to_string())?;
    let mut meter = Meter::new(&world.server);
    first(world, &mut meter)?;
    Ok(vec![meter.finish()])
}

/// Again and again.
pub fn first_warm(world: &mut World) -> Result<Vec<Round>, String> {
    let mut meter = Meter::new(&world.server);
    repeat(|| first(world, &mut meter))?;
    Ok(vec![meter.finish()])
}

/// By `/sync`.
pub fn next_plain(world: &mut World) -> Result<Vec<Round>, String> {
    next(world, Way::Plain)
}

/// By sliding sync.
pub fn next_sliding(world: &mut World) -> Result<Vec<Round>, String> {
    next(world, Way::Sliding)
}

/// One message, then a sync that has to bring it.
fn next(world: &mut World, way: Way) -> Result<Vec<Round>, String> {
    let (mut link, mut bobs) = (world.connect(), world.connect());
    let mut at = std::mem::take(&mut world.alice_at[way as usize]);
    // Twice, since the first answer may be followed by what the sync itself caused.
    for _ in 0..2 {
        at = way.token(&way.sync(&mut link, &world.alice, &at, 0)?)?;
    }
    let mut meter = Meter::new(&world.server);
    repeat(|| {
        let n = world.next();
        let txn = format!("next{n}");
        send(&mut bobs, &world.bob, &world.rooms[n * STRIDE % world.rooms.len()], &txn)?;
        let body = meter.run(1, |walls| timed(walls, || way.sync(&mut link, &world.alice, &at, 0)))?;
        at = way.token(&body)?;
        if holds(&body, &ending(&txn)) { Ok(()) } else { Err("a sync does not bring the message".to_owned()) }
    })?;
    world.alice_at[way as usize] = at;
    Ok(vec![meter.finish()])
}
