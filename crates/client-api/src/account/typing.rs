//! `PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}`
//! (<https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidtypinguserid>; behaviour CR24).

use axum::routing::put;
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, Path, RateClass, Requester, error};
use serde::Deserialize;
use serde_json::Value;

use crate::{Routes, State, error_map};

/// How long a user types whose client does not say, in milliseconds.
const TYPING_MS: i64 = 30_000;

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/rooms/{room_id}/typing/{user_id}", put(typing))
}

#[derive(Debug, Deserialize)]
struct Body {
    typing: bool,
    /// In milliseconds.
    timeout: Option<u64>,
}

async fn typing(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path((room_id, user_id)): Path<(String, String)>,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<Value>, Error> {
    requester.is_user(&user_id)?;
    state.door.limit(RateClass::Messages, &requester)?;
    let room = state.rooms.joined_room(&room_id, &requester.user_id).await.map_err(error_map::rooms)?;
    let timeout_ms = body.typing.then(|| body.timeout.map_or(TYPING_MS, |ms| i64::try_from(ms).unwrap_or(i64::MAX)));
    state.users.set_typing(room.num, &requester.user_id, timeout_ms);
    Ok(error::empty())
}
