//! The room engine: the only writer of room events. It builds, accepts, orders and reads them.
//!
//! Start at [`accept`] for what happens to an event, [`draft`] for what is written, [`room`] for what is in memory.

pub mod accept;
pub mod aliases;
pub mod auth_graph;
pub mod create;
pub mod delayed;
pub mod directory;
mod draft;
mod erased;
pub mod error;
pub mod event;
pub mod flags;
mod guests;
mod held;
mod hold;
mod load;
pub mod membership;
mod muting;
pub mod notifications;
pub mod notify;
pub mod packed;
pub mod policy;
pub mod purge;
pub mod redaction;
pub mod relations;
pub mod remote;
mod resolve;
pub mod room;
pub mod send;
pub mod spaces;
pub mod state;
pub mod state_tree;
pub mod sticky;
pub mod stripped;
pub mod summary;
pub mod timeline;
pub mod unread;
pub mod upgrade;
pub mod view;
pub mod visibility;
mod waiting;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use ::event::SigningKey;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use quick_cache::{UnitWeighter, Weighter};
use store::tables::rooms::MembershipRow;
use store::{Clock, Entropy, EventNum, Follower, RoomNum, Store, StreamEntry, StreamKind, StreamPosition, UserId};

pub use accept::Accepted;
pub use create::{CreateRoom, Preset};
pub use delayed::{Delayed, NewDelayed};
pub use error::{Error, Result};
pub use event::Event;
pub use guests::ClosedToGuests;
pub use notify::{Exception, Judgement, MessagesCount, Notify, RoomContext};
pub use policy::{PolicyRefusal, PolicyServers};
pub use room::{Head, Room};
pub use send::{NewEvent, Transaction};
pub use state::{Roots, StateMap};

use crate::erased::Erased;
use crate::held::Held;
use crate::state_tree::{SegNo, Segment};
use crate::waiting::Unfinished;

/// Locks among which transactions are spread.
const STRIPES: usize = 1_024;

/// Most transactions that are remembered as just looked for in vain.
const UNANSWERED_MAX: usize = 4_096;

/// What the engine is told at boot.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of this server.
    pub server_name: String,
    /// Version of new rooms.
    pub default_version: String,
    /// How long a redacted event's original bytes are kept, in milliseconds.
    pub redaction_retention_ms: i64,
    /// Bytes of memory for cached events.
    pub event_cache_bytes: u64,
    /// Bytes of memory for cached nodes of state trees.
    pub segment_cache_bytes: u64,
    /// About how many rooms are kept in memory; those that are in use stay in any case.
    pub rooms_max: usize,
    /// How long an event may be delayed, in milliseconds (MSC4140).
    pub delay_ms_max: i64,
    /// Events that a user may have scheduled at once; 0: nobody may delay events.
    pub delayed_max: u32,
    /// What asks policy servers; without it, nothing can be sent into rooms that use one.
    pub policy_servers: Option<Arc<dyn PolicyServers>>,
}

impl Options {
    /// Usual settings for a server of this name.
    pub fn new(server_name: &str) -> Self {
        Self {
            server_name: server_name.to_owned(),
            default_version: "12".to_owned(),
            redaction_retention_ms: 7 * 24 * 3_600 * 1_000,
            event_cache_bytes: 24 << 20,
            segment_cache_bytes: 8 << 20,
            rooms_max: 5_000,
            delay_ms_max: 24 * 3_600 * 1_000,
            delayed_max: 100,
            policy_servers: None,
        }
    }
}

#[derive(Clone)]
struct EventWeight;

impl Weighter<EventNum, Arc<Event>> for EventWeight {
    fn weight(&self, _num: &EventNum, event: &Arc<Event>) -> u64 {
        // Bytes, their parsed form and the client form.
        u64::try_from(event.pdu.bytes.len()).unwrap_or(0) * 4 + 1_024
    }
}

#[derive(Clone)]
struct SegmentWeight;

impl Weighter<(RoomNum, SegNo), Arc<Segment>> for SegmentWeight {
    fn weight(&self, _key: &(RoomNum, SegNo), segment: &Arc<Segment>) -> u64 {
        u64::try_from(segment.memory_bytes()).unwrap_or(0) + 64
    }
}

/// The room engine.
pub struct Rooms {
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) options: Options,
    pub(crate) key: Arc<SigningKey>,
    pub(crate) notify: Arc<dyn Notify>,
    pub(crate) room_nums: Cache<String, RoomNum>,
    pub(crate) rooms: Mutex<Held>,
    pub(crate) loading: tokio::sync::Mutex<()>,
    pub(crate) events: Cache<EventNum, Arc<Event>, EventWeight>,
    pub(crate) segments: Cache<(RoomNum, SegNo), Arc<Segment>, SegmentWeight>,
    pub(crate) erased: Erased,
    pub(crate) changes: AtomicU64,
    pub(crate) created_ms: AtomicI64,
    pub(crate) closed_to_guests: AtomicBool,
    pub(crate) unfinished: Mutex<Unfinished>,
    /// Told whenever a room was joined with part of its state, and whenever the state of one has become whole.
    pub(crate) partial_begun: tokio::sync::Notify,
    pub(crate) partial_ended: tokio::sync::Notify,
    /// Before this time no delayed event is due, as far as this node knows.
    pub(crate) next_due_ms: AtomicI64,
    /// From this time on no event is sticky that this process has stored.
    pub(crate) sticky_until_ms: AtomicI64,
    /// From this time on no event is sticky that was stored before.
    pub(crate) sticky_before_ms: AtomicI64,
    /// Transactions that were looked for in vain and not sent since.
    pub(crate) unanswered: Cache<u64, ()>,
    hashes: RandomState,
    stripes: Vec<tokio::sync::Mutex<()>>,
    /// Held by whoever replaces a room.
    pub(crate) upgrading: tokio::sync::Mutex<()>,
    /// Locks among which rooms are spread that are being joined or left from outside.
    remote_stripes: Vec<tokio::sync::Mutex<()>>,
}

