//! State resolution of room versions 2 to 11, and as changed in version 12.
//!
//! 1. The power events of the full conflicted set, with what they build on in
//!    that set, are sorted by reverse topological power ordering.
//! 2. Iterative auth checks over them give a partially resolved state. It
//!    starts from the unconflicted state, in version 12 from nothing.
//! 3. All others are sorted by mainline ordering, based on the power levels of
//!    the partially resolved state.
//! 4. Iterative auth checks over those complete it.
//! 5. Unconflicted entries win over resolved ones.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ruma_common::{EventId, OwnedEventId};

use super::{Room, StateMap};
use crate::auth_rules::{self, StateView};
use crate::pdu::Pdu;
use crate::power_levels::{Level, PowerLevels};
use crate::room_version::StateRes;

/// Events by ID, in a stable order.
type EventMap = BTreeMap<OwnedEventId, Arc<Pdu>>;

pub(super) fn resolve(room: &Room<'_>, conflicted: &EventMap) -> StateMap<OwnedEventId> {
    let power_events = power_events_and_their_base(conflicted);
    let sorted_power_events = reverse_topological_power_order(room, &power_events);
    let mut partial = PartialState { room, entries: StateMap::new() };
    partial.check_each(&sorted_power_events);

    let remaining = conflicted.iter().filter(|(id, _)| !power_events.contains_key(*id));
    let remaining: Vec<Arc<Pdu>> = remaining.map(|(_, pdu)| pdu.clone()).collect();
    let power_levels = partial.get("m.room.power_levels", "");
    let sorted = mainline_order(room, power_levels, remaining);
    partial.check_each(&sorted);

    let unconflicted = |entry: &(String, String)| room.unconflicted.get(&entry.0, &entry.1);
    partial
        .entries
        .into_iter()
        .filter(|(entry, _)| unconflicted(entry).is_none())
        .map(|(entry, pdu)| (entry, pdu.event_id.clone()))
        .collect()
}

/// Whether the event might remove someone's ability to do something.
fn is_power_event(pdu: &Pdu) -> bool {
    match pdu.kind.as_str() {
        // With another state key these types have no power.
        "m.room.power_levels" | "m.room.join_rules" => pdu.state_key.as_deref() == Some(""),
        "m.room.member" => {
            matches!(pdu.membership(), Some("leave" | "ban")) && pdu.state_key.as_deref() != Some(&pdu.sender)
        }
        _ => false,
    }
}

/// The power events, and what of the full conflicted set is reached from them
/// through auth events of that set.
fn power_events_and_their_base(conflicted: &EventMap) -> EventMap {
    let mut found = EventMap::new();
    let mut pending: Vec<&Arc<Pdu>> = conflicted.values().filter(|pdu| is_power_event(pdu)).collect();
    while let Some(pdu) = pending.pop() {
        if found.insert(pdu.event_id.clone(), pdu.clone()).is_none() {
            pending.extend(pdu.auth_events.iter().filter_map(|id| conflicted.get(id)));
        }
    }
    found
}

/// Kahn's algorithm; among the candidates the one whose sender has the
/// greatest power goes first, then the oldest, then the least ID.
fn reverse_topological_power_order(room: &Room<'_>, events: &EventMap) -> Vec<Arc<Pdu>> {
    let mut missing: HashMap<&EventId, usize> = HashMap::new();
    let mut citing: HashMap<&EventId, Vec<&Arc<Pdu>>> = HashMap::new();
    let mut ready = BTreeSet::new();
    let order_of = |pdu: &Pdu| (Reverse(sender_level(room, pdu)), pdu.origin_server_ts, pdu.event_id.clone());
    for (id, pdu) in events {
        let cited: BTreeSet<_> = pdu.auth_events.iter().filter(|id| events.contains_key(*id)).collect();
        for auth_id in &cited {
            citing.entry(auth_id).or_default().push(pdu);
        }
        if cited.is_empty() {
            ready.insert(order_of(pdu));
        }
        missing.insert(id, cited.len());
    }
    let mut sorted = Vec::with_capacity(events.len());
    while let Some((_, _, id)) = ready.pop_first() {
        for pdu in citing.get(&*id).into_iter().flatten() {
            if let Some(count) = missing.get_mut(&*pdu.event_id) {
                *count -= 1;
                if *count == 0 {
                    ready.insert(order_of(pdu));
                }
            }
        }
        sorted.extend(events.get(&id).cloned());
    }
    sorted
}

