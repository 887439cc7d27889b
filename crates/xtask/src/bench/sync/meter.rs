//! What operations cost a server, and how long they take.

use std::time::{Duration, Instant};

use crate::bench::process::Watch;
use crate::bench::server::Server;

/// Between two looks at a server's CPU time.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// A server that used less than this between two looks did nothing.
const STILL_CPU_SECONDS: f64 = 0.000_1;
/// So many such looks after each other show that it is done with a request.
const STILL_LOOKS: u32 = 5;
/// A server that used less than [`IDLE_CPU_SECONDS`] in this time has nothing more to do at all, but for its clockwork.
const IDLE: Duration = Duration::from_millis(300);
/// What the clockwork of an idle server may use.
const IDLE_CPU_SECONDS: f64 = 0.009;
/// How long a server is waited for: some are never still.
const STILL_MAX: Duration = Duration::from_secs(20);

/// What one round of a measurement showed.
#[derive(Debug, Clone, Default)]
pub struct Round {
    /// What was done.
    pub operations: usize,
    /// CPU time of all of it.
    pub cpu_seconds: f64,
    /// How long it took, without the time between the operations.
    pub busy: Duration,
    /// Wall times of requests.
    pub walls: Vec<Duration>,
}

impl Round {
    /// Both together, with the wall times of the first.
    pub fn with_work_of(mut self, other: &Self) -> Self {
        self.cpu_seconds += other.cpu_seconds;
        self.busy += other.busy;
        self
    }
}

/// What all rounds showed.
#[derive(Debug, Clone)]
pub struct Summary {
    /// CPU milliseconds per operation, the median of the rounds.
    pub cpu_ms: f64,
    /// The least and the most of them.
    pub cpu_ms_range: [f64; 2],
    /// The middle of the wall times.
    pub p50_ms: f64,
    /// The wall time that one request in a hundred exceeds.
    pub p99_ms: f64,
    /// How many wall times there are.
    pub timed: usize,
    /// Operations per second.
    pub per_second: f64,
}

impl Summary {
    /// Of rounds that each did something.
    pub fn of(rounds: &[&Round]) -> Option<Self> {
        let mut costs: Vec<f64> =
            rounds.iter().map(|round| round.cpu_seconds * 1e3 / round.operations as f64).collect();
        costs.sort_by(f64::total_cmp);
        let mut walls: Vec<Duration> = rounds.iter().flat_map(|round| round.walls.iter().copied()).collect();
        walls.sort_unstable();
        let operations: usize = rounds.iter().map(|round| round.operations).sum();
        let busy: Duration = rounds.iter().map(|round| round.busy).sum();
        Some(Self {
            cpu_ms: *costs.get(costs.len() / 2)?,
            cpu_ms_range: [*costs.first()?, *costs.last()?],
            p50_ms: percentile_ms(&walls, 50)?,
            p99_ms: percentile_ms(&walls, 99)?,
            timed: walls.len(),
            per_second: operations as f64 / busy.as_secs_f64(),
        })
    }
}

/// Of sorted times, the first that so many of a hundred do not exceed.
fn percentile_ms(walls: &[Duration], percent: usize) -> Option<f64> {
    let rank = (walls.len() * percent).div_ceil(100).max(1);
    walls.get(rank - 1).map(|wall| wall.as_secs_f64() * 1e3)
}

/// Takes the time of one round on one server.
#[derive(Debug)]
pub struct Meter {
    watch: Watch,
    round: Round,
}

impl Meter {
    /// Begins with a server that has nothing to do.
    pub fn new(server: &Server) -> Self {
        let mut meter = Self { watch: server.watch(), round: Round::default() };
        meter.wait_until_idle();
        meter
    }

    /// Counts what `body` costs as so many operations, with what the server does after its answers. `body` notes wall
    /// times.
    pub fn run<T>(
        &mut self,
        operations: usize,
        body: impl FnOnce(&mut Vec<Duration>) -> Result<T, String>,
    ) -> Result<T, String> {
        // What came before is not counted.
        self.wait_until_still();
        let started = Instant::now();
        let result = body(&mut self.round.walls)?;
        self.round.busy += started.elapsed();
        self.round.cpu_seconds += self.wait_until_still();
        self.round.operations += operations;
        Ok(result)
    }

    /// Waits until the server has nothing more to do; that is not counted.
    pub fn wait_until_idle(&mut self) {
        let started = Instant::now();
        self.watch.lap();
        while started.elapsed() < STILL_MAX {
            std::thread::sleep(IDLE);
            if self.watch.lap() < IDLE_CPU_SECONDS {
                return;
            }
        }
    }

    /// What was counted.
    pub fn finish(self) -> Round {
        self.round
    }

    /// Waits until the server is done with a request; answers the CPU seconds since the last look.
    fn wait_until_still(&mut self) -> f64 {
        let (started, mut still) = (Instant::now(), 0);
        let mut spent = self.watch.lap();
        while still < STILL_LOOKS && started.elapsed() < STILL_MAX {
            std::thread::sleep(LOOK_AGAIN);
            let lap = self.watch.lap();
            spent += lap;
            still = if lap < STILL_CPU_SECONDS { still + 1 } else { 0 };
        }
        spent
    }
}

/// Runs `body` and notes how long it took.
pub fn timed<T>(walls: &mut Vec<Duration>, body: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let started = Instant::now();
    let result = body()?;
    walls.push(started.elapsed());
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let walls: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile_ms(&walls, 50), Some(100.0));
        assert_eq!(percentile_ms(&walls, 99), Some(198.0));
        assert_eq!(percentile_ms(&walls[..1], 99), Some(1.0));
        assert_eq!(percentile_ms(&[], 99), None);
    }

    #[test]
    fn a_summary_takes_the_middle_round_and_all_wall_times() {
        let round = |cpu_seconds, wall| Round {
            operations: 2,
            cpu_seconds,
            busy: Duration::from_secs(1),
            walls: vec![Duration::from_millis(wall)],
        };
        let rounds = [round(0.2, 5), round(0.6, 7), round(0.4, 6)];
        let summary = Summary::of(&rounds.iter().collect::<Vec<_>>()).expect("a summary");
        assert!((summary.cpu_ms - 200.0).abs() < 1e-9, "{summary:?}");
        assert!((summary.per_second - 2.0).abs() < 1e-9, "{summary:?}");
        assert_eq!((summary.p50_ms, summary.p99_ms, summary.timed), (6.0, 7.0, 3));
        assert!(Summary::of(&[]).is_none());
    }
}
