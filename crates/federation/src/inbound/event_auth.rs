//! `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}` (`data/api/server-server/event_auth.yaml`).

use std::sync::Arc;

use axum::response::Response;
use axum::routing::get;
use axum::{Router, extract};
use endpoint::{Error, Path};

use super::access::Signed;
use super::error_map;
use super::events_body::EventsBody;
use crate::Federation;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new().route("/_matrix/federation/v1/event_auth/{room_id}/{event_id}", get(event_auth))
}

async fn event_auth(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path((room_id, event_id)): Path<(String, String)>,
    request: Signed,
) -> Result<Response, Error> {
    let room = federation.room_of(&request.origin, &room_id).await?;
    let event = federation.event_of(&room, &event_id).await?;
    let chain = federation.rooms.auth_chain(&room.id, &[event.id().clone()]).await.map_err(error_map::rooms)?;
    let nums = chain.iter().map(|event| event.num()).collect();
    Ok(EventsBody::new(&federation, &room).events("auth_chain", nums).respond())
}
