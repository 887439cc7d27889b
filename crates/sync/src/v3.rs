//! `GET /_matrix/client/v3/sync`: collects what is new, and waits if nothing is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use store::tables::rooms::{MembershipRow, StickyRow};
use store::{DeviceId, RoomNum, StreamPosition, UserId};
use users::account_data::AccountData;
use users::presence::PresenceState;

use crate::device_lists::{DeviceLists, People, at_all};
use crate::json::{Object, quote};
use crate::known::Memberships;
use crate::presence::presence_events;
use crate::room_section::{Reader, account_data_event};
use crate::{Error, Filter, Sync, Token};

/// Longest wait, whatever the client asks for.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// To-device messages in one answer.
const TO_DEVICE_MAX: u32 = 100;
/// Changed rooms that are looked through, also for a user of fewer.
const CHANGED_MAX: usize = 200;
/// A room of which nothing is known but that the user is no longer invited to it.
const EMPTY_ROOM: &str = r#"{"timeline":{"events":[],"limited":false},"state":{"events":[]}}"#;
/// How long a token of another node's making may be ahead of this node.
const AHEAD: Duration = Duration::from_secs(10);

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who.
    pub user: UserId,
    /// On which device.
    pub device: Option<DeviceId>,
    /// Since when; `None` for an initial sync.
    pub since: Option<String>,
    /// A filter, or the id of a stored one.
    pub filter: Option<String>,
    /// All state of all rooms.
    pub full_state: bool,
    /// State up to the end of the timeline instead of its start.
    pub use_state_after: bool,
    /// How the user is marked by this request.
    pub set_presence: PresenceState,
    /// How long to wait for news.
    pub timeout: Duration,
    /// Time now, in milliseconds since the epoch.
    pub now_ms: i64,
}

/// The rooms of an answer.
#[derive(Default)]
struct Parts {
    join: Object,
    invite: Object,
    knock: Object,
    leave: Object,
}

/// The span that one answer covers.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// After this position; `None` for an initial sync.
    pub since: Option<StreamPosition>,
    /// Up to this one.
    pub upto: StreamPosition,
    /// Volatile changes after this number.
    pub number: i64,
    /// The client may believe that somebody types of whom nothing is known any more.
    pub typing_is_lost: bool,
    /// To-device messages after this position.
    pub to_device: StreamPosition,
    /// The token is of a lost future (see [`crate::lost`]): what the client knows of rooms is wrong.
    pub lost: bool,
}

/// An answer in the making.
#[derive(Default)]
struct Answer {
    body: Object,
    /// Whether anything in it is news.
    news: bool,
    /// Where to-device messages go on, if not all fit.
    to_device: Option<StreamPosition>,
}

impl Sync {
    /// Answers a sync: at once if there is news, else when there is or when the time is up. The answer is JSON text.
    ///
    /// # Errors
    /// [`Error::BadToken`], [`Error::BadFilter`], [`Error::UnknownFilter`]; as the store says.
    pub async fn sync(&self, request: &Request) -> Result<String, Error> {
        let filter = self.filter(request).await?;
        let mut since = request.since.as_deref().map(Token::parse).transpose()?;
        let mut lost = false;
        if let Some(since) = &mut since {
            lost = !self.reach(since).await?;
            if let Some(device) = &request.device
                && !self.has_no_messages(&request.user, device)
            {
                self.users.delete_to_device(&request.user, device, since.to_device).await?;
            }
        }
        self.users.presence_seen(&request.user, request.set_presence);
        let deadline = deadline(request.timeout);
        let mut ready = self.ready(&request.user);
        let mut waiting = self.waker.register(&request.user);
        loop {
            waiting.mark_seen();
            let volatile = self.users.volatile().position();
            let (upto, memberships) = self.settled(&request.user).await?;
            let window = self.window(since.as_ref(), upto, lost);
            let answer = self.collect(request, &filter, &window, &memberships).await?;
            let at_once = since.is_none() || lost || request.full_state || answer.news;
            if at_once || has_passed(deadline) {
                let to_device = answer.to_device.unwrap_or(upto);
                let next = Token {
                    pos: upto,
                    epoch: volatile.epoch.to_string(),
                    number: volatile.number,
                    typing: self.may_type(&memberships, volatile.number),
                    to_device,
                };
                let mut body = Object::new();
                body.text("next_batch", &next.to_string());
                return Ok(join(body, answer.body));
            }
            if !self.may_wait(&mut ready, memberships).await? {
                continue;
            }
            // Either way the answer is collected anew; running out of time is not an error.
            drop(tokio::time::timeout_at(deadline, waiting.changed()).await);
        }
    }

