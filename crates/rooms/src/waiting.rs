//! Trying again with events that waited and could not be judged when what they waited for had come.

use std::collections::BTreeSet;

use ruma_common::OwnedEventId;
use store::Read;
use store::tables::rooms::MissingPrevRow;

use crate::{Result, Rooms, flags};

/// Most rooms that are remembered to be tried again; those beyond are found at the next start.
const UNFINISHED_MAX: usize = 10_000;

/// What was not finished in this life of the process.
#[derive(Debug)]
pub(crate) enum Unfinished {
    /// Nothing has been looked at since the start.
    Everything,
    /// In these rooms events may wait for what has come.
    Rooms(BTreeSet<String>),
}

impl Rooms {
    /// Judges what waits for an event that has come, and what waited in vain before. The event itself stands whatever
    /// comes of that: if the store fails, it is tried again with the room's next event, or by
    /// [`Rooms::retry_waiting`].
    pub(crate) async fn finish_waiting(&self, room_id: &str, come: Option<OwnedEventId>) {
        let again = match &mut *self.unfinished.lock() {
            Unfinished::Rooms(rooms) => rooms.remove(room_id),
            Unfinished::Everything => false,
        };
        let done = match come {
            _ if again => self.resume_room(room_id).await,
            Some(come) => self.accept_waiting(room_id, come).await,
            None => Ok(()),
        };
        if let Err(error) = done {
            tracing::warn!(%error, room_id, "events whose predecessors have come cannot be judged; trying again later");
            self.note_unfinished(room_id);
        }
    }

    fn note_unfinished(&self, room_id: &str) {
        if let Unfinished::Rooms(rooms) = &mut *self.unfinished.lock()
            && rooms.len() < UNFINISHED_MAX
        {
            rooms.insert(room_id.to_owned());
        }
    }

    /// Judges what waits although what it waits for has come: after a start in all rooms, later in those where that
    /// failed. Costs nothing where nothing failed; to be called about once a minute.
    ///
    /// # Errors
    /// As the store says; what is left is tried at the next call.
    pub async fn retry_waiting(&self) -> Result<()> {
        let unfinished = std::mem::replace(&mut *self.unfinished.lock(), Unfinished::Rooms(BTreeSet::new()));
        match unfinished {
            Unfinished::Everything => {
                let done = self.resume_waiting().await;
                if done.is_err() {
                    *self.unfinished.lock() = Unfinished::Everything;
                }
                done.map(drop)
            }
            Unfinished::Rooms(rooms) => {
                for room_id in rooms {
                    self.note_unfinished(&room_id);
                    self.finish_waiting(&room_id, None).await;
                }
                Ok(())
            }
        }
    }

    async fn resume_room(&self, room_id: &str) -> Result<()> {
        let Some(room) = self.room(room_id).await? else { return Ok(()) };
        let rows = self.store.all::<MissingPrevRow>(Read::prefix::<MissingPrevRow>(vec![room.num.into()])).await?;
        let missing: BTreeSet<String> = rows.into_iter().map(|row| row.event_id).collect();
        for event_id in missing {
            let come = self.event_by_id(&room, &event_id).await?;
            if let Some(come) = come.filter(|event| !event.has(flags::WAITING)) {
                self.accept_waiting(room_id, come.id().clone()).await?;
            }
        }
        Ok(())
    }
}
