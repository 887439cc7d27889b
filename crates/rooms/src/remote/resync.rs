//! After a gap: an event whose previous events cannot be had is judged by the state before it that another server tells
//! (server-server API, "Retrieving missing events" and "Room state resynchronization").

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use ::event::{Pdu, Verified};
use ruma_common::OwnedEventId;
use store::tables::rooms::{EventRow, MissingPrevRow};
use store::{EventNum, Read};

use super::history::Incoming;
use super::left_out::{Edge, ToldState};
use crate::accept::{ATTEMPTS_MAX, better_form, judge_at, missing_among, missing_key, nums_of};
use crate::draft::Draft;
use crate::room::Room;
use crate::state::{Roots, TypeKey, type_key};
use crate::{Accepted, Error, Result, Rooms, flags};

/// Most rows of what is missing that one look reads.
const MISSING_MAX: u32 = 10_000;
/// So many events that have come are looked for one by one among what is missing; of more, all that is missing is read.
const COME_FEW: usize = 32;

/// An event that is not known, and who waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingEvent {
    /// The missing event. It may be known as an outlier: then the state at it is missing.
    pub id: OwnedEventId,
    /// The known events that name it as previous or auth event.
    pub children: Vec<OwnedEventId>,
}

impl Rooms {
    /// Takes in an event some of whose previous events cannot be had, with the state before it as another server tells
    /// it. The state before it is resolved from that and the states after the previous events that are
    /// known. Before the event the timeline has a gap. What is left out of that state, since it could not be verified,
    /// is kept aside ([`Rooms::left_out`]).
    ///
    /// # Errors
    /// [`Error::NotInRoom`] for an unknown room; [`Error::Invalid`] if an event of the state is not known (see
    /// [`Rooms::accept_outliers`]); as the store says.
    pub async fn accept_with_state(&self, event: Verified, told: impl Into<ToldState>) -> Result<Accepted> {
        let told = told.into();
        let event = self.seek_recommendation(event).await?;
        let room_id = event.pdu().room_id.to_string();
        for _ in 0..ATTEMPTS_MAX {
            let room = self.room(&room_id).await?.ok_or(Error::NotInRoom)?;
            match self.try_with_state(&room, &event, &told).await {
                Err(Error::Busy) => {}
                Ok(accepted) => {
                    if let Accepted::Judged(event) = &accepted {
                        self.accept_waiting(&room_id, event.id().clone()).await?;
                    }
                    return Ok(accepted);
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Busy)
    }

    async fn try_with_state(&self, room: &Arc<Room>, event: &Verified, told: &ToldState) -> Result<Accepted> {
        let pdu = event.pdu();
        if let Some(incoming) = self.for_gap(room, Incoming::from(event), true).await? {
            let states = BTreeMap::from([(pdu.event_id.clone(), told.clone())]);
            let placed = self.try_history(room, &incoming, &states).await?;
            if let Some(event) = placed.into_iter().find(|event| *event.id() == pdu.event_id) {
                return Ok(Accepted::Judged(event));
            }
        }
        let mut draft = Draft::begin(self, room).await;
        draft.check_alive()?;
        self.wait_for_all(room).await?;
        let known = match draft.num_of(&pdu.event_id).await? {
            Some(num) => Some(self.event(room, num).await?),
            None => None,
        };
        // An outlier is part of the state at another event: it is older than that, and before it is no gap but history.
        if let Some(known) = known.as_ref().filter(|known| !known.has(flags::WAITING)) {
            return Ok(Accepted::Known(Arc::clone(known)));
        }
        let more = if event.redacted() { flags::REDACTED } else { 0 };
        let (pdu, more) = better_form(pdu, more, known.as_deref());
        let missing_auth = missing_among(&draft, &pdu.auth_events, flags::WAITING).await?;
        if !missing_auth.is_empty() {
            self.keep_waiting(draft, pdu, known.as_deref(), more, &missing_auth).await?;
            return Ok(Accepted::Waiting(missing_auth));
        }
        let missing = missing_among(&draft, &pdu.prev_events, flags::WAITING | flags::OUTLIER).await?;
        let (prev, before) = self.state_at_gap(&mut draft, pdu, &missing, told).await?;
        let mut judged = judge_at(&mut draft, pdu, prev, before).await?;
        judged.known = known.as_ref().map(|event| event.num());
        judged.flags |= more;
        let behind = self.gaps_behind(&draft, &judged).await?;
        if judged.flags & flags::HIDDEN == 0 && !(missing.is_empty() && behind.is_empty()) {
            draft.begin_fragment().await?;
        }
        self.place_redaction(&draft, &mut judged).await?;
        let event = draft.append(judged).await?;
        if let Some(fragment) = event.row.fragment {
            draft.note_gaps(&event, fragment, &missing);
            draft.note_gaps_behind(&behind);
        }
        for id in &missing {
            let row = MissingPrevRow { room: room.num, event_id: id.to_string(), child: event.num() };
            draft.batch.delete::<MissingPrevRow>(missing_key(row));
        }
        self.apply_redactions(&mut draft, &event).await?;
        self.commit(room, draft).await?;
        Ok(Accepted::Judged(event))
    }

    /// The known previous events, and the state before an event, by what is known and what another server tells.
    pub(super) async fn state_at_gap(
        &self,
        draft: &mut Draft<'_>,
        pdu: &Pdu,
        missing: &[OwnedEventId],
        told: &ToldState,
    ) -> Result<(Vec<EventNum>, Roots)> {
        let known: Vec<OwnedEventId> = pdu.prev_events.iter().filter(|id| !missing.contains(id)).cloned().collect();
        let prev = nums_of(draft, &known).await?;
        let events = self.events(draft.room, Some(&draft.overlay), &prev).await?;
        let given = self.given_state(draft, &told.ids).await?;
        draft.note_left_out(Edge::gap(pdu, given), &told.left_out).await?;
        let mut states = vec![given];
        for after in events.iter().filter_map(|event| event.state_after()) {
            states.push(self.fill_by_told(draft, after, given, told).await?);
        }
        Ok((prev, draft.resolve(&states).await?))
    }

    /// In a room of whose state something is missing: a state that is known, with what of that another server tells. Else
    /// what is only not known yet would contradict what is told, and lose where the rules have become stricter since.
    async fn fill_by_told(&self, draft: &mut Draft<'_>, state: Roots, given: Roots, told: &ToldState) -> Result<Roots> {
        if draft.head.partial.is_some() {
            let members = self.on_tree(draft.room, Some(&draft.overlay), |tree| tree.entries(&state.members)).await?;
            let nums: Vec<EventNum> = members.into_iter().map(|(_, num)| EventNum(num)).collect();
            let events = self.events(draft.room, Some(&draft.overlay), &nums).await?;
            let entry = |event: &Arc<crate::Event>| {
                Some((type_key(&event.pdu.kind, event.pdu.state_key.as_deref()?), Some(event.num())))
            };
            let known: Vec<(TypeKey, Option<EventNum>)> = events.iter().filter_map(entry).collect();
            return draft.set_state(Roots { members: given.members, ..state }, &known).await;
        }
        let Some(left_out) = draft.head.left_out.clone().filter(|left_out| !left_out.is_empty()) else {
            return Ok(state);
        };
        let ids: Vec<OwnedEventId> = told.ids.iter().filter(|id| left_out.has(id)).cloned().collect();
        let come = self.rows_by_id(draft.room, &ids).await?;
        let come = come.values().filter(|row| row.flags & (flags::WAITING | flags::REJECTED) == 0);
        let entry = |row: &EventRow| Some((type_key(&row.kind, row.state_key.as_deref()?), row.event));
        draft.fill_state(state, come.filter_map(entry).collect()).await
    }

    /// The state that these events make. Rejected ones and such as are no state events are left out.
    pub(super) async fn given_state(&self, draft: &mut Draft<'_>, ids: &[OwnedEventId]) -> Result<Roots> {
        let rows = self.rows_by_id(draft.room, ids).await?;
        let mut state: BTreeMap<TypeKey, EventNum> = BTreeMap::new();
        for id in ids {
            let row = rows.get(id).filter(|row| row.flags & flags::WAITING == 0);
            let row = row.ok_or_else(|| Error::Invalid(format!("the event {id} of the state is not known")))?;
            if let (Some(state_key), 0) = (&row.state_key, row.flags & flags::REJECTED) {
                state.insert(type_key(&row.kind, state_key), row.event);
            }
        }
        let state: BTreeMap<&TypeKey, EventNum> = state.iter().map(|(pair, num)| (pair, *num)).collect();
        self.replace_state(draft, &state).await
    }

    /// The events of a room that others wait for, in the order of their ids.
    ///
    /// # Errors
    /// As the store says.
    pub async fn missing_events(&self, room_id: &str) -> Result<Vec<MissingEvent>> {
        let Some(room) = self.room(room_id).await? else { return Ok(Vec::new()) };
        let read = Read::prefix::<MissingPrevRow>(vec![room.num.into()]).limit(MISSING_MAX);
        let rows: Vec<MissingPrevRow> = self.store.all(read).await?;
        let nums: Vec<EventNum> = rows.iter().map(|row| row.child).collect();
        let children = self.events(&room, None, &nums).await?;
        let mut missing: BTreeMap<String, Vec<OwnedEventId>> = BTreeMap::new();
        for (row, child) in rows.into_iter().zip(children) {
            missing.entry(row.event_id).or_default().push(child.id().clone());
        }
        let missing = missing.into_iter();
        Ok(missing.filter_map(|(id, children)| Some(MissingEvent { id: id.try_into().ok()?, children })).collect())
    }

    /// Judges what waits for any of these events, which have come.
    pub(super) async fn wake(&self, room_id: &str, come: impl IntoIterator<Item = OwnedEventId>) -> Result<()> {
        let mut come: Vec<OwnedEventId> = come.into_iter().collect();
        if come.len() > COME_FEW {
            let Some(room) = self.room(room_id).await? else { return Ok(()) };
            let read = Read::prefix::<MissingPrevRow>(vec![room.num.into()]);
            let rows: Vec<MissingPrevRow> = self.store.all(read).await?;
            let awaited: HashSet<String> = rows.into_iter().map(|row| row.event_id).collect();
            come.retain(|id| awaited.contains(id.as_str()));
        }
        for id in come {
            self.accept_waiting(room_id, id).await?;
        }
        Ok(())
    }
}
