//! What goes beyond rooms: messages for the device, keys, account data, receipts, typing (MSC3884, MSC3885, MSC3959 to
//! MSC3961; behaviour CZ8). Only what a request asked for comes back.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use store::tables::users::ReceiptRow;
use store::{RoomNum, StreamPosition};
use users::account_data::AccountData;
use users::thread_subscriptions::told;

use crate::device_lists::{DeviceLists, People};
use crate::json::{Object, array, quote};
use crate::room_section::{account_data_event, receipt_events};
use crate::sliding::Context;
use crate::sliding::answer::Answer;
use crate::sliding::connection::{Sent, Step, Upto};
use crate::sliding::lists::Wanted;
use crate::sliding::request::{Scope, ToDevice};
use crate::sliding::room::Visit;
use crate::{Error, Sync, Token};

/// Most to-device messages of one answer.
const TO_DEVICE_MAX: u64 = 100;
/// Most changes of thread subscriptions of one answer.
const THREAD_SUBSCRIPTIONS_MAX: u64 = 100;
/// With more rooms than this, all account data is read at once.
const SINGLE_READS_MAX: usize = 20;

/// An answer in the making.
pub(crate) struct Making<'a> {
    pub wanted: &'a Wanted<'a>,
    /// The rooms that were looked at and had something to remember.
    pub visits: &'a BTreeMap<RoomNum, Visit>,
    /// The rooms in which something happened since the client's position; `None` if that is not known.
    pub changed: Option<&'a BTreeSet<RoomNum>>,
    pub step: Step,
    pub answer: Answer,
}

impl Making<'_> {
    pub fn add(&mut self, name: &'static str, extension: Object, news: bool) {
        self.answer.news |= news;
        self.answer.extensions.push((name, extension.finish()));
    }

    /// Changes what is remembered as sent of a room.
    fn note(&mut self, ctx: &Context<'_>, room: RoomNum, change: impl FnOnce(&mut Sent)) {
        if let Some(mut sent) = self.step.sent(ctx.state, room) {
            change(&mut sent);
            self.step.rooms.insert(room, Some(sent));
        }
    }

    /// Rooms, other than these, of which the client has something.
    fn others(&self, ctx: &Context<'_>, rooms: &BTreeSet<RoomNum>) -> Vec<RoomNum> {
        let known = ctx.state.iter().map(|(room, _)| room).filter(|room| !rooms.contains(room));
        known.filter(|room| self.changed.is_none_or(|changed| changed.contains(room))).collect()
    }
}

impl Sync {
    /// Adds all extensions that are asked for.
    pub(crate) async fn add_extensions(&self, ctx: &Context<'_>, making: &mut Making<'_>) -> Result<(), Error> {
        let extensions = &ctx.request.extensions;
        if let Some(to_device) = &extensions.to_device {
            self.extend_to_device(ctx, to_device, making).await?;
        }
        if extensions.e2ee {
            self.extend_e2ee(ctx, making).await?;
        }
        self.extend_account_data(ctx, extensions.account_data.as_ref(), making).await?;
        self.extend_receipts(ctx, extensions.receipts.as_ref(), making).await?;
        if let Some(scope) = &extensions.typing {
            self.extend_typing(ctx, scope, making).await?;
        }
        if let Some(limit) = extensions.thread_subscriptions {
            self.extend_thread_subscriptions(ctx, limit, making).await?;
        }
        if let Some(wish) = &extensions.sticky {
            self.extend_sticky(ctx, wish, making).await?;
        }
        Ok(())
    }

    /// Deletes the messages that the client says it has. Its token may be of `/sync`; one that cannot be read says nothing.
    pub(crate) async fn acknowledge_to_device(&self, ctx: &Context<'_>) -> Result<(), Error> {
        let (Some(wish), Some(device)) = (&ctx.request.extensions.to_device, &ctx.request.device) else {
            return Ok(());
        };
        let since = acknowledged(wish, ctx.upto);
        if since > StreamPosition::ZERO && !self.has_no_messages(&ctx.request.user, device) {
            self.users.delete_to_device(&ctx.request.user, device, since).await?;
        }
        Ok(())
    }

