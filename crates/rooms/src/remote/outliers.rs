//! Events that are known only by reference: members of another event's state or auth chain. They are judged by their
//! auth events alone (server-server API, checks on receipt of a PDU, step 4), in the order of those, and written in
//! batches of bounded size.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use ::event::auth_rules::{self, AuthEvent};
use ::event::{Pdu, Verified};
use ruma_common::OwnedEventId;
use store::EventNum;
use store::tables::rooms::EventRow;

use crate::accept::ATTEMPTS_MAX;
use crate::draft::{Draft, Outlier};
use crate::room::Room;
use crate::state::type_key;
use crate::{Error, Result, Rooms, flags};

/// Events that one batch writes: a few milliseconds of the store's writer.
const OUTLIERS_CHUNK: usize = 250;

/// Where outliers are written.
pub(super) enum Target {
    /// A room that the server has.
    Known(String),
    /// A room in the making, which nobody else sees, and what its batches demand.
    New(Arc<Room>, super::import::Reservation),
}

/// What was made of an event.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    /// Its number.
    pub num: EventNum,
    /// Whether it was rejected.
    pub rejected: bool,
    /// The event, as long as others that are still to be judged cite it.
    pdu: Option<Arc<Pdu>>,
}

/// Events in the order of their auth events, and how often each is cited.
pub(super) struct Ordered {
    /// The events: whatever one cites stands before it or is known already.
    pub events: Vec<Verified>,
    citations: HashMap<OwnedEventId, usize>,
    /// Events that are cited and not among these.
    outside: HashSet<OwnedEventId>,
}

impl Ordered {
    /// Puts events in order. Of one event that comes twice the whole form is kept before the redacted.
    pub fn new(events: impl IntoIterator<Item = Verified>, room_id: &str) -> Self {
        let mut by_id: HashMap<OwnedEventId, Verified> = HashMap::new();
        for event in events.into_iter().filter(|event| event.pdu().room_id == room_id) {
            let known = by_id.get(&event.pdu().event_id);
            if known.is_none_or(|known| known.redacted() && !event.redacted()) {
                by_id.insert(event.pdu().event_id.clone(), event);
            }
        }
        let mut citations: HashMap<OwnedEventId, usize> = HashMap::new();
        let mut outside = HashSet::new();
        for id in by_id.values().flat_map(|event| &event.pdu().auth_events) {
            *citations.entry(id.clone()).or_default() += 1;
            if !by_id.contains_key(id) {
                outside.insert(id.clone());
            }
        }
        Self { events: in_order(by_id), citations, outside }
    }

    /// Leaves out events that cite, directly or not, what neither stands here nor is known.
    fn keep_grounded(&mut self, known: &HashMap<OwnedEventId, EventRow>) {
        let mut grounded: HashSet<OwnedEventId> = known.keys().cloned().collect();
        self.events.retain(|event| {
            let pdu = event.pdu();
            let whole = pdu.auth_events.iter().all(|id| grounded.contains(id));
            if whole {
                grounded.insert(pdu.event_id.clone());
            }
            whole
        });
    }
}

/// Each after all that it cites among them; what goes round in circles (room versions 1 and 2 let servers choose ids)
/// is left out.
fn in_order(mut by_id: HashMap<OwnedEventId, Verified>) -> Vec<Verified> {
    let mut children: HashMap<OwnedEventId, Vec<OwnedEventId>> = HashMap::new();
    let mut open: HashMap<OwnedEventId, usize> = HashMap::with_capacity(by_id.len());
    let mut ready = Vec::new();
    for (id, event) in &by_id {
        let cited: HashSet<&OwnedEventId> =
            event.pdu().auth_events.iter().filter(|cited| by_id.contains_key(*cited)).collect();
        if cited.is_empty() {
            ready.push(id.clone());
        }
        open.insert(id.clone(), cited.len());
        for cited in cited {
            children.entry(cited.clone()).or_default().push(id.clone());
        }
    }
    // The same order in every run, whatever the map's.
    ready.sort();
    let mut ready = VecDeque::from(ready);
    let mut ordered = Vec::with_capacity(by_id.len());
    while let Some(id) = ready.pop_front() {
        let mut freed = Vec::new();
        for child in children.remove(&id).unwrap_or_default() {
            if let Some(open) = open.get_mut(&child) {
                *open = open.saturating_sub(1);
                if *open == 0 {
                    freed.push(child);
                }
            }
        }
        freed.sort();
        ready.extend(freed);
        ordered.extend(by_id.remove(&id));
    }
    ordered
}

