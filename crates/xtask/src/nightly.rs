//! `cargo xtask nightly`: what takes longer than a change should wait for. It is run before an issue
//! is called resolved, and its figures are quoted there.
//!
//! The defaults take hours. Each part can be made smaller, or be run alone: `cargo xtask nightly
//! --only fuzz --fuzz-seconds 60`. What a program has to report it prints behind `figures: `; the
//! table at the end collects it.

mod fuzz;
mod parts;
mod rust_sdk;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::postgres::{Durability, Postgres};
use crate::test::{compare_with_synapse, play};
use crate::{Error, run, setup};
use parts::Night;

/// The profile for tests: optimized, and yet with checks of arithmetic and of assertions.
pub const PROFILE: &str = "nightly";

/// The workspace of the program that plays the room list of matrix-rust-sdk.
pub const RUST_SDK: &str = "tests/rust-sdk/Cargo.toml";

/// A generated case of the crate `event` costs a small part of one of the others.
const EVENT_SEEDS_PER_SEED: u64 = 20;

/// The tests that cut the power.
const POWER_CUTS: &str = "disk::a_power_cut";

/// The tests that count deliveries.
const DELIVERIES: [&str; 2] = ["wakes::", "simulated::"];

/// The tests that let several servers live through faults.
const SIMULATIONS: &str = "simulations::";

/// The tests that compare resolved states with other implementations.
const STATES: &str = "rv6_resolution_agrees";

/// How long, and how much.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Run these parts alone; several are separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Part>,
    /// Events in the database before the first kill.
    #[arg(long, default_value_t = 100_000)]
    pub events: u32,
    /// Kills on each database.
    #[arg(long, default_value_t = 10)]
    pub rounds: u32,
    /// Power cuts under SQLite, four on each database.
    #[arg(long, default_value_t = 20_000)]
    pub power_cuts: u64,
    /// Deliveries to waiting syncs.
    #[arg(long, default_value_t = 1_000_000)]
    pub deliveries: u64,
    /// Simulations of several servers.
    #[arg(long, default_value_t = 10_000)]
    pub simulations: u64,
    /// The first of their seeds, to go on where another run stopped.
    #[arg(long, default_value_t = 2)]
    pub simulation: u64,
    /// Generated rooms of each family of versions whose states are resolved by others, too.
    #[arg(long, default_value_t = 100_000)]
    pub states: u64,
    /// Generated rooms, and generated histories of each database.
    #[arg(long, default_value_t = 400)]
    pub seeds: u64,
    /// Seconds for each fuzz target.
    #[arg(long, default_value_t = 1_800)]
    pub fuzz_seconds: u64,
    /// What the inputs of the fuzz targets are made from; without it every night has others.
    #[arg(long)]
    pub fuzz_seed: Option<u64>,
    /// Fuzz targets that run at once; without it, as many as there are processors.
    #[arg(long)]
    pub jobs: Option<usize>,
    /// A server that is built already, instead of building one.
    #[arg(long, value_parser = run::absolute)]
    pub hearth: Option<PathBuf>,
}

/// The parts, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Kills of the server and of PostgreSQL, on a large database.
    Kills,
    /// Power cuts under SQLite, by a disk that forgets.
    PowerCuts,
    /// Deliveries to waiting syncs.
    Deliveries,
    /// Several servers that live through faults.
    Simulations,
    /// Resolved states beside those of ruma and Synapse.
    States,
    /// All other tests, with many generated events, rooms and histories of databases.
    Seeds,
    /// Every parser of foreign bytes.
    Fuzz,
    /// The chat against Synapse: a story that it does not pass is wrong itself.
    Control,
    /// How names lead to servers, by DNS and `.well-known`, between a hearth and a Synapse.
    Delegation,
    /// The room list of matrix-rust-sdk, by sliding sync.
    RustSdk,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

/// Runs the parts, and prints a table of them, which is also in `target/nightly.md`.
///
/// # Errors
/// The set-up fails, or something does not hold.
pub fn nightly(root: &Path, options: &Options) -> Result<(), Error> {
    let tools = setup::setup(root)?;
    let target = root.join("target");
    let mut night = Night::begin();
    build(root, options, &mut night);
    if options.wants(Part::Kills) {
        kills(root, &tools, options, &mut night)?;
    }
    let tests = Postgres::start(&target, Durability::Fast)?;
    let url = tests.url("postgres");
    if options.wants(Part::PowerCuts) {
        let command = test(root, &["--test", "it"], &[POWER_CUTS, "--nocapture"]);
        night.tests("power cuts", command, &[("HEARTH_POWER_CUTS", options.power_cuts)]);
    }
    if options.wants(Part::Deliveries) {
        let command = test(root, &["--test", "it"], &[&DELIVERIES[..], &["--nocapture"]].concat());
        night.tests("deliveries", command, &[("HEARTH_DELIVERIES", options.deliveries)]);
    }
    if options.wants(Part::Simulations) {
        let command = test(root, &["--test", "it"], &[SIMULATIONS, "--nocapture"]);
        let seeds = [("HEARTH_SIMULATION", options.simulation), ("HEARTH_SIMULATIONS", options.simulations)];
        night.tests("simulations", command, &seeds);
    }
    if options.wants(Part::States) {
        let mut command = test(root, &["--test", "it"], &[STATES, "--nocapture"]);
        compare_with_synapse(&mut command, &tools);
        let each = [("EVENT_STATE_SEEDS", options.states), ("EVENT_SYNAPSE_SEEDS", options.states)];
        night.tests("resolved states", command, &each);
    }
    if options.wants(Part::Seeds) {
        seeds(root, options, &url, &mut night);
    }
    if options.wants(Part::Fuzz) {
        fuzz::fuzz(root, options, &mut night);
    }
    if options.wants(Part::Control) {
        control(root, &tools, &mut night);
    }
    if options.wants(Part::Delegation) {
        delegation(root, &tools, options, &mut night);
    }
    if options.wants(Part::RustSdk) {
        rust_sdk::play(root, hearth(root, options).as_path(), &mut night);
    }
    night.end(&target.join("nightly.md"))
}

