//! Memberships that need another server: joining, leaving and knocking on rooms that are elsewhere, inviting users who
//! are elsewhere (server-server API, "Joining Rooms", "Leaving Rooms", "Knocking upon a room", "Inviting to a room").
//!
//! A template of another server is never signed: [`Rooms::complete_template`] checks it and takes nothing from it but the
//! edges, the depth and the user who authorizes a restricted join; the event is built there.

mod invite;
mod join;
mod leave;
mod third_party;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use event::{Json, Object, Rules, Verified};
use http::StatusCode;
use rooms::Rooms;
use store::UserId;

use crate::client::Client;
use crate::key_ring::KeyRing;
use crate::{Error, Result};

pub use third_party::ThirdPartyInvite;

/// Servers that are asked for one thing, at most.
const CANDIDATES_MAX: usize = 20;

/// Makes memberships with other servers.
pub struct Handshakes {
    client: Arc<Client>,
    keys: Arc<KeyRing>,
    rooms: Arc<Rooms>,
}

/// The member event that a handshake is about.
struct Wanted<'a> {
    room_id: &'a str,
    user: &'a UserId,
    /// `join`, `leave` or `knock`.
    membership: &'a str,
    /// What the event carries besides: display name, avatar, reason.
    content: &'a Object,
}

impl Handshakes {
    /// Handshakes of this engine's users.
    pub fn new(client: Arc<Client>, keys: Arc<KeyRing>, rooms: Arc<Rooms>) -> Self {
        Self { client, keys, rooms }
    }

    /// The event that was wanted, after the template that a server answered with (behaviours FJ2, FJ14).
    fn complete(&self, server: &str, answer: &Object, wanted: &Wanted<'_>) -> Result<(&'static Rules, Verified)> {
        let malformed = |reason: &str| Error::Malformed { server: server.to_owned(), reason: reason.to_owned() };
        let version = version_of(answer).ok_or_else(|| malformed("`room_version` is no text"))?;
        let rules = Rules::of(version).ok_or_else(|| rooms::Error::UnsupportedVersion(version.to_owned()))?;
        let template = answer.get("event").and_then(Json::as_object).ok_or_else(|| malformed("`event` is missing"))?;
        let Wanted { room_id, user, membership, content } = wanted;
        let event = self.rooms.complete_template(rules, room_id, user, membership, template, (*content).clone());
        match event {
            Ok(event) => Ok((rules, event)),
            // Another server may do better.
            Err(rooms::Error::Invalid(reason)) => Err(malformed(&reason)),
            Err(error) => Err(error.into()),
        }
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
        Error::Rooms(error) => !matches!(error, rooms::Error::Busy | rooms::Error::PartialState),
        Error::Store(_) | Error::Users(_) => true,
        Error::Remote { status, errcode, .. } => {
            *status == StatusCode::BAD_REQUEST && errcode == "M_INCOMPATIBLE_ROOM_VERSION"
        }
        _ => false,
    }
}

/// The room version that a template is for. One that names none is of a server so old that it knows the first two only,
/// which are alike here.
fn version_of(answer: &Object) -> Option<&str> {
    answer.get("room_version").map_or(Some("1"), Json::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fj14_a_template_without_a_version_is_of_version_1() {
        let check = |version: Option<Json>, expected: Option<&str>| {
            let answer = version.map(|version| ("room_version".to_owned(), version)).into_iter().collect();
            assert_eq!(version_of(&answer), expected);
        };
        check(None, Some("1"));
        check(Some(Json::from("11")), Some("11"));
        check(Some(Json::Int(11)), None);
    }
}
