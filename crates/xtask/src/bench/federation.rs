//! `cargo xtask bench-federation`: what a server costs among others, beside Synapse in the same run. The others are one
//! process, the example `resident` of `testkit`: it makes rooms with real signatures, lets servers join them, sends to
//! them and takes what they send, over TLS with a private authority.
//!
//! What is measured: joining a large room, accepting a peer's events, sending to many destinations.

mod join;
mod resident;
mod traffic;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use self::join::Joined;
use self::resident::Resident;
use self::traffic::{Amount, Traffic};
use super::built;
use super::server::{Server, Tls};
use super::world::{User, register};
use crate::{Error, run, setup};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Members of the room that is joined; 0 leaves the join out.
    #[arg(long, default_value_t = 50_000)]
    pub members: usize,
    /// Servers in that room, and destinations of what is sent.
    #[arg(long, default_value_t = 100)]
    pub servers: usize,
    /// Events that a peer sends one by one, and in full transactions; a tenth of them is sent to the destinations. 0
    /// leaves that out.
    #[arg(long, default_value_t = 2_000)]
    pub events: usize,
    /// Measure Hearth alone.
    #[arg(long)]
    pub no_synapse: bool,
    /// A server that is built already, instead of building one.
    #[arg(long, value_parser = run::absolute)]
    pub hearth: Option<PathBuf>,
    /// A peer that is built already, instead of building one.
    #[arg(long)]
    pub resident: Option<PathBuf>,
}

/// What one server showed.
struct Column {
    name: String,
    join: Option<Result<Joined, String>>,
    traffic: Option<Result<Traffic, String>>,
}

/// Measures, prints the table, and writes it to `target/bench-federation.md`.
///
/// # Errors
/// The servers cannot be built or started.
pub fn bench(root: &Path, options: &Options) -> Result<(), Error> {
    let tools = setup::setup(root)?;
    let hearth = built(root, options.hearth.as_deref(), &["--package", "server"], "hearth")?;
    let peer = ["--package", "testkit", "--example", "resident"];
    let resident = built(root, options.resident.as_deref(), &peer, "examples/resident")?;
    let folder = root.join("target/bench-federation");
    let mut resident = Resident::start(&resident, &folder.join("resident"), options.servers)?;
    let tls = resident.tls();
    let mut columns = Vec::new();
    let start = |program: &Path, tls: &Tls| Server::hearth(program, &folder.join("hearth"), None, Some(tls));
    columns.push(column(&mut resident, options, || start(&hearth, &tls))?);
    match tools.synapse.filter(|_| !options.no_synapse) {
        Some(synapse) => {
            let folder = folder.join("synapse");
            columns.push(column(&mut resident, options, || Server::synapse(&synapse, &folder, Some(&tls)))?);
        }
        None => println!("bench: without Synapse, so there are no ratios"),
    }
    let text = markdown(&columns, options);
    println!("{text}");
    let path = root.join("target/bench-federation.md");
    std::fs::write(&path, &text).map_err(|source| Error::File { path, source })
}

/// Everything on one server. Each part has a server of its own, so that one leaves nothing for the other.
fn column(
    resident: &mut Resident,
    options: &Options,
    start: impl Fn() -> Result<Server, Error>,
) -> Result<Column, Error> {
    let mut column = Column { name: String::new(), join: None, traffic: None };
    if options.members > 0 {
        let server = start()?;
        column.name.clone_from(&server.name);
        println!("bench: {} joins a room of {} members", column.name, options.members);
        column.join = Some(with_user(&server, |user| join::measure(&server, resident, user, options.members)));
        println!("bench:   {}", column.join.as_ref().map(join::line).unwrap_or_default());
    }
    if options.events > 0 {
        let server = start()?;
        column.name.clone_from(&server.name);
        println!("bench: {} and {} servers send to each other", column.name, options.servers);
        let (servers, events) = (options.servers, options.events);
        column.traffic = Some(with_user(&server, |user| traffic::measure(&server, resident, user, servers, events)));
        println!("bench:   {}", column.traffic.as_ref().map(traffic::line).unwrap_or_default());
    }
    Ok(column)
}

fn with_user<T>(server: &Server, body: impl FnOnce(&User) -> Result<T, String>) -> Result<T, String> {
    let user = register(&mut super::http::Connection::new(server.port), "alice")?;
    body(&user)
}

/// A line of the table: what, of which server it takes which figure, how that is written, and the goal.
struct Row {
    what: &'static str,
    figure: fn(&Column) -> Option<f64>,
    unit: &'static str,
    goal: &'static str,
}

