//! Simplified sliding sync in both dialects: `POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync`, which
//! clients speak today, and `POST /_matrix/client/v4/sync`
//! (<https://github.com/matrix-org/matrix-spec-proposals/pull/4186>).
//!
//! What a client gets wrong without harm is let pass: some clients take any refusal for the loss of their position.

mod accepted;
mod deployed;

use std::time::Duration;

use axum::Router;
use axum::extract::State as Given;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use endpoint::{Error, GuestRequester, JsonBody, Query};
use event::MAX_ID_BYTES;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use store::{DeviceId, UserId};
use sync::sliding::request::{Dialect, Extensions, Request, Scope, ToDevice};
use users::presence::PresenceState;

use crate::{Routes, State, error_map};

/// Most lists of one request.
const LISTS_MAX: usize = 100;
/// Most events of a room's timeline in one answer.
const TIMELINE_LIMIT_MAX: u64 = 100;
/// Changes of thread subscriptions in one answer, where the client does not say.
const THREAD_SUBSCRIPTIONS: u64 = 100;
/// Longest name of a connection.
const CONN_ID_BYTES_MAX: usize = 255;

/// The routes.
pub fn routes() -> Router<State> {
    Router::new()
        .unstable("/org.matrix.simplified_msc3575/sync", post(deployed))
        .route("/_matrix/client/v4/sync", post(accepted))
}

/// What the deployed dialect has in its query.
#[derive(Debug, Default, Deserialize)]
struct Parameters {
    pos: Option<String>,
    timeout: Option<u64>,
    set_presence: Option<String>,
}

/// The extensions, under the names that both dialects have for them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ExtensionsBody {
    to_device: ToDeviceBody,
    e2ee: Enabled,
    account_data: ScopeBody,
    receipts: ScopeBody,
    typing: ScopeBody,
    #[serde(rename = "io.element.msc4308.thread_subscriptions")]
    thread_subscriptions: LimitBody,
    #[serde(rename = "org.matrix.msc4354.sticky_events")]
    sticky: ToDeviceBody,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LimitBody {
    enabled: Option<bool>,
    limit: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Enabled {
    enabled: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ToDeviceBody {
    enabled: Option<bool>,
    limit: Option<u64>,
    since: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ScopeBody {
    enabled: Option<bool>,
    lists: Option<Vec<String>>,
    rooms: Option<Vec<String>>,
}

impl ScopeBody {
    fn scope(self) -> Option<Scope> {
        (self.enabled == Some(true)).then_some(Scope { lists: self.lists, rooms: self.rooms })
    }
}

impl From<ExtensionsBody> for Extensions {
    fn from(body: ExtensionsBody) -> Self {
        let ToDeviceBody { enabled, limit, since } = body.to_device;
        Self {
            to_device: (enabled == Some(true)).then_some(ToDevice { limit, since }),
            e2ee: body.e2ee.enabled == Some(true),
            account_data: body.account_data.scope(),
            receipts: body.receipts.scope(),
            typing: body.typing.scope(),
            thread_subscriptions: (body.thread_subscriptions.enabled == Some(true))
                .then_some(body.thread_subscriptions.limit.unwrap_or(THREAD_SUBSCRIPTIONS)),
            sticky: (body.sticky.enabled == Some(true))
                .then_some(ToDevice { limit: body.sticky.limit, since: body.sticky.since }),
        }
    }
}

async fn deployed(
    Given(state): Given<State>,
    GuestRequester(requester): GuestRequester,
    Query(parameters): Query<Parameters>,
    JsonBody(body): JsonBody<deployed::Body>,
) -> Result<Response, Error> {
    let user = UserId::from(requester.user_id.as_str());
    let device = requester.device_id.as_ref().map(|device| DeviceId::from(device.as_str()));
    let (lists, subscriptions) = body.wishes(&user)?;
    let request = Request {
        user,
        device,
        dialect: Dialect::Deployed,
        conn_id: conn_id(body.conn_id)?,
        pos: parameters.pos.filter(|pos| !pos.is_empty()),
        timeout: Duration::from_millis(parameters.timeout.unwrap_or(0)),
        set_presence: presence(parameters.set_presence.as_deref())?,
        txn_id: body.txn_id,
        lists,
        subscriptions,
        extensions: body.extensions.into(),
    };
    answer(&state, &request).await
}

async fn accepted(
    Given(state): Given<State>,
    GuestRequester(requester): GuestRequester,
    JsonBody(body): JsonBody<accepted::Body>,
) -> Result<Response, Error> {
    let (lists, subscriptions) = body.wishes()?;
    let request = Request {
        user: UserId::from(requester.user_id.as_str()),
        device: requester.device_id.as_ref().map(|device| DeviceId::from(device.as_str())),
        dialect: Dialect::Accepted,
        conn_id: conn_id(body.conn_id)?,
        pos: body.pos,
        timeout: Duration::from_millis(body.timeout.unwrap_or(0)),
        set_presence: presence(body.set_presence.as_deref())?,
        txn_id: None,
        lists,
        subscriptions,
        extensions: body.extensions.into(),
    };
    answer(&state, &request).await
}

async fn answer(state: &State, request: &Request) -> Result<Response, Error> {
    let body = state.sync.sliding(request).await.map_err(error_map::sync)?;
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

fn conn_id(conn_id: Option<String>) -> Result<String, Error> {
    let conn_id = conn_id.unwrap_or_default();
    match conn_id.len() <= CONN_ID_BYTES_MAX {
        true => Ok(conn_id),
        false => Err(Error::invalid_param(format!("`conn_id` may have {CONN_ID_BYTES_MAX} bytes"))),
    }
}

fn presence(word: Option<&str>) -> Result<PresenceState, Error> {
    match word {
        None => Ok(PresenceState::Online),
        Some(word) => PresenceState::parse(word).ok_or_else(|| Error::invalid_param("`set_presence` is unknown")),
    }
}

/// A list's or subscription's timeline limit within bounds.
fn timeline_limit(limit: u64) -> usize {
    usize::try_from(limit.min(TIMELINE_LIMIT_MAX)).unwrap_or(0)
}

fn check_count(count: usize, max: usize, what: &str) -> Result<(), Error> {
    if count > max { Err(Error::invalid_param(format!("there may be {max} {what}"))) } else { Ok(()) }
}

/// No event has a longer type or state key.
fn check_texts<'a>(mut texts: impl Iterator<Item = &'a String>) -> Result<(), Error> {
    match texts.any(|text| text.len() > MAX_ID_BYTES) {
        true => Err(Error::invalid_param(format!("`required_state` has a text of more than {MAX_ID_BYTES} bytes"))),
        false => Ok(()),
    }
}

/// A place in a list that a client counts as it likes.
fn place(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
