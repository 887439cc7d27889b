//! Removing rooms, and old history of rooms, from the store.
//!
//! A purge is a job of bounded steps, each one batch. What is still to be done of a room's purge stands in the store, so
//! that a restart goes on with it: the first step takes the room away from everyone, together with a job by which
//! [`Rooms::resume_purges`] finds the rest. Rows that users keep about the room (account data, receipts, push rules) are
//! not the room engine's; who purges a room removes them by room id.

use std::collections::BTreeSet;
use std::ops::Bound;

use store::tables::core::JobRow;
use store::tables::rooms::{
    AliasRow, EventBytesRow, EventRow, FragmentRow, HistoryGapRow, LeftOutRow, MembershipRow, MissingPrevRow, MutedRow,
    MutingRow, NotificationRow, OwnInThreadRow, OwnMessageRow, PartialEventRow, PartialRoomRow, RedactionRow,
    RelationRow, ResidencyRow, RoomHeadRow, RoomRow, RoomServerRow, StateEventRow, StateKeyRow, StateSegmentRow,
    StickyRow, ThreadAsideRow, ThreadRow, UncountedRow,
};
use store::{CommitBatch, CommitError, EventNum, Read, RoomNum, Row, StreamKind, UserId, Value};

use crate::accept::ATTEMPTS_MAX;
use crate::draft::Draft;
use crate::event::Event;
use crate::remote::left_out::left_out_key;
use crate::room::Room;
use crate::timeline::Place;
use crate::{Error, Result, Rooms, flags};

/// Rows that one step removes.
const STEP_ROWS: u32 = 500;
/// The kind of the jobs that say which rooms, by number, are being purged.
pub(crate) const JOB: &str = "purge_room";

impl Rooms {
    /// Removes a room with everything that the engine keeps of it. Local members leave first; clients that sync later
    /// than that are not told of the room any more.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] for an unknown room; as the store says. What was begun is finished by
    /// [`Rooms::resume_purges`].
    pub async fn purge_room(&self, room_id: &str) -> Result<()> {
        let room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
        self.evict(&room).await?;
        self.begin_purge(&room).await?;
        while self.purge_step(room.num).await? {}
        Ok(())
    }

    /// Finishes the purges that a restart interrupted. Returns how many there were.
    ///
    /// # Errors
    /// As the store says.
    pub async fn resume_purges(&self) -> Result<usize> {
        let jobs: Vec<JobRow> = self.store.all(Read::prefix::<JobRow>(vec![JOB.into()])).await?;
        let begun: Vec<RoomNum> = jobs.iter().filter_map(|job| job.name.parse().ok()).map(RoomNum).collect();
        for room in &begun {
            while self.purge_step(*room).await? {}
        }
        Ok(begun.len())
    }

