//! `GET` and `PUT /_matrix/client/v3/presence/{userId}/status`
//! (<https://spec.matrix.org/v1.19/client-server-api/#presence>).

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, Path, RateClass, Requester, error};
use serde::Deserialize;
use serde_json::{Value, json};
use store::UserId;
use users::presence::PresenceState;

use crate::room::mutual_rooms;
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/presence/{user_id}/status", get(get_status).put(put_status))
}

async fn get_status(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(user_id): Path<String>,
) -> Result<Json<Value>, Error> {
    let user = UserId::from(user_id);
    if user != requester.user_id && !is_friend(&state, &requester.user_id, &user).await? {
        return Err(Error::forbidden("You are not allowed to see their presence."));
    }
    let Some(presence) = state.users.presence(&user) else {
        return Ok(Json(json!({ "presence": PresenceState::Offline.as_str() })));
    };
    let ago = (state.clock.now_ms() - presence.active_ms).max(0);
    let mut answer = json!({
        "presence": presence.state.as_str(),
        "last_active_ago": ago,
        "currently_active": presence.currently_active,
    });
    if let Some(status) = presence.status {
        answer["status_msg"] = status.into();
    }
    Ok(Json(answer))
}

/// Whether two users share a room, of which the first is of this server.
async fn is_friend(state: &State, user: &UserId, other: &UserId) -> Result<bool, Error> {
    if state.users.is_local(other) {
        return Ok(state.rooms.local_friends(user).await.map_err(error_map::rooms)?.contains(other));
    }
    Ok(!mutual_rooms::shared(state, user, other).await?.is_empty())
}

#[derive(Debug, Deserialize)]
struct Body {
    presence: String,
    status_msg: Option<String>,
}

async fn put_status(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(user_id): Path<String>,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<Value>, Error> {
    requester.is_user(&user_id)?;
    state.door.limit(RateClass::Requests, &requester)?;
    let presence = PresenceState::parse(&body.presence)
        .ok_or_else(|| Error::invalid_param("`presence` is `online`, `offline` or `unavailable`."))?;
    state.users.set_presence(&requester.user_id, presence, body.status_msg).map_err(error_map::users)?;
    Ok(error::empty())
}
