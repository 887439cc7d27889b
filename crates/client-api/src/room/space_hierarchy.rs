//! `GET /_matrix/client/v1/rooms/{roomId}/hierarchy` (`data/api/client-server/space_hierarchy.yaml`).
//!
//! The tree is walked depth-first and from its root with every page: a token says how many rooms came before.

use std::collections::HashSet;
use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, Path, Query, Requester};
use event::Json as EventJson;
use rooms::{Event, Room};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::summary::Summary;
use crate::{Routes, State, error_map};

/// Rooms of a page where the client does not say, and most rooms of a page.
const LIMIT_MAX: usize = 50;
/// Deepest level of the tree that is looked at.
const DEPTH_MAX: usize = 32;
/// Most rooms of a tree that are looked at.
const ROOMS_MAX: usize = 2_000;
/// Characters of an `order`.
const ORDER_CHARS_MAX: usize = 50;

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client_v1("/rooms/{room_id}/hierarchy", get(hierarchy))
        .unstable("/org.matrix.msc2946/rooms/{room_id}/hierarchy", get(hierarchy))
}

#[derive(Debug, Deserialize)]
struct Parameters {
    #[serde(default)]
    suggested_only: bool,
    limit: Option<usize>,
    max_depth: Option<usize>,
    from: Option<String>,
}

async fn hierarchy(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, Error> {
    let limit = parameters.limit.unwrap_or(LIMIT_MAX);
    if limit == 0 {
        return Err(Error::invalid_param("`limit` must be greater than zero."));
    }
    let limit = limit.min(LIMIT_MAX);
    let skipped = parameters.skipped()?;
    let mut walk = Walk {
        state: &state,
        requester: &requester,
        suggested_only: parameters.suggested_only,
        depth_max: parameters.max_depth.unwrap_or(DEPTH_MAX).min(DEPTH_MAX),
        seen: HashSet::new(),
        left: vec![(room_id, 0)],
    };
    let (mut page, mut n_found) = (Vec::new(), 0);
    while let Some(found) = walk.next().await? {
        n_found += 1;
        if n_found <= skipped {
            continue;
        }
        if page.len() == limit {
            let next = parameters.token(n_found - 1);
            return Ok(Json(json!({ "rooms": page, "next_batch": next })));
        }
        page.push(found);
    }
    if n_found == 0 {
        return Err(Error::forbidden("You are not allowed to view this room."));
    }
    Ok(Json(json!({ "rooms": page })))
}

impl Parameters {
    fn token(&self, skipped: usize) -> String {
        let depth = self.max_depth.map_or_else(String::new, |depth| depth.to_string());
        format!("h{skipped}_{}_{depth}", u8::from(self.suggested_only))
    }

    /// How many rooms came on earlier pages.
    fn skipped(&self) -> Result<usize, Error> {
        let Some(from) = self.from.as_deref().filter(|from| !from.is_empty()) else { return Ok(0) };
        let number = from.strip_prefix('h').and_then(|rest| rest.split('_').next()?.parse().ok());
        match number {
            Some(number) if self.token(number) == from => Ok(number),
            Some(_) => Err(Error::invalid_param("`suggested_only` and `max_depth` must be the same for every page.")),
            None => Err(Error::invalid_param("`from` is no token of this hierarchy.")),
        }
    }
}

/// A walk through the rooms of a tree that the requester may know of.
struct Walk<'a> {
    state: &'a State,
    requester: &'a Requester,
    suggested_only: bool,
    depth_max: usize,
    seen: HashSet<String>,
    /// Rooms to be visited with their depth; the last is next.
    left: Vec<(String, usize)>,
}

impl Walk<'_> {
    /// The next room. A room stands where it is found first; loops end there.
    async fn next(&mut self) -> Result<Option<Value>, Error> {
        while let Some((room_id, depth)) = self.left.pop() {
            if self.seen.len() >= ROOMS_MAX || !self.seen.insert(room_id.clone()) {
                continue;
            }
            let Some(room) = self.state.rooms.room(&room_id).await.map_err(error_map::rooms)? else { continue };
            let summary = Summary::of(self.state, &room).await?;
            if !summary.is_accessible(self.state, Some(&self.requester.user_id)).await? {
                continue;
            }
            let children = match summary.room_type() {
                Some("m.space") => children(self.state, &room, self.suggested_only).await?,
                _ => Vec::new(),
            };
            if depth < self.depth_max {
                let ids = children.iter().rev().filter_map(|child| child.pdu.state_key.clone());
                self.left.extend(ids.map(|id| (id, depth + 1)));
            }
            let mut members = summary.extended();
            members.insert("children_state".to_owned(), children.iter().map(stripped).collect());
            return Ok(Some(Value::Object(members)));
        }
        Ok(None)
    }
}

/// The children of a space in their order: those with an `order`, then by age, then by id.
async fn children(state: &State, room: &Room, suggested_only: bool) -> Result<Vec<Arc<Event>>, Error> {
    let nums = state.rooms.tree_nums(room, room.head().state.rest).await.map_err(error_map::rooms)?;
    let mut events = state.rooms.events(room, None, &nums).await.map_err(error_map::rooms)?;
    events.retain(|event| event.pdu.kind == "m.space.child" && is_child(event, suggested_only));
    events.sort_by_cached_key(|event| {
        let order = order(event).map(str::to_owned);
        (order.is_none(), order, event.row.ts, event.pdu.state_key.clone())
    });
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
    let mut members = Map::new();
    members.insert("type".to_owned(), json!(event.pdu.kind));
    members.insert("state_key".to_owned(), json!(event.pdu.state_key));
    members.insert("content".to_owned(), EventJson::Object(event.pdu.content.clone()).into());
    members.insert("sender".to_owned(), json!(event.pdu.sender));
    members.insert("origin_server_ts".to_owned(), json!(event.row.ts));
    Value::Object(members)
}
