//! `GET /_matrix/client/v3/rooms/{roomId}/initialSync` (`data/api/client-server/room_initial_sync.yaml`): for peeking into
//! world-readable rooms.

use axum::routing::get;
use axum::{Router, extract};
use endpoint::{Error, GuestRequester, Path, Query};
use rooms::timeline::{Direction, PageQuery};
use serde::Deserialize;

use super::access::{Reader, readable_whole};
use super::message_pagination::{edge, heeds, limit};
use crate::json_text::JsonText;
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/rooms/{room_id}/initialSync", get(initial_sync))
}

#[derive(Debug, Deserialize)]
struct Parameters {
    limit: Option<u64>,
}

async fn initial_sync(
    GuestRequester(requester): GuestRequester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
    Query(parameters): Query<Parameters>,
) -> Result<JsonText, Error> {
    let readable = readable_whole(&state.rooms, &room_id, &requester.user_id).await?;
    let room = &readable.room;
    let mut reader = Reader::new(&state, room, &requester).await?;
    let from = edge(&state, room, &reader, Direction::Backward).await?;
    let limit = limit(parameters.limit);
    let query = PageQuery { from, direction: Direction::Backward, until: None, limit };
    let ignored = reader.ignored().clone();
    let page = state.rooms.page(room, query, &mut reader.viewer, |event| heeds(&ignored, event)).await;
    let mut page = page.map_err(error_map::rooms)?;
    page.events.reverse();
    let messages = JsonText::object()
        .list("chunk", &reader.render(&page.events).await?)
        .optional("start", page.end.map(|start| start.to_string()))
        .value("end", from.to_string());
    let events = state.rooms.whole_state(room, readable.state).await.map_err(error_map::rooms)?;
    let events: Vec<String> = events.iter().map(|event| state.rooms.render_state(room, event, true)).collect();
    let visibility = if room.head().row.published { "public" } else { "private" };
    let membership = reader.viewer.membership().map(|row| row.membership.clone());
    Ok(JsonText::object()
        .value("room_id", room.id.as_str())
        .optional("membership", membership)
        .raw("messages", &messages.text())
        .list("state", &events)
        .value("visibility", visibility)
        .list("account_data", &[]))
}
