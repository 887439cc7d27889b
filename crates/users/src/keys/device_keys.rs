//! The identity keys of devices: uploaded by the device, asked for by anybody (behaviours CE1, CE3, CE8).

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use store::tables::users::{CrossSigningKeyRow, DeviceKeysRow, DeviceRow, KeySignatureRow};
use store::{CommitBatch, DeviceId, Read, Rows, UserId, Value};

use super::{ByUser, add_signature, check_signature, check_size, parsed, signatures_of};
use crate::devices::announce_device_change;
use crate::{Error, Users};

/// Users whose keys are read at once.
const USERS_PER_READ: usize = 250;

/// Everything that `/keys/query` knows of local users.
#[derive(Clone, Debug, Default)]
pub struct Queried {
    /// Keys of devices, by user and device.
    pub device_keys: ByUser<Json>,
    /// Master keys, by user.
    pub master_keys: BTreeMap<UserId, Json>,
    /// Self-signing keys, by user.
    pub self_signing_keys: BTreeMap<UserId, Json>,
    /// The asker's own user-signing key.
    pub user_signing_keys: BTreeMap<UserId, Json>,
}

impl Users {
    /// Sets the identity keys of a device.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] if they name another user or device, [`Error::InvalidSignature`] if the device's own
    /// signature is wrong, [`Error::TooLarge`].
    pub async fn put_device_keys(&self, user: &UserId, device: &DeviceId, keys: &Json) -> Result<(), Error> {
        let names = |member: &str, id: &str| keys.get(member).and_then(Json::as_str) == Some(id);
        if !names("user_id", user.as_str()) || !names("device_id", device.as_str()) {
            return Err(Error::InvalidParam("The keys belong to another user or device.".to_owned()));
        }
        let key_id = format!("ed25519:{device}");
        if signatures_of(keys, user).any(|(id, _)| id == key_id) {
            let public = keys.get("keys").and_then(|keys| keys.get(&key_id)).and_then(Json::as_str);
            let public = public.ok_or_else(|| Error::InvalidSignature(format!("There is no key {key_id}.")))?;
            check_signature(keys, user, &key_id, public)?;
        }
        let row = DeviceKeysRow { user_id: user.clone(), device_id: device.clone(), keys: check_size(keys)? };
        let key = vec![Value::from(user), Value::from(device)];
        if self.store.get::<DeviceKeysRow>(key.clone()).await?.is_some_and(|stored| stored == row) {
            return Ok(());
        }
        let mut batch = CommitBatch::new();
        batch.expect_present::<DeviceRow>(key).put(row);
        announce_device_change(&mut batch, user);
        self.commit(batch).await.map(drop)
    }

    /// The keys of local users' devices (all of a user's, if its list is empty) and their cross-signing keys, with the
    /// signatures that `asker` may see. Unknown users and devices are absent.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn query_keys(&self, asker: &UserId, wanted: &BTreeMap<UserId, Vec<String>>) -> Result<Queried, Error> {
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
    queried: &mut Queried,
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
        let mut key = signed(&row.keys, &id, &signatures);
        let name = devices.iter().find(|device| device.device_id == row.device_id);
        if let Some(name) = name.and_then(|device| device.display_name.as_deref()) {
            key["unsigned"] = json!({ "device_display_name": name });
        }
        queried.device_keys.entry(user.clone()).or_default().insert(id, key);
    }
    for row in cross {
        let target = super::cross_signing::public_of(&parsed(&row.key)).unwrap_or_default();
        let key = signed(&row.key, &target, &signatures);
        match row.usage.as_str() {
            "master" => drop(queried.master_keys.insert(user.clone(), key)),
            "self_signing" => drop(queried.self_signing_keys.insert(user.clone(), key)),
            "user_signing" if user == asker => drop(queried.user_signing_keys.insert(user.clone(), key)),
            _ => {}
        }
    }
    Ok(())
}

/// A stored key with the signatures that were uploaded for it later.
fn signed(stored: &str, target: &str, signatures: &[KeySignatureRow]) -> Json {
    let mut key = parsed(stored);
    for row in signatures.iter().filter(|row| row.target == target) {
        add_signature(&mut key, &row.signer, &row.signer_key, &row.signature);
    }
    key
}
