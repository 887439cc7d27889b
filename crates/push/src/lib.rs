//! Push notifications: what happens in rooms reaches phones by way of push gateways (client-server API, "Push
//! Notifications"; push gateway API; behaviours CP4 to CP9).
//!
//! [`dispatch`] follows the stream behind a few stored positions ([`shards`]). For an event it asks the push rules of those
//! members who have pushers, and queues a row per pusher (`pushes`) in the batch that moves the position: each event is
//! queued once, whatever ends when. Rows without an event say that the number of unread messages may have changed.
//! [`deliver`] has a task per pusher with something in its queue. Right before a push leaves it is looked at again: what
//! was read, redacted, or is of a room that the user has left meanwhile is passed over. A row is deleted when the gateway
//! has answered, so a push may come twice if the process ends in between; gateways tell by the event's id. A gateway that
//! fails is tried again after growing waits, and keeps nobody else waiting. [`badge`] counts what is unread. Pushers of the
//! kind `email` wait longer, and then tell all in one mail ([`by_mail`]).

mod badge;
mod by_mail;
mod deliver;
mod dispatch;
mod error;
mod gateway;
mod notification;
mod people;
mod shards;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rooms::Rooms;
use store::{Clock, Entropy, Inbox, Nodes, Shards, Store};
use tokio::sync::{Semaphore, watch};
use users::Users;

use crate::badge::Badges;
pub use crate::error::Error;
pub use crate::gateway::{Answer, Gateways, Unreachable};
use crate::people::{People, Seat};
use crate::shards::SHARDS;

/// What this room answers with.
pub type Result<T> = std::result::Result<T, Error>;

/// Runs a task beside the caller.
pub type Spawner = Arc<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;

/// What the number on an app's icon counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Badge {
    /// Rooms with something unread.
    Rooms,
    /// Unread messages.
    Messages,
}

/// How pushes are sent.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the number on an app's icon counts.
    pub badge: Badge,
    /// Whether gateways are told more of an event than its ids.
    pub include_content: bool,
    /// Whether gateways are told that nothing is unread. The specification leaves counts of zero out; some gateways clear
    /// the number only if they are told.
    pub zero_counts: bool,
    /// Wait after the first failure of a gateway; each further one doubles it.
    pub retry_first: Duration,
    /// Longest wait between two tries.
    pub retry_max: Duration,
    /// How long a push waits for a gateway that fails, in milliseconds; then it is of no use any more.
    pub queued_ms_max: i64,
    /// Pushes that wait for a gateway that fails or is slow, per pusher; the oldest go.
    pub queued_max: usize,
    /// Pushes of one user under way at a time.
    pub per_user_max: usize,
    /// Pushes under way at a time to one gateway.
    pub per_gateway_max: usize,
    /// Pushes under way at a time, over all gateways that answer.
    pub pushes_max: usize,
    /// Pushes under way at a time to gateways that did not answer the last time.
    pub tries_max: usize,
    /// How long something is unread before a mail tells of it, in milliseconds.
    pub mail_delay_ms: i64,
    /// How long after a mail the next may come, in milliseconds.
    pub mail_interval_ms: i64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            badge: Badge::Rooms,
            include_content: true,
            zero_counts: false,
            retry_first: Duration::from_secs(5),
            retry_max: Duration::from_secs(3_600),
            queued_ms_max: 24 * 3_600 * 1_000,
            queued_max: 1_000,
            per_user_max: 4,
            per_gateway_max: 24,
            pushes_max: 512,
            tries_max: 64,
            mail_delay_ms: 10 * 60 * 1_000,
            mail_interval_ms: 60 * 60 * 1_000,
        }
    }
}

/// How pushing fares, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Pushers that this node serves.
    pub pushers: usize,
    /// Pushers whose gateway did not answer the last time.
    pub failing: usize,
    /// Pushes that gateways took since the start, where that is noted.
    pub delivered: usize,
    /// Tries that failed since the start.
    pub failed: usize,
    /// Pushers that were removed since the start, because their gateway rejected them.
    pub rejected: usize,
}

