//! `GET /_matrix/client/v3/rooms/{roomId}/context/{eventId}` (`data/api/client-server/event_context.yaml`).

use std::sync::Arc;

use axum::routing::get;
use axum::{Router, extract};
use endpoint::{Error, GuestRequester, Path, Query};
use rooms::timeline::{Direction, Page, PageQuery, Place};
use rooms::{Event, Room};
use serde::Deserialize;
use sync::filter::EventFilter;

use super::access::{Reader, readable};
use super::message_pagination::{LIMIT_MAX, filter_of, heeds, members_of};
use super::rooms::visible_event;
use crate::json_text::JsonText;
use crate::{Routes, State, error_map};

/// Events around the one asked for, where the client does not say.
const LIMIT_DEFAULT: u64 = 10;

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/rooms/{room_id}/context/{event_id}", get(context))
}

#[derive(Debug, Deserialize)]
struct Parameters {
    limit: Option<u64>,
    filter: Option<String>,
}

async fn context(
    GuestRequester(requester): GuestRequester,
    extract::State(state): extract::State<State>,
    Path((room_id, event_id)): Path<(String, String)>,
    Query(parameters): Query<Parameters>,
) -> Result<JsonText, Error> {
    let filter = filter_of(parameters.filter.as_deref())?;
    let readable = readable(&state.rooms, &room_id, &requester.user_id).await?;
    let room = &readable.room;
    let mut reader = Reader::new(&state, room, &requester).await?;
    let event = visible_event(&state, room, &mut reader, &event_id).await?;
    let limit = parameters.limit.or(filter.limit).unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
    let limit = usize::try_from(limit).unwrap_or(0);
    let before = page(&state, room, &mut reader, &event, Direction::Backward, limit / 2, &filter).await?;
    let after = page(&state, room, &mut reader, &event, Direction::Forward, limit - limit / 2, &filter).await?;
    let at = |place: Option<Place>| place.map(|place| place.to_string());
    let start = before.end.or(before.events.last().map_or_else(|| Place::before(&event), |first| Place::before(first)));
    let end = after.end.or(after.events.last().map_or_else(|| Place::after(&event), |last| Place::after(last)));
    let shown: Vec<Arc<Event>> = before.events.iter().chain([&event]).chain(&after.events).cloned().collect();
    let state_events = state_at_end(&state, room, &shown, after.events.last().unwrap_or(&event), &filter).await?;
    Ok(JsonText::object()
        .raw("event", &reader.render(&[Arc::clone(&event)]).await?.concat())
        .list("events_before", &reader.render(&before.events).await?)
        .list("events_after", &reader.render(&after.events).await?)
        .list("state", &state_events)
        .optional("start", at(start))
        .optional("end", at(end)))
}

/// Some events on one side of one.
///
/// # Errors
/// `M_UNKNOWN` when the store fails.
pub async fn page(
    state: &State,
    room: &Room,
    reader: &mut Reader<'_>,
    event: &Event,
    direction: Direction,
    limit: usize,
    filter: &EventFilter,
) -> Result<Page, Error> {
    let from = match direction {
        Direction::Backward => Place::before(event),
        Direction::Forward => Place::after(event),
    };
    let (Some(from), true) = (from, limit > 0 && filter.accepts_room(&room.id)) else {
        return Ok(Page { events: Vec::new(), end: from });
    };
    let ignored = reader.ignored().clone();
    let keep = |event: &Event| filter.accepts_event(event) && heeds(&ignored, event);
    let query = PageQuery { from, direction, until: None, limit };
    state.rooms.page(room, query, &mut reader.viewer, keep).await.map_err(error_map::rooms)
}

/// The state after the last event that is shown; with lazy loading, of the members only the senders.
async fn state_at_end(
    state: &State,
    room: &Room,
    shown: &[Arc<Event>],
    last: &Event,
    filter: &EventFilter,
) -> Result<Vec<String>, Error> {
    let Some(roots) = last.state_after() else { return Ok(Vec::new()) };
    let rooms = &state.rooms;
    let mut nums = rooms.tree_nums(room, roots.rest).await.map_err(error_map::rooms)?;
    if !filter.lazy_load_members {
        nums.extend(rooms.tree_nums(room, roots.members).await.map_err(error_map::rooms)?);
    }
    let events = rooms.events(room, None, &nums).await.map_err(error_map::rooms)?;
    let mut rendered: Vec<String> = events.iter().map(|event| rooms.render_state(room, event, true)).collect();
    if filter.lazy_load_members {
        rendered.extend(members_of(state, room, shown, roots).await?);
    }
    Ok(rendered)
}
