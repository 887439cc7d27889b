//! `GET /_matrix/client/v1/rooms/{roomId}/hierarchy` (`data/api/client-server/space_hierarchy.yaml`).
//!
//! The tree is walked depth-first and from its root with every page: a token says how many rooms came before.

use std::collections::HashSet;

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, Path, Query, Requester};
use rooms::spaces::children_state;
use serde::Deserialize;
use serde_json::{Value, json};

use super::summary::is_accessible;
use crate::{Routes, State, error_map};

/// Rooms of a page where the client does not say, and most rooms of a page.
const LIMIT_MAX: usize = 50;
/// Deepest level of the tree that is looked at.
const DEPTH_MAX: usize = 32;
/// Most rooms of a tree that are looked at.
const ROOMS_MAX: usize = 2_000;

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
        let rooms = &self.state.rooms;
        while let Some((room_id, depth)) = self.left.pop() {
            if self.seen.len() >= ROOMS_MAX || !self.seen.insert(room_id.clone()) {
                continue;
            }
            let Some(room) = rooms.room(&room_id).await.map_err(error_map::rooms)? else { continue };
            let summary = rooms.summary(&room).await.map_err(error_map::rooms)?;
            if !is_accessible(self.state, &summary, Some(&self.requester.user_id)).await? {
                continue;
            }
            let children = match summary.room_type() {
                Some("m.space") => rooms.space_children(&room, self.suggested_only).await.map_err(error_map::rooms)?,
                _ => Vec::new(),
            };
            if depth < self.depth_max {
                let ids = children.iter().rev().filter_map(|child| child.pdu.state_key.clone());
                self.left.extend(ids.map(|id| (id, depth + 1)));
            }
            let mut members = summary.extended();
            members.insert("children_state".to_owned(), children_state(&children));
            return Ok(Some(Value::Object(members)));
        }
        Ok(None)
    }
}
