//! EDUs of other servers: typing, receipts, presence, to-device messages, device lists (server-server API, "EDUs";
//! behaviours FE13, FE16). What breaks the rules is passed over: nobody is told, since nobody could do anything about it.

use async_trait::async_trait;
use endpoint::Error;
use event::edu::Edu;
use event::{Json, Object, ids};
use rooms::state::{MEMBER, type_key};
use rooms::{Event, Room};
use store::UserId;
use users::presence::{Presence, PresenceState, STATUS_BYTES_MAX};
use users::receipts::ReadUpTo;
use users::to_device::Messages;

use super::acquaintances::Search;
use crate::Federation;
use crate::inbound::error_map;

/// The thread of what stands in no thread.
const MAIN_TIMELINE: &str = "main";
/// How long a remote user types who does not say that it stopped, in milliseconds.
const TYPING_MS: i64 = 60_000;
/// Most users of one EDU.
const USERS_MAX: usize = 1_000;
/// Most rooms of one EDU.
const ROOMS_MAX: usize = 100;
/// Bytes that the id of a to-device message may have; the specification asks for 32 characters.
const MESSAGE_ID_BYTES_MAX: usize = 255;
/// Bytes that the type of a to-device message may have.
const KIND_BYTES_MAX: usize = 255;

/// What is done with EDUs about keys of other servers' users. Their users have been checked to be the sender's.
#[async_trait]
pub trait Edus: Send + Sync + 'static {
    /// `m.device_list_update`: a device of the user changed.
    ///
    /// # Errors
    /// Only what makes the other server send it again: the store's.
    async fn device_list_update(&self, origin: &str, user: &UserId, content: &Object) -> Result<(), store::Error>;

    /// `m.signing_key_update`: the user's cross-signing keys changed.
    ///
    /// # Errors
    /// As [`Edus::device_list_update`].
    async fn signing_key_update(&self, origin: &str, user: &UserId, content: &Object) -> Result<(), store::Error>;

    /// An encrypted message of the user names the device that sent it.
    ///
    /// # Errors
    /// The store's.
    async fn device_named(&self, user: &UserId, device: &str) -> Result<(), store::Error>;
}

impl Federation {
    /// Takes in the EDUs of a transaction.
    ///
    /// # Errors
    /// Only what makes the other server send the transaction again.
    pub(super) async fn take_edus(&self, origin: &str, edus: Vec<Json>) -> Result<(), Error> {
        let mut search = self.receiver.acquaintances.of(origin);
        for edu in edus {
            self.take_edu(origin, edu, &mut search).await?;
        }
        Ok(())
    }

