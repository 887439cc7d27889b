//! What a destination that was away has missed, read from the rooms: where little was missed all of it, else the latest
//! event of each room, from which the peer asks for the rest (behaviour FA12).

use std::collections::VecDeque;
use std::sync::Arc;

use rooms::{Event, Room};
use store::tables::rooms::EventRow;
use store::{Read, StreamPosition, Value};

use super::Outbound;
use super::destination::Destination;
use crate::Result;

/// Events of a room that are sent one by one; a room with more is sent its latest.
const EVENTS_PER_ROOM_MAX: usize = 50;
/// Rows that are looked at in one room.
const ROWS_MAX: u32 = 1_000;
/// Events that one round of catching up queues.
const EVENTS_MAX: usize = 5_000;

impl Outbound {
    /// Queues what the destination has missed up to now. True if it is no longer behind; false if this changed under
    /// way and is to be done again.
    pub(super) async fn catch_up(&self, destination: &Arc<Destination>) -> Result<bool> {
        let (from, up_to) = {
            let queue = destination.queue.lock();
            let Some(from) = queue.behind_from else { return Ok(true) };
            (from, queue.last_meant.max(self.shards.dispatched(&destination.server)))
        };
        let mut missed: Vec<(StreamPosition, Arc<Event>)> = Vec::new();
        for room in self.rooms_of(&destination.server, from).await? {
            let Some(room) = self.rooms.room_by_num(room).await? else { continue };
            let mut events = self.missed_in(&room, &destination.server, from, up_to).await?;
            if events.len() > EVENTS_PER_ROOM_MAX || missed.len() + events.len() > EVENTS_MAX {
                events.drain(..events.len().saturating_sub(1));
            }
            missed.extend(events);
        }
        missed.sort_by_key(|(pos, _)| *pos);
        let mut queue = destination.queue.lock();
        if queue.behind_from != Some(from) || queue.last_meant > up_to {
            return Ok(false);
        }
        queue.behind_from = None;
        queue.events = VecDeque::from(missed);
        Ok(true)
    }

    /// The events of a room after `from` that are this server's to send to the destination; of very many, the last ones.
    async fn missed_in(
        &self,
        room: &Arc<Room>,
        server: &str,
        from: StreamPosition,
        up_to: StreamPosition,
    ) -> Result<Vec<(StreamPosition, Arc<Event>)>> {
        let read = Read::along::<EventRow>(EventRow::BY_POS, vec![Value::from(room.num)]);
        let read = read.after(from).up_to(up_to).reverse().limit(ROWS_MAX);
        let mut rows: Vec<EventRow> = self.store.all(read).await?;
        rows.reverse();
        let mut events = Vec::new();
        for row in rows {
            let Some(pos) = row.pos else { continue };
            let event = self.rooms.event(room, row.event).await?;
            if self.is_ours(&event) && self.recipients(room, &event, pos).await?.iter().any(|to| to == server) {
                events.push((pos, event));
            }
        }
        Ok(events)
    }
}
