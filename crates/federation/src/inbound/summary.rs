//! A room as the public directory and space hierarchies describe it to other servers, and which of them may know of it.

use endpoint::Error;
use event::Json;
use rooms::state::type_key;
use rooms::{Room, StateMap};
use serde_json::{Map, Value, json};

use super::error_map;
use crate::Federation;

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
pub(super) struct Summary<'a> {
    room: &'a Room,
    state: StateMap,
}

impl<'a> Summary<'a> {
    /// Reads the current state of a room.
    pub async fn of(federation: &Federation, room: &'a Room) -> Result<Self, Error> {
        let pairs: Vec<_> = TYPES.iter().map(|kind| type_key(kind, "")).collect();
        let state = federation.rooms.state_map(room, None, room.head().state, &pairs).await;
        Ok(Self { room, state: state.map_err(error_map::rooms)? })
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

    fn join_rule(&self) -> &str {
        self.state.text("m.room.join_rules", "join_rule").unwrap_or("invite")
    }

    fn world_readable(&self) -> bool {
        self.state.text("m.room.history_visibility", "history_visibility") == Some("world_readable")
    }

    /// The rooms whose members a restricted room lets in.
    fn allowed_rooms(&self) -> Vec<&str> {
        if !matches!(self.join_rule(), "restricted" | "knock_restricted") {
            return Vec::new();
        }
        let rules = self.state.event("m.room.join_rules", "");
        let allow = rules.and_then(|event| event.pdu.content.get("allow")?.as_array()).unwrap_or_default();
        let conditions = allow.iter().filter(|one| one.get("type").and_then(Json::as_str) == Some("m.room_membership"));
        conditions.filter_map(|one| one.get("room_id")?.as_str()).collect()
    }

    /// The members that all descriptions of rooms share (`PublishedRoomsChunk`).
    pub fn members(&self) -> Map<String, Value> {
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

    /// Whether some user of a server may know of the room: it has members in the room or invited, anybody can join,
    /// knock or read it, or it has members in a room that lets in.
    pub async fn is_accessible(&self, federation: &Federation, server: &str) -> Result<bool, Error> {
        let open = matches!(self.join_rule(), "public" | "knock" | "knock_restricted") || self.world_readable();
        if open || self.room.has_server(server) {
            return Ok(true);
        }
        for allowed in self.allowed_rooms() {
            let room = federation.resident_room(allowed).await?;
            if room.is_some_and(|room| room.has_server(server)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
