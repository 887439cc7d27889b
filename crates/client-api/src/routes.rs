//! Where an endpoint stands: the same handler under every prefix that clients use for it.

use axum::Router;
use axum::routing::MethodRouter;

use crate::State;

/// Prefixes of endpoints that have been there since `r0`.
const CLIENT: [&str; 2] = ["/_matrix/client/v3", "/_matrix/client/r0"];

/// Prefix of endpoints that came later.
const CLIENT_V1: &str = "/_matrix/client/v1";

/// Prefix of endpoints under the names that they had as proposals: clients go on asking for these for years.
const UNSTABLE: &str = "/_matrix/client/unstable";

/// Registers handlers by the specification's paths.
pub trait Routes {
    /// Under `/_matrix/client/v3` and `/_matrix/client/r0`.
    #[must_use]
    fn client(self, path: &str, methods: MethodRouter<State>) -> Self;

    /// Under `/_matrix/client/v1`.
    #[must_use]
    fn client_v1(self, path: &str, methods: MethodRouter<State>) -> Self;

    /// Under `/_matrix/client/unstable`, followed by the proposal's own name.
    #[must_use]
    fn unstable(self, path: &str, methods: MethodRouter<State>) -> Self;
}

impl Routes for Router<State> {
    fn client(self, path: &str, methods: MethodRouter<State>) -> Self {
        CLIENT.iter().fold(self, |router, prefix| router.route(&format!("{prefix}{path}"), methods.clone()))
    }

    fn client_v1(self, path: &str, methods: MethodRouter<State>) -> Self {
        self.route(&format!("{CLIENT_V1}{path}"), methods)
    }

    fn unstable(self, path: &str, methods: MethodRouter<State>) -> Self {
        self.route(&format!("{UNSTABLE}{path}"), methods)
    }
}
