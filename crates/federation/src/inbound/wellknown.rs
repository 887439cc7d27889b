//! `GET /.well-known/matrix/server` (`data/api/server-server/wellknown.yaml`).

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::Error;
use serde_json::{Value, json};

/// The routes of this file.
pub(super) fn router(delegated_to: Option<String>) -> Router {
    Router::new().route("/.well-known/matrix/server", get(server)).with_state(Arc::new(delegated_to))
}

/// Absent (404) where nothing is configured: other servers then look for an SRV record, or try port 8448.
async fn server(extract::State(delegated): extract::State<Arc<Option<String>>>) -> Result<Json<Value>, Error> {
    let delegated = delegated.as_ref().as_ref().ok_or_else(|| Error::not_found("This server is not delegated."))?;
    Ok(Json(json!({ "m.server": delegated })))
}
