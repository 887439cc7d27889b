//! Joining a large room: when a person can talk, when the whole state is there, and what it costs.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::resident::Resident;
use crate::bench::http::Connection;
use crate::bench::server::Server;
use crate::bench::world::{User, segment, send};

/// How long a join may take.
const JOIN_MAX: Duration = Duration::from_secs(3_600);
/// A server that used less than this in a [`QUIET`] has nothing more to do.
const QUIET_CPU_SECONDS: f64 = 0.1;
/// How long a server must be quiet.
const QUIET: Duration = Duration::from_secs(2);
/// How long it is waited for: some servers are never quiet.
const QUIET_MAX: Duration = Duration::from_secs(120);
/// Members of a generated room besides those that were asked for: its creator, and who has just joined.
const MORE_MEMBERS: usize = 2;

/// What a join showed.
#[derive(Debug, Clone, Copy)]
pub struct Joined {
    /// From the beginning of the resident's answer to the first message that the server accepted.
    pub first_message_seconds: f64,
    /// … to when it knew all members.
    pub full_state_seconds: f64,
    /// The most memory.
    pub peak_mib: f64,
    /// CPU time from the join to when nothing more was done.
    pub cpu_seconds: f64,
}

/// One line about it.
pub fn line(joined: &Result<Joined, String>) -> String {
    match joined {
        Ok(joined) => format!("{joined:?}"),
        Err(error) => format!("failed: {error}"),
    }
}

/// Joins a new room of this many members.
pub fn measure(server: &Server, resident: &mut Resident, user: &User, members: usize) -> Result<Joined, String> {
    let (room, via) = resident.room(members)?;
    let before = server.cpu_seconds();
    join_through(server, user, &room, &via)?;
    let mut link = Connection::new(server.port);
    send(&mut link, user, &room, "first")?;
    let first_message_ms = now_ms();
    let answered = resident.command(&format!("joined {room}"))?;
    println!("bench:   the resident answered {answered}");
    let answered_ms = answered.get("answered_ms").and_then(Value::as_f64).ok_or("no join")?;
    wait_for_state(server, user, &room)?;
    let full_state_ms = now_ms();
    wait_until_quiet(server);
    let joined = Joined {
        first_message_seconds: (first_message_ms - answered_ms) / 1e3,
        full_state_seconds: (full_state_ms - answered_ms) / 1e3,
        peak_mib: server.peak_mib(),
        cpu_seconds: server.cpu_seconds() - before,
    };
    // The list of all members is large itself: it is no part of the join.
    let found = members_of(server, user, &room, "join")?;
    if found < members + MORE_MEMBERS {
        return Err(format!("{found} of {members} members"));
    }
    Ok(joined)
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1e3)
}

/// Joins a room through a server. A client whose request ends before its join does asks again.
pub fn join_through(server: &Server, user: &User, room: &str, via: &str) -> Result<(), String> {
    let via = segment(via);
    let path = format!("/_matrix/client/v3/join/{}?server_name={via}&via={via}", segment(room));
    let started = Instant::now();
    loop {
        match Connection::new(server.port).request("POST", &path, &user.token, "{}") {
            Ok(answer) => return answer.json().map(|_| ()),
            Err(error) if started.elapsed() > JOIN_MAX => return Err(error),
            Err(_) => {}
        }
    }
}

/// Waits until the server says who knocks, which is nobody: that it cannot tell before it knows all members.
fn wait_for_state(server: &Server, user: &User, room: &str) -> Result<(), String> {
    let started = Instant::now();
    loop {
        // A server may let the question wait for as long as it takes.
        match members_of(server, user, room, "knock") {
            Ok(_) => return Ok(()),
            Err(error) if started.elapsed() > JOIN_MAX => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// How many members of a room have a membership.
fn members_of(server: &Server, user: &User, room: &str, membership: &str) -> Result<usize, String> {
    let path = format!("/_matrix/client/v3/rooms/{}/members?membership={membership}", segment(room));
    let answer = Connection::new(server.port).request("GET", &path, &user.token, "")?.json()?;
    Ok(answer.get("chunk").and_then(Value::as_array).map_or(0, Vec::len))
}

/// Waits until the server has nothing more to do.
pub fn wait_until_quiet(server: &Server) {
    let (started, mut before) = (Instant::now(), server.cpu_seconds());
    while started.elapsed() < QUIET_MAX {
        std::thread::sleep(QUIET);
        let now = server.cpu_seconds();
        if now - before < QUIET_CPU_SECONDS {
            return;
        }
        before = now;
    }
}
