//! `GET /_matrix/client/unstable/org.matrix.msc4143/rtc/transports`: through what calls of MatrixRTC go (MSC4143, MSC4195).

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::Requester;
use serde_json::{Value, json};

use crate::{Options, Routes, State};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().unstable("/org.matrix.msc4143/rtc/transports", get(rtc_transports))
}

async fn rtc_transports(_: Requester, extract::State(options): extract::State<Arc<Options>>) -> Json<Value> {
    Json(json!({ "rtc_transports": transports(&options) }))
}

/// The services that are configured, the preferred first.
pub(crate) fn transports(options: &Options) -> Vec<Value> {
    let urls = options.livekit_urls.iter();
    urls.map(|url| json!({ "type": "livekit", "livekit_service_url": url })).collect()
}
