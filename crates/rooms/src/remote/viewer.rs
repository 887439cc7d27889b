//! What another server may see of a room: an event is shown whole if the history visibility at it lets any user of that
//! server see it, and pruned otherwise, since the server needs its edges (client-server API, room history visibility).

use std::collections::HashMap;

use store::tables::rooms::StateKeyRow;
use store::{EventNum, Read};

use crate::event::Event;
use crate::room::Room;
use crate::state::{MEMBER, Roots, key_id};
use crate::state_tree::{KeyId, Root};
use crate::visibility::Visibility;
use crate::{Result, Rooms, flags};

const HISTORY_VISIBILITY: &str = "m.room.history_visibility";
/// Members whose events are read at a time.
const MEMBERS_CHUNK: usize = 100;

/// How an event is shown to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// As it is.
    Whole,
    /// As redaction leaves it.
    Redacted,
}

/// A server looking at a room's history: remembers what it looked up, since neighboring events share their state.
pub struct ServerViewer<'a> {
    rooms: &'a Rooms,
    room: &'a Room,
    server: &'a str,
    keys: Option<Vec<KeyId>>,
    seen: HashMap<Roots, bool>,
    members: HashMap<Root, Strongest>,
}

/// The strongest membership of any user of the server in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Strongest {
    None,
    Invited,
    Joined,
}

impl<'a> ServerViewer<'a> {
    /// A server's view of a room.
    pub fn new(rooms: &'a Rooms, room: &'a Room, server: &'a str) -> Self {
        Self { rooms, room, server, keys: None, seen: HashMap::new(), members: HashMap::new() }
    }

    /// How the server sees an event. Nothing is known of the state at an outlier or a waiting event: it is shown whole
    /// only if it is a state event, which is part of states that servers are given.
    ///
    /// # Errors
    /// As the store says.
    pub async fn sees(&mut self, event: &Event) -> Result<Sight> {
        let seen = match event.state_before() {
            None => event.pdu.is_state() && !event.has(flags::WAITING),
            Some(before) => self.may_see(before).await? || self.sees_after(event).await?,
        };
        let seen = seen && !self.erased(event).await?;
        Ok(if seen { Sight::Whole } else { Sight::Redacted })
    }

    /// Whether the sender had the event erased before this server came. The state that a room consists of is shown whole.
    async fn erased(&mut self, event: &Event) -> Result<bool> {
        let Some(erasure) = self.rooms.erased_since(&event.pdu.sender).await? else { return Ok(false) };
        if event.pdu.is_state() || self.rooms.was_resident(self.room, self.server, erasure).await? {
            return Ok(false);
        }
        match event.state_before() {
            Some(before) => Ok(self.strongest(before.members).await? != Strongest::Joined),
            None => Ok(true),
        }
    }

    /// A change of the visibility, and one of the server's own memberships, count with the better of before and after.
    async fn sees_after(&mut self, event: &Event) -> Result<bool> {
        let own = event.pdu.kind == MEMBER
            && event
                .pdu
                .state_key
                .as_deref()
                .is_some_and(|user| user.split_once(':').is_some_and(|(_, server)| server == self.server));
        if own {
            return Ok(true);
        }
        match event.state_after().filter(|_| event.pdu.is_state_of(HISTORY_VISIBILITY, "")) {
            Some(after) => self.may_see(after).await,
            None => Ok(false),
        }
    }

    async fn may_see(&mut self, state: Roots) -> Result<bool> {
        if let Some(seen) = self.seen.get(&state) {
            return Ok(*seen);
        }
        let pairs = [crate::state::type_key(HISTORY_VISIBILITY, "")];
        let found = self.rooms.state_map(self.room, None, state, &pairs).await?;
        let seen = match Visibility::of(found.event(HISTORY_VISIBILITY, "")) {
            Visibility::WorldReadable | Visibility::Shared => true,
            Visibility::Invited => self.strongest(state.members).await? >= Strongest::Invited,
            Visibility::Joined => self.strongest(state.members).await? == Strongest::Joined,
        };
        self.seen.insert(state, seen);
        Ok(seen)
    }

    async fn strongest(&mut self, members: Root) -> Result<Strongest> {
        if let Some(known) = self.members.get(&members) {
            return Ok(*known);
        }
        // Its members may be among those who are still to come.
        if self.room.is_assumed(self.server) {
            return Ok(Strongest::Joined);
        }
        let keys = match &self.keys {
            Some(keys) => keys.clone(),
            None => self.keys.insert(self.rooms.member_keys(self.room, self.server).await?).clone(),
        };
        let mut strongest = Strongest::None;
        for chunk in keys.chunks(MEMBERS_CHUNK) {
            let found = self.rooms.on_tree(self.room, None, |tree| tree.get_many(&members, chunk)).await?;
            let nums: Vec<EventNum> = found.into_iter().flatten().map(EventNum).collect();
            for event in self.rooms.events(self.room, None, &nums).await? {
                strongest = strongest.max(match event.pdu.membership() {
                    Some("join") => Strongest::Joined,
                    Some("invite") => Strongest::Invited,
                    _ => Strongest::None,
                });
            }
            if strongest == Strongest::Joined {
                break;
            }
        }
        self.members.insert(members, strongest);
        Ok(strongest)
    }
}

impl Rooms {
    /// The keys under which users of a server are, or were, members of a room.
    async fn member_keys(&self, room: &Room, server: &str) -> Result<Vec<KeyId>> {
        let read = Read::along::<StateKeyRow>(StateKeyRow::BY_NAME, vec![room.num.into(), MEMBER.into()]);
        let rows: Vec<StateKeyRow> = self.store.all(read).await?;
        let of_server = |row: &StateKeyRow| row.state_key.split_once(':').is_some_and(|(_, name)| name == server);
        rows.into_iter().filter(of_server).map(|row| key_id(row.key_id)).collect()
    }
}
