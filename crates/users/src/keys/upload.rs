//! What a device uploads: its identity keys, one-time keys and fallback keys, in one decision (behaviours CE1, CE2).

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};
use store::tables::users::{DeviceKeysRow, DeviceRow, FallbackKeyRow, OneTimeKeyRow};
use store::{CommitBatch, DeviceId, Read, StreamKind, UserId, Value};

use super::one_time::{ONE_TIME_KEYS_MAX, counts_of};
use super::{bare, check_signature, checked_text, parsed, signatures_of};
use crate::devices::announce_device_change;
use crate::{Error, Users};

/// The sequence by which one-time keys are ordered.
const SEQUENCE: &str = "one_time_keys";

/// Most bytes of a key's id with its algorithm: both are part of keys that databases index.
const KEY_ID_BYTES_MAX: usize = 255;

/// Keys of a device, as it uploads them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Upload<'a> {
    /// The signed identity keys.
    pub device_keys: Option<&'a Json>,
    /// One-time keys to add, by `algorithm:id`.
    pub one_time: Option<&'a Map<String, Json>>,
    /// Fallback keys to set, by `algorithm:id`.
    pub fallback: Option<&'a Map<String, Json>>,
}

/// What is stored of a device's keys.
#[derive(Debug, Default)]
pub(crate) struct Known {
    keys: Option<DeviceKeysRow>,
    one_time: Vec<OneTimeKeyRow>,
    fallback: Vec<FallbackKeyRow>,
}

/// A key that is not stored yet.
struct Fresh<'a> {
    algorithm: &'a str,
    key_id: &'a str,
    key: String,
}

impl Users {
    /// Sets the identity keys of a device, adds one-time keys and replaces fallback keys: all of it or nothing. Says how
    /// many one-time keys of each algorithm then wait for claimers; `signed_curve25519` is always named.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] if the identity keys name another user or device, for a malformed key or id, and for
    /// another key under a known id; [`Error::InvalidSignature`] if the device's own signature is wrong;
    /// [`Error::TooLarge`].
    pub async fn upload_keys(
        &self,
        user: &UserId,
        device: &DeviceId,
        upload: &Upload<'_>,
    ) -> Result<BTreeMap<String, u64>, Error> {
        let key = vec![Value::from(user), Value::from(device)];
        let reads = vec![
            Read::get::<DeviceKeysRow>(key.clone()),
            Read::prefix::<OneTimeKeyRow>(key.clone()),
            Read::prefix::<FallbackKeyRow>(key.clone()),
        ];
        let mut rows = self.store.read(reads).await?.into_iter();
        let known = Known {
            keys: rows.next().unwrap_or_default().one()?,
            one_time: rows.next().unwrap_or_default().all()?,
            fallback: rows.next().unwrap_or_default().all()?,
        };
        let mut batch = CommitBatch::new();
        batch.expect_present::<DeviceRow>(key);
        let counts = self.add_keys(&mut batch, (user, device), upload, known).await?;
        if !batch.writes.is_empty() {
            self.commit(batch).await?;
        }
        Ok(counts)
    }

    /// Adds what a device uploads to a batch, as far as it is not known yet.
    pub(crate) async fn add_keys(
        &self,
        batch: &mut CommitBatch,
        (user, device): (&UserId, &DeviceId),
        upload: &Upload<'_>,
        known: Known,
    ) -> Result<BTreeMap<String, u64>, Error> {
        let changed = upload.device_keys.map(|keys| changed_keys(user, device, keys, known.keys)).transpose()?;
        if let Some(row) = changed.flatten() {
            batch.put(row);
            announce_device_change(batch, user);
        }
        let mut counts = counts_of(&known.one_time);
        let announced = batch.writes.len();
        let fresh = fresh_keys(&known.one_time, upload.one_time)?;
        self.add_one_time(batch, user, device, fresh, &mut counts).await?;
        for row in changed_fallback(user, device, &known.fallback, upload.fallback)? {
            batch.put(row);
        }
        if batch.writes.len() > announced {
            batch.announce(StreamKind::OneTimeKeys, None, Some(user.clone()), None);
        }
        Ok(counts)
    }

