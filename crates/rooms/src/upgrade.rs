//! Upgrading a room: a new room of another version takes its place (client-server API, room upgrades).
//!
//! What users keep about the old room (tags, push rules, `m.direct`) is theirs: the caller copies it when a user joins
//! the new room, which names the old one as its predecessor.

use ::event::power_levels::{Level, PowerLevels};
use ::event::{Json, Object, Rules};
use serde_json::json;
use store::tables::rooms::AliasRow;
use store::{CommitBatch, CommitError, StreamKind, UserId};

use crate::accept::ATTEMPTS_MAX;
use crate::aliases::CANONICAL_ALIAS;
use crate::create::object;
use crate::draft::Draft;
use crate::event::Event;
use crate::room::Room;
use crate::state::{StateMap, TypeKey, type_key};
use crate::{CreateRoom, Error, NewEvent, Preset, Result, Rooms};

const TOMBSTONE: &str = "m.room.tombstone";
const POWER_LEVELS: &str = "m.room.power_levels";

/// State that goes along, besides the power levels. Where it is missing in the old room, what its absence means is said
/// in the new one, which would get other settings by its preset.
const TRANSFERRED: &[&str] = &[
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
];

/// Who upgrades which room to what.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// The room to replace.
    pub room_id: String,
    /// The user, who creates the new room.
    pub user: UserId,
    /// The version of the new room.
    pub version: String,
    /// Further creators of the new room; of no effect before version 12.
    pub additional_creators: Vec<UserId>,
    /// Content that the user's member event carries besides (display name, avatar).
    pub profile: Object,
}

impl Rooms {
    /// Replaces a room and returns the new one's id.
    ///
    /// # Errors
    /// [`Error::UnsupportedVersion`], [`Error::NotInRoom`], [`Error::Forbidden`] if the user may not send a tombstone;
    /// else as [`Rooms::create_room`].
    pub async fn upgrade(&self, upgrade: &Upgrade) -> Result<String> {
        let unsupported = || Error::UnsupportedVersion(upgrade.version.clone());
        let rules = Rules::of(&upgrade.version).ok_or_else(unsupported)?;
        let old = self.joined_room(&upgrade.room_id, &upgrade.user).await?;
        if !self.may_set_state(&old, &upgrade.user, TOMBSTONE).await? {
            return Err(Error::Forbidden("you may not upgrade this room".to_owned()));
        }
        let earlier = self.current(&old, TOMBSTONE, "").await?;
        let _alone = self.upgrading.lock().await;
        let tombstone = self.current(&old, TOMBSTONE, "").await?;
        if tombstone.as_ref().map(|event| event.num()) != earlier.as_ref().map(|event| event.num())
            && let Some(new_id) = self.same_upgrade(upgrade, tombstone.as_deref()).await?
        {
            return Ok(new_id);
        }
        let state = self.transferred_state(&old).await?;
        let request = self.replacement(upgrade, rules, &old, &state)?;
        let new_id = self.create_room(&request).await?;
        self.move_aliases(&old.id, &new_id).await?;
        let content = object(json!({ "body": "This room has been replaced", "replacement_room": new_id }));
        self.send(&old.id, NewEvent::state(&upgrade.user, TOMBSTONE, "", content)).await?;
        self.set_successor(&old.id, &new_id).await?;
        self.close_old(upgrade, &old, &state, &new_id).await?;
        Ok(new_id)
    }

    /// The room that the same request has made a moment ago: a client that asks twice at once gets one room.
    async fn same_upgrade(&self, upgrade: &Upgrade, tombstone: Option<&Event>) -> Result<Option<String>> {
        let Some(tombstone) = tombstone.filter(|event| event.pdu.sender == upgrade.user.as_str()) else {
            return Ok(None);
        };
        let Some(new_id) = tombstone.pdu.content_str("replacement_room") else { return Ok(None) };
        let made = self.room(new_id).await?;
        Ok(made.filter(|made| made.rules.version() == upgrade.version).map(|made| made.id.clone()))
    }

    async fn transferred_state(&self, old: &Room) -> Result<StateMap> {
        let kinds = TRANSFERRED.iter().chain(&[POWER_LEVELS, CANONICAL_ALIAS]);
        let pairs: Vec<TypeKey> = kinds.map(|kind| type_key(kind, "")).collect();
        self.state_map(old, None, old.head().state, &pairs).await
    }

