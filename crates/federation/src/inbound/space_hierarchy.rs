//! `GET /_matrix/federation/v1/hierarchy/{roomId}` (`data/api/server-server/space_hierarchy.yaml`): a space and its
//! children as far as they are known here, without theirs.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, Path, Query};
use event::Json as EventJson;
use rooms::{Event, Room};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::access::Signed;
use super::error_map;
use super::summary::Summary;
use crate::Federation;

/// Most children of a space that are described.
const CHILDREN_MAX: usize = 500;
/// Characters of an `order`.
const ORDER_CHARS_MAX: usize = 50;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new()
        .route("/_matrix/federation/v1/hierarchy/{room_id}", get(hierarchy))
        .route("/_matrix/federation/unstable/org.matrix.msc2946/hierarchy/{room_id}", get(hierarchy))
}

#[derive(Debug, Deserialize)]
struct Parameters {
    #[serde(default)]
    suggested_only: bool,
}

async fn hierarchy(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path(room_id): Path<String>,
    Query(parameters): Query<Parameters>,
    request: Signed,
) -> Result<Json<Value>, Error> {
    let missing = || Error::not_found("This room is not known here, or your server has no way into it.");
    let room = federation.resident_room(&room_id).await?.ok_or_else(missing)?;
    let summary = Summary::of(&federation, &room).await?;
    if !summary.is_accessible(&federation, &request.origin).await? {
        return Err(missing());
    }
    let events = match summary.room_type() {
        Some("m.space") => children(&federation, &room, parameters.suggested_only).await?,
        _ => Vec::new(),
    };
    let mut described = summary.extended();
    described.insert("children_state".to_owned(), events.iter().map(stripped).collect());
    let (mut accessible, mut inaccessible) = (Vec::new(), Vec::new());
    let ids: BTreeSet<&str> = events.iter().filter_map(|event| event.pdu.state_key.as_deref()).collect();
    for id in ids.into_iter().take(CHILDREN_MAX) {
        let Some(child) = federation.resident_room(id).await? else { continue };
        let summary = Summary::of(&federation, &child).await?;
        match summary.is_accessible(&federation, &request.origin).await? {
            true => accessible.push(Value::Object(summary.extended())),
            false => inaccessible.push(id),
        }
    }
    Ok(Json(json!({ "room": described, "children": accessible, "inaccessible_children": inaccessible })))
}

/// The children of a space in their order: those with an `order`, then by age, then by id.
async fn children(federation: &Federation, room: &Room, suggested_only: bool) -> Result<Vec<Arc<Event>>, Error> {
    let nums = federation.rooms.tree_nums(room, room.head().state.rest).await.map_err(error_map::rooms)?;
    let mut events = federation.rooms.events(room, None, &nums).await.map_err(error_map::rooms)?;
    events.retain(|event| event.pdu.kind == "m.space.child" && is_child(event, suggested_only));
    events.sort_by_cached_key(|event| {
        let order = order(event).map(str::to_owned);
        (order.is_none(), order, event.row.ts, event.pdu.state_key.clone())
    });
    events.truncate(CHILDREN_MAX);
    Ok(events)
}

/// Without servers to ask, it is no child (client-server API, `m.space.child`).
fn is_child(event: &Event, suggested_only: bool) -> bool {
    let content = &event.pdu.content;
    let via = content.get("via").and_then(EventJson::as_array).is_some_and(|via| !via.is_empty());
    let suggested = content.get("suggested").and_then(EventJson::as_bool) == Some(true);
    via && (suggested || !suggested_only)
}

fn order(event: &Event) -> Option<&str> {
    let order = event.pdu.content_str("order")?;
    let valid = order.len() <= ORDER_CHARS_MAX && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
    valid.then_some(order)
}

fn stripped(event: &Arc<Event>) -> Value {
    Value::Object(Map::from_iter([
        ("type".to_owned(), json!(event.pdu.kind)),
        ("state_key".to_owned(), json!(event.pdu.state_key)),
        ("content".to_owned(), EventJson::Object(event.pdu.content.clone()).into()),
        ("sender".to_owned(), json!(event.pdu.sender)),
        ("origin_server_ts".to_owned(), json!(event.row.ts)),
    ]))
}
