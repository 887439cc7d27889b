//! Memberships in rooms that this server is not in: invites, knocks, and their ends. They have a row like any other, by
//! which sync shows them; the room has nothing but a number, which it keeps if it is joined later.

use std::sync::Arc;

use ::event::{Json, Object, Rules, Verified};
use store::tables::rooms::{EventBytesRow, EventRow, MembershipRow, RemoteRoomRow};
use store::{CommitBatch, CommitError, EventNum, Read, RoomNum, StreamKind, StreamPosition, UserId};

use crate::accept::ATTEMPTS_MAX;
use crate::draft::{Draft, EVENT_NUMBERS, Judged, event_row};
use crate::event::Event;
use crate::room::Room;
use crate::state::MEMBER;
use crate::{Error, Result, Rooms, flags};

/// A membership of a local user in a room that this server is not in.
#[derive(Clone, Debug)]
pub struct RemoteMembership {
    /// The room.
    pub room_id: String,
    /// The rules of its version.
    pub rules: &'static Rules,
    /// The user.
    pub user: UserId,
    /// `invite`, `knock`, `leave` or `ban`.
    pub membership: String,
    /// Who set it.
    pub sender: UserId,
    /// The member event; `None` where only this server knows of the end (no other could be reached).
    pub event: Option<Verified>,
    /// Stripped state, for an invite or a knock.
    pub stripped: Vec<Json>,
}

impl Rooms {
    /// Sets a local user's membership of a room that this server is not in.
    ///
    /// # Errors
    /// [`Error::Invalid`] if this server is in the room, where memberships come of events, or if the membership is
    /// another than a room's outside has; [`Error::Busy`]; as the store says.
    pub async fn set_remote_membership(&self, new: &RemoteMembership) -> Result<()> {
        if !matches!(new.membership.as_str(), "invite" | "knock" | "leave" | "ban") || !self.is_local(&new.user) {
            return Err(Error::Invalid("no membership of a local user outside a room".to_owned()));
        }
        let _alone = self.remote_stripe(&new.room_id).lock().await;
        for _ in 0..ATTEMPTS_MAX {
            let set = match self.room(&new.room_id).await? {
                Some(room) => self.set_in_stale(&room, new).await,
                None => self.set_in_unknown(new).await,
            };
            match set {
                Err(Error::Busy) => {}
                other => return other,
            }
        }
        Err(Error::Busy)
    }

    /// In a room that this server was in once: the room's state stays as it was then.
    async fn set_in_stale(&self, room: &Arc<Room>, new: &RemoteMembership) -> Result<()> {
        let mut draft = Draft::begin(self, room).await;
        draft.check_alive()?;
        self.wait_for_all(room).await?;
        if !draft.head.local.is_empty() {
            return Err(Error::Invalid("this server is in the room".to_owned()));
        }
        let event = match &new.event {
            None => EventNum(0),
            Some(event) => match draft.num_of(&event.pdu().event_id).await? {
                Some(num) => num,
                None => draft.append(waiting(event)).await?.num(),
            },
        };
        let old = self.membership_row(room.num, &new.user).await?;
        let pos = draft.batch.announce(StreamKind::Membership, None, Some(new.user.clone()), None);
        draft.batch.put(row_of(room.num, new, event, old.as_ref(), pos));
        self.commit(room, draft).await
    }

