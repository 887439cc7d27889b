//! What syncs read again and again, kept in memory until the stream says that it changed.
//!
//! Each thing is kept with the watermark from before it was read: all commits up to there are in it. It holds as long as
//! the last change of its kind ([`crate::changes`]) is not later.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use rooms::unread::ReadMarks;
use rooms::{Event, Room, Roots};
use serde_json::{Value, json};
use store::tables::core::StreamRow;
use store::tables::rooms::MembershipRow;
use store::{DeviceId, EventNum, Read, RoomNum, StreamPosition, UserId};

use crate::json::Object;
use crate::sliding::config::Rules;
use crate::{Error, Filter, Sync};

/// Bytes of memory for memberships.
const MEMBERSHIP_BYTES_MAX: u64 = 16 << 20;
/// Bytes that one membership takes, about.
const MEMBERSHIP_BYTES: usize = 400;
/// Most users, devices or pairs of user and room of whom one thing is kept.
const KEPT_MAX: usize = 10_000;
/// Most states and pieces of timelines that are kept.
const ROOM_STATES_MAX: usize = 10_000;
/// Most users of whom the order of their rooms is kept.
const ORDERS_MAX: usize = 1_000;
/// If more rooms than this moved, their order is made anew.
const MOVED_MAX: usize = 32;
/// Most sets of rules that are kept.
const RULES_MAX: usize = 2_000;
/// Most pieces of timelines that are kept.
const PIECES_MAX: usize = 2_000;

/// Most changed rooms of all users that are looked through for one user's.
const CHANGED_MAX: usize = 1_000;
/// Most entries of the stream that are read again to find out which rooms changed.
const RECALLED_MAX: i64 = 20_000;

/// Type of the account data that names direct chats.
const DIRECT: &str = "m.direct";
/// Events read at a time in search of one that moves a room up.
const BUMPS_CHUNK: u32 = 50;
/// Most events looked at in search of it.
const BUMPS_SCANNED_MAX: u32 = 500;

/// Something that was read when the watermark stood at `read_at` or later.
#[derive(Clone)]
struct Kept<T> {
    read_at: StreamPosition,
    value: T,
}

/// A user's memberships.
pub(crate) struct Memberships {
    /// By room.
    pub rows: BTreeMap<RoomNum, MembershipRow>,
    /// Rooms by the position of the last change, oldest first.
    by_pos: Vec<(StreamPosition, RoomNum)>,
    /// Those of the rooms to which the user is not joined.
    pub others: Vec<RoomNum>,
    /// Whether all rooms to which the user is joined were taken into memory.
    held: AtomicBool,
}

impl Memberships {
    fn new(rows: Vec<MembershipRow>) -> Self {
        let mut by_pos: Vec<_> = rows.iter().map(|row| (row.pos, row.room)).collect();
        by_pos.sort_unstable();
        let others = rows.iter().filter(|row| row.membership != "join").map(|row| row.room).collect();
        let rows = rows.into_iter().map(|row| (row.room, row)).collect();
        Self { rows, by_pos, others, held: AtomicBool::new(false) }
    }

    /// The position of the last change.
    pub fn newest(&self) -> StreamPosition {
        self.by_pos.last().map_or(StreamPosition::ZERO, |(pos, _)| *pos)
    }

    /// The rooms in which the membership changed after a position.
    pub fn since(&self, since: StreamPosition) -> impl Iterator<Item = RoomNum> {
        self.by_pos.iter().rev().take_while(move |(pos, _)| *pos > since).map(|(_, room)| *room)
    }

    /// The rooms to which the user is joined.
    pub fn joined(&self) -> impl Iterator<Item = &MembershipRow> {
        self.rows.values().filter(|row| row.membership == "join")
    }
}

/// The users that a user ignores.
pub(crate) struct Ignored {
    /// Their ids.
    pub users: BTreeSet<String>,
    /// Where the list last changed.
    pub pos: StreamPosition,
}

/// A room by its newest event: of two, the later comes first.
pub(crate) type Newest = (Reverse<StreamPosition>, RoomNum);

