//! `PUT /_matrix/federation/{v1,v2}/invite/{roomId}/{eventId}` (`data/api/server-server/invites-v1.yaml`,
//! `invites-v2.yaml`; behaviour FJ6).

use std::sync::Arc;

use axum::routing::put;
use axum::{Json, Router, extract};
use endpoint::{Error, Path};
use event::{EdgeLimits, Json as EventJson, Object, Pdu, Rules, Verified};
use rooms::remote::RemoteMembership;
use rooms::{Accepted, flags};
use serde_json::{Value, json};
use store::UserId;

use super::access::Signed;
use super::error_map;
use crate::receive::federation_form;
use crate::{Federation, verify};

/// Most events of the state that comes with an invite.
const STATE_MAX: usize = 100;
/// Bytes of that state, as canonical JSON.
const STATE_BYTES_MAX: usize = 256 << 10;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new()
        .route("/_matrix/federation/v1/invite/{room_id}/{event_id}", put(invite_v1))
        .route("/_matrix/federation/v2/invite/{room_id}/{event_id}", put(invite))
}

async fn invite(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path((room_id, event_id)): Path<(String, String)>,
    request: Signed,
) -> Result<Json<Value>, Error> {
    let origin = request.origin.clone();
    let mut body = request.object()?;
    let version = body.get("room_version").ok_or_else(|| Error::missing_param("room_version"))?;
    let version = version.as_str().ok_or_else(|| Error::bad_json("`room_version` is a string."))?;
    let rules = Rules::of(version).ok_or_else(|| Error::incompatible_room_version(version))?;
    let state = state_of(body.remove("invite_room_state"))?;
    let event = match body.remove("event") {
        Some(EventJson::Object(event)) => event,
        Some(_) => return Err(Error::bad_json("`event` is an object.")),
        None => return Err(Error::missing_param("event")),
    };
    let invite = Invite { origin, room_id, event_id, rules, event, state };
    Ok(Json(json!({ "event": invite.take(&federation).await? })))
}

/// The old form, for room versions 1 and 2: the body is the event, the answer stands in a list after a number.
async fn invite_v1(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path((room_id, event_id)): Path<(String, String)>,
    request: Signed,
) -> Result<Json<Value>, Error> {
    let origin = request.origin.clone();
    let event = request.object()?;
    let state = event.get("unsigned").and_then(|unsigned| unsigned.get("invite_room_state")).cloned();
    let state = state_of(state)?;
    let known = federation.rules_of(&room_id).await.map_err(error_map::rooms)?;
    let rules = known.or_else(|| Rules::of("1")).ok_or_else(|| Error::incompatible_room_version("1"))?;
    if rules.event_id_is_hash() {
        return Err(Error::incompatible_room_version(rules.version()));
    }
    let invite = Invite { origin, room_id, event_id, rules, event, state };
    Ok(Json(json!([200, { "event": invite.take(&federation).await? }])))
}

fn state_of(state: Option<EventJson>) -> Result<Vec<EventJson>, Error> {
    match state {
        None | Some(EventJson::Null) => Ok(Vec::new()),
        Some(EventJson::Array(state)) => {
            let bytes: usize = state.iter().map(|event| event.to_canonical_string().len()).sum();
            if state.len() > STATE_MAX || bytes > STATE_BYTES_MAX {
                return Err(Error::too_large("`invite_room_state` is too large."));
            }
            Ok(state)
        }
        Some(_) => Err(Error::bad_json("`invite_room_state` is no list.")),
    }
}

/// An invite as it came.
struct Invite {
    origin: String,
    room_id: String,
    event_id: String,
    rules: &'static Rules,
    event: Object,
    state: Vec<EventJson>,
}

