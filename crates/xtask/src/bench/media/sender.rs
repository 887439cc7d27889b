//! Somebody who sends a message at every tick of a clock, whatever else goes on.

use std::time::{Duration, Instant};

use crate::bench::http::Connection;
use crate::bench::world::{User, send};

/// How often a message is sent.
pub const EVERY: Duration = Duration::from_millis(20);

/// How long sends took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub most_ms: f64,
    /// How many there were.
    pub sent: usize,
}

/// The one who sends.
#[derive(Debug)]
pub struct Sender {
    link: Connection,
    user: User,
    room: String,
    made: usize,
}

impl Sender {
    pub fn new(port: u16, user: User, room: String) -> Self {
        Self { link: Connection::new(port), user, room, made: 0 }
    }

    /// Sends for so long.
    pub fn send_for(&mut self, limit: Duration) -> Result<Times, String> {
        let began = Instant::now();
        self.send_while(|| began.elapsed() < limit)
    }

    /// Sends as long as `goes_on` says so. A send counts from when it was due: who could not send because the one before
    /// took long has waited, too.
    pub fn send_while(&mut self, mut goes_on: impl FnMut() -> bool) -> Result<Times, String> {
        let mut took = Vec::new();
        let mut due = Instant::now();
        while goes_on() || took.is_empty() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            self.made += 1;
            send(&mut self.link, &self.user, &self.room, &format!("m{}", self.made))?;
            took.push(due.elapsed().as_secs_f64() * 1e3);
            due += EVERY;
        }
        Ok(Times::of(took))
    }
}

impl Times {
    fn of(mut took: Vec<f64>) -> Self {
        took.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let place = (took.len() as f64 * part).ceil() as usize;
            took.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
        };
        Self { p50_ms: at(0.5), p99_ms: at(0.99), most_ms: at(1.0), sent: took.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_sent() {
        let times = Times::of((1..=200).rev().map(f64::from).collect());
        assert_eq!(times, Times { p50_ms: 100.0, p99_ms: 198.0, most_ms: 200.0, sent: 200 });
    }
}
