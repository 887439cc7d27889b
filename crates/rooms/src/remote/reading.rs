//! What other servers ask of a room's graph: the state before an event, auth chains, what came before an event and
//! between events. Whether the asking server may see an event is for [`super::ServerViewer`].

use std::sync::Arc;

use ruma_common::OwnedEventId;
use store::tables::rooms::EventRow;
use store::{EventNum, Read};

use super::lookup::LOOKUP_CHUNK;
use super::walk::Walk;
use crate::draft::Draft;
use crate::event::Event;
use crate::room::Room;
use crate::state::Roots;
use crate::{Error, Result, Rooms, flags, packed};

/// A state and its auth chain, by number: a large room's need not be in memory as a whole. See [`Rooms::events`] and
/// [`Rooms::event_ids`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateNums {
    /// The state events.
    pub state: Vec<EventNum>,
    /// Their auth events, the auth events of those, and so on.
    pub auth_chain: Vec<EventNum>,
}

impl Rooms {
    /// All state events before an event.
    ///
    /// # Errors
    /// [`Error::NotInRoom`], [`Error::EventNotFound`] if the event or the state at it is not known; as the store says.
    pub async fn state_before(&self, room_id: &str, event_id: &OwnedEventId) -> Result<Vec<Arc<Event>>> {
        let (room, before) = self.roots_before(room_id, event_id).await?;
        self.whole_state(&room, before).await
    }

    /// The state before an event, and its auth chain, by number.
    ///
    /// # Errors
    /// As [`Rooms::state_before`].
    pub async fn state_nums_before(&self, room_id: &str, event_id: &OwnedEventId) -> Result<(Arc<Room>, StateNums)> {
        let (room, before) = self.roots_before(room_id, event_id).await?;
        let nums = self.nums_of_state(&room, before).await?;
        Ok((room, nums))
    }

    /// A state by number, with its auth chain.
    ///
    /// # Errors
    /// As the store says.
    pub async fn nums_of_state(&self, room: &Room, roots: Roots) -> Result<StateNums> {
        let mut state = self.tree_nums(room, roots.rest).await?;
        state.extend(self.tree_nums(room, roots.members).await?);
        let auth_chain = self.chain_of(room, &state).await?;
        Ok(StateNums { state, auth_chain })
    }

    async fn roots_before(&self, room_id: &str, event_id: &OwnedEventId) -> Result<(Arc<Room>, Roots)> {
        let room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
        let event = self.event_by_id(&room, event_id.as_str()).await?.ok_or(Error::EventNotFound)?;
        let before = event.state_before().ok_or(Error::EventNotFound)?;
        Ok((room, before))
    }

    /// The auth chain of events: their auth events, the auth events of those, and so on. Events that are not known are
    /// passed over.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] for an unknown room; as the store says.
    pub async fn auth_chain(&self, room_id: &str, events: &[OwnedEventId]) -> Result<Vec<Arc<Event>>> {
        let room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
        let rows = self.rows_by_id(&room, events).await?;
        let mut direct: Vec<EventNum> = Vec::new();
        for row in rows.values().filter(|row| row.flags & flags::WAITING == 0) {
            direct.extend(edges(row.event, &row.auth)?);
        }
        direct.sort_unstable();
        direct.dedup();
        let mut chain = self.chain_of(&room, &direct).await?;
        chain.extend(direct);
        chain.sort_unstable();
        chain.dedup();
        self.events(&room, None, &chain).await
    }

    /// The auth chain of state events, by number.
    async fn chain_of(&self, room: &Room, events: &[EventNum]) -> Result<Vec<EventNum>> {
        Draft::begin(self, room).await.auth_chain(events).await
    }

    /// The ids of events, without reading their contents.
    ///
    /// # Errors
    /// As the store says.
    pub async fn event_ids(&self, nums: &[EventNum]) -> Result<Vec<OwnedEventId>> {
        let mut ids = Vec::with_capacity(nums.len());
        for chunk in nums.chunks(LOOKUP_CHUNK) {
            let reads = chunk.iter().map(|num| Read::get::<EventRow>(vec![(*num).into()])).collect();
            for rows in self.store.read(reads).await? {
                let row = rows.one::<EventRow>()?;
                ids.extend(row.and_then(|row| OwnedEventId::try_from(row.event_id).ok()));
            }
        }
        Ok(ids)
    }

    /// The events `from` and what came before them, newest first, at most `limit` (`/backfill`). Rejected events and
    /// such as are known only by reference are left out; soft-failed ones are there if others name them.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] for an unknown room; as the store says.
    pub async fn events_before(&self, room_id: &str, from: &[OwnedEventId], limit: usize) -> Result<Vec<Arc<Event>>> {
        let room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
        let mut walk = Walk::new(self, &room, i64::MIN);
        walk.from(from).await?;
        walk.run(limit).await
    }

    /// What came before the events `latest` and not before `earliest`, both left out, oldest first, at most `limit` and
    /// those nearest to `latest` (`/get_missing_events`). One of `earliest` that follows one of `latest` does not count:
    /// there is a gap between.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] for an unknown room; as the store says.
    pub async fn missing_between(
        &self,
        room_id: &str,
        earliest: &[OwnedEventId],
        latest: &[OwnedEventId],
        limit: usize,
        min_depth: i64,
    ) -> Result<Vec<Arc<Event>>> {
        let room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
        let ends: Vec<OwnedEventId> = latest.iter().filter(|id| !earliest.contains(id)).cloned().collect();
        let mut walk = Walk::new(self, &room, min_depth);
        walk.before(&ends).await?;
        walk.had(earliest).await?;
        let mut events = walk.run(limit).await?;
        events.reverse();
        Ok(events)
    }

    /// Those of the events that are known with the state at them.
    pub(super) async fn known_events(&self, room: &Room, ids: &[OwnedEventId]) -> Result<Vec<Arc<Event>>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.rows_by_id(room, ids).await?;
        let known = rows.values().filter(|row| row.flags & (flags::WAITING | flags::OUTLIER) == 0);
        let nums: Vec<EventNum> = known.map(|row| row.event).collect();
        self.events_left(room, None, &nums).await
    }
}

fn edges(event: EventNum, bytes: &[u8]) -> Result<Vec<EventNum>> {
    let edges = packed::unpack(event.0, bytes)
        .map_err(|error| store::Error::Corrupt { table: "events", detail: error.to_string() })?;
    Ok(edges.into_iter().map(EventNum).collect())
}
