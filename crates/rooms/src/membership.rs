//! Every membership path of local users: join, leave, invite, kick, ban, unban, knock, forget (client-server API, room
//! membership).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ::event::auth_rules::StateView;
use ::event::power_levels::PowerLevels;
use ::event::{Json, Object};
use ruma_common::OwnedEventId;
use store::tables::rooms::{EventRow, MembershipRow, PartialRoomRow, RoomRow};
use store::{CommitBatch, CommitError, Read, RoomNum, StreamKind, StreamPosition, UserId};

use crate::event::Event;
use crate::room::{Head, Room};
use crate::state::{MEMBER, StateMap, type_key};
use crate::{Error, NewEvent, Result, Rooms};

/// Rooms in which an event is looked for at a time.
const LOOKUPS_MAX: usize = 500;

/// A local user's place in a room, with the room.
#[derive(Clone)]
pub struct Membership {
    /// The room.
    pub room: Arc<Room>,
    /// The stored membership.
    pub row: MembershipRow,
}

impl Rooms {
    /// Joins a room: plainly, by an invite, or by satisfying one of its allow conditions.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] for an unknown room, [`Error::Forbidden`] if the join rules do not let the user in.
    pub async fn join(
        &self,
        room_id: &str,
        user: &UserId,
        reason: Option<&str>,
        profile: Object,
    ) -> Result<OwnedEventId> {
        let mut room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
        if room.is_partial() && !room.head().local.contains(user) {
            // The user may be banned.
            self.need_members(room_id).await?;
            room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
        }
        let state = self.member_state(&room, &[user]).await?;
        if state.membership(user.as_str()) == "join" {
            // Joining twice changes nothing.
            return state.event(MEMBER, user.as_str()).map(|event| event.id().clone()).ok_or(Error::NotInRoom);
        }
        let mut content = profile;
        if let Some(authorizer) = self.authorizer(&room, &state, user).await? {
            content.insert("join_authorised_via_users_server".to_owned(), Json::String(authorizer.to_string()));
        }
        self.set_membership(room_id, user, user, "join", reason, content).await
    }

    /// For a restricted join that needs it: a local joined user who may invite, if an allow condition holds.
    async fn authorizer(&self, room: &Room, state: &StateMap, user: &UserId) -> Result<Option<UserId>> {
        let rule = state.text("m.room.join_rules", "join_rule").unwrap_or("invite");
        let restricted = (rule == "restricted" && room.rules.restricted)
            || (rule == "knock_restricted" && room.rules.knock_restricted);
        if !restricted || state.membership(user.as_str()) == "invite" {
            return Ok(None);
        }
        if !self.is_allowed(state, user).await? {
            return Ok(None);
        }
        let power = state.get("m.room.power_levels", "");
        let levels = PowerLevels::from_state(room.rules, power.as_deref(), &room.create);
        let needed = levels.invite();
        Ok(room.head().local.iter().find(|member| levels.user(member.as_str()) >= needed).cloned())
    }

