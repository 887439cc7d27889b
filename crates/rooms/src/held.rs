//! The rooms that are in memory: a bounded number, of which the least recently used go first.

use std::collections::HashMap;
use std::sync::Arc;

use store::RoomNum;

use crate::room::Room;

/// When there are too many, this share of the rooms goes at once, so that looking for them costs little per room.
const SHARE_THAT_GOES: usize = 16;

/// Rooms by number.
pub(crate) struct Held {
    rooms: HashMap<RoomNum, (Arc<Room>, u64)>,
    max: usize,
    /// So many are too many: more than `max` where rooms were in use when they should have gone.
    too_many: usize,
    uses: u64,
    /// Whether any room has gone.
    lacking: bool,
}

impl Held {
    /// Holds about `max` rooms.
    pub fn new(max: usize) -> Self {
        Self { rooms: HashMap::new(), max, too_many: max + 1, uses: 0, lacking: false }
    }

    /// The room, which is in use now.
    pub fn get(&mut self, num: RoomNum) -> Option<&Arc<Room>> {
        self.uses += 1;
        let (room, used) = self.rooms.get_mut(&num)?;
        *used = self.uses;
        Some(room)
    }

    /// The room, for who does not care whether it stays.
    pub fn peek(&self, num: RoomNum) -> Option<&Arc<Room>> {
        self.rooms.get(&num).map(|(room, _)| room)
    }

    /// All rooms.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Room>> {
        self.rooms.values().map(|(room, _)| room)
    }

    /// Whether all rooms that were ever in memory still are.
    pub fn is_whole(&self) -> bool {
        !self.lacking
    }

    /// Adds a room, in the place of what stood under its number.
    pub fn insert(&mut self, room: Arc<Room>) {
        self.uses += 1;
        self.rooms.insert(room.num, (room, self.uses));
        if self.rooms.len() >= self.too_many {
            self.let_go();
        }
    }

    /// Takes a room out.
    pub fn remove(&mut self, num: RoomNum) -> Option<Arc<Room>> {
        self.rooms.remove(&num).map(|(room, _)| room)
    }

    /// Lets go of the rooms that were used least recently. One that somebody holds, or of which something is not yet
    /// written, must stay: a room must not be in memory twice.
    fn let_go(&mut self) {
        let idle = |room: &Arc<Room>| Arc::strong_count(room) == 1 && room.is_written();
        let idle = self.rooms.values().filter(|(room, _)| idle(room)).map(|(room, used)| (*used, room.num));
        let mut idle: Vec<(u64, RoomNum)> = idle.collect();
        let share = self.max / SHARE_THAT_GOES + self.rooms.len().saturating_sub(self.max);
        if share < idle.len() {
            idle.select_nth_unstable(share);
            idle.truncate(share);
        }
        for (_, num) in idle {
            self.rooms.remove(&num);
            self.lacking = true;
        }
        // Where most are in use, looking again at each insertion would help nobody.
        self.too_many = self.max.max(self.rooms.len() + self.max / SHARE_THAT_GOES) + 1;
    }
}
