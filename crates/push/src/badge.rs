//! The number on an app's icon: how much is unread in all of a user's rooms, invites included.
//!
//! A push needs the number for each user it goes to, so what a room counts is kept in memory, with the watermark from
//! before it was read; it holds as long as neither the room nor the user's receipts in it have changed since.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use rooms::unread::ReadMarks;
use store::tables::rooms::MembershipRow;
use store::{RoomNum, StreamPosition, UserId};

use crate::{Badge, Push, Result};

/// Users whose counts are kept.
const USERS_MAX: usize = 10_000;
/// Rooms whose last change is remembered; beyond, everything that is kept is forgotten.
const ROOMS_MAX: usize = 1_000_000;

/// What a user has unread in one room.
#[derive(Clone, Copy)]
struct Counted {
    read_at: StreamPosition,
    unread: i64,
}

/// What is kept of a user.
#[derive(Default)]
struct Kept {
    /// Last changes of receipts, by room.
    receipts: HashMap<RoomNum, StreamPosition>,
    /// Last change of a membership.
    memberships: StreamPosition,
    /// The rooms in which the user is, and how many invites wait; with the watermark from before they were read.
    joined: Option<(StreamPosition, Arc<BTreeSet<RoomNum>>, i64)>,
    counted: HashMap<RoomNum, Counted>,
}

/// What is kept of all users.
pub(crate) struct Badges {
    users: Cache<UserId, Arc<Mutex<Kept>>>,
    rooms: Mutex<HashMap<RoomNum, StreamPosition>>,
}

impl Default for Badges {
    fn default() -> Self {
        Self { users: Cache::new(USERS_MAX), rooms: Mutex::default() }
    }
}

impl Badges {
    /// Something happened in a room.
    pub fn room_changed(&self, room: RoomNum, pos: StreamPosition) {
        let mut rooms = self.rooms.lock();
        if rooms.len() >= ROOMS_MAX && !rooms.contains_key(&room) {
            self.users.clear();
            rooms.clear();
        }
        rooms.insert(room, pos);
    }

    /// A user's receipt in a room moved.
    pub fn read(&self, user: &UserId, room: RoomNum, pos: StreamPosition) {
        if let Some(kept) = self.users.get(user) {
            kept.lock().receipts.insert(room, pos);
        }
    }

    /// Whether a user had read all of a room, and has after what happened at a position, which is nothing that could be
    /// unread: then the number is what it was. To be asked before the room counts as changed by it.
    pub fn stays_read(&self, user: &UserId, room: RoomNum, pos: StreamPosition) -> bool {
        let Some(kept) = self.users.get(user).filter(|kept| self.known(kept, room) == Some(0)) else { return false };
        if let Some(counted) = kept.lock().counted.get_mut(&room) {
            counted.read_at = pos;
        }
        true
    }

    /// One of a user's memberships changed.
    pub fn moved(&self, user: &UserId, pos: StreamPosition) {
        if let Some(kept) = self.users.get(user) {
            kept.lock().memberships = pos;
        }
    }

    /// A user ignores others than before, or is notified by other rules: all is counted anew.
    pub fn judged_anew(&self, user: &UserId) {
        self.users.remove(user);
    }

    /// A room is gone, or nobody has noted what happened: all that is kept is forgotten.
    pub fn forget(&self) {
        self.users.clear();
    }

    fn of(&self, user: &UserId) -> Arc<Mutex<Kept>> {
        if let Some(kept) = self.users.get(user) {
            return kept;
        }
        let kept = Arc::new(Mutex::new(Kept::default()));
        self.users.insert(user.clone(), Arc::clone(&kept));
        kept
    }

    /// What a room counts, if that is known and up to date.
    fn known(&self, kept: &Mutex<Kept>, room: RoomNum) -> Option<i64> {
        let changed = self.rooms.lock().get(&room).copied().unwrap_or(StreamPosition::ZERO);
        let kept = kept.lock();
        let changed = changed.max(kept.receipts.get(&room).copied().unwrap_or(StreamPosition::ZERO));
        kept.counted.get(&room).filter(|counted| counted.read_at >= changed).map(|counted| counted.unread)
    }
}

impl Push {
    /// How much a user has not read.
    pub(crate) async fn badge(&self, user: &UserId) -> Result<i64> {
        let kept = self.badges.of(user);
        let (joined, invites) = self.rooms_of(user, &kept).await?;
        let mut badge = invites;
        for room in joined.iter() {
            let unread = match self.badges.known(&kept, *room) {
                Some(unread) => unread,
                None => self.count_surely(user, *room, &kept).await?,
            };
            badge += match self.options.badge {
                Badge::Rooms => i64::from(unread > 0),
                Badge::Messages => unread,
            };
        }
        Ok(badge)
    }

    async fn rooms_of(&self, user: &UserId, kept: &Mutex<Kept>) -> Result<(Arc<BTreeSet<RoomNum>>, i64)> {
        {
            let kept = kept.lock();
            if let Some((_, joined, invites)) = kept.joined.as_ref().filter(|joined| joined.0 >= kept.memberships) {
                return Ok((Arc::clone(joined), *invites));
            }
        }
        let read_at = self.store.watermark();
        let rows = self.rooms.memberships(user).await?;
        let with = |membership: &'static str| rows.iter().filter(move |row| row.membership == membership);
        let joined: Arc<BTreeSet<RoomNum>> = Arc::new(with("join").map(|row| row.room).collect());
        let mut invites = 0;
        if with("invite").next().is_some() {
            let ignored = self.users.ignored(user).await?;
            invites = i64::try_from(with("invite").filter(|row| !ignored.contains(&row.sender)).count()).unwrap_or(0);
        }
        let mut kept = kept.lock();
        kept.counted.retain(|room, _| joined.contains(room));
        kept.receipts.retain(|room, _| joined.contains(room));
        kept.joined = Some((read_at, Arc::clone(&joined), invites));
        Ok((joined, invites))
    }

    /// What a room counts: nothing if it cannot be told, so that one broken room does not silence the others.
    async fn count_surely(&self, user: &UserId, room: RoomNum, kept: &Mutex<Kept>) -> Result<i64> {
        let read_at = self.store.watermark();
        match self.count(user, room, kept).await {
            Err(error) if !error.will_pass() => {
                tracing::warn!(%user, room = room.0, %error, "what is unread in a room cannot be counted");
                kept.lock().counted.insert(room, Counted { read_at, unread: 0 });
                Ok(0)
            }
            counted => counted,
        }
    }

    async fn count(&self, user: &UserId, room: RoomNum, kept: &Mutex<Kept>) -> Result<i64> {
        let read_at = self.store.watermark();
        let row = self.rooms.membership_row(room, user).await?.filter(|row| row.membership == "join");
        let (Some(row), Some(held)) = (row, self.rooms.room_by_num(room).await?) else { return Ok(0) };
        let marks = self.marks(&row).await?;
        let ignored = self.ignored(user).await?;
        let unread = self.rooms.unread(&held, &row, &marks, &ignored).await?.total().notifications;
        kept.lock().counted.insert(room, Counted { read_at, unread });
        Ok(unread)
    }

    /// Whom a user ignores.
    pub(crate) async fn ignored(&self, user: &UserId) -> Result<BTreeSet<String>> {
        Ok(self.users.ignored(user).await?.iter().map(ToString::to_string).collect())
    }

    /// How far a user has read a room.
    pub(crate) async fn marks(&self, row: &MembershipRow) -> Result<ReadMarks> {
        Ok(ReadMarks::of(&self.users.receipts_of(row.room, &row.user_id).await?))
    }
}
