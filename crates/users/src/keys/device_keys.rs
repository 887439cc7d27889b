//! The keys of devices and users as anybody may ask for them (behaviours CE3, CE8).

use std::collections::BTreeMap;
use std::sync::Arc;

use quick_cache::Weighter;
use serde_json::value::to_raw_value;
use serde_json::{Value as Json, json};
use store::tables::users::{CrossSigningKeyRow, DeviceChangeRow, DeviceKeysRow, DeviceRow, KeySignatureRow};
use store::{Read, Row, Rows, StreamPosition, UserId, Value};

use super::cross_signing::public_of;
use super::{ByUser, Text, parsed, stored_text};
use crate::{Error, Users};

/// Users whose keys are read at once.
const USERS_PER_READ: usize = 250;

/// Everything that `/keys/query` knows of local users: key objects read, or as text.
#[derive(Clone, Debug)]
pub struct Queried<T = Json> {
    /// Keys of devices, by user and device.
    pub device_keys: ByUser<T>,
    /// Master keys, by user.
    pub master_keys: BTreeMap<UserId, T>,
    /// Self-signing keys, by user.
    pub self_signing_keys: BTreeMap<UserId, T>,
    /// The asker's own user-signing key.
    pub user_signing_keys: BTreeMap<UserId, T>,
}

impl<T> Default for Queried<T> {
    fn default() -> Self {
        Self {
            device_keys: BTreeMap::new(),
            master_keys: BTreeMap::new(),
            self_signing_keys: BTreeMap::new(),
            user_signing_keys: BTreeMap::new(),
        }
    }
}

impl Queried<Text> {
    /// The key objects, read.
    fn parsed(self) -> Queried {
        let of_users =
            |keys: BTreeMap<UserId, Text>| keys.into_iter().map(|(user, key)| (user, parsed(key.get()))).collect();
        let of_devices =
            |keys: BTreeMap<String, Text>| keys.into_iter().map(|(id, key)| (id, parsed(key.get()))).collect();
        Queried {
            device_keys: self.device_keys.into_iter().map(|(user, keys)| (user, of_devices(keys))).collect(),
            master_keys: of_users(self.master_keys),
            self_signing_keys: of_users(self.self_signing_keys),
            user_signing_keys: of_users(self.user_signing_keys),
        }
    }
}

/// Bytes of memory for key texts.
const TEXT_BYTES_MAX: u64 = 32 << 20;
/// So many users' texts are about in memory.
const TEXTS: usize = 10_000;

/// A user's keys as they are told to strangers, as of the last change of them.
struct UserKeys {
    /// The position of that change.
    pos: StreamPosition,
    /// By device.
    devices: Vec<(String, Text)>,
    /// By usage.
    cross: Vec<(String, Text)>,
}

#[derive(Clone)]
struct Weight;

impl Weighter<UserId, Arc<UserKeys>> for Weight {
    fn weight(&self, _user: &UserId, keys: &Arc<UserKeys>) -> u64 {
        let texts = keys.devices.iter().chain(&keys.cross).map(|(name, text)| name.len() + text.get().len() + 100);
        u64::try_from(texts.sum::<usize>() + 200).unwrap_or(u64::MAX)
    }
}

/// The keys of users, put together. They hold as long as the user's last change is the same.
pub(crate) struct Cache(quick_cache::sync::Cache<UserId, Arc<UserKeys>, Weight>);

impl Default for Cache {
    fn default() -> Self {
        Self(quick_cache::sync::Cache::with_weighter(TEXTS, TEXT_BYTES_MAX, Weight))
    }
}

