//! Room aliases of this server, and the public directory (client-server API, room aliases, listing rooms).

use std::sync::Arc;

use ::event::power_levels::PowerLevels;
use ::event::{Json, Object};
use store::tables::rooms::{AliasRow, RoomRow};
use store::{CommitBatch, CommitError, Read, StreamKind, UserId};

use crate::accept::ATTEMPTS_MAX;
use crate::draft::Draft;
use crate::room::Room;
use crate::state::type_key;
use crate::{Error, NewEvent, Result, Rooms};

/// Bytes of an alias, as of every identifier (appendices, room aliases).
const ALIAS_BYTES_MAX: usize = 255;
/// Most aliases of one room that are listed.
const LISTED_MAX: u32 = 1_000;
/// The event type that names a room's aliases.
pub const CANONICAL_ALIAS: &str = "m.room.canonical_alias";

/// Whether a text may be the localpart of an alias of this server: not empty, no `:`, no white space or control
/// characters.
pub fn is_alias_localpart(localpart: &str) -> bool {
    !localpart.is_empty() && !localpart.chars().any(|c| c == ':' || c == '#' || c.is_whitespace() || c.is_control())
}

/// Whether a text follows the grammar of aliases, of whatever server (appendices, room aliases).
pub fn is_alias(alias: &str) -> bool {
    let parts = alias.strip_prefix('#').and_then(|rest| rest.split_once(':'));
    alias.len() <= ALIAS_BYTES_MAX
        && parts.is_some_and(|(localpart, server)| !localpart.contains('\0') && ::event::ids::is_server_name(server))
}

impl Rooms {
    /// Checks an alias that is to be made here.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it does not follow the grammar or belongs to another server.
    pub fn check_new_alias(&self, alias: &str) -> Result<()> {
        if !is_alias(alias) {
            return Err(Error::Invalid(format!("`{alias}` is no room alias")));
        }
        match alias.strip_prefix('#').and_then(|rest| rest.split_once(':')) {
            Some((_, server)) if server != self.server_name() => {
                Err(Error::Invalid(format!("`{alias}` belongs to another server")))
            }
            Some((localpart, _)) if !is_alias_localpart(localpart) => {
                Err(Error::Invalid(format!("`{localpart}` cannot be the local part of an alias")))
            }
            _ => Ok(()),
        }
    }

    /// An alias of this server.
    ///
    /// # Errors
    /// As the store says.
    pub async fn alias(&self, alias: &str) -> Result<Option<AliasRow>> {
        Ok(self.store.get::<AliasRow>(vec![alias.into()]).await?)
    }

    /// The room id that a room id or an alias names, and servers that know it.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown alias, [`Error::Invalid`] for what is neither.
    pub async fn resolve_alias(&self, id_or_alias: &str) -> Result<(String, Vec<String>)> {
        if id_or_alias.starts_with('!') {
            return Ok((id_or_alias.to_owned(), Vec::new()));
        }
        if !is_alias(id_or_alias) {
            return Err(Error::Invalid(format!("`{id_or_alias}` is neither a room id nor a room alias")));
        }
        let row = self.alias(id_or_alias).await?;
        let row = row.ok_or_else(|| Error::NotFound(format!("room alias {id_or_alias} not found")))?;
        Ok((row.room_id, vec![self.server_name().to_owned()]))
    }

