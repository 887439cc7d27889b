//! One destination: what waits for it, and the task that sends it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use event::{Json, Object};
use parking_lot::Mutex;
use rooms::Event;
use store::tables::federation::{DestinationRow, OutboundEduRow};
use store::{CommitBatch, CommitError, Read, RoomNum, StreamPosition, UserId, Value};
use tokio::sync::Notify;

use super::Outbound;
use super::device_lists::Told;
use super::transaction::{self, EDUS_MAX, PDUS_MAX};
use crate::{Error, Result};

/// Events that wait in memory for one destination; beyond, it is behind and reads them from the rooms.
const EVENTS_QUEUED_MAX: usize = 500;
/// Volatile EDUs that wait for one destination.
const EDUS_QUEUED_MAX: usize = 1_000;
/// Users whose presence waits for one destination.
const PRESENCE_QUEUED_MAX: usize = 1_000;
/// Users of whose presence one EDU tells.
const PRESENCE_PER_EDU_MAX: usize = 100;
/// After a failure, how long a destination is left alone that speaks to us, in milliseconds; doubled with each try that
/// fails all the same.
const HEARD_WAIT_MS: i64 = 1_000;
/// How often a transaction that a peer refuses as a whole is tried before its parts are sent one by one.
const REFUSALS_MAX: u32 = 5;
/// How often one of these parts is tried before it is given up: an event stays reachable.
const SINGLE_REFUSALS_MAX: u32 = 2;
/// How many parts are sent one by one after a transaction was refused.
const SINGLY: usize = PDUS_MAX + EDUS_MAX;

/// What makes a newer volatile EDU take the place of an older one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EduKey {
    /// A user's typing in a room.
    Typing(RoomNum, UserId),
    /// A user's receipt in a room, per thread.
    Receipt(RoomNum, UserId, String),
    /// One that replaces none, numbered.
    Single(u64),
}

/// Volatile EDUs of a transaction, as they waited.
#[derive(Default)]
pub(super) struct Volatile {
    edus: Vec<(EduKey, Object)>,
    presence: Vec<(UserId, Json)>,
}

impl Volatile {
    /// As EDUs: of presence one tells of all users.
    fn to_edus(&self) -> Vec<Object> {
        let mut edus: Vec<Object> = self.edus.iter().map(|(_, edu)| edu.clone()).collect();
        if !self.presence.is_empty() {
            let push = self.presence.iter().map(|(_, one)| one.clone()).collect();
            let content = Object::from([("push".to_owned(), Json::Array(push))]);
            edus.push(Object::from([
                ("content".to_owned(), Json::Object(content)),
                ("edu_type".to_owned(), Json::from("m.presence")),
            ]));
        }
        edus
    }
}

/// A transaction that was sent, or is to be sent again as it is.
pub(super) struct Under {
    /// Its id.
    pub id: String,
    /// Its body.
    pub body: Bytes,
    /// Position of its first event.
    pub first: Option<StreamPosition>,
    /// The stored EDUs in it.
    pub stored: Vec<(StreamPosition, i64)>,
    /// The device lists that are told in it.
    pub device_lists: Vec<Told>,
    /// The volatile EDUs in it.
    pub volatile: Volatile,
    /// How often the peer refused it.
    pub refusals: u32,
    /// It is one part of what was refused as a whole.
    pub single: bool,
}

impl Under {
    /// Takes what is in it from what waits: the peer has it, or will never take it.
    fn settle(self, server: &str, batch: &mut CommitBatch) {
        for (pos, number) in self.stored {
            batch.delete::<OutboundEduRow>(vec![Value::from(server), pos.into(), Value::Int(number)]);
        }
        for told in self.device_lists {
            told.add_to(batch);
        }
    }
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
    /// What is to be told of users' presence.
    pub presence: BTreeMap<UserId, Json>,
    /// Whether device lists may be due.
    pub device_lists: bool,
    /// The transaction under way.
    pub under: Option<Under>,
    /// How many more transactions have one part each, since the peer has refused one with several.
    singly: usize,
    /// How often it has failed in a row.
    pub failures: u32,
    /// Since when, in milliseconds since the epoch.
    pub failing_since_ms: i64,
    /// When it failed last.
    pub failed_at_ms: i64,
    /// Not before this time is it tried again, where it fails.
    pub retry_at_ms: i64,
    /// How often it was tried in vain because it had spoken to us.
    pub heard_in_vain: u32,
    /// It is tried because it has spoken to us.
    heard: bool,
    /// Whether a row in the store says that it is behind.
    pub stored: bool,
    /// Another node sends there now.
    left: bool,
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

