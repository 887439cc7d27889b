//! Every error that leaves the server, and the only place where Matrix error codes stand
//! (client-server API, "Standard error response").

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

/// Seconds after which a client should try again when the server cannot serve for a moment.
const RETRY_WHEN_UNAVAILABLE_S: u64 = 2;

/// An answer that says what was wrong with a request: status, `errcode`, `error` and further members.
#[derive(Clone, Debug)]
pub struct Error {
    /// The HTTP status.
    pub status: StatusCode,
    /// The `errcode`; empty only in the first answer of user-interactive authentication, which has none.
    pub errcode: &'static str,
    /// The `error`, for humans. Never holds internal details.
    pub message: Cow<'static, str>,
    /// Further members of the body, in the words of the specification.
    pub extra: Map<String, Value>,
    /// The `Retry-After` header, in seconds.
    pub retry_after_s: Option<u64>,
}

/// The result of a handler.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A message for [`Error`]: text that is fit for the eyes of any user.
pub type Message = Cow<'static, str>;

impl Error {
    fn new(status: StatusCode, errcode: &'static str, message: impl Into<Message>) -> Self {
        Self { status, errcode, message: message.into(), extra: Map::new(), retry_after_s: None }
    }

    fn bad_request(errcode: &'static str, message: impl Into<Message>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, errcode, message)
    }

    fn denied(errcode: &'static str, message: impl Into<Message>) -> Self {
        Self::new(StatusCode::FORBIDDEN, errcode, message)
    }

    /// Adds a member to the body.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(member.to_owned(), value.into());
        self
    }

    /// The same error with another status, for endpoints that name one.
    #[must_use]
    pub fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The body as JSON.
    pub fn body(&self) -> Value {
        let mut body = self.extra.clone();
        if !self.errcode.is_empty() {
            body.insert("errcode".to_owned(), self.errcode.into());
            body.insert("error".to_owned(), self.message.as_ref().into());
        }
        Value::Object(body)
    }
}

/// What the request itself has wrong.
impl Error {
    /// 400: the event that made a client subscribe to a thread is not in it (MSC4306).
    pub fn not_in_thread() -> Self {
        Self::bad_request("IO.ELEMENT.MSC4306.M_NOT_IN_THREAD", "The event is not in this thread.")
    }

    /// 409: the user has unsubscribed from the thread since the event came (MSC4306).
    pub fn conflicting_unsubscription() -> Self {
        let message = "You have unsubscribed from this thread since then.";
        Self::new(StatusCode::CONFLICT, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION", message)
    }

    /// 409: somebody else has written meanwhile (MSC4388).
    pub fn concurrent_write() -> Self {
        Self::new(StatusCode::CONFLICT, "M_CONCURRENT_WRITE", "There is something else already.")
    }

    /// 400: JSON of the wrong shape, a missing member, a value that is not allowed.
    pub fn bad_json(message: impl Into<Message>) -> Self {
        Self::bad_request("M_BAD_JSON", message)
    }

    /// 400: the body is no JSON.
    pub fn not_json(message: impl Into<Message>) -> Self {
        Self::bad_request("M_NOT_JSON", message)
    }

    /// 400: the parameter named `name` is missing.
    pub fn missing_param(name: &str) -> Self {
        Self::bad_request("M_MISSING_PARAM", format!("The parameter `{name}` is missing."))
    }

    /// 400: a parameter has a value that is not allowed; the message names it.
    pub fn invalid_param(message: impl Into<Message>) -> Self {
        Self::bad_request("M_INVALID_PARAM", message)
    }

    /// 404: there is no such endpoint.
    pub fn unrecognized() -> Self {
        Self::new(StatusCode::NOT_FOUND, "M_UNRECOGNIZED", "Unrecognized request.")
    }

    /// 405: the endpoint exists and does not know this method.
    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED", "This method is not known here.")
    }

