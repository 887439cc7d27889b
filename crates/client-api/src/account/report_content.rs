//! `POST /_matrix/client/v3/rooms/{roomId}/report`, `POST /_matrix/client/v3/rooms/{roomId}/report/{eventId}`,
//! `POST /_matrix/client/v3/users/{userId}/report`
//! (<https://spec.matrix.org/v1.19/client-server-api/#reporting-content>).
//!
//! Reports of rooms and users are answered alike whether there is such a thing or not, so that nobody finds out which
//! rooms and accounts exist; only reports of known rooms and possible users are kept.

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, OptionalBody, Path, RateClass, Requester, error};
use rooms::visibility::Viewer;
use serde::Deserialize;
use serde_json::Value;
use store::UserId;
use users::reports::Reported;

use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .client("/rooms/{room_id}/report", post(report_room))
        .client("/rooms/{room_id}/report/{event_id}", post(report_event))
        .client("/users/{user_id}/report", post(report_user))
}

#[derive(Debug, Deserialize)]
struct Report {
    reason: String,
}

#[derive(Debug, Default, Deserialize)]
struct EventReport {
    reason: Option<String>,
}

async fn report_room(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(room_id): Path<String>,
    JsonBody(report): JsonBody<Report>,
) -> Result<Json<Value>, Error> {
    state.door.limit(RateClass::Reports, &requester)?;
    if state.rooms.room(&room_id).await.map_err(error_map::rooms)?.is_some() {
        keep(&state, &requester, Reported::Room { room_id: &room_id }, &report.reason).await?;
    }
    Ok(error::empty())
}

async fn report_event(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path((room_id, event_id)): Path<(String, String)>,
    OptionalBody(report): OptionalBody<EventReport>,
) -> Result<Json<Value>, Error> {
    state.door.limit(RateClass::Reports, &requester)?;
    let unknown = || Error::not_found("There is no such event, or you are not in its room.");
    let room = match state.rooms.joined_room(&room_id, &requester.user_id).await {
        Err(rooms::Error::NotInRoom) => return Err(unknown()),
        room => room.map_err(error_map::rooms)?,
    };
    let event = state.rooms.event_by_id(&room, &event_id).await.map_err(error_map::rooms)?.ok_or_else(unknown)?;
    let mut viewer = Viewer::new(&state.rooms, &room, &requester.user_id).await.map_err(error_map::rooms)?;
    if !viewer.sees(&event).await.map_err(error_map::rooms)? {
        return Err(unknown());
    }
    let json = serde_json::to_string(&event.pdu.object()).map_err(Error::internal)?;
    let sender = event.pdu.sender.as_str();
    let reported = Reported::Event { room_id: &room_id, event_id: &event_id, sender, json: &json };
    keep(&state, &requester, reported, &report.reason.unwrap_or_default()).await?;
    Ok(error::empty())
}

async fn report_user(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(user_id): Path<String>,
    JsonBody(report): JsonBody<Report>,
) -> Result<Json<Value>, Error> {
    state.door.limit(RateClass::Reports, &requester)?;
    if !event::ids::is_user_id(&user_id) {
        return Err(Error::invalid_param(format!("`{user_id}` is no user id.")));
    }
    let user = UserId::from(user_id);
    if !state.users.is_local(&user) || state.users.account(&user).await.map_err(error_map::users)?.is_some() {
        keep(&state, &requester, Reported::User { user: &user }, &report.reason).await?;
    }
    Ok(error::empty())
}

async fn keep(state: &State, requester: &Requester, reported: Reported<'_>, reason: &str) -> Result<(), Error> {
    state.users.report(&requester.user_id, reported, reason).await.map_err(error_map::users)
}
