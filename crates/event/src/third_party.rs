//! Invites of people who are known by a third-party identifier: whose signature turns the offer in a room's state into an
//! invite (server-server API, "Third-party invites").

use crate::canonical_json;
use crate::json::{Json, Object};
use crate::signatures::VerifyKey;

/// The state event that offers an invite; its state key is the token.
pub const OFFER: &str = "m.room.third_party_invite";

/// A key of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferKey {
    /// The public half, in Base64 as the offer has it.
    pub public: String,
    /// Where one learns whether the key has been revoked: a question for the inviting server alone.
    pub validity_url: Option<String>,
}

/// `third_party_invite.signed.token` of an invite.
pub fn token(content: &Object) -> Option<&str> {
    content.get("third_party_invite")?.get("signed")?.get("token")?.as_str()
}

/// The key of an offer's content with which the `signed` block of an invite is signed, whoever is named as signer.
pub fn signing_key(signed: &Object, offer: &Object) -> Option<OfferKey> {
    let bytes = canonical_json::to_bytes_without(signed, &["signatures", "unsigned"]);
    let entities = signed.get("signatures")?.as_object()?;
    let all = entities.values().filter_map(Json::as_object).flatten();
    let signatures: Vec<&str> =
        all.filter(|(id, _)| id.starts_with("ed25519:")).filter_map(|(_, signature)| signature.as_str()).collect();
    offer_keys(offer).into_iter().find(|key| {
        let key = VerifyKey::from_b64(&key.public, u64::MAX, None);
        key.is_some_and(|key| signatures.iter().any(|signature| key.verify(&bytes, signature)))
    })
}

/// The keys of an offer: one by itself, as old identity servers gave it, and those of the list.
fn offer_keys(offer: &Object) -> Vec<OfferKey> {
    let text = |of: Option<&Json>| of.and_then(Json::as_str).map(str::to_owned);
    let listed = offer.get("public_keys").and_then(Json::as_array).into_iter().flatten();
    let listed = listed.map(|key| (key.get("public_key"), key.get("key_validity_url")));
    let single = (offer.get("public_key"), offer.get("key_validity_url"));
    let keys = std::iter::once(single).chain(listed);
    keys.filter_map(|(public, url)| Some(OfferKey { public: text(public)?, validity_url: text(url) })).collect()
}
