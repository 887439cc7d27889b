//! Other servers, put together: the client over TLS, the keys, what is received and what is sent.

use std::sync::Arc;

use egress::Egress;
use event::SigningKey;
use federation::client::{Client, Reach};
use federation::descriptions::Descriptions;
use federation::handshakes::Handshakes;
use federation::https::{Https, HttpsOptions};
use federation::key_ring::{self, KeyRing, OwnKeys};
use federation::outbound::{self, Outbound};
use federation::receive::WORKERS;
use federation::remote_devices::RemoteDevices;
use federation::transport::Transport;
use federation::{Federation, Remote, Spawner};
use media::Media;
use rooms::Rooms;
use store::Store;
use tokio::sync::watch;
use users::Users;

use crate::boot::Error;
use crate::config::Config;
use crate::nodes::Nodes;
use crate::world::World;

/// What federation is built on.
pub struct Base<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Time, randomness, threads.
    pub world: &'a World,
    /// The store.
    pub store: &'a Store,
    /// Accounts.
    pub users: &'a Arc<Users>,
    /// The room engine.
    pub rooms: &'a Arc<Rooms>,
    /// The media store.
    pub media: &'a Media,
    /// The nodes of the database.
    pub nodes: &'a Arc<Nodes>,
    /// The key that signs.
    pub key: &'a Arc<SigningKey>,
    /// The server's name.
    pub server_name: &'a str,
}

/// The transport of the program: discovery, and HTTP over TLS.
///
/// # Errors
/// [`Error::Federation`] if certificates cannot be read or the settings are wrong.
pub fn transport(config: &Config, world: &World) -> Result<Arc<dyn Transport>, Error> {
    let wrong = |what: String| Error::Federation(what);
    let ranges = config.federation_private_ranges.iter().map(|range| range.parse());
    let allowed_private_ranges =
        ranges.collect::<Result<_, egress::RangeError>>().map_err(|error| wrong(error.to_string()))?;
    let trust = egress::Trust {
        extra_ca_files: config.federation_ca_files.clone(),
        verify_certificates: config.federation_verify_certificates,
    };
    let options = egress::Options { allowed_private_ranges, trust, ..egress::Options::default() };
    let egress = Egress::new(options).map_err(|error| wrong(error.to_string()))?;
    let (clock, entropy) = (Arc::clone(&world.clock), Arc::clone(&world.entropy));
    Ok(Arc::new(Https::new(egress, clock, entropy, HttpsOptions::default())))
}

/// Asks other servers over a transport: what federation, the room engine and the media store have in common.
pub fn client(config: &Config, server_name: &str, key: &Arc<SigningKey>, transport: Arc<dyn Transport>) -> Client {
    let allowed = (!config.federation_allow.is_empty()).then_some(config.federation_allow.as_slice());
    Client::new(server_name, Arc::clone(key), transport, Reach::new(allowed, &config.federation_deny))
}

/// As [`client`], over the world's transport, else over the program's; none where federation is switched off.
///
/// # Errors
/// As [`transport`] says.
pub fn client_if_enabled(
    config: &Config,
    world: &World,
    server_name: &str,
    key: &Arc<SigningKey>,
) -> Result<Option<Client>, Error> {
    if !config.federation_enabled {
        return Ok(None);
    }
    let transport = match &world.transport {
        Some(transport) => Arc::clone(transport),
        None => transport(config, world)?,
    };
    Ok(Some(client(config, server_name, key, transport)))
}

/// As [`build`], where there is a client.
///
/// # Errors
/// As [`build`] says.
pub async fn build_if_enabled(base: Base<'_>, client: Option<Client>) -> Result<Option<Arc<Remote>>, Error> {
    let Some(client) = client else { return Ok(None) };
    Ok(Some(build(base, client).await?))
}

/// Builds federation on a [`client`]. Nothing is received or sent before [`run`].
///
/// # Errors
/// As the store says.
pub async fn build(base: Base<'_>, client: Client) -> Result<Arc<Remote>, Error> {
    let Base { config, world, store, users, rooms, media, nodes, key, server_name } = base;
    let (clock, entropy) = (Arc::clone(&world.clock), Arc::clone(&world.entropy));
    let key_ring = Arc::new(KeyRing::new(key_ring::Parts {
        store: store.clone(),
        client: client.clone(),
        clock: Arc::clone(&clock),
        own: OwnKeys::load(store, server_name, Arc::clone(key)).await?,
        notaries: Vec::new(),
        blocking: world.password_threads(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
    }));
    let outbound = Outbound::new(outbound::Parts {
        client: Arc::new(client.clone()),
        store: store.clone(),
        rooms: Arc::clone(rooms),
        users: Arc::clone(users),
        clock: Arc::clone(&clock),
        entropy: Arc::clone(&entropy),
        nodes: Arc::clone(nodes) as _,
        options: outbound::Options::default(),
    });
    let handshakes = Arc::new(Handshakes::new(Arc::new(client.clone()), Arc::clone(&key_ring), Arc::clone(rooms)));
    let devices = Arc::new(RemoteDevices::new(client.clone(), Arc::clone(users)));
    let heard = Arc::clone(&outbound);
    let federation = Federation::new(federation::Parts {
        store: store.clone(),
        rooms: Arc::clone(rooms),
        users: Arc::clone(users),
        media: media.clone(),
        client: client.clone(),
        key_ring,
        handshakes: Arc::clone(&handshakes),
        clock: Arc::clone(&clock),
        entropy,
        edus: Arc::clone(&devices) as _,
        heard_from: Box::new(move |server| heard.heard_from(server)),
        options: federation::Options {
            delegated_to: config.delegated_to.clone(),
            members_omitted_from: config.federation_members_omitted_from,
            ..Default::default()
        },
    });
    let spawner: Spawner = Arc::new(|work| drop(tokio::spawn(work)));
    let descriptions = Descriptions::new(client.clone(), clock);
    Ok(Arc::new(Remote { client, handshakes, outbound, devices, federation, descriptions, spawner }))
}

/// Receives and sends until `stop` becomes true.
pub async fn run(remote: Arc<Remote>, nodes: Arc<Nodes>, stop: watch::Receiver<bool>) {
    if let Err(error) = remote.federation.resume().await {
        tracing::error!(%error, "what other servers sent before the last stop cannot be read");
    }
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..WORKERS {
        let (federation, stop) = (Arc::clone(&remote.federation), stop.clone());
        workers.spawn(async move { federation.receive(stop).await });
    }
    let (federation, stops) = (Arc::clone(&remote.federation), stop.clone());
    workers.spawn(async move { federation.complete(stops).await });
    let (devices, stops) = (Arc::clone(&remote.devices), stop.clone());
    workers.spawn(async move { devices.run(stops).await });
    let outbound = Arc::clone(&remote.outbound);
    workers.spawn(async move {
        nodes.meet().await;
        if let Err(error) = outbound.run(stop).await {
            tracing::error!(%error, "sending to other servers has ended");
        }
    });
    while workers.join_next().await.is_some() {}
}
