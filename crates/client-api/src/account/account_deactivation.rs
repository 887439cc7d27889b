//! `POST /_matrix/client/v3/account/deactivate`
//! (<https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate>; behaviour CA8).

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, OptionalBody, Requester};
use serde::Deserialize;
use serde_json::{Value, json};

use super::uia::{BY_PASSWORD, Body, Target, prove};
use super::{jobs, typed};
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/account/deactivate", post(deactivate))
}

#[derive(Debug, Deserialize)]
struct Deactivation {
    #[serde(default)]
    erase: bool,
}

async fn deactivate(
    extract::State(state): extract::State<State>,
    requester: Requester,
    target: Target,
    OptionalBody(body): Body,
) -> Result<Json<Value>, Error> {
    let deactivation: Deactivation = typed(&body)?;
    prove(&state, BY_PASSWORD, &target, Some(&requester), &body).await?;
    state.users.deactivate(&requester.user_id, deactivation.erase).await.map_err(error_map::users)?;
    jobs::leave_rooms(&state.users, &state.rooms, &requester.user_id).await?;
    // No third-party identifiers are kept, so none is left bound.
    Ok(Json(json!({ "id_server_unbind_result": "success" })))
}
