//! `POST /_matrix/client/v3/rooms/{roomId}/upgrade` (`data/api/client-server/room_upgrades.yaml`).

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, Path, RateClass, Requester};
use rooms::upgrade::Upgrade;
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::parse_user;
use super::people;
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/rooms/{room_id}/upgrade", post(upgrade))
}

#[derive(Debug, Deserialize)]
struct Body {
    new_version: String,
    #[serde(default)]
    additional_creators: Vec<String>,
}

async fn upgrade(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<Value>, Error> {
    requester.not_suspended()?;
    state.door.limit(RateClass::RoomCreations, &requester)?;
    let creators = body.additional_creators.iter().map(|user| parse_user(user));
    let upgrade = Upgrade {
        room_id: room_id.clone(),
        user: requester.user_id.clone(),
        version: body.new_version,
        additional_creators: creators.collect::<Result<_, _>>()?,
        profile: people::member_profile(&state, &requester.user_id).await?,
    };
    let new_room = state.rooms.upgrade(&upgrade).await.map_err(error_map::rooms)?;
    people::follow_upgrade(&state, &requester.user_id, &new_room).await?;
    Ok(Json(json!({ "replacement_room": new_room })))
}
