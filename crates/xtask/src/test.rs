//! `cargo xtask test`: everything that has to hold before a change is taken, from formatting to real
//! clients against a freshly built server, on SQLite and on a PostgreSQL that it starts itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::nightly::{PROFILE, RUST_SDK};
use crate::postgres::{Durability, Postgres};
use crate::setup::{CHROMIUM, Tools, setup};
use crate::{Error, run, spec};

/// Which parts to run.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Leave out the stories that real clients play.
    #[arg(long)]
    pub no_e2e: bool,
    /// Run nothing but the stories that real clients play.
    #[arg(long)]
    pub only_e2e: bool,
}

/// How many checks held and how many did not.
#[derive(Debug, Default)]
pub struct Tally {
    passed: usize,
    failed: usize,
    failures: Vec<String>,
}

impl Tally {
    /// Counts one check that either holds or gives an error.
    pub fn step(&mut self, name: &str, result: Result<(), Error>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => self.fail(format!("{name}: {error}")),
        }
    }

    /// Counts one failure.
    fn fail(&mut self, what: String) {
        println!("failed: {what}");
        self.failed += 1;
        self.failures.push(what);
    }

    /// Runs a program that reports its own counts in closing lines, and adds them up. A program that
    /// fails without a failed count is one failure. Each line is given to `each` as well.
    pub fn counted(&mut self, name: &str, command: &mut Command, each: &mut dyn FnMut(&str)) {
        let (before, mut sums) = (self.failed, Vec::new());
        let ran = run::read_along(command, |line| {
            sums.extend(counts(line));
            each(line);
        });
        for (passed, failed) in sums {
            self.passed += passed;
            self.failed += failed;
        }
        match ran {
            Ok(true) if self.failed == before => {}
            Ok(_) if self.failed > before => self.failures.push(name.to_owned()),
            Ok(_) => self.fail(name.to_owned()),
            Err(error) => self.fail(format!("{name}: {error}")),
        }
    }

    /// How many checks held and how many did not, so far.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.passed, self.failed)
    }

    /// Prints the closing line.
    ///
    /// # Errors
    /// Something failed.
    pub fn close(&self) -> Result<(), Error> {
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 { Ok(()) } else { Err(Error::Checks("some tests failed".to_owned())) }
    }
}

/// Reads `test result: ok. 3 passed; 0 failed; …` of cargo, or `3 passed, 0 failed` of a script.
fn counts(line: &str) -> Option<(usize, usize)> {
    let line = line.trim();
    let rest = match line.strip_prefix("test result: ") {
        Some(rest) => rest.split_once(". ")?.1,
        None => line,
    };
    let mut words = rest.split([' ', ',', ';']).filter(|word| !word.is_empty());
    let passed = words.next()?.parse().ok()?;
    (words.next()? == "passed").then_some(())?;
    let failed = words.next()?.parse().ok()?;
    (words.next()? == "failed").then_some((passed, failed))
}

/// Runs everything.
///
/// # Errors
/// The set-up fails, or something does not hold; the closing line says how much.
pub fn test(root: &Path, options: &Options) -> Result<(), Error> {
    let tools = setup(root)?;
    let target = root.join("target");
    let mut tally = Tally::default();
    if !options.only_e2e {
        checks(root, &mut tally);
        match Postgres::start(&target, Durability::Fast) {
            Ok(postgres) => cargo_test(root, &tools, &postgres, &mut tally),
            Err(error) => tally.fail(format!("PostgreSQL for the tests: {error}")),
        }
    }
    if !options.no_e2e {
        end_to_end(root, &tools, &mut tally);
    }
    tally.close()
}

