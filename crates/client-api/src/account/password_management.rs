//! `POST /_matrix/client/v3/account/password`
//! (<https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountpassword>; behaviour CA7).

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, OptionalBody, Requester, error};
use serde::Deserialize;
use serde_json::Value;

use super::typed;
use super::uia::{BY_PASSWORD, Body, Target, prove};
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/account/password", post(change))
}

#[derive(Debug, Deserialize)]
struct Change {
    new_password: Option<String>,
    logout_devices: Option<bool>,
}

async fn change(
    extract::State(state): extract::State<State>,
    requester: Requester,
    target: Target,
    OptionalBody(body): Body,
) -> Result<Json<Value>, Error> {
    let change: Change = typed(&body)?;
    let password = change.new_password.ok_or_else(|| Error::missing_param("new_password"))?;
    prove(&state, BY_PASSWORD, &target, Some(&requester), &body).await?;
    let logout_devices = change.logout_devices.unwrap_or(true);
    let keep = requester.device_id.as_ref();
    let users = &state.users;
    users.change_password(&requester.user_id, &password, logout_devices, keep).await.map_err(error_map::users)?;
    Ok(error::empty())
}
