//! Configuration: the only place that knows TOML and the environment.
//!
//! [`keys`] declares every key once; from it come the parser, the check for unknown keys, `hearth config reference` and
//! `hearth config show`. A value comes from, in rising order: the default, the file, the environment
//! (`HEARTH_SECTION__KEY`), the command line (`--set section.key=value`). A secret can also stand in a file of its own,
//! named by the same key with `_file` behind it.

pub mod calls;
pub mod email;
pub mod keys;
pub mod previews;
pub mod sources;
pub mod values;

use std::fmt::Write as _;
use std::path::PathBuf;

use endpoint::rate_limit::Rate;
use endpoint::{Network, RateClass, RateLimits};

use calls::Calls;
use email::Email;
use keys::{Key, Kind};
use previews::Previews;
use sources::{Given, Settings};

/// What can be wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key that does not exist.
    #[error("{from}: there is no key `{key}`{}", nearest.as_ref().map_or(String::new(), |n| format!("; did you mean `{n}`?")))]
    Unknown {
        /// The key.
        key: String,
        /// Where it stands.
        from: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A key with a value that it cannot have.
    #[error("{from}: `{key}` {wrong}")]
    Wrong {
        /// The key.
        key: String,
        /// Where the value stands.
        from: String,
        /// What is wrong.
        wrong: String,
    },
    /// A file that cannot be read, or is no TOML.
    #[error("{path}: {wrong}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        wrong: String,
    },
    /// A `--set` without `=`.
    #[error("`--set {0}` must have the form key=value")]
    Set(String),
}

/// Which database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// A file.
    Sqlite(PathBuf),
    /// A `postgres://` address.
    Postgres(String),
}

/// What is served on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// The client-server API without media.
    Client,
    /// The server-server API.
    Federation,
    /// Upload and download.
    Media,
    /// `/metrics`.
    Metrics,
    /// The admin API and the page for the first account.
    Admin,
    /// The identity service.
    Identity,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Client, Self::Federation, Self::Media, Self::Metrics, Self::Admin, Self::Identity];
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP socket.
    Tcp(std::net::SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Files with a certificate chain and its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub address: Address,
    /// TLS, or plain.
    pub tls: Option<Tls>,
    /// What it serves.
    pub resources: Vec<Resource>,
}

/// Who may make an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationMode {
    /// Nobody but administrators.
    Closed,
    /// Whoever has a token.
    Token,
    /// Everybody.
    Open,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object per line.
    Json,
}

