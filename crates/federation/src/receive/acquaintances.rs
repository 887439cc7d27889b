//! Whom this server knows of: users of other servers who are, or were, members of a room that their server shares with
//! this one. Whatever is told of others is of no use to anybody here, and there is no end to how many could be made up.

use std::collections::HashSet;

use event::ids;
use quick_cache::sync::Cache;
use rooms::state::MEMBER;
use store::tables::rooms::{ResidencyRow, StateKeyRow};
use store::{Error, Read, RoomNum, Store, UserId};

/// Users who are remembered to be known.
const REMEMBERED_MAX: usize = 50_000;
/// Rooms in which a user is looked for at a time.
const ROOMS_CHUNK: usize = 250;
/// Unknown users of one transaction after whom nobody is looked for about whom only volatile things are told.
const STRANGERS_MAX: usize = 50;

/// The users who are known.
pub(super) struct Acquaintances {
    store: Store,
    known: Cache<UserId, ()>,
}

/// Looks for the users of one server of whom one transaction tells: what is found for one of them serves for the others.
pub(super) struct Search<'a> {
    acquaintances: &'a Acquaintances,
    origin: &'a str,
    rooms: Option<Vec<RoomNum>>,
    strangers: HashSet<UserId>,
}

impl Acquaintances {
    pub fn new(store: Store) -> Self {
        Self { store, known: Cache::new(REMEMBERED_MAX) }
    }

    /// A look for the users of one transaction of a server.
    pub fn of<'a>(&'a self, origin: &'a str) -> Search<'a> {
        Search { acquaintances: self, origin, rooms: None, strangers: HashSet::new() }
    }

    /// The rooms that a server is in.
    async fn rooms_of(&self, server: &str) -> Result<Vec<RoomNum>, Error> {
        let read = Read::along::<ResidencyRow>(ResidencyRow::BY_SERVER, vec![server.into()]);
        let mut rooms: Vec<RoomNum> = Vec::new();
        for row in self.store.all::<ResidencyRow>(read).await? {
            // The rows of one room stand together, in order of time.
            if rooms.last() == Some(&row.room) {
                rooms.pop();
            }
            if row.resident {
                rooms.push(row.room);
            }
        }
        Ok(rooms)
    }
}

impl Search<'_> {
    /// Whether a user of the server is known.
    pub async fn knows(&mut self, user: &UserId) -> Result<bool, Error> {
        if ids::user_server(user.as_str()) != Some(self.origin) || self.strangers.contains(user) {
            return Ok(false);
        }
        let known = self.acquaintances.known.get(user).is_some() || self.finds(user).await?;
        if !known {
            self.strangers.insert(user.clone());
        }
        Ok(known)
    }

    /// Whether a user of the server is known, where little is lost with a wrong no: after many who are unknown, only who is
    /// remembered is known. One EDU may name very many users.
    pub async fn knows_at_once(&mut self, user: &UserId) -> Result<bool, Error> {
        if self.strangers.len() > STRANGERS_MAX {
            let theirs = ids::user_server(user.as_str()) == Some(self.origin);
            return Ok(theirs && self.acquaintances.known.get(user).is_some());
        }
        self.knows(user).await
    }

    /// Looks in the rooms that the server is in.
    async fn finds(&mut self, user: &UserId) -> Result<bool, Error> {
        let store = &self.acquaintances.store;
        let rooms = match &self.rooms {
            Some(rooms) => rooms,
            None => self.rooms.insert(self.acquaintances.rooms_of(self.origin).await?),
        };
        for chunk in rooms.chunks(ROOMS_CHUNK) {
            let key = |room: &RoomNum| vec![(*room).into(), MEMBER.into(), user.as_str().into()];
            let reads = chunk.iter().map(|room| Read::along::<StateKeyRow>(StateKeyRow::BY_NAME, key(room)).limit(1));
            if store.read(reads.collect()).await?.iter().any(|found| !found.0.is_empty()) {
                self.acquaintances.known.insert(user.clone(), ());
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