    /// The watermark, once it has come to all that waiters have been told of (see [`crate::wake`]), and the user's
    /// memberships as of there: a change after it would be shown now and again with the next token.
    pub(crate) async fn settled(&self, user: &UserId) -> Result<(StreamPosition, Arc<Memberships>), Error> {
        let mut least = self.waker.told();
        loop {
            let mut upto = self.store.watermark();
            if upto < least {
                // The sender lives as long as the store.
                drop(self.store.notifier().subscribe().wait_for(|mark| *mark >= least).await);
                upto = self.store.watermark();
            }
            let memberships = self.memberships(user).await?;
            least = memberships.newest();
            if least <= upto {
                return Ok((upto, memberships));
            }
        }
    }

    /// Whether an answer from the volatile number `since` on, made until now, may have told of somebody who types.
    pub(crate) fn may_type(&self, memberships: &Memberships, since: i64) -> bool {
        self.users.any_typing(|room| memberships.rows.contains_key(&room), since)
    }

    async fn filter(&self, request: &Request) -> Result<Arc<Filter>, Error> {
        match request.filter.as_deref() {
            None | Some("") => Ok(Arc::default()),
            Some(inline) if inline.starts_with('{') => Filter::parse(inline).map(Arc::new),
            Some(id) => self.stored_filter(&request.user, id).await,
        }
    }

    /// Waits for what a token has seen: it may be a little ahead of this node. False if it is of a lost future; it is then
    /// moved back to the last position that still holds. A position that no node of this database ever gave is not waited
    /// for.
    pub(crate) async fn reach(&self, since: &mut Token) -> Result<bool, Error> {
        if self.store.watermark() < since.pos {
            if self.store.stored_counter().await? < since.pos {
                return Err(Error::BadToken(since.to_string()));
            }
            let mut watermark = self.store.notifier().subscribe();
            let reached = watermark.wait_for(|mark| *mark >= since.pos);
            if tokio::time::timeout(AHEAD, reached).await.is_err() {
                return Err(Error::BadToken(since.to_string()));
            }
        }
        let Some(last) = self.restored_from(since.pos).await? else { return Ok(true) };
        since.pos = last;
        since.to_device = since.to_device.min(last);
        Ok(false)
    }

    fn window(&self, since: Option<&Token>, upto: StreamPosition, lost: bool) -> Window {
        let Some(since) = since else {
            let (number, to_device) = (0, StreamPosition::ZERO);
            return Window { since: None, upto, number, typing_is_lost: false, to_device, lost };
        };
        Window {
            since: Some(since.pos),
            upto,
            number: self.users.volatile().since(&since.epoch, since.number),
            typing_is_lost: since.typing && *since.epoch != *self.users.volatile().position().epoch,
            to_device: since.to_device,
            lost,
        }
    }

    async fn collect(
        &self,
        request: &Request,
        filter: &Filter,
        window: &Window,
        memberships: &Memberships,
    ) -> Result<Answer, Error> {
        let ignored = self.ignored(&request.user).await?;
        let mut account_data = self.account_data(request, window).await?;
        let sticky = self.sticky_by_room(window).await?;
        let reader = Reader {
            user: &request.user,
            device: request.device.as_ref(),
            ignored: &ignored.users,
            ignored_pos: ignored.pos,
            filter,
            use_state_after: request.use_state_after,
            full_state: request.full_state,
            sticky: &sticky,
            since: window.since.unwrap_or(StreamPosition::ZERO),
            upto: window.upto,
        };
        let mut answer = Answer::default();
        let global = account_data.remove("").unwrap_or_default();
        let global: Vec<String> =
            global.iter().filter(|one| filter.account_data.accepts(&one.kind, None)).map(account_data_event).collect();
        answer.news |= !global.is_empty();
        answer.body.events("account_data", &global);
        let candidates = self.candidates(window, memberships, &reader, &account_data).await?;
        let people = match window.since {
            Some(since) => self.people(memberships, &candidates, since, window.upto, window.lost).await?,
            None => People::default(),
        };
        self.add_rooms(&mut answer, memberships, candidates, window, &reader, &account_data).await?;
        self.add_presence(&mut answer, request, filter, window, memberships, &people).await?;
        self.add_to_device(&mut answer, request, window).await?;
        self.add_device_lists(&mut answer, request, window, memberships, &people).await?;
        if let Some(device) = &request.device {
            answer.body.members(&self.key_counts(&request.user, device).await?);
            let keys = self.changes.user(&request.user).keys;
            answer.news |= keys <= window.upto && window.since.is_some_and(|since| keys > since.max(self.began));
        }
        Ok(answer)
    }

