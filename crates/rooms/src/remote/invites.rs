//! Invites across servers: those of our users to users of others, which their server signs too, and those of others to
//! ours, which this one signs (server-server API, "Inviting to a room").

use std::sync::Arc;

use ::event::{Json, Object, Rules, Verified};
use store::UserId;

use crate::draft::Draft;
use crate::room::Room;
use crate::state::MEMBER;
use crate::{Error, NewEvent, Result, Rooms};

impl Rooms {
    /// Builds an invite of another server's user, without storing it: their server signs it too, then it is accepted
    /// like any other event. `None` if the user is invited already.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] if the sender is not in the room; [`Error::Forbidden`] if the target is joined or banned, the
    /// sender may not invite, or the room is not federated; [`Error::Invalid`] if the target is a user of this server.
    pub async fn build_invite(
        &self,
        room_id: &str,
        sender: &UserId,
        target: &UserId,
        reason: Option<&str>,
        extra: Object,
    ) -> Result<Option<Verified>> {
        let room = self.joined_whole(room_id, sender).await?;
        if self.is_local(target) {
            return Err(Error::Invalid(format!("{target} is a user of this server")));
        }
        if room.create.content.get("m.federate").and_then(Json::as_bool) == Some(false) {
            return Err(Error::Forbidden("the room is not federated".to_owned()));
        }
        let state = self.member_state(&room, &[target]).await?;
        match state.membership(target.as_str()) {
            "join" => return Err(Error::Forbidden(format!("{target} is in the room already"))),
            "ban" => return Err(Error::Forbidden(format!("{target} is banned from the room"))),
            "invite" => return Ok(None),
            _ => {}
        }
        let mut content = extra;
        content.insert("membership".to_owned(), Json::from("invite"));
        if let Some(reason) = reason {
            content.insert("reason".to_owned(), Json::from(reason));
        }
        let new = NewEvent::state(sender, MEMBER, target.as_str(), content);
        self.build_unstored(&room, &new).await.map(Some)
    }

    /// Builds the invite that an `m.room.third_party_invite` event of a local user offers, without storing it. Neither
    /// does the sender have to be in the room any more, nor to have the power for it: the offer was allowed. `None` if the
    /// target is invited or joined already.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] if this server is not in the room; [`Error::Forbidden`] if the rules do not allow it: the
    /// target is banned, or the offer is not there, by somebody else, or not what `content` is signed for.
    pub async fn build_third_party_invite(
        &self,
        room_id: &str,
        sender: &UserId,
        target: &UserId,
        mut content: Object,
    ) -> Result<Option<Verified>> {
        self.resident_room(room_id).await?;
        self.need_members(room_id).await?;
        let room = self.resident_room(room_id).await?;
        let federated = room.create.content.get("m.federate").and_then(Json::as_bool) != Some(false);
        if !self.is_local(target) && !federated {
            return Err(Error::Forbidden("the room is not federated".to_owned()));
        }
        let state = self.member_state(&room, &[target]).await?;
        if matches!(state.membership(target.as_str()), "join" | "invite") {
            return Ok(None);
        }
        content.insert("membership".to_owned(), Json::from("invite"));
        let new = NewEvent::state(sender, MEMBER, target.as_str(), content);
        self.build_unstored(&room, &new).await.map(Some)
    }

    /// Builds an event on the room's head. It names events that must be durable before another server sees it.
    async fn build_unstored(&self, room: &Arc<Room>, new: &NewEvent) -> Result<Verified> {
        let draft = Draft::begin(self, room).await;
        draft.check_alive()?;
        let (event, _) = self.build_local(&draft, new).await?;
        drop(draft);
        self.wait_for_all(room).await?;
        self.recommended_to_send(room, event).await
    }

    /// Signs another server's invite of a user of this one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the event is not an invite of a user of this server to this room, or only its redacted form.
    pub fn co_sign_invite(&self, rules: &Rules, room_id: &str, invite: &Verified) -> Result<Verified> {
        let pdu = invite.pdu();
        let target = pdu.state_key.as_deref().map(UserId::from);
        let is_invite = pdu.kind == MEMBER && pdu.membership() == Some("invite") && pdu.room_id == room_id;
        let ours = target.is_some_and(|target| self.is_local(&target));
        let theirs = pdu.sender_server() != self.server_name();
        let signed = match is_invite && ours && theirs {
            true => ::event::co_sign(rules, invite, &self.key, self.server_name()),
            false => None,
        };
        signed.ok_or_else(|| Error::Invalid("the event is not an invite of a user of this server".to_owned()))
    }
}
