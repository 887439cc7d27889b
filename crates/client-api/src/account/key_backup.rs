//! `/_matrix/client/v3/room_keys/version…` and `/_matrix/client/v3/room_keys/keys…`
//! (<https://spec.matrix.org/v1.19/client-server-api/#server-side-key-backups>; behaviour CE9).

use std::collections::BTreeMap;

use axum::routing::{get, post};
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, Path, Query, Requester, error};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use store::tables::users::{BackupKeyRow, BackupVersionRow};
use users::keys::backup::BackupKey;

use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client("/room_keys/version", post(create).get(current))
        .client("/room_keys/version/{version}", get(one).put(update).delete(delete))
        .client("/room_keys/keys", get(get_all).put(put_all).delete(delete_all))
        .client("/room_keys/keys/{room_id}", get(get_room).put(put_room).delete(delete_room))
        .client("/room_keys/keys/{room_id}/{session_id}", get(get_session).put(put_session).delete(delete_session))
}

#[derive(Debug, Deserialize)]
struct Version {
    algorithm: String,
    auth_data: Map<String, Value>,
    version: Option<String>,
}

/// A version number as clients write it; what is no number is no version.
fn number(version: &str) -> Result<i64, Error> {
    version.parse().map_err(|_| Error::not_found("There is no such backup version."))
}

fn shown(row: &BackupVersionRow) -> Json<Value> {
    let auth_data: Value = serde_json::from_str(&row.auth_data).unwrap_or_default();
    Json(json!({
        "algorithm": row.algorithm,
        "auth_data": auth_data,
        "count": row.count,
        "etag": row.etag.to_string(),
        "version": row.version.to_string(),
    }))
}

async fn create(
    extract::State(state): extract::State<State>,
    requester: Requester,
    JsonBody(body): JsonBody<Version>,
) -> Result<Json<Value>, Error> {
    let auth_data = Value::Object(body.auth_data);
    let users = &state.users;
    let version = users.create_backup(&requester.user_id, &body.algorithm, &auth_data).await;
    Ok(Json(json!({ "version": version.map_err(error_map::users)?.to_string() })))
}

async fn current(extract::State(state): extract::State<State>, requester: Requester) -> Result<Json<Value>, Error> {
    let row = state.users.backup(&requester.user_id, None).await.map_err(error_map::users)?;
    Ok(shown(&row))
}

async fn one(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(version): Path<String>,
) -> Result<Json<Value>, Error> {
    let version = number(&version)?;
    let row = state.users.backup(&requester.user_id, Some(version)).await.map_err(error_map::users)?;
    Ok(shown(&row))
}

async fn update(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(version): Path<String>,
    JsonBody(body): JsonBody<Version>,
) -> Result<Json<Value>, Error> {
    if body.version.as_ref().is_some_and(|named| *named != version) {
        return Err(Error::invalid_param("The version in the body is not that in the path."));
    }
    let (version, auth_data) = (number(&version)?, Value::Object(body.auth_data));
    let users = &state.users;
    users.update_backup(&requester.user_id, version, &body.algorithm, &auth_data).await.map_err(error_map::users)?;
    Ok(error::empty())
}

async fn delete(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(version): Path<String>,
) -> Result<Json<Value>, Error> {
    let version = number(&version)?;
    state.users.delete_backup(&requester.user_id, version).await.map_err(error_map::users)?;
    Ok(error::empty())
}

#[derive(Debug, Deserialize)]
struct Which {
    version: String,
}

