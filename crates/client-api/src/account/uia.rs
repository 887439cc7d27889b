//! User-interactive authentication as HTTP has it: 401 with flows until one is complete
//! (<https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api>; behaviours CA1, CA2).

use axum::extract::FromRequestParts;
use endpoint::{ClientAddress, Error, OptionalBody, RateClass, Requester};
use http::request::Parts;
use http::{Method, StatusCode, Uri};
use serde_json::{Map, Value};
use users::SessionKind;
use users::email::sessions::Purpose;
use users::uia::{Challenge, EMAIL, Failure, Flow, OAUTH, OAUTH_UNSTABLE, Operation, PASSWORD, Proof, Verdict};

use crate::{State, error_map};

/// The flows of everything that an existing account asks for.
pub const BY_PASSWORD: &[Flow] = &[&[PASSWORD]];

/// The flows of what a session of the OAuth API may ask for.
pub const BY_ACCOUNT_PAGE: &[Flow] = &[&[OAUTH], &[OAUTH_UNSTABLE]];

/// A body whose members are looked at twice: by authentication and by the endpoint.
pub type Body = OptionalBody<Map<String, Value>>;

/// Method and path of a request: what a session is bound to.
pub struct Target {
    method: Method,
    uri: Uri,
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(Self { method: parts.method.clone(), uri: parts.uri.clone() })
    }
}

/// Goes on once a flow is complete.
///
/// # Errors
/// `M_BAD_JSON` for an `auth` of the wrong shape; 401 with the flows; `M_LIMIT_EXCEEDED`; `M_FORBIDDEN` if another user was proven, the session belongs to something
/// else, or the requester signed in by OAuth and the flows are not [`BY_ACCOUNT_PAGE`]; `M_UNKNOWN` for an unknown
/// session.
pub async fn prove(
    state: &State,
    flows: &[Flow],
    target: &Target,
    requester: Option<&Requester>,
    body: &Map<String, Value>,
) -> Result<Proof, Error> {
    check_shape(body.get("auth"))?;
    let user = requester.map(|requester| &requester.user_id);
    let kind =
        if requester.is_some_and(|requester| requester.oauth) { SessionKind::OAuth } else { SessionKind::Legacy };
    let attempts = body.get("auth").is_some_and(|auth| auth.get("type").is_some());
    if let Some(requester) = requester.filter(|_| attempts) {
        // Whoever has stolen a token shall not find out the password.
        state.door.limit(RateClass::Logins, requester)?;
    }
    let operation =
        Operation { method: target.method.as_str(), path: target.uri.path(), body, user, kind, email: None };
    judged(state.users.interactive(flows, operation).await)
}

/// As [`prove`], of nobody's client, in flows of which an e-mail address may be a part.
///
/// # Errors
/// As [`prove`].
pub async fn prove_with_address(
    state: &State,
    flows: &[Flow],
    target: &Target,
    (client, purpose): (ClientAddress, Purpose),
    body: &Map<String, Value>,
) -> Result<Proof, Error> {
    check_shape(body.get("auth"))?;
    if names_stage(body, EMAIL) {
        state.door.check_address(RateClass::Logins, client)?;
    }
    let (kind, email) = (SessionKind::Legacy, Some(purpose));
    let operation =
        Operation { method: target.method.as_str(), path: target.uri.path(), body, user: None, kind, email };
    let verdict = state.users.interactive(flows, operation).await;
    if let Ok(Verdict::Challenge(Challenge { failure: Some(Failure::UnknownEmailSession), .. })) = &verdict {
        // Whoever knows of a session shall not find out its secret. Who waits for a mail may ask often.
        state.door.limit_address(RateClass::Logins, client)?;
    }
    judged(verdict)
}

/// Whether a request tries this stage.
pub(super) fn names_stage(body: &Map<String, Value>, stage: &str) -> bool {
    body.get("auth").and_then(|auth| auth.get("type")).and_then(Value::as_str) == Some(stage)
}

fn judged(verdict: Result<Verdict, users::Error>) -> Result<Proof, Error> {
    match verdict {
        Ok(Verdict::Proven(proof)) => Ok(proof),
        Ok(Verdict::Challenge(challenge)) => Err(answer(challenge)),
        Err(users::Error::UnknownToken) => {
            Err(Error::unknown(StatusCode::BAD_REQUEST, "This authentication session is not known."))
        }
        Err(error) => Err(error_map::users(error)),
    }
}

/// Refuses an `auth` that is no object, or whose members have other types than every stage gives them.
///
/// # Errors
/// `M_BAD_JSON`.
pub(super) fn check_shape(auth: Option<&Value>) -> Result<(), Error> {
    let auth = match auth {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Object(auth)) => auth,
        Some(_) => return Err(Error::bad_json("`auth` must be an object.")),
    };
    for name in ["type", "session", "user", "password", "token"] {
        if auth.get(name).is_some_and(|value| !value.is_string() && !value.is_null()) {
            return Err(Error::bad_json(format!("`auth.{name}` must be a string.")));
        }
    }
    Ok(())
}

fn answer(challenge: Challenge) -> Error {
    let members = challenge.members();
    let Some(failure) = challenge.failure else { return Error::authentication_required(members) };
    let failure = match failure {
        Failure::WrongPassword => Error::forbidden("The password is wrong."),
        Failure::WrongToken => Error::unauthorized("The registration token is not valid."),
        Failure::WrongStage => Error::unrecognized_request("No flow goes on with this stage."),
        Failure::Deactivated => Error::user_deactivated(),
        Failure::NotConfirmedYet | Failure::UnknownEmailSession => Error::threepid_auth_failed(),
        Failure::NotAllowedYet => Error::unauthorized("This is to be allowed on the account management page first."),
        Failure::Missing(member) => Error::missing_param(member),
    };
    Error::authentication_failed(members, failure)
}
