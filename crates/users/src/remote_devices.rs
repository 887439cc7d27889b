//! Devices of other servers' users: that they changed, and a copy of the lists that this server's users have asked for
//! (server-server API, "Device Management"; behaviour CE12).
//!
//! A copy is made when somebody asks for the keys of a user with whom a room is shared, since only of those changes are
//! told. Each update names the updates before it. If one of those was not seen, something was lost: the copy is *due*,
//! which is no copy at all until the list has been fetched anew. Nobody is kept a copy of who was not asked about, so
//! what other servers send makes no rows but those that say when somebody changed.
//!
//! That a copy is as new as what was told of says nothing of times when nothing was told. Whoever uses one has to know
//! that a room has been shared ever since [`RemoteDeviceListRow::pos`].

use std::collections::BTreeMap;

use store::tables::users::{DeviceChangeRow, RemoteDeviceListRow, RemoteDeviceRow};
use store::{CommitBatch, Read, Row, StreamPosition, UserId, Value};

use crate::devices::announce_device_change;
use crate::keys::device_keys::{Queried, named};
use crate::keys::{KEY_BYTES_MAX, Text, stored_text};
use crate::{Error, RETRIES_MAX, Users};

/// Devices of one user of which a copy is kept.
const DEVICES_MAX: usize = 1_000;
/// Bytes of keys of one user of which a copy is kept.
const LIST_BYTES_MAX: usize = 1 << 20;
/// Updates that are applied to a list; then it is fetched anew, so that it does not grow without end.
const SEEN_MAX: usize = 100;
/// Users whose copies are read at once.
const USERS_PER_READ: usize = 250;
/// A list that was fetched is not fetched anew by itself before this time has passed, in milliseconds.
const REST_MS: i64 = 10_000;
/// How long the fetching of a list may take before somebody else tries, in milliseconds.
const CLAIM_MS: i64 = 120_000;
/// The pause after the first vain try, in milliseconds; each further one doubles it.
const PAUSE_MS: i64 = 15_000;
/// The longest pause, in milliseconds.
const PAUSE_MAX_MS: i64 = 3_600_000;
/// After so many vain tries the copy is given up: whoever needs the keys asks for them.
const FAILURES_MAX: i64 = 30;

/// A device as another server tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteDevice {
    /// Its identity keys, a JSON object.
    pub keys: String,
    /// Its name for people to read.
    pub display_name: Option<String>,
}

/// All of a user's devices and keys, as another server tells them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteList {
    /// The update up to which the list is whole.
    pub stream_id: i64,
    /// The devices by id.
    pub devices: BTreeMap<String, RemoteDevice>,
    /// The master key, a JSON object.
    pub master: Option<String>,
    /// The self-signing key, a JSON object.
    pub self_signing: Option<String>,
}

/// What another server says of one device that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteUpdate {
    /// The number of the update.
    pub stream_id: i64,
    /// Those that came before it.
    pub prev_ids: Vec<i64>,
    /// The device.
    pub device_id: String,
    /// What it is now; none if it is gone or has no keys.
    pub device: Option<RemoteDevice>,
}

/// The moment before a list is asked for: what changes after it is not in the answer for sure.
#[derive(Clone, Debug)]
pub struct Asked {
    user: UserId,
    pos: StreamPosition,
    change: Option<StreamPosition>,
}

/// Where an update stands among those that were seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// The copy has it already.
    Known,
    /// It follows what the copy has.
    Next,
    /// Something before it was not seen.
    Gap,
}

fn order(row: &RemoteDeviceListRow, seen: &[i64], update: &RemoteUpdate) -> Order {
    let id = update.stream_id;
    // Several devices may have changed in one update, each told for itself: the newest may be continued.
    if id <= row.stream_id || (seen.contains(&id) && seen.iter().max() != Some(&id)) {
        return Order::Known;
    }
    let is_seen = |prev: &i64| *prev <= row.stream_id || seen.contains(prev);
    let follows = !update.prev_ids.is_empty() && update.prev_ids.iter().all(is_seen);
    if follows && seen.len() < SEEN_MAX { Order::Next } else { Order::Gap }
}

fn seen_of(row: &RemoteDeviceListRow) -> Vec<i64> {
    row.seen.split(',').filter_map(|id| id.parse().ok()).collect()
}

