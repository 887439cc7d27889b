//! Events of the state before a join, or before an event behind a gap, that could not be verified when that state was
//! taken over, since their server's keys could not be had at that moment; and events that cite such ones.
//!
//! Left out for good, they would make this server's state another one than everybody else's: of a member whose server
//! was away for a minute nothing would ever be taken in. So they are kept as they came and tried again for a while, and
//! as long as there are any, the events of the room are noted as those of a partial room are ([`super::partial`]). When
//! some of them can be verified, they take their places in that state, and what was noted is judged again. Everything
//! else works as in any room: nobody has to wait for the keys of a server that may never come back.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ::event::{Pdu, Verified};
use bytes::Bytes;
use ruma_common::OwnedEventId;
use store::tables::core::JobRow;
use store::tables::rooms::{EventRow, LeftOutRow, PartialEventRow};
use store::{EventNum, Read, StreamKind};

use super::partial::Found;
use crate::accept::ATTEMPTS_MAX;
use crate::draft::Draft;
use crate::room::Room;
use crate::state::{Roots, TypeKey, type_key};
use crate::{Error, Result, Rooms, flags};

/// The kind of the jobs that try to verify what was left out. Their name is the room's id.
pub const JOB: &str = "left_out";
/// Most events that are kept aside for one room. None is larger than 64 KiB.
pub const EVENTS_MAX: usize = 500;
/// With more events than these to be judged again nothing is tried any more.
const JUDGED_MAX: u32 = 10_000;
/// So many attempts come soon, within some twenty minutes.
const SOON: i64 = 8;
/// The first attempt comes so much later, in milliseconds: what could not be reached a moment ago cannot now.
const FIRST_PAUSE_MS: i64 = 5_000;

/// An event that was left out of the state before another one.
#[derive(Clone, Debug)]
pub struct LeftOut {
    /// Its id.
    pub event_id: OwnedEventId,
    /// Whether it belongs to the state; else to the auth chain of that.
    pub in_state: bool,
    /// The event as it came.
    pub json: Bytes,
}

/// The state before an event as another server tells it.
#[derive(Clone, Debug, Default)]
pub struct ToldState {
    /// The ids of its events, all of which are known.
    pub ids: Vec<OwnedEventId>,
    /// Events of it, and of its auth chain, that could not be verified.
    pub left_out: Vec<LeftOut>,
}

impl From<Vec<OwnedEventId>> for ToldState {
    fn from(ids: Vec<OwnedEventId>) -> Self {
        Self { ids, left_out: Vec::new() }
    }
}

/// Before which event something is left out.
pub(super) struct Edge<'a> {
    event: &'a OwnedEventId,
    at_join: bool,
    told: Roots,
}

impl<'a> Edge<'a> {
    /// Our join, and the state that the resident told.
    pub fn join(pdu: &'a Pdu, told: Roots) -> Self {
        Self { event: &pdu.event_id, at_join: true, told }
    }

    /// An event behind a gap, and the state that somebody told.
    pub fn gap(pdu: &'a Pdu, told: Roots) -> Self {
        Self { event: &pdu.event_id, at_join: false, told }
    }
}

/// What is left out of a room's state, as it is kept in memory.
#[derive(Clone, Debug, Default)]
pub struct LeftOutEvents {
    count: usize,
    /// Ids of what belongs to the state before our join.
    at_join: BTreeSet<String>,
}

impl LeftOutEvents {
    /// What rows say; none if there are none.
    pub(crate) fn of(rows: &[LeftOutRow]) -> Option<Arc<Self>> {
        let mut events = Self::default();
        rows.iter().for_each(|row| events.add(row));
        (events.count > 0).then(|| Arc::new(events))
    }

    fn add(&mut self, row: &LeftOutRow) {
        self.count += 1;
        self.note_place(row);
    }

    fn note_place(&mut self, row: &LeftOutRow) {
        if row.at_join && row.in_state {
            self.at_join.insert(row.event_id.clone());
        }
    }

    /// Whether nothing of it belongs to the state before our join.
    pub(super) fn is_empty(&self) -> bool {
        self.at_join.is_empty()
    }

    /// Whether an event is left out of the state before our join. The resident that let us in says that it belongs there;
    /// what others say of states behind gaps counts only once it is resolved with what is known.
    pub(super) fn has(&self, id: &OwnedEventId) -> bool {
        self.at_join.contains(id.as_str())
    }
}

/// What was left out, by whether it is known by now.
#[derive(Default)]
struct Sorted {
    /// Events that are known.
    come: Vec<LeftOutRow>,
    /// Events that are not.
    open: Vec<LeftOutRow>,
    /// The entries of the state that known ones are, by the event before which they were left out.
    entries: HashMap<String, Entries>,
}

/// Entries that were left out of a state.
struct Entries {
    told: Roots,
    at_join: bool,
    entries: Vec<(TypeKey, EventNum)>,
}

