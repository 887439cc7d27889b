//! The whole system on one page: which room is built from which, in order.

mod signing_key;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use ::federation::client::Client;
use ::federation::content_repository::RemoteMedia;
use ::federation::policy::PolicyClient;
use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use client_api::SupportContact;
use endpoint::Door;
use media::Media;
use push::Push;
use rooms::Rooms;
use search::Search;
use store::tables::rooms::RoomRow;
use store::tables::users::AccountRow;
use store::{Clock, Read, Store, UserId};
use sync::Sync;
use users::Users;

use crate::config::{Config, Database, RegistrationMode};
use crate::first_account::{self, FirstAccount, Rename};
use crate::metrics::{self, Metrics};
use crate::nodes::Nodes;
use crate::notify::PushRules;
use crate::sessions::Accounts;
use crate::world::World;
use crate::{draining, federation, gateways, health, keys, mailer, neighbors, previews, readers, resources};

pub use signing_key::{accept_key, rotate_key};

/// How often, and how long after one another, it is looked whether others use a PostgreSQL database.
const LOOKS_FOR_OTHERS: usize = 20;
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(150);

/// The fact of the database under which the server's name stands.
const SERVER_NAME: &str = "server_name";

/// The name of a server that nobody has named yet.
const UNNAMED: &str = "localhost";

/// Why the system cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be opened or does not answer.
    #[error("{0}")]
    Store(#[from] store::Error),
    /// A fact cannot be written.
    #[error("{0}")]
    Commit(#[from] store::CommitError),
    /// The accounts cannot be read.
    #[error("{0}")]
    Users(#[from] users::Error),
    /// There is no signing key.
    #[error("{0}")]
    Key(#[from] keys::Error),
    /// The file holds another key than the one with which the server of this database signs.
    #[error(
        "the database belongs to a server that signs with `{known}`, and {path} holds `{own}`: put the right \
         `signing.key` there, from a backup or from another node of the same database. If it is lost for good, \
         `hearth key accept` goes on with the key of this file"
    )]
    OtherKey {
        /// The file.
        path: String,
        /// The key in the database.
        known: String,
        /// The key of the file.
        own: String,
    },
    /// The key is gone.
    #[error(
        "{path} is missing, and the database belongs to a server that signs with {known}: put the file back, from a \
         backup or from another node of the same database. If it is lost for good, `hearth key new` makes another one; \
         other servers may then doubt what was signed with the old one"
    )]
    LostKey {
        /// The file.
        path: String,
        /// The key in the database.
        known: String,
    },
    /// Federation cannot be set up.
    #[error("federation: {0}")]
    Federation(String),
    /// Mail cannot be set up.
    #[error("email: {0}")]
    Email(String),
    /// Pushers cannot be set up.
    #[error("push: {0}")]
    Push(String),
    /// Previews of URLs cannot be set up.
    #[error("url_previews: {0}")]
    Previews(String),
    /// The media folder cannot be used.
    #[error("media: {0}")]
    Media(#[from] media::Error),
    /// The data folder cannot be made.
    #[error("{path}: {error}")]
    DataDir {
        /// The folder.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// There is no server in the data folder, and the command is not one that may begin one.
    #[error(
        "there is no {missing}, so there is no server to work on, and nothing was made. Is `data_dir` ({data_dir}) the \
         right folder? A relative one counts from the working directory. A new server begins with `hearth serve` or \
         `hearth user create`"
    )]
    NoServer {
        /// The folder or database file that is missing.
        missing: String,
        /// The data folder.
        data_dir: String,
    },
    /// The database belongs to a server of another name.
    #[error(
        "the database belongs to the server `{stored}` and has users, so `server_name` cannot become `{configured}`: \
         set it to `{stored}`, or start with another `data_dir` and database"
    )]
    OtherName {
        /// The name in the database.
        stored: String,
        /// The name in the configuration.
        configured: String,
    },
}

/// An opened database.
#[derive(Clone)]
pub struct Opened {
    /// The store on it.
    pub store: Store,
    /// SQLite itself, for backups.
    pub sqlite: Option<Arc<sqlite::Sqlite>>,
    /// PostgreSQL itself, for the same.
    pub postgres: Option<Arc<postgres::Postgres>>,
}

impl From<Store> for Opened {
    fn from(store: Store) -> Self {
        Self { store, sqlite: None, postgres: None }
    }
}

