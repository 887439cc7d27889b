//! From the stream into the queues: which change is for which servers.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rooms::{Event, Room, flags};
use store::inbox::{Entries, ticks};
use store::{Inbox, RoomNum, StreamEntry, StreamKind, StreamPosition, UserId};
use users::volatile::{VolatileChange, VolatileFollower};

use super::Outbound;
use crate::{Error, Result};

/// How often the positions are stored, at most.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// How often a node looks whether it is to send to other servers than before.
const SHARE_EVERY: Duration = Duration::from_secs(2);
/// How often others are told of changes of presence, at most: each destination once.
const PRESENCE_EVERY: Duration = Duration::from_secs(5);
/// Users of whose presence others are told at a time; further ones wait for the next time.
const PRESENCE_USERS_MAX: usize = 200;
/// Between two tries while the store is away.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Changes {
    typing: BTreeSet<RoomNum>,
    presence: BTreeSet<UserId>,
}

/// What changed of typing and presence and is not yet dispatched.
pub(super) struct Fleeting {
    changes: Mutex<Changes>,
    /// What is told whenever something changes.
    inbox: Arc<Inbox>,
}

impl Fleeting {
    pub fn new(inbox: Arc<Inbox>) -> Self {
        Self { changes: Mutex::default(), inbox }
    }

    /// All that waits.
    fn take(&self) -> Changes {
        std::mem::take(&mut *self.changes.lock())
    }
}

impl VolatileFollower for Fleeting {
    fn changed(&self, _number: i64, change: VolatileChange<'_>) {
        let mut changes = self.changes.lock();
        match change {
            VolatileChange::Typing(room) => drop(changes.typing.insert(room)),
            VolatileChange::Presence(user) => drop(changes.presence.insert(user.clone())),
        }
        drop(changes);
        self.inbox.filled.notify_one();
    }
}

/// Kinds of changes that other servers may have to learn.
pub(super) fn is_told(kind: StreamKind) -> bool {
    matches!(kind, StreamKind::Event | StreamKind::Receipt | StreamKind::ToDevice | StreamKind::DeviceList)
}