    fn replacement(&self, upgrade: &Upgrade, rules: &Rules, old: &Room, state: &StateMap) -> Result<CreateRoom> {
        let mut creation_content = Object::new();
        for name in ["type", "m.federate"] {
            creation_content.extend(old.create.content.get(name).map(|value| (name.to_owned(), value.clone())));
        }
        if rules.privileged_creators && !upgrade.additional_creators.is_empty() {
            let creators = upgrade.additional_creators.iter().map(|user| Json::String(user.to_string()));
            creation_content.insert("additional_creators".to_owned(), Json::Array(creators.collect()));
        }
        let mut initial_state: Vec<(String, String, Object)> = TRANSFERRED
            .iter()
            .filter_map(|kind| Some(((*kind).to_owned(), String::new(), transferred(kind, state)?)))
            .collect();
        let levels = Levels::of(upgrade, rules, old, state);
        initial_state.extend(levels.last.map(|content| (POWER_LEVELS.to_owned(), String::new(), content)));
        let last_event = old.head().extremities.last().map(|extremity| extremity.id.to_string());
        Ok(CreateRoom {
            creator: upgrade.user.clone(),
            version: Some(upgrade.version.clone()),
            preset: Preset::PrivateChat,
            published: old.head().row.published,
            alias_localpart: None,
            name: None,
            topic: None,
            invite: Vec::new(),
            creation_content,
            initial_state,
            is_direct: false,
            power_level_content_override: Some(levels.first),
            creator_profile: upgrade.profile.clone(),
            predecessor: Some(Json::from(match last_event {
                Some(event_id) => json!({ "room_id": old.id, "event_id": event_id }),
                None => json!({ "room_id": old.id }),
            })),
        })
    }

