//! Users of this server who had their content erased: who has come into a room since is served their events pruned
//! (client-server API, `POST /account/deactivate`, `erase`; behaviour CA8). Nothing is redacted: whoever could see an event
//! before still can.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use store::tables::users::ErasedUserRow;
use store::{Read, StreamPosition, UserId};
use tokio::sync::OnceCell;

use crate::event::Event;
use crate::room::Room;
use crate::{Error, Result, Rooms};

/// Since when which users are erased: read once, then kept up by the stream.
#[derive(Default)]
pub(crate) struct Erased {
    read: OnceCell<()>,
    since: RwLock<HashMap<String, StreamPosition>>,
}

impl Erased {
    /// The stream tells of an erasure.
    pub fn note(&self, user: &UserId, pos: StreamPosition) {
        self.since.write().insert(user.to_string(), pos);
    }
}

impl Rooms {
    /// Since when a user's content is erased, if it is.
    pub(crate) async fn erased_since(&self, user: &str) -> Result<Option<StreamPosition>> {
        self.erased.read.get_or_try_init(|| self.read_erased()).await?;
        Ok(self.erased.since.read().get(user).copied())
    }

    async fn read_erased(&self) -> Result<()> {
        let rows: Vec<ErasedUserRow> = self.store.all(Read::prefix::<ErasedUserRow>(vec![])).await?;
        let mut since = self.erased.since.write();
        since.extend(rows.into_iter().map(|row| (row.user_id.to_string(), row.pos)));
        Ok(())
    }
}

/// The event without what redaction takes from it, for one viewer: it keeps its place, and no redaction is shown.
///
/// # Errors
/// [`store::Error::Corrupt`] if the stored event cannot be pruned.
pub(crate) fn pruned(room: &Room, event: &Event) -> Result<Arc<Event>> {
    let pdu = event.pdu.redacted(room.rules).map_err(|error| {
        Error::Store(store::Error::Corrupt { table: "event_bytes", detail: format!("event {}: {error}", event.id()) })
    })?;
    Ok(Arc::new(Event::new(event.row.clone(), Arc::new(pdu))))
}