/// The goals are those of the issue "Federation", lines 6 and 8.
const ROWS: &[Row] = &[
    Row {
        what: "join: answer of the resident to first message",
        figure: |column| joined(column).map(|joined| joined.first_message_seconds),
        unit: "s",
        goal: "≤ 3 s",
    },
    Row {
        what: "join: answer of the resident to full state",
        figure: |column| joined(column).map(|joined| joined.full_state_seconds),
        unit: "s",
        goal: "",
    },
    Row {
        what: "join: peak memory (VmHWM)",
        figure: |column| joined(column).map(|joined| joined.peak_mib),
        unit: "MiB",
        goal: "≤ 400 MiB",
    },
    Row {
        what: "join: CPU until the state is full",
        figure: |column| joined(column).map(|joined| joined.cpu_seconds),
        unit: "s",
        goal: "≤ 1/10 of Synapse's",
    },
    Row {
        what: "CPU per event accepted, one a transaction",
        figure: |column| traffic_of(column).map(|traffic| traffic.single.cpu_ms),
        unit: "ms",
        goal: "≤ 1/30 of Synapse's",
    },
    Row {
        what: "events accepted a second, one a transaction",
        figure: |column| traffic_of(column).map(|traffic| traffic.single.per_second),
        unit: "/s",
        goal: "",
    },
    Row {
        what: "CPU per event accepted, 50 a transaction",
        figure: |column| traffic_of(column).map(|traffic| traffic.bulk.cpu_ms),
        unit: "ms",
        goal: "≤ 1/30 of Synapse's",
    },
    Row {
        what: "events accepted a second, 50 a transaction",
        figure: |column| traffic_of(column).map(|traffic| traffic.bulk.per_second),
        unit: "/s",
        goal: "",
    },
    Row {
        what: "CPU per event sent to all destinations",
        figure: |column| traffic_of(column).map(|traffic| traffic.sent.cpu_ms),
        unit: "ms",
        goal: "≤ 1/30 of Synapse's",
    },
    Row {
        what: "events sent to all destinations a second",
        figure: |column| traffic_of(column).map(|traffic| traffic.sent.per_second),
        unit: "/s",
        goal: "",
    },
];

fn joined(column: &Column) -> Option<&Joined> {
    column.join.as_ref()?.as_ref().ok()
}

fn traffic_of(column: &Column) -> Option<&Traffic> {
    column.traffic.as_ref()?.as_ref().ok()
}

fn markdown(columns: &[Column], options: &Options) -> String {
    let Options { members, servers, events, .. } = options;
    let mut text = format!(
        "A room of {members} members of {servers} servers is joined; a peer sends {events} events one by one and \
         {events} in transactions of 50; {} messages go to {servers} destinations. CPU time of all processes of the \
         server, connections warm, over TLS.\n\n| |",
        Amount::of(*events).sent
    );
    for column in columns {
        // Writing into a string cannot fail.
        let _ = write!(text, " {} |", column.name);
    }
    text += " goal | ratio |\n|---|";
    text += &"---|".repeat(columns.len() + 2);
    text.push('\n');
    for row in ROWS {
        let figures: Vec<Option<f64>> = columns.iter().map(|column| (row.figure)(column)).collect();
        let cells = figures.iter().map(|figure| figure.map_or("–".to_owned(), |n| format!("{n:.2} {}", row.unit)));
        let cells: Vec<String> = cells.collect();
        let ratio = match figures.as_slice() {
            [Some(first), .., Some(last)] if *first > 0.0 => format!("{:.1}", last / first),
            _ => String::new(),
        };
        let _ = writeln!(text, "| {} | {} | {} | {ratio} |", row.what, cells.join(" | "), row.goal);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_has_a_cell_in_every_line() {
        let joined = Joined { first_message_seconds: 1.0, full_state_seconds: 2.0, peak_mib: 3.0, cpu_seconds: 4.0 };
        let column = |name: &str, factor: f64| Column {
            name: name.to_owned(),
            join: Some(Ok(Joined { cpu_seconds: 4.0 * factor, ..joined })),
            traffic: Some(Err("away".to_owned())),
        };
        let options = Options { members: 10, servers: 2, events: 20, no_synapse: false, hearth: None, resident: None };
        let text = markdown(&[column("a", 1.0), column("b", 12.0)], &options);
        let table: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(table.len(), 2 + ROWS.len());
        assert!(table.iter().all(|line| line.matches('|').count() == 6), "{text}");
        assert!(table.iter().any(|line| line.ends_with("| ≤ 1/10 of Synapse's | 12.0 |")), "{text}");
    }
}
