//! From events to postings: what the index should have of an event, what it has, and the difference. It depends on nothing
//! but what is stored, so that it makes no difference how often, and in which order, an event is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rooms::{Event, Room, flags};
use store::tables::rooms::EventRow;
use store::tables::search::SearchDocumentRow;
use store::{CommitBatch, EventNum, Read, RoomNum, StreamPosition};

use crate::block::{Posting, pack_terms, unpack_terms};
use crate::words::{self, Term};
use crate::{Result, Search, text};

/// Events that are looked at together.
const EVENTS_AT_A_TIME: usize = 500;
/// Bytes of texts whose terms are held at a time; it is the last room that passes it.
const BYTES_AT_A_TIME: usize = 2 << 20;
/// State that says that a room's events are encrypted.
pub(crate) const ENCRYPTION: &str = "m.room.encryption";

/// An event, by its room and number.
pub(crate) type Place = (RoomNum, EventNum);

/// Writes that bring the index up to what events say.
#[derive(Default)]
struct Changes {
    added: Vec<Posting>,
    removed: BTreeSet<Posting>,
    rows: Vec<SearchDocumentRow>,
    deleted: Vec<Place>,
    bytes: usize,
}

/// What is known of some events of a room.
#[derive(Default)]
struct Known {
    room: Option<Arc<Room>>,
    events: BTreeMap<EventNum, Arc<Event>>,
    stored: BTreeMap<EventNum, SearchDocumentRow>,
}

impl Search {
    /// Brings the index up to what these events say now, and stores how far the stream is read then. What is given besides
    /// is committed with the last of it. False if another node has taken over.
    pub(crate) async fn index(
        &self,
        places: &BTreeSet<Place>,
        besides: CommitBatch,
        done: Option<StreamPosition>,
    ) -> Result<bool> {
        let mut changes = Changes::default();
        let mut places = places.iter().copied().peekable();
        while let Some((room, _)) = places.peek().copied() {
            let mut events = Vec::new();
            while events.len() < EVENTS_AT_A_TIME
                && let Some((_, event)) = places.next_if(|place| place.0 == room)
            {
                events.push(event);
            }
            match self.compare(room, &events, &mut changes).await {
                Err(error) if !error.will_pass() => {
                    tracing::error!(%error, room = room.0, "events of a room cannot be indexed");
                }
                compared => compared?,
            }
            if changes.bytes > BYTES_AT_A_TIME {
                let batch = self.batch_of(std::mem::take(&mut changes), CommitBatch::new()).await?;
                if !self.commit_held(batch, None).await? {
                    return Ok(false);
                }
            }
        }
        let batch = self.batch_of(changes, besides).await?;
        self.commit_held(batch, done).await
    }

    async fn batch_of(&self, changes: Changes, mut batch: CommitBatch) -> Result<CommitBatch> {
        self.remove_postings(&changes.removed, &mut batch).await?;
        self.add_run(changes.added, &mut batch).await?;
        for (room, event) in changes.deleted {
            batch.delete::<SearchDocumentRow>(vec![room.into(), event.into()]);
        }
        for row in changes.rows {
            batch.put(row);
        }
        Ok(batch)
    }