impl Rooms {
    /// Takes in events of a known room that are known only by reference, in any order. Those that cite unknown auth
    /// events are left out; those that are known already stay as they are. What waited for one of them is judged.
    /// Returns how many are now known that were not.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] for an unknown room; as the store says.
    pub async fn accept_outliers(&self, room_id: &str, events: Vec<Verified>) -> Result<usize> {
        self.room(room_id).await?.ok_or(Error::NotInRoom)?;
        let (_, fresh) = self.write_outliers(&Target::Known(room_id.to_owned()), events).await?;
        let n_fresh = fresh.len();
        self.wake(room_id, fresh).await?;
        Ok(n_fresh)
    }

    /// Writes events as outliers, chunk by chunk. Returns what became of each, and which are new.
    pub(super) async fn write_outliers(
        &self,
        target: &Target,
        events: Vec<Verified>,
    ) -> Result<(HashMap<OwnedEventId, Placed>, Vec<OwnedEventId>)> {
        let room = self.target_room(target).await?;
        let mut ordered = Ordered::new(events, &room.id);
        let known = self.rows_by_id(&room, &ordered.outside).await?;
        let known: HashMap<_, _> = known.into_iter().filter(|(_, row)| row.flags & flags::WAITING == 0).collect();
        ordered.keep_grounded(&known);
        let mut placed: HashMap<OwnedEventId, Placed> = known
            .into_iter()
            .map(|(id, row)| (id, Placed { num: row.event, rejected: row.flags & flags::REJECTED != 0, pdu: None }))
            .collect();
        let mut fresh = Vec::new();
        let mut rest = ordered.events.into_iter();
        loop {
            let chunk: Vec<Verified> = rest.by_ref().take(OUTLIERS_CHUNK).collect();
            if chunk.is_empty() {
                return Ok((placed, fresh));
            }
            let written = self.write_chunk(target, &chunk, &placed).await?;
            for (event, one, is_fresh) in written {
                let id = &event.pdu().event_id;
                if is_fresh {
                    fresh.push(id.clone());
                }
                placed.insert(id.clone(), Placed { pdu: Some(Arc::clone(event.pdu())), ..one });
                forget_cited(event.pdu(), &mut ordered.citations, &mut placed);
            }
        }
    }

    async fn target_room(&self, target: &Target) -> Result<Arc<Room>> {
        match target {
            Target::Known(room_id) => self.room(room_id).await?.ok_or(Error::NotInRoom),
            Target::New(room, _) => Ok(Arc::clone(room)),
        }
    }

    async fn write_chunk<'e>(
        &self,
        target: &Target,
        chunk: &'e [Verified],
        placed: &HashMap<OwnedEventId, Placed>,
    ) -> Result<Vec<(&'e Verified, Placed, bool)>> {
        for _ in 0..ATTEMPTS_MAX {
            let room = self.target_room(target).await?;
            match (self.try_chunk(&room, target, chunk, placed).await, target) {
                (Err(Error::Busy), Target::Known(_)) => {}
                (other, _) => return other,
            }
        }
        Err(Error::Busy)
    }

    async fn try_chunk<'e>(
        &self,
        room: &Arc<Room>,
        target: &Target,
        chunk: &'e [Verified],
        placed: &HashMap<OwnedEventId, Placed>,
    ) -> Result<Vec<(&'e Verified, Placed, bool)>> {
        let mut draft = Draft::begin(self, room).await;
        draft.check_alive()?;
        // What is read below stands in the store only.
        self.wait_for_all(room).await?;
        let known = self.rows_by_id(room, chunk.iter().map(|event| &event.pdu().event_id)).await?;
        let pairs: Vec<_> = chunk.iter().filter_map(|event| event.pdu().state_entry()).collect();
        let pairs: Vec<_> = pairs.into_iter().map(|(kind, state_key)| type_key(kind, state_key)).collect();
        draft.prepare_keys(&pairs).await?;
        let mut cited = self.cited_events(room, chunk, placed).await?;
        let stay = |event: &&Verified| known.get(&event.pdu().event_id).is_some_and(|row| stays(row, event));
        let mut numbers = draft.next_event_numbers(chunk.len() - chunk.iter().filter(stay).count()).await?;
        let mut written = Vec::with_capacity(chunk.len());
        let mut changed = false;
        for event in chunk {
            let pdu = event.pdu();
            let row = known.get(&pdu.event_id);
            let stays = row.filter(|row| stays(row, event));
            let one = match stays {
                Some(row) => Placed { num: row.event, rejected: row.flags & flags::REJECTED != 0, pdu: None },
                None => {
                    changed = true;
                    let next = numbers.next().ok_or(Error::Busy)?;
                    let (num, mut outlier) = judge_outlier(room, event, row, next, &cited);
                    outlier.flags |= row.map_or(0, |row| row.flags & flags::FORWARDED);
                    let rejected = outlier.flags & flags::REJECTED != 0;
                    draft.append_outlier(num, outlier).await?;
                    Placed { num, rejected, pdu: None }
                }
            };
            cited.insert(pdu.event_id.clone(), Placed { pdu: Some(Arc::clone(pdu)), ..one.clone() });
            written.push((event, one, stays.is_none()));
        }
        if changed {
            self.commit_chunk(room, target, draft).await?;
        }
        Ok(written)
    }

    async fn commit_chunk(&self, room: &Arc<Room>, target: &Target, mut draft: Draft<'_>) -> Result<()> {
        match target {
            Target::Known(_) => self.commit(room, draft).await,
            Target::New(_, reservation) => {
                reservation.demand(&mut draft.batch);
                draft.write_ahead().await
            }
        }
    }

    /// The auth events of a chunk that were placed before it, with their contents.
    async fn cited_events(
        &self,
        room: &Room,
        chunk: &[Verified],
        placed: &HashMap<OwnedEventId, Placed>,
    ) -> Result<HashMap<OwnedEventId, Placed>> {
        let mut cited: HashMap<OwnedEventId, Placed> = HashMap::new();
        for id in chunk.iter().flat_map(|event| &event.pdu().auth_events) {
            if let Some(one) = placed.get(id) {
                cited.entry(id.clone()).or_insert_with(|| one.clone());
            }
        }
        let unread: Vec<EventNum> = cited.values().filter(|one| one.pdu.is_none()).map(|one| one.num).collect();
        for event in self.events(room, None, &unread).await? {
            if let Some(one) = cited.get_mut(event.id()) {
                one.pdu = Some(Arc::clone(&event.pdu));
            }
        }
        Ok(cited)
    }
}

