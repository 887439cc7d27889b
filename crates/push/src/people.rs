//! The users that have pushers, in memory: an event in a room without any of them costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde_json::{Map, Value as Json, json};
use store::tables::push::{PushRow, PushStateRow};
use store::tables::users::PusherRow;
use store::{CommitBatch, Read, StreamPosition, UserId, Value};
use tokio::sync::Semaphore;
use users::pushers::ENABLED;

use crate::{Push, Result};

/// The number that a gateway was told last, where that is not known.
pub(crate) const UNKNOWN: i64 = -1;

/// How a pusher is served: made anew when it is set anew.
pub(crate) struct Settings {
    /// Position at which it was set.
    pub pos: StreamPosition,
    /// The gateway's address.
    pub url: String,
    /// Whether it sends mails, and so has no gateway.
    pub by_mail: bool,
    /// Whether the gateway is told ids alone (`event_id_only`).
    pub ids_only: bool,
    /// What the gateway is told of the device: its app, key, time and data without the address.
    pub device: Map<String, Json>,
    /// Places for pushes under way to the gateway.
    pub places: Arc<Semaphore>,
}

/// What is known of a pusher's queue, which itself is in the store.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Something may be in it.
    filled: bool,
    /// Its task runs.
    running: bool,
    /// The pusher is gone, or another node's.
    gone: bool,
    /// How many rows were added since it was looked whether there are too many.
    pub added: usize,
    /// Whether the gateway did not answer the last time, wherever the pusher led then.
    pub fails: bool,
    /// Until then it waits, in milliseconds since the epoch.
    wait_ms: i64,
    /// What the store says of it.
    pub state: PushStateRow,
}

/// A pusher.
pub(crate) struct Seat {
    /// Whose.
    pub user: UserId,
    /// The app.
    pub app_id: String,
    /// The address within the app.
    pub pushkey: String,
    settings: RwLock<Arc<Settings>>,
    /// Places for pushes of the user that are under way.
    pub turns: Arc<Semaphore>,
    /// Its queue.
    pub queue: Mutex<Queue>,
}

impl Seat {
    /// The key of its rows.
    pub fn key(&self) -> Vec<Value> {
        vec![(&self.user).into(), Value::from(self.app_id.as_str()), Value::from(self.pushkey.as_str())]
    }

    /// How it is served now.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read())
    }

    /// Something was added to its queue.
    pub fn fill(&self) {
        self.queue.lock().filled = true;
    }

    /// It waits, with what is in its queue.
    pub fn wait_until(&self, ms: i64) {
        let mut queue = self.queue.lock();
        queue.wait_ms = ms;
        queue.filled = true;
    }

    /// Whether the caller is to start the task.
    pub fn begin(&self, now_ms: i64) -> bool {
        let mut queue = self.queue.lock();
        if queue.running || !queue.may_go(now_ms) {
            return false;
        }
        queue.running = true;
        true
    }

    /// Whether the task is to look into the queue once more; if not, it counts as ended.
    pub fn goes_on(&self, now_ms: i64) -> bool {
        let mut queue = self.queue.lock();
        queue.running = queue.may_go(now_ms);
        if queue.running {
            queue.filled = false;
        }
        queue.running
    }

    /// Whether it is one that may be tried again, or need not be remembered any more.
    pub fn is_due(&self, now_ms: i64) -> bool {
        let queue = self.queue.lock();
        queue.gone || (queue.wait_ms <= now_ms && (queue.state.failures == 0 || queue.state.retry_at_ms <= now_ms))
    }

    /// Whether it is gone, or another node's.
    pub fn is_gone(&self) -> bool {
        self.queue.lock().gone
    }

    /// It is gone: nothing more is sent.
    pub fn leave(&self) {
        self.queue.lock().gone = true;
    }
}

impl Queue {
    fn may_go(&self, now_ms: i64) -> bool {
        let rests = self.wait_ms > now_ms || (self.state.failures > 0 && self.state.retry_at_ms > now_ms);
        self.filled && !self.gone && !rests
    }
}

/// The users that have pushers, of the shards that this node has.
#[derive(Default)]
pub(crate) struct People(RwLock<BTreeMap<UserId, Vec<Arc<Seat>>>>);

impl People {
    /// A user's pushers.
    pub fn seats(&self, user: &UserId) -> Vec<Arc<Seat>> {
        self.0.read().get(user).cloned().unwrap_or_default()
    }

    /// Whether a user has pushers.
    pub fn has(&self, user: &UserId) -> bool {
        self.0.read().contains_key(user)
    }

    /// Whether nobody has any.
    pub fn is_empty(&self) -> bool {
        self.0.read().is_empty()
    }

