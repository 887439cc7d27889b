//! Users' push rules, as ruma understands them.

use std::collections::{BTreeMap, BTreeSet};

use ruma_common::power_levels::NotificationPowerLevels;
use ruma_common::push::{
    Action, AnyPushRuleRef, NewPushRule, PushConditionPowerLevelsCtx, PushConditionRoomCtx, RuleKind, Ruleset,
};
use ruma_common::room_version_rules::{AuthorizationRules, RoomPowerLevelsRules};
use ruma_common::serde::Raw;
use ruma_common::{OwnedRoomId, OwnedUserId};
use serde_json::{Value, json};

use super::reference::{Counts, Fact, Room};

/// The rules of all users.
pub struct Rules {
    /// Who made the rooms.
    creator: OwnedUserId,
    by_user: BTreeMap<String, Ruleset>,
    /// The threads that users follow (MSC4306), of those who ever followed one.
    followed: BTreeMap<String, BTreeSet<String>>,
}

fn kind_of(kind: &str) -> RuleKind {
    RuleKind::from(kind)
}

impl Rules {
    pub fn new(users: &[String], creator: &str) -> Self {
        let id = |user: &str| OwnedUserId::try_from(user).unwrap();
        let by_user = users.iter().map(|user| (user.clone(), Ruleset::server_default(&id(user)))).collect();
        Self { creator: id(creator), by_user, followed: BTreeMap::new() }
    }

    fn of(&mut self, user: &str) -> &mut Ruleset {
        self.by_user.get_mut(user).unwrap()
    }

    /// Puts a rule on top of the user's own of its kind, or in place of one of the same id.
    pub fn put(&mut self, user: &str, kind: &str, rule_id: &str, body: &Value) {
        let mut rule = body.clone();
        rule["rule_id"] = json!(rule_id);
        let new = match kind {
            "override" => NewPushRule::Override(serde_json::from_value(rule).unwrap()),
            "content" => NewPushRule::Content(serde_json::from_value(rule).unwrap()),
            "room" => NewPushRule::Room(serde_json::from_value(rule).unwrap()),
            "sender" => NewPushRule::Sender(serde_json::from_value(rule).unwrap()),
            _ => NewPushRule::Underride(serde_json::from_value(rule).unwrap()),
        };
        self.of(user).insert(new, None, None).unwrap();
    }

    pub fn delete(&mut self, user: &str, kind: &str, rule_id: &str) {
        self.of(user).remove(kind_of(kind), rule_id).unwrap();
    }

    pub fn enable(&mut self, user: &str, kind: &str, rule_id: &str, enabled: bool) {
        self.of(user).set_enabled(kind_of(kind), rule_id, enabled).unwrap();
    }

    pub fn set_actions(&mut self, user: &str, kind: &str, rule_id: &str, actions: &Value) {
        let actions = serde_json::from_value(actions.clone()).unwrap();
        self.of(user).set_actions(kind_of(kind), rule_id, actions).unwrap();
    }

    /// A user follows a thread, or does so no more.
    pub fn follow(&mut self, user: &str, root: &str, follows: bool) {
        if follows {
            self.followed.entry(user.to_owned()).or_default().insert(root.to_owned());
        } else if let Some(followed) = self.followed.get_mut(user) {
            followed.remove(root);
        }
    }

    /// What an event that is about to be added counts for a user; `None` if it does not notify.
    pub async fn judge(&self, room: &Room, fact: &Fact, user: &str) -> Option<Counts> {
        let mut event =
            json!({ "type": fact.kind, "sender": fact.sender, "content": fact.content, "event_id": fact.id });
        event["room_id"] = json!(room.id);
        if let Some(state_key) = &fact.state_key {
            event["state_key"] = json!(state_key);
        }
        let rules = RoomPowerLevelsRules::new(&AuthorizationRules::V12, [self.creator.clone()]);
        let power =
            PushConditionPowerLevelsCtx::new(BTreeMap::new(), 0_u8.into(), NotificationPowerLevels::new(), rules);
        let joined = u32::try_from(room.count("join")).unwrap();
        let name = room.current(super::reference::MEMBER, user).and_then(|content| content["displayname"].as_str());
        let context = PushConditionRoomCtx::new(
            OwnedRoomId::try_from(room.id.as_str()).unwrap(),
            joined.into(),
            OwnedUserId::try_from(user).unwrap(),
            name.unwrap_or_default().to_owned(),
        );
        let raw = Raw::<Value>::from_json_string(event.to_string()).unwrap();
        let context = context.with_power_levels(power);
        let found = self.by_user[user].get_match(&raw, &context).await;
        let is_early = matches!(found, Some(AnyPushRuleRef::Override(_) | AnyPushRuleRef::Content(_)));
        // Between these and the others stand the rules about threads.
        if let (false, Some(root), Some(followed)) = (is_early, replies_to(fact), self.followed.get(user)) {
            let notifies = fact.sender != user && followed.contains(root);
            return notifies.then_some(Counts { notifications: 1, highlights: 0 });
        }
        let actions = found.map_or(&[][..], AnyPushRuleRef::actions);
        let highlight = actions.iter().any(Action::is_highlight);
        let counts = Counts { notifications: 1, highlights: i64::from(highlight) };
        actions.iter().any(Action::should_notify).then_some(counts)
    }
}

/// The root of the thread in which an event is a reply.
fn replies_to(fact: &Fact) -> Option<&str> {
    let relation = &fact.content["m.relates_to"];
    relation["event_id"].as_str().filter(|_| relation["rel_type"] == "m.thread")
}
