//! `GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags`,
//! `PUT` and `DELETE /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}`
//! (<https://spec.matrix.org/v1.19/client-server-api/#room-tagging>).

use axum::routing::{get, put};
use axum::{Json, Router, extract};
use endpoint::{Error, OptionalBody, Path, Requester, error};
use serde_json::{Map, Value, json};

use super::account_data::check_room_id;
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client("/user/{user_id}/rooms/{room_id}/tags", get(list))
        .client("/user/{user_id}/rooms/{room_id}/tags/{tag}", put(put_tag).delete(delete_tag))
}

async fn list(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path((user_id, room_id)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    requester.is_user(&user_id)?;
    check_room_id(&room_id)?;
    let tags = state.users.tags(&requester.user_id, &room_id).await.map_err(error_map::users)?;
    Ok(Json(json!({ "tags": tags })))
}

async fn put_tag(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path((user_id, room_id, tag)): Path<(String, String, String)>,
    OptionalBody(content): OptionalBody<Map<String, Value>>,
) -> Result<Json<Value>, Error> {
    requester.is_user(&user_id)?;
    check_room_id(&room_id)?;
    if content.get("order").is_some_and(|order| !order.is_number()) {
        return Err(Error::bad_json("`order` is a number."));
    }
    let users = &state.users;
    users.put_tag(&requester.user_id, &room_id, &tag, content.into()).await.map_err(error_map::users)?;
    Ok(error::empty())
}

async fn delete_tag(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path((user_id, room_id, tag)): Path<(String, String, String)>,
) -> Result<Json<Value>, Error> {
    requester.is_user(&user_id)?;
    check_room_id(&room_id)?;
    state.users.delete_tag(&requester.user_id, &room_id, &tag).await.map_err(error_map::users)?;
    Ok(error::empty())
}
