//! `GET /_matrix/federation/v1/hierarchy/{roomId}` (`data/api/server-server/space_hierarchy.yaml`): a space and its
//! children as far as they are known here, without theirs.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, Path, Query};
use rooms::spaces::children_state;
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::Signed;
use super::error_map;
use super::summary::is_accessible;
use crate::Federation;

/// Most children of a space that are described.
const CHILDREN_MAX: usize = 500;

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
    let rooms = &federation.rooms;
    let summary = rooms.summary(&room).await.map_err(error_map::rooms)?;
    if !is_accessible(&federation, &summary, &request.origin).await? {
        return Err(missing());
    }
    let mut events = match summary.room_type() {
        Some("m.space") => rooms.space_children(&room, parameters.suggested_only).await.map_err(error_map::rooms)?,
        _ => Vec::new(),
    };
    events.truncate(CHILDREN_MAX);
    let mut described = summary.extended();
    described.insert("children_state".to_owned(), children_state(&events));
    let (mut accessible, mut inaccessible) = (Vec::new(), Vec::new());
    let ids: BTreeSet<&str> = events.iter().filter_map(|event| event.pdu.state_key.as_deref()).collect();
    for id in ids {
        let Some(child) = federation.resident_room(id).await? else { continue };
        let summary = rooms.summary(&child).await.map_err(error_map::rooms)?;
        match is_accessible(&federation, &summary, &request.origin).await? {
            true => accessible.push(Value::Object(summary.extended())),
            false => inaccessible.push(id),
        }
    }
    Ok(Json(json!({ "room": described, "children": accessible, "inaccessible_children": inaccessible })))
}
