//! `GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event`
//! (`data/api/client-server/room_event_by_timestamp.yaml`).

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, Path, Query, Requester};
use rooms::Event;
use rooms::timeline::{Direction, PageQuery};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::{Reader, readable};
use super::message_pagination::{Dir, edge};
use crate::{Routes, State, error_map};

/// Most pages of the timeline that are looked through.
const PAGES_MAX: usize = 200;

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client_v1("/rooms/{room_id}/timestamp_to_event", get(timestamp_to_event))
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
    let mut from = edge(&state, room, &reader, direction).await?;
    let fits = |event: &Event| match direction {
        Direction::Backward => event.row.ts <= parameters.ts,
        Direction::Forward => event.row.ts >= parameters.ts,
    };
    for _ in 0..PAGES_MAX {
        let query = PageQuery { from, direction, until: None, limit: 1 };
        let page = state.rooms.page(room, query, &mut reader.viewer, fits).await.map_err(error_map::rooms)?;
        if let Some(event) = page.events.first() {
            return Ok(Json(json!({ "event_id": event.id(), "origin_server_ts": event.row.ts })));
        }
        let Some(next) = page.end else { break };
        from = next;
    }
    Err(Error::not_found("There is no event on that side of the timestamp."))
}
