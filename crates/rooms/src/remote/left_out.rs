//! Events of the state before a join that could not be verified when the room was joined, since their server's keys
//! could not be had at that moment, and events that cite such ones.
//!
//! Left out for good, they would make this server's state another one than everybody else's: of a member whose server
//! was away for a minute nothing would ever be taken in. So they are kept as they came and tried again for a while, and
//! as long as there are any, the events of the room are noted as those of a partial room are ([`super::partial`]). When
//! some of them can be verified, they take their places in the state before the join, and what was noted is judged
//! again. Everything else works as in any room: nobody has to wait for the keys of a server that may never come back.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use ::event::Verified;
use bytes::Bytes;
use ruma_common::OwnedEventId;
use store::tables::core::JobRow;
use store::tables::rooms::{LeftOutRow, PartialEventRow};
use store::{EventNum, Read, StreamKind};

use super::partial::{Found, PartialRoom};
use crate::accept::ATTEMPTS_MAX;
use crate::draft::Draft;
use crate::room::Room;
use crate::state::{Roots, TypeKey, type_key};
use crate::{Error, Result, Rooms, flags};

/// The kind of the jobs that try to verify what was left out. Their name is the room's id.
pub const JOB: &str = "left_out";
/// Most events that are kept aside for one room.
const EVENTS_MAX: usize = 1_000;
/// Most bytes of them.
const BYTES_MAX: usize = 16 << 20;
/// With more events than these to be judged again nothing is tried any more.
const JUDGED_MAX: u32 = 10_000;
/// The first attempt comes so much later, in milliseconds: what could not be reached a moment ago cannot now.
const FIRST_PAUSE_MS: i64 = 5_000;

/// An event that was left out of the state before a join.
#[derive(Clone, Debug)]
pub struct LeftOut {
    /// Its id.
    pub event_id: OwnedEventId,
    /// Whether it belongs to the state; else to the auth chain of that.
    pub in_state: bool,
    /// The event as it came.
    pub json: Bytes,
}

/// What was left out, by whether it is known by now.
struct Sorted {
    /// Events that are known.
    come: Vec<LeftOutRow>,
    /// Events that are not.
    open: Vec<LeftOutRow>,
    /// The entries of the state that known ones are.
    entries: Vec<(TypeKey, EventNum)>,
}

impl Draft<'_> {
    /// Keeps events aside that are left out of the state before a join, as many as is reasonable.
    pub(super) fn note_left_out(&mut self, join: &OwnedEventId, left_out: &[LeftOut]) {
        // What is part of the state may come as part of the auth chain too.
        let chain: BTreeMap<_, _> = left_out.iter().map(|one| (&one.event_id, one)).collect();
        let state = left_out.iter().filter(|one| one.in_state).map(|one| (&one.event_id, one));
        let all: BTreeMap<_, _> = chain.into_iter().chain(state).collect();
        let mut bytes = 0;
        for one in all.into_values().take(EVENTS_MAX) {
            bytes += one.json.len();
            if bytes > BYTES_MAX {
                break;
            }
            self.batch.put(LeftOutRow {
                room: self.room.num,
                event_id: one.event_id.to_string(),
                join_id: join.to_string(),
                in_state: one.in_state,
                json: one.json.to_vec(),
            });
            self.head.left_out = Some(join.as_str().into());
        }
        // Members that are missing come first, and what is left out by then is noted anew.
        if self.head.left_out.is_some() && self.head.partial.is_none() {
            let due_ms = self.rooms.clock.now_ms().saturating_add(FIRST_PAUSE_MS);
            let (kind, name) = (JOB.to_owned(), self.room.id.clone());
            self.batch.put(JobRow { kind, name, cursor: String::new(), due_ms, failures: 0 });
        }
    }

    /// Nothing is left out any more.
    fn forget_left_out(&mut self) {
        self.head.left_out = None;
        self.batch.delete_prefix::<LeftOutRow>(vec![self.room.num.into()]);
        self.batch.delete::<JobRow>(vec![JOB.into(), self.room.id.as_str().into()]);
        self.forget_judgements();
    }
}

impl Rooms {
    /// What was left out of a room's state and may be verified later, in the order of the ids; empty for an unknown room.
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

