//! What is sent to other servers: one queue per destination, at most one transaction under way in each.
//!
//! A message costs no row per destination. [`dispatch`] follows the stream behind a few stored positions ([`shards`]) and puts
//! each event into the in-memory queues of the servers that are in the room. A destination that fails gets a row with the
//! position from which on it is behind, its queue is dropped, and once it answers again [`catch_up`] reads what it
//! misses from the rooms themselves. To-device messages and changes of device lists have rows: they are never dropped.

mod catch_up;
mod destination;
mod device_lists;
mod dispatch;
mod edus;
mod residents;
mod shards;
#[cfg(test)]
mod tests;
mod transaction;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use event::Object;
use parking_lot::Mutex;
use rooms::Rooms;
use store::{Clock, Entropy, Inbox, Nodes, RoomNum, Shards, Store, UserId};
use tokio::sync::{Semaphore, watch};
use users::Users;

use self::destination::Destination;
pub use self::destination::EduKey;
use self::dispatch::Fleeting;
use self::shards::SHARDS;
use crate::Result;
use crate::client::Client;

/// How other servers are sent to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Wait after the first failure; each further one doubles it.
    pub retry_first: Duration,
    /// Longest wait between two tries.
    pub retry_max: Duration,
    /// Transactions under way at a time, over all destinations that answer.
    pub transactions_max: usize,
    /// Transactions under way at a time to destinations that did not answer the last time.
    pub tries_max: usize,
    /// Whether presence is told to other servers.
    pub presence: bool,
    /// Whether other servers learn the names of devices.
    pub device_names: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retry_first: Duration::from_secs(5),
            retry_max: Duration::from_secs(4 * 3_600),
            transactions_max: 256,
            tries_max: 64,
            presence: true,
            device_names: false,
        }
    }
}

/// The queues to all other servers.
pub struct Outbound {
    pub(crate) client: Arc<Client>,
    pub(crate) store: Store,
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) users: Arc<Users>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) options: Options,
    destinations: Mutex<BTreeMap<String, Arc<Destination>>>,
    under_way: Semaphore,
    /// As `under_way`, for destinations that did not answer the last time.
    tries: Semaphore,
    inbox: Arc<Inbox>,
    fleeting: Arc<Fleeting>,
    shards: Shards,
    /// Who was told to type where.
    typing_told: Mutex<BTreeMap<RoomNum, BTreeSet<UserId>>>,
    stopping: watch::Sender<bool>,
}

/// What [`Outbound`] is built from.
pub struct Parts {
    /// Signs requests.
    pub client: Arc<Client>,
    /// The store.
    pub store: Store,
    /// The room engine.
    pub rooms: Arc<Rooms>,
    /// Accounts.
    pub users: Arc<Users>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random bytes: transaction ids and jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Which nodes share the sending.
    pub nodes: Arc<dyn Nodes>,
    /// Settings.
    pub options: Options,
}

impl Outbound {
    /// Queues on a store, whose stream they follow from now on. Nothing is sent before [`Outbound::run`].
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { client, store, rooms, users, clock, entropy, nodes, options } = parts;
        let inbox = Arc::new(Inbox::new(dispatch::is_told));
        store.notifier().add_follower(Arc::clone(&inbox) as _);
        let fleeting = Arc::new(Fleeting::new(Arc::clone(&inbox)));
        users.volatile().add_follower(Arc::clone(&fleeting) as _);
        Arc::new(Self {
            client,
            shards: Shards::new(store.clone(), nodes, "federation", SHARDS),
            store,
            rooms,
            users,
            clock,
            entropy,
            under_way: Semaphore::new(options.transactions_max),
            tries: Semaphore::new(options.tries_max),
            options,
            destinations: Mutex::default(),
            inbox,
            fleeting,
            typing_told: Mutex::default(),
            stopping: watch::Sender::new(false),
        })
    }

    /// Sends until `stop` becomes true; what is not sent by then is sent after the next start.
    ///
    /// # Errors
    /// As the store says, at the end: then some of it may be sent twice.
    pub async fn run(self: &Arc<Self>, mut stop: watch::Receiver<bool>) -> Result<()> {
        tokio::select! {
            never = self.dispatch() => match never {},
            _ = stop.wait_for(|stop| *stop) => {}
        }
        self.stopping.send_replace(true);
        self.shards.keep_all(self.as_ref()).await
    }

    /// Another server has spoken to us: it is there, whatever was learnt before, and is tried again soon.
    pub fn heard_from(&self, server: &str) {
        let destination = self.destinations.lock().get(server).cloned();
        if let Some(destination) = destination {
            destination.heard();
        }
    }

    /// Queues an EDU that need not arrive. A newer one of the same key takes the place of an older.
    pub fn queue_edu(self: &Arc<Self>, server: &str, key: EduKey, edu: Object) {
        if let Some(destination) = self.destination(server) {
            destination.queue.lock().add_edu(key, edu);
            self.wake(&destination);
        }
    }

    /// How each destination fares that was sent to since the start: (server, failures in a row, queued events).
    pub fn report(&self) -> Vec<(String, u32, usize)> {
        let destinations = self.destinations.lock();
        let line = |destination: &Arc<Destination>| {
            let queue = destination.queue.lock();
            (destination.server.clone(), queue.failures, queue.events.len())
        };
        destinations.values().map(line).collect()
    }

    /// The queue to a server; `None` if another node sends there.
    fn destination(&self, server: &str) -> Option<Arc<Destination>> {
        let shard = self.shards.holding(server)?;
        let mut destinations = self.destinations.lock();
        let known = destinations.entry(server.to_owned());
        Some(Arc::clone(known.or_insert_with(|| Arc::new(Destination::new(server, shard.epoch)))))
    }

    /// Starts the destination's task if it has something to send and none runs.
    fn wake(self: &Arc<Self>, destination: &Arc<Destination>) {
        if destination.begin() {
            let (outbound, destination) = (Arc::clone(self), Arc::clone(destination));
            tokio::spawn(async move { outbound.send_all(&destination).await });
        }
    }
}
