//! Which request of a connection is its newest. A client gives up a request and asks anew; a proxy may hold the first one,
//! and the news for which both wait must not be spent on that.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use users::connections::ConnectionId;

/// The newest request of each connection that has one, in this process.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<ConnectionId, watch::Sender<bool>>>);

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
        if let Some(before) = self.0.lock().insert(id.clone(), sender) {
            before.send_replace(true);
        }
        Turn { turns: Arc::clone(self), id: id.clone(), over }
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
        let mut turns = self.turns.0.lock();
        if turns.get(&self.id).is_some_and(|sender| sender.subscribe().same_channel(&self.over)) {
            turns.remove(&self.id);
        }
    }
}
