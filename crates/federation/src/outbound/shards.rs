//! Which servers this node sends to. Between two owners of a shard both may send: other servers take each event, and each
//! message to a device, once.

use std::collections::BTreeSet;
use std::sync::Arc;

use store::shards::Worker;
use store::tables::federation::{DestinationRow, DeviceListDueRow, OutboundEduRow};
use store::{Read, StreamPosition};

use super::Outbound;
use crate::{Error, Result};

/// Shards of destinations. Their rows outlive the process: the number is never changed.
pub(super) const SHARDS: usize = 16;

impl Worker for Outbound {
    type Error = Error;

    fn done(&self, shard: usize, dispatched: StreamPosition) -> StreamPosition {
        let destinations = self.destinations.lock();
        let here = destinations.iter().filter(|(server, _)| self.shards.of(server) == shard);
        let waits = here.filter_map(|(_, destination)| destination.queue.lock().waits_from());
        waits.fold(dispatched, StreamPosition::min)
    }

    /// Destinations that were behind, or have stored EDUs or device lists to get, when their last owner ended.
    async fn take_up(self: &Arc<Self>, shards: &BTreeSet<usize>) -> Result<()> {
        let is_here = |server: &str| shards.contains(&self.shards.of(server));
        let rows: Vec<DestinationRow> = self.store.all(Read::prefix::<DestinationRow>(vec![])).await?;
        for row in rows.into_iter().filter(|row| is_here(&row.server)) {
            let Some(destination) = self.destination(&row.server) else { continue };
            destination.restore(&row);
            self.wake(&destination);
        }
        let mut after = String::new();
        while let Some(row) =
            self.store.one::<OutboundEduRow>(Read::prefix::<OutboundEduRow>(vec![]).after(after.as_str())).await?
        {
            if is_here(&row.server)
                && let Some(destination) = self.destination(&row.server)
            {
                destination.queue.lock().stored_edus = true;
                self.wake(&destination);
            }
            after = row.server;
        }
        let mut after = String::new();
        while let Some(row) =
            self.store.one::<DeviceListDueRow>(Read::prefix::<DeviceListDueRow>(vec![]).after(after.as_str())).await?
        {
            if is_here(&row.server) {
                self.wake_for_device_lists(&row.server);
            }
            after = row.server;
        }
        Ok(())
    }

    /// A transaction under way comes to its end.
    fn leave(&self, shard: usize) {
        self.destinations.lock().retain(|server, destination| {
            let leaves = self.shards.of(server) == shard;
            if leaves {
                destination.leave();
            }
            !leaves
        });
    }
}

impl Outbound {
    /// Whether this node sends to a server.
    pub(super) fn sends_to(&self, server: &str) -> bool {
        self.shards.holding(server).is_some()
    }

    /// Up to where everything for a server is in its queue.
    pub(super) fn dispatched(&self, server: &str) -> StreamPosition {
        self.shards.holding(server).map_or(StreamPosition::ZERO, |shard| shard.dispatched)
    }
}