impl Rooms {
    /// The engine on a store; it follows the store's stream from now on.
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        key: Arc<SigningKey>,
        notify: Arc<dyn Notify>,
        options: Options,
    ) -> Arc<Self> {
        let events = usize::try_from(options.event_cache_bytes / 2_048).unwrap_or(1_024).max(64);
        let segments = usize::try_from(options.segment_cache_bytes / 512).unwrap_or(1_024).max(64);
        let rooms = Arc::new(Self {
            room_nums: Cache::with(10_000, 10_000, UnitWeighter, Default::default(), Default::default()),
            rooms: Mutex::new(Held::new(options.rooms_max)),
            loading: tokio::sync::Mutex::default(),
            events: Cache::with_weighter(events, options.event_cache_bytes, EventWeight),
            segments: Cache::with_weighter(segments, options.segment_cache_bytes, SegmentWeight),
            erased: Erased::default(),
            changes: AtomicU64::new(0),
            created_ms: AtomicI64::new(0),
            closed_to_guests: AtomicBool::new(false),
            unfinished: Mutex::new(Unfinished::Everything),
            partial_begun: tokio::sync::Notify::new(),
            partial_ended: tokio::sync::Notify::new(),
            next_due_ms: AtomicI64::new(i64::MIN),
            sticky_until_ms: AtomicI64::new(i64::MIN),
            sticky_before_ms: AtomicI64::new(clock.now_ms().saturating_add(::event::STICKY_MS_MAX)),
            unanswered: Cache::new(UNANSWERED_MAX),
            hashes: RandomState::new(),
            stripes: (0..STRIPES).map(|_| tokio::sync::Mutex::new(())).collect(),
            upgrading: tokio::sync::Mutex::new(()),
            remote_stripes: (0..STRIPES).map(|_| tokio::sync::Mutex::new(())).collect(),
            store,
            clock,
            entropy,
            options,
            key,
            notify,
        });
        let follower = RoomsFollower(Arc::downgrade(&rooms));
        rooms.store.notifier().add_follower(Arc::new(follower));
        rooms
    }

    /// The name of this server.
    pub fn server_name(&self) -> &str {
        &self.options.server_name
    }

    /// The engine's settings.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The store, for readers that need its positions.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether a user belongs to this server.
    pub fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.options.server_name
    }

    /// A local user's membership of a room.
    ///
    /// # Errors
    /// As the store says.
    pub async fn membership_row(&self, room: RoomNum, user: &UserId) -> Result<Option<MembershipRow>> {
        Ok(self.store.get::<MembershipRow>(vec![user.into(), room.into()]).await?)
    }

    pub(crate) fn stripe(&self, user: &UserId, transaction: &Transaction) -> &tokio::sync::Mutex<()> {
        let place = usize::try_from(self.hash_of(user, transaction) % STRIPES as u64).unwrap_or(0);
        &self.stripes[place]
    }

    /// The lock under which a user's delayed events are scheduled. Who holds it may not ask for another.
    pub(crate) fn user_stripe(&self, user: &UserId) -> &tokio::sync::Mutex<()> {
        let place = usize::try_from(self.hashes.hash_one(user) % STRIPES as u64).unwrap_or(0);
        &self.stripes[place]
    }

    /// Unforeseeable, so that nobody can make two transactions meet.
    pub(crate) fn hash_of(&self, user: &UserId, transaction: &Transaction) -> u64 {
        self.hashes.hash_one((user, transaction))
    }

    fn followed(&self, pos: StreamPosition, entry: &StreamEntry) {
        if let (StreamKind::Erasure, Some(user)) = (entry.kind, &entry.user) {
            return self.erased.note(user, pos);
        }
        let Some(num) = entry.room else { return };
        match entry.kind {
            StreamKind::Event | StreamKind::RoomHead | StreamKind::RoomMeta => {
                let Some(number) = entry.number else { return };
                let room = self.rooms.lock().peek(num).cloned();
                if let Some(room) = room
                    && !room.committed(number, pos, self)
                {
                    // Another node wrote: what is in memory is out of date.
                    self.drop_room(num);
                }
            }
            StreamKind::EventChanged => {
                // If this node changed it, the new form comes with the last entry of the batch.
                self.changes.fetch_add(1, Ordering::AcqRel);
                if let Some(number) = entry.number {
                    self.events.remove(&EventNum(number));
                }
            }
            StreamKind::RoomPurged => {
                self.changes.fetch_add(1, Ordering::AcqRel);
                self.events.clear();
                self.segments.clear();
                self.room_nums.clear();
                self.drop_room(num);
            }
            _ => {}
        }
    }

    pub(crate) fn drop_room(&self, num: RoomNum) {
        if let Some(room) = self.rooms.lock().remove(num) {
            room.kill();
        }
    }
}

struct RoomsFollower(std::sync::Weak<Rooms>);

impl Follower for RoomsFollower {
    fn committed(&self, first: StreamPosition, entries: &[StreamEntry]) {
        let Some(rooms) = self.0.upgrade() else { return };
        for (pos, entry) in (first.0..).map(StreamPosition).zip(entries) {
            rooms.followed(pos, entry);
        }
    }
}