    /// 400: the endpoint does not understand this part of the request.
    pub fn unrecognized_request(message: impl Into<Message>) -> Self {
        Self::bad_request("M_UNRECOGNIZED", message)
    }

    /// 413: the request, the event or the file is too large.
    pub fn too_large(message: impl Into<Message>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE", message)
    }

    /// 404: what was asked for does not exist, or the requester may not know of it.
    pub fn not_found(message: impl Into<Message>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "M_NOT_FOUND", message)
    }

    /// 429: too many requests; `retry_after_ms` says when the next one is allowed.
    pub fn limit_exceeded(retry_after_ms: u64) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED", "Too many requests.")
            .with("retry_after_ms", retry_after_ms);
        error.retry_after_s = Some(retry_after_ms.div_ceil(1000).max(1));
        error
    }
}

/// What is wrong with who asks.
impl Error {
    /// 401: the request has no access token.
    pub fn missing_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN", "The access token is missing.")
    }

    /// 401: the token is not known; `soft_logout` says that the device lives on and its keys may be kept.
    pub fn unknown_token(soft_logout: bool) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", "The access token is not recognized.")
            .with("soft_logout", soft_logout)
    }

    /// 401: the account is locked.
    pub fn user_locked() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_USER_LOCKED", "This account has been locked.").with("soft_logout", true)
    }

    /// 403: the account is suspended, and this is not among the things that it may still do.
    pub fn user_suspended() -> Self {
        Self::denied("M_USER_SUSPENDED", "This account is suspended.")
    }

    /// 403: the account has been deactivated.
    pub fn user_deactivated() -> Self {
        Self::denied("M_USER_DEACTIVATED", "This account has been deactivated.")
    }

    /// 403: guests may not do this.
    pub fn guest_access_forbidden() -> Self {
        Self::denied("M_GUEST_ACCESS_FORBIDDEN", "Guests may not do this.")
    }

    /// 403: the requester may not do this.
    pub fn forbidden(message: impl Into<Message>) -> Self {
        Self::denied("M_FORBIDDEN", message)
    }

    /// 401: not authorized, mostly because a login failed.
    pub fn unauthorized(message: impl Into<Message>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED", message)
    }

    /// 401 with the flows of user-interactive authentication as body.
    pub fn authentication_required(body: Map<String, Value>) -> Self {
        Self { extra: body, ..Self::new(StatusCode::UNAUTHORIZED, "", "") }
    }

    /// 401 with the flows of user-interactive authentication, after a stage failed for the reason of `failure`.
    pub fn authentication_failed(body: Map<String, Value>, failure: Self) -> Self {
        Self { extra: body, ..Self::new(StatusCode::UNAUTHORIZED, failure.errcode, failure.message) }
    }

    /// 400: the name or alias is reserved for an application service, or not for the one that asks.
    pub fn exclusive(message: impl Into<Message>) -> Self {
        Self::bad_request("M_EXCLUSIVE", message)
    }

    /// 400: the device that an application service asserted is not the user's.
    pub fn unknown_device() -> Self {
        Self::bad_request("M_UNKNOWN_DEVICE", "The device does not belong to that user.")
    }

    /// 400: this login type is not for application services, or the token is none of theirs.
    pub fn appservice_login_unsupported() -> Self {
        Self::bad_request("M_APPSERVICE_LOGIN_UNSUPPORTED", "Application services cannot log in here.")
    }
}

/// Accounts, passwords, third-party identifiers.
impl Error {
    /// 400: the user id is taken.
    pub fn user_in_use() -> Self {
        Self::bad_request("M_USER_IN_USE", "This user name is already taken.")
    }

    /// 400: the user name is not allowed.
    pub fn invalid_username(message: impl Into<Message>) -> Self {
        Self::bad_request("M_INVALID_USERNAME", message)
    }

    /// 400: the password is too weak; the message says why.
    pub fn weak_password(message: impl Into<Message>) -> Self {
        Self::bad_request("M_WEAK_PASSWORD", message)
    }

