//! A key response (`GET /_matrix/key/v2/server`): read, and believed only as far as it is signed by its own keys.

use std::collections::BTreeMap;

use event::{Json, JsonSignatureError, KEY_VALIDITY_MS_MAX, Keys, Object, VerifyKey, canonical_json};
use store::tables::federation::ServerKeyRow;

/// Most keys of one response, current and old together.
pub const KEYS_PER_RESPONSE_MAX: usize = 64;
/// Largest response that is kept, in bytes of canonical JSON.
pub const RESPONSE_BYTES_MAX: usize = 64 * 1024;
/// Longest key id, in bytes.
const KEY_ID_BYTES_MAX: usize = 128;

/// What a notary signs: a response with other members could be made to look like something else that bears our signature.
const MEMBERS: &[&str] =
    &["server_name", "valid_until_ts", "verify_keys", "old_verify_keys", "signatures", "tls_fingerprints"];

/// Why a key response is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// A member is missing or wrong.
    #[error("`{0}` is missing or invalid")]
    Invalid(&'static str),
    /// It has too many keys or is too large.
    #[error("it is too large")]
    TooLarge,
    /// It is of another server than the one that was asked for.
    #[error("it is of {0}")]
    OtherServer(String),
    /// None of its current keys has signed it, or a signature is wrong.
    #[error("it is not signed by its own keys: {0}")]
    Signature(#[from] JsonSignatureError),
}

/// A key as it is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// The public half in Base64.
    pub public: String,
    /// Until when it is trusted, in milliseconds since the epoch: seven days from when we got it at most.
    pub valid_until_ts: u64,
    /// When it ceased to be used, in milliseconds since the epoch; only events up to then may bear it.
    pub expired_ts: Option<u64>,
    /// The public half ready for use: unpacking it costs a part of what checking a signature does.
    unpacked: Option<VerifyKey>,
}

impl KnownKey {
    /// A key by its public half in Base64.
    pub fn new(public: String, valid_until_ts: u64, expired_ts: Option<u64>) -> Self {
        let unpacked = VerifyKey::from_b64(&public, valid_until_ts, expired_ts);
        Self { public, valid_until_ts, expired_ts, unpacked }
    }

    /// For checking signatures; `None` if the public half is no Ed25519 key.
    pub fn verify_key(&self) -> Option<VerifyKey> {
        self.unpacked.clone()
    }

    /// Whether it vouches for a time: it is not to be asked for again then.
    pub fn reaches(&self, minimum_valid_until_ts: u64) -> bool {
        self.expired_ts.is_some() || self.valid_until_ts >= minimum_valid_until_ts
    }

    /// From its row.
    pub fn of(row: &ServerKeyRow) -> Self {
        let time = |ms: i64| u64::try_from(ms).unwrap_or(0);
        Self::new(row.public.clone(), time(row.valid_until_ms), row.expired_ms.map(time))
    }
}

/// A response that its own keys have signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyResponse {
    /// Whose keys.
    pub server: String,
    /// Until when the current keys are trusted: [`KEY_VALIDITY_MS_MAX`] from `now` at most.
    pub valid_until_ts: u64,
    /// Current and old keys by id.
    pub keys: BTreeMap<String, KnownKey>,
    /// The object with the server's own signatures and no others.
    pub object: Object,
}

/// The current keys of a response, to check the response with.
struct Current<'a>(&'a BTreeMap<String, KnownKey>);

impl Keys for Current<'_> {
    fn key(&self, _server: &str, key_id: &str) -> Option<VerifyKey> {
        self.0.get(key_id)?.verify_key()
    }
}

impl KeyResponse {
    /// Reads the response that a server gives about itself, or that a notary passes on.
    ///
    /// A current key counts only if it has signed the response: so nobody claims the key of another.
    ///
    /// # Errors
    /// See [`ResponseError`].
    pub fn read(object: &Object, server: &str, now_ms: u64) -> Result<Self, ResponseError> {
        let named = object.get("server_name").and_then(Json::as_str).ok_or(ResponseError::Invalid("server_name"))?;
        if named != server {
            return Err(ResponseError::OtherServer(named.chars().take(event::MAX_ID_BYTES).collect()));
        }
        let claimed = time(object.get("valid_until_ts")).ok_or(ResponseError::Invalid("valid_until_ts"))?;
        let valid_until_ts = claimed.min(now_ms.saturating_add(KEY_VALIDITY_MS_MAX));
        let current = current_keys(object, valid_until_ts)?;
        let mut keys = old_keys(object, valid_until_ts)?;
        if keys.len() + current.len() > KEYS_PER_RESPONSE_MAX {
            return Err(ResponseError::TooLarge);
        }
        event::verify_json(object, server, &Current(&current))?;
        let object = own_signatures_only(object, server);
        let signed = object.get("signatures").and_then(|all| all.get(server));
        let has_signed = |key_id: &str| signed.and_then(|by| by.get(key_id)?.as_str()).is_some();
        keys.extend(current.into_iter().filter(|(key_id, _)| has_signed(key_id)));
        if canonical_json::to_bytes(&object).len() > RESPONSE_BYTES_MAX {
            return Err(ResponseError::TooLarge);
        }
        Ok(Self { server: server.to_owned(), valid_until_ts, keys, object })
    }

    /// Whether a notary may put its signature on it.
    pub fn may_be_signed(object: &Object) -> bool {
        object.keys().all(|member| MEMBERS.contains(&member.as_str()))
    }
}

fn time(value: Option<&Json>) -> Option<u64> {
    value.and_then(Json::as_i64).and_then(|ms| u64::try_from(ms).ok())
}

/// `verify_keys`; those of other algorithms and such as are no keys are left out.
fn current_keys(object: &Object, valid_until_ts: u64) -> Result<BTreeMap<String, KnownKey>, ResponseError> {
    let all = object.get("verify_keys").and_then(Json::as_object).ok_or(ResponseError::Invalid("verify_keys"))?;
    let known = |public: &str| KnownKey::new(public.to_owned(), valid_until_ts, None);
    Ok(all.iter().filter_map(|(key_id, key)| checked(key_id, known(key.get("key")?.as_str()?))).collect())
}

/// `old_verify_keys`, which a server need not have.
fn old_keys(object: &Object, valid_until_ts: u64) -> Result<BTreeMap<String, KnownKey>, ResponseError> {
    let Some(all) = object.get("old_verify_keys") else { return Ok(BTreeMap::new()) };
    let all = all.as_object().ok_or(ResponseError::Invalid("old_verify_keys"))?;
    let known = |key: &Json| {
        let expired_ts = time(key.get("expired_ts"))?.min(valid_until_ts);
        Some(KnownKey::new(key.get("key")?.as_str()?.to_owned(), valid_until_ts, Some(expired_ts)))
    };
    Ok(all.iter().filter_map(|(key_id, key)| checked(key_id, known(key)?)).collect())
}

fn checked(key_id: &str, key: KnownKey) -> Option<(String, KnownKey)> {
    let well_formed = key_id.starts_with("ed25519:") && key_id.len() <= KEY_ID_BYTES_MAX;
    (well_formed && key.verify_key().is_some()).then(|| (key_id.to_owned(), key))
}

/// The object as its server signed it, without what others have added.
fn own_signatures_only(object: &Object, server: &str) -> Object {
    let mut object = object.clone();
    object.remove("unsigned");
    let own = object.get("signatures").and_then(|all| all.get(server)).cloned();
    let signatures = own.map(|own| (server.to_owned(), own)).into_iter().collect::<Object>();
    object.insert("signatures".to_owned(), Json::Object(signatures));
    object
}
