//! `GET /_matrix/client/v1/mutual_rooms` (`data/api/client-server/mutual_rooms.yaml`), and the same under the name that it
//! had as a proposal (MSC2666).

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, Query, Requester};
use serde::Deserialize;
use serde_json::{Value, json};
use store::UserId;

use super::access::parse_user;
use crate::{Routes, State, error_map};

/// Rooms of a page.
const PAGE_MAX: usize = 100;

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client_v1("/mutual_rooms", get(mutual_rooms))
        .unstable("/uk.half-shot.msc2666/user/mutual_rooms", get(mutual_rooms))
}

/// The ids of the rooms that two users are in, of which the first is of this server.
///
/// # Errors
/// `M_UNKNOWN` when the store fails.
pub async fn shared(state: &State, user: &UserId, other: &UserId) -> Result<Vec<String>, Error> {
    let mut shared = Vec::new();
    for row in state.rooms.memberships(user).await.map_err(error_map::rooms)? {
        if row.membership != "join" {
            continue;
        }
        let Some(room) = state.rooms.room_by_num(row.room).await.map_err(error_map::rooms)? else { continue };
        if !room.has_server(other.server_name()) {
            continue;
        }
        let member = state.rooms.current(&room, "m.room.member", other.as_str()).await.map_err(error_map::rooms)?;
        if member.is_some_and(|member| member.pdu.membership() == Some("join")) {
            shared.push(room.id.clone());
        }
    }
    Ok(shared)
}

#[derive(Debug, Deserialize)]
struct Parameters {
    user_id: String,
    from: Option<String>,
    /// `from`, as it was called in the proposal: clients of today know no other name.
    batch_token: Option<String>,
}

async fn mutual_rooms(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, Error> {
    let other = parse_user(&parameters.user_id)?;
    if other == requester.user_id {
        return Err(Error::invalid_param("`user_id` is your own."));
    }
    let bad = || Error::invalid_param("`from` is no token of this list.");
    let from = parameters.from.as_deref().or(parameters.batch_token.as_deref());
    let start = match from.filter(|from| !from.is_empty()) {
        Some(from) => from.strip_prefix('r').and_then(|number| number.parse::<usize>().ok()).ok_or_else(bad)?,
        None => 0,
    };
    let mut mutual = shared(&state, &requester.user_id, &other).await?;
    mutual.sort();
    let count = mutual.len();
    let end = start.saturating_add(PAGE_MAX).min(count);
    let mut answer = json!({ "joined": mutual.get(start.min(count)..end).unwrap_or_default(), "count": count });
    if end < count {
        answer["next_batch"] = format!("r{end}").into();
        answer["next_batch_token"] = answer["next_batch"].clone();
    }
    Ok(Json(answer))
}
