//! EDUs for other servers: typing, receipts, presence (server-server API, "EDUs"). They are volatile: what a
//! destination misses while it is away is out of date when it comes back.

use std::collections::BTreeSet;
use std::sync::Arc;

use event::{Json, Object};
use serde_json::json;
use store::tables::users::ReceiptRow;
use store::{RoomNum, StreamPosition, UserId};
use users::presence::PresenceState;

use super::Outbound;
use super::destination::EduKey;
use crate::Result;

/// Servers that are told of one user's presence at once.
const PRESENCE_SERVERS_MAX: usize = 500;

impl Outbound {
    /// Who of this server's users began or stopped to type in a room.
    pub(super) async fn tell_typing(self: &Arc<Self>, room: RoomNum) -> Result<()> {
        let mut now = self.users.typing_in(room);
        now.retain(|user| self.users.is_local(user));
        let changed: Vec<(UserId, bool)> = {
            let mut told = self.typing_told.lock();
            let before = told.remove(&room).unwrap_or_default();
            let changed = before.symmetric_difference(&now).map(|user| (user.clone(), now.contains(user))).collect();
            if !now.is_empty() {
                told.insert(room, now);
            }
            changed
        };
        if changed.is_empty() {
            return Ok(());
        }
        let Some(room) = self.rooms.room_by_num(room).await? else { return Ok(()) };
        for server in self.others_in(&room) {
            for (user, typing) in &changed {
                let content = json!({ "room_id": room.id, "user_id": user.as_str(), "typing": typing });
                self.queue_edu(&server, EduKey::Typing(room.num, user.clone()), edu("m.typing", content));
            }
        }
        Ok(())
    }

    /// A public receipt moved at `pos`.
    pub(super) async fn tell_receipt(
        self: &Arc<Self>,
        room: RoomNum,
        user: &UserId,
        pos: StreamPosition,
    ) -> Result<()> {
        let Some(room) = self.rooms.room_by_num(room).await? else { return Ok(()) };
        let servers = self.others_in(&room);
        if servers.is_empty() {
            return Ok(());
        }
        let receipts: Vec<ReceiptRow> = self.users.receipts_of(room.num, user).await?;
        for receipt in receipts.iter().filter(|row| row.receipt_type == "m.read" && row.pos >= pos) {
            let mut data = json!({ "ts": receipt.ts });
            if !receipt.thread.is_empty() {
                data["thread_id"] = json!(receipt.thread);
            }
            let content = json!({
                room.id.as_str(): { "m.read": { user.as_str(): { "data": data, "event_ids": [receipt.event_id] } } }
            });
            let key = EduKey::Receipt(room.num, user.clone(), receipt.thread.clone());
            for server in &servers {
                self.queue_edu(server, key.clone(), edu("m.receipt", content.clone()));
            }
        }
        Ok(())
    }

    /// A local user's presence changed.
    pub(super) async fn tell_presence(self: &Arc<Self>, user: &UserId) -> Result<()> {
        if !self.options.presence || !self.users.is_local(user) {
            return Ok(());
        }
        let Some(presence) = self.users.presence(user) else { return Ok(()) };
        let mut push = json!({ "user_id": user.as_str(), "presence": presence.state.as_str() });
        if presence.state != PresenceState::Offline {
            let ago = self.clock.now_ms().saturating_sub(presence.active_ms).max(0);
            push["last_active_ago"] = json!(ago);
            push["currently_active"] = json!(presence.currently_active);
        }
        if let Some(status) = &presence.status {
            push["status_msg"] = json!(status);
        }
        let push = Json::from(push);
        for server in self.servers_sharing_with(user).await?.into_iter().take(PRESENCE_SERVERS_MAX) {
            let Some(destination) = self.destination(&server) else { continue };
            destination.queue.lock().add_presence(user.clone(), push.clone());
            self.wake(&destination);
        }
        Ok(())
    }

    /// The other servers with a user in a room that this user is in.
    pub async fn servers_sharing_with(&self, user: &UserId) -> Result<BTreeSet<String>> {
        let mut servers = BTreeSet::new();
        for row in self.rooms.memberships(user).await?.into_iter().filter(|row| row.membership == "join") {
            if let Some(room) = self.rooms.room_by_num(row.room).await? {
                servers.extend(self.others_in(&room));
            }
        }
        Ok(servers)
    }
}

/// An EDU of this type.
pub(super) fn edu(kind: &str, content: serde_json::Value) -> Object {
    let edu = json!({ "edu_type": kind, "content": content });
    match Json::from(edu) {
        Json::Object(edu) => edu,
        _ => Object::new(),
    }
}
