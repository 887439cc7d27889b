//! `GET` and `PUT /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}` and
//! `GET /_matrix/client/v3/rooms/{roomId}/state` (`data/api/client-server/room_state.yaml`, `rooms.yaml`).
//!
//! An empty state key may be written with or without the slash before it.

use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, GuestRequester, Path, Query, RateClass, RawBody, Requester};
use event::{Json as EventJson, Object};
use rooms::aliases::CANONICAL_ALIAS;
use rooms::{NewEvent, state::MEMBER, state::type_key};
use serde::Deserialize;
use serde_json::{Value, json};
use store::UserId;

use super::access::{Readable, check_type, parse_content, parse_user, readable, readable_whole};
use super::delayed_events::{self, Later};
use super::people;
use super::room_send::REDACTION;
use crate::{Routes, State, error_map, json_text};

/// The routes of this file.
pub fn routes() -> Router<State> {
    let without_key = || get(get_state_without_key).put(put_state_without_key);
    Router::new()
        .client("/rooms/{room_id}/state", get(get_whole_state))
        .client("/rooms/{room_id}/state/{event_type}", without_key())
        .client("/rooms/{room_id}/state/{event_type}/", without_key())
        .client("/rooms/{room_id}/state/{event_type}/{state_key}", get(get_state).put(put_state))
}

