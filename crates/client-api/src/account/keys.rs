//! `POST /_matrix/client/v3/keys/upload`, `/keys/query`, `/keys/claim`, `GET /_matrix/client/v3/keys/changes`
//! (<https://spec.matrix.org/v1.19/client-server-api/#key-management-api>; behaviours CE1 to CE5).

use std::collections::{BTreeMap, BTreeSet};

use axum::routing::{get, post};
use axum::{Json, Router, extract};
use endpoint::body::from_value;
use endpoint::{Error, GuestRequester, JsonBody, OptionalBody, Query, Requester};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use store::UserId;
use users::keys::{ByUser, Text};

use super::remote_keys;
use crate::{Routes, State, error_map};

/// Users and devices that one request names.
const NAMED_MAX: usize = 10_000;

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client("/keys/upload", post(upload))
        .client("/keys/query", post(query))
        .client("/keys/claim", post(claim))
        .client("/keys/changes", get(changes))
}

#[derive(Debug, Default, Deserialize)]
struct Upload {
    device_keys: Option<Value>,
    #[serde(default)]
    one_time_keys: Option<Map<String, Value>>,
    #[serde(default)]
    fallback_keys: Option<Map<String, Value>>,
    #[serde(default, rename = "org.matrix.msc2732.fallback_keys")]
    unstable_fallback_keys: Option<Map<String, Value>>,
}

/// What identity keys have, in the shape that the specification gives it. They are kept as they came.
#[derive(Debug, Deserialize)]
pub(super) struct DeviceKeys {
    #[serde(rename = "user_id")]
    _user_id: String,
    #[serde(rename = "device_id")]
    _device_id: String,
    #[serde(rename = "algorithms")]
    _algorithms: Vec<String>,
    #[serde(rename = "keys")]
    _keys: BTreeMap<String, String>,
    #[serde(rename = "signatures")]
    _signatures: BTreeMap<String, BTreeMap<String, String>>,
}

async fn upload(
    extract::State(state): extract::State<State>,
    GuestRequester(requester): GuestRequester,
    OptionalBody(body): OptionalBody<Upload>,
) -> Result<Json<Value>, Error> {
    let (user, device) = (&requester.user_id, requester.device()?);
    if let Some(keys) = body.device_keys.as_ref().filter(|keys| !keys.is_null()) {
        from_value::<DeviceKeys>(keys.clone())?;
    }
    let upload = users::keys::upload::Upload {
        device_keys: body.device_keys.as_ref().filter(|keys| !keys.is_null()),
        one_time: body.one_time_keys.as_ref(),
        fallback: body.fallback_keys.as_ref().or(body.unstable_fallback_keys.as_ref()),
    };
    let counts = state.users.upload_keys(user, device, &upload).await.map_err(error_map::users)?;
    Ok(Json(json!({ "one_time_key_counts": counts })))
}

#[derive(Debug, Deserialize)]
struct Asked {
    device_keys: BTreeMap<String, Vec<String>>,
    /// In milliseconds.
    timeout: Option<u64>,
}

async fn query(
    extract::State(state): extract::State<State>,
    GuestRequester(requester): GuestRequester,
    JsonBody(body): JsonBody<Asked>,
) -> Result<Json<Found>, Error> {
    if body.device_keys.values().map(|devices| devices.len() + 1).sum::<usize>() > NAMED_MAX {
        return Err(Error::too_large("Too many users and devices at once."));
    }
    let wanted: BTreeMap<UserId, Vec<String>> =
        body.device_keys.into_iter().map(|(user, devices)| (UserId::from(user), devices)).collect();
    let until = remote_keys::deadline(body.timeout);
    let mut found = state.users.query_key_texts(&requester.user_id, &wanted).await.map_err(error_map::users)?;
    let failures = remote_keys::query(&state, &requester.user_id, wanted, until, &mut found).await?;
    Ok(Json(Found {
        device_keys: found.device_keys,
        master_keys: found.master_keys,
        self_signing_keys: found.self_signing_keys,
        user_signing_keys: found.user_signing_keys,
        failures: named(failures),
    }))
}

/// The answer to a query: key objects stand in it as they are stored.
#[derive(Debug, Serialize)]
struct Found {
    device_keys: ByUser<Text>,
    master_keys: BTreeMap<UserId, Text>,
    self_signing_keys: BTreeMap<UserId, Text>,
    user_signing_keys: BTreeMap<UserId, Text>,
    failures: Value,
}

/// The answer to a claim.
#[derive(Debug, Serialize)]
struct Claimed {
    one_time_keys: ByUser<BTreeMap<String, Text>>,
    failures: Value,
}

#[derive(Debug, Deserialize)]
struct Claim {
    one_time_keys: BTreeMap<String, BTreeMap<String, String>>,
    /// In milliseconds.
    timeout: Option<u64>,
}

async fn claim(
    extract::State(state): extract::State<State>,
    GuestRequester(_): GuestRequester,
    JsonBody(body): JsonBody<Claim>,
) -> Result<Json<Claimed>, Error> {
    if body.one_time_keys.values().map(BTreeMap::len).sum::<usize>() > NAMED_MAX {
        return Err(Error::too_large("Too many devices at once."));
    }
    let wanted: ByUser<String> =
        body.one_time_keys.into_iter().map(|(user, devices)| (UserId::from(user), devices)).collect();
    let until = remote_keys::deadline(body.timeout);
    let mut one_time_keys = state.users.claim_key_texts(&wanted).await.map_err(error_map::users)?;
    let client = state.remote.as_ref().map(|remote| &remote.client);
    let failures = remote_keys::claim(client, state.rooms.server_name(), wanted, until, &mut one_time_keys).await;
    Ok(Json(Claimed { one_time_keys, failures: named(failures) }))
}

/// Servers that failed, as the answers name them. Why is not for clients.
fn named(failures: BTreeSet<String>) -> Value {
    failures.into_iter().map(|server| (server, json!({}))).collect::<Map<String, Value>>().into()
}

#[derive(Debug, Deserialize)]
struct Span {
    from: String,
    to: String,
}

async fn changes(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Query(Span { from, to }): Query<Span>,
) -> Result<Json<Value>, Error> {
    let lists = state.sync.device_list_changes(&requester.user_id, &from, &to).await.map_err(error_map::sync)?;
    Ok(Json(json!({ "changed": lists.changed, "left": lists.left })))
}
