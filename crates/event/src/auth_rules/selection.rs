//! Auth events selection (server-server API).

use crate::json::{Json, Object};
use crate::room_version::Rules;
use crate::third_party;

/// The state entries whose events belong into `auth_events`, in a fixed order
/// and without repetition. What the state does not hold is left out by the caller.
pub fn auth_types(
    rules: &Rules,
    sender: &str,
    kind: &str,
    state_key: Option<&str>,
    content: &Object,
) -> Vec<(String, String)> {
    if kind == "m.room.create" {
        return Vec::new();
    }
    let mut types = Vec::with_capacity(6);
    let mut add = |kind: &str, state_key: &str| {
        let entry = (kind.to_owned(), state_key.to_owned());
        if !types.contains(&entry) {
            types.push(entry);
        }
    };
    if !rules.special_create {
        add("m.room.create", "");
    }
    add("m.room.power_levels", "");
    add("m.room.member", sender);
    let (true, Some(target)) = (kind == "m.room.member", state_key) else {
        return types;
    };
    add("m.room.member", target);
    let membership = content.get("membership").and_then(Json::as_str).unwrap_or_default();
    if matches!(membership, "join" | "invite" | "knock") {
        add("m.room.join_rules", "");
    }
    if membership == "invite"
        && let Some(token) = third_party::token(content)
    {
        add(third_party::OFFER, token);
    }
    if membership == "join"
        && rules.restricted
        && let Some(Json::String(user)) = content.get("join_authorised_via_users_server")
    {
        add("m.room.member", user);
    }
    types
}
