//! Creating a room: all its first events are one decision (client-server API, `POST /createRoom`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ::event::{Json, Object, Rules, Template};
use serde_json::json;
use store::tables::rooms::{AliasRow, RoomRow};
use store::{EventNum, RoomNum, StreamPosition, UserId};

use crate::draft::{Draft, ROOM_NUMBERS};
use crate::room::{Head, Room};
use crate::state::{Roots, StateMap};
use crate::{Error, NewEvent, Result, Rooms, packed};

/// A preset of room settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Join by invite, history shared.
    PrivateChat,
    /// As private chat, and invitees get the creator's power.
    TrustedPrivateChat,
    /// Anyone joins.
    PublicChat,
}

/// What `POST /createRoom` asks for, with defaults filled in.
#[derive(Clone, Debug)]
pub struct CreateRoom {
    /// The creator.
    pub creator: UserId,
    /// Room version; the default version if `None`.
    pub version: Option<String>,
    /// The preset.
    pub preset: Preset,
    /// Whether the room is listed in the directory.
    pub published: bool,
    /// Local part of an alias.
    pub alias_localpart: Option<String>,
    /// Room name.
    pub name: Option<String>,
    /// Topic.
    pub topic: Option<String>,
    /// Users to invite. Those of other servers get what is due to them here, and are invited by the caller: over federation.
    pub invite: Vec<UserId>,
    /// Extra content of the create event.
    pub creation_content: Object,
    /// (type, state key, content).
    pub initial_state: Vec<(String, String, Object)>,
    /// Whether the invites are for a direct chat.
    pub is_direct: bool,
    /// Keys that override those of the default power levels.
    pub power_level_content_override: Option<Object>,
    /// Content that the creator's member event carries besides (display name, avatar).
    pub creator_profile: Object,
    /// The room id and last event of the room that this one replaces.
    pub predecessor: Option<Json>,
}

impl Rooms {
    /// Creates a room and returns its id once it is durable.
    ///
    /// # Errors
    /// [`Error::UnsupportedVersion`], [`Error::Invalid`] for bad members of the request, [`Error::AliasTaken`],
    /// [`Error::InvalidRoomState`] if the implied state fails the auth rules; as the store says.
    pub async fn create_room(&self, request: &CreateRoom) -> Result<String> {
        let room = self.create_undecorated(request).await?;
        for user in request.invite.iter().filter(|user| self.is_local(user)) {
            // A failed invite does not lose the room; the creator can invite again.
            let invited = self.invite_to_new(&room, request, user).await;
            if let Err(Error::Store(error)) = invited {
                return Err(error.into());
            }
        }
        Ok(room.id.clone())
    }

    async fn create_undecorated(&self, request: &CreateRoom) -> Result<Arc<Room>> {
        let version = request.version.as_deref().unwrap_or(&self.options.default_version);
        let rules = Rules::of(version).ok_or_else(|| Error::UnsupportedVersion(version.to_owned()))?;
        let alias = self.alias_of(request);
        if let Some(alias) = &alias {
            self.check_new_alias(alias)?;
        }
        let create = self.create_event_of(rules, request)?;
        let room = self.new_room(Arc::clone(&create), request.published).await?;
        let mut draft = Draft::begin(self, &room).await;
        draft.append_create(create).await?;
        self.append_first_events(&mut draft, rules, request).await?;
        if let Some(alias) = alias {
            draft.batch.expect_absent::<AliasRow>(vec![alias.as_str().into()]);
            draft.batch.put(AliasRow { alias, room_id: room.id.clone(), creator: request.creator.clone() });
        }
        match self.commit_new(&room, draft).await {
            Ok(()) => Ok(room),
            Err(error) => Err(if matches!(error, Error::Busy) { Error::AliasTaken } else { error }),
        }
    }

    /// A room in memory that begins with this create event; nothing is stored yet.
    pub(crate) async fn new_room(&self, create: Arc<::event::Pdu>, published: bool) -> Result<Arc<Room>> {
        let version = create.content.get("room_version").and_then(Json::as_str).unwrap_or("1");
        let rules = Rules::of(version).ok_or_else(|| Error::UnsupportedVersion(version.to_owned()))?;
        ::event::auth_rules::check(rules, &create, &StateMap::default(), &create)
            .map_err(|denied| Error::Invalid(denied.to_string()))?;
        let num = RoomNum(self.store.next_number(ROOM_NUMBERS).await?);
        let head = Head {
            row: new_row(num, create.room_id.as_str(), version, published),
            state: Roots::EMPTY,
            extremities: Vec::new(),
            local: Arc::default(),
            muted: Arc::default(),
            servers: Arc::default(),
            partial: None,
            left_out: None,
        };
        Ok(Arc::new(Room::new(head, rules, create)))
    }

