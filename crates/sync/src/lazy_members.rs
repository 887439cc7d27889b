//! Which members a device has been told of, so that lazily loaded ones are not repeated. In memory only: what is
//! forgotten is sent again, which is harmless.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use store::{DeviceId, RoomNum, UserId};

/// Most (device, room) pairs that are remembered.
const PAIRS_MAX: usize = 20_000;

type Key = (UserId, DeviceId, RoomNum);

/// What devices have been told.
#[derive(Default)]
pub struct LazyMembers {
    told: Mutex<HashMap<Key, HashSet<UserId>>>,
}

impl LazyMembers {
    /// Forgets what a device was told of a room: it starts anew.
    pub fn forget(&self, user: &UserId, device: &DeviceId, room: RoomNum) {
        self.told.lock().remove(&(user.clone(), device.clone(), room));
    }

    /// Whether the device is being told of this member for the first time.
    pub fn tell(&self, user: &UserId, device: &DeviceId, room: RoomNum, member: &UserId) -> bool {
        let mut told = self.told.lock();
        if told.len() >= PAIRS_MAX {
            told.clear();
        }
        told.entry((user.clone(), device.clone(), room)).or_default().insert(member.clone())
    }
}
