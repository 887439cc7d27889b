//! `GET` and `PUT /_matrix/client/v3/user/{userId}/account_data/{type}` and
//! `/_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}`
//! (<https://spec.matrix.org/v1.19/client-server-api/#client-config>; behaviour CR25).

use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::body::parse_json;
use endpoint::{Error, Path, RawBody, Requester, error};
use serde_json::{Map, Value};

use crate::{Routes, State, error_map, json_text};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client("/user/{user_id}/account_data/{kind}", get(get_global).put(put_global))
        .client("/user/{user_id}/rooms/{room_id}/account_data/{kind}", get(get_of_room).put(put_of_room))
}

async fn get_global(
    state: extract::State<State>,
    requester: Requester,
    Path((user_id, kind)): Path<(String, String)>,
) -> Result<Response, Error> {
    find(&state, &requester, &user_id, "", &kind).await
}

async fn get_of_room(
    state: extract::State<State>,
    requester: Requester,
    Path((user_id, room_id, kind)): Path<(String, String, String)>,
) -> Result<Response, Error> {
    check_room_id(&room_id)?;
    find(&state, &requester, &user_id, &room_id, &kind).await
}

async fn put_global(
    state: extract::State<State>,
    requester: Requester,
    Path((user_id, kind)): Path<(String, String)>,
    body: RawBody,
) -> Result<Json<Value>, Error> {
    keep(&state, &requester, &user_id, "", &kind, &body).await
}

async fn put_of_room(
    state: extract::State<State>,
    requester: Requester,
    Path((user_id, room_id, kind)): Path<(String, String, String)>,
    body: RawBody,
) -> Result<Json<Value>, Error> {
    check_room_id(&room_id)?;
    keep(&state, &requester, &user_id, &room_id, &kind, &body).await
}

async fn find(
    state: &State,
    requester: &Requester,
    user_id: &str,
    room_id: &str,
    kind: &str,
) -> Result<Response, Error> {
    requester.is_user(user_id)?;
    let content = state.users.account_data(&requester.user_id, room_id, kind).await.map_err(error_map::users)?;
    content.map(json_text::answer).ok_or_else(|| Error::not_found("Account data not found."))
}

async fn keep(
    state: &State,
    requester: &Requester,
    user_id: &str,
    room_id: &str,
    kind: &str,
    RawBody(body): &RawBody,
) -> Result<Json<Value>, Error> {
    requester.is_user(user_id)?;
    let content: Map<String, Value> = parse_json(body)?;
    let content = Value::Object(content).to_string();
    let users = &state.users;
    users.put_account_data(&requester.user_id, room_id, kind, content).await.map_err(error_map::users)?;
    Ok(error::empty())
}

/// Refuses what is no room id.
pub(super) fn check_room_id(room_id: &str) -> Result<(), Error> {
    if room_id.starts_with('!') && room_id.len() > 1 {
        Ok(())
    } else {
        Err(Error::invalid_param(format!("{room_id} is not a valid room ID.")))
    }
}
