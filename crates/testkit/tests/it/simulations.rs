//! Seeds of the simulation.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::simulation::story::{Mutant, Outcome, STATE_EVENTS_MIN, play};

/// Seeds where `HEARTH_SIMULATIONS` does not say another number: unoptimized, each costs some seconds.
const SEEDS: u64 = 3;
/// After so many seeds it is said how many are done.
const PROGRESS: u64 = 100;

/// Seeds that once failed.
const ONCE_FAILED: &[u64] = &[
    // Parts of the state at a join became forward extremities, and an old state took the place of the current one.
    1, // A state at a gap lacked the events whose fetching had failed, and what followed was rejected.
    8, 14, 23,  // A join whose holders had all left stood before the beginning of the history.
    221, // Of much that was missed the last event was sent, which did not follow the others.
    331, // What waited for history became news, and a forward extremity beside the others.
    359, // A redacted redaction of version 2 was rejected by those who had not seen it whole.
    424,
];

/// Plays one seed.
fn simulate(seed: u64, mutant: Mutant) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(play(seed, mutant))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays seeds, several at once; answers the sums of their figures.
fn simulate_all(seeds: &[u64]) -> BTreeMap<&'static str, u64> {
    let (next, sums, wrong) = (AtomicU64::new(0), Mutex::new(BTreeMap::new()), Mutex::new(Vec::new()));
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let n_begun = next.fetch_add(1, Ordering::Relaxed);
                    let Some(seed) = seeds.get(usize::try_from(n_begun).unwrap()) else { break };
                    if n_begun > 0 && n_begun.is_multiple_of(PROGRESS) {
                        println!("{n_begun} of {} seeds were begun", seeds.len());
                    }
                    let outcome = simulate(*seed, Mutant::default());
                    let enough = outcome.state_events >= STATE_EVENTS_MIN;
                    assert!(enough, "seed {seed}: only {} state events", outcome.state_events);
                    if !outcome.wrong.is_empty() {
                        let report = format!("seed {seed}: {}", outcome.wrong.join("\n  "));
                        println!("{report}");
                        wrong.lock().push(report);
                    }
                    let mut sums = sums.lock();
                    for (name, figure) in [
                        ("state events", outcome.state_events),
                        ("events", outcome.events),
                        ("power cuts", outcome.crashes),
                        ("requests", outcome.requests),
                        ("soft-failed", outcome.soft_failed),
                        ("forged", outcome.forged),
                        ("astray", outcome.astray),
                    ] {
                        *sums.entry(name).or_default() += figure;
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner();
    assert!(wrong.is_empty(), "{} of {} seeds failed\n{}", wrong.len(), seeds.len(), wrong.join("\n"));
    sums.into_inner()
}

/// Prints what servers log, as far as `HEARTH_SIMULATION_LOG` lets it through (`info,rooms=debug`): for looking into one
/// seed that fails.
fn start_log() {
    if let Ok(filter) = std::env::var("HEARTH_SIMULATION_LOG") {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        drop(tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).try_init());
    }
}

#[test]
fn servers_agree_after_whatever_happened() {
    start_log();
    let first = number("HEARTH_SIMULATION").unwrap_or(2);
    let seeds: Vec<u64> = (first..first + number("HEARTH_SIMULATIONS").unwrap_or(SEEDS)).collect();
    let sums = simulate_all(&seeds);
    let figures: Vec<String> = sums.iter().map(|(name, sum)| format!("{sum} {name}")).collect();
    println!("figures: {} simulations, {}", seeds.len(), figures.join(", "));
}

#[test]
fn seeds_that_once_failed_hold() {
    simulate_all(ONCE_FAILED);
}

/// Whether one of the first seeds finds out that something is wrong: by what it checks, or because a server breaks.
fn is_found(mutant: Mutant) -> bool {
    let finds = |seed| {
        let played = std::panic::catch_unwind(|| simulate(seed, mutant));
        played.is_err() || played.is_ok_and(|outcome| !outcome.wrong.is_empty())
    };
    (1..=4).any(finds)
}

#[test]
fn servers_that_cannot_ask_for_missing_events_are_found_out() {
    assert!(is_found(Mutant { refused: &["/get_missing_events/", "/state_ids/", "/backfill/"], ..Mutant::default() }));
}

#[test]
fn servers_that_do_not_catch_up_are_found_out() {
    assert!(is_found(Mutant { no_catch_up: true, ..Mutant::default() }));
}

#[test]
fn acknowledged_commits_that_are_lost_are_found_out() {
    assert!(is_found(Mutant { lying_disks: true, ..Mutant::default() }));
}

#[test]
fn a_seed_does_the_same_each_time() {
    let [one, other] = [100, 100].map(|seed| simulate(seed, Mutant::default()));
    assert_eq!((one.trace, one.requests, one.events), (other.trace, other.requests, other.events));
}
