//! Walks through auth chains: the auth difference and the conflicted subgraph.
//!
//! Both cost what the conflict is if events have generations (see
//! [`Events::generation`]): from the newest event down, a walk may stop once
//! nothing that is left can change the answer. Without generations the walks
//! go down to the create event.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ruma_common::OwnedEventId;

use super::Events;

/// The auth chain of events: their auth events, the auth events of those, and
/// so on, in order of their IDs. The events themselves are not part of it
/// unless one is in the chain of another. Events that are not to be had are
/// left out.
pub fn auth_chain(ids: impl IntoIterator<Item = OwnedEventId>, events: &dyn Events) -> BTreeSet<OwnedEventId> {
    let mut chain = BTreeSet::new();
    let mut pending: Vec<OwnedEventId> = ids.into_iter().collect();
    while let Some(id) = pending.pop() {
        let Some(pdu) = events.event(&id) else { continue };
        for auth_id in &pdu.auth_events {
            if !chain.contains(auth_id) && events.event(auth_id).is_some() {
                chain.insert(auth_id.clone());
                pending.push(auth_id.clone());
            }
        }
    }
    chain
}

/// The auth difference of states: every event that is in the auth chain of
/// some of them but not of all.
///
/// `conflicted_per_set` holds for each state those of its events that not all
/// states share. `unconflicted` is asked at most once, and only if there is a
/// difference without them, for the events that all states share; it may leave
/// out those whose generation is not above the given one, since they cannot
/// reach the difference.
pub fn auth_difference(
    conflicted_per_set: &[Vec<OwnedEventId>],
    unconflicted: impl FnOnce(u64) -> Vec<OwnedEventId>,
    events: &dyn Events,
) -> BTreeSet<OwnedEventId> {
    let mut walk = Walk::new(events, conflicted_per_set.len());
    for (set, ids) in conflicted_per_set.iter().enumerate() {
        for id in ids {
            walk.cite_auth_events(id, &walk.only(set));
        }
    }
    walk.run(false);
    let mut difference = walk.difference();
    if difference.is_empty() {
        return difference;
    }
    // What the shared events build on is in the chains of all states.
    let floor = difference.iter().filter_map(|id| events.generation(id)).min();
    let complete = difference.iter().all(|id| events.generation(id).is_some());
    let floor = if complete { floor.unwrap_or(0) } else { 0 };
    let mut shared = Walk::new(events, 1);
    for id in unconflicted(floor) {
        shared.cite_auth_events(&id, &shared.only(0));
    }
    shared.stop_below = floor;
    shared.run(true);
    difference.retain(|id| !shared.reached.contains_key(id));
    difference
}

/// Bits of the sets in whose chains an event is.
type Sets = Vec<u64>;

/// A walk from the greatest generation down, marking each event with the sets
/// from which it is reached.
struct Walk<'a> {
    events: &'a dyn Events,
    n_sets: usize,
    /// What was reached, from which sets.
    reached: HashMap<OwnedEventId, Sets>,
    /// Events whose auth events still have to be marked, newest generation first.
    pending: BTreeMap<(u64, OwnedEventId), bool>,
    /// How many of `pending` are not reached from all sets.
    n_partial: usize,
    /// Whether every event seen has a generation, so that one visit each is
    /// enough and the walk may stop early.
    ordered: bool,
    /// Events of a lower generation are not visited if the walk is ordered.
    stop_below: u64,
}

impl<'a> Walk<'a> {
    fn new(events: &'a dyn Events, n_sets: usize) -> Self {
        Walk {
            events,
            n_sets,
            reached: HashMap::new(),
            pending: BTreeMap::new(),
            n_partial: 0,
            ordered: true,
            stop_below: 0,
        }
    }

    /// The mark of one set.
    fn only(&self, set: usize) -> Sets {
        let mut sets = vec![0; self.n_sets.div_ceil(64)];
        sets[set / 64] |= 1 << (set % 64);
        sets
    }

