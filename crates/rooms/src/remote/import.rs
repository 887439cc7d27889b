//! Joining a room through another server: what that server answered becomes a room here (server-server API, "Joining
//! rooms").
//!
//! State and auth chain are outliers, written ahead in chunks under a number that is set aside for the room; so are the
//! nodes of the state's tree. The decision is one small batch: the join with the state before it, current state,
//! memberships, servers. A room that is known from before gets a new fragment of its timeline, with a gap behind it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ::event::{Json, Pdu, Rules, Verified};
use ruma_common::OwnedEventId;
use store::tables::core::JobRow;
use store::tables::rooms::{MembershipRow, RemoteRoomRow, StateKeyRow, StateSegmentRow};
use store::{CommitBatch, CommitError, EventNum, Read, RoomNum};

use super::left_out::{Edge, LeftOut, ToldState};
use super::outliers::{Placed, Target};
use super::partial::Partial;
use crate::accept::{ATTEMPTS_MAX, judge_then, missing_among, nums_of};
use crate::draft::{Draft, ROOM_NUMBERS};
use crate::event::Event;
use crate::room::{Head, Room};
use crate::state::{Roots, TypeKey, type_key};
use crate::{Accepted, Error, Result, Rooms, flags};

/// How long a room in the making is left alone, in milliseconds: much longer than any join takes.
const UNJOINED_MS: i64 = 24 * 3_600 * 1_000;

/// What a resident server answered to a join, verified.
#[derive(Clone, Debug)]
pub struct Import {
    /// The rules of the room's version.
    pub rules: &'static Rules,
    /// The join of a local user, with the signatures that the resident added.
    pub join: Verified,
    /// The state before the join.
    pub state: Vec<Verified>,
    /// The auth events of all that, and theirs, and so on.
    pub auth_chain: Vec<Verified>,
    /// What is known of the rest, if the answer left members out (MSC3706).
    pub partial: Option<Partial>,
    /// Events of the answer that could not be verified at that moment.
    pub left_out: Vec<LeftOut>,
}

/// The join, and what is known of the members that were left out.
struct Joined {
    join: Verified,
    partial: Option<Partial>,
    left_out: Vec<LeftOut>,
}

/// The number of a room in the making, and what tells this attempt from others.
#[derive(Clone, Debug)]
pub(super) struct Reservation {
    row: RemoteRoomRow,
}

impl Reservation {
    /// Makes a batch fail if another attempt has begun.
    pub fn demand(&self, batch: &mut CommitBatch) {
        let key = vec![self.row.room_id.as_str().into()];
        batch.expect_equals::<RemoteRoomRow>(key, "import", self.row.import);
    }
}

impl Rooms {
    /// Makes a room, or what is new of a room that is known, of a resident server's answer to a join. Returns the join
    /// once it is durable. If this server is in the room (only another could let the user in), the join is an event like
    /// any other.
    ///
    /// If members were left out, the room's state is partial until [`Rooms::complete_state`].
    ///
    /// Events of the answer that cannot be judged, since what they cite is missing, are left out; so are rejected ones
    /// from the state. If any could not be verified at that moment, those and what cites them are kept aside
    /// ([`Rooms::left_out`]).
    ///
    /// # Errors
    /// [`Error::Invalid`] if the answer has no create event of the room, or one of another version;
    /// [`Error::Forbidden`] if the state does not allow the join; [`Error::PartialState`] if members were left out and the
    /// room is known from before; [`Error::Busy`]; as the store says.
    pub async fn import_join(&self, import: Import) -> Result<Arc<Event>> {
        let room_id = import.join.pdu().room_id.to_string();
        let _alone = self.remote_stripe(&room_id).lock().await;
        let create = create_of(&import)?;
        let entries: Vec<(TypeKey, OwnedEventId)> = import.state.iter().filter_map(state_entry).collect();
        let target = match self.room(&room_id).await? {
            Some(_) if import.partial.is_some() => return Err(Error::PartialState),
            Some(room) if !room.head().local.is_empty() => return self.join_resident(import).await,
            Some(_) => Target::Known(room_id.clone()),
            None => self.new_import(&room_id, import.rules, &create).await?,
        };
        let told = import.told();
        let (placed, fresh) =
            self.write_outliers(&target, import.state.into_iter().chain(import.auth_chain).collect()).await?;
        let cites_left_out = told.into_iter().filter(|one| !placed.contains_key(&one.event_id));
        let left_out = import.left_out.into_iter().chain(cites_left_out).collect();
        let joined = Joined { join: import.join, partial: import.partial, left_out };
        let event = self.decide(&target, &room_id, &joined, &create, &entries, &placed).await?;
        if self.room(&room_id).await?.is_some_and(|room| room.is_partial()) {
            self.partial_begun.notify_one();
        }
        self.wake(&room_id, fresh.into_iter().chain([event.id().clone()])).await?;
        Ok(event)
    }

