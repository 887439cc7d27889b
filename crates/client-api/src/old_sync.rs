//! What clients called before there was `/sync`: `GET /_matrix/client/v3/events`, `/initialSync`
//! (`data/api/client-server/old_sync.yaml`, `peeking_events.yaml`) and `/events/{eventId}`. All of it is `/sync` in other
//! words, and deprecated; it takes no message from a device that gets them by `/sync`.

use std::time::Duration;

use ::rooms::timeline::{Direction, PageQuery};
use axum::extract::State as Given;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use endpoint::{Error, GuestRequester, Path, Query, Requester};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use store::{StreamPosition, UserId};
use users::presence::PresenceState;

use crate::json_text::JsonText;
use crate::room::access::{Reader, readable};
use crate::room::message_pagination::{LIMIT_MAX, heeds, limit, place};
use crate::room::rooms;
use crate::{Routes, State, error_map};

/// How long a request waits at most.
const TIMEOUT_MAX: Duration = Duration::from_secs(5 * 60);
/// Messages of each room where the client does not say.
const MESSAGES_DEFAULT: u64 = 10;

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client("/events", get(events))
        .client("/events/{event_id}", get(one_event))
        .client("/initialSync", get(initial_sync))
}

#[derive(Debug, Default, Deserialize)]
struct Listening {
    from: Option<String>,
    timeout: Option<u64>,
    room_id: Option<String>,
}

impl Listening {
    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout.unwrap_or(0)).min(TIMEOUT_MAX)
    }

    /// The token to go on from: that of the present, if the client has none.
    fn from(&self, state: &State) -> String {
        let given = self.from.clone().filter(|from| !from.is_empty());
        given.unwrap_or_else(|| format!("s{}", state.store.watermark()))
    }
}

async fn events(
    Given(state): Given<State>,
    GuestRequester(requester): GuestRequester,
    Query(listening): Query<Listening>,
) -> Result<JsonText, Error> {
    if let Some(room_id) = &listening.room_id {
        return peek(&state, &requester, room_id, &listening).await;
    }
    let start = listening.from(&state);
    let filter = json!({ "room": { "timeline": { "limit": LIMIT_MAX } } });
    let filter = Some(filter.to_string());
    let request = request_of(&state, &requester.user_id, Some(start.clone()), filter, listening.timeout());
    let mut answer = synced(&state, &request).await?;
    let mut chunk = Vec::new();
    let mut rooms = answer["rooms"].take();
    for (group, sections) in [
        ("join", &["timeline", "ephemeral"][..]),
        ("leave", &["timeline"]),
        ("invite", &["invite_state"]),
        ("knock", &["knock_state"]),
    ] {
        for (room_id, mut room) in taken(&mut rooms[group]) {
            for section in sections {
                chunk.extend(
                    in_room(&room_id, room[*section]["events"].take()).into_iter().map(|event| event.to_string()),
                );
            }
        }
    }
    chunk.extend(list(answer["presence"]["events"].take()).into_iter().map(|event| event.to_string()));
    let end = answer["next_batch"].as_str().unwrap_or(&start).to_owned();
    Ok(JsonText::object().list("chunk", &chunk).value("start", start).value("end", end))
}

/// Events of one room, for those who may read it and need not be in it.
async fn peek(state: &State, requester: &Requester, room_id: &str, listening: &Listening) -> Result<JsonText, Error> {
    let start = listening.from(state);
    let time_up = tokio::time::sleep(listening.timeout());
    tokio::pin!(time_up);
    let mut is_over = false;
    let mut watermark = state.store.notifier().subscribe();
    loop {
        let upto = *watermark.borrow_and_update();
        let found = readable(&state.rooms, room_id, &requester.user_id).await?;
        let room = &found.room;
        let mut reader = Reader::new(state, room, requester).await?;
        let from = place(state, room, &start).await?;
        let until = state.rooms.place_at(room, reader.left_at().unwrap_or(upto)).await.map_err(error_map::rooms)?;
        let query =
            PageQuery { from, direction: Direction::Forward, until: Some(until), limit: limit(Some(LIMIT_MAX)) };
        let ignored = reader.ignored().clone();
        let page = state.rooms.page(room, query, &mut reader.viewer, |event| heeds(&ignored, event)).await;
        let page = page.map_err(error_map::rooms)?;
        if !page.events.is_empty() || is_over {
            let end = page.end.map_or_else(|| format!("s{upto}"), |end| end.to_string());
            return Ok(JsonText::object()
                .list("chunk", &reader.render(&page.events).await?)
                .value("start", start)
                .value("end", end));
        }
        // Most of what is committed lies in other rooms. Running out of time is not an error.
        let seen = room.head().row.last_pos;
        while !is_over && last_pos(state, room_id).await? == seen {
            tokio::select! {
                _ = watermark.changed() => {}
                () = &mut time_up => is_over = true,
            }
        }
    }
}

