//! Who types where. Volatile: each entry ends by itself (client-server API, "Typing Notifications"; behaviour CR24).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use store::{Follower, RoomNum, StreamEntry, StreamKind, StreamPosition, UserId};

use crate::Users;
use crate::volatile::{Volatile, VolatileChange};

/// Longest time for which one request makes a user type.
pub const TYPING_MS_MAX: i64 = 120_000;
/// Most users that are kept as typing in one room.
const TYPISTS_PER_ROOM_MAX: usize = 1_000;

#[derive(Default)]
struct Room {
    /// Users, and when each stops.
    until: BTreeMap<UserId, i64>,
    /// Number of the volatile change that led here.
    changed: i64,
}

#[derive(Default)]
struct Index {
    /// Rooms by the number of their last change.
    changes: BTreeMap<i64, RoomNum>,
    /// Rooms in which somebody types.
    busy: BTreeSet<RoomNum>,
}

/// The typists of all rooms.
pub(crate) struct Typists {
    rooms: Mutex<HashMap<RoomNum, Room>>,
    index: Mutex<Index>,
    volatile: Arc<Volatile>,
}

impl Typists {
    pub(crate) fn new(volatile: Arc<Volatile>) -> Self {
        Self { rooms: Mutex::default(), index: Mutex::default(), volatile }
    }

    /// Ends what is over. A room that falls silent keeps its number, so that readers learn of the silence.
    pub(crate) fn expire(&self, now_ms: i64) {
        let mut rooms = self.rooms.lock();
        // Where the clock jumped back, nobody types on until it has caught up.
        let latest = now_ms.saturating_add(TYPING_MS_MAX);
        for until in rooms.values_mut().flat_map(|room| room.until.values_mut()) {
            *until = (*until).min(latest);
        }
        let over: Vec<RoomNum> = rooms
            .iter()
            .filter(|(_, room)| room.until.values().any(|until| *until <= now_ms))
            .map(|(room, _)| *room)
            .collect();
        for number in over {
            if let Some(room) = rooms.get_mut(&number) {
                room.until.retain(|_, until| *until > now_ms);
                self.change(number, room);
            }
        }
    }

    fn change(&self, number: RoomNum, room: &mut Room) {
        self.volatile.change(VolatileChange::Typing(number), |changed| {
            let mut index = self.index.lock();
            index.changes.remove(&room.changed);
            index.changes.insert(changed, number);
            match room.until.is_empty() {
                true => index.busy.remove(&number),
                false => index.busy.insert(number),
            };
            room.changed = changed;
        });
    }

    fn set(&self, room: RoomNum, user: &UserId, until: Option<i64>) {
        let mut rooms = self.rooms.lock();
        if until.is_none() && !rooms.get(&room).is_some_and(|room| room.until.contains_key(user)) {
            return;
        }
        let entry = rooms.entry(room).or_default();
        let before: usize = entry.until.len();
        match until {
            Some(_) if before >= TYPISTS_PER_ROOM_MAX => return,
            Some(until) => entry.until.insert(user.clone(), until),
            None => entry.until.remove(user),
        };
        if entry.until.len() != before {
            self.change(room, entry);
        }
    }
}

/// Whose membership changes does not type: whoever leaves would go on until the time is over.
impl Follower for Typists {
    fn committed(&self, _first: StreamPosition, entries: &[StreamEntry]) {
        for entry in entries.iter().filter(|entry| entry.kind == StreamKind::Event) {
            if let (Some(room), Some(user)) = (entry.room, &entry.user) {
                self.set(room, user, None);
            }
        }
    }
}

impl Users {
    /// A user types in a room for `timeout_ms`, at most two minutes; `None` stops it. Whether the user is in the room
    /// is for the caller to check.
    pub fn set_typing(&self, room: RoomNum, user: &UserId, timeout_ms: Option<i64>) {
        let until = timeout_ms.map(|timeout| self.now().saturating_add(timeout.clamp(0, TYPING_MS_MAX)));
        self.typing.set(room, user, until);
    }

    /// Who types in a room now.
    pub fn typing_in(&self, room: RoomNum) -> BTreeSet<UserId> {
        let now = self.now();
        let rooms = self.typing.rooms.lock();
        let until = rooms.get(&room).map(|room| &room.until);
        until.into_iter().flatten().filter(|(_, until)| **until > now).map(|(user, _)| user.clone()).collect()
    }

    /// Whether in any of some rooms somebody types, or it changed who does after the volatile number `since`.
    pub fn any_typing(&self, is_one: impl Fn(RoomNum) -> bool, since: i64) -> bool {
        let index = self.typing.index.lock();
        let changed = index.changes.range(since.saturating_add(1)..).map(|(_, room)| room);
        index.busy.iter().chain(changed).any(|room| is_one(*room))
    }

    /// The rooms in which it changed who types, after the volatile number `since`.
    pub fn rooms_typed_since(&self, since: i64) -> Vec<RoomNum> {
        self.typing.index.lock().changes.range(since.saturating_add(1)..).map(|(_, room)| *room).collect()
    }

    /// Who types in a room, if that changed after the volatile number `since`.
    pub fn typing_since(&self, room: RoomNum, since: i64) -> Option<BTreeSet<UserId>> {
        let changed = self.typing.rooms.lock().get(&room).is_some_and(|room| room.changed > since);
        changed.then(|| self.typing_in(room))
    }
}
