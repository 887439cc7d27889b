//! Rooms that were joined with part of their state (MSC3706, MSC3902): a person can talk before the memberships of all
//! others have come.
//!
//! What is missing is memberships from before the join. An event that comes meanwhile is judged by what is known and by
//! the memberships that its own auth events tell, and is noted. When the whole state before the join has come, every
//! noted event gets the state that it should have had and is judged again; what may not stand then is hidden. All of that
//! is one decision in the room's queue, so nothing can come between.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ::event::Pdu;
use ruma_common::OwnedEventId;
use store::tables::core::JobRow;
use store::tables::rooms::{PartialEventRow, PartialRoomRow, UncountedRow};
use store::{CommitBatch, CommitError, EventNum, Read, StreamPosition};

use super::left_out::{self, LeftOut};
use crate::accept::{ATTEMPTS_MAX, judge_then, nums_of};
use crate::draft::{Draft, Judged};
use crate::event::Event;
use crate::room::{Extremity, Room};
use crate::state::{MEMBER, Roots, TypeKey, type_key};
use crate::{Error, Result, Rooms, flags, packed};

/// The kind of the jobs that fetch what is missing of a room's state. Their name is the room's id.
pub const JOB: &str = "whole_state";
/// Most servers that are taken to be in a room because a resident says so.
const SERVERS_MAX: usize = 20_000;
/// How often those who wait for a room's whole state look whether another node has completed it.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long what needs all members of a room waits for them.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a resident left out.
#[derive(Clone, Debug, Default)]
pub struct Partial {
    /// The server that answered.
    pub resident: String,
    /// The servers that it says are in the room.
    pub servers: Vec<String>,
}

/// A room of which part of the state is known.
#[derive(Clone, Debug)]
pub struct PartialRoom {
    /// The room's id.
    pub room_id: String,
    /// The join, before which the state is missing.
    pub join: OwnedEventId,
    /// The servers that may know it, the one that let us in first.
    pub servers: Vec<String>,
    /// When the room was joined, in milliseconds since the epoch.
    pub since_ms: i64,
}

/// A partial room that this process is to complete, and nobody else as long as the claim is kept up.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The room's id.
    pub room_id: String,
    /// What is missing.
    pub lacks: Lacks,
    job: JobRow,
}

/// What is missing of a room's state.
#[derive(Clone, Debug)]
pub enum Lacks {
    /// Most members.
    Members(PartialRoom),
    /// Events that could not be verified ([`Rooms::left_out`]).
    LeftOut,
}

impl Claim {
    /// How often it was tried before.
    pub fn failures(&self) -> i64 {
        self.job.failures
    }
}

impl Room {
    /// Whether only part of the room's state is known.
    pub fn is_partial(&self) -> bool {
        self.head().partial.is_some()
    }

    /// Whether a server was named as one in the room when this one joined with part of the state, which is still so.
    pub(crate) fn is_assumed(&self, server: &str) -> bool {
        let head = self.head();
        head.partial.as_ref().is_some_and(|partial| partial.servers.lines().any(|known| known == server))
    }
}