    /// Those of these users who have pushers.
    pub fn among(&self, users: &BTreeSet<UserId>) -> Vec<UserId> {
        let people = self.0.read();
        if people.len() < users.len() {
            people.keys().filter(|user| users.contains(*user)).cloned().collect()
        } else {
            users.iter().filter(|user| people.contains_key(*user)).cloned().collect()
        }
    }

    /// How many pushers there are, and of how many the gateway fails.
    pub fn count(&self) -> (usize, usize) {
        let people = self.0.read();
        let seats = people.values().flatten();
        seats
            .fold((0, 0), |(all, failing), seat| (all + 1, failing + usize::from(seat.queue.lock().state.failures > 0)))
    }

    /// Forgets users; their rows stay.
    pub fn leave(&self, whom: impl Fn(&UserId) -> bool) {
        self.0.write().retain(|user, seats| {
            let leaves = whom(user);
            if leaves {
                seats.iter().for_each(|seat| seat.leave());
            }
            !leaves
        });
    }

    fn set(&self, user: &UserId, seats: Vec<Arc<Seat>>) {
        let mut people = self.0.write();
        match seats.is_empty() {
            true => drop(people.remove(user)),
            false => drop(people.insert(user.clone(), seats)),
        }
    }
}

impl Push {
    /// Begins to serve the pushers of newly taken shards, and takes up what waits for them. What waits for pushers that
    /// are gone is deleted.
    pub(crate) async fn begin_to_serve(self: &Arc<Self>, shards: &BTreeSet<usize>) -> Result<()> {
        let mut with_pushers: BTreeSet<UserId> =
            self.users.all_pushers().await?.into_iter().map(|row| row.user_id).collect();
        let mut after = UserId::from("");
        while let Some(row) = self.store.one::<PushRow>(Read::prefix::<PushRow>(vec![]).after(&after)).await? {
            after = row.user_id.clone();
            with_pushers.insert(row.user_id);
        }
        for user in with_pushers.iter().filter(|user| shards.contains(&self.shards.of(user.as_str()))) {
            match self.reload(user).await {
                Err(error) if !error.will_pass() => tracing::error!(%user, %error, "a user's pushers cannot be served"),
                reloaded => reloaded?,
            }
        }
        Ok(())
    }

    /// An account, its sessions or its devices changed. Its pushers are read again if they begin or end to do something;
    /// those that go with a device are announced themselves.
    pub(crate) async fn account_changed(self: &Arc<Self>, user: &UserId) -> Result<()> {
        if !self.serves(user) {
            return Ok(());
        }
        let changed = match (self.people.has(user), self.is_active(user).await?) {
            (false, true) => !self.users.pushers(user).await?.is_empty(),
            (serves, active) => serves != active,
        };
        if changed { self.reload(user).await } else { Ok(()) }
    }

    async fn is_active(&self, user: &UserId) -> Result<bool> {
        let account = self.users.account(user).await?;
        Ok(account.is_some_and(|account| !account.deactivated && !account.locked))
    }

    /// Reads a user's pushers again. Those of users who are deactivated or locked, those that are switched off, and those
    /// whose device is gone do nothing. To be called by the dispatcher alone.
    pub(crate) async fn reload(self: &Arc<Self>, user: &UserId) -> Result<()> {
        if !self.serves(user) {
            return Ok(());
        }
        let mut rows = if self.is_active(user).await? { self.users.pushers(user).await? } else { Vec::new() };
        if !rows.is_empty() {
            let devices = self.users.devices(user).await?;
            rows.retain(|row| devices.iter().any(|device| device.id == row.device_id));
        }
        let before = self.people.seats(user);
        let new_turns = || Arc::new(Semaphore::new(self.options.per_user_max));
        let turns = before.first().map_or_else(new_turns, |seat| Arc::clone(&seat.turns));
        let mut seats = Vec::new();
        for row in rows {
            let Some(settings) = self.settings_of(&row) else { continue };
            let is_this = |seat: &&Arc<Seat>| seat.app_id == row.app_id && seat.pushkey == row.pushkey;
            match before.iter().filter(|seat| !seat.is_gone()).find(is_this) {
                Some(seat) => {
                    renew(seat, settings);
                    seats.push(Arc::clone(seat));
                }
                None => seats.push(self.new_seat(&row, settings, Arc::clone(&turns)).await?),
            }
        }
        for gone in before.iter().filter(|seat| !seats.iter().any(|kept| Arc::ptr_eq(kept, seat))) {
            gone.leave();
        }
        self.clear_others(user, &seats).await?;
        self.people.set(user, seats.clone());
        seats.iter().for_each(|seat| self.wake(seat));
        Ok(())
    }

