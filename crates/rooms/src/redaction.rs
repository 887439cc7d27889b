//! Redactions: who may, what of it is applied when, and what a redacted event is served as (client-server API,
//! redactions; room versions 1 to 12).
//!
//! A redaction is part of the graph as soon as it is accepted. Clients see it when it is known to be valid, that is when
//! its target is there too; until then it is withheld.

use std::sync::Arc;

use event::Pdu;
use event::power_levels::PowerLevels;
use store::tables::rooms::{EventBytesRow, RedactionRow, RelationRow, ThreadRow, UncountedRow};
use store::{Read, StreamKind};

use crate::accept::missing_among;
use crate::draft::{Draft, Judged, thread_of};
use crate::event::Event;
use crate::state::{Roots, type_key};
use crate::{Error, Result, Rooms, flags};

/// Most redactions of one event that are looked at.
const REDACTIONS_MAX: u32 = 100;

impl Rooms {
    /// Decides whether a redaction that is being accepted can be shown already.
    pub(crate) async fn place_redaction(&self, draft: &Draft<'_>, judged: &mut Judged) -> Result<()> {
        if !judged.pdu.is_redaction() || judged.flags & flags::HIDDEN != 0 {
            return Ok(());
        }
        let Some(target) = self.redaction_target(draft, &judged.pdu).await? else {
            judged.withheld = judged.pdu.redacts.is_some();
            return Ok(());
        };
        let before = judged.state_before.unwrap_or(Roots::EMPTY);
        judged.withheld = !self.may_redact(draft, &judged.pdu, &target, before).await?;
        Ok(())
    }

    async fn redaction_target(&self, draft: &Draft<'_>, redaction: &Pdu) -> Result<Option<Arc<Event>>> {
        let Some(id) = &redaction.redacts else { return Ok(None) };
        let Some(num) = draft.num_of(id).await? else { return Ok(None) };
        let target = self.events(draft.room, Some(&draft.overlay), &[num]).await?.into_iter().next();
        Ok(target.filter(|event| !event.has(flags::WAITING)))
    }

    /// Whether a redaction is valid: in room versions 1 and 2 the auth rules have said so; later the sender needs the
    /// redact level, or is of the same server as the target's sender.
    pub(crate) async fn may_redact(
        &self,
        draft: &Draft<'_>,
        redaction: &Pdu,
        target: &Event,
        state: Roots,
    ) -> Result<bool> {
        if draft.room.rules.redaction_auth_rule || redaction.sender_server() == target.pdu.sender_server() {
            return Ok(true);
        }
        let pairs = [type_key("m.room.power_levels", "")];
        let state = self.state_map(draft.room, Some(&draft.overlay), state, &pairs).await?;
        let power = state.event("m.room.power_levels", "").map(|event| Arc::clone(&event.pdu));
        let levels = PowerLevels::from_state(draft.room.rules, power.as_deref(), &draft.room.create);
        Ok(levels.user(&redaction.sender) >= levels.redact())
    }