/// The rooms to which a user is joined.
pub(crate) struct Joined {
    /// Of these memberships.
    of: Arc<Memberships>,
    /// In the order of their newest events, whoever may see these.
    pub rooms: Vec<Newest>,
}

#[derive(Clone)]
struct Weight;

impl Weighter<UserId, Kept<Arc<Memberships>>> for Weight {
    fn weight(&self, _user: &UserId, kept: &Kept<Arc<Memberships>>) -> u64 {
        u64::try_from((kept.value.rows.len() + 4) * MEMBERSHIP_BYTES).unwrap_or(u64::MAX)
    }
}

type Piece = (RoomNum, StreamPosition, StreamPosition, u32);
/// A piece of a timeline: its first and its last event.
type Ends = (EventNum, EventNum);

/// What is kept.
pub(crate) struct Known {
    memberships: Cache<UserId, Kept<Arc<Memberships>>, Weight>,
    ignored: Cache<UserId, Kept<Arc<Ignored>>>,
    direct: Cache<UserId, Kept<Arc<BTreeSet<String>>>>,
    orders: Cache<UserId, Kept<Arc<Joined>>>,
    /// What connections of sliding sync want of rooms: few sets of rules, which thousands of rooms share.
    rules: Cache<Arc<Rules>, Arc<Rules>>,
    bumps: Cache<RoomNum, (StreamPosition, StreamPosition)>,
    keys: Cache<(UserId, DeviceId), Kept<Arc<str>>>,
    marks: Cache<(UserId, RoomNum), Kept<Arc<ReadMarks>>>,
    filters: Cache<(UserId, String), Arc<Filter>>,
    /// Up to where a device has no to-device messages.
    to_device: Cache<(UserId, DeviceId), StreamPosition>,
    /// A room's state as of a position that is committed never changes.
    states: Cache<(RoomNum, StreamPosition), Roots>,
    /// Neither does which events a committed span holds.
    pieces: Cache<Piece, Arc<[EventNum]>>,
    /// Up to where no event relates to any of a piece.
    childless: Cache<Ends, StreamPosition>,
}

impl Default for Known {
    fn default() -> Self {
        let users = usize::try_from(MEMBERSHIP_BYTES_MAX).unwrap_or(KEPT_MAX) / (8 * MEMBERSHIP_BYTES);
        Self {
            memberships: Cache::with_weighter(users, MEMBERSHIP_BYTES_MAX, Weight),
            ignored: Cache::new(KEPT_MAX),
            direct: Cache::new(KEPT_MAX),
            orders: Cache::new(ORDERS_MAX),
            rules: Cache::new(RULES_MAX),
            bumps: Cache::new(ROOM_STATES_MAX),
            keys: Cache::new(KEPT_MAX),
            marks: Cache::new(KEPT_MAX),
            filters: Cache::new(KEPT_MAX),
            to_device: Cache::new(KEPT_MAX),
            states: Cache::new(ROOM_STATES_MAX),
            pieces: Cache::new(PIECES_MAX),
            childless: Cache::new(PIECES_MAX),
        }
    }
}

impl Known {
    /// The same rules, in the one place where they are kept: what is equal is then mostly in the same place, too.
    pub fn shared(&self, rules: &Arc<Rules>) -> Arc<Rules> {
        if let Some(kept) = self.rules.get(rules) {
            return kept;
        }
        self.rules.insert(Arc::clone(rules), Arc::clone(rules));
        Arc::clone(rules)
    }

    /// A room was purged: states and timelines are no longer what they were.
    pub fn purged(&self) {
        self.states.clear();
        self.pieces.clear();
        self.bumps.clear();
    }
}

impl Sync {
    /// A user's memberships, all changes up to the watermark included.
    pub(crate) async fn memberships(&self, user: &UserId) -> Result<Arc<Memberships>, Error> {
        let changed = self.changes.user(user).memberships;
        if let Some(kept) = self.known.memberships.get(user).filter(|kept| kept.read_at >= changed) {
            return Ok(kept.value);
        }
        let read_at = self.store.watermark();
        let value = Arc::new(Memberships::new(self.rooms.memberships(user).await?));
        self.known.memberships.insert(user.clone(), Kept { read_at, value: Arc::clone(&value) });
        Ok(value)
    }

