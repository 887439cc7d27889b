//! One destination: what waits for it, and the task that sends it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use event::{Json, Object};
use parking_lot::Mutex;
use rooms::Event;
use store::tables::federation::{DestinationRow, OutboundEduRow};
use store::{CommitBatch, CommitError, Read, RoomNum, StreamPosition, UserId, Value};
use tokio::sync::Notify;

use super::device_lists::Told;
use super::transaction::{self, EDUS_MAX, PDUS_MAX};
use super::{Outbound, back_off};
use crate::{Error, Result};

/// Events that wait in memory for one destination; beyond, it is behind and reads them from the rooms.
const EVENTS_QUEUED_MAX: usize = 500;
/// Volatile EDUs that wait for one destination.
const EDUS_QUEUED_MAX: usize = 1_000;
/// How often a transaction that a peer refuses as a whole is tried before it is given up: its events stay reachable.
const REFUSALS_MAX: u32 = 5;

/// What makes a newer volatile EDU take the place of an older one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EduKey {
    /// A user's typing in a room.
    Typing(RoomNum, UserId),
    /// A user's receipt in a room, per thread.
    Receipt(RoomNum, UserId, String),
    /// A user's presence.
    Presence(UserId),
    /// One that replaces none, numbered.
    Single(u64),
}

/// A transaction that was sent, or is to be sent again as it is.
pub(super) struct Under {
    /// Its id.
    pub id: String,
    /// Its body.
    pub body: Arc<Object>,
    /// Position of its first event.
    pub first: Option<StreamPosition>,
    /// The stored EDUs in it.
    pub stored: Vec<(StreamPosition, i64)>,
    /// The device lists that are told in it.
    pub device_lists: Vec<Told>,
    /// How often the peer refused it.
    pub refusals: u32,
}

/// What waits for a destination.
#[derive(Default)]
pub(super) struct Queue {
    /// Events in order of position.
    pub events: VecDeque<(StreamPosition, Arc<Event>)>,
    /// Events after this position, up to the last dispatched one, are not in the queue.
    pub behind_from: Option<StreamPosition>,
    /// Position of the last event that was meant for this destination.
    pub last_meant: StreamPosition,
    /// Whether stored EDUs may wait.
    pub stored_edus: bool,
    /// Volatile EDUs.
    pub edus: BTreeMap<EduKey, Object>,
    /// Whether device lists may be due.
    pub device_lists: bool,
    /// The transaction under way.
    pub under: Option<Under>,
    /// How often it has failed in a row.
    pub failures: u32,
    /// Since when, in milliseconds since the epoch.
    pub failing_since_ms: i64,
    /// Whether a row in the store says that it is behind.
    pub stored: bool,
    singles: u64,
    running: bool,
}

impl Queue {
    pub fn add_edu(&mut self, key: EduKey, edu: Object) {
        let key = match key {
            EduKey::Single(_) => {
                self.singles += 1;
                EduKey::Single(self.singles)
            }
            key => key,
        };
        if self.edus.len() < EDUS_QUEUED_MAX || self.edus.contains_key(&key) {
            self.edus.insert(key, edu);
        }
    }

    pub fn add_event(&mut self, pos: StreamPosition, event: Arc<Event>) {
        self.last_meant = pos;
        if self.behind_from.is_some() {
            return;
        }
        if self.events.len() >= EVENTS_QUEUED_MAX {
            self.fall_behind();
            return;
        }
        self.events.push_back((pos, event));
    }

    /// Drops the queued events: they are read from the rooms later. The transaction under way stays.
    pub fn fall_behind(&mut self) {
        if self.behind_from.is_none() {
            let first = self.events.front().map(|(pos, _)| *pos);
            let Some(first) = first else { return };
            self.behind_from = Some(StreamPosition(first.0 - 1));
        }
        self.events.clear();
    }

    /// The position up to which nothing waits, if something waits.
    pub fn waits_from(&self) -> Option<StreamPosition> {
        let queued = self.events.front().map(|(pos, _)| StreamPosition(pos.0 - 1));
        let under = self.under.as_ref().and_then(|under| under.first).map(|pos| StreamPosition(pos.0 - 1));
        // Those that are behind have a row of their own once it is stored.
        let behind = if self.stored { None } else { self.behind_from };
        [queued, under.filter(|_| !self.stored), behind].into_iter().flatten().min()
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.behind_from.is_none()
            && !self.stored_edus
            && self.edus.is_empty()
            && !self.device_lists
            && self.under.is_none()
    }
}

