//! One-time and fallback keys: each one-time key is handed out once, oldest first (behaviours CE1, CE2, CY13).

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};
use store::tables::users::{DeviceRow, FallbackKeyRow, OneTimeKeyRow};
use store::{CommitBatch, DeviceId, Read, StreamKind, UserId, Value};

use super::{ByUser, check_size, parsed};
use crate::accounts::expect_unchanged;
use crate::{Error, Users};

/// One-time keys that a device may have waiting.
pub const ONE_TIME_KEYS_MAX: usize = 1_000;
/// How often a claim that lost its key to another is tried again.
const CLAIMS_MAX: usize = 20;
/// The sequence by which keys are ordered.
const SEQUENCE: &str = "one_time_keys";

impl Users {
    /// Adds one-time keys and replaces fallback keys, both by `algorithm:id`.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for a malformed id or another key under a known id; [`Error::TooLarge`].
    pub async fn put_one_time_keys(
        &self,
        user: &UserId,
        device: &DeviceId,
        one_time: &Map<String, Json>,
        fallback: &Map<String, Json>,
    ) -> Result<(), Error> {
        let prefix = vec![Value::from(user), Value::from(device)];
        let mut batch = CommitBatch::new();
        batch.expect_present::<DeviceRow>(prefix.clone());
        let waiting: Vec<OneTimeKeyRow> = self.store.all(Read::prefix::<OneTimeKeyRow>(prefix.clone())).await?;
        let fresh = fresh_keys(&waiting, one_time)?;
        if waiting.len() + fresh.len() > ONE_TIME_KEYS_MAX {
            return Err(Error::TooLarge("the number of one-time keys"));
        }
        let count = i64::try_from(fresh.len()).unwrap_or(0);
        let first = if count > 0 { self.store.next_numbers(SEQUENCE, count).await? } else { 0 };
        for ((algorithm, key_id, key), number) in fresh.into_iter().zip(first..) {
            batch.put(OneTimeKeyRow {
                user_id: user.clone(),
                device_id: device.clone(),
                algorithm,
                number,
                key_id,
                key,
            });
        }
        let kept: Vec<FallbackKeyRow> = self.store.all(Read::prefix::<FallbackKeyRow>(prefix)).await?;
        for (id, key) in fallback {
            let (algorithm, key_id, key) = split_key(id, key)?;
            let same = |row: &&FallbackKeyRow| row.algorithm == algorithm && row.key_id == key_id && row.key == key;
            let used = kept.iter().find(same).is_some_and(|row| row.used);
            let (user_id, device_id) = (user.clone(), device.clone());
            batch.put(FallbackKeyRow { user_id, device_id, algorithm, key_id, key, used });
        }
        if batch.writes.is_empty() {
            return Ok(());
        }
        batch.announce(StreamKind::OneTimeKeys, None, Some(user.clone()), None);
        self.commit(batch).await.map(drop)
    }

    /// How many one-time keys of each algorithm wait for claimers. `signed_curve25519` is always named.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn one_time_key_counts(&self, user: &UserId, device: &DeviceId) -> Result<BTreeMap<String, u64>, Error> {
        let prefix = vec![Value::from(user), Value::from(device)];
        let rows: Vec<OneTimeKeyRow> = self.store.all(Read::prefix::<OneTimeKeyRow>(prefix)).await?;
        let mut counts = BTreeMap::from([("signed_curve25519".to_owned(), 0)]);
        for row in rows {
            *counts.entry(row.algorithm).or_default() += 1;
        }
        Ok(counts)
    }

    /// The algorithms of which a device has a fallback key that was not handed out.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn unused_fallback_keys(&self, user: &UserId, device: &DeviceId) -> Result<Vec<String>, Error> {
        let prefix = vec![Value::from(user), Value::from(device)];
        let rows: Vec<FallbackKeyRow> = self.store.all(Read::prefix::<FallbackKeyRow>(prefix)).await?;
        Ok(rows.into_iter().filter(|row| !row.used).map(|row| row.algorithm).collect())
    }

    /// Claims a key of each named algorithm for each named device of local users; what is not there is absent. The
    /// answer maps device to `{algorithm:id: key}`.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Conflict`].
    pub async fn claim_keys(&self, wanted: &ByUser<String>) -> Result<ByUser<Map<String, Json>>, Error> {
        let mut claimed: ByUser<Map<String, Json>> = BTreeMap::new();
        for (user, devices) in wanted.iter().filter(|(user, _)| self.is_local(user)) {
            for (device, algorithm) in devices {
                if let Some((id, key)) = self.claim_key(user, device, algorithm).await? {
                    let devices = claimed.entry(user.clone()).or_default();
                    devices.insert(device.clone(), Map::from_iter([(id, key)]));
                }
            }
        }
        Ok(claimed)
    }

    async fn claim_key(&self, user: &UserId, device: &str, algorithm: &str) -> Result<Option<(String, Json)>, Error> {
        let prefix = vec![Value::from(user), Value::from(device), Value::from(algorithm)];
        for _ in 0..CLAIMS_MAX {
            let mut batch = CommitBatch::new();
            let oldest: Option<OneTimeKeyRow> = self.store.one(Read::prefix::<OneTimeKeyRow>(prefix.clone())).await?;
            let (key_id, key) = if let Some(row) = oldest {
                let mut key = prefix.clone();
                key.push(row.number.into());
                batch.expect_present::<OneTimeKeyRow>(key.clone()).delete::<OneTimeKeyRow>(key);
                (row.key_id, row.key)
            } else {
                let Some(row) = self.store.get::<FallbackKeyRow>(prefix.clone()).await? else { return Ok(None) };
                let answer = (row.key_id.clone(), row.key.clone());
                if !row.used {
                    expect_unchanged(&mut batch, row.clone());
                    batch.put(FallbackKeyRow { used: true, ..row });
                }
                answer
            };
            if !batch.is_empty() {
                batch.announce(StreamKind::OneTimeKeys, None, Some(user.clone()), None);
                match self.commit(batch).await {
                    Ok(_) => {}
                    Err(Error::Conflict) => continue,
                    Err(error) => return Err(error),
                }
            }
            return Ok(Some((format!("{algorithm}:{key_id}"), parsed(&key))));
        }
        Err(Error::Conflict)
    }
}

/// The keys that are not there yet, each as (algorithm, id, key).
fn fresh_keys(waiting: &[OneTimeKeyRow], keys: &Map<String, Json>) -> Result<Vec<(String, String, String)>, Error> {
    let mut fresh = Vec::new();
    for (id, key) in keys {
        let (algorithm, key_id, key) = split_key(id, key)?;
        let known = waiting.iter().find(|row| row.algorithm == algorithm && row.key_id == key_id);
        match known {
            None => fresh.push((algorithm, key_id, key)),
            Some(row) if row.key == key => {}
            Some(_) => return Err(Error::InvalidParam(format!("There is another key with the id {id}."))),
        }
    }
    Ok(fresh)
}

fn split_key(id: &str, key: &Json) -> Result<(String, String, String), Error> {
    let Some((algorithm, key_id)) = id.split_once(':') else {
        return Err(Error::InvalidParam(format!("{id} is no key id.")));
    };
    if !key.is_string() && !key.is_object() {
        return Err(Error::InvalidParam(format!("{id} is no key.")));
    }
    Ok((algorithm.to_owned(), key_id.to_owned(), check_size(key)?))
}
