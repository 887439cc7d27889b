//! `GET /_matrix/client/v3/voip/turnServer`
//! (<https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3voipturnserver>).

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, RateClass, Requester};
use serde_json::{Value, json};

use crate::{Routes, State};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/voip/turnServer", get(turn_server))
}

/// An empty object where there is no TURN server: clients then try without.
async fn turn_server(requester: Requester, extract::State(state): extract::State<State>) -> Result<Json<Value>, Error> {
    state.door.limit(RateClass::Requests, &requester)?;
    let Some(credentials) = state.users.turn_credentials(&requester.user_id) else { return Ok(Json(json!({}))) };
    Ok(Json(json!({
        "username": credentials.username,
        "password": credentials.password,
        "uris": credentials.uris,
        "ttl": credentials.lifetime_s,
    })))
}
