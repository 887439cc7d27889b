//! Cross-signing: a user's master, self-signing and user-signing keys, and signatures uploaded later (behaviours CE6,
//! CE7).

use std::collections::BTreeMap;

use serde_json::Value as Json;
use store::tables::users::{CrossSigningKeyRow, DeviceKeysRow, DeviceRow, KeySignatureRow};
use store::{CommitBatch, Read, UserId, Value};

use super::device_keys::Queried;
use super::{ByUser, Text, bare, check_signature, checked_text, parsed, signatures_of};
use crate::devices::announce_device_change;
use crate::{Error, Users};

/// Signatures that one request uploads.
pub const SIGNATURES_MAX: usize = 1_000;

/// The keys of one upload.
#[derive(Clone, Debug, Default)]
pub struct CrossSigningKeys {
    /// The master key.
    pub master: Option<Json>,
    /// The self-signing key.
    pub self_signing: Option<Json>,
    /// The user-signing key.
    pub user_signing: Option<Json>,
}

impl CrossSigningKeys {
    fn named(&self) -> impl Iterator<Item = (&'static str, &Json)> {
        let all =
            [("master", &self.master), ("self_signing", &self.self_signing), ("user_signing", &self.user_signing)];
        all.into_iter().filter_map(|(usage, key)| Some((usage, key.as_ref()?)))
    }
}

/// The public half of a cross-signing key, which is the id of the key too.
pub(super) fn public_of(key: &Json) -> Option<String> {
    let keys = key.get("keys")?.as_object()?;
    let (id, public) = keys.iter().next().filter(|_| keys.len() == 1)?;
    let public = public.as_str()?;
    (id.strip_prefix("ed25519:") == Some(public)).then(|| public.to_owned())
}

type Stored = BTreeMap<String, Json>;

impl Users {
    async fn cross_signing_keys(&self, user: &UserId) -> Result<Stored, Error> {
        let rows: Vec<CrossSigningKeyRow> =
            self.store.all(Read::prefix::<CrossSigningKeyRow>(vec![Value::from(user)])).await?;
        Ok(rows.into_iter().map(|row| (row.usage, parsed(&row.key))).collect())
    }