    /// New sticky events by room; none for who begins, and gets all of each room.
    async fn sticky_by_room(&self, window: &Window) -> Result<BTreeMap<RoomNum, Vec<StickyRow>>, Error> {
        let mut by_room: BTreeMap<RoomNum, Vec<StickyRow>> = BTreeMap::new();
        if let Some(since) = window.since.filter(|_| !window.lost) {
            for row in self.rooms.sticky_since(since, window.upto).await? {
                by_room.entry(row.room).or_default().push(row);
            }
        }
        Ok(by_room)
    }

    /// New account data by room id; that of no room under the empty id.
    async fn account_data(
        &self,
        request: &Request,
        window: &Window,
    ) -> Result<BTreeMap<String, Vec<AccountData>>, Error> {
        let changed = self.changes.user(&request.user).account_data;
        let all = match window.since.filter(|_| !window.lost) {
            Some(since) if changed <= since => Vec::new(),
            Some(since) => self.users.account_data_since(&request.user, since, window.upto).await?,
            None => self.users.all_account_data(&request.user).await?,
        };
        let mut by_room: BTreeMap<String, Vec<AccountData>> = BTreeMap::new();
        for one in all {
            by_room.entry(one.room_id.clone()).or_default().push(one);
        }
        Ok(by_room)
    }

    /// The rooms in which there may be news; all, if that is not known.
    async fn candidates(
        &self,
        window: &Window,
        memberships: &Memberships,
        reader: &Reader<'_>,
        account_data: &BTreeMap<String, Vec<AccountData>>,
    ) -> Result<BTreeSet<RoomNum>, Error> {
        let all = || memberships.rows.keys().copied().collect();
        let anew = reader.full_state || window.typing_is_lost || window.lost;
        // Whose messages count in any room has changed with the list.
        let Some(since) = window.since.filter(|since| !anew && reader.ignored_pos <= *since) else {
            return Ok(all());
        };
        let Some(changed) = self.rooms_since(since, CHANGED_MAX.max(memberships.rows.len())).await? else {
            return Ok(all());
        };
        let changed = changed.into_iter().chain(self.users.rooms_typed_since(window.number));
        let mut rooms: BTreeSet<RoomNum> = changed.filter(|room| memberships.rows.contains_key(room)).collect();
        rooms.extend(memberships.since(since));
        for room_id in account_data.keys() {
            rooms.extend(self.rooms.room(room_id).await?.map(|room| room.num));
        }
        Ok(rooms)
    }

    async fn add_rooms(
        &self,
        answer: &mut Answer,
        memberships: &Memberships,
        candidates: BTreeSet<RoomNum>,
        window: &Window,
        reader: &Reader<'_>,
        account_data: &BTreeMap<String, Vec<AccountData>>,
    ) -> Result<(), Error> {
        let mut parts = Parts::default();
        for row in candidates.iter().filter_map(|room| memberships.rows.get(room)) {
            let Some(room) = self.rooms.room_by_num(row.room).await? else {
                self.add_remote_room(&mut parts, row, window, reader).await?;
                continue;
            };
            if !reader.filter.room.includes(&room.id) {
                continue;
            }
            let is_new = window.lost || window.since.is_none_or(|since| row.pos > since);
            match row.membership.as_str() {
                "join" => {
                    let data = account_data.get(&room.id).map_or(&[][..], Vec::as_slice);
                    if let Some(section) = self.joined_room(&room, row, window, reader, data).await? {
                        parts.join.object(&room.id, section);
                    }
                }
                "invite" if is_new && !reader.ignored.contains(row.sender.as_str()) => {
                    parts.invite.raw(&room.id, &stripped("invite_state", row));
                }
                "knock" if is_new => {
                    parts.knock.raw(&room.id, &stripped("knock_state", row));
                }
                "leave" | "ban" => {
                    let shown = match window.since {
                        Some(_) => {
                            (is_new && !(window.lost && row.forgotten))
                                || (reader.full_state && reader.filter.room.include_leave && !row.forgotten)
                        }
                        None => reader.filter.room.include_leave && !row.forgotten && row.left_pos.0 > 0,
                    };
                    if shown && let Some(section) = self.left_room(&room, row, window, reader).await? {
                        parts.leave.object(&room.id, section);
                    }
                }
                _ => {}
            }
        }
        let mut rooms = Object::new();
        rooms.object("join", parts.join).object("invite", parts.invite);
        rooms.object("knock", parts.knock).object("leave", parts.leave);
        answer.news |= !rooms.is_empty();
        answer.body.object("rooms", rooms);
        Ok(())
    }