    /// Submits the first decision of a room, which is in memory from then on.
    pub(crate) async fn commit_new(&self, room: &Arc<Room>, draft: Draft<'_>) -> Result<()> {
        self.rooms.lock().insert(Arc::clone(room));
        let committed = self.commit(room, draft).await;
        if committed.is_err() {
            self.drop_room(room.num);
        }
        committed
    }

    fn create_event_of(&self, rules: &Rules, request: &CreateRoom) -> Result<Arc<::event::Pdu>> {
        let mut content = request.creation_content.clone();
        content.insert("room_version".to_owned(), Json::String(rules.version().to_owned()));
        if rules.creator_is_sender {
            content.remove("creator");
        } else {
            content.insert("creator".to_owned(), Json::String(request.creator.to_string()));
        }
        if let Some(predecessor) = &request.predecessor {
            content.insert("predecessor".to_owned(), predecessor.clone());
        }
        if rules.privileged_creators {
            self.add_creators(&mut content, request)?;
        }
        let room_id = match rules.special_create {
            true => None,
            false => Some(crate::send::room_id(&format!(
                "!{}:{}",
                store::clock::random_text(self.entropy.as_ref(), 18),
                self.server_name()
            ))?),
        };
        let template = Template {
            room_id,
            sender: request.creator.to_string(),
            kind: "m.room.create".to_owned(),
            state_key: Some(String::new()),
            content,
            depth: 1,
            origin_server_ts: self.creation_ms(),
            opaque_id: (!rules.event_id_is_hash()).then(|| self.opaque_id()),
            ..Template::default()
        };
        Ok(self.build(rules, template)?.into_pdu())
    }

    /// A time for a create event, different for each: from version 12 on the event is what makes the room id unique.
    fn creation_ms(&self) -> i64 {
        let now = self.clock.now_ms();
        let next = |last: i64| now.max(last.saturating_add(1));
        let last = self.created_ms.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(next(last)));
        last.map_or(now, next)
    }

    /// In version 12 a trusted private chat makes its invitees creators.
    fn add_creators(&self, content: &mut Object, request: &CreateRoom) -> Result<()> {
        let mut creators: Vec<Json> = match content.remove("additional_creators") {
            None => Vec::new(),
            Some(Json::Array(creators)) => creators,
            Some(_) => return Err(Error::Invalid("`additional_creators` must be a list of user ids".to_owned())),
        };
        let invitees = request.invite.iter().filter(|_| request.preset == Preset::TrustedPrivateChat);
        for user in invitees.map(|user| Json::String(user.to_string())) {
            if !creators.contains(&user) {
                creators.push(user);
            }
        }
        if !creators.is_empty() {
            content.insert("additional_creators".to_owned(), Json::Array(creators));
        }
        Ok(())
    }

    /// Creator's join, power levels, alias, preset, initial state, name, topic: in the order of the specification.
    async fn append_first_events(
        &self,
        draft: &mut Draft<'_>,
        rules: &'static Rules,
        request: &CreateRoom,
    ) -> Result<()> {
        let mut join = request.creator_profile.clone();
        join.insert("membership".to_owned(), Json::String("join".to_owned()));
        let mut events = vec![("m.room.member".to_owned(), request.creator.to_string(), join)];
        let levels = power_levels(rules, request, &draft.room.create)?;
        events.push(("m.room.power_levels".to_owned(), String::new(), levels));
        if let Some(alias) = self.alias_of(request) {
            events.push(("m.room.canonical_alias".to_owned(), String::new(), object(json!({ "alias": alias }))));
        }
        let named = |kind: &str| match kind {
            "m.room.name" => request.name.is_some(),
            "m.room.topic" => request.topic.is_some(),
            _ => false,
        };
        let given: BTreeSet<&str> = request
            .initial_state
            .iter()
            .filter(|(_, state_key, _)| state_key.is_empty())
            .map(|(kind, _, _)| kind.as_str())
            .collect();
        events.extend(preset_state(request.preset).into_iter().filter(|(kind, _, _)| !given.contains(kind.as_str())));
        let initial = request.initial_state.iter().filter(|(kind, key, _)| !(key.is_empty() && named(kind))).cloned();
        events.extend(initial);
        if let Some(name) = &request.name {
            events.push(("m.room.name".to_owned(), String::new(), object(json!({ "name": name }))));
        }
        if let Some(topic) = &request.topic {
            events.push(("m.room.topic".to_owned(), String::new(), topic_content(topic)));
        }
        for (kind, state_key, content) in events {
            let new = NewEvent::state(&request.creator, &kind, &state_key, content);
            self.append_local(draft, &new).await.map_err(|error| match error {
                Error::Forbidden(reason) => Error::InvalidRoomState(format!("{kind}: {reason}")),
                other => other,
            })?;
        }
        Ok(())
    }

    async fn invite_to_new(&self, room: &Arc<Room>, request: &CreateRoom, user: &UserId) -> Result<()> {
        let mut extra = Object::new();
        if request.is_direct {
            extra.insert("is_direct".to_owned(), Json::Bool(true));
        }
        self.invite(&room.id, &request.creator, user, None, extra).await.map(drop)
    }

    fn alias_of(&self, request: &CreateRoom) -> Option<String> {
        request.alias_localpart.as_ref().map(|localpart| format!("#{localpart}:{}", self.server_name()))
    }
}

