//! The parsed, immutable event and its format check (room versions, "Event format").

use bytes::Bytes;
use ruma_common::{OwnedEventId, OwnedRoomId, RoomId};

use crate::canonical_json::{self, CanonicalJsonError};
use crate::hashes;
use crate::ids;
use crate::json::{Json, JsonError, Object};
use crate::redact::redact;
use crate::room_version::Rules;

/// Largest event as canonical JSON in federation format with signatures, in bytes.
pub const MAX_PDU_BYTES: usize = 65_536;
/// Largest text that is read as an event at all: white space and escapes
/// make it longer than its canonical form.
const MAX_PDU_INPUT_BYTES: usize = 8 * MAX_PDU_BYTES;
/// Largest `type`, `state_key`, `sender`, `room_id` and `event_id`, in bytes.
pub const MAX_ID_BYTES: usize = 255;
/// Most `prev_events`.
pub const MAX_PREV_EVENTS: usize = 20;
/// Most `auth_events`.
pub const MAX_AUTH_EVENTS: usize = 10;

/// Whether the limits on `prev_events` and `auth_events` apply; they do not to
/// history received by `/backfill`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EdgeLimits {
    /// At most [`MAX_PREV_EVENTS`] and [`MAX_AUTH_EVENTS`].
    Enforced,
    /// Any number.
    Lifted,
}

