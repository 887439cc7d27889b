//! What is written: a [`CommitBatch`] is one decision, atomic or nothing.

use std::collections::Bound;

use crate::{RoomNum, Row, StreamPosition, Table, UserId, Value};

/// One decision: if every check holds, all writes and stream entries are committed together; else nothing is.
///
/// Batches of one process are judged and committed in the order of submission, so a batch may check what an earlier,
/// not yet durable one writes: if the earlier is dropped, the check fails and the later is dropped too.
#[derive(Clone, Debug, Default)]
pub struct CommitBatch {
    /// What must be true just before the writes.
    pub checks: Vec<Check>,
    /// The changes, in order.
    pub writes: Vec<Write>,
    /// What followers learn; each entry gets the next stream position.
    pub stream: Vec<StreamEntry>,
}

/// A precondition on one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The table.
    pub table: &'static Table,
    /// The row's primary key.
    pub key: Vec<Value>,
    /// What must hold.
    pub expect: Expect,
}

/// What a [`Check`] demands of its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No row has this key.
    Absent,
    /// A row has this key.
    Present,
    /// A row has this key, and its column (by name) holds this value.
    Equals(&'static str, Value),
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Inserts the row, or replaces the one with the same key.
    Put {
        /// The table.
        table: &'static Table,
        /// All columns.
        row: Vec<Value>,
    },
    /// Deletes the row with this key, if there is one.
    Delete {
        /// The table.
        table: &'static Table,
        /// The primary key.
        key: Vec<Value>,
    },
    /// Deletes all rows whose primary key starts with `prefix` and whose next key column lies within the bounds.
    DeleteRange {
        /// The table.
        table: &'static Table,
        /// The first columns of the primary key.
        prefix: Vec<Value>,
        /// Lower bound of the next key column.
        lower: Bound<Value>,
        /// Upper bound of the next key column.
        upper: Bound<Value>,
    },
}

/// What kind of thing changed. Stored: numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum StreamKind {
    /// An event took its place in a room's timeline.
    Event = 1,
    /// A room's current state changed without an event of the timeline.
    RoomHead = 2,
    /// An event's stored form or flags changed (redaction, un-rejection, de-outliering): caches of it drop.
    EventChanged = 3,
    /// A room was purged, wholly or in part: caches of it drop.
    RoomPurged = 4,
    /// A receipt moved.
    Receipt = 5,
    /// Account data of a user, global or of a room, tags and push rules included.
    AccountData = 6,
    /// To-device messages wait for a user's device.
    ToDevice = 7,
    /// A user's devices or keys changed.
    DeviceList = 8,
    /// A user's profile changed.
    Profile = 9,
    /// An account, its sessions or its devices changed.
    Account = 10,
    /// One-time or fallback keys of a device were claimed or uploaded.
    OneTimeKeys = 11,
    /// A room's alias, directory entry or other matter outside its events.
    RoomMeta = 12,
    /// A user's own view of a room changed (forgotten).
    Membership = 13,
    /// A pusher was set or removed.
    Pusher = 14,
    /// Media.
    Media = 15,
    /// A user's content was erased for those who come later.
    Erasure = 16,
    /// A user follows a thread, or does so no more.
    ThreadSubscription = 17,
    /// An event of the history from before took its place in a room's timeline: nobody's news, so it names no room.
    History = 18,
}

impl StreamKind {
    /// From the stored number.
    pub fn from_number(number: i64) -> Option<Self> {
        use StreamKind::*;
        [
            Event,
            RoomHead,
            EventChanged,
            RoomPurged,
            Receipt,
            AccountData,
            ToDevice,
            DeviceList,
            Profile,
            Account,
            OneTimeKeys,
            RoomMeta,
            Membership,
            Pusher,
            Media,
            Erasure,
            ThreadSubscription,
            History,
        ]
        .into_iter()
        .find(|kind| *kind as i64 == number)
    }
}

/// One entry of the stream: that something of a kind changed, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEntry {
    /// What changed.
    pub kind: StreamKind,
    /// The room it belongs to: all its local members are woken.
    pub room: Option<RoomNum>,
    /// The user it concerns besides: the target of a membership event, the owner of account data.
    pub user: Option<UserId>,
    /// A number whose meaning the kind gives (an event's number).
    pub number: Option<i64>,
}

/// What a committed batch became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Position of the batch's first stream entry (or of the stream's end, if it had none).
    pub first: StreamPosition,
    /// Position of its last stream entry (or of the stream's end, if it had none).
    pub last: StreamPosition,
}

impl CommitBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Demands that no row of `R` has this key.
    pub fn expect_absent<R: Row>(&mut self, key: Vec<Value>) -> &mut Self {
        self.check::<R>(key, Expect::Absent)
    }

    /// Demands that a row of `R` has this key.
    pub fn expect_present<R: Row>(&mut self, key: Vec<Value>) -> &mut Self {
        self.check::<R>(key, Expect::Present)
    }

    /// Demands that the row of `R` with this key holds `value` in `column`: compare-and-swap together with a put.
    pub fn expect_equals<R: Row>(
        &mut self,
        key: Vec<Value>,
        column: &'static str,
        value: impl Into<Value>,
    ) -> &mut Self {
        self.check::<R>(key, Expect::Equals(column, value.into()))
    }

    fn check<R: Row>(&mut self, key: Vec<Value>, expect: Expect) -> &mut Self {
        debug_assert_eq!(key.len(), R::TABLE.key, "a check names the whole key of {}", R::TABLE.name);
        self.checks.push(Check { table: R::TABLE, key, expect });
        self
    }

    /// Inserts or replaces a row.
    pub fn put<R: Row>(&mut self, row: R) -> &mut Self {
        self.writes.push(Write::Put { table: R::TABLE, row: row.into_values() });
        self
    }

    /// Deletes the row with this key.
    pub fn delete<R: Row>(&mut self, key: Vec<Value>) -> &mut Self {
        debug_assert_eq!(key.len(), R::TABLE.key, "a delete names the whole key of {}", R::TABLE.name);
        self.writes.push(Write::Delete { table: R::TABLE, key });
        self
    }

    /// Deletes all rows whose key starts with `prefix`.
    pub fn delete_prefix<R: Row>(&mut self, prefix: Vec<Value>) -> &mut Self {
        self.delete_range::<R>(prefix, Bound::Unbounded, Bound::Unbounded)
    }

    /// Deletes all rows whose key starts with `prefix` and goes on within the bounds.
    pub fn delete_range<R: Row>(&mut self, prefix: Vec<Value>, lower: Bound<Value>, upper: Bound<Value>) -> &mut Self {
        self.writes.push(Write::DeleteRange { table: R::TABLE, prefix, lower, upper });
        self
    }

    /// Adds a stream entry and returns the placeholder of its position, for rows that carry it.
    pub fn announce(
        &mut self,
        kind: StreamKind,
        room: Option<RoomNum>,
        user: Option<UserId>,
        number: Option<i64>,
    ) -> StreamPosition {
        let position = StreamPosition::pending(self.stream.len());
        self.stream.push(StreamEntry { kind, room, user, number });
        position
    }

    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.checks.is_empty() && self.writes.is_empty() && self.stream.is_empty()
    }
}