    /// Points the aliases of the old room to the new one. An alias that is deleted meanwhile stays so.
    async fn move_aliases(&self, old_id: &str, new_id: &str) -> Result<()> {
        for alias in self.aliases_of(old_id).await? {
            let Some(row) = self.alias(&alias).await? else { continue };
            let mut batch = CommitBatch::new();
            batch.expect_equals::<AliasRow>(vec![alias.as_str().into()], "room_id", old_id);
            batch.put(AliasRow { room_id: new_id.to_owned(), ..row });
            batch.announce(StreamKind::RoomMeta, None, None, None);
            match self.store.commit(batch).await {
                Ok(_) | Err(CommitError::Conflict { .. }) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes the old room out of the directory and notes what replaced it.
    async fn set_successor(&self, old_id: &str, new_id: &str) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(room) = self.room(old_id).await? else { return Ok(()) };
            let mut draft = Draft::begin(self, &room).await;
            if draft.check_alive().is_err() {
                continue;
            }
            draft.head.row.published = false;
            draft.head.row.successor = Some(new_id.to_owned());
            match self.commit(&room, draft).await {
                Err(Error::Busy) => {}
                other => return other,
            }
        }
        Err(Error::Busy)
    }

    /// Moves the canonical alias and makes the old room quiet, as far as the user may.
    async fn close_old(&self, upgrade: &Upgrade, old: &Room, state: &StateMap, new_id: &str) -> Result<()> {
        let mut events = Vec::new();
        if let Some(canonical) = state.event(CANONICAL_ALIAS, "") {
            events.push((new_id, CANONICAL_ALIAS, canonical.pdu.content.clone()));
            events.push((old.id.as_str(), CANONICAL_ALIAS, Object::new()));
        }
        let power = state.event(POWER_LEVELS, "").map(|event| event.pdu.content.clone()).unwrap_or_default();
        events.push((old.id.as_str(), POWER_LEVELS, quiet(power)));
        for (room_id, kind, content) in events {
            // The specification asks for these only "if possible".
            let sent = self.send(room_id, NewEvent::state(&upgrade.user, kind, "", content)).await;
            if let Err(Error::Store(error)) = sent {
                return Err(error.into());
            }
        }
        Ok(())
    }
}

/// The content that the new room gets for a type of state event.
fn transferred(kind: &str, state: &StateMap) -> Option<Object> {
    match state.event(kind, "") {
        Some(event) => Some(event.pdu.content.clone()),
        None => match kind {
            "m.room.guest_access" => Some(object(json!({ "guest_access": "forbidden" }))),
            "m.room.history_visibility" => Some(object(json!({ "history_visibility": "shared" }))),
            "m.room.join_rules" => Some(object(json!({ "join_rule": "invite" }))),
            _ => None,
        },
    }
}

/// Power levels that stop ordinary members from sending and inviting: the greater of 50 and `users_default + 1`.
fn quiet(mut content: Object) -> Object {
    let level = |content: &Object, name: &str| content.get(name).and_then(as_level).unwrap_or(0);
    let least = level(&content, "users_default").saturating_add(1).max(50);
    for name in ["events_default", "invite"] {
        let now = level(&content, name).max(least);
        content.insert(name.to_owned(), Json::Int(now));
    }
    content
}

/// The power levels of the new room: those that it begins with and, if these give the creator more than the old room
/// did, those that it has in the end.
struct Levels {
    first: Object,
    last: Option<Object>,
}

impl Levels {
    fn of(upgrade: &Upgrade, rules: &Rules, old: &Room, state: &StateMap) -> Self {
        let power = state.event(POWER_LEVELS, "").map(|event| &event.pdu);
        let mut content = power.map(|pdu| normalized(&pdu.content)).unwrap_or_default();
        for name in ["users", "events"] {
            // What the old room leaves out must not be filled in with what new rooms usually have.
            content.entry(name.to_owned()).or_insert_with(|| Json::Object(Object::new()));
        }
        if rules.privileged_creators {
            // Creators of the new room have more than any level, and may not be listed.
            let creators = upgrade.additional_creators.iter().chain([&upgrade.user]);
            let users = content.get_mut("users").and_then(Json::as_object_mut);
            users.into_iter().for_each(|users| creators.clone().for_each(|user| drop(users.remove(user.as_str()))));
            return Self { first: content, last: None };
        }
        let highest = highest(&content);
        let levels = PowerLevels::from_state(old.rules, power.map(AsRef::as_ref), &old.create);
        let set = |content: &mut Object, user: &str, level: i64| {
            if let Some(users) = content.get_mut("users").and_then(Json::as_object_mut) {
                users.insert(user.to_owned(), Json::Int(level));
            }
        };
        for creator in ::event::power_levels::creators(old.rules, &old.create) {
            if let (Level::Infinite, _) | (Level::Int(_), None) = (levels.user(creator), power) {
                set(&mut content, creator, highest);
            }
        }
        let own = content.get("users").and_then(|users| users.get(upgrade.user.as_str())).and_then(as_level);
        if own.unwrap_or(0) >= highest {
            return Self { first: content, last: None };
        }
        let mut first = content.clone();
        set(&mut first, upgrade.user.as_str(), highest);
        Self { first, last: Some(content) }
    }
}

/// The highest level that anyone has or anything needs, and at least the usual one of administrators.
fn highest(content: &Object) -> i64 {
    let inner = content.values().filter_map(Json::as_object).flat_map(|levels| levels.values());
    content.values().chain(inner).filter_map(as_level).max().unwrap_or(0).max(100)
}

/// The levels as integers, which is what newer room versions demand; what is no level is left out.
fn normalized(content: &Object) -> Object {
    let level = |(name, value): (&String, &Json)| Some((name.clone(), Json::Int(as_level(value)?)));
    let mut normalized = Object::new();
    for (name, value) in content {
        match value {
            Json::Object(levels) => {
                normalized.insert(name.clone(), Json::Object(levels.iter().filter_map(level).collect()));
            }
            _ => normalized.extend(level((name, value))),
        }
    }
    normalized
}

/// A level as any room version writes it: an integer, a text (up to version 9) or a float (up to version 5).
fn as_level(json: &Json) -> Option<i64> {
    match json {
        Json::Int(level) => Some(*level),
        Json::String(text) => text.trim().parse().ok(),
        Json::Number(text) => text.split('.').next()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_become_integers() {
        let content = object(json!({
            "ban": " 50 ", "kick": 1, "redact": "x", "events": { "m.room.name": "100", "a": true }, "users": {},
        }));
        let expected = object(json!({ "ban": 50, "kick": 1, "events": { "m.room.name": 100 }, "users": {} }));
        assert_eq!(normalized(&content), expected);
        assert_eq!(highest(&expected), 100);
        assert_eq!(highest(&object(json!({ "users": { "@a:b": 1000 } }))), 1000);
    }

    #[test]
    fn cr21_old_rooms_become_quiet() {
        let check = |content: serde_json::Value, expected: i64| {
            let content = quiet(object(content));
            assert_eq!(content.get("events_default"), Some(&Json::Int(expected)));
            assert_eq!(content.get("invite"), Some(&Json::Int(expected)));
        };
        check(json!({}), 50);
        check(json!({ "users_default": 60 }), 61);
        check(json!({ "events_default": 70, "invite": 70 }), 70);
    }
}
