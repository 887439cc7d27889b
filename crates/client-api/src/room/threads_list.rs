//! `GET /_matrix/client/v1/rooms/{roomId}/threads` (`data/api/client-server/threads_list.yaml`).

use std::sync::Arc;

use axum::routing::get;
use axum::{Router, extract};
use endpoint::{Error, Path, Query, Requester};
use rooms::timeline::Token;
use rooms::{Event, Room};
use serde::Deserialize;

use super::access::{Reader, readable};
use super::message_pagination::limit;
use crate::json_text::JsonText;
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client_v1("/rooms/{room_id}/threads", get(threads))
}

#[derive(Debug, Deserialize)]
struct Parameters {
    include: Option<Include>,
    limit: Option<u64>,
    from: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Include {
    All,
    Participated,
}

async fn threads(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Path(room_id): Path<String>,
    Query(parameters): Query<Parameters>,
) -> Result<JsonText, Error> {
    let readable = readable(&state.rooms, &room_id, &requester.user_id).await?;
    let room = &readable.room;
    let mut reader = Reader::new(&state, room, &requester).await?;
    let bad = |from: &str| error_map::rooms(rooms::Error::BadToken(from.to_owned()));
    let before = match parameters.from.as_deref().filter(|from| !from.is_empty()) {
        Some(from) => match Token::parse(from).map_err(error_map::rooms)? {
            Token::Position(pos) => Some(pos),
            Token::Place(_) => return Err(bad(from)),
        },
        None => None,
    };
    let only_of = (parameters.include == Some(Include::Participated)).then_some(&requester.user_id);
    let found = state.rooms.threads(room, only_of, before, limit(parameters.limit), &mut reader.viewer).await;
    let (roots, next) = found.map_err(error_map::rooms)?;
    let roots = roots.into_iter().map(|root| veiled(room, &reader, root)).collect::<Result<Vec<_>, _>>()?;
    Ok(JsonText::object()
        .list("chunk", &reader.render(&roots).await?)
        .optional("next_batch", next.map(|next| format!("s{next}"))))
}

/// The root of an ignored user is served as if it were redacted, so that the thread can still be listed (CR30).
fn veiled(room: &Room, reader: &Reader<'_>, root: Arc<Event>) -> Result<Arc<Event>, Error> {
    if !reader.ignored().contains(root.row.sender.as_str()) {
        return Ok(root);
    }
    let pruned = root.pdu.redacted(room.rules).map_err(Error::internal)?;
    Ok(Arc::new(Event::new(root.row.clone(), Arc::new(pruned))))
}
