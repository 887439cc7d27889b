//! Public keys of devices and users, and the encrypted backup of room keys (client-server API, "End-to-End Encryption").
//! The server stores and hands out; it checks signatures only to keep nonsense out.

pub mod backup;
pub mod cross_signing;
pub mod device_keys;
pub mod one_time;

use std::collections::BTreeMap;

use event::{Keys, VerifyKey, verify_json};
use serde_json::{Map, Value as Json};
use store::UserId;

use crate::Error;

/// Bytes that one uploaded key object may have.
pub const KEY_BYTES_MAX: usize = 64 * 1_024;

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

/// Adds a signature to an object.
fn add_signature(object: &mut Json, signer: &UserId, key_id: &str, signature: &str) {
    let Some(members) = object.as_object_mut() else { return };
    let empty = || Json::Object(Map::new());
    let all = members.entry("signatures").or_insert_with(empty);
    let Some(all) = all.as_object_mut() else { return };
    if let Some(signatures) = all.entry(signer.to_string()).or_insert_with(empty).as_object_mut() {
        signatures.insert(key_id.to_owned(), signature.into());
    }
}

fn parsed(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_default()
}

fn check_size(object: &Json) -> Result<String, Error> {
    let text = object.to_string();
    if text.len() > KEY_BYTES_MAX { Err(Error::TooLarge("a key")) } else { Ok(text) }
}