/// A destination.
pub(super) struct Destination {
    /// Its server name.
    pub server: String,
    /// What waits for it.
    pub queue: Mutex<Queue>,
    /// It has spoken to us: there is no need to wait.
    heard: Notify,
}

impl Destination {
    pub fn new(server: &str) -> Self {
        Self { server: server.to_owned(), queue: Mutex::default(), heard: Notify::new() }
    }

    pub fn restore(&self, row: &DestinationRow) {
        let mut queue = self.queue.lock();
        queue.behind_from = Some(row.behind_from);
        queue.failures = u32::try_from(row.failures).unwrap_or(u32::MAX);
        queue.failing_since_ms = row.failing_since_ms;
        queue.stored = true;
    }

    /// Whether the caller is to start the task.
    pub fn begin(&self) -> bool {
        let mut queue = self.queue.lock();
        if queue.running || queue.is_empty() {
            return false;
        }
        queue.running = true;
        true
    }

    /// Whether the task may end; if so, it counts as ended.
    fn ends(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.running = !queue.is_empty();
        !queue.running
    }

    pub fn heard(&self) {
        self.heard.notify_one();
    }
}

impl Outbound {
    /// The task of a destination: sends until nothing waits.
    pub(super) async fn send_all(self: &Arc<Self>, destination: &Arc<Destination>) {
        let mut stopping = self.stopping.subscribe();
        let work = async {
            while !destination.ends() {
                let failures = destination.queue.lock().failures;
                if failures > 0 {
                    self.wait(destination, failures).await;
                }
                if let Err(error) = self.send_next(destination).await {
                    tracing::warn!(server = destination.server, %error, "what waits for a server cannot be read");
                    let failures = &mut destination.queue.lock().failures;
                    *failures = failures.saturating_add(1);
                }
            }
        };
        tokio::select! {
            () = work => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    }

    async fn wait(&self, destination: &Destination, failures: u32) {
        let wait = back_off::wait(self.options.retry_first, self.options.retry_max, failures, self.entropy.as_ref());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = destination.heard.notified() => {}
        }
    }

    /// Sends one transaction, the last one again if it was not answered.
    async fn send_next(self: &Arc<Self>, destination: &Arc<Destination>) -> Result<()> {
        if destination.queue.lock().under.is_none() && !self.prepare(destination).await? {
            return Ok(());
        }
        let (id, body) = match &destination.queue.lock().under {
            Some(under) => (under.id.clone(), Arc::clone(&under.body)),
            None => return Ok(()),
        };
        let Ok(_under_way) = self.under_way.acquire().await else { return Ok(()) };
        match transaction::send(&self.client, &destination.server, &id, &body).await {
            Ok(()) => self.sent(destination).await,
            Err(error) => self.failed(destination, &error).await,
        }
    }

    /// Makes the next transaction of what waits. False if nothing waits.
    async fn prepare(self: &Arc<Self>, destination: &Arc<Destination>) -> Result<bool> {
        if destination.queue.lock().behind_from.is_some() && !self.catch_up(destination).await? {
            return Ok(true);
        }
        let stored = self.stored_edus(destination).await?;
        let mut edus: Vec<Object> = Vec::new();
        edus.extend(stored.iter().filter_map(|row| Json::object_from_slice(row.edu.as_bytes()).ok()));
        let (lists, told) = self.device_list_edus(destination, EDUS_MAX.saturating_sub(edus.len())).await?;
        edus.extend(lists);
        let mut queue = destination.queue.lock();
        let count = queue.events.len().min(PDUS_MAX);
        let events: Vec<_> = queue.events.drain(..count).collect();
        while edus.len() < EDUS_MAX
            && let Some((_, edu)) = queue.edus.pop_first()
        {
            edus.push(edu);
        }
        if events.is_empty() && edus.is_empty() {
            return Ok(false);
        }
        let body = transaction::body(self.client.server_name(), self.clock.now_ms(), &events, edus);
        queue.under = Some(Under {
            id: store::clock::random_text(self.entropy.as_ref(), 20),
            body: Arc::new(body),
            first: events.first().map(|(pos, _)| *pos),
            stored: stored.iter().map(|row| (row.pos, row.number)).collect(),
            device_lists: told,
            refusals: 0,
        });
        Ok(true)
    }

