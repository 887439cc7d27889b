//! One decision on a room in the making: events are appended one after the other, each seeing what the ones before it
//! did, and [`Draft::submit`] hands all of it to the store as one batch. Dropping a draft leaves no trace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use event::Pdu;
use ruma_common::OwnedEventId;
use store::tables::rooms::{
    EventBytesRow, EventRow, MembershipRow, NotificationRow, OwnInThreadRow, OwnMessageRow, PartialEventRow,
    RelationRow, RoomHeadRow, RoomRow, StateEventRow, StateKeyRow, StateSegmentRow, ThreadAsideRow, ThreadRow,
};
use store::{CommitBatch, EventNum, RoomNum, StreamKind, StreamPosition, UserId};
use tokio::sync::MutexGuard;

use crate::event::{Event, relation};
use crate::muting::{self, Weighed};
use crate::room::{Extremity, Head, Overlay, Pending, Room, is_marker};
use crate::state::{MEMBER, Roots, type_key};
use crate::state_tree::{KeyId, Root, Segment, SegmentRow, Written, needs_checkpoint};
use crate::{Error, Result, Rooms, flags, packed};

mod ahead;
mod sticky;

pub(crate) use ahead::Outlier;
use ahead::is_better;

/// Members whose events are read at a time when many change at once.
const MEMBERS_CHUNK: usize = 250;
/// Sequence of event numbers.
pub(crate) const EVENT_NUMBERS: &str = "events";
/// Sequence of room numbers.
pub(crate) const ROOM_NUMBERS: &str = "rooms";

/// Stands for the position of an earlier batch that is not yet known.
const UNKNOWN_POS: StreamPosition = StreamPosition(i64::MIN);

/// A decision in the making, with the room's queue held.
pub(crate) struct Draft<'a> {
    pub rooms: &'a Rooms,
    pub room: &'a Room,
    pub head: Head,
    pub overlay: Overlay,
    pub batch: CommitBatch,
    /// Whether guests are welcome no more.
    pub closes_to_guests: bool,
    /// Where the room's state becomes whole, if it does here.
    pub whole_pos: Option<StreamPosition>,
    queue: MutexGuard<'a, Head>,
    /// The event being appended, if it has an entry of its own in the timeline.
    last: Option<EventNum>,
    is_new: bool,
    /// Members who have come to be joined.
    joined: Vec<UserId>,
    memberships: BTreeMap<UserId, MembershipRow>,
}

/// An event with all that was decided on it.
pub(crate) struct Judged {
    /// The event.
    pub pdu: Arc<Pdu>,
    /// Flags to store.
    pub flags: i64,
    /// Why it was rejected or soft-failed.
    pub reason: Option<String>,
    /// State before it; `None` for outliers.
    pub state_before: Option<Roots>,
    /// Numbers of its known previous events.
    pub prev: Vec<EventNum>,
    /// Numbers of its auth events.
    pub auth: Vec<EventNum>,
    /// Device and transaction id of a local event.
    pub transaction: Option<String>,
    /// The row that the event already has, if it was known as an outlier, as waiting or as withheld.
    pub known: Option<EventNum>,
    /// Whether clients may see it now (withheld redactions may not yet).
    pub withheld: bool,
}

impl Judged {
    /// An accepted event that names all extremities of the head, before which the current state holds.
    pub fn on_head(draft: &Draft<'_>, pdu: &Arc<Pdu>, auth: Vec<EventNum>) -> Self {
        Self {
            pdu: Arc::clone(pdu),
            flags: 0,
            reason: None,
            state_before: Some(draft.head.state),
            prev: draft.head.extremities.iter().map(|extremity| extremity.num).collect(),
            auth,
            transaction: None,
            known: None,
            withheld: false,
        }
    }
}

impl<'a> Draft<'a> {
    /// Begins a decision on a room: waits for the room's queue.
    pub async fn begin(rooms: &'a Rooms, room: &'a Room) -> Self {
        let mut queue = room.queue.lock().await;
        // Told from what this draft sets: no batch has so many entries.
        if queue.row.last_pos.0 < 0 {
            queue.row.last_pos = UNKNOWN_POS;
        }
        Self {
            rooms,
            room,
            head: queue.clone(),
            overlay: Overlay::default(),
            batch: CommitBatch::new(),
            closes_to_guests: false,
            whole_pos: None,
            queue,
            last: None,
            is_new: false,
            joined: Vec::new(),
            memberships: BTreeMap::new(),
        }
    }