/// A system that can serve.
pub struct Running {
    /// All routes, with the layers that every answer passes.
    pub router: Router,
    /// The configuration it was built from.
    pub config: Config,
    /// The store.
    pub store: Store,
    /// SQLite itself, for backups.
    pub sqlite: Option<Arc<sqlite::Sqlite>>,
    /// PostgreSQL itself, for the same.
    pub postgres: Option<Arc<postgres::Postgres>>,
    /// The server's name.
    pub server_name: String,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Accounts.
    pub users: Arc<Users>,
    /// The room engine.
    pub rooms: Arc<Rooms>,
    /// What the handlers of the client-server API are given.
    pub api: client_api::State,
    /// Waiting syncs.
    pub sync: Arc<Sync>,
    /// The media store.
    pub media: Media,
    /// The nodes of the database.
    pub nodes: Arc<Nodes>,
    /// Other servers; none where this server does not federate.
    pub remote: Option<Arc<::federation::Remote>>,
    /// The search index.
    pub search: Arc<Search>,
    /// Pushers; none where they are switched off.
    pub push: Option<Arc<Push>>,
}

/// Opens the store and builds the system on it.
///
/// # Errors
/// As [`Error`] says.
pub async fn build(config: &Config, world: &World) -> Result<Running, Error> {
    make_data_dir(config)?;
    let opened = open_store(config, None).await?;
    build_on(opened, config, world, None).await
}

/// Builds the system on an opened store. `rename` is how the first-account page may name the server.
///
/// # Errors
/// As [`Error`] says.
// Long: one room on the other, from the bottom up.
pub async fn build_on(
    opened: Opened,
    config: &Config,
    world: &World,
    rename: Option<Arc<dyn Rename>>,
) -> Result<Running, Error> {
    let Opened { store, sqlite, postgres } = opened;
    let (clock, entropy) = (Arc::clone(&world.clock), Arc::clone(&world.entropy));
    let server_name = decide_server_name(&store, config.server_name.as_deref()).await?;
    readers::after_restore(&store).await?;
    let signing_key = Arc::new(signing_key::of(&store, &config.data_dir, entropy.as_ref(), sqlite.is_none()).await?);
    let metrics = Arc::new(Metrics::default());
    store.notifier().add_follower(Arc::clone(&metrics) as _);

    // From the bottom up; the order of followers matters to the rooms, see there.
    let client = federation::client_if_enabled(config, world, &server_name, &signing_key)?;
    let users = users_of(&store, config, world, &server_name).await?;
    let rooms = Rooms::new(
        store.clone(),
        Arc::clone(&clock),
        Arc::clone(&entropy),
        Arc::clone(&signing_key),
        Arc::new(PushRules(Arc::clone(&users))),
        room_options(config, world, &server_name, client.clone()),
    );
    let media = media_of(&store, config, world, &server_name, client.clone()).await?;
    let nodes = Nodes::new(users.volatile().position().epoch.to_string(), &store, &clock);
    let base = federation::Base {
        config,
        world,
        store: &store,
        users: &users,
        rooms: &rooms,
        media: &media,
        nodes: &nodes,
        key: &signing_key,
        server_name: &server_name,
    };
    let remote = federation::build_if_enabled(base, client).await?;
    let sync = Sync::new(store.clone(), Arc::clone(&rooms), Arc::clone(&users));
    let push = gateways::build_if_enabled(config, world, &store, (&users, &rooms), &nodes)?;
    let search = Search::new(
        store.clone(),
        Arc::clone(&rooms),
        Arc::clone(&clock),
        Arc::clone(&nodes) as Arc<dyn store::shards::Nodes>,
    );
    neighbors::begin(&users, &store, &clock);

    let sessions = Arc::new(Accounts(Arc::clone(&users)));
    let door = Arc::new(Door::new(sessions, Arc::clone(&clock), door_options(config)));
    let api = client_api::State {
        store: store.clone(),
        users: Arc::clone(&users),
        rooms: Arc::clone(&rooms),
        sync: Arc::clone(&sync),
        search: Arc::clone(&search),
        clock: Arc::clone(&clock),
        media: media.clone(),
        previews: previews::build_if_enabled(config, &media)?,
        door: Arc::clone(&door),
        remote: remote.clone(),
        options: Arc::new(api_options(config, &server_name)),
    };
    let page = FirstAccount {
        users: Arc::clone(&users),
        door,
        rename: rename.filter(|_| config.server_name.is_none()),
        public_base_url: config.public_base_url.clone(),
    };
    let others = match &remote {
        Some(remote) => remote.federation.router(),
        None => ::federation::inbound::router_alone(Arc::clone(&users), config.delegated_to.clone()),
    };
    let routes = client_api::router(api.clone())
        .merge(others)
        .merge(first_account::routes(page))
        .merge(health::routes(store.clone()))
        .merge(metrics::routes(
            Arc::clone(&metrics),
            Arc::clone(&sync),
            Arc::clone(&rooms),
            Arc::clone(&users),
            push.clone(),
        ));
    let router = layered(routes, metrics);
    let config = config.clone();
    Ok(Running {
        router,
        config,
        store,
        sqlite,
        postgres,
        server_name,
        clock,
        users,
        rooms,
        api,
        sync,
        media,
        nodes,
        remote,
        search,
        push,
    })
}

