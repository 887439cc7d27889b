//! Stripped state: what someone who is invited or knocks may see of a room (client-server API, stripped state).

use std::sync::Arc;

use ::event::Json;
use serde_json::json;

use crate::event::Event;
use crate::room::{Overlay, Room};
use crate::state::{MEMBER, Roots, TypeKey, type_key};
use crate::{Result, Rooms};

/// The state events, with an empty state key, of which stripped state consists.
const TYPES: &[&str] = &[
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
];

impl Rooms {
    /// Stripped state for the target of a membership event, that event included, as a JSON array.
    pub(crate) async fn stripped_state(&self, room: &Room, overlay: &Overlay, event: &Arc<Event>) -> Result<Vec<u8>> {
        let mut pairs: Vec<TypeKey> = TYPES.iter().map(|kind| type_key(kind, "")).collect();
        pairs.push(type_key(MEMBER, event.row.sender.as_str()));
        let state = event.state_before().unwrap_or(Roots::EMPTY);
        let state = self.state_map(room, Some(overlay), state, &pairs).await?;
        // Who knocks again, or changes the reason, is both sender and target: the state before holds the older event.
        let replaced = |other: &Event| other.pdu.kind == event.pdu.kind && other.pdu.state_key == event.pdu.state_key;
        let events: Vec<serde_json::Value> =
            state.0.values().filter(|other| !replaced(other)).chain([event]).map(strip).collect();
        Ok(serde_json::to_vec(&events).unwrap_or_default())
    }

    /// Stripped state of a room as it is now, for summaries.
    ///
    /// # Errors
    /// As the store says.
    pub async fn stripped_now(&self, room: &Room) -> Result<Vec<serde_json::Value>> {
        let pairs: Vec<TypeKey> = TYPES.iter().map(|kind| type_key(kind, "")).collect();
        let state = self.state_map(room, None, room.head().state, &pairs).await?;
        Ok(state.0.values().map(strip).collect())
    }
}

/// Only sender, type, state key and content.
fn strip(event: &Arc<Event>) -> serde_json::Value {
    json!({
        "sender": event.pdu.sender,
        "type": event.pdu.kind,
        "state_key": event.pdu.state_key,
        "content": serde_json::Value::from(Json::Object(event.pdu.content.clone())),
    })
}
