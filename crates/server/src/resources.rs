//! Which part of the server a path belongs to, so that a listener serves its own parts alone.

use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::config::Resource;

/// What the listener serves on which a request came; put into each request by the listener.
#[derive(Clone, Debug)]
pub struct Served(pub Arc<[Resource]>);

/// Paths and what they belong to; the first that fits counts. What is not here (health) is served everywhere.
const PARTS: &[(&str, Resource)] = &[
    ("/_matrix/client/v1/media/", Resource::Media),
    ("/_matrix/media/", Resource::Media),
    ("/_matrix/client/", Resource::Client),
    ("/.well-known/matrix/server", Resource::Federation),
    ("/.well-known/", Resource::Client),
    ("/_matrix/federation/", Resource::Federation),
    ("/_matrix/key/", Resource::Federation),
    ("/_matrix/identity/", Resource::Identity),
    ("/_synapse/", Resource::Admin),
    ("/_hearth/", Resource::Admin),
    ("/metrics", Resource::Metrics),
];

/// What a path belongs to.
pub fn resource_of(path: &str) -> Option<Resource> {
    PARTS.iter().find(|(prefix, _)| path.starts_with(prefix)).map(|(_, resource)| *resource)
}

/// Answers `M_UNRECOGNIZED` for what is not served on the request's listener.
pub async fn only_served(request: Request, next: Next) -> Response {
    let served = request.extensions().get::<Served>();
    let missing = served.zip(resource_of(request.uri().path())).is_some_and(|(served, part)| !served.0.contains(&part));
    if missing { endpoint::Error::unrecognized().into_response() } else { next.run(request).await }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_belong_to_parts() {
        let check = |path: &str, expect: Option<Resource>| assert_eq!(resource_of(path), expect, "{path}");
        check("/_matrix/client/v3/sync", Some(Resource::Client));
        check("/_matrix/client/v1/media/download/a/b", Some(Resource::Media));
        check("/_matrix/media/v3/upload", Some(Resource::Media));
        check("/_matrix/federation/v1/version", Some(Resource::Federation));
        check("/.well-known/matrix/client", Some(Resource::Client));
        check("/_synapse/admin/v1/register", Some(Resource::Admin));
        check("/health", None);
    }
}