    /// A room that this server is not in: an invite or a knock, and their end.
    async fn add_remote_room(
        &self,
        parts: &mut Parts,
        row: &MembershipRow,
        window: &Window,
        reader: &Reader<'_>,
    ) -> Result<(), Error> {
        let is_new = window.since.is_none_or(|since| row.pos > since);
        let Some(room) = self.rooms.remote_room(row.room).await?.filter(|_| is_new) else { return Ok(()) };
        if !reader.filter.room.includes(&room.room_id) {
            return Ok(());
        }
        match row.membership.as_str() {
            "invite" if !reader.ignored.contains(row.sender.as_str()) => {
                parts.invite.raw(&room.room_id, &stripped("invite_state", row));
            }
            "knock" => {
                parts.knock.raw(&room.room_id, &stripped("knock_state", row));
            }
            "leave" | "ban" if window.since.is_some() => {
                parts.leave.raw(&room.room_id, EMPTY_ROOM);
            }
            _ => {}
        }
        Ok(())
    }

    async fn add_presence(
        &self,
        answer: &mut Answer,
        request: &Request,
        filter: &Filter,
        window: &Window,
        memberships: &Memberships,
        people: &People,
    ) -> Result<(), Error> {
        let since = if window.since.is_some() { window.number } else { 0 };
        let changed = self.presence_of(since, &people.came);
        if changed.is_empty() {
            return Ok(());
        }
        let asked = changed.iter().map(|(other, _)| at_all(other.clone())).collect();
        let sharing = self.sharing(memberships, asked).await?;
        let changed = changed.into_iter().filter(|(other, _)| *other == request.user || sharing.contains(other));
        let events = presence_events(changed, filter, request.now_ms);
        answer.news |= !events.is_empty();
        answer.body.events("presence", &events);
        Ok(())
    }

    async fn add_to_device(&self, answer: &mut Answer, request: &Request, window: &Window) -> Result<(), Error> {
        let Some(device) = request.device.as_ref().filter(|device| !self.has_no_messages(&request.user, device)) else {
            return Ok(());
        };
        let waiting =
            self.users.to_device(&request.user, device, window.to_device, window.upto, TO_DEVICE_MAX + 1).await?;
        if waiting.is_empty() {
            // What was before the token is deleted already.
            self.note_no_messages(&request.user, device, window.upto);
            return Ok(());
        }
        let fits = TO_DEVICE_MAX as usize;
        if waiting.len() > fits {
            answer.to_device = waiting.get(fits - 1).map(|row| row.pos);
        }
        let events: Vec<String> = waiting
            .iter()
            .take(fits)
            .map(|row| {
                let (sender, kind) = (quote(row.sender.as_str()), quote(&row.kind));
                format!("{{\"sender\":{sender},\"type\":{kind},\"content\":{}}}", row.content)
            })
            .collect();
        answer.news = true;
        answer.body.events("to_device", &events);
        Ok(())
    }

    /// Whose devices changed or are to be learnt, and whose need not be followed any more.
    async fn add_device_lists(
        &self,
        answer: &mut Answer,
        request: &Request,
        window: &Window,
        memberships: &Memberships,
        people: &People,
    ) -> Result<(), Error> {
        let Some(since) = window.since else { return Ok(()) };
        let lists = self.device_lists(&request.user, memberships, since, window.upto, people).await?;
        if lists != DeviceLists::default() {
            answer.news = true;
            let lists = json!({ "changed": lists.changed, "left": lists.left });
            answer.body.raw("device_lists", &lists.to_string());
        }
        Ok(())
    }
}

/// When a request that waits so long is answered in any case.
pub(crate) fn deadline(timeout: Duration) -> tokio::time::Instant {
    tokio::time::Instant::now() + timeout.min(TIMEOUT_MAX)
}

pub(crate) fn has_passed(deadline: tokio::time::Instant) -> bool {
    tokio::time::Instant::now() >= deadline
}

fn stripped(name: &str, row: &MembershipRow) -> String {
    let events = row.stripped.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("[]");
    let mut section = Object::new();
    section.raw(name, &format!("{{\"events\":{events}}}"));
    section.finish()
}

/// Both objects' members in one.
fn join(first: Object, second: Object) -> String {
    if second.is_empty() {
        return first.finish();
    }
    let (mut text, rest) = (first.finish(), second.finish());
    text.pop();
    text.push(',');
    text.push_str(rest.get(1..).unwrap_or("}"));
    text
}
