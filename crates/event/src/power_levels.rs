//! Power levels: who has which, what needs which, and how each room version
//! reads the numbers.

use crate::json::{Json, Object};
use crate::pdu::Pdu;
use crate::room_version::Rules;

/// The level of a creator where there is no `m.room.power_levels` (1–11).
const CREATOR_LEVEL: i64 = 100;

/// A power level. Infinite ones belong to creators in room version 12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// An ordinary level.
    Int(i64),
    /// Greater than every ordinary level.
    Infinite,
}

impl From<i64> for Level {
    fn from(level: i64) -> Self {
        Level::Int(level)
    }
}

/// A value in an `m.room.power_levels` event that its room version cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` in the power levels is not a power level")]
pub struct MalformedLevel(pub String);

/// The properties of `m.room.power_levels` that are levels themselves, with
/// their defaults, which hold with and without the event.
pub(crate) const PROPERTIES: [(&str, i64); 7] = [
    ("users_default", 0),
    ("events_default", 0),
    ("state_default", 50),
    ("ban", 50),
    ("redact", 50),
    ("kick", 50),
    ("invite", 0),
];

/// Default of `notifications.room` and every other notification key.
const NOTIFICATION_DEFAULT: i64 = 50;

/// The power levels of a room state.
///
/// Levels are read when asked for. The plain functions treat a value that
/// cannot be read as absent; the authorization rules deny the event instead.
#[derive(Debug, Clone, Copy)]
pub struct PowerLevels<'a> {
    rules: &'a Rules,
    content: Option<&'a Object>,
    create: &'a Pdu,
}

impl<'a> PowerLevels<'a> {
    /// The levels of a state with this `m.room.power_levels` event, if any, in
    /// the room of this create event.
    pub fn from_state(rules: &'a Rules, power_levels: Option<&'a Pdu>, create: &'a Pdu) -> Self {
        PowerLevels { rules, content: power_levels.map(|pdu| &pdu.content), create }
    }

    /// The level of a user.
    pub fn user(&self, user_id: &str) -> Level {
        self.try_user(user_id).unwrap_or(Level::Int(0))
    }

    /// The level that a user must have to send an event of a type.
    pub fn required(&self, kind: &str, is_state: bool) -> Level {
        let default = if is_state { "state_default" } else { "events_default" };
        self.try_required(kind, is_state).unwrap_or_else(|_| self.property(default))
    }

    /// The level needed to invite.
    pub fn invite(&self) -> Level {
        self.property("invite")
    }

    /// The level needed to kick.
    pub fn kick(&self) -> Level {
        self.property("kick")
    }

    /// The level needed to ban and unban.
    pub fn ban(&self) -> Level {
        self.property("ban")
    }

    /// The level needed to redact events of other servers' users.
    pub fn redact(&self) -> Level {
        self.property("redact")
    }

    /// The level needed to trigger a notification, for example `room`.
    pub fn notification(&self, key: &str) -> Level {
        let level = self.entry("notifications", key).ok().flatten();
        Level::Int(level.unwrap_or(NOTIFICATION_DEFAULT))
    }

    /// The users to whom the event gives levels, with those levels; creators
    /// with infinite levels are not among them.
    pub fn users(&self) -> Vec<(&'a str, i64)> {
        let users = self.content.and_then(|content| content.get("users")?.as_object());
        let read = |(user, level): (&'a String, &'a Json)| Some((user.as_str(), parse_level(self.rules, level)?));
        users.into_iter().flatten().filter_map(read).collect()
    }

    fn property(&self, name: &'static str) -> Level {
        self.try_property(name).unwrap_or_else(|_| Level::Int(default_of(name)))
    }

    /// A property such as `ban`, or its default.
    pub(crate) fn try_property(&self, name: &'static str) -> Result<Level, MalformedLevel> {
        let Some(value) = self.content.and_then(|content| content.get(name)) else {
            return Ok(Level::Int(default_of(name)));
        };
        read(self.rules, name, value).map(Level::Int)
    }

    /// The level of a user.
    pub(crate) fn try_user(&self, user_id: &str) -> Result<Level, MalformedLevel> {
        let creator = is_creator(self.rules, self.create, user_id);
        if creator && self.rules.privileged_creators {
            return Ok(Level::Infinite);
        }
        if creator && self.content.is_none() {
            return Ok(Level::Int(CREATOR_LEVEL));
        }
        match self.entry("users", user_id)? {
            Some(level) => Ok(Level::Int(level)),
            None => self.try_property("users_default"),
        }
    }

    /// The level that a user must have to send an event of a type.
    pub(crate) fn try_required(&self, kind: &str, is_state: bool) -> Result<Level, MalformedLevel> {
        match self.entry("events", kind)? {
            Some(level) => Ok(Level::Int(level)),
            None if is_state => self.try_property("state_default"),
            None => self.try_property("events_default"),
        }
    }

    /// An entry of `users`, `events` or `notifications`.
    fn entry(&self, map: &str, key: &str) -> Result<Option<i64>, MalformedLevel> {
        let entry = self.content.and_then(|content| content.get(map)?.get(key));
        entry.map(|value| read(self.rules, key, value)).transpose()
    }
}

fn default_of(name: &str) -> i64 {
    PROPERTIES.iter().find(|(property, _)| *property == name).map_or(0, |(_, level)| *level)
}

/// The creators of a room: the sender of the create event (11+) or its
/// `content.creator`, and in version 12 `additional_creators` too.
pub fn creators<'a>(rules: &Rules, create: &'a Pdu) -> Vec<&'a str> {
    let mut creators: Vec<&str> = creator(rules, create).into_iter().collect();
    if rules.privileged_creators {
        creators.extend(additional_creators(create));
    }
    creators
}

/// Whether a user is one of the room's [`creators`].
pub fn is_creator(rules: &Rules, create: &Pdu, user_id: &str) -> bool {
    creator(rules, create) == Some(user_id)
        || (rules.privileged_creators && additional_creators(create).any(|user| user == user_id))
}

/// The one creator who may join first.
pub(crate) fn creator<'a>(rules: &Rules, create: &'a Pdu) -> Option<&'a str> {
    if rules.creator_is_sender { Some(&create.sender) } else { create.content_str("creator") }
}

fn additional_creators(create: &Pdu) -> impl Iterator<Item = &str> {
    let listed = create.content.get("additional_creators").and_then(Json::as_array);
    listed.into_iter().flatten().filter_map(Json::as_str)
}

fn read(rules: &Rules, name: &str, value: &Json) -> Result<i64, MalformedLevel> {
    parse_level(rules, value).ok_or_else(|| MalformedLevel(name.to_owned()))
}

/// Reads one level as the room version allows it: integers everywhere,
/// strings in 1–9, floats (truncated) in 1–5. Larger than 64 bits saturates.
pub(crate) fn parse_level(rules: &Rules, value: &Json) -> Option<i64> {
    match value {
        Json::Int(level) => Some(*level),
        Json::String(text) if rules.string_power_levels => parse_string_level(text),
        Json::Number(text) if rules.float_power_levels => {
            let level: f64 = text.parse().ok()?;
            // The cast truncates toward zero and saturates.
            level.is_finite().then_some(level as i64)
        }
        _ => None,
    }
}

/// A base-10 integer with an optional sign, leading zeros and outer white space.
fn parse_string_level(text: &str) -> Option<i64> {
    let text = text.trim();
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let magnitude = digits.parse::<i64>().unwrap_or(i64::MAX);
    Some(if negative { -magnitude } else { magnitude })
}
