//! `GET /health`: 200 if the store answers.

use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use endpoint::Error;
use serde_json::{Value, json};
use store::Store;

/// How long the store may take before the server counts as unwell.
const ANSWER_S_MAX: u64 = 5;

/// The route of this file.
pub fn routes(store: Store) -> Router {
    Router::new().route("/health", get(health)).with_state(store)
}

async fn health(State(store): State<Store>) -> Result<Json<Value>, Error> {
    let read = tokio::time::timeout(Duration::from_secs(ANSWER_S_MAX), store.stored_counter());
    match read.await {
        Ok(Ok(_)) => Ok(Json(json!({ "status": "ok" }))),
        Ok(Err(cause)) => {
            tracing::error!(%cause, "the store does not answer");
            Err(Error::unavailable("The store does not answer."))
        }
        Err(_) => Err(Error::unavailable("The store does not answer in time.")),
    }
}
