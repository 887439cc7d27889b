//! The rooms of a space (client-server API, "Spaces"), of which hierarchies are made.

use std::sync::Arc;

use event::Json;
use serde_json::{Value, json};

use crate::event::Event;
use crate::room::Room;
use crate::{Result, Rooms};

/// Characters of an `order`.
const ORDER_CHARS_MAX: usize = 50;

impl Rooms {
    /// The events that name the children of a space, in their order: those with an `order`, then by age, then by id.
    ///
    /// # Errors
    /// As the store says.
    pub async fn space_children(&self, room: &Room, suggested_only: bool) -> Result<Vec<Arc<Event>>> {
        let nums = self.tree_nums(room, room.head().state.rest).await?;
        let mut events = self.events(room, None, &nums).await?;
        events.retain(|event| event.pdu.kind == "m.space.child" && is_child(event, suggested_only));
        events.sort_by_cached_key(|event| {
            let order = order(event).map(str::to_owned);
            (order.is_none(), order, event.row.ts, event.pdu.state_key.clone())
        });
        Ok(events)
    }
}

/// The events as a hierarchy shows them (`children_state`).
pub fn children_state(children: &[Arc<Event>]) -> Value {
    children.iter().map(stripped).collect()
}

/// Without servers to ask, it is no child (client-server API, `m.space.child`).
fn is_child(event: &Event, suggested_only: bool) -> bool {
    let content = &event.pdu.content;
    let via = content.get("via").and_then(Json::as_array).is_some_and(|via| !via.is_empty());
    let suggested = content.get("suggested").and_then(Json::as_bool) == Some(true);
    via && (suggested || !suggested_only)
}

fn order(event: &Event) -> Option<&str> {
    let order = event.pdu.content_str("order")?;
    let valid = order.len() <= ORDER_CHARS_MAX && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
    valid.then_some(order)
}

fn stripped(event: &Arc<Event>) -> Value {
    json!({
        "type": event.pdu.kind,
        "state_key": event.pdu.state_key,
        "content": Value::from(Json::Object(event.pdu.content.clone())),
        "sender": event.pdu.sender,
        "origin_server_ts": event.row.ts,
    })
}