    /// 400: a captcha is needed.
    pub fn captcha_needed() -> Self {
        Self::bad_request("M_CAPTCHA_NEEDED", "A captcha is needed.")
    }

    /// 400: the captcha is wrong.
    pub fn captcha_invalid() -> Self {
        Self::bad_request("M_CAPTCHA_INVALID", "The captcha does not match.")
    }

    /// 403: this third-party identifier is not permitted.
    pub fn threepid_denied(message: impl Into<Message>) -> Self {
        Self::denied("M_THREEPID_DENIED", message)
    }

    /// 400: the third-party identifier is bound already.
    pub fn threepid_in_use() -> Self {
        Self::bad_request("M_THREEPID_IN_USE", "This identifier is already in use.")
    }

    /// 400: no account has the third-party identifier.
    pub fn threepid_not_found() -> Self {
        Self::bad_request("M_THREEPID_NOT_FOUND", "No account has this identifier.")
    }

    /// 401: the third-party identifier could not be verified.
    pub fn threepid_auth_failed() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_THREEPID_AUTH_FAILED", "The identifier has not been verified.")
    }

    /// 400: identifiers of this medium are not supported.
    pub fn threepid_medium_not_supported() -> Self {
        Self::bad_request("M_THREEPID_MEDIUM_NOT_SUPPORTED", "This kind of identifier is not supported.")
    }

    /// 400: the identity server, or another third party, is not trusted.
    pub fn server_not_trusted() -> Self {
        Self::bad_request("M_SERVER_NOT_TRUSTED", "That server is not trusted.")
    }

    /// 403: the account's limits are reached; `info_uri` explains them.
    pub fn user_limit_exceeded(message: impl Into<Message>, info_uri: &str) -> Self {
        Self::denied("M_USER_LIMIT_EXCEEDED", message).with("info_uri", info_uri)
    }

    /// 403: the server's limits are reached; `admin_contact` can help.
    pub fn resource_limit_exceeded(message: impl Into<Message>, admin_contact: &str) -> Self {
        Self::denied("M_RESOURCE_LIMIT_EXCEEDED", message).with("admin_contact", admin_contact)
    }
}

/// Rooms and events.
impl Error {
    /// 400: the alias is taken.
    pub fn room_in_use() -> Self {
        Self::bad_request("M_ROOM_IN_USE", "This alias is already taken.")
    }

    /// 409: the alias is taken (the directory's way of saying it).
    pub fn alias_exists() -> Self {
        Self::new(StatusCode::CONFLICT, "M_UNKNOWN", "This alias already exists.")
    }

    /// 400: the initial state of a new room is not allowed.
    pub fn invalid_room_state(message: impl Into<Message>) -> Self {
        Self::bad_request("M_INVALID_ROOM_STATE", message)
    }

    /// 400: the server does not know the room version.
    pub fn unsupported_room_version() -> Self {
        Self::bad_request("M_UNSUPPORTED_ROOM_VERSION", "This room version is not supported.")
    }

    /// 400: the room has a version that this server does not support.
    pub fn incompatible_room_version(room_version: &str) -> Self {
        Self::bad_request("M_INCOMPATIBLE_ROOM_VERSION", "The room's version is not supported by this server.")
            .with("room_version", room_version)
    }

    /// 400: an alias named in `m.room.canonical_alias` does not point to the room.
    pub fn bad_alias(message: impl Into<Message>) -> Self {
        Self::bad_request("M_BAD_ALIAS", message)
    }

    /// 403: the change of state is not possible, such as the unban of a user who is not banned.
    pub fn bad_state(message: impl Into<Message>) -> Self {
        Self::denied("M_BAD_STATE", message)
    }

    /// 403: the room of server notices cannot be left.
    pub fn cannot_leave_server_notice_room() -> Self {
        Self::denied("M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", "You cannot reject this invite.")
    }

    /// 403: the invited user does not take invites.
    pub fn invite_blocked() -> Self {
        Self::denied("M_INVITE_BLOCKED", "This user does not take invites.")
    }

