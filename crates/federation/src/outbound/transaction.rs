//! The transaction itself (server-server API, "Transactions").

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use event::{Json, Object, canonical_json};
use http::Method;
use rooms::{Event, flags};
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

/// The body, in the canonical form in which it is signed. The events of this server have that form already: they are not
/// read again for each destination.
pub fn body(origin: &str, now_ms: i64, events: &[(StreamPosition, Arc<Event>)], edus: &[Object]) -> Bytes {
    let mut text = b"{\"edus\":[".to_vec();
    for (place, edu) in edus.iter().enumerate() {
        add(&mut text, place, &canonical_json::to_bytes(edu));
    }
    let origin = Json::from(origin).to_canonical_string();
    text.extend_from_slice(format!("],\"origin\":{origin},\"origin_server_ts\":{now_ms},\"pdus\":[").as_bytes());
    for (place, (_, event)) in events.iter().enumerate() {
        match event.has(flags::FORWARDED) {
            // As another server wrote it.
            true => add(&mut text, place, &canonical_json::to_bytes(&event.pdu.object())),
            false => add(&mut text, place, &event.pdu.bytes),
        }
    }
    text.extend_from_slice(b"]}");
    Bytes::from(text)
}

fn add(text: &mut Vec<u8>, place: usize, member: &[u8]) {
    if place > 0 {
        text.push(b',');
    }
    text.extend_from_slice(member);
}

/// Sends a transaction. What the peer says of single events is logged: they were accepted here, and are not sent again.
///
/// # Errors
/// If there is no answer, or it is not 200.
pub async fn send(client: &Client, server: &str, id: &str, body: Bytes) -> Result<()> {
    let path = path("/_matrix/federation/v1/send", &[id], &[]);
    let answer = client.request_canonical(server, Method::PUT, &path, body, LIMITS).await?;
    let answer = Json::object_from_slice(&answer).unwrap_or_default();
    for (event, outcome) in answer.get("pdus").and_then(Json::as_object).unwrap_or(&Object::new()) {
        if let Some(error) = outcome.get("error").and_then(Json::as_str) {
            tracing::info!(server, event, error, "a server refuses an event");
        }
    }
    Ok(())
}
