//! Simplified sliding sync (MSC4186): a client sees lists of its rooms through windows, and gets of each room what it
//! wants and does not have. Both dialects, the deployed and the accepted one, are the same here but for words.
//!
//! A request names a position; the answer goes from there to the watermark. What the connection had been sent at that
//! position is stored ([`connection`]), so an answer that is lost, or a request that is cancelled, leaves nothing half
//! done: the same position asked again gives the same again. The state of the connection is committed before the answer
//! leaves. The decision whether anything of a room may be told hangs on the membership of this request alone, never on
//! what was told before.

mod accepted;
mod answer;
pub mod config;
pub(crate) mod connection;
mod deployed;
mod extensions;
mod lists;
mod pos;
pub mod request;
mod required_state;
mod room;
mod sticky;
pub(crate) mod turns;
pub(crate) mod typing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use store::{DeviceId, RoomNum, StreamPosition};
use users::connections::ConnectionId;

use crate::known::Memberships;
use crate::sliding::answer::Answer;
use crate::sliding::connection::{Sent, State, Step, Upto};
use crate::sliding::extensions::Making;
use crate::sliding::lists::Want;
use crate::sliding::pos::Pos;
use crate::sliding::request::Request;
use crate::v3::{deadline, has_passed};
use crate::{Error, Sync, Token};

/// Most changed rooms of all users that are looked through one by one.
const CHANGED_MAX: usize = 20_000;

/// For whom an answer is made, and which span it covers.
pub(crate) struct Context<'a> {
    pub request: &'a Request,
    /// Where the client stands.
    pub pos: Option<&'a Pos>,
    /// What it had been sent there.
    pub state: &'a State,
    /// How far the answer goes.
    pub upto: StreamPosition,
    pub memberships: &'a Arc<Memberships>,
    pub ignored: &'a BTreeSet<String>,
    /// Where the list of these last changed.
    pub ignored_pos: StreamPosition,
    /// The ids of direct chats.
    pub direct: &'a BTreeSet<String>,
    /// Volatile changes after this number.
    pub number: i64,
    /// The client may believe that somebody types of whom nothing is known any more.
    pub typing_is_lost: bool,
    /// Under what the connection's members are remembered.
    pub lazy_device: DeviceId,
}

impl Context<'_> {
    /// Whether the user is in a room.
    pub fn is_joined(&self, room: RoomNum) -> bool {
        self.memberships.rows.get(&room).is_some_and(|row| row.membership == "join")
    }

    /// The position that the client has come to; zero for a new connection.
    pub fn since(&self) -> StreamPosition {
        self.pos.map_or(StreamPosition::ZERO, Pos::pos)
    }
}

