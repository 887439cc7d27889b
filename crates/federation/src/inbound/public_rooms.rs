//! `GET` and `POST /_matrix/federation/v1/publicRooms` (`data/api/server-server/public_rooms.yaml`).

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, Query};
use rooms::directory::DirectoryQuery;
use serde::Deserialize;
use serde_json::Value;

use super::access::Signed;
use super::error_map;
use crate::Federation;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new().route("/_matrix/federation/v1/publicRooms", get(list).post(search))
}

#[derive(Debug, Default, Deserialize)]
struct Parameters {
    limit: Option<usize>,
    since: Option<String>,
}

async fn list(
    extract::State(federation): extract::State<Arc<Federation>>,
    Query(parameters): Query<Parameters>,
    _: Signed,
) -> Result<Json<Value>, Error> {
    page(&federation, DirectoryQuery { limit: parameters.limit, since: parameters.since, filter: None }).await
}

async fn search(
    extract::State(federation): extract::State<Arc<Federation>>,
    request: Signed,
) -> Result<Json<Value>, Error> {
    page(&federation, request.json()?).await
}

async fn page(federation: &Federation, query: DirectoryQuery) -> Result<Json<Value>, Error> {
    if !federation.options.public_rooms {
        return Err(Error::forbidden("This server does not show its directory to others."));
    }
    Ok(Json(federation.rooms.directory_page(query).await.map_err(error_map::rooms)?))
}
