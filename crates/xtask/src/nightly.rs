//! `cargo xtask nightly`: what takes longer than a change should wait for. It is run before an issue
//! is called resolved, and its figures are quoted there.

use std::path::Path;
use std::process::Command;

use crate::postgres::{Durability, Postgres};
use crate::test::{Tally, play};
use crate::{Error, run, setup};

/// How long, and how much.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Events in the database before the first kill.
    #[arg(long, default_value_t = 100_000)]
    pub events: u32,
    /// Kills on each database.
    #[arg(long, default_value_t = 10)]
    pub rounds: u32,
}

/// How long each fuzz target runs: hours for all of them.
const FUZZ_SECONDS: &str = "1200";

/// Power cuts under SQLite, each on a database of its own.
const POWER_CUTS: &str = "2000";

/// Runs the long variants: kills on a large database, and every test that reads `HEARTH_NIGHTLY`
/// (more seeds, more deliveries, longer fuzzing).
///
/// # Errors
/// The set-up fails, or something does not hold.
pub fn nightly(root: &Path, options: &Options) -> Result<(), Error> {
    let tools = setup::setup(root)?;
    let mut tally = Tally::default();
    tally.step("building hearth", run::shown("cargo", &["build", "--release", "--package", "server"], root, &[]));
    let postgres = Postgres::start(&root.join("target"), Durability::Durable)?;
    let hearth = root.join("target/release/hearth");
    let (events, rounds) = (options.events.to_string(), options.rounds.to_string());
    let args = ["--rounds", &rounds, "--events", &events, "--restart-ms-max", "1000"];
    for database in ["sqlite".to_owned(), postgres.create_database("kills")?] {
        play(root, &tools, &hearth, "kill.mjs", &args, &database, &mut tally);
    }
    control(root, &tools, &mut tally);
    let victim = [&args[..4], &["--victim", "postgres"]].concat();
    play(root, &tools, &hearth, "kill.mjs", &victim, "sqlite", &mut tally);
    let mut command = Command::new("cargo");
    command.args(["test", "--release", "--workspace", "--no-fail-fast"]).current_dir(root);
    command.env("HEARTH_TEST_POSTGRES", postgres.url("postgres")).env("HEARTH_NIGHTLY", "1");
    command.env("HEARTH_POWER_CUTS", POWER_CUTS).env("HEARTH_FUZZ_SECONDS", FUZZ_SECONDS);
    tally.counted("cargo test, long", &mut command);
    tally.close()
}

/// The chat against Synapse: a story that it does not pass is wrong itself.
fn control(root: &Path, tools: &setup::Tools, tally: &mut Tally) {
    let Some(synapse) = &tools.synapse else {
        return println!("nightly: without Synapse, the stories are not checked themselves");
    };
    let mut command = Command::new(&tools.node);
    command.arg("chat.mjs").arg("--synapse").arg(synapse).current_dir(root.join("tests/e2e"));
    tally.counted("chat.mjs on Synapse", &mut command);
}