/// The power level of the sender, as the event's own auth events tell it.
fn sender_level(room: &Room<'_>, pdu: &Pdu) -> Level {
    let power_levels = power_levels_of(room, pdu);
    PowerLevels::from_state(room.rules, power_levels.as_deref(), &room.create).user(&pdu.sender)
}

/// The `m.room.power_levels` event among the auth events.
fn power_levels_of(room: &Room<'_>, pdu: &Pdu) -> Option<Arc<Pdu>> {
    let cited = pdu.auth_events.iter().filter_map(|id| room.events.event(id));
    cited.into_iter().find(|auth| auth.is_state_of("m.room.power_levels", ""))
}

/// Sorts by the place in the history of power levels on which each event
/// builds, earliest first; then by time, then by ID.
fn mainline_order(room: &Room<'_>, power_levels: Option<Arc<Pdu>>, mut events: Vec<Arc<Pdu>>) -> Vec<Arc<Pdu>> {
    let mut positions: HashMap<OwnedEventId, usize> = HashMap::new();
    let mut next = power_levels;
    while let Some(pdu) = next {
        // Chosen IDs (room version 2) could make a circle.
        if positions.contains_key(&pdu.event_id) {
            break;
        }
        positions.insert(pdu.event_id.clone(), positions.len());
        next = power_levels_of(room, &pdu);
    }
    let mut known = positions;
    events.sort_by_cached_key(|pdu| {
        let position = mainline_position(room, pdu, &mut known);
        (Reverse(position), pdu.origin_server_ts, pdu.event_id.clone())
    });
    events
}

/// The index in the mainline of the closest power levels below the event;
/// `usize::MAX` if they never meet it. What was found is remembered for the
/// power levels on the way.
fn mainline_position(room: &Room<'_>, event: &Pdu, known: &mut HashMap<OwnedEventId, usize>) -> usize {
    let mut passed = HashSet::new();
    let mut position = usize::MAX;
    let mut next = power_levels_of(room, event);
    while let Some(pdu) = next {
        if let Some(found) = known.get(&pdu.event_id) {
            position = *found;
            break;
        }
        if !passed.insert(pdu.event_id.clone()) {
            break;
        }
        next = power_levels_of(room, &pdu);
    }
    known.extend(passed.into_iter().map(|id| (id, position)));
    position
}

/// The state while it is being resolved.
struct PartialState<'a> {
    room: &'a Room<'a>,
    entries: StateMap<Arc<Pdu>>,
}

impl StateView for PartialState<'_> {
    fn get(&self, kind: &str, state_key: &str) -> Option<Arc<Pdu>> {
        let resolved = StateView::get(&self.entries, kind, state_key);
        if resolved.is_some() || self.room.rules.state_res == StateRes::V2_1 {
            return resolved;
        }
        let id = self.room.unconflicted.get(kind, state_key)?;
        self.room.events.event(&id)
    }
}

impl PartialState<'_> {
    /// Iterative auth checks: takes each event that is allowed by then.
    fn check_each(&mut self, events: &[Arc<Pdu>]) {
        for pdu in events {
            let Some((kind, state_key)) = pdu.state_entry() else { continue };
            let entry = (kind.to_owned(), state_key.to_owned());
            let view = WithAuthEvents { state: self, auth: self.auth_events(pdu) };
            let Room { rules, create, .. } = self.room;
            if auth_rules::check(rules, pdu, &view, create).is_ok() {
                self.entries.insert(entry, pdu.clone());
            }
        }
    }

    /// The auth events of an event that were not rejected.
    fn auth_events(&self, pdu: &Pdu) -> Vec<Arc<Pdu>> {
        let events = self.room.events;
        let accepted = pdu.auth_events.iter().filter(|id| !events.rejected(id));
        accepted.filter_map(|id| events.event(id)).collect()
    }
}

/// The partially resolved state, filled up from an event's auth events.
struct WithAuthEvents<'a> {
    state: &'a PartialState<'a>,
    auth: Vec<Arc<Pdu>>,
}

impl StateView for WithAuthEvents<'_> {
    fn get(&self, kind: &str, state_key: &str) -> Option<Arc<Pdu>> {
        let auth = || self.auth.iter().find(|pdu| pdu.is_state_of(kind, state_key)).cloned();
        self.state.get(kind, state_key).or_else(auth)
    }
}
