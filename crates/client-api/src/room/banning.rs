//! `POST /_matrix/client/v3/rooms/{roomId}/ban` and `POST /_matrix/client/v3/rooms/{roomId}/unban`
//! (`data/api/client-server/banning.yaml`).

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, Path, Requester};
use serde_json::{Value, json};

use super::access::parse_user;
use super::kicking::Target;
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/rooms/{room_id}/ban", post(ban)).client("/rooms/{room_id}/unban", post(unban))
}

async fn ban(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
    JsonBody(target): JsonBody<Target>,
) -> Result<Json<Value>, Error> {
    requester.not_suspended()?;
    let user = parse_user(&target.user_id)?;
    let banned = state.rooms.ban(&room_id, &requester.user_id, &user, target.reason.as_deref()).await;
    banned.map_err(error_map::rooms)?;
    Ok(Json(json!({})))
}

async fn unban(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
    JsonBody(target): JsonBody<Target>,
) -> Result<Json<Value>, Error> {
    requester.not_suspended()?;
    let user = parse_user(&target.user_id)?;
    let unbanned = state.rooms.unban(&room_id, &requester.user_id, &user, target.reason.as_deref()).await;
    unbanned.map_err(error_map::rooms)?;
    Ok(Json(json!({})))
}
