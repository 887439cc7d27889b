//! `GET`, `PUT` and `DELETE /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription`
//! (MSC4306), and `GET /_matrix/client/unstable/io.element.msc4308/thread_subscriptions` (MSC4308).
//!
//! The proposal's push rules are a user's from the first subscription on. For everybody, they would silence all threads of
//! users whose clients know nothing of subscriptions.

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, OptionalBody, Path, Query, RateClass, Requester, error};
use rooms::Room;
use rooms::timeline::Token;
use serde::Deserialize;
use serde_json::{Value, json};
use store::StreamPosition;
use users::thread_subscriptions::told;

use super::access::{Reader, readable};
use super::rooms::visible_event;
use crate::{Routes, State, error_map};

/// Subscriptions of a page, where the client does not say.
const LIMIT_DEFAULT: u32 = 100;
/// Most subscriptions of a page.
const LIMIT_MAX: u32 = 500;

/// The routes of this file.
pub fn routes() -> Router<State> {
    let subscription = get(subscription).put(subscribe).delete(unsubscribe);
    Router::new()
        .unstable("/io.element.msc4306/rooms/{room_id}/thread/{event_id}/subscription", subscription)
        .unstable("/io.element.msc4308/thread_subscriptions", get(thread_subscriptions))
}

/// The room of a thread, if the requester may see the root. Whatever is missing looks the same.
async fn room_of(state: &State, requester: &Requester, room_id: &str, root: &str) -> Result<Arc<Room>, Error> {
    let missing = |_| Error::not_found("There is no such thread.");
    let readable = readable(&state.rooms, room_id, &requester.user_id).await.map_err(missing)?;
    let mut reader = Reader::new(state, &readable.room, requester).await?;
    visible_event(state, &readable.room, &mut reader, root).await.map_err(missing)?;
    Ok(Arc::clone(&readable.room))
}

async fn subscription(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path((room_id, root)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    room_of(&state, &requester, &room_id, &root).await?;
    let automatic = state.users.thread_subscription(&requester.user_id, &room_id, &root).await;
    let automatic = automatic.map_err(error_map::users)?;
    let automatic = automatic.ok_or_else(|| Error::not_found("You are not subscribed to this thread."))?;
    Ok(Json(json!({ "automatic": automatic })))
}

#[derive(Debug, Default, Deserialize)]
struct Body {
    /// The newest event for which a client subscribes by itself.
    automatic: Option<String>,
}

async fn subscribe(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path((room_id, root)): Path<(String, String)>,
    OptionalBody(body): OptionalBody<Body>,
) -> Result<Json<Value>, Error> {
    state.door.limit(RateClass::Requests, &requester)?;
    let room = room_of(&state, &requester, &room_id, &root).await?;
    let cause = match &body.automatic {
        Some(event_id) => Some(cause(&state, &room, &root, event_id).await?),
        None => None,
    };
    let subscribed = state.users.subscribe_to_thread(&requester.user_id, &room_id, &root, cause).await;
    match subscribed.map_err(error_map::users)? {
        true => Ok(error::empty()),
        false => Err(Error::conflicting_unsubscription()),
    }
}

/// Where the event stands that is the cause of a subscription.
async fn cause(state: &State, room: &Room, root: &str, event_id: &str) -> Result<StreamPosition, Error> {
    let event = state.rooms.event_by_id(room, event_id).await.map_err(error_map::rooms)?;
    let event = event.ok_or_else(Error::not_in_thread)?;
    let thread = state.rooms.thread_of_event(room, &event).await.map_err(error_map::rooms)?;
    if thread != root && event.id().as_str() != root {
        return Err(Error::not_in_thread());
    }
    Ok(event.pos())
}

async fn unsubscribe(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path((room_id, root)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    state.door.limit(RateClass::Requests, &requester)?;
    room_of(&state, &requester, &room_id, &root).await?;
    state.users.unsubscribe_from_thread(&requester.user_id, &room_id, &root).await.map_err(error_map::users)?;
    Ok(error::empty())
}

/// Back in time is the only way there is.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Back {
    B,
}

#[derive(Debug, Deserialize)]
struct Parameters {
    #[serde(rename = "dir")]
    _dir: Back,
    from: Option<String>,
    to: Option<String>,
    limit: Option<u32>,
}

/// A position, as the extension of sliding sync gives it, or of a request of that.
fn position(token: Option<&str>, otherwise: StreamPosition) -> Result<StreamPosition, Error> {
    match token.map(Token::parse).transpose().map_err(error_map::rooms)? {
        None => Ok(otherwise),
        Some(Token::Position(pos)) => Ok(pos),
        Some(Token::Place(_)) => Err(Error::invalid_param("The token is none of this list.")),
    }
}

async fn thread_subscriptions(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, Error> {
    let limit = parameters.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
    if limit == 0 {
        return Err(Error::invalid_param("`limit` must be greater than 0."));
    }
    let upto = position(parameters.from.as_deref(), state.store.watermark())?;
    let since = position(parameters.to.as_deref(), StreamPosition::ZERO)?;
    let rows = state.users.thread_subscriptions(&requester.user_id, since, upto, limit + 1).await;
    let mut rows = rows.map_err(error_map::users)?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let mut answer = told(&rows);
    if let Some(oldest) = rows.last().filter(|_| more) {
        answer.insert("end".to_owned(), format!("s{}", oldest.pos.0 - 1).into());
    }
    Ok(Json(Value::Object(answer)))
}
