//! What a draft keeps of sticky events (MSC4354).

use std::sync::atomic::Ordering;

use store::tables::rooms::StickyRow;
use store::{Read, StreamKind, StreamPosition};

use super::Draft;
use crate::accept::passes_state;
use crate::event::Event;
use crate::{Result, flags, sticky};

impl Draft<'_> {
    /// Notes that an event is sticky, if it still is: clients learn of it at its position; if it is of the history, or has
    /// none for another reason, at one of this draft's; if it is soft-failed, perhaps later.
    pub(super) fn keep_sticky(&mut self, event: &Event, pos: Option<StreamPosition>) {
        let now_ms = self.rooms.clock.now_ms();
        let Some(ttl_ms) = sticky::remaining_ms(event, now_ms) else { return };
        let soft_failed = event.has(flags::SOFT_FAILED);
        if event.has(flags::HIDDEN & !flags::SOFT_FAILED) {
            return;
        }
        let pos = match (soft_failed, pos) {
            (true, _) => None,
            (false, Some(pos)) => Some(pos),
            (false, None) => Some(self.batch.announce(StreamKind::RoomHead, Some(self.room.num), None, None)),
        };
        let expires_ms = now_ms.saturating_add(ttl_ms);
        let (room, sender) = (self.room.num, event.row.sender.clone());
        self.batch.put(StickyRow { room, event: event.num(), sender, pos, expires_ms });
        self.rooms.sticky_until_ms.fetch_max(expires_ms, Ordering::AcqRel);
    }

    /// Judges the soft-failed sticky events of those again who have come to be joined: what passes now reaches clients, as
    /// a sticky event alone, since its place in the timeline is lost.
    pub(super) async fn recover_sticky(&mut self) -> Result<()> {
        let joined = std::mem::take(&mut self.joined);
        if joined.is_empty() || !self.rooms.may_have_sticky() {
            return Ok(());
        }
        let rows: Vec<StickyRow> = self.rooms.store.all(Read::prefix::<StickyRow>(vec![self.room.num.into()])).await?;
        let policy = self.rooms.policy_server(self.room, Some(&self.overlay), &self.head).await?;
        for row in rows.into_iter().filter(|row| row.pos.is_none() && joined.contains(&row.sender)) {
            let found = self.rooms.events_left(self.room, Some(&self.overlay), &[row.event]).await?;
            let Some(event) = found.first().filter(|event| event.has(flags::SOFT_FAILED)) else { continue };
            let recommended = policy.as_ref().is_none_or(|policy| policy.recommends(self.room.rules, &event.pdu));
            if recommended && passes_state(self, &event.pdu, self.head.state).await?.is_ok() {
                let pos = self.batch.announce(StreamKind::RoomHead, Some(self.room.num), None, None);
                self.batch.put(StickyRow { pos: Some(pos), ..row });
            }
        }
        Ok(())
    }
}