/// Where the last event of a room stands.
async fn last_pos(state: &State, room_id: &str) -> Result<StreamPosition, Error> {
    let room = state.rooms.room(room_id).await.map_err(error_map::rooms)?;
    Ok(room.map_or(StreamPosition::ZERO, |room| room.head().row.last_pos))
}

async fn one_event(
    Given(state): Given<State>,
    requester: Requester,
    Path(event_id): Path<String>,
) -> Result<Response, Error> {
    let room_id = state.rooms.room_of_event(&requester.user_id, &event_id).await.map_err(error_map::rooms)?;
    let room_id = room_id.ok_or_else(rooms::missing)?;
    rooms::event(GuestRequester(requester), Given(state), Path((room_id, event_id))).await
}

#[derive(Debug, Deserialize)]
struct Beginning {
    limit: Option<u64>,
    #[serde(default)]
    archived: bool,
}

async fn initial_sync(
    Given(state): Given<State>,
    requester: Requester,
    Query(beginning): Query<Beginning>,
) -> Result<Json<Value>, Error> {
    let limit = beginning.limit.unwrap_or(MESSAGES_DEFAULT).min(LIMIT_MAX);
    let filter = json!({ "room": { "include_leave": beginning.archived, "timeline": { "limit": limit } } });
    let mut request = request_of(&state, &requester.user_id, None, Some(filter.to_string()), Duration::ZERO);
    request.use_state_after = true;
    let mut answer = synced(&state, &request).await?;
    let end = answer["next_batch"].take();
    let mut rooms = Vec::new();
    let mut found = answer["rooms"].take();
    for group in ["join", "leave"] {
        for (room_id, room) in taken(&mut found[group]) {
            rooms.push(told_room(&state, &requester.user_id, &room_id, room, &end).await?);
        }
    }
    for (room_id, mut room) in taken(&mut found["invite"]) {
        let stripped = in_room(&room_id, room["invite_state"]["events"].take());
        let own = stripped
            .into_iter()
            .find(|event| event["type"] == "m.room.member" && event["state_key"] == requester.user_id.as_str());
        rooms.push(json!({ "room_id": room_id, "membership": "invite", "invite": own }));
    }
    Ok(Json(json!({
        "end": end,
        "presence": list(answer["presence"]["events"].take()),
        "account_data": list(answer["account_data"]["events"].take()),
        "rooms": rooms,
    })))
}

/// A room that the user is or was in.
async fn told_room(state: &State, user: &UserId, room_id: &str, mut room: Value, end: &Value) -> Result<Value, Error> {
    let row = state.rooms.any_membership(room_id, user).await.map_err(error_map::rooms)?;
    let known = state.rooms.room(room_id).await.map_err(error_map::rooms)?;
    let published = known.is_some_and(|room| room.head().row.published);
    let mut messages = json!({ "chunk": in_room(room_id, room["timeline"]["events"].take()), "end": end });
    if let Some(start) = room["timeline"]["prev_batch"].as_str() {
        messages["start"] = start.into();
    }
    Ok(json!({
        "room_id": room_id,
        "membership": row.map_or_else(|| "leave".to_owned(), |row| row.membership),
        "messages": messages,
        "state": in_room(room_id, room["state_after"]["events"].take()),
        "visibility": if published { "public" } else { "private" },
        "account_data": list(room["account_data"]["events"].take()),
    }))
}

/// A sync that belongs to no device: it takes no to-device message.
fn request_of(
    state: &State,
    user: &UserId,
    since: Option<String>,
    filter: Option<String>,
    timeout: Duration,
) -> ::sync::Request {
    ::sync::Request {
        user: user.clone(),
        device: None,
        since,
        filter,
        full_state: false,
        use_state_after: false,
        set_presence: PresenceState::Online,
        timeout,
        now_ms: state.clock.now_ms(),
    }
}

async fn synced(state: &State, request: &::sync::Request) -> Result<Value, Error> {
    let body = state.sync.sync(request).await.map_err(error_map::sync)?;
    serde_json::from_str(&body).map_err(Error::internal)
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list,
        _ => Vec::new(),
    }
}

fn taken(value: &mut Value) -> Map<String, Value> {
    match value.take() {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// Events with the id of their room.
fn in_room(room_id: &str, events: Value) -> Vec<Value> {
    let mut events = list(events);
    for event in &mut events {
        event["room_id"] = room_id.into();
    }
    events
}
