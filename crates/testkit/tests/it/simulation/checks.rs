//! What must be true when the faults are over and everything has been sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rooms::{Room, flags};
use store::Read;
use store::tables::rooms::{EventRow, HistoryGapRow};
use testkit::text;

use super::forgery::Forged;
use super::node::{Node, Up};
use super::people::Person;
use super::story::{SharedRoom, Story};

/// What was found.
#[derive(Default)]
pub struct Found {
    /// What must not be.
    pub wrong: Vec<String>,
    /// State events of all rooms.
    pub state_events: u64,
    /// Events of all rooms.
    pub events: u64,
    /// Events that a server keeps and does not show.
    pub soft_failed: u64,
    /// Servers that believe to be in a room and are not, for the others.
    pub astray: u64,
    /// Forged events, once for each server that got them.
    pub forged: u64,
}

/// A room as one server has it.
struct View {
    server: String,
    up: Arc<Up>,
    room: Arc<Room>,
    /// Servers that are in the room.
    servers: BTreeSet<String>,
    /// The current state, by event ids.
    state: BTreeMap<(String, String), String>,
    extremities: BTreeSet<String>,
    /// Flags of every event that is known.
    flags: BTreeMap<String, i64>,
    /// Events that became news at a position.
    news: BTreeSet<String>,
    state_events: BTreeSet<String>,
    /// Events that are part of the history.
    shown: BTreeSet<String>,
    /// Whether the room's first event is part of its history here.
    has_beginning: bool,
}

/// Checks everything.
pub async fn check(story: &Story, forged: &[Forged]) -> Found {
    let mut found = Found::default();
    for syncer in &story.syncers {
        found.wrong.extend(syncer.wrongs());
        if syncer.syncs() == 0 {
            found.wrong.push(format!("{} never synced", syncer.person.user));
        }
    }
    for room in &story.rooms {
        check_room(story, room, forged, &mut found).await;
    }
    found
}

async fn check_room(story: &Story, room: &SharedRoom, forged: &[Forged], found: &mut Found) {
    let mut views = Vec::new();
    for node in &story.nodes {
        views.extend(view(node, &room.id).await);
    }
    // Who was removed by an event that was never meant for it cannot know.
    let in_room = |server: &str| views.iter().filter(|view| view.servers.contains(server)).count();
    let (views, astray): (Vec<&View>, Vec<&View>) =
        views.iter().partition(|view| in_room(&view.server) * 2 > views.len());
    found.astray += astray.len() as u64;
    let Some(first) = views.first() else { return };
    for view in &views {
        let place = format!("{} (version {}) on {}", room.id, room.version, view.server);
        if view.state != first.state {
            let differs: Vec<_> = view.state.iter().filter(|(key, id)| first.state.get(*key) != Some(*id)).collect();
            let begins = first_difference(first, view).await;
            found.wrong.push(format!("the state of {place} is not that on {}: {differs:?}{begins}", first.server));
        }
        if view.extremities != first.extremities {
            let differs: Vec<&String> = view.extremities.symmetric_difference(&first.extremities).collect();
            let mut what = format!("the extremities of {place} are not those on {}:", first.server);
            for id in differs {
                what.push_str(&everywhere(story, &room.id, id).await);
            }
            found.wrong.push(what);
        }
        let is_forged = |id: &str| forged.iter().any(|one| one.event == id);
        let rejected = view.flags.iter().find(|(id, bits)| *bits & flags::REJECTED != 0 && !is_forged(id));
        if let Some((event, _)) = rejected {
            let known = everywhere(story, &room.id, event).await;
            found.wrong.push(format!("{event} is rejected in {place}:{known}"));
        }
        found.soft_failed += view.flags.values().filter(|bits| *bits & flags::SOFT_FAILED != 0).count() as u64;
        check_history(story, room, &views, view, forged, found).await;
        check_syncs(story, room, view, found);
    }
    let all: BTreeSet<&String> = views.iter().flat_map(|view| view.flags.keys()).collect();
    found.events += all.len() as u64;
    let state: BTreeSet<&String> = views.iter().flat_map(|view| &view.state_events).collect();
    found.state_events += state.len() as u64;
}

