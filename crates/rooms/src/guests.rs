//! Guests in rooms: they may be where `m.room.guest_access` is `can_join`, and are made to leave when it no longer is
//! (client-server API, guest access). The room engine knows no guests from other users: it notes in the batch of the
//! withdrawal that the room has closed to them, and whoever knows the accounts makes them leave.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use store::tables::core::JobRow;
use store::{CommitBatch, CommitError, EventNum, Read, Value};

use crate::draft::Draft;
use crate::event::Event;
use crate::room::Room;
use crate::state::{Roots, type_key};
use crate::{Result, Rooms};

/// The event type that says whether guests may join.
const GUEST_ACCESS: &str = "m.room.guest_access";
/// The kind of the jobs that say which rooms, by number, have closed to guests.
const JOB: &str = "guests_leave";
/// Rooms that are looked at in one run.
const JOBS_MAX: u32 = 100;

/// A room that guests have to leave.
pub struct ClosedToGuests {
    /// The room; `None` if it has been removed since.
    pub room: Option<Arc<Room>>,
    job: JobRow,
}

impl Rooms {
    /// Whether guests may join a room now.
    ///
    /// # Errors
    /// As the store says.
    pub async fn takes_guests(&self, room: &Room) -> Result<bool> {
        Ok(welcomes(self.current(room, GUEST_ACCESS, "").await?.as_deref()))
    }

    /// Whether a room has closed to guests since this was last asked. Only of what this node decided: others, and what a
    /// restart interrupted, are found by [`Rooms::closed_to_guests`] alone.
    pub fn has_closed_to_guests(&self) -> bool {
        self.closed_to_guests.swap(false, Ordering::Relaxed)
    }

    /// The rooms that guests have to leave.
    ///
    /// # Errors
    /// As the store says.
    pub async fn closed_to_guests(&self) -> Result<Vec<ClosedToGuests>> {
        let jobs: Vec<JobRow> = self.store.all(Read::prefix::<JobRow>(vec![JOB.into()]).limit(JOBS_MAX)).await?;
        let mut closed = Vec::with_capacity(jobs.len());
        for job in jobs {
            let room = match job.name.parse() {
                Ok(num) => self.room_by_num(store::RoomNum(num)).await?,
                Err(_) => None,
            };
            closed.push(ClosedToGuests { room, job });
        }
        Ok(closed)
    }

    /// Notes that the guests have left, unless the room has been opened and closed again meanwhile.
    ///
    /// # Errors
    /// As the store says.
    pub async fn guests_have_left(&self, closed: ClosedToGuests) -> Result<()> {
        let key = vec![Value::from(closed.job.kind), Value::from(closed.job.name)];
        let mut batch = CommitBatch::new();
        batch.expect_equals::<JobRow>(key.clone(), "cursor", closed.job.cursor);
        batch.delete::<JobRow>(key);
        match self.store.commit(batch).await {
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }
}

impl Draft<'_> {
    /// Notes that the room closes to guests, if this change of its state does that. `linear`: what alone has changed it.
    pub(crate) async fn note_guests(
        &mut self,
        earlier: Roots,
        later: Roots,
        linear: Option<&Arc<Event>>,
    ) -> Result<()> {
        if earlier.rest == later.rest || linear.is_some_and(|event| event.pdu.kind != GUEST_ACCESS) {
            return Ok(());
        }
        let pair = [type_key(GUEST_ACCESS, "")];
        let mut found: [Option<EventNum>; 2] = [None, None];
        for (place, roots) in found.iter_mut().zip([earlier, later]) {
            let nums = self.rooms.state_nums(self.room, Some(&self.overlay), roots, &pair).await?;
            *place = nums.into_iter().next().flatten();
        }
        let [was, is] = found;
        if was == is || !self.welcomes(was).await? || self.welcomes(is).await? {
            return Ok(());
        }
        self.batch.put(JobRow {
            kind: JOB.to_owned(),
            name: self.room.num.to_string(),
            cursor: self.rooms.unique_number().to_string(),
            due_ms: self.rooms.clock.now_ms(),
            failures: 0,
        });
        self.closes_to_guests = true;
        Ok(())
    }

    async fn welcomes(&self, access: Option<EventNum>) -> Result<bool> {
        let Some(num) = access else { return Ok(false) };
        let found = self.rooms.events(self.room, Some(&self.overlay), &[num]).await?;
        Ok(welcomes(found.first().map(AsRef::as_ref)))
    }
}

fn welcomes(access: Option<&Event>) -> bool {
    access.and_then(|event| event.pdu.content_str("guest_access")) == Some("can_join")
}
