//! The process that is all other servers, and what it is told.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::Error;
use crate::bench::server::Tls;
use crate::bench::world::text;

/// The running process; it ends with its standard input.
#[derive(Debug)]
pub struct Resident {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    folder: PathBuf,
}

impl Resident {
    /// Starts it, as this many servers.
    pub fn start(program: &Path, folder: &Path, servers: usize) -> Result<Self, Error> {
        std::fs::create_dir_all(folder).map_err(|source| Error::File { path: folder.to_path_buf(), source })?;
        let start = |source| Error::Start { program: program.display().to_string(), source };
        let mut child = Command::new(program)
            .arg(folder)
            .arg(servers.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(start)?;
        let commands = child.stdin.take();
        let answers = child.stdout.take().ok_or_else(|| start(std::io::Error::other("no output")))?;
        let mut resident = Self { child, commands, answers: BufReader::new(answers), folder: folder.to_path_buf() };
        let ready = resident.answer();
        ready.map_err(|message| Error::Failed { program: program.display().to_string(), message })?;
        Ok(resident)
    }

    /// What a server needs to speak with it.
    pub fn tls(&self) -> Tls {
        let file = |name: &str| self.folder.join(name);
        Tls { authority: file("ca.pem"), certificate: file("tls.pem"), key: file("tls.key") }
    }

    /// Makes a room; answers its id and a server to join through.
    pub fn room(&mut self, members: usize) -> Result<(String, String), String> {
        let made = self.command(&format!("room {members}"))?;
        Ok((text(&made, "room_id")?, text(&made, "via")?))
    }

    /// Gives a command and answers what it answers.
    pub fn command(&mut self, command: &str) -> Result<Value, String> {
        let commands = self.commands.as_mut().ok_or("no input")?;
        writeln!(commands, "{command}").map_err(|error| error.to_string())?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_str(&line).map_err(|_| "the resident has ended".to_owned())?;
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Err(error) = self.child.wait() {
            println!("bench: the resident does not end: {error}");
        }
    }
}
