//! Search in what messages say, and in names and topics of rooms (client-server API, "Server Side Search"; behaviour CR21).
//!
//! The index is a reader of the stream ([`follow`]): what a message costs when it is sent is nothing. [`documents`] says
//! what the index is to have of an event; [`words`] makes terms of texts; [`runs`] keeps the postings in the store, so that
//! they are in backups, are the same for all nodes, and are gone when what they are about is. [`jobs`] builds the index from
//! nothing. [`query`] asks it. The index may hold too much for a moment: each event that it finds is compared with what the
//! event says now, and shown only to whom `rooms::visibility` would show it.

mod block;
mod documents;
mod error;
mod follow;
mod jobs;
mod query;
mod runs;
mod text;
mod words;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rooms::Rooms;
use store::shards::{Nodes, Shards};
use store::{Clock, Store, StreamPosition};
use tokio::sync::{Notify, watch};

pub use crate::error::Error;
use crate::follow::SHARD;
pub use crate::jobs::Progress;
pub use crate::query::{Found, Hit, Order, Query, Token};
pub use crate::text::Key;

/// What this room answers with.
pub type Result<T> = std::result::Result<T, Error>;

/// The search index. One per process; share it behind an [`Arc`].
pub struct Search {
    pub(crate) store: Store,
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) clock: Arc<dyn Clock>,
    shards: Shards,
    /// One step at a time, whoever asks for it.
    working: tokio::sync::Mutex<()>,
    /// Whether there may be jobs.
    jobs: AtomicBool,
    /// Told when there is something to do that the stream does not tell of.
    asked: Notify,
    /// Whether [`Search::run`] is at work.
    running: AtomicBool,
    /// Up to here this node has indexed.
    indexed: watch::Sender<StreamPosition>,
}

impl Search {
    /// The index of a store. Nothing is indexed before [`Search::run`].
    pub fn new(store: Store, rooms: Arc<Rooms>, clock: Arc<dyn Clock>, nodes: Arc<dyn Nodes>) -> Arc<Self> {
        Arc::new(Self {
            shards: Shards::new(store.clone(), nodes, "search", SHARD + 1),
            store,
            rooms,
            clock,
            working: tokio::sync::Mutex::default(),
            jobs: AtomicBool::new(true),
            asked: Notify::new(),
            running: AtomicBool::new(false),
            indexed: watch::Sender::new(StreamPosition::ZERO),
        })
    }

    /// Keeps the index up to date until `stop` becomes true, if it is this node's to do so.
    ///
    /// # Errors
    /// As the store says, at the end: then some events are looked at once more.
    pub async fn run(self: &Arc<Self>, mut stop: watch::Receiver<bool>) -> Result<()> {
        self.running.store(true, Ordering::Release);
        tokio::select! {
            never = self.follow() => match never {},
            _ = stop.wait_for(|stop| *stop) => {}
        }
        self.running.store(false, Ordering::Release);
        self.shards.keep_all(self.as_ref()).await
    }

    /// Whether this process keeps the index up to date by itself, or would if it were its to do so.
    pub fn is_run(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// Does all that there is to do, and returns: for commands while no server runs, and for tests.
    ///
    /// # Errors
    /// As the store says.
    pub async fn catch_up(self: &Arc<Self>) -> Result<()> {
        while self.work().await? != follow::Did::Nothing {}
        self.shards.keep_all(self.as_ref()).await
    }

    /// Waits until this node, which is to have the index, has indexed the stream up to a position.
    pub async fn caught_up(&self, position: StreamPosition) {
        // The sender lives as long as this.
        drop(self.indexed.subscribe().wait_for(|indexed| *indexed >= position).await);
    }
}
