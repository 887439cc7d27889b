//! `POST /_matrix/client/v3/account/password`, `POST /_matrix/client/v3/account/password/{medium}/requestToken`
//! (<https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountpassword>; behaviours CA7, CA15).

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{ClientAddress, Error, JsonBody, OptionalBody, OptionalRequester, RateClass, error};
use serde::Deserialize;
use serde_json::Value;
use users::email::sessions::Purpose;
use users::uia::{EMAIL, Flow};

use super::request_token::{EmailBody, begin, no_telephones};
use super::typed;
use super::uia::{BY_PASSWORD, Body, Target, prove, prove_with_address};
use crate::{Routes, State, error_map};

/// The flows of whoever has forgotten the password.
const BY_EMAIL: &[Flow] = &[&[EMAIL]];

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client("/account/password", post(change))
        .client("/account/password/email/requestToken", post(request_token))
        .client("/account/password/msisdn/requestToken", post(no_telephones))
}

async fn request_token(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    JsonBody(body): JsonBody<EmailBody>,
) -> Result<Json<Value>, Error> {
    begin(&state, client, Purpose::Reset, None, &body).await
}

#[derive(Debug, Deserialize)]
struct Change {
    new_password: Option<String>,
    logout_devices: Option<bool>,
}

async fn change(
    extract::State(state): extract::State<State>,
    OptionalRequester(requester): OptionalRequester,
    client: ClientAddress,
    target: Target,
    OptionalBody(body): Body,
) -> Result<Json<Value>, Error> {
    let users = &state.users;
    if requester.is_none() && users.options().email.is_none() {
        return Err(Error::missing_token());
    }
    if requester.as_ref().is_some_and(|requester| requester.guest) {
        return Err(Error::guest_access_forbidden());
    }
    let change: Change = typed(&body)?;
    let password = change.new_password.ok_or_else(|| Error::missing_param("new_password"))?;
    let logout_devices = change.logout_devices.unwrap_or(true);
    match &requester {
        Some(requester) => {
            prove(&state, BY_PASSWORD, &target, Some(requester), &body).await?;
            let (user, keep) = (&requester.user_id, requester.device_id.as_ref());
            users.change_password(user, &password, logout_devices, keep).await.map_err(error_map::users)?;
        }
        None => {
            state.door.limit_address(RateClass::Requests, client)?;
            let proof = prove_with_address(&state, BY_EMAIL, &target, (client, Purpose::Reset), &body).await?;
            users.reset_password(&proof, &password, logout_devices).await.map_err(error_map::users)?;
        }
    }
    Ok(error::empty())
}
