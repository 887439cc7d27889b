//! The one way in for every event, local or foreign: the "checks performed on receipt of a PDU" of the server-server
//! API, one call per step.
//!
//! Format, signatures and content hash (steps 1 to 3) are what makes a [`Verified`]. An event whose previous or auth
//! events are not known waits, durably, until they have come; then it is judged like any other, so that the outcome
//! does not depend on the order of arrival.

use std::collections::HashSet;
use std::sync::Arc;

use event::auth_rules::{self, AuthEvent};
use event::{Pdu, Verified};
use ruma_common::OwnedEventId;
use store::EventNum;
use store::tables::rooms::MissingPrevRow;

use crate::draft::{Draft, Judged};
use crate::event::Event;
use crate::room::Room;
use crate::state::{Roots, TypeKey};
use crate::{Error, Result, Rooms, flags};

/// How often a decision that lost the room's compare-and-swap is made again.
pub(crate) const ATTEMPTS_MAX: usize = 20;

/// What became of an event.
#[derive(Clone, Debug)]
pub enum Accepted {
    /// It was judged and stored; its flags say whether it is shown.
    Judged(Arc<Event>),
    /// It was known already.
    Known(Arc<Event>),
    /// It waits for these events.
    Waiting(Vec<OwnedEventId>),
}

impl Rooms {
    /// Takes in an event of a known room.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] if the room is not known; as the store says.
    pub async fn accept(&self, event: Verified) -> Result<Accepted> {
        self.accept_flagged(event, 0).await
    }

    /// Takes in an event of another server's user that came through this server's membership handshakes (`send_join`,
    /// `send_leave`, `send_knock`): this server hands it on to the others in the room.
    ///
    /// # Errors
    /// As [`Rooms::accept`].
    pub async fn accept_to_forward(&self, event: Verified) -> Result<Accepted> {
        self.accept_flagged(event, flags::FORWARDED).await
    }

    async fn accept_flagged(&self, event: Verified, more: i64) -> Result<Accepted> {
        let event = self.seek_recommendation(event).await?;
        let pdu = Arc::clone(event.pdu());
        let room_id = pdu.room_id.to_string();
        let more = if event.redacted() { more | flags::REDACTED } else { more };
        let accepted = self.accept_one(&room_id, &pdu, more).await?;
        let come = match &accepted {
            Accepted::Judged(event) => Some(event.id().clone()),
            Accepted::Known(_) | Accepted::Waiting(_) => None,
        };
        self.finish_waiting(&room_id, come).await;
        Ok(accepted)
    }