    async fn extend_to_device(&self, ctx: &Context<'_>, wish: &ToDevice, making: &mut Making<'_>) -> Result<(), Error> {
        let mut extension = Object::new();
        let (mut next, mut events) = (ctx.upto, Vec::new());
        let device = ctx.request.device.as_ref();
        if let Some(device) = device.filter(|device| !self.has_no_messages(&ctx.request.user, device)) {
            let limit = wish.limit.unwrap_or(TO_DEVICE_MAX).clamp(1, TO_DEVICE_MAX);
            let (since, limit) = (acknowledged(wish, ctx.upto), u32::try_from(limit).unwrap_or(1));
            let rows = self.users.to_device(&ctx.request.user, device, since, ctx.upto, limit + 1).await?;
            if rows.is_empty() {
                self.note_no_messages(&ctx.request.user, device, ctx.upto);
            }
            let fits = limit as usize;
            if rows.len() > fits {
                next = rows.get(fits - 1).map_or(next, |row| row.pos);
            }
            for row in rows.iter().take(fits) {
                let (sender, kind) = (quote(row.sender.as_str()), quote(&row.kind));
                events.push(format!("{{\"sender\":{sender},\"type\":{kind},\"content\":{}}}", row.content));
            }
        }
        extension.text("next_batch", &format!("s{next}")).raw("events", &array(&events));
        making.add("to_device", extension, !events.is_empty());
        Ok(())
    }

    async fn extend_e2ee(&self, ctx: &Context<'_>, making: &mut Making<'_>) -> Result<(), Error> {
        let user = &ctx.request.user;
        let (mut extension, mut news) = (Object::new(), false);
        if ctx.pos.is_some() {
            let rooms = match making.changed {
                Some(changed) => changed.clone(),
                None => ctx.memberships.rows.keys().copied().collect(),
            };
            let people = match ctx.pos {
                Some(_) => self.people(ctx.memberships, &rooms, ctx.since(), ctx.upto, false).await?,
                None => People::default(),
            };
            let lists = self.device_lists(user, ctx.memberships, ctx.since(), ctx.upto, &people).await?;
            news |= lists != DeviceLists::default();
            extension.raw("device_lists", &json!({ "changed": lists.changed, "left": lists.left }).to_string());
            let keys = self.changes.user(user).keys;
            news |= keys <= ctx.upto && keys > ctx.since().max(self.began);
        }
        if let Some(device) = &ctx.request.device {
            extension.members(&self.key_counts(user, device).await?);
        }
        making.add("e2ee", extension, news);
        Ok(())
    }

    /// The rooms that an extension is about, as far as the client has them.
    pub(crate) async fn within(
        &self,
        ctx: &Context<'_>,
        scope: &Scope,
        making: &Making<'_>,
    ) -> Result<BTreeSet<RoomNum>, Error> {
        let mut rooms = BTreeSet::new();
        for (room, want) in &making.wanted.rooms {
            let is_told = match making.step.rooms.get(room) {
                Some(sent) => sent.is_some(),
                None => ctx.state.get(*room).is_some(),
            };
            if !is_told {
                continue;
            }
            let room_id = match want.subscribed && scope.rooms.is_some() {
                true => self.room_id(*room).await?.unwrap_or_default(),
                false => String::new(),
            };
            if scope.includes(&room_id, &want.lists, want.subscribed) {
                rooms.insert(*room);
            }
        }
        Ok(rooms)
    }

