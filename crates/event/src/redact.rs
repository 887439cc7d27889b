//! The redaction algorithm of each room version, shared by hashing, signing
//! and redacting.

use crate::json::{Json, Object};
use crate::room_version::Rules;

/// Top-level keys that survive in every room version.
const KEYS: &[&str] = &[
    "event_id",
    "type",
    "room_id",
    "sender",
    "state_key",
    "content",
    "hashes",
    "signatures",
    "depth",
    "prev_events",
    "auth_events",
    "origin_server_ts",
];

/// Top-level keys that survive in room versions 1 to 10 only.
const KEYS_BEFORE_V11: &[&str] = &["prev_state", "origin", "membership"];

/// The event without everything that its room version does not protect.
///
/// `unsigned` goes too: what a client is shown of a redaction is added later.
pub fn redact(rules: &Rules, event: &Object) -> Object {
    redact_without(rules, event, &[])
}

/// [`redact`], leaving out some more top-level keys.
pub(crate) fn redact_without(rules: &Rules, event: &Object, without: &[&str]) -> Object {
    let kind = event.get("type").and_then(Json::as_str).unwrap_or_default();
    let mut redacted = Object::new();
    for (key, value) in event {
        if !keeps(rules, key) || without.contains(&key.as_str()) {
            continue;
        }
        let value = match value {
            Json::Object(content) if key == "content" => Json::Object(redact_content(rules, kind, content)),
            other => other.clone(),
        };
        redacted.insert(key.clone(), value);
    }
    redacted
}

fn keeps(rules: &Rules, key: &str) -> bool {
    KEYS.contains(&key) || (!rules.redaction_v11 && KEYS_BEFORE_V11.contains(&key))
}

/// The part of an event's content that survives redaction.
pub fn redact_content(rules: &Rules, kind: &str, content: &Object) -> Object {
    if kind == "m.room.create" && rules.redaction_v11 {
        return content.clone();
    }
    let mut redacted: Object = protected_keys(rules, kind)
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), content.get(*key)?.clone())))
        .collect();
    if kind == "m.room.member" {
        if rules.redaction_keeps_authorised_via {
            let key = "join_authorised_via_users_server";
            redacted.extend(content.get(key).map(|value| (key.to_owned(), value.clone())));
        }
        if rules.redaction_v11 {
            redacted.extend(signed_third_party_invite(content));
        }
    }
    if kind == "m.room.join_rules" && rules.redaction_keeps_allow {
        redacted.extend(content.get("allow").map(|value| ("allow".to_owned(), value.clone())));
    }
    redacted
}

/// Keys of the content that survive; the additions for members and join rules
/// are made by the caller.
fn protected_keys(rules: &Rules, kind: &str) -> &'static [&'static str] {
    match kind {
        "m.room.member" => &["membership"],
        "m.room.create" => &["creator"],
        "m.room.join_rules" => &["join_rule"],
        "m.room.power_levels" if rules.redaction_v11 => {
            &["ban", "events", "events_default", "invite", "kick", "redact", "state_default", "users", "users_default"]
        }
        "m.room.power_levels" => {
            &["ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default"]
        }
        "m.room.history_visibility" => &["history_visibility"],
        "m.room.aliases" if rules.special_aliases => &["aliases"],
        "m.room.redaction" if rules.redaction_v11 => &["redacts"],
        _ => &[],
    }
}

/// `third_party_invite` with nothing but its `signed` (11+). Without a `signed`
/// an empty object stays: the hash depends on it, and other servers keep it.
fn signed_third_party_invite(content: &Object) -> Option<(String, Json)> {
    let key = "third_party_invite";
    let signed = content.get(key)?.as_object()?.get_key_value("signed");
    let kept: Object = signed.map(|(key, value)| (key.clone(), value.clone())).into_iter().collect();
    Some((key.to_owned(), Json::Object(kept)))
}
