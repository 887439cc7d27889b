//! What changed last for whom, in memory: by this a sync knows what it need not read. It only ever says "nothing changed
//! since" of the time since this process follows the stream; of the time before it knows nothing.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};

use parking_lot::Mutex;
use store::tables::core::StreamRow;
use store::{EventNum, RoomNum, StreamEntry, StreamKind, StreamPosition, UserId};

/// Most rooms whose last change is remembered.
const ROOMS_MAX: usize = 100_000;
/// Rooms whose newest events are remembered.
const LIVE_ROOMS_MAX: usize = 10_000;
/// Most events of one room that are.
const LIVE_EVENTS_MAX: usize = 64;
/// Most users whose last changes are remembered.
const USERS_MAX: usize = 100_000;

/// Positions of the last changes of what belongs to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserChanges {
    /// Memberships.
    pub memberships: StreamPosition,
    /// Account data, global and of rooms.
    pub account_data: StreamPosition,
    /// To-device messages.
    pub to_device: StreamPosition,
    /// One-time and fallback keys.
    pub keys: StreamPosition,
    /// The user's own receipts.
    pub receipts: StreamPosition,
    /// Subscriptions to threads.
    pub threads: StreamPosition,
}

impl UserChanges {
    fn all(pos: StreamPosition) -> Self {
        Self { memberships: pos, account_data: pos, to_device: pos, keys: pos, receipts: pos, threads: pos }
    }
}

#[derive(Default)]
struct Inner {
    /// Rooms by their last change, and the other way round. Complete after `rooms_from`.
    rooms: BTreeMap<i64, RoomNum>,
    last: HashMap<RoomNum, i64>,
    rooms_from: i64,
    /// The ends of timelines. A room that is not here had no event after `live_from`.
    live: HashMap<RoomNum, Live>,
    live_from: i64,
    /// Complete after `users_from`.
    users: HashMap<UserId, UserChanges>,
    users_from: StreamPosition,
    device_lists: StreamPosition,
}

/// The end of a room's timeline.
struct Live {
    /// All events after this position are there.
    from: i64,
    /// Oldest first.
    events: VecDeque<(i64, EventNum)>,
}

/// The last changes.
#[derive(Default)]
pub struct Changes {
    inner: Mutex<Inner>,
}

impl Changes {
    /// Says that all that happens after `pos` will be told.
    pub fn begin(&self, pos: StreamPosition) {
        let mut inner = self.inner.lock();
        inner.rooms_from = inner.rooms_from.max(pos.0);
        inner.live_from = inner.live_from.max(pos.0);
        inner.live.clear();
        inner.users_from = inner.users_from.max(pos);
        inner.device_lists = inner.device_lists.max(pos);
    }

    /// Notes a committed stream entry.
    pub fn note(&self, pos: StreamPosition, entry: &StreamEntry) {
        let mut inner = self.inner.lock();
        if let Some(room) = room_of(Some(entry.kind), entry.room, entry.number) {
            inner.note_room(pos.0, room);
            if let (StreamKind::Event, Some(number)) = (entry.kind, entry.number) {
                inner.note_event(pos.0, room, EventNum(number));
            }
        }
        match (entry.kind, &entry.user) {
            (StreamKind::DeviceList, _) => inner.device_lists = pos,
            (StreamKind::RoomPurged, _) => {
                // Whose memberships went with the room is not told.
                inner.users.clear();
                inner.users_from = pos;
                // Nor which of its events are left.
                inner.live.clear();
                inner.live_from = pos.0;
            }
            (kind, Some(user)) => inner.note_user(pos, kind, user),
            _ => {}
        }
    }

    /// The rooms in which something changed after `since`; `None` if that is not known, or if they are more than `max`.
    pub fn rooms_since(&self, since: StreamPosition, max: usize) -> Option<Vec<RoomNum>> {
        let inner = self.inner.lock();
        if since.0 < inner.rooms_from {
            return None;
        }
        let mut changed = inner.rooms.range(since.0 + 1..).map(|(_, room)| *room);
        let rooms: Vec<RoomNum> = changed.by_ref().take(max).collect();
        changed.next().is_none().then_some(rooms)
    }

    /// From where on the rooms that changed are known, if not from `since` on.
    pub fn rooms_known_from(&self, since: StreamPosition) -> Option<StreamPosition> {
        let from = self.inner.lock().rooms_from;
        (since.0 < from).then_some(StreamPosition(from))
    }