    async fn stored_edus(&self, destination: &Destination) -> Result<Vec<OutboundEduRow>> {
        if !std::mem::take(&mut destination.queue.lock().stored_edus) {
            return Ok(Vec::new());
        }
        let read = Read::prefix::<OutboundEduRow>(vec![Value::from(destination.server.as_str())]);
        let limit = u32::try_from(EDUS_MAX / 2).unwrap_or(1);
        let read = self.store.all::<OutboundEduRow>(read.limit(limit)).await;
        let mut queue = destination.queue.lock();
        match read {
            Ok(rows) => {
                // Looked at again after this transaction: there may be more.
                queue.stored_edus |= !rows.is_empty();
                Ok(rows)
            }
            Err(error) => {
                queue.stored_edus = true;
                Err(error.into())
            }
        }
    }

    /// The peer has the transaction.
    async fn sent(&self, destination: &Destination) -> Result<()> {
        let (under, caught_up) = {
            let mut queue = destination.queue.lock();
            queue.failures = 0;
            queue.failing_since_ms = 0;
            let caught_up = queue.stored && queue.behind_from.is_none() && queue.events.is_empty();
            (queue.under.take(), caught_up)
        };
        let mut batch = CommitBatch::new();
        for (pos, number) in under.iter().flat_map(|under| &under.stored) {
            let server = Value::from(destination.server.as_str());
            batch.delete::<OutboundEduRow>(vec![server, (*pos).into(), Value::Int(*number)]);
        }
        for told in under.into_iter().flat_map(|under| under.device_lists) {
            told.add_to(&mut batch);
        }
        if caught_up {
            batch.delete::<DestinationRow>(vec![Value::from(destination.server.as_str())]);
            destination.queue.lock().stored = false;
        }
        self.store_soon(batch).await
    }

    async fn failed(&self, destination: &Destination, error: &Error) -> Result<()> {
        let refused = matches!(error, Error::Remote { status, .. }
            if status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 404 | 408 | 429));
        let row = {
            let mut queue = destination.queue.lock();
            queue.failures = queue.failures.saturating_add(1);
            if queue.failing_since_ms == 0 {
                queue.failing_since_ms = self.clock.now_ms();
                tracing::info!(server = destination.server, %error, "a server cannot be reached");
            }
            if let Some(under) = &mut queue.under
                && refused
            {
                under.refusals += 1;
                if under.refusals >= REFUSALS_MAX {
                    tracing::warn!(server = destination.server, %error, "a server refuses a transaction: it is given up");
                    queue.under = None;
                }
            }
            let under_from = queue.under.as_ref().and_then(|under| under.first).map(|pos| StreamPosition(pos.0 - 1));
            queue.fall_behind();
            // The transaction under way is kept as it is, but only in memory.
            let behind_from = [under_from, queue.behind_from].into_iter().flatten().min();
            behind_from.map(|behind_from| DestinationRow {
                server: destination.server.clone(),
                behind_from,
                failing_since_ms: queue.failing_since_ms,
                failures: i64::from(queue.failures),
                retry_at_ms: 0,
            })
        };
        if let Some(row) = row {
            let mut batch = CommitBatch::new();
            batch.put(row);
            self.store_soon(batch).await?;
            destination.queue.lock().stored = true;
        }
        Ok(())
    }

    pub(super) async fn store_soon(&self, batch: CommitBatch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        match self.store.commit(batch).await {
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// How long the last event for a destination has waited; for the metrics.
    pub fn longest_failure(&self) -> Duration {
        let now = self.clock.now_ms();
        let destinations = self.destinations.lock();
        let since = destinations.values().map(|destination| destination.queue.lock().failing_since_ms);
        let oldest = since.filter(|since| *since > 0).min();
        Duration::from_millis(oldest.map_or(0, |since| u64::try_from(now - since).unwrap_or(0)))
    }
}