impl Draft<'_> {
    /// In a room of whose state something is missing: the state, with what an event's auth events tell of that and the
    /// state does not have. As long as members are to come, that is memberships; then what is known to be left out of the
    /// state that a resident told when we joined.
    pub(crate) async fn learn_state(&mut self, pdu: &Pdu, state: Roots) -> Result<Roots> {
        let (members, left_out) = (self.head.partial.is_some(), self.head.left_out.clone());
        if !members && left_out.as_ref().is_none_or(|left_out| left_out.is_empty()) {
            return Ok(state);
        }
        let is_told = |event: &Event| match members {
            true => event.pdu.kind == MEMBER,
            false => left_out.as_ref().is_some_and(|left_out| left_out.has(event.id())),
        };
        let auth = nums_of(self, &pdu.auth_events).await?;
        let events = self.rooms.events(self.room, Some(&self.overlay), &auth).await?;
        let told: Vec<(TypeKey, EventNum)> = events
            .iter()
            .filter(|event| is_told(event) && !event.has(flags::REJECTED | flags::SOFT_FAILED))
            .filter_map(|event| Some((type_key(&event.pdu.kind, event.pdu.state_key.as_deref()?), event.num())))
            .collect();
        self.fill_state(state, told).await
    }

    /// A state with those of the entries of whose keys it has none.
    pub(super) async fn fill_state(&mut self, state: Roots, entries: Vec<(TypeKey, EventNum)>) -> Result<Roots> {
        let pairs: Vec<TypeKey> = entries.iter().map(|(pair, _)| pair.clone()).collect();
        let known = self.rooms.state_nums(self.room, Some(&self.overlay), state, &pairs).await?;
        let unknown = entries.into_iter().zip(known).filter(|(_, known)| known.is_none());
        let changes: Vec<(TypeKey, Option<EventNum>)> = unknown.map(|((pair, num), _)| (pair, Some(num))).collect();
        if changes.is_empty() { Ok(state) } else { self.set_state(state, &changes).await }
    }

    /// Notes that what was joined is part of a room, and that the rest is to be fetched.
    pub(crate) fn note_partial_room(&mut self, partial: &Partial, join: &OwnedEventId) {
        let own = self.rooms.server_name();
        let mut seen = HashSet::new();
        let servers = partial.servers.iter().map(String::as_str);
        let servers: Vec<&str> = std::iter::once(partial.resident.as_str())
            .chain(servers)
            .filter(|server| *server != own && ::event::ids::is_server_name(server) && seen.insert(*server))
            .take(SERVERS_MAX)
            .collect();
        let since_ms = self.rooms.clock.now_ms();
        self.note_completion();
        self.begin_partial(PartialRoomRow {
            room: self.room.num,
            join_id: join.to_string(),
            resident: partial.resident.clone(),
            servers: servers.join("\n"),
            since_ms,
            whole_pos: StreamPosition::ZERO,
        });
    }
}

impl Draft<'_> {
    /// Notes that the rest of the room's state is to be fetched, from now on.
    pub(crate) fn note_completion(&mut self) {
        let (kind, name) = (JOB.to_owned(), self.room.id.clone());
        self.batch.put(JobRow { kind, name, cursor: String::new(), due_ms: 0, failures: 0 });
    }
}

/// What has become known of the state before some events.
pub(super) enum Found {
    /// All members before the join with this id, those of this state; the rest came with the join.
    Members(String, Roots),
    /// The states that were told before the events with these ids, with what had been left out of them; and whether the
    /// event is our join, for whose state a resident vouched.
    Told(HashMap<String, (Roots, bool)>),
}

/// What is found on the second look at the events of a partial room.
#[derive(Default)]
pub(super) struct SecondLook {
    /// The state after each event.
    after: HashMap<EventNum, Roots>,
    /// Events that are part of the graph, and what they follow.
    covered: BTreeSet<EventNum>,
}

impl Rooms {
    /// The rooms of which only part of the state is known.
    ///
    /// # Errors
    /// As the store says.
    pub async fn partial_rooms(&self) -> Result<Vec<PartialRoom>> {
        let rows: Vec<PartialRoomRow> = self.store.all(Read::prefix::<PartialRoomRow>(vec![])).await?;
        let mut rooms = Vec::with_capacity(rows.len());
        for row in rows.into_iter().filter(is_open) {
            rooms.extend(self.partial_room_of(row).await?);
        }
        Ok(rooms)
    }

    /// What is known of a partial room; none if the state is whole, or the room is not known.
    ///
    /// # Errors
    /// As the store says.
    pub async fn partial_room(&self, room_id: &str) -> Result<Option<PartialRoom>> {
        let Some(room) = self.room(room_id).await? else { return Ok(None) };
        let row = self.store.get::<PartialRoomRow>(vec![room.num.into()]).await?;
        match row.filter(is_open) {
            Some(row) => self.partial_room_of(row).await,
            None => Ok(None),
        }
    }

