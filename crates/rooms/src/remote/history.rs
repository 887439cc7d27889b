//! History from before: older events than those of a fragment of the timeline are placed before it (server-server API,
//! "Backfilling"). They are never news: no position in the stream, no notification, no part in the present.
//!
//! A fragment's oldest events name previous ones that are in no timeline; `history_gaps` has a row for each such edge.
//! What comes is placed where a gap row or a newer event of the same answer leads to it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ::event::{Pdu, Verified};
use ruma_common::OwnedEventId;
use store::tables::rooms::{EventRow, FragmentRow, HistoryGapRow, MissingPrevRow};
use store::{EventNum, Read, Rows};

use super::left_out::ToldState;
use crate::accept::{ATTEMPTS_MAX, better_form, judge_then, missing_among, nums_of, state_before};
use crate::draft::{Draft, Judged};
use crate::event::Event;
use crate::room::Room;
use crate::timeline::Place;
use crate::{Error, Result, Rooms, flags, packed};

/// Most events of history that are taken in at a time.
pub const HISTORY_MAX: usize = 1_000;
/// Most gaps of a fragment that one look reads.
const GAPS_MAX: u32 = 1_000;
/// Most hidden events that one look for gaps behind an event passes.
const BEHIND_MAX: usize = 200;
/// How often such looks go on, one after the other, where they were broken off.
const LOOKS_MAX: usize = 50;

/// Most events before which one look for the state there looks, and most events that count as missing for each.
const AROUND_MAX: usize = 20;

/// The flags of an event that is known without having been judged by the state before it.
const UNPLACED: i64 = flags::WAITING | flags::OUTLIER;
/// The flags of an event that may become part of the graph without being shown.
const PASSED: i64 = flags::REJECTED | flags::SOFT_FAILED;

/// Hidden events, each with those of its previous events that are missing.
type GapsBehind = Vec<(Arc<Event>, Vec<OwnedEventId>)>;

/// An event to be taken in.
#[derive(Clone)]
pub(crate) struct Incoming {
    pdu: Arc<Pdu>,
    /// Flags that it has before it is judged.
    more: i64,
}

impl From<&Verified> for Incoming {
    fn from(event: &Verified) -> Self {
        let more = if event.redacted() { flags::REDACTED } else { 0 };
        Self { pdu: Arc::clone(event.pdu()), more }
    }
}

/// Where events go: the fragment of each, and how far down each fragment reaches.
struct Plan {
    fragments: HashMap<OwnedEventId, i64>,
    /// The next index and the message counter of each fragment.
    places: BTreeMap<i64, (i64, i64)>,
    /// Fragments of which an event follows hidden ones before which history is missing.
    open: BTreeSet<i64>,
}