    /// Appends the create event of a new room: the batch demands that the room does not exist yet.
    pub async fn append_create(&mut self, create: Arc<Pdu>) -> Result<Arc<Event>> {
        self.is_new = true;
        let judged = Judged {
            pdu: create,
            flags: 0,
            reason: None,
            state_before: Some(Roots::EMPTY),
            prev: Vec::new(),
            auth: Vec::new(),
            transaction: None,
            known: None,
            withheld: false,
        };
        let event = self.append(judged).await?;
        self.head.row.create = event.num().0;
        Ok(event)
    }

    /// Adds an event with its consequences: state, extremities, memberships, relations, counters.
    pub async fn append(&mut self, judged: Judged) -> Result<Arc<Event>> {
        let num = match judged.known {
            Some(num) => num,
            None => EventNum(self.rooms.store.next_number(EVENT_NUMBERS).await?),
        };
        let hidden = judged.flags & flags::HIDDEN != 0;
        let visible = !hidden && !judged.withheld;
        let pos = self.announce(num, &judged.pdu, visible);
        if judged.known.is_some() {
            self.announce_change(num);
        }
        let (state_after, replaces) = self.state_after(num, &judged).await?;
        let mut row = event_row(self.room.num, num, &judged, pos);
        let known = self.known_form(judged.known).await?;
        row.redacted_by = known.as_ref().and_then(|event| event.row.redacted_by);
        row.replaces = replaces;
        row.state_after =
            (state_after != judged.state_before).then(|| state_after.map(|state| state.encode())).flatten();
        let weighed = if visible { self.weighed(&judged.pdu).await? } else { Weighed::default() };
        let messages = self.head.row.messages;
        if visible {
            row.thread = self.thread_of(&judged.pdu).await?;
        }
        self.place(&mut row, visible, &weighed);
        self.note_partial(&mut row);
        let event = Arc::new(Event::new(row.clone(), Arc::clone(&judged.pdu)));
        self.overlay.events.insert(num, Arc::clone(&event));
        self.overlay.ids.insert(event.id().clone(), num);
        self.batch.put(row);
        if is_better(judged.flags, known.as_deref()) {
            self.batch.put(EventBytesRow { event: num, json: judged.pdu.bytes.to_vec() });
        }
        self.last = pos.map(|_| num);
        self.keep_edges(&event, &judged.auth).await?;
        if self.is_past(known.as_deref(), &judged.prev) {
            self.head.row.last_pos = pos.unwrap_or(self.head.row.last_pos);
        } else if !hidden && let Some(after) = state_after {
            let on_head = judged.state_before == Some(self.head.state);
            self.advance(&event, &judged.prev, after, pos, on_head).await?;
        }
        if let Some(pos) = pos {
            self.keep_notifications(&event, (pos, messages), weighed);
            self.keep_relation(&event, pos);
            self.keep_own(&event, pos);
        }
        self.keep_sticky(&event, pos);
        self.recover_sticky().await?;
        Ok(event)
    }

    /// An event that is judged while only part of the room's state is known is noted, to be judged again.
    fn note_partial(&mut self, row: &mut EventRow) {
        if self.head.is_provisional() && row.flags & flags::WAITING == 0 {
            row.flags |= flags::PARTIAL;
            self.batch.put(PartialEventRow { room: self.room.num, event: row.event });
        }
    }

    /// Every appended event has a stream entry, by which the in-memory room learns that it is durable; only that of a
    /// visible one is a place in the stream that the event carries.
    fn announce(&mut self, num: EventNum, pdu: &Pdu, visible: bool) -> Option<StreamPosition> {
        if !visible {
            self.batch.announce(StreamKind::RoomHead, Some(self.room.num), None, Some(num.0));
            return None;
        }
        let target = (pdu.kind == MEMBER).then(|| pdu.state_key.as_deref().map(UserId::from)).flatten();
        Some(self.batch.announce(StreamKind::Event, Some(self.room.num), target, Some(num.0)))
    }

