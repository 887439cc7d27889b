//! `POST /_matrix/client/v3/user/{userId}/filter`, `GET /_matrix/client/v3/user/{userId}/filter/{filterId}`
//! (<https://spec.matrix.org/v1.19/client-server-api/#filtering>).

use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, Path, Requester};
use serde_json::{Map, Value, json};

use crate::{Routes, State, error_map, json_text};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client("/user/{user_id}/filter", post(put_filter))
        .client("/user/{user_id}/filter/{filter_id}", get(get_filter))
}

async fn put_filter(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(user_id): Path<String>,
    JsonBody(filter): JsonBody<Map<String, Value>>,
) -> Result<Json<Value>, Error> {
    requester.is_user(&user_id)?;
    let text = Value::Object(filter).to_string();
    ::sync::Filter::parse(&text).map_err(|error| Error::bad_json(error.to_string()))?;
    let filter_id = state.users.put_filter(&requester.user_id, text).await.map_err(error_map::users)?;
    Ok(Json(json!({ "filter_id": filter_id })))
}

async fn get_filter(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path((user_id, filter_id)): Path<(String, String)>,
) -> Result<Response, Error> {
    requester.is_user(&user_id)?;
    let filter = state.users.filter(&requester.user_id, &filter_id).await.map_err(error_map::users)?;
    filter.map(json_text::answer).ok_or_else(|| Error::not_found("There is no such filter."))
}
