//! Other servers: finding and trusting them, what they ask, what is sent to them (server-server API).
//!
//! [`transport`] is the door to the network, [`client`] signs what goes through it, [`key_ring`] knows whose keys are
//! whose. [`Federation`] answers what others ask ([`inbound`]) and takes in what they send ([`receive`]).

pub mod acl;
pub mod client;
mod completion;
pub mod content_repository;
pub mod descriptions;
pub mod discovery;
pub mod elements;
pub mod error;
pub mod handshakes;
pub mod https;
pub mod inbound;
pub mod key_ring;
mod locks;
pub mod outbound;
pub mod policy;
pub mod queries;
pub mod receive;
pub mod remote;
pub mod remote_devices;
pub mod transport;
mod verified_lists;
pub mod verify;
pub mod x_matrix;

use std::sync::Arc;

use media::Media;
use quick_cache::sync::Cache;
use rooms::Rooms;
use store::{Clock, Entropy, EventNum, RoomNum, Store};
use users::Users;

use crate::client::Client;
use crate::handshakes::Handshakes;
use crate::key_ring::KeyRing;
use crate::receive::{Edus, Receiver};

pub use error::{Error, Result};
pub use remote::{Remote, Spawner};

/// Verdicts on ACLs that are remembered.
const HEARD_MAX: usize = 10_000;

/// What other servers are told and shown.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of the software, for `/version`.
    pub software: String,
    /// Its version.
    pub version: String,
    /// Where others reach this server, as host or `host:port`, for `/.well-known/matrix/server`.
    pub delegated_to: Option<String>,
    /// Whether others may read the public room directory.
    pub public_rooms: bool,
    /// Whether others may read profiles.
    pub profiles: bool,
    /// Whether others learn the names of devices.
    pub device_names: bool,
    /// Joined members from which on a joining server that asks for it gets a room without its members first. MSC3706
    /// leaves that to the resident; who gets a small room in two parts has more work with it, and gains nothing.
    pub members_omitted_from: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            software: "Hearth".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            delegated_to: None,
            public_rooms: true,
            profiles: true,
            device_names: false,
            members_omitted_from: 100,
        }
    }
}

/// What [`Federation`] is made of.
pub struct Parts {
    /// The store.
    pub store: Store,
    /// The room engine.
    pub rooms: Arc<Rooms>,
    /// Accounts.
    pub users: Arc<Users>,
    /// The media store.
    pub media: Media,
    /// Asks other servers.
    pub client: Client,
    /// The keys of all servers.
    pub key_ring: Arc<KeyRing>,
    /// Makes memberships with other servers.
    pub handshakes: Arc<Handshakes>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
    /// What is done with EDUs about other servers' keys.
    pub edus: Arc<dyn Edus>,
    /// Told the name of a server whenever it has proven to be there by a signed request.
    pub heard_from: Box<dyn Fn(&str) + Send + Sync>,
    /// Settings.
    pub options: Options,
}

/// This server as others see it.
pub struct Federation {
    pub(crate) store: Store,
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) users: Arc<Users>,
    pub(crate) media: Media,
    pub(crate) client: Client,
    pub(crate) key_ring: Arc<KeyRing>,
    pub(crate) handshakes: Arc<Handshakes>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) edus: Arc<dyn Edus>,
    pub(crate) heard_from: Box<dyn Fn(&str) + Send + Sync>,
    pub(crate) options: Options,
    pub(crate) receiver: Receiver,
    pub(crate) bodies: inbound::Bodies,
    /// Whether a server may speak under a room's ACL event.
    pub(crate) heard: Cache<(RoomNum, EventNum, String), bool>,
}

impl Federation {
    /// Federation on a store. Nothing of the queue is worked on before [`Federation::resume`] and
    /// [`Federation::receive`].
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            receiver: Receiver::new(parts.store.clone()),
            bodies: inbound::Bodies::default(),
            heard: Cache::new(HEARD_MAX),
            store: parts.store,
            rooms: parts.rooms,
            users: parts.users,
            media: parts.media,
            client: parts.client,
            key_ring: parts.key_ring,
            handshakes: parts.handshakes,
            clock: parts.clock,
            entropy: parts.entropy,
            edus: parts.edus,
            heard_from: parts.heard_from,
            options: parts.options,
        })
    }
}
