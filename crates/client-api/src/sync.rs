//! `GET /_matrix/client/v3/sync`
//! (<https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>)

use std::time::Duration;

use axum::Router;
use axum::extract::State as Given;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use endpoint::{Error, GuestRequester, Query};
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use store::DeviceId;
use users::presence::PresenceState;

use crate::{Routes, State, error_map};

/// The route.
pub fn routes() -> Router<State> {
    Router::new().client("/sync", get(sync))
}

#[derive(Debug, Default, Deserialize)]
struct Parameters {
    filter: Option<String>,
    since: Option<String>,
    #[serde(default)]
    full_state: bool,
    set_presence: Option<String>,
    timeout: Option<u64>,
    use_state_after: Option<bool>,
    #[serde(rename = "org.matrix.msc4222.use_state_after")]
    use_state_after_unstable: Option<bool>,
}

async fn sync(
    Given(state): Given<State>,
    GuestRequester(requester): GuestRequester,
    Query(parameters): Query<Parameters>,
) -> Result<Response, Error> {
    let set_presence = match parameters.set_presence.as_deref() {
        None => PresenceState::Online,
        Some(word) => PresenceState::parse(word).ok_or_else(|| Error::invalid_param("`set_presence` is unknown"))?,
    };
    let unstable = parameters.use_state_after_unstable;
    let request = ::sync::Request {
        user: requester.user_id.clone(),
        device: requester.device_id.clone().map(|device| DeviceId::from(device.as_str())),
        since: parameters.since.filter(|since| !since.is_empty()),
        filter: parameters.filter,
        full_state: parameters.full_state,
        use_state_after: parameters.use_state_after.or(unstable).unwrap_or(false),
        set_presence,
        timeout: Duration::from_millis(parameters.timeout.unwrap_or(0)),
        now_ms: state.clock.now_ms(),
    };
    let body = state.sync.sync(&request).await.map_err(error_map::sync)?;
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}