    /// Whether the user is joined to a room that the join rules name. Malformed conditions are no conditions.
    async fn is_allowed(&self, state: &StateMap, user: &UserId) -> Result<bool> {
        let Some(rules) = state.event("m.room.join_rules", "") else { return Ok(false) };
        let Some(Json::Array(allow)) = rules.pdu.content.get("allow") else { return Ok(false) };
        for condition in allow {
            if condition.get("type").and_then(Json::as_str) != Some("m.room_membership") {
                continue;
            }
            let Some(other) = condition.get("room_id").and_then(Json::as_str) else { continue };
            let Some(other) = self.room(other).await? else { continue };
            if other.head().local.contains(user) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Leaves a room, rejects an invite or takes back a knock.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] if the user has nothing to leave.
    pub async fn leave(&self, room_id: &str, user: &UserId, reason: Option<&str>) -> Result<()> {
        if self.is_out_of_band(room_id, user).await? {
            return self.leave_out_of_band(room_id, user).await;
        }
        let membership = self.membership(room_id, user).await?.ok_or(Error::NotInRoom)?;
        match membership.row.membership.as_str() {
            "leave" => Ok(()),
            "ban" => Err(Error::Forbidden("you are banned from this room".to_owned())),
            _ => self.set_membership(room_id, user, user, "leave", reason, Object::new()).await.map(drop),
        }
    }

    /// Invites a user. Inviting someone who is invited already changes nothing.
    ///
    /// # Errors
    /// [`Error::Forbidden`] if the target is the sender, joined or banned, or the sender may not invite.
    pub async fn invite(
        &self,
        room_id: &str,
        sender: &UserId,
        target: &UserId,
        reason: Option<&str>,
        extra: Object,
    ) -> Result<()> {
        let room = self.joined_whole(room_id, sender).await?;
        if !self.is_local(target) {
            return Err(Error::Remote(format!(
                "{target} belongs to another server, and this server does not federate"
            )));
        }
        let state = self.member_state(&room, &[target]).await?;
        match state.membership(target.as_str()) {
            "join" => return Err(Error::Forbidden(format!("{target} is in the room already"))),
            "ban" => return Err(Error::Forbidden(format!("{target} is banned from the room"))),
            "invite" => return Ok(()),
            _ => {}
        }
        self.set_membership(room_id, sender, target, "invite", reason, extra).await.map(drop)
    }

    /// Removes a user from a room.
    ///
    /// # Errors
    /// [`Error::Forbidden`] if the target is not in the room or the sender lacks power.
    pub async fn kick(&self, room_id: &str, sender: &UserId, target: &UserId, reason: Option<&str>) -> Result<()> {
        let room = self.joined_whole(room_id, sender).await?;
        let state = self.member_state(&room, &[target]).await?;
        match state.membership(target.as_str()) {
            "join" | "invite" | "knock" => {}
            "ban" => return Err(Error::Forbidden(format!("{target} is banned; to lift the ban, unban the user"))),
            _ => return Err(Error::Forbidden(format!("{target} is not in the room"))),
        }
        self.set_membership(room_id, sender, target, "leave", reason, Object::new()).await.map(drop)
    }

    /// Bans a user.
    ///
    /// # Errors
    /// [`Error::Forbidden`] if the sender lacks power.
    pub async fn ban(&self, room_id: &str, sender: &UserId, target: &UserId, reason: Option<&str>) -> Result<()> {
        self.joined_whole(room_id, sender).await?;
        self.set_membership(room_id, sender, target, "ban", reason, Object::new()).await.map(drop)
    }

    /// Lifts a ban.
    ///
    /// # Errors
    /// [`Error::Forbidden`] if the target is not banned or the sender lacks power.
    pub async fn unban(&self, room_id: &str, sender: &UserId, target: &UserId, reason: Option<&str>) -> Result<()> {
        let room = self.joined_whole(room_id, sender).await?;
        let state = self.member_state(&room, &[target]).await?;
        if state.membership(target.as_str()) != "ban" {
            return Err(Error::Forbidden(format!("{target} is not banned")));
        }
        self.set_membership(room_id, sender, target, "leave", reason, Object::new()).await.map(drop)
    }

    /// Knocks on a room.
    ///
    /// # Errors
    /// [`Error::Forbidden`] if the join rules have no knocking or the user is joined, invited or banned.
    pub async fn knock(
        &self,
        room_id: &str,
        user: &UserId,
        reason: Option<&str>,
        profile: Object,
    ) -> Result<OwnedEventId> {
        let no_room = || Error::NotFound("there is no such room".to_owned());
        self.room(room_id).await?.ok_or_else(no_room)?;
        self.need_members(room_id).await?;
        let room = self.room(room_id).await?.ok_or_else(no_room)?;
        let state = self.member_state(&room, &[user]).await?;
        match state.membership(user.as_str()) {
            "join" => return Err(Error::Forbidden("you are in this room already".to_owned())),
            "invite" => return Err(Error::Forbidden("you are invited to this room already".to_owned())),
            "ban" => return Err(Error::Forbidden("you are banned from this room".to_owned())),
            _ => {}
        }
        self.set_membership(room_id, user, user, "knock", reason, profile).await
    }

    /// Forgets a room that the user has left: it no longer appears anywhere until the user is invited or joins again.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] if the user never was in the room, [`Error::Invalid`] while the user is in it.
    pub async fn forget(&self, room_id: &str, user: &UserId) -> Result<()> {
        loop {
            let mut row = self.any_membership(room_id, user).await?.ok_or(Error::NotInRoom)?;
            if !matches!(row.membership.as_str(), "leave" | "ban") {
                return Err(Error::Invalid("leave the room before you forget it".to_owned()));
            }
            if row.forgotten {
                return Ok(());
            }
            let mut batch = CommitBatch::new();
            batch.expect_equals::<MembershipRow>(vec![user.into(), row.room.into()], "pos", row.pos);
            batch.announce(StreamKind::Membership, None, Some(user.clone()), None);
            row.forgotten = true;
            batch.put(row);
            match self.store.commit(batch).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict { .. }) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
    }

    async fn set_membership(
        &self,
        room_id: &str,
        sender: &UserId,
        target: &UserId,
        membership: &str,
        reason: Option<&str>,
        mut content: Object,
    ) -> Result<OwnedEventId> {
        content.insert("membership".to_owned(), Json::String(membership.to_owned()));
        if let Some(reason) = reason {
            content.insert("reason".to_owned(), Json::String(reason.to_owned()));
        }
        self.send(room_id, NewEvent::state(sender, MEMBER, target.as_str(), content)).await
    }

    /// The room of a user's in which an event with this id is known, if there is one.
    ///
    /// # Errors
    /// As the store says.
    pub async fn room_of_event(&self, user: &UserId, event_id: &str) -> Result<Option<String>> {
        let rooms: Vec<RoomNum> = self.memberships(user).await?.into_iter().map(|row| row.room).collect();
        for some in rooms.chunks(LOOKUPS_MAX) {
            let read = |room: &RoomNum| Read::along::<EventRow>(EventRow::BY_ID, vec![(*room).into(), event_id.into()]);
            let found = self.store.read(some.iter().map(read).collect()).await?;
            for rows in found {
                if let Some(row) = rows.one::<EventRow>()? {
                    return Ok(self.room_by_num(row.room).await?.map(|room| room.id.clone()));
                }
            }
        }
        Ok(None)
    }

    /// Current member events of these users, with the state that decides over memberships.
    pub(crate) async fn member_state(&self, room: &Room, users: &[&UserId]) -> Result<StateMap> {
        let mut pairs = vec![type_key("m.room.power_levels", ""), type_key("m.room.join_rules", "")];
        pairs.extend(users.iter().map(|user| type_key(MEMBER, user.as_str())));
        self.state_map(room, None, room.head().state, &pairs).await
    }

    /// A local user's membership of a room, if the user ever had one.
    ///
    /// # Errors
    /// As the store says.
    pub async fn membership(&self, room_id: &str, user: &UserId) -> Result<Option<Membership>> {
        let Some(room) = self.room(room_id).await? else { return Ok(None) };
        let row = self.membership_row(room.num, user).await?;
        Ok(row.map(|row| Membership { room, row }))
    }

    /// The room, if the local user is joined to it.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] otherwise: a forbidden room and one that does not exist look alike.
    pub async fn joined_room(&self, room_id: &str, user: &UserId) -> Result<Arc<Room>> {
        let room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
        if room.head().local.contains(user) { Ok(room) } else { Err(Error::NotInRoom) }
    }

    /// The same, with all its members: waits for those that are still to come.
    ///
    /// # Errors
    /// As [`Rooms::joined_room`] and [`Rooms::need_members`].
    pub async fn joined_whole(&self, room_id: &str, user: &UserId) -> Result<Arc<Room>> {
        self.joined_room(room_id, user).await?;
        self.need_members(room_id).await?;
        self.joined_room(room_id, user).await
    }

    /// All rooms of a local user, with any membership.
    ///
    /// # Errors
    /// As the store says.
    pub async fn memberships(&self, user: &UserId) -> Result<Vec<MembershipRow>> {
        Ok(self.store.all(Read::prefix::<MembershipRow>(vec![user.into()])).await?)
    }

    /// Ids of the rooms to which a local user is joined.
    ///
    /// # Errors
    /// As the store says.
    pub async fn joined_room_ids(&self, user: &UserId) -> Result<Vec<String>> {
        let rows = self.memberships(user).await?;
        let mut ids = Vec::new();
        for row in rows.into_iter().filter(|row| row.membership == "join") {
            ids.extend(self.room_by_num(row.room).await?.map(|room| room.id.clone()));
        }
        Ok(ids)
    }

    /// Joined local members of a room.
    pub fn local_members(&self, room: RoomNum) -> Option<Arc<BTreeSet<UserId>>> {
        self.rooms.lock().peek(room).map(|room| Arc::clone(&room.head().local))
    }

    /// The position of each room's newest event, whoever may see it; `None` for an unknown room. Rooms that are not in memory
    /// are looked up together, and stay where they are.
    ///
    /// # Errors
    /// As the store says.
    pub async fn last_positions(&self, rooms: &[RoomNum]) -> Result<Vec<Option<StreamPosition>>> {
        let mut found: Vec<Option<StreamPosition>> = {
            let held = self.rooms.lock();
            let alive = |room: &RoomNum| held.peek(*room).filter(|room| !room.is_dead());
            rooms.iter().map(|room| alive(room).map(|room| room.head().row.last_pos)).collect()
        };
        let unread = found.iter().zip(rooms).filter(|(found, _)| found.is_none());
        let reads = unread.map(|(_, room)| Read::get::<RoomRow>(vec![(*room).into()])).collect();
        let mut rows = self.store.read(reads).await?.into_iter();
        for found in found.iter_mut().filter(|found| found.is_none()) {
            let row: Option<RoomRow> = rows.next().unwrap_or_default().one()?;
            *found = row.map(|row| row.last_pos);
        }
        Ok(found)
    }

    /// The current state event of a room, past any check of who asks.
    ///
    /// # Errors
    /// As the store says.
    pub async fn current(&self, room: &Room, kind: &str, state_key: &str) -> Result<Option<Arc<Event>>> {
        let pairs = [type_key(kind, state_key)];
        let state = self.state_map(room, None, room.head().state, &pairs).await?;
        Ok(state.event(kind, state_key).cloned())
    }

    /// All rooms listed in the public directory.
    ///
    /// # Errors
    /// As the store says.
    pub async fn published_rooms(&self) -> Result<Vec<Arc<Room>>> {
        let rows: Vec<RoomRow> = self.store.all(Read::prefix::<RoomRow>(vec![])).await?;
        let mut rooms = Vec::new();
        for row in rows.into_iter().filter(|row| row.published) {
            rooms.extend(self.room_by_num(row.room).await?);
        }
        Ok(rooms)
    }

    /// Since when each room is joined of which only part of the state is known, in milliseconds since the epoch. The rooms
    /// are not taken into memory for that.
    ///
    /// # Errors
    /// As the store says.
    pub async fn partial_since(&self) -> Result<BTreeMap<RoomNum, i64>> {
        let rows: Vec<PartialRoomRow> = self.store.all(Read::prefix::<PartialRoomRow>(vec![])).await?;
        let partial = rows.into_iter().filter(|row| row.whole_pos == StreamPosition::ZERO);
        Ok(partial.map(|row| (row.room, row.since_ms)).collect())
    }
}

impl Rooms {
    /// The joined local members of each room to which a user is joined, as far as rooms have been in memory; for a user of
    /// another server, of each room in which that server is. `None` if not all of those rooms still are in memory.
    pub fn local_circles(&self, user: &UserId) -> Option<Vec<Arc<BTreeSet<UserId>>>> {
        let server = user.server_name();
        let is_local = server == self.server_name();
        let is_in = |head: &Head| match is_local {
            true => head.local.contains(user),
            false => head.servers.get(server).is_some_and(|joined| *joined > 0),
        };
        let rooms = self.rooms.lock();
        let heads = rooms.all().map(|room| room.head()).filter(|head| is_in(head));
        rooms.is_whole().then(|| heads.map(|head| Arc::clone(&head.local)).collect())
    }

    /// Local users who share a joined room with a user, the user among them.
    ///
    /// # Errors
    /// As the store says.
    pub async fn local_friends(&self, user: &UserId) -> Result<BTreeSet<UserId>> {
        let joined = self.memberships(user).await?.into_iter().filter(|row| row.membership == "join");
        let (mut friends, mut reads) = (BTreeSet::new(), Vec::new());
        for row in joined {
            match self.local_members(row.room) {
                Some(members) => friends.extend(members.iter().cloned()),
                None => reads
                    .push(Read::along::<MembershipRow>(MembershipRow::BY_ROOM, vec![row.room.into(), "join".into()])),
            }
        }
        if !reads.is_empty() {
            for rows in self.store.read(reads).await? {
                friends.extend(rows.all::<MembershipRow>()?.into_iter().map(|row| row.user_id));
            }
        }
        Ok(friends)
    }
}
