//! A room in memory: the head that its next event is built on, the head that readers see, and what lies between them.
//!
//! A room's events go through one queue (the mutex around the optimistic head). The next event may be built on the
//! previous one before that is durable; what it needs of it stands in [`Unwritten`]. Readers see [`Room::committed`],
//! which the follower of the stream moves, in stream order. If a batch is dropped, the whole in-memory room is thrown
//! away and everything that was built on the lost batch is built again.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use event::{Pdu, Rules};
use parking_lot::Mutex;
use ruma_common::OwnedEventId;
use store::tables::rooms::{PartialRoomRow, RoomRow};
use store::{EventNum, Read, RoomNum, StreamKind, StreamPosition, UserId};

use crate::event::Event;
use crate::remote::left_out::LeftOutEvents;
use crate::state::{Roots, TypeKey};
use crate::state_tree::{KeyId, SegNo, Segment};
use crate::{Result, Rooms};

/// How long a batch may stay undecided before the in-memory room is given up.
const UNDECIDED_MAX: std::time::Duration = std::time::Duration::from_secs(30);

/// Most keys of one room that are remembered.
const KEYS_MAX: usize = 100_000;

/// A forward extremity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extremity {
    /// The event's number.
    pub num: EventNum,
    /// The event's id.
    pub id: OwnedEventId,
    /// The event's depth.
    pub depth: i64,
    /// The state after the event.
    pub state: Option<Roots>,
}

/// A room's head: its row, decoded.
#[derive(Clone, Debug)]
pub struct Head {
    /// The stored row.
    pub row: RoomRow,
    /// Current state.
    pub state: Roots,
    /// Forward extremities.
    pub extremities: Vec<Extremity>,
    /// Joined users of this server.
    pub local: Arc<BTreeSet<UserId>>,
    /// Users of this server who mute the room.
    pub muted: Arc<BTreeSet<UserId>>,
    /// How many joined users each server has, this one included.
    pub servers: Arc<BTreeMap<String, i64>>,
    /// There as long as only part of the room's state is known (MSC3902).
    pub partial: Option<Arc<PartialRoomRow>>,
    /// There as long as events of the state are left out that may be verified later.
    pub left_out: Option<Arc<LeftOutEvents>>,
}

impl Head {
    /// Whether events are judged by part of the state, and are to be judged again when the rest is known.
    pub fn is_provisional(&self) -> bool {
        self.partial.is_some() || self.left_out.is_some()
    }
}

/// What is built but not yet durable.
#[derive(Default)]
pub(crate) struct Unwritten {
    pub(crate) segments: HashMap<SegNo, Arc<Segment>>,
    pub(crate) keys: HashMap<TypeKey, KeyId>,
    pub(crate) events: HashMap<EventNum, Arc<Event>>,
    /// Local users whose membership changes, and the batch that changes it.
    pub memberships: HashMap<UserId, i64>,
    /// Heads that become visible when their batch is committed, in order.
    pub heads: VecDeque<Pending>,
}

/// A head whose batch is not yet durable.
pub(crate) struct Pending {
    /// Number of the batch's last stream entry.
    pub marker: i64,
    /// Place of that entry in the batch.
    pub place: usize,
    /// The head, with placeholders for the batch's positions.
    pub head: Arc<Head>,
    /// The batch's new and changed events, with placeholders too.
    pub events: Vec<Arc<Event>>,
    /// Whether the batch makes the room one that guests have to leave.
    pub closes_to_guests: bool,
    /// The place in the stream from which on the room's state is whole, with a placeholder, if it was not before.
    pub whole_pos: Option<StreamPosition>,
}

impl Pending {
    /// Position of the batch's first entry, if the last stands at `pos`.
    fn first(&self, pos: StreamPosition) -> StreamPosition {
        StreamPosition(pos.0 - i64::try_from(self.place).unwrap_or(0))
    }

    /// The head, now that the batch's first entry stands at `first`.
    fn at(&self, first: StreamPosition) -> Head {
        let mut head = Head::clone(&self.head);
        head.row.last_pos = placed(head.row.last_pos, first);
        head
    }
}