    async fn take_edu(&self, origin: &str, edu: Json, search: &mut Search<'_>) -> Result<(), Error> {
        if !edu.is_read() {
            return Ok(());
        }
        let Json::Object(edu) = edu else { return Ok(()) };
        let Some(Edu { kind, content }) = Edu::from_json(edu) else { return Ok(()) };
        match kind.as_str() {
            "m.typing" => self.take_typing(origin, &content).await,
            "m.receipt" => self.take_receipts(origin, &content).await,
            "m.presence" => self.take_presence(origin, &content, search).await,
            "m.direct_to_device" => self.take_to_device(origin, &content, search).await,
            "m.device_list_update" | "m.signing_key_update" | "org.matrix.signing_key_update" => {
                let Some(user) = user_of(origin, &content) else { return Ok(()) };
                if !search.knows(&user).await? {
                    return Ok(());
                }
                match kind.as_str() {
                    "m.device_list_update" => self.edus.device_list_update(origin, &user, &content).await?,
                    _ => self.edus.signing_key_update(origin, &user, &content).await?,
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn take_typing(&self, origin: &str, content: &Object) -> Result<(), Error> {
        let room_id = content.get("room_id").and_then(Json::as_str);
        let typing = content.get("typing").and_then(Json::as_bool);
        let (Some(room_id), Some(typing), Some(user)) = (room_id, typing, user_of(origin, content)) else {
            return Ok(());
        };
        let Some(room) = self.resident_room(room_id).await? else { return Ok(()) };
        if self.is_heard(&room, origin).await.map_err(error_map::rooms)? && self.is_joined(&room, &user).await? {
            self.users.set_typing(room.num, &user, typing.then_some(TYPING_MS));
        }
        Ok(())
    }

    async fn take_receipts(&self, origin: &str, content: &Object) -> Result<(), Error> {
        let mut left = USERS_MAX;
        for (room_id, receipts) in content.iter().take(ROOMS_MAX) {
            let Some(Json::Object(read)) = receipts.get("m.read") else { continue };
            let Some(room) = self.resident_room(room_id).await? else { continue };
            if !self.is_heard(&room, origin).await.map_err(error_map::rooms)? {
                continue;
            }
            for (user, receipt) in read {
                let Some(rest) = left.checked_sub(1) else { return Ok(()) };
                left = rest;
                if ids::user_server(user) == Some(origin) {
                    self.take_receipt(&room, &UserId::from(user.as_str()), receipt).await?;
                }
            }
        }
        Ok(())
    }

    async fn take_receipt(&self, room: &Room, user: &UserId, receipt: &Json) -> Result<(), Error> {
        let event_id = receipt.get("event_ids").and_then(Json::as_array).and_then(|ids| ids.first()?.as_str());
        let data = receipt.get("data");
        let ts = data.and_then(|data| data.get("ts")?.as_i64());
        let thread = data.and_then(|data| data.get("thread_id")?.as_str()).unwrap_or_default();
        let (Some(event_id), Some(ts)) = (event_id, ts) else { return Ok(()) };
        if event_id.len() > event::MAX_ID_BYTES || thread.len() > event::MAX_ID_BYTES {
            return Ok(());
        }
        if !self.is_joined(room, user).await? {
            return Ok(());
        }
        let event = self.rooms.event_by_id(room, event_id).await.map_err(error_map::rooms)?;
        let event = event.filter(|event| event.row.fragment.is_some());
        if !self.is_thread(room, thread, event.as_deref()).await? {
            return Ok(());
        }
        let target = match event {
            Some(event) => ReadUpTo {
                event_id: event_id.to_owned(),
                event: Some(event.num()),
                pos: event.pos(),
                messages: event.row.messages,
            },
            // It may come later than the receipt.
            None => {
                ReadUpTo { event_id: event_id.to_owned(), event: None, pos: store::StreamPosition::ZERO, messages: 0 }
            }
        };
        match self.users.receive_receipt(room.num, user, thread, &target, ts).await {
            Ok(_) | Err(users::Error::Conflict) => Ok(()),
            Err(error) => Err(error_map::users(error)),
        }
    }

    /// Whether a receipt's thread is one: each has a receipt of its own, and names could be made up without end.
    async fn is_thread(&self, room: &Room, thread: &str, read: Option<&Event>) -> Result<bool, Error> {
        if matches!(thread, "" | MAIN_TIMELINE) {
            return Ok(true);
        }
        let named = read.and_then(|event| event.pdu.content.get("m.relates_to")?.get("event_id")?.as_str());
        if named == Some(thread) {
            return Ok(true);
        }
        Ok(self.rooms.event_by_id(room, thread).await.map_err(error_map::rooms)?.is_some())
    }

    async fn take_presence(&self, origin: &str, content: &Object, search: &mut Search<'_>) -> Result<(), Error> {
        let now_ms = self.clock.now_ms();
        let push = content.get("push").and_then(Json::as_array).unwrap_or_default();
        for one in push.iter().take(USERS_MAX).filter_map(Json::as_object) {
            let state = one.get("presence").and_then(Json::as_str).and_then(PresenceState::parse);
            let (Some(user), Some(state)) = (user_of(origin, one), state) else { continue };
            if !search.knows_at_once(&user).await? {
                continue;
            }
            let status = one.get("status_msg").and_then(Json::as_str).filter(|text| text.len() <= STATUS_BYTES_MAX);
            let ago = one.get("last_active_ago").and_then(Json::as_i64).unwrap_or(0).max(0);
            let presence = Presence {
                state,
                status: status.map(str::to_owned),
                active_ms: now_ms.saturating_sub(ago),
                seen_ms: now_ms,
                currently_active: one.get("currently_active").and_then(Json::as_bool).unwrap_or(false),
            };
            self.users.receive_presence(&user, presence);
        }
        Ok(())
    }

    async fn take_to_device(&self, origin: &str, content: &Object, search: &mut Search<'_>) -> Result<(), Error> {
        let text = |member: &str| content.get(member).and_then(Json::as_str);
        let (Some(sender), Some(kind), Some(id)) = (text("sender"), text("type"), text("message_id")) else {
            return Ok(());
        };
        let sizes = id.len() <= MESSAGE_ID_BYTES_MAX && kind.len() <= KIND_BYTES_MAX;
        if ids::user_server(sender) != Some(origin) || !sizes {
            return Ok(());
        }
        let Some(by_user) = content.get("messages").and_then(Json::as_object) else { return Ok(()) };
        let mut messages = Messages::new();
        for (user, devices) in by_user.iter().take(USERS_MAX) {
            let user = UserId::from(user.as_str());
            let Some(devices) = devices.as_object() else { continue };
            if !self.users.is_local(&user) || !self.users.is_active(&user).await.map_err(error_map::users)? {
                continue;
            }
            let contents = devices.iter().filter(|(_, content)| content.as_object().is_some());
            let contents = contents.map(|(device, content)| (device.clone(), content.to_canonical_string()));
            messages.insert(user, contents.collect());
        }
        if messages.is_empty() {
            return Ok(());
        }
        let sender = UserId::from(sender);
        let known = search.knows(&sender).await?;
        match self.users.receive_to_device(&sender, known, kind, id, &messages).await {
            Ok(_) | Err(users::Error::TooLarge(_)) => Ok(()),
            Err(error) => Err(error_map::users(error)),
        }
    }

    /// Whether a user is joined to a room now.
    async fn is_joined(&self, room: &Room, user: &UserId) -> Result<bool, Error> {
        let pairs = [type_key(MEMBER, user.as_str())];
        let state = self.rooms.state_map(room, None, room.head().state, &pairs).await.map_err(error_map::rooms)?;
        Ok(state.membership(user.as_str()) == "join")
    }
}

/// The `user_id` of a content, if it belongs to the server that sent it.
fn user_of(origin: &str, content: &Object) -> Option<UserId> {
    let user = content.get("user_id").and_then(Json::as_str)?;
    (ids::user_server(user) == Some(origin)).then(|| UserId::from(user))
}
