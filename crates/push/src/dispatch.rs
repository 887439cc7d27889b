//! From the stream into the queues: whom a change notifies, and whose number of unread messages it may have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rooms::{Event, Room};
use serde_json::{Value as Json, json};
use store::inbox::{Entries, ticks};
use store::tables::push::PushRow;
use store::tables::rooms::MembershipRow;
use store::{CommitBatch, EventNum, Read, RoomNum, StreamEntry, StreamKind, StreamPosition, UserId};
use users::push_rules::Context;

use crate::people::Seat;
use crate::{Push, Result};

/// Entries whose pushes are committed together.
const GROUP_MAX: usize = 500;
/// Users and changes whose pushes are committed together; it is the last change that passes it.
const GROUP_DUE_MAX: usize = 5_000;
/// How often the positions are stored, at most, while nothing is queued.
const KEEP_EVERY: Duration = Duration::from_secs(10);
/// How often a node looks whether it is to push to other users than before.
const SHARE_EVERY: Duration = Duration::from_secs(2);
/// Between two tries while the store is away.
const PAUSE: Duration = Duration::from_secs(1);
/// What the default power levels ask of who notifies a whole room; a room that is not known has none.
const NOTIFICATION_LEVEL: i64 = 50;

/// Kinds of changes that make a push, or change who gets one or what is unread.
pub(crate) fn is_looked_at(kind: StreamKind) -> bool {
    use StreamKind::*;
    matches!(kind, Event | EventChanged | RoomHead | RoomPurged | Receipt | AccountData | Membership | Pusher | Account)
}

/// What a user's pushers are to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// The number of unread messages may have changed.
    Unread,
    /// An event notifies.
    Event { room: RoomNum, event: EventNum, actions: String },
}

/// What is to be queued, by user and position.
#[derive(Default)]
pub(crate) struct Due(BTreeMap<(UserId, StreamPosition), What>);

impl Due {
    fn unread(&mut self, user: &UserId, pos: StreamPosition) {
        self.0.entry((user.clone(), pos)).or_insert(What::Unread);
    }

    fn event(&mut self, user: UserId, pos: StreamPosition, room: RoomNum, event: EventNum, actions: Vec<Json>) {
        let actions = Json::Array(actions).to_string();
        self.0.insert((user, pos), What::Event { room, event, actions });
    }
}

