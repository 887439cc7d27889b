//! `GET /_matrix/client/v3/profile/{userId}`, `GET`, `PUT` and `DELETE /_matrix/client/v3/profile/{userId}/{keyName}`
//! (<https://spec.matrix.org/v1.19/client-server-api/#profiles>; behaviour CR26).

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, GuestRequester, JsonBody, OptionalRequester, Path, RateClass, Requester, error};
use serde_json::{Map, Value, json};
use store::UserId;
use users::profile::{AVATAR_URL, DISPLAY_NAME};

use super::jobs;
use crate::{Routes, State, error_map, remote};

/// The routes of this file.
pub fn routes() -> Router<State> {
    let field = || get(get_field).put(put_field).delete(delete_field);
    Router::new()
        .client("/profile/{user_id}", get(whole))
        .client("/profile/{user_id}/{field}", field())
        .unstable("/uk.tcpip.msc4133/profile/{user_id}", get(whole))
        .unstable("/uk.tcpip.msc4133/profile/{user_id}/{field}", field())
}

/// A user's profile, or at least this field of it. That of another server's user is asked for there.
async fn find(state: &State, user_id: &str, field: Option<&str>) -> Result<Map<String, Value>, Error> {
    let not_found = || Error::not_found("Profile not found");
    if !user_id.starts_with('@') || !user_id.contains(':') {
        return Err(Error::invalid_param(format!("`{user_id}` is no user id.")));
    }
    let user = UserId::from(user_id);
    if !state.users.is_local(&user) {
        let server = event::ids::user_server(user_id).ok_or_else(not_found)?;
        let remote = state.remote.as_ref().ok_or_else(not_found)?;
        let profile = remote.client.query_profile(server, user_id, field).await.map_err(remote::error)?;
        return Ok(profile.into_iter().map(|(name, value)| (name, value.into())).collect());
    }
    state.users.profile(&user).await.map_err(error_map::users)?.ok_or_else(not_found)
}

async fn whole(
    extract::State(state): extract::State<State>,
    OptionalRequester(_): OptionalRequester,
    Path(user_id): Path<String>,
) -> Result<Json<Value>, Error> {
    find(&state, &user_id, None).await.map(|profile| Json(profile.into()))
}

async fn get_field(
    extract::State(state): extract::State<State>,
    OptionalRequester(_): OptionalRequester,
    Path((user_id, field)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    let mut profile = find(&state, &user_id, Some(&field)).await?;
    let value = profile.remove(&field).ok_or_else(|| Error::not_found("The profile has no such field."))?;
    Ok(Json(json!({ field: value })))
}

async fn put_field(
    extract::State(state): extract::State<State>,
    GuestRequester(requester): GuestRequester,
    Path((user_id, field)): Path<(String, String)>,
    JsonBody(mut body): JsonBody<Map<String, Value>>,
) -> Result<Json<Value>, Error> {
    may_change(&state, &requester, &user_id, &field)?;
    let value = body.remove(&field).ok_or_else(|| Error::missing_param(&field))?;
    let changed = state.users.put_profile_field(&requester.user_id, &field, value).await.map_err(error_map::users)?;
    if changed {
        tell_rooms(&state, &requester.user_id, &field).await?;
    }
    Ok(error::empty())
}

async fn delete_field(
    extract::State(state): extract::State<State>,
    GuestRequester(requester): GuestRequester,
    Path((user_id, field)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    may_change(&state, &requester, &user_id, &field)?;
    let changed = state.users.delete_profile_field(&requester.user_id, &field).await.map_err(error_map::users)?;
    if changed {
        tell_rooms(&state, &requester.user_id, &field).await?;
    }
    Ok(error::empty())
}

/// Guests may change their display name only (client-server API, guest access).
fn may_change(state: &State, requester: &Requester, user_id: &str, field: &str) -> Result<(), Error> {
    requester.is_user(user_id)?;
    if requester.guest && field != DISPLAY_NAME {
        return Err(Error::guest_access_forbidden());
    }
    requester.not_suspended()?;
    state.door.limit(RateClass::Requests, requester)
}

/// Writes a changed name or avatar to the user's rooms.
async fn tell_rooms(state: &State, user: &UserId, field: &str) -> Result<(), Error> {
    if matches!(field, DISPLAY_NAME | AVATAR_URL) {
        jobs::tell_profile(&state.users, &state.rooms, user).await?;
    }
    Ok(())
}
