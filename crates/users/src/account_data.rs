//! Account data and tags (client-server API, "Client Config", "Room Tagging"; behaviour CR25).
//!
//! `m.push_rules` and `m.fully_read` are account data to readers and controlled by the server: their own modules write
//! them.

use serde_json::{Map, Value as Json, json};
use store::tables::users::AccountDataRow;
use store::{CommitBatch, Read, StreamKind, StreamPosition, UserId, Value};

use crate::accounts::expect_unchanged;
use crate::push_rules::{PUSH_RULES, Ruleset};
use crate::{Error, RETRIES_MAX, Users};

/// Bytes that one content may have.
pub const CONTENT_BYTES_MAX: usize = 512 * 1_024;
/// Bytes that a type may have.
const KIND_BYTES_MAX: usize = 255;
/// Bytes that a tag may have (client-server API, "Room Tagging").
pub const TAG_BYTES_MAX: usize = 255;
/// Tags that one room may have.
const TAGS_MAX: usize = 1_000;
/// The type of the list of ignored users.
pub const IGNORED_USERS: &str = "m.ignored_user_list";
/// The type of a room's read marker.
pub const FULLY_READ: &str = "m.fully_read";
/// The type of a room's tags.
pub const TAGS: &str = "m.tag";

/// In a stream entry: the change is one by which events are judged, so that what is known of the user is out of date.
pub const JUDGED_BY: i64 = 1;

/// One piece of account data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountData {
    /// The room id; empty for global account data.
    pub room_id: String,
    /// Its type.
    pub kind: String,
    /// Its content, JSON text of an object.
    pub content: String,
    /// Position of the last change.
    pub pos: StreamPosition,
}

impl Users {
    /// Sets account data at a client's word; `room_id` is empty for global.
    ///
    /// # Errors
    /// [`Error::ServerControlled`], [`Error::TooLarge`].
    pub async fn put_account_data(
        &self,
        user: &UserId,
        room_id: &str,
        kind: &str,
        content: String,
    ) -> Result<StreamPosition, Error> {
        match kind {
            PUSH_RULES => return Err(Error::ServerControlled(PUSH_RULES)),
            FULLY_READ => return Err(Error::ServerControlled(FULLY_READ)),
            _ => {}
        }
        if kind.is_empty() || kind.len() > KIND_BYTES_MAX {
            return Err(Error::InvalidParam("A type has 1 to 255 bytes.".to_owned()));
        }
        let mut batch = CommitBatch::new();
        add_account_data(&mut batch, user, room_id, kind, content)?;
        let committed = self.commit(batch).await?;
        if kind == IGNORED_USERS && room_id.is_empty() {
            self.reload_push_rules(user).await?;
        }
        Ok(committed.last)
    }

