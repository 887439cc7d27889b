//! Ed25519 keys, signed JSON, and the check that turns bytes of a peer into a
//! [`Verified`] event.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::base64;
use crate::canonical_json;
use crate::hashes;
use crate::ids;
use crate::json::{Json, Object};
use crate::pdu::{EdgeLimits, FormatError, Pdu, read_checked};
use crate::redact::redact_without;
use crate::room_version::Rules;

/// The only signing algorithm.
const ALGORITHM: &str = "ed25519:";

/// However long a key claims to be valid, it is trusted for seven days from
/// now at most (room version 5, "Signing key validity period"); milliseconds.
pub const KEY_VALIDITY_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;

/// A signing key of this server.
#[derive(Clone)]
pub struct SigningKey {
    key_id: String,
    key: ed25519_dalek::SigningKey,
}

/// Why a signing key cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// The ID is not `ed25519:` and a name of letters, digits and `_`.
    #[error("the key ID is invalid")]
    KeyId,
    /// The seed is not 32 bytes of Base64.
    #[error("the seed is not 32 bytes of Base64")]
    Seed,
}

impl fmt::Debug for SigningKey {
    /// Shows the key ID only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// A new key from 32 random bytes; its ID follows from its public half, so
    /// that two keys never share one.
    pub fn generate(seed: &[u8; 32]) -> SigningKey {
        let key = ed25519_dalek::SigningKey::from_bytes(seed);
        let name: String = base64::encode_url_safe(key.verifying_key().as_bytes())
            .chars()
            .take(8)
            .map(|c| if c == '-' { '_' } else { c })
            .collect();
        SigningKey { key_id: format!("{ALGORITHM}{name}"), key }
    }

    /// A key from its ID, for example `ed25519:auto`, and its seed in Base64.
    ///
    /// # Errors
    ///
    /// If the ID or the seed is malformed.
    pub fn from_seed_b64(key_id: &str, seed: &str) -> Result<SigningKey, SigningKeyError> {
        let name = key_id.strip_prefix(ALGORITHM).ok_or(SigningKeyError::KeyId)?;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(SigningKeyError::KeyId);
        }
        let seed = base64::decode(seed).ok_or(SigningKeyError::Seed)?;
        let seed = <[u8; 32]>::try_from(seed).map_err(|_| SigningKeyError::Seed)?;
        let key = ed25519_dalek::SigningKey::from_bytes(&seed);
        Ok(SigningKey { key_id: key_id.to_owned(), key })
    }

    /// The signing key identifier, `ed25519:…`.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public half in unpadded Base64.
    pub fn public_b64(&self) -> String {
        base64::encode(self.key.verifying_key().as_bytes())
    }

    /// The secret half in unpadded Base64, for [`SigningKey::from_seed_b64`].
    pub fn seed_b64(&self) -> String {
        base64::encode(self.key.as_bytes())
    }

    /// Signs a request, a key response or a third-party invite, not an event:
    /// adds a signature of `entity` over the object as it is.
    ///
    /// Events are signed over their redacted form, and by
    /// [`build`](crate::build) alone.
    pub fn sign_json(&self, object: &mut Object, entity: &str) {
        let bytes = canonical_json::to_bytes_without(object, &["signatures", "unsigned"]);
        let signature = self.sign_bytes(&bytes);
        add_signature(object, entity, &self.key_id, signature);
    }

    /// The signature over a request or a key response that is in canonical form already, and has neither `signatures`
    /// nor `unsigned`, in unpadded Base64. As with [`SigningKey::sign_json`], never over an event.
    pub fn sign_canonical(&self, text: &[u8]) -> String {
        self.sign_bytes(text)
    }

    /// The signature over bytes, in unpadded Base64.
    pub(crate) fn sign_bytes(&self, bytes: &[u8]) -> String {
        base64::encode(&self.key.sign(bytes).to_bytes())
    }
}