    /// Notes what the stream holds in `(since, upto]`: the entries of all these positions, from before what was known.
    pub fn recall(&self, since: StreamPosition, upto: StreamPosition, rows: &[StreamRow]) {
        let mut inner = self.inner.lock();
        if inner.rooms_from != upto.0 || inner.rooms.len() + rows.len() > ROOMS_MAX {
            return;
        }
        for row in rows.iter().rev() {
            let Some(room) = room_of(StreamKind::from_number(row.kind), row.room, row.number) else { continue };
            if let Entry::Vacant(last) = inner.last.entry(room) {
                last.insert(row.pos.0);
                inner.rooms.insert(row.pos.0, room);
            }
        }
        inner.rooms_from = since.0;
    }

    /// The newest events in `(since, upto]` of a room's timeline, newest first, at most `limit`; `None` if that is not
    /// known.
    pub fn newest(
        &self,
        room: RoomNum,
        since: StreamPosition,
        upto: StreamPosition,
        limit: usize,
    ) -> Option<Vec<EventNum>> {
        let inner = self.inner.lock();
        let Some(live) = inner.live.get(&room) else { return (since.0 >= inner.live_from).then(Vec::new) };
        let within =
            live.events.iter().rev().skip_while(|(pos, _)| *pos > upto.0).take_while(|(pos, _)| *pos > since.0);
        let events: Vec<EventNum> = within.take(limit).map(|(_, event)| *event).collect();
        (events.len() == limit || since.0 >= live.from).then_some(events)
    }

    /// The last changes of what belongs to a user, or the position before which they lie.
    pub fn user(&self, user: &UserId) -> UserChanges {
        let inner = self.inner.lock();
        inner.users.get(user).copied().unwrap_or_else(|| UserChanges::all(inner.users_from))
    }

    /// The last change of any device list.
    pub fn device_lists(&self) -> StreamPosition {
        self.inner.lock().device_lists
    }
}

/// The room that an entry is about. A private receipt wakes its user only, so its room stands in the number.
fn room_of(kind: Option<StreamKind>, room: Option<RoomNum>, number: Option<i64>) -> Option<RoomNum> {
    match kind {
        Some(StreamKind::Receipt) => room.or(number.map(RoomNum)),
        _ => room,
    }
}

impl Inner {
    fn note_room(&mut self, pos: i64, room: RoomNum) {
        if let Some(before) = self.last.insert(room, pos) {
            self.rooms.remove(&before);
        }
        self.rooms.insert(pos, room);
        if self.rooms.len() > ROOMS_MAX
            && let Some((oldest, room)) = self.rooms.pop_first()
        {
            self.last.remove(&room);
            self.rooms_from = oldest;
        }
    }

    fn note_event(&mut self, pos: i64, room: RoomNum, event: EventNum) {
        if self.live.len() >= LIVE_ROOMS_MAX && !self.live.contains_key(&room) {
            self.live.clear();
            self.live_from = pos - 1;
        }
        let from = self.live_from;
        let live = self.live.entry(room).or_insert_with(|| Live { from, events: VecDeque::new() });
        live.events.push_back((pos, event));
        if live.events.len() > LIVE_EVENTS_MAX
            && let Some((oldest, _)) = live.events.pop_front()
        {
            live.from = oldest;
        }
    }