    /// A join to a room that this server is in: nothing of what it knows is given up.
    async fn join_resident(&self, import: Import) -> Result<Arc<Event>> {
        let room_id = import.join.pdu().room_id.to_string();
        let ids: Vec<OwnedEventId> = import.state.iter().map(|event| event.pdu().event_id.clone()).collect();
        let told = import.told();
        self.accept_outliers(&room_id, import.state.into_iter().chain(import.auth_chain).collect()).await?;
        let accepted = match self.accept(import.join.clone()).await? {
            Accepted::Waiting(_) => {
                let room = self.room(&room_id).await?.ok_or(Error::NotInRoom)?;
                let known = self.rows_by_id(&room, &ids).await?;
                let cites_left_out = told.into_iter().filter(|one| !known.contains_key(&one.event_id));
                let left_out = import.left_out.into_iter().chain(cites_left_out).collect();
                let ids: Vec<OwnedEventId> = ids.into_iter().filter(|id| known.contains_key(id)).collect();
                self.accept_with_state(import.join, ToldState { ids, left_out }).await?
            }
            accepted => accepted,
        };
        match accepted {
            Accepted::Judged(event) | Accepted::Known(event) if event.shown() => Ok(event),
            _ => Err(Error::Forbidden("the join is not acceptable by what this server knows of the room".to_owned())),
        }
    }

    async fn decide(
        &self,
        target: &Target,
        room_id: &str,
        joined: &Joined,
        create: &Arc<Pdu>,
        entries: &[(TypeKey, OwnedEventId)],
        placed: &HashMap<OwnedEventId, Placed>,
    ) -> Result<Arc<Event>> {
        let state: BTreeMap<&TypeKey, EventNum> = (entries.iter())
            .filter_map(|(pair, id)| Some((pair, placed.get(id).filter(|one| !one.rejected)?.num)))
            .collect();
        let first = placed.get(&create.event_id).filter(|one| !one.rejected);
        let first = first.ok_or_else(|| Error::Invalid("the create event is not acceptable".to_owned()))?.num;
        for _ in 0..ATTEMPTS_MAX {
            let decided = match target {
                Target::New(room, reservation) => self.decide_new(room, reservation, joined, first, &state).await,
                Target::Known(_) => {
                    let room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
                    self.decide_known(&room, joined, &state).await
                }
            };
            match (decided, target) {
                (Err(Error::Busy), Target::Known(_)) => {}
                (other, _) => return other,
            }
        }
        Err(Error::Busy)
    }

    async fn decide_new(
        &self,
        room: &Arc<Room>,
        reservation: &Reservation,
        joined: &Joined,
        create: EventNum,
        state: &BTreeMap<&TypeKey, EventNum>,
    ) -> Result<Arc<Event>> {
        let mut draft = Draft::begin(self, room).await;
        let changes: Vec<_> = state.iter().map(|(pair, num)| (TypeKey::clone(pair), Some(*num))).collect();
        let roots = draft.set_state(Roots::EMPTY, &changes).await?;
        reservation.demand(&mut draft.batch);
        draft.write_ahead().await?;
        let mut draft = Draft::begin(self, room).await;
        draft.make_room(create);
        reservation.demand(&mut draft.batch);
        draft.batch.delete::<RemoteRoomRow>(vec![room.id.as_str().into()]);
        if let Some(partial) = &joined.partial {
            draft.note_partial_room(partial, &joined.join.pdu().event_id);
        }
        draft.note_left_out(Edge::join(joined.join.pdu(), roots), &joined.left_out).await?;
        let before = draft.learn_state(joined.join.pdu(), roots).await?;
        let event = self.append_join(&mut draft, &joined.join, before).await?;
        self.commit_new(room, draft).await?;
        Ok(event)
    }

