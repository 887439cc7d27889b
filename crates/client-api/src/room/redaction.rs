//! `PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}` (`data/api/client-server/redaction.yaml`).

use axum::routing::put;
use axum::{Json, Router, extract};
use endpoint::{Error, OptionalBody, Path, RateClass, Requester};
use event::power_levels::PowerLevels;
use event::{Json as EventJson, Object};
use rooms::visibility::Viewer;
use rooms::{NewEvent, Room};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::transaction;
use super::room_send::send_event;
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/rooms/{room_id}/redact/{event_id}/{txn_id}", put(redact))
}

#[derive(Debug, Default, Deserialize)]
struct Body {
    reason: Option<String>,
}

async fn redact(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path((room_id, event_id, txn_id)): Path<(String, String, String)>,
    OptionalBody(body): OptionalBody<Body>,
) -> Result<Json<Value>, Error> {
    state.door.limit(RateClass::Messages, &requester)?;
    let mut content = Object::new();
    if let Some(reason) = body.reason {
        content.insert("reason".to_owned(), EventJson::String(reason));
    }
    let mut new = NewEvent::message(&requester.user_id, "m.room.redaction", content);
    let path = format!("/rooms/{room_id}/redact/{event_id}");
    new.transaction = Some(transaction(&requester, path, txn_id)?);
    if requester.suspended {
        owns(&state, &requester, &room_id, &event_id).await?;
    }
    new.redacts = Some(event_id.try_into().map_err(|_| error_map::rooms(rooms::Error::EventNotFound))?);
    let event_id = send_event(&state, &room_id, new).await?;
    Ok(Json(json!({ "event_id": event_id })))
}

/// A suspended user may redact nothing but own events (client-server API, account suspension).
async fn owns(state: &State, requester: &Requester, room_id: &str, event_id: &str) -> Result<(), Error> {
    let room = state.rooms.joined_room(room_id, &requester.user_id).await.map_err(error_map::rooms)?;
    let target = state.rooms.event_by_id(&room, event_id).await.map_err(error_map::rooms)?;
    match target {
        Some(target) if target.row.sender == requester.user_id => Ok(()),
        _ => requester.not_suspended(),
    }
}

/// Checks that the target exists for the sender, and that the sender sent it or has the power to redact.
///
/// # Errors
/// `M_NOT_FOUND`, `M_FORBIDDEN`.
pub async fn check(state: &State, room: &Room, new: &NewEvent) -> Result<(), Error> {
    let missing = || error_map::rooms(rooms::Error::EventNotFound);
    let target = new.redacts.as_ref().ok_or_else(missing)?;
    let target = state.rooms.event_by_id(room, target.as_str()).await.map_err(error_map::rooms)?;
    let target = target.ok_or_else(missing)?;
    let mut viewer = Viewer::new(&state.rooms, room, &new.sender).await.map_err(error_map::rooms)?;
    if !viewer.sees(&target).await.map_err(error_map::rooms)? {
        return Err(missing());
    }
    if target.row.sender == new.sender {
        return Ok(());
    }
    let power = state.rooms.current(room, "m.room.power_levels", "").await.map_err(error_map::rooms)?;
    let levels = PowerLevels::from_state(room.rules, power.as_ref().map(|event| event.pdu.as_ref()), &room.create);
    if levels.user(new.sender.as_str()) >= levels.redact() {
        Ok(())
    } else {
        Err(Error::forbidden("You may not redact the events of others."))
    }
}
