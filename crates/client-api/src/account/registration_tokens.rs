//! `GET /_matrix/client/v1/register/m.login.registration_token/validity`
//! (<https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1registermloginregistration_tokenvalidity>; CA17).

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{ClientAddress, Error, Query, RateClass};
use serde::Deserialize;
use serde_json::{Value, json};
use users::RegistrationMode;

use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    let path = "/register/m.login.registration_token/validity";
    Router::new()
        .client_v1(path, get(validity))
        .unstable("/org.matrix.msc3231/register/org.matrix.msc3231.login.registration_token/validity", get(validity))
}

#[derive(Debug, Deserialize)]
struct Token {
    token: String,
}

async fn validity(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    Query(Token { token }): Query<Token>,
) -> Result<Json<Value>, Error> {
    state.door.limit_address(RateClass::Registrations, client)?;
    if state.users.options().registration == RegistrationMode::Closed {
        return Err(Error::forbidden("Registration is closed."));
    }
    let valid = state.users.registration_token_is_valid(&token).await.map_err(error_map::users)?;
    Ok(Json(json!({ "valid": valid })))
}