/// Puts a signature into `signatures`, beside those of others.
pub(crate) fn add_signature(object: &mut Object, entity: &str, key_id: &str, signature: String) {
    let signatures = object_entry(object, "signatures");
    object_entry(signatures, entity).insert(key_id.to_owned(), Json::String(signature));
}

/// The object under a key, made (or made an object) if necessary.
fn object_entry<'a>(object: &'a mut Object, key: &str) -> &'a mut Object {
    let entry = object.entry(key.to_owned()).or_default();
    if entry.as_object().is_none() {
        *entry = Json::Object(Object::new());
    }
    match entry {
        Json::Object(inner) => inner,
        _ => unreachable!("made an object above"),
    }
}

/// The public key of a server with the time for which it vouches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyKey {
    key: VerifyingKey,
    /// `valid_until_ts` of the key response, in milliseconds.
    pub valid_until_ts: u64,
    /// `expired_ts`, for a key from `old_verify_keys`, in milliseconds.
    pub expired_ts: Option<u64>,
}

impl VerifyKey {
    /// A key from its public half in Base64; `None` if that is no Ed25519 key.
    pub fn from_b64(public: &str, valid_until_ts: u64, expired_ts: Option<u64>) -> Option<Self> {
        let bytes = <[u8; 32]>::try_from(base64::decode_any(public)?).ok()?;
        let key = VerifyingKey::from_bytes(&bytes).ok()?;
        Some(VerifyKey { key, valid_until_ts, expired_ts })
    }

    /// Whether the Base64 signature is this key's over the bytes.
    pub fn verify(&self, bytes: &[u8], signature: &str) -> bool {
        let signature = base64::decode(signature).and_then(|s| Signature::from_slice(&s).ok());
        // The strict check refuses small-order points, as libsodium does.
        signature.is_some_and(|signature| self.key.verify_strict(bytes, &signature).is_ok())
    }

    /// Whether an event of this time may be signed with the key.
    pub fn usable_at(&self, rules: &Rules, origin_server_ts: i64, now_ms: u64) -> bool {
        let at = u64::try_from(origin_server_ts).unwrap_or(0);
        if let Some(expired) = self.expired_ts {
            return at <= expired;
        }
        let trusted = self.valid_until_ts.min(now_ms.saturating_add(KEY_VALIDITY_MS_MAX));
        !rules.enforce_key_validity || at <= trusted
    }
}

/// Where the public keys of servers are looked up.
pub trait Keys {
    /// The key of a server under its full ID (`ed25519:…`), if known.
    fn key(&self, server: &str, key_id: &str) -> Option<VerifyKey>;
}

/// An event that its servers signed, or that this server built. There is no
/// other way to make one.
#[derive(Debug, Clone)]
pub struct Verified {
    pdu: Arc<Pdu>,
    redacted: bool,
}

impl Verified {
    /// For the two constructors: a verified event of a peer and a built one.
    pub(crate) fn new(pdu: Pdu, redacted: bool) -> Verified {
        Verified { pdu: Arc::new(pdu), redacted }
    }

    /// The event.
    pub fn pdu(&self) -> &Arc<Pdu> {
        &self.pdu
    }

    /// The event.
    pub fn into_pdu(self) -> Arc<Pdu> {
        self.pdu
    }

    /// Whether the content hash did not match, so that this is the redacted form.
    pub fn redacted(&self) -> bool {
        self.redacted
    }
}

/// Why an event is dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The bytes are not an event of the room version.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The user ID in `join_authorised_via_users_server` is none.
    #[error("`join_authorised_via_users_server` is not a user ID")]
    AuthorisedVia,
    /// A required server has no Ed25519 signature on the event.
    #[error("the event is not signed by {0}")]
    NotSigned(String),
    /// None of the server's keys is known and valid at the event's time.
    /// Fetching keys may help.
    #[error("no usable key of {server}: {} unknown, {} expired", unknown.len(), expired.len())]
    NoUsableKey {
        /// The server whose signature is required.
        server: String,
        /// Keys that the lookup does not know.
        unknown: Vec<String>,
        /// Keys that are not valid at `origin_server_ts`.
        expired: Vec<String>,
    },
    /// A signature does not match.
    #[error("the signature of {server} with {key_id} is invalid")]
    BadSignature {
        /// The server whose signature it claims to be.
        server: String,
        /// The key with which it claims to be made.
        key_id: String,
    },
}

