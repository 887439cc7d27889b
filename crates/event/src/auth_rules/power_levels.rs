//! Rule 10: `m.room.power_levels`.
//!
//! A property that is absent has no value here: adding `ban` compares the new
//! value only, removing it the old one only. Implementations differ in whether
//! an absent property stands for its default; this is the reading that does not
//! split rooms shared with the most widespread server.

use std::collections::BTreeSet;

use super::{Context, Denied, denied};
use crate::ids;
use crate::json::{Json, Object};
use crate::pdu::Pdu;
use crate::power_levels::{Level, MalformedLevel, PROPERTIES, creators, parse_level};
use crate::room_version::Rules;

/// Rule 10, after rules 6, 8 and 9.
pub(super) fn check(context: &Context<'_>, current: Option<&Pdu>, sender_level: Level) -> Result<(), Denied> {
    let rules = context.rules;
    let new = context.event.content;
    if rules.integer_power_levels {
        check_integers(new)?;
    }
    check_users(rules, new)?;
    if rules.privileged_creators
        && let Some(users) = new.get("users").and_then(Json::as_object)
        && creators(rules, context.create).iter().any(|creator| users.contains_key(*creator))
    {
        return denied("10.4", "a creator is listed in `users`");
    }
    let Some(current) = current else { return Ok(()) };
    let change = Change { rules, old: &current.content, new, sender_level };
    change.check_properties()?;
    change.check_map("events", "10.7", |old, _| old > sender_level)?;
    if rules.limit_notifications {
        change.check_map("notifications", "10.7", |old, _| old > sender_level)?;
    }
    let sender = context.event.sender;
    change.check_map("users", "10.9", |old, user| user != sender && old >= sender_level)
}

/// Rules 10.1 and 10.2.
fn check_integers(new: &Object) -> Result<(), Denied> {
    for (name, _) in PROPERTIES {
        if new.get(name).is_some_and(|value| value.as_i64().is_none()) {
            return denied("10.1", format!("`{name}` is not an integer"));
        }
    }
    for name in ["events", "notifications"] {
        let all_integers = |map: &Object| map.values().all(|value| value.as_i64().is_some());
        if new.get(name).is_some_and(|value| !value.as_object().is_some_and(all_integers)) {
            return denied("10.2", format!("`{name}` is not an object of integers"));
        }
    }
    Ok(())
}

/// Rule 10.3. An absent `users` is an empty one.
fn check_users(rules: &Rules, new: &Object) -> Result<(), Denied> {
    let Some(users) = new.get("users") else { return Ok(()) };
    let Some(users) = users.as_object() else {
        return denied("10.3", "`users` is not an object");
    };
    for (user, level) in users {
        if !ids::is_user_id(user) {
            return denied("10.3", format!("`{user}` in `users` is not a user ID"));
        }
        if parse_level(rules, level).is_none() {
            return denied("10.3", format!("the level of {user} is not a power level"));
        }
    }
    Ok(())
}

/// The old and the new content, seen by a sender.
struct Change<'a> {
    rules: &'a Rules,
    old: &'a Object,
    new: &'a Object,
    sender_level: Level,
}

impl Change<'_> {
    /// Rule 10.6.
    fn check_properties(&self) -> Result<(), Denied> {
        for (name, _) in PROPERTIES {
            let old = self.level(name, self.old.get(name))?;
            let new = self.level(name, self.new.get(name))?;
            if old == new {
                continue;
            }
            if old.max(new).is_some_and(|level| level > self.sender_level) {
                return denied("10.6", format!("the sender may not change `{name}`"));
            }
        }
        Ok(())
    }

    /// Rules 10.7 to 10.10 for one map; `locked` tells for which old values an
    /// entry must stay as it is.
    fn check_map(&self, map: &str, rule: &'static str, locked: impl Fn(Level, &str) -> bool) -> Result<(), Denied> {
        let old_map = entries(self.old, map)?;
        let new_map = entries(self.new, map)?;
        let keys: BTreeSet<&String> = old_map.into_iter().chain(new_map).flat_map(Object::keys).collect();
        for key in keys {
            let old = self.level(key, old_map.and_then(|map| map.get(key)))?;
            let new = self.level(key, new_map.and_then(|map| map.get(key)))?;
            if old == new {
                continue;
            }
            let too_high = new.is_some_and(|level| level > self.sender_level);
            if too_high || old.is_some_and(|level| locked(level, key)) {
                return denied(rule, format!("the sender may not change `{key}` in `{map}`"));
            }
        }
        Ok(())
    }

    fn level(&self, name: &str, value: Option<&Json>) -> Result<Option<Level>, MalformedLevel> {
        let Some(value) = value else { return Ok(None) };
        match parse_level(self.rules, value) {
            Some(level) => Ok(Some(Level::Int(level))),
            None => Err(MalformedLevel(name.to_owned())),
        }
    }
}

/// A map of the content; absent is fine, another type is not.
fn entries<'a>(content: &'a Object, map: &str) -> Result<Option<&'a Object>, MalformedLevel> {
    match content.get(map) {
        None => Ok(None),
        Some(Json::Object(entries)) => Ok(Some(entries)),
        Some(_) => Err(MalformedLevel(map.to_owned())),
    }
}
