//! `GET` and `POST /_matrix/client/v3/publicRooms` and `GET` and `PUT
//! /_matrix/client/v3/directory/list/room/{roomId}` (`data/api/client-server/list_public_rooms.yaml`).

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, OptionalBody, Path, Query, Requester};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::summary::Summary;
use crate::{Routes, State, error_map};

/// Rooms of a page where the client does not say.
const LIMIT_DEFAULT: usize = 100;
/// Most rooms of a page.
const LIMIT_MAX: usize = 500;

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client("/publicRooms", get(list).post(search))
        .client("/directory/list/room/{room_id}", get(visibility).put(set_visibility))
}

#[derive(Debug, Default, Deserialize)]
struct Parameters {
    limit: Option<usize>,
    since: Option<String>,
    server: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Body {
    limit: Option<usize>,
    since: Option<String>,
    filter: Option<Filter>,
}

#[derive(Debug, Default, Deserialize)]
struct Filter {
    generic_search_term: Option<String>,
    room_types: Option<Vec<Option<String>>>,
}

async fn list(
    extract::State(state): extract::State<State>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, Error> {
    check_server(&state, parameters.server.as_deref())?;
    page(&state, parameters.limit, parameters.since.as_deref(), &Filter::default()).await
}

async fn search(
    _: Requester,
    extract::State(state): extract::State<State>,
    Query(parameters): Query<Parameters>,
    OptionalBody(body): OptionalBody<Body>,
) -> Result<Json<Value>, Error> {
    check_server(&state, parameters.server.as_deref())?;
    page(&state, body.limit, body.since.as_deref(), &body.filter.unwrap_or_default()).await
}

fn check_server(state: &State, server: Option<&str>) -> Result<(), Error> {
    match server.filter(|server| !server.is_empty()) {
        Some(server) if server != state.rooms.server_name() => {
            Err(Error::not_found("This server does not federate: it knows no other's directory."))
        }
        _ => Ok(()),
    }
}

/// A page of the directory, the rooms with most members first.
async fn page(state: &State, limit: Option<usize>, since: Option<&str>, filter: &Filter) -> Result<Json<Value>, Error> {
    let mut found: Vec<(i64, Map<String, Value>)> = Vec::new();
    for room in state.rooms.published_rooms().await.map_err(error_map::rooms)? {
        let summary = Summary::of(state, &room).await?;
        if filter.accepts(&summary) {
            found.push((room.head().row.joined, summary.members()));
        }
    }
    let id = |members: &Map<String, Value>| members.get("room_id").and_then(Value::as_str).map(str::to_owned);
    found.sort_by_cached_key(|(joined, members)| (std::cmp::Reverse(*joined), id(members)));
    let start = offset(since)?.min(found.len());
    let limit = limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
    let end = start.saturating_add(limit).min(found.len());
    let total = found.len();
    let chunk: Vec<Value> = found.drain(start..end).map(|(_, members)| Value::Object(members)).collect();
    let mut answer = json!({ "chunk": chunk, "total_room_count_estimate": total });
    if end < total {
        answer["next_batch"] = token(end).into();
    }
    if start > 0 {
        answer["prev_batch"] = token(start.saturating_sub(limit)).into();
    }
    Ok(Json(answer))
}

impl Filter {
    fn accepts(&self, summary: &Summary<'_>) -> bool {
        let term = self.generic_search_term.as_deref().map(str::to_lowercase).filter(|term| !term.is_empty());
        let named = term.is_none_or(|term| summary.texts().any(|text| text.to_lowercase().contains(&term)));
        let types = self.room_types.as_ref();
        named && types.is_none_or(|types| types.iter().any(|one| one.as_deref() == summary.room_type()))
    }
}

/// A place in the directory: how many rooms come before it.
fn token(offset: usize) -> String {
    format!("p{offset}")
}

fn offset(since: Option<&str>) -> Result<usize, Error> {
    let Some(since) = since.filter(|since| !since.is_empty()) else { return Ok(0) };
    let offset = since.strip_prefix('p').and_then(|number| number.parse().ok());
    offset.ok_or_else(|| Error::invalid_param("`since` is no token of this directory."))
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Visibility {
    #[default]
    Public,
    Private,
}

#[derive(Debug, Default, Deserialize)]
struct VisibilityBody {
    #[serde(default)]
    visibility: Visibility,
}

async fn visibility(
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
) -> Result<Json<Value>, Error> {
    let room = state.rooms.room(&room_id).await.map_err(error_map::rooms)?;
    let room = room.ok_or_else(|| Error::not_found("Room not found."))?;
    let visibility = if room.head().row.published { "public" } else { "private" };
    Ok(Json(json!({ "visibility": visibility })))
}

async fn set_visibility(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
    OptionalBody(body): OptionalBody<VisibilityBody>,
) -> Result<Json<Value>, Error> {
    let published = body.visibility == Visibility::Public;
    let set = state.rooms.set_published(&room_id, &requester.user_id, requester.admin, published).await;
    set.map_err(error_map::rooms)?;
    Ok(Json(json!({})))
}