impl Users {
    /// The devices or keys of another server's user have changed in a way of which nothing is known: whoever shares a room
    /// with the user learns of it, and a copy is due.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn remote_devices_changed(&self, user: &UserId) -> Result<(), Error> {
        self.change_remote(user, |users, batch, row| {
            if let Some(row) = row {
                users.make_due(batch, row);
            }
        })
        .await
    }

    /// A device of another server's user has changed. Whether the copy of the user's list, if there is one, is due now.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn remote_device_update(&self, user: &UserId, update: &RemoteUpdate) -> Result<bool, Error> {
        let mut due = false;
        self.change_remote(user, |users, batch, row| {
            due = false;
            let Some(row) = row.filter(|row| row.due_ms.is_none()) else { return };
            let mut seen = seen_of(row);
            match order(row, &seen, update) {
                Order::Known => {}
                Order::Gap => {
                    due = true;
                    users.make_due(batch, row);
                }
                Order::Next => {
                    seen.push(update.stream_id);
                    seen.sort_unstable();
                    seen.dedup();
                    let seen = seen.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                    batch.put(RemoteDeviceListRow { seen, ..row.clone() });
                    put_device(batch, user, &update.device_id, update.device.as_ref());
                }
            }
        })
        .await?;
        Ok(due)
    }

    /// The cross-signing keys of another server's user have changed. Whether the copy is due now: it is, if the keys are
    /// not told.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn remote_signing_update(
        &self,
        user: &UserId,
        master: Option<&str>,
        self_signing: Option<&str>,
    ) -> Result<bool, Error> {
        let told = master.is_some() || self_signing.is_some();
        let mut due = false;
        self.change_remote(user, |users, batch, row| {
            let Some(row) = row.filter(|row| row.due_ms.is_none()) else { return };
            due = !told;
            if due {
                users.make_due(batch, row);
                return;
            }
            let newer = |new: Option<&str>, old: &Option<String>| new.map(str::to_owned).or_else(|| old.clone());
            let (master, self_signing) = (newer(master, &row.master), newer(self_signing, &row.self_signing));
            batch.put(RemoteDeviceListRow { master, self_signing, ..row.clone() });
        })
        .await?;
        Ok(due)
    }

    /// A message of another server's user names the device that sent it. If the copy of the user's list does not have it,
    /// an update was lost. Whether the copy is due now.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn remote_device_named(&self, user: &UserId, device: &str) -> Result<bool, Error> {
        let key = Value::from(user);
        let reads = vec![
            Read::get::<RemoteDeviceListRow>(vec![key.clone()]),
            Read::get::<RemoteDeviceRow>(vec![key, device.into()]),
        ];
        let mut rows = self.store.read(reads).await?.into_iter();
        let list: Option<RemoteDeviceListRow> = rows.next().unwrap_or_default().one()?;
        let known: Option<RemoteDeviceRow> = rows.next().unwrap_or_default().one()?;
        let now_ms = self.now();
        // Whoever names made-up devices costs no more than one look now and then.
        let rested =
            |row: &RemoteDeviceListRow| row.due_ms.is_none() && row.fetched_ms.saturating_add(REST_MS) <= now_ms;
        if known.is_some() || !list.is_some_and(|row| rested(&row)) {
            return Ok(false);
        }
        self.remote_devices_changed(user).await?;
        Ok(true)
    }

    /// Decides on a user's copy, and announces that the user's devices changed.
    async fn change_remote(
        &self,
        user: &UserId,
        mut change: impl FnMut(&Self, &mut CommitBatch, Option<&RemoteDeviceListRow>),
    ) -> Result<(), Error> {
        if self.is_local(user) {
            return Ok(());
        }
        let _turn = self.queues.turn(user).await;
        for _ in 0..RETRIES_MAX {
            let (list, last) = self.remote_state(user).await?;
            let mut batch = CommitBatch::new();
            expect_change(&mut batch, user, last);
            // A list that was fetched meanwhile may hold what is changed here, or not.
            match &list {
                Some(row) => {
                    batch.expect_equals::<RemoteDeviceListRow>(vec![user.into()], "fetched_ms", row.fetched_ms);
                }
                None => {
                    batch.expect_absent::<RemoteDeviceListRow>(vec![user.into()]);
                }
            }
            change(self, &mut batch, list.as_ref());
            announce_device_change(&mut batch, user);
            match self.commit(batch).await {
                Err(Error::Conflict) => {}
                other => return other.map(drop),
            }
        }
        Err(Error::Conflict)
    }

    async fn remote_state(
        &self,
        user: &UserId,
    ) -> Result<(Option<RemoteDeviceListRow>, Option<StreamPosition>), Error> {
        let key = vec![Value::from(user)];
        let reads = vec![Read::get::<RemoteDeviceListRow>(key.clone()), Read::get::<DeviceChangeRow>(key)];
        let mut rows = self.store.read(reads).await?.into_iter();
        let list = rows.next().unwrap_or_default().one()?;
        let last: Option<DeviceChangeRow> = rows.next().unwrap_or_default().one()?;
        Ok((list, last.map(|row| row.pos)))
    }

    fn make_due(&self, batch: &mut CommitBatch, row: &RemoteDeviceListRow) {
        if row.due_ms.is_none() {
            let due_ms = self.now().max(row.fetched_ms.saturating_add(REST_MS));
            batch.put(RemoteDeviceListRow { due_ms: Some(due_ms), failures: 0, ..row.clone() });
        }
    }

    /// To be called before a user's list is asked for.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn before_remote_list(&self, user: &UserId) -> Result<Asked, Error> {
        let pos = self.store.watermark();
        let (_, change) = self.remote_state(user).await?;
        Ok(Asked { user: user.clone(), pos, change })
    }

    /// Keeps a copy of a list that was fetched, unless the user's devices changed meanwhile or it is too large. With
    /// `announce`, those who share a room learn that the user's devices may be others.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn put_remote_list(&self, asked: &Asked, list: &RemoteList, announce: bool) -> Result<bool, Error> {
        let user = &asked.user;
        let cross = [&list.master, &list.self_signing].into_iter().flatten().map(String::len);
        let bytes: usize = list.devices.values().map(|device| device.keys.len()).chain(cross).sum();
        let fits = list.devices.len() <= DEVICES_MAX && bytes <= LIST_BYTES_MAX;
        let _turn = self.queues.turn(user).await;
        let mut batch = CommitBatch::new();
        expect_change(&mut batch, user, asked.change);
        batch.delete_prefix::<RemoteDeviceRow>(vec![user.into()]);
        batch.delete::<RemoteDeviceListRow>(vec![user.into()]);
        if fits {
            for (id, device) in &list.devices {
                put_device(&mut batch, user, id, Some(device));
            }
            batch.put(RemoteDeviceListRow {
                user_id: user.clone(),
                stream_id: list.stream_id,
                seen: String::new(),
                master: list.master.clone(),
                self_signing: list.self_signing.clone(),
                pos: asked.pos,
                fetched_ms: self.now(),
                due_ms: None,
                failures: 0,
            });
        }
        if announce {
            announce_device_change(&mut batch, user);
        }
        match self.commit(batch).await {
            Ok(_) => Ok(fits),
            Err(Error::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Claims lists that are to be fetched anew, those that are due longest first.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn claim_remote_lists(&self, limit: u32) -> Result<Vec<UserId>, Error> {
        let now_ms = self.now();
        let read = Read::along::<RemoteDeviceListRow>(RemoteDeviceListRow::BY_DUE, vec![]).from(0_i64).up_to(now_ms);
        let rows: Vec<RemoteDeviceListRow> = self.store.all(read.limit(limit)).await?;
        let mut claimed = Vec::new();
        for row in rows {
            let Some(due_ms) = row.due_ms else { continue };
            let mut batch = CommitBatch::new();
            batch.expect_equals::<RemoteDeviceListRow>(vec![(&row.user_id).into()], "due_ms", due_ms);
            let user = row.user_id.clone();
            batch.put(RemoteDeviceListRow { due_ms: Some(now_ms.saturating_add(CLAIM_MS)), ..row });
            match self.commit(batch).await {
                Ok(_) => claimed.push(user),
                Err(Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(claimed)
    }

    /// A list could not be fetched: it is tried again later, and in the end given up.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn put_off_remote_list(&self, user: &UserId) -> Result<(), Error> {
        let (list, _) = self.remote_state(user).await?;
        let Some((row, due_ms)) = list.and_then(|row| row.due_ms.map(|due_ms| (row, due_ms))) else { return Ok(()) };
        let mut batch = CommitBatch::new();
        batch.expect_equals::<RemoteDeviceListRow>(vec![user.into()], "due_ms", due_ms);
        if row.failures >= FAILURES_MAX {
            batch.delete::<RemoteDeviceListRow>(vec![user.into()]);
            batch.delete_prefix::<RemoteDeviceRow>(vec![user.into()]);
        } else {
            let doubled = PAUSE_MS.saturating_mul(1 << row.failures.clamp(0, 20));
            let due_ms = Some(self.now().saturating_add(doubled.min(PAUSE_MAX_MS)));
            batch.put(RemoteDeviceListRow { due_ms, failures: row.failures + 1, ..row });
        }
        match self.commit(batch).await {
            // Somebody else has fetched it.
            Ok(_) | Err(Error::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Of which of these users there is a copy that is not due, and before which position it was asked for.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn remote_lists(&self, users: &[UserId]) -> Result<BTreeMap<UserId, StreamPosition>, Error> {
        let mut found = BTreeMap::new();
        for some in users.chunks(USERS_PER_READ) {
            let reads = some.iter().map(|user| Read::get::<RemoteDeviceListRow>(vec![user.into()])).collect();
            for rows in self.store.read(reads).await? {
                let row = rows.one::<RemoteDeviceListRow>()?.filter(|row| row.due_ms.is_none());
                found.extend(row.map(|row| (row.user_id, row.pos)));
            }
        }
        Ok(found)
    }

    /// Adds the keys of other servers' users as far as there are copies that are not due, and answers whose these are: all
    /// devices of a user, if its list is empty.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn add_remote_key_texts(
        &self,
        wanted: &BTreeMap<UserId, Vec<String>>,
        queried: &mut Queried<Text>,
    ) -> Result<Vec<UserId>, Error> {
        let mut found = Vec::new();
        for some in wanted.iter().collect::<Vec<_>>().chunks(USERS_PER_READ) {
            let reads = some.iter().flat_map(|(user, _)| {
                let key = vec![Value::from(*user)];
                [Read::get::<RemoteDeviceListRow>(key.clone()), Read::prefix::<RemoteDeviceRow>(key)]
            });
            let mut rows = self.store.read(reads.collect()).await?.into_iter();
            for (user, wanted) in some {
                let list: Option<RemoteDeviceListRow> = rows.next().unwrap_or_default().one()?;
                let devices: Vec<RemoteDeviceRow> = rows.next().unwrap_or_default().all()?;
                let Some(list) = list.filter(|list| list.due_ms.is_none()) else { continue };
                add_copy(user, wanted, list, devices, queried)?;
                found.push((*user).clone());
            }
        }
        Ok(found)
    }
}

/// Adds what a copy has of a user.
fn add_copy(
    user: &UserId,
    wanted: &[String],
    list: RemoteDeviceListRow,
    devices: Vec<RemoteDeviceRow>,
    queried: &mut Queried<Text>,
) -> Result<(), Error> {
    for row in devices.into_iter().filter(|row| wanted.is_empty() || wanted.contains(&row.device_id)) {
        let key = match &row.display_name {
            None => stored_text(row.keys, RemoteDeviceRow::TABLE.name)?,
            Some(name) => named(&row.keys, name, RemoteDeviceRow::TABLE.name)?,
        };
        queried.device_keys.entry(user.clone()).or_default().insert(row.device_id, key);
    }
    let table = RemoteDeviceListRow::TABLE.name;
    if let Some(key) = list.master {
        queried.master_keys.insert(user.clone(), stored_text(key, table)?);
    }
    if let Some(key) = list.self_signing {
        queried.self_signing_keys.insert(user.clone(), stored_text(key, table)?);
    }
    Ok(())
}

fn expect_change(batch: &mut CommitBatch, user: &UserId, change: Option<StreamPosition>) {
    match change {
        Some(pos) => batch.expect_equals::<DeviceChangeRow>(vec![user.into()], "pos", pos),
        None => batch.expect_absent::<DeviceChangeRow>(vec![user.into()]),
    };
}

fn put_device(batch: &mut CommitBatch, user: &UserId, id: &str, device: Option<&RemoteDevice>) {
    match device {
        Some(device) if device.keys.len() <= KEY_BYTES_MAX => {
            let RemoteDevice { keys, display_name } = device.clone();
            batch.put(RemoteDeviceRow { user_id: user.clone(), device_id: id.to_owned(), keys, display_name });
        }
        _ => drop(batch.delete::<RemoteDeviceRow>(vec![user.into(), id.into()])),
    }
}
