//! History from before this server was in a room, asked of the servers that are in it (server-server API, "Backfilling
//! and retrieving missing events").

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use event::{EdgeLimits, Json, Verified};
use http::Method;
use rooms::Room;
use rooms::remote::left_out::{self, ToldState};
use rooms::timeline::{Direction, Place};
use ruma_common::OwnedEventId;
use tokio::time::timeout;

use super::ask::{is_askable, texts_of};
use crate::client::path;
use crate::transport::Limits;
use crate::{Federation, Result, verify};

/// Events that are asked for at once, at most.
const EVENTS_MAX: usize = 100;
/// Servers that are asked about one gap.
const SERVERS_MAX: usize = 4;
/// How often history is asked for on the way to an event of a time.
const FILLS_MAX: usize = 10;
/// Missing events that one request names.
const NAMED_MAX: usize = 20;
/// How often other missing events are named where nobody has the ones before.
const ROUNDS_MAX: usize = 5;
/// Most events of one answer before which the state is asked for; what cannot be placed without is asked for again.
const STATES_MAX: usize = 20;
/// How long one look for history may take.
const FILL_MAX: Duration = Duration::from_secs(120);
/// For how long a gap that nobody could fill is left alone, in milliseconds.
const PAUSE_MS: i64 = 30_000;
/// How long history waits for the members of a room that was joined with part of its state.
const MEMBERS_PATIENCE: Duration = Duration::from_secs(10);
/// Under which name pauses of history stand beside those of servers.
const HISTORY: &str = "/history";

/// What became of questions for history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filled {
    /// Something came.
    Came,
    /// Nothing came; some did not answer.
    Nothing,
    /// All answered, and nobody has what is missing.
    UnknownToAll,
}

impl Federation {
    /// Fills the nearest gap of a room's history that lies before a place, as far as the servers in the room help. True
    /// if any event came.
    ///
    /// # Errors
    /// As the store says; that no server helps is no error.
    pub async fn fill_history(&self, room: &Room, before: Place, limit: usize) -> Result<bool> {
        if room.is_partial() && !self.rooms.when_whole(&room.id, MEMBERS_PATIENCE).await? {
            // Who was a member when is told by the state that is on its way; to ask for it once more would be no faster.
            return Ok(false);
        }
        self.rooms.look_further(&room.id, before).await?;
        let gaps = self.rooms.backward_gaps(room, before).await?;
        let now_ms = self.clock.now_ms();
        if gaps.is_empty() || self.receiver.gaps.pause(&room.id, HISTORY, now_ms).is_some() {
            return Ok(false);
        }
        if !self.rooms.accept_history(&room.id, Vec::new(), BTreeMap::new()).await?.is_empty() {
            // Of the state from before a join, all that came before was known.
            return Ok(true);
        }
        let mut filled = self.ask_in_time(room, &gaps, limit).await?;
        if filled == Filled::UnknownToAll && self.rooms.look_around(&room.id, before).await? {
            let gaps = self.rooms.backward_gaps(room, before).await?;
            filled = self.ask_in_time(room, &gaps, limit).await?;
        }
        if filled == Filled::Came {
            return Ok(true);
        }
        self.receiver.gaps.put_off(&room.id, HISTORY, now_ms.saturating_add(PAUSE_MS));
        Ok(false)
    }

    async fn ask_in_time(&self, room: &Room, gaps: &[OwnedEventId], limit: usize) -> Result<Filled> {
        timeout(FILL_MAX, self.ask_for_history(room, gaps, limit)).await.unwrap_or(Ok(Filled::Nothing))
    }

    /// Asks the servers in a room for missing events and what came before them, until something comes.
    async fn ask_for_history(&self, room: &Room, gaps: &[OwnedEventId], limit: usize) -> Result<Filled> {
        let own = self.rooms.server_name();
        let servers = room.servers().into_iter().filter(|server| is_askable(server, own)).take(SERVERS_MAX);
        let mut servers: Vec<String> = servers.collect();
        let mut filled = Filled::UnknownToAll;
        for named in gaps.chunks(NAMED_MAX).take(ROUNDS_MAX) {
            let mut helpful = Vec::with_capacity(servers.len());
            for server in servers {
                match self.backfill(room, &server, named, limit).await {
                    Ok(true) => return Ok(Filled::Came),
                    Ok(false) => helpful.push(server),
                    Err(error @ (crate::Error::Store(_) | crate::Error::Rooms(rooms::Error::Store(_)))) => {
                        return Err(error);
                    }
                    Err(error) => {
                        tracing::info!(server, room_id = room.id, %error, "a server did not help with history");
                        filled = Filled::Nothing;
                    }
                }
            }
            servers = helpful;
        }
        Ok(filled)
    }

