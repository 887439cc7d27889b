//! `cargo xtask bench-media`: what media costs those who chat. Somebody sends messages all the time, first alone and then
//! beside uploads, downloads, thumbnails, decompression bombs and clients that dawdle; how long sends take and how much
//! memory the server has is told for each.
//!
//! The load comes from threads of this process that run at a low priority, so that what is measured is how the server
//! shares the machine, not how this program does.

mod files;
mod load;
mod sender;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::load::{Kind, Load, Tally};
use self::sender::{Sender, Times};
use super::built;
use super::http::Connection;
use super::server::Server;
use super::world::{create, register};
use crate::{Error, run};

/// How many times longer the slowest hundredth of sends may take beside media.
const SENDS_GOAL: f64 = 2.0;

/// How much more memory the server may have beside media than idle, in MiB.
const MEMORY_GOAL_MIB: f64 = 64.0;

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Small files that are uploaded.
    #[arg(long, default_value_t = 10_000)]
    pub files: usize,
    /// Seconds for which each other kind of load goes on, and for which sends are timed alone.
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// Only the kinds of load whose name contains this; can be given several times.
    #[arg(long)]
    pub only: Vec<String>,
    /// A server that is built already, instead of building one.
    #[arg(long, value_parser = run::absolute)]
    pub hearth: Option<PathBuf>,
}

/// What one kind of load showed.
#[derive(Debug, Clone)]
struct Row {
    name: String,
    times: Times,
    /// The most memory, in MiB.
    peak_mib: f64,
    tally: Tally,
    seconds: f64,
}

/// Builds the server, measures, prints the table, and writes it to `target/bench-media.md`.
///
/// # Errors
/// The server cannot be built or started, or a message cannot be sent.
pub fn bench(root: &Path, options: &Options) -> Result<(), Error> {
    let hearth = built(root, options.hearth.as_deref(), &["--package", "server"], "hearth")?;
    let server = Server::hearth(&hearth, &root.join("target/bench-media"), None, None)?;
    let rows = measure(&server, options).map_err(|message| Error::Failed { program: server.name.clone(), message })?;
    let text = markdown(&rows);
    println!("{text}");
    let path = root.join("target/bench-media.md");
    std::fs::write(&path, &text).map_err(|source| Error::File { path, source })
}

fn measure(server: &Server, options: &Options) -> Result<Vec<Row>, String> {
    let mut link = Connection::new(server.port);
    let (alice, bob) = (register(&mut link, "alice")?, register(&mut link, "bob")?);
    let room = create(&mut link, &alice)?;
    let mut sender = Sender::new(server.port, alice, room);
    let load = Arc::new(Load::new(server.port, bob)?);
    let limit = Duration::from_secs(options.seconds);
    // Once in advance, so that nothing is slow for being the first.
    sender.send_for(Duration::from_secs(2))?;
    let mut rows = vec![alone(server, &mut sender, "nothing", limit)?];
    let wanted =
        |kind: &&Kind| options.only.is_empty() || options.only.iter().any(|only| kind.name().contains(only.as_str()));
    for kind in Kind::ALL.iter().filter(wanted) {
        println!("bench: {}", kind.name());
        server.forget_peak();
        let began = Instant::now();
        let work = load.begin(*kind, options.files, limit);
        let times = sender.send_while(|| !work.is_finished());
        let tally = work.join();
        let seconds = began.elapsed().as_secs_f64();
        let row = Row { name: kind.name().to_owned(), times: times?, peak_mib: server.peak_mib(), tally, seconds };
        println!("bench:   {}", cell(&row));
        rows.push(row);
    }
    rows.push(alone(server, &mut sender, "nothing, afterwards", limit)?);
    Ok(rows)
}

fn alone(server: &Server, sender: &mut Sender, name: &str, limit: Duration) -> Result<Row, String> {
    println!("bench: {name}");
    server.forget_peak();
    let times = sender.send_for(limit)?;
    let (peak_mib, seconds) = (server.peak_mib(), limit.as_secs_f64());
    Ok(Row { name: name.to_owned(), times, peak_mib, tally: Tally::default(), seconds })
}

fn cell(row: &Row) -> String {
    let Times { p50_ms, p99_ms, most_ms, sent } = row.times;
    format!("sends p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms, most {most_ms:.1} ms of {sent}; {:.0} MiB", row.peak_mib)
}

fn markdown(rows: &[Row]) -> String {
    let mut text = format!(
        "Somebody sends a message every {} ms while the server has to do with media. Goals: the slowest hundredth of sends \
         within {SENDS_GOAL} times what it is beside nothing, memory within {MEMORY_GOAL_MIB} MiB above that.\n\n\
         | beside | sends p50 | p99 | times idle | most | memory | above idle | done | refused | per second |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
        sender::EVERY.as_millis()
    );
    let Some(idle) = rows.first() else { return text };
    for row in rows {
        let Times { p50_ms, p99_ms, most_ms, .. } = row.times;
        let times = p99_ms / idle.times.p99_ms;
        let above = row.peak_mib - idle.peak_mib;
        let mark = |fine: bool| if fine { "" } else { " ✗" };
        let per_second = (row.tally.granted + row.tally.refused) as f64 / row.seconds;
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {p50_ms:.2} ms | {p99_ms:.2} ms | {times:.2}{} | {most_ms:.1} ms | {:.0} MiB | {above:+.0} MiB{} | {} | {} | \
             {per_second:.0} |",
            row.name,
            mark(times <= SENDS_GOAL),
            row.peak_mib,
            mark(above <= MEMORY_GOAL_MIB),
            row.tally.granted,
            row.tally.refused,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_misses_a_goal_is_marked() {
        let row = |name: &str, p99_ms: f64, peak_mib: f64| Row {
            name: name.to_owned(),
            times: Times { p50_ms: 1.0, p99_ms, most_ms: 9.0, sent: 100 },
            peak_mib,
            tally: Tally { granted: 30, refused: 10 },
            seconds: 2.0,
        };
        let text = markdown(&[row("nothing", 2.0, 50.0), row("a", 4.0, 114.0), row("b", 4.1, 115.0)]);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert!(lines.iter().all(|line| line.matches('|').count() == 11), "{text}");
        assert!(lines[3].contains("| 2.00 | 9.0 ms | 114 MiB | +64 MiB | 30 | 10 | 20 |"), "{text}");
        assert!(lines[4].contains("| 2.05 ✗ | 9.0 ms | 115 MiB | +65 MiB ✗ |"), "{text}");
    }
}
