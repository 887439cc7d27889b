//! The default rules (client-server API, "Predefined Rules"), in their order.

use serde_json::{Value as Json, json};
use store::UserId;

use super::evaluate::FOLLOWS_THREAD;
use super::{Rule, RuleKind};

/// The default rules of a user, most important first within each kind.
pub(super) fn rules(user: &UserId) -> Vec<Rule> {
    let mut rules = overrides(user.as_str());
    rules.extend(underrides());
    rules
}

fn overrides(user: &str) -> Vec<Rule> {
    let rule =
        |id: &str, conditions: Vec<Json>, actions: Vec<Json>| default(RuleKind::Override, id, conditions, actions);
    let master = Rule { enabled: false, ..rule(".m.rule.master", vec![], vec![]) };
    vec![
        master,
        rule(".m.rule.suppress_notices", vec![matches("content.msgtype", "m.notice")], vec![]),
        rule(
            ".m.rule.invite_for_me",
            vec![matches("type", "m.room.member"), matches("content.membership", "invite"), matches("state_key", user)],
            vec![json!("notify"), sound("default")],
        ),
        rule(".m.rule.member_event", vec![matches("type", "m.room.member")], vec![]),
        rule(
            ".m.rule.is_user_mention",
            vec![json!({
                "kind": "event_property_contains", "key": "content.m\\.mentions.user_ids", "value": user,
            })],
            vec![json!("notify"), sound("default"), highlight()],
        ),
        rule(
            ".m.rule.is_room_mention",
            vec![
                json!({ "kind": "event_property_is", "key": "content.m\\.mentions.room", "value": true }),
                json!({ "kind": "sender_notification_permission", "key": "room" }),
            ],
            vec![json!("notify"), highlight()],
        ),
        rule(
            ".m.rule.tombstone",
            vec![matches("type", "m.room.tombstone"), matches("state_key", "")],
            vec![json!("notify"), highlight()],
        ),
        rule(".m.rule.reaction", vec![matches("type", "m.reaction")], vec![]),
        rule(".m.rule.room.server_acl", vec![matches("type", "m.room.server_acl"), matches("state_key", "")], vec![]),
        rule(
            ".m.rule.suppress_edits",
            vec![json!({
                "kind": "event_property_is", "key": "content.m\\.relates_to.rel_type", "value": "m.replace",
            })],
            vec![],
        ),
    ]
}

fn underrides() -> Vec<Rule> {
    let rule =
        |id: &str, conditions: Vec<Json>, actions: Vec<Json>| default(RuleKind::Underride, id, conditions, actions);
    let two = || json!({ "kind": "room_member_count", "is": "2" });
    vec![
        rule(".m.rule.call", vec![matches("type", "m.call.invite")], vec![json!("notify"), sound("ring")]),
        rule(
            ".m.rule.encrypted_room_one_to_one",
            vec![two(), matches("type", "m.room.encrypted")],
            vec![json!("notify"), sound("default")],
        ),
        rule(
            ".m.rule.room_one_to_one",
            vec![two(), matches("type", "m.room.message")],
            vec![json!("notify"), sound("default")],
        ),
        rule(".m.rule.message", vec![matches("type", "m.room.message")], vec![json!("notify")]),
        rule(".m.rule.encrypted", vec![matches("type", "m.room.encrypted")], vec![json!("notify")]),
    ]
}

/// The rules of users who follow threads (MSC4306): a thread notifies if it is followed, whatever holds for the room, and
/// else does not.
pub(super) fn about_threads() -> Vec<Rule> {
    let rule = |subscribed: bool, id: &str, actions: Vec<Json>| {
        let condition = json!({ "kind": FOLLOWS_THREAD, "subscribed": subscribed });
        default(RuleKind::Postcontent, id, vec![condition], actions)
    };
    vec![
        rule(false, ".io.element.msc4306.rule.unsubscribed_thread", vec![]),
        rule(true, ".io.element.msc4306.rule.subscribed_thread", vec![json!("notify"), sound("default")]),
    ]
}

fn default(kind: RuleKind, id: &str, conditions: Vec<Json>, actions: Vec<Json>) -> Rule {
    Rule { kind, rule_id: id.to_owned(), default: true, enabled: true, actions, conditions, pattern: None }
}

fn matches(key: &str, pattern: &str) -> Json {
    json!({ "kind": "event_match", "key": key, "pattern": pattern })
}

fn sound(name: &str) -> Json {
    json!({ "set_tweak": "sound", "value": name })
}

fn highlight() -> Json {
    json!({ "set_tweak": "highlight" })
}
