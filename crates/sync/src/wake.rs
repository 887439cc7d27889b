//! Who waits for news, and how they are woken: a waiter first marks what it has seen, then reads, then waits for a
//! later mark, so that no commit between reading and waiting is missed.
//!
//! Followers are told of a commit before the watermark moves past it. A waiter that was woken, or that came, in between
//! would read too little and never be woken again for what it missed. Therefore every reader first lets the watermark
//! come to the last position that was told ([`Waker::told`]).

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rooms::Rooms;
use store::{Follower, RoomNum, StreamEntry, StreamKind, StreamPosition, UserId};
use tokio::sync::watch;
use users::volatile::{VolatileChange, VolatileFollower};

use crate::changes::Changes;
use crate::known::Known;

/// The waiting syncs, by user.
#[derive(Default)]
pub struct Waker {
    users: Mutex<HashMap<UserId, watch::Sender<u64>>>,
    /// Position of the last receipt of each room since the start of the process.
    receipts: Mutex<HashMap<RoomNum, StreamPosition>>,
    /// The last position of which this follower has been told.
    told: AtomicI64,
}

/// One waiting sync.
pub struct Waiting {
    waker: Arc<Waker>,
    user: UserId,
    marks: watch::Receiver<u64>,
}

impl Waker {
    /// Begins to wait for news of a user.
    pub fn register(self: &Arc<Self>, user: &UserId) -> Waiting {
        let mut users = self.users.lock();
        let marks = users.entry(user.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe();
        Waiting { waker: Arc::clone(self), user: user.clone(), marks }
    }

    /// The last position of which waiters have been, or are being, told. Everything for which a waiter was woken before
    /// this call is at or before it.
    pub fn told(&self) -> StreamPosition {
        StreamPosition(self.told.load(Ordering::SeqCst))
    }

    /// How many users have a waiting sync.
    pub fn n_waiting(&self) -> usize {
        self.users.lock().len()
    }

    /// The position of the last receipt in a room, if one came since the start of the process.
    pub fn last_receipt(&self, room: RoomNum) -> Option<StreamPosition> {
        self.receipts.lock().get(&room).copied()
    }

    fn wake(&self, user: &UserId) {
        if let Some(marks) = self.users.lock().get(user) {
            marks.send_modify(|mark| *mark += 1);
        }
    }

    fn wake_members(&self, members: &BTreeSet<UserId>) {
        let users = self.users.lock();
        if users.len() < members.len() {
            for (_, marks) in users.iter().filter(|(user, _)| members.contains(*user)) {
                marks.send_modify(|mark| *mark += 1);
            }
            return;
        }
        for marks in members.iter().filter_map(|user| users.get(user)) {
            marks.send_modify(|mark| *mark += 1);
        }
    }

    fn wake_all(&self) {
        for marks in self.users.lock().values() {
            marks.send_modify(|mark| *mark += 1);
        }
    }

    fn wake_room(&self, rooms: &Rooms, room: RoomNum) {
        match rooms.local_members(room) {
            Some(members) => self.wake_members(&members),
            // Not in memory: whoever is concerned loads it.
            None => self.wake_all(),
        }
    }

    /// Wakes whoever shares a room with a user, and others who share one with that user's server.
    fn wake_circles(&self, rooms: &Rooms, user: &UserId) {
        match rooms.local_circles(user) {
            Some(circles) => circles.iter().for_each(|members| self.wake_members(members)),
            // Whoever shares a room with the user may share one that is not in memory.
            None => self.wake_all(),
        }
    }
}

impl Waiting {
    /// Marks everything that has happened so far as seen; what is read afterwards is at least as new.
    pub fn mark_seen(&mut self) {
        self.marks.borrow_and_update();
    }

    /// Waits until something has happened since the last mark.
    pub async fn changed(&mut self) {
        // The sender lives as long as this waiter is registered.
        drop(self.marks.changed().await);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut users = self.waker.users.lock();
        // This receiver is still counted.
        if users.get(&self.user).is_some_and(|marks| marks.receiver_count() <= 1) {
            users.remove(&self.user);
        }
    }
}

/// Wakes the syncs that a commit or a volatile change concerns.
pub struct WakeFollower {
    /// The waiting syncs.
    pub waker: Arc<Waker>,
    /// Who is in which room.
    pub rooms: Weak<Rooms>,
    /// What changed last.
    pub(crate) changes: Arc<Changes>,
    /// What is kept in memory.
    pub(crate) known: Arc<Known>,
}

impl Follower for WakeFollower {
    fn committed(&self, first: StreamPosition, entries: &[StreamEntry]) {
        let Some(rooms) = self.rooms.upgrade() else { return };
        let last = first.0 + i64::try_from(entries.len()).unwrap_or(0) - 1;
        // Before anyone is woken: whoever wakes must see it.
        self.waker.told.fetch_max(last, Ordering::SeqCst);
        for (pos, entry) in (first.0..).zip(entries) {
            self.changes.note(StreamPosition(pos), entry);
            match (entry.kind, entry.number) {
                // A private receipt wakes its user only, so its room stands in the number.
                (StreamKind::Receipt, Some(room)) => {
                    self.waker.receipts.lock().insert(RoomNum(room), StreamPosition(pos));
                }
                (StreamKind::RoomPurged, _) => self.known.purged(),
                _ => {}
            }
        }
        for entry in entries {
            if let Some(user) = &entry.user {
                self.waker.wake(user);
            }
            match (entry.kind, &entry.user, entry.room) {
                (StreamKind::DeviceList, Some(user), _) => self.waker.wake_circles(&rooms, user),
                (_, _, Some(room)) => self.waker.wake_room(&rooms, room),
                _ => {}
            }
        }
    }
}

impl VolatileFollower for WakeFollower {
    fn changed(&self, _number: i64, change: VolatileChange<'_>) {
        let Some(rooms) = self.rooms.upgrade() else { return };
        match change {
            VolatileChange::Typing(room) => self.waker.wake_room(&rooms, room),
            VolatileChange::Presence(user) => {
                self.waker.wake(user);
                self.waker.wake_circles(&rooms, user);
            }
        }
    }
}
