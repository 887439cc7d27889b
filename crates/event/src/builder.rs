//! The one place where events are signed: from a locally made [`Template`].

use std::collections::BTreeMap;

use bytes::Bytes;
use ruma_common::{OwnedEventId, OwnedRoomId};

use crate::base64;
use crate::canonical_json;
use crate::hashes;
use crate::ids;
use crate::json::{Json, Object};
use crate::pdu::{EdgeLimits, FormatError, MAX_PDU_BYTES, Pdu, STICKY};
use crate::room_version::{EventIdFormat, Rules};
use crate::signatures::{SigningKey, Verified, add_signature, reference_hash_of, signed_bytes};

/// What this server wants to say, before hashing and signing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Template {
    /// The room; `None` exactly for a create event of room version 12.
    pub room_id: Option<OwnedRoomId>,
    /// A user of this server.
    pub sender: String,
    /// The event type.
    pub kind: String,
    /// Present exactly on state events.
    pub state_key: Option<String>,
    /// The content.
    pub content: Object,
    /// The target of a redaction; placed where the room version wants it.
    pub redacts: Option<OwnedEventId>,
    /// The forward extremities.
    pub prev_events: Vec<OwnedEventId>,
    /// The selected auth events.
    pub auth_events: Vec<OwnedEventId>,
    /// One more than the greatest depth of `prev_events`; see [`Template::next_depth`].
    pub depth: i64,
    /// Milliseconds since the Unix epoch.
    pub origin_server_ts: i64,
    /// For how long the event is to be sticky, in milliseconds, if it is to be.
    pub sticky_ms: Option<i64>,
    /// Sent along unsigned, if any.
    pub unsigned: Option<Object>,
    /// Room versions 1 and 2: the random local part of the event ID. Without
    /// one the content hash takes its place.
    pub opaque_id: Option<String>,
    /// Room versions 1 and 2: SHA-256 reference hashes in unpadded Base64 that
    /// are written beside the IDs of `prev_events` and `auth_events`. Nobody
    /// checks them; one that is missing is left out.
    pub edge_hashes: BTreeMap<OwnedEventId, String>,
}

/// Why an event cannot be built; always a mistake in the template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The signed event is larger than [`MAX_PDU_BYTES`].
    #[error("the event is larger than {MAX_PDU_BYTES} bytes")]
    TooLarge,
    /// A number in the content is not canonical JSON. Checked in every room
    /// version: what this server sends is always canonical.
    #[error(transparent)]
    Canonical(#[from] canonical_json::CanonicalJsonError),
    /// The sender is not a user of this server.
    #[error("the sender is not a user of this server")]
    ForeignSender,
    /// The room ID is missing, or present on a create event of version 12.
    #[error("the room ID does not fit the event")]
    RoomId,
    /// Another property does not fit the event format.
    #[error(transparent)]
    Format(FormatError),
}

impl From<FormatError> for BuildError {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::TooLarge => BuildError::TooLarge,
            FormatError::Canonical(error) => BuildError::Canonical(error),
            other => BuildError::Format(other),
        }
    }
}

impl Template {
    /// The depth of an event after events of these depths: one more than the
    /// greatest, capped at 2^53 − 1 in every version, since what this server
    /// sends is canonical JSON.
    pub fn next_depth(depths: impl IntoIterator<Item = i64>) -> i64 {
        let deepest = depths.into_iter().max().unwrap_or(0);
        deepest.saturating_add(1).min(crate::room_version::MAX_SAFE_INTEGER)
    }

    /// The event as it stands here, without id, hashes and signatures: what another server is given to complete and sign.
    pub fn unsigned_object(self, rules: &Rules) -> Object {
        unsigned_object(rules, self)
    }
}

/// Levels of arrays and objects in the content of an event that this server makes. An event is read again as part of the
/// store, of transactions and of answers, here and at others, where it stands some levels deeper; none of them may find it
/// nested too deeply ([`crate::MAX_DEPTH`]).
pub const MAX_CONTENT_DEPTH: usize = 100;