    /// Adds what is to be changed about some events of a room, and about those whose text they replace.
    async fn compare(&self, num: RoomNum, events: &[EventNum], changes: &mut Changes) -> Result<()> {
        let mut known = Known { room: self.rooms.room_by_num(num).await?, ..Known::default() };
        self.learn(num, events, &mut known).await?;
        let targets = self.targets(num, &known).await?;
        self.learn(num, &targets, &mut known).await?;
        let all: BTreeSet<EventNum> = events.iter().copied().chain(targets).collect();
        let mut texts = self.texts(&known).await?;
        for event in all {
            if known.events.get(&event).is_some_and(|event| is_edit(event)) {
                continue;
            }
            let (at_ms, stored) = match known.stored.get(&event) {
                Some(row) => (row.at_ms, unpack_terms(&row.terms).unwrap_or_default()),
                // A server that says so could have its messages stand before all others for years.
                None => (
                    known.events.get(&event).map_or(0, |event| event.row.ts).clamp(0, self.clock.now_ms()),
                    BTreeSet::new(),
                ),
            };
            let (text, edit) = texts.remove(&event).unwrap_or_default();
            changes.bytes += text.len();
            let terms = words::terms(&text);
            let posting = |term: &Term| Posting { term: *term, room: num, at_ms, event };
            if terms != stored {
                // All of them anew: postings of one event stand in one run, where it is seen that it has all words.
                changes.added.extend(terms.iter().map(posting));
                changes.removed.extend(stored.iter().map(posting));
            }
            if terms.is_empty() {
                changes.deleted.push((num, event));
            } else if terms != stored {
                changes.rows.push(SearchDocumentRow {
                    room: num,
                    event,
                    at_ms,
                    target: None,
                    terms: pack_terms(&terms),
                });
            }
            if let Some(edit) = edit {
                // When the edit is redacted, nothing of it says any more what it has replaced.
                let target = Some(event);
                changes.rows.push(SearchDocumentRow { room: num, event: edit, at_ms, target, terms: Vec::new() });
            }
        }
        Ok(())
    }

    /// Reads events and what the index has of them.
    async fn learn(&self, num: RoomNum, events: &[EventNum], known: &mut Known) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let read = |event: &EventNum| Read::get::<SearchDocumentRow>(vec![num.into(), (*event).into()]);
        for rows in self.store.read(events.iter().map(read).collect()).await? {
            known.stored.extend(rows.one::<SearchDocumentRow>()?.map(|row| (row.event, row)));
        }
        if let Some(room) = known.room.clone() {
            let found = self.rooms.events_left(&room, None, events).await?;
            known.events.extend(found.into_iter().map(|event| (event.num(), event)));
        }
        Ok(())
    }

    /// The events whose text these replace, or did.
    async fn targets(&self, num: RoomNum, known: &Known) -> Result<Vec<EventNum>> {
        let mut targets: BTreeSet<EventNum> = known.stored.values().filter_map(|row| row.target).collect();
        let ids = known.events.values().filter(|event| is_edit(event)).filter_map(|event| event.relation());
        let read = |id: &str| Read::along::<EventRow>(EventRow::BY_ID, vec![num.into(), id.into()]);
        let reads: Vec<Read> = ids.map(|(_, id)| read(id)).collect();
        if !reads.is_empty() {
            for rows in self.store.read(reads).await? {
                targets.extend(rows.one::<EventRow>()?.map(|row| row.event));
            }
        }
        targets.retain(|target| !known.events.contains_key(target));
        Ok(targets.into_iter().collect())
    }

    /// The texts that the index is to have, each with the edit it comes from.
    async fn texts(&self, known: &Known) -> Result<BTreeMap<EventNum, (String, Option<EventNum>)>> {
        let Some(room) = &known.room else { return Ok(BTreeMap::new()) };
        if self.rooms.current(room, ENCRYPTION, "").await?.is_some() {
            return Ok(BTreeMap::new());
        }
        let wanted = |event: &&Arc<Event>| is_told(event) && !is_edit(event) && text::key_of(event).is_some();
        let events: Vec<Arc<Event>> = known.events.values().filter(wanted).cloned().collect();
        let edits = self.rooms.newest_edits(room, &events, None).await?;
        let texts = events.into_iter().zip(edits).map(|(event, edit)| {
            let text = text::text_of(&event, edit.as_deref()).unwrap_or_default();
            (event.num(), (text, edit.map(|edit| edit.num())))
        });
        Ok(texts.collect())
    }
}

/// Whether an event stands in the timeline with all that it said.
fn is_told(event: &Event) -> bool {
    event.shown() && event.row.fragment.is_some() && !event.has(flags::REDACTED)
}

/// Whether an event says what another is to say instead.
pub(crate) fn is_edit(event: &Event) -> bool {
    is_told(event) && event.relation().is_some_and(|(rel_type, _)| rel_type == "m.replace")
}