/// The whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server's name, if it is given.
    pub server_name: Option<String>,
    /// Where database, keys and media lie.
    pub data_dir: PathBuf,
    /// The database.
    pub database: Database,
    /// Memory for the database's page cache, in bytes.
    pub database_cache_bytes: usize,
    /// The listeners.
    pub listeners: Vec<Listener>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// The address under which clients reach the server.
    pub public_base_url: Option<String>,
    /// E-mail address of the administrator.
    pub support_email: Option<String>,
    /// Matrix id of the administrator.
    pub support_matrix_id: Option<String>,
    /// Page for users who need help.
    pub support_page: Option<String>,
    /// The key of the policy server under this server's name.
    pub policy_server_key: Option<String>,
    /// Who may make an account.
    pub registration_mode: RegistrationMode,
    /// Whether guests may register.
    pub registration_guests: bool,
    /// The secret of `/_synapse/admin/v1/register`.
    pub registration_shared_secret: Option<String>,
    /// How e-mail is sent; none where it is not.
    pub email: Option<Email>,
    /// How long reports are kept, in milliseconds.
    pub reports_retention_ms: i64,
    /// The rate limits.
    pub rate_limits: RateLimits,
    /// Whether to speak with other servers.
    pub federation_enabled: bool,
    /// Where other servers reach this one, for `/.well-known/matrix/server`.
    pub delegated_to: Option<String>,
    /// The only servers to speak with; empty: all.
    pub federation_allow: Vec<String>,
    /// Servers not to speak with.
    pub federation_deny: Vec<String>,
    /// Further certificate authorities.
    pub federation_ca_files: Vec<PathBuf>,
    /// Private address ranges that may be connected to.
    pub federation_private_ranges: Vec<String>,
    /// Joined members from which on joining servers get a room without its members first.
    pub federation_members_omitted_from: u32,
    /// Whether certificates of other servers are checked.
    pub federation_verify_certificates: bool,
    /// The room version of new rooms.
    pub default_room_version: String,
    /// How long the original bytes of a redacted event are kept, in milliseconds.
    pub redaction_retention_ms: i64,
    /// How long an event may be delayed, in milliseconds.
    pub delay_ms_max: i64,
    /// Events that a user may have scheduled at once.
    pub delayed_max: u32,
    /// Bytes that an uploaded file may have.
    pub media_max_upload_bytes: u64,
    /// Days for which media of other servers is kept after its last use; 0: for ever.
    pub media_remote_days: u32,
    /// Most bytes of media of other servers; 0: no bound.
    pub media_remote_bytes_max: u64,
    /// The folder of media.
    pub media_dir: PathBuf,
    /// Previews of URLs.
    pub previews: Previews,
    /// Services for calls.
    pub calls: Calls,
    /// Whether notifications are pushed.
    pub push_enabled: bool,
    /// What the number on an app's icon counts.
    pub push_badge: push::Badge,
    /// Whether push gateways are told more of an event than its ids.
    pub push_include_content: bool,
    /// Whether push gateways are told that nothing is unread.
    pub push_zero_counts: bool,
    /// Private address ranges in which push gateways may be.
    pub push_private_ranges: Vec<String>,
    /// Further certificate authorities of push gateways.
    pub push_ca_files: Vec<PathBuf>,
    /// Whether push gateways may be reached without TLS.
    pub push_http_gateways: bool,
    /// What is logged.
    pub log_filter: String,
    /// How it is logged.
    pub log_format: LogFormat,
}

impl Config {
    /// Reads and checks the configuration. Also answers warnings, which are to be logged.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(given: &Given) -> Result<(Self, Vec<String>), Error> {
        let settings = Settings::gather(given)?;
        let config = Self::from_settings(&settings)?;
        Ok((config, settings.warnings))
    }

    /// The configuration of a test: defaults, and `key=value` pairs.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn of(pairs: &[&str]) -> Result<Self, Error> {
        let given = Given { set: pairs.iter().map(|pair| (*pair).to_owned()).collect(), ..Given::default() };
        Self::load(&given).map(|(config, _)| config)
    }

    fn from_settings(settings: &Settings) -> Result<Self, Error> {
        let data_dir = PathBuf::from(settings.text("data_dir")?);
        let registration_mode = match settings.text("registration.mode")?.as_str() {
            "closed" => RegistrationMode::Closed,
            "token" => RegistrationMode::Token,
            "open" => RegistrationMode::Open,
            _ => return Err(settings.wrong("registration.mode", "must be `closed`, `token` or `open`")),
        };
        let log_format = match settings.text("log.format")?.as_str() {
            "pretty" => LogFormat::Pretty,
            "json" => LogFormat::Json,
            _ => return Err(settings.wrong("log.format", "must be `pretty` or `json`")),
        };
        not_there_yet(settings)?;
        Ok(Self {
            server_name: server_name(settings)?,
            database: database(settings, &data_dir)?,
            database_cache_bytes: settings.size("database.cache_bytes")?,
            listeners: settings.listeners()?,
            trusted_proxies: settings.networks("trusted_proxies")?,
            public_base_url: settings.url("public_base_url")?,
            support_email: settings.optional_text("support.email")?,
            support_matrix_id: settings.optional_text("support.matrix_id")?,
            support_page: settings.url("support.page")?,
            policy_server_key: policy_server_key(settings)?,
            registration_mode,
            registration_guests: settings.boolean("registration.guests")?,
            registration_shared_secret: settings.optional_text("registration.shared_secret")?,
            email: Email::of(settings)?,
            rate_limits: rate_limits(settings)?,
            federation_enabled: settings.boolean("federation.enabled")?,
            delegated_to: delegated_to(settings)?,
            federation_allow: settings.texts("federation.allow")?,
            federation_deny: settings.texts("federation.deny")?,
            federation_ca_files: settings
                .texts("federation.trusted_ca_files")?
                .into_iter()
                .map(PathBuf::from)
                .collect(),
            federation_private_ranges: settings.texts("federation.allowed_private_ranges")?,
            federation_members_omitted_from: settings.whole("federation.members_omitted_from")?,
            federation_verify_certificates: settings.boolean("federation.verify_certificates")?,
            default_room_version: room_version(settings)?,
            reports_retention_ms: settings.milliseconds("reports.retention")?,
            redaction_retention_ms: settings.milliseconds("rooms.redaction_retention")?,
            delay_ms_max: settings.milliseconds("rooms.delay_max")?,
            delayed_max: settings.whole("rooms.delayed_events_max")?,
            media_max_upload_bytes: settings.size("media.max_upload_bytes")? as u64,
            media_remote_days: settings.whole("media.remote_days")?,
            media_remote_bytes_max: settings.size("media.remote_bytes_max")? as u64,
            media_dir: media_dir(settings, &data_dir)?,
            previews: Previews::of(settings)?,
            calls: Calls::of(settings)?,
            push_enabled: settings.boolean("push.enabled")?,
            push_badge: badge(settings)?,
            push_include_content: settings.boolean("push.include_content")?,
            push_zero_counts: settings.boolean("push.zero_counts")?,
            push_private_ranges: settings.texts("push.allowed_private_ranges")?,
            push_ca_files: settings.texts("push.trusted_ca_files")?.into_iter().map(PathBuf::from).collect(),
            push_http_gateways: settings.boolean("push.http_gateways")?,
            log_filter: log_filter(settings)?,
            log_format,
            data_dir,
        })
    }
}

