//! Rooms that were joined with part of their state get the rest (MSC3902): the state before the join is asked of the
//! server that let us in, or of another one that was named, read as it comes, and given to the room.
//!
//! What could not be verified then, since keys could not be had, is tried again for a while
//! ([`rooms::remote::left_out`]).
//!
//! What is to be done stands in the store, so that a restart goes on with it; who does it keeps a claim up, so that of
//! several nodes only one does.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use bytes::Bytes;
use event::EdgeLimits;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::Method;
use rooms::remote::left_out::LeftOut;
use rooms::remote::partial::{Claim, Lacks, PartialRoom};
use ruma_common::OwnedEventId;
use tokio::sync::watch;

use crate::client::path;
use crate::receive::is_askable;
use crate::transport::Limits;
use crate::verified_lists::{self, Expected};
use crate::{Error, Federation, Result, verify};

/// The answer is the whole state of a room.
const STATE: Limits = Limits { timeout: Duration::from_secs(600), body_bytes_max: 512 << 20 };
/// The lists of the answer.
const LISTS: &[&str] = &["pdus", "auth_chain"];
/// Servers that one attempt asks.
const SERVERS_MAX: usize = 8;
/// Rooms that are completed at a time: each may have the state of a large room in memory.
const ROOMS_AT_ONCE: usize = 2;
/// How long a claim holds, in milliseconds. After a crash, the next life waits so long.
const CLAIM_MS: i64 = 30_000;
/// How often it is kept up.
const KEEP_UP: Duration = Duration::from_secs(10);
/// How often rooms are looked for whose time has come.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The pause after the first failed attempt, in milliseconds; each further one doubles it.
const PAUSE_MS: i64 = 5_000;
/// The longest pause.
const PAUSE_MAX_MS: i64 = 3_600_000;
/// The longest pause before keys are tried again that could not be had.
const KEYS_PAUSE_MAX_MS: i64 = 600_000;
/// So often that is tried: for about a day.
const KEYS_FAILURES_MAX: i64 = 150;

