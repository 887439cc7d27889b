//! `PUT /_matrix/federation/v1/send/{txnId}` (`data/api/server-server/transactions.yaml`).

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use axum::routing::put;
use axum::{Router, extract};
use endpoint::{Error, Path};
use http::header::CONTENT_TYPE;

use super::access::Signed;
use crate::Federation;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new().route("/_matrix/federation/v1/send/{txn_id}", put(send))
}

async fn send(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path(txn_id): Path<String>,
    request: Signed,
) -> Result<Response, Error> {
    let origin = request.origin.clone();
    // A transaction may wait for others of the same server.
    let _place = request.place();
    let answer = federation.transaction(&origin, &txn_id, request.transaction()?).await?;
    Ok(([(CONTENT_TYPE, "application/json")], answer).into_response())
}
