//! Joining a room that this server is not in.

use std::time::{Duration, Instant};

use bytes::Bytes;
use event::{EdgeLimits, Json, Object, Rules, Verified};
use http::Method;
use rooms::remote::{Import, left_out::LeftOut, partial::Partial};
use ruma_common::OwnedEventId;
use serde::Deserialize;
use serde_json::value::RawValue;
use store::UserId;

use super::{Handshakes, Wanted};
use crate::client::path;
use crate::receive::federation_form;
use crate::transport::Limits;
use crate::verified_lists::{self, Expected};
use crate::{Error, Result, verify};

/// `make_join` does little.
const MAKE: Limits = Limits { timeout: Duration::from_secs(30), body_bytes_max: 1 << 20 };
/// `send_join` brings the whole state of the room.
const SEND: Limits = Limits { timeout: Duration::from_secs(600), body_bytes_max: 512 << 20 };

/// The lists of the answer.
const LISTS: &[&str] = &["state", "auth_chain"];

/// The answer of `send_join` without its lists.
#[derive(Debug, Default, Deserialize)]
struct Frame {
    event: Option<Box<RawValue>>,
    #[serde(default)]
    members_omitted: bool,
    #[serde(default)]
    servers_in_room: Vec<String>,
}

/// The answer of the old `send_join`, as the second of a pair.
#[derive(Debug, Deserialize)]
struct OldAnswer {
    #[serde(default)]
    state: Vec<Box<RawValue>>,
    #[serde(default)]
    auth_chain: Vec<Box<RawValue>>,
}

/// What a resident server answers, with the events that verify.
struct Joined {
    state: Vec<Verified>,
    auth_chain: Vec<Verified>,
    left_out: Vec<LeftOut>,
    frame: Frame,
}

impl Handshakes {
    /// Joins a room through one of the servers in `via`. If that leaves the members out (MSC3706), the room can be used at
    /// once and is completed later ([`crate::Federation::complete_rooms`]). `content` is what the member event carries
    /// besides the membership (display name, avatar, reason).
    ///
    /// # Errors
    /// [`Error::Remote`] with a server's refusal, [`Error::Exhausted`] if none could be reached.
    pub async fn join(&self, room_id: &str, user: &UserId, via: &[String], content: &Object) -> Result<OwnedEventId> {
        let candidates = self.candidates(room_id, via);
        self.first_of(&candidates, |server| async move { self.join_through(&server, room_id, user, content).await })
            .await
    }

    async fn join_through(&self, server: &str, room_id: &str, user: &UserId, content: &Object) -> Result<OwnedEventId> {
        // A room that is known from before has a state of its own, which only a whole one can take the place of.
        let omit_members = self.rooms.room(room_id).await?.is_none();
        match self.join_with(server, room_id, user, content, omit_members).await {
            // Somebody else has joined it meanwhile.
            Err(Error::Rooms(rooms::Error::PartialState)) => {
                self.join_with(server, room_id, user, content, false).await
            }
            joined => joined,
        }
    }

    async fn join_with(
        &self,
        server: &str,
        room_id: &str,
        user: &UserId,
        content: &Object,
        omit_members: bool,
    ) -> Result<OwnedEventId> {
        let started = Instant::now();
        let versions = event::SUPPORTED_VERSIONS.iter().map(|version| ("ver", *version));
        let versions: Vec<_> = versions.collect();
        let path = path("/_matrix/federation/v1/make_join", &[room_id, user.as_str()], &versions);
        let answer = self.client.json(server, Method::GET, &path, None, MAKE).await?;
        let wanted = Wanted { room_id, user, membership: "join", content };
        let (rules, join) = self.complete(server, &answer, &wanted)?;
        let joined = self.send_join(server, rules, &join, omit_members).await?;
        tracing::info!(
            room_id,
            server,
            state = joined.state.len(),
            auth_chain = joined.auth_chain.len(),
            members_omitted = joined.frame.members_omitted,
            elapsed = ?started.elapsed(),
            "a server lets us into a room"
        );
        let import = self.check_joined(server, rules, join, joined).await?;
        let partial = import.partial.is_some();
        let event = self.rooms.import_join(import).await?;
        tracing::info!(room_id, partial, elapsed = ?started.elapsed(), "the room is joined");
        Ok(event.id().clone())
    }

