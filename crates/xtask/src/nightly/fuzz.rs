//! The fuzz targets, several at a time: each of them keeps one processor busy.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use super::parts::{Night, quietly};
use super::{Options, seed_of_now, test};
use crate::Error;

/// The module whose tests are the targets.
pub const TARGETS: &str = "targets::tests::each::";

/// Lines of a failed target's output that are repeated.
const LINES_MAX: usize = 40;

/// Runs each target for the time that the options say.
pub fn fuzz(root: &Path, options: &Options, night: &mut Night) {
    let seed = options.fuzz_seed.unwrap_or_else(seed_of_now);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = options.jobs.unwrap_or(processors).max(1);
    let targets = match targets(root) {
        Ok(targets) if !targets.is_empty() => targets,
        Ok(_) => return night.step("fuzzing", || Err(Error::Checks(format!("there is no test in {TARGETS}")))),
        Err(error) => return night.step("fuzzing", || Err(error)),
    };
    let name = format!("fuzzing, {} targets of {} s, seed {seed}", targets.len(), options.fuzz_seconds);
    night.part(&name, |tally, each| {
        for (target, result, figures) in run_all(root, options, seed, &targets, jobs) {
            each(&format!("figures: {target}: {figures}"));
            tally.step(&target, result);
        }
    });
}

/// The names of the targets.
fn targets(root: &Path) -> Result<VecDeque<String>, Error> {
    let (lines, succeeded) = quietly(&mut test(root, &["--lib"], &["--list"]))?;
    if !succeeded {
        return Err(Error::Failed { program: "cargo test --lib".to_owned(), message: lines.join("\n") });
    }
    let names = lines.iter().filter_map(|line| line.strip_suffix(": test")?.strip_prefix(TARGETS));
    Ok(names.map(str::to_owned).collect())
}

/// What a target's run ended with: its name, whether it held, and its figures.
type Ended = (String, Result<(), Error>, String);

/// Runs the targets in `jobs` threads; each is told as it ends.
fn run_all(root: &Path, options: &Options, seed: u64, targets: &VecDeque<String>, jobs: usize) -> Vec<Ended> {
    let (waiting, ended) = (Mutex::new(targets.clone()), Mutex::new(Vec::new()));
    let next = || waiting.lock().ok().and_then(|mut waiting| waiting.pop_front());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(target) = next() {
                    let (result, figures) = run_one(root, options, seed, &target);
                    println!("nightly: fuzz target {target}: {figures}");
                    if let Ok(mut ended) = ended.lock() {
                        ended.push((target, result, figures));
                    }
                }
            });
        }
    });
    ended.into_inner().unwrap_or_default()
}

fn run_one(root: &Path, options: &Options, seed: u64, target: &str) -> (Result<(), Error>, String) {
    let name = format!("{TARGETS}{target}");
    let mut command: Command = test(root, &["--lib"], &["--exact", &name, "--nocapture"]);
    command.env("HEARTH_FUZZ_SECONDS", options.fuzz_seconds.to_string());
    command.env("HEARTH_FUZZ_SEED", seed.to_string());
    let (lines, succeeded) = match quietly(&mut command) {
        Ok(ended) => ended,
        Err(error) => return (Err(error), "not started".to_owned()),
    };
    let figures = lines.iter().find_map(|line| Some(line.split_once("figures: ")?.1.to_owned()));
    if succeeded && figures.is_some() {
        return (Ok(()), figures.unwrap_or_default());
    }
    let message = lines[lines.len().saturating_sub(LINES_MAX)..].join("\n");
    (Err(Error::Failed { program: format!("fuzz target {target}"), message }), figures.unwrap_or("FAILED".to_owned()))
}
