//! `GET /_matrix/client/versions`: what is really implemented (behaviour CB12).
//!
//! Needs no token and is the same for everybody. A version stands here as long as what clients do when they see it works.

use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::State;

/// Versions of the specification.
const VERSIONS: &[&str] = &[
    "r0.6.0", "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11",
    "v1.12",
];

/// Proposals that clients look for by flag, also where the feature has long been part of the specification.
const FEATURES: &[&str] = &[];

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().route("/_matrix/client/versions", get(versions))
}

async fn versions() -> Json<Value> {
    let features: serde_json::Map<String, Value> =
        FEATURES.iter().map(|name| ((*name).to_owned(), Value::Bool(true))).collect();
    Json(json!({ "versions": VERSIONS, "unstable_features": features }))
}