/// The content of a topic event, with its rich form (MSC3765).
pub fn topic_content(topic: &str) -> Object {
    object(json!({ "topic": topic, "m.topic": { "m.text": [{ "body": topic, "mimetype": "text/plain" }] } }))
}

/// An event content from a literal.
pub(crate) fn object(value: serde_json::Value) -> Object {
    match Json::from(value) {
        Json::Object(object) => object,
        _ => Object::new(),
    }
}

fn preset_state(preset: Preset) -> Vec<(String, String, Object)> {
    let (join_rule, guest_access) = match preset {
        Preset::PublicChat => ("public", "forbidden"),
        Preset::PrivateChat | Preset::TrustedPrivateChat => ("invite", "can_join"),
    };
    [
        ("m.room.join_rules", json!({ "join_rule": join_rule })),
        ("m.room.history_visibility", json!({ "history_visibility": "shared" })),
        ("m.room.guest_access", json!({ "guest_access": guest_access })),
    ]
    .into_iter()
    .map(|(kind, content)| (kind.to_owned(), String::new(), object(content)))
    .collect()
}

fn power_levels(rules: &Rules, request: &CreateRoom, create: &::event::Pdu) -> Result<Object> {
    let mut users = serde_json::Map::new();
    if !rules.privileged_creators {
        users.insert(request.creator.to_string(), json!(100));
        if request.preset == Preset::TrustedPrivateChat {
            users.extend(request.invite.iter().map(|user| (user.to_string(), json!(100))));
        }
    }
    let tombstone = if rules.privileged_creators { 150 } else { 100 };
    let mut levels = object(json!({
        "users": users,
        "users_default": 0,
        "events": {
            "m.room.name": 50,
            "m.room.power_levels": 100,
            "m.room.history_visibility": 100,
            "m.room.canonical_alias": 50,
            "m.room.avatar": 50,
            "m.room.tombstone": tombstone,
            "m.room.server_acl": 100,
            "m.room.encryption": 100,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 0,
        "historical": 100,
    }));
    for (key, value) in request.power_level_content_override.iter().flatten() {
        levels.insert(key.clone(), value.clone());
    }
    if rules.privileged_creators {
        let creators = ::event::power_levels::creators(rules, create);
        let named = levels.get("users").and_then(Json::as_object).into_iter().flat_map(|users| users.keys());
        if let Some(user) = named.into_iter().find(|user| creators.contains(&user.as_str())) {
            return Err(Error::Invalid(format!(
                "`power_level_content_override.users` must not list the room's creator {user}"
            )));
        }
    }
    Ok(levels)
}

pub(crate) fn new_row(room: RoomNum, room_id: &str, version: &str, published: bool) -> RoomRow {
    RoomRow {
        room,
        room_id: room_id.to_owned(),
        room_version: version.to_owned(),
        create: EventNum(0).0,
        version: 0,
        head_members: Vec::new(),
        head_rest: Vec::new(),
        extremities: packed::pack(0, &[]),
        fragment: 0,
        next_index: 0,
        next_segment: 0,
        next_key: 0,
        segment_bytes: 0,
        messages: 0,
        joined: 0,
        invited: 0,
        last_pos: StreamPosition::ZERO,
        depth: 0,
        published,
        successor: None,
    }
}
