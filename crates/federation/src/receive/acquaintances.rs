//! Whom this server knows of: users of other servers who are, or were, members of a room that their server shares with
//! this one. Whatever is told of others is of no use to anybody here, and there is no end to how many could be made up.

use event::ids;
use quick_cache::sync::Cache;
use rooms::state::MEMBER;
use store::tables::rooms::{ResidencyRow, StateKeyRow};
use store::{Error, Read, RoomNum, Store, UserId};

/// Users who are remembered to be known.
const REMEMBERED_MAX: usize = 50_000;
/// Rooms in which a user is looked for at a time.
const ROOMS_CHUNK: usize = 250;
/// Users of one EDU who may be unknown before no more of it is looked at.
const STRANGERS_MAX: usize = 50;

/// The users who are known.
pub(super) struct Acquaintances {
    store: Store,
    known: Cache<UserId, ()>,
}

/// Looks for users of one server.
pub(super) struct Search<'a> {
    acquaintances: &'a Acquaintances,
    origin: &'a str,
    rooms: Option<Vec<RoomNum>>,
    strangers: usize,
}

impl Acquaintances {
    pub fn new(store: Store) -> Self {
        Self { store, known: Cache::new(REMEMBERED_MAX) }
    }

    /// A look for some users of a server.
    pub fn of<'a>(&'a self, origin: &'a str) -> Search<'a> {
        Search { acquaintances: self, origin, rooms: None, strangers: 0 }
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
    /// Whether a user of the server is known; after too many who are not, nobody is.
    pub async fn knows(&mut self, user: &UserId) -> Result<bool, Error> {
        if ids::user_server(user.as_str()) != Some(self.origin) || self.strangers > STRANGERS_MAX {
            return Ok(false);
        }
        if self.acquaintances.known.get(user).is_some() {
            return Ok(true);
        }
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
        self.strangers += 1;
        Ok(false)
    }
}
