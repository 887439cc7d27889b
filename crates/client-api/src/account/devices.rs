//! `GET /_matrix/client/v3/devices`, `GET`, `PUT` and `DELETE /_matrix/client/v3/devices/{deviceId}`,
//! `POST /_matrix/client/v3/delete_devices`
//! (<https://spec.matrix.org/v1.19/client-server-api/#device-management>; behaviour CA19).

use axum::routing::{get, post};
use axum::{Json, Router, extract};
use endpoint::{Error, GuestRequester, OptionalBody, Path, Requester, error};
use serde::Deserialize;
use serde_json::{Value, json};
use store::DeviceId;
use users::devices::Device;

use super::typed;
use super::uia::{BY_PASSWORD, Body, Target, prove};
use crate::{Routes, State, error_map};

/// Devices that one request deletes.
const DEVICES_MAX: usize = 1_000;

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client("/devices", get(list))
        .client("/devices/{device_id}", get(one).put(rename).delete(delete_one))
        .client("/delete_devices", post(delete_many))
}

fn shown(device: &Device) -> Value {
    let mut shown = json!({ "device_id": device.id.as_str() });
    if let Some(name) = &device.display_name {
        shown["display_name"] = name.as_str().into();
    }
    if let Some(seen) = &device.last_seen {
        shown["last_seen_ts"] = seen.ts.into();
        shown["last_seen_ip"] = seen.ip.as_str().into();
    }
    shown
}

async fn list(
    extract::State(state): extract::State<State>,
    GuestRequester(requester): GuestRequester,
) -> Result<Json<Value>, Error> {
    let devices = state.users.devices(&requester.user_id).await.map_err(error_map::users)?;
    Ok(Json(json!({ "devices": devices.iter().map(shown).collect::<Vec<_>>() })))
}

async fn one(
    extract::State(state): extract::State<State>,
    GuestRequester(requester): GuestRequester,
    Path(device): Path<String>,
) -> Result<Json<Value>, Error> {
    let device = state.users.device(&requester.user_id, &DeviceId::from(device)).await.map_err(error_map::users)?;
    device.map(|device| Json(shown(&device))).ok_or_else(|| Error::not_found("You have no such device."))
}

#[derive(Debug, Default, Deserialize)]
struct Rename {
    display_name: Option<String>,
}

async fn rename(
    extract::State(state): extract::State<State>,
    GuestRequester(requester): GuestRequester,
    Path(device): Path<String>,
    OptionalBody(rename): OptionalBody<Rename>,
) -> Result<Json<Value>, Error> {
    let device = DeviceId::from(device);
    let users = &state.users;
    users.put_device(&requester.user_id, &device, rename.display_name, false).await.map_err(error_map::users)?;
    Ok(error::empty())
}

async fn delete_one(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(device): Path<String>,
    target: Target,
    OptionalBody(body): Body,
) -> Result<Json<Value>, Error> {
    prove(&state, BY_PASSWORD, &target, Some(&requester), &body).await?;
    let device = DeviceId::from(device);
    state.users.delete_devices(&requester.user_id, &[device]).await.map_err(error_map::users)?;
    Ok(error::empty())
}

#[derive(Debug, Deserialize)]
struct Devices {
    devices: Vec<String>,
}

async fn delete_many(
    extract::State(state): extract::State<State>,
    requester: Requester,
    target: Target,
    OptionalBody(body): Body,
) -> Result<Json<Value>, Error> {
    let Devices { devices } = typed(&body)?;
    if devices.len() > DEVICES_MAX {
        return Err(Error::invalid_param("Too many devices at once."));
    }
    prove(&state, BY_PASSWORD, &target, Some(&requester), &body).await?;
    let devices: Vec<DeviceId> = devices.into_iter().map(DeviceId::from).collect();
    state.users.delete_devices(&requester.user_id, &devices).await.map_err(error_map::users)?;
    Ok(error::empty())
}
