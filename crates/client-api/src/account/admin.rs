//! `GET /_matrix/client/v3/admin/whois/{userId}`, `GET` and `PUT /_matrix/client/v1/admin/lock/{userId}` and
//! `/_matrix/client/v1/admin/suspend/{userId}`
//! (<https://spec.matrix.org/v1.19/client-server-api/#server-administration>; behaviours CA13, CA18, CA19).
//!
//! Who asks is judged before anything is looked up: nobody learns from these routes who exists.

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, Path, Requester};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use store::UserId;
use store::tables::users::AccountRow;

use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    let lock = || get(get_lock).put(put_lock);
    let suspend = || get(get_suspension).put(put_suspension);
    Router::new()
        .client("/admin/whois/{user_id}", get(whois))
        .client_v1("/admin/lock/{user_id}", lock())
        .client_v1("/admin/suspend/{user_id}", suspend())
        .unstable("/uk.timedout.msc4323/admin/lock/{user_id}", lock())
        .unstable("/uk.timedout.msc4323/admin/suspend/{user_id}", suspend())
}

async fn whois(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(user_id): Path<String>,
) -> Result<Json<Value>, Error> {
    if requester.user_id.as_str() != user_id {
        requester.is_admin()?;
    }
    let user = UserId::from(user_id);
    state.users.managed_account(&user).await.map_err(error_map::users)?;
    let devices = state.users.devices(&user).await.map_err(error_map::users)?;
    let shown: Map<String, Value> = devices
        .into_iter()
        .map(|device| {
            let connections: Vec<Value> = device
                .last_seen
                .into_iter()
                .map(|seen| json!({ "ip": seen.ip, "last_seen": seen.ts, "user_agent": seen.user_agent }))
                .collect();
            (device.id.to_string(), json!({ "sessions": [{ "connections": connections }] }))
        })
        .collect();
    Ok(Json(json!({ "user_id": user.as_str(), "devices": shown })))
}

async fn account(state: &State, requester: &Requester, user_id: &str) -> Result<AccountRow, Error> {
    requester.is_admin()?;
    let account = state.users.managed_account(&UserId::from(user_id)).await.map_err(error_map::users)?;
    if account.admin && account.user_id != requester.user_id {
        return Err(Error::forbidden("That is another administrator."));
    }
    Ok(account)
}

async fn get_lock(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(user_id): Path<String>,
) -> Result<Json<Value>, Error> {
    let account = account(&state, &requester, &user_id).await?;
    Ok(Json(json!({ "locked": account.locked })))
}

#[derive(Debug, Deserialize)]
struct Lock {
    locked: bool,
}

async fn put_lock(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(user_id): Path<String>,
    JsonBody(Lock { locked }): JsonBody<Lock>,
) -> Result<Json<Value>, Error> {
    requester.is_admin()?;
    let user = UserId::from(user_id);
    state.users.set_locked(&requester.user_id, &user, locked).await.map_err(error_map::users)?;
    Ok(Json(json!({ "locked": locked })))
}

async fn get_suspension(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(user_id): Path<String>,
) -> Result<Json<Value>, Error> {
    let account = account(&state, &requester, &user_id).await?;
    Ok(Json(json!({ "suspended": account.suspended })))
}

#[derive(Debug, Deserialize)]
struct Suspension {
    suspended: bool,
}

async fn put_suspension(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(user_id): Path<String>,
    JsonBody(Suspension { suspended }): JsonBody<Suspension>,
) -> Result<Json<Value>, Error> {
    requester.is_admin()?;
    let user = UserId::from(user_id);
    state.users.set_suspended(&requester.user_id, &user, suspended).await.map_err(error_map::users)?;
    Ok(Json(json!({ "suspended": suspended })))
}