    /// How a pusher is to be served; `None` if it is switched off or cannot be read.
    fn settings_of(&self, row: &PusherRow) -> Option<Settings> {
        let pusher: Map<String, Json> = serde_json::from_str(&row.pusher).ok()?;
        if pusher.get(ENABLED).and_then(Json::as_bool) == Some(false) {
            return None;
        }
        let by_mail = pusher.get("kind").and_then(Json::as_str) == Some("email");
        let mut data = pusher.get("data")?.as_object()?.clone();
        let url = if by_mail { String::new() } else { data.remove("url")?.as_str()?.to_owned() };
        let ids_only = data.get("format").and_then(Json::as_str) == Some("event_id_only");
        let device = Map::from_iter([
            ("app_id".to_owned(), json!(row.app_id)),
            ("pushkey".to_owned(), json!(row.pushkey)),
            ("pushkey_ts".to_owned(), json!(row.created_ms / 1_000)),
            ("data".to_owned(), Json::Object(data)),
        ]);
        let authority = url.split('/').nth(2).unwrap_or_default().to_ascii_lowercase();
        let places = self.places_of(&authority);
        Some(Settings {
            pos: row.pos,
            url,
            by_mail,
            ids_only: ids_only || !self.options.include_content,
            device,
            places,
        })
    }

    async fn new_seat(&self, row: &PusherRow, settings: Settings, turns: Arc<Semaphore>) -> Result<Arc<Seat>> {
        let key = vec![(&row.user_id).into(), Value::from(row.app_id.as_str()), Value::from(row.pushkey.as_str())];
        let reads = vec![Read::get::<PushStateRow>(key.clone()), Read::prefix::<PushRow>(key).limit(1)];
        let mut found = self.store.read(reads).await?.into_iter();
        let state = found.next().unwrap_or_default().one::<PushStateRow>()?;
        let filled = found.next().unwrap_or_default().one::<PushRow>()?.is_some();
        let mut state = state.unwrap_or_else(|| PushStateRow {
            user_id: row.user_id.clone(),
            app_id: row.app_id.clone(),
            pushkey: row.pushkey.clone(),
            badge: 0,
            failing_since_ms: 0,
            failures: 0,
            retry_at_ms: 0,
        });
        if filled {
            // A push may have been under way when the last process ended.
            state.badge = UNKNOWN;
        }
        let fails = state.failures > 0;
        let seat = Arc::new(Seat {
            user: row.user_id.clone(),
            app_id: row.app_id.clone(),
            pushkey: row.pushkey.clone(),
            settings: RwLock::new(Arc::new(settings)),
            turns,
            queue: Mutex::new(Queue { filled, running: false, gone: false, added: 0, fails, wait_ms: 0, state }),
        });
        if fails {
            self.put_off.lock().push(Arc::clone(&seat));
        }
        Ok(seat)
    }

    /// The apps and keys of those of a user's pushers for which something waits. Of each queue one row is read.
    async fn waiting_for(&self, user: &UserId) -> Result<BTreeSet<(String, String)>> {
        let mut keys = BTreeSet::new();
        let mut found = self.store.one::<PushRow>(Read::prefix::<PushRow>(vec![user.into()]).limit(1)).await?;
        while let Some(PushRow { app_id, pushkey, .. }) = found {
            let app = Read::prefix::<PushRow>(vec![user.into(), Value::from(app_id.as_str())]);
            let later_apps = Read::prefix::<PushRow>(vec![user.into()]).after(app_id.as_str());
            found = self.store.one(app.after(pushkey.as_str()).limit(1)).await?;
            if found.is_none() {
                found = self.store.one(later_apps.limit(1)).await?;
            }
            keys.insert((app_id, pushkey));
        }
        Ok(keys)
    }

    /// Deletes what waits for pushers of a user that are gone.
    async fn clear_others(&self, user: &UserId, seats: &[Arc<Seat>]) -> Result<()> {
        let mut batch = CommitBatch::new();
        let states: Vec<PushStateRow> = self.store.all(Read::prefix::<PushStateRow>(vec![user.into()])).await?;
        let mut keys = self.waiting_for(user).await?;
        keys.extend(states.into_iter().map(|row| (row.app_id, row.pushkey)));
        for (app_id, pushkey) in keys {
            if seats.iter().any(|seat| seat.app_id == app_id && seat.pushkey == pushkey) {
                continue;
            }
            let key = vec![user.into(), Value::from(app_id), Value::from(pushkey)];
            batch.delete_prefix::<PushRow>(key.clone());
            batch.delete::<PushStateRow>(key);
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.commit_for(user, batch).await
    }
}

/// The pusher was set anew: its gateway is tried again at once, among those that failed if it did.
fn renew(seat: &Arc<Seat>, settings: Settings) {
    if seat.settings.read().pos == settings.pos {
        return;
    }
    *seat.settings.write() = Arc::new(settings);
    let mut queue = seat.queue.lock();
    queue.state.failures = 0;
    queue.state.retry_at_ms = 0;
    queue.filled = true;
}
