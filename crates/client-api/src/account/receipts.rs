//! `POST /_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}`
//! (<https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidreceiptreceipttypeeventid>;
//! behaviours CR25, CR32).

use std::sync::Arc;

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, OptionalBody, Path, RateClass, Requester, error};
use rooms::{Event, Room};
use serde_json::{Map, Value};
use store::UserId;
use users::receipts::{ReadUpTo, ReceiptType};

use crate::{Routes, State, error_map};

/// Relations that are followed from an event to the message in a thread to which it belongs.
const RELATIONS_MAX: usize = 3;
/// The thread of everything that is in no thread.
const MAIN: &str = "main";

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/rooms/{room_id}/receipt/{kind}/{event_id}", post(receipt))
}

async fn receipt(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path((room_id, kind, event_id)): Path<(String, String, String)>,
    OptionalBody(body): OptionalBody<Map<String, Value>>,
) -> Result<Json<Value>, Error> {
    state.door.limit(RateClass::Messages, &requester)?;
    let kind = ReceiptType::parse(&kind)
        .ok_or_else(|| Error::invalid_param("Receipts are `m.read`, `m.read.private` or `m.fully_read`."))?;
    let room = state.rooms.joined_room(&room_id, &requester.user_id).await.map_err(error_map::rooms)?;
    let thread = thread_of(kind, &body)?;
    let target = target(&state, &room, thread, &event_id).await?;
    set(&state, &room, &requester.user_id, kind, thread, &target).await?;
    Ok(error::empty())
}

/// The thread that the body names; empty for none.
fn thread_of(kind: ReceiptType, body: &Map<String, Value>) -> Result<&str, Error> {
    let Some(thread) = body.get("thread_id") else { return Ok("") };
    let thread = thread.as_str().filter(|thread| !thread.is_empty());
    let thread = thread.ok_or_else(|| Error::invalid_param("thread_id field must be a non-empty string"))?;
    if kind == ReceiptType::FullyRead {
        return Err(Error::invalid_param("thread_id is not compatible with m.fully_read"));
    }
    Ok(thread)
}

/// The event of the room, and of the thread, to which a receipt is to be moved.
pub(super) async fn target(state: &State, room: &Arc<Room>, thread: &str, event_id: &str) -> Result<ReadUpTo, Error> {
    let event = state.rooms.event_by_id(room, event_id).await.map_err(error_map::rooms)?;
    let event = event.ok_or_else(|| Error::not_found("There is no such event in this room."))?;
    if !thread.is_empty() && !is_in_thread(state, room, &event, thread).await? {
        return Err(Error::invalid_param(format!("event_id {event_id} is not related to thread {thread}")));
    }
    Ok(ReadUpTo {
        event_id: event_id.to_owned(),
        event: Some(event.num()),
        pos: event.pos(),
        messages: event.row.messages,
    })
}

/// Moves a receipt or the read marker.
pub(super) async fn set(
    state: &State,
    room: &Arc<Room>,
    user: &UserId,
    kind: ReceiptType,
    thread: &str,
    target: &ReadUpTo,
) -> Result<(), Error> {
    state.users.set_receipt(room.num, &room.id, user, kind, thread, target).await.map_err(error_map::users)?;
    Ok(())
}

/// Whether an event is in a thread: itself, as its root, or by relating to a message in it. A root is in the main
/// timeline too.
async fn is_in_thread(state: &State, room: &Arc<Room>, event: &Arc<Event>, thread: &str) -> Result<bool, Error> {
    let mut event = Arc::clone(event);
    for _ in 0..=RELATIONS_MAX {
        if let Some(root) = &event.row.thread {
            return Ok(root == thread);
        }
        if event.id().as_str() == thread {
            return Ok(true);
        }
        let Some((_, parent)) = event.relation() else { break };
        let parent = state.rooms.event_by_id(room, parent).await.map_err(error_map::rooms)?;
        match parent {
            Some(parent) => event = parent,
            None => break,
        }
    }
    Ok(thread == MAIN)
}