impl Users {
    /// The keys of local users' devices (all of a user's, if its list is empty) and their cross-signing keys, with the
    /// signatures that `asker` may see. Unknown users and devices are absent.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn query_keys(&self, asker: &UserId, wanted: &BTreeMap<UserId, Vec<String>>) -> Result<Queried, Error> {
        Ok(self.query_key_texts(asker, wanted).await?.parsed())
    }

    /// As [`Users::query_keys`], with the keys as they are stored.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn query_key_texts(
        &self,
        asker: &UserId,
        wanted: &BTreeMap<UserId, Vec<String>>,
    ) -> Result<Queried<Text>, Error> {
        let mut queried = Queried::default();
        let local: Vec<(&UserId, &Vec<String>)> = wanted.iter().filter(|(user, _)| self.is_local(user)).collect();
        if local.is_empty() {
            return Ok(queried);
        }
        let read = Read::along::<KeySignatureRow>(KeySignatureRow::BY_SIGNER, vec![asker.into()]);
        let mut own: BTreeMap<UserId, Vec<KeySignatureRow>> = BTreeMap::new();
        for row in self.store.all::<KeySignatureRow>(read).await? {
            own.entry(row.user_id.clone()).or_default().push(row);
        }
        for some in local.chunks(USERS_PER_READ) {
            for ((user, devices), keys) in some.iter().zip(self.keys_of(some).await?) {
                let Some(keys) = keys else { continue };
                let signatures = own.get(*user).filter(|_| *user != asker).map_or(&[][..], Vec::as_slice);
                add_user(asker, user, devices, &keys, signatures, &mut queried)?;
            }
        }
        Ok(queried)
    }

    /// The keys of each user; `None` for one who never had any.
    async fn keys_of(&self, users: &[(&UserId, &Vec<String>)]) -> Result<Vec<Option<Arc<UserKeys>>>, Error> {
        let reads = users.iter().map(|(user, _)| Read::get::<DeviceChangeRow>(vec![(*user).into()])).collect();
        let changes = self.store.read(reads).await?;
        let (mut found, mut unread) = (Vec::with_capacity(users.len()), Vec::new());
        for ((user, _), change) in users.iter().zip(changes) {
            let change: Option<DeviceChangeRow> = change.one()?;
            let known = self.key_texts.0.get(*user);
            let known = known.filter(|known| change.as_ref().is_some_and(|change| change.pos == known.pos));
            if known.is_none() && change.is_some() {
                unread.push((found.len(), *user));
            }
            found.push(known);
        }
        let reads = unread.iter().flat_map(|(_, user)| reads_of(user)).collect();
        let mut rows = self.store.read(reads).await?.into_iter();
        for (place, user) in unread {
            let Some(keys) = read_keys(user, &mut rows)? else { continue };
            let keys = Arc::new(keys);
            self.key_texts.0.insert(user.clone(), Arc::clone(&keys));
            if let Some(found) = found.get_mut(place) {
                *found = Some(keys);
            }
        }
        Ok(found)
    }
}

impl Users {
    /// Adds to the master keys of other servers' users the signatures that `asker` uploaded. They are for nobody else's
    /// eyes.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn add_own_signatures(&self, asker: &UserId, queried: &mut Queried<Text>) -> Result<(), Error> {
        if queried.master_keys.keys().all(|user| self.is_local(user)) {
            return Ok(());
        }
        let read = Read::along::<KeySignatureRow>(KeySignatureRow::BY_SIGNER, vec![asker.into()]);
        let mut by_user: BTreeMap<UserId, Vec<KeySignatureRow>> = BTreeMap::new();
        for row in self.store.all::<KeySignatureRow>(read).await? {
            if !self.is_local(&row.user_id) {
                by_user.entry(row.user_id.clone()).or_default().push(row);
            }
        }
        for (user, signatures) in by_user {
            let Some(key) = queried.master_keys.get_mut(&user) else { continue };
            let target = public_of(&parsed(key.get())).unwrap_or_default();
            *key = signed(key.get().to_owned(), &target, &signatures, None)?;
        }
        Ok(())
    }
}

/// What is read of each user, in order, as of one moment.
fn reads_of(user: &UserId) -> [Read; 5] {
    let prefix = || vec![Value::from(user)];
    [
        Read::get::<DeviceChangeRow>(prefix()),
        Read::prefix::<DeviceKeysRow>(prefix()),
        Read::prefix::<DeviceRow>(prefix()),
        Read::prefix::<CrossSigningKeyRow>(prefix()),
        Read::prefix::<KeySignatureRow>(prefix()),
    ]
}

/// A user's keys from the rows that [`reads_of`] asked for, with the user's own signatures.
fn read_keys(user: &UserId, rows: &mut impl Iterator<Item = Rows>) -> Result<Option<UserKeys>, Error> {
    let change: Option<DeviceChangeRow> = rows.next().unwrap_or_default().one()?;
    let keys: Vec<DeviceKeysRow> = rows.next().unwrap_or_default().all()?;
    let devices: Vec<DeviceRow> = rows.next().unwrap_or_default().all()?;
    let cross: Vec<CrossSigningKeyRow> = rows.next().unwrap_or_default().all()?;
    let mut signatures: Vec<KeySignatureRow> = rows.next().unwrap_or_default().all()?;
    let Some(change) = change else { return Ok(None) };
    signatures.retain(|row| row.signer == *user);
    let mut found = UserKeys { pos: change.pos, devices: Vec::new(), cross: Vec::new() };
    for row in keys {
        let id = row.device_id.to_string();
        let name = devices.iter().find(|device| device.device_id == row.device_id);
        let name = name.and_then(|device| device.display_name.as_deref());
        let key = signed(row.keys, &id, &signatures, name)?;
        found.devices.push((id, key));
    }
    for row in cross {
        let key = cross_signed(row.key, &signatures)?;
        found.cross.push((row.usage, key));
    }
    Ok(Some(found))
}

