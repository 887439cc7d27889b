//! Inviting a user of another server into a room of this one: the invite is an event of the room only once that server
//! has signed it too (behaviour FJ7).

use std::time::Duration;

use bytes::Bytes;
use event::{EdgeLimits, Json, Object, Rules, Verified};
use http::Method;
use rooms::Room;
use store::UserId;

use super::Handshakes;
use crate::client::path;
use crate::transport::Limits;
use crate::{Error, Result, verify};

/// The other server may ask its user's rules before it answers.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(60), body_bytes_max: 1 << 20 };

/// The state that an invite shows, besides who sent it (client-server API, "Stripped state").
const SHOWN: [&str; 8] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.name",
    "m.room.topic",
    "m.room.encryption",
    "m.room.history_visibility",
];

impl Handshakes {
    /// Invites a user of another server.
    ///
    /// # Errors
    /// [`rooms::Error::Forbidden`] if the sender may not; [`Error::Remote`] or [`Error::Unreachable`] if the other
    /// server does not take the invite: the room is as it was then.
    pub async fn invite(&self, room_id: &str, sender: &UserId, target: &UserId, content: Object) -> Result<()> {
        let Some(invite) = self.rooms.build_invite(room_id, sender, target, None, content).await? else {
            // Invited already.
            return Ok(());
        };
        self.deliver(room_id, sender, target, &invite).await
    }

    /// Has an invite signed by the other server, and only then takes it into the room.
    pub(super) async fn deliver(
        &self,
        room_id: &str,
        sender: &UserId,
        target: &UserId,
        invite: &Verified,
    ) -> Result<()> {
        let room = self.rooms.room(room_id).await?.ok_or(rooms::Error::NotInRoom)?;
        let state = self.state_for(&room, sender).await?;
        let server = target.server_name();
        let signed = self.send_invite(server, room.rules, room_id, invite, state).await?;
        self.rooms.accept(signed).await?;
        Ok(())
    }

    /// The state that an invite shows: whole events, among them the create event (since version 1.16 of the specification).
    async fn state_for(&self, room: &Room, sender: &UserId) -> Result<Vec<Json>> {
        let mut pairs: Vec<(&str, &str)> = SHOWN.iter().map(|kind| (*kind, "")).collect();
        pairs.push(("m.room.member", sender.as_str()));
        let mut state = Vec::new();
        for (kind, state_key) in pairs {
            let event = self.rooms.current(room, kind, state_key).await?;
            state.extend(event.map(|event| Json::Object(event.pdu.object())));
        }
        Ok(state)
    }

    async fn send_invite(
        &self,
        server: &str,
        rules: &'static Rules,
        room_id: &str,
        invite: &Verified,
        state: Vec<Json>,
    ) -> Result<Verified> {
        let segments = [room_id, invite.pdu().event_id.as_str()];
        let body = Object::from([
            ("event".to_owned(), Json::Object(invite.pdu().object())),
            ("invite_room_state".to_owned(), Json::Array(state)),
            ("room_version".to_owned(), Json::from(rules.version())),
        ]);
        let current = path("/_matrix/federation/v2/invite", &segments, &[]);
        let answer = match self.client.json(server, Method::PUT, &current, Some(&body), LIMITS).await {
            Err(Error::Remote { errcode, .. }) if errcode == "M_UNRECOGNIZED" && !rules.event_id_is_hash() => {
                let old = path("/_matrix/federation/v1/invite", &segments, &[]);
                let event = invite.pdu().object();
                let pair = self.client.request(server, Method::PUT, &old, Some(&event), LIMITS).await?;
                match Json::from_slice(&pair) {
                    Ok(Json::Array(mut pair)) => pair.pop().and_then(|body| body.as_object().cloned()),
                    _ => None,
                }
                .unwrap_or_default()
            }
            answer => answer?,
        };
        self.check_signed(server, rules, invite, &answer).await
    }

    /// The event that came back must be the one that was sent, with the other server's signature added.
    async fn check_signed(
        &self,
        server: &str,
        rules: &'static Rules,
        invite: &Verified,
        answer: &Object,
    ) -> Result<Verified> {
        let malformed = |reason: &str| Error::Malformed { server: server.to_owned(), reason: reason.to_owned() };
        let event = answer.get("event").and_then(Json::as_object).ok_or_else(|| malformed("`event` is missing"))?;
        let signature = event.get("signatures").and_then(|all| all.get(server)?.as_object());
        if signature.is_none_or(|keys| keys.is_empty()) {
            return Err(malformed("it did not sign the invite"));
        }
        let bytes = Bytes::from(event::canonical_json::to_bytes(event));
        let signed = verify::pdu(&self.keys, rules, bytes, EdgeLimits::Enforced).await??;
        if signed.pdu().event_id != invite.pdu().event_id || signed.redacted() {
            return Err(malformed("`event` is not the invite that was sent"));
        }
        Ok(signed)
    }
}
