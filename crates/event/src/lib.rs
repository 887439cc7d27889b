//! Matrix events as pure functions: canonical JSON, hashes, signatures,
//! redaction, authorization rules and state resolution for room versions 1 to 12.
//!
//! Nothing in here reads a clock, a random source, a disk or a socket. What
//! differs between room versions stands in one table, [`Rules`]; every
//! algorithm reads its flags there.
//!
//! An event received from a peer becomes a [`Verified`] only through
//! [`verify`]; an event of our own only through [`build`], the one function
//! that signs events.
//!
//! # Known quirks
//!
//! Where the specification leaves room, the reading is the one that does not
//! split rooms shared with the servers already out there:
//!
//! - A state without join rules has the join rule `invite`.
//! - A power level property that is absent is compared as absent, not as its
//!   default, when power levels change.
//! - Power levels and join rules are power events with an empty state key only,
//!   and what a power event builds on is followed through the full conflicted
//!   set only.
//! - In room version 1, if none of the conflicting events of an entry is
//!   allowed, the one of least depth stands.
//! - Redaction in room version 11 keeps an empty `third_party_invite` if that
//!   was an object without `signed`.
//! - JSON with duplicate keys or lone surrogates is no event in any version.

mod base64;
mod builder;
pub mod canonical_json;
pub mod edu;
mod hashes;
pub mod ids;
mod json;
mod pdu;
pub mod policy;
pub mod power_levels;
mod redact;
mod room_version;
mod signatures;

pub mod auth_rules;
pub mod state_res;
pub mod third_party;

pub use builder::{BuildError, MAX_CONTENT_DEPTH, Template, build};
pub use hashes::{content_hash, reference_hash};
pub use json::{Json, JsonError, MAX_DEPTH, MAX_INPUT_BYTES, Object};
pub use pdu::{
    EdgeLimits, FormatError, MAX_AUTH_EVENTS, MAX_ID_BYTES, MAX_PDU_BYTES, MAX_PREV_EVENTS, Pdu, STICKY, STICKY_MS_MAX,
};
pub use redact::{redact, redact_content};
pub use room_version::{EventIdFormat, Rules, SUPPORTED_VERSIONS, StateRes};
pub use signatures::{
    JsonSignatureError, KEY_VALIDITY_MS_MAX, Keys, SignatureLookup, SigningKey, SigningKeyError, Unverified, Verified,
    VerifyError, VerifyKey, co_sign, required_servers, verify, verify_and_co_sign, verify_json, verify_with,
    wanted_signatures,
};
