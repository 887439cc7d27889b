//! A room as those are told of it who need not be in it: the public directory, room summaries and space hierarchies, of
//! clients and of other servers. Who may know of it is for those who ask.

use event::Json;
use serde_json::{Map, Value, json};

use crate::room::Room;
use crate::state::{StateMap, type_key};
use crate::{Result, Rooms};

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

/// What a summary is made of: the part of a room's current state that describes it.
pub struct Summary<'a> {
    room: &'a Room,
    state: StateMap,
}

impl Rooms {
    /// Describes a room by its current state.
    ///
    /// # Errors
    /// As the store says.
    pub async fn summary<'a>(&self, room: &'a Room) -> Result<Summary<'a>> {
        let pairs: Vec<_> = TYPES.iter().map(|kind| type_key(kind, "")).collect();
        let state = self.state_map(room, None, room.head().state, &pairs).await?;
        Ok(Summary { room, state })
    }
}

impl Summary<'_> {
    /// The room that is described.
    pub fn room(&self) -> &Room {
        self.room
    }

    /// The room's type, such as `m.space`.
    pub fn room_type(&self) -> Option<&str> {
        self.room.create.content_str("type")
    }

    /// Whether anyone may read the room.
    pub fn world_readable(&self) -> bool {
        self.state.text("m.room.history_visibility", "history_visibility") == Some("world_readable")
    }

    /// Whether anyone may join the room or knock.
    pub fn open_to_all(&self) -> bool {
        matches!(self.join_rule(), "public" | "knock" | "knock_restricted")
    }

    /// The join rule; `invite` if there is none.
    fn join_rule(&self) -> &str {
        self.state.text("m.room.join_rules", "join_rule").unwrap_or("invite")
    }

    /// The rooms whose members a restricted room lets in.
    pub fn allowed_rooms(&self) -> Vec<&str> {
        if !matches!(self.join_rule(), "restricted" | "knock_restricted") {
            return Vec::new();
        }
        let rules = self.state.event("m.room.join_rules", "");
        let allow = rules.and_then(|event| event.pdu.content.get("allow")?.as_array()).unwrap_or_default();
        let conditions = allow.iter().filter(|one| one.get("type").and_then(Json::as_str) == Some("m.room_membership"));
        conditions.filter_map(|one| one.get("room_id")?.as_str()).collect()
    }

    /// Name, topic and alias: what a search looks at.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        let pairs = [("m.room.name", "name"), ("m.room.topic", "topic"), ("m.room.canonical_alias", "alias")];
        pairs.into_iter().filter_map(|(kind, member)| self.state.text(kind, member))
    }

    /// The members that all descriptions of rooms share (`PublishedRoomsChunk`).
    pub(crate) fn members(&self) -> Map<String, Value> {
        let guests = self.state.text("m.room.guest_access", "guest_access") == Some("can_join");
        let mut members = Map::from_iter([
            ("room_id".to_owned(), json!(self.room.id)),
            ("num_joined_members".to_owned(), json!(self.room.head().row.joined)),
            ("world_readable".to_owned(), json!(self.world_readable())),
            ("guest_can_join".to_owned(), json!(guests)),
            ("join_rule".to_owned(), json!(self.join_rule())),
        ]);
        let texts = [
            ("name", self.state.text("m.room.name", "name")),
            ("topic", self.state.text("m.room.topic", "topic")),
            ("canonical_alias", self.state.text("m.room.canonical_alias", "alias")),
            ("avatar_url", self.state.text("m.room.avatar", "url")),
            ("room_type", self.room_type()),
        ];
        let present = texts.into_iter().filter_map(|(name, text)| Some((name, text.filter(|text| !text.is_empty())?)));
        members.extend(present.map(|(name, text)| (name.to_owned(), json!(text))));
        members
    }

    /// The members of a summary (`data/api/client-server/definitions/room_summary.yaml`): with version, encryption and
    /// rooms that let in.
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
}