impl Draft<'_> {
    /// Keeps events aside that are left out of the state before an event, as many as is reasonable.
    pub(super) async fn note_left_out(&mut self, edge: Edge<'_>, left_out: &[LeftOut]) -> Result<()> {
        let mut events = self.head.left_out.as_deref().cloned().unwrap_or_default();
        // What is part of the state may come as part of the auth chain too.
        let (state, chain): (Vec<&LeftOut>, Vec<&LeftOut>) = left_out.iter().partition(|one| one.in_state);
        let mut seen = HashSet::new();
        for one in state.into_iter().chain(chain).filter(|one| seen.insert(&one.event_id)) {
            if events.count >= EVENTS_MAX {
                tracing::info!(room_id = self.room.id, "more events than are kept aside cannot be verified");
                break;
            }
            let row = LeftOutRow {
                room: self.room.num,
                edge: edge.event.to_string(),
                event_id: one.event_id.to_string(),
                in_state: one.in_state,
                at_join: edge.at_join,
                told: edge.told.encode(),
                json: one.json.to_vec(),
            };
            events.add(&row);
            self.batch.put(row);
        }
        if events.count > 0 {
            self.head.left_out = Some(Arc::new(events));
        }
        self.note_left_out_job().await
    }

    /// Members that are missing come first. A job that is there goes on as it is.
    async fn note_left_out_job(&mut self) -> Result<()> {
        if self.head.left_out.is_none() || self.head.partial.is_some() {
            return Ok(());
        }
        let key = vec![JOB.into(), self.room.id.as_str().into()];
        if self.rooms.store.get::<JobRow>(key).await?.is_none() {
            let due_ms = self.rooms.clock.now_ms().saturating_add(FIRST_PAUSE_MS);
            let (kind, name) = (JOB.to_owned(), self.room.id.clone());
            self.batch.put(JobRow { kind, name, cursor: String::new(), due_ms, failures: 0 });
        }
        Ok(())
    }

    /// Nothing is left out any more.
    pub(super) fn end_left_out(&mut self) {
        self.head.left_out = None;
        self.batch.delete::<JobRow>(vec![JOB.into(), self.room.id.as_str().into()]);
        self.forget_judgements();
    }
}

pub(crate) fn left_out_key(row: &LeftOutRow) -> Vec<store::Value> {
    vec![row.room.into(), row.edge.as_str().into(), row.event_id.as_str().into()]
}

impl Rooms {
    /// What was left out of a room's state and may be verified later; empty for an unknown room.
    ///
    /// # Errors
    /// As the store says.
    pub async fn left_out(&self, room_id: &str) -> Result<Vec<Bytes>> {
        let Some(room) = self.room(room_id).await? else { return Ok(Vec::new()) };
        Ok(self.left_out_rows(&room).await?.into_iter().map(|row| row.json.into()).collect())
    }

    async fn left_out_rows(&self, room: &Room) -> Result<Vec<LeftOutRow>> {
        Ok(self.store.all(Read::prefix::<LeftOutRow>(vec![room.num.into()])).await?)
    }

    /// Whether all members of a room are known and something is left out of its state.
    pub(super) async fn only_lacks_left_out(&self, room_id: &str) -> Result<bool> {
        let Some(room) = self.room(room_id).await? else { return Ok(false) };
        let head = room.head();
        Ok(head.left_out.is_some() && head.partial.is_none())
    }

    /// Takes away what is left out; everything that was written before must be durable.
    pub(super) async fn forget_left_out(&self, draft: &mut Draft<'_>) -> Result<()> {
        for row in self.left_out_rows(draft.room).await? {
            draft.batch.delete::<LeftOutRow>(left_out_key(&row));
        }
        draft.head.left_out = None;
        Ok(())
    }

    /// When all members before our join are known: what could not be verified of them is kept aside too. What had been
    /// left out when we joined is so still, even if it has come meanwhile: the job gives it its place.
    pub(super) async fn note_left_out_of_whole(
        &self,
        draft: &mut Draft<'_>,
        join: &OwnedEventId,
        whole: Roots,
        left_out: &[LeftOut],
    ) -> Result<()> {
        let event = self.event_by_id(draft.room, join.as_str()).await?.ok_or(Error::EventNotFound)?;
        let told = Roots { members: whole.members, ..event.state_before().unwrap_or(whole) };
        let mut known = HashSet::new();
        for row in self.left_out_rows(draft.room).await?.into_iter().filter(|row| row.edge == join.as_str()) {
            known.insert(row.event_id.clone());
            let in_state = row.in_state || left_out.iter().any(|one| one.in_state && one.event_id == row.event_id);
            let row = LeftOutRow { told: told.encode(), in_state, ..row };
            if let Some(events) = &mut draft.head.left_out {
                Arc::make_mut(events).note_place(&row);
            }
            draft.batch.put(row);
        }
        let fresh: Vec<LeftOut> =
            left_out.iter().filter(|one| !known.contains(one.event_id.as_str())).cloned().collect();
        draft.note_left_out(Edge { event: join, at_join: true, told }, &fresh).await?;
        draft.forget_judgements();
        Ok(())
    }

