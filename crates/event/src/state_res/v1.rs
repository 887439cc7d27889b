//! State resolution of room version 1.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use ruma_common::OwnedEventId;
use sha1::{Digest, Sha1};

use super::{Room, StateMap};
use crate::auth_rules::{self, StateView};
use crate::pdu::Pdu;

/// Types whose conflicts are resolved before all others, in this order.
const AUTH_TYPES: [&str; 3] = ["m.room.power_levels", "m.room.join_rules", "m.room.member"];

/// The resolution so far on top of what the states agree on.
struct Resolved<'a> {
    room: &'a Room<'a>,
    entries: StateMap<Arc<Pdu>>,
}

impl StateView for Resolved<'_> {
    fn get(&self, kind: &str, state_key: &str) -> Option<Arc<Pdu>> {
        let own = StateView::get(&self.entries, kind, state_key);
        own.or_else(|| {
            let id = self.room.unconflicted.get(kind, state_key)?;
            self.room.events.event(&id)
        })
    }
}

pub(super) fn resolve(room: &Room<'_>, conflicted: &BTreeMap<OwnedEventId, Arc<Pdu>>) -> StateMap<OwnedEventId> {
    let mut by_entry: StateMap<Vec<Arc<Pdu>>> = StateMap::new();
    for pdu in conflicted.values() {
        if let Some((kind, state_key)) = pdu.state_entry() {
            by_entry.entry((kind.to_owned(), state_key.to_owned())).or_default().push(pdu.clone());
        }
    }
    let mut resolved = Resolved { room, entries: StateMap::new() };
    for auth_type in AUTH_TYPES {
        // Entries of one type do not see each other's resolution, so that the
        // order of state keys cannot matter.
        let of_type = by_entry.iter().filter(|((kind, _), _)| kind == auth_type);
        let chosen: Vec<_> = of_type
            .filter_map(|(entry, events)| Some((entry.clone(), resolve_auth_entry(&mut resolved, entry, events)?)))
            .collect();
        resolved.entries.extend(chosen);
    }
    let others = by_entry.iter().filter(|((kind, _), _)| !AUTH_TYPES.contains(&kind.as_str()));
    let chosen: Vec<_> =
        others.filter_map(|(entry, events)| Some((entry.clone(), resolve_entry(&resolved, events)?))).collect();
    resolved.entries.extend(chosen);
    resolved.entries.into_iter().map(|(entry, pdu)| (entry, pdu.event_id.clone())).collect()
}

/// Ascending depth, then descending SHA-1 of the event ID.
fn ordered(events: &[Arc<Pdu>]) -> Vec<Arc<Pdu>> {
    let mut events = events.to_vec();
    events.sort_by_cached_key(|pdu| {
        let hash: [u8; 20] = Sha1::digest(pdu.event_id.as_bytes()).into();
        (pdu.depth, Reverse(hash))
    });
    events
}

/// The last of a run of events in which each is allowed after the one before.
fn resolve_auth_entry(resolved: &mut Resolved<'_>, entry: &(String, String), events: &[Arc<Pdu>]) -> Option<Arc<Pdu>> {
    let mut events = ordered(events).into_iter();
    let mut chosen = events.next()?;
    for event in events {
        resolved.entries.insert(entry.clone(), chosen.clone());
        let allowed = is_allowed(resolved, &event);
        resolved.entries.remove(entry);
        if !allowed {
            break;
        }
        chosen = event;
    }
    Some(chosen)
}

/// The event of greatest depth that is allowed. The specification does not say
/// what to do when none is; the one of least depth stands then, so that the
/// entry does not vanish.
fn resolve_entry(resolved: &Resolved<'_>, events: &[Arc<Pdu>]) -> Option<Arc<Pdu>> {
    let events = ordered(events);
    let allowed = events.iter().rev().find(|event| is_allowed(resolved, event));
    allowed.or(events.first()).cloned()
}

fn is_allowed(resolved: &Resolved<'_>, event: &Pdu) -> bool {
    let Room { rules, create, .. } = resolved.room;
    auth_rules::check(rules, event, resolved, create).is_ok()
}
