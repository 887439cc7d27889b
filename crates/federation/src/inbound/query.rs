//! `GET /_matrix/federation/v1/query/{directory,profile}` (`data/api/server-server/query.yaml`).

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, Query};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use store::UserId;

use super::access::Signed;
use super::error_map;
use crate::Federation;

/// Most servers that the answer to an alias names.
const SERVERS_MAX: usize = 50;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new()
        .route("/_matrix/federation/v1/query/directory", get(directory))
        .route("/_matrix/federation/v1/query/profile", get(profile))
        .route("/_matrix/federation/v1/query/{query_type}", get(unknown))
}

#[derive(Debug, Deserialize)]
struct DirectoryParameters {
    room_alias: String,
}

async fn directory(
    extract::State(federation): extract::State<Arc<Federation>>,
    Query(parameters): Query<DirectoryParameters>,
    _: Signed,
) -> Result<Json<Value>, Error> {
    let alias = parameters.room_alias;
    let server = alias.split_once(':').map(|(_, server)| server);
    if !rooms::aliases::is_alias(&alias) || server != Some(federation.rooms.server_name()) {
        return Err(Error::not_found("This alias is none of this server's."));
    }
    let row = federation.rooms.alias(&alias).await.map_err(error_map::rooms)?;
    let row = row.ok_or_else(|| Error::not_found("There is no such alias."))?;
    let mut servers = vec![federation.rooms.server_name().to_owned()];
    let all = federation.rooms.servers(&row.room_id).await.map_err(error_map::rooms)?;
    servers.extend(all.into_iter().filter(|server| server != federation.rooms.server_name()));
    servers.truncate(SERVERS_MAX);
    Ok(Json(json!({ "room_id": row.room_id, "servers": servers })))
}

#[derive(Debug, Deserialize)]
struct ProfileParameters {
    user_id: String,
    field: Option<String>,
}

async fn profile(
    extract::State(federation): extract::State<Arc<Federation>>,
    Query(parameters): Query<ProfileParameters>,
    _: Signed,
) -> Result<Json<Value>, Error> {
    if !federation.options.profiles {
        return Err(Error::forbidden("This server does not show profiles to others."));
    }
    let user = UserId::from(parameters.user_id);
    let missing = || Error::not_found("There is no such user.");
    if !federation.users.is_local(&user) {
        return Err(missing());
    }
    let mut fields = federation.users.profile(&user).await.map_err(error_map::users)?.ok_or_else(missing)?;
    let Some(name) = parameters.field else { return Ok(Json(Value::Object(fields))) };
    let known = matches!(name.as_str(), users::profile::DISPLAY_NAME | users::profile::AVATAR_URL);
    match fields.remove(&name) {
        Some(value) => Ok(Json(Value::Object(Map::from_iter([(name, value)])))),
        None if known => Ok(Json(json!({}))),
        None => Err(Error::not_found("The profile has no such field.")),
    }
}

async fn unknown(_: Signed) -> Error {
    Error::unrecognized()
}
