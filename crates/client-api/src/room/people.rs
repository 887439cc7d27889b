//! What room routes ask about users: the profile that goes into a member event, whom a user ignores, whose invites a
//! user takes.

use std::collections::BTreeSet;

use endpoint::Error;
use event::{Json, Object};
use serde_json::Value;
use store::UserId;

use crate::{State, error_map};

/// Account data that says whose invites are taken (client-server API, invite permission).
const INVITE_PERMISSION: &str = "m.invite_permission_config";

/// Display name and avatar of a local user, as content of a member event.
///
/// # Errors
/// `M_UNKNOWN` when the store fails.
pub async fn member_profile(state: &State, user: &UserId) -> Result<Object, Error> {
    let mut content = Object::new();
    if let Some(name) = state.users.display_name(user).await.map_err(Error::internal)? {
        content.insert("displayname".to_owned(), Json::String(name));
    }
    if let Some(url) = state.users.avatar_url(user).await.map_err(Error::internal)? {
        content.insert("avatar_url".to_owned(), Json::String(url));
    }
    Ok(content)
}

/// The users whom a user ignores.
///
/// # Errors
/// `M_UNKNOWN` when the store fails.
pub async fn ignored(state: &State, user: &UserId) -> Result<BTreeSet<String>, Error> {
    let ignored = state.users.ignored(user).await.map_err(Error::internal)?;
    Ok(ignored.into_iter().map(|user| user.to_string()).collect())
}

/// Whether a user takes no invites at all.
///
/// # Errors
/// `M_UNKNOWN` when the store fails.
pub async fn blocks_invites(state: &State, user: &UserId) -> Result<bool, Error> {
    let content = state.users.account_data(user, "", INVITE_PERMISSION).await.map_err(Error::internal)?;
    let content: Option<Value> = content.and_then(|text| serde_json::from_str(&text).ok());
    Ok(content.is_some_and(|content| content.get("default_action").and_then(Value::as_str) == Some("block")))
}

/// A user has joined a room: what the user keeps about the room that it replaces, if it does, goes along (CR21).
///
/// # Errors
/// `M_UNKNOWN` when the store fails.
pub async fn follow_upgrade(state: &State, user: &UserId, room_id: &str) -> Result<(), Error> {
    let Some(room) = state.rooms.room(room_id).await.map_err(error_map::rooms)? else { return Ok(()) };
    let predecessor = room.create.content.get("predecessor").and_then(|predecessor| predecessor.get("room_id"));
    let Some(old) = predecessor.and_then(Json::as_str) else { return Ok(()) };
    let old = state.rooms.membership(old, user).await.map_err(error_map::rooms)?;
    // Who never was in the old room keeps nothing about it; and the old room must name the new one too, since anyone can
    // claim to have succeeded it.
    let Some(old) = old.filter(|old| old.row.joined_pos.0 > 0) else { return Ok(()) };
    let tombstone = state.rooms.current(&old.room, "m.room.tombstone", "").await.map_err(error_map::rooms)?;
    if tombstone.as_ref().and_then(|event| event.pdu.content_str("replacement_room")) != Some(room_id) {
        return Ok(());
    }
    state.users.follow_upgrade(user, &old.room.id, room_id).await.map_err(Error::internal)
}
