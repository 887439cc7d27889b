//! A worker: takes the rooms in turn and their queued events in order, until each is judged, dropped or put off. What
//! waits for events that are not known is looked after when the room's turn is over, so that whoever answers slowly
//! holds up nobody else's events.

use event::{EdgeLimits, Json, Rules, Verified, VerifyError};
use rooms::Accepted;
use ruma_common::OwnedEventId;
use store::UserId;
use store::tables::federation::InboundPduRow;

use super::queue::Outcome;
use crate::{Federation, verify};

/// Events of one room that are taken in one turn.
const EVENTS_PER_TURN: u32 = 16;
/// How long an event waits after each vain try, in milliseconds; after the last it is dropped.
const DELAYS_MS: [i64; 5] = [10_000, 60_000, 10 * 60_000, 60 * 60_000, 6 * 60 * 60_000];
/// After a gap was given up, how long others of the same room and peer do not try to fill theirs, in milliseconds.
const PAUSE_MS: i64 = 10_000;
/// How long an event waits where the fault is ours, in milliseconds.
const OWN_FAULT_MS: i64 = 5_000;
/// How long an event waits before whose gap somebody else works, or too many work on gaps, in milliseconds.
const OTHERS_FILL_MS: i64 = 5_000;
/// After this time an event is taken again before which a gap was being filled: the process has died, in milliseconds.
const FILLED_MS: i64 = 15 * 60_000;

/// What came of an event in its room's turn.
enum Taken {
    Settled(Outcome),
    /// It builds on these events, which are not known here.
    Waiting(Verified, Vec<OwnedEventId>),
}

impl From<Outcome> for Taken {
    fn from(outcome: Outcome) -> Self {
        Self::Settled(outcome)
    }
}

