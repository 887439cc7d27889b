//! The transaction itself (server-server API, "Transactions").

use std::sync::Arc;
use std::time::Duration;

use event::{Json, Object};
use http::Method;
use rooms::Event;
use store::StreamPosition;

use crate::Result;
use crate::client::{Client, path};
use crate::transport::Limits;

/// Most events in one transaction.
pub const PDUS_MAX: usize = 50;
/// Most EDUs in one transaction.
pub const EDUS_MAX: usize = 100;
/// Receivers may work on a transaction before they answer.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(60), body_bytes_max: 1 << 20 };

/// The body. What is signed is its canonical form, so events go out as values rather than as the bytes that they are.
pub fn body(origin: &str, now_ms: i64, events: &[(StreamPosition, Arc<Event>)], edus: Vec<Object>) -> Object {
    let pdus = events.iter().map(|(_, event)| Json::Object(event.pdu.object())).collect();
    Object::from([
        ("edus".to_owned(), Json::Array(edus.into_iter().map(Json::Object).collect())),
        ("origin".to_owned(), Json::from(origin)),
        ("origin_server_ts".to_owned(), Json::from(now_ms)),
        ("pdus".to_owned(), Json::Array(pdus)),
    ])
}

/// Sends a transaction. What the peer says of single events is logged: they were accepted here, and are not sent again.
///
/// # Errors
/// If there is no answer, or it is not 200.
pub async fn send(client: &Client, server: &str, id: &str, body: &Object) -> Result<()> {
    let path = path("/_matrix/federation/v1/send", &[id], &[]);
    let answer = client.request(server, Method::PUT, &path, Some(body), LIMITS).await?;
    let answer = Json::object_from_slice(&answer).unwrap_or_default();
    for (event, outcome) in answer.get("pdus").and_then(Json::as_object).unwrap_or(&Object::new()) {
        if let Some(error) = outcome.get("error").and_then(Json::as_str) {
            tracing::info!(server, event, error, "a server refuses an event");
        }
    }
    Ok(())
}
