//! The command line.

pub mod config;
pub mod key;
pub mod moves;
pub mod orders;
pub mod serve;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::sources::Given;
use crate::{boot, listeners};

/// What the exit codes mean, for `--help`.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line is wrong
  3  the configuration is wrong
  4  the database cannot be opened or used
  5  a listener cannot listen
  6  the database can no longer be written while the server runs";

/// Hearth, a Matrix homeserver. Without a command it serves.
#[derive(Parser)]
#[command(name = "hearth", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    sources: Sources,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct Sources {
    /// The configuration file [default: hearth.toml in the working directory, if there is one].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets a key of the configuration, over the file and the environment.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the server (also without any command).
    Serve,
    /// Makes, lists and ends accounts.
    #[command(subcommand)]
    User(orders::UserCommand),
    /// Makes, lists and deletes tokens with which people can register.
    #[command(subcommand)]
    Token(orders::TokenCommand),
    /// Lists, shows and closes what users reported: rooms, events and users.
    #[command(subcommand)]
    Reports(orders::ReportsCommand),
    /// Lists the rooms: version, joined members, and of which not all members are known yet.
    Rooms,
    /// Looks after the search index.
    #[command(subcommand)]
    Search(orders::SearchCommand),
    /// Looks for what is wrong.
    Doctor,
    /// Changes the signing key, or goes on without a lost one, while no server runs.
    #[command(subcommand)]
    Key(key::Command),
    /// Copies database, key and media into a new folder, also while the server runs.
    Backup {
        /// The folder, new or empty.
        #[arg(value_name = "FOLDER")]
        to: PathBuf,
    },
    /// Puts a backup into an empty data folder, while no server runs.
    Restore {
        /// The folder of the backup.
        #[arg(value_name = "FOLDER")]
        backup: PathBuf,
        /// The data folder [default: `data_dir` of the configuration].
        #[arg(long, value_name = "FOLDER")]
        data_dir: Option<PathBuf>,
    },
    /// Copies the configured database into another one (SQLite to PostgreSQL or back), while no server runs.
    MigrateDatabase {
        /// The new database: `sqlite:PATH` or `postgres://…`. It must be empty.
        #[arg(long, value_name = "DATABASE")]
        to: String,
    },
    /// Looks at the configuration.
    #[command(subcommand)]
    Config(config::Command),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration.
    #[error("configuration: {0}")]
    Config(#[from] crate::config::Error),
    /// A certificate or its key, found wanting by who looks at the configuration.
    #[error("configuration: {0}")]
    Tls(#[from] listeners::tls::Error),
    /// The start.
    #[error("{0}")]
    Boot(#[from] boot::Error),
    /// A listener.
    #[error("{0}")]
    Listener(#[from] listeners::Error),
    /// The database failed while the server ran.
    #[error("the database can no longer be written: the server has stopped so that nothing is lost")]
    StoreLost,
    /// Anything else, in words for the administrator.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Tls(_) => 3,
            Self::Boot(
                boot::Error::NoServer { .. }
                | boot::Error::OtherName { .. }
                | boot::Error::OtherKey { .. }
                | boot::Error::LostKey { .. },
            ) => 3,
            Self::Boot(boot::Error::Store(_) | boot::Error::Commit(_)) => 4,
            Self::Listener(_) => 5,
            Self::StoreLost => 6,
            Self::Boot(_) | Self::Other(_) => 1,
        }
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self::Boot(error.into())
    }
}

/// Runs the program.
pub fn run() -> ExitCode {
    let cli = Cli::parse_from(gathered(std::env::args_os()));
    let mut given = Given::with_environment(cli.sources.config, cli.sources.set);
    let done = match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => on_runtime(serve::run(&given)),
        Command::Config(command) => config::run(&command, &given),
        Command::User(command) => on_runtime(orders::user(command, &given)),
        Command::Token(command) => on_runtime(orders::token(command, &given)),
        Command::Reports(command) => on_runtime(orders::reports(command, &given)),
        Command::Key(command) => on_runtime(key::run(&command, &given)),
        Command::Rooms => on_runtime(orders::rooms(&given)),
        Command::Search(command) => on_runtime(orders::search(command, &given)),
        Command::Doctor => on_runtime(orders::doctor(&given)),
        Command::Backup { to } => on_runtime(orders::backup(to, &given)),
        Command::Restore { backup, data_dir } => {
            given.set.extend(data_dir.map(|path| format!("data_dir={}", path.display())));
            moves::restore(&backup, &given)
        }
        Command::MigrateDatabase { to } => on_runtime(moves::migrate_database(&to, &given)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("hearth: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// The words of the command line with all `--set` at its end: those before a command and those behind it both count,
/// where clap would drop the former in silence.
fn gathered(mut words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let (mut gathered, mut sets, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(word) = words.next() {
        if word == "--" {
            rest.push(word);
            rest.extend(words.by_ref());
        } else if word == "--set" {
            sets.push(word);
            sets.extend(words.next());
        } else if word.as_encoded_bytes().starts_with(b"--set=") {
            sets.push(word);
        } else {
            gathered.push(word);
        }
    }
    gathered.extend(sets);
    gathered.extend(rest);
    gathered
}

fn on_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Other(format!("no threads can be started: {error}")))?;
    runtime.block_on(work)
}
