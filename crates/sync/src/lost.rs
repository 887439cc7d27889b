//! Tokens of a lost future. When a database is put back from a backup, what happened since is lost, but clients have seen
//! it. Positions go on far beyond (see [`store::tables::core::LostPositions`]), so a token from then lies in a range that
//! the store remembers, or beyond all that this server ever gave. The client's picture is then wrong in ways that nobody
//! can list. So it gets everything anew: its rooms whole, with timelines that say that something is missing; rooms that it
//! may believe itself to be in as left; account data, receipts, device lists.
//!
//! What `/sync` has no words for stays as it is: state and account data that only the lost future had, and rooms that only
//! existed in it.

use store::StreamPosition;
use store::tables::core::{LOST_POSITIONS, LostPositions};

use crate::{Error, Sync};

impl Sync {
    /// If a position was given in a future that is lost: the last position before it that still holds.
    pub(crate) async fn restored_from(&self, pos: StreamPosition) -> Result<Option<StreamPosition>, Error> {
        Ok(self.lost_positions().await?.last_before(pos))
    }

    /// The positions of all lost futures.
    pub(crate) async fn lost_positions(&self) -> Result<&LostPositions, Error> {
        let read = async || {
            let text = self.store.meta(LOST_POSITIONS).await?;
            Ok::<_, Error>(LostPositions::parse(&text.unwrap_or_default()))
        };
        // Only a server that is not running is restored.
        self.lost.get_or_try_init(read).await
    }
}
