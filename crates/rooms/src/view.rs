//! An event as one viewer gets it: the shared client form, with `unsigned` made for the viewer.

use std::collections::BTreeSet;
use std::sync::Arc;

use ::event::Json;
use serde_json::{Map, Value, json};
use store::{DeviceId, UserId};

use crate::event::Event;
use crate::room::Room;
use crate::visibility::Viewer;
use crate::{Result, Rooms, flags};

/// For whom events are rendered, and how.
#[derive(Clone, Debug)]
pub struct Rendering<'a> {
    /// The viewer.
    pub user: &'a UserId,
    /// The viewer's device.
    pub device: Option<&'a DeviceId>,
    /// Users whose events count for no bundle.
    pub ignored: &'a BTreeSet<String>,
    /// Whether `room_id` is included (everywhere but in sync).
    pub with_room_id: bool,
    /// Whether bundled aggregations are included.
    pub bundled: bool,
}

impl Rooms {
    /// Renders events as the viewer gets them, in order.
    ///
    /// # Errors
    /// As the store says.
    pub async fn render(
        &self,
        room: &Room,
        events: &[Arc<Event>],
        viewer: &mut Viewer<'_>,
        rendering: &Rendering<'_>,
    ) -> Result<Vec<String>> {
        let mut bundles = match rendering.bundled {
            true => self.bundles(room, events, viewer, rendering).await?,
            false => Vec::new(),
        }
        .into_iter();
        let mut rendered = Vec::with_capacity(events.len());
        for event in events {
            let bundle = bundles.next().flatten();
            rendered.push(self.render_one(room, event, viewer, rendering, bundle).await?);
        }
        Ok(rendered)
    }

    /// Renders one event, with these aggregations bundled.
    pub(crate) async fn render_one(
        &self,
        room: &Room,
        event: &Arc<Event>,
        viewer: &mut Viewer<'_>,
        rendering: &Rendering<'_>,
        bundle: Option<Map<String, Value>>,
    ) -> Result<String> {
        let mut unsigned = Map::new();
        unsigned.insert("age".to_owned(), json!(self.clock.now_ms().saturating_sub(event.row.ts)));
        if let Some(transaction) = event.transaction_id(rendering.user, rendering.device) {
            unsigned.insert("transaction_id".to_owned(), json!(transaction));
        }
        unsigned.insert("membership".to_owned(), json!(viewer.membership_at(event).await?));
        self.add_replaced(room, event, &mut unsigned).await?;
        if event.has(flags::REDACTED)
            && let Some(redaction) = event.row.redacted_by
        {
            let redaction = self.event(room, redaction).await?;
            unsigned.insert("redacted_because".to_owned(), plain(&redaction, room)?);
        }
        if let Some(bundle) = bundle {
            unsigned.insert("m.relations".to_owned(), Value::Object(bundle));
        }
        Ok(assemble(event, rendering.with_room_id.then_some(room.id.as_str()), unsigned))
    }

    async fn add_replaced(&self, room: &Room, event: &Event, unsigned: &mut Map<String, Value>) -> Result<()> {
        let Some(replaced) = event.row.replaces else { return Ok(()) };
        let replaced = self.event(room, replaced).await?;
        unsigned.insert("prev_content".to_owned(), Json::Object(replaced.pdu.content.clone()).into());
        unsigned.insert("prev_sender".to_owned(), json!(replaced.pdu.sender));
        unsigned.insert("replaces_state".to_owned(), json!(replaced.id()));
        Ok(())
    }

    /// State events as `/state` gives them: with room id, without bundles.
    ///
    /// # Errors
    /// As the store says.
    pub fn render_state(&self, room: &Room, event: &Arc<Event>, with_room_id: bool) -> String {
        let mut unsigned = Map::new();
        unsigned.insert("age".to_owned(), json!(self.clock.now_ms().saturating_sub(event.row.ts)));
        assemble(event, with_room_id.then_some(room.id.as_str()), unsigned)
    }
}

/// An event without anything made for a viewer.
fn plain(event: &Arc<Event>, room: &Room) -> Result<Value> {
    let text = assemble(event, Some(&room.id), Map::new());
    serde_json::from_str(&text)
        .map_err(|error| crate::Error::Store(store::Error::Corrupt { table: "event_bytes", detail: error.to_string() }))
}

fn assemble(event: &Event, room_id: Option<&str>, unsigned: Map<String, Value>) -> String {
    let members = event.client_members();
    let unsigned = Value::Object(unsigned).to_string();
    let mut text = String::with_capacity(members.len() + unsigned.len() + 80);
    text.push('{');
    text.push_str(members);
    if let Some(room_id) = room_id {
        text.push_str(",\"room_id\":");
        text.push_str(&Value::String(room_id.to_owned()).to_string());
    }
    text.push_str(",\"unsigned\":");
    text.push_str(&unsigned);
    text.push('}');
    text
}