/// Builds everything first, so that no part's time holds a build.
fn build(root: &Path, options: &Options, night: &mut Night) {
    let needs_server = [Part::Kills, Part::Delegation, Part::RustSdk].iter().any(|part| options.wants(*part));
    if needs_server && options.hearth.is_none() {
        let args = ["build", "--release", "--package", "server"];
        night.step("building the server", || run::shown("cargo", &args, root, &[]));
    }
    if options.wants(Part::RustSdk) {
        night.step("building the room list of matrix-rust-sdk", || rust_sdk::build(root));
    }
    let only_scripts = [Part::Kills, Part::Control, Part::Delegation, Part::RustSdk];
    if options.only.is_empty() || options.only.iter().any(|part| !only_scripts.contains(part)) {
        let args = ["test", "--profile", PROFILE, "--workspace", "--no-run"];
        night.step("building the tests", || run::shown("cargo", &args, root, &[]));
    }
}

/// The server that programs are played against.
fn hearth(root: &Path, options: &Options) -> PathBuf {
    options.hearth.clone().unwrap_or_else(|| root.join("target/release/hearth"))
}

/// `cargo test` for some targets; `filter` goes to the test programs. It is always of the whole
/// workspace: another choice of packages would be built anew, with other features.
fn test(root: &Path, targets: &[&str], filter: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(["test", "--profile", PROFILE, "--workspace", "--no-fail-fast"]).args(targets);
    command.arg("--").args(filter).current_dir(root);
    command
}

/// Kills of the server on both databases, and of PostgreSQL under the server.
fn kills(root: &Path, tools: &setup::Tools, options: &Options, night: &mut Night) -> Result<(), Error> {
    let hearth = hearth(root, options);
    let postgres = Postgres::start(&root.join("target"), Durability::Durable)?;
    let (events, rounds) = (options.events.to_string(), options.rounds.to_string());
    let usual = ["--rounds", rounds.as_str(), "--events", events.as_str()];
    let fast = [&usual[..], &["--restart-ms-max", "1000"]].concat();
    let victim = [&usual[..], &["--victim", "postgres"]].concat();
    let database = postgres.create_database("kills")?;
    for (name, args, database) in [
        ("kills of hearth on SQLite", &fast, "sqlite"),
        ("kills of hearth on PostgreSQL", &fast, database.as_str()),
        ("kills of PostgreSQL", &victim, "sqlite"),
    ] {
        night.part(name, |tally, each| {
            play((root, tools, &hearth), ("kill.mjs", args), database, tally, each);
        });
    }
    Ok(())
}

/// All tests but those of the other parts.
fn seeds(root: &Path, options: &Options, postgres: &str, night: &mut Night) {
    let seeds = [
        ("EVENT_SEEDS", options.seeds * EVENT_SEEDS_PER_SEED),
        ("ROOMS_SEEDS", options.seeds),
        ("STORE_SEEDS", options.seeds),
    ];
    let others = DELIVERIES.iter().chain([&POWER_CUTS, &SIMULATIONS, &STATES, &fuzz::TARGETS]);
    let skip: Vec<&str> = others.flat_map(|other| ["--skip", *other]).collect();
    let mut command = test(root, &[], &skip);
    command.env("HEARTH_TEST_POSTGRES", postgres);
    night.tests("all other tests, on many seeds", command, &seeds);
}

fn control(root: &Path, tools: &setup::Tools, night: &mut Night) {
    let Some(synapse) = &tools.synapse else {
        return println!("nightly: without Synapse, the stories are not checked themselves");
    };
    let mut command = Command::new(&tools.node);
    command.arg("chat.mjs").arg("--synapse").arg(synapse).current_dir(root.join("tests/e2e"));
    night.tests("the chat on Synapse", command, &[]);
}

/// Every way in which a name leads to a server, from a hearth to a Synapse and back. Without a network namespace the
/// script says so, and checks nothing.
fn delegation(root: &Path, tools: &setup::Tools, options: &Options, night: &mut Night) {
    let Some(synapse) = &tools.synapse else {
        return println!("nightly: without Synapse, nothing is shown of how servers find each other");
    };
    let mut command = Command::new(&tools.node);
    command.arg("delegation.mjs").current_dir(root.join("tests/e2e"));
    command.arg("--hearth").arg(hearth(root, options)).arg("--synapse").arg(synapse);
    night.part("delegation", |tally, each| tally.counted("delegation.mjs", &mut command, each));
}

/// A number that the next night does not have.
fn seed_of_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs())
}