impl Federation {
    /// Completes rooms until `stop` becomes true.
    pub async fn complete(&self, mut stop: watch::Receiver<bool>) {
        let mut rooms = FuturesUnordered::new();
        loop {
            while rooms.len() < ROOMS_AT_ONCE
                && let Some(claim) = self.next_claim().await
            {
                rooms.push(self.work_on(claim, stop.clone()));
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                () = self.rooms.partial_begins() => {}
                _ = rooms.next(), if !rooms.is_empty() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
        while rooms.next().await.is_some() {}
    }

    /// Tries to complete each room whose time has come, one after the other. Returns how many are whole now.
    pub async fn complete_rooms(&self) -> usize {
        let (mut n_whole, (_go_on, stop)) = (0, watch::channel(false));
        while let Some(claim) = self.next_claim().await {
            n_whole += usize::from(self.work_on(claim, stop.clone()).await);
        }
        n_whole
    }

    async fn next_claim(&self) -> Option<Claim> {
        let claimed = self.rooms.claim_partial(CLAIM_MS).await;
        claimed.inspect_err(|error| tracing::warn!(%error, "rooms to be completed cannot be read")).ok().flatten()
    }

    /// Completes a room, or puts it off. Whether it is whole now.
    async fn work_on(&self, mut claim: Claim, mut stop: watch::Receiver<bool>) -> bool {
        let (room_id, lacks, failures) = (claim.room_id.clone(), claim.lacks.clone(), claim.failures());
        let attempt = async {
            match &lacks {
                Lacks::Members(room) => self.complete_room(room, failures).await,
                Lacks::LeftOut => self.verify_left_out(&room_id, failures).await,
            }
        };
        tokio::pin!(attempt);
        let done = loop {
            let stopped = tokio::select! {
                done = &mut attempt => break done,
                () = tokio::time::sleep(KEEP_UP) => false,
                _ = stop.wait_for(|stop| *stop) => true,
            };
            if stopped {
                let failures = claim.failures();
                drop(self.rooms.put_off(claim, 0, failures).await);
                return false;
            }
            match self.rooms.keep_claim(&mut claim, CLAIM_MS).await {
                Ok(true) => {}
                // It is whole, or somebody else's.
                Ok(false) => return false,
                Err(error) => tracing::warn!(room_id, %error, "a claim cannot be kept up"),
            }
        };
        let Err(error) = done else { return true };
        let failures = claim.failures().saturating_add(1);
        let longest = if matches!(lacks, Lacks::LeftOut) { KEYS_PAUSE_MAX_MS } else { PAUSE_MAX_MS };
        let pause_ms = pause_ms(failures).min(longest);
        tracing::warn!(room_id, %error, failures, pause_ms, "a room's whole state could not be had yet");
        if let Err(error) = self.rooms.put_off(claim, pause_ms, failures).await {
            tracing::warn!(room_id, %error, "a room cannot be put off");
        }
        false
    }

    /// Tries to verify what was left out of a room's state. No failure if nothing is left.
    async fn verify_left_out(&self, room_id: &str, failures: i64) -> Result<()> {
        let room = self.rooms.room(room_id).await?.ok_or(rooms::Error::NotInRoom)?;
        if failures >= KEYS_FAILURES_MAX || self.rooms.has_outgrown_left_out(room_id).await? {
            tracing::warn!(room_id, "events of a room's state cannot be verified, and are given up");
            return Ok(self.rooms.give_up_left_out(room_id).await?);
        }
        let texts = self.rooms.left_out(room_id).await?;
        let n_left_out = texts.len();
        let checked = verify::pdus(&self.key_ring, room.rules, texts, EdgeLimits::Enforced).await?;
        let verified =
            checked.into_iter().flatten().filter(|event| event.pdu().room_id == room.create.room_id).collect();
        let (n_come, n_open) = match self.rooms.accept_left_out(room_id, verified).await {
            Err(rooms::Error::Invalid(reason)) => {
                tracing::warn!(room_id, reason, "what was left out of a room's state is given up");
                return Ok(self.rooms.give_up_left_out(room_id).await?);
            }
            accepted => accepted?,
        };
        if n_come > 0 {
            tracing::info!(room_id, n_come, n_open, "events that were left out of a room's state are part of it now");
        }
        match n_open {
            0 => Ok(()),
            _ => Err(Error::Exhausted(format!("keys of {n_open} of {n_left_out} events cannot be had"))),
        }
    }

    async fn complete_room(&self, room: &PartialRoom, failures: i64) -> Result<()> {
        let begun_ms = self.clock.now_ms();
        let mut worst = Error::Exhausted("no server is known to be in the room".to_owned());
        let known = self.rooms.servers(&room.room_id).await?;
        for server in self.servers_to_ask(room, known, failures) {
            tracing::info!(room_id = room.room_id, server, "asking for a room's whole state");
            match self.complete_from(room, &server).await {
                Ok(n_state) => {
                    let waited_ms = self.ms_since(room.since_ms);
                    let elapsed_ms = self.ms_since(begun_ms);
                    tracing::info!(
                        room_id = room.room_id,
                        state = n_state,
                        elapsed_ms,
                        waited_ms,
                        "a room is whole now"
                    );
                    return Ok(());
                }
                Err(error @ (Error::Store(_) | Error::Rooms(rooms::Error::Store(_)))) => return Err(error),
                Err(error) => {
                    tracing::info!(room_id = room.room_id, server, %error, "a server did not tell a room's state");
                    worst = error;
                }
            }
        }
        Err(worst)
    }

    fn ms_since(&self, at_ms: i64) -> i64 {
        self.clock.now_ms().saturating_sub(at_ms)
    }

    /// The server that let us in, others that it named, and others that are known by now; after each failure the next.
    fn servers_to_ask(&self, room: &PartialRoom, known: BTreeSet<String>, failures: i64) -> Vec<String> {
        let own = self.rooms.server_name();
        let mut seen = HashSet::new();
        let mut servers: Vec<String> = (room.servers.iter().cloned().chain(known))
            .filter(|server| is_askable(server, own) && seen.insert(server.clone()))
            .collect();
        if servers.len() > SERVERS_MAX {
            let others = servers.len() - 1;
            let turn = usize::try_from(failures).unwrap_or(0).saturating_mul(SERVERS_MAX - 1) % others;
            servers[1..].rotate_left(turn);
        }
        servers.truncate(SERVERS_MAX);
        servers
    }

    /// Fetches the state before the join and gives it to the room. Returns how many events it has.
    async fn complete_from(&self, partial: &PartialRoom, server: &str) -> Result<usize> {
        let begun_ms = self.clock.now_ms();
        let room_id = partial.room_id.as_str();
        let room = self.rooms.room(room_id).await?.ok_or(rooms::Error::NotInRoom)?;
        let path = path("/_matrix/federation/v1/state", &[room_id], &[("event_id", partial.join.as_str())]);
        let incoming = self.client.stream(server, Method::GET, &path, None, STATE).await?;
        let expected = Expected {
            server,
            room_id: &room.create.room_id,
            rules: room.rules,
            lists: LISTS,
            bytes_max: STATE.body_bytes_max,
        };
        let mut lists = verified_lists::read(&self.key_ring, expected, incoming.body).await?;
        let mut left_out = lists.left_out(room.rules);
        let mut lists = lists.events.into_iter();
        let (state, chain) = (lists.next().unwrap_or_default(), lists.next().unwrap_or_default());
        let texts: Vec<(OwnedEventId, Bytes)> =
            state.iter().map(|event| (event.pdu().event_id.clone(), event.pdu().bytes.clone())).collect();
        let ids: Vec<OwnedEventId> = texts.iter().map(|(id, _)| id.clone()).collect();
        let elapsed_ms = self.ms_since(begun_ms);
        tracing::info!(
            room_id,
            server,
            state = ids.len(),
            auth_chain = chain.len(),
            elapsed_ms,
            "a room's state has come"
        );
        self.rooms.accept_outliers(room_id, state.into_iter().chain(chain).collect()).await?;
        tracing::info!(
            room_id,
            elapsed_ms = self.ms_since(begun_ms),
            "a room's state is written, its events are judged anew"
        );
        // What cites unknown events cannot be judged, and is no part of the state: for good, unless those may be verified.
        let unknown = self.unknown(&room, &ids).await?;
        let unknown: HashSet<OwnedEventId> = unknown.into_iter().collect();
        let ids: Vec<OwnedEventId> = ids.into_iter().filter(|id| !unknown.contains(id)).collect();
        if !left_out.is_empty() {
            let cites = texts.into_iter().filter(|(id, _)| unknown.contains(id));
            left_out.extend(cites.map(|(event_id, json)| LeftOut { event_id, in_state: true, json }));
        }
        self.rooms.complete_state(room_id, &ids, &left_out).await?;
        Ok(ids.len())
    }
}

/// How long to wait after so many failures, in milliseconds.
fn pause_ms(failures: i64) -> i64 {
    let doublings = u32::try_from(failures.clamp(1, 30) - 1).unwrap_or(0);
    PAUSE_MS.saturating_mul(1_i64 << doublings).min(PAUSE_MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_an_hour() {
        let pauses: Vec<i64> = [1, 2, 3, 10, 11, 1_000].into_iter().map(pause_ms).collect();
        assert_eq!(pauses, [5_000, 10_000, 20_000, 2_560_000, 3_600_000, 3_600_000]);
    }
}