/// Hashes and signs an event of this server.
///
/// This is the only function that signs events, and it takes no JSON of
/// others: whoever wants an event signed must fill in a [`Template`].
///
/// # Errors
///
/// See [`BuildError`].
pub fn build(rules: &Rules, template: Template, key: &SigningKey, server_name: &str) -> Result<Verified, BuildError> {
    if ids::user_server(&template.sender) != Some(server_name) {
        return Err(BuildError::ForeignSender);
    }
    let is_special_create = rules.special_create && template.kind == "m.room.create";
    if template.room_id.is_none() != is_special_create {
        return Err(BuildError::RoomId);
    }
    if template.content.values().any(|value| value.is_deeper(MAX_CONTENT_DEPTH - 1)) {
        return Err(BuildError::Canonical(canonical_json::CanonicalJsonError::TooDeep));
    }
    let mut object = unsigned_event(rules, template, server_name);
    canonical_json::check_strict_object(&object)?;
    let hash = base64::encode(&hashes::content_hash(&object));
    let hashes = Object::from([("sha256".to_owned(), Json::String(hash))]);
    object.insert("hashes".to_owned(), Json::Object(hashes));
    let signed = signed_bytes(rules, &object);
    add_signature(&mut object, server_name, key.key_id(), key.sign_bytes(&signed));
    let bytes = Bytes::from(canonical_json::to_bytes(&object));
    if bytes.len() > MAX_PDU_BYTES {
        return Err(BuildError::TooLarge);
    }
    let pdu = Pdu::from_hashed_object(rules, object, bytes, &reference_hash_of(&signed))?;
    Ok(Verified::new(pdu, false))
}

/// The event without hashes and signatures.
fn unsigned_event(rules: &Rules, mut template: Template, server_name: &str) -> Object {
    let opaque = template.opaque_id.take();
    let mut object = unsigned_object(rules, template);
    if rules.event_id_format == EventIdFormat::Chosen {
        let opaque = match opaque {
            Some(opaque) => opaque,
            None => base64::encode_url_safe(&hashes::content_hash(&object)),
        };
        let id = Json::String(format!("${opaque}:{server_name}"));
        object.insert("event_id".to_owned(), id);
    }
    object
}

/// The event without id, hashes and signatures.
fn unsigned_object(rules: &Rules, mut template: Template) -> Object {
    let mut object = Object::new();
    let mut put = |key: &str, value: Json| object.insert(key.to_owned(), value);
    if let Some(redacts) = template.redacts.take() {
        let redacts = Json::from(redacts.as_str());
        if rules.redacts_in_content {
            template.content.insert("redacts".to_owned(), redacts);
        } else {
            put("redacts", redacts);
        }
    }
    put("auth_events", edges(rules, &template.auth_events, &template.edge_hashes));
    put("prev_events", edges(rules, &template.prev_events, &template.edge_hashes));
    put("content", Json::Object(template.content));
    put("depth", Json::Int(template.depth));
    put("origin_server_ts", Json::Int(template.origin_server_ts));
    put("sender", Json::String(template.sender));
    put("type", Json::String(template.kind));
    if let Some(state_key) = template.state_key {
        put("state_key", Json::String(state_key));
    }
    if let Some(room_id) = template.room_id {
        put("room_id", Json::from(room_id.as_str()));
    }
    if let Some(sticky_ms) = template.sticky_ms {
        put(STICKY, Json::Object(Object::from([("duration_ms".to_owned(), Json::Int(sticky_ms))])));
    }
    if let Some(unsigned) = template.unsigned {
        put("unsigned", Json::Object(unsigned));
    }
    object
}

fn edges(rules: &Rules, ids: &[OwnedEventId], hashes: &BTreeMap<OwnedEventId, String>) -> Json {
    let edge = |id: &OwnedEventId| {
        let text = Json::from(id.as_str());
        if rules.event_id_is_hash() {
            return text;
        }
        let hash = hashes.get(id).map(|hash| ("sha256".to_owned(), Json::from(hash.as_str())));
        Json::Array(vec![text, Json::Object(hash.into_iter().collect())])
    };
    Json::Array(ids.iter().map(edge).collect())
}

impl Pdu {
    /// The event just signed, whose reference hash is known already.
    fn from_hashed_object(
        rules: &Rules,
        object: Object,
        bytes: Bytes,
        reference_hash: &[u8; 32],
    ) -> Result<Pdu, FormatError> {
        let id = hashes::event_id_of_hash(rules, reference_hash);
        Pdu::checked(rules, object, bytes, id, EdgeLimits::Enforced)
    }
}
