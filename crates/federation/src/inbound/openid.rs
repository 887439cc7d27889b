//! `GET /_matrix/federation/v1/openid/userinfo` (`data/api/server-server/openid.yaml`): the token is all the proof.

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, Query};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error_map;
use crate::Federation;

/// Bytes of a token that is looked up at all.
const TOKEN_BYTES_MAX: usize = 512;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new().route("/_matrix/federation/v1/openid/userinfo", get(userinfo))
}

#[derive(Debug, Deserialize)]
struct Parameters {
    access_token: Option<String>,
}

async fn userinfo(
    extract::State(federation): extract::State<Arc<Federation>>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, Error> {
    let token = parameters.access_token.ok_or_else(Error::missing_token)?;
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Error::unknown_token(false));
    }
    let user = federation.users.openid_user(&token).await.map_err(error_map::users)?;
    let user = user.ok_or_else(|| Error::unknown_token(false))?;
    Ok(Json(json!({ "sub": user.as_str() })))
}
