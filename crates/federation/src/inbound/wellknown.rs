//! `GET /.well-known/matrix/server` (`data/api/server-server/wellknown.yaml`).

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::Error;
use serde_json::{Value, json};

use crate::Federation;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new().route("/.well-known/matrix/server", get(server))
}

/// Absent (404) where nothing is configured: other servers then look for an SRV record, or try port 8448.
async fn server(extract::State(federation): extract::State<Arc<Federation>>) -> Result<Json<Value>, Error> {
    let delegated = federation.options.delegated_to.as_ref();
    let delegated = delegated.ok_or_else(|| Error::not_found("This server is not delegated."))?;
    Ok(Json(json!({ "m.server": delegated })))
}
