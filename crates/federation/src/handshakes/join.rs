//! Joining a room that this server is not in.

use std::time::{Duration, Instant};

use bytes::Bytes;
use event::{EdgeLimits, Json, Object, Rules, Verified};
use http::Method;
use rooms::remote::Import;
use ruma_common::OwnedEventId;
use serde::Deserialize;
use serde_json::value::RawValue;
use store::UserId;

use super::Handshakes;
use super::template::{self, Wanted};
use crate::client::path;
use crate::transport::Limits;
use crate::{Error, Result, verify};

/// `make_join` does little.
const MAKE: Limits = Limits { timeout: Duration::from_secs(30), body_bytes_max: 1 << 20 };
/// `send_join` brings the whole state of the room.
const SEND: Limits = Limits { timeout: Duration::from_secs(600), body_bytes_max: 512 << 20 };

/// The answer of `send_join`, events as the bytes that they are.
#[derive(Debug, Deserialize)]
struct Joined {
    #[serde(default)]
    state: Vec<Box<RawValue>>,
    #[serde(default)]
    auth_chain: Vec<Box<RawValue>>,
    event: Option<Box<RawValue>>,
    #[serde(default)]
    members_omitted: bool,
    #[serde(default)]
    servers_in_room: Vec<String>,
}

impl Handshakes {
    /// Joins a room through one of the servers in `via`. `content` is what the member event carries besides the
    /// membership (display name, avatar, reason).
    ///
    /// # Errors
    /// [`Error::Remote`] with a server's refusal, [`Error::Exhausted`] if none could be reached.
    pub async fn join(&self, room_id: &str, user: &UserId, via: &[String], content: &Object) -> Result<OwnedEventId> {
        let candidates = self.candidates(room_id, via);
        self.first_of(&candidates, |server| async move { self.join_through(&server, room_id, user, content).await })
            .await
    }

    async fn join_through(&self, server: &str, room_id: &str, user: &UserId, content: &Object) -> Result<OwnedEventId> {
        let started = Instant::now();
        let versions = event::SUPPORTED_VERSIONS.iter().map(|version| ("ver", *version));
        let versions: Vec<_> = versions.collect();
        let path = path("/_matrix/federation/v1/make_join", &[room_id, user.as_str()], &versions);
        let answer = self.client.json(server, Method::GET, &path, None, MAKE).await?;
        let wanted = Wanted { room_id, user, membership: "join", now_ms: self.clock.now_ms() };
        let (rules, mut template) = template::read(server, &answer, &wanted)?;
        for (name, value) in content {
            template.content.entry(name.clone()).or_insert_with(|| value.clone());
        }
        let join = self.build(rules, template)?;
        let joined = self.send_join(server, room_id, &join).await?;
        tracing::info!(
            room_id,
            server,
            state = joined.state.len(),
            auth_chain = joined.auth_chain.len(),
            members_omitted = joined.members_omitted,
            elapsed = ?started.elapsed(),
            "a server lets us into a room"
        );
        let import = self.check_joined(server, rules, join, joined).await?;
        let event = self.rooms.import_join(import).await?;
        tracing::info!(room_id, elapsed = ?started.elapsed(), "the room is joined");
        Ok(event.id().clone())
    }

    async fn send_join(&self, server: &str, room_id: &str, join: &Verified) -> Result<Joined> {
        let pdu = join.pdu();
        let segments = [room_id, pdu.event_id.as_str()];
        let current = path("/_matrix/federation/v2/send_join", &segments, &[("omit_members", "false")]);
        let body = pdu.object();
        let answer = match self.client.request(server, Method::PUT, &current, Some(&body), SEND).await {
            Err(Error::Remote { errcode, .. }) if errcode == "M_UNRECOGNIZED" => {
                let old = path("/_matrix/federation/v1/send_join", &segments, &[]);
                let pair = self.client.request(server, Method::PUT, &old, Some(&body), SEND).await?;
                let (_, joined): (u16, Joined) = parse(server, &pair)?;
                return Ok(joined);
            }
            answer => answer?,
        };
        parse(server, &answer)
    }

    /// Verifies all that came. State that does not verify is dropped, but a room without its create event is no room.
    async fn check_joined(
        &self,
        server: &str,
        rules: &'static Rules,
        join: Verified,
        joined: Joined,
    ) -> Result<Import> {
        let malformed = |reason: &str| Error::Malformed { server: server.to_owned(), reason: reason.to_owned() };
        let room_id = join.pdu().room_id.clone();
        let bytes = |list: Vec<Box<RawValue>>| -> Vec<Bytes> {
            list.into_iter().map(|event| Bytes::from(String::from(Box::<str>::from(event)))).collect()
        };
        let keep = |verified: Vec<Result<Verified, event::VerifyError>>| -> Vec<Verified> {
            let known = verified.into_iter().filter_map(|verified| {
                verified.inspect_err(|error| tracing::info!(server, %error, "an event of a room is dropped")).ok()
            });
            known.filter(|event| event.pdu().room_id == room_id).collect()
        };
        let join = match joined.event {
            Some(signed) if join.pdu().content.contains_key("join_authorised_via_users_server") => {
                let signed = Bytes::from(String::from(Box::<str>::from(signed)));
                let signed = verify::pdu(&self.keys, rules, signed, EdgeLimits::Enforced).await??;
                if signed.pdu().event_id != join.pdu().event_id {
                    return Err(malformed("`event` is not the join that was sent"));
                }
                signed
            }
            _ => join,
        };
        let state = keep(verify::pdus(&self.keys, rules, bytes(joined.state), EdgeLimits::Enforced).await?);
        let auth_chain = keep(verify::pdus(&self.keys, rules, bytes(joined.auth_chain), EdgeLimits::Enforced).await?);
        let create = state.iter().find(|event| event.pdu().is_create());
        let create = create.ok_or_else(|| malformed("the state has no create event"))?;
        let version = create.pdu().content_str("room_version").unwrap_or("1");
        if version != rules.version() {
            return Err(malformed("the create event is of another room version"));
        }
        let partial = joined.members_omitted.then_some(joined.servers_in_room);
        Ok(Import { rules, join, state, auth_chain, partial })
    }

    pub(super) fn build(&self, rules: &Rules, mut template: event::Template) -> Result<Verified> {
        if !rules.event_id_is_hash() {
            template.opaque_id = Some(store::clock::random_text(self.entropy.as_ref(), 18));
        }
        event::build(rules, template, &self.key, self.rooms.server_name())
            .map_err(|error| rooms::Error::BadContent(error.to_string()).into())
    }
}

/// Reads an answer of this form.
///
/// # Errors
/// [`Error::Malformed`].
pub(super) fn parse<'a, T: Deserialize<'a>>(server: &str, answer: &'a [u8]) -> Result<T> {
    serde_json::from_slice(answer)
        .map_err(|error| Error::Malformed { server: server.to_owned(), reason: error.to_string() })
}

/// A member event's content with a reason.
pub(super) fn with_reason(content: &Object, reason: Option<&str>) -> Object {
    let mut content = content.clone();
    if let Some(reason) = reason {
        content.insert("reason".to_owned(), Json::from(reason));
    }
    content
}
