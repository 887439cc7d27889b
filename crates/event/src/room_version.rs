//! What differs between room versions, as one table of flags.

/// The room versions that this crate knows, oldest first.
pub const SUPPORTED_VERSIONS: &[&str] = &["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"];

/// How an event gets its ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventIdFormat {
    /// `$opaque:server`, chosen by the sending server (versions 1 and 2).
    Chosen,
    /// The reference hash in standard unpadded Base64 (version 3).
    Hash,
    /// The reference hash in URL-safe unpadded Base64 (version 4 and later).
    UrlSafeHash,
}

/// Which state resolution algorithm a room uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateRes {
    /// Room version 1: depth, then SHA-1 of the event ID.
    V1,
    /// Room versions 2 to 11.
    V2,
    /// Room version 12: an empty start and the conflicted state subgraph.
    V2_1,
}

/// The rules of one room version. Obtained from [`Rules::of`] only.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rules {
    version: &'static str,
    /// How event IDs are made.
    pub event_id_format: EventIdFormat,
    /// The state resolution algorithm.
    pub state_res: StateRes,
    /// Whether events must be canonical JSON: integers of 53 bits, no floats (6+).
    pub strict_canonical_json: bool,
    /// Largest `depth`: 2^63 − 1, from version 6 on 2^53 − 1.
    pub max_depth: i64,
    /// Whether a signing key must have been valid at `origin_server_ts` (5+).
    pub enforce_key_validity: bool,
    /// Whether `m.room.aliases` has its own auth rule and redaction key (1–5).
    pub special_aliases: bool,
    /// Whether redactions are checked by the auth rules (1–2).
    pub redaction_auth_rule: bool,
    /// Whether changes of `notifications` power levels are checked (6+).
    pub limit_notifications: bool,
    /// Whether power levels may be written as strings (1–9).
    pub string_power_levels: bool,
    /// Whether power levels may be written as floats (1–5).
    pub float_power_levels: bool,
    /// Whether power levels must be integers, else the event is rejected (10+).
    pub integer_power_levels: bool,
    /// Whether knocking exists (7+).
    pub knock: bool,
    /// Whether the join rule `restricted` exists (8+).
    pub restricted: bool,
    /// Whether the join rule `knock_restricted` exists (10+).
    pub knock_restricted: bool,
    /// Whether redaction keeps `allow` of join rules (8+).
    pub redaction_keeps_allow: bool,
    /// Whether redaction keeps `join_authorised_via_users_server` (9+).
    pub redaction_keeps_authorised_via: bool,
    /// Whether the redaction algorithm is the one of version 11.
    pub redaction_v11: bool,
    /// Whether a redaction names its target in `content` (11+).
    pub redacts_in_content: bool,
    /// Whether the creator is the sender of `m.room.create` instead of
    /// `content.creator` (11+).
    pub creator_is_sender: bool,
    /// Whether the room ID is the ID of the create event, which itself has no
    /// `room_id` and is nobody's auth event (12).
    pub special_create: bool,
    /// Whether creators have an infinite power level and
    /// `additional_creators` exists (12).
    pub privileged_creators: bool,
}

/// The largest integer in canonical JSON, 2^53 − 1.
pub(crate) const MAX_SAFE_INTEGER: i64 = (1 << 53) - 1;

impl Rules {
    /// The rules of a room version, or `None` if it is unknown.
    pub fn of(version: &str) -> Option<&'static Rules> {
        TABLE.iter().find(|rules| rules.version == version)
    }

    /// The room version, for example `"11"`.
    pub fn version(&self) -> &'static str {
        self.version
    }

    /// Whether event IDs are reference hashes, so that peers cannot choose them (3+).
    pub fn event_id_is_hash(&self) -> bool {
        self.event_id_format != EventIdFormat::Chosen
    }
}

/// Each version differs from the one before in the fields named.
const V1: Rules = Rules {
    version: "1",
    event_id_format: EventIdFormat::Chosen,
    state_res: StateRes::V1,
    strict_canonical_json: false,
    max_depth: i64::MAX,
    enforce_key_validity: false,
    special_aliases: true,
    redaction_auth_rule: true,
    limit_notifications: false,
    string_power_levels: true,
    float_power_levels: true,
    integer_power_levels: false,
    knock: false,
    restricted: false,
    knock_restricted: false,
    redaction_keeps_allow: false,
    redaction_keeps_authorised_via: false,
    redaction_v11: false,
    redacts_in_content: false,
    creator_is_sender: false,
    special_create: false,
    privileged_creators: false,
};
const V2: Rules = Rules { version: "2", state_res: StateRes::V2, ..V1 };
const V3: Rules = Rules { version: "3", event_id_format: EventIdFormat::Hash, redaction_auth_rule: false, ..V2 };
const V4: Rules = Rules { version: "4", event_id_format: EventIdFormat::UrlSafeHash, ..V3 };
const V5: Rules = Rules { version: "5", enforce_key_validity: true, ..V4 };
const V6: Rules = Rules {
    version: "6",
    strict_canonical_json: true,
    max_depth: MAX_SAFE_INTEGER,
    special_aliases: false,
    limit_notifications: true,
    float_power_levels: false,
    ..V5
};
const V7: Rules = Rules { version: "7", knock: true, ..V6 };
const V8: Rules = Rules { version: "8", restricted: true, redaction_keeps_allow: true, ..V7 };
const V9: Rules = Rules { version: "9", redaction_keeps_authorised_via: true, ..V8 };
const V10: Rules =
    Rules { version: "10", string_power_levels: false, integer_power_levels: true, knock_restricted: true, ..V9 };
const V11: Rules =
    Rules { version: "11", redaction_v11: true, redacts_in_content: true, creator_is_sender: true, ..V10 };
const V12: Rules =
    Rules { version: "12", state_res: StateRes::V2_1, special_create: true, privileged_creators: true, ..V11 };

static TABLE: [Rules; 12] = [V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12];