/// Checks format, signatures and content hash of an event of a peer.
///
/// If only the content hash is wrong, the result is the redacted event
/// (server-server API, "Validating hashes and signatures on received events").
/// `now_ms` bounds for how long keys are trusted.
///
/// # Errors
///
/// See [`VerifyError`]; the event is to be dropped.
pub fn verify(rules: &Rules, bytes: Bytes, keys: &dyn Keys, now_ms: u64) -> Result<Verified, VerifyError> {
    verify_with(rules, bytes, keys, now_ms, EdgeLimits::Enforced)
}

/// [`verify`] with a choice about the number of edges.
///
/// # Errors
///
/// As [`verify`].
pub fn verify_with(
    rules: &Rules,
    bytes: Bytes,
    keys: &dyn Keys,
    now_ms: u64,
    limits: EdgeLimits,
) -> Result<Verified, VerifyError> {
    verify_but(rules, bytes, keys, now_ms, limits, None)
}

/// [`verify`] for a join to a restricted room that names a user of this server as the one who authorises it, and that
/// this server is asked to sign: the signatures of all others are checked, this server's is added. `None` if the event
/// is no such join. Whether the user may join must have been decided before.
///
/// # Errors
///
/// As [`verify`].
pub fn verify_and_co_sign(
    rules: &Rules,
    bytes: Bytes,
    keys: &dyn Keys,
    now_ms: u64,
    key: &SigningKey,
    server_name: &str,
) -> Result<Option<Verified>, VerifyError> {
    let verified = verify_but(rules, bytes, keys, now_ms, EdgeLimits::Enforced, Some(server_name))?;
    let is_join = verified.pdu().membership() == Some("join") && verified.pdu().sender_server() != server_name;
    Ok(if is_join { co_sign(rules, &verified, key, server_name) } else { None })
}

/// [`verify_with`], without asking for the signature of one server.
fn verify_but(
    rules: &Rules,
    bytes: Bytes,
    keys: &dyn Keys,
    now_ms: u64,
    limits: EdgeLimits,
    but: Option<&str>,
) -> Result<Verified, VerifyError> {
    Unverified::read(rules, bytes, limits)?.verify_but(rules, keys, now_ms, but)
}

/// An event of a peer that was read, and whose signatures are still to be checked: who has many looks first which keys
/// they need.
#[derive(Debug)]
pub struct Unverified {
    pdu: Pdu,
    /// What the signatures cover.
    signed: Vec<u8>,
    wanted: Vec<SignatureLookup>,
    hash_matches: bool,
}

impl Unverified {
    /// Checks the format, and computes the hashes.
    ///
    /// # Errors
    ///
    /// [`VerifyError::Format`] and [`VerifyError::AuthorisedVia`]; the event is to be dropped.
    pub fn read(rules: &Rules, bytes: Bytes, limits: EdgeLimits) -> Result<Self, VerifyError> {
        let object = read_checked(rules, &bytes)?;
        let hash_matches = hashes::content_hash_matches(&object);
        let signed = signed_bytes(rules, &object);
        let wanted = wanted_signatures(rules, &object)?;
        let id = hashes::event_id_of_hash(rules, &reference_hash_of(&signed));
        let pdu = Pdu::checked(rules, object, bytes, id, limits)?;
        Ok(Self { pdu, signed, wanted, hash_matches })
    }

    /// The event, of which nothing is proven.
    pub fn pdu(&self) -> &Pdu {
        &self.pdu
    }

    /// The signatures that will be checked.
    pub fn wanted(&self) -> &[SignatureLookup] {
        &self.wanted
    }

