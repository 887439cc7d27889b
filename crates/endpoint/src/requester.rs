//! Who asks: the access token of a request, resolved (client-server API, "Client Authentication"; behaviour CB3).

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::{FromRef, FromRequestParts};
use http::header::{AUTHORIZATION, USER_AGENT};
use http::request::Parts;
use store::{DeviceId, UserId};

use crate::{ClientAddress, Door, Error, query};

/// Characters of a `User-Agent` that are kept.
const USER_AGENT_CHARS_MAX: usize = 256;

/// What an access token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whose it is.
    pub user_id: UserId,
    /// Its device. Application services may have none.
    pub device_id: Option<DeviceId>,
    /// Whether the account is a guest's.
    pub guest: bool,
    /// Whether the account administers the server.
    pub admin: bool,
    /// Whether the account is locked: nothing but logging out is allowed.
    pub locked: bool,
    /// Whether the account is suspended: reading is allowed, and little else.
    pub suspended: bool,
    /// Whether rate limits hold for it.
    pub rate_limited: bool,
    /// Whether it began by the OAuth 2.0 API.
    pub oauth: bool,
}

/// What became of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It is valid.
    Known(Session),
    /// It has expired, and its refresh token would still get a new one; or the device may keep its keys.
    Expired,
    /// Nobody's, or no longer anybody's.
    Unknown,
}

/// Where a request came from, for the list of devices.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The client's address.
    pub address: IpAddr,
    /// What the client calls itself, cut to a few hundred characters.
    pub user_agent: String,
}

/// Resolves tokens.
#[async_trait]
pub trait Sessions: Send + Sync + 'static {
    /// The session of an access token; notes that it was used from `origin`.
    ///
    /// # Errors
    /// When the store fails.
    async fn session(&self, token: &str, origin: &Origin) -> Result<Lookup, Error>;
}

/// A user of this server who may ask: neither a guest nor locked.
///
/// # Errors
/// `M_MISSING_TOKEN`, `M_UNKNOWN_TOKEN`, `M_USER_LOCKED`, `M_GUEST_ACCESS_FORBIDDEN`.
#[derive(Clone, Debug)]
pub struct Requester {
    /// The user.
    pub user_id: UserId,
    /// The device; empty for an application service without one.
    pub device_id: Option<DeviceId>,
    /// Whether it is a guest (never behind a plain [`Requester`] extractor).
    pub guest: bool,
    /// Whether the account administers the server.
    pub admin: bool,
    /// Whether the account is locked (only behind [`AnyRequester`]).
    pub locked: bool,
    /// Whether the account is suspended.
    pub suspended: bool,
    /// Whether rate limits hold.
    pub rate_limited: bool,
    /// Whether the session began by the OAuth 2.0 API.
    pub oauth: bool,
    /// The access token.
    pub token: Arc<str>,
    /// Where the request came from.
    pub origin: Origin,
}

/// A user or a guest, not locked.
#[derive(Clone, Debug)]
pub struct GuestRequester(pub Requester);

/// Anybody with a token, locked or not: for logging out.
#[derive(Clone, Debug)]
pub struct AnyRequester(pub Requester);

/// A user, a guest, or nobody. A token that is sent must be valid.
#[derive(Clone, Debug)]
pub struct OptionalRequester(pub Option<Requester>);

impl Requester {
    /// The device.
    ///
    /// # Errors
    /// `M_UNKNOWN_DEVICE` for an application service without one.
    pub fn device(&self) -> Result<&DeviceId, Error> {
        self.device_id.as_ref().ok_or_else(Error::unknown_device)
    }

    /// Refuses a suspended account: for what it may not do (client-server API, "Account suspension").
    ///
    /// # Errors
    /// `M_USER_SUSPENDED`.
    pub fn not_suspended(&self) -> Result<(), Error> {
        if self.suspended { Err(Error::user_suspended()) } else { Ok(()) }
    }

    /// Refuses all but administrators.
    ///
    /// # Errors
    /// `M_FORBIDDEN`.
    pub fn is_admin(&self) -> Result<(), Error> {
        if self.admin { Ok(()) } else { Err(Error::forbidden("You are no administrator of this server.")) }
    }

    /// Refuses all but the user `user_id`, in endpoints that name the user in their path.
    ///
    /// # Errors
    /// `M_FORBIDDEN`.
    pub fn is_user(&self, user_id: &str) -> Result<(), Error> {
        if self.user_id.as_str() == user_id { Ok(()) } else { Err(Error::forbidden("That is another user.")) }
    }
}

/// The access token of a request: from the header, or else from the query string. `None` if there is none.
///
/// # Errors
/// `M_UNKNOWN_TOKEN` for what cannot be a token, or when there are several; `M_MISSING_TOKEN` for an empty one.
pub fn access_token(parts: &Parts) -> Result<Option<String>, Error> {
    let mut tokens = Vec::new();
    for value in parts.headers.get_all(AUTHORIZATION) {
        let value = value.to_str().map_err(|_| Error::unknown_token(false))?;
        let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            tokens.push(token.trim().to_owned());
        }
    }
    let query = parts.uri.query().unwrap_or_default();
    tokens.extend(query::pairs(query).filter(|(name, _)| name == "access_token").map(|(_, token)| token));
    let Some(token) = tokens.first() else { return Ok(None) };
    if tokens.iter().any(|other| other != token) {
        return Err(Error::unknown_token(false));
    }
    if token.is_empty() {
        return Err(Error::missing_token());
    }
    if token.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Error::unknown_token(false));
    }
    Ok(Some(token.clone()))
}

async fn resolve(parts: &Parts, door: &Door) -> Result<Option<Requester>, Error> {
    let Some(token) = access_token(parts)? else { return Ok(None) };
    let user_agent = parts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let origin = Origin {
        address: ClientAddress::of(parts, door).0,
        user_agent: user_agent.chars().take(USER_AGENT_CHARS_MAX).collect(),
    };
    let session = match door.sessions.session(&token, &origin).await? {
        Lookup::Known(session) => session,
        Lookup::Expired => return Err(Error::unknown_token(true)),
        Lookup::Unknown => return Err(Error::unknown_token(false)),
    };
    let Session { user_id, device_id, guest, admin, locked, suspended, rate_limited, oauth } = session;
    let token = token.into();
    Ok(Some(Requester { user_id, device_id, guest, admin, locked, suspended, rate_limited, oauth, token, origin }))
}

fn not_locked(requester: Requester) -> Result<Requester, Error> {
    if requester.locked { Err(Error::user_locked()) } else { Ok(requester) }
}

impl<S> FromRequestParts<S> for AnyRequester
where
    S: Send + Sync,
    Arc<Door>: FromRef<S>,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        resolve(parts, &Arc::from_ref(state)).await?.map(Self).ok_or_else(Error::missing_token)
    }
}

impl<S> FromRequestParts<S> for OptionalRequester
where
    S: Send + Sync,
    Arc<Door>: FromRef<S>,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        resolve(parts, &Arc::from_ref(state)).await?.map(not_locked).transpose().map(Self)
    }
}

impl<S> FromRequestParts<S> for GuestRequester
where
    S: Send + Sync,
    Arc<Door>: FromRef<S>,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let AnyRequester(requester) = AnyRequester::from_request_parts(parts, state).await?;
        not_locked(requester).map(Self)
    }
}

impl<S> FromRequestParts<S> for Requester
where
    S: Send + Sync,
    Arc<Door>: FromRef<S>,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let GuestRequester(requester) = GuestRequester::from_request_parts(parts, state).await?;
        if requester.guest { Err(Error::guest_access_forbidden()) } else { Ok(requester) }
    }
}
