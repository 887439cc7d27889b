//! The walk from events to those before them, the deepest first, which `/backfill` and `/get_missing_events` make
//! (server-server API, "Backfilling and retrieving missing events").
//!
//! What another server says that it has, it has with all that came before: none of that is for the answer, since it
//! would ask for the state at events that it cannot place. Only where one of those events follows an event of which it
//! asks for what came before, it has a gap between them, and what it has says nothing of what it lacks.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use ruma_common::OwnedEventId;

use crate::event::Event;
use crate::room::Room;
use crate::{Result, Rooms};

/// Most events that one walk looks at, whether they are in the answer or not.
const WALKED_MAX: usize = 2_000;
/// Most events that it looks at on the way down to those whose past is asked for.
const ABOVE_MAX: usize = 500;
/// Events that the other server has, of which one walk minds what came before them.
const HAD_MAX: usize = 128;

/// What the walk knows of an event.
#[derive(Clone, Copy, Default)]
struct Mark {
    /// Its past is asked for, but not itself.
    end: bool,
    /// It came before such an event.
    wanted: bool,
    /// The events, a bit each, that the other server has and before which it came.
    had: u128,
    /// It is yet to be looked at.
    queued: bool,
}

/// A walk under way.
pub(super) struct Walk<'a> {
    rooms: &'a Rooms,
    room: &'a Room,
    min_depth: i64,
    heap: BinaryHeap<Step>,
    marks: HashMap<OwnedEventId, Mark>,
    /// Bits of events that follow one whose past is asked for.
    void: u128,
    /// Events yet to be looked at that may lead to the answer.
    open: usize,
    /// Depth of the deepest event at which it begins.
    begins: i64,
}

impl<'a> Walk<'a> {
    /// A walk that passes over events of a smaller depth.
    pub fn new(rooms: &'a Rooms, room: &'a Room, min_depth: i64) -> Self {
        let (heap, marks) = (BinaryHeap::new(), HashMap::new());
        Self { rooms, room, min_depth, heap, marks, void: 0, open: 0, begins: i64::MIN }
    }

    /// It begins with these events, which are part of the answer.
    pub async fn from(&mut self, ids: &[OwnedEventId]) -> Result<()> {
        self.reach(ids, Mark { wanted: true, ..Mark::default() }).await
    }

    /// It begins before these events.
    pub async fn before(&mut self, ids: &[OwnedEventId]) -> Result<()> {
        self.reach(ids, Mark { end: true, ..Mark::default() }).await
    }

    /// The other server has these events.
    pub async fn had(&mut self, ids: &[OwnedEventId]) -> Result<()> {
        for (bit, id) in ids.iter().take(HAD_MAX).enumerate() {
            self.reach(std::slice::from_ref(id), Mark { had: 1 << bit, ..Mark::default() }).await?;
        }
        Ok(())
    }

    /// The events that it leads to, the deepest first, at most `limit`. Rejected ones are left out.
    pub async fn run(mut self, limit: usize) -> Result<Vec<Arc<Event>>> {
        let mut answer: Vec<Arc<Event>> = Vec::new();
        let (mut walked, mut above) = (0, 0);
        while answer.len() < limit && self.open > 0 && walked < WALKED_MAX {
            let Some(Step(event)) = self.heap.pop() else { break };
            walked += 1;
            let mark = self.look_at(event.id());
            if !mark.wanted && event.row.depth > self.begins {
                above += 1;
                if above > ABOVE_MAX {
                    // So far up that it is not worth the way down.
                    self.void(mark.had);
                    continue;
                }
            }
            if mark.wanted && !mark.end && !event.rejected() {
                answer.push(Arc::clone(&event));
            }
            self.reach(&event.pdu.prev_events, Mark { wanted: mark.wanted, had: mark.had, ..Mark::default() }).await?;
        }
        // What lies about its depth is found to be had only after it was looked at.
        answer.retain(|event| self.marks.get(event.id()).is_some_and(|mark| self.leads(mark)));
        Ok(answer)
    }

    /// Whether an event is for the answer, or what came before it.
    fn leads(&self, mark: &Mark) -> bool {
        mark.end || (mark.wanted && mark.had & !self.void == 0)
    }

    /// Takes an event out of the queue; `wanted` says then whether it leads on.
    fn look_at(&mut self, id: &OwnedEventId) -> Mark {
        let mark = self.marks.get(id).copied().unwrap_or_default();
        if self.leads(&mark) {
            self.open -= 1;
        }
        if let Some(mark) = self.marks.get_mut(id) {
            mark.queued = false;
        }
        if mark.end {
            self.void(mark.had);
        }
        Mark { wanted: self.leads(&mark), ..mark }
    }

    /// That the other server has these says nothing.
    fn void(&mut self, bits: u128) {
        if bits & !self.void != 0 {
            self.void |= bits;
            self.open = self.marks.values().filter(|mark| mark.queued && self.leads(mark)).count();
        }
    }

    /// Marks events, and queues those that are seen for the first time.
    async fn reach(&mut self, ids: &[OwnedEventId], more: Mark) -> Result<()> {
        let mut fresh = Vec::new();
        for id in ids {
            let known = self.marks.get(id).copied();
            let before = known.unwrap_or_default();
            let after = Mark {
                end: before.end || more.end,
                wanted: before.wanted || more.wanted,
                had: before.had | more.had,
                queued: before.queued,
            };
            if after.queued {
                self.open = self.open + usize::from(self.leads(&after)) - usize::from(self.leads(&before));
            }
            self.marks.insert(id.clone(), after);
            if known.is_none() {
                fresh.push(id.clone());
            }
        }
        for event in self.rooms.known_events(self.room, &fresh).await? {
            let Some(mark) = self.marks.get_mut(event.id()) else { continue };
            if event.row.depth < self.min_depth || mark.queued {
                continue;
            }
            mark.queued = true;
            let mark = *mark;
            self.open += usize::from(self.leads(&mark));
            if mark.end {
                self.begins = self.begins.max(event.row.depth);
            }
            self.heap.push(Step(event));
        }
        Ok(())
    }
}

/// An event on the way back: the deepest first, then the youngest, then by id.
struct Step(Arc<Event>);

impl Step {
    fn rank(&self) -> (i64, i64, &OwnedEventId) {
        (self.0.row.depth, self.0.row.ts, self.0.id())
    }
}

impl PartialEq for Step {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Step {}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Step {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}
