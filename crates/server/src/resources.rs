//! Which part of the server a path belongs to, so that a listener serves its own parts alone.

use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::config::Resource;

/// What the listener serves on which a request came; put into each request by the listener.
#[derive(Clone, Debug)]
pub struct Served(pub Arc<[Resource]>);

/// Paths and what they belong to, or to any of what; the first that fits counts. What is not here (health) is served
/// everywhere.
const PARTS: &[(&str, &[Resource])] = &[
    ("/_matrix/client/v1/media/", &[Resource::Media]),
    ("/_matrix/media/", &[Resource::Media]),
    ("/_matrix/client/", &[Resource::Client]),
    ("/.well-known/matrix/server", &[Resource::Federation]),
    ("/.well-known/", &[Resource::Client]),
    // For services beside the server, such as those that let users into calls: with or without federation.
    ("/_matrix/federation/v1/openid/", &[Resource::Client, Resource::Federation]),
    ("/_matrix/federation/", &[Resource::Federation]),
    ("/_matrix/key/", &[Resource::Federation]),
    ("/_matrix/identity/", &[Resource::Identity]),
    ("/_synapse/", &[Resource::Admin]),
    // Where the links of mails lead.
    ("/_hearth/email/", &[Resource::Client]),
    ("/_hearth/", &[Resource::Admin]),
    ("/metrics", &[Resource::Metrics]),
];

/// What a path belongs to: it is served with any of these.
pub fn resources_of(path: &str) -> Option<&'static [Resource]> {
    PARTS.iter().find(|(prefix, _)| path.starts_with(prefix)).map(|(_, resources)| *resources)
}

/// Answers `M_UNRECOGNIZED` for what is not served on the request's listener.
pub async fn only_served(request: Request, next: Next) -> Response {
    let served = request.extensions().get::<Served>();
    let parts = resources_of(request.uri().path());
    let missing = served.zip(parts).is_some_and(|(served, parts)| !parts.iter().any(|part| served.0.contains(part)));
    if missing { endpoint::Error::unrecognized().into_response() } else { next.run(request).await }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_belong_to_parts() {
        let check = |path: &str, expect: &[Resource]| assert_eq!(resources_of(path).unwrap_or(&[]), expect, "{path}");
        check("/_matrix/client/v3/sync", &[Resource::Client]);
        check("/_matrix/client/v1/media/download/a/b", &[Resource::Media]);
        check("/_matrix/media/v3/upload", &[Resource::Media]);
        check("/_matrix/federation/v1/version", &[Resource::Federation]);
        check("/_matrix/federation/v1/openid/userinfo", &[Resource::Client, Resource::Federation]);
        check("/.well-known/matrix/client", &[Resource::Client]);
        check("/_hearth/email/confirm", &[Resource::Client]);
        check("/_hearth/first-account", &[Resource::Admin]);
        check("/_synapse/admin/v1/register", &[Resource::Admin]);
        check("/health", &[]);
    }
}
