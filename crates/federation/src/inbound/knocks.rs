//! `GET /_matrix/federation/v1/make_knock/{roomId}/{userId}` and `PUT /_matrix/federation/v1/send_knock/{roomId}/
//! {eventId}` (`data/api/server-server/knocks.yaml`).

use std::sync::Arc;

use axum::routing::{get, put};
use axum::{Json, Router, extract};
use endpoint::{Error, Path, Query};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::Signed;
use super::error_map;
use crate::Federation;

/// The routes of this file, and the names that they had while they were a proposal.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new()
        .route("/_matrix/federation/v1/make_knock/{room_id}/{user_id}", get(make_knock))
        .route("/_matrix/federation/v1/send_knock/{room_id}/{event_id}", put(send_knock))
        .route("/_matrix/federation/unstable/xyz.amorgan.knock/make_knock/{room_id}/{user_id}", get(make_knock))
        .route("/_matrix/federation/unstable/xyz.amorgan.knock/send_knock/{room_id}/{event_id}", put(send_knock))
}

#[derive(Debug, Deserialize)]
struct MakeParameters {
    #[serde(default)]
    ver: Vec<String>,
}

async fn make_knock(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path((room_id, user_id)): Path<(String, String)>,
    Query(parameters): Query<MakeParameters>,
    request: Signed,
) -> Result<Json<Value>, Error> {
    if parameters.ver.is_empty() {
        return Err(Error::missing_param("ver"));
    }
    federation.make_member(&request, &room_id, &user_id, "knock", Some(&parameters.ver)).await.map(Json)
}

async fn send_knock(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path((room_id, event_id)): Path<(String, String)>,
    request: Signed,
) -> Result<Json<Value>, Error> {
    let origin = request.origin.clone();
    let (room, _) = federation.send_member(&origin, &room_id, &event_id, "knock", &request.object()?).await?;
    let stripped = federation.rooms.stripped_now(&room).await.map_err(error_map::rooms)?;
    Ok(Json(json!({ "knock_room_state": stripped })))
}