impl Push {
    /// Follows the stream for ever. It waits while the store is away, and what cannot be told is passed over, so that one
    /// broken room does not silence the others.
    pub(crate) async fn dispatch(self: &Arc<Self>) -> Infallible {
        while let Err(error) = self.share().await {
            tracing::warn!(%error, "it is not known which users are this node's to push to");
            tokio::time::sleep(PAUSE).await;
        }
        let [mut keep, mut share] = [KEEP_EVERY, SHARE_EVERY].map(ticks);
        loop {
            if let Err(error) = self.read_stream().await {
                tracing::warn!(%error, "the stream cannot be read for pushes");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            loop {
                let (entries, overflow) = self.inbox.take();
                self.dispatch_all(entries).await;
                if overflow {
                    break;
                }
                tokio::select! {
                    () = self.inbox.filled.notified() => {}
                    _ = share.tick() => match self.share().await {
                        Ok(false) => {}
                        // What their last owner left is read from the stream.
                        Ok(true) => break,
                        Err(error) => tracing::warn!(%error, "it is not known which users are this node's to push to"),
                    },
                    _ = keep.tick() => {
                        if let Err(error) = self.shards.keep_all(self.as_ref()).await {
                            tracing::warn!(%error, "how far pushes were queued cannot be stored");
                        }
                    }
                }
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

    /// Dispatches changes, in groups whose pushes are queued together.
    async fn dispatch_all(self: &Arc<Self>, entries: Entries) {
        let (mut due, mut dispatched, mut last) = (Due::default(), 0, StreamPosition::ZERO);
        for (pos, entry) in entries {
            if self.shards.position().is_none_or(|position| pos <= position) {
                continue;
            }
            self.dispatch_surely(pos, &entry, &mut due).await;
            (dispatched, last) = (dispatched + 1, pos);
            if dispatched >= GROUP_MAX || due.0.len() >= GROUP_DUE_MAX {
                self.queue(std::mem::take(&mut due), last).await;
                dispatched = 0;
            }
        }
        if dispatched > 0 {
            self.queue(due, last).await;
        }
    }

    /// Dispatches one change: again and again while the store is away, not at all if it cannot be told.
    async fn dispatch_surely(self: &Arc<Self>, pos: StreamPosition, entry: &StreamEntry, due: &mut Due) {
        while let Err(error) = self.dispatch_entry(pos, entry, due).await {
            if !error.will_pass() {
                tracing::error!(%error, pos = pos.0, "of a change no push can be made");
                return;
            }
            tracing::warn!(%error, "no pushes are made while the store is away");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn dispatch_entry(self: &Arc<Self>, pos: StreamPosition, entry: &StreamEntry, due: &mut Due) -> Result<()> {
        let dispatched = self.dispatch_kind(pos, entry, due).await;
        if let Some(room) = entry.room.filter(|_| entry.kind != StreamKind::Receipt) {
            self.badges.room_changed(room, pos);
        }
        dispatched
    }

    async fn dispatch_kind(self: &Arc<Self>, pos: StreamPosition, entry: &StreamEntry, due: &mut Due) -> Result<()> {
        match (entry.kind, entry.room, &entry.user, entry.number) {
            (StreamKind::Event, Some(room), target, Some(number)) => {
                self.dispatch_event(room, target.as_ref(), EventNum(number), pos, due).await
            }
            (StreamKind::EventChanged, Some(room), _, _) => self.dispatch_change(room, pos, due).await,
            (StreamKind::Membership, room, Some(user), _) => {
                self.badges.moved(user, pos);
                due.unread(user, pos);
                if room.is_none() { self.dispatch_invite(user, pos, due).await } else { Ok(()) }
            }
            (StreamKind::Receipt, _, Some(user), Some(room)) => {
                if self.people.has(user) && !self.badges.stays_read(user, RoomNum(room), pos) {
                    due.unread(user, pos);
                }
                self.badges.read(user, RoomNum(room), pos);
                Ok(())
            }
            (StreamKind::AccountData, _, Some(user), Some(users::account_data::JUDGED_BY)) => {
                self.badges.judged_anew(user);
                due.unread(user, pos);
                Ok(())
            }
            (StreamKind::RoomPurged, _, _, _) => {
                self.badges.forget();
                Ok(())
            }
            (StreamKind::Pusher, _, Some(user), _) => self.reload(user).await,
            (StreamKind::Account, _, Some(user), _) => self.account_changed(user).await,
            _ => Ok(()),
        }
    }

    async fn dispatch_event(
        &self,
        room: RoomNum,
        target: Option<&UserId>,
        number: EventNum,
        pos: StreamPosition,
        due: &mut Due,
    ) -> Result<()> {
        if let Some(target) = target {
            self.badges.moved(target, pos);
        }
        if self.people.is_empty() {
            return Ok(());
        }
        let Some(room) = self.rooms.room_by_num(room).await? else { return Ok(()) };
        let mut users = self.people.among(&room.head().local);
        users.extend(target.filter(|target| !users.contains(target) && self.people.has(target)).cloned());
        if users.is_empty() {
            return Ok(());
        }
        let event = self.rooms.event(&room, number).await?;
        if !event.shown() {
            return Ok(());
        }
        // Sending is reading, and who comes, goes or is invited has other rooms to read.
        let reads = |user: &UserId| *user == event.row.sender && !self.badges.stays_read(user, room.num, pos);
        for changed in users.iter().filter(|user| Some(*user) == target || reads(user)) {
            due.unread(changed, pos);
        }
        users.retain(|user| *user != event.row.sender);
        if event.row.redacted_by.is_none() && !users.is_empty() {
            self.notify_of(&room, &event, &users, pos, due).await?;
        }
        Ok(())
    }

    /// Queues an event for those whom it notified when it came, so that pushes and counts agree. How it is to be shown the
    /// push rules say.
    async fn notify_of(
        &self,
        room: &Arc<Room>,
        event: &Event,
        users: &[UserId],
        pos: StreamPosition,
        due: &mut Due,
    ) -> Result<()> {
        let notified = self.rooms.notified_by(room, event, users).await?;
        if notified.is_empty() {
            return Ok(());
        }
        let users: Vec<UserId> = notified.iter().map(|(user, _)| user.clone()).collect();
        let named = self.users.look_for_names(&users).await?;
        let found = self.rooms.circumstances(room, &named).await?;
        let context = Context {
            room_id: &room.id,
            joined: found.joined,
            sender_level: found.level_of(&event.pdu.sender),
            notification_level: &|kind| found.notification_level(kind),
            display_name: &|user| found.display_name(user.as_str()).map(str::to_owned),
        };
        let mut actions: BTreeMap<UserId, Vec<Json>> =
            self.users.notified(&event.pdu, &context, &users).await?.into_iter().collect();
        for (user, highlights) in notified {
            // Who has other rules by now gets what was counted.
            let actions = actions.remove(&user).unwrap_or_else(|| {
                let tweak = highlights.then(|| json!({ "set_tweak": "highlight" }));
                [json!("notify")].into_iter().chain(tweak).collect()
            });
            due.event(user, pos, room.num, event.num(), actions);
        }
        Ok(())
    }

    /// An event became another, usually since it was redacted: who had not read it has less to read.
    async fn dispatch_change(&self, room: RoomNum, pos: StreamPosition, due: &mut Due) -> Result<()> {
        if self.people.is_empty() {
            return Ok(());
        }
        let Some(room) = self.rooms.room_by_num(room).await? else { return Ok(()) };
        for user in self.people.among(&room.head().local) {
            due.unread(&user, pos);
        }
        Ok(())
    }

    /// A membership of a room that this server is not in: an invite notifies.
    async fn dispatch_invite(&self, user: &UserId, pos: StreamPosition, due: &mut Due) -> Result<()> {
        if !self.people.has(user) {
            return Ok(());
        }
        let read = Read::along::<MembershipRow>(MembershipRow::BY_POS, vec![user.into()]).from(pos).up_to(pos);
        let row = self.store.one::<MembershipRow>(read).await?.filter(|row| row.membership == "invite");
        let Some(row) = row else { return Ok(()) };
        let Some(event) = self.rooms.out_of_band_event(&row).await? else { return Ok(()) };
        let context = Context {
            room_id: event.pdu.room_id.as_str(),
            joined: 0,
            sender_level: 0,
            notification_level: &|_| NOTIFICATION_LEVEL,
            display_name: &|_| None,
        };
        for (user, actions) in self.users.notified(&event.pdu, &context, std::slice::from_ref(user)).await? {
            due.event(user, pos, row.room, event.num(), actions);
        }
        Ok(())
    }

    /// Queues what is due, together with the position up to which everything is queued then: again and again while the
    /// store is away.
    async fn queue(self: &Arc<Self>, due: Due, up_to: StreamPosition) {
        let (mut batches, mut filled) = (BTreeMap::<usize, CommitBatch>::new(), Vec::new());
        let queued_ms = self.clock.now_ms();
        for ((user, pos), what) in due.0 {
            if !self.shards.is_due(user.as_str(), pos) {
                continue;
            }
            for seat in self.people.seats(&user) {
                let batch = batches.entry(self.shards.of(user.as_str())).or_default();
                batch.put(row_of(&seat, pos, &what, queued_ms));
                filled.push(seat);
            }
        }
        let commits = batches.into_iter().map(|(shard, batch)| async move {
            while let Err(error) = self.commit_owned(shard, batch.clone(), Some(up_to)).await {
                tracing::warn!(%error, "no pushes are queued while the store is away");
                tokio::time::sleep(PAUSE).await;
            }
        });
        join_all(commits).await;
        self.shards.passed(up_to);
        let mut seen = BTreeSet::new();
        for seat in filled {
            self.bound(&seat).await;
            if seen.insert(Arc::as_ptr(&seat) as usize) {
                seat.fill();
                self.wake(&seat);
            }
        }
    }

    /// A row more waits for a pusher. Whether its gateway fails or is slow, the oldest go when there are too many.
    async fn bound(&self, seat: &Arc<Seat>) {
        let full = {
            let mut queue = seat.queue.lock();
            queue.added += 1;
            let full = queue.added >= self.options.queued_max;
            if full {
                queue.added = 0;
            }
            full
        };
        if full && let Err(error) = self.trim(seat).await {
            tracing::warn!(user = %seat.user, %error, "too much waits for a pusher");
        }
    }
}

fn row_of(seat: &Seat, pos: StreamPosition, what: &What, queued_ms: i64) -> PushRow {
    let (room, event, actions) = match what {
        What::Unread => (None, None, "[]".to_owned()),
        What::Event { room, event, actions } => (Some(*room), Some(*event), actions.clone()),
    };
    PushRow {
        user_id: seat.user.clone(),
        app_id: seat.app_id.clone(),
        pushkey: seat.pushkey.clone(),
        pos,
        room,
        event,
        actions,
        queued_ms,
    }
}
