//! `GET /_matrix/client/versions`: what is really implemented (behaviour CB12).
//!
//! Needs no token and is the same for everybody. A version stands here as long as what clients do when they see it works.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, extract};
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
    // Spaces.
    "org.matrix.msc2946",
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
    // Relations in either order, and relations of relations.
    "org.matrix.msc3715.stable",
    "org.matrix.msc3981",
    // Rooms shared with another, under the name of the proposal and the final one.
    "uk.half-shot.msc2666.query_mutual_rooms",
    "uk.half-shot.msc2666.query_mutual_rooms.stable",
    // Subscriptions to threads.
    "org.matrix.msc4306",
    // Fields of profiles.
    "uk.tcpip.msc4133",
    "uk.tcpip.msc4133.stable",
    // Delayed events.
    "org.matrix.msc4140",
    "org.matrix.msc4140.stable",
    // Sticky events.
    "org.matrix.msc4354",
    // Simplified sliding sync.
    "org.matrix.simplified_msc3575",
    // Pushers that can be switched off.
    "org.matrix.msc3881",
    // Locking and suspending accounts.
    "uk.timedout.msc4323",
];

/// What stands here too where sessions can make a login token for another device.
const LOGIN_TOKENS: &str = "org.matrix.msc3882";

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().route("/_matrix/client/versions", get(versions))
}

/// The answers, made once: without login tokens and with them.
static ANSWERS: LazyLock<[Bytes; 2]> = LazyLock::new(|| {
    [false, true].map(|login_tokens| {
        let names = FEATURES.iter().copied().chain(login_tokens.then_some(LOGIN_TOKENS));
        let features: Map<String, Value> = names.map(|name| (name.to_owned(), Value::Bool(true))).collect();
        json!({ "versions": VERSIONS, "unstable_features": features }).to_string().into()
    })
});

async fn versions(extract::State(state): extract::State<State>) -> Response {
    let [without, with] = &*ANSWERS;
    let answer = if state.users.options().login_tokens { with } else { without };
    ([(CONTENT_TYPE, "application/json")], answer.clone()).into_response()
}
