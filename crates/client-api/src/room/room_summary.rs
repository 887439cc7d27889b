//! `GET /_matrix/client/v1/room_summary/{roomIdOrAlias}` (`data/api/client-server/room_summary.yaml`), and the same under
//! the names that it had as a proposal (MSC3266).

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, OptionalRequester, Path, Requester};
use serde_json::{Map, Value};

use super::summary::is_accessible;
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client_v1("/room_summary/{room_id_or_alias}", get(summary))
        .unstable("/im.nheko.summary/summary/{room_id_or_alias}", get(summary_of_old))
        .unstable("/im.nheko.summary/rooms/{room_id_or_alias}/summary", get(summary_of_old))
}

async fn summary(
    OptionalRequester(requester): OptionalRequester,
    extract::State(state): extract::State<State>,
    Path(id_or_alias): Path<String>,
) -> Result<Json<Value>, Error> {
    Ok(Json(Value::Object(summarized(&state, requester.as_ref(), &id_or_alias).await?)))
}

/// What joined the summary late has its earlier name here as well.
async fn summary_of_old(
    OptionalRequester(requester): OptionalRequester,
    extract::State(state): extract::State<State>,
    Path(id_or_alias): Path<String>,
) -> Result<Json<Value>, Error> {
    let mut members = summarized(&state, requester.as_ref(), &id_or_alias).await?;
    for name in ["room_version", "encryption"] {
        let value = members.get(name).cloned();
        members.extend(value.map(|value| (format!("im.nheko.summary.{name}"), value)));
    }
    Ok(Json(Value::Object(members)))
}

async fn summarized(
    state: &State,
    requester: Option<&Requester>,
    id_or_alias: &str,
) -> Result<Map<String, Value>, Error> {
    let missing = || Error::not_found("Room not found.");
    let (room_id, _) = state.rooms.resolve_alias(id_or_alias).await.map_err(error_map::rooms)?;
    let room = state.rooms.room(&room_id).await.map_err(error_map::rooms)?.ok_or_else(missing)?;
    let summary = state.rooms.summary(&room).await.map_err(error_map::rooms)?;
    let user = requester.map(|requester| &requester.user_id);
    if !is_accessible(state, &summary, user).await? {
        return Err(missing());
    }
    let mut members = summary.extended();
    if let Some(user) = user {
        let row = state.rooms.membership_row(room.num, user).await.map_err(error_map::rooms)?;
        members.extend(row.map(|row| ("membership".to_owned(), row.membership.into())));
    }
    Ok(members)
}
