//! One-time and fallback keys: each one-time key is handed out once, oldest first (behaviours CE1, CE2, CY13).

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};
use store::tables::users::{FallbackKeyRow, OneTimeKeyRow};
use store::{CommitBatch, DeviceId, Read, Row, StreamKind, UserId, Value};

use super::{ByUser, Text, parsed, stored_text};
use crate::accounts::expect_unchanged;
use crate::{Error, Users};

/// One-time keys that a device may have waiting.
pub const ONE_TIME_KEYS_MAX: usize = 1_000;
/// How often a claim is tried again whose key another took, on another node or together with keys of other devices.
const CLAIMS_MAX: usize = 200;
/// Devices of which one batch claims keys.
const CLAIMS_PER_BATCH: usize = 100;

/// What is asked for of one device.
struct Claim<'a> {
    user: &'a UserId,
    device: &'a str,
    algorithm: &'a str,
}

impl Claim<'_> {
    fn key(&self) -> Vec<Value> {
        vec![Value::from(self.user), Value::from(self.device), Value::from(self.algorithm)]
    }
}

impl Users {
    /// How many one-time keys of each algorithm wait for claimers. `signed_curve25519` is always named.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn one_time_key_counts(&self, user: &UserId, device: &DeviceId) -> Result<BTreeMap<String, u64>, Error> {
        let prefix = vec![Value::from(user), Value::from(device)];
        let rows: Vec<OneTimeKeyRow> = self.store.all(Read::prefix::<OneTimeKeyRow>(prefix)).await?;
        Ok(counts_of(&rows))
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
    /// [`Error::Store`].
    pub async fn claim_keys(&self, wanted: &ByUser<String>) -> Result<ByUser<Map<String, Json>>, Error> {
        let texts = self.claim_key_texts(wanted).await?;
        let values = |keys: BTreeMap<String, Text>| keys.into_iter().map(|(id, key)| (id, parsed(key.get()))).collect();
        let of_user = |devices: BTreeMap<_, _>| devices.into_iter().map(|(id, keys)| (id, values(keys))).collect();
        Ok(texts.into_iter().map(|(user, devices)| (user, of_user(devices))).collect())
    }

    /// As [`Users::claim_keys`], with the keys as they are stored.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn claim_key_texts(&self, wanted: &ByUser<String>) -> Result<ByUser<BTreeMap<String, Text>>, Error> {
        let local = wanted.iter().filter(|(user, _)| self.is_local(user));
        let claims: Vec<Claim<'_>> = local
            .flat_map(|(user, devices)| {
                devices.iter().map(move |(device, algorithm)| Claim { user, device, algorithm })
            })
            .collect();
        let mut claimed = BTreeMap::new();
        for some in claims.chunks(CLAIMS_PER_BATCH) {
            let together = match some {
                [claim] => return self.claim_one(claim, &mut claimed).await.map(|()| claimed),
                some => self.try_claim(some, &mut claimed).await,
            };
            match together {
                // Some of the keys went to others: each by itself gets ahead.
                Err(Error::Conflict) => {
                    for claim in some {
                        self.claim_one(claim, &mut claimed).await?;
                    }
                }
                outcome => outcome?,
            }
        }
        Ok(claimed)
    }

    /// Claims a key of one device, for which claims queue. If others take every key that it tries, the device is left
    /// out: the keys of other devices that were claimed before it must not be lost.
    async fn claim_one(&self, claim: &Claim<'_>, claimed: &mut ByUser<BTreeMap<String, Text>>) -> Result<(), Error> {
        let _turn = self.queues.turn(&(claim.user, claim.device)).await;
        for _ in 0..CLAIMS_MAX {
            match self.try_claim(std::slice::from_ref(claim), claimed).await {
                Err(Error::Conflict) => {}
                outcome => return outcome,
            }
        }
        tracing::warn!(user = %claim.user, device = claim.device, "a key could not be claimed: too many others did");
        Ok(())
    }

    /// Claims a key of each, all in one batch, unless another takes one of them at the same time.
    async fn try_claim(&self, claims: &[Claim<'_>], claimed: &mut ByUser<BTreeMap<String, Text>>) -> Result<(), Error> {
        let reads = claims.iter().flat_map(|claim| {
            let key = claim.key();
            [Read::prefix::<OneTimeKeyRow>(key.clone()).limit(1), Read::get::<FallbackKeyRow>(key)]
        });
        let mut rows = self.store.read(reads.collect()).await?.into_iter();
        let mut batch = CommitBatch::new();
        let mut found = Vec::new();
        for claim in claims {
            let oldest: Option<OneTimeKeyRow> = rows.next().unwrap_or_default().one()?;
            let fallback: Option<FallbackKeyRow> = rows.next().unwrap_or_default().one()?;
            let before = batch.writes.len();
            if let Some(row) = oldest {
                let mut key = claim.key();
                key.push(row.number.into());
                batch.expect_present::<OneTimeKeyRow>(key.clone()).delete::<OneTimeKeyRow>(key);
                found.push((claim, row.key_id, stored_text(row.key, OneTimeKeyRow::TABLE.name)?));
            } else if let Some(row) = fallback {
                if !row.used {
                    expect_unchanged(&mut batch, row.clone());
                    batch.put(FallbackKeyRow { used: true, ..row.clone() });
                }
                found.push((claim, row.key_id, stored_text(row.key, FallbackKeyRow::TABLE.name)?));
            }
            if batch.writes.len() > before {
                batch.announce(StreamKind::OneTimeKeys, None, Some(claim.user.clone()), None);
            }
        }
        if !batch.is_empty() {
            self.commit(batch).await?;
        }
        for (claim, key_id, key) in found {
            let devices = claimed.entry(claim.user.clone()).or_default();
            let id = format!("{}:{key_id}", claim.algorithm);
            devices.insert(claim.device.to_owned(), BTreeMap::from([(id, key)]));
        }
        Ok(())
    }
}

/// How many keys there are of each algorithm; `signed_curve25519` is always named.
pub(super) fn counts_of(rows: &[OneTimeKeyRow]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::from([("signed_curve25519".to_owned(), 0)]);
    for row in rows {
        match counts.get_mut(&row.algorithm) {
            Some(count) => *count += 1,
            None => drop(counts.insert(row.algorithm.clone(), 1)),
        }
    }
    counts
}
