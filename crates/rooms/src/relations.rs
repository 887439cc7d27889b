//! Relations between events: what a parent carries bundled, pages of children, threads (client-server API, relationships
//! between events, threading, event replacements, reactions).

use std::collections::BTreeSet;
use std::sync::Arc;

use ::event::Object;
use serde_json::{Map, Value, json};
use store::tables::rooms::{EventRow, RelationRow, ThreadRow};
use store::{EventNum, Read, StreamPosition, UserId};

use crate::draft::Draft;
use crate::event::Event;
use crate::room::Room;
use crate::timeline::{Direction, Place};
use crate::view::Rendering;
use crate::visibility::Viewer;
use crate::{Error, NewEvent, Result, Rooms, flags};

/// Most children of one parent that are looked at; of more, the newest.
const CHILDREN_MAX: u32 = 10_000;
/// Children of one parent that are read at first, whatever their relation: few parents have more.
const CHILDREN_FEW: u32 = 100;
/// Relations that parents carry bundled, and how many children of each are looked at.
const BUNDLED: [(&str, u32); 3] = [("m.reference", 1_000), ("m.replace", EDITS_MAX), ("m.thread", CHILDREN_MAX)];
/// Edits of one event that are looked at; of more, the newest.
const EDITS_MAX: u32 = 1_000;
/// Events of a thread that are read at a time.
const THREAD_CHUNK: usize = 500;
/// Annotations of one parent that are looked through at a time.
const ANNOTATIONS_PAGE: u32 = 1_000;
/// Most levels of relations that `recurse` follows.
const RECURSION_MAX: usize = 3;

/// Which relations to page through.
#[derive(Clone, Debug)]
pub struct RelationsQuery {
    /// Only this relation type.
    pub rel_type: Option<String>,
    /// Only this event type.
    pub kind: Option<String>,
    /// Which way.
    pub direction: Direction,
    /// Where to start.
    pub from: Option<Place>,
    /// Where to stop.
    pub to: Option<Place>,
    /// At most so many events.
    pub limit: usize,
    /// Also children of children.
    pub recurse: bool,
}

/// A page of related events.
#[derive(Clone, Debug)]
pub struct RelationsPage {
    /// The events, in the order of the direction.
    pub events: Vec<Arc<Event>>,
    /// Where to go on.
    pub next: Option<Place>,
    /// How many levels were followed, if recursion was asked for.
    pub depth: usize,
}

impl Rooms {
    /// What each event carries under `unsigned.m.relations` for this viewer.
    pub(crate) async fn bundles(
        &self,
        room: &Room,
        events: &[Arc<Event>],
        viewer: &mut Viewer<'_>,
        rendering: &Rendering<'_>,
    ) -> Result<Vec<Option<Map<String, Value>>>> {
        let reads = events
            .iter()
            .map(|event| {
                Read::prefix::<RelationRow>(vec![room.num.into(), event.id().as_str().into()]).limit(CHILDREN_FEW)
            })
            .collect();
        let mut bundles = Vec::with_capacity(events.len());
        for (event, rows) in events.iter().zip(self.store.read(reads).await?) {
            let mut rows = rows.all::<RelationRow>()?;
            if rows.len() == CHILDREN_FEW as usize {
                rows = self.newest_bundled(room, event).await?;
            }
            rows.retain(|row| !rendering.ignored.contains(row.sender.as_str()));
            let bundled = if rows.is_empty() || event.pdu.is_state() || event.has(flags::REDACTED) {
                None
            } else {
                self.bundle(room, event, &rows, viewer, rendering).await?
            };
            bundles.push(bundled);
        }
        Ok(bundles)
    }

    /// The newest children of an event that has many, of each relation that is bundled; the oldest of each first.
    async fn newest_bundled(&self, room: &Room, event: &Event) -> Result<Vec<RelationRow>> {
        let prefix = |kind: &str| vec![room.num.into(), event.id().as_str().into(), kind.into()];
        let reads = BUNDLED.map(|(kind, most)| Read::prefix::<RelationRow>(prefix(kind)).reverse().limit(most));
        let mut rows = Vec::new();
        for found in self.store.read(reads.into()).await? {
            rows.extend(found.all::<RelationRow>()?.into_iter().rev());
        }
        Ok(rows)
    }

    /// Whether any event relates to one of these.
    ///
    /// # Errors
    /// As the store says.
    pub async fn any_children(&self, room: &Room, events: &[Arc<Event>]) -> Result<bool> {
        let read = |event: &Arc<Event>| {
            Read::prefix::<RelationRow>(vec![room.num.into(), event.id().as_str().into()]).limit(1)
        };
        let found = self.store.read(events.iter().map(read).collect()).await?;
        Ok(found.iter().any(|rows| !rows.0.is_empty()))
    }

