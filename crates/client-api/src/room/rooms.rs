//! `GET /_matrix/client/v3/rooms/{roomId}/event/{eventId}` (`data/api/client-server/rooms.yaml`).

use axum::response::Response;
use axum::routing::get;
use axum::{Router, extract};
use endpoint::{Error, GuestRequester, Path};
use rooms::Event;
use std::sync::Arc;

use super::access::{Reader, readable};
use crate::{Routes, State, error_map, json_text};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/rooms/{room_id}/event/{event_id}", get(event))
}

/// One event of a room.
///
/// # Errors
/// `M_NOT_FOUND`, also for what the requester may not see.
pub async fn event(
    GuestRequester(requester): GuestRequester,
    extract::State(state): extract::State<State>,
    Path((room_id, event_id)): Path<(String, String)>,
) -> Result<Response, Error> {
    // An event that may not be seen looks like one that does not exist, whatever hides it (CR14).
    let room = state.rooms.room(&room_id).await.map_err(error_map::rooms)?;
    let room = room.ok_or_else(missing)?;
    if readable(&state.rooms, &room_id, &requester.user_id).await.is_err() {
        return Err(missing());
    }
    let mut reader = Reader::new(&state, &room, &requester).await?;
    let event = visible_event(&state, &room, &mut reader, &event_id).await?;
    let rendered = reader.render(&[event]).await?;
    Ok(json_text::answer(rendered.concat()))
}

/// The event with this id, if the reader may see it.
///
/// # Errors
/// `M_NOT_FOUND`.
pub async fn visible_event(
    state: &State,
    room: &rooms::Room,
    reader: &mut Reader<'_>,
    event_id: &str,
) -> Result<Arc<Event>, Error> {
    let event = state.rooms.event_by_id(room, event_id).await.map_err(error_map::rooms)?;
    let event = event.ok_or_else(missing)?;
    reader.viewer.view(event).await.map_err(error_map::rooms)?.ok_or_else(missing)
}

/// What is said of an event that may not be seen, as of one that does not exist.
pub fn missing() -> Error {
    error_map::rooms(rooms::Error::EventNotFound)
}
