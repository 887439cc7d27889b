//! A throw-away PostgreSQL for one run of tests: its own folder below `target/`, its own port on
//! loopback, stopped and deleted at the end.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::{Error, run};

/// How long the server may take from its start to its first answer, on a slow and busy machine.
const START_MAX: Duration = Duration::from_secs(180);

/// How long it may take to stop in good order before it is ended at once.
const STOP_MAX: Duration = Duration::from_secs(120);

/// Ports below those from which Linux takes the near ends of connections: from 32768 on. A server that
/// is started again on its port must not find a client there.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// Ports that are tried before giving up.
const PORTS_MAX: usize = 100;

/// What to run beside the server.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

/// Starts a server, runs the command beside it, and stops the server.
///
/// # Errors
/// The server does not start, or the command fails.
pub fn with_postgres(root: &Path, options: &Options) -> Result<(), Error> {
    let Some((program, args)) = options.command.split_first() else {
        return Ok(());
    };
    let server = Postgres::start(&root.join("target"), Durability::Fast)?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    run::shown(program, &args, root, &[("HEARTH_TEST_POSTGRES", &server.url("postgres"))])
}

/// Whether commits reach the disk before they are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// As in production.
    Durable,
    /// Faster, for tests that kill nothing.
    Fast,
}

/// A running server; dropping it stops it and deletes its folder.
#[derive(Debug)]
pub struct Postgres {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Postgres {
    /// Makes a new cluster below `target` and starts it.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or does not start.
    pub fn start(target: &Path, durability: Durability) -> Result<Self, Error> {
        let bin = bin_folder().ok_or_else(|| Error::Missing {
            what: "PostgreSQL".to_owned(),
            hint: "`cargo xtask setup` installs it".to_owned(),
        })?;
        let port = free_port()?;
        let folder = make_folder(target, port)?;
        let cluster = folder.join("cluster");
        let arg = cluster.to_string_lossy().into_owned();
        as_postgres(&bin.join("initdb"), &folder)
            .args(["--pgdata", &arg, "--username", "postgres", "--auth", "trust", "--encoding", "UTF8"])
            .args(["--locale", "C", "--no-sync"])
            .output()
            .map_err(|source| Error::Start { program: "initdb".to_owned(), source })
            .and_then(|output| succeeded("initdb", &output))?;
        let log_path = folder.join("log");
        let log = File::create(&log_path).map_err(|source| Error::File { path: log_path.clone(), source })?;
        let child = as_postgres(&bin.join("postgres"), &folder)
            .args(["-D", &arg, "-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories=", "-c", "max_connections=300"])
            .args(["-c", if durability == Durability::Fast { "fsync=off" } else { "fsync=on" }])
            .stderr(log)
            .spawn()
            .map_err(|source| Error::Start { program: "postgres".to_owned(), source })?;
        let mut server = Self { child, folder, port };
        server.wait_until_ready(&log_path)?;
        Ok(server)
    }

    /// The URL of a database on this server; `postgres` is always there.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes an empty database and returns its URL.
    ///
    /// # Errors
    /// The server refuses.
    pub fn create_database(&self, name: &str) -> Result<String, Error> {
        let program = bin_folder().unwrap_or_default().join("createdb");
        let port = self.port.to_string();
        let args = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-T", "template0", name];
        run::output(&program.to_string_lossy(), &args, Path::new("/"))?;
        Ok(self.url(name))
    }

    /// The server's first process, above all others of it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, and waits for the end. Answers whether it came.
    fn ended_by(&mut self, signal: &str) -> bool {
        let asked = run::signal(signal, self.child.id());
        let started = Instant::now();
        while asked.is_ok() && started.elapsed() < STOP_MAX {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    fn wait_until_ready(&mut self, log: &Path) -> Result<(), Error> {
        let program = bin_folder().unwrap_or_default().join("pg_isready");
        let (program, port) = (program.to_string_lossy().into_owned(), self.port.to_string());
        let started = Instant::now();
        while started.elapsed() < START_MAX {
            let exited = self.child.try_wait().is_ok_and(|status| status.is_some());
            if exited {
                break;
            }
            let ready = run::output(&program, &["-h", "127.0.0.1", "-p", &port], Path::new("/")).is_ok();
            if ready && TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let said = std::fs::read_to_string(log).unwrap_or_default();
        Err(Error::Failed { program: "postgres".to_owned(), message: said })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGINT asks for a fast shutdown: open connections are closed. SIGQUIT ends it without one.
        for signal in ["INT", "QUIT"] {
            if self.ended_by(signal) {
                break;
            }
        }
        if let Err(source) = std::fs::remove_dir_all(&self.folder) {
            println!("PostgreSQL's folder stays: {}: {source}", self.folder.display());
        }
    }
}

/// The folder of the newest PostgreSQL's programs, if one is installed.
#[must_use]
pub fn bin_folder() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    versions
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse::<u32>().ok())
        .max()
        .map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")))
        .filter(|bin| bin.join("postgres").exists())
}

/// A port on loopback that nobody listens on now.
pub(crate) fn free_port() -> Result<u16, Error> {
    for _ in 0..PORTS_MAX {
        // Each of these states is made from entropy.
        let chance = RandomState::new().build_hasher().finish() % u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(chance).unwrap_or(0);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    let hint = "something listens on every port that was tried".to_owned();
    Err(Error::Missing { what: "a free port on loopback".to_owned(), hint })
}

/// Whether we are root: PostgreSQL refuses to run as root, so it then runs as `postgres`.
fn is_root() -> bool {
    run::output("id", &["-u"], Path::new("/")).is_ok_and(|uid| uid.trim() == "0")
}

/// The program, as a user that PostgreSQL accepts.
fn as_postgres(program: &Path, folder: &Path) -> Command {
    if !is_root() {
        let mut command = Command::new(program);
        command.current_dir(folder);
        return command;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program).current_dir(folder);
    command
}

/// A folder that the server's user may write to: below `target`, or, where that user cannot reach it
/// (a home that is closed to others), below the system's folder for temporary files.
fn make_folder(target: &Path, port: u16) -> Result<PathBuf, Error> {
    let name = format!("hearth-postgres-{}-{port}", std::process::id());
    let mut refused = None;
    for parent in [target.to_path_buf(), std::env::temp_dir()] {
        let folder = parent.join(&name);
        let make = std::fs::create_dir_all(&folder);
        make.map_err(|source| Error::File { path: folder.clone(), source })?;
        let path = folder.to_string_lossy().into_owned();
        if !is_root() {
            return Ok(folder);
        }
        run::output("chown", &["postgres:", &path], Path::new("/"))?;
        let probe = ["--reuid=postgres", "--regid=postgres", "--init-groups", "test", "-w", &path];
        match run::output("setpriv", &probe, Path::new("/")) {
            Ok(_) => return Ok(folder),
            Err(error) => refused = Some(error),
        }
        let remove = std::fs::remove_dir(&folder);
        remove.map_err(|source| Error::File { path: folder.clone(), source })?;
    }
    Err(refused.unwrap_or_else(|| Error::Checks("no folder for PostgreSQL".to_owned())))
}

fn succeeded(program: &str, output: &std::process::Output) -> Result<(), Error> {
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Failed { program: program.to_owned(), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_not_those_of_clients() {
        let port = free_port().expect("a port");
        assert!(PORTS.contains(&port), "{port}");
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
    }
}
