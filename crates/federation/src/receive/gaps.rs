//! Gaps: what a waiting event lacks is asked of other servers, first the events between, then the state at the gap
//! (server-server API, "Backfilling and retrieving missing events"; behaviour FE6).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use event::{EdgeLimits, Pdu, Verified};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use parking_lot::Mutex;
use rooms::remote::left_out::{LeftOut, ToldState};
use rooms::{Accepted, Room, flags};
use ruma_common::OwnedEventId;
use store::Read;
use store::tables::rooms::EventRow;
use tokio::time::timeout;

use super::ask::is_askable;
use crate::{Federation, verified_lists, verify};

/// Most events of one answer to `/get_missing_events`.
const MISSING_MAX: usize = 20;
/// How often the events between are asked for before the state at the gap is.
const ROUNDS_MAX: usize = 5;
/// Most events before which the state is asked for, because of one event.
const EDGES_MAX: usize = 10;
/// Servers that are asked because of one event.
const SERVERS_MAX: usize = 4;
/// So many events of a state are fetched one by one; for more the whole state is fetched.
const SINGLE_FETCHES_MAX: usize = 50;
/// Fetches at the same time.
const FETCHES_AT_ONCE: usize = 8;
/// Rows that are looked up at a time.
const LOOKUP_CHUNK: usize = 250;
/// How long one event may keep others busy; what has come by then is kept, and the rest is fetched at the next attempt.
const FILL_MAX: Duration = Duration::from_secs(600);
/// Pauses that are remembered.
const PAUSES_MAX: usize = 10_000;

/// Rooms in which a peer's events could not be helped a moment ago.
#[derive(Default)]
pub(super) struct Pauses(Mutex<HashMap<(String, String), i64>>);

impl Pauses {
    /// Until when the room's events of a peer that wait are left alone, in milliseconds since the epoch.
    pub fn pause(&self, room_id: &str, origin: &str, now_ms: i64) -> Option<i64> {
        let mut pauses = self.0.lock();
        let key = (room_id.to_owned(), origin.to_owned());
        let until_ms = *pauses.get(&key)?;
        if until_ms > now_ms {
            return Some(until_ms);
        }
        pauses.remove(&key);
        None
    }

    /// Leaves the room's waiting events of a peer alone until then.
    pub fn put_off(&self, room_id: &str, origin: &str, until_ms: i64) {
        let mut pauses = self.0.lock();
        if pauses.len() < PAUSES_MAX {
            pauses.insert((room_id.to_owned(), origin.to_owned()), until_ms);
        }
    }
}

/// An event that cannot be verified now, since keys cannot be had.
type Unverifiable = (OwnedEventId, Bytes);

/// An event that waits, and for what.
struct Waiting {
    event: Verified,
    missing: Vec<OwnedEventId>,
}

/// The events that wait because of one event, by id: itself and what came to light before it.
struct Gap {
    room: Arc<Room>,
    target: OwnedEventId,
    waiting: BTreeMap<OwnedEventId, Waiting>,
}

/// How much of what is between a server has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    /// All that it wants to tell.
    All,
    /// There may be more.
    More,
}

impl Gap {
    /// Whether the event for which all is done still waits.
    fn is_open(&self) -> bool {
        self.waiting.contains_key(&self.target)
    }

    /// The events before which something is missing that does not itself wait here, oldest first.
    fn edges(&self) -> Vec<OwnedEventId> {
        let open = |one: &&Waiting| one.missing.iter().any(|id| !self.waiting.contains_key(id));
        let mut edges: Vec<&Waiting> = self.waiting.values().filter(open).collect();
        edges.sort_by_key(|one| (one.event.pdu().depth, one.event.pdu().event_id.clone()));
        edges.into_iter().map(|one| one.event.pdu().event_id.clone()).collect()
    }

    /// The previous events of those that wait that are known: what came before them is not missing.
    fn known(&self) -> impl Iterator<Item = &OwnedEventId> {
        let unknown = |one: &Waiting, id: &OwnedEventId| one.missing.contains(id) || self.waiting.contains_key(id);
        self.waiting
            .values()
            .flat_map(move |one| one.event.pdu().prev_events.iter().filter(move |id| !unknown(one, id)))
    }
}

