//! `GET` and `POST /_matrix/federation/v1/publicRooms` (`data/api/server-server/public_rooms.yaml`).

use std::cmp::Reverse;
use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, Query};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::access::Signed;
use super::error_map;
use super::summary::Summary;
use crate::Federation;

/// Rooms of a page where the other server does not say.
const LIMIT_DEFAULT: usize = 100;
/// Most rooms of a page.
const LIMIT_MAX: usize = 500;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new().route("/_matrix/federation/v1/publicRooms", get(list).post(search))
}

#[derive(Debug, Default, Deserialize)]
struct Wanted {
    limit: Option<usize>,
    since: Option<String>,
    filter: Option<Filter>,
}

#[derive(Debug, Default, Deserialize)]
struct Filter {
    generic_search_term: Option<String>,
    room_types: Option<Vec<Option<String>>>,
}

#[derive(Debug, Default, Deserialize)]
struct Parameters {
    limit: Option<usize>,
    since: Option<String>,
}

async fn list(
    extract::State(federation): extract::State<Arc<Federation>>,
    Query(parameters): Query<Parameters>,
    _: Signed,
) -> Result<Json<Value>, Error> {
    page(&federation, Wanted { limit: parameters.limit, since: parameters.since, filter: None }).await
}

async fn search(
    extract::State(federation): extract::State<Arc<Federation>>,
    request: Signed,
) -> Result<Json<Value>, Error> {
    page(&federation, request.json()?).await
}

/// A page of the directory, the rooms with most members first.
async fn page(federation: &Federation, wanted: Wanted) -> Result<Json<Value>, Error> {
    if !federation.options.public_rooms {
        return Err(Error::forbidden("This server does not show its directory to others."));
    }
    let filter = wanted.filter.unwrap_or_default();
    let mut found: Vec<(i64, Map<String, Value>)> = Vec::new();
    for room in federation.rooms.published_rooms().await.map_err(error_map::rooms)? {
        let summary = Summary::of(federation, &room).await?;
        if filter.accepts(&summary) {
            found.push((room.head().row.joined, summary.members()));
        }
    }
    let id = |members: &Map<String, Value>| members.get("room_id").and_then(Value::as_str).map(str::to_owned);
    found.sort_by_cached_key(|(joined, members)| (Reverse(*joined), id(members)));
    let total = found.len();
    let start = offset(wanted.since.as_deref())?.min(total);
    let limit = wanted.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
    let end = start.saturating_add(limit).min(total);
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