    /// Says that the stored form of a known event changes: caches of it drop.
    pub fn announce_change(&mut self, num: EventNum) {
        self.batch.announce(StreamKind::EventChanged, Some(self.room.num), None, Some(num.0));
    }

    /// The state after an event, and the event that it replaces.
    pub async fn state_after(&mut self, num: EventNum, judged: &Judged) -> Result<(Option<Roots>, Option<EventNum>)> {
        let Some(before) = judged.state_before else { return Ok((None, None)) };
        let (Some(state_key), false) = (&judged.pdu.state_key, judged.flags & flags::REJECTED != 0) else {
            return Ok((Some(before), None));
        };
        let pair = type_key(&judged.pdu.kind, state_key);
        let replaced =
            self.rooms.state_nums(self.room, Some(&self.overlay), before, std::slice::from_ref(&pair)).await?;
        let after = self.set_state(before, &[(pair, Some(num))]).await?;
        Ok((Some(after), replaced.into_iter().next().flatten()))
    }

    /// Changes keys of a state: writes new tree nodes and, for new keys, dictionary rows.
    pub async fn set_state(
        &mut self,
        state: Roots,
        changes: &[(crate::state::TypeKey, Option<EventNum>)],
    ) -> Result<Roots> {
        let pairs: Vec<_> = changes.iter().map(|(pair, _)| pair.clone()).collect();
        let ids = self.rooms.key_ids(self.room, Some(&self.overlay), &pairs).await?;
        let (mut members, mut rest) = (Vec::new(), Vec::new());
        for ((pair, value), id) in changes.iter().zip(ids) {
            let id = match id {
                Some(id) => id,
                None => self.new_key(pair)?,
            };
            let tree = if pair.0 == MEMBER { &mut members } else { &mut rest };
            tree.push((id, value.map(|num| num.0)));
        }
        Ok(Roots { members: self.apply(state.members, &members).await?, rest: self.apply(state.rest, &rest).await? })
    }

    fn new_key(&mut self, pair: &crate::state::TypeKey) -> Result<KeyId> {
        let id = crate::state::key_id(self.head.row.next_key)?;
        self.head.row.next_key += 1;
        let (kind, state_key) = pair.clone();
        self.batch.put(StateKeyRow { room: self.room.num, key_id: i64::from(id), kind, state_key });
        self.overlay.keys.insert(pair.clone(), id);
        Ok(id)
    }

    async fn apply(&mut self, root: Root, changes: &[(KeyId, Option<i64>)]) -> Result<Root> {
        if changes.is_empty() {
            return Ok(root);
        }
        let next = u64::try_from(self.head.row.next_segment).unwrap_or(0);
        let written =
            self.rooms.on_tree(self.room, Some(&self.overlay), |tree| tree.apply(&root, changes, next)).await?;
        self.write_segments(written)
    }

    fn write_segments(&mut self, written: Written) -> Result<Root> {
        for row in written.segments {
            self.write_segment(&row)?;
        }
        Ok(written.root)
    }

    fn write_segment(&mut self, row: &SegmentRow) -> Result<()> {
        let number = i64::try_from(row.segment).unwrap_or(i64::MAX);
        self.batch.put(StateSegmentRow {
            room: self.room.num,
            segment: number,
            nodes: row.nodes.to_vec(),
            crc32: row.crc32,
            lowest: i64::try_from(row.lowest).unwrap_or(0),
        });
        self.overlay.segments.insert(row.segment, Segment::decode(row)?);
        self.head.row.next_segment = self.head.row.next_segment.max(number + 1);
        self.head.row.segment_bytes += i64::try_from(row.nodes.len()).unwrap_or(0);
        Ok(())
    }

    /// The root of the thread that an event belongs to: its own, or that of what it relates to, as an edit or a reaction
    /// does (client-server API, threaded read receipts).
    async fn thread_of(&self, pdu: &Pdu) -> Result<Option<String>> {
        if let Some(root) = thread_of(pdu) {
            return Ok(Some(root));
        }
        let Some(parent) = relation(pdu).and_then(|(_, parent)| OwnedEventId::try_from(parent).ok()) else {
            return Ok(None);
        };
        let Some(num) = self.num_of(&parent).await? else { return Ok(None) };
        let found = self.rooms.events_left(self.room, Some(&self.overlay), &[num]).await?;
        Ok(found.first().and_then(|parent| parent.row.thread.clone()))
    }