    /// Checks the signatures; see [`verify`].
    ///
    /// # Errors
    ///
    /// As [`verify`].
    pub fn verify(self, rules: &Rules, keys: &dyn Keys, now_ms: u64) -> Result<Verified, VerifyError> {
        self.verify_but(rules, keys, now_ms, None)
    }

    fn verify_but(
        self,
        rules: &Rules,
        keys: &dyn Keys,
        now_ms: u64,
        but: Option<&str>,
    ) -> Result<Verified, VerifyError> {
        for lookup in self.wanted.iter().filter(|lookup| but != Some(lookup.server.as_str())) {
            check_server(rules, &self.pdu, lookup, &self.signed, keys, now_ms)?;
        }
        if self.hash_matches {
            return Ok(Verified::new(self.pdu, false));
        }
        Ok(Verified::new(self.pdu.redacted(rules)?, true))
    }
}

/// The bytes that an event's signatures cover; their SHA-256 is the reference hash.
pub(crate) fn signed_bytes(rules: &Rules, event: &Object) -> Vec<u8> {
    canonical_json::to_bytes(&redact_without(rules, event, &["signatures", "unsigned"]))
}

/// The reference hash from [`signed_bytes`].
pub(crate) fn reference_hash_of(signed: &[u8]) -> [u8; 32] {
    Sha256::digest(signed).into()
}

/// All signatures of one required server.
fn check_server(
    rules: &Rules,
    pdu: &Pdu,
    lookup: &SignatureLookup,
    signed: &[u8],
    keys: &dyn Keys,
    now_ms: u64,
) -> Result<(), VerifyError> {
    let server = &lookup.server;
    if lookup.signatures.is_empty() {
        return Err(VerifyError::NotSigned(server.clone()));
    }
    let (mut valid, mut unknown, mut expired) = (0, Vec::new(), Vec::new());
    for (key_id, signature) in &lookup.signatures {
        let Some(key) = keys.key(server, key_id) else {
            unknown.push(key_id.clone());
            continue;
        };
        if !key.usable_at(rules, pdu.origin_server_ts, now_ms) {
            expired.push(key_id.clone());
            continue;
        }
        if !key.verify(signed, signature) {
            let (server, key_id) = (server.clone(), key_id.clone());
            return Err(VerifyError::BadSignature { server, key_id });
        }
        valid += 1;
    }
    if valid == 0 {
        return Err(VerifyError::NoUsableKey { server: server.clone(), unknown, expired });
    }
    Ok(())
}

/// A server that must have signed an event, with the signatures that the event
/// carries of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureLookup {
    /// The server.
    pub server: String,
    /// Its Ed25519 signatures: key ID and Base64 signature.
    pub signatures: Vec<(String, String)>,
}

/// Which signatures [`verify`] will check, so that keys can be fetched before.
///
/// # Errors
///
/// As [`required_servers`].
pub fn wanted_signatures(rules: &Rules, event: &Object) -> Result<Vec<SignatureLookup>, VerifyError> {
    let lookup = |server: String| SignatureLookup { signatures: ed25519_signatures(event, &server), server };
    Ok(required_servers(rules, event)?.into_iter().map(lookup).collect())
}

/// The Ed25519 signatures of an entity on an object.
fn ed25519_signatures(object: &Object, entity: &str) -> Vec<(String, String)> {
    let of_entity = object.get("signatures").and_then(|all| all.get(entity)?.as_object());
    let Some(of_entity) = of_entity else { return Vec::new() };
    of_entity
        .iter()
        .filter(|(key_id, _)| key_id.starts_with(ALGORITHM))
        .filter_map(|(key_id, signature)| Some((key_id.clone(), signature.as_str()?.to_owned())))
        .collect()
}