    /// Returns when a room has been joined with part of its state, which is to be completed.
    pub async fn partial_begins(&self) {
        self.partial_begun.notified().await;
    }

    async fn partial_room_of(&self, row: PartialRoomRow) -> Result<Option<PartialRoom>> {
        let Some(room) = self.room_by_num(row.room).await? else { return Ok(None) };
        let corrupt = |_| store::Error::Corrupt { table: "partial_rooms", detail: row.join_id.clone() };
        let join = OwnedEventId::try_from(row.join_id.as_str()).map_err(corrupt)?;
        let servers = row.servers.lines().map(str::to_owned).collect();
        Ok(Some(PartialRoom { room_id: room.id.clone(), join, servers, since_ms: row.since_ms }))
    }

    /// A partial room that nobody completes and whose time has come, claimed for so many milliseconds. One of which only
    /// events are left out that could not be verified comes after those whose members are missing.
    ///
    /// # Errors
    /// As the store says.
    pub async fn claim_partial(&self, hold_ms: i64) -> Result<Option<Claim>> {
        match self.claim_job(JOB, hold_ms).await? {
            Some(claim) => Ok(Some(claim)),
            None => self.claim_job(left_out::JOB, hold_ms).await,
        }
    }

    async fn claim_job(&self, kind: &str, hold_ms: i64) -> Result<Option<Claim>> {
        let now_ms = self.clock.now_ms();
        let jobs: Vec<JobRow> = self.store.all(Read::prefix::<JobRow>(vec![kind.into()])).await?;
        for job in jobs.into_iter().filter(|job| job.due_ms <= now_ms) {
            let claimed = JobRow { due_ms: now_ms.saturating_add(hold_ms), ..job.clone() };
            let empty = self.room(&job.name).await?.is_none_or(|room| room.head().local.is_empty());
            let lacks = match kind {
                left_out::JOB => self.only_lacks_left_out(&job.name).await?.then_some(Lacks::LeftOut),
                _ => self.partial_room(&job.name).await?.map(Lacks::Members),
            };
            match lacks.filter(|_| !empty) {
                Some(lacks) if self.change_job(&job, Some(&claimed)).await? => {
                    return Ok(Some(Claim { room_id: job.name.clone(), lacks, job: claimed }));
                }
                Some(_) => {}
                // It is whole, gone or left: no server tells us of it, until somebody joins it again.
                None => drop(self.change_job(&job, None).await?),
            }
        }
        Ok(None)
    }

    /// Keeps a claim up for so many milliseconds from now; false if it is lost.
    ///
    /// # Errors
    /// As the store says.
    pub async fn keep_claim(&self, claim: &mut Claim, hold_ms: i64) -> Result<bool> {
        let kept = JobRow { due_ms: self.clock.now_ms().saturating_add(hold_ms), ..claim.job.clone() };
        let holds = self.change_job(&claim.job, Some(&kept)).await?;
        claim.job = kept;
        Ok(holds)
    }

    /// Gives a claim up, to be taken by anybody after so many milliseconds; `failures` is how often it was tried by then.
    ///
    /// # Errors
    /// As the store says.
    pub async fn put_off(&self, claim: Claim, pause_ms: i64, failures: i64) -> Result<()> {
        let due_ms = self.clock.now_ms().saturating_add(pause_ms);
        let later = JobRow { due_ms, failures, ..claim.job.clone() };
        self.change_job(&claim.job, Some(&later)).await.map(drop)
    }

