//! `GET` and `POST /_matrix/client/v3/account/3pid`, `POST …/account/3pid/add`, `…/bind`, `…/unbind`, `…/delete`,
//! `…/{medium}/requestToken` (<https://spec.matrix.org/v1.19/client-server-api/#adding-account-administrative-contact-information>;
//! behaviour CA15).
//!
//! There is no identity server that this one would trust, so nothing is bound to one or unbound from it.

use axum::routing::{get, post};
use axum::{Json, Router, extract};
use endpoint::{ClientAddress, Error, JsonBody, OptionalBody, OptionalRequester, RateClass, Requester, error};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use store::UserId;
use users::email::sessions::Purpose;

use super::request_token::{EmailBody, begin, no_telephones};
use super::typed;
use super::uia::{BY_PASSWORD, Body, Target, prove};
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client("/account/3pid", get(list).post(add_of_old))
        .client("/account/3pid/add", post(add))
        .client("/account/3pid/bind", post(bind))
        .client("/account/3pid/unbind", post(unbind))
        .client("/account/3pid/delete", post(delete))
        .client("/account/3pid/email/requestToken", post(request_token))
        .client("/account/3pid/msisdn/requestToken", post(no_telephones))
}

async fn list(extract::State(state): extract::State<State>, requester: Requester) -> Result<Json<Value>, Error> {
    let rows = state.users.threepids(&requester.user_id).await.map_err(error_map::users)?;
    let shown = rows.into_iter().map(|row| {
        json!({
            "medium": row.medium,
            "address": row.address,
            "validated_at": row.validated_ms,
            "added_at": row.added_ms,
        })
    });
    Ok(Json(json!({ "threepids": shown.collect::<Vec<_>>() })))
}

async fn request_token(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    OptionalRequester(requester): OptionalRequester,
    JsonBody(body): JsonBody<EmailBody>,
) -> Result<Json<Value>, Error> {
    // Clients ask with or without their token; with it, the session is theirs alone.
    let user = requester.as_ref().filter(|requester| !requester.guest).map(|requester| &requester.user_id);
    begin(&state, client, Purpose::Add, user, &body).await
}

#[derive(Debug, Deserialize)]
struct Addition {
    client_secret: Option<String>,
    sid: Option<String>,
}

async fn add(
    extract::State(state): extract::State<State>,
    requester: Requester,
    client: ClientAddress,
    target: Target,
    OptionalBody(body): Body,
) -> Result<Json<Value>, Error> {
    let addition: Addition = typed(&body)?;
    add_proven(&state, &requester, client, &target, &body, &addition).await.map_err(in_words_of_add)
}

/// The way to add an address before there was `/add`. The password is asked for here too: who has an address can set a new
/// one.
async fn add_of_old(
    extract::State(state): extract::State<State>,
    requester: Requester,
    client: ClientAddress,
    target: Target,
    OptionalBody(body): Body,
) -> Result<Json<Value>, Error> {
    #[derive(Debug, Deserialize)]
    struct Old {
        three_pid_creds: Option<Addition>,
    }
    let old: Old = typed(&body)?;
    let addition = old.three_pid_creds.ok_or_else(|| Error::missing_param("three_pid_creds"))?;
    let added = add_proven(&state, &requester, client, &target, &body, &addition).await;
    added.map_err(|error| with_status(error, StatusCode::FORBIDDEN))
}

async fn add_proven(
    state: &State,
    requester: &Requester,
    client: ClientAddress,
    target: &Target,
    body: &Map<String, Value>,
    Addition { client_secret, sid }: &Addition,
) -> Result<Json<Value>, Error> {
    let client_secret = client_secret.as_deref().ok_or_else(|| Error::missing_param("client_secret"))?;
    let sid = sid.as_deref().ok_or_else(|| Error::missing_param("sid"))?;
    state.door.check_address(RateClass::Logins, client)?;
    // Before anybody is asked for a password in vain.
    if let Err(error) = state.users.check_addable(&requester.user_id, sid, client_secret).await {
        if matches!(error, users::Error::EmailSessionUnknown) {
            state.door.limit_address(RateClass::Logins, client)?;
        }
        return Err(error_map::users(error));
    }
    prove(state, BY_PASSWORD, target, Some(requester), body).await?;
    state.users.add_threepid(&requester.user_id, sid, client_secret).await.map_err(error_map::users)?;
    Ok(error::empty())
}

/// 401 is for the password alone here: clients would ask for it once more.
fn in_words_of_add(error: Error) -> Error {
    with_status(error, StatusCode::BAD_REQUEST)
}

fn with_status(error: Error, status: StatusCode) -> Error {
    if error.errcode == Error::threepid_auth_failed().errcode { error.status(status) } else { error }
}

async fn bind(_: Requester, OptionalBody(body): Body) -> Result<Json<Value>, Error> {
    #[derive(Debug, Deserialize)]
    struct Binding {
        client_secret: Option<String>,
        id_server: Option<String>,
        id_access_token: Option<String>,
        sid: Option<String>,
    }
    let Binding { client_secret, id_server, id_access_token, sid } = typed(&body)?;
    let members = [
        ("client_secret", client_secret),
        ("id_server", id_server),
        ("id_access_token", id_access_token),
        ("sid", sid),
    ];
    match members.iter().find(|(_, value)| value.is_none()) {
        Some((name, _)) => Err(Error::missing_param(name)),
        None => Err(Error::server_not_trusted()),
    }
}

#[derive(Debug, Deserialize)]
struct Identifier {
    medium: Option<String>,
    address: Option<String>,
    #[serde(rename = "id_server")]
    _id_server: Option<String>,
}

impl Identifier {
    fn pair(&self) -> Result<(&str, &str), Error> {
        let medium = self.medium.as_deref().ok_or_else(|| Error::missing_param("medium"))?;
        let address = self.address.as_deref().ok_or_else(|| Error::missing_param("address"))?;
        match medium {
            "email" | "msisdn" => Ok((medium, address)),
            _ => Err(Error::invalid_param("`medium` is `email` or `msisdn`.")),
        }
    }
}

/// Nothing was ever bound through this server.
async fn unbind(_: Requester, JsonBody(body): JsonBody<Identifier>) -> Result<Json<Value>, Error> {
    body.pair()?;
    Ok(unbound())
}

async fn delete(
    extract::State(state): extract::State<State>,
    requester: Requester,
    JsonBody(body): JsonBody<Identifier>,
) -> Result<Json<Value>, Error> {
    state.door.limit(RateClass::Requests, &requester)?;
    let (medium, address) = body.pair()?;
    let user: &UserId = &requester.user_id;
    state.users.delete_threepid(user, medium, address).await.map_err(error_map::users)?;
    Ok(unbound())
}

fn unbound() -> Json<Value> {
    Json(json!({ "id_server_unbind_result": "no-support" }))
}
