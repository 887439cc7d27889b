//! Which servers have joined members in a room: now, from memory, and at any position, from the store (server-server
//! API, "Transactions": events go to the servers in the room).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use store::tables::rooms::{ResidencyRow, RoomServerRow};
use store::{Read, StreamPosition};

use crate::draft::Draft;
use crate::room::Room;
use crate::{Result, Rooms};

impl Room {
    /// The servers that have joined members now, this one included, as far as it is durable.
    pub fn servers(&self) -> BTreeSet<String> {
        self.head().servers.keys().cloned().collect()
    }

    /// Whether a server has joined members now.
    pub fn has_server(&self, server: &str) -> bool {
        self.head().servers.contains_key(server)
    }
}

impl Rooms {
    /// The servers that have joined members in a room now, this one included; none for an unknown room.
    ///
    /// # Errors
    /// As the store says.
    pub async fn servers(&self, room_id: &str) -> Result<BTreeSet<String>> {
        Ok(self.room(room_id).await?.map(|room| room.servers()).unwrap_or_default())
    }

    /// The servers that are to learn what happened at a position: those with joined members just before it or at it.
    ///
    /// # Errors
    /// As the store says.
    pub async fn servers_at(&self, room: &Room, pos: StreamPosition) -> Result<BTreeSet<String>> {
        // The rows after the head was looked at take back what came since.
        let mut servers = room.servers();
        let read = Read::along::<ResidencyRow>(ResidencyRow::BY_POS, vec![room.num.into()]).from(pos);
        let rows: Vec<ResidencyRow> = self.store.all(read).await?;
        let mut first: BTreeMap<String, ResidencyRow> = BTreeMap::new();
        for row in rows {
            first.entry(row.server.clone()).or_insert(row);
        }
        for (server, row) in first {
            if !row.resident || row.pos == pos {
                servers.insert(server);
            } else {
                servers.remove(&server);
            }
        }
        Ok(servers)
    }

    /// Whether a server had joined members in a room just before a position or at it.
    ///
    /// # Errors
    /// As the store says.
    pub async fn was_resident(&self, room: &Room, server: &str, pos: StreamPosition) -> Result<bool> {
        let now = room.has_server(server);
        let read = Read::prefix::<ResidencyRow>(vec![room.num.into(), server.into()]).from(pos);
        Ok(self.store.one::<ResidencyRow>(read).await?.map_or(now, |row| !row.resident || row.pos == pos))
    }
}

impl Draft<'_> {
    /// Counts a user of a server in or out.
    pub(crate) fn count_server(&mut self, server: &str, change: i64) {
        if change == 0 {
            return;
        }
        let servers = Arc::make_mut(&mut self.head.servers);
        let count = servers.get(server).copied().unwrap_or(0) + change;
        if count > 0 {
            servers.insert(server.to_owned(), count);
        } else {
            servers.remove(server);
        }
    }

    /// Writes what became of the servers' counts, which were `before`, at a position.
    pub(crate) fn keep_servers(&mut self, before: &BTreeMap<String, i64>, pos: StreamPosition) {
        let now = Arc::clone(&self.head.servers);
        let room = self.room.num;
        let named: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
        for server in named {
            let (was, is) = (before.get(server).copied(), now.get(server).copied());
            if was == is {
                continue;
            }
            match is {
                Some(joined) => self.batch.put(RoomServerRow { room, server: server.clone(), joined }),
                None => self.batch.delete::<RoomServerRow>(vec![room.into(), server.as_str().into()]),
            };
            if was.is_some() != is.is_some() {
                self.batch.put(ResidencyRow { room, server: server.clone(), pos, resident: is.is_some() });
            }
        }
    }
}