    /// Replaces or removes a job; false if it is another one by now.
    async fn change_job(&self, job: &JobRow, changed: Option<&JobRow>) -> Result<bool> {
        let key = vec![job.kind.as_str().into(), job.name.as_str().into()];
        let mut batch = CommitBatch::new();
        batch.expect_equals::<JobRow>(key.clone(), "due_ms", job.due_ms);
        match changed {
            Some(changed) => batch.put(changed.clone()),
            None => batch.delete::<JobRow>(key),
        };
        match self.store.commit(batch).await {
            Ok(_) => Ok(true),
            Err(CommitError::Conflict { .. }) => Ok(false),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// Waits until all of a room's state is known, or the time is over. Returns whether it is known.
    ///
    /// # Errors
    /// As the store says.
    pub async fn when_whole(&self, room_id: &str, patience: Duration) -> Result<bool> {
        let wait = async {
            loop {
                let completed = self.partial_ended.notified();
                tokio::pin!(completed);
                completed.as_mut().enable();
                match self.room(room_id).await? {
                    Some(room) if room.is_partial() => {}
                    _ => return Ok(()),
                }
                // Another node may complete it, of which nobody tells.
                drop(tokio::time::timeout(LOOK_AGAIN, completed).await);
            }
        };
        match tokio::time::timeout(patience, wait).await {
            Ok(whole) => whole.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// A room with all its members, for what needs to know them all: waits for them for a while.
    ///
    /// # Errors
    /// [`Error::PartialState`] if they do not come in time; as the store says.
    pub async fn need_members(&self, room_id: &str) -> Result<()> {
        if self.when_whole(room_id, PATIENCE).await? { Ok(()) } else { Err(Error::PartialState) }
    }

    /// Takes the ids of the whole state before the join of a partial room, all of which are known (see
    /// [`Rooms::accept_outliers`]): from now on the room is like any other, but for what is left out of it and may be
    /// verified later ([`Rooms::accept_left_out`]). A room that is whole stays as it is.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] for an unknown room; [`Error::Invalid`] if an event of the state is not known, or the state
    /// does not allow our join; as the store says.
    pub async fn complete_state(&self, room_id: &str, state: &[OwnedEventId], left_out: &[LeftOut]) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            let room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
            match self.try_complete(&room, state, left_out).await {
                Err(Error::Busy) => {}
                other => {
                    self.partial_ended.notify_waiters();
                    return other;
                }
            }
        }
        Err(Error::Busy)
    }

    async fn try_complete(&self, room: &Arc<Room>, state: &[OwnedEventId], left_out: &[LeftOut]) -> Result<()> {
        // The tree's nodes first: a change of many keys is no small batch.
        let mut draft = Draft::begin(self, room).await;
        draft.check_alive()?;
        self.wait_for_all(room).await?;
        if draft.head.partial.is_none() {
            return Ok(());
        }
        let whole = self.given_state(&mut draft, state).await?;
        self.check_given(&draft, whole).await?;
        self.commit(room, draft).await?;
        let mut draft = Draft::begin(self, room).await;
        draft.check_alive()?;
        self.wait_for_all(room).await?;
        let Some(partial) = draft.head.partial.clone() else { return Ok(()) };
        self.correct(&mut draft, &Found::Members(partial.join_id.clone(), whole)).await?;
        let corrupt = |_| store::Error::Corrupt { table: "partial_rooms", detail: partial.join_id.clone() };
        let join = OwnedEventId::try_from(partial.join_id.as_str()).map_err(corrupt)?;
        self.note_left_out_of_whole(&mut draft, &join, whole, left_out).await?;
        draft.batch.delete::<JobRow>(vec![JOB.into(), room.id.as_str().into()]);
        self.commit(room, draft).await
    }

    /// Judges anew by what has become known, and corrects what is current.
    pub(super) async fn correct(&self, draft: &mut Draft<'_>, found: &Found) -> Result<()> {
        let look = self.look_again(draft, found).await?;
        let extremities = self.extremities_after(draft, &look).await?;
        let states: Vec<Roots> = extremities.iter().filter_map(|extremity| extremity.state).collect();
        let current = draft.resolve(&states).await?;
        draft.correct_head(extremities, current).await
    }

    /// A state that lacks what is known to belong to it is not the whole.
    async fn check_given(&self, draft: &Draft<'_>, whole: Roots) -> Result<()> {
        let Some(partial) = &draft.head.partial else { return Ok(()) };
        let join = self.event_by_id(draft.room, &partial.join_id).await?.ok_or(Error::EventNotFound)?;
        let known = join.state_before().unwrap_or(Roots::EMPTY);
        for (known, whole) in [(known.rest, whole.rest), (known.members, whole.members)] {
            let changes = self.on_tree(draft.room, Some(&draft.overlay), |tree| tree.diff(&known, &whole)).await?;
            let n_lost = changes.iter().filter(|(_, before, after)| before.is_some() && after.is_none()).count();
            if n_lost > 0 {
                return Err(Error::Invalid(format!(
                    "the state that was given lacks {n_lost} events that belong to it"
                )));
            }
        }
        Ok(())
    }

    /// Judges every event anew that was judged by part of the state.
    async fn look_again(&self, draft: &mut Draft<'_>, found: &Found) -> Result<SecondLook> {
        let room = draft.room;
        let rows: Vec<PartialEventRow> = self.store.all(Read::prefix::<PartialEventRow>(vec![room.num.into()])).await?;
        let nums: Vec<EventNum> = rows.iter().map(|row| row.event).collect();
        let events = self.events_left(room, None, &nums).await?;
        let mut look = SecondLook::default();
        for event in oldest_first(events) {
            let prev = previous(&event);
            let before = match found {
                // What is not a membership came with the join, from the server that let us in.
                Found::Members(join, whole) if event.id() == join => {
                    Roots { members: whole.members, ..event.state_before().unwrap_or(*whole) }
                }
                _ => {
                    let told = match found {
                        Found::Told(states) => states.get(event.id().as_str()).copied(),
                        Found::Members(..) => None,
                    };
                    let before = self.state_before_again(draft, &event, &prev, &look, told).await?;
                    match found {
                        // Something may be left out still.
                        Found::Told(_) => draft.learn_state(&event.pdu, before).await?,
                        Found::Members(..) => before,
                    }
                }
            };
            let mut judged = judge_then(draft, &event.pdu, prev.clone(), before).await?;
            if judged.flags != 0 && self.is_own_join(&event, found) {
                return Err(Error::Invalid("the state that was given does not allow our join".to_owned()));
            }
            settle_flags(&event, &mut judged);
            let (after, replaces) = draft.state_after(event.num(), &judged).await?;
            let after = after.unwrap_or(before);
            look.after.insert(event.num(), after);
            if judged.flags & flags::HIDDEN == 0 {
                look.covered.extend(prev);
            }
            self.change_judgement(draft, &event, judged, (before, after), replaces).await?;
        }
        Ok(look)
    }

    /// Whether a second look begins with this join of ours, without which nobody here is in the room.
    fn is_own_join(&self, event: &Event, found: &Found) -> bool {
        match found {
            Found::Members(join, _) => event.id() == join,
            Found::Told(states) => states.get(event.id().as_str()).is_some_and(|(_, at_join)| *at_join),
        }
    }

    /// `told` is the state before the event as another server told it, if more of that is known now than was then, and
    /// whether that is all that counts.
    async fn state_before_again(
        &self,
        draft: &mut Draft<'_>,
        event: &Event,
        prev: &[EventNum],
        look: &SecondLook,
        told: Option<(Roots, bool)>,
    ) -> Result<Roots> {
        if let Some((told, true)) = told {
            return Ok(told);
        }
        // Behind a gap the state is what another server told, all of it.
        let before = || event.state_before().filter(|_| prev.len() < event.pdu.prev_events.len());
        let told = told.map(|(told, _)| told).or_else(before);
        let events = self.events(draft.room, Some(&draft.overlay), prev).await?;
        let after = |event: &Arc<Event>| look.after.get(&event.num()).copied().or_else(|| event.state_after());
        let states: Vec<Roots> = told.into_iter().chain(events.iter().filter_map(after)).collect();
        draft.resolve(&states).await
    }

    /// Stores what was found of an event. One that may no longer be shown loses its place, and what it did to others.
    async fn change_judgement(
        &self,
        draft: &mut Draft<'_>,
        event: &Arc<Event>,
        judged: Judged,
        (before, after): (Roots, Roots),
        replaces: Option<EventNum>,
    ) -> Result<()> {
        let mut row = event.row.clone();
        row.flags = (row.flags & !(flags::PARTIAL | flags::HIDDEN)) | judged.flags;
        row.reason = judged.reason;
        row.state_before = Some(before.encode());
        row.state_after = (after != before).then(|| after.encode());
        row.replaces = replaces;
        if row.flags & flags::HIDDEN != 0 && event.shown() {
            self.uncount(draft, event);
            self.drop_relation(draft, event).await?;
            (row.fragment, row.idx, row.pos) = (None, None, None);
            row.flags &= !flags::NOTIFIABLE;
        }
        draft.change_event(row, Arc::clone(&event.pdu));
        Ok(())
    }

    /// The extremities, without those that are hidden now; what only these followed takes their place.
    async fn extremities_after(&self, draft: &Draft<'_>, look: &SecondLook) -> Result<Vec<Extremity>> {
        let mut open: Vec<EventNum> = draft.head.extremities.iter().map(|extremity| extremity.num).collect();
        let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
        while let Some(num) = open.pop() {
            if !seen.insert(num) {
                continue;
            }
            for event in self.events_left(draft.room, Some(&draft.overlay), &[num]).await? {
                if event.has(flags::REJECTED | flags::SOFT_FAILED) {
                    open.extend(previous(&event).into_iter().filter(|prev| !look.covered.contains(prev)));
                } else {
                    let state = look.after.get(&num).copied().or_else(|| event.state_after());
                    found.push(Extremity { num, id: event.id().clone(), depth: event.row.depth, state });
                }
            }
        }
        found.sort_by_key(|extremity| extremity.num);
        Ok(found)
    }

    /// Nobody has to read an event any more.
    fn uncount(&self, draft: &mut Draft<'_>, event: &Event) {
        let Some(pos) = event.row.pos else { return };
        let by_default = event.has(flags::NOTIFIABLE) && event.row.thread.is_none();
        draft.batch.put(UncountedRow { room: draft.room.num, pos, by_default });
    }
}

/// Whether the state is still to come.
fn is_open(row: &PartialRoomRow) -> bool {
    row.whole_pos == StreamPosition::ZERO
}

/// What was hidden stays hidden: an event that was refused by part of the state and passes by the whole counts for the
/// state of what follows it, but it is no news any more.
fn settle_flags(event: &Event, judged: &mut Judged) {
    if judged.flags == 0 && event.has(flags::REJECTED | flags::SOFT_FAILED) {
        judged.flags = flags::SOFT_FAILED;
        judged.reason.clone_from(&event.row.reason);
    }
}

fn previous(event: &Event) -> Vec<EventNum> {
    packed::unpack(event.num().0, &event.row.prev).unwrap_or_default().into_iter().map(EventNum).collect()
}

/// Each after those of its previous events that are among them.
fn oldest_first(events: Vec<Arc<Event>>) -> Vec<Arc<Event>> {
    let by_num: BTreeMap<EventNum, Arc<Event>> = events.into_iter().map(|event| (event.num(), event)).collect();
    let mut open: HashMap<EventNum, usize> = HashMap::new();
    let mut children: HashMap<EventNum, Vec<EventNum>> = HashMap::new();
    let mut ready = BTreeSet::new();
    for (num, event) in &by_num {
        let prev: BTreeSet<EventNum> = previous(event).into_iter().filter(|prev| by_num.contains_key(prev)).collect();
        if prev.is_empty() {
            ready.insert(*num);
        }
        open.insert(*num, prev.len());
        for prev in prev {
            children.entry(prev).or_default().push(*num);
        }
    }
    let mut ordered = Vec::with_capacity(by_num.len());
    while let Some(num) = ready.pop_first() {
        ordered.extend(by_num.get(&num).cloned());
        for child in children.remove(&num).unwrap_or_default() {
            if let Some(open) = open.get_mut(&child) {
                *open = open.saturating_sub(1);
                if *open == 0 {
                    ready.insert(child);
                }
            }
        }
    }
    ordered
}
