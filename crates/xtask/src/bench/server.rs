//! The servers that are measured: started on loopback with a new folder, without rate limits.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::http::Connection;
use super::process;
use crate::postgres::Postgres;
use crate::{Error, run};

/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(180);

/// How long a stop may take.
const STOP_MAX: Duration = Duration::from_secs(60);

/// What a server needs that speaks with others on loopback: files of a private certificate authority, and what it
/// vouches for.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// A certificate for `localhost`.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// How the table names it.
    pub name: String,
    /// Its port on loopback.
    pub port: u16,
    /// The port at which other servers reach it over TLS, if they do: its server name is `localhost` with this port.
    pub federation_port: Option<u16>,
    program: PathBuf,
    args: Vec<String>,
    folder: PathBuf,
    child: Child,
    /// The database server's process, which is part of the cost.
    database: Option<u32>,
}

impl Server {
    /// Starts Hearth on SQLite, or on a new database of `postgres`; with `tls`, as one that speaks with others.
    pub fn hearth(
        program: &Path,
        folder: &Path,
        postgres: Option<&Postgres>,
        tls: Option<&Tls>,
    ) -> Result<Self, Error> {
        let port = new_folder(folder)?;
        let federation_port = tls.map(|_| crate::postgres::free_port()).transpose()?;
        let mut settings = vec![
            format!("data_dir={}", folder.join("data").display()),
            "registration.mode=open".to_owned(),
            "rate_limits.enabled=false".to_owned(),
            "log.filter=warn".to_owned(),
        ];
        match tls.zip(federation_port) {
            None => settings.extend([
                "server_name=bench.test".to_owned(),
                format!("listeners=[{{ address = \"127.0.0.1:{port}\" }}]"),
            ]),
            Some((tls, other)) => settings.extend(hearth_federates(tls, port, other)),
        }
        if let Some(postgres) = postgres {
            settings.push(format!("database.url={}", postgres.create_database("bench")?));
        }
        let mut args = vec!["serve".to_owned()];
        args.extend(settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]));
        let name = if postgres.is_some() { "Hearth, PostgreSQL" } else { "Hearth, SQLite" };
        Self::start(name, program, args, folder, (port, federation_port), postgres.map(Postgres::pid))
    }

    /// Starts Synapse from the environment at `environment`, on SQLite; with `tls`, as one that speaks with others.
    pub fn synapse(environment: &Path, folder: &Path, tls: Option<&Tls>) -> Result<Self, Error> {
        let port = new_folder(folder)?;
        let federation_port = tls.map(|_| crate::postgres::free_port()).transpose()?;
        let config = folder.join("homeserver.yaml");
        let text = synapse_config(folder, port, tls.zip(federation_port));
        std::fs::write(&config, text).map_err(|source| Error::File { path: config.clone(), source })?;
        let python = environment.join("bin/python");
        let config = config.to_string_lossy().into_owned();
        let args = ["-m", "synapse.app.homeserver", "-c", &config];
        run::output(&python.to_string_lossy(), &[&args[..], &["--generate-keys"]].concat(), folder)?;
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self::start("Synapse, SQLite", &python, args, folder, (port, federation_port), None)
    }

    fn start(
        name: &str,
        program: &Path,
        args: Vec<String>,
        folder: &Path,
        (port, federation_port): (u16, Option<u16>),
        database: Option<u32>,
    ) -> Result<Self, Error> {
        let child = spawn(program, &args, folder)?;
        let (program, folder) = (program.to_path_buf(), folder.to_path_buf());
        let mut server = Self { name: name.to_owned(), port, federation_port, program, args, folder, child, database };
        server.wait()?;
        Ok(server)
    }

    /// Waits until the server answers.
    fn wait(&mut self) -> Result<(), Error> {
        let started = Instant::now();
        while started.elapsed() < START_MAX && !self.child.try_wait().is_ok_and(|status| status.is_some()) {
            let answer = Connection::new(self.port).request("GET", "/_matrix/client/versions", "", "");
            if answer.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        Err(Error::Failed { program: self.name.clone(), message: log })
    }

    /// Stops the server and starts it on the same folder; answers the milliseconds until it served.
    pub fn restart(&mut self) -> Result<f64, Error> {
        self.stop();
        let started = Instant::now();
        self.child = spawn(&self.program, &self.args, &self.folder)?;
        self.wait()?;
        Ok(started.elapsed().as_secs_f64() * 1e3)
    }

    /// CPU seconds so far, the database's included.
    pub fn cpu_seconds(&self) -> f64 {
        process::cpu_seconds(&self.roots())
    }

    /// An exact clock of the CPU time from now on, the database's included.
    pub fn watch(&self) -> process::Watch {
        process::Watch::new(&self.roots())
    }

    /// Proportional set size in MiB, the database's included.
    pub fn memory_mib(&self) -> f64 {
        process::memory_mib(&self.roots())
    }

    /// The most memory in MiB so far, the database's included.
    pub fn peak_mib(&self) -> f64 {
        process::peak_mib(&self.roots())
    }

    /// Lets [`Server::peak_mib`] begin anew.
    pub fn forget_peak(&self) {
        process::forget_peak(&self.roots());
    }

    fn roots(&self) -> Vec<u32> {
        std::iter::once(self.child.id()).chain(self.database).collect()
    }

    fn stop(&mut self) {
        let asked = run::signal("TERM", self.child.id());
        let started = Instant::now();
        while asked.is_ok() && started.elapsed() < STOP_MAX {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if self.child.kill().and_then(|()| self.child.wait().map(|_| ())).is_err() {
            println!("bench: {} does not stop", self.name);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if let Err(source) = std::fs::remove_dir_all(&self.folder) {
            println!("bench: {} stays: {source}", self.folder.display());
        }
    }
}

fn spawn(program: &Path, args: &[String], folder: &Path) -> Result<Child, Error> {
    let path = folder.join("log");
    let log = File::create(&path).map_err(|source| Error::File { path, source })?;
    Command::new(program)
        .args(args)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|source| Error::Start { program: program.display().to_string(), source })
}

/// Makes an empty folder, and finds a port for its server.
fn new_folder(folder: &Path) -> Result<u16, Error> {
    let wrong = |source| Error::File { path: folder.to_path_buf(), source };
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(wrong)?;
    }
    std::fs::create_dir_all(folder).map_err(wrong)?;
    crate::postgres::free_port()
}