    /// Gives a visible event its place in the timeline and counts it.
    fn place(&mut self, row: &mut EventRow, visible: bool, weighed: &Weighed) {
        if !visible {
            row.messages = self.head.row.messages;
            return;
        }
        row.fragment = Some(self.head.row.fragment);
        row.idx = Some(self.head.row.next_index);
        self.head.row.next_index += 1;
        if !weighed.own.is_empty() {
            row.flags |= flags::EXCEPTIONS;
        }
        if weighed.by_default {
            row.flags |= flags::NOTIFIABLE | if weighed.is_muted { flags::MUTED } else { 0 };
            if row.thread.is_none() {
                self.head.row.messages += 1;
            }
        }
        row.messages = self.head.row.messages;
    }

    /// Whether an event is no part of the present: it was known as part of the state at another event, which is thus later
    /// than it, and follows nothing that is still at the front.
    fn is_past(&self, known: Option<&Event>, prev: &[EventNum]) -> bool {
        let extremities = &self.head.extremities;
        known.is_some_and(|known| known.has(flags::OUTLIER))
            && !extremities.is_empty()
            && !extremities.iter().any(|extremity| prev.contains(&extremity.num))
    }

    /// Moves extremities and current state past an accepted event. `on_head`: the state before it is the current one.
    async fn advance(
        &mut self,
        event: &Arc<Event>,
        prev: &[EventNum],
        after: Roots,
        pos: Option<StreamPosition>,
        on_head: bool,
    ) -> Result<()> {
        // An event that names more than the extremities (hidden ones, or some twice) may come with a resolved state.
        let linear = on_head && self.head.extremities.iter().all(|extremity| prev.contains(&extremity.num));
        let merged = self.merged_states();
        self.move_extremities(event, prev, after).await?;
        let state = self.state_of_extremities(&merged).await?;
        self.head.row.depth =
            self.head.extremities.iter().map(|extremity| extremity.depth).max().unwrap_or(event.row.depth);
        self.move_state(state, pos, linear.then_some(event)).await
    }

    /// The state that the extremities resolve to now; `merged`: the states that the current one is resolved from.
    async fn state_of_extremities(&mut self, merged: &BTreeSet<Roots>) -> Result<Roots> {
        let states = self.merged_states();
        match states.first() {
            Some(one) if self.head.extremities.len() == 1 => Ok(*one),
            // As many forks as there may be: they still come to the same.
            _ if states == *merged => Ok(self.head.state),
            _ => self.resolve(&states.into_iter().collect::<Vec<_>>()).await,
        }
    }

    /// Makes this the current state, as of a position or of one of its own. `event`: what alone has changed it.
    async fn move_state(
        &mut self,
        state: Roots,
        pos: Option<StreamPosition>,
        event: Option<&Arc<Event>>,
    ) -> Result<()> {
        let earlier = self.head.state;
        // A withheld event has no position of its own; its effect on the state needs one.
        let pos = match pos {
            Some(pos) => pos,
            None if state != earlier => self.batch.announce(StreamKind::RoomHead, Some(self.room.num), None, None),
            None => return Ok(()),
        };
        self.head.row.last_pos = pos;
        if state != earlier {
            self.head.state = state;
            self.change_memberships(earlier, state, pos, event).await?;
            self.note_guests(earlier, state, event).await?;
            self.checkpoint().await?;
            self.batch.put(RoomHeadRow {
                room: self.room.num,
                pos,
                members: self.head.state.members.to_bytes(),
                rest: self.head.state.rest.to_bytes(),
            });
        }
        Ok(())
    }

    /// History has come: extremities that it follows are none, since newer events follow it in turn.
    pub async fn cover_by_history(&mut self, placed: &[Arc<Event>]) -> Result<()> {
        let mut prev = Vec::new();
        for event in placed.iter().filter(|event| !event.rejected()) {
            let edges = packed::unpack(event.num().0, &event.row.prev).unwrap_or_default();
            prev.extend(edges.into_iter().map(EventNum));
        }
        let (before, merged) = (self.head.extremities.clone(), self.merged_states());
        self.cover(&prev).await?;
        if self.head.extremities.is_empty() {
            self.head.extremities = before;
            return Ok(());
        }
        if self.head.extremities.len() == before.len() {
            return Ok(());
        }
        let state = self.state_of_extremities(&merged).await?;
        self.last = None;
        self.move_state(state, None, None).await
    }

