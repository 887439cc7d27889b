//! `GET /_matrix/federation/v1/make_leave/{roomId}/{userId}` and `PUT /_matrix/federation/{v1,v2}/send_leave/{roomId}/
//! {eventId}` (`data/api/server-server/leaving-v1.yaml`, `leaving-v2.yaml`).

use std::sync::Arc;

use axum::routing::{get, put};
use axum::{Json, Router, extract};
use endpoint::{Error, Path};
use serde_json::{Value, json};

use super::access::Signed;
use crate::Federation;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new()
        .route("/_matrix/federation/v1/make_leave/{room_id}/{user_id}", get(make_leave))
        .route("/_matrix/federation/v1/send_leave/{room_id}/{event_id}", put(send_leave_v1))
        .route("/_matrix/federation/v2/send_leave/{room_id}/{event_id}", put(send_leave))
}

async fn make_leave(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path((room_id, user_id)): Path<(String, String)>,
    request: Signed,
) -> Result<Json<Value>, Error> {
    federation.make_member(&request, &room_id, &user_id, "leave", None).await.map(Json)
}

async fn send_leave(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path((room_id, event_id)): Path<(String, String)>,
    request: Signed,
) -> Result<Json<Value>, Error> {
    let origin = request.origin.clone();
    federation.send_member(&origin, &room_id, &event_id, "leave", &request.object()?).await?;
    Ok(Json(json!({})))
}

/// The old form: the answer stands in a list, after a number.
async fn send_leave_v1(
    state: extract::State<Arc<Federation>>,
    path: Path<(String, String)>,
    request: Signed,
) -> Result<Json<Value>, Error> {
    let Json(answer) = send_leave(state, path, request).await?;
    Ok(Json(json!([200, answer])))
}
