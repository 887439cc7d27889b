//! Events that a peer sends, and events that go to many destinations.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::join::{join_through, wait_until_quiet};
use super::resident::Resident;
use crate::bench::http::Connection;
use crate::bench::server::Server;
use crate::bench::world::{User, segment, send, text};

/// PDUs in a full transaction.
const TRANSACTION_PDUS: usize = 50;
/// Events that are under way at a time: a server may answer before it has judged, and some drop what waits for too long.
const UNDER_WAY: usize = 50;
/// Between two looks whether an event has arrived.
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// How long what was sent may be under way.
const ARRIVAL_MAX: Duration = Duration::from_secs(600);

/// How much of each is done.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// Events that a peer sends, each time.
    pub accepted: usize,
    /// Messages to all destinations.
    pub sent: usize,
}

impl Amount {
    /// A tenth is sent: each of these goes to many.
    pub fn of(events: usize) -> Self {
        Self { accepted: events, sent: (events / 10).max(1) }
    }
}

/// What one kind of traffic cost.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// CPU milliseconds per event.
    pub cpu_ms: f64,
    /// Events per second, until the last one had arrived.
    pub per_second: f64,
}

/// What all traffic cost.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    /// Accepted, one event in each transaction.
    pub single: Rate,
    /// Accepted, [`TRANSACTION_PDUS`] in each.
    pub bulk: Rate,
    /// Sent to all destinations.
    pub sent: Rate,
}

/// One line about it.
pub fn line(traffic: &Result<Traffic, String>) -> String {
    match traffic {
        Ok(traffic) => format!("{traffic:?}"),
        Err(error) => format!("failed: {error}"),
    }
}

/// Joins a room of that many servers, then measures what comes and what goes.
pub fn measure(
    server: &Server,
    resident: &mut Resident,
    user: &User,
    servers: usize,
    events: usize,
) -> Result<Traffic, String> {
    let (room, via) = resident.room(servers)?;
    join_through(server, user, &room, &via)?;
    let mut link = Connection::new(server.port);
    // The first message opens the connections, and the first transaction fetches the key.
    send(&mut link, user, &room, "warm")?;
    wait_for_arrival(resident, &room, servers, 1)?;
    accept(server, resident, user, &room, 1, 1)?;
    let amount = Amount::of(events);
    let single = accept(server, resident, user, &room, amount.accepted, 1)?;
    let bulk = accept(server, resident, user, &room, amount.accepted, TRANSACTION_PDUS)?;
    let before = arrived(resident, &room, servers)?;
    let sent = spent(server, amount.sent, || {
        for n in 0..amount.sent {
            send(&mut link, user, &room, &format!("sent{n}"))?;
        }
        wait_for_arrival(resident, &room, servers, before + amount.sent)
    })?;
    Ok(Traffic { single, bulk, sent })
}

/// Runs `body`, which is over when this many events have arrived.
fn spent(server: &Server, events: usize, body: impl FnOnce() -> Result<(), String>) -> Result<Rate, String> {
    wait_until_quiet(server);
    let (started, before) = (Instant::now(), server.cpu_seconds());
    body()?;
    let seconds = started.elapsed().as_secs_f64();
    wait_until_quiet(server);
    let cpu = server.cpu_seconds() - before;
    Ok(Rate { cpu_ms: cpu * 1e3 / events as f64, per_second: events as f64 / seconds })
}

fn accept(
    server: &Server,
    resident: &mut Resident,
    user: &User,
    room: &str,
    events: usize,
    per_transaction: usize,
) -> Result<Rate, String> {
    let port = server.federation_port.ok_or("the server does not federate")?;
    spent(server, events, || {
        let mut left = events;
        while left > 0 {
            let some = left.min(UNDER_WAY);
            left -= some;
            let loaded = resident.command(&format!("load {room} localhost:{port} {port} {some} {per_transaction}"))?;
            if loaded.get("failed").and_then(Value::as_u64) != Some(0) {
                return Err(format!("some events were refused: {loaded}"));
            }
            wait_for_event(server, user, room, &text(&loaded, "last")?)?;
        }
        Ok(())
    })
}

/// Waits until a user can read an event.
fn wait_for_event(server: &Server, user: &User, room: &str, event: &str) -> Result<(), String> {
    let path = format!("/_matrix/client/v3/rooms/{}/event/{}", segment(room), segment(event));
    let (mut link, started) = (Connection::new(server.port), Instant::now());
    while link.request("GET", &path, &user.token, "")?.status != 200 {
        if started.elapsed() > ARRIVAL_MAX {
            return Err(format!("{event} does not arrive"));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Events that every destination has got.
fn arrived(resident: &mut Resident, room: &str, servers: usize) -> Result<usize, String> {
    let report = resident.command(&format!("received {room}"))?;
    let number = |name: &str| report.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    match number("servers") {
        Some(reached) if reached >= servers => number("least").ok_or_else(|| "no report".to_owned()),
        _ => Ok(0),
    }
}

fn wait_for_arrival(resident: &mut Resident, room: &str, servers: usize, events: usize) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let least = arrived(resident, room, servers)?;
        if least >= events {
            return Ok(());
        }
        if started.elapsed() > ARRIVAL_MAX {
            return Err(format!("only {least} of {events} events arrived everywhere"));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