    async fn extend_account_data(
        &self,
        ctx: &Context<'_>,
        scope: Option<&Scope>,
        making: &mut Making<'_>,
    ) -> Result<(), Error> {
        let (user, since) = (&ctx.request.user, ctx.since());
        let recent = match ctx.pos.is_some() && self.changes.user(user).account_data > since {
            true => self.users.account_data_since(user, since, ctx.upto).await?,
            false => Vec::new(),
        };
        let within = match scope {
            Some(scope) => self.within(ctx, scope, making).await?,
            None => BTreeSet::new(),
        };
        for data in &recent {
            if data.room_id.is_empty() {
                continue;
            }
            let Some(row) = self.rooms.any_membership(&data.room_id, user).await? else { continue };
            if !within.contains(&row.room) {
                making.note(ctx, row.room, |sent| sent.account_data.lag(since));
            }
        }
        if scope.is_none() {
            let mut upto = ctx.state.account_data;
            if recent.iter().any(|data| data.room_id.is_empty()) {
                upto.lag(since);
            }
            making.step.account_data = Some(upto);
            return Ok(());
        }
        let global = self.global_account_data(ctx, &recent).await?;
        making.step.account_data = Some(Upto::Live);
        let (mut extension, mut rooms) = (Object::new(), Object::new());
        let mut news = !global.is_empty();
        if !global.is_empty() {
            extension.raw("global", &array(&global));
        }
        for (room_id, data) in self.account_data_of(ctx, within, recent, making).await? {
            news = true;
            rooms.raw(&room_id, &array(&data));
        }
        extension.object("rooms", rooms);
        if news {
            making.add("account_data", extension, true);
        }
        Ok(())
    }

    async fn global_account_data(&self, ctx: &Context<'_>, recent: &[AccountData]) -> Result<Vec<String>, Error> {
        let user = &ctx.request.user;
        let found = match ctx.state.account_data.since(ctx.since()) {
            None => self.users.all_account_data(user).await?,
            Some(since) if since == ctx.since() => recent.to_vec(),
            Some(since) => self.users.account_data_since(user, since, ctx.upto).await?,
        };
        Ok(found.iter().filter(|data| data.room_id.is_empty()).map(account_data_event).collect())
    }

    /// What is new of the account data of these rooms, by room id.
    async fn account_data_of(
        &self,
        ctx: &Context<'_>,
        rooms: BTreeSet<RoomNum>,
        recent: Vec<AccountData>,
        making: &mut Making<'_>,
    ) -> Result<BTreeMap<String, Vec<String>>, Error> {
        let user = &ctx.request.user;
        let mut behind: BTreeMap<String, Option<StreamPosition>> = BTreeMap::new();
        for room in rooms {
            let Some(sent) = making.step.sent(ctx.state, room) else { continue };
            let since = sent.account_data.since(ctx.since()).filter(|_| ctx.pos.is_some());
            let is_recent = since == Some(ctx.since()) && recent.is_empty();
            if !is_recent && let Some(room_id) = self.room_id(room).await? {
                behind.insert(room_id, since);
            }
            if sent.account_data != Upto::Live {
                making.note(ctx, room, |sent| sent.account_data = Upto::Live);
            }
        }
        let mut data = recent;
        let fresh: Vec<&String> =
            behind.iter().filter(|(_, since)| since.is_none()).map(|(room_id, _)| room_id).collect();
        if fresh.len() > SINGLE_READS_MAX {
            data = self.users.all_account_data(user).await?;
        } else {
            let earliest = behind.values().flatten().min().copied();
            if let Some(earliest) = earliest.filter(|earliest| *earliest < ctx.since()) {
                data = self.users.account_data_since(user, earliest, ctx.upto).await?;
            }
            for room_id in fresh {
                data.retain(|one| one.room_id != *room_id);
                data.extend(self.users.room_account_data(user, room_id).await?);
            }
        }
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for one in data.iter().filter(|one| one.pos <= ctx.upto) {
            let wanted = behind.get(&one.room_id).is_some_and(|since| since.is_none_or(|since| one.pos > since));
            if wanted {
                found.entry(one.room_id.clone()).or_default().push(account_data_event(one));
            }
        }
        Ok(found)
    }

