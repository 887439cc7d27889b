//! What a draft does for rooms that come from other servers: outliers, a head that is taken over, gaps in the timeline,
//! and what is written ahead of the decision to have a room.

use std::sync::Arc;

use event::Pdu;
use ruma_common::OwnedEventId;
use store::tables::rooms::{
    EventBytesRow, FragmentRow, HistoryGapRow, PartialEventRow, PartialRoomRow, RoomHeadRow, ThreadRow,
};
use store::{CommitError, EventNum, StreamKind, StreamPosition};

use super::{Draft, EVENT_NUMBERS, Judged, event_row, thread_of};
use crate::event::Event;
use crate::room::Extremity;
use crate::state::{Roots, TypeKey};
use crate::timeline::Place;
use crate::{Error, Result, flags};

/// Whether an event's bytes are to be stored: it is new, or known only in the redacted form that a peer sent.
pub(super) fn is_better(flags: i64, known: Option<&Event>) -> bool {
    known.is_none_or(|known| {
        known.has(flags::REDACTED) && known.row.redacted_by.is_none() && flags & flags::REDACTED == 0
    })
}

/// An event that is known only by reference, judged by its auth events.
pub(crate) struct Outlier {
    /// The event.
    pub pdu: Arc<Pdu>,
    /// Flags besides [`flags::OUTLIER`].
    pub flags: i64,
    /// Why it was rejected.
    pub reason: Option<String>,
    /// Numbers of its auth events.
    pub auth: Vec<EventNum>,
    /// The row that it has already, if it waited.
    pub known: Option<EventNum>,
    /// Whether the stored bytes are to be replaced by these.
    pub rewrite: bool,
}

