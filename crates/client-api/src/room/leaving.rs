//! `POST /_matrix/client/v3/rooms/{roomId}/leave` and `POST /_matrix/client/v3/rooms/{roomId}/forget`
//! (`data/api/client-server/leaving.yaml`).

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, GuestRequester, OptionalBody, Path, Requester};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Routes, State, error_map, remote};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/rooms/{room_id}/leave", post(leave)).client("/rooms/{room_id}/forget", post(forget))
}

#[derive(Debug, Default, Deserialize)]
struct Body {
    reason: Option<String>,
}

async fn leave(
    GuestRequester(requester): GuestRequester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
    OptionalBody(body): OptionalBody<Body>,
) -> Result<Json<Value>, Error> {
    let user = &requester.user_id;
    let elsewhere = state.rooms.is_out_of_band(&room_id, user).await.map_err(error_map::rooms)?;
    if elsewhere && let Some(way) = remote::way_to(&state, &room_id, user, &[]).await? {
        let left = way.remote.handshakes.leave(&room_id, user, &way.via, body.reason.as_deref()).await;
        left.map_err(remote::error)?;
        return Ok(Json(json!({})));
    }
    let left = state.rooms.leave(&room_id, &requester.user_id, body.reason.as_deref()).await;
    left.map_err(error_map::rooms)?;
    Ok(Json(json!({})))
}

async fn forget(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
) -> Result<Json<Value>, Error> {
    state.rooms.forget(&room_id, &requester.user_id).await.map_err(|error| match error {
        // The specification names no code of its own for a room that is not left yet.
        rooms::Error::Invalid(message) => Error::unknown(http::StatusCode::BAD_REQUEST, message),
        other => error_map::rooms(other),
    })?;
    Ok(Json(json!({})))
}
