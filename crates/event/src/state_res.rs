//! State resolution: one room state out of those that forks of a room lead to.
//!
//! A caller with whole state maps uses [`resolve_all`]. An engine with large
//! rooms hands over the conflicted part only: it splits its states itself
//! (or with [`split`]), obtains the [`auth_difference`] and, in room version
//! 12, the [`conflicted_subgraph`], and calls [`resolve_conflicted`] with a
//! lookup for everything that all states agree on. What comes back is the
//! resolved conflicted part; the rest of the state stays as it was.
//!
//! The result depends on the events alone, never on the order in which states
//! or events are given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ruma_common::{EventId, OwnedEventId};

use crate::pdu::{Pdu, create_of_room_id};
use crate::room_version::{Rules, StateRes};

mod chain;
mod v1;
mod v2;

pub use chain::{auth_chain, auth_difference, conflicted_subgraph};

/// A room state: what it holds under each type and state key.
pub type StateMap<T> = BTreeMap<(String, String), T>;

/// The events that a resolution reads.
pub trait Events {
    /// An event of the room.
    fn event(&self, id: &EventId) -> Option<Arc<Pdu>>;

    /// Whether an event was rejected; a rejected auth event authorizes nothing.
    fn rejected(&self, _id: &EventId) -> bool {
        false
    }

    /// One more than the greatest generation of the event's auth events, or 0
    /// without any; computed when the event is stored, unlike `depth`, which a
    /// peer may invent. With generations the walks through auth chains stop
    /// early; without they visit whole chains, with the same result.
    fn generation(&self, _id: &EventId) -> Option<u64> {
        None
    }
}

/// The part of a state on which all states to be resolved agree.
pub trait UnconflictedState {
    /// The event under a type and state key, if all states hold the same one.
    fn get(&self, kind: &str, state_key: &str) -> Option<OwnedEventId>;
}

impl UnconflictedState for StateMap<OwnedEventId> {
    fn get(&self, kind: &str, state_key: &str) -> Option<OwnedEventId> {
        BTreeMap::get(self, &(kind.to_owned(), state_key.to_owned())).cloned()
    }
}

/// Why states cannot be resolved: the caller's data contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// An event of the states is not to be had.
    #[error("the event {0} is missing")]
    MissingEvent(OwnedEventId),
    /// The create event of the room is not to be had.
    #[error("the create event of the room is missing")]
    NoCreate,
}

/// States split by whether they agree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Split {
    /// What all states hold alike.
    pub unconflicted: StateMap<OwnedEventId>,
    /// What they do not, with all different events, in order of their IDs.
    pub conflicted: StateMap<Vec<OwnedEventId>>,
}

/// Splits states into what they agree on and what not.
///
/// An entry that only some states hold is in conflict from room version 2 on;
/// in version 1 it is not, unless the events differ.
pub fn split(rules: &Rules, state_sets: &[StateMap<OwnedEventId>]) -> Split {
    let mut counts: BTreeMap<&(String, String), BTreeMap<&OwnedEventId, usize>> = BTreeMap::new();
    for (entry, id) in state_sets.iter().flatten() {
        *counts.entry(entry).or_default().entry(id).or_default() += 1;
    }
    let mut split = Split::default();
    for (entry, ids) in counts {
        let everywhere = ids.values().sum::<usize>() == state_sets.len();
        let agreed = ids.len() == 1 && (everywhere || rules.state_res == StateRes::V1);
        if let (true, Some((id, _))) = (agreed, ids.first_key_value()) {
            split.unconflicted.insert(entry.clone(), (*id).clone());
        } else {
            split.conflicted.insert(entry.clone(), ids.into_keys().cloned().collect());
        }
    }
    split
}

/// Resolves whole state maps, walking the auth chains as far as necessary.
///
/// # Errors
///
/// If events of the states are missing.
pub fn resolve_all(
    rules: &Rules,
    state_sets: &[StateMap<OwnedEventId>],
    events: &dyn Events,
) -> Result<StateMap<OwnedEventId>, ResolveError> {
    let Split { unconflicted, conflicted } = split(rules, state_sets);
    let conflicted: BTreeSet<OwnedEventId> = conflicted.into_values().flatten().collect();
    let (mut difference, mut subgraph) = (BTreeSet::new(), BTreeSet::new());
    if rules.state_res != StateRes::V1 {
        let in_conflict = |state: &StateMap<OwnedEventId>| -> Vec<OwnedEventId> {
            state.values().filter(|id| conflicted.contains(*id)).cloned().collect()
        };
        let per_set: Vec<_> = state_sets.iter().map(in_conflict).collect();
        let shared = |_min_generation| unconflicted.values().cloned().collect();
        difference = auth_difference(&per_set, shared, events);
    }
    if rules.state_res == StateRes::V2_1 {
        subgraph = conflicted_subgraph(&conflicted, events);
    }
    resolve(rules, state_sets, &difference, &subgraph, events)
}

