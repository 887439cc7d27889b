//! One hearth, started with a folder and a port of its own, on loopback.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::oneshot;

use crate::checks::{Fallible, ensure, within};

/// The secret with which accounts are registered.
pub const SHARED_SECRET: &str = "the secret of the tests of the room list";

/// Ports below those from which Linux takes the near ends of connections: a server is started again and again on one
/// port, which no client may take in between.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// What the server logs once it serves.
const SERVES: &str = "listening on";

/// Lines of the log that an error repeats.
const LOG_LINES_MAX: usize = 15;

/// A running server and its folder, which goes away with it.
pub struct Hearth {
    program: PathBuf,
    folder: TempDir,
    data: PathBuf,
    port: u16,
    child: Child,
}

impl Hearth {
    /// Makes the folder, picks a port, and starts.
    pub async fn create(program: &Path) -> Fallible<Self> {
        let folder = tempfile::Builder::new().prefix("hearth-rust-sdk-").tempdir()?;
        let (data, port) = (folder.path().join("data"), free_port()?);
        let child = start(program, folder.path(), &data, port).await?;
        Ok(Self { program: program.to_owned(), folder, data, port, child })
    }

    /// Where it listens.
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Ends the program as a power cut would, as far as the program can tell.
    pub async fn kill(&mut self) -> Fallible {
        Ok(self.child.kill().await?)
    }

    /// Starts it again on what it has stored.
    pub async fn start(&mut self) -> Fallible {
        self.child = start(&self.program, self.folder.path(), &self.data, self.port).await?;
        Ok(())
    }

    /// Copies everything into a new folder, while it runs.
    pub async fn back_up(&self) -> Fallible<PathBuf> {
        let backup = self.folder.path().join("backup");
        self.command("backup").arg(&backup).succeeds().await?;
        Ok(backup)
    }

    /// Puts a backup into a new data folder, with which the next start goes on.
    pub async fn restore(&mut self, backup: &Path) -> Fallible {
        let data = self.folder.path().join("restored");
        self.command("restore").arg(backup).arg("--data-dir").arg(&data).succeeds().await?;
        self.data = data;
        Ok(())
    }

    fn command(&self, name: &str) -> Command {
        command(&self.program, name, self.folder.path(), &self.data, self.port)
    }
}

/// A command that has to succeed.
trait Succeeds {
    async fn succeeds(&mut self) -> Fallible;
}

impl Succeeds for Command {
    async fn succeeds(&mut self) -> Fallible {
        let output = within("the end of a command", self.output()).await??;
        ensure(output.status.success(), || format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

/// `hearth NAME` with all settings.
fn command(program: &Path, name: &str, folder: &Path, data: &Path, port: u16) -> Command {
    let mut command = Command::new(program);
    command.arg(name).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    for setting in [
        format!("listeners=[{{ address = \"127.0.0.1:{port}\" }}]"),
        "server_name=hearth.test".to_owned(),
        format!("data_dir={}", data.display()),
        format!("registration.shared_secret={SHARED_SECRET}"),
        "rate_limits.enabled=false".to_owned(),
    ] {
        command.args(["--set", setting.as_str()]);
    }
    command
}

/// Starts the server, and answers once it serves.
async fn start(program: &Path, folder: &Path, data: &Path, port: u16) -> Fallible<Child> {
    let mut child = command(program, "serve", folder, data, port).stderr(Stdio::piped()).spawn()?;
    let stderr = child.stderr.take().ok_or("the log cannot be read")?;
    let (log, (serving, serves)) = (Arc::new(Mutex::new(VecDeque::new())), oneshot::channel());
    tokio::spawn(read_log(stderr, Arc::clone(&log), serving));
    if within("the start of the server", serves).await?.is_ok() {
        return Ok(child);
    }
    let lines: Vec<String> = log.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
    Err(format!("the server ended: {}", lines.join("\n")).into())
}

/// Reads the log to its end, and tells when the server serves.
async fn read_log(stderr: ChildStderr, log: Arc<Mutex<VecDeque<String>>>, serving: oneshot::Sender<()>) {
    let (mut lines, mut serving) = (BufReader::new(stderr).lines(), Some(serving));
    while let Ok(Some(line)) = lines.next_line().await {
        if line.contains(SERVES)
            && let Some(serving) = serving.take()
        {
            // Whoever started it may have lost its patience.
            let _ = serving.send(());
        }
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push_back(line);
        if log.len() > LOG_LINES_MAX {
            log.pop_front();
        }
    }
}

/// A port on loopback that nobody listens on now; programs that run at once look from different ones on.
fn free_port() -> Fallible<u16> {
    let first = PORTS.start + (std::process::id() % 10_000) as u16;
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    Ok((first..PORTS.end).find(free).ok_or("no port is free")?)
}