/// The room as a server has it, if it is in the room.
async fn view(node: &Node, room_id: &str) -> Option<View> {
    let up = node.up()?;
    let room = up.room(room_id).await?;
    let head = room.head();
    if head.local.is_empty() {
        return None;
    }
    let state = up.running.rooms.whole_state(&room, head.state).await.unwrap();
    let read = Read::along::<EventRow>(EventRow::BY_ID, vec![room.num.into()]);
    let rows: Vec<EventRow> = up.running.store.all(read).await.unwrap();
    let is_news = |row: &&EventRow| row.pos.is_some() && row.flags & flags::HIDDEN == 0;
    Some(View {
        server: node.name.clone(),
        servers: head.servers.iter().filter(|(_, joined)| **joined > 0).map(|(name, _)| name.clone()).collect(),
        state: state.iter().map(|event| (type_key(event), event.id().to_string())).collect(),
        extremities: head.extremities.iter().map(|extremity| extremity.id.to_string()).collect(),
        flags: rows.iter().map(|row| (row.event_id.clone(), row.flags)).collect(),
        news: rows.iter().filter(is_news).map(|row| row.event_id.clone()).collect(),
        state_events: rows.iter().filter(|row| row.state_key.is_some()).map(|row| row.event_id.clone()).collect(),
        shown: rows.iter().filter(|row| row.fragment.is_some()).map(|row| row.event_id.clone()).collect(),
        has_beginning: rows.iter().any(|row| row.kind == "m.room.create" && row.fragment.is_some()),
        room: Arc::clone(&room),
        up,
    })
}

fn type_key(event: &rooms::Event) -> (String, String) {
    let (kind, state_key) = event.pdu.state_entry().unwrap();
    (kind.to_owned(), state_key.to_owned())
}

/// Pages to the start: what was acknowledged anywhere must be there, and nothing that may not be shown.
async fn check_history(
    story: &Story,
    room: &SharedRoom,
    views: &[&View],
    view: &View,
    forged: &[Forged],
    found: &mut Found,
) {
    let local = view.room.head().local.clone();
    let Some(reader) = story.people.iter().find(|person| local.contains(person.user.as_str())) else { return };
    let events = match reader.history(&room.id).await {
        Ok(events) => events,
        Err(what) => return found.wrong.push(what),
    };
    let history: BTreeSet<String> = events.iter().map(|event| text(&event["event_id"])).collect();
    // Who made the room may have taken its beginning along.
    let is_there = views.iter().any(|view| view.has_beginning);
    if is_there && !events.iter().any(|event| event["type"] == "m.room.create") {
        let place = format!("{} (version {}) on {}", room.id, room.version, view.server);
        let gaps: Vec<HistoryGapRow> =
            view.up.running.store.all(Read::prefix::<HistoryGapRow>(vec![view.room.num.into()])).await.unwrap();
        let first = events.last().map(|event| &event["event_id"]);
        let mut what = format!("the history of {place} ends before its beginning: with {first:?}");
        for gap in gaps {
            what.push_str(&format!("\n    {gap:?}{}", everywhere(story, &room.id, &gap.event_id).await));
        }
        found.wrong.push(what);
    }
    for one in forged.iter().filter(|one| one.room == room.id && one.server != view.server) {
        let mut syncers = story.syncers.iter().filter(|syncer| syncer.person.node.name == view.server);
        let shown = syncers.find(|syncer| syncer.has(&one.room, &one.event)).map(|syncer| &syncer.person.user);
        if shown.is_some() || history.contains(&one.event) || view.state.values().any(|id| *id == one.event) {
            let event = view.up.running.rooms.event_by_id(&view.room, &one.event).await.unwrap();
            let sender = event.as_ref().map(|event| event.pdu.sender.clone()).unwrap_or_default();
            let member = view.state.get(&("m.room.member".to_owned(), sender));
            let known = event.map(|event| format!("{:?}", event.row));
            let place = format!("{} (version {}) on {}", room.id, room.version, view.server);
            found.wrong.push(format!(
                "{}, which {} forged, is shown in {place}, to {shown:?}: {known:?}; its sender there: {member:?}",
                one.event, one.server
            ));
        }
        found.forged += 1;
    }
    check_acknowledged(story, room, views, view, &history, found).await;
    check_bodies(reader, &events, found);
}

async fn check_acknowledged(
    story: &Story,
    room: &SharedRoom,
    views: &[&View],
    view: &View,
    history: &BTreeSet<String>,
    found: &mut Found,
) {
    let acknowledged: Vec<(String, String)> = {
        let all = story.acknowledged.lock();
        let here = all.iter().filter(|one| one.room == room.id);
        here.map(|one| (one.event.clone(), one.server.clone())).collect()
    };
    for (id, server) in acknowledged {
        if history.contains(&id) {
            continue;
        }
        // As it is after paging, which may have brought it.
        let event = view.up.running.rooms.event_by_id(&view.room, &id).await.unwrap();
        // What others took and do not show is followed by nothing, so who missed it never learns of it.
        let others = views.iter().filter(|other| other.server != server);
        let mut known = others.filter_map(|other| other.flags.get(&id)).peekable();
        let is_hidden = known.peek().is_some() && known.all(|bits| bits & flags::SOFT_FAILED != 0);
        // What nobody else shows, others can know by name only, as part of a state.
        let shows = |other: &&&View| other.server != view.server && other.shown.contains(&id);
        let is_gone = server != view.server && !views.iter().any(|other| shows(&other));
        let excused = match &event {
            Some(event) => {
                event.has(flags::SOFT_FAILED) && server != view.server
                    || event.pdu.kind == "m.room.redaction"
                    || is_gone
            }
            None => is_hidden && server != view.server,
        };
        if !excused {
            let known = match event {
                Some(event) => format!("{:?}", event.row),
                None => format!("not known; {}", followers(story, room, view, &id).await),
            };
            let place = format!("{} (version {}) on {}", room.id, room.version, view.server);
            found.wrong.push(format!("{id}, acknowledged by {server}, is missing in {place}: {known}"));
        }
    }
}

