//! One room of a sync answer: timeline, state, ephemeral events, account data, counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rooms::state_tree::Root;
use rooms::timeline::Place;
use rooms::unread::{Counts, Unread};
use rooms::view::Rendering;
use rooms::visibility::Viewer;
use rooms::{Event, Room, Roots};
use serde_json::{Map, Value, json};
use store::tables::rooms::{MembershipRow, StickyRow};
use store::tables::users::ReceiptRow;
use store::{DeviceId, EventNum, RoomNum, StreamPosition, UserId};
use users::account_data::AccountData;

use crate::json::{Object, array, quote};
use crate::v3::Window;
use crate::{Error, Filter, Sync, state_delta};

/// Events read at a time while a timeline is filled.
const CHUNK: u32 = 64;
/// Most events looked at for one room's timeline.
const SCANNED_MAX: usize = 2_000;
/// Heroes of a room without a name.
const HEROES: usize = 5;
/// Types of events on which a room's summary depends.
const SUMMED: &[&str] = &[MEMBER, "m.room.name", "m.room.canonical_alias"];
/// Type of membership events.
const MEMBER: &str = "m.room.member";

/// For whom a room is rendered.
pub(crate) struct Reader<'a> {
    pub user: &'a UserId,
    pub device: Option<&'a DeviceId>,
    pub ignored: &'a BTreeSet<String>,
    /// Where the list of these last changed.
    pub ignored_pos: StreamPosition,
    pub filter: &'a Filter,
    pub use_state_after: bool,
    pub full_state: bool,
    /// Sticky events that are new to all who were in the room before.
    pub sticky: &'a BTreeMap<RoomNum, Vec<StickyRow>>,
    /// How far the reader has come.
    pub since: StreamPosition,
    /// How far the answer goes.
    pub upto: StreamPosition,
}

impl Reader<'_> {
    /// Whether the reader wants the event in a timeline, if it may be seen.
    fn wants(&self, event: &Event) -> bool {
        let ignored = !event.pdu.is_state() && self.ignored.contains(&event.pdu.sender);
        !ignored && self.filter.room.timeline.accepts_event(event)
    }
}

/// The span that one room's part covers.
struct Span {
    /// After this position.
    since: StreamPosition,
    /// Up to this one.
    upto: StreamPosition,
    /// The reader knows nothing of the room.
    fresh: bool,
    /// In it, members from before the join became known that had been left out.
    completed: bool,
    /// What the reader has of its timeline is of a lost future.
    lost: bool,
}

/// The timeline part of a room.
pub(crate) struct Timeline {
    /// Oldest first.
    pub events: Vec<Arc<Event>>,
    /// Whether events were skipped between the token and the first of them.
    pub limited: bool,
    /// Position of the oldest event.
    pub start: Option<StreamPosition>,
}

/// Parts of the state, by type and state key, that a timeline being filled from its end has come upon.
#[derive(Default)]
struct Keys {
    /// Set by events of the timeline.
    shown: BTreeSet<(String, String)>,
    /// Set, later than by any event of the timeline, by one that the reader may not see.
    hidden: BTreeSet<(String, String)>,
}

impl Keys {
    /// The event as the viewer sees it, if that may be; takes note of the part of the state that it sets.
    async fn view(&mut self, event: Arc<Event>, viewer: &mut Viewer<'_>) -> Result<Option<Arc<Event>>, Error> {
        let key = event.pdu.state_entry().map(|(kind, key)| (kind.to_owned(), key.to_owned()));
        let seen = viewer.view(event).await?;
        let Some(key) = key.filter(|key| !self.shown.contains(key) && !self.hidden.contains(key)) else {
            return Ok(seen);
        };
        if seen.is_some() {
            self.shown.insert(key)
        } else {
            self.hidden.insert(key)
        };
        Ok(seen)
    }

