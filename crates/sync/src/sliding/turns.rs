//! Which request of a connection is its newest. A client gives up a request and asks anew; a proxy may hold the first one,
//! and the news for which both wait must not be spent on that.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use store::StreamPosition;
use tokio::sync::watch;
use users::connections::ConnectionId;

/// Connections of which it is known how far their clients have come.
const CONNECTIONS_MAX: usize = 10_000;

/// The newest request of each connection that has one, in this process.
pub(crate) struct Turns {
    newest: Mutex<HashMap<ConnectionId, watch::Sender<bool>>>,
    /// The furthest position from which each connection has asked, and its generation.
    come: Cache<ConnectionId, (StreamPosition, i64)>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { newest: Mutex::default(), come: Cache::new(CONNECTIONS_MAX) }
    }
}

/// One request; the next of its connection ends it.
pub(crate) struct Turn {
    turns: Arc<Turns>,
    id: ConnectionId,
    over: watch::Receiver<bool>,
}

impl Turns {
    /// A request begins, and the one before is over.
    pub fn begin(self: &Arc<Self>, id: &ConnectionId) -> Turn {
        let (sender, over) = watch::channel(false);
        if let Some(before) = self.newest.lock().insert(id.clone(), sender) {
            before.send_replace(true);
        }
        Turn { turns: Arc::clone(self), id: id.clone(), over }
    }

    /// A request asks from a position, or begins the connection anew. False if the client had come further: it is one that
    /// was given up long ago (behaviour CZ1).
    pub fn comes_to(&self, id: &ConnectionId, pos: Option<(StreamPosition, i64)>) -> bool {
        let Some(pos) = pos else {
            self.come.remove(id);
            return true;
        };
        let known = self.come.get(id);
        if known.is_none_or(|known| known < pos) {
            self.come.insert(id.clone(), pos);
        }
        known.is_none_or(|known| known <= pos)
    }
}

impl Turn {
    /// Whether a later request has begun.
    pub fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Waits until a later request begins.
    pub async fn ends(&self) {
        // An error says that the sender is gone, as it is when another has taken its place.
        drop(self.over.clone().wait_for(|over| *over).await);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = self.turns.newest.lock();
        if turns.get(&self.id).is_some_and(|sender| sender.subscribe().same_channel(&self.over)) {
            turns.remove(&self.id);
        }
    }
}
