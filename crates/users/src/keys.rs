//! Public keys of devices and users, and the encrypted backup of room keys (client-server API, "End-to-End Encryption").
//! The server stores and hands out; it checks signatures only to keep nonsense out.

pub mod backup;
pub mod cross_signing;
pub mod device_keys;
pub mod one_time;
pub mod upload;

use std::collections::BTreeMap;

use event::{Keys, VerifyKey, verify_json};
use serde_json::Value as Json;
use serde_json::value::RawValue;
use store::UserId;

use crate::Error;

/// Bytes that one uploaded key object may have.
pub const KEY_BYTES_MAX: usize = 64 * 1_024;

/// How deep a key object may nest: less than what readers of the answers that hold it put up with.
const KEY_DEPTH_MAX: usize = 32;

/// A key object as JSON text: it was read when it was uploaded, and is handed out as it is stored.
pub type Text = Box<RawValue>;

/// Key objects by user and by device, or by key id.
pub type ByUser<T> = BTreeMap<UserId, BTreeMap<String, T>>;

/// The one key against which a signature is checked.
struct OneKey<'a> {
    id: &'a str,
    public: &'a str,
}

impl Keys for OneKey<'_> {
    fn key(&self, _entity: &str, key_id: &str) -> Option<VerifyKey> {
        if key_id == self.id { VerifyKey::from_b64(self.public, u64::MAX, None) } else { None }
    }
}

/// Checks the signature of `user` on an object by the key `id` (with algorithm).
fn check_signature(object: &Json, user: &UserId, id: &str, public: &str) -> Result<(), Error> {
    let wrong = |why: String| Error::InvalidSignature(why);
    let text = object.to_string();
    let parsed = event::Json::object_from_slice(text.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    verify_json(&parsed, user.as_str(), &OneKey { id, public }).map_err(|error| wrong(error.to_string()))
}

/// The signatures of a user on an object: key id (with algorithm) to signature.
fn signatures_of<'a>(object: &'a Json, user: &UserId) -> impl Iterator<Item = (&'a str, &'a str)> {
    let signatures = object.get("signatures").and_then(|all| all.get(user.as_str())).and_then(Json::as_object);
    signatures.into_iter().flatten().filter_map(|(id, signature)| Some((id.as_str(), signature.as_str()?)))
}

/// An object without what may be added to it later.
fn bare(object: &Json) -> Json {
    let mut object = object.clone();
    if let Some(members) = object.as_object_mut() {
        members.remove("signatures");
        members.remove("unsigned");
    }
    object
}

fn parsed(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_default()
}

/// Largest number of canonical JSON, up or down.
pub(crate) const INT_MAX: u64 = (1 << 53) - 1;

/// The text of a key object that is neither too large nor too deep, and has only numbers that other servers can sign and
/// check.
fn checked_text(object: &Json) -> Result<String, Error> {
    if !is_canonical(object) {
        return Err(Error::InvalidParam("A key has numbers that are not those of canonical JSON.".to_owned()));
    }
    if is_deeper(object, KEY_DEPTH_MAX) {
        return Err(Error::InvalidParam("A key nests too deep.".to_owned()));
    }
    let text = object.to_string();
    if text.len() > KEY_BYTES_MAX { Err(Error::TooLarge("a key")) } else { Ok(text) }
}

/// Whether all numbers are of those that canonical JSON has.
fn is_canonical(value: &Json) -> bool {
    match value {
        Json::Number(number) => number.as_i64().is_some_and(|int| int.unsigned_abs() <= INT_MAX),
        Json::Array(items) => items.iter().all(is_canonical),
        Json::Object(members) => members.values().all(is_canonical),
        _ => true,
    }
}

/// Whether values nest more than `levels` deep.
fn is_deeper(value: &Json, levels: usize) -> bool {
    let Some(below) = levels.checked_sub(1) else { return true };
    match value {
        Json::Array(items) => items.iter().any(|item| is_deeper(item, below)),
        Json::Object(members) => members.values().any(|member| is_deeper(member, below)),
        _ => false,
    }
}

/// A stored object as text to hand out.
pub(crate) fn stored_text(stored: String, table: &'static str) -> Result<Text, Error> {
    RawValue::from_string(stored).map_err(|error| store::Error::Corrupt { table, detail: error.to_string() }.into())
}
