//! `GET` and `POST /_matrix/client/v3/login`
//! (<https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3login>; behaviours CA4, CA5, CA10).

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{ClientAddress, Error, JsonBody, RateClass};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use store::DeviceId;
use users::SessionKind;
use users::email::address::Address;
use users::login::NewDevice;

use super::registration::{login_members, no_appservice};
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/login", get(flows).post(login))
}

async fn flows(extract::State(state): extract::State<State>) -> Json<Value> {
    let mut flows = vec![json!({ "type": "m.login.password" })];
    if state.users.options().login_tokens {
        flows.push(json!({ "type": "m.login.token", "get_login_token": true }));
    }
    Json(json!({ "flows": flows }))
}

#[derive(Debug, Deserialize)]
struct Body {
    #[serde(rename = "type")]
    kind: String,
    identifier: Option<Identifier>,
    user: Option<String>,
    medium: Option<String>,
    address: Option<String>,
    password: Option<String>,
    token: Option<String>,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
    refresh_token: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Identifier {
    #[serde(rename = "type")]
    kind: Option<String>,
    user: Option<String>,
    medium: Option<String>,
    address: Option<String>,
}

impl Body {
    fn device(&self) -> NewDevice {
        NewDevice {
            id: self.device_id.as_deref().filter(|id| !id.is_empty()).map(DeviceId::from),
            display_name: self.initial_device_display_name.clone(),
            refresh: self.refresh_token == Some(true),
            kind: SessionKind::Legacy,
        }
    }

    /// Who logs in, in the place of today or those of old.
    fn who(&self) -> Result<Who<'_>, Error> {
        let Some(identifier) = &self.identifier else {
            return match (&self.user, &self.medium, &self.address) {
                (Some(user), _, _) => Ok(Who::User(user)),
                (None, Some(medium), Some(address)) => Ok(Who::Threepid { medium, address }),
                _ => Err(Error::missing_param("identifier")),
            };
        };
        let has_address = identifier.medium.is_some() && identifier.address.is_some();
        match identifier.kind.as_deref() {
            Some("m.id.user") => {
                let user = identifier.user.as_deref().ok_or_else(|| Error::missing_param("identifier.user"))?;
                Ok(Who::User(user))
            }
            // An example of the specification leaves the type out.
            None if !has_address => Err(Error::bad_json("`identifier.type` is missing.")),
            None | Some("m.id.thirdparty") => {
                let medium = identifier.medium.as_deref().ok_or_else(|| Error::missing_param("identifier.medium"))?;
                let address =
                    identifier.address.as_deref().ok_or_else(|| Error::missing_param("identifier.address"))?;
                Ok(Who::Threepid { medium, address })
            }
            // No account has a telephone number: it is as with an unknown user.
            Some("m.id.phone") => Ok(Who::Threepid { medium: "msisdn", address: "" }),
            Some(_) => Err(Error::unknown(StatusCode::BAD_REQUEST, "This type of identifier is not known.")),
        }
    }
}

/// Who logs in.
enum Who<'a> {
    /// The owner of a name.
    User(&'a str),
    /// The owner of a third-party identifier.
    Threepid { medium: &'a str, address: &'a str },
}

/// An address as attempts are counted by it: in the form by which the account is found.
fn limited_address(address: &str) -> String {
    Address::parse(address).map_or_else(|| address.to_lowercase(), |address| address.canonical)
}

async fn login(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    headers: HeaderMap,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<Value>, Error> {
    state.door.limit_address(RateClass::Logins, client)?;
    let login = match body.kind.as_str() {
        "m.login.password" => {
            let who = body.who()?;
            let password = body.password.as_deref().ok_or_else(|| Error::missing_param("password"))?;
            let name = match who {
                Who::User(name) => {
                    if let Some(user) = state.users.named(name) {
                        state.door.limiter.take(RateClass::Logins, user.as_str())?;
                    }
                    name.to_owned()
                }
                Who::Threepid { medium, address } => {
                    // Counted by the address, known or not: a limit of the account would tell whose it is.
                    state.door.limiter.take(RateClass::Logins, &limited_address(address))?;
                    state.users.name_of_threepid(medium, address).await.map_err(error_map::users)?
                }
            };
            state.users.login_by_password(&name, password, body.device()).await.map_err(error_map::users)?
        }
        "m.login.token" => {
            let token = body.token.as_deref().ok_or_else(|| Error::missing_param("token"))?;
            state.users.login_by_token(token, body.device()).await.map_err(|error| match error {
                users::Error::UnknownToken => Error::forbidden("The login token is not valid."),
                error => error_map::users(error),
            })?
        }
        "m.login.application_service" => return Err(no_appservice(&headers)),
        _ => {
            return Err(Error::unknown(StatusCode::BAD_REQUEST, "This type of login is not known."));
        }
    };
    Ok(Json(login_members(&login).into()))
}
