//! Which servers are in which rooms, as far as sending needs it.

use std::collections::{BTreeMap, BTreeSet};

use rooms::Room;
use store::tables::rooms::ResidencyRow;
use store::{Read, RoomNum, StreamPosition, Value};

use super::Outbound;
use crate::Result;

impl Outbound {
    /// Whether any other server can have to learn what happens in a room. Where a membership changes, its last user may
    /// just have left.
    pub(super) fn may_have_recipients(&self, room: &Room, is_membership: bool) -> bool {
        is_membership || room.head().servers.len() > 1 || !room.has_server(self.rooms.server_name())
    }

    /// The servers that were in a room just before a position or at it, this one included.
    pub(super) async fn residents(&self, room: &Room, pos: StreamPosition) -> Result<BTreeSet<String>> {
        Ok(self.rooms.servers_at(room, pos).await?)
    }

    /// The other servers in a room now.
    pub(super) fn others_in(&self, room: &Room) -> Vec<String> {
        let own = self.rooms.server_name();
        room.head().servers.keys().filter(|server| *server != own).cloned().collect()
    }

    /// The rooms in which a server is, or was at any time after `from`.
    pub(super) async fn rooms_of(&self, server: &str, from: StreamPosition) -> Result<Vec<RoomNum>> {
        let read = Read::along::<ResidencyRow>(ResidencyRow::BY_SERVER, vec![Value::from(server)]);
        let rows: Vec<ResidencyRow> = self.store.all(read).await?;
        // In order of room, then position: the last row of each room tells.
        let last: BTreeMap<RoomNum, ResidencyRow> = rows.into_iter().map(|row| (row.room, row)).collect();
        Ok(last.into_values().filter(|row| row.resident || row.pos >= from).map(|row| row.room).collect())
    }
}
