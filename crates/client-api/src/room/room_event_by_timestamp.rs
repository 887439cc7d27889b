//! `GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event`
//! (`data/api/client-server/room_event_by_timestamp.yaml`), and the same under the name that it had as a proposal
//! (MSC3030).

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, Path, Query, Requester};
use rooms::timeline::{Direction, PageQuery};
use rooms::{Event, Room};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::{Reader, readable};
use super::message_pagination::{Dir, edge};
use crate::{Routes, State, error_map, remote};

/// Most pages of the timeline that are looked through.
const PAGES_MAX: usize = 200;

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client_v1("/rooms/{room_id}/timestamp_to_event", get(timestamp_to_event))
        .unstable("/org.matrix.msc3030/rooms/{room_id}/timestamp_to_event", get(timestamp_to_event))
}

#[derive(Debug, Deserialize)]
struct Parameters {
    ts: i64,
    dir: Dir,
}

async fn timestamp_to_event(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, Error> {
    let readable = readable(&state.rooms, &room_id, &requester.user_id).await?;
    let room = &readable.room;
    let mut reader = Reader::new(&state, room, &requester).await?;
    let direction = Direction::from(parameters.dir);
    let mut found = nearest(&state, room, &mut reader, parameters.ts, direction).await?;
    if remote::fetch_by_time(&state, room, parameters.ts, direction, found.as_deref()).await? {
        found = nearest(&state, room, &mut reader, parameters.ts, direction).await?;
    }
    if let Some(event) = found {
        return Ok(Json(json!({ "event_id": event.id(), "origin_server_ts": event.row.ts })));
    }
    Err(Error::not_found("There is no event on that side of the timestamp."))
}

/// The event that is known here and nearest to a time, on its side in a direction, of those that the requester may see.
async fn nearest(
    state: &State,
    room: &Room,
    reader: &mut Reader<'_>,
    ts: i64,
    direction: Direction,
) -> Result<Option<Arc<Event>>, Error> {
    let mut from = edge(state, room, reader, direction).await?;
    let fits = |event: &Event| match direction {
        Direction::Backward => event.row.ts <= ts,
        Direction::Forward => event.row.ts >= ts,
    };
    for _ in 0..PAGES_MAX {
        let query = PageQuery { from, direction, until: None, limit: 1 };
        let page = state.rooms.page(room, query, &mut reader.viewer, fits).await.map_err(error_map::rooms)?;
        if let Some(event) = page.events.into_iter().next() {
            return Ok(Some(event));
        }
        let Some(next) = page.end else { break };
        from = next;
    }
    Ok(None)
}