/// A message that was sent again, since no answer came, is there once.
fn check_bodies(reader: &Person, events: &[serde_json::Value], found: &mut Found) {
    let mut bodies = BTreeSet::new();
    for body in events.iter().filter_map(|event| event["content"]["body"].as_str()) {
        if !bodies.insert(body) {
            found.wrong.push(format!("{} reads {body:?} twice", reader.user));
        }
    }
}

/// What became news in a room must have reached the client that follows it.
fn check_syncs(story: &Story, room: &SharedRoom, view: &View, found: &mut Found) {
    for syncer in story.syncers.iter().filter(|syncer| syncer.person.node.name == view.server) {
        if !syncer.follows(&room.id) {
            continue;
        }
        let acknowledged = story.acknowledged.lock();
        let here = acknowledged.iter().filter(|one| one.room == room.id && view.news.contains(&one.event));
        for one in here.filter(|one| !syncer.has(&room.id, &one.event)) {
            let user = &syncer.person.user;
            let what =
                format!("{user} was never shown {} of {}, which {} acknowledged", one.event, room.id, one.server);
            found.wrong.push(what);
        }
    }
}

/// An event as each server has it: for finding out how they came to differ.
pub async fn everywhere(story: &Story, room_id: &str, id: &str) -> String {
    let mut found = String::new();
    for node in &story.nodes {
        let Some(up) = node.up() else { continue };
        let Some(room) = up.room(room_id).await else { continue };
        let event = up.running.rooms.event_by_id(&room, id).await.unwrap();
        let known = event.map_or_else(
            || "does not know it".to_owned(),
            |event| format!("has {:?}, which redacts {:?}", event.row, event.pdu.redacts),
        );
        let members = room.head().local.len();
        found.push_str(&format!("\n    {}, {members} members in the room, {id}: {known}", node.name));
    }
    found
}

/// An event that a server does not have, as another one has it, and what follows it there: for finding out how it was
/// missed.
async fn followers(story: &Story, room: &SharedRoom, view: &View, id: &str) -> String {
    let mut found = String::new();
    for node in &story.nodes {
        let Some(other) = self::view(node, &room.id).await.filter(|other| other.flags.contains_key(id)) else {
            continue;
        };
        for known in other.flags.keys() {
            let event = other.up.running.rooms.event_by_id(&other.room, known).await.unwrap().unwrap();
            if known == id || event.pdu.prev_events.iter().any(|prev| prev == id) {
                let has = view.flags.contains_key(known);
                found.push_str(&format!("\n    {} has {:?}, {} has it: {has}", other.server, event.row, view.server));
            }
        }
        break;
    }
    found
}

/// The first event before which, or after which, two servers have not the same state: there they began to disagree.
async fn first_difference(one: &View, other: &View) -> String {
    let mut common = Vec::new();
    for id in one.flags.keys().filter(|id| other.flags.contains_key(*id)) {
        let event = one.up.running.rooms.event_by_id(&one.room, id).await.unwrap().unwrap();
        common.push((event.row.depth, id));
    }
    common.sort_unstable();
    for (_, id) in common {
        let mut states = Vec::new();
        for view in [one, other] {
            let event = view.up.running.rooms.event_by_id(&view.room, id).await.unwrap().unwrap();
            let mut sets = Vec::new();
            for roots in [event.state_before(), event.state_after()].into_iter().flatten() {
                let state = view.up.running.rooms.whole_state(&view.room, roots).await.unwrap();
                sets.push(
                    state.iter().map(|event| (type_key(event), event.id().to_string())).collect::<BTreeMap<_, _>>(),
                );
            }
            states.push((sets, event));
        }
        let ((ones, event), (others, known)) = (&states[0], &states[1]);
        if ones.len() == 2 && others.len() == 2 && ones != others {
            let differs = |at: usize| -> Vec<_> {
                let keys: BTreeSet<_> = ones[at].keys().chain(others[at].keys()).collect();
                let both = keys.into_iter().map(|key| (key, ones[at].get(key), others[at].get(key)));
                both.filter(|(_, one, other)| one != other).collect()
            };
            return format!(
                "\n    it begins with {id} of {}, after {:?}: before it {:?}, after it {:?}\n    on {} {:?}\n    on {} {:?}",
                event.pdu.sender,
                event.pdu.prev_events,
                differs(0),
                differs(1),
                one.server,
                event.row,
                other.server,
                known.row
            );
        }
    }
    String::new()
}