/// The settings of a Hearth that speaks with other servers on loopback.
fn hearth_federates(tls: &Tls, port: u16, federation_port: u16) -> [String; 4] {
    let Tls { authority, certificate, key } = tls;
    let tls = format!("tls = {{ certificate = \"{}\", key = \"{}\" }}", certificate.display(), key.display());
    [
        format!("server_name=localhost:{federation_port}"),
        format!(
            "listeners=[{{ address = \"127.0.0.1:{port}\" }}, {{ address = \"127.0.0.1:{federation_port}\", {tls}, \
             resources = [\"federation\"] }}]"
        ),
        format!("federation.trusted_ca_files=[\"{}\"]", authority.display()),
        "federation.allowed_private_ranges=[\"127.0.0.0/8\"]".to_owned(),
    ]
}

/// Synapse as it is set up for one machine, but for rate limits, and with a cheap password hash: no
/// password is part of what is measured.
fn synapse_config(folder: &Path, port: u16, tls: Option<(&Tls, u16)>) -> String {
    let folder = folder.display();
    let free = "{per_second: 100000, burst_count: 100000}";
    let (name, listener, federation) = match tls {
        None => ("bench.test".to_owned(), String::new(), String::new()),
        Some((tls, federation_port)) => (
            format!("localhost:{federation_port}"),
            format!(
                "  - {{port: {federation_port}, bind_addresses: ['127.0.0.1'], type: http, tls: true, \
                 resources: [{{names: [federation], compress: false}}]}}\n"
            ),
            synapse_federates(tls),
        ),
    };
    format!(
        r#"server_name: "{name}"
public_baseurl: "http://127.0.0.1:{port}/"
pid_file: {folder}/pid
signing_key_path: {folder}/signing.key
media_store_path: {folder}/media
report_stats: false
listeners:
  - {{port: {port}, bind_addresses: ['127.0.0.1'], type: http, tls: false, resources: [{{names: [client], compress: false}}]}}
{listener}database: {{name: sqlite3, args: {{database: {folder}/hs.db}}}}
enable_registration: true
enable_registration_without_verification: true
macaroon_secret_key: bench
form_secret: bench
bcrypt_rounds: 4
trusted_key_servers: []
suppress_key_server_warning: true
max_upload_size: 50M
rc_message: {free}
rc_registration: {free}
rc_login: {{address: {free}, account: {free}, failed_attempts: {free}}}
rc_joins: {{local: {free}, remote: {free}}}
rc_joins_per_room: {free}
rc_invites: {{per_room: {free}, per_user: {free}, per_issuer: {free}}}
rc_room_creation: {free}
rc_key_requests: {free}
{federation}"#
    )
}

/// What Synapse needs on top to speak with other servers on loopback, without limits on what they send.
fn synapse_federates(tls: &Tls) -> String {
    let Tls { authority, certificate, key } = tls;
    let (authority, certificate, key) = (authority.display(), certificate.display(), key.display());
    format!(
        r"tls_certificate_path: {certificate}
tls_private_key_path: {key}
federation_verify_certificates: true
federation_custom_ca_list: [{authority}]
ip_range_blacklist: []
rc_federation: {{window_size: 1000, sleep_limit: 100000, sleep_delay: 1, reject_limit: 100000, concurrent: 100}}
"
    )
}
