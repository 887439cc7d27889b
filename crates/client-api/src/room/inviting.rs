//! `POST /_matrix/client/v3/rooms/{roomId}/invite` (`data/api/client-server/inviting.yaml`,
//! `third_party_membership.yaml`).

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, Path, RateClass, Requester};
use event::{Json as EventJson, Object};
use serde::Deserialize;
use serde_json::{Value, json};
use store::UserId;

use super::access::parse_user;
use super::people;
use crate::{Routes, State, error_map, remote};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/rooms/{room_id}/invite", post(invite))
}

#[derive(Debug, Deserialize)]
struct Body {
    user_id: Option<String>,
    reason: Option<String>,
    /// Of an invite to a third-party identifier.
    medium: Option<String>,
    address: Option<String>,
}

async fn invite(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<Value>, Error> {
    requester.not_suspended()?;
    state.door.limit(RateClass::Invites, &requester)?;
    let Some(user_id) = body.user_id else {
        return Err(match body.medium.or(body.address) {
            Some(_) => Error::threepid_denied("This server sends no invites to third-party identifiers."),
            None => Error::bad_json("missing field `user_id`"),
        });
    };
    let target = parse_user(&user_id)?;
    if target == requester.user_id {
        return Err(Error::forbidden("You cannot invite yourself."));
    }
    invite_user(&state, &requester, &room_id, &target, body.reason.as_deref(), Object::new()).await?;
    Ok(Json(json!({})))
}

/// Invites a user whose invites are not blocked, with the name and the avatar that a local user has.
///
/// # Errors
/// `M_INVITE_BLOCKED`, and as the room engine says.
pub async fn invite_user(
    state: &State,
    requester: &Requester,
    room_id: &str,
    target: &UserId,
    reason: Option<&str>,
    mut content: Object,
) -> Result<(), Error> {
    // Only a member learns that the target blocks invites.
    state.rooms.joined_room(room_id, &requester.user_id).await.map_err(error_map::rooms)?;
    if let Some(other) = state.remote.as_ref().filter(|_| !state.rooms.is_local(target)) {
        content.retain(|_, value| *value != EventJson::Null);
        let content = remote::with_reason(content, reason);
        let invited = other.handshakes.invite(room_id, &requester.user_id, target, content).await;
        return invited.map_err(remote::invite_error);
    }
    if people::blocks_invites(state, target).await? {
        return Err(error_map::rooms(rooms::Error::InviteBlocked));
    }
    for (name, value) in people::member_profile(state, target).await? {
        content.entry(name).or_insert(value);
    }
    content.retain(|_, value| *value != EventJson::Null);
    let invited = state.rooms.invite(room_id, &requester.user_id, target, reason, content).await;
    invited.map_err(error_map::rooms)
}
