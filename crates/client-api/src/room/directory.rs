//! `GET`, `PUT` and `DELETE /_matrix/client/v3/directory/room/{roomAlias}` and
//! `GET /_matrix/client/v3/rooms/{roomId}/aliases` (`data/api/client-server/directory.yaml`).

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, Path, Requester};
use rooms::aliases::is_alias;
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::readable;
use crate::{Routes, State, error_map, remote};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client("/directory/room/{room_alias}", get(resolve).put(create).delete(delete))
        .client("/rooms/{room_id}/aliases", get(list))
}

#[derive(Debug, Deserialize)]
struct Body {
    room_id: String,
}

async fn resolve(
    extract::State(state): extract::State<State>,
    Path(alias): Path<String>,
) -> Result<Json<Value>, Error> {
    check_grammar(&alias)?;
    let (room_id, servers) = remote::resolve(&state, &alias).await?;
    Ok(Json(json!({ "room_id": room_id, "servers": servers })))
}

async fn create(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path(alias): Path<String>,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<Value>, Error> {
    requester.not_suspended()?;
    check_grammar(&alias)?;
    let created = state.rooms.create_alias(&alias, &body.room_id, &requester.user_id).await;
    created.map_err(|error| match error {
        rooms::Error::AliasTaken => Error::alias_exists(),
        other => error_map::rooms(other),
    })?;
    Ok(Json(json!({})))
}

async fn delete(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path(alias): Path<String>,
) -> Result<Json<Value>, Error> {
    check_grammar(&alias)?;
    let deleted = state.rooms.delete_alias(&alias, &requester.user_id, requester.admin).await;
    deleted.map_err(error_map::rooms)?;
    Ok(Json(json!({})))
}

async fn list(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
) -> Result<Json<Value>, Error> {
    let readable = readable(&state.rooms, &room_id, &requester.user_id).await?;
    let aliases = state.rooms.aliases_of(&readable.room.id).await.map_err(error_map::rooms)?;
    Ok(Json(json!({ "aliases": aliases })))
}

fn check_grammar(alias: &str) -> Result<(), Error> {
    if is_alias(alias) { Ok(()) } else { Err(Error::invalid_param(format!("`{alias}` is no room alias."))) }
}
