//! `GET /_matrix/client/v3/joined_rooms` (`data/api/client-server/list_joined_rooms.yaml`).

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, Requester};
use serde_json::{Value, json};

use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/joined_rooms", get(joined_rooms))
}

async fn joined_rooms(
    requester: Requester,
    extract::State(state): extract::State<State>,
) -> Result<Json<Value>, Error> {
    let joined = state.rooms.joined_room_ids(&requester.user_id).await.map_err(error_map::rooms)?;
    Ok(Json(json!({ "joined_rooms": joined })))
}
