//! `POST /_matrix/client/v3/rooms/{roomId}/read_markers`
//! (<https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidread_markers>; behaviour CR32).

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, OptionalBody, Path, RateClass, Requester, error};
use serde::Deserialize;
use serde_json::Value;
use users::receipts::ReceiptType;

use super::receipts;
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/rooms/{room_id}/read_markers", post(read_markers))
}

#[derive(Debug, Default, Deserialize)]
struct Body {
    #[serde(rename = "m.fully_read")]
    fully_read: Option<String>,
    #[serde(rename = "m.read")]
    read: Option<String>,
    #[serde(rename = "m.read.private")]
    read_private: Option<String>,
}

async fn read_markers(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path(room_id): Path<String>,
    OptionalBody(body): OptionalBody<Body>,
) -> Result<Json<Value>, Error> {
    state.door.limit(RateClass::Messages, &requester)?;
    let room = state.rooms.joined_room(&room_id, &requester.user_id).await.map_err(error_map::rooms)?;
    let markers = [
        (ReceiptType::FullyRead, body.fully_read),
        (ReceiptType::Read, body.read),
        (ReceiptType::ReadPrivate, body.read_private),
    ];
    // All are looked up before the first is moved.
    let mut targets = Vec::new();
    for (kind, event_id) in markers {
        if let Some(event_id) = event_id {
            targets.push((kind, receipts::target(&state, &room, "", &event_id).await?));
        }
    }
    for (kind, target) in targets {
        receipts::set(&state, &room, &requester.user_id, kind, "", &target).await?;
    }
    Ok(error::empty())
}
