//! `POST /_matrix/client/v3/user_directory/search` (`data/api/client-server/users.yaml`).
//!
//! Found are users who share a room with the requester or are in a room that anyone may join or read, by their id and
//! their own display name; names that they have in single rooms do not match (behaviour CR27).

use std::collections::BTreeSet;

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, RateClass, Requester};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use store::UserId;

use crate::{Routes, State, error_map};

/// Users of an answer where the client does not say.
const LIMIT_DEFAULT: usize = 10;
/// Most users of an answer.
const LIMIT_MAX: usize = 50;
/// Most rooms that are looked at for whether anyone may join or read them.
const OPEN_ROOMS_MAX: u32 = 10_000;
/// Most users who are looked at.
const USERS_MAX: usize = 20_000;

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/user_directory/search", post(search))
}

#[derive(Debug, Deserialize)]
struct Body {
    search_term: String,
    limit: Option<usize>,
}

async fn search(
    requester: Requester,
    extract::State(state): extract::State<State>,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<Value>, Error> {
    state.door.limit(RateClass::Requests, &requester)?;
    let term = body.search_term.trim().trim_start_matches('@').to_lowercase();
    let mut found = Vec::new();
    if !term.is_empty() {
        for user in visible(&state, &requester.user_id).await?.into_iter().take(USERS_MAX) {
            if let Some((rank, entry)) = matching(&state, &user, &term).await? {
                found.push((rank, user, entry));
            }
        }
    }
    found.sort_by(|(rank, user, _), (other_rank, other, _)| (rank, user).cmp(&(other_rank, other)));
    let limit = body.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
    let limited = found.len() > limit;
    let results: Vec<Value> = found.into_iter().take(limit).map(|(_, _, entry)| Value::Object(entry)).collect();
    Ok(Json(json!({ "results": results, "limited": limited })))
}

/// Local users of whom the requester may know, without the requester.
async fn visible(state: &State, requester: &UserId) -> Result<BTreeSet<UserId>, Error> {
    let mut users = BTreeSet::new();
    for row in state.rooms.memberships(requester).await.map_err(error_map::rooms)? {
        if row.membership == "join"
            && let Some(room) = state.rooms.room_by_num(row.room).await.map_err(error_map::rooms)?
        {
            users.extend(room.head().local.iter().cloned());
        }
    }
    for room in state.rooms.open_rooms(OPEN_ROOMS_MAX).await.map_err(error_map::rooms)? {
        users.extend(room.head().local.iter().cloned());
    }
    users.remove(requester);
    Ok(users)
}

/// The user's entry and its rank, if the term occurs in the id or the display name: the closer, the lower.
async fn matching(state: &State, user: &UserId, term: &str) -> Result<Option<(u8, Map<String, Value>)>, Error> {
    let name = state.users.display_name(user).await.map_err(Error::internal)?;
    let full_id = user.as_str().trim_start_matches('@').to_lowercase();
    let texts = [Some(full_id), Some(user.localpart().to_lowercase()), name.as_ref().map(|name| name.to_lowercase())];
    let Some(rank) = texts.iter().flatten().filter_map(|text| rank(text, term)).min() else { return Ok(None) };
    if !state.users.is_active(user).await.map_err(Error::internal)? {
        return Ok(None);
    }
    let mut entry = Map::new();
    entry.insert("user_id".to_owned(), json!(user));
    entry.extend(name.map(|name| ("display_name".to_owned(), name.into())));
    let avatar = state.users.avatar_url(user).await.map_err(Error::internal)?;
    entry.extend(avatar.map(|url| ("avatar_url".to_owned(), url.into())));
    Ok(Some((rank, entry)))
}

fn rank(text: &str, term: &str) -> Option<u8> {
    match text.find(term)? {
        0 if text.len() == term.len() => Some(0),
        0 => Some(1),
        _ => Some(2),
    }
}
