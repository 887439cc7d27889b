//! The whole system on one page: which room is built from which, in order.

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use client_api::SupportContact;
use endpoint::Door;
use store::tables::users::AccountRow;
use store::{Read, Store};

use crate::config::{Config, Database};
use crate::metrics::{self, Metrics};
use crate::world::World;
use crate::{health, keys, resources};

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
    /// There is no signing key.
    #[error("{0}")]
    Key(#[from] keys::Error),
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

/// A system that can serve.
pub struct Running {
    /// All routes, with the layers that every answer passes.
    pub router: Router,
    /// The store.
    pub store: Store,
    /// The server's name.
    pub server_name: String,
}

/// Opens the store and builds the system on it.
///
/// # Errors
/// As [`Error`] says.
pub async fn build(config: &Config, world: &World) -> Result<Running, Error> {
    make_data_dir(config)?;
    let store = open_store(config, None).await?;
    build_on(store, config, world).await
}

/// Builds the system on an opened store.
///
/// # Errors
/// As [`Error`] says.
pub async fn build_on(store: Store, config: &Config, world: &World) -> Result<Running, Error> {
    let server_name = decide_server_name(&store, config.server_name.as_deref()).await?;
    let _signing_key = Arc::new(keys::load(&config.data_dir, world.entropy.as_ref())?);

    let metrics = Arc::new(Metrics::default());
    store.notifier().add_follower(Arc::clone(&metrics) as _);

    let door = Arc::new(Door::new(Arc::new(crate::sessions::Nobody), Arc::clone(&world.clock), door_options(config)));
    let options = Arc::new(api_options(config, &server_name));
    let media = media::Media::open(
        media_options(config, &server_name),
        store.clone(),
        Arc::clone(&world.clock),
        Arc::clone(&world.entropy),
        world.media_threads(),
        None,
    )
    .await?;
    let api = client_api::router(client_api::State { store: store.clone(), media, door, options });

    let routes = api.merge(health::routes(store.clone())).merge(metrics::routes(Arc::clone(&metrics)));
    let served = endpoint::layers::with_fallbacks(routes)
        .layer(from_fn(resources::only_served))
        .layer(from_fn_with_state(metrics, metrics::count));
    let router = endpoint::layers::wrap(served);
    Ok(Running { router, store, server_name })
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

/// Opens the database that the configuration names. `on_fatal` is called when it can no longer be written.
///
/// # Errors
/// [`store::Error`] with what to do.
pub async fn open_store(config: &Config, on_fatal: Option<sqlite::OnFatal>) -> Result<Store, Error> {
    match &config.database {
        Database::Sqlite(path) => {
            let options = sqlite::Options { cache_bytes: config.database_cache_bytes, on_fatal, ..Default::default() };
            let engine = sqlite::Sqlite::open(path, options)?;
            Ok(Store::new(Arc::new(engine)).await?)
        }
        Database::Postgres(_) => {
            Err(store::Error::Unusable("PostgreSQL is not there yet: use `sqlite:`".to_owned()).into())
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

fn door_options(config: &Config) -> endpoint::Options {
    endpoint::Options {
        trusted_proxies: config.trusted_proxies.clone(),
        rate_limits: config.rate_limits.clone(),
        ..endpoint::Options::default()
    }
}

fn media_options(config: &Config, server_name: &str) -> media::Options {
    let options = media::Options::new(server_name, &config.media_dir);
    media::Options { upload_bytes_max: config.media_max_upload_bytes, ..options }
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
    }
}