    pub fn add_presence(&mut self, user: UserId, push: Json) {
        if self.presence.len() < PRESENCE_QUEUED_MAX || self.presence.contains_key(&user) {
            self.presence.insert(user, push);
        }
    }

    /// Takes at most so many volatile EDUs; the last may be of the presence of many users.
    fn take_volatile(&mut self, most: usize) -> Volatile {
        let mut taken = Volatile::default();
        while taken.edus.len() < most
            && let Some(first) = self.edus.pop_first()
        {
            taken.edus.push(first);
        }
        while taken.edus.len() < most
            && taken.presence.len() < PRESENCE_PER_EDU_MAX
            && let Some(first) = self.presence.pop_first()
        {
            taken.presence.push(first);
        }
        taken
    }

    /// Volatile EDUs wait again, where nothing newer does.
    fn give_back(&mut self, volatile: Volatile) {
        for (key, edu) in volatile.edus {
            self.edus.entry(key).or_insert(edu);
        }
        for (user, one) in volatile.presence {
            self.presence.entry(user).or_insert(one);
        }
    }

    /// The peer is away: what is volatile is out of date when it is back, but for how far people have read.
    fn drop_outdated(&mut self) {
        self.edus.retain(|key, _| matches!(key, EduKey::Receipt(..)));
        self.presence.clear();
    }

    /// The peer has refused the transaction under way once more. After some times its parts are sent one by one; if it was
    /// one of these, it is given up and returned.
    fn refuse(&mut self) -> Option<Under> {
        let under = self.under.take_if(|under| {
            under.refusals += 1;
            under.refusals >= if under.single { SINGLE_REFUSALS_MAX } else { REFUSALS_MAX }
        })?;
        if under.single {
            return Some(under);
        }
        self.singly = SINGLY;
        self.stored_edus |= !under.stored.is_empty();
        self.device_lists |= !under.device_lists.is_empty();
        if let Some(first) = under.first {
            // Its events are read again from the rooms.
            self.behind_from = Some(self.behind_from.unwrap_or(first).min(StreamPosition(first.0 - 1)));
            self.events.clear();
        }
        self.give_back(under.volatile);
        None
    }

    /// It has failed, and is left alone for so long.
    fn put_off(&mut self, now_ms: i64, wait: Duration) {
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        if std::mem::take(&mut self.heard) {
            self.heard_in_vain = self.heard_in_vain.saturating_add(1);
        }
        self.failed_at_ms = now_ms;
        self.retry_at_ms = now_ms.saturating_add(wait_ms);
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
            && self.presence.is_empty()
            && !self.device_lists
            && self.under.is_none()
    }
}

/// A destination.
pub(super) struct Destination {
    /// Its server name.
    pub server: String,
    /// In which epoch of its shard this node sends there.
    pub epoch: i64,
    /// What waits for it.
    pub queue: Mutex<Queue>,
    /// It has spoken to us: there is no need to wait.
    heard: Notify,
}

impl Destination {
    pub fn new(server: &str, epoch: i64) -> Self {
        Self { server: server.to_owned(), epoch, queue: Mutex::default(), heard: Notify::new() }
    }

    pub fn restore(&self, row: &DestinationRow) {
        let mut queue = self.queue.lock();
        queue.behind_from = Some(row.behind_from);
        queue.failures = u32::try_from(row.failures).unwrap_or(u32::MAX);
        queue.failing_since_ms = row.failing_since_ms;
        queue.retry_at_ms = row.retry_at_ms;
        queue.stored = true;
    }

    /// Whether the caller is to start the task.
    pub fn begin(&self) -> bool {
        let mut queue = self.queue.lock();
        if queue.running || queue.left || queue.is_empty() {
            return false;
        }
        queue.running = true;
        true
    }

    /// Whether the task may end; if so, it counts as ended.
    fn ends(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.running = !queue.left && !queue.is_empty();
        !queue.running
    }

    /// Nothing more is sent there.
    pub fn leave(&self) {
        self.queue.lock().left = true;
        self.heard.notify_one();
    }

    /// It has spoken to us: it is tried soon, and waits are short again.
    pub fn heard(&self) {
        let mut queue = self.queue.lock();
        if queue.failures == 0 {
            return;
        }
        let wait_ms = HEARD_WAIT_MS << queue.heard_in_vain.min(20);
        let soon_ms = queue.failed_at_ms.saturating_add(wait_ms);
        if soon_ms < queue.retry_at_ms {
            queue.retry_at_ms = soon_ms;
            queue.failures = 1;
            queue.heard = true;
            self.heard.notify_one();
        }
    }
}