    /// Sets the identity keys of a device.
    ///
    /// # Errors
    /// As [`Users::upload_keys`].
    pub async fn put_device_keys(&self, user: &UserId, device: &DeviceId, keys: &Json) -> Result<(), Error> {
        let upload = Upload { device_keys: Some(keys), ..Upload::default() };
        self.upload_keys(user, device, &upload).await.map(drop)
    }

    /// Adds one-time keys and replaces fallback keys, both by `algorithm:id`.
    ///
    /// # Errors
    /// As [`Users::upload_keys`].
    pub async fn put_one_time_keys(
        &self,
        user: &UserId,
        device: &DeviceId,
        one_time: &Map<String, Json>,
        fallback: &Map<String, Json>,
    ) -> Result<(), Error> {
        let upload = Upload { device_keys: None, one_time: Some(one_time), fallback: Some(fallback) };
        self.upload_keys(user, device, &upload).await.map(drop)
    }

    /// Adds one-time keys to a batch, and to the counts by algorithm.
    async fn add_one_time(
        &self,
        batch: &mut CommitBatch,
        user: &UserId,
        device: &DeviceId,
        fresh: Vec<Fresh<'_>>,
        counts: &mut BTreeMap<String, u64>,
    ) -> Result<(), Error> {
        let waiting: u64 = counts.values().sum();
        let most = u64::try_from(ONE_TIME_KEYS_MAX).unwrap_or(u64::MAX);
        let count = u64::try_from(fresh.len()).unwrap_or(u64::MAX);
        if waiting.saturating_add(count) > most {
            return Err(Error::TooLarge("the number of one-time keys"));
        }
        let count = i64::try_from(count).unwrap_or(0);
        let first = if count > 0 { self.store.next_numbers(SEQUENCE, count).await? } else { 0 };
        for (Fresh { algorithm, key_id, key }, number) in fresh.into_iter().zip(first..) {
            *counts.entry(algorithm.to_owned()).or_default() += 1;
            batch.put(OneTimeKeyRow {
                user_id: user.clone(),
                device_id: device.clone(),
                algorithm: algorithm.to_owned(),
                number,
                key_id: key_id.to_owned(),
                key,
            });
        }
        Ok(())
    }
}

/// The row of identity keys that are not what is stored, once they are checked.
fn changed_keys(
    user: &UserId,
    device: &DeviceId,
    keys: &Json,
    stored: Option<DeviceKeysRow>,
) -> Result<Option<DeviceKeysRow>, Error> {
    let mut text = checked_text(keys)?;
    if stored.as_ref().is_some_and(|stored| stored.keys == text) {
        return Ok(None);
    }
    let names = |member: &str, id: &str| keys.get(member).and_then(Json::as_str) == Some(id);
    if !names("user_id", user.as_str()) || !names("device_id", device.as_str()) {
        return Err(Error::InvalidParam("The keys belong to another user or device.".to_owned()));
    }
    if !has_shape(keys) {
        return Err(Error::InvalidParam("Device keys have `algorithms`, `keys` and `signatures` of texts.".to_owned()));
    }
    let key_id = format!("ed25519:{device}");
    if signatures_of(keys, user).any(|(id, _)| id == key_id) {
        let public = keys.get("keys").and_then(|keys| keys.get(&key_id)).and_then(Json::as_str);
        let public = public.ok_or_else(|| Error::InvalidSignature(format!("There is no key {key_id}.")))?;
        check_signature(keys, user, &key_id, public)?;
    }
    if let Some(stored) = stored {
        text = checked_text(&with_signatures_of(keys.clone(), &parsed(&stored.keys)))?;
        if text == stored.keys {
            return Ok(None);
        }
    }
    Ok(Some(DeviceKeysRow { user_id: user.clone(), device_id: device.clone(), keys: text }))
}