    /// 400: the same reaction of the same user exists already.
    pub fn duplicate_annotation() -> Self {
        Self::bad_request("M_DUPLICATE_ANNOTATION", "You have already reacted so.")
    }

    /// 400: this server cannot vouch for a restricted join; another may.
    pub fn unable_to_authorise_join(message: impl Into<Message>) -> Self {
        Self::bad_request("M_UNABLE_TO_AUTHORISE_JOIN", message)
    }

    /// 400: this server may not grant a restricted join; another may.
    pub fn unable_to_grant_join(message: impl Into<Message>) -> Self {
        Self::bad_request("M_UNABLE_TO_GRANT_JOIN", message)
    }

    /// 404: another server asks about a room whose members are not all known here yet (MSC3895).
    pub fn unable_due_to_partial_state() -> Self {
        let message = "Not all members of this room are known here yet.";
        Self::new(StatusCode::NOT_FOUND, "M_UNABLE_DUE_TO_PARTIAL_STATE", message)
    }

    /// 400: an event may not be delayed for so long, in the words that clients of the query parameter know (MSC4140).
    pub fn max_delay_exceeded(max_delay_ms: i64) -> Self {
        Self::bad_request("M_UNKNOWN", "The requested delay is longer than this server allows.")
            .with("org.matrix.msc4140.errcode", "M_MAX_DELAY_EXCEEDED")
            .with("org.matrix.msc4140.max_delay", max_delay_ms)
    }

    /// 400: the user has scheduled too many events, in the words that clients of the query parameter know (MSC4140).
    pub fn max_delayed_events_exceeded() -> Self {
        Self::bad_request("M_UNKNOWN", "The maximum number of delayed events has been reached.")
            .with("org.matrix.msc4140.errcode", "M_MAX_DELAYED_EVENTS_EXCEEDED")
    }

    /// 409: something else has become of the delayed event already (MSC4140).
    pub fn delayed_event_finalised() -> Self {
        Self::unknown(StatusCode::CONFLICT, "This delayed event has been sent or cancelled already.")
    }

    /// 400: the position of a sliding sync connection is not known any more.
    pub fn unknown_pos() -> Self {
        Self::bad_request("M_UNKNOWN_POS", "This position is not known: start again without one.")
    }
}

/// Keys, profiles, media, pushers, application services.
impl Error {
    /// 403: the key backup version is not the current one, which is `current_version`.
    pub fn wrong_room_keys_version(current_version: &str) -> Self {
        Self::denied("M_WRONG_ROOM_KEYS_VERSION", "This is not the current version of the backup.")
            .with("current_version", current_version)
    }

    /// 400: a signature is missing or wrong.
    pub fn invalid_signature(message: impl Into<Message>) -> Self {
        Self::bad_request("M_INVALID_SIGNATURE", message)
    }

    /// 400: the name of a profile field is too long.
    pub fn key_too_large() -> Self {
        Self::bad_request("M_KEY_TOO_LARGE", "The name of a profile field may have 255 bytes.")
    }

    /// 400: the profile is too large as a whole.
    pub fn profile_too_large() -> Self {
        Self::bad_request("M_PROFILE_TOO_LARGE", "A profile may have 64 KiB.")
    }

    /// 409: media once uploaded cannot be replaced.
    pub fn cannot_overwrite_media() -> Self {
        Self::new(StatusCode::CONFLICT, "M_CANNOT_OVERWRITE_MEDIA", "This media has already been uploaded.")
    }

    /// 504: the media has been announced and not uploaded yet.
    pub fn not_yet_uploaded() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "M_NOT_YET_UPLOADED", "This media has not been uploaded yet.")
    }

    /// 400: an application service without an address cannot be asked.
    pub fn url_not_set() -> Self {
        Self::bad_request("M_URL_NOT_SET", "The application service has no address.")
    }

    /// 502: a server that was asked answered with an error.
    pub fn bad_status(message: impl Into<Message>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "M_BAD_STATUS", message)
    }

    /// 502: a server that was asked could not be reached.
    pub fn connection_failed(message: impl Into<Message>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "M_CONNECTION_FAILED", message)
    }

    /// 504: a server that was asked did not answer in time.
    pub fn connection_timeout(message: impl Into<Message>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "M_CONNECTION_TIMEOUT", message)
    }
}