/// What needs no running program: formatting, lints, the specification's coverage. The laws are a
/// test of this crate, and so run with the others.
fn checks(root: &Path, tally: &mut Tally) {
    let cargo = |args: &[&str]| run::shown("cargo", args, root, &[]);
    tally.step("formatting", cargo(&["fmt", "--all", "--check"]));
    // A workspace of its own, which is built by `cargo xtask nightly` alone.
    tally.step("formatting of tests/rust-sdk", cargo(&["fmt", "--manifest-path", RUST_SDK, "--check"]));
    let lints = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    tally.step("lints", cargo(&lints));
    if run::output("cargo", &["deny", "--version"], root).is_ok() {
        // Advisories need a network, and change without us.
        tally.step("licenses and sources", cargo(&["deny", "check", "licenses", "bans", "sources"]));
    } else {
        println!("without cargo-deny, licenses and sources are not checked");
    }
    let options = spec::Options { short: true, strict: true };
    tally.step("coverage of the specification", spec::spec(root, &options));
}

/// How long each fuzz target runs.
const FUZZ_SECONDS: &str = "8";
/// How many simulations of several servers are played.
const SIMULATIONS: &str = "200";

fn cargo_test(root: &Path, tools: &Tools, postgres: &Postgres, tally: &mut Tally) {
    let mut command = Command::new("cargo");
    command.args(["test", "--workspace", "--exclude", "testkit", "--no-fail-fast"]).current_dir(root);
    command.env("HEARTH_TEST_POSTGRES", postgres.url("postgres"));
    command.env("HEARTH_FUZZ_SECONDS", FUZZ_SECONDS);
    compare_with_synapse(&mut command, tools);
    tally.counted("cargo test", &mut command, &mut |_| {});
    println!("simulations of several servers: {SIMULATIONS}, optimized, which takes some minutes to build");
    let mut command = Command::new("cargo");
    command.args(["test", "--profile", PROFILE, "--package", "testkit", "--no-fail-fast"]).current_dir(root);
    command.env("HEARTH_SIMULATIONS", SIMULATIONS);
    tally.counted("simulations", &mut command, &mut |_| {});
}

/// Has the tests compare resolved states with those of Synapse, where it is installed.
pub fn compare_with_synapse(command: &mut Command, tools: &Tools) {
    match &tools.synapse {
        Some(synapse) => drop(command.env("HEARTH_TEST_SYNAPSE", synapse)),
        None => println!("without Synapse, resolved states are not compared with it"),
    }
}

/// One script of `tests/e2e` with its arguments.
struct Story {
    script: &'static str,
    args: &'static [&'static str],
    on_postgres: bool,
}