    fn is_full(&self, sets: &Sets) -> bool {
        sets.iter().map(|word| word.count_ones() as usize).sum::<usize>() == self.n_sets
    }

    /// Marks the auth events of an event.
    fn cite_auth_events(&mut self, id: &OwnedEventId, sets: &Sets) {
        let Some(pdu) = self.events.event(id) else { return };
        for auth_id in &pdu.auth_events {
            self.reach(auth_id, sets);
        }
    }

    /// Marks an event and queues it if that is news.
    fn reach(&mut self, id: &OwnedEventId, sets: &Sets) {
        let known = self.reached.get(id);
        if known.is_none() && self.events.event(id).is_none() {
            return;
        }
        let mut merged = known.cloned().unwrap_or_else(|| vec![0; sets.len()]);
        merged.iter_mut().zip(sets).for_each(|(to, from)| *to |= from);
        if known == Some(&merged) {
            return;
        }
        let generation = self.events.generation(id);
        self.ordered &= generation.is_some();
        // The newest go last in the map, from which they are popped.
        let key = (generation.unwrap_or(u64::MAX), id.clone());
        let full = self.is_full(&merged);
        self.reached.insert(id.clone(), merged);
        if self.ordered && key.0 < self.stop_below {
            return;
        }
        let was_full = self.pending.insert(key, full);
        self.n_partial -= usize::from(was_full == Some(false));
        self.n_partial += usize::from(!full);
    }

    /// Walks until nothing is left, or, if all is ordered, until everything
    /// left is reached from all sets. `to_the_end` walks on regardless.
    fn run(&mut self, to_the_end: bool) {
        while !(self.ordered && self.n_partial == 0 && !to_the_end) {
            let Some(((_, id), full)) = self.pending.pop_last() else { return };
            self.n_partial -= usize::from(!full);
            let sets = self.reached.get(&id).cloned().unwrap_or_default();
            self.cite_auth_events(&id, &sets);
        }
    }

    fn difference(&self) -> BTreeSet<OwnedEventId> {
        let partial = self.reached.iter().filter(|(_, sets)| !self.is_full(sets));
        partial.map(|(id, _)| id.clone()).collect()
    }
}

/// The conflicted state subgraph: all events on paths along auth events from
/// one conflicted event to another, with both ends.
pub fn conflicted_subgraph(conflicted: &BTreeSet<OwnedEventId>, events: &dyn Events) -> BTreeSet<OwnedEventId> {
    let generations: Option<Vec<u64>> = conflicted.iter().map(|id| events.generation(id)).collect();
    let floor = generations.and_then(|all| all.into_iter().min());
    // What cites what, among everything reached from the conflicted events.
    let mut citing: HashMap<OwnedEventId, Vec<OwnedEventId>> = HashMap::new();
    let mut seen: BTreeSet<OwnedEventId> = conflicted.clone();
    let mut pending: Vec<OwnedEventId> = conflicted.iter().cloned().collect();
    while let Some(id) = pending.pop() {
        let Some(pdu) = events.event(&id) else { continue };
        for auth_id in &pdu.auth_events {
            let below = floor.zip(events.generation(auth_id)).is_some_and(|(min, own)| own < min);
            if below {
                continue;
            }
            citing.entry(auth_id.clone()).or_default().push(id.clone());
            if seen.insert(auth_id.clone()) {
                pending.push(auth_id.clone());
            }
        }
    }
    // Everything from which a conflicted event can be reached.
    let mut subgraph = BTreeSet::new();
    let mut pending: Vec<&OwnedEventId> = conflicted.iter().filter(|id| citing.contains_key(*id)).collect();
    while let Some(id) = pending.pop() {
        if subgraph.insert(id.clone()) {
            pending.extend(citing.get(id).into_iter().flatten());
        }
    }
    subgraph
}
