//! Who may see which event: the one function that every reader uses (client-server API, room history visibility).
//!
//! An event is judged by the state at the event and the user's membership then, never by the present alone. A change of
//! the visibility itself and the user's own membership changes count with the better of before and after.

use std::collections::HashMap;
use std::sync::Arc;

use store::tables::rooms::MembershipRow;
use store::{StreamPosition, UserId};

use crate::erased::pruned;
use crate::event::Event;
use crate::room::Room;
use crate::state::{MEMBER, Roots, type_key};
use crate::{Result, Rooms, flags};

const HISTORY_VISIBILITY: &str = "m.room.history_visibility";

/// A user looking at a room's history: remembers what it looked up, since neighboring events share their state.
pub struct Viewer<'a> {
    rooms: &'a Rooms,
    room: &'a Room,
    user: &'a UserId,
    membership: Option<MembershipRow>,
    seen: HashMap<Roots, Then>,
}

/// What held at a state.
#[derive(Clone, Debug)]
struct Then {
    visibility: Visibility,
    membership: String,
}

/// The values of `m.room.history_visibility`, from narrow to wide. An unknown value is `shared`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Visibility {
    Joined,
    Invited,
    Shared,
    WorldReadable,
}

impl Visibility {
    pub(crate) fn of(event: Option<&Arc<Event>>) -> Self {
        match event.and_then(|event| event.pdu.content.get("history_visibility")?.as_str()) {
            Some("joined") => Self::Joined,
            Some("invited") => Self::Invited,
            Some("world_readable") => Self::WorldReadable,
            _ => Self::Shared,
        }
    }
}

impl<'a> Viewer<'a> {
    /// A user's view of a room.
    ///
    /// # Errors
    /// As the store says.
    pub async fn new(rooms: &'a Rooms, room: &'a Room, user: &'a UserId) -> Result<Self> {
        let membership = rooms.membership_row(room.num, user).await?;
        Ok(Self { rooms, room, user, membership, seen: HashMap::new() })
    }

    /// A user's view of a room, whose membership row is known.
    pub fn with_membership(
        rooms: &'a Rooms,
        room: &'a Room,
        user: &'a UserId,
        membership: Option<MembershipRow>,
    ) -> Self {
        Self { rooms, room, user, membership, seen: HashMap::new() }
    }

    /// The user's stored membership.
    pub fn membership(&self) -> Option<&MembershipRow> {
        self.membership.as_ref()
    }

    /// Whether the user may see an event.
    ///
    /// # Errors
    /// As the store says.
    pub async fn sees(&mut self, event: &Event) -> Result<bool> {
        if event.has(flags::HIDDEN) || event.row.fragment.is_none() {
            return Ok(false);
        }
        let Some(before) = event.state_before() else { return Ok(false) };
        let then = self.then(before).await?;
        if self.allows(&then, event).await? {
            return Ok(true);
        }
        let own = event.pdu.kind == MEMBER && event.pdu.state_key.as_deref() == Some(self.user.as_str());
        let turning = event.pdu.is_state_of(HISTORY_VISIBILITY, "");
        if !own && !turning {
            return Ok(false);
        }
        let Some(after) = event.state_after() else { return Ok(false) };
        let after = self.then(after).await?;
        // Leaving is seen by the one who leaves, also when someone else did it.
        Ok((own && then.membership != "leave") || self.allows(&after, event).await?)
    }

    /// An event as the user may see it: `None` if not at all, pruned if its sender had it erased before the user came.
    ///
    /// # Errors
    /// As the store says.
    pub async fn view(&mut self, event: Arc<Event>) -> Result<Option<Arc<Event>>> {
        if !self.sees(&event).await? {
            return Ok(None);
        }
        match self.rooms.erased_since(&event.pdu.sender).await? {
            Some(erasure) if !self.knew(&event, erasure).await? => pruned(self.room, &event).map(Some),
            _ => Ok(Some(event)),
        }
    }

    /// Whether the user gets an event whole for all its erasure at this position: came before the erasure, or was in the
    /// room when the event was sent. So does everybody with what is the room's state now, since the room consists of it.
    async fn knew(&mut self, event: &Event, erasure: StreamPosition) -> Result<bool> {
        if self.membership.as_ref().is_some_and(|row| row.joined_pos.0 > 0 && row.joined_pos < erasure) {
            return Ok(true);
        }
        if let Some((kind, state_key)) = event.pdu.state_entry()
            && self.rooms.current(self.room, kind, state_key).await?.is_some_and(|now| now.num() == event.num())
        {
            return Ok(true);
        }
        let Some(before) = event.state_before() else { return Ok(false) };
        Ok(self.then(before).await?.membership == "join")
    }