impl Federation {
    /// Works on the room whose turn it is. False if there is none.
    pub(super) async fn work(&self) -> bool {
        let queue = &self.receiver.queue;
        let now_ms = self.clock.now_ms();
        let Some(turn) = queue.schedule.next(now_ms) else { return false };
        let rows = match queue.due(&turn.room_id, now_ms, EVENTS_PER_TURN).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(%error, room_id = turn.room_id, "queued events could not be read");
                queue.schedule.add_later(&turn.room_id, "", now_ms + OWN_FAULT_MS);
                return true;
            }
        };
        if let Some(row) = rows.last()
            && rows.len() >= usize::try_from(EVENTS_PER_TURN).unwrap_or(usize::MAX)
        {
            queue.schedule.add(&turn.room_id, &row.origin);
        }
        let mut settled = Vec::with_capacity(rows.len());
        let mut waiting = Vec::new();
        for row in rows {
            let outcome = match self.take(&row).await {
                Taken::Settled(outcome) => outcome,
                Taken::Waiting(event, missing) => {
                    waiting.push((row.clone(), event, missing));
                    Outcome::Later { due_ms: now_ms.saturating_add(FILLED_MS), attempts: row.attempts }
                }
            };
            settled.push((row, outcome));
        }
        self.settle(&turn.room_id, settled).await;
        drop(turn);
        for (row, event, missing) in waiting {
            let outcome = self.take_waiting(&row, event, missing).await;
            self.settle(&row.room_id.clone(), vec![(row, outcome)]).await;
        }
        true
    }

    async fn settle(&self, room_id: &str, settled: Vec<(InboundPduRow, Outcome)>) {
        let queue = &self.receiver.queue;
        let now_ms = self.clock.now_ms();
        if let Err(error) = queue.settle(settled, now_ms).await {
            // The rows stand: the events are taken again, and are known then.
            tracing::warn!(%error, room_id, "what became of events could not be written");
            queue.schedule.add_later(room_id, "", now_ms + OWN_FAULT_MS);
        }
    }

    async fn take(&self, row: &InboundPduRow) -> Taken {
        let rules = match self.rules_of(&row.room_id).await {
            Ok(Some(rules)) => rules,
            Ok(None) => return Outcome::Dropped("the room is not known here any more".to_owned()).into(),
            Err(_) => return self.own_fault(row).into(),
        };
        let event = match self.verified(rules, row).await {
            Ok(Ok(event)) => event,
            Ok(Err(error @ VerifyError::NoUsableKey { .. })) => {
                return self.put_off(row, &error.to_string(), None).into();
            }
            Ok(Err(error)) => return Outcome::Dropped(error.to_string()).into(),
            Err(_) => return self.own_fault(row).into(),
        };
        match self.resident_room(&row.room_id).await {
            Ok(Some(_)) => {}
            Ok(None) => return self.take_out_of_band(row, rules, event).await.into(),
            Err(_) => return self.own_fault(row).into(),
        }
        match self.rooms.accept(event.clone()).await {
            Ok(Accepted::Judged(_)) => self.note_device(&event).await.into(),
            Ok(Accepted::Known(_)) => Outcome::Done.into(),
            Ok(Accepted::Waiting(missing)) => Taken::Waiting(event, missing),
            Err(rooms::Error::Busy | rooms::Error::Store(_)) => self.own_fault(row).into(),
            Err(error) => Outcome::Dropped(error.to_string()).into(),
        }
    }

    /// Takes note of the device that sent an encrypted message: if it is unknown, an update was lost (CE12).
    async fn note_device(&self, event: &Verified) -> Outcome {
        let pdu = event.pdu();
        let device = pdu.content.get("device_id").and_then(Json::as_str).filter(|_| pdu.kind == "m.room.encrypted");
        if let Some(device) = device
            && let Err(error) = self.edus.device_named(&UserId::from(pdu.sender.as_str()), device).await
        {
            tracing::warn!(%error, "whether a device is known cannot be read");
        }
        Outcome::Done
    }

    async fn verified(
        &self,
        rules: &'static Rules,
        row: &InboundPduRow,
    ) -> Result<Result<Verified, VerifyError>, store::Error> {
        match self.receiver.queue.take_fresh(row) {
            Some(event) => Ok(Ok(event)),
            None => verify::pdu(&self.key_ring, rules, row.pdu.clone().into(), EdgeLimits::Enforced).await,
        }
    }

    /// An event that builds on what is not known here.
    async fn take_waiting(&self, row: &InboundPduRow, event: Verified, missing: Vec<OwnedEventId>) -> Outcome {
        let gaps = &self.receiver.gaps;
        if let Some(until_ms) = gaps.pause(&row.room_id, &row.origin, self.clock.now_ms()) {
            // The same gap could not be filled just now: the events behind it share its fate.
            return self.put_off(row, "what came before it could not be had", Some(until_ms));
        }
        let Some(_filling) = self.receiver.queue.schedule.fill(&row.room_id, &row.origin) else {
            let due_ms = self.clock.now_ms().saturating_add(OTHERS_FILL_MS);
            return Outcome::Later { due_ms, attempts: row.attempts };
        };
        match self.fill(&row.room_id, &row.origin, event, missing).await {
            Ok(None) => Outcome::Done,
            Ok(Some(reason)) => {
                let outcome = self.put_off(row, &reason, None);
                let until_ms = match &outcome {
                    Outcome::Later { due_ms, .. } => *due_ms,
                    _ => self.clock.now_ms().saturating_add(PAUSE_MS),
                };
                gaps.put_off(&row.room_id, &row.origin, until_ms);
                outcome
            }
            Err(rooms::Error::Busy | rooms::Error::Store(_)) => self.own_fault(row),
            Err(error) => Outcome::Dropped(error.to_string()),
        }
    }

    pub(super) fn own_fault(&self, row: &InboundPduRow) -> Outcome {
        Outcome::Later { due_ms: self.clock.now_ms().saturating_add(OWN_FAULT_MS), attempts: row.attempts }
    }

    /// What others could not help with is tried again, less and less often, or at a time that is given.
    fn put_off(&self, row: &InboundPduRow, reason: &str, due_ms: Option<i64>) -> Outcome {
        let tried = usize::try_from(row.attempts).unwrap_or(0);
        match DELAYS_MS.get(tried) {
            None => Outcome::Dropped(reason.to_owned()),
            Some(delay_ms) => Outcome::Later {
                due_ms: due_ms.unwrap_or_else(|| self.clock.now_ms().saturating_add(*delay_ms)),
                attempts: row.attempts.saturating_add(1),
            },
        }
    }
}
