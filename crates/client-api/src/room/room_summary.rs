//! `GET /_matrix/client/v1/room_summary/{roomIdOrAlias}` (`data/api/client-server/room_summary.yaml`), and the same under
//! the names that it had as a proposal (MSC3266).

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, OptionalRequester, Path, Query, RateClass, Requester};
use serde_json::{Map, Value};

use super::joining::Via;
use super::summary::{is_accessible, is_accessible_elsewhere};
use crate::account::remote_keys::deadline;
use crate::{Routes, State, error_map, remote};

/// How long other servers are waited for, in milliseconds.
const ELSEWHERE_MS_MAX: u64 = 15_000;

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
    Query(via): Query<Via>,
) -> Result<Json<Value>, Error> {
    Ok(Json(Value::Object(summarized(&state, requester.as_ref(), &id_or_alias, via).await?)))
}

/// What joined the summary late has its earlier name here as well.
async fn summary_of_old(
    OptionalRequester(requester): OptionalRequester,
    extract::State(state): extract::State<State>,
    Path(id_or_alias): Path<String>,
    Query(via): Query<Via>,
) -> Result<Json<Value>, Error> {
    let mut members = summarized(&state, requester.as_ref(), &id_or_alias, via).await?;
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
    via: Via,
) -> Result<Map<String, Value>, Error> {
    let missing = || Error::not_found("Room not found.");
    let (room_id, servers) = match requester {
        Some(_) => remote::resolve(state, id_or_alias).await?,
        // Nobody in particular makes this server ask others.
        None => state.rooms.resolve_alias(id_or_alias).await.map_err(error_map::rooms)?,
    };
    let room = state.rooms.room(&room_id).await.map_err(error_map::rooms)?;
    let Some(room) = room.filter(|room| room.has_server(state.rooms.server_name())) else {
        let via: Vec<String> = via.servers().into_iter().chain(servers).collect();
        return elsewhere(state, requester.ok_or_else(missing)?, &room_id, &via).await?.ok_or_else(missing);
    };
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

/// A room in which this server is not, as another describes it.
async fn elsewhere(
    state: &State,
    requester: &Requester,
    room_id: &str,
    via: &[String],
) -> Result<Option<Map<String, Value>>, Error> {
    let Some(remote) = &state.remote else { return Ok(None) };
    state.door.limit(RateClass::Requests, requester)?;
    let mut via = via.to_vec();
    via.extend(event::ids::domain(room_id).map(str::to_owned));
    let Some(found) = remote.descriptions.of(room_id, &via, false, deadline(Some(ELSEWHERE_MS_MAX))).await else {
        return Ok(None);
    };
    let user = &requester.user_id;
    if !is_accessible_elsewhere(state, &found.room, user).await? {
        return Ok(None);
    }
    let mut members = found.room.0.clone();
    let row = state.rooms.any_membership(room_id, user).await.map_err(error_map::rooms)?;
    members.extend(row.map(|row| ("membership".to_owned(), row.membership.into())));
    Ok(Some(members))
}