    /// Makes the local members leave, as far as they can.
    async fn evict(&self, room: &Room) -> Result<()> {
        let read = Read::along::<MembershipRow>(MembershipRow::BY_ROOM, vec![room.num.into()]);
        let rows: Vec<MembershipRow> = self.store.all(read).await?;
        for row in rows.into_iter().filter(|row| matches!(row.membership.as_str(), "join" | "invite" | "knock")) {
            if let Err(Error::Store(error)) = self.leave(&room.id, &row.user_id, None).await {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// The room's row goes first: from then on nothing can be added to the room, and nobody finds it.
    async fn begin_purge(&self, room: &Room) -> Result<()> {
        let mut batch = CommitBatch::new();
        batch.expect_present::<RoomRow>(vec![room.num.into()]);
        batch.delete::<RoomRow>(vec![room.num.into()]);
        batch.put(JobRow {
            kind: JOB.to_owned(),
            name: room.num.to_string(),
            cursor: String::new(),
            due_ms: self.clock.now_ms(),
            failures: 0,
        });
        for alias in self.aliases_of(&room.id).await? {
            batch.delete::<AliasRow>(vec![alias.into()]);
        }
        batch.announce(StreamKind::RoomPurged, Some(room.num), None, None);
        match self.store.commit(batch).await {
            Ok(_) => {}
            Err(CommitError::Conflict { .. }) => return Err(Error::NotInRoom),
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
        self.forget_purged(room.num);
        Ok(())
    }

    /// Removes some of what is left of a room; false when nothing was left.
    ///
    /// # Errors
    /// As the store says.
    pub async fn purge_step(&self, room: RoomNum) -> Result<bool> {
        let prefix = || vec![room.into()];
        if self.remove_memberships(room).await? || self.remove_events(room).await? {
            return Ok(true);
        }
        let removed = self.remove::<StateEventRow>(prefix(), |row| vec![room.into(), row.event.into()]).await?
            || self.remove::<StateSegmentRow>(prefix(), |row| vec![room.into(), row.segment.into()]).await?
            || self.remove::<StateKeyRow>(prefix(), |row| vec![room.into(), row.key_id.into()]).await?
            || self.remove::<RoomHeadRow>(prefix(), |row| vec![room.into(), row.pos.into()]).await?
            || self.remove::<RelationRow>(prefix(), relation_key).await?
            || self.remove::<RedactionRow>(prefix(), redaction_key).await?
            || self.remove::<UncountedRow>(prefix(), |row| vec![room.into(), row.pos.into()]).await?
            || self.remove::<ThreadAsideRow>(prefix(), |row| vec![room.into(), row.pos.into()]).await?
            || self.remove::<ThreadRow>(prefix(), |row| vec![room.into(), row.root.as_str().into()]).await?
            || self.remove::<FragmentRow>(prefix(), |row| vec![room.into(), row.fragment.into()]).await?
            || self.remove::<MissingPrevRow>(prefix(), missing_key).await?
            || self.remove::<HistoryGapRow>(prefix(), gap_key).await?
            || self.remove::<RoomServerRow>(prefix(), |row| vec![room.into(), row.server.as_str().into()]).await?
            || self.remove::<ResidencyRow>(prefix(), residency_key).await?
            || self.remove::<StickyRow>(prefix(), |row| vec![room.into(), row.event.into()]).await?
            || self.remove::<PartialRoomRow>(prefix(), |row| vec![row.room.into()]).await?
            || self.remove::<PartialEventRow>(prefix(), |row| vec![room.into(), row.event.into()]).await?
            || self.remove::<LeftOutRow>(prefix(), left_out_key).await?;
        if removed {
            return Ok(true);
        }
        let mut batch = CommitBatch::new();
        batch.delete::<JobRow>(vec![JOB.into(), room.to_string().into()]);
        batch.announce(StreamKind::RoomPurged, Some(room), None, None);
        self.write(batch).await?;
        self.forget_purged(room);
        Ok(false)
    }

    /// Removes some rows of a table; false if there were none.
    async fn remove<R: Row>(&self, prefix: Vec<Value>, key: impl Fn(&R) -> Vec<Value>) -> Result<bool> {
        let rows: Vec<R> = self.store.all(Read::prefix::<R>(prefix).limit(STEP_ROWS)).await?;
        let mut batch = CommitBatch::new();
        for row in &rows {
            batch.delete::<R>(key(row));
        }
        if !rows.is_empty() {
            self.write(batch).await?;
        }
        Ok(!rows.is_empty())
    }

    async fn remove_events(&self, room: RoomNum) -> Result<bool> {
        let read = Read::along::<EventRow>(EventRow::BY_ID, vec![room.into()]).limit(STEP_ROWS);
        let rows: Vec<EventRow> = self.store.all(read).await?;
        let mut batch = CommitBatch::new();
        for row in &rows {
            batch.delete::<EventRow>(vec![row.event.into()]);
            batch.delete::<EventBytesRow>(vec![row.event.into()]);
        }
        if !rows.is_empty() {
            self.write(batch).await?;
        }
        Ok(!rows.is_empty())
    }

    async fn remove_memberships(&self, room: RoomNum) -> Result<bool> {
        let read = Read::along::<MembershipRow>(MembershipRow::BY_ROOM, vec![room.into()]).limit(STEP_ROWS);
        let rows: Vec<MembershipRow> = self.store.all(read).await?;
        let mut batch = CommitBatch::new();
        for row in &rows {
            let user: &UserId = &row.user_id;
            batch.delete::<MembershipRow>(vec![user.into(), room.into()]);
            batch.delete_prefix::<NotificationRow>(vec![user.into(), room.into()]);
            batch.delete_prefix::<MutingRow>(vec![user.into(), room.into()]);
            batch.delete::<MutedRow>(vec![room.into(), user.into()]);
            batch.delete::<OwnMessageRow>(vec![user.into(), room.into()]);
            batch.delete_prefix::<OwnInThreadRow>(vec![user.into(), room.into()]);
            batch.announce(StreamKind::Membership, None, Some(user.clone()), None);
        }
        if !rows.is_empty() {
            self.write(batch).await?;
        }
        Ok(!rows.is_empty())
    }

    /// Drops everything of a purged room from memory at once, also where the store's stream comes later.
    fn forget_purged(&self, room: RoomNum) {
        self.drop_room(room);
        self.room_nums.clear();
        self.events.clear();
        self.segments.clear();
    }

    async fn write(&self, batch: CommitBatch) -> Result<()> {
        match self.store.commit(batch).await {
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// Removes the messages of a room that stand before a place of its live timeline, and returns how many. State
    /// events stay, since states refer to them; so do redactions, by which redacted state is served, and what the next
    /// event is built on. That history is missing is noted on the fragment.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] for an unknown room, [`Error::Invalid`] if the place is in no live timeline,
    /// [`Error::PartialState`] as long as events are to be judged anew.
    pub async fn purge_history(&self, room_id: &str, before: Place) -> Result<usize> {
        let room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
        if room.head().is_provisional() {
            return Err(Error::PartialState);
        }
        if before.fragment != room.head().row.fragment {
            return Err(Error::Invalid("only history of the live timeline can be purged".to_owned()));
        }
        let (mut removed, mut from, mut attempts) = (0, i64::MIN, 0);
        while attempts < ATTEMPTS_MAX {
            let room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
            match self.purge_messages(&room, before, from).await {
                Ok(None) => return Ok(removed),
                Ok(Some((purged, next))) => (removed, from, attempts) = (removed + purged, next, 0),
                Err(Error::Busy) => attempts += 1,
                Err(error) => return Err(error),
            }
        }
        Err(Error::Busy)
    }

    /// Removes messages among the next events from the index `from` on. It is a decision on the room like any other, so
    /// that nothing is decided meanwhile about what it removes: a redaction, say. Returns how many it removed and where
    /// to go on; `None` where no event is left.
    async fn purge_messages(&self, room: &Room, before: Place, from: i64) -> Result<Option<(usize, i64)>> {
        let mut draft = Draft::begin(self, room).await;
        draft.check_alive()?;
        // What is read must be as it will be.
        self.wait_for_all(room).await?;
        let prefix = vec![room.num.into(), before.fragment.into()];
        let read = Read::along::<EventRow>(EventRow::BY_TIMELINE, prefix).from(from).before(before.idx);
        let rows: Vec<EventRow> = self.store.all(read.limit(STEP_ROWS)).await?;
        let Some(last) = rows.last().and_then(|row| row.idx) else { return Ok(None) };
        let extremities: BTreeSet<EventNum> = draft.head.extremities.iter().map(|extremity| extremity.num).collect();
        let purged = |row: &EventRow| {
            row.state_key.is_none()
                && row.kind != "m.room.redaction"
                && row.flags & flags::HIDDEN == 0
                && !extremities.contains(&row.event)
        };
        let nums: Vec<EventNum> = rows.iter().filter(|row| purged(row)).map(|row| row.event).collect();
        if nums.is_empty() {
            return Ok(Some((0, last + 1)));
        }
        for event in self.events(room, None, &nums).await? {
            self.purge_message(room, &event, &mut draft.batch).await?;
        }
        let fragment = before.fragment;
        let known = self.store.get::<FragmentRow>(vec![room.num.into(), fragment.into()]).await?;
        let known = known.unwrap_or(FragmentRow { room: room.num, fragment, previous: None, next: None, gap: true });
        draft.batch.put(FragmentRow { gap: true, ..known });
        draft.batch.announce(StreamKind::RoomPurged, Some(room.num), None, None);
        self.commit(room, draft).await?;
        Ok(Some((nums.len(), last + 1)))
    }

    /// An event goes with its bytes, its relations to both sides, and the thread whose last event it is.
    async fn purge_message(&self, room: &Room, event: &Event, batch: &mut CommitBatch) -> Result<()> {
        let (num, id) = (event.num(), event.id().as_str());
        batch.delete::<EventRow>(vec![num.into()]);
        batch.delete::<EventBytesRow>(vec![num.into()]);
        batch.delete_prefix::<RelationRow>(vec![room.num.into(), id.into()]);
        batch.delete_prefix::<RedactionRow>(vec![room.num.into(), id.into()]);
        batch.delete::<ThreadRow>(vec![room.num.into(), id.into()]);
        let (lower, upper) = (Bound::Included(num.into()), Bound::Included(num.into()));
        if let Some((rel_type, parent)) = event.relation() {
            let prefix = vec![room.num.into(), parent.into(), rel_type.into()];
            batch.delete_range::<RelationRow>(prefix, lower, upper);
            let key = vec![room.num.into(), parent.into()];
            let thread = self.store.get::<ThreadRow>(key.clone()).await?;
            if thread.is_some_and(|thread| thread.latest == num) {
                batch.delete::<ThreadRow>(key);
            }
        }
        Ok(())
    }
}

fn relation_key(row: &RelationRow) -> Vec<Value> {
    vec![row.room.into(), row.parent.as_str().into(), row.rel_type.as_str().into(), row.event.into()]
}

fn redaction_key(row: &RedactionRow) -> Vec<Value> {
    vec![row.room.into(), row.target.as_str().into(), row.event.into()]
}

fn gap_key(row: &HistoryGapRow) -> Vec<Value> {
    vec![row.room.into(), row.event_id.as_str().into(), row.child.into()]
}

fn residency_key(row: &ResidencyRow) -> Vec<Value> {
    vec![row.room.into(), row.server.as_str().into(), row.pos.into()]
}

fn missing_key(row: &MissingPrevRow) -> Vec<Value> {
    vec![row.room.into(), row.event_id.as_str().into(), row.child.into()]
}
