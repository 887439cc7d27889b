//! `cargo xtask bench-sync`: what the syncs of an account with many rooms cost, waiting syncs that one message wakes, and
//! the keys and to-device messages of many devices, beside Synapse in the same run.
//!
//! Both servers are loaded by the same requests. Each measurement is then done on one after the other, several times over:
//! the median of the CPU time counts, and the wall times of all rounds together give the percentiles.

mod keys;
mod meter;
mod people;
mod rooms;
mod to_device;
mod wake;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use self::meter::{Round, Summary};
use self::people::World;
use super::built;
use super::server::Server;
use crate::{Error, run, setup};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Rooms of the account that syncs.
    #[arg(long, default_value_t = 2_000)]
    pub rooms: usize,
    /// People who wait in one room, and whose devices have keys and get messages.
    #[arg(long, default_value_t = 1_000)]
    pub people: usize,
    /// Only the measurements whose name contains this; can be given several times.
    #[arg(long)]
    pub only: Vec<String>,
    /// How often each measurement is done.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Measure Hearth alone.
    #[arg(long)]
    pub no_synapse: bool,
    /// A server that is built already, instead of building one.
    #[arg(long, value_parser = run::absolute)]
    pub hearth: Option<PathBuf>,
}

/// A line of the table.
#[derive(Debug)]
struct Line {
    /// What is done, and what one operation is.
    name: &'static str,
    /// What the project wants it to cost.
    goal: &'static str,
}

/// Something that is measured in one go, and shown in one line or more.
#[derive(Debug)]
struct Measurement {
    /// As `--only` names it.
    name: &'static str,
    line: Line,
    /// A part of it that has a line of its own.
    part: Option<Line>,
    /// Whether it is done once in advance without being counted.
    warm: bool,
    run: fn(&mut World) -> Result<Vec<Round>, String>,
}

/// The goal for first syncs.
const FIRST: &str = "≤ 20 ms, ≤ 1/30 of Synapse's";

/// The goal for the others.
const THIRTIETH: &str = "≤ 1/30 of Synapse's";

impl Measurement {
    fn lines(&self) -> impl Iterator<Item = &Line> {
        std::iter::once(&self.line).chain(&self.part)
    }
}

/// A measurement that fills one line, and is done once in advance.
const fn warm(
    name: &'static str,
    run: fn(&mut World) -> Result<Vec<Round>, String>,
    goal: &'static str,
    line: &'static str,
) -> Measurement {
    Measurement { name, line: Line { name: line, goal }, part: None, warm: true, run }
}

/// The goals are those of the issue "Sync and encryption", acceptance line 5.
const MEASUREMENTS: &[Measurement] = &[
    Measurement {
        name: "first-cold",
        line: Line { name: "first sliding sync, 20 of all rooms, first request after a restart", goal: FIRST },
        part: None,
        warm: false,
        run: rooms::first_cold,
    },
    warm("first-warm", rooms::first_warm, FIRST, "first sliding sync, 20 of all rooms, each on a new connection"),
    warm("next-plain", rooms::next_plain, THIRTIETH, "`/sync` after one message in one of all rooms"),
    warm("next-sliding", rooms::next_sliding, THIRTIETH, "sliding sync after one message in one of all rooms"),
    warm("wake-plain", wake::plain, THIRTIETH, "one message wakes all waiting `/sync`, per sync"),
    warm("wake-sliding", wake::sliding, THIRTIETH, "one message wakes all waiting sliding syncs, per sync"),
    warm("query", keys::query, THIRTIETH, "query of all people's keys, per request"),
    warm("claim", keys::claim, THIRTIETH, "claim of a one-time key, 8 clients at once"),
    Measurement {
        part: Some(Line { name: "of that, delivery by a `/sync` of each", goal: "" }),
        ..warm(
            "to-device-all",
            to_device::to_all,
            THIRTIETH,
            "to-device, one request to all devices, delivered, per message",
        )
    },
    Measurement {
        part: Some(Line { name: "of that, delivery by `/sync`, per message", goal: "" }),
        ..warm(
            "to-device-one",
            to_device::to_one,
            THIRTIETH,
            "to-device, 1,000 requests to one device, delivered, per message",
        )
    },
];

/// Builds the server, measures, prints the table, and writes it to `target/bench-sync.md`.
///
/// # Errors
/// The servers cannot be built or started.
pub fn bench(root: &Path, options: &Options) -> Result<(), Error> {
    let tools = setup::setup(root)?;
    let hearth = built(root, options.hearth.as_deref(), &["--package", "server"], "hearth")?;
    let folder = root.join("target/bench-sync");
    let mut servers = vec![Server::hearth(&hearth, &folder.join("hearth"), None, None)?];
    match tools.synapse.filter(|_| !options.no_synapse) {
        Some(synapse) => servers.push(Server::synapse(&synapse, &folder.join("synapse"), None)?),
        None => println!("bench: without Synapse, so there are no ratios"),
    }
    let mut worlds = Vec::new();
    for server in servers {
        let name = server.name.clone();
        match World::load(server, options.rooms.max(1), options.people.max(1)) {
            Ok(world) => worlds.push(world),
            Err(error) => println!("bench: {name} is left out: {error}"),
        }
    }
    let names: Vec<String> = worlds.iter().map(|world| world.server.name.clone()).collect();
    let rows = measure(&mut worlds, options);
    let text = markdown(&names, &rows, options);
    println!("{text}");
    let path = root.join("target/bench-sync.md");
    std::fs::write(&path, &text).map_err(|source| Error::File { path, source })
}

