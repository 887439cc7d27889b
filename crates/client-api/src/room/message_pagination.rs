//! `GET /_matrix/client/v3/rooms/{roomId}/messages` (`data/api/client-server/message_pagination.yaml`).

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::routing::get;
use axum::{Router, extract};
use endpoint::{Error, GuestRequester, Path, Query};
use rooms::timeline::{Direction, PageQuery, Place, Token};
use rooms::{Event, Room, Roots, state::MEMBER, state::type_key};
use serde::Deserialize;
use sync::filter::EventFilter;

use super::access::{Reader, readable};
use crate::json_text::JsonText;
use crate::{Routes, State, error_map, remote};

/// Events of a page where the client does not say.
const LIMIT_DEFAULT: u64 = 10;
/// Most events of a page.
pub const LIMIT_MAX: u64 = 1_000;

/// How often one request asks other servers for more of the history.
const FILLS_MAX: usize = 5;

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/rooms/{room_id}/messages", get(messages))
}

/// `dir`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum Dir {
    /// Backward.
    #[serde(rename = "b")]
    Backward,
    /// Forward.
    #[serde(rename = "f")]
    Forward,
}

impl From<Dir> for Direction {
    fn from(dir: Dir) -> Self {
        match dir {
            Dir::Backward => Self::Backward,
            Dir::Forward => Self::Forward,
        }
    }
}

#[derive(Debug, Deserialize)]
struct Parameters {
    from: Option<String>,
    to: Option<String>,
    dir: Dir,
    limit: Option<u64>,
    filter: Option<String>,
}

async fn messages(
    GuestRequester(requester): GuestRequester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
    Query(parameters): Query<Parameters>,
) -> Result<JsonText, Error> {
    let filter = filter_of(parameters.filter.as_deref())?;
    let readable = readable(&state.rooms, &room_id, &requester.user_id).await?;
    let room = &readable.room;
    let mut reader = Reader::new(&state, room, &requester).await?;
    let direction = Direction::from(parameters.dir);
    let from = match parameters.from.as_deref().filter(|from| !from.is_empty()) {
        Some(from) => place(&state, room, from).await?,
        None => edge(&state, room, &reader, direction).await?,
    };
    let until = match parameters.to.as_deref().filter(|to| !to.is_empty()) {
        Some(to) => Some(place(&state, room, to).await?),
        None => None,
    };
    let until = match (direction, reader.left_at()) {
        // What came after the leave is not for those who left, though anybody might have seen it (CR9).
        (Direction::Forward, Some(left)) => {
            let end = state.rooms.place_at(room, left).await.map_err(error_map::rooms)?;
            Some(until.filter(|until| *until < end).unwrap_or(end))
        }
        _ => until,
    };
    if !filter.accepts_room(&room.id) {
        return Ok(JsonText::object().list("chunk", &[]).value("start", from.to_string()));
    }
    let query = PageQuery { from, direction, until, limit: limit(parameters.limit.or(filter.limit)) };
    let ignored = reader.ignored().clone();
    let keep = |event: &Event| filter.accepts_event(event) && heeds(&ignored, event);
    let mut page = state.rooms.page(room, query, &mut reader.viewer, &keep).await.map_err(error_map::rooms)?;
    for _ in 0..FILLS_MAX {
        if !remote::fill_history(&state, room, query, &page).await? {
            break;
        }
        page = state.rooms.page(room, query, &mut reader.viewer, &keep).await.map_err(error_map::rooms)?;
    }
    let answer = JsonText::object()
        .list("chunk", &reader.render(&page.events).await?)
        .value("start", from.to_string())
        .optional("end", page.end.map(|end| end.to_string()));
    if !filter.lazy_load_members {
        return Ok(answer);
    }
    let roots = page.events.last().and_then(|event| event.state_after()).unwrap_or(readable.state);
    let members = members_of(&state, room, &page.events, roots).await?;
    Ok(answer.list("state", &members))
}

/// The filter that a request has; one that lets everything through, if none.
///
/// # Errors
/// `M_INVALID_PARAM`.
pub fn filter_of(parameter: Option<&str>) -> Result<EventFilter, Error> {
    match parameter.filter(|text| !text.is_empty()) {
        Some(text) => EventFilter::parse(text).map_err(error_map::sync),
        None => Ok(EventFilter::default()),
    }
}

/// A limit within bounds.
pub fn limit(asked: Option<u64>) -> usize {
    usize::try_from(asked.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX)).unwrap_or(1)
}

/// The place that a token of any kind names in a room (CB13).
///
/// # Errors
/// `M_INVALID_PARAM`.
pub async fn place(state: &State, room: &Room, token: &str) -> Result<Place, Error> {
    let token = Token::parse(token).map_err(error_map::rooms)?;
    state.rooms.place(room, token).await.map_err(error_map::rooms)
}

/// Where paging starts without a token: at the end of what the requester may see, or at the start.
///
/// # Errors
/// `M_UNKNOWN` when the store fails.
pub async fn edge(state: &State, room: &Room, reader: &Reader<'_>, direction: Direction) -> Result<Place, Error> {
    let edge = match (direction, reader.left_at()) {
        (Direction::Forward, _) => state.rooms.start(room).await,
        (Direction::Backward, Some(left)) => state.rooms.place_at(room, left).await,
        (Direction::Backward, None) => Ok(state.rooms.live_end(room)),
    };
    edge.map_err(error_map::rooms)
}

/// Events of ignored users are left out, but for state.
pub fn heeds(ignored: &BTreeSet<String>, event: &Event) -> bool {
    event.pdu.is_state() || !ignored.contains(event.row.sender.as_str())
}

/// The member events of the senders of these events, as JSON text (client-server API, lazy-loading room members).
///
/// # Errors
/// `M_UNKNOWN` when the store fails.
pub async fn members_of(state: &State, room: &Room, events: &[Arc<Event>], roots: Roots) -> Result<Vec<String>, Error> {
    let senders: BTreeSet<&str> = events.iter().map(|event| event.row.sender.as_str()).collect();
    let pairs: Vec<_> = senders.into_iter().map(|sender| type_key(MEMBER, sender)).collect();
    let found = state.rooms.state_map(room, None, roots, &pairs).await.map_err(error_map::rooms)?;
    Ok(found.0.values().map(|event| state.rooms.render_state(room, event, true)).collect())
}