/// The position that a placeholder of a batch stands for, now that the batch's first entry stands at `first`.
pub(crate) fn placed(pos: StreamPosition, first: StreamPosition) -> StreamPosition {
    if pos.0 < 0 { StreamPosition(first.0 - pos.0 - 1) } else { pos }
}

/// Whether stream entries of this kind carry the number by which an in-memory room knows its own batches.
pub(crate) fn is_marker(kind: StreamKind) -> bool {
    matches!(kind, StreamKind::Event | StreamKind::RoomHead | StreamKind::RoomMeta)
}

/// What one decision adds, before it is submitted.
#[derive(Default)]
pub struct Overlay {
    pub(crate) segments: HashMap<SegNo, Arc<Segment>>,
    pub(crate) keys: HashMap<TypeKey, KeyId>,
    pub(crate) events: HashMap<EventNum, Arc<Event>>,
    pub(crate) ids: BTreeMap<OwnedEventId, EventNum>,
}

/// A room in memory.
pub struct Room {
    /// Its number.
    pub num: RoomNum,
    /// Its id.
    pub id: String,
    /// The rules of its version.
    pub rules: &'static Rules,
    /// Its create event.
    pub create: Arc<Pdu>,
    pub(crate) queue: tokio::sync::Mutex<Head>,
    committed: Mutex<Arc<Head>>,
    pub(crate) unwritten: Mutex<Unwritten>,
    /// Numbers of stored keys that were looked up, and `None` for pairs that the room never had. A key that another
    /// node adds comes with a commit that throws this room in memory away.
    pub(crate) keys: Mutex<HashMap<TypeKey, Option<KeyId>>>,
    pub(crate) graph: tokio::sync::Mutex<Option<crate::resolve::Graph>>,
    pub(crate) dead: AtomicBool,
    pub(crate) whole_pos: AtomicI64,
    /// Told of every batch that was decided, either way.
    decided: tokio::sync::Notify,
}

impl Room {
    pub(crate) fn new(head: Head, rules: &'static Rules, create: Arc<Pdu>) -> Self {
        Self {
            num: head.row.room,
            id: head.row.room_id.clone(),
            rules,
            create,
            committed: Mutex::new(Arc::new(head.clone())),
            queue: tokio::sync::Mutex::new(head),
            unwritten: Mutex::default(),
            keys: Mutex::default(),
            graph: tokio::sync::Mutex::default(),
            dead: AtomicBool::new(false),
            whole_pos: AtomicI64::new(0),
            decided: tokio::sync::Notify::new(),
        }
    }

    /// The head that readers see: all of it is durable.
    pub fn head(&self) -> Arc<Head> {
        Arc::clone(&self.committed.lock())
    }

    /// Since when all of the room's state is known, if it was joined with part of it; zero otherwise, and as long as it is
    /// not.
    pub fn whole_pos(&self) -> StreamPosition {
        StreamPosition(self.whole_pos.load(Ordering::Acquire))
    }

    /// Remembers what the store said of a key. A key that was committed meanwhile is not forgotten.
    pub(crate) fn remember_key(&self, pair: &TypeKey, id: Option<KeyId>) {
        let mut keys = self.keys.lock();
        if keys.len() >= KEYS_MAX {
            keys.clear();
        }
        let known = keys.entry(pair.clone()).or_insert(id);
        *known = known.or(id);
    }