/// A line with what each server showed.
type Row = (&'static Line, Vec<Result<Summary, String>>);

fn measure(worlds: &mut [World], options: &Options) -> Vec<Row> {
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| name.contains(only.as_str()));
    let mut rows = Vec::new();
    for measurement in MEASUREMENTS.iter().filter(|measurement| wanted(measurement.name)) {
        println!("bench: {}", measurement.name);
        let first = usize::from(!measurement.warm);
        let mut found: Vec<Result<Vec<Vec<Round>>, String>> = worlds.iter().map(|_| Ok(Vec::new())).collect();
        for n in first..=options.rounds.max(1) {
            for (world, rounds) in worlds.iter_mut().zip(&mut found) {
                let Ok(list) = rounds else { continue };
                match (measurement.run)(world) {
                    Ok(_) if n == 0 => {}
                    Ok(round) => list.push(round),
                    Err(error) => *rounds = Err(error),
                }
            }
        }
        for (n, line) in measurement.lines().enumerate() {
            let summary = |rounds: &Result<Vec<Vec<Round>>, String>| -> Result<Summary, String> {
                let rounds = rounds.as_ref().map_err(Clone::clone)?;
                let of_line: Vec<&Round> = rounds.iter().filter_map(|round| round.get(n)).collect();
                Summary::of(&of_line).ok_or_else(|| "nothing was measured".to_owned())
            };
            let summaries: Vec<_> = found.iter().map(summary).collect();
            for (world, summary) in worlds.iter().zip(&summaries) {
                println!("bench:   {}: {}: {}", world.server.name, line.name, cell(summary));
            }
            rows.push((line, summaries));
        }
    }
    rows
}

/// CPU time first; then what a person notices.
fn cell(summary: &Result<Summary, String>) -> String {
    match summary {
        Ok(summary) => {
            let Summary { cpu_ms, cpu_ms_range: [least, most], p50_ms, p99_ms, timed, per_second } = summary;
            format!(
                "{cpu_ms:.3} ms [{least:.3} – {most:.3}] (p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms of {timed}; \
                 {per_second:.1}/s)"
            )
        }
        Err(error) => format!("failed: {}", error.replace('|', "/").chars().take(60).collect::<String>()),
    }
}

fn markdown(names: &[String], rows: &[Row], options: &Options) -> String {
    let mut text = format!(
        "An account with {} rooms; {} people with keys who share one room. CPU time per operation of all processes of \
         the server: the median of {} rounds, their least and most in brackets; in parentheses wall times of all \
         rounds, and operations per second.\n\n| |",
        options.rooms,
        options.people,
        options.rounds.max(1)
    );
    for name in names {
        // Writing into a string cannot fail.
        let _ = write!(text, " {name} |");
    }
    text += " goal | ratio |\n|---|";
    text += &"---|".repeat(names.len() + 2);
    text.push('\n');
    for (line, summaries) in rows {
        let cells: Vec<String> = summaries.iter().map(cell).collect();
        let ratio = match summaries.as_slice() {
            [Ok(first), .., Ok(last)] if first.cpu_ms > 0.0 => format!("{:.1}", last.cpu_ms / first.cpu_ms),
            _ => String::new(),
        };
        let _ = writeln!(text, "| {} | {} | {} | {ratio} |", line.name, cells.join(" | "), line.goal);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_has_a_cell_in_every_line() {
        let summary =
            Summary { cpu_ms: 2.0, cpu_ms_range: [1.0, 3.0], p50_ms: 4.0, p99_ms: 5.0, timed: 6, per_second: 7.0 };
        let lines = MEASUREMENTS.iter().flat_map(Measurement::lines);
        let rows: Vec<Row> = lines
            .map(|line| (line, vec![Ok(summary.clone()), Ok(Summary { cpu_ms: 66.0, ..summary.clone() })]))
            .collect();
        let failed = (rows[0].0, vec![Ok(summary.clone()), Err("404: | not served".to_owned())]);
        let options = Options { rooms: 10, people: 5, only: Vec::new(), rounds: 3, no_synapse: false, hearth: None };
        let text = markdown(&["a".to_owned(), "b".to_owned()], &[rows, vec![failed]].concat(), &options);
        let table: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert!(table.iter().all(|line| line.matches('|').count() == 6), "{text}");
        assert!(table[3].ends_with("| ≤ 20 ms, ≤ 1/30 of Synapse's | 33.0 |"), "{text}");
        assert!(table.last().is_some_and(|line| line.contains("failed: 404: / not served")), "{text}");
    }
}
