//! Reading events: from what is not yet written, from the cache, from the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use event::Pdu;
use ruma_common::OwnedEventId;
use store::tables::rooms::{EventBytesRow, EventRow};
use store::{EventNum, Read, RoomNum};

use crate::event::{Event, stored_rules};
use crate::room::{Overlay, Room};
use crate::{Error, Result, Rooms, flags};

impl Rooms {
    /// The events with these numbers, in order.
    ///
    /// # Errors
    /// [`store::Error::Corrupt`] if one is not stored.
    pub async fn events(&self, room: &Room, overlay: Option<&Overlay>, nums: &[EventNum]) -> Result<Vec<Arc<Event>>> {
        let found = self.events_left(room, overlay, nums).await?;
        match nums.get(found.len()) {
            None => Ok(found),
            // Something is missing, so the first that differs is.
            Some(last) => {
                let differs = nums.iter().zip(&found).find(|(num, event)| event.num() != **num);
                Err(lost(*differs.map_or(last, |(num, _)| num)))
            }
        }
    }

    /// Those of the events with these numbers that are left, in order: messages may be gone with purged history.
    ///
    /// # Errors
    /// As the store says.
    pub async fn events_left(
        &self,
        room: &Room,
        overlay: Option<&Overlay>,
        nums: &[EventNum],
    ) -> Result<Vec<Arc<Event>>> {
        let mut found: Vec<Option<Arc<Event>>> = {
            let unwritten = room.unwritten.lock();
            let known = |num: &EventNum| {
                overlay
                    .and_then(|overlay| overlay.events.get(num).cloned())
                    .or_else(|| unwritten.events.get(num).cloned())
                    .or_else(|| self.events.get(num))
            };
            nums.iter().map(known).collect()
        };
        let lacking = nums.iter().zip(&found).filter(|(_, event)| event.is_none());
        let lacking: Vec<EventNum> = lacking.map(|(num, _)| *num).collect();
        if !lacking.is_empty() {
            let stored = self.stored_events(room.num, room.rules.version(), &lacking).await?;
            // In the order of the numbers, without those that are gone.
            let mut stored = stored.into_iter().peekable();
            for (num, event) in nums.iter().zip(&mut found).filter(|(_, event)| event.is_none()) {
                *event = stored.next_if(|stored| stored.num() == *num);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// The event with this number.
    pub async fn event(&self, room: &Room, num: EventNum) -> Result<Arc<Event>> {
        self.events(room, None, &[num]).await?.into_iter().next().ok_or_else(|| lost(num))
    }

    /// Those of the events that are stored.
    pub(crate) async fn stored_events(
        &self,
        room: RoomNum,
        version: &str,
        nums: &[EventNum],
    ) -> Result<Vec<Arc<Event>>> {
        if nums.is_empty() {
            return Ok(Vec::new());
        }
        let seen = self.changes.load(Ordering::Acquire);
        let mut reads = Vec::with_capacity(nums.len() * 2);
        reads.extend(nums.iter().map(|num| Read::get::<EventRow>(vec![(*num).into()])));
        reads.extend(nums.iter().map(|num| Read::get::<EventBytesRow>(vec![(*num).into()])));
        let mut found = self.store.read(reads).await?;
        let bytes = found.split_off(nums.len());
        let mut events = Vec::with_capacity(nums.len());
        for ((row, bytes), num) in found.into_iter().zip(bytes).zip(nums) {
            let Some(row) = row.one::<EventRow>()?.filter(|row| row.room == room) else { continue };
            let bytes = bytes.one::<EventBytesRow>()?.ok_or_else(|| lost(*num))?;
            events.push(self.decode(row, bytes.json, version, seen)?);
        }
        Ok(events)
    }

    /// The number of changes to stored events so far: read before rows that are to be cached.
    pub(crate) fn changes_seen(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Events of rows that were read otherwise (along the timeline), with their bytes. `seen` is
    /// [`Rooms::changes_seen`] from before the rows were read.
    pub(crate) async fn events_of_rows(
        &self,
        version: &str,
        rows: Vec<EventRow>,
        seen: u64,
    ) -> Result<Vec<Arc<Event>>> {
        // One look into the cache for each row: what it holds now, later insertions may push out.
        let cached: Vec<Option<Arc<Event>>> = rows.iter().map(|row| self.events.get(&row.event)).collect();
        let lacking = rows.iter().zip(&cached).filter(|(_, event)| event.is_none());
        let reads: Vec<Read> = lacking.map(|(row, _)| Read::get::<EventBytesRow>(vec![row.event.into()])).collect();
        let mut bytes: HashMap<EventNum, Vec<u8>> = HashMap::new();
        if !reads.is_empty() {
            for found in self.store.read(reads).await? {
                if let Some(row) = found.one::<EventBytesRow>()? {
                    bytes.insert(row.event, row.json);
                }
            }
        }
        rows.into_iter()
            .zip(cached)
            .map(|(row, event)| match event {
                Some(event) => Ok(event),
                None => {
                    let json = bytes.remove(&row.event).ok_or_else(|| lost(row.event))?;
                    self.decode(row, json, version, seen)
                }
            })
            .collect()
    }

    /// Makes an event of its stored halves. It is cached unless a change was committed since `seen`, which was read
    /// before the rows were.
    pub(crate) fn decode(&self, row: EventRow, json: Vec<u8>, version: &str, seen: u64) -> Result<Arc<Event>> {
        let rules = stored_rules(version)?;
        let corrupt = |detail: String| Error::Store(store::Error::Corrupt { table: "event_bytes", detail });
        let id = OwnedEventId::try_from(row.event_id.as_str()).map_err(|error| corrupt(error.to_string()))?;
        let stored = Pdu::stored(rules, id, json.into()).and_then(|pdu| match row.flags & flags::REDACTED {
            0 => Ok(pdu),
            _ => pdu.redacted(rules),
        });
        let pdu = stored.map_err(|error| corrupt(format!("event {}: {error}", row.event_id)))?;
        let event = Arc::new(Event::new(row, Arc::new(pdu)));
        if self.changes.load(Ordering::Acquire) == seen {
            self.events.insert(event.num(), Arc::clone(&event));
        }
        Ok(event)
    }

    /// The committed event with this id in this room.
    ///
    /// # Errors
    /// As the store says.
    pub async fn event_by_id(&self, room: &Room, event_id: &str) -> Result<Option<Arc<Event>>> {
        let seen = self.changes_seen();
        let read = Read::along::<EventRow>(EventRow::BY_ID, vec![room.num.into(), event_id.into()]);
        let Some(row) = self.store.one::<EventRow>(read).await? else { return Ok(None) };
        Ok(self.events_of_rows(room.rules.version(), vec![row], seen).await?.into_iter().next())
    }
}

pub(crate) fn lost(num: EventNum) -> Error {
    Error::Store(store::Error::Corrupt {
        table: "events",
        detail: format!("event number {num} is referenced but not stored"),
    })
}