    /// The content of one piece of account data, as JSON text. `m.push_rules` is always there.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn account_data(&self, user: &UserId, room_id: &str, kind: &str) -> Result<Option<String>, Error> {
        let row = self.account_data_row(user, room_id, kind).await?;
        Ok(match row {
            None if room_id.is_empty() && kind == PUSH_RULES => Some(Ruleset::default().content(user).to_string()),
            row => row.map(|row| shown(row).content),
        })
    }

    pub(crate) async fn account_data_row(
        &self,
        user: &UserId,
        room_id: &str,
        kind: &str,
    ) -> Result<Option<AccountDataRow>, Error> {
        Ok(self.store.get(vec![Value::from(user), Value::from(room_id), Value::from(kind)]).await?)
    }

    /// All account data of a user, global (with `m.push_rules` in any case) and of rooms.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn all_account_data(&self, user: &UserId) -> Result<Vec<AccountData>, Error> {
        let rows: Vec<AccountDataRow> = self.store.all(Read::prefix::<AccountDataRow>(vec![Value::from(user)])).await?;
        let mut all: Vec<AccountData> = rows.into_iter().map(shown).collect();
        if !all.iter().any(|one| one.room_id.is_empty() && one.kind == PUSH_RULES) {
            let content = Ruleset::default().content(user).to_string();
            let (room_id, kind) = (String::new(), PUSH_RULES.to_owned());
            all.push(AccountData { room_id, kind, content, pos: StreamPosition::ZERO });
        }
        Ok(all)
    }

    /// The account data of a user that changed after `since`, up to and including `up_to`, in order of change.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn account_data_since(
        &self,
        user: &UserId,
        since: StreamPosition,
        up_to: StreamPosition,
    ) -> Result<Vec<AccountData>, Error> {
        let read = Read::along::<AccountDataRow>(AccountDataRow::BY_POS, vec![Value::from(user)]);
        let rows: Vec<AccountDataRow> = self.store.all(read.after(since).up_to(up_to)).await?;
        Ok(rows.into_iter().map(shown).collect())
    }

    /// The account data of one room.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn room_account_data(&self, user: &UserId, room_id: &str) -> Result<Vec<AccountData>, Error> {
        let read = Read::prefix::<AccountDataRow>(vec![Value::from(user), Value::from(room_id)]);
        let rows: Vec<AccountDataRow> = self.store.all(read).await?;
        Ok(rows.into_iter().map(shown).collect())
    }

    /// The tags of a room: name to content.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn tags(&self, user: &UserId, room_id: &str) -> Result<Map<String, Json>, Error> {
        let row = self.account_data_row(user, room_id, TAGS).await?;
        Ok(row.map(|row| tags_of(&row)).unwrap_or_default())
    }

    /// Sets a tag of a room.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for the name; [`Error::TooLarge`] for too many.
    pub async fn put_tag(&self, user: &UserId, room_id: &str, tag: &str, content: Json) -> Result<(), Error> {
        if tag.len() > TAG_BYTES_MAX {
            return Err(Error::InvalidParam("A tag may have 255 bytes.".to_owned()));
        }
        self.change_tags(user, room_id, |tags| {
            tags.insert(tag.to_owned(), content.clone());
        })
        .await
    }

    /// Removes a tag of a room, if it is there.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn delete_tag(&self, user: &UserId, room_id: &str, tag: &str) -> Result<(), Error> {
        self.change_tags(user, room_id, |tags| drop(tags.remove(tag))).await
    }

    async fn change_tags(
        &self,
        user: &UserId,
        room_id: &str,
        change: impl Fn(&mut Map<String, Json>),
    ) -> Result<(), Error> {
        let _turn = self.queues.turn(user).await;
        for _ in 0..RETRIES_MAX {
            let row = self.account_data_row(user, room_id, TAGS).await?;
            let before = row.as_ref().map(tags_of).unwrap_or_default();
            let mut tags = before.clone();
            change(&mut tags);
            if tags == before {
                return Ok(());
            }
            if tags.len() > TAGS_MAX {
                return Err(Error::TooLarge("the number of tags"));
            }
            let mut batch = CommitBatch::new();
            let key = vec![Value::from(user), Value::from(room_id), Value::from(TAGS)];
            match row {
                Some(row) => expect_unchanged(&mut batch, row),
                None => drop(batch.expect_absent::<AccountDataRow>(key)),
            }
            add_account_data(&mut batch, user, room_id, TAGS, json!({ "tags": tags }).to_string())?;
            match self.commit(batch).await {
                Err(Error::Conflict) => {}
                outcome => return outcome.map(drop),
            }
        }
        Err(Error::Conflict)
    }

    /// Copies what a user keeps about a room to the room that replaces it: tags, room push rules, and its place in
    /// `m.direct` (client-server API, "Room Upgrades"; CR21).
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Conflict`].
    pub async fn follow_upgrade(&self, user: &UserId, old_room: &str, new_room: &str) -> Result<(), Error> {
        for (tag, content) in self.tags(user, old_room).await? {
            self.put_tag(user, new_room, &tag, content).await?;
        }
        self.copy_room_rules(user, old_room, new_room).await?;
        let Some(direct) = self.account_data(user, "", "m.direct").await? else { return Ok(()) };
        let mut direct: Map<String, Json> = serde_json::from_str(&direct).unwrap_or_default();
        let mut changed = false;
        for rooms in direct.values_mut().filter_map(Json::as_array_mut) {
            let has = |room: &str| rooms.iter().any(|known| known == room);
            if has(old_room) && !has(new_room) {
                rooms.push(new_room.into());
                changed = true;
            }
        }
        if changed {
            self.put_account_data(user, "", "m.direct", Json::Object(direct).to_string()).await?;
        }
        Ok(())
    }

    /// The users that a user ignores (client-server API, "Ignoring Users"; CY15).
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn ignored(&self, user: &UserId) -> Result<std::collections::BTreeSet<UserId>, Error> {
        Ok(self.ignored_since(user).await?.0)
    }

    /// The users that a user ignores, and where in the stream the list last changed.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn ignored_since(
        &self,
        user: &UserId,
    ) -> Result<(std::collections::BTreeSet<UserId>, StreamPosition), Error> {
        let row = self.account_data_row(user, "", IGNORED_USERS).await?;
        Ok(row.map_or_else(Default::default, |row| (ignored_of(user, &row.content), row.pos)))
    }
}

/// The users in the content of a user's `m.ignored_user_list`. Nobody ignores themselves: their other devices would lack
/// what they send.
pub(crate) fn ignored_of(user: &UserId, content: &str) -> std::collections::BTreeSet<UserId> {
    let content: Json = serde_json::from_str(content).unwrap_or_default();
    let users = content.get("ignored_users").and_then(Json::as_object);
    let named = users.into_iter().flatten().map(|(user, _)| UserId::from(user.as_str()));
    named.filter(|named| named != user).collect()
}

/// Adds a piece of account data and its stream entry to a batch.
pub(crate) fn add_account_data(
    batch: &mut CommitBatch,
    user: &UserId,
    room_id: &str,
    kind: &str,
    content: String,
) -> Result<(), Error> {
    if content.len() > CONTENT_BYTES_MAX {
        return Err(Error::TooLarge("the account data"));
    }
    let judged_by = room_id.is_empty() && matches!(kind, PUSH_RULES | IGNORED_USERS);
    let number = judged_by.then_some(JUDGED_BY);
    let pos = batch.announce(StreamKind::AccountData, None, Some(user.clone()), number);
    batch.put(AccountDataRow {
        user_id: user.clone(),
        room_id: room_id.to_owned(),
        kind: kind.to_owned(),
        content,
        pos,
    });
    Ok(())
}

/// A row as readers see it: push rules whole.
fn shown(row: AccountDataRow) -> AccountData {
    let content = if row.room_id.is_empty() && row.kind == PUSH_RULES {
        Ruleset::parse(&row.content).content(&row.user_id).to_string()
    } else {
        row.content
    };
    AccountData { room_id: row.room_id, kind: row.kind, content, pos: row.pos }
}

fn tags_of(row: &AccountDataRow) -> Map<String, Json> {
    let content: Json = serde_json::from_str(&row.content).unwrap_or_default();
    match content {
        Json::Object(mut content) => match content.remove("tags") {
            Some(Json::Object(tags)) => tags,
            _ => Map::new(),
        },
        _ => Map::new(),
    }
}