/// What [`Push`] is built from.
pub struct Parts {
    /// The store.
    pub store: Store,
    /// The room engine.
    pub rooms: Arc<Rooms>,
    /// Accounts.
    pub users: Arc<Users>,
    /// Carries pushes to their gateways.
    pub gateways: Arc<dyn Gateways>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random bytes: jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Which nodes share the sending.
    pub nodes: Arc<dyn Nodes>,
    /// Runs the tasks of pushers.
    pub spawner: Spawner,
    /// Settings.
    pub options: Options,
}

#[derive(Default)]
struct Counters {
    delivered: AtomicUsize,
    failed: AtomicUsize,
    rejected: AtomicUsize,
}

impl Counters {
    fn add(counter: &AtomicUsize) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends pushes. One per process; share it behind an [`Arc`].
pub struct Push {
    store: Store,
    rooms: Arc<Rooms>,
    users: Arc<Users>,
    gateways: Arc<dyn Gateways>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    spawner: Spawner,
    options: Options,
    inbox: Arc<Inbox>,
    shards: Shards,
    people: People,
    badges: Badges,
    /// How many pushes are under way to each gateway, by authority.
    under_way_to: Mutex<HashMap<String, Weak<Semaphore>>>,
    under_way: Semaphore,
    /// As `under_way`, for gateways that did not answer the last time.
    tries: Semaphore,
    /// Pushers whose gateway fails, to be tried again when it is time.
    put_off: Mutex<Vec<Arc<Seat>>>,
    counters: Counters,
    stopping: watch::Sender<bool>,
}

impl Push {
    /// Pushers on a store, whose stream they follow from now on. Nothing is sent before [`Push::run`].
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { store, rooms, users, gateways, clock, entropy, nodes, spawner, options } = parts;
        let inbox = Arc::new(Inbox::new(dispatch::is_looked_at));
        store.notifier().add_follower(Arc::clone(&inbox) as _);
        Arc::new(Self {
            shards: Shards::new(store.clone(), nodes, "push", SHARDS),
            store,
            rooms,
            users,
            gateways,
            clock,
            entropy,
            spawner,
            inbox,
            people: People::default(),
            badges: Badges::default(),
            under_way_to: Mutex::default(),
            under_way: Semaphore::new(options.pushes_max),
            tries: Semaphore::new(options.tries_max),
            put_off: Mutex::default(),
            counters: Counters::default(),
            stopping: watch::Sender::new(false),
            options,
        })
    }

    /// Sends until `stop` becomes true; what is not sent by then is sent after the next start.
    ///
    /// # Errors
    /// As the store says, at the end: then some pushes may come twice.
    pub async fn run(self: &Arc<Self>, mut stop: watch::Receiver<bool>) -> Result<()> {
        tokio::select! {
            never = self.dispatch() => match never {},
            _ = stop.wait_for(|stop| *stop) => {}
        }
        self.stopping.send_replace(true);
        self.shards.keep_all(self.as_ref()).await
    }

    /// Tries those gateways again for which it is time; to be called about once a second.
    pub fn tick(self: &Arc<Self>) {
        let now_ms = self.clock.now_ms();
        let due: Vec<Arc<Seat>> = {
            let mut put_off = self.put_off.lock();
            let (due, rest) = put_off.drain(..).partition(|seat| seat.is_due(now_ms));
            *put_off = rest;
            due
        };
        for seat in due {
            self.wake(&seat);
        }
    }

    /// How pushing fares.
    pub fn report(&self) -> Report {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let (pushers, failing) = self.people.count();
        Report {
            pushers,
            failing,
            delivered: count(&self.counters.delivered),
            failed: count(&self.counters.failed),
            rejected: count(&self.counters.rejected),
        }
    }

    /// The places for pushes under way to the gateway with this authority.
    fn places_of(&self, authority: &str) -> Arc<Semaphore> {
        let mut all = self.under_way_to.lock();
        if let Some(places) = all.get(authority).and_then(Weak::upgrade) {
            return places;
        }
        all.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(self.options.per_gateway_max));
        all.insert(authority.to_owned(), Arc::downgrade(&places));
        places
    }

    /// Starts the pusher's task if it has something to send and none runs.
    fn wake(self: &Arc<Self>, seat: &Arc<Seat>) {
        if seat.begin(self.clock.now_ms()) {
            let (push, seat) = (Arc::clone(self), Arc::clone(seat));
            (self.spawner)(Box::pin(async move { push.deliver(&seat).await }));
        }
    }
}
