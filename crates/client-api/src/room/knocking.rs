//! `POST /_matrix/client/v3/knock/{roomIdOrAlias}` (`data/api/client-server/knocking.yaml`).

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, OptionalBody, Path, Query, RateClass, Requester};
use serde::Deserialize;
use serde_json::{Value, json};

use super::joining::Via;
use super::people;
use crate::{Routes, State, error_map, remote};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/knock/{room_id_or_alias}", post(knock))
}

#[derive(Debug, Default, Deserialize)]
struct Body {
    reason: Option<String>,
}

async fn knock(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path(id_or_alias): Path<String>,
    Query(via): Query<Via>,
    OptionalBody(body): OptionalBody<Body>,
) -> Result<Json<Value>, Error> {
    requester.not_suspended()?;
    state.door.limit(RateClass::Joins, &requester)?;
    let (room_id, mut servers) = remote::resolve(&state, &id_or_alias).await?;
    servers.splice(0..0, via.servers());
    let profile = people::member_profile(&state, &requester.user_id).await?;
    if let Some(way) = remote::way_to(&state, &room_id, &requester.user_id, &servers).await? {
        let content = remote::with_reason(profile, body.reason.as_deref());
        let knocked = way.remote.handshakes.knock(&room_id, &requester.user_id, &way.via, &content).await;
        knocked.map_err(remote::error)?;
        return Ok(Json(json!({ "room_id": room_id })));
    }
    let knocked = state.rooms.knock(&room_id, &requester.user_id, body.reason.as_deref(), profile).await;
    knocked.map_err(error_map::rooms)?;
    Ok(Json(json!({ "room_id": room_id })))
}
