//! `GET /_matrix/federation/v1/openid/userinfo` (`data/api/server-server/openid.yaml`): the token is all the proof.

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, Query};
use serde::Deserialize;
use serde_json::{Value, json};
use users::Users;

use super::error_map;

/// Bytes of a token that is looked up at all.
const TOKEN_BYTES_MAX: usize = 512;

/// The routes of this file.
pub(super) fn router(users: Arc<Users>) -> Router {
    Router::new().route("/_matrix/federation/v1/openid/userinfo", get(userinfo)).with_state(users)
}

#[derive(Debug, Deserialize)]
struct Parameters {
    access_token: Option<String>,
}

async fn userinfo(
    extract::State(users): extract::State<Arc<Users>>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, Error> {
    let token = parameters.access_token.ok_or_else(Error::missing_token)?;
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Error::unknown_token(false));
    }
    let user = users.openid_user(&token).await.map_err(error_map::users)?;
    let user = user.ok_or_else(|| Error::unknown_token(false))?;
    Ok(Json(json!({ "sub": user.as_str() })))
}