    /// Whether a client that applied the event would believe what is no longer so. The timeline must begin after it: then
    /// the state that stands before the timeline says how it is.
    fn is_outdated(&self, event: &Event) -> bool {
        let Some((kind, key)) = event.pdu.state_entry().filter(|_| !self.hidden.is_empty()) else { return false };
        self.hidden.contains(&(kind.to_owned(), key.to_owned()))
    }
}

impl Sync {
    /// The newest events in `(since, upto]` that the reader may see and wants.
    pub(crate) async fn timeline(
        &self,
        room: &Room,
        viewer: &mut Viewer<'_>,
        reader: &Reader<'_>,
        since: StreamPosition,
        upto: StreamPosition,
    ) -> Result<Timeline, Error> {
        let filter = &reader.filter.room.timeline;
        if !filter.accepts_room(&room.id) {
            return Ok(Timeline { events: Vec::new(), limited: false, start: None });
        }
        self.newest_seen(room, viewer, &|event| reader.wants(event), filter.timeline_limit(), since, upto).await
    }

    /// The newest `limit` events in `(since, upto]` that the viewer may see and of which `wants` says so.
    pub(crate) async fn newest_seen(
        &self,
        room: &Room,
        viewer: &mut Viewer<'_>,
        wants: &(dyn Fn(&Event) -> bool + Send + std::marker::Sync),
        limit: usize,
        since: StreamPosition,
        upto: StreamPosition,
    ) -> Result<Timeline, Error> {
        let (mut events, mut at, mut scanned) = (Vec::new(), upto, 0);
        // Most rooms are done with the first look.
        let mut chunk_size = u32::try_from(limit + 1).unwrap_or(CHUNK).min(CHUNK);
        let (mut limited, mut fragment, mut keys) = (false, None, Keys::default());
        'fill: while scanned < SCANNED_MAX {
            let chunk = self.newest(room, since, at, chunk_size).await?;
            scanned += chunk.len();
            let Some(oldest) = chunk.last() else { break };
            at = StreamPosition(oldest.pos().0 - 1);
            let exhausted = chunk.len() < chunk_size as usize;
            chunk_size = CHUNK;
            for event in chunk {
                if *fragment.get_or_insert(event.row.fragment) != event.row.fragment {
                    // Between two fragments history may be missing: the client pages through the gap.
                    limited = true;
                    break 'fill;
                }
                if !wants(&event) {
                    continue;
                }
                let Some(event) = keys.view(event, viewer).await? else { continue };
                if keys.is_outdated(&event) {
                    limited = true;
                    break 'fill;
                }
                if events.len() == limit {
                    limited = true;
                    break 'fill;
                }
                events.push(event);
            }
            if exhausted {
                break;
            }
        }
        limited |= scanned >= SCANNED_MAX;
        limited = limited || (!events.is_empty() && self.begins_behind_gap(room, fragment, since).await?);
        events.reverse();
        let start = events.first().map(|event| event.pos());
        Ok(Timeline { events, limited, start })
    }

    /// Whether history may be missing between a position and the events after it, of which the oldest stands in this
    /// fragment.
    async fn begins_behind_gap(
        &self,
        room: &Room,
        fragment: Option<Option<i64>>,
        since: StreamPosition,
    ) -> Result<bool, Error> {
        // Before the first fragment there is nothing live.
        let Some(Some(fragment)) = fragment.filter(|fragment| *fragment != Some(0)) else { return Ok(false) };
        if since == StreamPosition::ZERO {
            return Ok(false);
        }
        let before = self.newest(room, StreamPosition::ZERO, since, 1).await?;
        Ok(before.first().is_some_and(|event| event.row.fragment != Some(fragment)))
    }

    /// A room to which the user is joined; `None` if there is nothing new.
    pub(crate) async fn joined_room(
        &self,
        room: &Arc<Room>,
        row: &MembershipRow,
        window: &Window,
        reader: &Reader<'_>,
        account_data: &[AccountData],
    ) -> Result<Option<Object>, Error> {
        let lazy = reader.filter.room.state.lazy_load_members;
        // In this order: what has become whole in between says since when.
        let partial = room.is_partial();
        let whole_pos = room.whole_pos();
        if !lazy && (partial || whole_pos > window.upto) {
            // Clients that want all members get the room when these are known (MSC3902).
            return Ok(None);
        }
        let begun = if lazy { row.joined_pos } else { row.joined_pos.max(whole_pos) };
        let fresh = window.lost || window.since.is_none_or(|since| begun > since);
        let returned = fresh && self.has_returned(room, row, window).await?;
        let since =
            if fresh && !returned { StreamPosition::ZERO } else { window.since.unwrap_or(StreamPosition::ZERO) };
        let receipts = self.receipts(room, reader, window, fresh).await?;
        let counts_anew = !fresh && reader.ignored_pos > since && self.may_count(room, row).await?;
        let has_read = counts_anew || receipts.iter().any(|row| row.user_id == *reader.user);
        let ephemeral = self.ephemeral(room, reader, window, fresh, receipts);
        let own: Vec<AccountData>;
        let account_data = match fresh && !returned && window.since.is_some() && !window.lost {
            // What was set while the user was not in the room was not told then.
            true => {
                own = self.users.room_account_data(reader.user, &room.id).await?;
                account_data_of(reader, room, own.iter().filter(|one| one.pos <= window.upto))
            }
            false => account_data_of(reader, room, account_data.iter()),
        };
        let moved =
            fresh || reader.full_state || reader.sticky.contains_key(&room.num) || room.head().row.last_pos > since;
        if !moved && !has_read && ephemeral.is_empty() && account_data.is_empty() {
            return Ok(None);
        }
        let mut section = Object::new();
        let mut news = fresh || reader.full_state;
        if moved {
            let end = self.state_at(room, window.upto).await?;
            let completed = since < whole_pos && whole_pos <= window.upto;
            let span = Span { since, upto: window.upto, fresh, completed, lost: window.lost };
            news |= self.add_events(&mut section, room, row, reader, &span, end).await?;
        } else {
            section.raw("timeline", &empty_timeline(&self.rooms.place_at(room, window.upto).await?));
            if reader.use_state_after {
                add_state_after(&mut section, &[]);
            }
        }
        if !news && !has_read && ephemeral.is_empty() && account_data.is_empty() {
            // All that happened is what the reader does not want or may not see.
            return Ok(None);
        }
        section.events("ephemeral", &ephemeral).events("account_data", &account_data);
        self.add_unread(&mut section, room, row, reader).await?;
        Ok(Some(section))
    }

    /// Whether the user was in a room at the last answer, and has left it and come back since. The client gets the whole
    /// state then, but of the timeline only what it was not shown before.
    async fn has_returned(&self, room: &Arc<Room>, row: &MembershipRow, window: &Window) -> Result<bool, Error> {
        let Some(since) = window.since.filter(|since| !window.lost && row.joined_pos > *since) else {
            return Ok(false);
        };
        if room.whole_pos() > since {
            return Ok(false);
        }
        let known = self.state_at(room, since).await?;
        let own = (MEMBER.to_owned(), row.user_id.to_string());
        let found = self.rooms.state_map(room, None, known, &[own]).await?;
        Ok(found.0.into_values().any(|event| event.pdu.membership() == Some("join")))
    }

    /// A room that the user has left; `None` if there is nothing to show.
    pub(crate) async fn left_room(
        &self,
        room: &Arc<Room>,
        row: &MembershipRow,
        window: &Window,
        reader: &Reader<'_>,
    ) -> Result<Option<Object>, Error> {
        let mut section = Object::new();
        let never_joined = row.left_pos == StreamPosition::ZERO;
        let since = match window.since {
            // Of a room that was only an invite, nothing but the rejection is shown.
            _ if never_joined => StreamPosition(row.pos.0 - 1),
            // Whoever believes to be in it learns that it is not so.
            _ if window.lost => StreamPosition(row.pos.0 - 1),
            Some(since) if row.joined_pos <= since || self.has_returned(room, row, window).await? => since,
            _ => StreamPosition::ZERO,
        };
        let upto = row.pos.min(window.upto);
        let end = match never_joined {
            true => Roots::EMPTY,
            false => self.state_at(room, upto).await?,
        };
        let fresh = since == StreamPosition::ZERO;
        let completed = !fresh && since < room.whole_pos() && room.whole_pos() <= upto;
        let span = Span { since, upto, fresh, completed, lost: window.lost };
        self.add_events(&mut section, room, row, reader, &span, end).await?;
        Ok(Some(section))
    }

    async fn add_events(
        &self,
        section: &mut Object,
        room: &Arc<Room>,
        row: &MembershipRow,
        reader: &Reader<'_>,
        span: &Span,
        end: Roots,
    ) -> Result<bool, Error> {
        let Span { since, upto, fresh, completed, lost } = *span;
        let mut viewer = Viewer::with_membership(&self.rooms, room, reader.user, Some(row.clone()));
        let mut timeline = self.timeline(room, &mut viewer, reader, since, upto).await?;
        timeline.limited |= lost;
        let whole = fresh || reader.full_state;
        let known = match whole {
            true => Roots::EMPTY,
            false => self.state_at(room, since).await?,
        };
        let start = match (timeline.start, end == Roots::EMPTY) {
            (_, true) => Roots::EMPTY,
            (Some(start), _) => self.state_at(room, StreamPosition(start.0 - 1)).await?,
            (None, _) => end,
        };
        // Someone who never was in the room gets no state of it.
        let mut known = if end == Roots::EMPTY { Roots::EMPTY } else { known };
        let mut meanwhile = Vec::new();
        if completed && !whole && reader.filter.room.state.lazy_load_members {
            meanwhile = self.skip_completion(room, &mut known).await?;
        }
        let mut state = match reader.use_state_after {
            true => state_delta::after_timeline(&self.rooms, room, known, end).await?,
            false => state_delta::before_timeline(&self.rooms, room, known, start, end, &timeline.events).await?,
        };
        self.add_meanwhile(room, &meanwhile, end, &timeline.events, &mut state).await?;
        let at_start = if reader.use_state_after { end } else { start };
        let changed = if whole { Some(self.changed_members(room, reader, since, end).await?) } else { None };
        self.select_members(room, reader, &mut state, &timeline, at_start, changed).await?;
        let filter = &reader.filter.room.state;
        state.retain(|event| filter.accepts_event(event) && filter.accepts_room(&room.id));
        let sums = |event: &Arc<Event>| SUMMED.contains(&event.pdu.kind.as_str());
        let changed_summary = whole || completed || timeline.limited || known.members != end.members;
        if (changed_summary || state.iter().chain(&timeline.events).any(sums)) && row.membership == "join" {
            self.add_summary(section, room, reader, end, &timeline.events, &mut state).await?;
        }
        let rendering = Rendering {
            user: reader.user,
            device: reader.device,
            ignored: reader.ignored,
            with_room_id: false,
            bundled: timeline.limited && self.any_children(room, &timeline.events).await?,
        };
        let prev_batch = match timeline.events.first().and_then(|event| Place::before(event)) {
            Some(place) => place,
            None => self.rooms.place_at(room, upto).await?,
        };
        let events = self.rooms.render(room, &timeline.events, &mut viewer, &rendering).await?;
        let events = reader.filter.formed(&timeline.events, events);
        let sticks = self.add_sticky(section, room, row, reader, span, &timeline.events).await?;
        let mut text = Object::new();
        text.raw("events", &array(&events))
            .boolean("limited", timeline.limited)
            .text("prev_batch", &prev_batch.to_string());
        section.raw("timeline", &text.finish());
        let state = reader.filter.formed(&state, self.rooms.render_states(room, &state, &rendering).await?);
        match reader.use_state_after {
            true => add_state_after(section, &state),
            false => drop(section.raw("state", &format!("{{\"events\":{}}}", array(&state)))),
        }
        Ok(sticks || !events.is_empty() || !state.is_empty() || timeline.limited || changed_summary)
    }

    /// Sticky events that are new to the reader and stand in no timeline of this answer (MSC4354). No filter holds for them,
    /// nor what is said of the visibility of history.
    async fn add_sticky(
        &self,
        section: &mut Object,
        room: &Arc<Room>,
        row: &MembershipRow,
        reader: &Reader<'_>,
        span: &Span,
        shown: &[Arc<Event>],
    ) -> Result<bool, Error> {
        if row.membership != "join" {
            return Ok(false);
        }
        let all: Vec<StickyRow>;
        let rows = match (span.fresh, reader.sticky.get(&room.num)) {
            (true, _) => {
                all = self.rooms.sticky_in(room.num, span.upto).await?;
                all.as_slice()
            }
            (false, news) => news.map_or(&[][..], Vec::as_slice),
        };
        let shown: BTreeSet<EventNum> = shown.iter().map(|event| event.num()).collect();
        let events = self.sticky_events(room, rows, reader.ignored, |event| shown.contains(&event.num())).await?;
        if events.is_empty() {
            return Ok(false);
        }
        let ignored = reader.ignored;
        let rendering =
            Rendering { user: reader.user, device: reader.device, ignored, with_room_id: false, bundled: false };
        let rendered = self.rooms.render_states(room, &events, &rendering).await?;
        section.events("msc4354_sticky", &reader.filter.formed(&events, rendered));
        Ok(true)
    }

    /// The events of these rows, without those of ignored users and those that the answer shows elsewhere.
    pub(crate) async fn sticky_events(
        &self,
        room: &Room,
        rows: &[StickyRow],
        ignored: &BTreeSet<String>,
        shown: impl Fn(&Event) -> bool,
    ) -> Result<Vec<Arc<Event>>, Error> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut events = self.rooms.sticky_events(room, rows).await?;
        events.retain(|event| !ignored.contains(&event.pdu.sender) && !shown(event));
        Ok(events)
    }

    /// Members from before the join that became known are no news for a lazy client, and they may be very many: takes them
    /// for known. Returns the members that changed while they were missing.
    pub(crate) async fn skip_completion(&self, room: &Arc<Room>, known: &mut Roots) -> Result<Vec<Arc<Event>>, Error> {
        let whole_pos = room.whole_pos();
        let before = self.state_at(room, StreamPosition(whole_pos.0 - 1)).await?;
        let members = |roots: Roots| Roots { rest: Root::EMPTY, ..roots };
        let changed = state_delta::after_timeline(&self.rooms, room, members(*known), members(before)).await?;
        known.members = self.state_at(room, whole_pos).await?.members;
        Ok(changed)
    }

    /// What these members are at the end, unless the client gets it anyway.
    async fn add_meanwhile(
        &self,
        room: &Arc<Room>,
        meanwhile: &[Arc<Event>],
        end: Roots,
        timeline: &[Arc<Event>],
        state: &mut Vec<Arc<Event>>,
    ) -> Result<(), Error> {
        let pairs: Vec<(String, String)> = (meanwhile.iter())
            .filter_map(|event| event.pdu.state_entry())
            .map(|(kind, state_key)| (kind.to_owned(), state_key.to_owned()))
            .collect();
        if pairs.is_empty() {
            return Ok(());
        }
        let told: BTreeSet<EventNum> = state.iter().chain(timeline).map(|event| event.num()).collect();
        let found = self.rooms.state_map(room, None, end, &pairs).await?;
        state.extend(found.0.into_values().filter(|event| !told.contains(&event.num())));
        Ok(())
    }

    /// Members that have changed since the reader's token, though the state is told whole: one that loads members lazily
    /// may hold any of them, and would keep what is no longer so.
    async fn changed_members(
        &self,
        room: &Room,
        reader: &Reader<'_>,
        since: StreamPosition,
        end: Roots,
    ) -> Result<BTreeSet<UserId>, Error> {
        if !reader.filter.room.state.lazy_load_members || since == StreamPosition::ZERO || end == Roots::EMPTY {
            return Ok(BTreeSet::new());
        }
        let members = |roots: Roots| Roots { rest: Root::EMPTY, ..roots };
        let known = self.state_at(room, since.max(room.whole_pos())).await?;
        let changed = state_delta::after_timeline(&self.rooms, room, members(known), members(end)).await?;
        Ok(changed.iter().filter_map(|event| event.pdu.state_key.as_deref().map(UserId::from)).collect())
    }

    /// With lazy loading, keeps of a whole state only the members that the timeline needs and those that have changed, and
    /// adds those that an incremental answer needs besides. `changed` is `None` where the state is not whole.
    async fn select_members(
        &self,
        room: &Arc<Room>,
        reader: &Reader<'_>,
        state: &mut Vec<Arc<Event>>,
        timeline: &Timeline,
        at: Roots,
        changed: Option<BTreeSet<UserId>>,
    ) -> Result<(), Error> {
        let filter = &reader.filter.room.state;
        if !filter.lazy_load_members {
            return Ok(());
        }
        let device = reader.device.cloned().unwrap_or_else(|| DeviceId::from(""));
        let mut needed: BTreeSet<UserId> =
            timeline.events.iter().map(|event| UserId::from(event.pdu.sender.as_str())).collect();
        self.lazy.begin(reader.user, &device, room.num, reader.since);
        if let Some(changed) = changed {
            self.lazy.forget(reader.user, &device, room.num);
            needed.insert(reader.user.clone());
            if reader.use_state_after {
                // Clients take the state from here alone, not from the timeline: who is in that belongs here too.
                let members = timeline.events.iter().filter(|event| event.pdu.kind == MEMBER);
                needed.extend(members.filter_map(|event| event.pdu.state_key.as_deref()).map(UserId::from));
            }
            state.retain(|event| {
                let is_kept = |user: &str| needed.contains(user) || changed.contains(user);
                event.pdu.kind != MEMBER || event.pdu.state_key.as_deref().is_some_and(is_kept)
            });
        }
        let told = |event: &Arc<Event>| event.pdu.state_key.as_deref().map(UserId::from);
        let present: BTreeSet<UserId> =
            state.iter().filter(|event| event.pdu.kind == MEMBER).filter_map(told).collect();
        for member in &present {
            self.lazy.tell(reader.user, &device, room.num, member, reader.upto);
        }
        let in_timeline: BTreeSet<UserId> =
            timeline.events.iter().filter(|event| event.pdu.kind == MEMBER).filter_map(told).collect();
        let missing: Vec<(String, String)> = needed
            .into_iter()
            .filter(|member| !present.contains(member))
            .filter(|member| {
                let first = self.lazy.tell(reader.user, &device, room.num, member, reader.upto);
                (first && !(reader.use_state_after && in_timeline.contains(member))) || filter.include_redundant_members
            })
            .map(|member| (MEMBER.to_owned(), member.to_string()))
            .collect();
        if !missing.is_empty() && at != Roots::EMPTY {
            let found = self.rooms.state_map(room, None, at, &missing).await?;
            state.extend(found.0.into_values());
        }
        Ok(())
    }

    /// Counts and, where the room has no name of its own, heroes (with their member events under lazy loading).
    async fn add_summary(
        &self,
        section: &mut Object,
        room: &Arc<Room>,
        reader: &Reader<'_>,
        end: Roots,
        timeline: &[Arc<Event>],
        state: &mut Vec<Arc<Event>>,
    ) -> Result<(), Error> {
        let head = room.head();
        let mut summary = Map::new();
        summary.insert("m.joined_member_count".to_owned(), json!(head.row.joined));
        summary.insert("m.invited_member_count".to_owned(), json!(head.row.invited));
        let pairs = ["m.room.name", "m.room.canonical_alias"].map(|kind| (kind.to_owned(), String::new()));
        let named = self.rooms.state_map(room, None, end, &pairs).await?;
        let has = |kind: &str, member: &str| named.text(kind, member).is_some_and(|text| !text.is_empty());
        if !has("m.room.name", "name") && !has("m.room.canonical_alias", "alias") {
            let heroes = self.heroes(room, reader.user, end).await?;
            let names: Vec<&str> = heroes.iter().filter_map(|event| event.pdu.state_key.as_deref()).collect();
            summary.insert("m.heroes".to_owned(), json!(names));
            if reader.filter.room.state.lazy_load_members {
                let device = reader.device.cloned().unwrap_or_else(|| DeviceId::from(""));
                for hero in heroes {
                    let user = UserId::from(hero.pdu.state_key.as_deref().unwrap_or_default());
                    let first = self.lazy.tell(reader.user, &device, room.num, &user, reader.upto);
                    // Before the timeline, what the timeline itself tells would be told twice.
                    let told = |events: &[Arc<Event>]| events.iter().any(|event| event.num() == hero.num());
                    if first && !told(state) && (reader.use_state_after || !told(timeline)) {
                        state.push(hero);
                    }
                }
            }
        }
        section.raw("summary", &Value::Object(summary).to_string());
        Ok(())
    }

    /// The first five joined or invited others by order of their events; those who left only if there are none.
    pub(crate) async fn heroes(&self, room: &Arc<Room>, user: &UserId, state: Roots) -> Result<Vec<Arc<Event>>, Error> {
        let mut nums = self.rooms.tree_nums(room, state.members).await?;
        nums.sort();
        let (mut here, mut gone) = (Vec::new(), Vec::new());
        for num in nums {
            if here.len() == HEROES {
                break;
            }
            let event = self.rooms.event(room, num).await?;
            if event.pdu.state_key.as_deref() == Some(user.as_str()) {
                continue;
            }
            match event.pdu.membership() {
                Some("join" | "invite") => here.push(event),
                _ if gone.len() < HEROES => gone.push(event),
                _ => {}
            }
        }
        Ok(if here.is_empty() { gone } else { here })
    }

    /// Receipts of a room that moved since the token, without those of ignored users.
    async fn receipts(
        &self,
        room: &Room,
        reader: &Reader<'_>,
        window: &Window,
        fresh: bool,
    ) -> Result<Vec<ReceiptRow>, Error> {
        let since = if fresh { StreamPosition::ZERO } else { window.since.unwrap_or(StreamPosition::ZERO) };
        let unmoved = since >= self.began && self.waker.last_receipt(room.num).is_none_or(|last| last <= since);
        if unmoved {
            return Ok(Vec::new());
        }
        let mut rows = self.users.receipts_since(room.num, since, window.upto, reader.user).await?;
        rows.retain(|row| !reader.ignored.contains(row.user_id.as_str()));
        Ok(rows)
    }

    fn ephemeral(
        &self,
        room: &Room,
        reader: &Reader<'_>,
        window: &Window,
        fresh: bool,
        receipts: Vec<ReceiptRow>,
    ) -> Vec<String> {
        let filter = &reader.filter.room.ephemeral;
        let mut events = Vec::new();
        if !filter.accepts_room(&room.id) {
            return events;
        }
        let receipts: Vec<ReceiptRow> =
            receipts.into_iter().filter(|row| filter.accepts("m.receipt", Some(row.user_id.as_str()))).collect();
        if !receipts.is_empty() {
            events.extend(receipt_events(&receipts));
        }
        if filter.accepts("m.typing", None) {
            let typing = match (fresh, window.typing_is_lost) {
                (true, _) => Some(self.users.typing_in(room.num)).filter(|users| !users.is_empty()),
                (false, true) => Some(self.users.typing_in(room.num)),
                (false, false) => self.users.typing_since(room.num, window.number),
            };
            if let Some(typing) = typing {
                let users: Vec<&UserId> =
                    typing.iter().filter(|user| !reader.ignored.contains(user.as_str())).collect();
                events.push(json!({ "type": "m.typing", "content": { "user_ids": users } }).to_string());
            }
        }
        events
    }

    /// Whether a member has anything unread, seen or not: if so, it may count or not by whom the member ignores.
    pub(crate) async fn may_count(&self, room: &Room, row: &MembershipRow) -> Result<bool, Error> {
        let marks = self.marks(&row.user_id, room.num).await?;
        Ok(self.rooms.unread(room, row, &marks, &BTreeSet::new()).await? != Unread::default())
    }

    async fn add_unread(
        &self,
        section: &mut Object,
        room: &Room,
        row: &MembershipRow,
        reader: &Reader<'_>,
    ) -> Result<(), Error> {
        let marks = self.marks(reader.user, room.num).await?;
        let unread = self.rooms.unread(room, row, &marks, reader.ignored).await?;
        if !reader.filter.room.timeline.unread_thread_notifications {
            section.raw("unread_notifications", &counts(unread.total()));
            return Ok(());
        }
        section.raw("unread_notifications", &counts(unread.main));
        let mut threads = Object::new();
        for (root, unread) in &unread.threads {
            threads.raw(root, &counts(*unread));
        }
        section.object("unread_thread_notifications", threads);
        Ok(())
    }
}

