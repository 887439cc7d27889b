//! One room of an answer: whether there is anything to tell of it, and what (behaviours CZ4 to CZ7).

use std::collections::BTreeSet;
use std::sync::Arc;

use rooms::timeline::Place;
use rooms::view::Rendering;
use rooms::visibility::Viewer;
use rooms::{Event, Room, Roots};
use serde_json::json;
use store::tables::rooms::MembershipRow;
use store::{EventNum, RoomNum, StreamPosition};

use crate::json::{Object, quote};
use crate::room_section::Timeline;
use crate::sliding::Context;
use crate::sliding::answer::{RoomAnswer, TimelineAnswer};
use crate::sliding::config::{MEMBER, Rules};
use crate::sliding::connection::{Sent, Upto, WHOLE};
use crate::sliding::lists::Want;
use crate::sliding::request::Dialect;
use crate::{Error, Sync};

/// Events that move a room up in the lists of clients (MSC4186).
const BUMPING: &[&str] = &[
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "m.beacon_info",
];
const NAME: &str = "m.room.name";
const AVATAR: &str = "m.room.avatar";

/// What came of looking at a room.
#[derive(Debug)]
pub(crate) struct Visit {
    /// Its id.
    pub room_id: String,
    /// What is told, if anything.
    pub answer: Option<RoomAnswer>,
    /// What has been sent of it then.
    pub sent: Sent,
}

/// How a room in which the user is, or was, is told of.
pub(crate) struct Telling<'a> {
    pub room: &'a Arc<Room>,
    pub row: &'a MembershipRow,
    pub want: &'a Want<'a>,
    /// What had been sent before.
    pub was: &'a Sent,
    /// Up to where the client has the room; zero with `initial`.
    pub since: StreamPosition,
    /// Up to where the timeline goes.
    pub upto: StreamPosition,
    /// The state at its end.
    pub end: Roots,
    /// Whatever the client knows is replaced.
    pub initial: bool,
    /// More of the past is asked for.
    pub expanded: bool,
    /// More of the state is asked for.
    pub grown: bool,
}

impl Telling<'_> {
    /// What of the state the client is kept up to date about.
    pub fn rules(&self) -> Arc<Rules> {
        let asked = &self.want.config.rules;
        match (self.initial, self.grown) {
            (true, _) => Arc::clone(asked),
            (false, true) if asked.cover(&self.was.rules) => Arc::clone(asked),
            (false, true) => Arc::new(self.was.rules.union(asked)),
            (false, false) => Arc::clone(&self.was.rules),
        }
    }

    fn is_joined(&self) -> bool {
        self.row.membership == "join"
    }
}

impl Sync {
    /// Looks at a room; `None` if nothing may be told of it, so that the client stays where it was.
    pub(crate) async fn visit(&self, ctx: &Context<'_>, num: RoomNum, want: &Want<'_>) -> Result<Option<Visit>, Error> {
        let Some(row) = ctx.memberships.rows.get(&num) else { return Ok(None) };
        let nothing = Sent::default();
        let was = ctx.state.get(num).unwrap_or(&nothing);
        let visit = match row.membership.as_str() {
            "join" => self.visit_joined(ctx, row, want, was).await?,
            "invite" | "knock" => self.visit_invited(ctx, row, was).await?,
            _ => self.visit_left(ctx, row, want, was).await?,
        };
        Ok(visit.map(|mut visit| {
            if let Some(answer) = &mut visit.answer {
                answer.membership.clone_from(&row.membership);
                answer.lists = want.lists.iter().map(|list| (*list).to_owned()).collect();
            }
            visit
        }))
    }

