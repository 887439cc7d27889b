//! `POST /_matrix/client/v3/keys/device_signing/upload`, `POST /_matrix/client/v3/keys/signatures/upload`
//! (<https://spec.matrix.org/v1.19/client-server-api/#cross-signing>; behaviours CE6, CE7).

use std::collections::BTreeMap;

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, OptionalBody, Requester, error};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use store::UserId;
use users::keys::ByUser;
use users::keys::cross_signing::{CrossSigningKeys, SIGNATURES_MAX};
use users::keys::device_keys::Queried;

use super::uia::{BY_ACCOUNT_PAGE, BY_PASSWORD, Body, Target, prove};
use super::{remote_keys, typed};
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
    let mut signed: ByUser<Value> = body.into_iter().map(|(user, keys)| (UserId::from(user), keys)).collect();
    let (signer, users) = (&requester.user_id, &state.users);
    if signed.values().map(BTreeMap::len).sum::<usize>() > SIGNATURES_MAX {
        return Err(Error::too_large("Too many signatures at once."));
    }
    // A key of another server's user has to be that user's: it is looked up where the user is.
    let wanted = signed.keys().filter(|user| !users.is_local(user)).map(|user| (user.clone(), Vec::new())).collect();
    let mut elsewhere = Queried::default();
    let away = remote_keys::query(&state, signer, wanted, remote_keys::deadline(None), &mut elsewhere).await?;
    let mut shown: ByUser<Value> = BTreeMap::new();
    let unknown = || Error::unknown(StatusCode::BAD_GATEWAY, "The user's server cannot be asked for the key.").body();
    signed.retain(|user, keys| {
        let is_away = away.contains(user.server_name());
        if is_away {
            shown.insert(user.clone(), keys.keys().map(|key| (key.clone(), unknown())).collect());
        }
        !is_away
    });
    for (user, keys) in users.put_signatures(signer, &signed, &elsewhere).await.map_err(error_map::users)? {
        let errors = keys.into_iter().map(|(key, error)| (key, error_map::users(error).body()));
        shown.insert(user, errors.collect());
    }
    Ok(Json(json!({ "failures": shown })))
}