impl Federation {
    /// Fills what is missing before an event. `None` if it was judged then, else why it still waits.
    pub(super) async fn fill(
        &self,
        room_id: &str,
        origin: &str,
        event: Verified,
        missing: Vec<OwnedEventId>,
    ) -> rooms::Result<Option<String>> {
        let Some(room) = self.rooms.room(room_id).await? else { return Err(rooms::Error::NotInRoom) };
        let target = event.pdu().event_id.clone();
        let servers = self.helpers(&room, origin, &event);
        let waiting = BTreeMap::from([(target.clone(), Waiting { event, missing })]);
        let mut gap = Gap { room, target, waiting };
        match timeout(FILL_MAX, self.fill_by(&mut gap, &servers)).await {
            Ok(filled) => filled,
            Err(_) => Ok(Some(format!("{} took too long to tell what came before it", servers.join(", ")))),
        }
    }

    /// Fills a gap with the help of these servers, one after the other: what is between is asked of all of them before
    /// any is believed that tells a state instead. What is placed before a gap later is history, and no news.
    async fn fill_by(&self, gap: &mut Gap, servers: &[String]) -> rooms::Result<Option<String>> {
        let mut reason = "no other server is in the room".to_owned();
        let mut silent = HashSet::new();
        for server in servers {
            match passing(self.fill_between(gap, server).await)? {
                Ok(_) if !gap.is_open() => return Ok(None),
                Ok(Between::All) => {}
                // So much is missing that what is between is history by now.
                Ok(Between::More) => break,
                Err(error) => {
                    reason = error;
                    silent.insert(server);
                }
            }
        }
        for server in servers.iter().filter(|server| !silent.contains(server)) {
            match passing(self.fill_by_states(gap, server).await)? {
                Ok(()) if !gap.is_open() => return Ok(None),
                Ok(()) => reason = format!("{server} could not tell what came before it"),
                Err(error) => reason = error,
            }
        }
        Ok(Some(reason))
    }

    /// Whom to ask: who sent the event, its sender's server, others in the room.
    fn helpers(&self, room: &Room, origin: &str, event: &Verified) -> Vec<String> {
        let mut servers = vec![origin.to_owned(), event.pdu().sender_server().to_owned()];
        servers.extend(room.servers());
        let mut seen = HashSet::new();
        servers.retain(|server| is_askable(server, self.rooms.server_name()) && seen.insert(server.clone()));
        servers.truncate(SERVERS_MAX);
        servers
    }

    /// Takes in what a server has between what waits and what is known.
    async fn fill_between(&self, gap: &mut Gap, server: &str) -> crate::Result<Between> {
        for _ in 0..ROUNDS_MAX {
            // What is missing may have come by another way.
            self.judge_waiting(gap).await?;
            if !gap.is_open() || !self.fetch_between(gap, server).await? {
                return Ok(Between::All);
            }
        }
        self.judge_waiting(gap).await?;
        Ok(Between::More)
    }

    /// Judges what waits by the states that a server tells.
    async fn fill_by_states(&self, gap: &mut Gap, server: &str) -> crate::Result<()> {
        for _ in 0..EDGES_MAX {
            let Some(edge) = gap.edges().into_iter().next() else { break };
            if !gap.is_open() || !self.fetch_state(gap, &edge, server).await? {
                break;
            }
            self.judge_waiting(gap).await?;
        }
        Ok(())
    }

    /// Takes the waiting events to the room again, oldest first; those that are judged wait no more.
    async fn judge_waiting(&self, gap: &mut Gap) -> rooms::Result<()> {
        let mut ids: Vec<(i64, OwnedEventId)> =
            gap.waiting.iter().map(|(id, one)| (one.event.pdu().depth, id.clone())).collect();
        ids.sort();
        for (_, id) in ids {
            let Some(one) = gap.waiting.get_mut(&id) else { continue };
            match self.rooms.accept(one.event.clone()).await? {
                Accepted::Waiting(missing) => one.missing = missing,
                Accepted::Judged(_) | Accepted::Known(_) => drop(gap.waiting.remove(&id)),
            }
        }
        Ok(())
    }