    /// Makes an alias for a room.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad alias, [`Error::NotInRoom`] if the creator is not joined to the room,
    /// [`Error::AliasTaken`].
    pub async fn create_alias(&self, alias: &str, room_id: &str, creator: &UserId) -> Result<()> {
        self.check_new_alias(alias)?;
        let room = self.joined_room(room_id, creator).await?;
        let mut batch = CommitBatch::new();
        batch.expect_present::<RoomRow>(vec![room.num.into()]);
        batch.expect_absent::<AliasRow>(vec![alias.into()]);
        batch.announce(StreamKind::RoomMeta, Some(room.num), None, None);
        batch.put(AliasRow { alias: alias.to_owned(), room_id: room.id.clone(), creator: creator.clone() });
        match self.store.commit(batch).await {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict { .. }) => Err(Error::AliasTaken),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// Deletes an alias: its creator may, whoever may set the room's canonical alias, and an administrator of the
    /// server. The room's canonical alias event is brought in line if the user may do that too; if not, the deletion
    /// succeeds nevertheless.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`].
    pub async fn delete_alias(&self, alias: &str, user: &UserId, admin: bool) -> Result<()> {
        let missing = || Error::NotFound(format!("room alias {alias} not found"));
        let row = self.alias(alias).await?.ok_or_else(missing)?;
        let room = self.room(&row.room_id).await?;
        let powerful = match &room {
            Some(room) => self.may_set_state(room, user, CANONICAL_ALIAS).await?,
            None => false,
        };
        if row.creator != *user && !powerful && !admin {
            return Err(Error::Forbidden("you may not delete this alias".to_owned()));
        }
        let mut batch = CommitBatch::new();
        batch.expect_equals::<AliasRow>(vec![alias.into()], "room_id", row.room_id.as_str());
        batch.delete::<AliasRow>(vec![alias.into()]);
        batch.announce(StreamKind::RoomMeta, room.as_ref().map(|room| room.num), None, None);
        match self.store.commit(batch).await {
            Ok(_) => {}
            Err(CommitError::Conflict { .. }) => return Err(missing()),
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
        match room {
            Some(room) => self.unname(&room, alias, user).await,
            None => Ok(()),
        }
    }

    /// Takes a deleted alias out of the room's canonical alias event, if the user may.
    async fn unname(&self, room: &Room, alias: &str, user: &UserId) -> Result<()> {
        let Some(event) = self.current(room, CANONICAL_ALIAS, "").await? else { return Ok(()) };
        let mut content = event.pdu.content.clone();
        if content.get("alias").and_then(Json::as_str) == Some(alias) {
            content.remove("alias");
        }
        if let Some(Json::Array(others)) = content.get_mut("alt_aliases") {
            others.retain(|other| other.as_str() != Some(alias));
        }
        if content == event.pdu.content {
            return Ok(());
        }
        match self.send(&room.id, NewEvent::state(user, CANONICAL_ALIAS, "", content)).await {
            Err(Error::Store(error)) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The aliases that this server has for a room.
    ///
    /// # Errors
    /// As the store says.
    pub async fn aliases_of(&self, room_id: &str) -> Result<Vec<String>> {
        let read = Read::along::<AliasRow>(AliasRow::BY_ROOM, vec![room_id.into()]).limit(LISTED_MAX);
        let rows: Vec<AliasRow> = self.store.all(read).await?;
        Ok(rows.into_iter().map(|row| row.alias).collect())
    }

    /// Whether a user is joined to the room and has the power to send state events of this type.
    ///
    /// # Errors
    /// As the store says.
    pub async fn may_set_state(&self, room: &Room, user: &UserId, kind: &str) -> Result<bool> {
        if !room.head().local.contains(user) {
            return Ok(false);
        }
        let power = self.current(room, "m.room.power_levels", "").await?;
        let levels = PowerLevels::from_state(room.rules, power.as_ref().map(|event| event.pdu.as_ref()), &room.create);
        Ok(levels.user(user.as_str()) >= levels.required(kind, true))
    }

    /// Checks the aliases that a new canonical alias event adds to those of the current one: each must exist and point
    /// to this room (client-server API, `m.room.canonical_alias`).
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no alias, [`Error::BadAlias`] for one that points elsewhere or nowhere.
    pub async fn check_canonical_alias(&self, room: &Room, content: &Object) -> Result<()> {
        let current = self.current(room, CANONICAL_ALIAS, "").await?;
        let known = match &current {
            Some(event) => named_aliases(&event.pdu.content).unwrap_or_default(),
            None => Vec::new(),
        };
        for alias in named_aliases(content)? {
            if known.contains(&alias) {
                continue;
            }
            if !is_alias(alias) {
                return Err(Error::Invalid(format!("`{alias}` is no room alias")));
            }
            let points_to = self.alias(alias).await?.map(|row| row.room_id);
            if points_to.as_deref() != Some(room.id.as_str()) {
                return Err(Error::BadAlias(format!("room alias {alias} does not point to this room")));
            }
        }
        Ok(())
    }

    /// Puts a room into the public directory of this server, or takes it out.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown room, [`Error::Forbidden`] unless the user may set the room's canonical alias
    /// or administers the server.
    pub async fn set_published(&self, room_id: &str, user: &UserId, admin: bool, published: bool) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            let room = self.room(room_id).await?;
            let room = room.ok_or_else(|| Error::NotFound("there is no such room".to_owned()))?;
            if !admin && !self.may_set_state(&room, user, CANONICAL_ALIAS).await? {
                return Err(Error::Forbidden("you may not change whether this room is listed".to_owned()));
            }
            let mut draft = Draft::begin(self, &room).await;
            if draft.check_alive().is_err() {
                continue;
            }
            if draft.head.row.published == published {
                return Ok(());
            }
            draft.head.row.published = published;
            match self.commit(&room, draft).await {
                Err(Error::Busy) => {}
                other => return other,
            }
        }
        Err(Error::Busy)
    }
}

impl Rooms {
    /// Rooms that anyone may join or read, of the first `limit` rooms of the server.
    ///
    /// # Errors
    /// As the store says.
    pub async fn open_rooms(&self, limit: u32) -> Result<Vec<Arc<Room>>> {
        let rows: Vec<RoomRow> = self.store.all(Read::prefix::<RoomRow>(vec![]).limit(limit)).await?;
        let pairs = [type_key("m.room.join_rules", ""), type_key("m.room.history_visibility", "")];
        let mut open = Vec::new();
        for row in rows {
            let Some(room) = self.room_by_num(row.room).await? else { continue };
            let state = self.state_map(&room, None, room.head().state, &pairs).await?;
            let readable = state.text("m.room.history_visibility", "history_visibility") == Some("world_readable");
            if readable || state.text("m.room.join_rules", "join_rule") == Some("public") {
                open.push(room);
            }
        }
        Ok(open)
    }
}

/// The aliases that the content of a canonical alias event names.
fn named_aliases(content: &Object) -> Result<Vec<&str>> {
    let mut aliases = Vec::new();
    match content.get("alias") {
        None | Some(Json::Null) => {}
        // Some clients clear the alias by an empty string.
        Some(Json::String(alias)) if alias.is_empty() => {}
        Some(Json::String(alias)) => aliases.push(alias.as_str()),
        Some(_) => return Err(Error::Invalid("`alias` must be a string".to_owned())),
    }
    match content.get("alt_aliases") {
        None | Some(Json::Null) => {}
        Some(Json::Array(others)) => {
            for other in others {
                let other = other.as_str();
                aliases.push(other.ok_or_else(|| Error::Invalid("`alt_aliases` must hold strings".to_owned()))?);
            }
        }
        Some(_) => return Err(Error::Invalid("`alt_aliases` must be a list".to_owned())),
    }
    Ok(aliases)
}
