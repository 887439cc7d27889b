//! Many syncs that wait, and one message that answers all of them.

use std::time::{Duration, Instant};

use super::meter::{Meter, Round};
use super::people::{Way, World, ending, holds};
use crate::bench::http::Connection;
use crate::bench::world::{User, send};

/// How long a sync asks to wait.
const WAIT_MS: u32 = 60_000;
/// A message that has not come by then does not come.
const WOKEN_MAX: Duration = Duration::from_secs(180);

/// When the message had come, and the answer that brought it.
type Woken = Result<(Instant, Vec<u8>), String>;

/// By `/sync`.
pub fn plain(world: &mut World) -> Result<Vec<Round>, String> {
    wake(world, Way::Plain)
}

/// By sliding sync.
pub fn sliding(world: &mut World) -> Result<Vec<Round>, String> {
    wake(world, Way::Sliding)
}

/// Counts from when all wait: the message, and the answers to all.
fn wake(world: &mut World, way: Way) -> Result<Vec<Round>, String> {
    world.catch_up(way)?;
    let txn = format!("wake{}", world.next());
    let marker = ending(&txn);
    let links = connections(world)?;
    let mut meter = Meter::new(&world.server);
    let count = world.people.len();
    let woken = std::thread::scope(|scope| {
        let waiting: Vec<_> = world
            .people
            .iter()
            .zip(&world.people_at[way as usize])
            .zip(links)
            .map(|((user, at), link)| scope.spawn(|| wait_for(link, way, user, at.clone(), &marker)))
            .collect();
        meter.wait_until_idle();
        meter.run(count, |walls| {
            let started = Instant::now();
            send(&mut world.connect(), &world.bob, &world.crowd, &txn)?;
            let ended = || Err("a thread ended".to_owned());
            let woken: Vec<Woken> = waiting.into_iter().map(|one| one.join().unwrap_or_else(|_| ended())).collect();
            let woken = woken.into_iter().collect::<Result<Vec<_>, String>>()?;
            walls.extend(woken.iter().map(|(at, _)| at.saturating_duration_since(started)));
            Ok(woken)
        })
    })?;
    let tokens = woken.iter().map(|(_, body)| way.token(body)).collect::<Result<Vec<_>, _>>()?;
    world.people_at[way as usize] = tokens;
    Ok(vec![meter.finish()])
}

/// A connection for each of the people, open already: a thousand at once are more than a server accepts.
fn connections(world: &World) -> Result<Vec<Connection>, String> {
    let open = |_| {
        let mut link = world.connect();
        link.request("GET", "/_matrix/client/versions", "", "")?;
        Ok(link)
    };
    world.people.iter().map(open).collect()
}

/// Syncs until the message has come.
fn wait_for(mut link: Connection, way: Way, user: &User, mut at: String, marker: &str) -> Woken {
    let started = Instant::now();
    while started.elapsed() < WOKEN_MAX {
        let body = way.sync(&mut link, user, &at, WAIT_MS)?;
        let now = Instant::now();
        if holds(&body, marker) {
            return Ok((now, body));
        }
        at = way.token(&body)?;
    }
    Err(format!("a sync was not woken within {WOKEN_MAX:?}"))
}
