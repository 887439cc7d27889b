//! `GET /_matrix/client/v3/account/whoami`
//! (<https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3accountwhoami>; behaviour CA14).

use axum::routing::get;
use axum::{Json, Router};
use endpoint::GuestRequester;
use serde_json::{Value, json};

use crate::{Routes, State};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/account/whoami", get(whoami))
}

async fn whoami(GuestRequester(requester): GuestRequester) -> Json<Value> {
    let mut answer = json!({ "user_id": requester.user_id.as_str(), "is_guest": requester.guest });
    if let Some(device) = &requester.device_id {
        answer["device_id"] = device.as_str().into();
    }
    Json(answer)
}
