//! `POST /_matrix/client/v3/logout`, `POST /_matrix/client/v3/logout/all`
//! (<https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3logout>; behaviours CA6, CA13).

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{AnyRequester, Error, error};
use serde_json::Value;

use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/logout", post(logout)).client("/logout/all", post(logout_all))
}

async fn logout(
    extract::State(state): extract::State<State>,
    AnyRequester(requester): AnyRequester,
) -> Result<Json<Value>, Error> {
    let device = requester.device()?.clone();
    state.users.delete_devices(&requester.user_id, &[device]).await.map_err(error_map::users)?;
    Ok(error::empty())
}

async fn logout_all(
    extract::State(state): extract::State<State>,
    AnyRequester(requester): AnyRequester,
) -> Result<Json<Value>, Error> {
    state.users.logout_all(&requester.user_id).await.map_err(error_map::users)?;
    Ok(error::empty())
}