fn empty_timeline(place: &Place) -> String {
    let mut text = Object::new();
    text.raw("events", "[]").boolean("limited", false).text("prev_batch", &place.to_string());
    text.finish()
}

/// `state_after` under both its names: clients of before its acceptance know only the unstable one (MSC4222).
fn add_state_after(section: &mut Object, state: &[String]) {
    let text = format!("{{\"events\":{}}}", array(state));
    section.raw("state_after", &text).raw("org.matrix.msc4222.state_after", &text);
}

fn account_data_of<'a>(
    reader: &Reader<'_>,
    room: &Room,
    account_data: impl Iterator<Item = &'a AccountData>,
) -> Vec<String> {
    let filter = &reader.filter.room.account_data;
    if !filter.accepts_room(&room.id) {
        return Vec::new();
    }
    account_data.filter(|one| filter.accepts(&one.kind, None)).map(account_data_event).collect()
}

/// A piece of account data as an event.
pub(crate) fn account_data_event(one: &AccountData) -> String {
    format!("{{\"type\":{},\"content\":{}}}", quote(&one.kind), one.content)
}

fn counts(counts: Counts) -> String {
    format!("{{\"notification_count\":{},\"highlight_count\":{}}}", counts.notifications, counts.highlights)
}

/// Receipts by event, type and user.
type Receipts<'a> = BTreeMap<&'a str, BTreeMap<&'a str, BTreeMap<&'a str, Value>>>;