fn layered(routes: Router, metrics: Arc<Metrics>) -> Router {
    let served = endpoint::layers::with_fallbacks(routes)
        .layer(from_fn(draining::end_waiting))
        .layer(from_fn(resources::only_served))
        .layer(from_fn_with_state(metrics, metrics::count));
    endpoint::layers::wrap(served)
}

impl Running {
    /// Deactivates an account and takes it out of all its rooms (behaviour CA8).
    ///
    /// # Errors
    /// What went wrong, in words for the administrator.
    pub async fn deactivate(&self, user: &UserId, erase: bool) -> Result<(), String> {
        self.users.deactivate(user, erase).await.map_err(|error| error.to_string())?;
        let left = client_api::account::jobs::leave_rooms(&self.users, &self.rooms, user).await;
        left.map_err(|error| format!("the account is deactivated, but could not leave its rooms yet: {error:?}"))
    }
}

async fn users_of(store: &Store, config: &Config, world: &World, server_name: &str) -> Result<Arc<Users>, Error> {
    let registration = match config.registration_mode {
        RegistrationMode::Closed => users::RegistrationMode::Closed,
        RegistrationMode::Token => users::RegistrationMode::Token,
        RegistrationMode::Open => users::RegistrationMode::Open,
    };
    let guests = config.registration_guests;
    let shared_secret = config.registration_shared_secret.clone();
    let turn = config.calls.turn.clone();
    let email = email_of(config, world)?;
    let options = users::Options {
        registration,
        guests,
        shared_secret,
        turn,
        email,
        reports_kept_ms: config.reports_retention_ms,
        ..users::Options::new(server_name)
    };
    let (clock, entropy) = (Arc::clone(&world.clock), Arc::clone(&world.entropy));
    Ok(Users::new(store.clone(), clock, entropy, world.password_threads(), options).await?)
}

fn email_of(config: &Config, world: &World) -> Result<Option<users::email::Options>, Error> {
    let Some(email) = &config.email else { return Ok(None) };
    let mailer = match &world.mailer {
        Some(mailer) => Arc::clone(mailer),
        None => mailer::of(&email.server).map_err(Error::Email)?,
    };
    Ok(Some(users::email::Options {
        next_link_hosts: email.next_link_hosts.clone(),
        reveal_addresses: email.reveal_addresses,
        at_registration: email.at_registration,
        allowed_domains: email.allowed_domains.clone(),
        denied_domains: email.denied_domains.clone(),
        ..users::email::Options::new(mailer, &email.base_url)
    }))
}

fn room_options(config: &Config, world: &World, server_name: &str, client: Option<Client>) -> rooms::Options {
    let policy = client.map(|client| Arc::new(PolicyClient::new(client, Arc::clone(&world.clock))) as _);
    rooms::Options {
        default_version: config.default_room_version.clone(),
        redaction_retention_ms: config.redaction_retention_ms,
        delay_ms_max: config.delay_ms_max,
        delayed_max: config.delayed_max,
        policy_servers: policy,
        ..rooms::Options::new(server_name)
    }
}

async fn media_of(
    store: &Store,
    config: &Config,
    world: &World,
    server_name: &str,
    client: Option<Client>,
) -> Result<Media, Error> {
    let options = media::Options::new(server_name, &config.media_dir);
    let options = media::Options { upload_bytes_max: config.media_max_upload_bytes, ..options };
    let (clock, entropy) = (Arc::clone(&world.clock), Arc::clone(&world.entropy));
    let remote = client.map(|client| Arc::new(RemoteMedia::new(client)) as Arc<dyn media::Remote>);
    Ok(Media::open(options, store.clone(), clock, entropy, world.media_threads(), remote).await?)
}

/// Makes the data folder, for its owner alone.
///
/// # Errors
/// If it cannot be made.
pub fn make_data_dir(config: &Config) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.data_dir);
    made.map_err(|error| Error::DataDir { path: config.data_dir.display().to_string(), error })
}

/// Fails unless the data folder is there, and in it or elsewhere the database file: who mistypes `data_dir` must not get
/// a new, empty server, of which a backup would look like a good one. Touches nothing.
///
/// # Errors
/// [`Error::NoServer`]; [`Error::DataDir`] if one of them cannot be looked at.
pub fn require_server(config: &Config) -> Result<(), Error> {
    let shown = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    let database = match &config.database {
        Database::Sqlite(path) => Some(path.as_path()),
        Database::Postgres(_) => None,
    };
    for path in std::iter::once(config.data_dir.as_path()).chain(database) {
        match std::fs::metadata(path) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NoServer { missing: shown(path), data_dir: shown(&config.data_dir) });
            }
            Err(error) => return Err(Error::DataDir { path: shown(path), error }),
        }
    }
    Ok(())
}

