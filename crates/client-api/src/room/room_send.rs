//! `PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}` (`data/api/client-server/room_send.yaml`).

use axum::routing::put;
use axum::{Json, Router, extract};
use endpoint::{Error, GuestRequester, Path, Query, RateClass, RawBody};
use event::Json as EventJson;
use rooms::NewEvent;
use serde_json::{Value, json};

use super::access::{check_type, parse_content, transaction};
use super::delayed_events::{self, Later};
use super::redaction;
use crate::{Routes, State, error_map};

/// The type of redactions.
pub(super) const REDACTION: &str = "m.room.redaction";

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/rooms/{room_id}/send/{event_type}/{txn_id}", put(send))
}

async fn send(
    GuestRequester(requester): GuestRequester,
    extract::State(state): extract::State<State>,
    Path((room_id, kind, txn_id)): Path<(String, String, String)>,
    Query(later): Query<Later>,
    RawBody(bytes): RawBody,
) -> Result<Json<Value>, Error> {
    requester.not_suspended()?;
    state.door.limit(RateClass::Messages, &requester)?;
    check_type(&kind)?;
    let content = parse_content(&bytes)?;
    let path = format!("/rooms/{room_id}/send/{kind}");
    let mut new = NewEvent::message(&requester.user_id, &kind, content);
    new.transaction = Some(transaction(&requester, path, txn_id)?);
    new.sticky_ms = later.sticky_ms()?;
    if let Some(delay_ms) = later.delay_ms {
        return delayed_events::schedule_by_query(&state, &room_id, new, delay_ms).await;
    }
    let event_id = send_event(&state, &room_id, new).await?;
    Ok(Json(json!({ "event_id": event_id })))
}

/// Sends an event that is no state event.
///
/// # Errors
/// As the room engine says; the same for a room that does not exist and one that the sender is not in (CR10).
pub async fn send_event(state: &State, room_id: &str, new: NewEvent) -> Result<String, Error> {
    match try_send(state, room_id, new.clone()).await {
        Ok(event_id) => Ok(event_id),
        // The request may be the copy of one that has been answered meanwhile, or before the sender left.
        Err(error) => match state.rooms.answered(&new).await.map_err(error_map::rooms)? {
            Some(event_id) => Ok(event_id.to_string()),
            None => Err(error),
        },
    }
}

async fn try_send(state: &State, room_id: &str, mut new: NewEvent) -> Result<String, Error> {
    if let Some(event_id) = state.rooms.answered(&new).await.map_err(error_map::rooms)? {
        return Ok(event_id.to_string());
    }
    let room = state.rooms.joined_room(room_id, &new.sender).await.map_err(error_map::rooms)?;
    if new.kind == REDACTION {
        place_redacts(&mut new, room.rules)?;
        redaction::check(state, &room, &new).await?;
    } else {
        state.rooms.check_relation(&room, &new).await.map_err(error_map::rooms)?;
    }
    let event_id = state.rooms.send(room_id, new).await.map_err(error_map::rooms)?;
    Ok(event_id.to_string())
}

/// Clients name the target in the content; up to room version 10 its place is at the top level (CR29).
fn place_redacts(new: &mut NewEvent, rules: &event::Rules) -> Result<(), Error> {
    if new.redacts.is_some() {
        return Ok(());
    }
    let named = match new.content.get("redacts") {
        Some(EventJson::String(redacts)) => redacts.clone(),
        Some(_) => return Err(Error::bad_json("`redacts` must be a string.")),
        None => return Err(Error::bad_json("missing field `redacts`")),
    };
    let target = named.try_into().map_err(|_| Error::invalid_param("`redacts` is no event id."))?;
    if !rules.redacts_in_content {
        new.content.remove("redacts");
    }
    new.redacts = Some(target);
    Ok(())
}