    async fn move_extremities(&mut self, event: &Arc<Event>, prev: &[EventNum], after: Roots) -> Result<()> {
        self.cover(prev).await?;
        self.head.extremities.push(Extremity {
            num: event.num(),
            id: event.id().clone(),
            depth: event.row.depth,
            state: Some(after),
        });
        self.head.extremities.sort_by_key(|extremity| extremity.num);
        Ok(())
    }

    /// Removes the extremities that an event covers: its previous events, and through hidden ones what those covered.
    async fn cover(&mut self, prev: &[EventNum]) -> Result<()> {
        let (mut queue, mut covered) = (prev.to_vec(), BTreeSet::new());
        while let Some(num) = queue.pop() {
            if !covered.insert(num) {
                continue;
            }
            if self.head.extremities.iter().any(|extremity| extremity.num == num) {
                continue;
            }
            // What a hidden event names may have been purged; it was shown, so it covers nothing more.
            let found = self.rooms.events_left(self.room, Some(&self.overlay), &[num]).await?;
            for hidden in found.iter().filter(|event| event.has(flags::REJECTED | flags::SOFT_FAILED)) {
                let edges = packed::unpack(num.0, &hidden.row.prev).unwrap_or_default();
                queue.extend(edges.into_iter().map(EventNum));
            }
        }
        self.head.extremities.retain(|extremity| !covered.contains(&extremity.num));
        Ok(())
    }

    /// The states that the current one is resolved from, each once.
    fn merged_states(&self) -> BTreeSet<Roots> {
        self.head.extremities.iter().filter_map(|extremity| extremity.state).collect()
    }

    async fn checkpoint(&mut self) -> Result<()> {
        let bytes = u64::try_from(self.head.row.segment_bytes).unwrap_or(0);
        let state = self.head.state;
        if !needs_checkpoint(bytes, state.members.bytes_estimate() + state.rest.bytes_estimate()) {
            return Ok(());
        }
        let mut fresh = [state.members, state.rest];
        for root in &mut fresh {
            let first = u64::try_from(self.head.row.next_segment).unwrap_or(0);
            let from = *root;
            let written =
                self.rooms.on_tree(self.room, Some(&self.overlay), |tree| tree.checkpoint(&from, first)).await?;
            *root = self.write_segments(written)?;
        }
        let [members, rest] = fresh;
        self.head.state = Roots { members, rest };
        self.head.row.segment_bytes = 0;
        Ok(())
    }

    /// Brings counts and local memberships in line with a change of the current state.
    async fn change_memberships(
        &mut self,
        earlier: Roots,
        later: Roots,
        pos: StreamPosition,
        linear: Option<&Arc<Event>>,
    ) -> Result<()> {
        let served = Arc::clone(&self.head.servers);
        self.count_memberships(earlier, later, pos, linear).await?;
        self.keep_servers(&served, pos);
        Ok(())
    }

    /// The same, but for what is stored of servers.
    async fn count_memberships(
        &mut self,
        earlier: Roots,
        later: Roots,
        pos: StreamPosition,
        linear: Option<&Arc<Event>>,
    ) -> Result<()> {
        let changed: Vec<(Option<EventNum>, Option<EventNum>)> = match linear {
            Some(event) if event.pdu.kind == MEMBER => vec![(event.row.replaces, Some(event.num()))],
            Some(_) => return Ok(()),
            None => {
                let (a, b) = (earlier.members, later.members);
                let diff = self.rooms.on_tree(self.room, Some(&self.overlay), |tree| tree.diff(&a, &b)).await?;
                diff.into_iter().map(|(_, before, after)| (before.map(EventNum), after.map(EventNum))).collect()
            }
        };
        for chunk in changed.chunks(MEMBERS_CHUNK) {
            let nums: Vec<EventNum> = chunk.iter().flat_map(|(before, after)| [*before, *after]).flatten().collect();
            let mut found = self.rooms.events(self.room, Some(&self.overlay), &nums).await?.into_iter();
            for (before, after) in chunk {
                let before = before.and_then(|_| found.next());
                let after = after.and_then(|_| found.next());
                self.change_membership(before.as_deref(), after.as_ref(), pos).await?;
            }
        }
        Ok(())
    }

