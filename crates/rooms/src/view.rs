//! An event as one viewer gets it: the shared client form, with `unsigned` made for the viewer.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};
use store::{DeviceId, UserId};

use crate::erased::pruned;
use crate::event::{Event, push_member};
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
        let mut unsigned = self.unsigned(event, rendering);
        push_member(&mut unsigned, "membership", &viewer.membership_at(event).await?);
        self.add_replaced(room, event, &mut unsigned).await?;
        if let Some(bundle) = bundle {
            unsigned.push_str(",\"m.relations\":");
            unsigned.push_str(&Value::Object(bundle).to_string());
        }
        unsigned.push('}');
        Ok(assemble(event, rendering.with_room_id.then_some(room.id.as_str()), &unsigned))
    }

    /// Renders state events beside a timeline, in order: without bundles, and without the viewer's membership at each of
    /// them, for which the state at each would have to be looked up.
    ///
    /// # Errors
    /// As the store says.
    pub async fn render_states(
        &self,
        room: &Room,
        events: &[Arc<Event>],
        rendering: &Rendering<'_>,
    ) -> Result<Vec<String>> {
        let mut rendered = Vec::with_capacity(events.len());
        for event in events {
            let mut unsigned = self.unsigned(event, rendering);
            self.add_replaced(room, event, &mut unsigned).await?;
            unsigned.push('}');
            rendered.push(assemble(event, rendering.with_room_id.then_some(room.id.as_str()), &unsigned));
        }
        Ok(rendered)
    }

    /// The beginning of `unsigned`, as JSON text.
    fn unsigned(&self, event: &Event, rendering: &Rendering<'_>) -> String {
        let mut unsigned = self.aged(event);
        if let Some(transaction) = event.transaction_id(rendering.user, rendering.device) {
            push_member(&mut unsigned, "transaction_id", transaction);
        }
        if let Some(ttl_ms) = crate::sticky::remaining_ms(event, self.clock.now_ms()) {
            unsigned.push_str(&format!(",\"msc4354_sticky_duration_ttl_ms\":{ttl_ms}"));
        }
        if let Some(delay_id) = event.delay_id(rendering.user) {
            push_member(&mut unsigned, "delay_id", delay_id);
            push_member(&mut unsigned, "org.matrix.msc4140.delay_id", delay_id);
        }
        unsigned
    }

    fn aged(&self, event: &Event) -> String {
        format!("{{\"age\":{}", self.clock.now_ms().saturating_sub(event.row.ts))
    }

    /// Adds what a state event replaced, and what redacted an event.
    async fn add_replaced(&self, room: &Room, event: &Event, unsigned: &mut String) -> Result<()> {
        if let Some(replaced) = event.row.replaces {
            let mut replaced = self.event(room, replaced).await?;
            if self.erased_since(&replaced.pdu.sender).await?.is_some() {
                replaced = pruned(room, &replaced)?;
            }
            // Every map of `Json` has string keys, so serialization cannot fail.
            let content = serde_json::to_string(&replaced.pdu.content).unwrap_or_else(|_| "{}".to_owned());
            unsigned.push_str(",\"prev_content\":");
            unsigned.push_str(&content);
            push_member(unsigned, "prev_sender", &replaced.pdu.sender);
            push_member(unsigned, "replaces_state", replaced.id().as_str());
        }
        if event.has(flags::REDACTED)
            && let Some(redaction) = event.row.redacted_by
        {
            let redaction = self.event(room, redaction).await?;
            unsigned.push_str(",\"redacted_because\":");
            unsigned.push_str(&assemble(&redaction, Some(&room.id), "{}"));
        }
        Ok(())
    }

    /// State events as `/state` gives them: with room id, without bundles.
    ///
    /// # Errors
    /// As the store says.
    pub fn render_state(&self, room: &Room, event: &Arc<Event>, with_room_id: bool) -> String {
        let mut unsigned = self.aged(event);
        unsigned.push('}');
        assemble(event, with_room_id.then_some(room.id.as_str()), &unsigned)
    }
}

fn assemble(event: &Event, room_id: Option<&str>, unsigned: &str) -> String {
    let members = event.client_members();
    let mut text = String::with_capacity(members.len() + unsigned.len() + 80);
    text.push('{');
    text.push_str(members);
    if let Some(room_id) = room_id {
        push_member(&mut text, "room_id", room_id);
    }
    text.push_str(",\"unsigned\":");
    text.push_str(unsigned);
    text.push('}');
    text
}
