//! The parts of a night: each run with a sign of life every minute, and remembered with its figures,
//! its time and its cost.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::Error;
use crate::bench::process::cpu_seconds;
use crate::test::Tally;

/// How often a part says that it still runs.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);

/// What stands before the figures in a line of a program.
const FIGURES: &str = "figures: ";

/// A part that has run.
struct Row {
    name: String,
    held: bool,
    figures: String,
    wall: Duration,
    cpu_seconds: f64,
}

/// A run of parts.
pub struct Night {
    began: Instant,
    tally: Tally,
    rows: Vec<Row>,
}

impl Night {
    /// Begins without parts.
    pub fn begin() -> Self {
        Self { began: Instant::now(), tally: Tally::default(), rows: Vec::new() }
    }

    /// A part that either holds or gives an error, and has no figures.
    pub fn step(&mut self, name: &str, body: impl FnOnce() -> Result<(), Error>) {
        self.part(name, |tally, _| tally.step(name, body()));
    }

    /// A part that runs a program which counts what passed. That nothing passed is a failure: then
    /// nothing was run.
    pub fn tests(&mut self, name: &str, mut command: Command, settings: &[(&str, u64)]) {
        for (key, value) in settings {
            command.env(key, value.to_string());
        }
        command.env("HEARTH_NIGHTLY", "1");
        self.part(name, |tally, each| {
            let before = tally.counts();
            tally.counted(name, &mut command, each);
            if tally.counts() == before {
                tally.step(name, Err(Error::Checks("no test was run".to_owned())));
            }
        });
    }

    /// Runs a part. What it gives to the second argument of `body`, line by line, is searched for
    /// figures; where it has none, the counts stand for them.
    pub fn part(&mut self, name: &str, body: impl FnOnce(&mut Tally, &mut dyn FnMut(&str))) {
        println!("nightly: {} {name}", clock(self.began.elapsed()));
        let (started, cpu, before) = (Instant::now(), cpu_of_all(), self.tally.counts());
        let mut figures: Vec<String> = Vec::new();
        with_signs_of_life(name, || body(&mut self.tally, &mut |line| figures.extend(figures_of(line))));
        let (passed, failed) = self.tally.counts();
        let (passed, failed) = (passed - before.0, failed - before.1);
        if figures.is_empty() {
            figures.push(format!("{passed} passed, {failed} failed"));
        }
        let row = Row {
            name: name.to_owned(),
            held: failed == 0,
            figures: figures.join("; "),
            wall: started.elapsed(),
            cpu_seconds: cpu_of_all() - cpu,
        };
        println!("nightly: {} {}", clock(self.began.elapsed()), line(&row));
        self.rows.push(row);
    }

    /// Prints the table, and writes it to `path`.
    ///
    /// # Errors
    /// A part did not hold, or the file cannot be written.
    pub fn end(&self, path: &Path) -> Result<(), Error> {
        let table = table(&self.rows);
        println!("{table}");
        std::fs::write(path, &table).map_err(|source| Error::File { path: path.to_path_buf(), source })?;
        self.tally.close()
    }
}

/// Runs `body`, and prints every minute that it still runs.
fn with_signs_of_life(name: &str, body: impl FnOnce()) {
    std::thread::scope(|scope| {
        let (done, ends) = mpsc::channel::<()>();
        scope.spawn(move || {
            let started = Instant::now();
            while ends.recv_timeout(SIGN_OF_LIFE) == Err(mpsc::RecvTimeoutError::Timeout) {
                println!("nightly: {name} runs for {}", clock(started.elapsed()));
            }
        });
        body();
        drop(done);
    });
}

/// CPU seconds of this process and all that it has started, the database servers included.
fn cpu_of_all() -> f64 {
    cpu_seconds(&[std::process::id()])
}

/// The figures in a line, which may begin with the name of a test.
fn figures_of(line: &str) -> Option<String> {
    line.split_once(FIGURES).map(|(_, figures)| figures.trim().to_owned())
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from("| part | result | figures | wall | CPU |\n|---|---|---|---|---|\n");
    for row in rows {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{}", line(row));
    }
    text
}

fn line(row: &Row) -> String {
    let result = if row.held { "holds" } else { "FAILED" };
    let figures = row.figures.replace('|', "/");
    format!("| {} | {result} | {figures} | {} | {:.0} s |", row.name, clock(row.wall), row.cpu_seconds)
}

/// Hours, minutes and seconds.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// Runs a program without showing what it prints. Answers its lines, and whether it succeeded.
///
/// # Errors
/// The program cannot be started.
pub fn quietly(command: &mut Command) -> Result<(Vec<String>, bool), Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|source| Error::Start { program, source })?;
    let mut lines: Vec<String> = Vec::new();
    for stream in [&output.stdout, &output.stderr] {
        lines.extend(String::from_utf8_lossy(stream).lines().map(str::to_owned));
    }
    Ok((lines, output.status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_behind_the_name_of_a_test() {
        assert_eq!(figures_of("test json ... figures: 3 inputs"), Some("3 inputs".to_owned()));
        assert_eq!(figures_of("test json ... ok"), None);
    }

    #[test]
    fn a_part_without_a_test_fails() {
        let mut night = Night::begin();
        night.tests("nothing", Command::new("true"), &[]);
        night.tests("empty", echo("test result: ok. 0 passed; 0 failed; 0 ignored"), &[]);
        night.tests("one", echo("figures: 7 | 8\ntest result: ok. 1 passed; 0 failed; 0 ignored"), &[]);
        let held: Vec<bool> = night.rows.iter().map(|row| row.held).collect();
        assert_eq!(held, [false, false, true]);
        assert_eq!(night.rows[2].figures, "7 | 8");
        assert!(table(&night.rows).lines().all(|line| line.matches('|').count() == 6), "{}", table(&night.rows));
        assert!(night.tally.close().is_err());
    }

    fn echo(text: &str) -> Command {
        let mut command = Command::new("printf");
        command.args(["%s\\n", text]);
        command
    }

    #[test]
    fn times_have_hours() {
        assert_eq!(clock(Duration::from_secs(3_725)), "1:02:05");
    }
}