    async fn allows(&self, then: &Then, event: &Event) -> Result<bool> {
        if then.membership == "join" {
            return Ok(true);
        }
        match then.visibility {
            Visibility::WorldReadable => Ok(true),
            Visibility::Shared => self.joined_after(event).await,
            Visibility::Invited => Ok(then.membership == "invite"),
            Visibility::Joined => Ok(false),
        }
    }

    /// Whether the user has been joined at some time after the event.
    async fn joined_after(&self, event: &Event) -> Result<bool> {
        let Some(row) = &self.membership else { return Ok(false) };
        if row.membership == "join" {
            return Ok(true);
        }
        if row.joined_pos.0 <= 0 || row.left_pos.0 <= 0 {
            return Ok(false);
        }
        let pos = match event.row.pos {
            Some(pos) => pos,
            // History from before has no position: it is older than what follows it in its fragment, and may well be
            // younger than the leave of someone who was in the room before this server lost sight of it.
            None => self.rooms.position_after(self.room, event).await?,
        };
        Ok(pos <= row.left_pos)
    }

    async fn then(&mut self, state: Roots) -> Result<Then> {
        if let Some(then) = self.seen.get(&state) {
            return Ok(then.clone());
        }
        let head = self.room.head();
        if state.members == head.state.members && head.local.contains(self.user) {
            // Nobody has come or gone since: a member was one then, for whom the visibility makes no difference.
            return Ok(Then { visibility: Visibility::Joined, membership: "join".to_owned() });
        }
        let pairs = [type_key(HISTORY_VISIBILITY, ""), type_key(MEMBER, self.user.as_str())];
        let found = self.rooms.state_map(self.room, None, state, &pairs).await?;
        let then = Then {
            visibility: Visibility::of(found.event(HISTORY_VISIBILITY, "")),
            membership: found.membership(self.user.as_str()).to_owned(),
        };
        self.seen.insert(state, then.clone());
        Ok(then)
    }

    /// The user's membership at an event, as `unsigned.membership` tells it: after the event if it changed it.
    ///
    /// # Errors
    /// As the store says.
    pub async fn membership_at(&mut self, event: &Event) -> Result<String> {
        let own = event.pdu.kind == MEMBER && event.pdu.state_key.as_deref() == Some(self.user.as_str());
        let state = if own { event.state_after() } else { event.state_before() };
        match state {
            Some(state) => Ok(self.then(state).await?.membership),
            None => Ok("leave".to_owned()),
        }
    }
}

impl Rooms {
    /// The state of a room that a user may read now: the current one for members and in world-readable rooms, the one
    /// at the leave for those who have left.
    ///
    /// # Errors
    /// [`crate::Error::NotInRoom`] if the user may not read the room at all.
    pub async fn readable_state(&self, room: &Room, user: &UserId) -> Result<Roots> {
        let head = room.head();
        if head.local.contains(user) {
            return Ok(head.state);
        }
        let visibility = self.current(room, HISTORY_VISIBILITY, "").await?;
        if Visibility::of(visibility.as_ref()) == Visibility::WorldReadable {
            return Ok(head.state);
        }
        let row = self.membership_row(room.num, user).await?;
        match row {
            Some(row) if row.left_pos.0 > 0 && !row.forgotten => self.state_at(room, row.left_pos).await,
            _ => Err(crate::Error::NotInRoom),
        }
    }

    /// The current state of a room as of a stream position.
    ///
    /// # Errors
    /// As the store says.
    pub async fn state_at(&self, room: &Room, pos: store::StreamPosition) -> Result<Roots> {
        use crate::state_tree::Root;
        use store::Read;
        use store::tables::rooms::RoomHeadRow;
        let read = Read::prefix::<RoomHeadRow>(vec![room.num.into()]).up_to(pos).reverse();
        let Some(row) = self.store.one::<RoomHeadRow>(read).await? else { return Ok(Roots::EMPTY) };
        Ok(Roots { members: Root::from_bytes(&row.members)?, rest: Root::from_bytes(&row.rest)? })
    }
}
