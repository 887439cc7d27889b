//! Credentials for TURN servers, through which calls go where two clients cannot reach each other: good for some hours, and
//! made of a secret that this server shares with the TURN server, which needs no list of users
//! (<https://datatracker.ietf.org/doc/html/draft-uberti-behave-turn-rest-00>, as coturn's `use-auth-secret`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use store::UserId;

use crate::Users;

/// TURN servers that share one secret with this server.
#[derive(Clone)]
pub struct Servers {
    /// Their addresses, `turn:…` or `turns:…`.
    pub uris: Vec<String>,
    /// The secret.
    pub secret: String,
    /// How long credentials are good, in milliseconds.
    pub lifetime_ms: i64,
}

impl std::fmt::Debug for Servers {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers")
            .field("uris", &self.uris)
            .field("lifetime_ms", &self.lifetime_ms)
            .finish_non_exhaustive()
    }
}

/// What a client shows to a TURN server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials<'a> {
    /// When they end, in seconds since the epoch, and for whom they are.
    pub username: String,
    /// The MAC of that, in base64.
    pub password: String,
    /// The servers.
    pub uris: &'a [String],
    /// How long they are good, in seconds.
    pub lifetime_s: i64,
}

impl Users {
    /// Credentials of a user for the TURN servers, if there are any.
    pub fn turn_credentials(&self, user: &UserId) -> Option<Credentials<'_>> {
        let servers = self.options.turn.as_ref()?;
        let until_s = self.now().saturating_add(servers.lifetime_ms) / 1_000;
        let username = format!("{until_s}:{user}");
        // A key of any length will do.
        let mut mac = Hmac::<Sha1>::new_from_slice(servers.secret.as_bytes()).ok()?;
        mac.update(username.as_bytes());
        let password = STANDARD.encode(mac.finalize().into_bytes());
        Some(Credentials { username, password, uris: &servers.uris, lifetime_s: servers.lifetime_ms / 1_000 })
    }
}
