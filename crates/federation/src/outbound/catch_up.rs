//! What a destination that was away has missed, read from the rooms: where little was missed all of it, else the latest
//! events of each room, from which the peer asks for the rest (behaviour FA12).

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use rooms::{Event, Room};
use ruma_common::OwnedEventId;
use store::tables::rooms::EventRow;
use store::{EventNum, Read, StreamPosition, Value};

use super::Outbound;
use super::destination::Destination;
use crate::Result;

/// Events of a room that are sent one by one; of a room with more, only those are sent that none of the others follows.
const EVENTS_PER_ROOM_MAX: usize = 50;
/// Rows that are looked at in one room.
const ROWS_MAX: u32 = 1_000;
/// Events that one round of catching up queues.
const EVENTS_MAX: usize = 5_000;

/// What a destination has missed in a room, oldest first, with the events of others that stand between.
#[derive(Default)]
struct Missed {
    /// Each event at its position, and whether it is this server's to send there.
    events: Vec<(StreamPosition, Arc<Event>, bool)>,
}

impl Missed {
    /// All that is to be sent.
    fn all(&self) -> impl Iterator<Item = (StreamPosition, Arc<Event>)> {
        self.events.iter().filter(|(.., is_meant)| *is_meant).map(|(pos, event, _)| (*pos, Arc::clone(event)))
    }

    /// Of what is to be sent the events that none of the others follows, directly or by way of other servers' events. The
    /// last one need not follow them all: what came through a handshake, or back from a server that had to sign it, was
    /// built earlier than it was placed.
    fn ends(&self) -> Vec<(StreamPosition, Arc<Event>)> {
        let (mut followed, mut ends) = (HashSet::<&OwnedEventId>::new(), Vec::new());
        for (pos, event, is_meant) in self.events.iter().rev() {
            let is_followed = followed.contains(event.id());
            if *is_meant && !is_followed {
                ends.push((*pos, Arc::clone(event)));
            }
            if *is_meant || is_followed {
                followed.extend(&event.pdu.prev_events);
            }
        }
        // Each event of a peer's user that comes through a handshake may be one: what is beyond is left to its own server.
        ends.truncate(EVENTS_PER_ROOM_MAX);
        ends
    }
}

impl Outbound {
    /// Queues what the destination has missed up to now. True if it is no longer behind; false if this changed under
    /// way and is to be done again.
    pub(super) async fn catch_up(&self, destination: &Arc<Destination>) -> Result<bool> {
        let (from, up_to) = {
            let queue = destination.queue.lock();
            let Some(from) = queue.behind_from else { return Ok(true) };
            (from, queue.last_meant.max(self.dispatched(&destination.server)))
        };
        let mut missed: Vec<(StreamPosition, Arc<Event>)> = Vec::new();
        for room in self.rooms_of(&destination.server, from).await? {
            let Some(room) = self.rooms.room_by_num(room).await? else { continue };
            let here = self.missed_in(&room, &destination.server, from, up_to).await?;
            let count = here.all().count();
            if count > EVENTS_PER_ROOM_MAX || missed.len() + count > EVENTS_MAX {
                let ends = here.ends();
                // What is sticky is to reach everybody, however much there is besides (MSC4354).
                let told: HashSet<EventNum> = ends.iter().map(|(_, event)| event.num()).collect();
                let sticky = self.rooms.own_sticky_events(&room).await?;
                let untold = |pos: StreamPosition, event: &Event| pos > from && !told.contains(&event.num());
                missed.extend(sticky.into_iter().filter(|(pos, event)| untold(*pos, event)));
                missed.extend(ends);
            } else {
                missed.extend(here.all());
            }
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

    /// What happened in a room after `from`, and what of it is this server's to send to the destination; of very much, the
    /// last, and before that what nothing has followed.
    async fn missed_in(
        &self,
        room: &Arc<Room>,
        server: &str,
        from: StreamPosition,
        up_to: StreamPosition,
    ) -> Result<Missed> {
        let read = Read::along::<EventRow>(EventRow::BY_POS, vec![Value::from(room.num)]);
        let read = read.after(from).up_to(up_to).reverse().limit(ROWS_MAX);
        let rows: Vec<EventRow> = self.store.all(read).await?;
        let mut nums: Vec<EventNum> = rows.iter().map(|row| row.event).collect();
        if rows.len() >= usize::try_from(ROWS_MAX).unwrap_or(usize::MAX) {
            let oldest = rows.last().and_then(|row| row.pos).unwrap_or(up_to);
            for extremity in &room.head().extremities {
                let pos = self.rooms.event(room, extremity.num).await?.row.pos;
                if pos.is_some_and(|pos| pos > from && pos < oldest) {
                    nums.push(extremity.num);
                }
            }
        }
        let mut missed = Missed::default();
        for num in nums.into_iter().rev() {
            let event = self.rooms.event(room, num).await?;
            let Some(pos) = event.row.pos else { continue };
            let is_meant = self.is_ours(&event)
                && self.recipients(room, &event, pos).await?.iter().any(|recipient| recipient == server);
            missed.events.push((pos, event, is_meant));
        }
        Ok(missed)
    }
}
