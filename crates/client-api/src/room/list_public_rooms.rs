//! `GET` and `POST /_matrix/client/v3/publicRooms` and `GET` and `PUT
//! /_matrix/client/v3/directory/list/room/{roomId}` (`data/api/client-server/list_public_rooms.yaml`).

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, OptionalBody, Path, Query, Requester};
use rooms::directory::DirectoryQuery;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Routes, State, error_map};

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

async fn list(
    extract::State(state): extract::State<State>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, Error> {
    check_server(&state, parameters.server.as_deref())?;
    page(&state, DirectoryQuery { limit: parameters.limit, since: parameters.since, filter: None }).await
}

async fn search(
    _: Requester,
    extract::State(state): extract::State<State>,
    Query(parameters): Query<Parameters>,
    OptionalBody(query): OptionalBody<DirectoryQuery>,
) -> Result<Json<Value>, Error> {
    check_server(&state, parameters.server.as_deref())?;
    page(&state, query).await
}

fn check_server(state: &State, server: Option<&str>) -> Result<(), Error> {
    match server.filter(|server| !server.is_empty()) {
        Some(server) if server != state.rooms.server_name() => {
            Err(Error::not_found("This server does not federate: it knows no other's directory."))
        }
        _ => Ok(()),
    }
}

async fn page(state: &State, query: DirectoryQuery) -> Result<Json<Value>, Error> {
    Ok(Json(state.rooms.directory_page(query).await.map_err(error_map::rooms)?))
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