/// Receipts as `m.receipt`: content by event, type and user. Where a user has several at one event, for several threads,
/// each event holds one of them: the first what counts most, without a thread, then for the main timeline.
pub(crate) fn receipt_events(rows: &[ReceiptRow]) -> Vec<String> {
    let mut contents: Vec<Receipts<'_>> = Vec::new();
    let mut rows: Vec<&ReceiptRow> = rows.iter().collect();
    rows.sort_by_key(|row| (!row.thread.is_empty(), row.thread != "main"));
    for row in rows {
        let mut receipt = json!({ "ts": row.ts });
        if let (false, Some(receipt)) = (row.thread.is_empty(), receipt.as_object_mut()) {
            receipt.insert("thread_id".to_owned(), json!(row.thread));
        }
        let (event, kind, user) = (row.event_id.as_str(), row.receipt_type.as_str(), row.user_id.as_str());
        let is_taken =
            |content: &Receipts<'_>| content.get(event).and_then(|types| types.get(kind)?.get(user)).is_some();
        let free = contents.iter().position(|content| !is_taken(content)).unwrap_or(contents.len());
        if free == contents.len() {
            contents.push(BTreeMap::new());
        }
        if let Some(content) = contents.get_mut(free) {
            content.entry(event).or_default().entry(kind).or_default().insert(user, receipt);
        }
    }
    contents.into_iter().map(|content| json!({ "type": "m.receipt", "content": content }).to_string()).collect()
}