    async fn decide_known(
        &self,
        room: &Arc<Room>,
        joined: &Joined,
        state: &BTreeMap<&TypeKey, EventNum>,
    ) -> Result<Arc<Event>> {
        // The tree's nodes first: a change of many keys is no small batch.
        let mut draft = Draft::begin(self, room).await;
        draft.check_alive()?;
        let roots = self.replace_state(&mut draft, state).await?;
        self.commit(room, draft).await?;
        let mut draft = Draft::begin(self, room).await;
        draft.check_alive()?;
        self.wait_for_all(room).await?;
        let join = &joined.join;
        if draft.head.partial.is_some() {
            // Left before the whole state had come, without which what was seen then cannot be judged.
            draft.note_completion();
        } else {
            // Of an earlier stay nothing is judged again.
            self.forget_left_out(&mut draft).await?;
        }
        draft.note_left_out(Edge::join(join.pdu(), roots), &joined.left_out).await?;
        if draft.head.left_out.is_none() {
            draft.end_left_out();
        }
        let before = draft.learn_state(join.pdu(), roots).await?;
        let event = self.append_join(&mut draft, join, before).await?;
        self.commit(room, draft).await?;
        Ok(event)
    }

    /// A state that holds exactly these entries, made from the current state so that what agrees is shared.
    pub(super) async fn replace_state(
        &self,
        draft: &mut Draft<'_>,
        state: &BTreeMap<&TypeKey, EventNum>,
    ) -> Result<Roots> {
        let head = draft.head.state;
        let mut changes: Vec<_> = state.iter().map(|(pair, num)| (TypeKey::clone(pair), Some(*num))).collect();
        let pairs: Vec<TypeKey> = changes.iter().map(|(pair, _)| pair.clone()).collect();
        let kept: std::collections::HashSet<_> =
            self.key_ids(draft.room, Some(&draft.overlay), &pairs).await?.into_iter().flatten().collect();
        let mut gone = Vec::new();
        for root in [head.rest, head.members] {
            let entries = self.on_tree(draft.room, Some(&draft.overlay), |tree| tree.entries(&root)).await?;
            gone.extend(entries.into_iter().map(|(key, _)| key).filter(|key| !kept.contains(key)));
        }
        changes.extend(draft.pairs_of(&gone).await?.into_iter().map(|pair| (pair, None)));
        draft.set_state(head, &changes).await
    }

    /// Takes over the state, and appends the join to it in a new fragment.
    async fn append_join(&self, draft: &mut Draft<'_>, join: &Verified, before: Roots) -> Result<Arc<Event>> {
        let pdu = join.pdu();
        let known = self.rows_by_id(draft.room, [&pdu.event_id]).await?.into_values().next();
        if let Some(row) = known.as_ref().filter(|row| row.flags & (flags::OUTLIER | flags::WAITING) == 0) {
            let event = self.event(draft.room, row.event).await?;
            return if event.shown() { Ok(event) } else { Err(Error::Forbidden("the join was refused".to_owned())) };
        }
        let missing = missing_among(draft, &pdu.prev_events, flags::WAITING | flags::OUTLIER).await?;
        if !missing.is_empty() {
            draft.begin_fragment().await?;
        }
        draft.move_head(before).await?;
        let prev: Vec<OwnedEventId> = pdu.prev_events.iter().filter(|id| !missing.contains(id)).cloned().collect();
        let prev = nums_of(draft, &prev).await?;
        // The state before it is the current one. What the room's policy server says was for the resident to ask.
        let mut judged = judge_then(draft, pdu, prev, before).await?;
        if judged.flags & flags::HIDDEN != 0 || judged.auth.len() != pdu.auth_events.len() {
            let reason = judged.reason.unwrap_or_else(|| "the join's auth events are missing".to_owned());
            return Err(Error::Forbidden(reason));
        }
        judged.known = known.map(|row| row.event);
        let event = draft.append(judged).await?;
        draft.note_gaps(&event, draft.head.row.fragment, &missing);
        Ok(event)
    }

