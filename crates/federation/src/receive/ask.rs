//! What is asked of other servers to fill a gap. Nothing of an answer is believed: events are verified by whoever uses
//! them, and each list is bounded.

use bytes::Bytes;
use event::{Json, Object, ids};
use http::Method;
use ruma_common::OwnedEventId;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::client::path;
use crate::transport::Limits;
use crate::{Error, Federation, Result};

/// Bytes of the answer that holds a room's whole state.
const STATE_BYTES_MAX: usize = 128 << 20;
/// Most events that are read of one answer.
const EVENTS_MAX: usize = 200_000;

/// The state before an event and its auth chain, as another server says.
#[derive(Debug)]
pub(super) struct StateIds {
    /// The state.
    pub state: Vec<OwnedEventId>,
    /// Its auth chain.
    pub auth_chain: Vec<OwnedEventId>,
}

#[derive(Deserialize)]
struct Events {
    #[serde(default)]
    events: Vec<Box<RawValue>>,
    #[serde(default)]
    pdus: Vec<Box<RawValue>>,
    #[serde(default)]
    auth_chain: Vec<Box<RawValue>>,
}

impl Federation {
    /// The events before `latest` that are not before `earliest`.
    pub(super) async fn ask_missing_events(
        &self,
        server: &str,
        room_id: &str,
        earliest: &[String],
        latest: &[String],
        limit: usize,
    ) -> Result<Vec<Bytes>> {
        let list = |ids: &[String]| Json::Array(ids.iter().map(|id| Json::from(id.as_str())).collect());
        let body = Object::from([
            ("earliest_events".to_owned(), list(earliest)),
            ("latest_events".to_owned(), list(latest)),
            ("limit".to_owned(), Json::Int(i64::try_from(limit).unwrap_or(0))),
            ("min_depth".to_owned(), Json::Int(0)),
        ]);
        let path = path("/_matrix/federation/v1/get_missing_events", &[room_id], &[]);
        let bytes = self.client.request(server, Method::POST, &path, Some(&body), Limits::default()).await?;
        Ok(texts(read(server, &bytes)?.events, limit))
    }

    /// The ids of the state before an event.
    pub(super) async fn ask_state_ids(&self, server: &str, room_id: &str, event_id: &str) -> Result<StateIds> {
        #[derive(Deserialize)]
        struct Answer {
            pdu_ids: Vec<String>,
            auth_chain_ids: Vec<String>,
        }
        let path = path("/_matrix/federation/v1/state_ids", &[room_id], &[("event_id", event_id)]);
        let bytes = self.client.request(server, Method::GET, &path, None, Limits::default()).await?;
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|error| malformed(server, &error))?;
        Ok(StateIds { state: event_ids(answer.pdu_ids), auth_chain: event_ids(answer.auth_chain_ids) })
    }

    /// The state before an event and its auth chain.
    pub(super) async fn ask_state(&self, server: &str, room_id: &str, event_id: &str) -> Result<Vec<Bytes>> {
        let path = path("/_matrix/federation/v1/state", &[room_id], &[("event_id", event_id)]);
        let limits = Limits { body_bytes_max: STATE_BYTES_MAX, ..Limits::default() };
        let bytes = self.client.request(server, Method::GET, &path, None, limits).await?;
        let answer = read(server, &bytes)?;
        let mut events = texts(answer.pdus, EVENTS_MAX);
        events.extend(texts(answer.auth_chain, EVENTS_MAX));
        Ok(events)
    }

    /// The auth chain of an event.
    pub(super) async fn ask_event_auth(&self, server: &str, room_id: &str, event_id: &str) -> Result<Vec<Bytes>> {
        let path = path("/_matrix/federation/v1/event_auth", &[room_id, event_id], &[]);
        let bytes = self.client.request(server, Method::GET, &path, None, Limits::default()).await?;
        Ok(texts(read(server, &bytes)?.auth_chain, EVENTS_MAX))
    }

    /// One event.
    pub(super) async fn ask_event(&self, server: &str, event_id: &str) -> Result<Option<Bytes>> {
        let path = path("/_matrix/federation/v1/event", &[event_id], &[]);
        let bytes = self.client.request(server, Method::GET, &path, None, Limits::default()).await?;
        Ok(texts(read(server, &bytes)?.pdus, 1).pop())
    }
}

fn read(server: &str, bytes: &[u8]) -> Result<Events> {
    serde_json::from_slice(bytes).map_err(|error| malformed(server, &error))
}

fn malformed(server: &str, error: &serde_json::Error) -> Error {
    Error::Malformed { server: server.to_owned(), reason: error.to_string() }
}

/// The events of an answer as texts, at most `max`.
///
/// # Errors
/// [`Error::Malformed`].
pub(super) fn texts_of(server: &str, bytes: &[u8], max: usize) -> Result<Vec<Bytes>> {
    Ok(texts(read(server, bytes)?.pdus, max))
}

fn texts(events: Vec<Box<RawValue>>, max: usize) -> Vec<Bytes> {
    events.into_iter().take(max).map(|event| Bytes::from(event.get().to_owned())).collect()
}

/// The valid ones among ids.
fn event_ids(ids: Vec<String>) -> Vec<OwnedEventId> {
    let short = ids.into_iter().take(EVENTS_MAX).filter(|id| id.len() <= event::MAX_ID_BYTES);
    short.filter_map(|id| OwnedEventId::try_from(id).ok()).collect()
}

/// Whether a name is one of another server that can be asked.
pub(crate) fn is_askable(server: &str, own: &str) -> bool {
    server != own && ids::is_server_name(server)
}
