//! `GET /_matrix/client/v1/rooms/{roomId}/hierarchy` (`data/api/client-server/space_hierarchy.yaml`).
//!
//! The tree is walked depth-first and from its root with every page: a token says how many rooms came before. Rooms in which
//! this server is not are described by others; what they said is remembered for a while.

use std::collections::{HashMap, HashSet};

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, Path, Query, RateClass, Requester};
use event::Json as EventJson;
use federation::descriptions::Description;
use rooms::Room;
use rooms::spaces::children_state;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::summary::{is_accessible, is_accessible_elsewhere};
use crate::account::remote_keys::deadline;
use crate::{Routes, State, error_map};

/// Rooms of a page where the client does not say, and most rooms of a page.
const LIMIT_MAX: usize = 50;
/// Deepest level of the tree that is looked at.
const DEPTH_MAX: usize = 32;
/// Most rooms of a tree that are looked at.
const ROOMS_MAX: usize = 2_000;
/// Rooms of which other servers are asked, for one page.
const ASKED_MAX: usize = 50;
/// How long other servers are waited for, for one page, in milliseconds. Rooms that are not described by then are left out.
const ELSEWHERE_MS_MAX: u64 = 20_000;

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
    state.door.limit(RateClass::Requests, &requester)?;
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
        known: HashMap::new(),
        closed: HashSet::new(),
        questions: ASKED_MAX,
        deadline: deadline(Some(ELSEWHERE_MS_MAX)),
        left: vec![Next {
            via: event::ids::domain(&room_id).map(str::to_owned).into_iter().collect(),
            room_id,
            depth: 0,
        }],
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

/// A room to be visited.
struct Next {
    room_id: String,
    depth: usize,
    /// Servers through which it is found.
    via: Vec<String>,
}

/// A walk through the rooms of a tree that the requester may know of.
struct Walk<'a> {
    state: &'a State,
    requester: &'a Requester,
    suggested_only: bool,
    depth_max: usize,
    seen: HashSet<String>,
    /// Rooms as their spaces' servers have described them.
    known: HashMap<String, Description>,
    /// Rooms into which these servers see no way.
    closed: HashSet<String>,
    /// How many rooms may still be asked for.
    questions: usize,
    /// Until then other servers are asked.
    deadline: Instant,
    /// Rooms to be visited; the last is next.
    left: Vec<Next>,
}

impl Walk<'_> {
    /// The next room. A room stands where it is found first; loops end there.
    async fn next(&mut self) -> Result<Option<Value>, Error> {
        while let Some(next) = self.left.pop() {
            if self.seen.len() >= ROOMS_MAX || !self.seen.insert(next.room_id.clone()) {
                continue;
            }
            let room = self.state.rooms.room(&next.room_id).await.map_err(error_map::rooms)?;
            let found = match room.filter(|room| room.has_server(self.state.rooms.server_name())) {
                Some(room) => self.visit(&room, next.depth).await?,
                None => self.visit_elsewhere(next).await?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// A room of this server.
    async fn visit(&mut self, room: &Room, depth: usize) -> Result<Option<Value>, Error> {
        let rooms = &self.state.rooms;
        let summary = rooms.summary(room).await.map_err(error_map::rooms)?;
        if !is_accessible(self.state, &summary, Some(&self.requester.user_id)).await? {
            return Ok(None);
        }
        let children = match summary.room_type() {
            Some("m.space") => rooms.space_children(room, self.suggested_only).await.map_err(error_map::rooms)?,
            _ => Vec::new(),
        };
        let named = children.iter().filter_map(|child| {
            let via = child.pdu.content.get("via").and_then(EventJson::as_array).unwrap_or_default();
            let via = via.iter().filter_map(EventJson::as_str).map(str::to_owned).collect();
            Some((child.pdu.state_key.clone()?, via))
        });
        self.add(depth, named.collect());
        let mut members = summary.extended();
        members.insert("children_state".to_owned(), children_state(&children));
        Ok(Some(Value::Object(members)))
    }

    /// A room in which this server is not.
    async fn visit_elsewhere(&mut self, next: Next) -> Result<Option<Value>, Error> {
        let Some(remote) = &self.state.remote else { return Ok(None) };
        let known = self.known.remove(&next.room_id);
        if known.is_none() && self.closed.contains(&next.room_id) {
            return Ok(None);
        }
        // What is no space has nothing further to be asked for.
        let asks = known.as_ref().is_none_or(Description::is_space) && self.questions > 0;
        self.questions -= usize::from(asks);
        let found = match asks {
            true => remote.descriptions.of(&next.room_id, &next.via, self.suggested_only, self.deadline).await,
            false => None,
        };
        let Some(room) = found.as_ref().map(|found| found.room.clone()).or(known) else { return Ok(None) };
        if !is_accessible_elsewhere(self.state, &room, &self.requester.user_id).await? {
            return Ok(None);
        }
        let mut children = Vec::new();
        if let Some(found) = found.filter(|_| room.is_space()) {
            children.extend(found.children.iter().map(|child| child.event.clone()));
            self.known.extend(found.known.iter().map(|(id, room)| (id.clone(), room.clone())));
            self.closed.extend(found.closed.iter().cloned());
            let named = found.children.iter().map(|child| (child.room_id.clone(), child.via.clone()));
            self.add(next.depth, named.collect());
        }
        let mut members = room.0;
        members.insert("children_state".to_owned(), Value::Array(children));
        Ok(Some(Value::Object(members)))
    }

    /// Notes the children of a room to be visited.
    fn add(&mut self, depth: usize, children: Vec<(String, Vec<String>)>) {
        if depth < self.depth_max && self.left.len() < ROOMS_MAX {
            let depth = depth + 1;
            self.left.extend(children.into_iter().rev().map(|(room_id, via)| Next { room_id, depth, via }));
        }
    }
}
