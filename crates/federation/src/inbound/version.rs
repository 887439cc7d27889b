//! `GET /_matrix/federation/v1/version` (`data/api/server-server/version.yaml`).

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, extract};
use serde_json::{Value, json};

use crate::Federation;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new().route("/_matrix/federation/v1/version", get(version))
}

async fn version(extract::State(federation): extract::State<Arc<Federation>>) -> Json<Value> {
    let options = &federation.options;
    Json(json!({ "server": { "name": options.software, "version": options.version } }))
}