    /// Asks whether other servers know an event that is nearer to a time, on its side in a direction, than the nearest
    /// one known here, and fetches the history before a place until it is known. True if anything came
    /// (`/timestamp_to_event`).
    ///
    /// # Errors
    /// As the store says; that no server helps is no error.
    pub async fn fetch_by_time(
        &self,
        room: &Room,
        ts: i64,
        direction: Direction,
        known_ts: Option<i64>,
        before: Place,
    ) -> Result<bool> {
        let nearer = |found: i64, known: Option<i64>| match direction {
            Direction::Forward => found >= ts && known.is_none_or(|known| found < known),
            Direction::Backward => found <= ts && known.is_none_or(|known| found > known),
        };
        let dir = if direction == Direction::Forward { "f" } else { "b" };
        let own = self.rooms.server_name();
        let mut nearest: Option<(String, i64)> = None;
        for server in room.servers().into_iter().filter(|server| is_askable(server, own)).take(SERVERS_MAX) {
            match self.client.query_timestamp(&server, &room.id, ts, dir).await {
                // The history of some begins later than that of others.
                Ok((id, found)) if nearer(found, nearest.as_ref().map_or(known_ts, |(_, known)| Some(*known))) => {
                    nearest = Some((id, found));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::info!(server, room_id = room.id, %error, "a server knows no event at that time");
                }
            }
        }
        let Some((id, _)) = nearest else { return Ok(false) };
        let mut came = false;
        for _ in 0..FILLS_MAX {
            if !self.fill_history(room, before, EVENTS_MAX).await? {
                break;
            }
            came = true;
            if self.rooms.event_by_id(room, &id).await?.is_some_and(|event| event.shown()) {
                break;
            }
        }
        Ok(came)
    }

    async fn backfill(&self, room: &Room, server: &str, named: &[OwnedEventId], limit: usize) -> Result<bool> {
        // The events that are named are among those that come.
        let n_wanted = limit.clamp(1, EVENTS_MAX).max(named.len());
        let limit = n_wanted.to_string();
        let mut query: Vec<(&str, &str)> = named.iter().map(|id| ("v", id.as_str())).collect();
        query.push(("limit", &limit));
        let path = path("/_matrix/federation/v1/backfill", &[&room.id], &query);
        let answer = self.client.request(server, Method::GET, &path, None, Limits::default()).await?;
        let events = self.verify_history(room, texts_of(server, &answer, n_wanted)?).await?;
        let n_answered = events.len();
        let states = self.states_of_oldest(room, server, &events).await?;
        let placed = self.rooms.accept_history(&room.id, events, states).await?;
        let (room_id, n_named, n_placed) = (&room.id, named.len(), placed.len());
        tracing::debug!(server, room_id, n_named, n_answered, n_placed, "history came");
        Ok(!placed.is_empty())
    }

    /// Those of the events that verify and are of the room. How many edges they have was for others to judge.
    async fn verify_history(&self, room: &Room, events: Vec<Bytes>) -> Result<Vec<Verified>> {
        let objects = events.iter().filter_map(|event| Json::object_from_slice(event).ok());
        let texts = objects.map(|event| super::transaction::federation_form(room.rules, &event)).collect();
        let verified = verify::pdus(&self.key_ring, room.rules, texts, EdgeLimits::Lifted).await?;
        let good = verified.into_iter().filter_map(|event| {
            event.inspect_err(|error| tracing::debug!(%error, "an event of history was dropped")).ok()
        });
        Ok(good.filter(|event| event.pdu().room_id == room.id.as_str()).collect())
    }

    /// The state before each event whose previous events are neither among them nor known; events of it that are not
    /// known are fetched.
    async fn states_of_oldest(
        &self,
        room: &Room,
        server: &str,
        events: &[Verified],
    ) -> Result<BTreeMap<OwnedEventId, ToldState>> {
        let here: HashSet<&OwnedEventId> = events.iter().map(|event| &event.pdu().event_id).collect();
        let (mut states, mut n_left_out) = (BTreeMap::new(), 0);
        for event in events {
            if states.len() == STATES_MAX {
                break;
            }
            let pdu = event.pdu();
            let outside: Vec<OwnedEventId> = pdu.prev_events.iter().filter(|id| !here.contains(id)).cloned().collect();
            if outside.is_empty()
                || self.rooms.event_by_id(room, pdu.event_id.as_str()).await?.is_some_and(|e| e.shown())
            {
                continue;
            }
            let mut told = self.ask_told_state(room, pdu, server).await?;
            told.left_out.truncate(left_out::EVENTS_MAX.saturating_sub(n_left_out));
            n_left_out += told.left_out.len();
            states.insert(pdu.event_id.clone(), told);
        }
        Ok(states)
    }
}
