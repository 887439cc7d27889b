//! `POST /_matrix/client/v3/register`, `GET /_matrix/client/v3/register/available`,
//! `POST /_matrix/client/v3/register/{medium}/requestToken`
//! (<https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3register>; behaviours CA3, CA15).

use axum::routing::{get, post};
use axum::{Json, Router, extract};
use endpoint::{ClientAddress, Error, JsonBody, Query, RateClass};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use store::{DeviceId, UserId};
use users::email::AtRegistration;
use users::email::sessions::Purpose;
use users::login::{LoggedIn, NewDevice};
use users::registration::{NewAccount, Registered};
use users::uia::{DUMMY, EMAIL, Flow, REGISTRATION_TOKEN};
use users::{RegistrationMode, SessionKind};

use super::request_token::{EmailBody, begin, no_telephones};
use super::typed;
use super::uia::{Body, Target, names_stage, prove_with_address};
use crate::{Routes, State, error_map};

const TOKEN: Flow = &[REGISTRATION_TOKEN];
const FREE: Flow = &[DUMMY];
/// The address first: a flow of a part of these stages would be complete before the other comes.
const EMAIL_AND_TOKEN: Flow = &[EMAIL, REGISTRATION_TOKEN];
const WITH_EMAIL: Flow = &[EMAIL];
/// The type by which application services register.
const APPSERVICE: &str = "m.login.application_service";

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client("/register", post(register))
        .client("/register/available", get(available))
        .client("/register/email/requestToken", post(request_token))
        .client("/register/msisdn/requestToken", post(no_telephones))
}

async fn request_token(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    JsonBody(body): JsonBody<EmailBody>,
) -> Result<Json<Value>, Error> {
    let users = &state.users;
    if users.options().email.is_some() {
        if flows(&state).await?.is_empty() {
            return Err(closed());
        }
        if users.email_at_registration() == AtRegistration::Off {
            return Err(Error::threepid_denied("Accounts are made without an e-mail address here."));
        }
    }
    begin(&state, client, Purpose::Register, None, &body).await
}

fn closed() -> Error {
    Error::forbidden("Registration is closed.")
}

