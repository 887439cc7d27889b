//! `GET /_matrix/federation/v1/backfill/{roomId}` and `POST /_matrix/federation/v1/get_missing_events/{roomId}`
//! (`data/api/server-server/backfill.yaml`).

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, extract};
use endpoint::{Error, Path, Query};
use http::header::CONTENT_TYPE;
use ruma_common::OwnedEventId;
use serde::Deserialize;

use super::access::Signed;
use super::error_map;
use super::events::transaction;
use super::events_body::joined;
use crate::Federation;

/// Most events of one answer.
const LIMIT_MAX: usize = 100;
/// Events of an answer about missing events where the other server does not say.
const MISSING_DEFAULT: usize = 10;
/// Most events of an answer about missing events.
const MISSING_MAX: usize = 50;
/// Most events from which one request starts, or at which it stops.
const IDS_MAX: usize = 100;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new()
        .route("/_matrix/federation/v1/backfill/{room_id}", get(backfill))
        .route("/_matrix/federation/v1/get_missing_events/{room_id}", post(get_missing_events))
}

#[derive(Debug, Deserialize)]
struct BackfillParameters {
    #[serde(default)]
    v: Vec<String>,
    limit: usize,
}

async fn backfill(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path(room_id): Path<String>,
    Query(parameters): Query<BackfillParameters>,
    request: Signed,
) -> Result<Response, Error> {
    let room = federation.room_of(&request.origin, &room_id).await?;
    if parameters.v.is_empty() {
        return Err(Error::missing_param("v"));
    }
    let from = event_ids(&parameters.v)?;
    let limit = parameters.limit.min(LIMIT_MAX);
    let events = federation.rooms.events_before(&room.id, &from, limit).await.map_err(error_map::rooms)?;
    let shown = federation.shown(&room, &request.origin, &events).await?;
    Ok(transaction(&federation, shown))
}

#[derive(Debug, Deserialize)]
struct MissingBody {
    limit: Option<usize>,
    min_depth: Option<i64>,
    earliest_events: Vec<String>,
    latest_events: Vec<String>,
}

async fn get_missing_events(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path(room_id): Path<String>,
    request: Signed,
) -> Result<Response, Error> {
    let body: MissingBody = request.json()?;
    let room = federation.room_of(&request.origin, &room_id).await?;
    let (earliest, latest) = (event_ids(&body.earliest_events)?, event_ids(&body.latest_events)?);
    let limit = body.limit.unwrap_or(MISSING_DEFAULT).min(MISSING_MAX);
    let min_depth = body.min_depth.unwrap_or(0);
    let events = federation.rooms.missing_between(&room.id, &earliest, &latest, limit, min_depth).await;
    let events = events.map_err(error_map::rooms)?;
    let shown = federation.shown(&room, &request.origin, &events).await?;
    let mut text = b"{\"events\":[".to_vec();
    text.extend_from_slice(&joined(shown, true));
    text.extend_from_slice(b"]}");
    Ok(([(CONTENT_TYPE, "application/json")], text).into_response())
}

/// What is no event id names no event that is known here.
fn event_ids(texts: &[String]) -> Result<Vec<OwnedEventId>, Error> {
    if texts.len() > IDS_MAX {
        return Err(Error::invalid_param(format!("A request may name {IDS_MAX} events.")));
    }
    Ok(texts.iter().filter_map(|id| OwnedEventId::try_from(id.as_str()).ok()).collect())
}
