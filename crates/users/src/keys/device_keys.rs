//! The keys of devices and users as anybody may ask for them (behaviours CE3, CE8).

use std::collections::BTreeMap;

use serde_json::value::to_raw_value;
use serde_json::{Value as Json, json};
use store::tables::users::{CrossSigningKeyRow, DeviceKeysRow, DeviceRow, KeySignatureRow};
use store::{Read, Row, Rows, UserId, Value};

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
        for some in local.chunks(USERS_PER_READ) {
            let reads = some.iter().flat_map(|(user, _)| reads_of(user)).collect();
            let mut rows = self.store.read(reads).await?.into_iter();
            for (user, devices) in some {
                add_user(asker, user, devices, &mut rows, &mut queried)?;
            }
        }
        Ok(queried)
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

/// What is read of each user, in order.
fn reads_of(user: &UserId) -> [Read; 4] {
    let prefix = || vec![Value::from(user)];
    [
        Read::prefix::<DeviceKeysRow>(prefix()),
        Read::prefix::<DeviceRow>(prefix()),
        Read::prefix::<CrossSigningKeyRow>(prefix()),
        Read::prefix::<KeySignatureRow>(prefix()),
    ]
}

/// Adds a user's keys from the rows that [`reads_of`] asked for.
fn add_user(
    asker: &UserId,
    user: &UserId,
    wanted: &[String],
    rows: &mut impl Iterator<Item = Rows>,
    queried: &mut Queried<Text>,
) -> Result<(), Error> {
    let keys: Vec<DeviceKeysRow> = rows.next().unwrap_or_default().all()?;
    let devices: Vec<DeviceRow> = rows.next().unwrap_or_default().all()?;
    let cross: Vec<CrossSigningKeyRow> = rows.next().unwrap_or_default().all()?;
    let mut signatures: Vec<KeySignatureRow> = rows.next().unwrap_or_default().all()?;
    signatures.retain(|row| row.signer == *user || row.signer == *asker);
    for row in keys {
        let id = row.device_id.to_string();
        if !wanted.is_empty() && !wanted.contains(&id) {
            continue;
        }
        let name = devices.iter().find(|device| device.device_id == row.device_id);
        let name = name.and_then(|device| device.display_name.as_deref());
        let key = signed(row.keys, &id, &signatures, name)?;
        queried.device_keys.entry(user.clone()).or_default().insert(id, key);
    }
    for row in cross {
        let target = match signatures.is_empty() {
            true => String::new(),
            false => public_of(&parsed(&row.key)).unwrap_or_default(),
        };
        let key = signed(row.key, &target, &signatures, None)?;
        match row.usage.as_str() {
            "master" => drop(queried.master_keys.insert(user.clone(), key)),
            "self_signing" => drop(queried.self_signing_keys.insert(user.clone(), key)),
            "user_signing" if user == asker => drop(queried.user_signing_keys.insert(user.clone(), key)),
            _ => {}
        }
    }
    Ok(())
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