    async fn bundle(
        &self,
        room: &Room,
        event: &Arc<Event>,
        rows: &[RelationRow],
        viewer: &mut Viewer<'_>,
        rendering: &Rendering<'_>,
    ) -> Result<Option<Map<String, Value>>> {
        let mut bundle = Map::new();
        let mut references = Vec::new();
        for row in rows.iter().filter(|row| row.rel_type == "m.reference") {
            let child = self.event(room, row.event).await?;
            if viewer.sees(&child).await? {
                references.push(json!({ "event_id": child.id() }));
            }
        }
        if !references.is_empty() {
            bundle.insert("m.reference".to_owned(), json!({ "chunk": references }));
        }
        if let Some(edit) = self.latest_edit(room, event, rows, viewer).await? {
            let text = Box::pin(self.render_one(room, &edit, viewer, rendering, None)).await?;
            bundle.insert("m.replace".to_owned(), serde_json::from_str(&text).unwrap_or_default());
        }
        if let Some(thread) = self.thread_summary(room, event, rows, viewer, rendering).await? {
            bundle.insert("m.thread".to_owned(), thread);
        }
        Ok((!bundle.is_empty()).then_some(bundle))
    }

    /// The newest valid edit: same sender, same type, no state key, not of an edit; by time, then by id.
    async fn latest_edit(
        &self,
        room: &Room,
        event: &Arc<Event>,
        rows: &[RelationRow],
        viewer: &mut Viewer<'_>,
    ) -> Result<Option<Arc<Event>>> {
        if event.relation().is_some_and(|(rel_type, _)| rel_type == "m.replace") {
            return Ok(None);
        }
        let mut newest: Option<Arc<Event>> = None;
        let edits = rows
            .iter()
            .filter(|row| row.rel_type == "m.replace" && row.sender == event.row.sender && row.kind == event.row.kind);
        for row in edits {
            // An erased edit has nothing to put in the place of anything.
            let Some(edit) = viewer.view(self.event(room, row.event).await?).await? else { continue };
            if is_edit(&edit) && newest.as_ref().is_none_or(|other| is_later(&edit, other)) {
                newest = Some(edit);
            }
        }
        Ok(newest)
    }

    /// The newest valid edit of each event, as far as `viewer` sees them; without a viewer, as they stand.
    ///
    /// # Errors
    /// As the store says.
    pub async fn newest_edits(
        &self,
        room: &Room,
        events: &[Arc<Event>],
        mut viewer: Option<&mut Viewer<'_>>,
    ) -> Result<Vec<Option<Arc<Event>>>> {
        let prefix = |event: &Event| vec![room.num.into(), event.id().as_str().into(), "m.replace".into()];
        let read = |event: &Arc<Event>| Read::prefix::<RelationRow>(prefix(event)).reverse().limit(EDITS_MAX);
        let found = self.store.read(events.iter().map(read).collect()).await?;
        let mut newest = Vec::with_capacity(events.len());
        for (event, rows) in events.iter().zip(found) {
            let mut rows = rows.all::<RelationRow>()?;
            rows.retain(|row| row.sender == event.row.sender && row.kind == event.row.kind);
            if event.relation().is_some_and(|(rel_type, _)| rel_type == "m.replace") {
                rows.clear();
            }
            let nums: Vec<EventNum> = rows.iter().map(|row| row.event).collect();
            let mut last: Option<Arc<Event>> = None;
            for edit in self.events_left(room, None, &nums).await? {
                let seen = match viewer.as_deref_mut() {
                    Some(viewer) => viewer.view(edit).await?,
                    None => Some(edit).filter(|edit| edit.shown()),
                };
                let Some(edit) = seen.filter(|edit| is_edit(edit)) else { continue };
                if last.as_ref().is_none_or(|other| is_later(&edit, other)) {
                    last = Some(edit);
                }
            }
            newest.push(last);
        }
        Ok(newest)
    }