    async fn set_in_unknown(&self, new: &RemoteMembership) -> Result<()> {
        let RemoteRoomRow { room, import, .. } = self.reserve(&new.room_id, new.rules.version(), 0).await?;
        let mut batch = CommitBatch::new();
        // It may be joined, and gone from there, meanwhile.
        batch.expect_equals::<RemoteRoomRow>(vec![new.room_id.as_str().into()], "import", import);
        let key = vec![(&new.user).into(), room.into()];
        let old = self.store.get::<MembershipRow>(key.clone()).await?;
        match &old {
            Some(old) => batch.expect_equals::<MembershipRow>(key, "pos", old.pos),
            None => batch.expect_absent::<MembershipRow>(key),
        };
        let event = match &new.event {
            None => EventNum(0),
            Some(event) => self.put_waiting(&mut batch, room, event).await?,
        };
        let pos = batch.announce(StreamKind::Membership, None, Some(new.user.clone()), None);
        batch.put(row_of(room, new, event, old.as_ref(), pos));
        match self.store.commit(batch).await {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict { .. }) => Err(Error::Busy),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// Writes the member event. It waits: nothing that it builds on is known.
    async fn put_waiting(&self, batch: &mut CommitBatch, room: RoomNum, event: &Verified) -> Result<EventNum> {
        let id = event.pdu().event_id.as_str();
        let read = Read::along::<EventRow>(EventRow::BY_ID, vec![room.into(), id.into()]);
        if let Some(row) = self.store.one::<EventRow>(read).await? {
            return Ok(row.event);
        }
        let num = EventNum(self.store.next_number(EVENT_NUMBERS).await?);
        batch.put(event_row(room, num, &waiting(event), None));
        batch.put(EventBytesRow { event: num, json: event.pdu().bytes.to_vec() });
        Ok(num)
    }

    /// A local user's membership of a room, whether this server is in the room or not.
    ///
    /// # Errors
    /// As the store says.
    pub async fn any_membership(&self, room_id: &str, user: &UserId) -> Result<Option<MembershipRow>> {
        let num = match self.room(room_id).await? {
            Some(room) => room.num,
            None => match self.store.get::<RemoteRoomRow>(vec![room_id.into()]).await? {
                Some(row) => row.room,
                None => return Ok(None),
            },
        };
        self.membership_row(num, user).await
    }

    /// The room with this number, if this server is not in it and never was.
    ///
    /// # Errors
    /// As the store says.
    pub async fn remote_room(&self, num: RoomNum) -> Result<Option<RemoteRoomRow>> {
        let read = Read::along::<RemoteRoomRow>(RemoteRoomRow::BY_NUM, vec![num.into()]);
        Ok(self.store.one::<RemoteRoomRow>(read).await?)
    }

    /// The member event of a membership of a room that this server is not in, if there is one.
    ///
    /// # Errors
    /// As the store says.
    pub async fn out_of_band_event(&self, row: &MembershipRow) -> Result<Option<Arc<Event>>> {
        let version = match self.room_by_num(row.room).await? {
            Some(room) => room.rules.version().to_owned(),
            None => match self.remote_room(row.room).await? {
                Some(remote) => remote.room_version,
                None => return Ok(None),
            },
        };
        if row.event == EventNum(0) {
            return Ok(None);
        }
        Ok(self.stored_events(row.room, &version, &[row.event]).await?.into_iter().next())
    }

    /// Whether a local user's membership stands outside the room's state as this server knows it: a resident of the room
    /// must be asked to change it.
    ///
    /// # Errors
    /// As the store says.
    pub async fn is_out_of_band(&self, room_id: &str, user: &UserId) -> Result<bool> {
        let Some(row) = self.any_membership(room_id, user).await? else { return Ok(false) };
        let Some(room) = self.room(room_id).await? else { return Ok(true) };
        if !room.head().local.is_empty() {
            return Ok(false);
        }
        let current = self.current(&room, MEMBER, user.as_str()).await?;
        Ok(current.is_none_or(|event| event.num() != row.event))
    }

    /// Ends an invite or a knock that stands outside the room's state, here only: telling the room is for the caller.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] if there is no membership; as the store says.
    pub(crate) async fn leave_out_of_band(&self, room_id: &str, user: &UserId) -> Result<()> {
        let row = self.any_membership(room_id, user).await?.ok_or(Error::NotInRoom)?;
        let version = match self.room(room_id).await? {
            Some(room) => room.rules.version().to_owned(),
            None => self.remote_room(row.room).await?.ok_or(Error::NotInRoom)?.room_version,
        };
        let rules = Rules::of(&version).ok_or(Error::UnsupportedVersion(version))?;
        match row.membership.as_str() {
            "leave" => return Ok(()),
            "ban" => return Err(Error::Forbidden("you are banned from this room".to_owned())),
            _ => {}
        }
        self.set_remote_membership(&RemoteMembership {
            room_id: room_id.to_owned(),
            rules,
            user: user.clone(),
            membership: "leave".to_owned(),
            sender: user.clone(),
            event: None,
            stripped: Vec::new(),
        })
        .await
    }
}

fn waiting(event: &Verified) -> Judged {
    Judged {
        pdu: Arc::clone(event.pdu()),
        flags: flags::WAITING | if event.redacted() { flags::REDACTED } else { 0 },
        reason: Some("this server is not in the room".to_owned()),
        state_before: None,
        prev: Vec::new(),
        auth: Vec::new(),
        transaction: None,
        known: None,
        withheld: false,
    }
}

fn row_of(
    room: RoomNum,
    new: &RemoteMembership,
    event: EventNum,
    old: Option<&MembershipRow>,
    pos: StreamPosition,
) -> MembershipRow {
    let waits = matches!(new.membership.as_str(), "invite" | "knock");
    MembershipRow {
        user_id: new.user.clone(),
        room,
        membership: new.membership.clone(),
        event,
        pos,
        joined_pos: old.map_or(StreamPosition::ZERO, |old| old.joined_pos),
        left_pos: old.map_or(StreamPosition::ZERO, |old| old.left_pos),
        sender: new.sender.clone(),
        joined_messages: old.map_or(0, |old| old.joined_messages),
        forgotten: !waits && old.is_some_and(|old| old.forgotten),
        stripped: waits.then(|| stripped(new)),
    }
}

/// The stripped state as clients get it, the member event included.
fn stripped(new: &RemoteMembership) -> Vec<u8> {
    let member = |event: &&Json| {
        event.get("type").and_then(Json::as_str) == Some(MEMBER)
            && event.get("state_key").and_then(Json::as_str) == Some(new.user.as_str())
    };
    let mut events: Vec<serde_json::Value> =
        new.stripped.iter().filter(|event| !member(event)).filter_map(strip).collect();
    if let Some(event) = &new.event {
        events.extend(strip(&Json::Object(event.pdu().object())));
    }
    serde_json::to_vec(&events).unwrap_or_default()
}

/// Only sender, type, state key and content, also where another server sent whole events. What is no state event is left
/// out: it would reach clients, which expect one.
fn strip(event: &Json) -> Option<serde_json::Value> {
    let mut members = Object::new();
    for name in ["sender", "type", "state_key"] {
        members.insert(name.to_owned(), Json::from(event.get(name)?.as_str()?));
    }
    members.insert("content".to_owned(), Json::Object(event.get("content")?.as_object()?.clone()));
    Some(Json::Object(members).into())
}