fn server_name(settings: &Settings) -> Result<Option<String>, Error> {
    let name = settings.optional_text("server_name")?;
    match &name {
        Some(name) if !event::ids::is_server_name(name) => Err(settings.wrong(
            "server_name",
            "must be a host name or address with or without a port, such as `example.org` or `localhost:8448`",
        )),
        _ => Ok(name),
    }
}

/// What `/.well-known/matrix/server` says. Where nothing is configured, whoever serves clients under a public address is
/// taken to serve other servers there too: the certificate is that of the address, and port 8448 needs one of its own.
fn delegated_to(settings: &Settings) -> Result<Option<String>, Error> {
    const KEY: &str = "federation.delegated_to";
    match settings.optional_text(KEY)? {
        Some(none) if none == "none" => return Ok(None),
        Some(address) if event::ids::is_server_name(&address) => return Ok(Some(address)),
        Some(_) => return Err(settings.wrong(KEY, "must be a host or host:port, such as `matrix.example.org:443`")),
        None => {}
    }
    let Some(url) = settings.url("public_base_url")? else { return Ok(None) };
    let Some(rest) = url.strip_prefix("https://") else { return Ok(None) };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let left_out = settings.listeners()?.into_iter().any(|listener| {
        let here = matches!(listener.address, Address::Tcp(address) if address.port() == port.unwrap_or(443));
        here && !listener.resources.contains(&Resource::Federation)
    });
    // The port is named always: without one, other servers would look for SRV records and port 8448 of that host.
    let address = port.map_or_else(|| format!("{authority}:443"), |_| authority.to_owned());
    Ok((!left_out && event::ids::is_server_name(&address)).then_some(address))
}

fn database(settings: &Settings, data_dir: &std::path::Path) -> Result<Database, Error> {
    let url = settings.text("database.url")?;
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        let file = if path.is_empty() { data_dir.join("hearth.db") } else { PathBuf::from(path) };
        return Ok(Database::Sqlite(file));
    }
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok(Database::Postgres(url));
    }
    Err(settings.wrong("database.url", "must start with `sqlite:` or `postgres://`"))
}

fn log_filter(settings: &Settings) -> Result<String, Error> {
    let filter = settings.text("log.filter")?;
    match tracing_subscriber::EnvFilter::try_new(&filter) {
        Ok(_) => Ok(filter),
        Err(error) => Err(settings.wrong("log.filter", &format!("must be a level, or `level,crate=level,…`: {error}"))),
    }
}