impl Outbound {
    /// The task of a destination: sends until nothing waits.
    pub(super) async fn send_all(self: &Arc<Self>, destination: &Arc<Destination>) {
        let mut stopping = self.stopping.subscribe();
        let work = async {
            while !destination.ends() {
                self.wait(destination).await;
                if let Err(error) = self.send_next(destination).await {
                    tracing::warn!(server = destination.server, %error, "what waits for a server cannot be read");
                    let mut queue = destination.queue.lock();
                    queue.failures = queue.failures.saturating_add(1);
                    let wait = self.back_off(queue.failures);
                    queue.put_off(self.clock.now_ms(), wait);
                    queue.drop_outdated();
                }
            }
        };
        tokio::select! {
            () = work => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    }

    fn back_off(&self, failures: u32) -> Duration {
        store::clock::back_off(self.options.retry_first, self.options.retry_max, failures, self.entropy.as_ref())
    }

    /// Waits until a destination that fails is to be tried again.
    async fn wait(&self, destination: &Destination) {
        loop {
            let (waits, retry_at_ms) = {
                let queue = destination.queue.lock();
                (queue.failures > 0 && !queue.left, queue.retry_at_ms)
            };
            let left_ms = retry_at_ms.saturating_sub(self.clock.now_ms());
            let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
            if !waits || left.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left.min(self.options.retry_max.saturating_mul(2))) => return,
                () = destination.heard.notified() => {}
            }
        }
    }

    /// Sends one transaction, the last one again if it was not answered.
    async fn send_next(self: &Arc<Self>, destination: &Arc<Destination>) -> Result<()> {
        if destination.queue.lock().under.is_none() && !self.prepare(destination).await? {
            return self.nothing_waits(destination).await;
        }
        let (id, body, fails) = {
            let queue = destination.queue.lock();
            let Some(under) = &queue.under else { return Ok(()) };
            (under.id.clone(), under.body.clone(), queue.failures > 0)
        };
        // Those that do not answer keep none waiting but each other.
        let under_way = if fails { &self.tries } else { &self.under_way };
        let Ok(_under_way) = under_way.acquire().await else { return Ok(()) };
        match transaction::send(&self.client, &destination.server, &id, body).await {
            Ok(()) => self.sent(destination).await,
            Err(error) => self.failed(destination, &error).await,
        }
    }

    /// Makes the next transaction of what waits. False if nothing waits.
    async fn prepare(self: &Arc<Self>, destination: &Arc<Destination>) -> Result<bool> {
        if destination.queue.lock().behind_from.is_some() && !self.catch_up(destination).await? {
            return Ok(true);
        }
        let single = destination.queue.lock().singly > 0;
        // One by one, events and stored EDUs take turns.
        let event_first = single && {
            let queue = destination.queue.lock();
            queue.singly.is_multiple_of(2) && !queue.events.is_empty()
        };
        let (stored, mut edus) = match (event_first, single) {
            (true, _) => Default::default(),
            (false, true) => self.stored_edus(destination, 1).await?,
            (false, false) => self.stored_edus(destination, EDUS_MAX / 2).await?,
        };
        let mut told = Vec::new();
        if !single || (edus.is_empty() && !event_first) {
            let most = if single { 1 } else { EDUS_MAX.saturating_sub(edus.len()) };
            let (lists, of_lists) = self.device_list_edus(destination, most).await?;
            edus.extend(lists);
            told = of_lists;
        }
        let mut queue = destination.queue.lock();
        let most = if !single { PDUS_MAX } else { usize::from(edus.is_empty()) };
        let count = queue.events.len().min(most);
        let events: Vec<_> = queue.events.drain(..count).collect();
        let volatile = match single {
            false => queue.take_volatile(EDUS_MAX.saturating_sub(edus.len())),
            true => queue.take_volatile(usize::from(events.is_empty() && edus.is_empty())),
        };
        edus.extend(volatile.to_edus());
        if events.is_empty() && edus.is_empty() {
            return Ok(false);
        }
        let body = transaction::body(self.client.server_name(), self.clock.now_ms(), &events, &edus);
        queue.under = Some(Under {
            id: store::clock::random_text(self.entropy.as_ref(), 20),
            body,
            first: events.first().map(|(pos, _)| *pos),
            stored,
            device_lists: told,
            volatile,
            refusals: 0,
            single,
        });
        Ok(true)
    }

    /// At most so many stored EDUs that wait, and their keys.
    async fn stored_edus(
        &self,
        destination: &Destination,
        max: usize,
    ) -> Result<(Vec<(StreamPosition, i64)>, Vec<Object>)> {
        if !std::mem::take(&mut destination.queue.lock().stored_edus) {
            return Ok(Default::default());
        }
        let read = Read::prefix::<OutboundEduRow>(vec![Value::from(destination.server.as_str())]);
        let limit = u32::try_from(max).unwrap_or(1);
        let rows = self.store.all::<OutboundEduRow>(read.limit(limit)).await;
        // Looked at again after this transaction: there may be more.
        destination.queue.lock().stored_edus |= rows.as_ref().map_or(true, |rows| !rows.is_empty());
        let (mut keys, mut edus, mut broken) = (Vec::new(), Vec::new(), CommitBatch::new());
        for row in rows? {
            match Json::object_from_slice(row.edu.as_bytes()) {
                Ok(edu) => {
                    keys.push((row.pos, row.number));
                    edus.push(edu);
                }
                Err(error) => {
                    tracing::error!(server = row.server, %error, "a stored EDU is no JSON object: it is dropped");
                    broken.delete::<OutboundEduRow>(vec![row.server.into(), row.pos.into(), Value::Int(row.number)]);
                }
            }
        }
        self.store_owned(destination, broken).await?;
        Ok((keys, edus))
    }

    /// A destination that is not behind any more needs no row, if nothing was sent that could be answered.
    async fn nothing_waits(&self, destination: &Destination) -> Result<()> {
        {
            let mut queue = destination.queue.lock();
            let behind = queue.behind_from.is_some() || queue.under.is_some() || !queue.events.is_empty();
            if behind || !std::mem::take(&mut queue.stored) {
                return Ok(());
            }
        }
        let mut batch = CommitBatch::new();
        batch.delete::<DestinationRow>(vec![Value::from(destination.server.as_str())]);
        self.store_owned(destination, batch).await
    }

    /// The peer has the transaction.
    async fn sent(&self, destination: &Destination) -> Result<()> {
        let (under, caught_up) = {
            let mut queue = destination.queue.lock();
            queue.failures = 0;
            queue.failing_since_ms = 0;
            queue.singly = queue.singly.saturating_sub(1);
            (queue.retry_at_ms, queue.heard_in_vain, queue.heard) = (0, 0, false);
            let caught_up = queue.stored && queue.behind_from.is_none() && queue.events.is_empty();
            (queue.under.take(), caught_up)
        };
        let mut batch = CommitBatch::new();
        if let Some(under) = under {
            under.settle(&destination.server, &mut batch);
        }
        if caught_up {
            batch.delete::<DestinationRow>(vec![Value::from(destination.server.as_str())]);
            destination.queue.lock().stored = false;
        }
        self.store_owned(destination, batch).await
    }

    async fn failed(&self, destination: &Destination, error: &Error) -> Result<()> {
        let refused = matches!(error, Error::Remote { status, .. }
            if status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 404 | 408 | 429));
        let mut batch = CommitBatch::new();
        let row = {
            let mut queue = destination.queue.lock();
            queue.failures = queue.failures.saturating_add(1);
            let now_ms = self.clock.now_ms();
            if queue.failing_since_ms == 0 {
                queue.failing_since_ms = now_ms;
                tracing::info!(server = destination.server, %error, "a server cannot be reached");
            }
            if refused && let Some(under) = queue.refuse() {
                tracing::warn!(server = destination.server, %error, "a server refuses what is sent: it is given up");
                under.settle(&destination.server, &mut batch);
            }
            if refused {
                // It is there and answers: what waits behind what it refuses is not to wait for long.
                queue.failures = 1;
            } else {
                queue.drop_outdated();
            }
            let wait = self.back_off(queue.failures);
            queue.put_off(now_ms, wait);
            let under_from = queue.under.as_ref().and_then(|under| under.first).map(|pos| StreamPosition(pos.0 - 1));
            queue.fall_behind();
            // The transaction under way is kept as it is, but only in memory.
            let behind_from = [under_from, queue.behind_from].into_iter().flatten().min();
            DestinationRow {
                server: destination.server.clone(),
                // Where nothing but EDUs waits, the row is there for the time of the next try.
                behind_from: behind_from.unwrap_or_else(|| self.dispatched(&destination.server)),
                failing_since_ms: queue.failing_since_ms,
                failures: i64::from(queue.failures),
                retry_at_ms: queue.retry_at_ms,
            }
        };
        batch.put(row);
        self.store_owned(destination, batch).await?;
        destination.queue.lock().stored = true;
        Ok(())
    }

    /// Writes about a destination, unless another node sends there now.
    async fn store_owned(&self, destination: &Destination, mut batch: CommitBatch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.shards.expect_owned(&mut batch, self.shards.of(&destination.server), destination.epoch);
        self.store_soon(batch).await
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