impl Rooms {
    /// Takes in events from before the oldest known ones, in any order. `states` has the ids of the state before those
    /// whose previous events are not known. Events that lead to no gap, or whose auth events or state are missing, are
    /// left out. Events that are known as part of a state are taken along where they lead to a gap. Returns what was
    /// stored, oldest first; rejected events are among it, in no place.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] for an unknown room; [`Error::Invalid`] if there are more than [`HISTORY_MAX`] events, or
    /// events of a given state are not known; as the store says.
    pub async fn accept_history(
        &self,
        room_id: &str,
        events: Vec<Verified>,
        states: BTreeMap<OwnedEventId, ToldState>,
    ) -> Result<Vec<Arc<Event>>> {
        if events.len() > HISTORY_MAX {
            return Err(Error::Invalid(format!("more than {HISTORY_MAX} events of history at a time")));
        }
        let incoming: Vec<Incoming> = events.iter().map(Incoming::from).collect();
        for _ in 0..ATTEMPTS_MAX {
            let room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
            let read = Read::prefix::<HistoryGapRow>(vec![room.num.into()]).limit(GAPS_MAX);
            let gaps: Vec<HistoryGapRow> = self.store.all(read).await?;
            let before = incoming.iter().flat_map(|one| &one.pdu.prev_events).map(|id| id.as_str());
            let below = gaps.iter().map(|gap| gap.event_id.as_str()).chain(before);
            let mut held = self.outliers_in_gaps(&room, below).await?;
            // What came in whole is better than what is held.
            held.retain(|event| incoming.iter().all(|one| one.pdu.event_id != *event.id()));
            let held =
                held.iter().map(|event| Incoming { pdu: Arc::clone(&event.pdu), more: event.row.flags & flags::KEPT });
            let incoming: Vec<Incoming> = incoming.iter().cloned().chain(held).collect();
            match self.try_history(&room, &incoming, &states).await {
                Err(Error::Busy) => {}
                Ok(placed) => {
                    // Collected first: a lazy iterator of borrowed events would tie this future to one thread.
                    let ids: Vec<OwnedEventId> = placed.iter().map(|event| event.id().clone()).collect();
                    self.wake(room_id, ids).await?;
                    return Ok(placed);
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Busy)
    }

    /// An event that some event of the timeline names as previous, or that such a one follows which waits for it: it
    /// belongs before that, not at the live end. What waits in between is placed with it.
    pub(crate) async fn accept_into_gap(
        &self,
        room: &Arc<Room>,
        pdu: &Arc<Pdu>,
        more: i64,
    ) -> Result<Option<Arc<Event>>> {
        let one = Incoming { pdu: Arc::clone(pdu), more };
        let Some(incoming) = self.for_gap(room, one, false).await? else { return Ok(None) };
        let placed = self.try_history(room, &incoming, &BTreeMap::new()).await?;
        Ok(placed.into_iter().find(|event| event.pdu.event_id == pdu.event_id))
    }

    /// An event that belongs before others of the timeline, with those that wait for it and are missing there, or lead to
    /// what is. `None` if it does not, or if the state before it is not known: neither by its previous events nor `told`.
    pub(super) async fn for_gap(&self, room: &Room, one: Incoming, told: bool) -> Result<Option<Vec<Incoming>>> {
        let key = vec![room.num.into(), one.pdu.event_id.as_str().into()];
        let reads =
            vec![Read::prefix::<HistoryGapRow>(key.clone()).limit(1), Read::prefix::<MissingPrevRow>(key).limit(1)];
        let [gap, waiting]: [Rows; 2] = self.store.read(reads).await?.try_into().unwrap_or_default();
        if !gap.0.is_empty() {
            return Ok(Some(vec![one]));
        }
        if waiting.0.is_empty() || !(told || self.are_placed(room, &one.pdu.prev_events).await?) {
            return Ok(None);
        }
        let waiting = self.waiting_below_gap(room, &one.pdu.event_id).await?;
        Ok((!waiting.is_empty()).then(|| [one].into_iter().chain(waiting).collect()))
    }

    /// Events that wait for one, and for those in turn, if one of them is missing in the timeline; else none.
    async fn waiting_below_gap(&self, room: &Room, id: &OwnedEventId) -> Result<Vec<Incoming>> {
        let (mut queue, mut seen) = (vec![id.to_string()], BTreeSet::new());
        let mut leads = false;
        let most = u32::try_from(HISTORY_MAX).unwrap_or(u32::MAX);
        while let Some(id) = queue.pop()
            && seen.len() < HISTORY_MAX
        {
            let read = Read::prefix::<MissingPrevRow>(vec![room.num.into(), id.into()]);
            let rows: Vec<MissingPrevRow> = self.store.all(read.limit(most)).await?;
            let fresh = rows.iter().map(|row| row.child).filter(|child| seen.insert(*child));
            let reads = fresh.map(|child| Read::get::<EventRow>(vec![child.into()])).collect();
            for row in self.store.read(reads).await? {
                let Some(row) = row.one::<EventRow>()?.filter(|row| row.flags & UNPLACED != 0) else { continue };
                let key = vec![room.num.into(), row.event_id.as_str().into()];
                leads = leads || self.store.one::<HistoryGapRow>(Read::prefix::<HistoryGapRow>(key)).await?.is_some();
                queue.push(row.event_id);
            }
        }
        if !leads {
            return Ok(Vec::new());
        }
        let nums: Vec<EventNum> = seen.into_iter().take(HISTORY_MAX).collect();
        let waiting = self.events_left(room, None, &nums).await?.into_iter().filter(|event| event.has(UNPLACED));
        Ok(waiting.map(|event| Incoming { pdu: Arc::clone(&event.pdu), more: event.row.flags & flags::KEPT }).collect())
    }

    /// Whether all of these events are part of the graph.
    async fn are_placed(&self, room: &Room, ids: &[OwnedEventId]) -> Result<bool> {
        let known = self.rows_by_id(room, ids).await?;
        Ok(ids.iter().all(|id| known.get(id).is_some_and(|row| row.flags & UNPLACED == 0)))
    }

    /// Whether an event is part of the graph.
    pub(crate) async fn is_placed(&self, room: &Room, id: &OwnedEventId) -> Result<bool> {
        self.are_placed(room, std::slice::from_ref(id)).await
    }

    /// Whether an event of the timeline names this one, which is in no timeline, as previous.
    pub(super) async fn is_gap(&self, room: &Room, id: &OwnedEventId) -> Result<bool> {
        let read = Read::prefix::<HistoryGapRow>(vec![room.num.into(), id.as_str().into()]);
        Ok(self.store.one::<HistoryGapRow>(read).await?.is_some())
    }

    pub(super) async fn try_history(
        &self,
        room: &Arc<Room>,
        incoming: &[Incoming],
        states: &BTreeMap<OwnedEventId, ToldState>,
    ) -> Result<Vec<Arc<Event>>> {
        let mut draft = Draft::begin(self, room).await;
        draft.check_alive()?;
        self.wait_for_all(room).await?;
        let known = self.rows_by_id(room, incoming.iter().map(|one| &one.pdu.event_id)).await?;
        let is_new = |one: &&Incoming| known.get(&one.pdu.event_id).is_none_or(|row| row.flags & UNPLACED != 0);
        let fresh: Vec<&Incoming> = incoming.iter().filter(is_new).filter(|one| one.pdu.room_id == room.id).collect();
        let ordered = oldest_first(&fresh);
        let mut plan = self.plan(room, &ordered).await?;
        let mut placed = Vec::new();
        for one in ordered {
            let row = known.get(&one.pdu.event_id);
            placed.extend(self.place_history(&mut draft, one, row, states, &mut plan).await?);
        }
        if placed.is_empty() {
            return Ok(placed);
        }
        self.close_gaps(&mut draft, &placed, &plan).await?;
        draft.cover_by_history(&placed).await?;
        self.commit(room, draft).await?;
        Ok(placed)
    }

    /// Finds the fragment of each event: that of the gap that it fills, or of the newer events that follow it.
    async fn plan(&self, room: &Room, ordered: &[&Incoming]) -> Result<Plan> {
        let reads = ordered
            .iter()
            .map(|one| Read::prefix::<HistoryGapRow>(vec![room.num.into(), one.pdu.event_id.as_str().into()]))
            .collect();
        let mut fragments: HashMap<OwnedEventId, i64> = HashMap::new();
        let mut lower = |id: &OwnedEventId, fragment: i64| {
            let known = fragments.entry(id.clone()).or_insert(fragment);
            *known = fragment.min(*known);
            *known
        };
        let ids: HashSet<&OwnedEventId> = ordered.iter().map(|one| &one.pdu.event_id).collect();
        for (one, rows) in ordered.iter().zip(self.store.read(reads).await?) {
            for row in rows.all::<HistoryGapRow>()? {
                lower(&one.pdu.event_id, row.fragment);
            }
        }
        let mut count: BTreeMap<i64, i64> = BTreeMap::new();
        for one in ordered.iter().rev() {
            let Some(fragment) = fragments.get(&one.pdu.event_id).copied() else { continue };
            *count.entry(fragment).or_default() += 1;
            for id in one.pdu.prev_events.iter().filter(|id| ids.contains(id)) {
                let known = fragments.entry(id.clone()).or_insert(fragment);
                *known = fragment.min(*known);
            }
        }
        let mut places = BTreeMap::new();
        for (fragment, count) in count {
            let read = Read::along::<EventRow>(EventRow::BY_TIMELINE, vec![room.num.into(), fragment.into()]);
            let first = self.store.one::<EventRow>(read).await?;
            let (idx, messages) = first.map_or((0, 0), |row| (row.idx.unwrap_or(0), row.messages));
            places.insert(fragment, (idx.saturating_sub(count), messages));
        }
        Ok(Plan { fragments, places, open: BTreeSet::new() })
    }

    async fn place_history(
        &self,
        draft: &mut Draft<'_>,
        one: &Incoming,
        row: Option<&EventRow>,
        states: &BTreeMap<OwnedEventId, ToldState>,
        plan: &mut Plan,
    ) -> Result<Option<Arc<Event>>> {
        let Some(fragment) = plan.fragments.get(&one.pdu.event_id).copied() else { return Ok(None) };
        let Some((idx, messages)) = plan.places.get_mut(&fragment) else { return Ok(None) };
        let place = Place { fragment, idx: *idx };
        *idx += 1;
        let messages = *messages;
        let known = draft.known_form(row.map(|row| row.event)).await?;
        let (pdu, more) = better_form(&one.pdu, one.more, known.as_deref());
        let unknown = missing_among(draft, &pdu.auth_events, flags::WAITING).await?;
        if !unknown.is_empty() {
            tracing::debug!(event_id = %pdu.event_id, ?unknown, "an event of history cites events that are not known");
            return Ok(None);
        }
        let missing = missing_among(draft, &pdu.prev_events, UNPLACED).await?;
        let (prev, before) = match (missing.is_empty(), states.get(&pdu.event_id)) {
            (true, _) => {
                let prev: Vec<EventNum> = nums_of(draft, &pdu.prev_events).await?;
                let before = state_before(draft, &prev).await?;
                (prev, before)
            }
            (false, Some(told)) => self.state_at_gap(draft, pdu, &missing, told).await?,
            (false, None) => {
                tracing::debug!(event_id = %pdu.event_id, ?missing, "the state before an event of history is not known");
                return Ok(None);
            }
        };
        let mut judged = judge_then(draft, pdu, prev, before).await?;
        judged.known = known.as_ref().map(|event| event.num());
        judged.flags |= more;
        let behind = self.gaps_behind(draft, &judged).await?;
        self.place_redaction(draft, &mut judged).await?;
        // Of a redaction whose target is older still nothing is known against it; it is no news, so it is shown.
        judged.withheld &= match &judged.pdu.redacts {
            Some(target) => draft.num_of(target).await?.is_some(),
            None => true,
        };
        let event = draft.append_history(judged, place, messages).await?;
        self.apply_redactions(draft, &event).await?;
        draft.note_gaps(&event, fragment, &missing);
        for (child, missing) in &behind {
            draft.note_gaps(child, fragment, missing);
            plan.open.insert(fragment);
        }
        Ok(Some(event))
    }

    /// Takes away the rows of gaps that are filled, and says of each fragment whether one is left.
    async fn close_gaps(&self, draft: &mut Draft<'_>, placed: &[Arc<Event>], plan: &Plan) -> Result<()> {
        let room = draft.room.num;
        let filled: BTreeSet<&str> = placed.iter().map(|event| event.id().as_str()).collect();
        for id in &filled {
            draft.batch.delete_prefix::<HistoryGapRow>(vec![room.into(), (*id).into()]);
        }
        for fragment in plan.places.keys() {
            let fragment = *fragment;
            let read = Read::along::<HistoryGapRow>(HistoryGapRow::BY_FRAGMENT, vec![room.into(), fragment.into()]);
            let rows: Vec<HistoryGapRow> = self.store.all(read.limit(GAPS_MAX)).await?;
            let mut gap = rows.iter().any(|row| !filled.contains(row.event_id.as_str()));
            gap |= plan.open.contains(&fragment);
            for event in placed.iter().filter(|event| plan.fragments.get(event.id()) == Some(&fragment)) {
                gap |= !missing_among(draft, &event.pdu.prev_events, UNPLACED).await?.is_empty();
            }
            let key = vec![room.into(), fragment.into()];
            let row = self.store.get::<FragmentRow>(key).await?;
            let row = row.unwrap_or(FragmentRow { room, fragment, previous: None, next: None, gap });
            draft.batch.put(FragmentRow { gap, ..row });
        }
        Ok(())
    }

    /// What is missing behind an event that is to be shown: it may follow hidden events (soft-failed ones, which a later
    /// event makes part of the graph), and these others that nobody has sent. Each hidden event that is nearest to a gap,
    /// with the previous events that it lacks.
    pub(crate) async fn gaps_behind(&self, draft: &Draft<'_>, judged: &Judged) -> Result<GapsBehind> {
        match judged.flags & flags::HIDDEN {
            0 => self.look_behind(draft, &judged.prev).await,
            _ => Ok(Vec::new()),
        }
    }

    /// Looks for gaps behind hidden events, one generation of them at a time. Where there are too many of them, the first
    /// that are not looked at count as missing: [`Rooms::look_further`] goes on there.
    async fn look_behind(&self, draft: &Draft<'_>, from: &[EventNum]) -> Result<GapsBehind> {
        let (mut seen, mut gaps) = (HashSet::new(), Vec::new());
        let mut open = self.events_left(draft.room, Some(&draft.overlay), from).await?;
        open.retain(|event| event.has(PASSED) && seen.insert(event.num()));
        while !open.is_empty() {
            let known = self.previous_of(draft, &open).await?;
            let mut next = Vec::new();
            for event in open {
                let mut missing = Vec::new();
                for id in &event.pdu.prev_events {
                    match known.get(id).filter(|prev| !prev.has(UNPLACED)) {
                        Some(prev) if !prev.has(PASSED) || seen.contains(&prev.num()) => {}
                        Some(prev) if seen.len() < BEHIND_MAX => {
                            seen.insert(prev.num());
                            next.push(Arc::clone(prev));
                        }
                        Some(_) | None => missing.push(id.clone()),
                    }
                }
                if !missing.is_empty() {
                    self.wait_for_all(draft.room).await?;
                    missing = self.no_gaps_yet(draft.room, missing).await?;
                }
                if !missing.is_empty() {
                    gaps.push((event, missing));
                }
            }
            open = next;
        }
        Ok(gaps)
    }

    /// Those previous events of some events that are known.
    async fn previous_of(&self, draft: &Draft<'_>, events: &[Arc<Event>]) -> Result<HashMap<OwnedEventId, Arc<Event>>> {
        let mut nums: BTreeSet<EventNum> = BTreeSet::new();
        for event in events {
            let edges = packed::unpack(event.num().0, &event.row.prev).unwrap_or_default();
            nums.extend(edges.into_iter().map(EventNum));
        }
        let mut known = HashMap::new();
        self.add_known(draft, nums, &mut known).await?;
        // What was missing when they were judged may have come since.
        let ids = events.iter().flat_map(|event| &event.pdu.prev_events);
        let rest: BTreeSet<&OwnedEventId> = ids.filter(|id| !known.contains_key(*id)).collect();
        if !rest.is_empty() {
            self.wait_for_all(draft.room).await?;
            let stored = self.rows_by_id(draft.room, rest.iter().copied()).await?;
            let come = rest
                .into_iter()
                .filter_map(|id| draft.overlay.ids.get(id).copied().or_else(|| stored.get(id).map(|row| row.event)));
            self.add_known(draft, come.collect(), &mut known).await?;
        }
        Ok(known)
    }

    async fn add_known(
        &self,
        draft: &Draft<'_>,
        nums: BTreeSet<EventNum>,
        known: &mut HashMap<OwnedEventId, Arc<Event>>,
    ) -> Result<()> {
        let nums: Vec<EventNum> = nums.into_iter().collect();
        let found = self.events_left(draft.room, Some(&draft.overlay), &nums).await?;
        known.extend(found.into_iter().map(|event| (event.id().clone(), event)));
        Ok(())
    }

    /// Goes on with looks behind hidden events that were broken off, as far as the nearest gaps before a place go back to
    /// them: what is known need not be asked for.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] for an unknown room; as the store says.
    pub async fn look_further(&self, room_id: &str, before: Place) -> Result<()> {
        for _ in 0..LOOKS_MAX {
            let room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
            if self.broken_off(&room, before).await?.1.is_empty() {
                return Ok(());
            }
            match self.try_further(&room, before).await {
                Ok(()) | Err(Error::Busy) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn try_further(&self, room: &Arc<Room>, before: Place) -> Result<()> {
        let mut draft = Draft::begin(self, room).await;
        draft.check_alive()?;
        self.wait_for_all(room).await?;
        let (rows, edges) = self.broken_off(room, before).await?;
        let Some(fragment) = rows.first().map(|row| row.fragment) else { return Ok(()) };
        let from: Vec<EventNum> = edges.values().copied().collect();
        let gaps = self.look_behind(&draft, &from).await?;
        for row in rows.iter().filter(|row| edges.contains_key(&row.event_id)) {
            let key = vec![room.num.into(), row.event_id.as_str().into(), row.child.into()];
            draft.batch.delete::<HistoryGapRow>(key);
        }
        for (child, missing) in &gaps {
            draft.note_gaps(child, fragment, missing);
        }
        let gap = !gaps.is_empty() || rows.iter().any(|row| !edges.contains_key(&row.event_id));
        if let Some(row) = self.store.get::<FragmentRow>(vec![room.num.into(), fragment.into()]).await? {
            draft.batch.put(FragmentRow { gap, ..row });
        }
        self.commit(room, draft).await
    }

    /// The nearest gaps before a place, and of the events that count as missing there those that are known.
    async fn broken_off(&self, room: &Room, before: Place) -> Result<(Vec<HistoryGapRow>, BTreeMap<String, EventNum>)> {
        let rows = self.nearest_gaps(room, before).await?;
        let ids: Vec<OwnedEventId> =
            rows.iter().filter_map(|row| OwnedEventId::try_from(row.event_id.as_str()).ok()).collect();
        let known = self.rows_by_id(room, &ids).await?.into_iter().filter(|(_, row)| row.flags & UNPLACED == 0);
        let edges = known.map(|(id, row)| (id.to_string(), row.event)).collect();
        Ok((rows, edges))
    }

    /// Those of the events of which nothing says yet that they are missing in the timeline.
    async fn no_gaps_yet(&self, room: &Room, ids: Vec<OwnedEventId>) -> Result<Vec<OwnedEventId>> {
        let mut fresh = Vec::with_capacity(ids.len());
        for id in ids {
            if !self.is_gap(room, &id).await? {
                fresh.push(id);
            }
        }
        Ok(fresh)
    }

    /// The missing events that known ones name as previous, those that a deeper event names first: of the newest fragment
    /// with a gap that stands at a place or before it. Another server is asked for them and what came before them
    /// (`/backfill`): an answer that began with those that name them could be full of what is known.
    ///
    /// # Errors
    /// As the store says.
    pub async fn backward_gaps(&self, room: &Room, before: Place) -> Result<Vec<OwnedEventId>> {
        let rows = self.nearest_gaps(room, before).await?;
        let nums: BTreeSet<EventNum> = rows.iter().map(|row| row.child).collect();
        let nums: Vec<EventNum> = nums.into_iter().collect();
        let events = self.events_left(room, None, &nums).await?;
        let depths: HashMap<EventNum, i64> = events.iter().map(|event| (event.num(), event.row.depth)).collect();
        let mut missing: BTreeMap<&str, i64> = BTreeMap::new();
        for row in &rows {
            let depth = depths.get(&row.child).copied().unwrap_or(0);
            let known = missing.entry(&row.event_id).or_insert(depth);
            *known = depth.max(*known);
        }
        let mut missing: Vec<(&str, i64)> = missing.into_iter().collect();
        missing.sort_by_key(|(_, depth)| std::cmp::Reverse(*depth));
        let mut named: Vec<OwnedEventId> =
            missing.iter().filter_map(|(id, _)| OwnedEventId::try_from(*id).ok()).collect();
        let held = self.outliers_in_gaps(room, missing.into_iter().map(|(id, _)| id)).await?;
        let further: BTreeSet<&OwnedEventId> = held.iter().flat_map(|event| &event.pdu.prev_events).collect();
        let known = self.rows_by_id(room, further.iter().copied()).await?;
        named.extend(further.into_iter().filter(|id| !known.contains_key(*id)).cloned());
        Ok(named)
    }

    /// Where nobody has what is missing nearest before a place: counts the youngest events of the state there as missing,
    /// too, as far as they stand in no timeline. Others may have these, and what came before them. False if there are none.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] for an unknown room; as the store says.
    pub async fn look_around(&self, room_id: &str, before: Place) -> Result<bool> {
        for _ in 0..ATTEMPTS_MAX {
            let room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
            match self.try_around(&room, before).await {
                Err(Error::Busy) => {}
                other => return other,
            }
        }
        Err(Error::Busy)
    }

    async fn try_around(&self, room: &Arc<Room>, before: Place) -> Result<bool> {
        let mut draft = Draft::begin(self, room).await;
        draft.check_alive()?;
        self.wait_for_all(room).await?;
        let rows = self.nearest_gaps(room, before).await?;
        let Some(fragment) = rows.first().map(|row| row.fragment) else { return Ok(false) };
        let nums: BTreeSet<EventNum> = rows.iter().map(|row| row.child).collect();
        let mut children = self.events_left(room, None, &nums.into_iter().collect::<Vec<_>>()).await?;
        children.sort_by_key(|event| std::cmp::Reverse(event.row.depth));
        let mut found = false;
        for child in children.iter().take(AROUND_MAX) {
            let Some(state) = child.state_before() else { continue };
            // Members are left out: of these there may be very many.
            let nums = self.tree_nums(room, state.rest).await?;
            let mut outliers = self.events_left(room, None, &nums).await?;
            outliers.retain(|event| event.has(flags::OUTLIER));
            outliers.sort_by_key(|event| std::cmp::Reverse(event.row.depth));
            let ids = outliers.iter().take(AROUND_MAX).map(|event| event.id().clone()).collect();
            let fresh = self.no_gaps_yet(room, ids).await?;
            found |= !fresh.is_empty();
            draft.note_gaps(child, fragment, &fresh);
        }
        if found {
            self.commit(room, draft).await?;
        }
        Ok(found)
    }

    /// Those of the missing events, and of their previous ones in turn, that are known as part of a state. Where all who had
    /// them in their timelines have left, what came before can be asked for only by naming their previous events; when
    /// that has come, they have a place after it.
    async fn outliers_in_gaps(&self, room: &Room, gaps: impl Iterator<Item = &str>) -> Result<Vec<Arc<Event>>> {
        let mut open: BTreeSet<OwnedEventId> = gaps.filter_map(|id| OwnedEventId::try_from(id).ok()).collect();
        let (mut seen, mut outliers) = (BTreeSet::new(), Vec::new());
        while !open.is_empty() && outliers.len() < BEHIND_MAX {
            // As many edges as gaps: how many an event of history has is for whoever wrote it.
            while open.len() > GAPS_MAX as usize {
                open.pop_last();
            }
            let known = self.rows_by_id(room, &open).await?;
            let nums: Vec<EventNum> =
                known.values().filter(|row| row.flags & flags::OUTLIER != 0).map(|row| row.event).collect();
            seen.append(&mut open);
            let left = BEHIND_MAX.saturating_sub(outliers.len());
            for event in self.events_left(room, None, nums.get(..left).unwrap_or(&nums)).await? {
                open.extend(event.pdu.prev_events.iter().filter(|id| !seen.contains(*id)).cloned());
                outliers.push(event);
            }
        }
        outliers.sort_by_key(|event| event.num());
        Ok(outliers)
    }

    /// The gaps of the newest fragment with a gap that stands at a place or before it.
    async fn nearest_gaps(&self, room: &Room, before: Place) -> Result<Vec<HistoryGapRow>> {
        let mut fragment = Some(before.fragment);
        while let Some(at) = fragment {
            let read = Read::along::<HistoryGapRow>(HistoryGapRow::BY_FRAGMENT, vec![room.num.into(), at.into()]);
            let rows: Vec<HistoryGapRow> = self.store.all(read.limit(GAPS_MAX)).await?;
            if !rows.is_empty() {
                return Ok(rows);
            }
            let row = self.store.get::<FragmentRow>(vec![room.num.into(), at.into()]).await?;
            fragment = row.and_then(|row| row.previous);
        }
        Ok(Vec::new())
    }
}

/// Each after those of its previous events that are among them; else by depth, time and id.
fn oldest_first<'a>(events: &[&'a Incoming]) -> Vec<&'a Incoming> {
    let by_id: HashMap<&OwnedEventId, &'a Incoming> = events.iter().map(|one| (&one.pdu.event_id, *one)).collect();
    let rank = |one: &Incoming| (one.pdu.depth, one.pdu.origin_server_ts, one.pdu.event_id.clone());
    let mut children: HashMap<&OwnedEventId, Vec<&'a Incoming>> = HashMap::new();
    let mut open: HashMap<&OwnedEventId, usize> = HashMap::new();
    let mut ready = BTreeMap::new();
    for one in by_id.values() {
        let prev: BTreeSet<&OwnedEventId> = one.pdu.prev_events.iter().filter(|id| by_id.contains_key(id)).collect();
        open.insert(&one.pdu.event_id, prev.len());
        if prev.is_empty() {
            ready.insert(rank(one), *one);
        }
        for id in prev {
            children.entry(id).or_default().push(one);
        }
    }
    let mut ordered = Vec::with_capacity(by_id.len());
    while let Some((_, one)) = ready.pop_first() {
        ordered.push(one);
        for child in children.remove(&one.pdu.event_id).unwrap_or_default() {
            if let Some(open) = open.get_mut(&child.pdu.event_id) {
                *open = open.saturating_sub(1);
                if *open == 0 {
                    ready.insert(rank(child), child);
                }
            }
        }
    }
    ordered
}
