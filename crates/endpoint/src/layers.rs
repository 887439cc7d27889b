//! What wraps a whole router: CORS on every answer, preflights, `M_UNRECOGNIZED`, request ids, caught panics
//! (behaviours CB1 and CB2).

use std::any::Any;
use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tracing::Instrument;

use crate::Error;

/// The header that carries the id under which a request stands in the log.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How long a browser may remember the answer to a preflight, in seconds.
const PREFLIGHT_AGE_S: &str = "86400";

/// Adds the answers to unknown paths and methods: call it once, after all routes are there.
pub fn with_fallbacks(router: Router) -> Router {
    router
        .fallback(|| async { Error::unrecognized() })
        .method_not_allowed_fallback(|| async { Error::method_not_allowed() })
}

/// Wraps a router: the outermost layer, around all others.
pub fn wrap(router: Router) -> Router {
    let requests = Arc::new(AtomicU64::new(1));
    router
        // The extractors of this crate have limits of their own, from the options.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(requests, serve))
}

async fn serve(State(requests): State<Arc<AtomicU64>>, request: Request, next: Next) -> Response {
    let id = requests.fetch_add(1, Ordering::Relaxed);
    // The query is left out: it may hold a token.
    let path = without_secrets(request.uri().path());
    let span = tracing::info_span!("request", id, method = %request.method(), path = path.as_ref());
    let mut response = if request.method() == Method::OPTIONS {
        StatusCode::OK.into_response()
    } else {
        let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
        answer.instrument(span.clone()).await.unwrap_or_else(|panic| span.in_scope(|| caught(panic.as_ref())))
    };
    let headers = response.headers_mut();
    add_cors(headers);
    headers.insert(REQUEST_ID, HeaderValue::from(id));
    response
}

/// A path as it may stand in the log: who knows the id of a delayed event may decide about it (MSC4140), and who knows that
/// of a rendezvous may read it and write there (MSC4108).
fn without_secrets(path: &str) -> Cow<'_, str> {
    for before in ["/delayed_events/", "/rendezvous/"] {
        if let Some((place, rest)) = path.split_once(before) {
            let after = rest.find('/').and_then(|end| rest.get(end..)).unwrap_or_default();
            return Cow::Owned(format!("{place}{before}…{after}"));
        }
    }
    Cow::Borrowed(path)
}

/// One request met a broken invariant: it fails, and the process goes on.
fn caught(panic: &(dyn Any + Send)) -> Response {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::internal(format!("a handler panicked: {}", text.unwrap_or("no message"))).into_response()
}

/// The headers of the specification ("Web Browser Clients").
fn add_cors(headers: &mut HeaderMap) {
    let values = [
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        (ACCESS_CONTROL_ALLOW_HEADERS, "X-Requested-With, Content-Type, Authorization, If-Match, If-None-Match"),
        (ACCESS_CONTROL_EXPOSE_HEADERS, "ETag, Location, Retry-After, X-Max-Bytes, X-Request-Id"),
        (ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE_S),
    ];
    for (name, value) in values {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msc4140_msc4108_the_log_does_not_tell_ids_that_are_secrets() {
        let check = |path: &str, expected: &str| assert_eq!(without_secrets(path), expected);
        check("/_matrix/client/v1/delayed_events/secret/restart", "/_matrix/client/v1/delayed_events/…/restart");
        check("/_matrix/client/v1/delayed_events/secret", "/_matrix/client/v1/delayed_events/…");
        check("/_matrix/client/v1/delayed_events", "/_matrix/client/v1/delayed_events");
        check("/_matrix/client/unstable/x/rendezvous/5-secret", "/_matrix/client/unstable/x/rendezvous/…");
        check("/_matrix/client/unstable/x/rendezvous", "/_matrix/client/unstable/x/rendezvous");
        check("/_matrix/client/v3/sync", "/_matrix/client/v3/sync");
    }
}