    /// Asks for the events between what is known and what waits. Whether any came that was not known.
    async fn fetch_between(&self, gap: &mut Gap, server: &str) -> crate::Result<bool> {
        let head = gap.room.head();
        let extremities = head.extremities.iter().map(|extremity| &extremity.id).take(MISSING_MAX);
        let earliest: BTreeSet<&OwnedEventId> = extremities.chain(gap.known().take(MISSING_MAX)).collect();
        let earliest: Vec<String> = earliest.into_iter().map(ToString::to_string).collect();
        let latest: Vec<String> = gap.edges().iter().take(MISSING_MAX).map(ToString::to_string).collect();
        let events = self.ask_missing_events(server, &gap.room.id, &earliest, &latest, MISSING_MAX).await?;
        let mut fresh = false;
        let (events, _) = self.verify_of_room(&gap.room, events).await?;
        for event in self.wanted(gap, events).await? {
            let id = event.pdu().event_id.clone();
            if gap.waiting.contains_key(&id) {
                continue;
            }
            match self.rooms.accept(event.clone()).await? {
                Accepted::Waiting(missing) => {
                    gap.waiting.insert(id, Waiting { event, missing });
                    fresh = true;
                }
                Accepted::Judged(_) => fresh = true,
                Accepted::Known(_) => {}
            }
        }
        Ok(fresh)
    }

    /// Those of the events that lead from what waits to what is known, oldest first. The others are older than what is
    /// known: taken in here, they would be news.
    async fn wanted(&self, gap: &Gap, events: Vec<Verified>) -> rooms::Result<Vec<Verified>> {
        let mut by_id: HashMap<OwnedEventId, Verified> =
            events.into_iter().map(|event| (event.pdu().event_id.clone(), event)).collect();
        let mut missing: Vec<OwnedEventId> = gap.waiting.values().flat_map(|one| one.missing.clone()).collect();
        let mut wanted = Vec::new();
        while let Some(id) = missing.pop() {
            let Some(event) = by_id.remove(&id) else { continue };
            let known = self.rooms.event_by_id(&gap.room, id.as_str()).await?;
            if known.is_some_and(|known| !known.has(flags::WAITING | flags::OUTLIER)) {
                continue;
            }
            missing.extend(event.pdu().prev_events.iter().chain(&event.pdu().auth_events).cloned());
            wanted.push(event);
        }
        wanted.sort_by_key(|event| event.pdu().depth);
        Ok(wanted)
    }

    /// Asks for the state before an event, and judges it by that. Whether it could be.
    async fn fetch_state(&self, gap: &mut Gap, edge: &OwnedEventId, server: &str) -> crate::Result<bool> {
        let Some(one) = gap.waiting.get(edge) else { return Ok(false) };
        let event = one.event.clone();
        let (room_id, pdu) = (&gap.room.id, event.pdu());
        if !one.missing.iter().any(|id| pdu.prev_events.contains(id)) {
            let chain = self.ask_event_auth(server, room_id, edge.as_str()).await?;
            let (chain, _) = self.verify_of_room(&gap.room, chain).await?;
            return Ok(self.rooms.accept_outliers(room_id, chain).await? > 0);
        }
        let told = self.ask_told_state(&gap.room, event.pdu(), server).await?;
        if told.ids.is_empty() {
            return Ok(false);
        }
        match self.rooms.accept_with_state(event, told).await? {
            Accepted::Waiting(_) => Ok(false),
            Accepted::Judged(_) | Accepted::Known(_) => {
                gap.waiting.remove(edge);
                Ok(true)
            }
        }
    }

    /// Asks for the state before an event. All events of it are known then, but for those that nobody could give, or that
    /// do not verify: they are not part of it; the latter perhaps later.
    pub(super) async fn ask_told_state(&self, room: &Room, edge: &Pdu, server: &str) -> crate::Result<ToldState> {
        let ids = self.ask_state_ids(server, &room.id, edge.event_id.as_str()).await?;
        let wanted = ids.state.iter().chain(&ids.auth_chain).chain(&edge.auth_events);
        let wanted: Vec<OwnedEventId> = wanted.cloned().collect();
        let mut left_out: Vec<Unverifiable> = Vec::new();
        let unknown = self.unknown(room, &wanted).await?;
        if !unknown.is_empty() {
            let (events, unverified) = self.fetch_events(room, &edge.event_id, &unknown, server).await?;
            if !unverified.is_empty() {
                // What cites those is left out with them.
                left_out =
                    events.iter().map(|event| (event.pdu().event_id.clone(), event.pdu().bytes.clone())).collect();
                left_out.extend(unverified);
            }
            self.rooms.accept_outliers(&room.id, events).await?;
        }
        let in_state: HashSet<OwnedEventId> = ids.state.iter().cloned().collect();
        let unknown: HashSet<OwnedEventId> = self.unknown(room, &wanted).await?.into_iter().collect();
        let left_out = left_out.into_iter().filter(|(id, _)| unknown.contains(id));
        let left_out =
            left_out.map(|(event_id, json)| LeftOut { in_state: in_state.contains(&event_id), event_id, json });
        let left_out = left_out.collect();
        let ids = ids.state.into_iter().filter(|id| !unknown.contains(id)).collect();
        Ok(ToldState { ids, left_out })
    }

