//! Which members a device has been told of, so that lazily loaded ones are not repeated. In memory only: what is
//! forgotten is sent again, which is harmless.
//!
//! An answer may be lost. Then the client asks again with the token that it has, and what it was told after that token it
//! does not know. So each telling is remembered with the position of its answer, and holds for requests that have come as
//! far as that.

use std::collections::HashMap;

use parking_lot::Mutex;
use store::{DeviceId, RoomNum, StreamPosition, UserId};

/// Most (device, room) pairs that are remembered.
const PAIRS_MAX: usize = 20_000;

type Key = (UserId, DeviceId, RoomNum);

/// What a device has been told of a room.
#[derive(Default)]
struct Told {
    /// The members, and the position up to which the answer went that told of each.
    members: HashMap<UserId, StreamPosition>,
    newest: StreamPosition,
}

/// What devices have been told.
#[derive(Default)]
pub struct LazyMembers {
    told: Mutex<HashMap<Key, Told>>,
}

impl LazyMembers {
    /// A device that has come as far as `since` is to be answered: it has not had any later answer.
    pub fn begin(&self, user: &UserId, device: &DeviceId, room: RoomNum, since: StreamPosition) {
        let mut told = self.told.lock();
        let Some(told) = told.get_mut(&(user.clone(), device.clone(), room)) else { return };
        if told.newest > since {
            told.members.retain(|_, pos| *pos <= since);
            told.newest = since;
        }
    }

    /// Forgets what a device was told of a room: it starts anew.
    pub fn forget(&self, user: &UserId, device: &DeviceId, room: RoomNum) {
        self.told.lock().remove(&(user.clone(), device.clone(), room));
    }

    /// Whether the device is told of this member for the first time, in an answer that goes up to `upto`.
    pub fn tell(&self, user: &UserId, device: &DeviceId, room: RoomNum, member: &UserId, upto: StreamPosition) -> bool {
        let mut told = self.told.lock();
        let key = (user.clone(), device.clone(), room);
        if told.len() >= PAIRS_MAX && !told.contains_key(&key) {
            told.clear();
        }
        let told = told.entry(key).or_default();
        if told.members.contains_key(member) {
            return false;
        }
        told.members.insert(member.clone(), upto);
        told.newest = told.newest.max(upto);
        true
    }
}