#[derive(Debug, Deserialize)]
struct Parameters {
    format: Option<Format>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Format {
    Content,
    Event,
}

async fn get_whole_state(
    GuestRequester(requester): GuestRequester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
) -> Result<Response, Error> {
    let readable = readable_whole(&state.rooms, &room_id, &requester.user_id).await?;
    let events = state.rooms.whole_state(&readable.room, readable.state).await.map_err(error_map::rooms)?;
    let rendered: Vec<String> =
        events.iter().map(|event| state.rooms.render_state(&readable.room, event, true)).collect();
    Ok(json_text::answer(json_text::list(&rendered)))
}

async fn get_state_without_key(
    requester: GuestRequester,
    state: extract::State<State>,
    Path((room_id, kind)): Path<(String, String)>,
    parameters: Query<Parameters>,
) -> Result<Response, Error> {
    get_state(requester, state, Path((room_id, kind, String::new())), parameters).await
}

async fn get_state(
    GuestRequester(requester): GuestRequester,
    extract::State(state): extract::State<State>,
    Path((room_id, kind, state_key)): Path<(String, String, String)>,
    Query(parameters): Query<Parameters>,
) -> Result<Response, Error> {
    let pairs = [type_key(&kind, &state_key)];
    let mut readable = readable(&state.rooms, &room_id, &requester.user_id).await?;
    let find = async |readable: &Readable| {
        state.rooms.state_map(&readable.room, None, readable.state, &pairs).await.map_err(error_map::rooms)
    };
    let mut found = find(&readable).await?;
    if kind == MEMBER && readable.room.is_partial() && found.event(&kind, &state_key).is_none() {
        readable = readable_whole(&state.rooms, &room_id, &requester.user_id).await?;
        found = find(&readable).await?;
    }
    let event = found.event(&kind, &state_key).ok_or_else(|| Error::not_found("There is no such state event."))?;
    Ok(json_text::answer(match parameters.format {
        Some(Format::Event) => state.rooms.render_state(&readable.room, event, true),
        _ => serde_json::to_string(&event.pdu.content).map_err(Error::internal)?,
    }))
}

async fn put_state_without_key(
    requester: GuestRequester,
    state: extract::State<State>,
    Path((room_id, kind)): Path<(String, String)>,
    later: Query<Later>,
    body: RawBody,
) -> Result<Json<Value>, Error> {
    put_state(requester, state, Path((room_id, kind, String::new())), later, body).await
}

async fn put_state(
    GuestRequester(requester): GuestRequester,
    extract::State(state): extract::State<State>,
    Path((room_id, kind, state_key)): Path<(String, String, String)>,
    Query(later): Query<Later>,
    RawBody(bytes): RawBody,
) -> Result<Json<Value>, Error> {
    state.door.limit(RateClass::Messages, &requester)?;
    check_state_type(&kind)?;
    let mut new = NewEvent::state(&requester.user_id, &kind, &state_key, parse_content(&bytes)?);
    new.sticky_ms = later.sticky_ms()?;
    if let Some(delay_ms) = later.delay_ms {
        requester.not_suspended()?;
        return delayed_events::schedule_by_query(&state, &room_id, new, delay_ms).await;
    }
    Ok(Json(json!({ "event_id": set(&state, &requester, &room_id, new).await? })))
}

/// Refuses types that name nothing, or no state.
///
/// # Errors
/// `M_INVALID_PARAM`.
pub(super) fn check_state_type(kind: &str) -> Result<(), Error> {
    check_type(kind)?;
    if kind == REDACTION {
        return Err(Error::invalid_param("`eventType`: a redaction is no state; ask for it at `/redact`."));
    }
    Ok(())
}

/// Sets a state event, and returns its id.
///
/// # Errors
/// As the room engine says, and the routes of memberships for a membership.
pub(super) async fn set(state: &State, requester: &Requester, room_id: &str, new: NewEvent) -> Result<String, Error> {
    if new.kind == MEMBER {
        return put_member(state, requester, room_id, new).await;
    }
    requester.not_suspended()?;
    let room = state.rooms.joined_room(room_id, &requester.user_id).await.map_err(error_map::rooms)?;
    if new.kind == CANONICAL_ALIAS && new.state_key.as_deref() == Some("") {
        state.rooms.check_canonical_alias(&room, &new.content).await.map_err(error_map::rooms)?;
    }
    send(state, room_id, new).await
}

async fn send(state: &State, room_id: &str, new: NewEvent) -> Result<String, Error> {
    let sent = state.rooms.send(room_id, new).await.map_err(error_map::rooms)?;
    Ok(sent.to_string())
}

/// A membership by way of its event: the same checks as by the routes of memberships.
async fn put_member(state: &State, requester: &Requester, room_id: &str, mut new: NewEvent) -> Result<String, Error> {
    let target = parse_user(new.state_key.as_deref().unwrap_or_default())?;
    let membership = new.content.get("membership").and_then(EventJson::as_str).unwrap_or_default().to_owned();
    if membership != "leave" || target != requester.user_id {
        requester.not_suspended()?;
    }
    // Only this server may say who let the user in: its signature on the event vouches for that.
    new.content.remove("join_authorised_via_users_server");
    let joined = state.rooms.joined_room(room_id, &requester.user_id).await.is_ok();
    if membership == "join" && target == requester.user_id && !joined {
        return join(state, requester, room_id, new.content).await;
    }
    if membership == "invite" {
        return invite(state, requester, room_id, &target, new.content).await;
    }
    let leaves = membership == "leave" && target == requester.user_id;
    let known = state.rooms.membership(room_id, &requester.user_id).await.map_err(error_map::rooms)?.is_some();
    if !joined && (!leaves || !known) {
        return Err(error_map::rooms(rooms::Error::NotInRoom));
    }
    send(state, room_id, new).await
}

async fn join(state: &State, requester: &Requester, room_id: &str, content: Object) -> Result<String, Error> {
    if requester.guest {
        return Err(Error::guest_access_forbidden());
    }
    state.door.limit(RateClass::Joins, requester)?;
    let mut profile = people::member_profile(state, &requester.user_id).await?;
    profile.extend(content);
    let joined = state.rooms.join(room_id, &requester.user_id, None, profile).await;
    let joined = joined.map_err(super::joining::refusal)?;
    people::follow_upgrade(state, &requester.user_id, room_id).await?;
    Ok(joined.to_string())
}

async fn invite(
    state: &State,
    requester: &Requester,
    room_id: &str,
    target: &UserId,
    content: Object,
) -> Result<String, Error> {
    state.door.limit(RateClass::Invites, requester)?;
    super::inviting::invite_user(state, requester, room_id, target, None, content).await?;
    let room = state.rooms.joined_room(room_id, &requester.user_id).await.map_err(error_map::rooms)?;
    let event = state.rooms.current(&room, MEMBER, target.as_str()).await.map_err(error_map::rooms)?;
    Ok(event.map(|event| event.id().to_string()).unwrap_or_default())
}