    /// Takes all rooms to which a user is joined into memory, if they were not taken before. A room in memory wakes its
    /// members, and nobody else.
    pub(crate) async fn hold_rooms(&self, memberships: &Memberships) -> Result<(), Error> {
        if !memberships.held.load(Ordering::Acquire) {
            let joined: Vec<RoomNum> = memberships.joined().map(|row| row.room).collect();
            self.rooms.hold(&joined).await?;
            memberships.held.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// The memberships of a user whose rooms are in memory already, if they are.
    pub(crate) fn ready(&self, user: &UserId) -> Option<Arc<Memberships>> {
        let kept = self.known.memberships.get(user)?;
        kept.value.held.load(Ordering::Acquire).then_some(kept.value)
    }

    /// Sees to it that what happens in a user's rooms wakes the user. `ready` are the memberships for which that was so
    /// before the last look: if these are others, it returns false, and the user has to look once more before waiting, since
    /// what happened meanwhile may have woken nobody. Who does not wait need not have thousands of rooms loaded.
    pub(crate) async fn may_wait(
        &self,
        ready: &mut Option<Arc<Memberships>>,
        memberships: Arc<Memberships>,
    ) -> Result<bool, Error> {
        if ready.as_ref().is_some_and(|ready| Arc::ptr_eq(ready, &memberships)) {
            return Ok(true);
        }
        self.hold_rooms(&memberships).await?;
        *ready = Some(memberships);
        Ok(false)
    }

    /// The rooms in which something changed after `since`; `None` if that is not known, or if they are more than `max`. What
    /// happened before this process began to follow the stream is looked up there, as far as that is not too much.
    pub(crate) async fn rooms_since(&self, since: StreamPosition, max: usize) -> Result<Option<Vec<RoomNum>>, Error> {
        if let Some(upto) = self.changes.rooms_known_from(since)
            && upto.0 - since.0 <= RECALLED_MAX
        {
            let read = Read::prefix::<StreamRow>(Vec::new()).after(since).up_to(upto);
            let rows: Vec<StreamRow> = self.store.all(read).await?;
            // Where positions were jumped over, nobody knows what they stood for.
            if i64::try_from(rows.len()) == Ok(upto.0 - since.0) {
                self.changes.recall(since, upto, &rows);
            }
        }
        Ok(self.changes.rooms_since(since, max))
    }

    /// The rooms to which a user is joined, in the order of their newest events. Of those that moved since it was last asked
    /// for, each is put into its new place.
    pub(crate) async fn joined_by_newest(
        &self,
        user: &UserId,
        memberships: &Arc<Memberships>,
    ) -> Result<Arc<Joined>, Error> {
        let read_at = self.store.watermark();
        let kept = self.known.orders.get(user).filter(|kept| Arc::ptr_eq(&kept.value.of, memberships));
        let moved = kept.as_ref().and_then(|kept| self.changes.rooms_since(kept.read_at, CHANGED_MAX));
        let is_joined = |room: &RoomNum| memberships.rows.get(room).is_some_and(|row| row.membership == "join");
        let moved = moved.map(|rooms| rooms.into_iter().filter(is_joined).collect::<Vec<_>>());
        let value = match (kept, moved) {
            (Some(kept), Some(moved)) if moved.is_empty() => kept.value,
            (Some(kept), Some(moved)) if moved.len() <= MOVED_MAX => {
                let mut rooms = kept.value.rooms.clone();
                rooms.retain(|(_, room)| !moved.contains(room));
                for newest in self.newest_of(&moved).await? {
                    let place = rooms.binary_search(&newest).unwrap_or_else(|place| place);
                    rooms.insert(place, newest);
                }
                Arc::new(Joined { of: Arc::clone(memberships), rooms })
            }
            _ => {
                let joined: Vec<RoomNum> = memberships.joined().map(|row| row.room).collect();
                let mut rooms = self.newest_of(&joined).await?;
                rooms.sort_unstable();
                Arc::new(Joined { of: Arc::clone(memberships), rooms })
            }
        };
        self.known.orders.insert(user.clone(), Kept { read_at, value: Arc::clone(&value) });
        Ok(value)
    }

    async fn newest_of(&self, rooms: &[RoomNum]) -> Result<Vec<Newest>, Error> {
        let newest = self.rooms.last_positions(rooms).await?.into_iter().zip(rooms);
        Ok(newest.filter_map(|(newest, room)| Some((Reverse(newest?), *room))).collect())
    }

    /// The users that a user ignores.
    pub(crate) async fn ignored(&self, user: &UserId) -> Result<Arc<Ignored>, Error> {
        let changed = self.changes.user(user).account_data;
        if let Some(kept) = self.known.ignored.get(user).filter(|kept| kept.read_at >= changed) {
            return Ok(kept.value);
        }
        let read_at = self.store.watermark();
        let (ignored, pos) = self.users.ignored_since(user).await?;
        let value = Arc::new(Ignored { users: ignored.iter().map(ToString::to_string).collect(), pos });
        self.known.ignored.insert(user.clone(), Kept { read_at, value: Arc::clone(&value) });
        Ok(value)
    }

    /// The ids of a user's direct chats, as the user's clients keep them.
    pub(crate) async fn direct(&self, user: &UserId) -> Result<Arc<BTreeSet<String>>, Error> {
        let changed = self.changes.user(user).account_data;
        if let Some(kept) = self.known.direct.get(user).filter(|kept| kept.read_at >= changed) {
            return Ok(kept.value);
        }
        let read_at = self.store.watermark();
        let stored = self.users.account_data(user, "", DIRECT).await?.unwrap_or_default();
        let by_user: BTreeMap<String, Value> = serde_json::from_str(&stored).unwrap_or_default();
        let rooms = by_user.values().filter_map(Value::as_array).flatten().filter_map(Value::as_str);
        let value = Arc::new(rooms.map(str::to_owned).collect::<BTreeSet<_>>());
        self.known.direct.insert(user.clone(), Kept { read_at, value: Arc::clone(&value) });
        Ok(value)
    }

    /// The position of a room's newest event of these types up to and including `upto`, if it is among the last ones.
    pub(crate) async fn bumped(
        &self,
        room: &Room,
        upto: StreamPosition,
        kinds: &[&str],
    ) -> Result<Option<StreamPosition>, Error> {
        let (from, known) = self.known.bumps.get(&room.num).filter(|(from, _)| *from <= upto).unwrap_or_default();
        let (mut at, mut looked_at, mut found) = (upto, 0, None);
        while found.is_none() && looked_at < BUMPS_SCANNED_MAX {
            let events = self.newest(room, from, at, BUMPS_CHUNK).await?;
            let Some(oldest) = events.last() else { break };
            (at, looked_at) = (StreamPosition(oldest.pos().0 - 1), looked_at + BUMPS_CHUNK);
            found = events.iter().find(|event| kinds.contains(&event.pdu.kind.as_str())).map(|event| event.pos());
        }
        let found = found.unwrap_or(known);
        self.known.bumps.insert(room.num, (upto, found));
        Ok((found > StreamPosition::ZERO).then_some(found))
    }

    /// The members of an answer that count a device's keys: they are in every answer, zeros included, since a client that
    /// is not told does not upload (CY13).
    pub(crate) async fn key_counts(&self, user: &UserId, device: &DeviceId) -> Result<Arc<str>, Error> {
        let changed = self.changes.user(user).keys;
        let key = (user.clone(), device.clone());
        if let Some(kept) = self.known.keys.get(&key).filter(|kept| kept.read_at >= changed) {
            return Ok(kept.value);
        }
        let read_at = self.store.watermark();
        let counts = self.users.one_time_key_counts(user, device).await?;
        let unused = json!(self.users.unused_fallback_keys(user, device).await?).to_string();
        let mut object = Object::new();
        object.raw("device_one_time_keys_count", &json!(counts).to_string());
        object.raw("device_unused_fallback_key_types", &unused);
        object.raw("org.matrix.msc2732.device_unused_fallback_key_types", &unused);
        let value: Arc<str> = object.finish().trim_matches(['{', '}']).into();
        self.known.keys.insert(key, Kept { read_at, value: Arc::clone(&value) });
        Ok(value)
    }

    /// How far a user has read a room.
    pub(crate) async fn marks(&self, user: &UserId, room: RoomNum) -> Result<Arc<ReadMarks>, Error> {
        let changed = self.changes.user(user).receipts;
        let key = (user.clone(), room);
        if let Some(kept) = self.known.marks.get(&key).filter(|kept| kept.read_at >= changed) {
            return Ok(kept.value);
        }
        let read_at = self.store.watermark();
        let value = Arc::new(ReadMarks::of(&self.users.receipts_of(room, user).await?));
        self.known.marks.insert(key, Kept { read_at, value: Arc::clone(&value) });
        Ok(value)
    }

    /// A stored filter. Its id comes of its text, so it never changes.
    pub(crate) async fn stored_filter(&self, user: &UserId, id: &str) -> Result<Arc<Filter>, Error> {
        let key = (user.clone(), id.to_owned());
        if let Some(filter) = self.known.filters.get(&key) {
            return Ok(filter);
        }
        let text = self.users.filter(user, id).await?;
        let filter = Arc::new(Filter::parse(&text.ok_or_else(|| Error::UnknownFilter(id.to_owned()))?)?);
        self.known.filters.insert(key, Arc::clone(&filter));
        Ok(filter)
    }

    /// Whether no to-device message waits for a device.
    pub(crate) fn has_no_messages(&self, user: &UserId, device: &DeviceId) -> bool {
        let key = (user.clone(), device.clone());
        self.known.to_device.get(&key).is_some_and(|pos| pos >= self.changes.user(user).to_device)
    }

    /// Notes that a device has no to-device messages up to a position.
    pub(crate) fn note_no_messages(&self, user: &UserId, device: &DeviceId, upto: StreamPosition) {
        self.known.to_device.insert((user.clone(), device.clone()), upto);
    }

    /// Whether any event may relate to one of these, which follow each other in a room's timeline.
    pub(crate) async fn any_children(&self, room: &Room, events: &[Arc<Event>]) -> Result<bool, Error> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return Ok(false) };
        let (ends, newest) = ((first.num(), last.num()), room.head().row.last_pos);
        if self.known.childless.get(&ends).is_some_and(|upto| upto >= newest) {
            return Ok(false);
        }
        let any = self.rooms.any_children(room, events).await?;
        if !any {
            self.known.childless.insert(ends, newest);
        }
        Ok(any)
    }

