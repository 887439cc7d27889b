//! `GET` and `POST /_matrix/client/v3/publicRooms` and `GET` and `PUT
//! /_matrix/client/v3/directory/list/room/{roomId}` (`data/api/client-server/list_public_rooms.yaml`).

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{ClientAddress, Error, OptionalBody, OptionalRequester, Path, Query, RateClass, Requester};
use event::Object;
use rooms::directory::{DirectoryQuery, Filter};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{Routes, State, error_map, remote};

/// Rooms of a page that another server is asked for, at most.
const ELSEWHERE_MAX: u32 = 500;

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
    OptionalRequester(requester): OptionalRequester,
    client: ClientAddress,
    extract::State(state): extract::State<State>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, Error> {
    let Parameters { limit, since, server } = parameters;
    let Some(server) = elsewhere(&state, server.as_deref())? else {
        return page(&state, DirectoryQuery { limit, since, filter: None }).await;
    };
    match &requester {
        Some(requester) => state.door.limit(RateClass::Requests, requester)?,
        None => state.door.limit_address(RateClass::Requests, client)?,
    }
    page_elsewhere(&state, server, json!({ "limit": limit, "since": since })).await
}

/// What the body of a search says.
#[derive(Debug, Default, Deserialize)]
struct Search {
    limit: Option<usize>,
    since: Option<String>,
    filter: Option<Filter>,
    #[serde(default)]
    include_all_networks: bool,
    third_party_instance_id: Option<String>,
}

impl Search {
    /// The same, as another server is asked.
    fn told(&self) -> Value {
        let filter = self.filter.as_ref().map(|filter| {
            let mut members = Map::new();
            let term = filter.generic_search_term.as_deref();
            members.extend(term.map(|term| ("generic_search_term".to_owned(), json!(term))));
            let types = filter.room_types.as_ref();
            members.extend(types.map(|types| ("room_types".to_owned(), json!(types))));
            members
        });
        json!({
            "limit": self.limit,
            "since": self.since,
            "filter": filter,
            "include_all_networks": self.include_all_networks,
            "third_party_instance_id": self.third_party_instance_id,
        })
    }
}

async fn search(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Query(parameters): Query<Parameters>,
    OptionalBody(search): OptionalBody<Search>,
) -> Result<Json<Value>, Error> {
    if search.include_all_networks && search.third_party_instance_id.is_some() {
        return Err(Error::invalid_param("`third_party_instance_id` cannot be used with `include_all_networks`."));
    }
    match elsewhere(&state, parameters.server.as_deref())? {
        Some(server) => {
            state.door.limit(RateClass::Requests, &requester)?;
            page_elsewhere(&state, server, search.told()).await
        }
        // No network but Matrix itself is known here.
        None if search.third_party_instance_id.is_some() => {
            Ok(Json(json!({ "chunk": [], "total_room_count_estimate": 0 })))
        }
        None => {
            let Search { limit, since, filter, .. } = search;
            page(&state, DirectoryQuery { limit, since, filter }).await
        }
    }
}

/// The other server whose directory is wanted.
fn elsewhere<'a>(state: &State, server: Option<&'a str>) -> Result<Option<&'a str>, Error> {
    match server.filter(|server| !server.is_empty()) {
        Some(server) if !event::ids::is_server_name(server) => {
            Err(Error::invalid_param(format!("`server` must be the name of a server, which `{server}` is not.")))
        }
        Some(server) if server != state.rooms.server_name() => Ok(Some(server)),
        _ => Ok(None),
    }
}

async fn page_elsewhere(state: &State, server: &str, mut asked: Value) -> Result<Json<Value>, Error> {
    let none = || Error::not_found("This server does not federate: it knows no other's directory.");
    let remote = state.remote.as_ref().ok_or_else(none)?;
    let limit = asked["limit"].as_u64().unwrap_or(100).clamp(1, ELSEWHERE_MAX.into());
    asked["limit"] = limit.into();
    if let Value::Object(members) = &mut asked {
        members.retain(|_, value| !value.is_null());
    }
    let body: Object = event::Json::from(asked).as_object().cloned().unwrap_or_default();
    Ok(Json(remote.descriptions.directory_page(server, &body).await.map_err(remote::error)?))
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
