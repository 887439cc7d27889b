//! Policy servers: what they do not recommend is neither sent nor shown (server-server API, "Policy Servers").
//!
//! A room names its policy server in its state. Its signature is asked for before the room's queue is taken, since it
//! comes over the network; the queue then judges by the signature alone, so that the outcome is the same again later.

use std::fmt;

use ::event::policy::{PolicyServer, is_exempt};
use ::event::{Pdu, Rules, Verified};
use async_trait::async_trait;

use crate::room::{Head, Overlay, Room};
use crate::state::type_key;
use crate::{Error, Result, Rooms};

/// The state event that names the policy server.
const POLICY: &str = "m.room.policy";

/// Why there is no signature of a policy server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyRefusal {
    /// It does not recommend the event, in its own words.
    Refused(String),
    /// It cannot be reached, or answers nonsense.
    Away(String),
}

/// Asks policy servers, which are other servers; given at boot.
#[async_trait]
pub trait PolicyServers: fmt::Debug + Send + Sync + 'static {
    /// Asks a server to sign an event, and returns its signature, which is still to be checked. Bounded in time: whoever
    /// wants to send the event waits for this.
    ///
    /// # Errors
    /// See [`PolicyRefusal`].
    async fn sign(&self, server: &str, event: &Pdu) -> Result<String, PolicyRefusal>;
}

impl Rooms {
    /// The policy server that a room uses as of a head: named validly in its state, with a user in the room.
    pub(crate) async fn policy_server(
        &self,
        room: &Room,
        overlay: Option<&Overlay>,
        head: &Head,
    ) -> Result<Option<PolicyServer>> {
        let state = self.state_map(room, overlay, head.state, &[type_key(POLICY, "")]).await?;
        let named = state.event(POLICY, "").and_then(|event| PolicyServer::from_content(&event.pdu.content));
        Ok(named.filter(|policy| head.servers.contains_key(&policy.server)))
    }

    /// An event that a server sent, with the recommendation that it lacks, if the policy server gives it.
    pub(crate) async fn seek_recommendation(&self, event: Verified) -> Result<Verified> {
        let pdu = event.pdu();
        let Some(room) = self.room(pdu.room_id.as_str()).await? else { return Ok(event) };
        let Some(policy) = self.policy_server(&room, None, &room.head()).await? else { return Ok(event) };
        if policy.recommends(room.rules, pdu) || self.event_by_id(&room, pdu.event_id.as_str()).await?.is_some() {
            return Ok(event);
        }
        match self.recommended(&policy, room.rules, &event).await {
            Ok(signed) => Ok(signed),
            Err(error @ (Error::NotRecommended(_) | Error::PolicyServerAway(_))) => {
                tracing::info!(room_id = room.id, event_id = %pdu.event_id, %error, "an event is not recommended");
                Ok(event)
            }
            Err(error) => Err(error),
        }
    }

    /// An event that a local user wants to send, with the policy server's signature where the room wants one.
    ///
    /// # Errors
    /// [`Error::NotRecommended`], [`Error::PolicyServerAway`]; as the store says.
    pub(crate) async fn recommended_to_send(&self, room: &Room, event: Verified) -> Result<Verified> {
        match self.policy_server(room, None, &room.head()).await? {
            Some(policy) if !is_exempt(event.pdu()) => self.recommended(&policy, room.rules, &event).await,
            _ => Ok(event),
        }
    }

    pub(crate) async fn recommended(&self, policy: &PolicyServer, rules: &Rules, event: &Verified) -> Result<Verified> {
        let away = || Error::PolicyServerAway("this server asks no policy servers".to_owned());
        let servers = self.options.policy_servers.as_ref().ok_or_else(away)?;
        let signature = servers.sign(&policy.server, event.pdu()).await.map_err(|refusal| match refusal {
            PolicyRefusal::Refused(reason) => Error::NotRecommended(reason),
            PolicyRefusal::Away(reason) => Error::PolicyServerAway(reason),
        })?;
        let signed = policy.add_signature(rules, event, &signature);
        signed.ok_or_else(|| Error::PolicyServerAway(format!("the signature of {} is not valid", policy.server)))
    }
}
