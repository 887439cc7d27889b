//! `POST /_matrix/client/v3/user/{userId}/openid/request_token`
//! (<https://spec.matrix.org/v1.19/client-server-api/#openid>).

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, Path, RateClass, Requester};
use serde_json::{Value, json};

use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/user/{user_id}/openid/request_token", post(request_token))
}

async fn request_token(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(user_id): Path<String>,
) -> Result<Json<Value>, Error> {
    requester.is_user(&user_id)?;
    state.door.limit(RateClass::Requests, &requester)?;
    let (token, lifetime_ms) = state.users.openid_token(&requester.user_id).await.map_err(error_map::users)?;
    Ok(Json(json!({
        "access_token": token,
        "token_type": "Bearer",
        "matrix_server_name": state.options.server_name,
        "expires_in": lifetime_ms / 1_000,
    })))
}
