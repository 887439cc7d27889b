//! Memberships that need another server: joining, leaving and knocking on rooms that are elsewhere, inviting users who
//! are elsewhere (server-server API, "Joining Rooms", "Leaving Rooms", "Knocking upon a room", "Inviting to a room").
//!
//! A template of another server is never signed: [`template`] checks it and takes nothing from it but the edges, the
//! depth and the user who authorizes a restricted join; the event is built here.

mod invite;
mod join;
mod leave;
pub mod template;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use event::SigningKey;
use http::StatusCode;
use rooms::Rooms;
use store::{Clock, Entropy};

use crate::client::Client;
use crate::key_ring::KeyRing;
use crate::{Error, Result};

/// Servers that are asked for one thing, at most.
const CANDIDATES_MAX: usize = 20;

/// Makes memberships with other servers.
pub struct Handshakes {
    client: Arc<Client>,
    keys: Arc<KeyRing>,
    rooms: Arc<Rooms>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    key: Arc<SigningKey>,
}

impl Handshakes {
    /// `key` signs the events that are built here.
    pub fn new(
        client: Arc<Client>,
        keys: Arc<KeyRing>,
        rooms: Arc<Rooms>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        key: Arc<SigningKey>,
    ) -> Self {
        Self { client, keys, rooms, clock, entropy, key }
    }

    /// The servers to ask, in order: without this one, without doubles, at most [`CANDIDATES_MAX`]. The server in the
    /// room's id, where it has one, comes last.
    fn candidates(&self, room_id: &str, via: &[String]) -> Vec<String> {
        let of_id = event::ids::domain(room_id).map(str::to_owned);
        let mut seen = BTreeSet::from([self.rooms.server_name().to_owned()]);
        let named = via.iter().cloned().chain(of_id);
        let mut candidates: Vec<String> =
            named.filter(|server| event::ids::is_server_name(server) && seen.insert(server.clone())).collect();
        candidates.truncate(CANDIDATES_MAX);
        candidates
    }

    /// Asks one candidate after the other until one helps. A refusal that every server would repeat ends it.
    async fn first_of<T, F>(&self, candidates: &[String], ask: impl Fn(String) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut worst = Error::Exhausted("no server is known to be in the room".to_owned());
        for server in candidates {
            match ask(server.clone()).await {
                Ok(done) => return Ok(done),
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => {
                    tracing::info!(server, %error, "a server could not help with a membership");
                    // What a server says is worth more than that another is away.
                    if !matches!(worst, Error::Remote { .. }) || matches!(error, Error::Remote { .. }) {
                        worst = error;
                    }
                }
            }
        }
        Err(worst)
    }
}

/// Whether asking another server cannot help: what went wrong lies here, or with the user.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Rooms(error) => !matches!(error, rooms::Error::Busy),
        Error::Store(_) | Error::Users(_) => true,
        Error::Remote { status, errcode, .. } => {
            *status == StatusCode::BAD_REQUEST && errcode == "M_INCOMPATIBLE_ROOM_VERSION"
        }
        _ => false,
    }
}
