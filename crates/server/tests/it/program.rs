//! One `hearth` process on a folder and a port of its own, and a small HTTP client.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// How long a start may take: an end for what hangs, not a measure of the machine.
const START: Duration = Duration::from_secs(300);

/// A running process; killed when dropped.
pub struct Program {
    child: Child,
    lines: Receiver<String>,
    /// The address it printed.
    pub url: String,
    /// What it printed until it listened.
    pub printed: String,
}

/// A command of the program on `folder`.
pub fn hearth(folder: &Path, arguments: &[&str], settings: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
    command.current_dir(folder).env_clear().args(arguments);
    let data_dir = format!("data_dir={}", folder.join("data").display());
    for setting in [data_dir.as_str()].iter().chain(settings) {
        command.args(["--set", setting]);
    }
    command
}

/// Runs a command to its end.
pub fn run(folder: &Path, arguments: &[&str], settings: &[&str]) -> (i32, String) {
    shown(hearth(folder, arguments, settings).output().unwrap())
}

/// Runs a command with something on its standard input.
pub fn run_with_input(folder: &Path, arguments: &[&str], settings: &[&str], input: &str) -> (i32, String) {
    let mut command = hearth(folder, arguments, settings);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    shown(child.wait_with_output().unwrap())
}

fn shown(output: Output) -> (i32, String) {
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(text).unwrap())
}

impl Program {
    /// Starts the server on a free port and waits until it listens.
    pub fn start(folder: &Path, settings: &[&str]) -> Self {
        let listeners = "listeners=[{ address = \"127.0.0.1:0\" }]";
        Self::start_with(folder, &[&[listeners], settings].concat())
    }

    /// Starts the server with exactly these settings.
    #[expect(clippy::zombie_processes, reason = "a test that panics here ends its process soon after")]
    pub fn start_with(folder: &Path, settings: &[&str]) -> Self {
        let mut child = hearth(folder, &["serve"], settings).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut printed = String::new();
        loop {
            let line = lines.recv_timeout(START).unwrap_or_else(|_| panic!("it does not listen:\n{printed}"));
            printed.push_str(&line);
            printed.push('\n');
            if let Some((_, url)) = line.split_once("listening on ") {
                let url = url.split_whitespace().next().unwrap().to_owned();
                return Self { child, lines, url, printed };
            }
        }
    }

    /// The link to the page for the first account.
    pub fn first_account_link(&self) -> Option<&str> {
        self.printed.split_whitespace().find(|word| word.contains("/_hearth/first-account?token="))
    }

    /// Asks the process to end, and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap()
    }

    /// Ends the process as a power failure would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// All that was printed after it listened. Call it once the process has ended.
    pub fn rest(&self) -> String {
        self.lines.iter().collect::<Vec<_>>().join("\n")
    }

    /// `GET`s a path as JSON.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        let response = ask(Method::GET, &format!("{}{path}", self.url), "").await;
        let status = response.status().as_u16();
        (status, serde_json::from_str(response.body()).unwrap_or(Value::Null))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One request.
pub async fn ask(method: Method, url: &str, body: &str) -> Response<String> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::builder().method(method).uri(url).body(Full::<bytes::Bytes>::from(body.to_owned())).unwrap();
    let (head, body) = client.request(request).await.unwrap().into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Response::from_parts(head, String::from_utf8(bytes.to_vec()).unwrap())
}
