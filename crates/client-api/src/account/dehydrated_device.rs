//! `PUT`, `GET` and `DELETE /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`, and the messages that wait
//! for it (MSC3814).
//!
//! Messages are asked for in two ways: with `GET`, as the proposal has it now, where `next_batch` says that there are more;
//! and with `POST`, as clients do since earlier versions of it, where it is always there and an answer without messages is
//! the last.

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::body::from_value;
use endpoint::{Error, JsonBody, OptionalBody, Path, Query, Requester};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use store::{DeviceId, StreamPosition};
use users::dehydrated::Dehydrated;
use users::keys::upload::Upload;

use super::keys::DeviceKeys;
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    const PATH: &str = "/org.matrix.msc3814.v1/dehydrated_device";
    Router::new()
        .unstable(PATH, get(found).put(upload).delete(delete))
        .unstable(&format!("{PATH}/{{device_id}}/events"), get(messages).post(messages_as_before))
}

#[derive(Debug, Deserialize)]
struct Body {
    device_id: String,
    device_data: Value,
    initial_device_display_name: Option<String>,
    device_keys: Value,
    #[serde(default)]
    one_time_keys: Option<Map<String, Value>>,
    #[serde(default)]
    fallback_keys: Option<Map<String, Value>>,
}

async fn upload(
    extract::State(state): extract::State<State>,
    requester: Requester,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<Value>, Error> {
    if body.device_data.get("algorithm").and_then(Value::as_str).is_none() {
        return Err(Error::bad_json("`device_data` is an object with an `algorithm`."));
    }
    from_value::<DeviceKeys>(body.device_keys.clone())?;
    let device = DeviceId::from(body.device_id.as_str());
    let new = Dehydrated {
        device: &device,
        data: &body.device_data,
        display_name: body.initial_device_display_name.as_deref(),
        keys: Upload {
            device_keys: Some(&body.device_keys),
            one_time: body.one_time_keys.as_ref(),
            fallback: body.fallback_keys.as_ref(),
        },
    };
    state.users.put_dehydrated_device(&requester.user_id, &new).await.map_err(error_map::users)?;
    Ok(Json(json!({ "device_id": body.device_id })))
}

fn none() -> Error {
    Error::not_found("You have no dehydrated device.")
}

async fn found(extract::State(state): extract::State<State>, requester: Requester) -> Result<Json<Value>, Error> {
    let found = state.users.dehydrated_device(&requester.user_id).await.map_err(error_map::users)?;
    let (device, data) = found.ok_or_else(none)?;
    let data = RawValue::from_string(data).map_err(|error| Error::internal(&error))?;
    Ok(Json(json!({ "device_id": device.as_str(), "device_data": data })))
}

async fn delete(extract::State(state): extract::State<State>, requester: Requester) -> Result<Json<Value>, Error> {
    let deleted = state.users.delete_dehydrated_device(&requester.user_id).await.map_err(error_map::users)?;
    Ok(Json(json!({ "device_id": deleted.ok_or_else(none)?.as_str() })))
}

#[derive(Debug, Deserialize)]
struct From {
    from: Option<String>,
}

async fn messages(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(device): Path<String>,
    Query(from): Query<From>,
) -> Result<Json<Value>, Error> {
    let (mut answer, next, more) = batch(&state, &requester, device, from.from.as_deref(), "from").await?;
    if more {
        answer["next_batch"] = next.into();
    }
    Ok(Json(answer))
}

#[derive(Debug, Default, Deserialize)]
struct Next {
    next_batch: Option<String>,
}

async fn messages_as_before(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(device): Path<String>,
    OptionalBody(next): OptionalBody<Next>,
) -> Result<Json<Value>, Error> {
    let (mut answer, next, _) = batch(&state, &requester, device, next.next_batch.as_deref(), "next_batch").await?;
    answer["next_batch"] = next.into();
    Ok(Json(answer))
}

/// A batch of messages, the token of the next one, and whether there are more.
async fn batch(
    state: &State,
    requester: &Requester,
    device: String,
    token: Option<&str>,
    name: &str,
) -> Result<(Value, String, bool), Error> {
    let after = token.map_or(Some(0), |token| token.parse().ok().filter(|after| *after >= 0));
    let after = after.ok_or_else(|| Error::invalid_param(format!("`{name}` is no token of this device.")))?;
    let device = DeviceId::from(device);
    let found = state.users.dehydrated_messages(&requester.user_id, &device, StreamPosition(after)).await;
    let (messages, more) = found.map_err(error_map::users)?;
    let next = messages.last().map_or(after, |message| message.pos.0).to_string();
    let mut events = Vec::with_capacity(messages.len());
    for message in messages {
        let content = RawValue::from_string(message.content).map_err(|error| Error::internal(&error))?;
        events.push(json!({ "type": message.kind, "sender": message.sender.as_str(), "content": content }));
    }
    Ok((json!({ "events": events }), next, more))
}