/// Whether a known event is left as it is: unless it waits for the events before it, which does not keep others from
/// citing it; or is known only in the redacted form that a peer sent, and this is the whole.
fn stays(row: &EventRow, event: &Verified) -> bool {
    row.flags & flags::WAITING == 0 && !is_better(row, event)
}

/// Whether an event is the whole form of an outlier whose stored copy is redacted although nobody redacted it.
fn is_better(row: &EventRow, event: &Verified) -> bool {
    let poor = row.flags & flags::REDACTED != 0 && row.redacted_by.is_none();
    poor && !event.redacted() && row.flags & flags::OUTLIER != 0
}

/// Step 4 of the checks: the auth rules against the event's own auth events.
fn judge_outlier(
    room: &Room,
    event: &Verified,
    row: Option<&EventRow>,
    next: EventNum,
    cited: &HashMap<OwnedEventId, Placed>,
) -> (EventNum, Outlier) {
    let pdu = event.pdu();
    let found: Vec<&Placed> = pdu.auth_events.iter().filter_map(|id| cited.get(id)).collect();
    let auth: Vec<AuthEvent> =
        (found.iter()).filter_map(|one| Some(AuthEvent { pdu: one.pdu.clone()?, rejected: one.rejected })).collect();
    let verdict = match pdu.is_create() && pdu.event_id != room.create.event_id {
        true => Err("the room has another create event".to_owned()),
        false => auth_rules::check_against_auth_events(room.rules, pdu, &auth, &room.create)
            .map_err(|denied| denied.to_string()),
    };
    let outlier = Outlier {
        pdu: Arc::clone(pdu),
        flags: if event.redacted() { flags::REDACTED } else { 0 } | if verdict.is_err() { flags::REJECTED } else { 0 },
        reason: verdict.err(),
        auth: found.iter().map(|one| one.num).collect(),
        known: row.map(|row| row.event),
        rewrite: row.is_some_and(|row| is_better(row, event)),
    };
    (row.map_or(next, |row| row.event), outlier)
}

/// Drops the contents of events that nobody cites any more.
fn forget_cited(pdu: &Pdu, citations: &mut HashMap<OwnedEventId, usize>, placed: &mut HashMap<OwnedEventId, Placed>) {
    for id in &pdu.auth_events {
        if let Some(count) = citations.get_mut(id) {
            *count = count.saturating_sub(1);
            if *count == 0
                && let Some(one) = placed.get_mut(id)
            {
                one.pdu = None;
            }
        }
    }
    if !citations.contains_key(&pdu.event_id)
        && let Some(one) = placed.get_mut(&pdu.event_id)
    {
        one.pdu = None;
    }
}