/// Why bytes are not an event of the room version; such an event is dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Not JSON, or not a JSON object.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Not canonical JSON although the room version wants it.
    #[error(transparent)]
    Canonical(#[from] CanonicalJsonError),
    /// A required key is missing or has the wrong type.
    #[error("`{0}` is missing or invalid")]
    Invalid(&'static str),
    /// A value is longer than [`MAX_ID_BYTES`].
    #[error("`{0}` is longer than {MAX_ID_BYTES} bytes")]
    TooLong(&'static str),
    /// The event is larger than [`MAX_PDU_BYTES`].
    #[error("the event is larger than {MAX_PDU_BYTES} bytes")]
    TooLarge,
    /// More than [`MAX_PREV_EVENTS`] or [`MAX_AUTH_EVENTS`].
    #[error("too many `{0}`")]
    TooManyEdges(&'static str),
    /// `depth` is negative or beyond the room version's bound.
    #[error("`depth` is out of range")]
    Depth,
}

/// An event that has the format of its room version.
///
/// Having a `Pdu` says nothing about signatures and hashes; see
/// [`Verified`](crate::Verified).
#[derive(Debug, Clone, PartialEq)]
pub struct Pdu {
    /// The event ID, computed from the event except in room versions 1 and 2.
    pub event_id: OwnedEventId,
    /// The room; for a create event of version 12 derived from its event ID.
    pub room_id: OwnedRoomId,
    /// A user ID, possibly a historical one.
    pub sender: String,
    /// The event type.
    pub kind: String,
    /// Present exactly on state events.
    pub state_key: Option<String>,
    /// The content.
    pub content: Object,
    /// Milliseconds since the Unix epoch, as claimed by the sender's server.
    pub origin_server_ts: i64,
    /// Claimed depth in the room graph.
    pub depth: i64,
    /// The events before this one.
    pub prev_events: Vec<OwnedEventId>,
    /// The events that authorize this one.
    pub auth_events: Vec<OwnedEventId>,
    /// The target of an `m.room.redaction`, wherever the room version puts it.
    pub redacts: Option<OwnedEventId>,
    /// For how long after it was sent the event is sticky, in milliseconds, if it is (MSC4354); not protected from redaction.
    pub sticky_ms: Option<i64>,
    /// `unsigned` as received; nothing vouches for it.
    pub unsigned: Option<Object>,
    /// The exact JSON in federation form.
    pub bytes: Bytes,
    /// Whether the JSON names the room; must not be on a create event in version 12.
    names_room: bool,
}

/// The member of an event that makes it sticky, under the name that it has as a proposal (MSC4354).
pub const STICKY: &str = "msc4354_sticky";

/// For how long an event may be sticky, in milliseconds.
pub const STICKY_MS_MAX: i64 = 60 * 60 * 1_000;

impl Pdu {
    /// Reads an event and checks its whole format.
    ///
    /// # Errors
    ///
    /// See [`FormatError`]; the event is to be dropped.
    pub fn parse(rules: &Rules, bytes: Bytes) -> Result<Pdu, FormatError> {
        Pdu::parse_with(rules, bytes, EdgeLimits::Enforced)
    }

    /// [`Pdu::parse`] with a choice about the number of edges.
    ///
    /// # Errors
    ///
    /// As [`Pdu::parse`].
    pub fn parse_with(rules: &Rules, bytes: Bytes, limits: EdgeLimits) -> Result<Pdu, FormatError> {
        let object = read_checked(rules, &bytes)?;
        let id = hashed_event_id(rules, &object);
        Pdu::checked(rules, object, bytes, id, limits)
    }

    /// Reads an event that this server stored earlier, under its known ID:
    /// limits are not checked again and nothing is hashed.
    ///
    /// # Errors
    ///
    /// If the stored bytes are no event at all.
    pub fn stored(rules: &Rules, event_id: OwnedEventId, bytes: Bytes) -> Result<Pdu, FormatError> {
        let object = Json::stored_object(&bytes)?;
        assemble(rules, object, bytes, Some(event_id))
    }

    /// The fields of an object that passed [`read_checked`]; the ID is given
    /// where it is a hash.
    pub(crate) fn checked(
        rules: &Rules,
        object: Object,
        bytes: Bytes,
        hashed_id: Option<OwnedEventId>,
        limits: EdgeLimits,
    ) -> Result<Pdu, FormatError> {
        for key in ["hashes", "signatures"] {
            object.get(key).and_then(Json::as_object).ok_or(FormatError::Invalid(key))?;
        }
        let pdu = assemble(rules, object, bytes, hashed_id)?;
        pdu.check_lengths()?;
        pdu.check_depth(rules)?;
        if limits == EdgeLimits::Enforced {
            pdu.check_edges()?;
        }
        Ok(pdu)
    }

    fn check_lengths(&self) -> Result<(), FormatError> {
        let texts = [
            ("event_id", self.event_id.as_str()),
            ("room_id", self.room_id.as_str()),
            ("sender", &self.sender),
            ("type", &self.kind),
            ("state_key", self.state_key.as_deref().unwrap_or_default()),
        ];
        match texts.iter().find(|(_, text)| text.len() > MAX_ID_BYTES) {
            Some((key, _)) => Err(FormatError::TooLong(key)),
            None => Ok(()),
        }
    }

    fn check_depth(&self, rules: &Rules) -> Result<(), FormatError> {
        let in_range = (0..=rules.max_depth).contains(&self.depth);
        if in_range { Ok(()) } else { Err(FormatError::Depth) }
    }

    fn check_edges(&self) -> Result<(), FormatError> {
        if self.prev_events.len() > MAX_PREV_EVENTS {
            return Err(FormatError::TooManyEdges("prev_events"));
        }
        if self.auth_events.len() > MAX_AUTH_EVENTS {
            return Err(FormatError::TooManyEdges("auth_events"));
        }
        Ok(())
    }

    /// The whole event as an object, read from [`Pdu::bytes`].
    pub fn object(&self) -> Object {
        // The bytes were read when this value was made.
        Json::stored_object(&self.bytes).unwrap_or_default()
    }

    /// The same event with everything unprotected removed; the ID stays.
    ///
    /// # Errors
    ///
    /// None for an event that was parsed before; kept as a result because the
    /// redacted form is read like any other.
    pub fn redacted(&self, rules: &Rules) -> Result<Pdu, FormatError> {
        let object = redact(rules, &self.object());
        let bytes = Bytes::from(canonical_json::to_bytes(&object));
        assemble(rules, object, bytes, Some(self.event_id.clone()))
    }

    /// Whether this is a state event.
    pub fn is_state(&self) -> bool {
        self.state_key.is_some()
    }

    /// Whether this is a state event of a type with a state key.
    pub fn is_state_of(&self, kind: &str, state_key: &str) -> bool {
        self.kind == kind && self.state_key.as_deref() == Some(state_key)
    }

    /// Whether this is the room's `m.room.create` state event.
    pub fn is_create(&self) -> bool {
        self.is_state_of("m.room.create", "")
    }

    /// Whether this is an `m.room.redaction`.
    pub fn is_redaction(&self) -> bool {
        self.kind == "m.room.redaction"
    }

    /// `content.membership` of an `m.room.member` state event.
    pub fn membership(&self) -> Option<&str> {
        if self.kind != "m.room.member" || self.state_key.is_none() {
            return None;
        }
        self.content_str("membership")
    }

    /// A string of the content.
    pub fn content_str(&self, key: &str) -> Option<&str> {
        self.content.get(key).and_then(Json::as_str)
    }

    /// The type and state key under which the room state holds this event.
    pub fn state_entry(&self) -> Option<(&str, &str)> {
        Some((&self.kind, self.state_key.as_deref()?))
    }

    /// The server of the sender.
    pub fn sender_server(&self) -> &str {
        ids::domain(&self.sender).unwrap_or_default()
    }

    /// Whether the JSON itself holds a `room_id`.
    pub fn names_room(&self) -> bool {
        self.names_room
    }
}

/// Reads the object and checks what concerns the event as a whole: size and
/// canonical JSON.
pub(crate) fn read_checked(rules: &Rules, bytes: &Bytes) -> Result<Object, FormatError> {
    if bytes.len() > MAX_PDU_INPUT_BYTES {
        return Err(FormatError::TooLarge);
    }
    let object = Json::object_from_slice(bytes)?;
    if rules.strict_canonical_json {
        canonical_json::check_strict_object(&object)?;
    }
    // Without exponents the canonical form is never longer than what was read.
    let may_grow = !rules.strict_canonical_json;
    if (may_grow || bytes.len() > MAX_PDU_BYTES) && canonical_json::to_string(&object).len() > MAX_PDU_BYTES {
        return Err(FormatError::TooLarge);
    }
    Ok(object)
}

/// The ID of an event where it is a hash.
fn hashed_event_id(rules: &Rules, object: &Object) -> Option<OwnedEventId> {
    if !rules.event_id_is_hash() {
        return None;
    }
    hashes::event_id_of_hash(rules, &hashes::reference_hash(rules, object))
}

/// Takes the fields out of the object. Without `known_id` the event names its own.
fn assemble(
    rules: &Rules,
    mut object: Object,
    bytes: Bytes,
    known_id: Option<OwnedEventId>,
) -> Result<Pdu, FormatError> {
    let kind = text(&object, "type")?.to_owned();
    let sender = text(&object, "sender")?.to_owned();
    if !ids::is_user_id(&sender) {
        return Err(match sender.len() > MAX_ID_BYTES {
            true => FormatError::TooLong("sender"),
            false => FormatError::Invalid("sender"),
        });
    }
    let event_id = match known_id {
        Some(id) => id,
        None => chosen_event_id(&object)?,
    };
    let names_room = object.contains_key("room_id");
    let room_id = room_id(rules, &object, &kind, &event_id)?;
    let state_key = match object.get("state_key") {
        None => None,
        Some(Json::String(text)) => Some(text.clone()),
        Some(_) => return Err(FormatError::Invalid("state_key")),
    };
    let content = match object.remove("content") {
        Some(Json::Object(content)) => content,
        _ => return Err(FormatError::Invalid("content")),
    };
    let unsigned = match object.remove("unsigned") {
        Some(Json::Object(unsigned)) => Some(unsigned),
        _ => None,
    };
    Ok(Pdu {
        redacts: redacts(rules, &object, &kind, &content),
        sticky_ms: sticky_ms(&object),
        origin_server_ts: int(&object, "origin_server_ts")?,
        depth: int(&object, "depth").map_err(|_| FormatError::Depth)?,
        prev_events: edges(rules, &object, "prev_events")?,
        auth_events: edges(rules, &object, "auth_events")?,
        event_id,
        room_id,
        sender,
        kind,
        state_key,
        content,
        unsigned,
        bytes,
        names_room,
    })
}

/// How long an event is sticky. A value that is not valid makes none so.
fn sticky_ms(object: &Object) -> Option<i64> {
    let duration_ms = object.get(STICKY)?.as_object()?.get("duration_ms")?.as_i64()?;
    (0..=STICKY_MS_MAX).contains(&duration_ms).then_some(duration_ms)
}

fn text<'a>(object: &'a Object, key: &'static str) -> Result<&'a str, FormatError> {
    object.get(key).and_then(Json::as_str).ok_or(FormatError::Invalid(key))
}

fn int(object: &Object, key: &'static str) -> Result<i64, FormatError> {
    object.get(key).and_then(Json::as_i64).ok_or(FormatError::Invalid(key))
}

/// The ID that the event claims, in room versions 1 and 2.
fn chosen_event_id(object: &Object) -> Result<OwnedEventId, FormatError> {
    let id = text(object, "event_id")?;
    if ids::domain(id).is_none() {
        return Err(FormatError::Invalid("event_id"));
    }
    parse_event_id(id, "event_id")
}

fn parse_event_id(id: &str, key: &'static str) -> Result<OwnedEventId, FormatError> {
    if id.len() > MAX_ID_BYTES {
        return Err(FormatError::TooLong(key));
    }
    OwnedEventId::try_from(id).map_err(|_| FormatError::Invalid(key))
}

fn room_id(rules: &Rules, object: &Object, kind: &str, event_id: &OwnedEventId) -> Result<OwnedRoomId, FormatError> {
    if rules.special_create && kind == "m.room.create" {
        return room_id_of_create(event_id).ok_or(FormatError::Invalid("room_id"));
    }
    let id = text(object, "room_id")?;
    if id.len() > MAX_ID_BYTES {
        return Err(FormatError::TooLong("room_id"));
    }
    <&RoomId>::try_from(id).map(ToOwned::to_owned).map_err(|_| FormatError::Invalid("room_id"))
}

/// The room ID that a create event makes in room version 12: its ID with
/// another sigil.
pub(crate) fn room_id_of_create(event_id: &OwnedEventId) -> Option<OwnedRoomId> {
    let opaque = event_id.as_str().strip_prefix('$')?;
    OwnedRoomId::try_from(format!("!{opaque}")).ok()
}

/// The inverse of [`room_id_of_create`].
pub(crate) fn create_of_room_id(room_id: &RoomId) -> Option<OwnedEventId> {
    let opaque = room_id.as_str().strip_prefix('!')?;
    OwnedEventId::try_from(format!("${opaque}")).ok()
}

/// IDs of `prev_events` or `auth_events`; room versions 1 and 2 pair each ID
/// with hashes, which nobody checks.
fn edges(rules: &Rules, object: &Object, key: &'static str) -> Result<Vec<OwnedEventId>, FormatError> {
    let array = object.get(key).and_then(Json::as_array).ok_or(FormatError::Invalid(key))?;
    let id_of = |edge: &Json| -> Option<String> {
        if rules.event_id_is_hash() {
            return edge.as_str().map(str::to_owned);
        }
        match edge.as_array()? {
            [id, Json::Object(_)] => id.as_str().map(str::to_owned),
            _ => None,
        }
    };
    let parse = |edge: &Json| {
        let id = id_of(edge).ok_or(FormatError::Invalid(key))?;
        parse_event_id(&id, key)
    };
    array.iter().map(parse).collect()
}

fn redacts(rules: &Rules, object: &Object, kind: &str, content: &Object) -> Option<OwnedEventId> {
    if kind != "m.room.redaction" {
        return None;
    }
    let place = if rules.redacts_in_content { content } else { object };
    parse_event_id(place.get("redacts")?.as_str()?, "redacts").ok()
}
