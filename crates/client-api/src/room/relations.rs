//! `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}[/{relType}[/{eventType}]]`
//! (`data/api/client-server/relations.yaml`).

use axum::routing::get;
use axum::{Router, extract};
use endpoint::{Error, Path, Query, Requester};
use rooms::relations::RelationsQuery;
use rooms::timeline::Direction;
use serde::Deserialize;

use super::access::{Reader, readable};
use super::message_pagination::{Dir, heeds, limit, place};
use super::rooms::visible_event;
use crate::json_text::JsonText;
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    let path = "/rooms/{room_id}/relations/{event_id}";
    Router::new()
        .client_v1(path, get(of_any_type))
        .client_v1(&format!("{path}/{{rel_type}}"), get(of_relation_type))
        .client_v1(&format!("{path}/{{rel_type}}/{{event_type}}"), get(of_both_types))
        .unstable(path, get(of_any_type))
        .unstable(&format!("{path}/{{rel_type}}"), get(of_relation_type))
        .unstable(&format!("{path}/{{rel_type}}/{{event_type}}"), get(of_both_types))
}

#[derive(Debug, Deserialize)]
struct Parameters {
    from: Option<String>,
    to: Option<String>,
    limit: Option<u64>,
    dir: Option<Dir>,
    #[serde(rename = "org.matrix.msc3715.dir")]
    dir_unstable: Option<Dir>,
    recurse: Option<bool>,
    #[serde(rename = "org.matrix.msc3981.recurse")]
    recurse_unstable: Option<bool>,
}

type Asked = (Requester, extract::State<State>, Query<Parameters>);

async fn of_any_type(
    requester: Requester,
    state: extract::State<State>,
    Path((room_id, event_id)): Path<(String, String)>,
    parameters: Query<Parameters>,
) -> Result<JsonText, Error> {
    relations((requester, state, parameters), &room_id, &event_id, None, None).await
}

async fn of_relation_type(
    requester: Requester,
    state: extract::State<State>,
    Path((room_id, event_id, rel_type)): Path<(String, String, String)>,
    parameters: Query<Parameters>,
) -> Result<JsonText, Error> {
    relations((requester, state, parameters), &room_id, &event_id, Some(rel_type), None).await
}

async fn of_both_types(
    requester: Requester,
    state: extract::State<State>,
    Path((room_id, event_id, rel_type, kind)): Path<(String, String, String, String)>,
    parameters: Query<Parameters>,
) -> Result<JsonText, Error> {
    relations((requester, state, parameters), &room_id, &event_id, Some(rel_type), Some(kind)).await
}

async fn relations(
    (requester, extract::State(state), Query(parameters)): Asked,
    room_id: &str,
    event_id: &str,
    rel_type: Option<String>,
    kind: Option<String>,
) -> Result<JsonText, Error> {
    let readable = readable(&state.rooms, room_id, &requester.user_id).await?;
    let room = &readable.room;
    let mut reader = Reader::new(&state, room, &requester).await?;
    let parent = visible_event(&state, room, &mut reader, event_id).await?;
    let from = match parameters.from.as_deref().filter(|from| !from.is_empty()) {
        Some(from) => Some(place(&state, room, from).await?),
        None => None,
    };
    let to = match parameters.to.as_deref().filter(|to| !to.is_empty()) {
        Some(to) => Some(place(&state, room, to).await?),
        None => None,
    };
    let recurse = parameters.recurse.or(parameters.recurse_unstable).unwrap_or(false);
    let query = RelationsQuery {
        rel_type,
        kind,
        direction: parameters.dir.or(parameters.dir_unstable).map_or(Direction::Backward, Direction::from),
        from,
        to,
        limit: limit(parameters.limit),
        recurse,
    };
    let page = state.rooms.relations(room, parent.id().as_str(), &query, &mut reader.viewer).await;
    let mut page = page.map_err(error_map::rooms)?;
    let ignored = reader.ignored().clone();
    page.events.retain(|event| heeds(&ignored, event));
    Ok(JsonText::object()
        .list("chunk", &reader.render(&page.events).await?)
        .optional("next_batch", page.next.map(|next| next.to_string()))
        .optional("prev_batch", from.map(|from| from.to_string()))
        .optional("recursion_depth", recurse.then_some(page.depth)))
}
