//! `GET` and `POST /_synapse/admin/v1/register`: registration by a shared secret, as many tools know it. The MAC covers
//! nonce, name, password and the admin flag; a nonce is good for one request within a minute.

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{ClientAddress, Error, JsonBody, RateClass};
use serde::Deserialize;
use serde_json::{Value, json};
use users::login::NewDevice;
use users::registration::{NewAccount, SharedSecretProof};

use super::registration::login_members;
use crate::{State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().route("/_synapse/admin/v1/register", get(nonce).post(register))
}

async fn nonce(extract::State(state): extract::State<State>) -> Result<Json<Value>, Error> {
    // Without a secret the route does not exist.
    let nonce = state.users.registration_nonce().ok_or_else(Error::unrecognized)?;
    Ok(Json(json!({ "nonce": nonce })))
}

#[derive(Debug, Deserialize)]
struct Body {
    nonce: String,
    username: String,
    password: String,
    mac: String,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
    displayname: Option<String>,
    #[serde(default)]
    inhibit_login: bool,
}

async fn register(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<Value>, Error> {
    let proof = SharedSecretProof {
        nonce: &body.nonce,
        mac: &body.mac,
        name: &body.username,
        password: &body.password,
        admin: body.admin,
        user_type: body.user_type.as_deref(),
    };
    if state.users.options().shared_secret.is_none() {
        return Err(Error::unrecognized());
    }
    if let Err(error) = state.users.check_shared_secret(&proof) {
        // Guesses are limited, the owner of the secret is not.
        state.door.limit_address(RateClass::Registrations, client)?;
        return Err(error_map::users(error));
    }
    let new = NewAccount {
        localpart: Some(body.username),
        password: Some(body.password),
        admin: body.admin,
        login: (!body.inhibit_login).then(NewDevice::default),
        ..NewAccount::default()
    };
    let registered = state.users.register(new).await.map_err(error_map::users)?;
    if let Some(name) = body.displayname {
        state.users.put_profile_field(&registered.user, "displayname", name.into()).await.map_err(error_map::users)?;
    }
    Ok(Json(match registered.login {
        Some(login) => login_members(&login).into(),
        None => json!({ "user_id": registered.user.as_str() }),
    }))
}
