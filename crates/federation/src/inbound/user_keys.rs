//! `POST /_matrix/federation/v1/user/keys/{query,claim}` (`data/api/server-server/user_keys.yaml`): of users of this
//! server only.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::Error;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use store::UserId;

use super::access::Signed;
use super::error_map;
use crate::Federation;

/// Most users of one request.
const USERS_MAX: usize = 2_000;
/// Most devices of one request for one-time keys.
const CLAIMS_MAX: usize = 10_000;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new()
        .route("/_matrix/federation/v1/user/keys/query", post(query))
        .route("/_matrix/federation/v1/user/keys/claim", post(claim))
}

#[derive(Debug, Deserialize)]
struct QueryBody {
    device_keys: BTreeMap<String, Vec<String>>,
}

async fn query(
    extract::State(federation): extract::State<Arc<Federation>>,
    request: Signed,
) -> Result<Json<Value>, Error> {
    let body: QueryBody = request.json()?;
    if body.device_keys.len() > USERS_MAX {
        return Err(Error::too_large(format!("A request may ask for {USERS_MAX} users.")));
    }
    let wanted = body.device_keys.into_iter().map(|(user, devices)| (UserId::from(user), devices));
    let wanted: BTreeMap<UserId, Vec<String>> = wanted.filter(|(user, _)| federation.users.is_local(user)).collect();
    // Nobody in particular asks: signatures of other users and user-signing keys are not for servers.
    let nobody = UserId::from("");
    let mut queried = federation.users.query_keys(&nobody, &wanted).await.map_err(error_map::users)?;
    if !federation.options.device_names {
        let keys = queried.device_keys.values_mut().flat_map(BTreeMap::values_mut);
        keys.filter_map(Value::as_object_mut).for_each(|key| drop(key.remove("unsigned")));
    }
    Ok(Json(json!({
        "device_keys": by_user(queried.device_keys),
        "master_keys": by_user(queried.master_keys),
        "self_signing_keys": by_user(queried.self_signing_keys),
    })))
}

#[derive(Debug, Deserialize)]
struct ClaimBody {
    one_time_keys: BTreeMap<String, BTreeMap<String, String>>,
}

async fn claim(
    extract::State(federation): extract::State<Arc<Federation>>,
    request: Signed,
) -> Result<Json<Value>, Error> {
    let body: ClaimBody = request.json()?;
    if body.one_time_keys.values().map(BTreeMap::len).sum::<usize>() > CLAIMS_MAX {
        return Err(Error::too_large(format!("A request may claim {CLAIMS_MAX} keys.")));
    }
    let wanted = body.one_time_keys.into_iter().map(|(user, devices)| (UserId::from(user), devices)).collect();
    let claimed = federation.users.claim_keys(&wanted).await.map_err(error_map::users)?;
    Ok(Json(json!({ "one_time_keys": by_user(claimed) })))
}

fn by_user<T: serde::Serialize>(of: BTreeMap<UserId, T>) -> Value {
    let members = of.into_iter().map(|(user, value)| (user.to_string(), json!(value)));
    Value::Object(members.collect::<Map<String, Value>>())
}
