//! Invites to third-party identifiers, once it is known whose they are: an offer in a room's state becomes an invite
//! (server-server API, "Third-party invites"; behaviour FJ11).

use std::time::Duration;

use event::third_party::{self, OfferKey};
use event::{Json, Object};
use http::Method;
use http_body_util::{BodyExt, Limited};
use store::UserId;

use super::Handshakes;
use crate::client::path;
use crate::transport::Limits;
use crate::{Error, Result};

/// What an identity server says of a key is short.
const VALIDITY: Limits = Limits { timeout: Duration::from_secs(10), body_bytes_max: 64 << 10 };
/// The inviting server asks the identity server, and then us.
const EXCHANGE: Limits = Limits { timeout: Duration::from_secs(60), body_bytes_max: 64 << 10 };

/// An invite that an identity server has signed, since it knows now whom it is for.
#[derive(Debug, Clone)]
pub struct ThirdPartyInvite {
    /// The room.
    pub room_id: String,
    /// Who made the offer.
    pub sender: UserId,
    /// Who is invited.
    pub target: UserId,
    /// The block that the identity server has signed.
    pub signed: Object,
}

impl ThirdPartyInvite {
    fn token(&self) -> &str {
        self.signed.get("token").and_then(Json::as_str).unwrap_or_default()
    }

    /// The content of the member event but for the membership.
    fn content(&self, display_name: &str) -> Object {
        let invite = Object::from([
            ("display_name".to_owned(), Json::from(display_name)),
            ("signed".to_owned(), Json::Object(self.signed.clone())),
        ]);
        Object::from([("third_party_invite".to_owned(), Json::Object(invite))])
    }
}

impl Handshakes {
    /// Brings a local user the invite: makes it here if the offer is of a user of this server, else asks the server that
    /// made the offer for it.
    ///
    /// # Errors
    /// As [`Handshakes::issue`]; [`Error::Remote`] and [`Error::Unreachable`].
    pub async fn redeem(&self, invite: &ThirdPartyInvite) -> Result<()> {
        if self.rooms.is_local(&invite.sender) {
            return self.issue(invite).await;
        }
        let mut content = invite.content(&self.display_name(invite).await?.unwrap_or_default());
        content.insert("membership".to_owned(), Json::from("invite"));
        let body = Object::from([
            ("type".to_owned(), Json::from("m.room.member")),
            ("room_id".to_owned(), Json::from(invite.room_id.as_str())),
            ("sender".to_owned(), Json::from(invite.sender.as_str())),
            ("state_key".to_owned(), Json::from(invite.target.as_str())),
            ("content".to_owned(), Json::Object(content)),
        ]);
        let path = path("/_matrix/federation/v1/exchange_third_party_invite", &[&invite.room_id], &[]);
        let server = invite.sender.server_name();
        self.client.request(server, Method::PUT, &path, Some(&body), EXCHANGE).await.map(drop)
    }

    /// Makes the invite that a local user has offered, after asking whether the key that signed it is still valid.
    ///
    /// # Errors
    /// [`rooms::Error::Forbidden`] if there is no such offer, or the signature is none of its keys or of a revoked one;
    /// [`rooms::Error::NotInRoom`]; [`Error::Unreachable`] if the identity server or the invited user's is away.
    pub async fn issue(&self, invite: &ThirdPartyInvite) -> Result<()> {
        let forbidden = |reason: &str| Error::Rooms(rooms::Error::Forbidden(reason.to_owned()));
        let room = self.rooms.room(&invite.room_id).await?.ok_or(rooms::Error::NotInRoom)?;
        let offer = self.rooms.current(&room, third_party::OFFER, invite.token()).await?;
        let offer = offer.ok_or_else(|| forbidden("there is no such third-party invite"))?;
        let key = third_party::signing_key(&invite.signed, &offer.pdu.content);
        let key = key.ok_or_else(|| forbidden("the third-party invite is not signed as it must be"))?;
        let name = offer.pdu.content_str("display_name").unwrap_or_default();
        let (sender, target, content) = (&invite.sender, &invite.target, invite.content(name));
        // The rules before anybody is asked: who offers an invite decides which URL that is.
        let built = self.rooms.build_third_party_invite(&invite.room_id, sender, target, content).await?;
        let Some(event) = built else { return Ok(()) };
        if !self.is_valid(&key).await? {
            return Err(forbidden("the identity server has revoked its key"));
        }
        if self.rooms.is_local(target) {
            self.rooms.accept(event).await?;
            return Ok(());
        }
        self.deliver(&invite.room_id, sender, target, &event).await
    }

    /// The name in the offer, where this server is in the room and knows it.
    async fn display_name(&self, invite: &ThirdPartyInvite) -> Result<Option<String>> {
        let Some(room) = self.rooms.room(&invite.room_id).await? else { return Ok(None) };
        let offer = self.rooms.current(&room, third_party::OFFER, invite.token()).await?;
        Ok(offer.and_then(|offer| offer.pdu.content_str("display_name").map(str::to_owned)))
    }

    /// Whether an identity server still stands by a key. One that names no place to ask does for ever.
    async fn is_valid(&self, key: &OfferKey) -> Result<bool> {
        let Some(url) = &key.validity_url else { return Ok(true) };
        let malformed = |reason: String| Error::Malformed { server: url.clone(), reason };
        let query = path("", &[], &[("public_key", &key.public)]);
        // The path has a query already where an identity server wants one.
        let query = if url.contains('?') { query.replacen('?', "&", 1) } else { query };
        let answer = self.client.fetch(url, &format!("{url}{query}"), VALIDITY).await?;
        let body = Limited::new(answer.body, VALIDITY.body_bytes_max).collect().await;
        let body = body.map_err(|error| malformed(error.to_string()))?.to_bytes();
        let answer = Json::object_from_slice(&body).map_err(|error| malformed(error.to_string()))?;
        Ok(answer.get("valid").and_then(Json::as_bool) == Some(true))
    }
}