/// Of the wrong form, rooms that name the key would trust nobody.
fn policy_server_key(settings: &Settings) -> Result<Option<String>, Error> {
    const KEY: &str = "policy_server.public_key";
    let key = settings.optional_text(KEY)?;
    match &key {
        Some(text) if event::VerifyKey::from_b64(text, 0, None).is_none() => {
            Err(settings.wrong(KEY, "must be an ed25519 key as unpadded base64"))
        }
        _ => Ok(key),
    }
}

fn badge(settings: &Settings) -> Result<push::Badge, Error> {
    match settings.text("push.badge")?.as_str() {
        "rooms" => Ok(push::Badge::Rooms),
        "messages" => Ok(push::Badge::Messages),
        _ => Err(settings.wrong("push.badge", "must be `rooms` or `messages`")),
    }
}

fn room_version(settings: &Settings) -> Result<String, Error> {
    let version = settings.text("rooms.default_version")?;
    if event::SUPPORTED_VERSIONS.contains(&version.as_str()) {
        return Ok(version);
    }
    let known = event::SUPPORTED_VERSIONS.join(", ");
    Err(settings.wrong("rooms.default_version", &format!("must be one of {known}")))
}

fn media_dir(settings: &Settings, data_dir: &std::path::Path) -> Result<PathBuf, Error> {
    let place = settings.text("media.store")?;
    match place.strip_prefix("file:") {
        Some("") => Ok(data_dir.join("media")),
        Some(path) => Ok(PathBuf::from(path)),
        None => Err(settings.wrong("media.store", "must be `file:` or `file:PATH`; other stores are not there yet")),
    }
}

fn rate_limits(settings: &Settings) -> Result<RateLimits, Error> {
    let mut limits = RateLimits { enabled: settings.boolean("rate_limits.enabled")?, ..RateLimits::default() };
    for class in RateClass::ALL {
        let number = |member: &str| settings.positive(&format!("rate_limits.{}.{member}", class.name()));
        limits.rates.insert(class, Rate { per_second: number("per_second")?, burst: number("burst")? });
    }
    Ok(limits)
}

/// Refuses what would silently not happen.
fn not_there_yet(settings: &Settings) -> Result<(), Error> {
    if !settings.texts("appservices.files")?.is_empty() {
        return Err(settings.wrong("appservices.files", "must be empty: application services are not there yet"));
    }
    Ok(())
}

/// The reference: every key with its meaning and default, as a file that can be edited.
pub fn reference() -> String {
    let mut text = String::from(
        "# Every key, with its default. A key can also be given as environment variable (HEARTH_SECTION__KEY)\n\
         # or on the command line (--set section.key=value); a secret also as KEY_file, which names a file.\n",
    );
    let mut section = String::new();
    for key in keys::all() {
        let (found, name) = key.name.rsplit_once('.').unwrap_or(("", &key.name));
        if found != section {
            section = found.to_owned();
            let _ = write!(text, "\n[{section}]\n");
        }
        let _ = write!(text, "\n{}", key.comment());
        let _ = match key.default.as_str() {
            "" => writeln!(text, "# {name} = {}", key.example()),
            default => writeln!(text, "{name} = {default}"),
        };
    }
    text
}

/// Every key with its value and where that comes from. Secrets are not shown.
///
/// # Errors
/// As [`Config::load`].
pub fn show(given: &Given) -> Result<String, Error> {
    let settings = Settings::gather(given)?;
    Config::from_settings(&settings)?;
    let mut text = String::new();
    for key in keys::all() {
        let (value, from) = settings.shown(&key);
        let _ = writeln!(text, "{} = {value}  # {from}", key.name);
    }
    Ok(text)
}

impl Key {
    /// Meaning and kind, as lines of comment.
    fn comment(&self) -> String {
        self.meaning.lines().map(|line| format!("# {line}\n")).collect()
    }

    /// A value for a key that has no default.
    fn example(&self) -> &'static str {
        match self.kind {
            Kind::Text | Kind::Secret => "\"…\"",
            Kind::Boolean => "true",
            Kind::Size | Kind::Number => "1",
            Kind::Time => "\"7 days\"",
            Kind::Texts | Kind::Listeners => "[]",
        }
    }
}