    /// The room, if all its members are known and something is left out of its state.
    pub(super) async fn room_with_left_out(&self, room_id: &str) -> Result<Option<PartialRoom>> {
        let Some(room) = self.room(room_id).await? else { return Ok(None) };
        let head = room.head();
        let Some(join) = head.left_out.as_ref().filter(|_| head.partial.is_none()) else { return Ok(None) };
        let corrupt = |_| store::Error::Corrupt { table: "left_out", detail: join.to_string() };
        let join = OwnedEventId::try_from(&**join).map_err(corrupt)?;
        Ok(Some(PartialRoom { room_id: room.id.clone(), join, servers: Vec::new(), since_ms: 0 }))
    }

    /// Replaces what is left out of the state before a join.
    pub(super) async fn replace_left_out(
        &self,
        draft: &mut Draft<'_>,
        join_id: &str,
        left_out: &[LeftOut],
    ) -> Result<()> {
        let ids: HashSet<&str> = left_out.iter().map(|one| one.event_id.as_str()).collect();
        for row in self.left_out_rows(draft.room).await? {
            if !ids.contains(row.event_id.as_str()) {
                draft.batch.delete::<LeftOutRow>(vec![row.room.into(), row.event_id.into()]);
            }
        }
        draft.head.left_out = None;
        draft.batch.delete::<JobRow>(vec![JOB.into(), draft.room.id.as_str().into()]);
        let corrupt = |_| store::Error::Corrupt { table: "left_out", detail: join_id.to_owned() };
        let join = OwnedEventId::try_from(join_id).map_err(corrupt)?;
        draft.note_left_out(&join, left_out);
        Ok(())
    }

    /// Takes in events that were left out of a room's state and are verified now: they get their places in the state
    /// before the join, and everything since then is judged again. Returns how many of those that were left out are known
    /// now, and how many still are not.
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
        // The tree's nodes first, as with the members of a partial room.
        let mut draft = Draft::begin(self, room).await;
        draft.check_alive()?;
        self.wait_for_all(room).await?;
        let Some(join_id) = draft.head.left_out.clone() else { return Ok((0, 0)) };
        let rows = self.left_out_rows(room).await?;
        let Sorted { come, open, entries } = self.sort_left_out(room, rows).await?;
        if come.is_empty() || draft.head.partial.is_some() {
            return Ok((0, open.len() + come.len()));
        }
        let join = self.event_by_id(room, &join_id).await?.ok_or(Error::EventNotFound)?;
        let before = join.state_before().unwrap_or(Roots::EMPTY);
        let whole = draft.fill_state(before, entries.clone()).await?;
        self.commit(room, draft).await?;
        let mut draft = Draft::begin(self, room).await;
        draft.check_alive()?;
        self.wait_for_all(room).await?;
        if whole != before {
            self.correct(&mut draft, &join_id, &Found::Entries(whole, entries)).await?;
        }
        for row in &come {
            draft.batch.delete::<LeftOutRow>(vec![row.room.into(), row.event_id.as_str().into()]);
        }
        if open.is_empty() {
            draft.forget_left_out();
        }
        draft.batch.announce(StreamKind::RoomHead, Some(room.num), None, None);
        self.commit(room, draft).await?;
        Ok((come.len(), open.len()))
    }

    async fn sort_left_out(&self, room: &Room, rows: Vec<LeftOutRow>) -> Result<Sorted> {
        let ids: Vec<OwnedEventId> =
            rows.iter().filter_map(|row| OwnedEventId::try_from(row.event_id.as_str()).ok()).collect();
        let known = self.rows_by_id(room, &ids).await?;
        let known_row = |row: &LeftOutRow| {
            let id = OwnedEventId::try_from(row.event_id.as_str()).ok()?;
            known.get(&id).filter(|known| known.flags & flags::WAITING == 0)
        };
        let entries = rows.iter().filter(|row| row.in_state).filter_map(known_row);
        let entries = entries.filter(|known| known.flags & flags::REJECTED == 0);
        let entries: Vec<(TypeKey, EventNum)> = entries
            .filter_map(|known| Some((type_key(&known.kind, known.state_key.as_deref()?), known.event)))
            .collect();
        let (come, open) = rows.into_iter().partition(|row| known_row(row).is_some());
        Ok(Sorted { come, open, entries })
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
            draft.forget_left_out();
            draft.batch.announce(StreamKind::RoomHead, Some(room.num), None, None);
            match self.commit(&room, draft).await {
                Err(Error::Busy) => {}
                other => return other,
            }
        }
        Err(Error::Busy)
    }
}