/// A story on the embedded database.
const fn on_sqlite(script: &'static str, args: &'static [&'static str]) -> Story {
    Story { script, args, on_postgres: false }
}

/// A story on PostgreSQL.
const fn on_postgres(script: &'static str, args: &'static [&'static str]) -> Story {
    Story { script, args, on_postgres: true }
}

/// The stories, each on a server and a database of its own.
const STORIES: &[Story] = &[
    on_sqlite("chat.mjs", &[]),
    on_postgres("chat.mjs", &[]),
    on_sqlite("chat.mjs", &["--chromium"]),
    on_sqlite("first_account.mjs", &[]),
    on_sqlite("accounts.mjs", &[]),
    on_postgres("accounts.mjs", &[]),
    on_sqlite("bad_input.mjs", &[]),
    on_postgres("bad_input.mjs", &[]),
    on_sqlite("encryption.mjs", &[]),
    on_sqlite("kill.mjs", KILLS),
    on_postgres("kill.mjs", KILLS),
    // This one starts a PostgreSQL that it may kill.
    on_sqlite("kill.mjs", &["--victim", "postgres", "--rounds", "10", "--events", "1000"]),
];

/// Ten kills on a small database; `cargo xtask nightly` does it on a large one.
const KILLS: &[&str] = &["--rounds", "10", "--events", "2000"];

fn end_to_end(root: &Path, tools: &Tools, tally: &mut Tally) {
    let built = run::shown("cargo", &["build", "--package", "server"], root, &[]);
    let failed = built.is_err();
    tally.step("building hearth", built);
    if failed {
        return;
    }
    let postgres = match Postgres::start(&root.join("target"), Durability::Durable) {
        Ok(postgres) => postgres,
        Err(error) => return tally.fail(format!("PostgreSQL for the stories: {error}")),
    };
    let hearth = root.join("target/debug/hearth");
    for (n, story) in STORIES.iter().enumerate() {
        let database = match story.on_postgres {
            true => postgres.create_database(&format!("story_{n}")),
            false => Ok("sqlite".to_owned()),
        };
        match database {
            Ok(database) => {
                play((root, tools, &hearth), (story.script, story.args), &database, tally, &mut |_| {});
            }
            Err(error) => tally.fail(format!("{}: {error}", story.script)),
        }
    }
    exchange_mails((root, tools, &hearth), tally);
    match &tools.synapse {
        Some(synapse) => {
            for script in ["federation.mjs", "encryption.mjs"] {
                federate(script, (root, tools, &hearth), synapse, tally);
            }
        }
        None => println!("without Synapse, nothing is shown of rooms shared with other servers"),
    }
}

/// Plays the story of mails between `hearth` and a mail server.
fn exchange_mails((root, tools, hearth): (&Path, &Tools, &Path), tally: &mut Tally) {
    println!("story: mail.mjs with a mail server");
    let mut command = Command::new(&tools.node);
    command.arg("mail.mjs").current_dir(root.join("tests/e2e"));
    command.arg("--hearth").arg(hearth).arg("--aiosmtpd").arg(&tools.mail_server);
    tally.counted("mail.mjs", &mut command, &mut |_| {});
}

/// Plays a script between `hearth` and a Synapse.
fn federate(script: &str, (root, tools, hearth): (&Path, &Tools, &Path), synapse: &Path, tally: &mut Tally) {
    println!("story: {script} with Synapse");
    let mut command = Command::new(&tools.node);
    command.arg(script).current_dir(root.join("tests/e2e"));
    command.arg("--hearth").arg(hearth).arg("--synapse").arg(synapse);
    tally.counted(script, &mut command, &mut |_| {});
}

/// Runs one script against `hearth` on `database`, and gives `each` its lines.
pub fn play(
    (root, tools, hearth): (&Path, &Tools, &Path),
    (script, args): (&str, &[&str]),
    database: &str,
    tally: &mut Tally,
    each: &mut dyn FnMut(&str),
) {
    let engine = database.split(':').next().unwrap_or(database);
    let name = format!("{script} {} on {engine}", args.join(" "));
    println!("story: {name}");
    let mut command = Command::new(&tools.node);
    command.arg(PathBuf::from(script)).args(args).current_dir(root.join("tests/e2e"));
    command.arg("--hearth").arg(hearth).args(["--database", database]).env("CHROMIUM", CHROMIUM);
    tally.counted(&name, &mut command, each);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_read() {
        assert_eq!(counts("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured"), Some((12, 0)));
        assert_eq!(counts("test result: FAILED. 11 passed; 2 failed; 0 ignored"), Some((11, 2)));
        assert_eq!(counts("31 passed, 1 failed"), Some((31, 1)));
        assert_eq!(counts("running 3 tests"), None);
    }

    #[test]
    fn a_program_that_fails_silently_is_a_failure() {
        let mut tally = Tally::default();
        let mut lines = 0;
        tally.counted("false", &mut Command::new("false"), &mut |_| lines += 1);
        tally.counted("no such program", &mut Command::new("there-is-no-such-program"), &mut |_| lines += 1);
        tally.counted("echo", Command::new("echo").arg("4 passed, 0 failed"), &mut |_| lines += 1);
        assert_eq!((tally.counts(), lines), ((4, 2), 1));
        assert!(tally.close().is_err());
    }

    #[test]
    fn a_program_that_counts_failures_is_counted_once() {
        let mut tally = Tally::default();
        tally.counted("script", Command::new("sh").args(["-c", "echo 1 passed, 2 failed; exit 1"]), &mut |_| {});
        assert_eq!((tally.passed, tally.failed), (1, 2));
        assert_eq!(tally.failures, ["script"]);
    }
}
