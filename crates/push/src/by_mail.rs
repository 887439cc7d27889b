//! Pushers of the kind `email`: what is still unread after a while comes in one mail, and not more often than now and then.

use std::collections::Bound;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use store::tables::push::{PushRow, PushStateRow};
use store::{CommitBatch, Read, StreamPosition, Value};
use users::email::unsubscribing::Notifications;

use crate::notification::Told;
use crate::people::Seat;
use crate::{Counters, Push, Result};

/// Events that are looked at for one mail.
const EVENTS_MAX: u32 = 200;
/// Messages of a room that a mail shows, the newest.
const MESSAGES_MAX: usize = 5;
/// Rooms that a mail shows.
const ROOMS_MAX: usize = 20;
/// Characters of a message that a mail shows.
const TEXT_CHARS_MAX: usize = 500;
/// Characters of the names of rooms and people that are shown.
const NAME_CHARS_MAX: usize = 100;

/// What a mail says of one room.
struct Room {
    id: String,
    name: String,
    messages: Vec<Json>,
}

impl Push {
    /// Sends a mail if it is time for one; else the pusher waits until it is.
    pub(crate) async fn deliver_by_mail(self: &Arc<Self>, seat: &Arc<Seat>) -> Result<()> {
        let rows: Vec<PushRow> = self.store.all(Read::prefix::<PushRow>(seat.key()).limit(EVENTS_MAX)).await?;
        let Some(last) = rows.last().map(|row| row.pos) else { return Ok(()) };
        let now_ms = self.clock.now_ms();
        let not_before_ms = seat.queue.lock().state.retry_at_ms;
        if let Some(first) = rows.iter().find(|row| row.event.is_some()) {
            let due_ms = first.queued_ms.saturating_add(self.options.mail_delay_ms).max(not_before_ms);
            if now_ms < due_ms {
                seat.wait_until(due_ms);
                self.put_off.lock().push(Arc::clone(seat));
                return Ok(());
            }
        }
        if rows.len() >= EVENTS_MAX as usize {
            seat.fill();
        }
        let (mut rooms, mut unread) = (Vec::new(), 0_usize);
        for row in rows.iter().filter(|row| row.event.is_some()) {
            if let Some(notice) = self.notice_surely(seat, row).await? {
                add(&mut rooms, notice.told());
                unread += 1;
            }
        }
        self.settle_by_mail(seat, last, rooms, unread).await
    }

    /// Queues the mail, if there is anything to tell, in the batch that ends what waited.
    async fn settle_by_mail(&self, seat: &Seat, last: StreamPosition, rooms: Vec<Room>, unread: usize) -> Result<()> {
        let mut batch = CommitBatch::new();
        batch.delete_range::<PushRow>(seat.key(), Bound::Unbounded, Bound::Included(Value::from(last)));
        let mailbox = match unread {
            0 => None,
            // Whoever gave the address away since gets nothing.
            _ => self.users.mailbox_of(&seat.user, &seat.pushkey).await?,
        };
        let Some(mailbox) = mailbox.filter(|_| !seat.is_gone()) else {
            return self.commit_for(&seat.user, batch).await;
        };
        let shown = |room: Room| json!({ "name": room.name, "messages": room.messages });
        self.users.add_notifications(
            &mut batch,
            Notifications {
                user: &seat.user,
                app_id: &seat.app_id,
                pushkey: &seat.pushkey,
                mailbox: &mailbox,
                rooms: rooms.into_iter().take(ROOMS_MAX).map(shown).collect(),
                unread,
            },
        )?;
        let retry_at_ms = self.clock.now_ms().saturating_add(self.options.mail_interval_ms);
        let state = PushStateRow { retry_at_ms, ..seat.queue.lock().state.clone() };
        batch.put(state.clone());
        self.commit_for(&seat.user, batch).await?;
        seat.queue.lock().state = state;
        self.users.mails_queued();
        Counters::add(&self.counters.delivered);
        Ok(())
    }
}

/// Adds an event to its room, of which the newest are shown.
fn add(rooms: &mut Vec<Room>, told: Told) {
    let cut = |text: String, max: usize| text.chars().take(max).collect::<String>();
    let text = told.text.map(|text| cut(text, TEXT_CHARS_MAX));
    let message = json!({ "sender": cut(told.sender, NAME_CHARS_MAX), "text": text });
    match rooms.iter_mut().find(|room| room.id == told.room_id) {
        Some(room) => {
            room.messages.push(message);
            if room.messages.len() > MESSAGES_MAX {
                room.messages.remove(0);
            }
        }
        None => rooms.push(Room {
            name: cut(told.room.unwrap_or_else(|| told.room_id.clone()), NAME_CHARS_MAX),
            id: told.room_id,
            messages: vec![message],
        }),
    }
}