    fn note_user(&mut self, pos: StreamPosition, kind: StreamKind, user: &UserId) {
        if self.users.len() >= USERS_MAX && !self.users.contains_key(user) {
            self.users.clear();
            self.users_from = pos;
        }
        let from = self.users_from;
        let changes = self.users.entry(user.clone()).or_insert_with(|| UserChanges::all(from));
        match kind {
            StreamKind::Event | StreamKind::RoomHead | StreamKind::Membership => changes.memberships = pos,
            StreamKind::AccountData => changes.account_data = pos,
            StreamKind::ToDevice => changes.to_device = pos,
            StreamKind::OneTimeKeys => changes.keys = pos,
            StreamKind::Receipt => changes.receipts = pos,
            StreamKind::ThreadSubscription => changes.threads = pos,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: StreamKind, room: Option<i64>, user: Option<&str>, number: Option<i64>) -> StreamEntry {
        StreamEntry { kind, room: room.map(RoomNum), user: user.map(UserId::from), number }
    }

    #[test]
    fn rooms_are_known_from_the_beginning_on() {
        let changes = Changes::default();
        changes.begin(StreamPosition(10));
        changes.note(StreamPosition(11), &entry(StreamKind::Event, Some(1), None, Some(1)));
        changes.note(StreamPosition(12), &entry(StreamKind::Event, Some(2), None, Some(2)));
        changes.note(StreamPosition(13), &entry(StreamKind::Receipt, None, Some("@a:x"), Some(1)));
        assert_eq!(changes.rooms_since(StreamPosition(9), 9), None);
        assert_eq!(changes.rooms_since(StreamPosition(10), 9), Some(vec![RoomNum(2), RoomNum(1)]));
        assert_eq!(changes.rooms_since(StreamPosition(12), 9), Some(vec![RoomNum(1)]));
        assert_eq!(changes.rooms_since(StreamPosition(13), 0), Some(vec![]));
        assert_eq!(changes.rooms_since(StreamPosition(10), 1), None);
    }

    #[test]
    fn the_ends_of_timelines_are_known_as_far_as_they_were_told() {
        let changes = Changes::default();
        changes.begin(StreamPosition(10));
        let newest = |since, upto, limit| {
            let found = changes.newest(RoomNum(1), StreamPosition(since), StreamPosition(upto), limit)?;
            Some(found.into_iter().map(|event| event.0).collect::<Vec<_>>())
        };
        assert_eq!(newest(9, 10, 5), None, "before the beginning");
        assert_eq!(newest(10, 10, 5), Some(vec![]));
        for pos in 11..=20 {
            changes.note(StreamPosition(pos), &entry(StreamKind::Event, Some(1 + pos % 2), None, Some(100 + pos)));
        }
        assert_eq!(newest(10, 20, 5), Some(vec![120, 118, 116, 114, 112]));
        assert_eq!(newest(9, 20, 5), Some(vec![120, 118, 116, 114, 112]), "as many as are asked for");
        assert_eq!(newest(9, 20, 6), None);
        assert_eq!(newest(14, 19, 6), Some(vec![118, 116]));
        let most = i64::try_from(LIVE_EVENTS_MAX).unwrap_or(0);
        for pos in 21..=20 + most {
            changes.note(StreamPosition(pos), &entry(StreamKind::Event, Some(1), None, Some(100 + pos)));
        }
        assert_eq!(newest(19, 99, LIVE_EVENTS_MAX + 1), None, "more than are remembered");
        assert_eq!(newest(20, 22, 5), Some(vec![122, 121]));
        changes.note(StreamPosition(200), &entry(StreamKind::RoomPurged, Some(1), None, None));
        assert_eq!(newest(20, 22, 5), None);
    }

    #[test]
    fn rooms_of_before_the_beginning_are_known_once_recalled() {
        let changes = Changes::default();
        changes.begin(StreamPosition(10));
        changes.note(StreamPosition(11), &entry(StreamKind::Event, Some(1), None, Some(1)));
        let row = |pos, kind: StreamKind, room: Option<i64>, number| StreamRow {
            pos: StreamPosition(pos),
            kind: kind as i64,
            room: room.map(RoomNum),
            user_id: None,
            number,
        };
        let rows = [
            row(7, StreamKind::Event, Some(2), Some(5)),
            row(8, StreamKind::Receipt, None, Some(3)),
            row(9, StreamKind::Event, Some(1), Some(6)),
            row(10, StreamKind::Event, Some(2), Some(7)),
        ];
        let since = |pos| {
            let rooms = changes.rooms_since(StreamPosition(pos), 9)?;
            Some(rooms.into_iter().map(|room| room.0).collect::<Vec<_>>())
        };
        assert_eq!(changes.rooms_known_from(StreamPosition(6)), Some(StreamPosition(10)));
        changes.recall(StreamPosition(6), StreamPosition(9), &rows);
        assert_eq!(since(6), None, "up to another place than from where it is known");
        changes.recall(StreamPosition(6), StreamPosition(10), &rows);
        assert_eq!(changes.rooms_known_from(StreamPosition(6)), None);
        assert_eq!((since(5), since(6), since(8)), (None, Some(vec![3, 2, 1]), Some(vec![2, 1])));
        assert_eq!((since(10), since(11)), (Some(vec![1]), Some(vec![])));
    }

    #[test]
    fn users_are_unchanged_until_told() {
        let changes = Changes::default();
        changes.begin(StreamPosition(10));
        let user = UserId::from("@a:x");
        assert_eq!(changes.user(&user), UserChanges::all(StreamPosition(10)));
        changes.note(StreamPosition(11), &entry(StreamKind::AccountData, None, Some("@a:x"), None));
        let expected = UserChanges { account_data: StreamPosition(11), ..UserChanges::all(StreamPosition(10)) };
        assert_eq!(changes.user(&user), expected);
        changes.note(StreamPosition(12), &entry(StreamKind::RoomPurged, Some(1), None, None));
        assert_eq!(changes.user(&user), UserChanges::all(StreamPosition(12)));
    }
}
