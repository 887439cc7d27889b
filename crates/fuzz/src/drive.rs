//! Runs a target on ever new inputs for a time.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(test)]
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::mutate::{Chance, mutate};
use crate::targets::Target;

/// Kept inputs; beyond these a new one takes the place of another.
const POOL_MAX: usize = 4_096;

/// Different answers that are remembered; beyond these none counts as new, since a target that repeats
/// its input would fill the memory in a night.
const ANSWERS_MAX: usize = 100_000;

/// Inputs between two looks at the clock.
const INPUTS_PER_LOOK: usize = 64;

/// What a run showed.
#[derive(Debug)]
pub struct Outcome {
    /// Inputs that were tried.
    pub tried: u64,
    /// Different answers that the target gave.
    pub answers: usize,
    /// The first input on which the target panicked, and what it said.
    pub failure: Option<(Vec<u8>, String)>,
}

/// Runs `target` for `time`, first on its seeds, then on what `seed` makes of them.
pub fn drive(target: &Target, time: Duration, seed: u64) -> Outcome {
    let mut pool: Vec<Vec<u8>> = (target.seeds)();
    let (mut answers, mut chance, mut tried) = (BTreeSet::new(), Chance::new(seed), 0);
    for input in &pool {
        tried += 1;
        match run(target, input) {
            Ok(answer) => answers.insert(answer),
            Err(said) => return Outcome { tried, answers: answers.len(), failure: Some((input.clone(), said)) },
        };
    }
    let started = Instant::now();
    while started.elapsed() < time {
        for _ in 0..INPUTS_PER_LOOK {
            let (one, other) = (chance.below(pool.len()), chance.below(pool.len()));
            let input = mutate(&pool[one], &pool[other], &mut chance);
            tried += 1;
            match run(target, &input) {
                Ok(answer) => {
                    if answers.len() < ANSWERS_MAX && answers.insert(answer) {
                        keep(&mut pool, input, &mut chance);
                    }
                }
                Err(said) => return Outcome { tried, answers: answers.len(), failure: Some((input, said)) },
            }
        }
    }
    Outcome { tried, answers: answers.len(), failure: None }
}

/// Runs the target once; what it panicked with is the error.
fn run(target: &Target, input: &[u8]) -> Result<String, String> {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

fn keep(pool: &mut Vec<Vec<u8>>, input: Vec<u8>, chance: &mut Chance) {
    if pool.len() < POOL_MAX {
        pool.push(input);
    } else {
        let at = chance.below(pool.len());
        pool[at] = input;
    }
}

/// Writes an input that failed to where a person finds it.
#[cfg(test)]
pub fn save(target: &Target, input: &[u8]) -> std::io::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fuzz-failures");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(target.name);
    std::fs::write(&path, input)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_deep_in_the_format_is_found() {
        let target = Target {
            name: "faulty",
            seeds: || vec![b"{\"limit\":10}".to_vec()],
            run: |input| {
                let text = String::from_utf8_lossy(input);
                assert!(!text.contains("{\"limit\":-"), "a negative limit");
                text.chars().take(8).collect()
            },
        };
        let outcome = drive(&target, Duration::from_secs(600), 1);
        assert!(outcome.failure.is_some_and(|(_, said)| said.contains("negative")), "it was not found");
    }
}