impl Draft<'_> {
    /// Says that the batch of this draft makes the room: it demands that there is none yet.
    pub fn make_room(&mut self, create: EventNum) {
        self.is_new = true;
        self.head.row.create = create.0;
    }

    /// Gives keys to those of the pairs that have none, with one read for all.
    pub async fn prepare_keys(&mut self, pairs: &[TypeKey]) -> Result<()> {
        let ids = self.rooms.key_ids(self.room, Some(&self.overlay), pairs).await?;
        for (pair, id) in pairs.iter().zip(ids) {
            if id.is_none() && !self.overlay.keys.contains_key(pair) {
                self.new_key(pair)?;
            }
        }
        Ok(())
    }

    /// Numbers for this many new events.
    pub async fn next_event_numbers(&self, count: usize) -> Result<impl Iterator<Item = EventNum> + use<>> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let first = self.rooms.store.next_numbers(EVENT_NUMBERS, count).await?;
        Ok((first..first.saturating_add(count)).map(EventNum))
    }

    /// Adds an outlier under a number. It has no entry in the stream, no state and no place.
    pub async fn append_outlier(&mut self, num: EventNum, outlier: Outlier) -> Result<Arc<Event>> {
        let judged = Judged {
            pdu: outlier.pdu,
            flags: outlier.flags | flags::OUTLIER,
            reason: outlier.reason,
            state_before: None,
            prev: Vec::new(),
            auth: outlier.auth,
            transaction: None,
            known: outlier.known,
            withheld: false,
        };
        let row = event_row(self.room.num, num, &judged, None);
        let event = Arc::new(Event::new(row.clone(), Arc::clone(&judged.pdu)));
        self.overlay.events.insert(num, Arc::clone(&event));
        self.overlay.ids.insert(event.id().clone(), num);
        self.batch.put(row);
        if judged.known.is_some() {
            self.announce_change(num);
        }
        if judged.known.is_none() || outlier.rewrite {
            self.batch.put(EventBytesRow { event: num, json: judged.pdu.bytes.to_vec() });
        }
        self.keep_edges(&event, &judged.auth).await?;
        Ok(event)
    }

    /// An event as it is known before this draft changes it.
    pub async fn known_form(&self, num: Option<EventNum>) -> Result<Option<Arc<Event>>> {
        let Some(num) = num else { return Ok(None) };
        Ok(self.rooms.events(self.room, Some(&self.overlay), &[num]).await?.into_iter().next())
    }

    /// Adds an event of the history from before. It has no position in the stream, notifies nobody, is no extremity and
    /// changes nothing of the present. It takes the place, unless it is rejected or withheld.
    pub async fn append_history(&mut self, judged: Judged, place: Place, messages: i64) -> Result<Arc<Event>> {
        let num = match judged.known {
            Some(num) => num,
            None => EventNum(self.rooms.store.next_number(EVENT_NUMBERS).await?),
        };
        let known = self.known_form(judged.known).await?;
        let (state_after, replaces) = self.state_after(num, &judged).await?;
        let mut row = event_row(self.room.num, num, &judged, None);
        row.replaces = replaces;
        row.state_after = state_after.filter(|after| Some(*after) != judged.state_before).map(|after| after.encode());
        row.redacted_by = known.as_ref().and_then(|event| event.row.redacted_by);
        row.messages = messages;
        if judged.flags & flags::HIDDEN == 0 && !judged.withheld {
            (row.fragment, row.idx) = (Some(place.fragment), Some(place.idx));
            row.thread = thread_of(&judged.pdu);
        }
        self.note_partial(&mut row);
        let event = Arc::new(Event::new(row.clone(), Arc::clone(&judged.pdu)));
        self.overlay.events.insert(num, Arc::clone(&event));
        self.overlay.ids.insert(event.id().clone(), num);
        self.batch.put(row);
        if is_better(judged.flags, known.as_deref()) {
            self.batch.put(EventBytesRow { event: num, json: judged.pdu.bytes.to_vec() });
        }
        if known.is_some() {
            self.announce_change(num);
        }
        self.keep_edges(&event, &judged.auth).await?;
        self.last = None;
        if event.row.fragment.is_some() {
            self.batch.announce(StreamKind::History, None, None, Some(num.0));
            self.keep_old_relation(&event).await?;
        }
        self.keep_sticky(&event, None);
        Ok(event)
    }

    /// A relation of the history from before: a thread goes by its newest event, which this is not, unless it is the
    /// only one that is known.
    async fn keep_old_relation(&mut self, event: &Arc<Event>) -> Result<()> {
        let root = thread_of(&event.pdu);
        let known = match &root {
            Some(root) => {
                let key = vec![self.room.num.into(), root.as_str().into()];
                self.rooms.store.get::<ThreadRow>(key).await?
            }
            None => None,
        };
        self.keep_relation(event, StreamPosition::ZERO);
        if let Some(thread) = known {
            self.batch.put(thread);
        }
        Ok(())
    }

    /// Replaces current state and extremities by what another server says: nothing of this draft's room leads there.
    pub async fn move_head(&mut self, state: Roots) -> Result<()> {
        self.head.extremities.clear();
        let earlier = self.head.state;
        if state == earlier {
            return Ok(());
        }
        let pos = self.batch.announce(StreamKind::RoomHead, Some(self.room.num), None, None);
        self.last = None;
        self.head.row.last_pos = pos;
        self.head.state = state;
        self.change_memberships(earlier, state, pos, None).await?;
        self.batch.put(RoomHeadRow {
            room: self.room.num,
            pos,
            members: state.members.to_bytes(),
            rest: state.rest.to_bytes(),
        });
        Ok(())
    }

    /// Says that only part of the room's state is known, of which no member: the servers that were named are taken to be
    /// in it.
    pub fn begin_partial(&mut self, partial: PartialRoomRow) {
        let pos = self.batch.announce(StreamKind::RoomHead, Some(self.room.num), None, None);
        let served = Arc::clone(&self.head.servers);
        for server in partial.servers.lines() {
            self.count_server(server, 1);
        }
        self.keep_servers(&served, pos);
        self.head.row.last_pos = pos;
        self.batch.put(partial.clone());
        self.head.partial = Some(Arc::new(partial));
    }

    /// More of the state is known: replaces extremities and current state. If all members are known only now, takes back
    /// what was only assumed.
    pub async fn correct_head(&mut self, extremities: Vec<Extremity>, state: Roots) -> Result<()> {
        let room = self.room.num;
        let (earlier, served) = (self.head.state, Arc::clone(&self.head.servers));
        let pos = self.batch.announce(StreamKind::RoomHead, Some(room), None, None);
        self.last = None;
        self.head.row.last_pos = pos;
        self.head.row.depth = extremities.iter().map(|extremity| extremity.depth).max().unwrap_or(self.head.row.depth);
        self.head.extremities = extremities;
        self.head.state = state;
        self.count_memberships(earlier, state, pos, None).await?;
        self.assume_no_servers(pos);
        self.keep_servers(&served, pos);
        let (members, rest) = (state.members.to_bytes(), state.rest.to_bytes());
        self.batch.put(RoomHeadRow { room, pos, members, rest });
        Ok(())
    }

    /// From this position on the state is whole: servers are in the room by their members alone.
    fn assume_no_servers(&mut self, pos: StreamPosition) {
        let Some(partial) = self.head.partial.take() else { return };
        for server in partial.servers.lines() {
            self.count_server(server, -1);
        }
        self.whole_pos = Some(pos);
        self.batch.put(PartialRoomRow { servers: String::new(), whole_pos: pos, ..PartialRoomRow::clone(&partial) });
    }

    /// Nothing has to be judged again if nothing of the state is missing any more.
    pub fn forget_judgements(&mut self) {
        if !self.head.is_provisional() {
            self.batch.delete_prefix::<PartialEventRow>(vec![self.room.num.into()]);
        }
    }

    /// Begins a new live fragment, before which history is missing.
    pub async fn begin_fragment(&mut self) -> Result<()> {
        let room = self.room.num;
        if self.is_new {
            self.batch.put(FragmentRow { room, fragment: 0, previous: None, next: None, gap: true });
            return Ok(());
        }
        // Its row may be written by a batch that is not yet durable.
        self.rooms.wait_for_all(self.room).await?;
        let last = self.head.row.fragment;
        let fragment = last + 1;
        let row = self.rooms.store.get::<FragmentRow>(vec![room.into(), last.into()]).await?;
        let row = row.unwrap_or(FragmentRow { room, fragment: last, previous: None, next: None, gap: false });
        self.batch.put(FragmentRow { next: Some(fragment), ..row });
        self.batch.put(FragmentRow { room, fragment, previous: Some(last), next: None, gap: true });
        self.head.row.fragment = fragment;
        self.head.row.next_index = 0;
        Ok(())
    }

    /// Notes that these previous events of an event that belongs into a fragment stand in no timeline.
    pub fn note_gaps(&mut self, child: &Event, fragment: i64, missing: &[OwnedEventId]) {
        for id in missing {
            let (room, event_id) = (self.room.num, id.to_string());
            self.batch.put(HistoryGapRow { room, event_id, child: child.num(), fragment });
        }
    }

    /// Notes that history is missing behind hidden events, which an event of the live fragment follows.
    pub fn note_gaps_behind(&mut self, gaps: &[(Arc<Event>, Vec<OwnedEventId>)]) {
        for (child, missing) in gaps {
            self.note_gaps(child, self.head.row.fragment, missing);
        }
    }

    /// Commits what this draft wrote for a room that is in no map and has no row yet, without deciding anything: the
    /// room in memory goes on from there.
    ///
    /// # Errors
    /// [`Error::Busy`] if someone else writes for the same room; as the store says.
    pub async fn write_ahead(mut self) -> Result<()> {
        match self.rooms.store.submit(self.batch).await {
            Ok(_) => {}
            Err(CommitError::Conflict { .. }) => return Err(Error::Busy),
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
        for (segment, found) in self.overlay.segments {
            self.rooms.segments.insert((self.room.num, segment), found);
        }
        for (pair, id) in self.overlay.keys {
            self.room.remember_key(&pair, Some(id));
        }
        for (num, event) in self.overlay.events {
            self.rooms.events.insert(num, event);
        }
        *self.queue = self.head;
        Ok(())
    }
}