    async fn thread_summary(
        &self,
        room: &Room,
        event: &Arc<Event>,
        rows: &[RelationRow],
        viewer: &mut Viewer<'_>,
        rendering: &Rendering<'_>,
    ) -> Result<Option<Value>> {
        let mut seen = Vec::new();
        let nums: Vec<EventNum> = rows.iter().filter(|row| row.rel_type == "m.thread").map(|row| row.event).collect();
        for chunk in nums.chunks(THREAD_CHUNK) {
            for child in self.events(room, None, chunk).await? {
                seen.extend(viewer.view(child).await?);
            }
        }
        let Some(latest) = seen.iter().max_by_key(|child| (child.row.fragment, child.row.idx)) else { return Ok(None) };
        let participated =
            event.row.sender == *rendering.user || seen.iter().any(|child| child.row.sender == *rendering.user);
        let replacements =
            Read::prefix::<RelationRow>(vec![room.num.into(), latest.id().as_str().into(), "m.replace".into()]);
        let edits: Vec<RelationRow> = self.store.all(replacements.limit(CHILDREN_MAX)).await?;
        let mut bundle = Map::new();
        if let Some(edit) = self.latest_edit(room, latest, &edits, viewer).await? {
            let text = Box::pin(self.render_one(room, &edit, viewer, rendering, None)).await?;
            bundle.insert("m.replace".to_owned(), serde_json::from_str(&text).unwrap_or_default());
        }
        let bundle = (!bundle.is_empty()).then_some(bundle);
        let text = Box::pin(self.render_one(room, latest, viewer, rendering, bundle)).await?;
        Ok(Some(json!({
            "latest_event": serde_json::from_str::<Value>(&text).unwrap_or_default(),
            "count": seen.len(),
            "current_user_participated": participated,
        })))
    }

    /// A page of the events that relate to `parent`, as far as the viewer sees them.
    ///
    /// # Errors
    /// As the store says.
    pub async fn relations(
        &self,
        room: &Room,
        parent: &str,
        query: &RelationsQuery,
        viewer: &mut Viewer<'_>,
    ) -> Result<RelationsPage> {
        let levels = if query.recurse { RECURSION_MAX } else { 1 };
        let mut found = Vec::new();
        let mut parents = vec![parent.to_owned()];
        let mut depth = 0;
        while depth < levels && !parents.is_empty() && found.len() < CHILDREN_MAX as usize {
            depth += 1;
            let reads = parents.iter().map(|parent| children(room, parent, query)).collect();
            let mut nums: Vec<EventNum> = Vec::new();
            for rows in self.store.read(reads).await? {
                nums.extend(rows.all::<RelationRow>()?.into_iter().map(|row| row.event));
            }
            let events = self.events(room, None, &nums).await?;
            parents = events.iter().map(|event| event.id().to_string()).collect();
            found.extend(events);
        }
        found.retain(|event| query.kind.as_ref().is_none_or(|kind| event.row.kind == *kind));
        found.sort_by_key(|event| (event.row.fragment, event.row.idx));
        if query.direction == Direction::Backward {
            found.reverse();
        }
        let mut page = RelationsPage { events: Vec::new(), next: None, depth };
        for event in found {
            let Some(at) = Place::before(&event) else { continue };
            if !within(at, query) {
                continue;
            }
            let Some(event) = viewer.view(event).await? else { continue };
            if page.events.len() == query.limit {
                page.next = page.events.last().and_then(|last| match query.direction {
                    Direction::Backward => Place::before(last),
                    Direction::Forward => Place::after(last),
                });
                break;
            }
            page.events.push(event);
        }
        Ok(page)
    }

    /// Thread roots of a room, the thread with the newest reply first. `before` is where the last page ended.
    ///
    /// # Errors
    /// As the store says.
    pub async fn threads(
        &self,
        room: &Room,
        only_of: Option<&UserId>,
        before: Option<StreamPosition>,
        limit: usize,
        viewer: &mut Viewer<'_>,
    ) -> Result<(Vec<Arc<Event>>, Option<StreamPosition>)> {
        let before = before.unwrap_or(StreamPosition(i64::MAX));
        let read = Read::along::<ThreadRow>(ThreadRow::BY_POS, vec![room.num.into()]).before(before).reverse();
        let rows: Vec<ThreadRow> = self.store.all(read.limit(CHILDREN_MAX)).await?;
        let mut roots = Vec::new();
        let mut last = None;
        for row in rows {
            if roots.len() == limit {
                return Ok((roots, last));
            }
            last = Some(row.last_pos);
            let Some(root) = self.event_by_id(room, &row.root).await? else { continue };
            let Some(root) = viewer.view(root).await? else { continue };
            if let Some(user) = only_of
                && !self.participates(room, &root, user).await?
            {
                continue;
            }
            roots.push(root);
        }
        Ok((roots, None))
    }

    async fn participates(&self, room: &Room, root: &Event, user: &UserId) -> Result<bool> {
        if root.row.sender == *user {
            return Ok(true);
        }
        let prefix = vec![room.num.into(), root.id().as_str().into(), "m.thread".into()];
        let rows: Vec<RelationRow> = self.store.all(Read::prefix::<RelationRow>(prefix).limit(CHILDREN_MAX)).await?;
        Ok(rows.iter().any(|row| row.sender == *user))
    }

