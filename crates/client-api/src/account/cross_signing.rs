//! `POST /_matrix/client/v3/keys/device_signing/upload`, `POST /_matrix/client/v3/keys/signatures/upload`
//! (<https://spec.matrix.org/v1.19/client-server-api/#cross-signing>; behaviours CE6, CE7).

use std::collections::BTreeMap;

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, OptionalBody, Requester, error};
use serde::Deserialize;
use serde_json::{Value, json};
use store::UserId;
use users::keys::ByUser;
use users::keys::cross_signing::CrossSigningKeys;

use super::typed;
use super::uia::{BY_ACCOUNT_PAGE, BY_PASSWORD, Body, Target, prove};
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client("/keys/device_signing/upload", post(upload_keys))
        .client("/keys/signatures/upload", post(upload_signatures))
        .unstable("/keys/device_signing/upload", post(upload_keys))
        .unstable("/keys/signatures/upload", post(upload_signatures))
}

#[derive(Debug, Deserialize)]
struct Keys {
    master_key: Option<Value>,
    self_signing_key: Option<Value>,
    user_signing_key: Option<Value>,
}

async fn upload_keys(
    extract::State(state): extract::State<State>,
    requester: Requester,
    target: Target,
    OptionalBody(body): Body,
) -> Result<Json<Value>, Error> {
    let keys: Keys = typed(&body)?;
    let keys = CrossSigningKeys {
        master: keys.master_key,
        self_signing: keys.self_signing_key,
        user_signing: keys.user_signing_key,
    };
    let user = &requester.user_id;
    if state.users.cross_signing_needs_proof(user, &keys).await.map_err(error_map::users)? {
        let flows = if requester.oauth { BY_ACCOUNT_PAGE } else { BY_PASSWORD };
        prove(&state, flows, &target, Some(&requester), &body).await?;
    }
    state.users.put_cross_signing_keys(user, &keys).await.map_err(error_map::users)?;
    Ok(error::empty())
}

async fn upload_signatures(
    extract::State(state): extract::State<State>,
    requester: Requester,
    JsonBody(body): JsonBody<BTreeMap<String, BTreeMap<String, Value>>>,
) -> Result<Json<Value>, Error> {
    let signed: ByUser<Value> = body.into_iter().map(|(user, keys)| (UserId::from(user), keys)).collect();
    let failures = state.users.put_signatures(&requester.user_id, &signed).await.map_err(error_map::users)?;
    let shown: BTreeMap<UserId, BTreeMap<String, Value>> = failures
        .into_iter()
        .map(|(user, keys)| {
            (user, keys.into_iter().map(|(key, error)| (key, error_map::users(error).body())).collect())
        })
        .collect();
    Ok(Json(json!({ "failures": shown })))
}