#[derive(Debug, Deserialize)]
struct Kind {
    kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Registration {
    username: Option<String>,
    password: Option<String>,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    inhibit_login: Option<bool>,
    #[serde(default)]
    refresh_token: Option<bool>,
    #[serde(rename = "type")]
    kind: Option<String>,
    guest_access_token: Option<String>,
}

/// What is read of a guest's registration: every other parameter is ignored, whatever it holds.
#[derive(Debug, Deserialize)]
struct GuestRegistration {
    initial_device_display_name: Option<String>,
}

async fn register(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    Query(Kind { kind }): Query<Kind>,
    target: Target,
    headers: HeaderMap,
    endpoint::OptionalBody(body): Body,
) -> Result<Json<Value>, Error> {
    match kind.as_deref() {
        Some("guest") => {
            let registration = endpoint::body::from_value(Value::Object(body))?;
            return register_guest(&state, client, registration).await;
        }
        Some("user") | None => {}
        Some(_) => return Err(Error::invalid_param("`kind` is `user` or `guest`.")),
    }
    let registration: Registration = typed(&body)?;
    if registration.kind.as_deref() == Some(APPSERVICE) {
        return Err(no_appservice(&headers));
    }
    register_user(&state, client, &target, registration, &body).await
}

/// Application services are not known yet, so no token is one's (AS16).
pub(super) fn no_appservice(headers: &HeaderMap) -> Error {
    if headers.contains_key(AUTHORIZATION) { Error::unknown_token(false) } else { Error::missing_token() }
}

async fn register_user(
    state: &State,
    client: ClientAddress,
    target: &Target,
    registration: Registration,
    body: &Map<String, Value>,
) -> Result<Json<Value>, Error> {
    let flows = flows(state).await?;
    if flows.is_empty() {
        return Err(closed());
    }
    // Names are judged before anything else is asked for (CA19).
    let upgrades = match &registration.guest_access_token {
        Some(token) => Some(guest_of(state, token, registration.username.as_deref()).await?),
        None => None,
    };
    if let Some(name) = registration.username.as_ref().filter(|_| upgrades.is_none()) {
        state.users.available(name).await.map_err(error_map::users)?;
    }
    // Each question for the flows leaves a session behind; only attempts count as registrations. Clients ask every few
    // seconds whether the link of a mail has been followed: that counts once it has been.
    let waits = names_stage(body, EMAIL);
    let attempts = body.contains_key("auth") && !waits;
    let class = if attempts { RateClass::Registrations } else { RateClass::Requests };
    state.door.limit_address(class, client)?;
    if waits {
        state.door.check_address(RateClass::Registrations, client)?;
    }
    let proof = prove_with_address(state, &flows, target, (client, Purpose::Register), body).await?;
    if waits {
        state.door.limit_address(RateClass::Registrations, client)?;
    }
    let login = (registration.inhibit_login != Some(true)).then(|| NewDevice {
        id: registration.device_id.map(DeviceId::from),
        display_name: registration.initial_device_display_name,
        refresh: registration.refresh_token == Some(true),
        kind: SessionKind::Legacy,
    });
    let password = registration.password.ok_or_else(|| Error::missing_param("password"))?;
    let new = NewAccount {
        localpart: registration.username,
        password: Some(password),
        login,
        upgrades,
        proof: Some(proof),
        ..NewAccount::default()
    };
    let registered = state.users.register(new).await.map_err(error_map::users)?;
    Ok(Json(answer(registered)))
}

/// The guest who becomes a user, who must name itself (client-server API, guest access).
async fn guest_of(state: &State, token: &str, name: Option<&str>) -> Result<UserId, Error> {
    let no_guest = || Error::forbidden("`guest_access_token` is no guest's access token.");
    let session = state.users.authenticate(token).await.ok().filter(|session| session.guest).ok_or_else(no_guest)?;
    let name = name.ok_or_else(|| Error::missing_param("username"))?;
    if state.users.check_name(name).map_err(error_map::users)? != session.user {
        return Err(Error::invalid_param("`username` must be the guest's own."));
    }
    Ok(session.user.clone())
}

/// The flows that are open now; none if nobody may register. A fresh server takes its first account's token, also where
/// others need an address.
async fn flows(state: &State) -> Result<Vec<Flow>, Error> {
    let (mode, address) = (state.users.options().registration, state.users.email_at_registration());
    let (without, with) = match mode {
        RegistrationMode::Open => (FREE, WITH_EMAIL),
        RegistrationMode::Token => (TOKEN, EMAIL_AND_TOKEN),
        RegistrationMode::Closed => {
            let fresh = state.users.is_fresh().await.map_err(error_map::users)?;
            return Ok(if fresh { vec![TOKEN] } else { Vec::new() });
        }
    };
    let mut flows = match address {
        AtRegistration::Off => vec![without],
        AtRegistration::Optional => vec![without, with],
        AtRegistration::Required => vec![with],
    };
    if !flows.contains(&TOKEN) && state.users.is_fresh().await.map_err(error_map::users)? {
        flows.push(TOKEN);
    }
    Ok(flows)
}

async fn register_guest(
    state: &State,
    client: ClientAddress,
    registration: GuestRegistration,
) -> Result<Json<Value>, Error> {
    if !state.users.options().guests {
        return Err(Error::forbidden("Guests may not register here."));
    }
    state.door.limit_address(RateClass::Registrations, client)?;
    let login = NewDevice { display_name: registration.initial_device_display_name, ..NewDevice::default() };
    let new = NewAccount { guest: true, login: Some(login), ..NewAccount::default() };
    let registered = state.users.register(new).await.map_err(error_map::users)?;
    Ok(Json(answer(registered)))
}

fn answer(registered: Registered) -> Value {
    match registered.login {
        Some(login) => login_members(&login).into(),
        None => json!({ "user_id": registered.user.as_str() }),
    }
}

/// The members by which `/register` and `/login` say what a client needs.
pub(super) fn login_members(login: &LoggedIn) -> Map<String, Value> {
    let mut members = Map::new();
    members.insert("user_id".to_owned(), login.user.as_str().into());
    members.insert("access_token".to_owned(), login.access_token.clone().into());
    members.insert("device_id".to_owned(), login.device.as_str().into());
    members.insert("home_server".to_owned(), login.user.server_name().into());
    if let Some(token) = &login.refresh_token {
        members.insert("refresh_token".to_owned(), token.clone().into());
    }
    if let Some(lifetime) = login.expires_in_ms {
        members.insert("expires_in_ms".to_owned(), lifetime.into());
    }
    members
}

#[derive(Debug, Deserialize)]
struct Name {
    username: String,
}

async fn available(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    Query(Name { username }): Query<Name>,
) -> Result<Json<Value>, Error> {
    state.door.limit_address(RateClass::Requests, client)?;
    state.users.available(&username).await.map_err(error_map::users)?;
    Ok(Json(json!({ "available": true })))
}