    /// Checks a local event's relation before it is sent: no thread off an event that relates to another itself. That
    /// no reaction is sent twice is for [`Rooms::send`] to see, with the room's queue held.
    ///
    /// # Errors
    /// [`Error::BadThreadRoot`]; as the store says.
    pub async fn check_relation(&self, room: &Room, new: &NewEvent) -> Result<()> {
        let Some(("m.thread", parent, _)) = relation_of(&new.content) else { return Ok(()) };
        match self.event_by_id(room, parent).await? {
            Some(root) if root.relation().is_some() => Err(Error::BadThreadRoot),
            _ => Ok(()),
        }
    }

    /// The annotation of the same sender, type, parent and key that stands in the room already, written or about to be
    /// (client-server API, annotations: one per user, event type and key).
    pub(crate) async fn same_annotation(&self, draft: &Draft<'_>, new: &NewEvent) -> Result<Option<EventNum>> {
        let Some(("m.annotation", parent, Some(key))) = relation_of(&new.content) else { return Ok(None) };
        if new.state_key.is_some() {
            return Ok(None);
        }
        let room = draft.room;
        // What is not written yet first: it can become written meanwhile, and not the other way round.
        let mut redacted = BTreeSet::new();
        for event in room.unwritten.lock().events.values() {
            if event.has(flags::REDACTED) {
                redacted.insert(event.num());
            } else if event.row.pos.is_some()
                && event.row.sender == new.sender
                && event.row.kind == new.kind
                && relation_of(&event.pdu.content) == Some(("m.annotation", parent, Some(key)))
            {
                return Ok(Some(event.num()));
            }
        }
        let mut last = None;
        loop {
            let prefix = vec![room.num.into(), parent.into(), "m.annotation".into()];
            let read = Read::prefix::<RelationRow>(prefix).limit(ANNOTATIONS_PAGE);
            let read = match last {
                Some(EventNum(last)) => read.after(last),
                None => read,
            };
            let rows: Vec<RelationRow> = self.store.all(read).await?;
            let same = rows.iter().find(|row| {
                row.sender == new.sender
                    && row.kind == new.kind
                    && row.aggregation_key.as_deref() == Some(key)
                    && !redacted.contains(&row.event)
            });
            if let Some(row) = same {
                return Ok(Some(row.event));
            }
            if rows.len() < ANNOTATIONS_PAGE as usize {
                return Ok(None);
            }
            last = rows.last().map(|row| row.event);
        }
    }

    /// The thread to which a receipt on this event belongs: a thread root's id, or `main`. Edits and reactions belong
    /// where their target does (client-server API, threaded read receipts).
    ///
    /// # Errors
    /// As the store says.
    pub async fn thread_of_event(&self, room: &Room, event: &Event) -> Result<String> {
        let mut current: Option<EventRow> = Some(event.row.clone());
        let mut relation = event.relation().map(|(rel_type, parent)| (rel_type.to_owned(), parent.to_owned()));
        for _ in 0..RECURSION_MAX {
            let Some(row) = &current else { break };
            if let Some(thread) = &row.thread {
                return Ok(thread.clone());
            }
            let Some((_, parent)) = relation.take() else { break };
            let found = self.event_by_id(room, &parent).await?;
            relation = found
                .as_ref()
                .and_then(|event| event.relation().map(|(rel_type, parent)| (rel_type.to_owned(), parent.to_owned())));
            current = found.map(|event| event.row.clone());
        }
        Ok("main".to_owned())
    }
}

/// Whether an event that replaces another has something to put in its place.
fn is_edit(edit: &Event) -> bool {
    let has_content = edit.pdu.content.get("m.new_content").is_some_and(|content| content.as_object().is_some());
    !edit.pdu.is_state() && (has_content || edit.pdu.kind == "m.room.encrypted")
}

/// Of two edits the later counts: by time, then by id.
fn is_later(edit: &Event, other: &Event) -> bool {
    (other.row.ts, other.id()) < (edit.row.ts, edit.id())
}

/// Type, parent and, of an annotation, key of the relation in a content.
fn relation_of(content: &Object) -> Option<(&str, &str, Option<&str>)> {
    let relation = content.get("m.relates_to")?.as_object()?;
    let text = |name: &str| relation.get(name).and_then(|value| value.as_str());
    Some((text("rel_type")?, text("event_id")?, text("key")))
}

fn children(room: &Room, parent: &str, query: &RelationsQuery) -> Read {
    let mut prefix = vec![room.num.into(), parent.into()];
    prefix.extend(query.rel_type.as_deref().map(store::Value::from));
    let read = Read::prefix::<RelationRow>(prefix).limit(CHILDREN_MAX);
    if query.direction == Direction::Backward { read.reverse() } else { read }
}

fn within(at: Place, query: &RelationsQuery) -> bool {
    let (low, high) = match query.direction {
        Direction::Backward => (query.to, query.from),
        Direction::Forward => (query.from, query.to),
    };
    low.is_none_or(|low| at >= low) && high.is_none_or(|high| at < high)
}
