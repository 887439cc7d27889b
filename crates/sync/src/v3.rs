//! `GET /_matrix/client/v3/sync`: collects what is new, and waits if nothing is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;
use store::tables::rooms::MembershipRow;
use store::{DeviceId, StreamPosition, UserId};
use users::account_data::AccountData;
use users::presence::PresenceState;

use crate::json::{Object, array, quote};
use crate::room_section::{Reader, account_data_event};
use crate::{Error, Filter, Sync, Token};

/// Longest wait, whatever the client asks for.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// To-device messages in one answer.
const TO_DEVICE_MAX: u32 = 100;
/// How long a token of another node's making may be ahead of this node.
const AHEAD: Duration = Duration::from_secs(1);

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

/// The span that one answer covers.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// After this position; `None` for an initial sync.
    pub since: Option<StreamPosition>,
    /// Up to this one.
    pub upto: StreamPosition,
    /// Volatile changes after this number.
    pub number: i64,
    /// The token was made by another process life.
    pub epoch_is_new: bool,
    /// To-device messages after this position.
    pub to_device: StreamPosition,
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
        let since = request.since.as_deref().map(Token::parse).transpose()?;
        if let Some(since) = &since {
            self.reach(since, request).await?;
            if let Some(device) = &request.device {
                self.users.delete_to_device(&request.user, device, since.to_device).await?;
            }
        }
        self.users.presence_seen(&request.user, request.set_presence);
        let deadline = tokio::time::Instant::now() + request.timeout.min(TIMEOUT_MAX);
        let mut waiting = self.waker.register(&request.user);
        loop {
            waiting.mark_seen();
            let volatile = self.users.volatile().position();
            let upto = self.settled().await;
            let window = self.window(since.as_ref(), upto);
            let answer = self.collect(request, &filter, &window).await?;
            let at_once = since.is_none() || request.full_state || answer.news;
            if at_once || tokio::time::Instant::now() >= deadline {
                let to_device = answer.to_device.unwrap_or(upto);
                let next = Token { pos: upto, epoch: volatile.epoch.to_string(), number: volatile.number, to_device };
                let mut body = Object::new();
                body.text("next_batch", &next.to_string());
                return Ok(join(body, answer.body));
            }
            // Either way the answer is collected anew; running out of time is not an error.
            drop(tokio::time::timeout_at(deadline, waiting.changed()).await);
        }
    }

    /// The watermark, once it has come to all that waiters have been told of: see [`crate::wake`].
    async fn settled(&self) -> StreamPosition {
        let told = self.waker.told();
        let watermark = self.store.watermark();
        if watermark >= told {
            return watermark;
        }
        // The sender lives as long as the store.
        drop(self.store.notifier().subscribe().wait_for(|mark| *mark >= told).await);
        self.store.watermark()
    }

    async fn filter(&self, request: &Request) -> Result<Filter, Error> {
        match request.filter.as_deref() {
            None | Some("") => Ok(Filter::default()),
            Some(inline) if inline.starts_with('{') => Filter::parse(inline),
            Some(id) => {
                let text = self.users.filter(&request.user, id).await?;
                Filter::parse(&text.ok_or_else(|| Error::UnknownFilter(id.to_owned()))?)
            }
        }
    }

    /// A token may be a little ahead of this node, never far.
    async fn reach(&self, since: &Token, request: &Request) -> Result<(), Error> {
        let mut watermark = self.store.notifier().subscribe();
        let reached = watermark.wait_for(|mark| *mark >= since.pos);
        match tokio::time::timeout(AHEAD, reached).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::BadToken(request.since.clone().unwrap_or_default())),
        }
    }

    fn window(&self, since: Option<&Token>, upto: StreamPosition) -> Window {
        let Some(since) = since else {
            let (number, to_device) = (0, StreamPosition::ZERO);
            return Window { since: None, upto, number, epoch_is_new: false, to_device };
        };
        Window {
            since: Some(since.pos),
            upto,
            number: self.users.volatile().since(&since.epoch, since.number),
            epoch_is_new: *since.epoch != *self.users.volatile().position().epoch,
            to_device: since.to_device,
        }
    }

    async fn collect(&self, request: &Request, filter: &Filter, window: &Window) -> Result<Answer, Error> {
        let memberships = self.rooms.memberships(&request.user).await?;
        let ignored: BTreeSet<String> =
            self.users.ignored(&request.user).await?.iter().map(|user| user.to_string()).collect();
        let mut account_data = self.account_data(request, window).await?;
        let reader = Reader {
            user: &request.user,
            device: request.device.as_ref(),
            ignored: &ignored,
            filter,
            use_state_after: request.use_state_after,
            full_state: request.full_state,
        };
        let mut answer = Answer::default();
        let global = account_data.remove("").unwrap_or_default();
        let global: Vec<String> =
            global.iter().filter(|one| filter.account_data.accepts(&one.kind, None)).map(account_data_event).collect();
        answer.news |= !global.is_empty();
        answer.body.events("account_data", &global);
        let newcomers = self.add_rooms(&mut answer, &memberships, window, &reader, &account_data).await?;
        let presence_since = if window.since.is_some() { window.number } else { 0 };
        let presence = self.presence_events(&request.user, presence_since, &newcomers, filter, request.now_ms);
        answer.news |= !presence.is_empty();
        answer.body.events("presence", &presence);
        self.add_to_device(&mut answer, request, window).await?;
        self.add_device_lists(&mut answer, request, window, &newcomers).await?;
        self.add_key_counts(&mut answer, request).await?;
        Ok(answer)
    }

    /// New account data by room id; that of no room under the empty id.
    async fn account_data(
        &self,
        request: &Request,
        window: &Window,
    ) -> Result<BTreeMap<String, Vec<AccountData>>, Error> {
        let all = match window.since {
            Some(since) => self.users.account_data_since(&request.user, since, window.upto).await?,
            None => self.users.all_account_data(&request.user).await?,
        };
        let mut by_room: BTreeMap<String, Vec<AccountData>> = BTreeMap::new();
        for one in all {
            by_room.entry(one.room_id.clone()).or_default().push(one);
        }
        Ok(by_room)
    }

    /// Adds all rooms, and returns the users who are new to this reader: their presence is sent whole.
    async fn add_rooms(
        &self,
        answer: &mut Answer,
        memberships: &[MembershipRow],
        window: &Window,
        reader: &Reader<'_>,
        account_data: &BTreeMap<String, Vec<AccountData>>,
    ) -> Result<BTreeSet<UserId>, Error> {
        let (mut join, mut invite, mut knock, mut leave) = (Object::new(), Object::new(), Object::new(), Object::new());
        let mut newcomers = BTreeSet::new();
        for row in memberships {
            let Some(room) = self.rooms.room_by_num(row.room).await? else { continue };
            if !reader.filter.room.includes(&room.id) {
                continue;
            }
            let is_new = window.since.is_none_or(|since| row.pos > since);
            match row.membership.as_str() {
                "join" => {
                    let data = account_data.get(&room.id).map_or(&[][..], Vec::as_slice);
                    if let Some(section) = self.joined_room(&room, row, window, reader, data).await? {
                        join.object(&room.id, section);
                        newcomers.extend(self.newcomers(&room, row, window).await?);
                    }
                }
                "invite" if is_new && !reader.ignored.contains(row.sender.as_str()) => {
                    invite.raw(&room.id, &stripped("invite_state", row));
                }
                "knock" if is_new => {
                    knock.raw(&room.id, &stripped("knock_state", row));
                }
                "leave" | "ban" => {
                    let shown = match window.since {
                        Some(_) => is_new || (reader.full_state && reader.filter.room.include_leave && !row.forgotten),
                        None => reader.filter.room.include_leave && !row.forgotten && row.left_pos.0 > 0,
                    };
                    if shown && let Some(section) = self.left_room(&room, row, window, reader).await? {
                        leave.object(&room.id, section);
                    }
                }
                _ => {}
            }
        }
        let mut rooms = Object::new();
        rooms.object("join", join).object("invite", invite).object("knock", knock).object("leave", leave);
        answer.news |= !rooms.is_empty();
        answer.body.object("rooms", rooms);
        Ok(newcomers)
    }

    /// Local users who have come into a room since the token, or all of a room that the reader has come into.
    async fn newcomers(
        &self,
        room: &rooms::Room,
        row: &MembershipRow,
        window: &Window,
    ) -> Result<BTreeSet<UserId>, Error> {
        let Some(since) = window.since else { return Ok(BTreeSet::new()) };
        let head = room.head();
        if row.joined_pos > since {
            return Ok(head.local.iter().cloned().collect());
        }
        if head.row.last_pos <= since {
            return Ok(BTreeSet::new());
        }
        let recent = self.rooms.newest(room, since, window.upto, 100).await?;
        let joined = recent.iter().filter(|event| event.pdu.membership() == Some("join"));
        let users = joined.filter_map(|event| event.pdu.state_key.as_deref().map(UserId::from));
        Ok(users.filter(|user| head.local.contains(user)).collect())
    }

    async fn add_to_device(&self, answer: &mut Answer, request: &Request, window: &Window) -> Result<(), Error> {
        let Some(device) = &request.device else { return Ok(()) };
        let waiting =
            self.users.to_device(&request.user, device, window.to_device, window.upto, TO_DEVICE_MAX + 1).await?;
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
        answer.news |= !events.is_empty();
        if !events.is_empty() {
            answer.body.raw("to_device", &format!("{{\"events\":{}}}", array(&events)));
        }
        Ok(())
    }

    /// In every answer, zeros included: a client that is not told does not upload (CY13).
    async fn add_key_counts(&self, answer: &mut Answer, request: &Request) -> Result<(), Error> {
        let Some(device) = &request.device else { return Ok(()) };
        let counts = self.users.one_time_key_counts(&request.user, device).await?;
        let unused = self.users.unused_fallback_keys(&request.user, device).await?;
        answer.body.raw("device_one_time_keys_count", &json!(counts).to_string());
        answer.body.raw("device_unused_fallback_key_types", &json!(unused).to_string());
        answer.body.raw("org.matrix.msc2732.device_unused_fallback_key_types", &json!(unused).to_string());
        Ok(())
    }

    async fn add_device_lists(
        &self,
        answer: &mut Answer,
        request: &Request,
        window: &Window,
        newcomers: &BTreeSet<UserId>,
    ) -> Result<(), Error> {
        let Some(since) = window.since else { return Ok(()) };
        let changes = self.users.device_changes(since, window.upto).await?;
        if changes.is_empty() && newcomers.is_empty() {
            return Ok(());
        }
        let friends = self.rooms.local_friends(&request.user);
        let mut changed: BTreeSet<UserId> = changes
            .into_iter()
            .map(|(user, _)| user)
            .filter(|user| *user == request.user || friends.contains(user))
            .collect();
        changed.extend(newcomers.iter().filter(|user| **user != request.user).cloned());
        if !changed.is_empty() {
            answer.news = true;
            answer.body.raw("device_lists", &json!({ "changed": changed, "left": [] }).to_string());
        }
        Ok(())
    }
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
