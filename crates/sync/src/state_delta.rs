//! Which state events bring a client from the state it has to the state that it should have, given the timeline that it
//! gets with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rooms::{Event, Room, Rooms, Roots};

use crate::Error;

/// A timeline's state events by type and state key, as the client applies them: the last one wins.
fn applied(timeline: &[Arc<Event>]) -> BTreeMap<(&str, &str), &Arc<Event>> {
    let state = timeline.iter().filter_map(|event| Some((event.pdu.state_entry()?, event)));
    state.collect()
}

/// The state delta up to the start of the timeline. A key that the timeline sets gets its value from before the
/// timeline; any other gets its final value, so that changes by state resolution, which have no event in the timeline,
/// arrive too.
///
/// # Errors
/// As the store says.
pub async fn before_timeline(
    rooms: &Rooms,
    room: &Room,
    known: Roots,
    start: Roots,
    end: Roots,
    timeline: &[Arc<Event>],
) -> Result<Vec<Arc<Event>>, Error> {
    let applied = applied(timeline);
    let in_timeline: BTreeSet<_> = timeline.iter().map(|event| event.num()).collect();
    let mut delta = Vec::new();
    for event in changed(rooms, room, known, end).await? {
        let set_by_timeline = event.pdu.state_entry().is_some_and(|entry| applied.contains_key(&entry));
        if !set_by_timeline && !in_timeline.contains(&event.num()) {
            delta.push(event);
        }
    }
    if applied.is_empty() {
        return Ok(delta);
    }
    if known == Roots::EMPTY {
        let pairs: Vec<_> = applied.keys().map(|(kind, key)| ((*kind).to_owned(), (*key).to_owned())).collect();
        delta.extend(rooms.state_map(room, None, start, &pairs).await?.0.into_values());
        return Ok(delta);
    }
    for event in changed(rooms, room, known, start).await? {
        if event.pdu.state_entry().is_some_and(|entry| applied.contains_key(&entry)) {
            delta.push(event);
        }
    }
    Ok(delta)
}

/// The state delta up to the end of the timeline.
///
/// # Errors
/// As the store says.
pub async fn after_timeline(rooms: &Rooms, room: &Room, known: Roots, end: Roots) -> Result<Vec<Arc<Event>>, Error> {
    changed(rooms, room, known, end).await
}

async fn changed(rooms: &Rooms, room: &Room, earlier: Roots, later: Roots) -> Result<Vec<Arc<Event>>, Error> {
    if earlier == later {
        return Ok(Vec::new());
    }
    if earlier == Roots::EMPTY {
        return Ok(rooms.whole_state(room, later).await?);
    }
    let nums: Vec<_> =
        rooms.state_delta(room, earlier, later).await?.into_iter().filter_map(|change| change.after).collect();
    Ok(rooms.events(room, None, &nums).await?)
}
