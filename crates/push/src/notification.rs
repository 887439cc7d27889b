//! What a gateway is told (push gateway API, `POST /_matrix/push/v1/notify`).

use std::sync::Arc;

use bytes::Bytes;
use event::Json as EventJson;
use rooms::state::MEMBER;
use rooms::unread::is_unseen;
use rooms::{Event, Room, StateMap};
use serde_json::{Map, Value as Json, json};
use store::tables::rooms::MembershipRow;
use store::{EventNum, RoomNum, UserId};

use crate::{Push, Result};

/// Rooms with more joined and invited members are not named after them.
const NAMED_AFTER_MEMBERS_MAX: i64 = 10;
/// Members after whom a room is named.
const NAMES_MAX: usize = 5;

/// What a gateway is told of an event.
pub(crate) struct Notice {
    event_id: String,
    room_id: String,
    /// What is left out where ids alone are told.
    more: Map<String, Json>,
    tweaks: Map<String, Json>,
}

/// What a mail says of an event.
pub(crate) struct Told {
    pub room_id: String,
    pub room: Option<String>,
    pub sender: String,
    pub text: Option<String>,
}

impl Notice {
    /// What a mail says of it: of messages that are not encrypted also what they say.
    pub(crate) fn told(&self) -> Told {
        let text = |name: &str| self.more.get(name).and_then(Json::as_str).map(str::to_owned);
        let body = self.more.get("content").and_then(|content| content.get("body")).and_then(Json::as_str);
        let is_message = text("type").as_deref() == Some("m.room.message");
        Told {
            room_id: self.room_id.clone(),
            room: text("room_name"),
            sender: text("sender_display_name").or_else(|| text("sender")).unwrap_or_default(),
            text: body.filter(|_| is_message).map(str::to_owned),
        }
    }
}

/// The body of a request: of an event, or of the number of unread messages alone. Of `event_id_only` the specification
/// knows ids, counts and devices.
pub(crate) fn body(
    notice: Option<Notice>,
    unread: Option<i64>,
    mut device: Map<String, Json>,
    ids_only: bool,
) -> Bytes {
    let mut notification = Map::new();
    let counts = unread.map_or_else(Map::new, |unread| Map::from_iter([("unread".to_owned(), json!(unread))]));
    notification.insert("counts".to_owned(), Json::Object(counts));
    match notice {
        Some(notice) => {
            notification.insert("event_id".to_owned(), notice.event_id.into());
            notification.insert("room_id".to_owned(), notice.room_id.into());
            device.insert("tweaks".to_owned(), Json::Object(notice.tweaks));
            if !ids_only {
                notification.extend(notice.more);
            }
        }
        None if !ids_only => drop(notification.insert("prio".to_owned(), "low".into())),
        None => {}
    }
    notification.insert("devices".to_owned(), Json::Array(vec![Json::Object(device)]));
    Bytes::from(json!({ "notification": notification }).to_string())
}

impl Push {
    /// What is told of an event, if the user has yet to read it.
    pub(crate) async fn notice_of(
        &self,
        user: &UserId,
        room: RoomNum,
        event: EventNum,
        tweaks: Map<String, Json>,
    ) -> Result<Option<Notice>> {
        let Some(row) = self.rooms.membership_row(room, user).await? else { return Ok(None) };
        if row.membership == "invite" && row.event == event {
            return self.notice_of_invite(&row, tweaks).await;
        }
        let Some(room) = self.rooms.room_by_num(room).await?.filter(|_| row.membership == "join") else {
            return Ok(None);
        };
        let Some(event) = self.rooms.events_left(&room, None, &[event]).await?.into_iter().next() else {
            return Ok(None);
        };
        let unseen = is_unseen(&event, &self.ignored(user).await?);
        if unseen || !event.shown() || !self.rooms.is_unread(&room, &row, &self.marks(&row).await?, &event).await? {
            return Ok(None);
        }
        let sender = (MEMBER.to_owned(), event.pdu.sender.clone());
        let named = ["m.room.name", "m.room.canonical_alias"].map(|kind| (kind.to_owned(), String::new()));
        let pairs = [&named[..], &[sender]].concat();
        let state = self.rooms.state_map(&room, None, room.head().state, &pairs).await?;
        let mut more = about(&event, user, &tweaks);
        let name = match text(&state, "m.room.name", "name").or(text(&state, "m.room.canonical_alias", "alias")) {
            Some(name) => Some(name.to_owned()),
            None => self.name_of_members(&room, user).await?,
        };
        let sender_name = state.event(MEMBER, &event.pdu.sender).and_then(|member| display_name(member));
        let texts = [
            ("sender_display_name", sender_name.map(str::to_owned)),
            ("room_name", name),
            ("room_alias", text(&state, "m.room.canonical_alias", "alias").map(str::to_owned)),
        ];
        add(&mut more, texts);
        Ok(Some(Notice { event_id: event.id().to_string(), room_id: room.id.clone(), more, tweaks }))
    }