/// The servers that must have signed an event: that of the sender (unless it
/// is a third-party invite), in room versions 1 and 2 that of the event ID,
/// from 8 on that of the authorising user of a restricted join.
///
/// # Errors
///
/// If one of the IDs is malformed.
pub fn required_servers(rules: &Rules, event: &Object) -> Result<Vec<String>, VerifyError> {
    let mut servers = Vec::new();
    if !is_third_party_invite(event) {
        let sender = event.get("sender").and_then(Json::as_str);
        let server = sender.and_then(ids::user_server).ok_or(FormatError::Invalid("sender"))?;
        servers.push(server.to_owned());
    }
    if !rules.event_id_is_hash() {
        let id = event.get("event_id").and_then(Json::as_str);
        let server = id.and_then(ids::domain).ok_or(FormatError::Invalid("event_id"))?;
        servers.push(server.to_owned());
    }
    if let Some(user) = authorised_via(rules, event) {
        let server = user.as_str().and_then(ids::user_server).ok_or(VerifyError::AuthorisedVia)?;
        servers.push(server.to_owned());
    }
    servers.sort();
    servers.dedup();
    Ok(servers)
}

fn is_member_event(event: &Object) -> bool {
    event.get("type").and_then(Json::as_str) == Some("m.room.member")
}

fn is_third_party_invite(event: &Object) -> bool {
    let Some(content) = event.get("content") else { return false };
    is_member_event(event)
        && content.get("membership").and_then(Json::as_str) == Some("invite")
        && content.get("third_party_invite").is_some_and(|invite| invite.as_object().is_some())
}

fn authorised_via<'a>(rules: &Rules, event: &'a Object) -> Option<&'a Json> {
    if !rules.restricted || !is_member_event(event) {
        return None;
    }
    event.get("content")?.get("join_authorised_via_users_server")
}

/// Adds this server's signature to an event of a peer, in the two cases where
/// the protocol asks for it: an invite of one of our users, and a join to a
/// restricted room that one of our users authorises. `None` for anything else.
pub fn co_sign(rules: &Rules, event: &Verified, key: &SigningKey, server_name: &str) -> Option<Verified> {
    let pdu = event.pdu();
    let user = match pdu.membership()? {
        "invite" => pdu.state_key.as_deref()?,
        "join" if rules.restricted => pdu.content_str("join_authorised_via_users_server")?,
        _ => return None,
    };
    if ids::user_server(user) != Some(server_name) || event.redacted() {
        return None;
    }
    let mut object = pdu.object();
    let signature = key.sign_bytes(&signed_bytes(rules, &object));
    add_signature(&mut object, server_name, key.key_id(), signature);
    let bytes = Bytes::from(canonical_json::to_bytes(&object));
    let signed = Pdu::stored(rules, pdu.event_id.clone(), bytes).ok()?;
    Some(Verified::new(signed, false))
}

/// Why signed JSON that is no event is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonSignatureError {
    /// There is no Ed25519 signature of the entity.
    #[error("not signed by {0}")]
    NotSigned(String),
    /// No key of its signatures is known.
    #[error("no known key of {0}")]
    NoKnownKey(String),
    /// A signature does not match.
    #[error("the signature with {0} is invalid")]
    BadSignature(String),
}

/// Checks the signature of an entity on a request, a key response or another
/// object that is no event (appendices, "Checking for a Signature").
///
/// Whether a key may sign at this time is for `keys` to decide.
///
/// # Errors
///
/// Unless at least one signature is by a known key and all such match.
pub fn verify_json(object: &Object, entity: &str, keys: &dyn Keys) -> Result<(), JsonSignatureError> {
    let signatures = ed25519_signatures(object, entity);
    if signatures.is_empty() {
        return Err(JsonSignatureError::NotSigned(entity.to_owned()));
    }
    let bytes = canonical_json::to_bytes_without(object, &["signatures", "unsigned"]);
    let mut known = false;
    for (key_id, signature) in signatures {
        let Some(key) = keys.key(entity, &key_id) else { continue };
        if !key.verify(&bytes, &signature) {
            return Err(JsonSignatureError::BadSignature(key_id));
        }
        known = true;
    }
    if known { Ok(()) } else { Err(JsonSignatureError::NoKnownKey(entity.to_owned())) }
}