    async fn change_membership(
        &mut self,
        before: Option<&Event>,
        after: Option<&Arc<Event>>,
        pos: StreamPosition,
    ) -> Result<()> {
        let membership = |event: Option<&Event>| {
            event.and_then(|event| event.pdu.membership()).map_or_else(|| "leave".to_owned(), str::to_owned)
        };
        let (was, is) = (membership(before), membership(after.map(AsRef::as_ref)));
        let row = &mut self.head.row;
        row.joined += i64::from(is == "join") - i64::from(was == "join");
        row.invited += i64::from(is == "invite") - i64::from(was == "invite");
        let target =
            after.map(AsRef::as_ref).or(before).and_then(|event| event.pdu.state_key.as_deref()).map(UserId::from);
        let Some(target) = target else { return Ok(()) };
        if is == "join" && was != "join" {
            self.joined.push(target.clone());
        }
        self.count_server(target.server_name(), i64::from(is == "join") - i64::from(was == "join"));
        if target.server_name() != self.rooms.server_name() {
            return Ok(());
        }
        let local = Arc::make_mut(&mut self.head.local);
        if is == "join" {
            local.insert(target.clone());
        } else {
            local.remove(&target);
        }
        let old = self.membership_row(&target).await?;
        let unchanged =
            |old: &MembershipRow| after.is_some_and(|after| after.num() == old.event) && old.membership == is;
        if old.as_ref().is_some_and(unchanged) {
            // Known before the room was: an invite, with the stripped state that came with it.
            return Ok(());
        }
        let row = self.next_membership(old, &target, &is, after, pos).await?;
        // The entry of a membership event says so itself; others come and go by state resolution.
        if self.last.is_none() || self.last != after.map(|event| event.num()) {
            self.batch.announce(StreamKind::Membership, Some(self.room.num), Some(target.clone()), None);
        }
        self.batch.put(row.clone());
        self.memberships.insert(target, row);
        Ok(())
    }

    /// The stored membership of a local user, with what this draft changed.
    pub async fn membership_row(&self, user: &UserId) -> Result<Option<MembershipRow>> {
        if let Some(row) = self.memberships.get(user) {
            return Ok(Some(row.clone()));
        }
        // Its positions are placeholders of another batch until that is durable.
        self.rooms.wait_for_membership(self.room, user).await?;
        self.rooms.membership_row(self.room.num, user).await
    }

    async fn next_membership(
        &self,
        old: Option<MembershipRow>,
        user: &UserId,
        membership: &str,
        event: Option<&Arc<Event>>,
        pos: StreamPosition,
    ) -> Result<MembershipRow> {
        let was_joined = old.as_ref().is_some_and(|row| row.membership == "join");
        let stripped = match (membership, event) {
            ("invite" | "knock", Some(event)) => {
                Some(self.rooms.stripped_state(self.room, &self.overlay, event).await?)
            }
            _ => None,
        };
        let joins = membership == "join" && !was_joined;
        let old = old.as_ref();
        Ok(MembershipRow {
            user_id: user.clone(),
            room: self.room.num,
            membership: membership.to_owned(),
            event: event.map_or(EventNum(0), |event| event.num()),
            pos,
            joined_pos: if joins { pos } else { old.map_or(StreamPosition::ZERO, |row| row.joined_pos) },
            left_pos: match (was_joined, membership) {
                (_, "join") => StreamPosition::ZERO,
                (true, _) => pos,
                (false, _) => old.map_or(StreamPosition::ZERO, |row| row.left_pos),
            },
            sender: event.map_or_else(|| user.clone(), |event| event.row.sender.clone()),
            joined_messages: if joins { self.head.row.messages } else { old.map_or(0, |row| row.joined_messages) },
            forgotten: membership == "leave" && old.is_some_and(|row| row.forgotten),
            stripped,
        })
    }

