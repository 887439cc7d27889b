//! `POST /_matrix/client/v3/refresh`
//! (<https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3refresh>; behaviour CA9).

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{ClientAddress, Error, JsonBody, RateClass};
use serde::Deserialize;
use serde_json::{Value, json};
use users::SessionKind;

use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/refresh", post(refresh)).client_v1("/refresh", post(refresh))
}

#[derive(Debug, Deserialize)]
struct Body {
    refresh_token: String,
}

async fn refresh(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<Value>, Error> {
    let refreshed = match state.users.refresh(&body.refresh_token, SessionKind::Legacy).await {
        Ok(refreshed) => refreshed,
        Err(error) => {
            // Guesses are limited; clients refresh as often as they must.
            state.door.limit_address(RateClass::Logins, client)?;
            return Err(error_map::users(error));
        }
    };
    Ok(Json(json!({
        "access_token": refreshed.access_token,
        "refresh_token": refreshed.refresh_token,
        "expires_in_ms": refreshed.expires_in_ms,
    })))
}
