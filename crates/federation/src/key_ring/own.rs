//! This server's own keys, as it publishes them (`GET /_matrix/key/v2/server`).

use std::collections::BTreeMap;
use std::sync::Arc;

use event::{Json, KEY_VALIDITY_MS_MAX, Object, SigningKey};
use store::tables::federation::RetiredKeyRow;
use store::{CommitBatch, Error, Read, Store};

use super::response::KnownKey;

/// For how long a published response may be used, in milliseconds: a day, so that a stolen key is soon distrusted.
pub const VALID_FOR_MS: u64 = 24 * 60 * 60 * 1000;

/// The keys with which this server signs and once signed.
#[derive(Clone)]
pub struct OwnKeys {
    server_name: Arc<str>,
    active: Arc<SigningKey>,
    retired: BTreeMap<String, KnownKey>,
}

impl OwnKeys {
    /// The active key and what the store knows of retired ones.
    ///
    /// # Errors
    /// As the store says.
    pub async fn load(store: &Store, server_name: &str, active: Arc<SigningKey>) -> Result<Self, Error> {
        let rows = store.all::<RetiredKeyRow>(Read::prefix::<RetiredKeyRow>(Vec::new())).await?;
        let known = |row: RetiredKeyRow| {
            let expired = u64::try_from(row.expired_ms).unwrap_or(0);
            (row.key_id, KnownKey::new(row.public, expired, Some(expired)))
        };
        let mut retired: BTreeMap<String, KnownKey> = rows.into_iter().map(known).collect();
        // A key that came back into use is not old.
        retired.remove(active.key_id());
        Ok(Self { server_name: server_name.into(), active, retired })
    }

    /// The server's name.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// The key that signs now.
    pub fn active(&self) -> &SigningKey {
        &self.active
    }

    /// All keys by id, as peers know them.
    pub fn known(&self, now_ms: u64) -> BTreeMap<String, KnownKey> {
        let mut known = self.retired.clone();
        let valid_until_ts = now_ms.saturating_add(KEY_VALIDITY_MS_MAX);
        let active = KnownKey::new(self.active.public_b64(), valid_until_ts, None);
        known.insert(self.active.key_id().to_owned(), active);
        known
    }

    /// The signed answer to `GET /_matrix/key/v2/server`.
    pub fn response(&self, now_ms: u64) -> Object {
        let current = object([("key", Json::from(self.active.public_b64()))]);
        let old = self.retired.iter().map(|(key_id, key)| {
            let expired = int(key.expired_ts.unwrap_or(0));
            (key_id.clone(), Json::from(object([("key", Json::from(key.public.as_str())), ("expired_ts", expired)])))
        });
        let mut response = object([
            ("server_name", Json::from(&*self.server_name)),
            ("valid_until_ts", int(now_ms.saturating_add(VALID_FOR_MS))),
            ("verify_keys", Json::from(Object::from([(self.active.key_id().to_owned(), Json::from(current))]))),
            ("old_verify_keys", Json::from(old.collect::<Object>())),
        ]);
        self.active.sign_json(&mut response, &self.server_name);
        response
    }
}

/// Keeps the public half of a key of this server that signs no more, so that the events that it signed up to `now_ms` can
/// be verified for ever. To be committed before the new key is used.
pub fn retire(batch: &mut CommitBatch, key_id: &str, public_b64: &str, now_ms: i64) {
    batch.put(RetiredKeyRow { key_id: key_id.to_owned(), public: public_b64.to_owned(), expired_ms: now_ms });
}

fn object<const N: usize>(members: [(&str, Json); N]) -> Object {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn int(ms: u64) -> Json {
    Json::Int(i64::try_from(ms).unwrap_or(i64::MAX))
}