    /// After an event was appended: applies it if it is a redaction, and applies the redactions that waited for it.
    pub(crate) async fn apply_redactions(&self, draft: &mut Draft<'_>, event: &Arc<Event>) -> Result<()> {
        if event.pdu.is_redaction() && !event.has(flags::HIDDEN) {
            match self.redaction_target(draft, &event.pdu).await? {
                Some(target) if event.row.fragment.is_some() => self.redact(draft, &target, event).await?,
                Some(_) => {}
                None => self.keep_redaction(draft, event),
            }
            self.note_gap_before_withheld(draft, event).await?;
        }
        if event.has(flags::WAITING) {
            return Ok(());
        }
        if draft.room.withholds_for(event.id()) {
            self.wait_for_all(draft.room).await?;
        }
        let prefix = vec![draft.room.num.into(), event.id().as_str().into()];
        let read = Read::prefix::<RedactionRow>(prefix).limit(REDACTIONS_MAX);
        let waiting: Vec<RedactionRow> = self.store.all(read).await?;
        for row in waiting.into_iter().filter(|row| row.event != event.num()) {
            let found = self.events(draft.room, Some(&draft.overlay), &[row.event]).await?;
            for redaction in found.iter().filter(|redaction| redaction.row.pos.is_none()) {
                let before = redaction.state_before().unwrap_or(Roots::EMPTY);
                if self.may_redact(draft, &redaction.pdu, event, before).await? {
                    // One of history from before stands in its place already.
                    match redaction.row.fragment {
                        Some(_) => self.redact(draft, event, redaction).await?,
                        None => {
                            let shown = reveal(draft, redaction);
                            self.redact(draft, event, &shown).await?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// What is missing before a withheld redaction is missing for what follows it: it stands in no fragment itself, and the
    /// live one is that which the next event, or the redaction once it is shown, continues.
    async fn note_gap_before_withheld(&self, draft: &mut Draft<'_>, redaction: &Arc<Event>) -> Result<()> {
        if redaction.row.fragment.is_none() {
            let missing = missing_among(draft, &redaction.pdu.prev_events, flags::WAITING | flags::OUTLIER).await?;
            let fragment = draft.head.row.fragment;
            draft.note_gaps(redaction, fragment, &missing);
        }
        Ok(())
    }

    fn keep_redaction(&self, draft: &mut Draft<'_>, redaction: &Event) {
        let Some(target) = &redaction.pdu.redacts else { return };
        draft.batch.put(RedactionRow {
            room: draft.room.num,
            target: target.to_string(),
            event: redaction.num(),
            rewrite_due_ms: i64::MAX,
        });
    }

    /// Prunes the target: served pruned at once, its stored bytes rewritten when due, and nobody's to read any more.
    async fn redact(&self, draft: &mut Draft<'_>, target: &Arc<Event>, redaction: &Event) -> Result<()> {
        if target.has(flags::REDACTED) {
            return Ok(());
        }
        // The position of a target that is not yet durable is a placeholder of another batch, and its thread is not yet
        // as it will be.
        self.wait_for_all(draft.room).await?;
        let found = self.events(draft.room, Some(&draft.overlay), &[target.num()]).await?;
        let target = found.first().unwrap_or(target);
        let pruned = target.pdu.redacted(draft.room.rules).map_err(|error| Error::Invalid(error.to_string()))?;
        let mut row = target.row.clone();
        row.flags |= flags::REDACTED;
        row.redacted_by = Some(redaction.num());
        draft.change_event(row, Arc::new(pruned));
        if let Some(pos) = target.row.pos {
            let by_default = target.has(flags::NOTIFIABLE) && target.row.thread.is_none();
            draft.batch.put(UncountedRow { room: draft.room.num, pos, by_default });
        }
        draft.batch.put(RedactionRow {
            room: draft.room.num,
            target: target.id().to_string(),
            event: redaction.num(),
            rewrite_due_ms: self.clock.now_ms().saturating_add(self.options.redaction_retention_ms),
        });
        self.drop_relation(draft, target).await
    }

    /// Relations of a redacted or hidden child vanish.
    pub(crate) async fn drop_relation(&self, draft: &mut Draft<'_>, child: &Event) -> Result<()> {
        let Some((rel_type, parent)) = child.relation() else { return Ok(()) };
        let room = draft.room.num;
        draft.batch.delete::<RelationRow>(vec![room.into(), parent.into(), rel_type.into(), child.num().into()]);
        let Some(root) = thread_of(&child.pdu) else { return Ok(()) };
        let key = vec![room.into(), root.as_str().into()];
        let Some(thread) = self.store.get::<ThreadRow>(key.clone()).await? else { return Ok(()) };
        if thread.latest != child.num() {
            return Ok(());
        }
        let prefix = vec![room.into(), root.as_str().into(), "m.thread".into()];
        let read = Read::prefix::<RelationRow>(prefix).before(child.num()).reverse();
        match self.store.one::<RelationRow>(read).await? {
            Some(previous) => draft.batch.put(ThreadRow { latest: previous.event, ..thread }),
            None => draft.batch.delete::<ThreadRow>(key),
        };
        Ok(())
    }

    /// Rewrites the stored bytes of events whose redaction is due, a bounded number at a time. Returns how many.
    ///
    /// # Errors
    /// As the store says.
    pub async fn rewrite_redacted(&self, limit: u32) -> Result<usize> {
        let read = Read::along::<RedactionRow>(RedactionRow::BY_DUE, vec![]).after(0_i64).up_to(self.clock.now_ms());
        let due: Vec<RedactionRow> = self.store.all(read.limit(limit)).await?;
        let n_due = due.len();
        for mut row in due {
            let mut batch = store::CommitBatch::new();
            // The history may be purged meanwhile.
            batch.expect_present::<RedactionRow>(vec![row.room.into(), row.target.as_str().into(), row.event.into()]);
            if let Some(room) = self.room_by_num(row.room).await?
                && let Some(event) = self.event_by_id(&room, &row.target).await?
                && event.has(flags::REDACTED)
            {
                batch.expect_present::<EventBytesRow>(vec![event.num().into()]);
                batch.put(EventBytesRow { event: event.num(), json: event.pdu.bytes.to_vec() });
            }
            row.rewrite_due_ms = 0;
            batch.put(row);
            match self.store.commit(batch).await {
                Ok(_) | Err(store::CommitError::Conflict { .. }) => {}
                Err(store::CommitError::Store(error)) => return Err(error.into()),
            }
        }
        Ok(n_due)
    }
}

/// Gives a withheld redaction its place in the timeline now.
fn reveal(draft: &mut Draft<'_>, redaction: &Arc<Event>) -> Event {
    let mut row = redaction.row.clone();
    let pos = draft.batch.announce(StreamKind::Event, Some(draft.room.num), None, Some(redaction.num().0));
    draft.announce_change(redaction.num());
    row.pos = Some(pos);
    row.fragment = Some(draft.head.row.fragment);
    row.idx = Some(draft.head.row.next_index);
    draft.head.row.next_index += 1;
    draft.head.row.last_pos = pos;
    draft.overlay.events.insert(redaction.num(), Arc::new(Event::new(row.clone(), Arc::clone(&redaction.pdu))));
    draft.batch.put(row.clone());
    Event::new(row, Arc::clone(&redaction.pdu))
}
