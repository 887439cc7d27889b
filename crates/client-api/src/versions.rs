//! `GET /_matrix/client/versions`: what is really implemented (behaviour CB12).
//!
//! Needs no token and is the same for everybody. A version stands here as long as what clients do when they see it works.

use std::sync::LazyLock;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};

use crate::State;

/// Versions of the specification. From v1.15 on, clients would look for the OAuth 2.0 API, which is not there yet.
const VERSIONS: &[&str] = &[
    "r0.6.0", "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11",
    "v1.12", "v1.13", "v1.14",
];

/// Proposals that clients look for by flag, also where the feature has long been part of the specification.
const FEATURES: &[&str] = &[
    // Cross-signing.
    "org.matrix.e2e_cross_signing",
    // Private read receipts.
    "org.matrix.msc2285.stable",
    // Threads, their receipts and their counts.
    "org.matrix.msc3440.stable",
    "org.matrix.msc3771",
    "org.matrix.msc3773",
    // Events by time.
    "org.matrix.msc3030",
    // Room types in the directory.
    "org.matrix.msc3827.stable",
    // Media for those who have an account alone.
    "org.matrix.msc3916.stable",
    // Mentions by name.
    "org.matrix.msc3952_intentional_mentions",
    // Dehydrated devices.
    "org.matrix.msc3814",
    // Relations of relations.
    "org.matrix.msc3981",
    // Fields of profiles.
    "uk.tcpip.msc4133",
    "uk.tcpip.msc4133.stable",
    // Simplified sliding sync.
    "org.matrix.simplified_msc3575",
    // Locking and suspending accounts.
    "uk.timedout.msc4323",
];

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().route("/_matrix/client/versions", get(versions))
}

/// The answer, made once.
static ANSWER: LazyLock<Bytes> = LazyLock::new(|| {
    let features: Map<String, Value> = FEATURES.iter().map(|name| ((*name).to_owned(), Value::Bool(true))).collect();
    json!({ "versions": VERSIONS, "unstable_features": features }).to_string().into()
});

async fn versions() -> Response {
    ([(CONTENT_TYPE, "application/json")], ANSWER.clone()).into_response()
}
