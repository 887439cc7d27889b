//! A stored event as the engine holds it in memory, and its client form.

use std::sync::{Arc, OnceLock};

use event::{Json, MAX_ID_BYTES, Pdu, Rules, STICKY};
use ruma_common::OwnedEventId;
use store::tables::rooms::EventRow;
use store::{EventNum, StreamPosition};

use crate::flags;
use crate::room::placed;
use crate::state::Roots;

/// An event with its place, graph and flags. Immutable: a change of flags or bytes makes a new one.
#[derive(Debug)]
pub struct Event {
    /// Place, graph and flags.
    pub row: EventRow,
    /// The event itself, pruned if it was redacted.
    pub pdu: Arc<Pdu>,
    client: OnceLock<Box<str>>,
}

impl Event {
    /// An event from its two stored halves.
    pub fn new(row: EventRow, pdu: Arc<Pdu>) -> Self {
        Self { row, pdu, client: OnceLock::new() }
    }

    /// The event, now that its batch's first entry stands at `first`: a placeholder becomes the position.
    pub(crate) fn at(self: Arc<Self>, first: StreamPosition) -> Arc<Self> {
        match self.row.pos {
            Some(placeholder) if placeholder.0 < 0 => {
                let row = EventRow { pos: Some(placed(placeholder, first)), ..self.row.clone() };
                Arc::new(Self::new(row, Arc::clone(&self.pdu)))
            }
            _ => self,
        }
    }

    /// Its number.
    pub fn num(&self) -> EventNum {
        self.row.event
    }

    /// Its id.
    pub fn id(&self) -> &OwnedEventId {
        &self.pdu.event_id
    }

    /// Whether any bit of `bits` is set.
    pub fn has(&self, bits: i64) -> bool {
        self.row.flags & bits != 0
    }

    /// Whether it was rejected by the auth rules.
    pub fn rejected(&self) -> bool {
        self.has(flags::REJECTED)
    }

    /// Whether it has (or may get) a place in a client's timeline.
    pub fn shown(&self) -> bool {
        !self.has(flags::HIDDEN)
    }

    /// When it became visible; zero for history from before.
    pub fn pos(&self) -> StreamPosition {
        self.row.pos.unwrap_or(StreamPosition::ZERO)
    }

    /// State before the event. `None` for outliers.
    pub fn state_before(&self) -> Option<Roots> {
        self.row.state_before.as_deref().and_then(Roots::decode)
    }

    /// State after the event. `None` for outliers.
    pub fn state_after(&self) -> Option<Roots> {
        state_after(&self.row)
    }

    /// The relation in the event's content: (relation type, parent event id), where both are well formed.
    pub fn relation(&self) -> Option<(&str, &str)> {
        relation(&self.pdu)
    }

    /// The members of the event's client form without `room_id` and `unsigned`, without the braces. Made once.
    pub fn client_members(&self) -> &str {
        self.client.get_or_init(|| client_members(&self.pdu))
    }

    /// The transaction id under which this device sent it, if it did.
    pub fn transaction_id(&self, user: &store::UserId, device: Option<&store::DeviceId>) -> Option<&str> {
        if self.row.sender != *user {
            return None;
        }
        let (sent_by, transaction) = self.row.transaction.as_deref()?.split_once('\n')?;
        (device.map(store::DeviceId::as_str) == Some(sent_by)).then_some(transaction)
    }

    /// The id under which its sender had scheduled it, if it was sent with a delay (MSC4140).
    pub fn delay_id(&self, user: &store::UserId) -> Option<&str> {
        let id = self.row.transaction.as_deref().filter(|transaction| !transaction.contains('\n'))?;
        (self.row.sender == *user).then_some(id)
    }
}

/// State after an event, by its row. `None` for outliers.
pub(crate) fn state_after(row: &EventRow) -> Option<Roots> {
    row.state_after.as_deref().or(row.state_before.as_deref()).and_then(Roots::decode)
}

/// The relation in an event's content: (relation type, parent event id), where both are well formed. Longer ids than events
/// can have name no event, and no index takes such texts.
pub(crate) fn relation(pdu: &Pdu) -> Option<(&str, &str)> {
    let relates_to = pdu.content.get("m.relates_to")?.as_object()?;
    let text = |name: &str| relates_to.get(name)?.as_str().filter(|text| text.len() <= MAX_ID_BYTES);
    Some((text("rel_type")?, text("event_id")?))
}

fn client_members(pdu: &Pdu) -> Box<str> {
    let mut text = String::with_capacity(pdu.bytes.len());
    text.push_str("\"content\":");
    text.push_str(&to_text(&Json::Object(client_content(pdu))));
    push_member(&mut text, "event_id", pdu.event_id.as_str());
    text.push_str(&format!(",\"origin_server_ts\":{}", pdu.origin_server_ts));
    if let Some(sticky_ms) = pdu.sticky_ms {
        text.push_str(&format!(",\"{STICKY}\":{{\"duration_ms\":{sticky_ms}}}"));
    }
    if let Some(redacts) = &pdu.redacts {
        push_member(&mut text, "redacts", redacts.as_str());
    }
    push_member(&mut text, "sender", &pdu.sender);
    if let Some(state_key) = &pdu.state_key {
        push_member(&mut text, "state_key", state_key);
    }
    push_member(&mut text, "type", &pdu.kind);
    text.into_boxed_str()
}

/// Redactions serve their target at both places in every room version (client-server API, redaction events).
fn client_content(pdu: &Pdu) -> event::Object {
    let mut content = pdu.content.clone();
    if let (Some(redacts), true) = (&pdu.redacts, pdu.kind == "m.room.redaction") {
        // Where a peer's content names another event, that is not the one that is redacted.
        content.insert("redacts".to_owned(), Json::String(redacts.to_string()));
    }
    content
}

/// Adds a member to an object that already has one.
pub(crate) fn push_member(text: &mut String, name: &str, value: &str) {
    text.push_str(",\"");
    text.push_str(name);
    text.push_str("\":");
    // Strings always serialize.
    text.push_str(&serde_json::to_string(value).unwrap_or_else(|_| "\"\"".to_owned()));
}

fn to_text(json: &Json) -> String {
    // Every map of `Json` has string keys, so serialization cannot fail.
    serde_json::to_string(json).unwrap_or_else(|_| "null".to_owned())
}

/// The rules of a room version that the engine itself stored.
///
/// # Errors
/// [`store::Error::Corrupt`] if this build does not know the version.
pub fn stored_rules(version: &str) -> Result<&'static Rules, store::Error> {
    Rules::of(version)
        .ok_or_else(|| store::Error::Corrupt { table: "rooms", detail: format!("unknown room version {version:?}") })
}