    /// Sets a number aside for a room that this server does not have, or finds the one that is.
    pub(super) async fn reserve(&self, room_id: &str, version: &str, import: i64) -> Result<RemoteRoomRow> {
        for _ in 0..ATTEMPTS_MAX {
            let key = vec![room_id.into()];
            let mut batch = CommitBatch::new();
            let row = match self.store.get::<RemoteRoomRow>(key.clone()).await? {
                Some(row) if import == 0 => return Ok(row),
                Some(row) => {
                    batch.expect_equals::<RemoteRoomRow>(key, "import", row.import);
                    RemoteRoomRow { import, room_version: version.to_owned(), at_ms: self.clock.now_ms(), ..row }
                }
                None => {
                    batch.expect_absent::<RemoteRoomRow>(key);
                    RemoteRoomRow {
                        room_id: room_id.to_owned(),
                        room: RoomNum(self.store.next_number(ROOM_NUMBERS).await?),
                        room_version: version.to_owned(),
                        import,
                        at_ms: self.clock.now_ms(),
                    }
                }
            };
            batch.put(row.clone());
            match self.store.commit(batch).await {
                Ok(_) => return Ok(row),
                Err(CommitError::Conflict { .. }) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
        Err(Error::Busy)
    }

    /// Removes what joins that came to nothing have written ahead, and numbers that were set aside for rooms of which no
    /// local user has a membership any more. Returns how many rooms' it was; to be called now and then.
    ///
    /// # Errors
    /// As the store says.
    pub async fn collect_unjoined(&self) -> Result<usize> {
        let until = self.clock.now_ms().saturating_sub(UNJOINED_MS);
        let rows: Vec<RemoteRoomRow> = self.store.all(Read::prefix::<RemoteRoomRow>(vec![])).await?;
        let mut n_collected = 0;
        for row in rows.into_iter().filter(|row| row.at_ms < until) {
            let read = Read::along::<MembershipRow>(MembershipRow::BY_ROOM, vec![row.room.into()]);
            if self.store.one::<MembershipRow>(read).await?.is_some() {
                continue;
            }
            let _alone = self.remote_stripe(&row.room_id).lock().await;
            let mut batch = CommitBatch::new();
            let key = vec![row.room_id.as_str().into()];
            batch.expect_equals::<RemoteRoomRow>(key.clone(), "import", row.import);
            batch.expect_equals::<RemoteRoomRow>(key.clone(), "at_ms", row.at_ms);
            batch.delete::<RemoteRoomRow>(key);
            // A restart goes on with it.
            let (kind, name) = (crate::purge::JOB.to_owned(), row.room.to_string());
            batch.put(JobRow { kind, name, cursor: String::new(), due_ms: self.clock.now_ms(), failures: 0 });
            match self.store.commit(batch).await {
                Ok(_) => {}
                Err(CommitError::Conflict { .. }) => continue,
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
            while self.purge_step(row.room).await? {}
            n_collected += 1;
        }
        Ok(n_collected)
    }

    async fn new_import(&self, room_id: &str, rules: &'static Rules, create: &Arc<Pdu>) -> Result<Target> {
        let row = self.reserve(room_id, rules.version(), self.unique_number()).await?;
        // An earlier attempt may have written something ahead.
        let num = row.room;
        let reads = vec![
            Read::prefix::<StateKeyRow>(vec![num.into()]).reverse().limit(1),
            Read::prefix::<StateSegmentRow>(vec![num.into()]).reverse().limit(1),
        ];
        let mut found = self.store.read(reads).await?.into_iter();
        let key = found.next().unwrap_or_default().one::<StateKeyRow>()?;
        let segment = found.next().unwrap_or_default().one::<StateSegmentRow>()?;
        let mut head = Head {
            row: crate::create::new_row(num, room_id, rules.version(), false),
            state: Roots::EMPTY,
            extremities: Vec::new(),
            local: Arc::default(),
            muted: Arc::default(),
            servers: Arc::default(),
            partial: None,
            left_out: None,
        };
        head.row.next_key = key.map_or(0, |row| row.key_id + 1);
        head.row.next_segment = segment.map_or(0, |row| row.segment + 1);
        // A number by which it is told from a room that nothing was written for.
        head.row.version = self.unique_number();
        let room = Arc::new(Room::new(head, rules, Arc::clone(create)));
        Ok(Target::New(room, Reservation { row }))
    }
}

impl Import {
    /// If anything could not be verified: everything else, of which some may cite it.
    fn told(&self) -> Vec<LeftOut> {
        if self.left_out.is_empty() {
            return Vec::new();
        }
        let told = |in_state| {
            move |event: &Verified| LeftOut {
                event_id: event.pdu().event_id.clone(),
                in_state,
                json: event.pdu().bytes.clone(),
            }
        };
        self.state.iter().map(told(true)).chain(self.auth_chain.iter().map(told(false))).collect()
    }
}

/// The create event of the answer.
fn create_of(import: &Import) -> Result<Arc<Pdu>> {
    let room_id = &import.join.pdu().room_id;
    let all = import.state.iter().chain(&import.auth_chain);
    let create = all.map(Verified::pdu).find(|pdu| pdu.is_create() && pdu.room_id == *room_id);
    let create = create.ok_or_else(|| Error::Invalid("the answer has no create event of the room".to_owned()))?;
    let version = create.content.get("room_version").and_then(Json::as_str).unwrap_or("1");
    if version != import.rules.version() {
        return Err(Error::Invalid(format!("the create event is of room version {version}")));
    }
    Ok(Arc::clone(create))
}

fn state_entry(event: &Verified) -> Option<(TypeKey, OwnedEventId)> {
    let (kind, state_key) = event.pdu().state_entry()?;
    Some((type_key(kind, state_key), event.pdu().event_id.clone()))
}
