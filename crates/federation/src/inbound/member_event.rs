//! A membership that another server's user sets for itself by a handshake: the template, and the event that comes back
//! signed (server-server API, "Joining Rooms", "Knocking upon a room", "Leaving Rooms").

use std::sync::Arc;

use bytes::Bytes;
use endpoint::Error;
use event::{EdgeLimits, Json, Object, Pdu, Verified};
use rooms::remote::TemplateError;
use rooms::{Accepted, Event, Room, flags};
use serde_json::{Value, json};
use store::UserId;

use super::access::Signed;
use super::error_map;
use crate::key_ring::Wanted;
use crate::receive::federation_form;
use crate::{Federation, verify};

impl Federation {
    /// The answer to `make_join`, `make_knock` and `make_leave`. `versions` are those that the other server knows.
    pub(super) async fn make_member(
        &self,
        request: &Signed,
        room_id: &str,
        user_id: &str,
        membership: &str,
        versions: Option<&[String]>,
    ) -> Result<Value, Error> {
        request.check_owns(user_id)?;
        let room = self.whole_room_to_enter(&request.origin, room_id).await?;
        let version = room.rules.version();
        if versions.is_some_and(|known| !known.iter().any(|known| known == version)) {
            return Err(Error::incompatible_room_version(version));
        }
        let template = self.rooms.member_template(&room.id, &UserId::from(user_id), membership).await;
        let template = template.map_err(untemplated)?;
        Ok(json!({ "room_version": version, "event": Value::from(Json::Object(template.event)) }))
    }

    /// Checks and takes in the event of `send_join`, `send_knock` or `send_leave`. Returns the room and the event as it
    /// stands there now.
    pub(super) async fn send_member(
        &self,
        origin: &str,
        room_id: &str,
        event_id: &str,
        membership: &str,
        event: &Object,
    ) -> Result<(Arc<Room>, Arc<Event>), Error> {
        let room = self.whole_room_to_enter(origin, room_id).await?;
        let bytes = federation_form(room.rules, event);
        let pdu = Pdu::parse(room.rules, bytes.clone()).map_err(|error| Error::invalid_param(error.to_string()))?;
        check_member(&pdu, origin, room_id, event_id, membership)?;
        let verified = self.verify_member(&room, &pdu, bytes).await?;
        match self.rooms.accept_to_forward(verified).await.map_err(error_map::rooms)? {
            Accepted::Judged(event) | Accepted::Known(event) => {
                if event.has(flags::HIDDEN) {
                    let reason = event.row.reason.clone().unwrap_or_default();
                    return Err(Error::forbidden(format!("The room does not allow this: {reason}.")));
                }
                Ok((room, event))
            }
            Accepted::Waiting(_) => Err(Error::invalid_param("The event builds on events that are not known here.")),
        }
    }

    /// Checks the signatures. A join that one of our users authorizes is signed here, if the room's conditions hold.
    async fn verify_member(&self, room: &Room, pdu: &Pdu, bytes: Bytes) -> Result<Verified, Error> {
        let unverified = |error: event::VerifyError| Error::invalid_param(format!("The event is refused: {error}."));
        if pdu.membership() == Some("join")
            && let Some(permit) = self.rooms.permit_join(&room.id, pdu).await.map_err(untemplated)?
        {
            let now_ms = self.key_ring.now_ms();
            let wanted = Wanted::of_event(room.rules, &pdu.object(), now_ms).map_err(unverified)?;
            let keys = self.key_ring.keys_for(&wanted).await?;
            return permit.sign(bytes, &keys, now_ms).map_err(unverified);
        }
        let verified = verify::pdu(&self.key_ring, room.rules, bytes, EdgeLimits::Enforced).await?;
        verified.map_err(unverified)
    }
}

/// That the event is what the path says, of a user of the server that asks.
fn check_member(pdu: &Pdu, origin: &str, room_id: &str, event_id: &str, membership: &str) -> Result<(), Error> {
    let wrong = |what: &str| Err(Error::invalid_param(format!("The event is refused: {what}.")));
    if pdu.kind != "m.room.member" || pdu.membership() != Some(membership) {
        return wrong("it is another kind of event");
    }
    if pdu.room_id != room_id {
        return wrong("it is of another room");
    }
    if pdu.event_id != event_id {
        return wrong("it has another id");
    }
    if pdu.state_key.as_deref() != Some(pdu.sender.as_str()) {
        return wrong("its sender sets another user's membership");
    }
    if event::ids::user_server(&pdu.sender) != Some(origin) {
        return wrong("its sender is of another server");
    }
    Ok(())
}

fn untemplated(error: TemplateError) -> Error {
    let text = error.to_string();
    match error {
        TemplateError::UnableToAuthoriseJoin => Error::unable_to_authorise_join(text),
        TemplateError::UnableToGrantJoin => Error::unable_to_grant_join(text),
        TemplateError::Rooms(error) => error_map::rooms(error),
    }
}