    async fn visit_joined(
        &self,
        ctx: &Context<'_>,
        row: &MembershipRow,
        want: &Want<'_>,
        was: &Sent,
    ) -> Result<Option<Visit>, Error> {
        let Some(room) = self.rooms.room_by_num(row.room).await? else { return Ok(None) };
        let all_members = want.config.rules.all_members();
        // In this order: what has become whole in between says since when.
        let (partial, whole_pos) = (room.is_partial(), room.whole_pos());
        if all_members && (partial || whole_pos > ctx.upto) {
            // Whoever wants all members gets the room when these are known (MSC3902).
            return Ok(None);
        }
        let begun = if all_members { row.joined_pos.max(whole_pos) } else { row.joined_pos };
        let known = was.events.since(ctx.since()).filter(|since| was.joined && begun <= *since);
        let initial = known.is_none();
        let since = known.unwrap_or(StreamPosition::ZERO);
        let expanded = !initial && want.config.timeline_limit > was.depth;
        let grown = !initial && !was.has(&want.config.rules);
        let is_dm = ctx.direct.contains(&room.id);
        let moved = room.head().row.last_pos > since;
        let has_read = !initial && self.has_read(ctx, &room, row, since).await?;
        if !(initial || expanded || grown || moved || has_read || is_dm != was.is_dm) {
            return Ok(Some(unchanged(&room.id, was)));
        }
        let (upto, end) = (ctx.upto, self.state_at(&room, ctx.upto).await?);
        let telling = Telling { room: &room, row, want, was, since, upto, end, initial, expanded, grown };
        let (mut answer, mut sent, mut news) = self.tell(ctx, &telling).await?;
        sent.is_dm = is_dm;
        answer.is_dm = (is_dm != was.is_dm || (initial && is_dm)).then_some(is_dm);
        news |= answer.is_dm.is_some() || has_read;
        if news && ctx.request.dialect == Dialect::Deployed {
            let marks = self.marks(&ctx.request.user, room.num).await?;
            answer.unread = self.rooms.unread(&room, row, &marks, ctx.ignored).await?.total();
        }
        Ok(Some(Visit { room_id: room.id.clone(), answer: news.then_some(answer), sent }))
    }

    /// Whether the user has read on, or ignores others than before. Only the deployed dialect tells of that, by its counts.
    pub(crate) async fn has_read(
        &self,
        ctx: &Context<'_>,
        room: &Room,
        row: &MembershipRow,
        since: StreamPosition,
    ) -> Result<bool, Error> {
        let unmoved = since >= self.began && self.waker.last_receipt(room.num).is_none_or(|last| last <= since);
        let user = &ctx.request.user;
        let accepted = ctx.request.dialect == Dialect::Accepted;
        if !accepted && ctx.ignored_pos > since && self.may_count(room, row).await? {
            return Ok(true);
        }
        if accepted || unmoved || self.changes.user(user).receipts <= since {
            return Ok(false);
        }
        let rows = self.users.receipts_of(room.num, user).await?;
        Ok(rows.iter().any(|row| row.pos > since && row.pos <= ctx.upto))
    }

    async fn visit_invited(&self, ctx: &Context<'_>, row: &MembershipRow, was: &Sent) -> Result<Option<Visit>, Error> {
        let told = was.events.since(ctx.since()).is_some_and(|since| row.pos <= since);
        let ignored = row.membership == "invite" && ctx.ignored.contains(row.sender.as_str());
        let Some(room_id) = self.room_id(row.room).await?.filter(|_| !ignored) else { return Ok(None) };
        let is_dm = ctx.direct.contains(&room_id);
        if told && is_dm == was.is_dm {
            return Ok(Some(unchanged(&room_id, was)));
        }
        let stripped = row.stripped.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("[]");
        let answer = RoomAnswer {
            initial: !told,
            is_dm: (is_dm || is_dm != was.is_dm).then_some(is_dm),
            stripped: Some(stripped.to_owned()),
            bump_stamp: Some(row.pos.0),
            ..RoomAnswer::default()
        };
        let sent = Sent { events: Upto::Live, is_dm, account_data: was.account_data, ..Sent::default() };
        Ok(Some(Visit { room_id, answer: Some(answer), sent }))
    }