impl Invite {
    /// Checks it, stores it, and returns the event with this server's signature.
    async fn take(self, federation: &Federation) -> Result<Value, Error> {
        let bytes = federation_form(self.rules, &self.event);
        let pdu = Pdu::parse(self.rules, bytes.clone()).map_err(|error| refused(&error.to_string()))?;
        let target = self.check(&pdu)?;
        let target = UserId::from(target);
        if !federation.users.is_local(&target) {
            return Err(refused("the invited user is of another server"));
        }
        let room = federation.resident_room(&self.room_id).await?;
        if room.is_some() {
            federation.room_to_enter(&self.origin, &self.room_id).await?;
        }
        if !federation.users.is_active(&target).await.map_err(error_map::users)? {
            return Err(Error::forbidden("There is no such user."));
        }
        let ignored = federation.users.ignored(&target).await.map_err(error_map::users)?;
        if ignored.contains(pdu.sender.as_str()) {
            return Err(Error::invite_blocked());
        }
        let verified = verify::pdu(&federation.key_ring, self.rules, bytes, EdgeLimits::Enforced).await?;
        let verified = verified.map_err(|error| refused(&error.to_string()))?;
        self.check_state(federation).await?;
        let signed = federation.rooms.co_sign_invite(self.rules, &self.room_id, &verified);
        let signed = signed.map_err(error_map::rooms)?;
        match room {
            Some(_) => accept(federation, signed.clone()).await?,
            None => self.keep(federation, target, signed.clone()).await?,
        }
        Ok(EventJson::Object(signed.pdu().object()).into())
    }

    /// That the event is what the path says. Returns the invited user.
    fn check<'a>(&self, pdu: &'a Pdu) -> Result<&'a str, Error> {
        let target = pdu.state_key.as_deref().ok_or_else(|| refused("it is no state event"))?;
        if pdu.kind != "m.room.member" || pdu.membership() != Some("invite") {
            return Err(refused("it is no invite"));
        }
        if pdu.room_id != self.room_id.as_str() {
            return Err(refused("it is of another room"));
        }
        if pdu.event_id != self.event_id.as_str() {
            return Err(refused("it has another id"));
        }
        if event::ids::user_server(&pdu.sender) != Some(&self.origin) {
            return Err(refused("its sender is of another server"));
        }
        Ok(target)
    }

    /// From room version 12 on the state must be whole events of the room, its create event among them; before, many
    /// servers send only parts of events.
    async fn check_state(&self, federation: &Federation) -> Result<(), Error> {
        if !self.rules.special_create {
            return Ok(());
        }
        let texts = (self.state.iter().filter_map(EventJson::as_object))
            .map(|event| federation_form(self.rules, event))
            .collect();
        let verified = verify::pdus(&federation.key_ring, self.rules, texts, EdgeLimits::Enforced).await?;
        let of_room = |event: &Verified| event.pdu().room_id == self.room_id.as_str();
        let good = verified.iter().flatten().filter(|event| of_room(event)).count();
        if good != self.state.len() {
            return Err(refused("`invite_room_state` has what is no event of the room"));
        }
        if !verified.iter().flatten().any(|event| event.pdu().is_create()) {
            return Err(refused("`invite_room_state` has no create event"));
        }
        Ok(())
    }

    /// Of a room that this server is not in, the invite is all that is known.
    async fn keep(self, federation: &Federation, target: UserId, signed: Verified) -> Result<(), Error> {
        let membership = RemoteMembership {
            room_id: self.room_id,
            rules: self.rules,
            user: target,
            membership: "invite".to_owned(),
            sender: UserId::from(signed.pdu().sender.as_str()),
            event: Some(signed),
            stripped: self.state,
        };
        federation.rooms.set_remote_membership(&membership).await.map_err(error_map::rooms)
    }
}

/// In a room that this server is in, the invite is an event like any other.
async fn accept(federation: &Federation, signed: Verified) -> Result<(), Error> {
    match federation.rooms.accept(signed).await.map_err(error_map::rooms)? {
        Accepted::Judged(event) | Accepted::Known(event) if event.has(flags::REJECTED | flags::SOFT_FAILED) => {
            Err(Error::forbidden("The room does not allow this invite."))
        }
        _ => Ok(()),
    }
}

fn refused(reason: &str) -> Error {
    Error::invalid_param(format!("The invite is refused: {reason}."))
}