    /// Whether the upload needs user-interactive authentication: it changes keys, and there is a master key already.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn cross_signing_needs_proof(&self, user: &UserId, keys: &CrossSigningKeys) -> Result<bool, Error> {
        let stored = self.cross_signing_keys(user).await?;
        let same = |usage: &str, key: &Json| stored.get(usage).is_some_and(|stored| bare(stored) == bare(key));
        Ok(stored.contains_key("master") && !keys.named().all(|(usage, key)| same(usage, key)))
    }

    /// Sets cross-signing keys. A proof that was needed is the caller's to have asked for.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for a malformed key, [`Error::MissingParam`] without any master key,
    /// [`Error::InvalidSignature`], [`Error::Forbidden`] if a key equals a device id.
    pub async fn put_cross_signing_keys(&self, user: &UserId, keys: &CrossSigningKeys) -> Result<(), Error> {
        let stored = self.cross_signing_keys(user).await?;
        let master = keys.master.as_ref().or_else(|| stored.get("master")).ok_or(Error::MissingParam("master_key"))?;
        let master = public_of(master).ok_or_else(malformed)?;
        let devices: Vec<DeviceRow> = self.store.all(Read::prefix::<DeviceRow>(vec![Value::from(user)])).await?;
        let mut batch = CommitBatch::new();
        for (usage, key) in keys.named() {
            let public = check_key(user, usage, key)?;
            if devices.iter().any(|device| device.device_id.as_str() == public) {
                return Err(Error::Forbidden("Key ID in use"));
            }
            if usage != "master" {
                check_signature(key, user, &format!("ed25519:{master}"), &master)?;
            }
            if let Some(old) = stored.get(usage).and_then(public_of).filter(|old| *old != public) {
                batch.delete_prefix::<KeySignatureRow>(vec![Value::from(user), Value::from(old)]);
            }
            if stored.get(usage) != Some(key) {
                let key = checked_text(key)?;
                batch.put(CrossSigningKeyRow { user_id: user.clone(), usage: usage.to_owned(), key });
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        announce_device_change(&mut batch, user);
        self.commit(batch).await.map(drop)
    }

    /// Adds signatures by `signer`, by the user and key they are on. What is refused is in the answer, with the reason.
    /// The keys of other servers' users are those that `elsewhere` has.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Store`].
    pub async fn put_signatures(
        &self,
        signer: &UserId,
        signed: &ByUser<Json>,
        elsewhere: &Queried<Text>,
    ) -> Result<ByUser<Error>, Error> {
        if signed.values().map(BTreeMap::len).sum::<usize>() > SIGNATURES_MAX {
            return Err(Error::TooLarge("the number of signatures"));
        }
        let mut failures: ByUser<Error> = BTreeMap::new();
        let mut batch = CommitBatch::new();
        for (user, objects) in signed {
            let before = batch.writes.len();
            for (target, object) in objects {
                let stored = match self.is_local(user) {
                    true => self.signed_key(user, target, object).await?,
                    false => {
                        elsewhere.master_keys.get(user).map(|key| parsed(key.get())).filter(|key| is_key(key, target))
                    }
                };
                match self.checked_signatures(signer, user, target, object, stored).await {
                    Ok(rows) => {
                        for row in rows {
                            batch.put(row);
                        }
                    }
                    Err(Error::Store(error)) => return Err(Error::Store(error)),
                    Err(error) => drop(failures.entry(user.clone()).or_default().insert(target.clone(), error)),
                }
            }
            if batch.writes.len() > before {
                announce_device_change(&mut batch, user);
            }
        }
        if !batch.is_empty() {
            self.commit(batch).await?;
        }
        Ok(failures)
    }

    /// The key of a local user that an uploaded object is to be.
    async fn signed_key(&self, user: &UserId, target: &str, object: &Json) -> Result<Option<Json>, Error> {
        if object.get("device_id").is_some() {
            let key = vec![Value::from(user), Value::from(target)];
            return Ok(self.store.get::<DeviceKeysRow>(key).await?.map(|row| parsed(&row.keys)));
        }
        let keys = self.cross_signing_keys(user).await?;
        Ok(keys.into_values().find(|key| is_key(key, target)))
    }

    /// The signatures on one object, if it is the key that is stored and they are right.
    async fn checked_signatures(
        &self,
        signer: &UserId,
        user: &UserId,
        target: &str,
        object: &Json,
        stored: Option<Json>,
    ) -> Result<Vec<KeySignatureRow>, Error> {
        let own = self.cross_signing_keys(signer).await?;
        let is_device = object.get("device_id").is_some();
        let stored = stored.ok_or(Error::NotFound("the key"))?;
        if bare(&stored) != bare(object) {
            return Err(Error::InvalidParam("The object is not the key that is stored.".to_owned()));
        }
        let mut rows = Vec::new();
        for (key_id, signature) in signatures_of(object, signer) {
            // A key's own signatures come along with the object.
            if signatures_of(&stored, signer).any(|known| known == (key_id, signature)) {
                continue;
            }
            let public = if is_device || user != signer {
                let usage = if user == signer { "self_signing" } else { "user_signing" };
                own.get(usage).and_then(public_of).filter(|public| key_id == format!("ed25519:{public}"))
            } else {
                self.device_public_key(signer, key_id).await?
            };
            let public = public.ok_or_else(|| Error::InvalidSignature(format!("{key_id} may not sign this.")))?;
            check_signature(object, signer, key_id, &public)?;
            rows.push(KeySignatureRow {
                user_id: user.clone(),
                target: target.to_owned(),
                signer: signer.clone(),
                signer_key: key_id.to_owned(),
                signature: signature.to_owned(),
            });
        }
        Ok(rows)
    }

    async fn device_public_key(&self, user: &UserId, key_id: &str) -> Result<Option<String>, Error> {
        let Some(device) = key_id.strip_prefix("ed25519:") else { return Ok(None) };
        let row: Option<DeviceKeysRow> = self.store.get(vec![Value::from(user), Value::from(device)]).await?;
        let keys = row.map(|row| parsed(&row.keys));
        Ok(keys.and_then(|keys| keys.get("keys")?.get(key_id)?.as_str().map(ToOwned::to_owned)))
    }
}

/// Whether a cross-signing key has this id.
fn is_key(key: &Json, public: &str) -> bool {
    public_of(key).as_deref() == Some(public)
}

fn malformed() -> Error {
    Error::InvalidParam("A cross-signing key has one Ed25519 key, whose id is its public half.".to_owned())
}

/// The public half of a key that belongs to the user and is meant for this usage.
fn check_key(user: &UserId, usage: &str, key: &Json) -> Result<String, Error> {
    if key.get("user_id").and_then(Json::as_str) != Some(user.as_str()) {
        return Err(Error::InvalidParam("The key belongs to another user.".to_owned()));
    }
    let usages = key.get("usage").and_then(Json::as_array);
    if !usages.is_some_and(|usages| usages.iter().any(|one| one == usage)) {
        return Err(Error::InvalidParam(format!("The key is not meant for {usage}.")));
    }
    public_of(key).ok_or_else(malformed)
}