impl Outbound {
    /// Follows the stream for ever. It waits while the store is away, and what cannot be told is passed over, so that one
    /// broken room does not silence the others.
    pub(super) async fn dispatch(self: &Arc<Self>) -> Infallible {
        while let Err(error) = self.shards.share(self).await {
            tracing::warn!(%error, "it is not known which servers are this node's to send to");
            tokio::time::sleep(PAUSE).await;
        }
        let [mut keep, mut tell, mut share] = [KEEP_EVERY, PRESENCE_EVERY, SHARE_EVERY].map(ticks);
        let mut changed = BTreeSet::new();
        loop {
            if let Err(error) = self.read_stream().await {
                tracing::warn!(%error, "the stream cannot be read for other servers");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            loop {
                let (entries, overflow) = self.inbox.take();
                self.dispatch_all(entries).await;
                let Changes { typing, presence } = self.fleeting.take();
                self.tell_all_typing(typing).await;
                changed.extend(presence);
                if overflow {
                    break;
                }
                tokio::select! {
                    () = self.inbox.filled.notified() => {}
                    _ = tell.tick() => self.tell_some_presence(&mut changed).await,
                    _ = share.tick() => match self.shards.share(self).await {
                        Ok(false) => {}
                        // What their last owner left is read from the stream.
                        Ok(true) => break,
                        Err(error) => {
                            tracing::warn!(%error, "it is not known which servers are this node's to send to");
                        }
                    },
                    _ = keep.tick() => {
                        if let Err(error) = self.shards.keep_all(self.as_ref()).await {
                            tracing::warn!(%error, "how far other servers were told cannot be stored");
                        }
                    }
                }
            }
        }
    }

    /// Dispatches changes, one after the other.
    async fn dispatch_all(self: &Arc<Self>, entries: Entries) {
        for (pos, entry) in entries {
            if self.shards.position().is_some_and(|position| pos > position) {
                self.dispatch_surely(pos, &entry).await;
                self.shards.passed(pos);
            }
        }
    }

    /// Dispatches one change: again and again while the store is away, not at all if it cannot be told.
    async fn dispatch_surely(self: &Arc<Self>, pos: StreamPosition, entry: &StreamEntry) {
        while let Err(error) = self.dispatch_entry(pos, entry).await {
            if !will_pass(&error) {
                tracing::error!(%error, pos = pos.0, "a change cannot be told to other servers");
                return;
            }
            tracing::warn!(%error, "other servers are not told while the store is away");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Tells who types; what fails is not worth a second try.
    async fn tell_all_typing(self: &Arc<Self>, rooms: BTreeSet<RoomNum>) {
        for room in rooms {
            if let Err(error) = self.tell_typing(room).await {
                tracing::warn!(%error, "other servers are not told who types");
            }
        }
    }

    /// Tells of as many changes of presence as one time allows.
    async fn tell_some_presence(self: &Arc<Self>, changed: &mut BTreeSet<UserId>) {
        for _ in 0..PRESENCE_USERS_MAX {
            let Some(user) = changed.pop_first() else { return };
            if let Err(error) = self.tell_presence(&user).await {
                tracing::warn!(%error, "other servers are not told of a user's presence");
            }
        }
    }

    /// Dispatches what the stream holds that is not dispatched, up to its end.
    async fn read_stream(self: &Arc<Self>) -> Result<()> {
        while let Some(position) = self.shards.position() {
            let Some((entries, last)) = self.inbox.read(&self.store, position).await? else { break };
            self.dispatch_all(entries).await;
            self.shards.passed(last);
        }
        Ok(())
    }

    async fn dispatch_entry(self: &Arc<Self>, pos: StreamPosition, entry: &StreamEntry) -> Result<()> {
        match (entry.kind, entry.room, &entry.user, entry.number) {
            (StreamKind::Event, Some(room), target, Some(number)) => {
                self.dispatch_event(room, number, target.is_some(), pos).await
            }
            (StreamKind::ToDevice, _, Some(user), _) if !self.users.is_local(user) => {
                if let Some(destination) = self.destination(user.server_name()) {
                    destination.queue.lock().stored_edus = true;
                    self.wake(&destination);
                }
                Ok(())
            }
            (StreamKind::Receipt, Some(room), Some(user), _) if self.users.is_local(user) => {
                self.tell_receipt(room, user, pos).await
            }
            (StreamKind::DeviceList, _, Some(user), _) if self.users.is_local(user) => {
                self.tell_device_list(user, pos).await
            }
            _ => Ok(()),
        }
    }

    async fn dispatch_event(
        self: &Arc<Self>,
        room: RoomNum,
        number: i64,
        is_membership: bool,
        pos: StreamPosition,
    ) -> Result<()> {
        let Some(room) = self.rooms.room_by_num(room).await? else { return Ok(()) };
        if !self.may_have_recipients(&room, is_membership) {
            return Ok(());
        }
        let event = self.rooms.event(&room, store::EventNum(number)).await?;
        if is_membership && self.rooms.may_have_sticky() {
            self.tell_newcomer(&room, &event, pos).await?;
        }
        if !self.is_ours(&event) {
            return Ok(());
        }
        let servers = self.recipients(&room, &event, pos).await?;
        if is_membership && let Some(user) = self.has_joined(&room, &event).await? {
            self.introduce_devices(&user, &servers, pos).await?;
        }
        for server in servers {
            if !self.shards.is_due(&server, pos) {
                continue;
            }
            let Some(destination) = self.destination(&server) else { continue };
            destination.queue.lock().add_event(pos, Arc::clone(&event));
            self.wake(&destination);
        }
        Ok(())
    }

    /// Sends the sticky events of our users to the server of somebody who has just joined: it may be new in the room, and
    /// has no other way to learn of them (MSC4354). One that was there already takes each once.
    async fn tell_newcomer(self: &Arc<Self>, room: &Arc<Room>, event: &Event, pos: StreamPosition) -> Result<()> {
        let Some(server) = event.pdu.state_key.as_deref().and_then(event::ids::user_server) else { return Ok(()) };
        let has_joined = event.shown() && event.pdu.membership() == Some("join");
        if !has_joined || server == self.rooms.server_name() || !self.shards.is_due(server, pos) {
            return Ok(());
        }
        let was_there = match event.row.replaces {
            Some(before) => self.rooms.event(room, before).await?.pdu.membership() == Some("join"),
            None => false,
        };
        if was_there {
            return Ok(());
        }
        let sticky = self.rooms.own_sticky_events(room).await?;
        let Some(destination) = self.destination(server).filter(|_| !sticky.is_empty()) else { return Ok(()) };
        for (_, event) in sticky {
            destination.queue.lock().add_event(pos, event);
        }
        self.wake(&destination);
        Ok(())
    }

    /// The local user who was not in the room and is by this event.
    async fn has_joined(&self, room: &Arc<Room>, event: &Event) -> Result<Option<UserId>> {
        let user = event.pdu.state_key.as_deref().map(UserId::from).filter(|user| self.users.is_local(user));
        if event.pdu.kind != "m.room.member" || event.pdu.membership() != Some("join") {
            return Ok(None);
        }
        let was_there = match event.row.replaces {
            Some(before) => self.rooms.event(room, before).await?.pdu.membership() == Some("join"),
            None => false,
        };
        Ok(user.filter(|_| !was_there))
    }

    /// Whether this server hands the event on: its own users' events, and those that came through its handshakes.
    pub(super) fn is_ours(&self, event: &Event) -> bool {
        event.shown() && (self.rooms.is_local(&event.row.sender) || event.has(flags::FORWARDED))
    }

    /// The servers that are to get an event: those in the room before or after it, but for this one and the sender's.
    pub(super) async fn recipients(&self, room: &Arc<Room>, event: &Event, pos: StreamPosition) -> Result<Vec<String>> {
        let mut servers = self.residents(room, pos).await?;
        // Whose invite or knock ends need not be in the room. An invite itself goes another way.
        if event.pdu.kind == "m.room.member"
            && let Some(target) = event.pdu.state_key.as_deref().and_then(event::ids::user_server)
            && event.row.sender.server_name() != target
            && matches!(event.pdu.membership(), Some("leave" | "ban"))
        {
            servers.insert(target.to_owned());
        }
        servers.remove(self.rooms.server_name());
        servers.remove(event.row.sender.server_name());
        Ok(servers.into_iter().collect())
    }
}

/// Whether an error lies in the store as a whole, which may be back in a moment, rather than in what was asked of it.
fn will_pass(error: &Error) -> bool {
    let (Error::Store(error) | Error::Rooms(rooms::Error::Store(error)) | Error::Users(users::Error::Store(error))) =
        error
    else {
        return false;
    };
    !matches!(error, store::Error::Corrupt { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_one_room_does_not_pass_by_waiting() {
        let away = || store::Error::Unavailable("it restarts".to_owned());
        let broken = || store::Error::Corrupt { table: "events", detail: String::new() };
        assert!(will_pass(&Error::Store(away())));
        assert!(will_pass(&Error::Rooms(rooms::Error::Store(away()))));
        assert!(!will_pass(&Error::Store(broken())));
        assert!(!will_pass(&Error::Rooms(rooms::Error::Store(broken()))));
        assert!(!will_pass(&Error::Rooms(rooms::Error::EventNotFound)));
    }
}
