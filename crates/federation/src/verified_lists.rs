//! Answers with lists of events, as large as a room's state: read, verified and taken apart as they come. Only what is
//! under way is in memory besides the events themselves.

use std::collections::VecDeque;

use bytes::Bytes;
use event::{EdgeLimits, Rules, Unverified, Verified, VerifyError};
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use http_body_util::BodyExt;
use rooms::remote::left_out::{EVENTS_MAX, LeftOut};
use ruma_common::RoomId;

use crate::elements::{Broken, Element, Elements};
use crate::key_ring::KeyRing;
use crate::transport::{AnswerBody, TransportError};
use crate::verify::{self, CHUNKS_AT_ONCE, EVENTS_PER_CHUNK};
use crate::{Error, Result};

/// What is expected of an answer.
#[derive(Clone, Copy)]
pub(crate) struct Expected<'a> {
    /// Who answers.
    pub server: &'a str,
    /// The room of the events.
    pub room_id: &'a RoomId,
    /// The rules of its version.
    pub rules: &'static Rules,
    /// The names of the lists.
    pub lists: &'static [&'static str],
    /// Most bytes of the answer.
    pub bytes_max: usize,
}

impl Expected<'_> {
    fn broken(&self, Broken: Broken) -> Error {
        Error::Malformed { server: self.server.to_owned(), reason: Broken.to_string() }
    }

    fn unreachable(&self, error: TransportError) -> Error {
        Error::Unreachable { server: self.server.to_owned(), error }
    }
}

/// An answer that was read.
pub(crate) struct Lists {
    /// For each list its events that verify and are of the room, in their order.
    pub events: Vec<Vec<Verified>>,
    /// Events of which a key could not be had, and where they stand.
    pub unverified: Vec<(usize, Bytes)>,
    /// The answer with empty lists.
    pub rest: Vec<u8>,
}

impl Lists {
    /// The events that could not be verified, for a room to keep aside. The first list is that of its state.
    pub fn left_out(&mut self, rules: &Rules) -> Vec<LeftOut> {
        let unverified = std::mem::take(&mut self.unverified).into_iter();
        unverified.filter_map(|(list, json)| left_out(rules, json, list == 0)).collect()
    }
}

/// An event that could not be verified.
pub(crate) fn left_out(rules: &Rules, json: Bytes, in_state: bool) -> Option<LeftOut> {
    let event = Unverified::read(rules, json.clone(), EdgeLimits::Enforced).ok()?;
    Some(LeftOut { event_id: event.pdu().event_id.clone(), in_state, json })
}

/// Reads an answer to its end.
///
/// # Errors
/// [`Error::Malformed`] and [`Error::Unreachable`]; as the store says. An event that does not verify is left out; if that
/// is for want of a key, it is among [`Lists::unverified`].
pub(crate) async fn read(keys: &KeyRing, expected: Expected<'_>, body: AnswerBody) -> Result<Lists> {
    let mut reader = Reader {
        body,
        expected,
        elements: Elements::new(expected.lists),
        found: Vec::new(),
        ready: VecDeque::new(),
        bytes: 0,
        ended: false,
    };
    let mut events: Vec<Vec<Verified>> = expected.lists.iter().map(|_| Vec::new()).collect();
    let mut unverified = Vec::new();
    let mut checking = FuturesOrdered::new();
    loop {
        tokio::select! {
            chunk = reader.next(), if !reader.done() && checking.len() < CHUNKS_AT_ONCE => {
                if let Some((list, chunk)) = chunk? {
                    let checked = verify::chunk(keys, expected.rules, chunk.clone(), EdgeLimits::Enforced);
                    checking.push_back(async move { (list, chunk, checked.await) });
                }
            }
            Some((list, texts, checked)) = checking.next(), if !checking.is_empty() => {
                let checked = checked?;
                let wanting = texts.into_iter().zip(&checked).filter(|(_, checked)| lacks_key(checked));
                let room = EVENTS_MAX.saturating_sub(unverified.len());
                unverified.extend(wanting.map(|(text, _)| (list, text)).take(room));
                if let Some(events) = events.get_mut(list) {
                    events.extend(kept(&expected, checked));
                }
            }
            else => break,
        }
    }
    let rest = reader.elements.finish().map_err(|broken| expected.broken(broken))?;
    Ok(Lists { events, unverified, rest })
}

/// Whether an event may verify when keys can be had that cannot be had now.
pub(crate) fn lacks_key(checked: &std::result::Result<Verified, VerifyError>) -> bool {
    matches!(checked, Err(VerifyError::NoUsableKey { .. }))
}

/// Those that verify and are of the room.
pub(crate) fn kept<'a>(expected: &'a Expected<'_>, chunk: verify::Chunk) -> impl Iterator<Item = Verified> + 'a {
    let server = expected.server;
    let verified = chunk.into_iter().filter_map(move |event| {
        event.inspect_err(|error| tracing::info!(server, %error, "an event of a room is dropped")).ok()
    });
    verified.filter(|event| event.pdu().room_id == expected.room_id)
}

/// Takes chunks of events out of a body.
struct Reader<'a> {
    body: AnswerBody,
    expected: Expected<'a>,
    elements: Elements,
    found: Vec<Element>,
    ready: VecDeque<(usize, Vec<Bytes>)>,
    bytes: usize,
    ended: bool,
}

impl Reader<'_> {
    fn done(&self) -> bool {
        self.ended && self.ready.is_empty() && self.found.is_empty()
    }

    /// The next chunk, of one list; `None` once nothing is left. Nothing is lost if the future is dropped.
    async fn next(&mut self) -> Result<Option<(usize, Vec<Bytes>)>> {
        while self.ready.is_empty() && !self.ended {
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.map_err(|error| self.expected.unreachable(error))?;
                    let Ok(data) = frame.into_data() else { continue };
                    self.bytes += data.len();
                    if self.bytes > self.expected.bytes_max {
                        return Err(self.expected.unreachable(TransportError::TooLarge));
                    }
                    self.elements.feed(&data, &mut self.found).map_err(|broken| self.expected.broken(broken))?;
                }
                None => self.ended = true,
            }
            self.cut();
        }
        Ok(self.ready.pop_front())
    }

    /// Makes chunks of what was found: full ones, and at the end of a list or of the answer what is left.
    fn cut(&mut self) {
        while let Some(first) = self.found.first() {
            let list = first.list;
            let same = self.found.iter().take(EVENTS_PER_CHUNK).take_while(|element| element.list == list).count();
            if same < EVENTS_PER_CHUNK && same == self.found.len() && !self.ended {
                return;
            }
            let chunk = self.found.drain(..same).map(|element| element.json).collect();
            self.ready.push_back((list, chunk));
        }
    }
}
