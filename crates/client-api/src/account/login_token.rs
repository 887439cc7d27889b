//! `POST /_matrix/client/v1/login/get_token`
//! (<https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv1loginget_token>; behaviours CA10, CA19), and
//! the same under the name that it had as a proposal (MSC3882).

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, OptionalBody, Requester};
use serde_json::{Value, json};

use super::uia::{BY_PASSWORD, Body, Target, prove};
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client_v1("/login/get_token", post(get_token))
        .unstable("/org.matrix.msc3882/login/get_token", post(get_token))
}

async fn get_token(
    extract::State(state): extract::State<State>,
    requester: Result<Requester, Error>,
    target: Target,
    OptionalBody(body): Body,
) -> Result<Json<Value>, Error> {
    if !state.users.options().login_tokens {
        return Err(Error::unrecognized());
    }
    let requester = requester?;
    prove(&state, BY_PASSWORD, &target, Some(&requester), &body).await?;
    let (token, lifetime_ms) = state.users.login_token(&requester.user_id).await.map_err(error_map::users)?;
    Ok(Json(json!({ "login_token": token, "expires_in_ms": lifetime_ms })))
}
