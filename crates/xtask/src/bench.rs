//! `cargo xtask bench`: CPU time per operation of the whole server process tree, beside Synapse in
//! the same run. Ratios, not milliseconds, carry over to another machine.
//!
//! Each operation is measured on every server in turn, several times over, and the median counts:
//! so a disturbance of the machine meets all of them. The load comes from this process, through
//! plain HTTP/1.1 connections; what it costs is not counted. Servers that are not being measured
//! idle, and what they cost is not counted either.

pub mod federation;
mod http;
pub mod media;
mod operations;
pub(crate) mod process;
pub mod search;
mod server;
pub mod sync;
mod table;
mod world;

use std::path::{Path, PathBuf};

use crate::postgres::{Durability, Postgres};
use crate::{Error, run, setup};
use operations::{OPERATIONS, Sample};
use server::Server;
use world::World;

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Only the operations whose name contains this; can be given several times.
    #[arg(long)]
    pub only: Vec<String>,
    /// How often each operation is measured; the median counts.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Measure Hearth alone.
    #[arg(long)]
    pub no_synapse: bool,
    /// Leave out PostgreSQL.
    #[arg(long)]
    pub no_postgres: bool,
    /// Multiply the sizes of rooms and lists.
    #[arg(long, default_value_t = 1)]
    pub scale: usize,
    /// A server that is built already, instead of building one.
    #[arg(long, value_parser = run::absolute)]
    pub hearth: Option<PathBuf>,
}

/// A program that is given, or one that is built.
fn built(root: &Path, given: Option<&Path>, args: &[&str], place: &str) -> Result<PathBuf, Error> {
    if let Some(path) = given {
        return Ok(path.to_path_buf());
    }
    run::shown("cargo", &[&["build", "--release"], args].concat(), root, &[])?;
    Ok(root.join("target/release").join(place))
}

/// Builds the server, measures, prints the table, and writes it to `target/bench.md`.
///
/// # Errors
/// The server cannot be built or started.
pub fn bench(root: &Path, options: &Options) -> Result<(), Error> {
    let tools = setup::setup(root)?;
    let hearth = built(root, options.hearth.as_deref(), &["--package", "server"], "hearth")?;
    let folder = root.join("target/bench");
    let postgres = match options.no_postgres {
        true => None,
        false => Some(Postgres::start(&root.join("target"), Durability::Durable)?),
    };
    let mut servers = vec![Server::hearth(&hearth, &folder.join("hearth-sqlite"), None, None)?];
    if let Some(postgres) = &postgres {
        servers.push(Server::hearth(&hearth, &folder.join("hearth-postgres"), Some(postgres), None)?);
    }
    match tools.synapse.filter(|_| !options.no_synapse) {
        Some(synapse) => servers.push(Server::synapse(&synapse, &folder.join("synapse"), None)?),
        None => println!("bench: without Synapse, so there are no ratios"),
    }
    let worlds = settle(servers, options.scale);
    let columns = measure(worlds, options);
    let text = table::markdown(&columns, options.rounds.max(1));
    println!("{text}");
    let path = root.join("target/bench.md");
    std::fs::write(&path, &text).map_err(|source| Error::File { path, source })
}

/// What one server showed.
#[derive(Debug)]
pub struct Column {
    /// The server's name.
    pub name: String,
    /// For each operation that was measured its median, or why there is none.
    pub rows: Vec<(&'static operations::Operation, Result<Sample, String>)>,
    /// Proportional set size in MiB after the start, and after everything.
    pub memory_mib: [f64; 2],
    /// Milliseconds from the start on the database as it is in the end to the first answer.
    pub restart_ms: Option<f64>,
}

/// Makes the users and rooms on each server; one on which that fails is left out, and said so.
fn settle(servers: Vec<Server>, scale: usize) -> Vec<World> {
    let mut worlds = Vec::new();
    for server in servers {
        let name = server.name.clone();
        println!("bench: making users and rooms on {name}");
        match World::settle(server, scale) {
            Ok(world) => worlds.push(world),
            Err(error) => println!("bench: {name} is left out: {error}"),
        }
    }
    worlds
}

fn measure(mut worlds: Vec<World>, options: &Options) -> Vec<Column> {
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| name.contains(only.as_str()));
    let mut columns: Vec<Column> = worlds
        .iter()
        .map(|world| Column {
            name: world.server.name.clone(),
            rows: Vec::new(),
            memory_mib: [world.memory_at_start_mib, 0.0],
            restart_ms: None,
        })
        .collect();
    for operation in OPERATIONS.iter().filter(|o| wanted(o.name)) {
        println!("bench: {}", operation.name);
        let mut samples: Vec<Result<Vec<Sample>, String>> = worlds.iter().map(|_| Ok(Vec::new())).collect();
        for _ in 0..options.rounds.max(1) {
            for (world, samples) in worlds.iter_mut().zip(&mut samples) {
                let Ok(list) = samples else { continue };
                match operation.sample(world) {
                    Ok(sample) => list.push(sample),
                    Err(error) => *samples = Err(error),
                }
            }
        }
        for (column, samples) in columns.iter_mut().zip(samples) {
            let median = samples.map(|list| Sample::median(&list));
            println!("bench:   {}: {}", column.name, table::cell(&median));
            column.rows.push((operation, median));
        }
    }
    for (column, world) in columns.iter_mut().zip(&mut worlds) {
        column.memory_mib[1] = world.server.memory_mib();
        column.restart_ms = world.server.restart().ok();
    }
    columns
}
