//! `GET /.well-known/matrix/client`, `GET /.well-known/matrix/support` and `GET /.well-known/matrix/policy_server`

use std::sync::Arc;

use axum::extract;
use axum::routing::get;
use axum::{Json, Router};
use endpoint::Error;
use serde_json::{Value, json};

use crate::{Options, State, rtc};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .route("/.well-known/matrix/client", get(client))
        .route("/.well-known/matrix/support", get(support))
        .route("/.well-known/matrix/policy_server", get(policy_server))
}

/// Absent (404) where no public address is configured: a wrong one would lock clients out.
async fn client(extract::State(options): extract::State<Arc<Options>>) -> Result<Json<Value>, Error> {
    let base_url = options.public_base_url.as_ref().ok_or_else(|| Error::not_found("No address is configured."))?;
    let mut answer = json!({ "m.homeserver": { "base_url": base_url } });
    let transports = rtc::transports(&options);
    if !transports.is_empty() {
        // Where clients looked before there was an endpoint for it (MSC4143).
        answer["org.matrix.msc4143.rtc_foci"] = transports.into();
    }
    Ok(Json(answer))
}

/// Absent (404) where no policy server bears this server's name.
async fn policy_server(extract::State(options): extract::State<Arc<Options>>) -> Result<Json<Value>, Error> {
    let key = options.policy_server_key.as_ref().ok_or_else(|| Error::not_found("No policy server is configured."))?;
    Ok(Json(json!({ "public_keys": { "ed25519": key } })))
}

/// Absent (404) where nobody is named.
async fn support(extract::State(options): extract::State<Arc<Options>>) -> Result<Json<Value>, Error> {
    let mut answer = json!({});
    if !options.support_contacts.is_empty() {
        answer["contacts"] = json!(options.support_contacts);
    }
    if let Some(page) = &options.support_page {
        answer["support_page"] = json!(page);
    }
    if answer == json!({}) {
        return Err(Error::not_found("No support is configured."));
    }
    Ok(Json(answer))
}