#[derive(Debug, Deserialize)]
struct KeyBody {
    first_message_index: u32,
    forwarded_count: u32,
    is_verified: bool,
    session_data: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct RoomBody {
    sessions: BTreeMap<String, KeyBody>,
}

#[derive(Debug, Deserialize)]
struct AllBody {
    rooms: BTreeMap<String, RoomBody>,
}

fn key(room_id: &str, session_id: &str, body: KeyBody) -> BackupKey {
    BackupKey {
        room_id: room_id.to_owned(),
        session_id: session_id.to_owned(),
        first_message_index: body.first_message_index.into(),
        forwarded_count: body.forwarded_count.into(),
        is_verified: body.is_verified,
        session_data: Value::Object(body.session_data),
    }
}

fn changed(row: &BackupVersionRow) -> Json<Value> {
    Json(json!({ "count": row.count, "etag": row.etag.to_string() }))
}

async fn put(state: &State, requester: &Requester, which: &Which, keys: &[BackupKey]) -> Result<Json<Value>, Error> {
    let version = number(&which.version)?;
    let row = state.users.put_backup_keys(&requester.user_id, version, keys).await.map_err(error_map::users)?;
    Ok(changed(&row))
}

async fn put_all(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Query(which): Query<Which>,
    JsonBody(body): JsonBody<AllBody>,
) -> Result<Json<Value>, Error> {
    let mut keys = Vec::new();
    for (room_id, room) in body.rooms {
        keys.extend(room.sessions.into_iter().map(|(session_id, body)| key(&room_id, &session_id, body)));
    }
    put(&state, &requester, &which, &keys).await
}

async fn put_room(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(room_id): Path<String>,
    Query(which): Query<Which>,
    JsonBody(body): JsonBody<RoomBody>,
) -> Result<Json<Value>, Error> {
    let sessions = body.sessions.into_iter();
    let keys: Vec<BackupKey> = sessions.map(|(session_id, body)| key(&room_id, &session_id, body)).collect();
    put(&state, &requester, &which, &keys).await
}

async fn put_session(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path((room_id, session_id)): Path<(String, String)>,
    Query(which): Query<Which>,
    JsonBody(body): JsonBody<KeyBody>,
) -> Result<Json<Value>, Error> {
    put(&state, &requester, &which, &[key(&room_id, &session_id, body)]).await
}

fn shown_key(row: &BackupKeyRow) -> Value {
    let session_data: Value = serde_json::from_str(&row.session_data).unwrap_or_default();
    json!({
        "first_message_index": row.first_message_index,
        "forwarded_count": row.forwarded_count,
        "is_verified": row.is_verified,
        "session_data": session_data,
    })
}

async fn find(
    state: &State,
    requester: &Requester,
    which: &Which,
    room: Option<&str>,
    session: Option<&str>,
) -> Result<Vec<BackupKeyRow>, Error> {
    let version = number(&which.version)?;
    state.users.backup_keys(&requester.user_id, version, room, session).await.map_err(error_map::users)
}

async fn get_all(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Query(which): Query<Which>,
) -> Result<Json<Value>, Error> {
    let rows = find(&state, &requester, &which, None, None).await?;
    let mut rooms: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    for row in &rows {
        rooms.entry(row.room_id.clone()).or_default().insert(row.session_id.clone(), shown_key(row));
    }
    let rooms: BTreeMap<String, Value> =
        rooms.into_iter().map(|(room, sessions)| (room, json!({ "sessions": sessions }))).collect();
    Ok(Json(json!({ "rooms": rooms })))
}

async fn get_room(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(room_id): Path<String>,
    Query(which): Query<Which>,
) -> Result<Json<Value>, Error> {
    let rows = find(&state, &requester, &which, Some(&room_id), None).await?;
    let sessions: BTreeMap<&str, Value> = rows.iter().map(|row| (row.session_id.as_str(), shown_key(row))).collect();
    Ok(Json(json!({ "sessions": sessions })))
}

async fn get_session(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path((room_id, session_id)): Path<(String, String)>,
    Query(which): Query<Which>,
) -> Result<Json<Value>, Error> {
    let rows = find(&state, &requester, &which, Some(&room_id), Some(&session_id)).await?;
    rows.first().map(|row| Json(shown_key(row))).ok_or_else(|| Error::not_found("No room_keys found."))
}

async fn remove(
    state: &State,
    requester: &Requester,
    which: &Which,
    room: Option<&str>,
    session: Option<&str>,
) -> Result<Json<Value>, Error> {
    let version = number(&which.version)?;
    let row = state.users.delete_backup_keys(&requester.user_id, version, room, session).await;
    Ok(changed(&row.map_err(error_map::users)?))
}

async fn delete_all(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Query(which): Query<Which>,
) -> Result<Json<Value>, Error> {
    remove(&state, &requester, &which, None, None).await
}

async fn delete_room(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(room_id): Path<String>,
    Query(which): Query<Which>,
) -> Result<Json<Value>, Error> {
    remove(&state, &requester, &which, Some(&room_id), None).await
}

async fn delete_session(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path((room_id, session_id)): Path<(String, String)>,
    Query(which): Query<Which>,
) -> Result<Json<Value>, Error> {
    remove(&state, &requester, &which, Some(&room_id), Some(&session_id)).await
}