    /// An invite: of the room is known what the invite says.
    async fn notice_of_invite(&self, row: &MembershipRow, tweaks: Map<String, Json>) -> Result<Option<Notice>> {
        let ignored = self.users.ignored(&row.user_id).await?.contains(&row.sender);
        let Some(event) = self.rooms.out_of_band_event(row).await?.filter(|_| !ignored) else { return Ok(None) };
        let stripped: Vec<Json> =
            row.stripped.as_deref().and_then(|stripped| serde_json::from_slice(stripped).ok()).unwrap_or_default();
        let content = |kind: &str, state_key: &str, member: &str| {
            let event = stripped.iter().find(|event| event["type"] == kind && event["state_key"] == state_key)?;
            event["content"][member].as_str().filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let alias = content("m.room.canonical_alias", "", "alias");
        let mut more = about(&event, &row.user_id, &tweaks);
        let texts = [
            ("sender_display_name", content(MEMBER, &event.pdu.sender, "displayname")),
            ("room_name", content("m.room.name", "", "name").or(alias.clone())),
            ("room_alias", alias),
        ];
        add(&mut more, texts);
        Ok(Some(Notice { event_id: event.id().to_string(), room_id: event.pdu.room_id.to_string(), more, tweaks }))
    }

    /// The name of a small room that has none: those of its other members.
    async fn name_of_members(&self, room: &Arc<Room>, user: &UserId) -> Result<Option<String>> {
        let head = room.head();
        if head.row.joined.saturating_add(head.row.invited) > NAMED_AFTER_MEMBERS_MAX {
            return Ok(None);
        }
        let mut nums = self.rooms.tree_nums(room, head.state.members).await?;
        nums.sort_unstable();
        let members = self.rooms.events(room, None, &nums).await?;
        let here = members.iter().filter(|member| matches!(member.pdu.membership(), Some("join" | "invite")));
        let others = here.filter(|member| member.pdu.state_key.as_deref() != Some(user.as_str()));
        let names: Vec<&str> = others
            .filter_map(|member| display_name(member).or(member.pdu.state_key.as_deref()))
            .take(NAMES_MAX)
            .collect();
        Ok((!names.is_empty()).then(|| names.join(", ")))
    }
}

/// What an event itself says.
fn about(event: &Event, user: &UserId, tweaks: &Map<String, Json>) -> Map<String, Json> {
    // What the rules let ring or light up is urgent, and so is what might be: nobody knows what is encrypted.
    let on = |tweak: &str| tweaks.get(tweak).is_some_and(|value| *value != Json::Bool(false) && !value.is_null());
    let urgent = event.pdu.kind == "m.room.encrypted" || on("highlight") || on("sound");
    let mut about = Map::from_iter([
        ("type".to_owned(), json!(event.pdu.kind)),
        ("sender".to_owned(), json!(event.pdu.sender)),
        ("content".to_owned(), Json::from(EventJson::Object(event.pdu.content.clone()))),
        ("prio".to_owned(), json!(if urgent { "high" } else { "low" })),
    ]);
    if event.pdu.kind == MEMBER {
        let is_target = event.pdu.state_key.as_deref() == Some(user.as_str());
        about.insert("user_is_target".to_owned(), json!(is_target));
    }
    about
}

fn add<const N: usize>(to: &mut Map<String, Json>, texts: [(&str, Option<String>); N]) {
    to.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), Json::from(text?)))));
}

fn text<'a>(state: &'a StateMap, kind: &str, member: &str) -> Option<&'a str> {
    state.text(kind, member).filter(|text| !text.is_empty())
}

fn display_name(member: &Event) -> Option<&str> {
    member.pdu.content.get("displayname")?.as_str().filter(|name| !name.is_empty())
}
