//! Sticky events (MSC4354): until they expire they reach everybody who is in the room, wherever its timeline begins for
//! them, whatever the visibility of its history, and also who joins later.
//!
//! Each has a row with the position at which clients learn of it, and when it ends. There are few of them, and none for
//! longer than an hour. Where no other node writes, nothing is read as long as there is none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use event::STICKY_MS_MAX;
use store::tables::rooms::StickyRow;
use store::{CommitBatch, CommitError, Read, RoomNum, StreamPosition};

use crate::event::Event;
use crate::room::Room;
use crate::{Result, Rooms, flags};

/// Rows that one step removes.
const STEP_ROWS: u32 = 500;

/// For how much longer an event is sticky; `None` if it is not. One that claims to be of the future begins now.
pub(crate) fn remaining_ms(event: &Event, now_ms: i64) -> Option<i64> {
    let duration_ms = event.pdu.sticky_ms?.min(STICKY_MS_MAX);
    let passed_ms = now_ms.saturating_sub(event.row.ts).max(0);
    Some(duration_ms.saturating_sub(passed_ms)).filter(|left_ms| *left_ms > 0)
}

impl Rooms {
    /// Whether there may be a sticky event anywhere.
    pub fn may_have_sticky(&self) -> bool {
        // Where others write too, only the store knows.
        let alone = self.store.engine().whispers().is_none();
        let [own, before] = [&self.sticky_until_ms, &self.sticky_before_ms].map(|until| until.load(Ordering::Acquire));
        !alone || self.clock.now_ms() < own.max(before)
    }

    /// Sticky events of which clients learn after a position, up to another, oldest first.
    ///
    /// # Errors
    /// As the store says.
    pub async fn sticky_since(&self, since: StreamPosition, upto: StreamPosition) -> Result<Vec<StickyRow>> {
        if !self.may_have_sticky() {
            return Ok(Vec::new());
        }
        let read = Read::along::<StickyRow>(StickyRow::BY_POS, vec![]).after(since).up_to(upto);
        self.live(self.store.all(read).await?)
    }

    /// All sticky events of a room as of a position, oldest first.
    ///
    /// # Errors
    /// As the store says.
    pub async fn sticky_in(&self, room: RoomNum, upto: StreamPosition) -> Result<Vec<StickyRow>> {
        if !self.may_have_sticky() {
            return Ok(Vec::new());
        }
        let mut rows: Vec<StickyRow> = self.store.all(Read::prefix::<StickyRow>(vec![room.into()])).await?;
        rows.retain(|row| row.pos.is_some_and(|pos| pos <= upto));
        rows.sort_by_key(|row| row.pos);
        self.live(rows)
    }

    fn live(&self, mut rows: Vec<StickyRow>) -> Result<Vec<StickyRow>> {
        let now_ms = self.clock.now_ms();
        rows.retain(|row| row.expires_ms > now_ms);
        Ok(rows)
    }

    /// The events of these rows of a room, without those that have been redacted.
    ///
    /// # Errors
    /// As the store says.
    pub async fn sticky_events(&self, room: &Room, rows: &[StickyRow]) -> Result<Vec<Arc<Event>>> {
        let nums: Vec<_> = rows.iter().map(|row| row.event).collect();
        let events = self.events_left(room, None, &nums).await?;
        Ok(events.into_iter().filter(|event| event.pdu.sticky_ms.is_some() && !event.has(flags::REDACTED)).collect())
    }

    /// The sticky events of this server's users in a room: what other servers are to get.
    ///
    /// # Errors
    /// As the store says.
    pub async fn own_sticky_events(&self, room: &Room) -> Result<Vec<(StreamPosition, Arc<Event>)>> {
        let mut rows = self.sticky_in(room.num, StreamPosition(i64::MAX)).await?;
        rows.retain(|row| self.is_local(&row.sender));
        let at: BTreeMap<_, _> = rows.iter().filter_map(|row| Some((row.event, row.pos?))).collect();
        let events = self.sticky_events(room, &rows).await?;
        let own = events.into_iter().filter(|event| event.shown());
        Ok(own.filter_map(|event| Some((*at.get(&event.num())?, event))).collect())
    }

    /// Forgets what is sticky no more; to be called about once a minute.
    ///
    /// # Errors
    /// As the store says.
    pub async fn prune_sticky(&self) -> Result<()> {
        let along = || Read::along::<StickyRow>(StickyRow::BY_EXPIRY, vec![]);
        loop {
            let expired: Vec<StickyRow> = self.store.all(along().up_to(self.clock.now_ms()).limit(STEP_ROWS)).await?;
            if expired.is_empty() {
                break;
            }
            let mut batch = CommitBatch::new();
            for row in expired {
                batch.delete::<StickyRow>(vec![row.room.into(), row.event.into()]);
            }
            match self.store.commit(batch).await {
                Ok(_) | Err(CommitError::Conflict { .. }) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
        if self.clock.now_ms() < self.sticky_before_ms.load(Ordering::Acquire) {
            // What this process stores meanwhile it knows besides.
            let last: Option<StickyRow> = self.store.one(along().reverse()).await?;
            self.sticky_before_ms.store(last.map_or(i64::MIN, |row| row.expires_ms), Ordering::Release);
        }
        Ok(())
    }
}