/// Resolves whole state maps with a given auth difference and, in room version
/// 12, conflicted state subgraph; both are ignored in room version 1.
///
/// # Errors
///
/// If events of the states are missing.
pub fn resolve(
    rules: &Rules,
    state_sets: &[StateMap<OwnedEventId>],
    auth_difference: &BTreeSet<OwnedEventId>,
    conflicted_subgraph: &BTreeSet<OwnedEventId>,
    events: &dyn Events,
) -> Result<StateMap<OwnedEventId>, ResolveError> {
    let Split { mut unconflicted, conflicted } = split(rules, state_sets);
    if conflicted.is_empty() {
        return Ok(unconflicted);
    }
    let mut full: BTreeSet<OwnedEventId> = conflicted.into_values().flatten().collect();
    if rules.state_res != StateRes::V1 {
        full.extend(auth_difference.iter().cloned());
    }
    if rules.state_res == StateRes::V2_1 {
        full.extend(conflicted_subgraph.iter().cloned());
    }
    let resolved = resolve_conflicted(rules, &unconflicted, full, events)?;
    unconflicted.extend(resolved);
    Ok(unconflicted)
}

/// Resolves the full conflicted set: the conflicted state set, the auth
/// difference and, in room version 12, the conflicted state subgraph. In room
/// version 1 it is the conflicted state set alone.
///
/// The result holds resolved entries only and none that `unconflicted` has;
/// the new state is `unconflicted` with the result added.
///
/// # Errors
///
/// If one of the events or the create event is missing.
pub fn resolve_conflicted(
    rules: &Rules,
    unconflicted: &dyn UnconflictedState,
    full_conflicted_set: impl IntoIterator<Item = OwnedEventId>,
    events: &dyn Events,
) -> Result<StateMap<OwnedEventId>, ResolveError> {
    let mut conflicted = BTreeMap::new();
    for id in full_conflicted_set {
        let Some(pdu) = events.event(&id) else { return Err(ResolveError::MissingEvent(id)) };
        conflicted.insert(id, pdu);
    }
    if conflicted.is_empty() {
        return Ok(StateMap::new());
    }
    let create = find_create(rules, unconflicted, &conflicted, events)?;
    let room = Room { rules, unconflicted, events, create };
    Ok(match rules.state_res {
        StateRes::V1 => v1::resolve(&room, &conflicted),
        StateRes::V2 | StateRes::V2_1 => v2::resolve(&room, &conflicted),
    })
}

/// What the algorithms share.
struct Room<'a> {
    rules: &'a Rules,
    unconflicted: &'a dyn UnconflictedState,
    events: &'a dyn Events,
    create: Arc<Pdu>,
}

fn find_create(
    rules: &Rules,
    unconflicted: &dyn UnconflictedState,
    conflicted: &BTreeMap<OwnedEventId, Arc<Pdu>>,
    events: &dyn Events,
) -> Result<Arc<Pdu>, ResolveError> {
    let create = if rules.special_create {
        let any = conflicted.values().next();
        any.and_then(|pdu| create_of_room_id(&pdu.room_id)).and_then(|id| events.event(&id))
    } else {
        let agreed = unconflicted.get("m.room.create", "").and_then(|id| events.event(&id));
        agreed.or_else(|| create_among(conflicted, events))
    };
    create.ok_or(ResolveError::NoCreate)
}

/// The create event as one of the events or of their auth events.
fn create_among(conflicted: &BTreeMap<OwnedEventId, Arc<Pdu>>, events: &dyn Events) -> Option<Arc<Pdu>> {
    let cited = conflicted
        .values()
        .flat_map(|pdu| &pdu.auth_events)
        .filter_map(|id| events.event(id))
        .find(|pdu| pdu.is_create());
    cited.or_else(|| conflicted.values().find(|pdu| pdu.is_create()).cloned())
}