/// The keys with the signatures, too, that the same keys have got already: an upload that is repeated late takes none away.
fn with_signatures_of(mut keys: Json, stored: &Json) -> Json {
    if bare(&keys) != bare(stored) {
        return keys;
    }
    let Some(known) = stored.get("signatures").and_then(Json::as_object) else { return keys };
    let Some(members) = keys.as_object_mut() else { return keys };
    let signatures = members.entry("signatures").or_insert_with(|| Json::Object(Map::new()));
    for (signer, known) in known {
        let Some(signatures) = signatures.as_object_mut() else { break };
        let of_signer = signatures.entry(signer.clone()).or_insert_with(|| Json::Object(Map::new()));
        if let (Some(of_signer), Some(known)) = (of_signer.as_object_mut(), known.as_object()) {
            for (key_id, signature) in known {
                of_signer.entry(key_id.clone()).or_insert_with(|| signature.clone());
            }
        }
    }
    keys
}

/// Whether device keys are what every server can read (client-server API, "DeviceKeys"): they are handed on.
fn has_shape(keys: &Json) -> bool {
    let texts = |object: &Json| object.as_object().is_some_and(|members| members.values().all(Json::is_string));
    let signatures = keys.get("signatures");
    keys.get("algorithms").and_then(Json::as_array).is_some_and(|names| names.iter().all(Json::is_string))
        && keys.get("keys").is_some_and(texts)
        && signatures.is_none_or(|by_user| by_user.as_object().is_some_and(|by_user| by_user.values().all(texts)))
}

/// The one-time keys that are not there yet.
fn fresh_keys<'a>(waiting: &[OneTimeKeyRow], keys: Option<&'a Map<String, Json>>) -> Result<Vec<Fresh<'a>>, Error> {
    let mut fresh = BTreeMap::new();
    for (id, key) in keys.into_iter().flatten() {
        let key = split_key(id, key)?;
        fresh.insert((key.algorithm, key.key_id), key);
    }
    for row in waiting {
        let known = fresh.remove(&(row.algorithm.as_str(), row.key_id.as_str()));
        if known.is_some_and(|known| known.key != row.key && parsed(&known.key) != parsed(&row.key)) {
            let id = format!("{}:{}", row.algorithm, row.key_id);
            return Err(Error::InvalidParam(format!("There is another key with the id {id}.")));
        }
    }
    Ok(fresh.into_values().collect())
}

/// The fallback keys that are not there as they are. One that is known keeps whether it was handed out.
fn changed_fallback(
    user: &UserId,
    device: &DeviceId,
    kept: &[FallbackKeyRow],
    keys: Option<&Map<String, Json>>,
) -> Result<Vec<FallbackKeyRow>, Error> {
    let mut changed = Vec::new();
    for (id, key) in keys.into_iter().flatten() {
        let Fresh { algorithm, key_id, key } = split_key(id, key)?;
        if !kept.iter().any(|row| row.algorithm == algorithm && row.key_id == key_id && row.key == key) {
            let (user_id, device_id) = (user.clone(), device.clone());
            let (algorithm, key_id) = (algorithm.to_owned(), key_id.to_owned());
            changed.push(FallbackKeyRow { user_id, device_id, algorithm, key_id, key, used: false });
        }
    }
    Ok(changed)
}

fn split_key<'a>(id: &'a str, key: &Json) -> Result<Fresh<'a>, Error> {
    let Some((algorithm, key_id)) = id.split_once(':') else {
        return Err(Error::InvalidParam(format!("{id} is no key id.")));
    };
    if id.len() > KEY_ID_BYTES_MAX {
        return Err(Error::InvalidParam(format!("A key id may have {KEY_ID_BYTES_MAX} bytes.")));
    }
    if !key.is_string() && !key.is_object() {
        return Err(Error::InvalidParam(format!("{id} is no key.")));
    }
    Ok(Fresh { algorithm, key_id, key: checked_text(key)? })
}
