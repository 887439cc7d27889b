//! `GET /_matrix/client/v3/rooms/{roomId}/members` and `GET /_matrix/client/v3/rooms/{roomId}/joined_members`
//! (`data/api/client-server/rooms.yaml`).

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, GuestRequester, Path, Query, Requester};
use rooms::timeline::Token;
use rooms::{Event, Room, Roots};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::access::{Reader, readable_whole};
use crate::json_text::JsonText;
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client("/rooms/{room_id}/members", get(members))
        .client("/rooms/{room_id}/joined_members", get(joined_members))
}

#[derive(Debug, Deserialize)]
struct Parameters {
    at: Option<String>,
    membership: Option<Membership>,
    not_membership: Option<Membership>,
}

/// A membership that one can ask for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Membership {
    Join,
    Invite,
    Knock,
    Leave,
    Ban,
}

impl Membership {
    fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Invite => "invite",
            Self::Knock => "knock",
            Self::Leave => "leave",
            Self::Ban => "ban",
        }
    }
}

async fn members(
    GuestRequester(requester): GuestRequester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
    Query(parameters): Query<Parameters>,
) -> Result<JsonText, Error> {
    let readable = readable_whole(&state.rooms, &room_id, &requester.user_id).await?;
    let reader = Reader::new(&state, &readable.room, &requester).await?;
    let roots = match parameters.at.as_deref().filter(|at| !at.is_empty()) {
        None => readable.state,
        Some(at) => {
            let token = Token::parse(at).map_err(error_map::rooms)?;
            state.rooms.state_at_token(&readable.room, token, reader.left_at()).await.map_err(error_map::rooms)?
        }
    };
    let events = member_events(&state, &readable.room, roots).await?;
    let rendered: Vec<String> = events
        .iter()
        .filter(|event| is_wanted(&parameters, event.pdu.membership().unwrap_or("leave")))
        .map(|event| state.rooms.render_state(&readable.room, event, true))
        .collect();
    Ok(JsonText::object().list("chunk", &rendered))
}

/// With both parameters, either suffices (CR13).
fn is_wanted(parameters: &Parameters, membership: &str) -> bool {
    let is = parameters.membership.map(|wanted| wanted.as_str() == membership);
    let is_not = parameters.not_membership.map(|unwanted| unwanted.as_str() != membership);
    match (is, is_not) {
        (None, None) => true,
        (is, is_not) => is.unwrap_or(false) || is_not.unwrap_or(false),
    }
}

async fn member_events(state: &State, room: &Room, roots: Roots) -> Result<Vec<Arc<Event>>, Error> {
    let nums = state.rooms.tree_nums(room, roots.members).await.map_err(error_map::rooms)?;
    state.rooms.events(room, None, &nums).await.map_err(error_map::rooms)
}

async fn joined_members(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
) -> Result<Json<Value>, Error> {
    let room = state.rooms.joined_whole(&room_id, &requester.user_id).await.map_err(error_map::rooms)?;
    let mut joined = Map::new();
    for event in member_events(&state, &room, room.head().state).await? {
        let Some(user) = event.pdu.state_key.clone() else { continue };
        if event.pdu.membership() == Some("join") {
            let text = |name| event.pdu.content_str(name);
            let mut profile = Map::new();
            profile.extend(text("displayname").map(|name| ("display_name".to_owned(), name.into())));
            profile.extend(text("avatar_url").map(|url| ("avatar_url".to_owned(), url.into())));
            joined.insert(user, Value::Object(profile));
        }
    }
    Ok(Json(json!({ "joined": joined })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cr13_membership_and_not_membership_are_an_or() {
        let check = |is: Option<Membership>, is_not: Option<Membership>, expected: &[&str]| {
            let parameters = Parameters { at: None, membership: is, not_membership: is_not };
            let all = ["join", "invite", "leave", "ban"];
            let found: Vec<&str> = all.into_iter().filter(|one| is_wanted(&parameters, one)).collect();
            assert_eq!(found, expected);
        };
        check(None, None, &["join", "invite", "leave", "ban"]);
        check(Some(Membership::Join), None, &["join"]);
        check(None, Some(Membership::Join), &["invite", "leave", "ban"]);
        check(Some(Membership::Join), Some(Membership::Leave), &["join", "invite", "ban"]);
    }
}