    async fn send_join(
        &self,
        server: &str,
        rules: &'static Rules,
        join: &Verified,
        omit_members: bool,
    ) -> Result<Joined> {
        let pdu = join.pdu();
        let segments = [pdu.room_id.as_str(), pdu.event_id.as_str()];
        let expected = Expected { server, room_id: &pdu.room_id, rules, lists: LISTS, bytes_max: SEND.body_bytes_max };
        let omit = if omit_members { "true" } else { "false" };
        let current = path("/_matrix/federation/v2/send_join", &segments, &[("omit_members", omit)]);
        let body = pdu.object();
        let incoming = match self.client.stream(server, Method::PUT, &current, Some(&body), SEND).await {
            Err(Error::Remote { errcode, .. }) if errcode == "M_UNRECOGNIZED" => {
                let old = path("/_matrix/federation/v1/send_join", &segments, &[]);
                let pair = self.client.request(server, Method::PUT, &old, Some(&body), SEND).await?;
                return self.verify_old(expected, parse(server, &pair)?).await;
            }
            incoming => incoming?,
        };
        let mut lists = verified_lists::read(&self.keys, expected, incoming.body).await?;
        let left_out = lists.left_out(rules);
        let mut events = lists.events.into_iter();
        let mut next = || events.next().unwrap_or_default();
        Ok(Joined { state: next(), auth_chain: next(), left_out, frame: parse(server, &lists.rest)? })
    }

    async fn verify_old(&self, expected: Expected<'_>, (_, old): (u16, OldAnswer)) -> Result<Joined> {
        let (mut lists, mut left_out) = (Vec::new(), Vec::new());
        for (list, in_state) in [(old.state, true), (old.auth_chain, false)] {
            let texts = list.into_iter().map(|event| Bytes::from(String::from(Box::<str>::from(event))));
            let texts: Vec<Bytes> = texts.collect();
            let checked = verify::pdus(&self.keys, expected.rules, texts.clone(), EdgeLimits::Enforced).await?;
            let wanting = texts.into_iter().zip(&checked).filter(|(_, checked)| verified_lists::lacks_key(checked));
            left_out.extend(wanting.filter_map(|(text, _)| verified_lists::left_out(expected.rules, text, in_state)));
            lists.push(verified_lists::kept(&expected, checked).collect());
        }
        let auth_chain = lists.pop().unwrap_or_default();
        Ok(Joined { state: lists.pop().unwrap_or_default(), auth_chain, left_out, frame: Frame::default() })
    }

    /// Checks what came as a whole: without its create event it is no room.
    async fn check_joined(
        &self,
        server: &str,
        rules: &'static Rules,
        join: Verified,
        joined: Joined,
    ) -> Result<Import> {
        let malformed = |reason: &str| Error::Malformed { server: server.to_owned(), reason: reason.to_owned() };
        let Joined { state, auth_chain, left_out, frame } = joined;
        let restricted = rules.restricted && join.pdu().content.contains_key("join_authorised_via_users_server");
        let join = match frame.event {
            Some(signed) if restricted => {
                // In canonical form, whatever the other server wrote: that is how events of this server are sent on.
                let signed = Json::object_from_slice(signed.get().as_bytes());
                let signed = signed.map_err(|error| malformed(&format!("`event` is no event: {error}")))?;
                let signed = federation_form(rules, &signed);
                let signed = verify::pdu(&self.keys, rules, signed, EdgeLimits::Enforced).await??;
                if signed.pdu().event_id != join.pdu().event_id || signed.redacted() {
                    return Err(malformed("`event` is not the join that was sent"));
                }
                signed
            }
            // Nobody else would take it.
            None if restricted => return Err(malformed("the join comes back without the signature that it needs")),
            _ => join,
        };
        let create = state.iter().find(|event| event.pdu().is_create());
        let create = create.ok_or_else(|| malformed("the state has no create event"))?;
        let version = create.pdu().content_str("room_version").unwrap_or("1");
        if version != rules.version() {
            return Err(malformed("the create event is of another room version"));
        }
        let partial =
            frame.members_omitted.then(|| Partial { resident: server.to_owned(), servers: frame.servers_in_room });
        if !left_out.is_empty() {
            let n_left_out = left_out.len();
            tracing::info!(server, n_left_out, "keys of a room's events cannot be had: they are tried again later");
        }
        Ok(Import { rules, join, state, auth_chain, partial, left_out })
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