    /// A room that the user is no longer in: told once, however that came.
    async fn visit_left(
        &self,
        ctx: &Context<'_>,
        row: &MembershipRow,
        want: &Want<'_>,
        was: &Sent,
    ) -> Result<Option<Visit>, Error> {
        let since = was.events.since(ctx.since());
        let Some(room_id) = self.room_id(row.room).await? else { return Ok(None) };
        if since.is_some_and(|since| row.pos <= since) {
            return Ok(Some(unchanged(&room_id, was)));
        }
        let room = self.rooms.room_by_num(row.room).await?;
        let was_member = row.left_pos > StreamPosition::ZERO && !row.forgotten;
        let own = self.own_member(ctx, row, room.as_ref()).await?;
        let (mut answer, mut sent) = match room.filter(|_| was_member) {
            Some(room) => {
                // Of what came after the leave nothing is told, whatever position the client names.
                let known = since.filter(|since| was.joined && row.joined_pos <= *since && *since <= row.left_pos);
                let (upto, end) = (row.pos.min(ctx.upto), self.state_at(&room, row.left_pos).await?);
                let (initial, since) = (known.is_none(), known.unwrap_or(StreamPosition::ZERO));
                let (expanded, grown) = (false, false);
                let telling = Telling { room: &room, row, want, was, since, upto, end, initial, expanded, grown };
                let (answer, sent, _) = self.tell(ctx, &telling).await?;
                (answer, sent)
            }
            None => (RoomAnswer { initial: true, ..RoomAnswer::default() }, Sent { events: Upto::Live, ..was.clone() }),
        };
        match ctx.request.dialect {
            Dialect::Accepted if !was_member => answer.stripped = Some(format!("[{own}]")),
            _ => answer.state.push(own),
        }
        answer.bump_stamp = Some(row.pos.0);
        sent.joined = false;
        Ok(Some(Visit { room_id, answer: Some(answer), sent }))
    }

    /// The event by which the user is out. Where a membership ended without an event, one is made up: without it, clients
    /// take the room for joined.
    async fn own_member(
        &self,
        ctx: &Context<'_>,
        row: &MembershipRow,
        room: Option<&Arc<Room>>,
    ) -> Result<String, Error> {
        if let Some(room) = room.filter(|_| row.event != EventNum(0)) {
            let event = self.rooms.event(room, row.event).await?;
            let rendered = self.rooms.render_states(room, &[event], &ctx.rendering()).await?;
            return Ok(rendered.into_iter().next().unwrap_or_default());
        }
        let made_up = json!({
            "type": MEMBER,
            "state_key": ctx.request.user,
            "sender": row.sender,
            "content": { "membership": row.membership },
            "event_id": format!("$left-{}-{}", row.room, row.pos),
            "origin_server_ts": 0,
        });
        Ok(made_up.to_string())
    }

    /// Tells of a room. Says too whether any of it is news.
    async fn tell(&self, ctx: &Context<'_>, telling: &Telling<'_>) -> Result<(RoomAnswer, Sent, bool), Error> {
        let Telling { room, row, was, since, upto, initial, expanded, .. } = *telling;
        let limit = telling.want.config.timeline_limit;
        let mut viewer = Viewer::with_membership(&self.rooms, room, &ctx.request.user, Some(row.clone()));
        let from = if initial || expanded { StreamPosition::ZERO } else { since };
        let timeline = match limit {
            0 => Timeline {
                events: Vec::new(),
                limited: !self.newest(room, from, upto, 1).await?.is_empty(),
                start: None,
            },
            _ => {
                let wants = |event: &Event| event.pdu.is_state() || !ctx.ignored.contains(event.pdu.sender.as_str());
                self.newest_seen(room, &mut viewer, &wants, limit, from, upto).await?
            }
        };
        let mut answer = RoomAnswer { initial, expanded, ..RoomAnswer::default() };
        let mut news = initial || expanded || !timeline.events.is_empty() || (timeline.limited && limit > 0);
        news |= self.add_state(ctx, telling, &timeline, &mut answer).await?;
        if limit > 0 {
            answer.timeline = Some(self.timeline_answer(ctx, telling, &timeline, &mut viewer).await?);
        }
        if telling.is_joined() {
            let bumped = self.bumped(room, upto, BUMPING).await?;
            answer.bump_stamp = Some(bumped.unwrap_or(row.joined_pos).0);
        }
        let depth = match (initial || expanded, timeline.limited) {
            (_, true) => limit,
            (true, false) => WHOLE,
            (false, false) => was.depth,
        };
        // What replaces a room replaces all that belongs to it.
        let (receipts, account_data) = match initial {
            true => (Upto::Never, Upto::Never),
            false => (was.receipts, was.account_data),
        };
        let (rules, joined, is_dm) = (self.known.shared(&telling.rules()), telling.is_joined(), was.is_dm);
        let sent = Sent { events: Upto::Live, receipts, account_data, joined, is_dm, depth, rules };
        Ok((answer, sent, news))
    }

