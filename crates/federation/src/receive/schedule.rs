//! Whose turn it is: rooms with queued events take turns, one worker each, and no peer's events keep more than a few
//! workers busy. A turn is short: where the answers of other servers are waited for, the room is left to others.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Most rooms that are worked on at a time because of one peer's events.
const ROOMS_PER_PEER_MAX: usize = 4;
/// Most gaps that are filled at a time because of one peer's events.
const GAPS_PER_PEER_MAX: usize = 4;
/// Most gaps that are filled at a time: some workers are always left for what waits for nobody.
const GAPS_MAX: usize = super::WORKERS - 4;

/// The rooms that have queued events.
#[derive(Default)]
pub(super) struct Schedule {
    rooms: Mutex<Rooms>,
    /// Told whenever a room may have become ready.
    pub changed: Notify,
}

#[derive(Default)]
struct Rooms {
    /// Rooms and the server that sent what comes next in each, in the order of their turns.
    ready: VecDeque<(String, String)>,
    /// What is in `ready`.
    known: HashSet<String>,
    /// Rooms that a worker has, and whether something came meanwhile.
    taken: HashMap<String, bool>,
    /// How many rooms workers have because of each peer.
    per_peer: HashMap<String, usize>,
    /// Rooms with an event that is to be tried again, and when.
    later: BTreeSet<(i64, String, String)>,
    /// The gaps that are being filled, by peer and room.
    gaps: BTreeSet<(String, String)>,
}

/// A room that a worker has until this is dropped.
pub(super) struct Turn<'a> {
    schedule: &'a Schedule,
    /// The room.
    pub room_id: String,
    origin: String,
}

/// The right to fill a room's gap before a peer's events, until this is dropped.
pub(super) struct Filling<'a> {
    schedule: &'a Schedule,
    gap: (String, String),
}

impl Schedule {
    /// A room has a queued event of a peer.
    pub fn add(&self, room_id: &str, origin: &str) {
        self.rooms.lock().add(room_id, origin);
        self.changed.notify_one();
    }

    /// A room has a queued event that is not to be tried before `due_ms`.
    pub fn add_later(&self, room_id: &str, origin: &str, due_ms: i64) {
        self.rooms.lock().later.insert((due_ms, room_id.to_owned(), origin.to_owned()));
    }

    /// The room whose turn it is now.
    pub fn next(&self, now_ms: i64) -> Option<Turn<'_>> {
        let mut rooms = self.rooms.lock();
        while rooms.later.first().is_some_and(|(due_ms, _, _)| *due_ms <= now_ms) {
            let Some((_, room_id, origin)) = rooms.later.pop_first() else { break };
            rooms.add(&room_id, &origin);
        }
        let free = |origin: &str| rooms.per_peer.get(origin).is_none_or(|n| *n < ROOMS_PER_PEER_MAX);
        let place = rooms.ready.iter().position(|(_, origin)| free(origin))?;
        let (room_id, origin) = rooms.ready.remove(place)?;
        rooms.known.remove(&room_id);
        rooms.taken.insert(room_id.clone(), false);
        *rooms.per_peer.entry(origin.clone()).or_default() += 1;
        Some(Turn { schedule: self, room_id, origin })
    }

    /// The right to fill a room's gap before a peer's events. `None` if somebody has it, or too many gaps are being
    /// filled.
    pub fn fill(&self, room_id: &str, origin: &str) -> Option<Filling<'_>> {
        let mut rooms = self.rooms.lock();
        let gap = (origin.to_owned(), room_id.to_owned());
        let of_peer = rooms.gaps.iter().filter(|(peer, _)| peer == origin).count();
        let free = rooms.gaps.len() < GAPS_MAX && of_peer < GAPS_PER_PEER_MAX;
        (free && rooms.gaps.insert(gap.clone())).then(|| Filling { schedule: self, gap })
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        self.schedule.rooms.lock().gaps.remove(&self.gap);
    }
}

impl Rooms {
    fn add(&mut self, room_id: &str, origin: &str) {
        if let Some(again) = self.taken.get_mut(room_id) {
            *again = true;
        } else if self.known.insert(room_id.to_owned()) {
            self.ready.push_back((room_id.to_owned(), origin.to_owned()));
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut rooms = self.schedule.rooms.lock();
        let again = rooms.taken.remove(&self.room_id).unwrap_or(false);
        if let Some(n) = rooms.per_peer.get_mut(&self.origin) {
            *n -= 1;
            if *n == 0 {
                rooms.per_peer.remove(&self.origin);
            }
        }
        if again {
            rooms.add(&self.room_id, &self.origin);
        }
        drop(rooms);
        self.schedule.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn fe6_gaps_are_filled_by_a_few_and_each_by_one() {
        let schedule = Schedule::default();
        let first = schedule.fill("!a", "x").unwrap();
        assert!(schedule.fill("!a", "x").is_none(), "it is being filled");
        let mut held = vec![first, schedule.fill("!a", "y").unwrap()];
        for number in 1..GAPS_PER_PEER_MAX {
            held.push(schedule.fill(&number.to_string(), "x").unwrap());
        }
        assert!(schedule.fill("!z", "x").is_none(), "one peer's events keep only so many workers waiting");
        while held.len() < GAPS_MAX {
            held.push(schedule.fill("!a", &held.len().to_string()).unwrap());
        }
        assert!(schedule.fill("!a", "w").is_none());
        held.clear();
        assert!(schedule.fill("!a", "x").is_some());
    }

    #[test]
    fn rooms_take_turns_and_none_has_two_workers() {
        let schedule = Schedule::default();
        schedule.add("!a", "x");
        schedule.add("!b", "y");
        schedule.add("!a", "x");
        let first = schedule.next(0).unwrap();
        assert_eq!(first.room_id, "!a");
        schedule.add("!a", "z");
        assert_eq!(schedule.next(0).unwrap().room_id, "!b");
        assert!(schedule.next(0).is_none(), "a worker has it");
        drop(first);
        assert_eq!(schedule.next(0).unwrap().room_id, "!a", "something came meanwhile");
        assert!(schedule.next(0).is_none());
    }

    #[test]
    fn fe6_one_peer_keeps_only_a_few_workers_busy() {
        let schedule = Schedule::default();
        for n in 0..10 {
            schedule.add(&format!("!evil{n}"), "evil");
        }
        schedule.add("!good", "good");
        let taken: Vec<Turn<'_>> = std::iter::from_fn(|| schedule.next(0)).collect();
        assert_eq!(taken.len(), ROOMS_PER_PEER_MAX + 1);
        assert_eq!(taken.last().unwrap().room_id, "!good");
        drop(taken);
        assert!(schedule.next(0).is_some());
    }

    #[test]
    fn what_is_to_be_tried_later_waits() {
        let schedule = Schedule::default();
        schedule.add_later("!a", "x", 100);
        assert!(schedule.next(99).is_none());
        assert_eq!(schedule.next(100).unwrap().room_id, "!a");
        assert!(schedule.next(1_000).is_none());
    }
}
