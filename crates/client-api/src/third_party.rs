//! `GET /_matrix/client/v3/account/3pid` and `GET /_matrix/client/v3/thirdparty/protocols`: there are none, and clients
//! ask in order to know that.

use axum::routing::get;
use axum::{Json, Router};
use endpoint::Requester;
use serde_json::{Value, json};

use crate::{Routes, State};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/account/3pid", get(identifiers)).client("/thirdparty/protocols", get(protocols))
}

/// No e-mail address or phone number can be bound to an account.
async fn identifiers(_: Requester) -> Json<Value> {
    Json(json!({ "threepids": [] }))
}

/// No application service serves other networks.
async fn protocols(_: Requester) -> Json<Value> {
    Json(json!({}))
}