    async fn extend_receipts(
        &self,
        ctx: &Context<'_>,
        scope: Option<&Scope>,
        making: &mut Making<'_>,
    ) -> Result<(), Error> {
        let within = match scope {
            Some(scope) => self.within(ctx, scope, making).await?,
            None => BTreeSet::new(),
        };
        for room in making.others(ctx, &within) {
            making.note(ctx, room, |sent| sent.receipts.lag(ctx.since()));
        }
        let mut rooms = Object::new();
        for room in within {
            let sent = making.step.sent(ctx.state, room).filter(|sent| sent.joined && ctx.is_joined(room));
            let Some(sent) = sent else { continue };
            let rows = self.receipts_for(ctx, room, &sent, making.visits.get(&room)).await?;
            if sent.receipts != Upto::Live {
                making.note(ctx, room, |sent| sent.receipts = Upto::Live);
            }
            // There is one event of a room only; what does not fit into it counts less than what does.
            if let Some(receipts) = receipt_events(&rows).first()
                && let Some(room_id) = self.room_id(room).await?
            {
                rooms.raw(&room_id, receipts);
            }
        }
        if !rooms.is_empty() {
            let mut extension = Object::new();
            extension.object("rooms", rooms);
            making.add("receipts", extension, true);
        }
        Ok(())
    }

    /// The receipts to tell of in a room. Of one that the client has just been given, those at events that it sees, and
    /// the user's own.
    async fn receipts_for(
        &self,
        ctx: &Context<'_>,
        room: RoomNum,
        sent: &Sent,
        visit: Option<&Visit>,
    ) -> Result<Vec<ReceiptRow>, Error> {
        let answer = visit.and_then(|visit| visit.answer.as_ref());
        let (initial, expanded) = answer.map_or((false, false), |answer| (answer.initial, answer.expanded));
        let known = sent.receipts.since(ctx.since()).filter(|_| !initial);
        let since = known.unwrap_or(StreamPosition::ZERO);
        let unmoved = since >= self.began && self.waker.last_receipt(room).is_none_or(|last| last <= since);
        if unmoved && !expanded {
            return Ok(Vec::new());
        }
        let from = if expanded { StreamPosition::ZERO } else { since };
        let mut rows = self.users.receipts_since(room, from, ctx.upto, &ctx.request.user).await?;
        let shown = Context::shown(answer);
        let is_new = |row: &ReceiptRow| known.is_some_and(|since| row.pos > since);
        rows.retain(|row| {
            let is_own = row.user_id == ctx.request.user;
            let is_seen = is_own || shown.contains(&row.event_id) || !(initial || expanded);
            !ctx.ignored.contains(row.user_id.as_str()) && (is_seen || is_new(row))
        });
        Ok(rows)
    }
}

impl Sync {
    /// The newest changes since the client's position (MSC4308). Where there are more, a token leads to the older ones.
    async fn extend_thread_subscriptions(
        &self,
        ctx: &Context<'_>,
        limit: u64,
        making: &mut Making<'_>,
    ) -> Result<(), Error> {
        let (user, since) = (&ctx.request.user, ctx.since());
        if ctx.pos.is_some() && self.changes.user(user).threads <= since {
            return Ok(());
        }
        let limit = u32::try_from(limit.clamp(1, THREAD_SUBSCRIPTIONS_MAX)).unwrap_or(1);
        let mut rows = self.users.thread_subscriptions(user, since, ctx.upto, limit + 1).await?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        if rows.is_empty() {
            return Ok(());
        }
        let mut extension = Object::new();
        for (name, value) in told(&rows) {
            extension.raw(&name, &value.to_string());
        }
        if let Some(oldest) = rows.last().filter(|_| more) {
            extension.text("prev_batch", &format!("s{}", oldest.pos.0 - 1));
        }
        making.add("io.element.msc4308.thread_subscriptions", extension, true);
        Ok(())
    }
}

/// Up to where the client has its messages.
pub(super) fn acknowledged(wish: &ToDevice, upto: StreamPosition) -> StreamPosition {
    let token = wish.since.as_deref().and_then(|since| Token::parse(since).ok());
    token.map_or(StreamPosition::ZERO, |token| token.to_device.min(upto))
}