/// Adds a user's keys to an answer, with the signatures that the asker uploaded for them.
fn add_user(
    asker: &UserId,
    user: &UserId,
    wanted: &[String],
    keys: &UserKeys,
    signatures: &[KeySignatureRow],
    queried: &mut Queried<Text>,
) -> Result<(), Error> {
    for (id, key) in keys.devices.iter().filter(|(id, _)| wanted.is_empty() || wanted.contains(id)) {
        let key = match signatures.is_empty() {
            true => key.clone(),
            false => signed(key.get().to_owned(), id, signatures, None)?,
        };
        queried.device_keys.entry(user.clone()).or_default().insert(id.clone(), key);
    }
    for (usage, key) in &keys.cross {
        let key = match signatures.is_empty() {
            true => key.clone(),
            false => cross_signed(key.get().to_owned(), signatures)?,
        };
        match usage.as_str() {
            "master" => drop(queried.master_keys.insert(user.clone(), key)),
            "self_signing" => drop(queried.self_signing_keys.insert(user.clone(), key)),
            "user_signing" if user == asker => drop(queried.user_signing_keys.insert(user.clone(), key)),
            _ => {}
        }
    }
    Ok(())
}

/// A cross-signing key with the signatures that were uploaded for it later.
fn cross_signed(stored: String, signatures: &[KeySignatureRow]) -> Result<Text, Error> {
    let target = match signatures.is_empty() {
        true => String::new(),
        false => public_of(&parsed(&stored)).unwrap_or_default(),
    };
    signed(stored, &target, signatures, None)
}

/// A stored key with the signatures that were uploaded for it later, and the device's name. Only what changes is read.
fn signed(stored: String, target: &str, signatures: &[KeySignatureRow], name: Option<&str>) -> Result<Text, Error> {
    let mut added = signatures.iter().filter(|row| row.target == target).peekable();
    if added.peek().is_none() && name.is_none() {
        return stored_text(stored, DeviceKeysRow::TABLE.name);
    }
    let corrupt = |error: serde_json::Error| {
        Error::from(store::Error::Corrupt { table: DeviceKeysRow::TABLE.name, detail: error.to_string() })
    };
    let mut members: BTreeMap<String, Text> = serde_json::from_str(&stored).map_err(corrupt)?;
    if added.peek().is_some() {
        let own = members.get("signatures").map(|signatures| signatures.get());
        // What its owner put there in another shape verifies nothing.
        let mut all: BTreeMap<String, BTreeMap<String, Json>> =
            own.and_then(|own| serde_json::from_str(own).ok()).unwrap_or_default();
        for row in added {
            let signature = Json::from(row.signature.as_str());
            all.entry(row.signer.to_string()).or_default().insert(row.signer_key.clone(), signature);
        }
        members.insert("signatures".to_owned(), to_raw_value(&all).map_err(corrupt)?);
    }
    add_name(&mut members, name, DeviceKeysRow::TABLE.name)?;
    to_raw_value(&members).map_err(corrupt)
}

/// A key object with the device's name.
pub(crate) fn named(stored: &str, name: &str, table: &'static str) -> Result<Text, Error> {
    let corrupt = |error: serde_json::Error| Error::from(store::Error::Corrupt { table, detail: error.to_string() });
    let mut members: BTreeMap<String, Text> = serde_json::from_str(stored).map_err(corrupt)?;
    add_name(&mut members, Some(name), table)?;
    to_raw_value(&members).map_err(corrupt)
}

fn add_name(members: &mut BTreeMap<String, Text>, name: Option<&str>, table: &'static str) -> Result<(), Error> {
    let Some(name) = name else { return Ok(()) };
    let unsigned = to_raw_value(&json!({ "device_display_name": name }));
    let unsigned = unsigned.map_err(|error| store::Error::Corrupt { table, detail: error.to_string() })?;
    members.insert("unsigned".to_owned(), unsigned);
    Ok(())
}