    /// Judges what waited for an event, and what waited for that.
    pub(crate) async fn accept_waiting(&self, room_id: &str, come: OwnedEventId) -> Result<()> {
        let mut queue = vec![come];
        while let Some(come) = queue.pop() {
            let Some(room) = self.room(room_id).await? else { return Ok(()) };
            let prefix = vec![room.num.into(), come.as_str().into()];
            let rows: Vec<MissingPrevRow> = self.store.all(store::Read::prefix::<MissingPrevRow>(prefix)).await?;
            if rows.is_empty() {
                continue;
            }
            // Only after the loop: after a crash before that, the rows still tell what waits.
            let mut batch = store::CommitBatch::new();
            for row in rows {
                let child = self.event(&room, row.child).await?;
                match self.accept_one(room_id, &child.pdu, child.row.flags & flags::KEPT).await? {
                    Accepted::Judged(event) => queue.push(event.id().clone()),
                    // What has come is an outlier, which is enough for who cites it, but not for who follows it.
                    Accepted::Waiting(missing) if missing.contains(&come) => continue,
                    // It was placed in a gap together with another.
                    Accepted::Known(event) if !event.has(flags::WAITING | flags::OUTLIER) => {
                        queue.push(event.id().clone());
                    }
                    Accepted::Known(event) if event.has(flags::OUTLIER) && !self.is_placed(&room, &come).await? => {
                        continue;
                    }
                    Accepted::Waiting(_) | Accepted::Known(_) => {}
                }
                batch.delete::<MissingPrevRow>(missing_key(row));
            }
            match self.store.commit(batch).await {
                Ok(_) | Err(store::CommitError::Conflict { .. }) => {}
                Err(store::CommitError::Store(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// After a crash: judges what waits for events that have come meanwhile. Returns how many rows were looked at.
    ///
    /// # Errors
    /// As the store says.
    pub async fn resume_waiting(&self) -> Result<usize> {
        let rows: Vec<MissingPrevRow> = self.store.all(store::Read::prefix::<MissingPrevRow>(vec![])).await?;
        for row in &rows {
            let Some(room) = self.room_by_num(row.room).await? else { continue };
            let come = self.event_by_id(&room, &row.event_id).await?;
            if let Some(come) = come.filter(|event| !event.has(flags::WAITING)) {
                self.accept_waiting(&room.id, come.id().clone()).await?;
            }
        }
        Ok(rows.len())
    }

    async fn accept_one(&self, room_id: &str, pdu: &Arc<Pdu>, more: i64) -> Result<Accepted> {
        for _ in 0..ATTEMPTS_MAX {
            let room = match self.room(room_id).await? {
                Some(room) => room,
                None if pdu.is_create() => return self.accept_create(pdu).await,
                None => return Err(Error::NotInRoom),
            };
            let accepted = match self.accept_into_gap(&room, pdu, more).await {
                Ok(Some(event)) => return Ok(Accepted::Judged(event)),
                Ok(None) => self.try_accept(&room, pdu, more).await,
                Err(error) => Err(error),
            };
            match accepted {
                Err(Error::Busy) => {}
                other => return other,
            }
        }
        Err(Error::Busy)
    }

    /// A create event of another server begins the room here. Whether this server wants the room is for the caller.
    async fn accept_create(&self, pdu: &Arc<Pdu>) -> Result<Accepted> {
        let room = self.new_room(Arc::clone(pdu), false).await?;
        let mut draft = Draft::begin(self, &room).await;
        let event = draft.append_create(Arc::clone(pdu)).await?;
        self.commit_new(&room, draft).await?;
        Ok(Accepted::Judged(event))
    }

    async fn try_accept(&self, room: &Arc<Room>, pdu: &Arc<Pdu>, more: i64) -> Result<Accepted> {
        let mut draft = Draft::begin(self, room).await;
        draft.check_alive()?;
        let known = match draft.num_of(&pdu.event_id).await? {
            None => None,
            Some(num) => {
                let event = self.event(room, num).await?;
                if !event.has(flags::WAITING | flags::OUTLIER) {
                    self.make_durable(room, draft, num).await?;
                    return Ok(Accepted::Known(event));
                }
                Some(event)
            }
        };
        let (pdu, more) = better_form(pdu, more, known.as_deref());
        let missing = missing_of(&draft, pdu).await?;
        if !missing.is_empty() {
            self.keep_waiting(draft, pdu, known.as_deref(), more, &missing).await?;
            return Ok(match known.filter(|known| known.has(flags::OUTLIER)) {
                // It is older than what is here. What came between is history, which is fetched when somebody reads it.
                Some(outlier) => Accepted::Known(outlier),
                None => Accepted::Waiting(missing),
            });
        }
        let mut judged = judge(&mut draft, pdu).await?;
        judged.known = known.as_ref().map(|event| event.num());
        judged.flags |= more;
        let behind = self.gaps_behind(&draft, &judged).await?;
        if !behind.is_empty() {
            draft.begin_fragment().await?;
        }
        self.place_redaction(&draft, &mut judged).await?;
        let event = draft.append(judged).await?;
        draft.note_gaps_behind(&behind);
        self.apply_redactions(&mut draft, &event).await?;
        self.commit(room, draft).await?;
        Ok(Accepted::Judged(event))
    }

    pub(crate) async fn keep_waiting(
        &self,
        mut draft: Draft<'_>,
        pdu: &Arc<Pdu>,
        known: Option<&Event>,
        flags: i64,
        missing: &[OwnedEventId],
    ) -> Result<()> {
        let room = draft.room;
        if let Some(outlier) = known {
            if outlier.has(flags::OUTLIER) {
                // It stays what it is, since others may cite it, and waits besides.
                note_missing(&mut draft, outlier.num(), missing);
                return self.commit(room, draft).await;
            }
            return Ok(());
        }
        let judged = Judged {
            pdu: Arc::clone(pdu),
            flags: flags | flags::WAITING,
            reason: Some("waits for events that are not known yet".to_owned()),
            state_before: None,
            prev: Vec::new(),
            auth: Vec::new(),
            transaction: None,
            known: None,
            withheld: false,
        };
        let event = draft.append(judged).await?;
        note_missing(&mut draft, event.num(), missing);
        self.commit(room, draft).await
    }

    /// Returns once an event that the draft has seen is durable: a batch that adds nothing comes after it.
    pub(crate) async fn make_durable(&self, room: &Room, draft: Draft<'_>, event: EventNum) -> Result<()> {
        if room.is_unwritten(event) { self.commit(room, draft).await } else { Ok(()) }
    }

    /// Submits a decision and waits until it is durable.
    pub(crate) async fn commit(&self, room: &Room, draft: Draft<'_>) -> Result<()> {
        match draft.submit().await {
            Ok(_) => Ok(()),
            Err(store::CommitError::Conflict { .. }) => {
                room.kill();
                Err(Error::Busy)
            }
            Err(store::CommitError::Store(error)) => {
                room.kill();
                Err(Error::Store(error))
            }
        }
    }
}

fn note_missing(draft: &mut Draft<'_>, child: EventNum, missing: &[OwnedEventId]) {
    for id in missing {
        draft.batch.put(MissingPrevRow { room: draft.room.num, event_id: id.to_string(), child });
    }
}

pub(crate) fn missing_key(row: MissingPrevRow) -> Vec<store::Value> {
    vec![row.room.into(), row.event_id.into(), row.child.into()]
}

/// Of what is known of an event and what has come now the better form, with the flags that it has before it is judged: a
/// redacted copy does not take the place of a whole one.
pub(crate) fn better_form<'a>(pdu: &'a Arc<Pdu>, more: i64, known: Option<&'a Event>) -> (&'a Arc<Pdu>, i64) {
    let Some(known) = known else { return (pdu, more) };
    let (old, both) = (known.row.flags, (more | known.row.flags) & flags::KEPT & !flags::REDACTED);
    if more & flags::REDACTED != 0 || known.row.redacted_by.is_some() {
        return (&known.pdu, both | (old & flags::REDACTED));
    }
    (pdu, both)
}

/// The previous and auth events that are not known, or wait themselves. An outlier can be cited, not followed: there is
/// no state after it.
pub(crate) async fn missing_of(draft: &Draft<'_>, pdu: &Pdu) -> Result<Vec<OwnedEventId>> {
    let mut missing = missing_among(draft, &pdu.prev_events, flags::WAITING | flags::OUTLIER).await?;
    for id in missing_among(draft, &pdu.auth_events, flags::WAITING).await? {
        if !missing.contains(&id) {
            missing.push(id);
        }
    }
    Ok(missing)
}

/// Those of the events that are not known, or have one of the flags.
pub(crate) async fn missing_among(draft: &Draft<'_>, ids: &[OwnedEventId], unusable: i64) -> Result<Vec<OwnedEventId>> {
    let (mut missing, mut seen) = (Vec::new(), HashSet::with_capacity(ids.len()));
    for id in ids.iter().filter(|id| seen.insert(*id)) {
        let usable = match draft.num_of(id).await? {
            Some(num) => {
                let found = draft.rooms.events(draft.room, Some(&draft.overlay), &[num]).await?;
                found.iter().all(|event| !event.has(unusable))
            }
            None => false,
        };
        if !usable {
            missing.push(id.clone());
        }
    }
    Ok(missing)
}

/// Steps 4 to 7 of the checks on an event all of whose edges are known.
pub(crate) async fn judge(draft: &mut Draft<'_>, pdu: &Arc<Pdu>) -> Result<Judged> {
    let prev = nums_of(draft, &pdu.prev_events).await?;
    let state_before = state_before(draft, &prev).await?;
    let state_before = draft.learn_state(pdu, state_before).await?;
    judge_at(draft, pdu, prev, state_before).await
}

/// Steps 4 to 7, with the state before the event.
pub(crate) async fn judge_at(
    draft: &mut Draft<'_>,
    pdu: &Arc<Pdu>,
    prev: Vec<EventNum>,
    state_before: Roots,
) -> Result<Judged> {
    let mut judged = judge_then(draft, pdu, prev, state_before).await?;
    if judged.flags == 0 && state_before != draft.head.state {
        let current = draft.learn_state(pdu, draft.head.state).await?;
        if let Err(reason) = passes_state(draft, pdu, current).await? {
            judged.flags = flags::SOFT_FAILED;
            judged.reason = Some(reason);
        }
    }
    if judged.flags == 0
        && let Some(policy) = draft.rooms.policy_server(draft.room, Some(&draft.overlay), &draft.head).await?
        && !policy.recommends(draft.room.rules, pdu)
    {
        judged.flags = flags::SOFT_FAILED;
        judged.reason = Some(format!("{} does not recommend it", policy.server));
    }
    Ok(judged)
}

/// Steps 4 and 5, with the state before the event: what does not depend on the present.
pub(crate) async fn judge_then(
    draft: &mut Draft<'_>,
    pdu: &Arc<Pdu>,
    prev: Vec<EventNum>,
    state_before: Roots,
) -> Result<Judged> {
    let auth = nums_of(draft, &pdu.auth_events).await?;
    let mut judged = Judged {
        pdu: Arc::clone(pdu),
        flags: 0,
        reason: None,
        state_before: Some(state_before),
        prev,
        auth,
        transaction: None,
        known: None,
        withheld: false,
    };
    let verdict = if pdu.is_create() && pdu.event_id != draft.room.create.event_id {
        Err("the room has a create event already".to_owned())
    } else {
        match passes_auth_events(draft, pdu, &judged.auth).await? {
            Ok(()) => passes_state(draft, pdu, state_before).await?,
            refused => refused,
        }
    };
    if let Err(reason) = verdict {
        judged.flags = flags::REJECTED;
        judged.reason = Some(reason);
    }
    Ok(judged)
}

pub(crate) async fn nums_of(draft: &Draft<'_>, ids: &[OwnedEventId]) -> Result<Vec<EventNum>> {
    let mut nums = Vec::with_capacity(ids.len());
    for id in ids {
        nums.extend(draft.num_of(id).await?);
    }
    Ok(nums)
}

/// The state before an event with these previous events, resolved over all of them.
pub(crate) async fn state_before(draft: &mut Draft<'_>, prev: &[EventNum]) -> Result<Roots> {
    let heads = &draft.head.extremities;
    if prev.len() == heads.len() && heads.iter().all(|extremity| prev.contains(&extremity.num)) {
        return Ok(draft.head.state);
    }
    let events = draft.rooms.events(draft.room, Some(&draft.overlay), prev).await?;
    let states: Vec<Roots> = events.iter().filter_map(|event| event.state_after()).collect();
    draft.resolve(&states).await
}

/// Step 4: the auth rules against the event's own auth events.
async fn passes_auth_events(draft: &Draft<'_>, pdu: &Pdu, auth: &[EventNum]) -> Result<Result<(), String>> {
    let events = draft.rooms.events(draft.room, Some(&draft.overlay), auth).await?;
    let auth: Vec<AuthEvent> =
        events.iter().map(|event| AuthEvent { pdu: Arc::clone(&event.pdu), rejected: event.rejected() }).collect();
    Ok(auth_rules::check_against_auth_events(draft.room.rules, pdu, &auth, &draft.room.create)
        .map_err(|denied| denied.to_string()))
}

/// Steps 5 and 6: the auth rules against a state.
pub(crate) async fn passes_state(draft: &Draft<'_>, pdu: &Pdu, state: Roots) -> Result<Result<(), String>> {
    let pairs = auth_pairs(draft, pdu);
    let state = draft.rooms.state_map(draft.room, Some(&draft.overlay), state, &pairs).await?;
    Ok(auth_rules::check(draft.room.rules, pdu, &state, &draft.room.create).map_err(|denied| denied.to_string()))
}

/// The state that the auth rules look at for an event.
pub(crate) fn auth_pairs(draft: &Draft<'_>, pdu: &Pdu) -> Vec<TypeKey> {
    auth_rules::auth_types(draft.room.rules, &pdu.sender, &pdu.kind, pdu.state_key.as_deref(), &pdu.content)
}
