//! `POST /_matrix/client/v3/rooms/{roomId}/kick` (`data/api/client-server/kicking.yaml`).

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, Path, Requester};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::parse_user;
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/rooms/{room_id}/kick", post(kick))
}

/// Whom a moderator deals with, and why.
#[derive(Debug, Deserialize)]
pub struct Target {
    /// The user.
    pub user_id: String,
    /// The reason.
    pub reason: Option<String>,
}

async fn kick(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
    JsonBody(target): JsonBody<Target>,
) -> Result<Json<Value>, Error> {
    requester.not_suspended()?;
    let user = parse_user(&target.user_id)?;
    let kicked = state.rooms.kick(&room_id, &requester.user_id, &user, target.reason.as_deref()).await;
    kicked.map_err(error_map::rooms)?;
    Ok(Json(json!({})))
}
