//! `GET /_matrix/federation/v1/user/devices/{userId}` (`data/api/server-server/user_devices.yaml`).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, Path};
use serde_json::{Value as Content, json};
use store::tables::users::DeviceChangeRow;
use store::{UserId, Value};

use super::access::Signed;
use super::error_map;
use crate::Federation;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new().route("/_matrix/federation/v1/user/devices/{user_id}", get(devices))
}

async fn devices(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path(user_id): Path<String>,
    _: Signed,
) -> Result<Json<Content>, Error> {
    let user = UserId::from(user_id);
    let users = &federation.users;
    if !users.is_local(&user) || !users.is_active(&user).await.map_err(error_map::users)? {
        return Err(Error::not_found("There is no such user."));
    }
    // Before the keys are read: a change in between is told again rather than never.
    let change: Option<DeviceChangeRow> = federation.store.get(vec![Value::from(&user)]).await?;
    let stream_id = change.map_or(0, |change| change.pos.0);
    let wanted = BTreeMap::from([(user.clone(), Vec::new())]);
    let mut queried = users.query_keys(&UserId::from(""), &wanted).await.map_err(error_map::users)?;
    let keys = queried.device_keys.remove(&user).unwrap_or_default();
    let devices: Vec<Content> = keys.into_iter().map(|(id, keys)| device(&federation, &id, keys)).collect();
    let mut answer = json!({ "user_id": user.as_str(), "stream_id": stream_id, "devices": devices });
    if let Some(key) = queried.master_keys.remove(&user) {
        answer["master_key"] = key;
    }
    if let Some(key) = queried.self_signing_keys.remove(&user) {
        answer["self_signing_key"] = key;
    }
    Ok(Json(answer))
}

fn device(federation: &Federation, id: &str, mut keys: Content) -> Content {
    let unsigned = keys.as_object_mut().and_then(|keys| keys.remove("unsigned"));
    let mut device = json!({ "device_id": id, "keys": keys });
    let name = unsigned.as_ref().and_then(|unsigned| unsigned.get("device_display_name"));
    if let Some(name) = name.filter(|_| federation.options.device_names) {
        device["device_display_name"] = name.clone();
    }
    device
}
