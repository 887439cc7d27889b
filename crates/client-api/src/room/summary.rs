//! A room as the public directory, room summaries and space hierarchies describe it, and who may know of it.

use endpoint::Error;
use rooms::state::type_key;
use rooms::{Room, StateMap};
use serde_json::{Map, Value, json};
use store::UserId;

use crate::{State, error_map};

/// The state events of which a summary is made, all with an empty state key.
const TYPES: &[&str] = &[
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
    "m.room.name",
    "m.room.topic",
];

/// What a summary is made of.
pub struct Summary<'a> {
    room: &'a Room,
    state: StateMap,
}

impl<'a> Summary<'a> {
    /// Reads the current state of a room.
    ///
    /// # Errors
    /// `M_UNKNOWN` when the store fails.
    pub async fn of(state: &State, room: &'a Room) -> Result<Self, Error> {
        let pairs: Vec<_> = TYPES.iter().map(|kind| type_key(kind, "")).collect();
        let found = state.rooms.state_map(room, None, room.head().state, &pairs).await.map_err(error_map::rooms)?;
        Ok(Self { room, state: found })
    }

    /// The join rule; `invite` if there is none.
    pub fn join_rule(&self) -> &str {
        self.state.text("m.room.join_rules", "join_rule").unwrap_or("invite")
    }

    /// Whether anyone may read the room.
    pub fn world_readable(&self) -> bool {
        self.state.text("m.room.history_visibility", "history_visibility") == Some("world_readable")
    }

    /// The room's type, such as `m.space`.
    pub fn room_type(&self) -> Option<&str> {
        self.room.create.content_str("type")
    }

    /// Name, topic and alias: what a search looks at.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let pairs = [("m.room.name", "name"), ("m.room.topic", "topic"), ("m.room.canonical_alias", "alias")];
        pairs.into_iter().filter_map(|(kind, member)| self.state.text(kind, member))
    }

    /// The rooms whose members a restricted room lets in.
    pub fn allowed_rooms(&self) -> Vec<&str> {
        if !matches!(self.join_rule(), "restricted" | "knock_restricted") {
            return Vec::new();
        }
        let rules = self.state.event("m.room.join_rules", "");
        let allow = rules.and_then(|event| event.pdu.content.get("allow")?.as_array()).unwrap_or_default();
        let conditions =
            allow.iter().filter(|one| one.get("type").and_then(event::Json::as_str) == Some("m.room_membership"));
        conditions.filter_map(|one| one.get("room_id")?.as_str()).collect()
    }

    /// The members that all descriptions of rooms share (`PublishedRoomsChunk`).
    pub fn members(&self) -> Map<String, Value> {
        let mut members = Map::new();
        let guests = self.state.text("m.room.guest_access", "guest_access") == Some("can_join");
        members.insert("room_id".to_owned(), json!(self.room.id));
        members.insert("num_joined_members".to_owned(), json!(self.room.head().row.joined));
        members.insert("world_readable".to_owned(), json!(self.world_readable()));
        members.insert("guest_can_join".to_owned(), json!(guests));
        members.insert("join_rule".to_owned(), json!(self.join_rule()));
        let mut add = |name: &str, text: Option<&str>| {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                members.insert(name.to_owned(), json!(text));
            }
        };
        add("name", self.state.text("m.room.name", "name"));
        add("topic", self.state.text("m.room.topic", "topic"));
        add("canonical_alias", self.state.text("m.room.canonical_alias", "alias"));
        add("avatar_url", self.state.text("m.room.avatar", "url"));
        add("room_type", self.room_type());
        members
    }

    /// The members of a summary (`data/api/client-server/room_summary.yaml`): with version, encryption and rooms that
    /// let in.
    pub fn extended(&self) -> Map<String, Value> {
        let mut members = self.members();
        members.insert("room_version".to_owned(), json!(self.room.rules.version()));
        if let Some(algorithm) = self.state.text("m.room.encryption", "algorithm") {
            members.insert("encryption".to_owned(), json!(algorithm));
        }
        let allowed = self.allowed_rooms();
        if !allowed.is_empty() {
            members.insert("allowed_room_ids".to_owned(), json!(allowed));
        }
        members
    }

    /// Whether a user (or nobody in particular) may know of the room: those in it or invited, and those who could join
    /// or knock, and everyone if it is world-readable.
    ///
    /// # Errors
    /// `M_UNKNOWN` when the store fails.
    pub async fn is_accessible(&self, state: &State, user: Option<&UserId>) -> Result<bool, Error> {
        let open = matches!(self.join_rule(), "public" | "knock" | "knock_restricted");
        let Some(user) = user else { return Ok(open || self.world_readable()) };
        let row = state.rooms.membership_row(self.room.num, user).await.map_err(error_map::rooms)?;
        match row.as_ref().map(|row| row.membership.as_str()) {
            Some("join" | "invite") => return Ok(true),
            Some("ban") => return Ok(self.world_readable()),
            _ if open || self.world_readable() => return Ok(true),
            _ => {}
        }
        for allowed in self.allowed_rooms() {
            if state.rooms.joined_room(allowed, user).await.is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
