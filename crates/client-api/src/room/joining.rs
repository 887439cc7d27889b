//! `POST /_matrix/client/v3/join/{roomIdOrAlias}` and `POST /_matrix/client/v3/rooms/{roomId}/join`
//! (`data/api/client-server/joining.yaml`).

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, GuestRequester, OptionalBody, Path, Query, RateClass, Requester};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::people;
use crate::{Routes, State, error_map, remote};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/join/{room_id_or_alias}", post(join)).client("/rooms/{room_id}/join", post(join_by_id))
}

#[derive(Debug, Default, Deserialize)]
struct Body {
    reason: Option<String>,
    /// Of an invite to a third-party identifier, which this server knows none of.
    #[serde(rename = "third_party_signed")]
    _third_party_signed: Option<Map<String, Value>>,
}

/// Servers that may be in the room: `server_name` is what `via` was called before (MSC4156).
#[derive(Debug, Default, Deserialize)]
pub struct Via {
    #[serde(default)]
    via: Vec<String>,
    #[serde(default)]
    server_name: Vec<String>,
}

impl Via {
    /// All of them, without empty ones.
    pub fn servers(self) -> Vec<String> {
        self.via.into_iter().chain(self.server_name).filter(|server| !server.is_empty()).collect()
    }
}

async fn join(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path(id_or_alias): Path<String>,
    Query(via): Query<Via>,
    OptionalBody(body): OptionalBody<Body>,
) -> Result<Json<Value>, Error> {
    let (room_id, mut servers) = remote::resolve(&state, &id_or_alias).await?;
    servers.splice(0..0, via.servers());
    join_room(&state, &requester, room_id, &servers, body.reason.as_deref()).await
}

async fn join_by_id(
    GuestRequester(requester): GuestRequester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
    OptionalBody(body): OptionalBody<Body>,
) -> Result<Json<Value>, Error> {
    join_room(&state, &requester, room_id, &[], body.reason.as_deref()).await
}

async fn join_room(
    state: &State,
    requester: &Requester,
    room_id: String,
    via: &[String],
    reason: Option<&str>,
) -> Result<Json<Value>, Error> {
    requester.not_suspended()?;
    state.door.limit(RateClass::Joins, requester)?;
    if requester.guest {
        takes_guests(state, &room_id).await?;
    }
    let profile = people::member_profile(state, &requester.user_id).await?;
    if let Some(way) = remote::way_to(state, &room_id, &requester.user_id, via).await? {
        let content = remote::with_reason(profile, reason);
        let joined = way.remote.handshakes.join(&room_id, &requester.user_id, &way.via, &content).await;
        joined.map_err(remote::error)?;
        people::follow_upgrade(state, &requester.user_id, &room_id).await?;
        return Ok(Json(json!({ "room_id": room_id })));
    }
    let before = state.rooms.joined_room(&room_id, &requester.user_id).await.is_ok();
    state.rooms.join(&room_id, &requester.user_id, reason, profile).await.map_err(refusal)?;
    if requester.guest
        && let Err(error) = takes_guests(state, &room_id).await
    {
        // Closed between the question and the join: those who make guests leave may have been there already.
        state.rooms.leave(&room_id, &requester.user_id, None).await.map_err(error_map::rooms)?;
        return Err(error);
    }
    if !before {
        people::follow_upgrade(state, &requester.user_id, &room_id).await?;
    }
    Ok(Json(json!({ "room_id": room_id })))
}

/// Why a join was refused. Whether the room does not exist or lets the user not in is not told (CR10).
pub fn refusal(error: rooms::Error) -> Error {
    match error {
        rooms::Error::NotInRoom | rooms::Error::Forbidden(_) => {
            Error::forbidden("You may not join this room, or it does not exist.")
        }
        other => error_map::rooms(other),
    }
}

/// Guests join only where `m.room.guest_access` lets them (client-server API, guest access).
async fn takes_guests(state: &State, room_id: &str) -> Result<(), Error> {
    let room = state.rooms.room(room_id).await.map_err(error_map::rooms)?;
    let Some(room) = room else { return Err(error_map::rooms(rooms::Error::NotInRoom)) };
    let taken = state.rooms.takes_guests(&room).await.map_err(error_map::rooms)?;
    if taken { Ok(()) } else { Err(Error::guest_access_forbidden()) }
}