    /// Sending is reading, in the main timeline or in a thread: remembers the position of a local sender's last event
    /// there.
    fn keep_own(&mut self, event: &Arc<Event>, pos: StreamPosition) {
        let user_id = event.row.sender.clone();
        if event.pdu.is_state() || !self.head.local.contains(&user_id) {
            return;
        }
        let room = self.room.num;
        match event.row.thread.clone() {
            Some(root) => self.batch.put(OwnInThreadRow { user_id, room, root, pos }),
            None => self.batch.put(OwnMessageRow { user_id, room, pos, messages: self.head.row.messages }),
        };
    }

    /// Keeps the auth edges of a state event where the auth graph is loaded from.
    async fn keep_edges(&mut self, event: &Arc<Event>, auth: &[EventNum]) -> Result<()> {
        let Some(state_key) = &event.pdu.state_key else { return Ok(()) };
        if event.has(flags::WAITING) {
            return Ok(());
        }
        let pair = type_key(&event.pdu.kind, state_key);
        let ids = self.rooms.key_ids(self.room, Some(&self.overlay), std::slice::from_ref(&pair)).await?;
        let key = match ids.into_iter().next().flatten() {
            Some(key) => key,
            // A rejected event may be the only one that ever named this key.
            None => self.new_key(&pair)?,
        };
        let nums: Vec<i64> = auth.iter().map(|num| num.0).collect();
        self.batch.put(StateEventRow {
            room: self.room.num,
            event: event.num(),
            key_id: i64::from(key),
            auth: packed::pack(event.num().0, &nums),
        });
        if let Some(graph) = self.room.graph.lock().await.as_mut() {
            graph.insert(event.num(), key, &nums)?;
        }
        Ok(())
    }

    fn keep_notifications(&mut self, event: &Arc<Event>, at: (StreamPosition, i64), weighed: Weighed) {
        let (pos, _) = at;
        let is_reply = event.relation().is_some_and(|(rel_type, _)| rel_type == "m.thread");
        if let Some(root) = event.row.thread.clone().filter(|_| weighed.by_default && !is_reply) {
            self.batch.put(ThreadAsideRow { room: self.room.num, pos, root });
        }
        muting::keep(&mut self.batch, &mut self.head, weighed.changes, at);
        for own in weighed.own {
            self.batch.put(NotificationRow {
                user_id: own.user,
                room: self.room.num,
                pos,
                event: event.num(),
                thread: event.row.thread.clone().unwrap_or_default(),
                notify: own.notify,
                highlight: own.highlight,
            });
        }
    }

    fn keep_relation(&mut self, event: &Arc<Event>, pos: StreamPosition) {
        let Some((rel_type, parent)) = event.relation() else { return };
        let key = event.pdu.content.get("m.relates_to").and_then(|relation| relation.get("key")?.as_str());
        self.batch.put(RelationRow {
            room: self.room.num,
            parent: parent.to_owned(),
            rel_type: rel_type.to_owned(),
            event: event.num(),
            kind: event.pdu.kind.clone(),
            sender: event.row.sender.clone(),
            ts: event.row.ts,
            aggregation_key: key.map(str::to_owned),
        });
        if rel_type == "m.thread" {
            self.batch.put(ThreadRow {
                room: self.room.num,
                root: parent.to_owned(),
                last_pos: pos,
                latest: event.num(),
            });
        }
    }