    /// A room's state as of a committed position.
    pub(crate) async fn state_at(&self, room: &Room, pos: StreamPosition) -> Result<Roots, Error> {
        let head = room.head();
        if head.row.last_pos <= pos {
            return Ok(head.state);
        }
        let read = async { self.rooms.state_at(room, pos).await };
        Ok(self.known.states.get_or_insert_async(&(room.num, pos), read).await?)
    }

    /// The newest events in `(since, upto]`, newest first. Many syncs ask for the same at the same time: one reads.
    pub(crate) async fn newest(
        &self,
        room: &Room,
        since: StreamPosition,
        upto: StreamPosition,
        limit: u32,
    ) -> Result<Vec<Arc<Event>>, Error> {
        let upto = upto.min(room.head().row.last_pos);
        if upto <= since {
            return Ok(Vec::new());
        }
        if let Some(nums) = self.changes.newest(room.num, since, upto, limit as usize) {
            return Ok(self.rooms.events(room, None, &nums).await?);
        }
        let read = async {
            let events = self.rooms.newest(room, since, upto, limit).await?;
            Ok::<Arc<[EventNum]>, Error>(events.iter().map(|event| event.num()).collect())
        };
        let nums = self.known.pieces.get_or_insert_async(&(room.num, since, upto, limit), read).await?;
        Ok(self.rooms.events(room, None, &nums).await?)
    }
}
