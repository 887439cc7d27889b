//! What the `requestToken` endpoints share: `POST …/register/{medium}/requestToken`, `…/account/3pid/{medium}/requestToken`,
//! `…/account/password/{medium}/requestToken` (behaviour CA15).

use axum::Json;
use endpoint::{ClientAddress, Error, RateClass};
use serde::Deserialize;
use serde_json::{Value, json};
use store::UserId;
use users::email::sessions::{Purpose, TokenRequest};

use crate::{State, error_map};

/// What clients send for an e-mail address. An identity server that they name is not asked: this server confirms
/// addresses itself.
#[derive(Debug, Deserialize)]
pub(super) struct EmailBody {
    client_secret: Option<String>,
    email: Option<String>,
    send_attempt: Option<i64>,
    next_link: Option<String>,
}

/// Begins to confirm an address; answers the session.
///
/// # Errors
/// `M_THREEPID_MEDIUM_NOT_SUPPORTED` where this server sends no mail; `M_MISSING_PARAM`, `M_INVALID_PARAM`,
/// `M_LIMIT_EXCEEDED`, `M_THREEPID_DENIED`; `M_THREEPID_IN_USE` and `M_THREEPID_NOT_FOUND` where answers may tell.
pub(super) async fn begin(
    state: &State,
    client: ClientAddress,
    purpose: Purpose,
    user: Option<&UserId>,
    body: &EmailBody,
) -> Result<Json<Value>, Error> {
    if state.users.options().email.is_none() {
        return Err(Error::threepid_medium_not_supported());
    }
    let client_secret = body.client_secret.as_deref().ok_or_else(|| Error::missing_param("client_secret"))?;
    let email = body.email.as_deref().ok_or_else(|| Error::missing_param("email"))?;
    let send_attempt = body.send_attempt.ok_or_else(|| Error::missing_param("send_attempt"))?;
    let next_link = body.next_link.as_deref().filter(|link| !link.is_empty());
    let address = state.users.address_of(email).map_err(error_map::users)?;
    state.door.limit_address(RateClass::Mails, client)?;
    state.door.limiter.take(RateClass::Mails, &address.canonical)?;
    let request = TokenRequest { purpose, user, email, client_secret, send_attempt, next_link };
    let sid = state.users.request_email_token(request).await.map_err(error_map::users)?;
    Ok(Json(json!({ "sid": sid })))
}

/// `POST …/msisdn/requestToken`: nothing here can reach a telephone.
pub(super) async fn no_telephones() -> Error {
    Error::threepid_medium_not_supported()
}