    async fn fetch_events(
        &self,
        room: &Room,
        edge: &OwnedEventId,
        wanted: &[OwnedEventId],
        server: &str,
    ) -> crate::Result<(Vec<Verified>, Vec<Unverifiable>)> {
        if wanted.len() > SINGLE_FETCHES_MAX {
            let events = self.ask_state(server, &room.id, edge.as_str()).await?;
            return self.verify_of_room(room, events).await;
        }
        // Collected first: a lazy iterator over borrowed ids would keep this from being a task of its own.
        let fetches: Vec<_> = wanted.iter().map(|id| self.ask_event(server, id.as_str()).boxed()).collect();
        let fetched: Vec<crate::Result<Option<Bytes>>> =
            stream::iter(fetches).buffered(FETCHES_AT_ONCE).collect().await;
        let mut events = Vec::new();
        for event in fetched {
            match event {
                Ok(event) => events.extend(event),
                // It may be had in a moment: a state without it would be another one for good.
                Err(error) if is_passing(&error) => return Err(error),
                // One that the other does not have is no reason to do without the others.
                Err(_) => {}
            }
        }
        let wanted: HashSet<&OwnedEventId> = wanted.iter().collect();
        let (mut events, mut unverified) = self.verify_of_room(room, events).await?;
        events.retain(|event| wanted.contains(&event.pdu().event_id));
        unverified.retain(|(id, _)| wanted.contains(id));
        Ok((events, unverified))
    }

    /// Those of the events that verify and are of the room, oldest first; and those that cannot be verified now, since
    /// keys cannot be had.
    async fn verify_of_room(
        &self,
        room: &Room,
        events: Vec<Bytes>,
    ) -> crate::Result<(Vec<Verified>, Vec<Unverifiable>)> {
        let texts = events.iter().filter_map(|event| event::Json::object_from_slice(event).ok());
        let texts = texts.map(|event| super::transaction::federation_form(room.rules, &event));
        let texts: Vec<Bytes> = texts.collect();
        let verified = verify::pdus(&self.key_ring, room.rules, texts.clone(), EdgeLimits::Enforced).await?;
        let wanting = texts.into_iter().zip(&verified).filter(|(_, checked)| verified_lists::lacks_key(checked));
        let unverified = wanting.filter_map(|(text, _)| verified_lists::left_out(room.rules, text, false));
        let unverified = unverified.map(|one| (one.event_id, one.json)).collect();
        let mut verified: Vec<Verified> = verified
            .into_iter()
            .filter_map(|event| event.inspect_err(|error| tracing::debug!(%error, "a fetched event was dropped")).ok())
            .filter(|event| event.pdu().room_id == room.id.as_str())
            .collect();
        verified.sort_by_key(|event| event.pdu().depth);
        Ok((verified, unverified))
    }

    /// Those of the events that a state cannot be made of yet: not known, or waiting.
    pub(crate) async fn unknown(&self, room: &Room, ids: &[OwnedEventId]) -> crate::Result<Vec<OwnedEventId>> {
        let mut seen = HashSet::new();
        let ids: Vec<&OwnedEventId> = ids.iter().filter(|id| seen.insert(*id)).collect();
        let mut unknown = Vec::new();
        for chunk in ids.chunks(LOOKUP_CHUNK) {
            let reads = chunk
                .iter()
                .map(|id| Read::along::<EventRow>(EventRow::BY_ID, vec![room.num.into(), id.as_str().into()]).limit(1));
            for (id, found) in chunk.iter().zip(self.store.read(reads.collect()).await?) {
                let row: Option<EventRow> = found.one()?;
                if row.is_none_or(|row| row.flags & flags::WAITING != 0) {
                    unknown.push(OwnedEventId::clone(id));
                }
            }
        }
        Ok(unknown)
    }
}

/// An answer of another server, or why there is none. An error of our own is passed on.
fn passing<T>(answer: crate::Result<T>) -> rooms::Result<Result<T, String>> {
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(crate::Error::Rooms(error)) => Err(error),
        Err(crate::Error::Store(error)) => Err(error.into()),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// Whether what failed may succeed in a moment.
fn is_passing(error: &crate::Error) -> bool {
    match error {
        crate::Error::Unreachable { .. } => true,
        crate::Error::Remote { status, .. } => status.is_server_error() || status.as_u16() == 429,
        _ => false,
    }
}
