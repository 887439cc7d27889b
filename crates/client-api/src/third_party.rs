//! `GET /_matrix/client/v3/thirdparty/protocols`: there are none, and clients ask in order to know that.

use axum::routing::get;
use axum::{Json, Router};
use endpoint::Requester;
use serde_json::{Value, json};

use crate::{Routes, State};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/thirdparty/protocols", get(protocols))
}

/// No application service serves other networks.
async fn protocols(_: Requester) -> Json<Value> {
    Json(json!({}))
}