impl Sync {
    /// Answers a request: at once if there is news, or nothing to wait for; else when there is or when the time is up. The
    /// answer is JSON text. The next request of the connection ends one that waits: its answer has nothing in it, and goes
    /// no further.
    ///
    /// # Errors
    /// [`Error::UnknownPos`]; as the store says.
    pub async fn sliding(&self, request: &Request) -> Result<String, Error> {
        let device = request.device.clone().unwrap_or_else(|| DeviceId::from(""));
        let id = ConnectionId { user: request.user.clone(), device, conn_id: request.conn_id.clone() };
        let (asked, (state, tip)) = self.asked(request, &id).await?;
        self.users.presence_seen(&request.user, request.set_presence);
        let deadline = deadline(request.timeout);
        let mut ready = self.ready(&request.user);
        let mut waiting = self.waker.register(&request.user);
        let turn = self.turns.begin(&id);
        let mut acknowledged = false;
        loop {
            waiting.mark_seen();
            let volatile = self.users.volatile().position();
            let (upto, memberships) = self.settled(&request.user).await?;
            let (ignored, direct) = (self.ignored(&request.user).await?, self.direct(&request.user).await?);
            let typing_is_lost = |pos: &Pos| pos.token.typing && pos.token.epoch != *volatile.epoch;
            let ctx = Context {
                request,
                pos: asked.as_ref(),
                state: &state,
                upto,
                memberships: &memberships,
                ignored: &ignored.users,
                ignored_pos: ignored.pos,
                direct: &direct,
                number: asked.as_ref().map_or(0, |pos| self.users.volatile().since(&pos.token.epoch, pos.token.number)),
                typing_is_lost: asked.as_ref().is_some_and(typing_is_lost),
                lazy_device: lazy_device(&id),
            };
            if !acknowledged {
                self.acknowledge_to_device(&ctx).await?;
                acknowledged = true;
            }
            let (answer, step) = self.collect_sliding(&ctx).await?;
            if turn.is_over()
                && let Some(pos) = &asked
            {
                return Ok(Answer::default().write(request.dialect, &pos.to_string(), request.txn_id.as_deref()));
            }
            if asked.is_none() || answer.news || has_passed(deadline) {
                let (generation, carried) = self.keep(&id, (asked.as_ref(), tip), (&state, step)).await?;
                let (epoch, number) = (volatile.epoch.to_string(), volatile.number);
                let typing = self.may_type(&memberships, number);
                let token = Token { pos: upto, epoch, number, typing, to_device: upto };
                let pos = Pos { token, generation, carried };
                if asked.as_ref() == Some(&pos) {
                    self.typing.stays(&ctx);
                }
                return Ok(answer.write(request.dialect, &pos.to_string(), request.txn_id.as_deref()));
            }
            if !self.may_wait(&mut ready, memberships).await? {
                continue;
            }
            // Either way the answer is collected anew; running out of time is not an error.
            tokio::select! {
                () = waiting.changed() => {}
                () = turn.ends() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    /// The position that a request names, what its connection had been sent as of that, and its newest generation.
    async fn asked(&self, request: &Request, id: &ConnectionId) -> Result<(Option<Pos>, (Arc<State>, i64)), Error> {
        let Some(pos) = request.pos.as_deref() else {
            self.turns.comes_to(id, None);
            return Ok((None, Default::default()));
        };
        let pos = Pos::parse(pos)?;
        self.reach_pos(&pos).await?;
        let (stored, tip) = self.connection(id, pos.generation).await?;
        if !self.turns.comes_to(id, Some((pos.pos(), pos.generation))) {
            return Err(Error::UnknownPos);
        }
        let state = match pos.carried.as_str() {
            "" => stored,
            carried => Arc::new(stored.carrying(carried).ok_or(Error::UnknownPos)?),
        };
        Ok((Some(pos), (state, tip)))
    }

    /// Keeps what a connection has been sent once an answer is taken for sent: nothing if the state stays as it was, in the
    /// client's position if little has changed since it was stored, else in the store. Returns the generation that the
    /// position is to name, and what it is to carry.
    async fn keep(
        &self,
        id: &ConnectionId,
        (asked, tip): (Option<&Pos>, i64),
        (state, step): (&State, Step),
    ) -> Result<(i64, String), Error> {
        let Some(pos) = asked else {
            let first = step.after(state).unwrap_or_default();
            return Ok((self.put_connection(id, None, first).await?, String::new()));
        };
        let Some(next) = step.after(state) else { return Ok((pos.generation, pos.carried.clone())) };
        match next.carried() {
            Some(carried) => Ok((pos.generation, carried)),
            None => Ok((self.put_connection(id, Some((pos.generation, tip)), next).await?, String::new())),
        }
    }

    /// Waits for what a position has seen. One of a lost future, or that nobody gave, is unknown.
    async fn reach_pos(&self, pos: &Pos) -> Result<(), Error> {
        let mut token = pos.token.clone();
        match self.reach(&mut token).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(Error::BadToken(_)) => Err(Error::UnknownPos),
            Err(error) => Err(error),
        }
    }

    async fn collect_sliding(&self, ctx: &Context<'_>) -> Result<(Answer, Step), Error> {
        let changed = self.changed_rooms(ctx).await?;
        let wanted = self.wanted(ctx).await?;
        let (mut visits, mut step, mut answer) = (BTreeMap::new(), Step::default(), Answer::default());
        for (room, want) in &wanted.rooms {
            if !self.is_due(ctx, *room, want, changed.as_ref()).await? {
                continue;
            }
            if let Some(visit) = self.visit(ctx, *room, want).await? {
                step.rooms.insert(*room, Some(visit.sent.clone()));
                visits.insert(*room, visit);
            }
        }
        self.leave_behind(ctx, changed.as_ref(), &mut step).await?;
        answer.counts = wanted.counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        answer.news = visits.values().any(|visit| visit.answer.is_some());
        let mut making = Making { wanted: &wanted, visits: &visits, changed: changed.as_ref(), step, answer };
        self.add_extensions(ctx, &mut making).await?;
        let Making { step, mut answer, .. } = making;
        let told = visits.into_values().filter_map(|visit| Some((visit.room_id, visit.answer?)));
        answer.rooms = told.collect();
        Ok((answer, step))
    }

    /// The user's rooms in which anything happened since the client's position; `None` if that is not known.
    async fn changed_rooms(&self, ctx: &Context<'_>) -> Result<Option<BTreeSet<RoomNum>>, Error> {
        if ctx.pos.is_none() {
            return Ok(None);
        }
        let Some(changed) = self.rooms_since(ctx.since(), CHANGED_MAX).await? else { return Ok(None) };
        let is_known = |room: &RoomNum| ctx.memberships.rows.contains_key(room) || ctx.state.get(*room).is_some();
        let mut rooms: BTreeSet<RoomNum> = changed.into_iter().filter(is_known).collect();
        rooms.extend(ctx.memberships.since(ctx.since()));
        Ok(Some(rooms))
    }

    /// Whether there may be something to tell of a room that is wanted.
    async fn is_due(
        &self,
        ctx: &Context<'_>,
        room: RoomNum,
        want: &Want<'_>,
        changed: Option<&BTreeSet<RoomNum>>,
    ) -> Result<bool, Error> {
        let Some(sent) = ctx.state.get(room).filter(|sent| sent.events == Upto::Live) else { return Ok(true) };
        let more = want.config.timeline_limit > sent.depth || !sent.has(&want.config.rules);
        if more || ctx.ignored_pos > ctx.since() || changed.is_none_or(|changed| changed.contains(&room)) {
            return Ok(true);
        }
        let room_id = self.room_id(room).await?;
        Ok(room_id.is_some_and(|room_id| ctx.direct.contains(&room_id) != sent.is_dm))
    }

    /// Rooms that the client has up to its position, and that it does not look at now, begin to lag if something happened
    /// in them. What is purged is forgotten.
    async fn leave_behind(
        &self,
        ctx: &Context<'_>,
        changed: Option<&BTreeSet<RoomNum>>,
        step: &mut Step,
    ) -> Result<(), Error> {
        // With the list of the ignored, the counts of any room may have changed.
        let known: Vec<(RoomNum, &Sent)> = match changed.filter(|_| ctx.ignored_pos <= ctx.since()) {
            Some(changed) => changed.iter().filter_map(|room| Some((*room, ctx.state.get(*room)?))).collect(),
            None => ctx.state.iter().collect(),
        };
        for (room, sent) in known {
            let Some(row) = ctx.memberships.rows.get(&room) else {
                step.rooms.insert(room, None);
                continue;
            };
            let is_behind = sent.events != Upto::Live || step.rooms.contains_key(&room);
            if is_behind {
                continue;
            }
            let has_moved = match row.membership.as_str() {
                "join" if row.pos <= ctx.since() => {
                    let held = self.rooms.room_by_num(room).await?;
                    let moved = held.as_ref().is_none_or(|held| held.head().row.last_pos > ctx.since());
                    match &held {
                        Some(held) if !moved => self.has_read(ctx, held, row, ctx.since()).await?,
                        _ => moved,
                    }
                }
                _ => row.pos > ctx.since(),
            };
            if has_moved {
                let mut sent: Sent = sent.clone();
                sent.events.lag(ctx.since());
                step.rooms.insert(room, Some(sent));
            }
        }
        Ok(())
    }
}

/// Members are told once for each connection.
fn lazy_device(id: &ConnectionId) -> DeviceId {
    DeviceId::from(format!("{}\n{}", id.device, id.conn_id))
}
