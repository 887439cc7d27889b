//! Content hash and reference hash of an event (server-server API, "Signing Events").

use ruma_common::OwnedEventId;
use sha2::{Digest, Sha256};

use crate::base64;
use crate::canonical_json;
use crate::json::{Json, Object};
use crate::redact::redact_without;
use crate::room_version::{EventIdFormat, Rules};

/// SHA-256 of the whole event without `unsigned`, `signatures` and `hashes`.
pub fn content_hash(event: &Object) -> [u8; 32] {
    let bytes = canonical_json::to_bytes_without(event, &["unsigned", "signatures", "hashes"]);
    Sha256::digest(bytes).into()
}

/// SHA-256 of the redacted event without `signatures`.
pub fn reference_hash(rules: &Rules, event: &Object) -> [u8; 32] {
    let redacted = redact_without(rules, event, &["signatures", "unsigned"]);
    Sha256::digest(canonical_json::to_bytes(&redacted)).into()
}

/// Whether `hashes.sha256` is the content hash of the event.
pub(crate) fn content_hash_matches(event: &Object) -> bool {
    let claimed = event.get("hashes").and_then(|hashes| hashes.get("sha256"));
    let claimed = claimed.and_then(Json::as_str).and_then(base64::decode);
    claimed.is_some_and(|claimed| claimed == content_hash(event))
}

/// The event ID that follows from the reference hash; `None` in room versions
/// 1 and 2.
pub(crate) fn event_id_of_hash(rules: &Rules, reference_hash: &[u8; 32]) -> Option<OwnedEventId> {
    let encode = match rules.event_id_format {
        EventIdFormat::Chosen => return None,
        EventIdFormat::Hash => base64::encode,
        EventIdFormat::UrlSafeHash => base64::encode_url_safe,
    };
    OwnedEventId::try_from(format!("${}", encode(reference_hash))).ok()
}
