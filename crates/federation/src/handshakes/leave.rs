//! Leaving a room that this server is not in (rejecting an invite, taking back a knock), and knocking on one.

use std::time::Duration;

use event::{Json, Object, Rules, Verified};
use http::Method;
use rooms::remote::RemoteMembership;
use ruma_common::OwnedEventId;
use store::UserId;

use super::join::with_reason;
use super::{Handshakes, Wanted};
use crate::client::path;
use crate::transport::Limits;
use crate::{Error, Result};

/// Both steps of a handshake that moves one event.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(30), body_bytes_max: 4 << 20 };

impl Handshakes {
    /// Rejects an invite to a room elsewhere, or takes back a knock. It succeeds whatever the other servers say: if
    /// none takes the event, the membership ends here alone (behaviour FJ8).
    ///
    /// # Errors
    /// As the store says.
    pub async fn leave(&self, room_id: &str, user: &UserId, via: &[String], reason: Option<&str>) -> Result<()> {
        let candidates = self.candidates(room_id, via);
        let content = with_reason(&Object::new(), reason);
        let content = &content;
        let sent = self
            .first_of(&candidates, |server| async move { self.leave_through(&server, room_id, user, content).await })
            .await;
        match sent {
            Ok((rules, event)) => {
                let membership = RemoteMembership {
                    room_id: room_id.to_owned(),
                    rules,
                    user: user.clone(),
                    membership: "leave".to_owned(),
                    sender: user.clone(),
                    event: Some(event),
                    stripped: Vec::new(),
                };
                Ok(self.rooms.set_remote_membership(&membership).await?)
            }
            Err(error) => {
                tracing::info!(room_id, %user, %error, "no server took the leave: the room is left here alone");
                Ok(self.rooms.leave(room_id, user, reason).await?)
            }
        }
    }

    async fn leave_through(
        &self,
        server: &str,
        room_id: &str,
        user: &UserId,
        content: &Object,
    ) -> Result<(&'static Rules, Verified)> {
        let make = path("/_matrix/federation/v1/make_leave", &[room_id, user.as_str()], &[]);
        let wanted = Wanted { room_id, user, membership: "leave", content };
        let (rules, leave) = self.make(server, &make, &wanted).await?;
        let segments = [room_id, leave.pdu().event_id.as_str()];
        let current = path("/_matrix/federation/v2/send_leave", &segments, &[]);
        let body = leave.pdu().object();
        match self.client.request(server, Method::PUT, &current, Some(&body), LIMITS).await {
            Err(Error::Remote { errcode, .. }) if errcode == "M_UNRECOGNIZED" => {
                let old = path("/_matrix/federation/v1/send_leave", &segments, &[]);
                self.client.request(server, Method::PUT, &old, Some(&body), LIMITS).await?;
            }
            answer => drop(answer?),
        }
        Ok((rules, leave))
    }

    /// Knocks on a room elsewhere.
    ///
    /// # Errors
    /// [`Error::Remote`] with a server's refusal, [`Error::Exhausted`] if none could be reached.
    pub async fn knock(&self, room_id: &str, user: &UserId, via: &[String], content: &Object) -> Result<OwnedEventId> {
        let candidates = self.candidates(room_id, via);
        self.first_of(&candidates, |server| async move { self.knock_through(&server, room_id, user, content).await })
            .await
    }

    async fn knock_through(
        &self,
        server: &str,
        room_id: &str,
        user: &UserId,
        content: &Object,
    ) -> Result<OwnedEventId> {
        let versions = event::SUPPORTED_VERSIONS.iter().map(|version| ("ver", *version));
        let versions: Vec<_> = versions.collect();
        let make = path("/_matrix/federation/v1/make_knock", &[room_id, user.as_str()], &versions);
        let wanted = Wanted { room_id, user, membership: "knock", content };
        let (rules, knock) = self.make(server, &make, &wanted).await?;
        let send = path("/_matrix/federation/v1/send_knock", &[room_id, knock.pdu().event_id.as_str()], &[]);
        let body = knock.pdu().object();
        let answer = self.client.json(server, Method::PUT, &send, Some(&body), LIMITS).await?;
        let stripped = answer.get("knock_room_state").and_then(Json::as_array).unwrap_or_default().to_vec();
        let id = knock.pdu().event_id.clone();
        let membership = RemoteMembership {
            room_id: room_id.to_owned(),
            rules,
            user: user.clone(),
            membership: "knock".to_owned(),
            sender: user.clone(),
            event: Some(knock),
            stripped,
        };
        self.rooms.set_remote_membership(&membership).await?;
        Ok(id)
    }

    /// Asks for a template and builds the event after it.
    async fn make(&self, server: &str, path: &str, wanted: &Wanted<'_>) -> Result<(&'static Rules, Verified)> {
        let answer = self.client.json(server, Method::GET, path, None, LIMITS).await?;
        self.complete(server, &answer, wanted)
    }
}