    async fn timeline_answer(
        &self,
        ctx: &Context<'_>,
        telling: &Telling<'_>,
        timeline: &Timeline,
        viewer: &mut Viewer<'_>,
    ) -> Result<TimelineAnswer, Error> {
        let room = telling.room;
        let bundled = timeline.limited && self.any_children(room, &timeline.events).await?;
        let rendering = Rendering { bundled, ..ctx.rendering() };
        let prev_batch = match timeline.events.first().and_then(|event| Place::before(event)) {
            Some(place) => place,
            None => self.rooms.place_at(room, telling.upto).await?,
        };
        let seen = ctx.pos.map(|pos| pos.pos());
        let is_live = |event: &&Arc<Event>| seen.is_some_and(|seen| event.pos() > seen);
        Ok(TimelineAnswer {
            events: self.rooms.render(room, &timeline.events, viewer, &rendering).await?,
            ids: timeline.events.iter().map(|event| event.id().to_string()).collect(),
            // Of events that come again, some clients notice only so that they have them already.
            limited: timeline.limited || telling.expanded,
            prev_batch: prev_batch.to_string(),
            n_live: timeline.events.iter().filter(is_live).count(),
        })
    }

    /// Adds state, and what follows from it. Says whether any of it is news.
    async fn add_state(
        &self,
        ctx: &Context<'_>,
        telling: &Telling<'_>,
        timeline: &Timeline,
        answer: &mut RoomAnswer,
    ) -> Result<bool, Error> {
        let Telling { room, end, initial, .. } = *telling;
        let state = self.required_state(ctx, telling, timeline).await?;
        let changed = |kind: &str| initial || state.kinds.contains(kind);
        let pairs = [NAME, AVATAR].map(|kind| (kind.to_owned(), String::new()));
        let own = match changed(NAME) || changed(AVATAR) || state.members_changed {
            true => self.rooms.state_map(room, None, end, &pairs).await?,
            false => rooms::state::StateMap::default(),
        };
        let text = |kind: &str, member: &str| {
            let text = own.text(kind, member).filter(|text| !text.is_empty()).map(str::to_owned);
            // Of an initial room, what is not told is not there.
            (changed(kind) && !(initial && text.is_none())).then_some(text)
        };
        answer.name = text(NAME, "name");
        answer.avatar = text(AVATAR, "url");
        let members_changed = initial || state.members_changed;
        let named = own.text(NAME, "name").is_some_and(|name| !name.is_empty());
        if (members_changed || changed(NAME)) && !named {
            let heroes = self.heroes(room, &ctx.request.user, end).await?;
            answer.heroes = Some(heroes.iter().map(hero).collect());
        }
        if members_changed && telling.is_joined() {
            let head = room.head();
            answer.members = Some((head.row.joined, head.row.invited));
        }
        answer.state = self.rooms.render_states(room, &state.events, &ctx.rendering()).await?;
        answer.gone = state.gone;
        let fields = answer.name.is_some() || answer.avatar.is_some() || members_changed;
        Ok(fields || !answer.state.is_empty() || !answer.gone.is_empty())
    }
}

fn unchanged(room_id: &str, was: &Sent) -> Visit {
    Visit { room_id: room_id.to_owned(), answer: None, sent: was.clone() }
}

/// A member as a hero.
fn hero(event: &Arc<Event>) -> String {
    let mut hero = Object::new();
    hero.text("user_id", event.pdu.state_key.as_deref().unwrap_or_default());
    for (name, member) in [("displayname", "displayname"), ("avatar_url", "avatar_url")] {
        if let Some(value) = event.pdu.content.get(member).and_then(|value| value.as_str()) {
            hero.raw(name, &quote(value));
        }
    }
    hero.finish()
}

impl<'a> Context<'a> {
    /// How this request's events are rendered.
    pub(crate) fn rendering(&self) -> Rendering<'_> {
        let device = self.request.device.as_ref();
        Rendering { user: &self.request.user, device, ignored: self.ignored, with_room_id: false, bundled: false }
    }

    /// The ids of events that an answer shows of a room.
    pub(crate) fn shown(answer: Option<&RoomAnswer>) -> BTreeSet<String> {
        answer.and_then(|answer| answer.timeline.as_ref()).map(|timeline| timeline.ids.clone()).unwrap_or_default()
    }
}