    /// Hands the decision to the store. The queue is free for the next one as soon as this returns.
    pub fn submit(mut self) -> store::Ticket {
        let version = self.head.row.version;
        let marker = match self.batch.stream.last().and_then(|entry| entry.number.filter(|_| is_marker(entry.kind))) {
            Some(number) => number,
            None => {
                let number = -self.rooms.unique_number();
                self.batch.announce(StreamKind::RoomMeta, Some(self.room.num), None, Some(number));
                number
            }
        };
        if self.is_new {
            self.batch.expect_absent::<RoomRow>(vec![self.room.num.into()]);
        } else {
            self.batch.expect_equals::<RoomRow>(vec![self.room.num.into()], "version", version);
        }
        if self.head.row.last_pos == UNKNOWN_POS {
            // A placeholder of the batch before, which means nothing in this one.
            self.head.row.last_pos = StreamPosition::pending(self.batch.stream.len().saturating_sub(1));
        }
        // Never the same twice: if versions were counted, a batch built on a lost one would find the version that another
        // node has written meanwhile, and pass.
        self.head.row.version = self.rooms.unique_number();
        self.head.row.head_members = self.head.state.members.to_bytes();
        self.head.row.head_rest = self.head.state.rest.to_bytes();
        let nums: Vec<i64> = self.head.extremities.iter().map(|extremity| extremity.num.0).collect();
        self.head.row.extremities = packed::pack(0, &nums);
        self.batch.put(self.head.row.clone());
        {
            let mut unwritten = self.room.unwritten.lock();
            let events = self.overlay.events.values().cloned().collect();
            unwritten.segments.extend(self.overlay.segments);
            unwritten.keys.extend(self.overlay.keys);
            unwritten.events.extend(self.overlay.events);
            unwritten.memberships.extend(self.memberships.into_keys().map(|user| (user, marker)));
            let place = self.batch.stream.len().saturating_sub(1);
            unwritten.heads.push_back(Pending {
                marker,
                place,
                head: Arc::new(self.head.clone()),
                events,
                closes_to_guests: self.closes_to_guests,
                whole_pos: self.whole_pos,
            });
        }
        *self.queue = self.head;
        self.rooms.store.submit(self.batch)
    }

    /// What the event counts for whom.
    async fn weighed(&self, pdu: &Arc<Pdu>) -> Result<Weighed> {
        Ok(muting::weigh(self.rooms.judge_notifications(self, pdu).await?, pdu, &self.head))
    }

    /// The number of a known event of this room, by id, with what this draft and earlier ones added.
    pub async fn num_of(&self, id: &OwnedEventId) -> Result<Option<EventNum>> {
        if let Some(num) = self.overlay.ids.get(id) {
            return Ok(Some(*num));
        }
        if let Some(extremity) = self.head.extremities.iter().find(|extremity| extremity.id == *id) {
            return Ok(Some(extremity.num));
        }
        let unwritten =
            self.room.unwritten.lock().events.values().find(|event| event.id() == id).map(|event| event.num());
        if unwritten.is_some() {
            return Ok(unwritten);
        }
        Ok(self.rooms.event_by_id(self.room, id.as_str()).await?.map(|event| event.num()))
    }

    /// Puts a changed form of a known event (its flags, its pruned content) in the place of the old.
    pub fn change_event(&mut self, row: EventRow, pdu: Arc<Pdu>) -> Arc<Event> {
        let event = Arc::new(Event::new(row.clone(), pdu));
        self.announce_change(event.num());
        self.overlay.events.insert(event.num(), Arc::clone(&event));
        self.batch.put(row);
        event
    }

    /// Fails if the in-memory room was found to be out of date since the queue was taken.
    pub fn check_alive(&self) -> Result<()> {
        if self.room.is_dead() { Err(Error::Busy) } else { Ok(()) }
    }
}

/// The thread root's id, if the event belongs to a thread.
pub(crate) fn thread_of(pdu: &Pdu) -> Option<String> {
    relation(pdu).filter(|(rel_type, _)| *rel_type == "m.thread").map(|(_, root)| root.to_owned())
}

/// The row of an event without its place and the state after it.
pub(crate) fn event_row(room: RoomNum, num: EventNum, judged: &Judged, pos: Option<StreamPosition>) -> EventRow {
    let nums = |list: &[EventNum]| list.iter().map(|num| num.0).collect::<Vec<_>>();
    EventRow {
        event: num,
        room,
        event_id: judged.pdu.event_id.to_string(),
        pos,
        fragment: None,
        idx: None,
        depth: judged.pdu.depth,
        ts: judged.pdu.origin_server_ts,
        sender: UserId::from(judged.pdu.sender.as_str()),
        kind: judged.pdu.kind.clone(),
        state_key: judged.pdu.state_key.clone(),
        flags: judged.flags,
        reason: judged.reason.clone(),
        state_before: judged.state_before.map(|state| state.encode()),
        state_after: None,
        messages: 0,
        thread: None,
        redacted_by: None,
        replaces: None,
        transaction: judged.transaction.clone(),
        prev: packed::pack(num.0, &nums(&judged.prev)),
        auth: packed::pack(num.0, &nums(&judged.auth)),
    }
}