    /// Takes in events that were left out of a room's state and are verified now: they get their places in the states
    /// that they belong to, and everything since then is judged again. Returns how many of those that were left out are
    /// known now, and how many still are not.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] for an unknown room; [`Error::Invalid`] if the state with them does not allow our join; as the
    /// store says.
    pub async fn accept_left_out(&self, room_id: &str, events: Vec<Verified>) -> Result<(usize, usize)> {
        self.accept_outliers(room_id, events).await?;
        for _ in 0..ATTEMPTS_MAX {
            let room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
            match self.try_left_out(&room).await {
                Err(Error::Busy) => {}
                other => return other,
            }
        }
        Err(Error::Busy)
    }

    async fn try_left_out(&self, room: &Arc<Room>) -> Result<(usize, usize)> {
        let mut draft = Draft::begin(self, room).await;
        draft.check_alive()?;
        self.wait_for_all(room).await?;
        let rows = self.left_out_rows(room).await?;
        let Sorted { come, open, entries } = self.sort_left_out(room, rows).await?;
        if come.is_empty() || draft.head.partial.is_some() {
            return Ok((0, open.len() + come.len()));
        }
        let mut states = HashMap::new();
        for (edge, Entries { told, at_join, entries }) in entries {
            let filled = draft.fill_state(told, entries).await?;
            states.insert(edge, (filled, at_join));
        }
        for row in &come {
            draft.batch.delete::<LeftOutRow>(left_out_key(row));
        }
        let n_open = open.len();
        draft.head.left_out = LeftOutEvents::of(&open);
        for row in open {
            if let Some((told, _)) = states.get(&row.edge) {
                draft.batch.put(LeftOutRow { told: told.encode(), ..row });
            }
        }
        if !states.is_empty() {
            self.correct(&mut draft, &Found::Told(states)).await?;
        }
        if n_open == 0 {
            draft.end_left_out();
        }
        draft.batch.announce(StreamKind::RoomHead, Some(room.num), None, None);
        self.commit(room, draft).await?;
        Ok((come.len(), n_open))
    }

    async fn sort_left_out(&self, room: &Room, rows: Vec<LeftOutRow>) -> Result<Sorted> {
        let ids = rows.iter().filter_map(|row| OwnedEventId::try_from(row.event_id.as_str()).ok());
        let ids: HashSet<OwnedEventId> = ids.collect();
        let known = self.rows_by_id(room, &ids).await?;
        let known = known.values().filter(|row| row.flags & flags::WAITING == 0);
        let known: HashMap<&str, &EventRow> = known.map(|row| (row.event_id.as_str(), row)).collect();
        let mut sorted = Sorted::default();
        for row in rows {
            let Some(event) = known.get(row.event_id.as_str()) else {
                sorted.open.push(row);
                continue;
            };
            if let (true, 0, Some(state_key)) = (row.in_state, event.flags & flags::REJECTED, &event.state_key) {
                let corrupt = || store::Error::Corrupt { table: "left_out", detail: row.event_id.clone() };
                let told = Roots::decode(&row.told).ok_or_else(corrupt)?;
                let fresh = || Entries { told, at_join: row.at_join, entries: Vec::new() };
                let edge = sorted.entries.entry(row.edge.clone()).or_insert_with(fresh);
                edge.entries.push((type_key(&event.kind, state_key), event.event));
            }
            sorted.come.push(row);
        }
        Ok(sorted)
    }

    /// Whether something is left out of a room's state that may well come in the next minutes: then the state is not to be
    /// told to other servers, which would take it over as it is. What does not come soon may never come.
    ///
    /// # Errors
    /// As the store says.
    pub async fn awaits_left_out(&self, room: &Room) -> Result<bool> {
        if room.head().left_out.is_none() {
            return Ok(false);
        }
        let job: Option<JobRow> = self.store.get(vec![JOB.into(), room.id.as_str().into()]).await?;
        Ok(job.is_some_and(|job| job.failures < SOON))
    }

    /// Whether so much was said in a room since that judging it again would be too much.
    ///
    /// # Errors
    /// As the store says.
    pub async fn has_outgrown_left_out(&self, room_id: &str) -> Result<bool> {
        let Some(room) = self.room(room_id).await? else { return Ok(true) };
        let read = Read::prefix::<PartialEventRow>(vec![room.num.into()]).limit(JUDGED_MAX);
        let rows: Vec<PartialEventRow> = self.store.all(read).await?;
        Ok(rows.len() >= JUDGED_MAX as usize)
    }

    /// Gives up what was left out of a room's state: the state as it is counts.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] for an unknown room; as the store says.
    pub async fn give_up_left_out(&self, room_id: &str) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            let room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
            let mut draft = Draft::begin(self, &room).await;
            draft.check_alive()?;
            self.wait_for_all(&room).await?;
            self.forget_left_out(&mut draft).await?;
            draft.end_left_out();
            draft.batch.announce(StreamKind::RoomHead, Some(room.num), None, None);
            match self.commit(&room, draft).await {
                Err(Error::Busy) => {}
                other => return other,
            }
        }
        Err(Error::Busy)
    }
}