/// Opens the database that the configuration names. `on_fatal` is called when it can no longer be written.
///
/// # Errors
/// [`store::Error`] with what to do.
pub async fn open_store(config: &Config, on_fatal: Option<sqlite::OnFatal>) -> Result<Opened, Error> {
    match &config.database {
        Database::Sqlite(path) => {
            let options = sqlite::Options { cache_bytes: config.database_cache_bytes, on_fatal, ..Default::default() };
            let sqlite = Arc::new(sqlite::Sqlite::open(path, options)?);
            keep_private(path);
            let store = Store::new(Arc::clone(&sqlite) as _).await?;
            Ok(Opened { store, sqlite: Some(sqlite), postgres: None })
        }
        Database::Postgres(url) => {
            let postgres = Arc::new(postgres::Postgres::open(url, postgres::Options::default()).await?);
            let store = Store::new(Arc::clone(&postgres) as _).await?;
            Ok(Opened { store, sqlite: None, postgres: Some(postgres) })
        }
    }
}

/// Refuses if a server is working on a PostgreSQL database; one on SQLite has the file to itself anyway.
///
/// # Errors
/// As the store says, among others that it is in use.
pub async fn refuse_while_served(config: &Config) -> Result<(), Error> {
    let Database::Postgres(url) = &config.database else { return Ok(()) };
    let mut others = 0;
    for _ in 0..LOOKS_FOR_OTHERS {
        others = postgres::Postgres::connections_of_others(url).await?;
        if others == 0 {
            return Ok(());
        }
        // PostgreSQL notices some moments later that a process has ended.
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Err(Error::Store(store::Error::Unusable(format!(
        "another process is using the database (Hearth has {others} connections to it): stop all nodes first"
    ))))
}

/// Takes the database's files from others than their owner: the folder may be open to all.
fn keep_private(database: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut path = database.as_os_str().to_owned();
        path.push(suffix);
        match std::fs::set_permissions(&path, Permissions::from_mode(0o600)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %path.display(), "others may be able to read the database");
            }
            _ => {}
        }
    }
}

/// Whether any account exists: from then on the server's name is fixed.
///
/// # Errors
/// As the store says.
pub async fn has_accounts(store: &Store) -> Result<bool, store::Error> {
    Ok(store.one::<AccountRow>(Read::prefix::<AccountRow>(Vec::new())).await?.is_some())
}

/// Whether any room exists.
async fn has_rooms(store: &Store) -> Result<bool, store::Error> {
    Ok(store.one::<RoomRow>(Read::prefix::<RoomRow>(Vec::new())).await?.is_some())
}

/// The configured name, or the stored one, or the name of the unnamed.
async fn decide_server_name(store: &Store, configured: Option<&str>) -> Result<String, Error> {
    let stored = store.meta(SERVER_NAME).await?;
    let name = configured.map(str::to_owned).or_else(|| stored.clone()).unwrap_or_else(|| UNNAMED.to_owned());
    match stored {
        Some(stored) if stored == name => return Ok(name),
        Some(stored) if has_accounts(store).await? => return Err(Error::OtherName { stored, configured: name }),
        _ => {}
    }
    store.set_meta(SERVER_NAME, &name).await?;
    Ok(name)
}

/// Gives a server without users its name.
///
/// # Errors
/// [`Error::OtherName`] if there are users already; else as the store says.
pub async fn name_server(store: &Store, server_name: &str) -> Result<(), Error> {
    decide_server_name(store, Some(server_name)).await.map(drop)
}

fn door_options(config: &Config) -> endpoint::Options {
    endpoint::Options {
        trusted_proxies: config.trusted_proxies.clone(),
        rate_limits: config.rate_limits.clone(),
        ..endpoint::Options::default()
    }
}

fn api_options(config: &Config, server_name: &str) -> client_api::Options {
    let (matrix_id, email_address) = (config.support_matrix_id.clone(), config.support_email.clone());
    let named = matrix_id.is_some() || email_address.is_some();
    let contact = SupportContact { matrix_id, email_address, role: "m.role.admin".to_owned() };
    client_api::Options {
        server_name: server_name.to_owned(),
        default_room_version: config.default_room_version.clone(),
        public_base_url: config.public_base_url.clone(),
        support_contacts: if named { vec![contact] } else { Vec::new() },
        support_page: config.support_page.clone(),
        policy_server_key: config.policy_server_key.clone(),
        livekit_urls: config.calls.livekit_urls.clone(),
        http_push_gateways: config.push_http_gateways,
    }
}
