//! Answers that hold many events: written piece by piece, so that the state of a large room is never in memory as a whole.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use rooms::Room;
use store::EventNum;

use crate::Federation;

/// Events that are read at a time.
const CHUNK: usize = 100;

/// A JSON object some of whose members are lists of events.
pub(super) struct EventsBody {
    federation: Arc<Federation>,
    room: Arc<Room>,
    pieces: Vec<Piece>,
}

/// A part of the text.
enum Piece {
    Text(String),
    /// Events of a list; commas stand between them, and before the first unless the list begins with it.
    Events {
        nums: Vec<EventNum>,
        first: bool,
    },
}

impl EventsBody {
    /// An object without members.
    pub fn new(federation: &Arc<Federation>, room: &Arc<Room>) -> Self {
        let (federation, room) = (Arc::clone(federation), Arc::clone(room));
        Self { federation, room, pieces: vec![Piece::Text("{".to_owned())] }
    }

    /// Adds a member that is a list of events.
    pub fn events(mut self, name: &str, nums: Vec<EventNum>) -> Self {
        self.name(name);
        self.pieces.push(Piece::Text("[".to_owned()));
        for (place, chunk) in nums.chunks(CHUNK).enumerate() {
            self.pieces.push(Piece::Events { nums: chunk.to_vec(), first: place == 0 });
        }
        self.pieces.push(Piece::Text("]".to_owned()));
        self
    }

    /// Adds another member, whose value is JSON.
    pub fn member(mut self, name: &str, value: &str) -> Self {
        self.name(name);
        self.pieces.push(Piece::Text(value.to_owned()));
        self
    }

    fn name(&mut self, name: &str) {
        let comma = if self.pieces.len() > 1 { "," } else { "" };
        self.pieces.push(Piece::Text(format!("{comma}\"{name}\":")));
    }

    /// The answer, with text around the object.
    pub fn respond_within(mut self, before: &str, after: &str) -> Response {
        self.pieces.insert(0, Piece::Text(before.to_owned()));
        self.pieces.push(Piece::Text(format!("}}{after}")));
        let Self { federation, room, pieces } = self;
        let rest = pieces.into_iter();
        let body = stream::unfold(Some((federation, room, rest)), |state| async move {
            let (federation, room, mut rest) = state?;
            match rest.next()? {
                Piece::Text(text) => Some((Ok(Bytes::from(text)), Some((federation, room, rest)))),
                Piece::Events { nums, first } => match federation.rooms.events(&room, None, &nums).await {
                    Ok(events) => {
                        let events = events.iter().map(|event| event.pdu.bytes.clone());
                        Some((Ok(joined(events, first)), Some((federation, room, rest))))
                    }
                    Err(error) => {
                        tracing::warn!(%error, "an answer with events broke off");
                        Some((Err(std::io::Error::other("the events cannot be read")), None))
                    }
                },
            }
        });
        ([(CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response()
    }

    /// The answer.
    pub fn respond(self) -> Response {
        self.respond_within("", "")
    }
}

/// Events with commas between them.
pub(super) fn joined(events: impl IntoIterator<Item = Bytes>, mut first: bool) -> Bytes {
    let mut text = Vec::new();
    for event in events {
        if !first {
            text.push(b',');
        }
        first = false;
        text.extend_from_slice(&event);
    }
    Bytes::from(text)
}