    /// Whether a batch of this in-memory room was lost, so that it must be loaded anew.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
        self.decided.notify_waiters();
    }

    /// The stream entry with this number was committed at `pos`. With the last entry of a batch, its events and its head
    /// become readable. Returns false if this in-memory room did not build it and therefore is out of date.
    pub(crate) fn committed(&self, number: i64, pos: StreamPosition, rooms: &Rooms) -> bool {
        let mut unwritten = self.unwritten.lock();
        if unwritten.heads.front().is_none_or(|pending| pending.marker != number) {
            return unwritten.events.contains_key(&EventNum(number));
        }
        let Some(pending) = unwritten.heads.pop_front() else { return false };
        let first = pending.first(pos);
        for event in &pending.events {
            rooms.events.insert(event.num(), Arc::clone(event).at(first));
            // A later batch may have changed it again.
            if unwritten.events.get(&event.num()).is_some_and(|newest| Arc::ptr_eq(newest, event)) {
                unwritten.events.remove(&event.num());
            }
        }
        self.settle(&mut unwritten, &pending.head, rooms);
        unwritten.memberships.retain(|_, marker| *marker != number);
        if pending.closes_to_guests {
            rooms.closed_to_guests.store(true, Ordering::Relaxed);
        }
        if let Some(pos) = pending.whole_pos {
            self.whole_pos.store(placed(pos, first).0, Ordering::Release);
        }
        *self.committed.lock() = Arc::new(pending.at(first));
        self.decided.notify_waiters();
        true
    }

    /// Whether all of the room is durable.
    pub(crate) fn is_written(&self) -> bool {
        let unwritten = self.unwritten.lock();
        unwritten.heads.is_empty() && unwritten.events.is_empty()
    }

    /// Whether an event, or its newest form, is not yet durable.
    pub(crate) fn is_unwritten(&self, event: EventNum) -> bool {
        self.unwritten.lock().events.contains_key(&event)
    }

    /// Whether a redaction of this event is accepted, withheld and not yet durable.
    pub(crate) fn withholds_for(&self, target: &OwnedEventId) -> bool {
        let unwritten = self.unwritten.lock();
        unwritten.events.values().any(|event| event.row.pos.is_none() && event.pdu.redacts.as_ref() == Some(target))
    }

    /// Moves what a committed head reaches from the unwritten maps into the caches.
    fn settle(&self, unwritten: &mut Unwritten, head: &Head, rooms: &Rooms) {
        let end = u64::try_from(head.row.next_segment).unwrap_or(0);
        let written: Vec<SegNo> = unwritten.segments.keys().copied().filter(|segment| *segment < end).collect();
        for segment in written {
            if let Some(found) = unwritten.segments.remove(&segment) {
                rooms.segments.insert((self.num, segment), found);
            }
        }
        let end = u32::try_from(head.row.next_key).unwrap_or(0);
        let mut keys = self.keys.lock();
        unwritten.keys.retain(|pair, key| {
            let written = *key < end;
            if written {
                keys.insert(pair.clone(), Some(*key));
            }
            !written
        });
    }
}

impl Rooms {
    /// A positive number that no other batch on any node gets: a room's version, and (negative) the mark of a batch that
    /// does not end with a new event.
    pub(crate) fn unique_number(&self) -> i64 {
        let mut bytes = [0; 8];
        self.entropy.fill(&mut bytes);
        (i64::from_le_bytes(bytes) & i64::MAX).max(1)
    }

    /// The room with this id, if this server knows it.
    ///
    /// # Errors
    /// As the store says.
    pub async fn room(&self, room_id: &str) -> Result<Option<Arc<Room>>> {
        let known = self.room_nums.get(room_id);
        let num = match known {
            Some(num) => num,
            None => {
                let read = Read::along::<RoomRow>(RoomRow::BY_ID, vec![room_id.into()]);
                let Some(row) = self.store.one::<RoomRow>(read).await? else { return Ok(None) };
                self.room_nums.insert(room_id.to_owned(), row.room);
                row.room
            }
        };
        self.room_by_num(num).await
    }

    /// Waits until no undecided batch changes this user's membership.
    pub(crate) async fn wait_for_membership(&self, room: &Room, user: &UserId) -> Result<()> {
        wait_until(room, |unwritten| !unwritten.memberships.contains_key(user)).await
    }

    /// Waits until every batch of the room that was submitted is durable.
    pub(crate) async fn wait_for_all(&self, room: &Room) -> Result<()> {
        wait_until(room, |unwritten| unwritten.heads.is_empty()).await
    }
}

/// Waits until what is not yet written satisfies a condition; fails with [`crate::Error::Busy`] if a batch is lost.
async fn wait_until(room: &Room, done: impl Fn(&Unwritten) -> bool) -> Result<()> {
    loop {
        let decided = room.decided.notified();
        tokio::pin!(decided);
        decided.as_mut().enable();
        if room.is_dead() {
            return Err(crate::Error::Busy);
        }
        if done(&room.unwritten.lock()) {
            return Ok(());
        }
        if tokio::time::timeout(UNDECIDED_MAX, decided).await.is_err() {
            room.kill();
        }
    }
}
