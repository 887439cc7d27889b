//! `GET /_matrix/key/v2/server` and `GET|POST /_matrix/key/v2/query` (`data/api/server-server/keys_server.yaml`,
//! `keys_query.yaml`): this server's keys, and those of others that it vouches for. These requests are not signed: whoever
//! asks may have no key yet that we know.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, extract};
use endpoint::{Error, Path, Query, body, read_body};
use event::{Json, Object, canonical_json};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::Deserialize;

use crate::Federation;
use crate::key_ring::{Criteria, SERVERS_PER_QUERY_MAX};

/// Bytes that a query may have.
const QUERY_BYTES_MAX: usize = 256 * 1024;
/// Keys of one server that a query may name.
const KEYS_PER_SERVER_MAX: usize = 100;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new()
        .route("/_matrix/key/v2/server", get(server))
        // Some servers still name a key, to which the answer is the same.
        .route("/_matrix/key/v2/server/{key_id}", get(server))
        .route("/_matrix/key/v2/query/{server_name}", get(query_one))
        .route("/_matrix/key/v2/query", post(query))
}

async fn server(extract::State(federation): extract::State<Arc<Federation>>) -> Response {
    let ring = &federation.key_ring;
    answer(&ring.own().response(ring.now_ms()))
}

#[derive(Debug, Deserialize)]
struct QueryParameters {
    minimum_valid_until_ts: Option<u64>,
}

async fn query_one(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path(server_name): Path<String>,
    Query(parameters): Query<QueryParameters>,
) -> Result<Response, Error> {
    let vouched = federation.key_ring.vouch_for_all(&server_name, parameters.minimum_valid_until_ts).await?;
    Ok(server_keys(vouched))
}

#[derive(Debug, Deserialize)]
struct QueryBody {
    server_keys: BTreeMap<String, BTreeMap<String, KeyCriteria>>,
}

#[derive(Debug, Deserialize)]
struct KeyCriteria {
    minimum_valid_until_ts: Option<u64>,
}

async fn query(extract::State(federation): extract::State<Arc<Federation>>, body: Body) -> Result<Response, Error> {
    let bytes = read_body(body, QUERY_BYTES_MAX).await?;
    let asked: QueryBody = body::parse_json(&bytes)?;
    let few = asked.server_keys.values().all(|keys| keys.len() <= KEYS_PER_SERVER_MAX);
    if asked.server_keys.len() > SERVERS_PER_QUERY_MAX || !few {
        return Err(Error::too_large(format!(
            "A query may name {SERVERS_PER_QUERY_MAX} servers and {KEYS_PER_SERVER_MAX} keys of each."
        )));
    }
    let criteria: Criteria = asked
        .server_keys
        .into_iter()
        .map(|(server, keys)| {
            (server, keys.into_iter().map(|(key_id, key)| (key_id, key.minimum_valid_until_ts)).collect())
        })
        .collect();
    Ok(server_keys(federation.key_ring.vouch(&criteria).await?))
}

fn server_keys(responses: Vec<Object>) -> Response {
    let responses: Vec<Json> = responses.into_iter().map(Json::Object).collect();
    answer(&Object::from([("server_keys".to_owned(), Json::from(responses))]))
}

/// The answer in canonical form: other servers' responses may hold numbers that only this keeps as they were signed.
fn answer(object: &Object) -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(CONTENT_TYPE, json)], canonical_json::to_bytes(object)).into_response()
}