/// What the server itself has wrong.
impl Error {
    /// An error without a code of its own.
    pub fn unknown(status: StatusCode, message: impl Into<Message>) -> Self {
        Self::new(status, "M_UNKNOWN", message)
    }

    /// 500: a failure of the server. `cause` goes to the log, under the request's id, and never to the client.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "the request failed");
        Self::unknown(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error.")
    }

    /// 503: the server cannot serve for a moment.
    pub fn unavailable(message: impl Into<Message>) -> Self {
        let error = Self::unknown(StatusCode::SERVICE_UNAVAILABLE, message);
        Self { retry_after_s: Some(RETRY_WHEN_UNAVAILABLE_S), ..error }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::DiskFull => {
                tracing::error!(cause = %error, "the request failed");
                let message = "The server's disk is full: nothing was stored.";
                Self::unknown(StatusCode::INSUFFICIENT_STORAGE, message)
            }
            store::Error::Closed => Self::unavailable("The server is shutting down."),
            // What stands in the way of using it may be mended while the server runs: a password, a certificate.
            store::Error::Unavailable(_) | store::Error::Unusable(_) => {
                tracing::warn!(cause = %error, "the request failed");
                Self::unavailable("The server's database does not answer: try again.")
            }
            store::Error::Corrupt { .. } | store::Error::Engine(_) => Self::internal(error),
        }
    }
}

impl From<store::CommitError> for Error {
    fn from(error: store::CommitError) -> Self {
        match error {
            store::CommitError::Store(error) => error.into(),
            // A decision that lost its race more often than its maker retries: the client may try again.
            store::CommitError::Conflict { .. } => {
                tracing::warn!(cause = %error, "the request lost its race");
                Self::unavailable("The server is busy with the same thing: try again.")
            }
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// An empty JSON object: the answer of endpoints that have nothing to say.
pub fn empty() -> axum::Json<Value> {
    axum::Json(json!({}))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn cb9_a_rate_limit_says_when_to_try_again() {
        let response = Error::limit_exceeded(1_500).into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers().get("retry-after").unwrap(), "2");
        assert_eq!(Error::limit_exceeded(1_500).body()["retry_after_ms"], 1_500);
        assert_eq!(Error::limit_exceeded(0).retry_after_s, Some(1));
    }

    #[test]
    fn details_of_the_store_stay_inside() {
        let error = Error::from(store::Error::Engine("secret path".to_owned()));
        assert_eq!(error.status, 500);
        assert!(!error.body().to_string().contains("secret"));
        let full = Error::from(store::Error::DiskFull);
        assert_eq!((full.status.as_u16(), full.errcode), (507, "M_UNKNOWN"));
        assert_eq!(Error::from(store::Error::Closed).status, 503);
        let away = Error::from(store::Error::Unavailable("secret host".to_owned()));
        assert_eq!((away.status.as_u16(), away.errcode, away.retry_after_s), (503, "M_UNKNOWN", Some(2)));
        assert!(!away.body().to_string().contains("secret"));
    }

    #[test]
    fn the_first_answer_of_interactive_authentication_has_no_code() {
        let body = json!({ "flows": [] });
        let error = Error::authentication_required(body.as_object().unwrap().clone());
        assert_eq!(error.body(), body);
        let failed = Error::authentication_failed(body.as_object().unwrap().clone(), Error::forbidden("No."));
        assert_eq!(failed.body(), json!({ "flows": [], "errcode": "M_FORBIDDEN", "error": "No." }));
        assert_eq!(failed.status, 401);
    }
}
