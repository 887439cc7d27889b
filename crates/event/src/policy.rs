//! Policy servers: whose signature recommends an event for a room
//! (server-server API, "Policy Servers").

use bytes::Bytes;

use crate::canonical_json;
use crate::json::{Json, Object};
use crate::pdu::{MAX_PDU_BYTES, Pdu};
use crate::room_version::Rules;
use crate::signatures::{Verified, VerifyKey, add_signature, signed_bytes};

/// The key ID of every policy server.
pub const POLICY_KEY_ID: &str = "ed25519:policy_server";

/// A room's policy server, as its `m.room.policy` event names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyServer {
    /// The server; it counts only while one of its users is joined.
    pub server: String,
    key: VerifyKey,
}

impl PolicyServer {
    /// The policy server that the content of an `m.room.policy` event with an
    /// empty state key names; `None` if it names none validly.
    pub fn from_content(content: &Object) -> Option<PolicyServer> {
        let server = content.get("via")?.as_str()?.to_owned();
        let public = content.get("public_keys")?.get("ed25519")?.as_str()?;
        // The state event vouches for the key, not a time.
        let key = VerifyKey::from_b64(public, u64::MAX, None)?;
        Some(PolicyServer { server, key })
    }

    /// Whether an event carries this server's valid signature, or needs none.
    pub fn recommends(&self, rules: &Rules, pdu: &Pdu) -> bool {
        if is_exempt(pdu) {
            return true;
        }
        let object = pdu.object();
        let signature = object.get("signatures").and_then(|all| all.get(&self.server)?.get(POLICY_KEY_ID));
        let signature = signature.and_then(Json::as_str);
        signature.is_some_and(|signature| self.key.verify(&signed_bytes(rules, &object), signature))
    }

    /// The event with the signature that the policy server answered; `None` if
    /// that is invalid or makes the event too large.
    pub fn add_signature(&self, rules: &Rules, event: &Verified, signature: &str) -> Option<Verified> {
        let mut object = event.pdu().object();
        if !self.key.verify(&signed_bytes(rules, &object), signature) {
            return None;
        }
        add_signature(&mut object, &self.server, POLICY_KEY_ID, signature.to_owned());
        let bytes = Bytes::from(canonical_json::to_bytes(&object));
        if bytes.len() > MAX_PDU_BYTES {
            return None;
        }
        let signed = Pdu::stored(rules, event.pdu().event_id.clone(), bytes).ok()?;
        Some(Verified::new(signed, event.redacted()))
    }
}

/// Whether an event is never shown to the policy server: the one that names it.
pub fn is_exempt(pdu: &Pdu) -> bool {
    pdu.is_state_of("m.room.policy", "")
}
