//! The redaction algorithm per room version, by table and against `ruma-common`.

use event::{Json, Object, SUPPORTED_VERSIONS, redact};
use serde_json::json;

use crate::support::{Rng, canonical, object, rules, ruma_rules, seeds};

/// Every key that survives redaction somewhere, and some that never do.
const KEYS: &[&str] = &[
    "event_id",
    "type",
    "room_id",
    "sender",
    "state_key",
    "content",
    "hashes",
    "signatures",
    "depth",
    "prev_events",
    "prev_state",
    "auth_events",
    "origin",
    "origin_server_ts",
    "membership",
    "redacts",
    "unsigned",
    "age_ts",
    "replaces_state",
    "extra",
];

fn kept_top_level(version: &str) -> Vec<String> {
    let mut event: Object = KEYS.iter().map(|key| ((*key).to_owned(), Json::Int(1))).collect();
    event.insert("type".to_owned(), Json::from("x"));
    redact(rules(version), &event).into_keys().collect()
}

#[test]
fn rv2_top_level_keys() {
    let common = [
        "auth_events",
        "content",
        "depth",
        "event_id",
        "hashes",
        "origin_server_ts",
        "prev_events",
        "room_id",
        "sender",
        "signatures",
        "state_key",
        "type",
    ];
    for version in SUPPORTED_VERSIONS {
        let mut expected: Vec<&str> = common.to_vec();
        if !matches!(*version, "11" | "12") {
            expected.extend(["membership", "origin", "prev_state"]);
        }
        expected.sort_unstable();
        assert_eq!(kept_top_level(version), expected, "version {version}");
    }
}

/// What of `content` survives, as a list of keys.
fn kept(version: &str, kind: &str, content: &[&str]) -> String {
    let content: Object = content.iter().map(|key| ((*key).to_owned(), Json::Int(1))).collect();
    let kept = event::redact_content(rules(version), kind, &content);
    kept.into_keys().collect::<Vec<_>>().join(" ")
}

#[test]
fn rv2_content_keys() {
    let check = |kind: &str, content: &[&str], expected: &[(&str, &str)]| {
        for (versions, keys) in expected {
            for version in versions.split(' ') {
                assert_eq!(kept(version, kind, content), *keys, "{kind} in version {version}");
            }
        }
    };
    check(
        "m.room.member",
        &["membership", "join_authorised_via_users_server", "displayname", "reason"],
        &[("1 2 3 4 5 6 7 8", "membership"), ("9 10 11 12", "join_authorised_via_users_server membership")],
    );
    check(
        "m.room.create",
        &["creator", "room_version", "m.federate", "additional_creators"],
        &[("1 2 3 4 5 6 7 8 9 10", "creator"), ("11 12", "additional_creators creator m.federate room_version")],
    );
    check(
        "m.room.join_rules",
        &["join_rule", "allow", "extra"],
        &[("1 2 3 4 5 6 7", "join_rule"), ("8 9 10 11 12", "allow join_rule")],
    );
    check(
        "m.room.power_levels",
        &[
            "ban",
            "events",
            "events_default",
            "invite",
            "kick",
            "notifications",
            "redact",
            "state_default",
            "users",
            "users_default",
        ],
        &[
            ("1 2 3 4 5 6 7 8 9 10", "ban events events_default kick redact state_default users users_default"),
            ("11 12", "ban events events_default invite kick redact state_default users users_default"),
        ],
    );
    check(
        "m.room.history_visibility",
        &["history_visibility", "extra"],
        &[("1 2 3 4 5 6 7 8 9 10 11 12", "history_visibility")],
    );
    check("m.room.aliases", &["aliases", "extra"], &[("1 2 3 4 5", "aliases"), ("6 7 8 9 10 11 12", "")]);
    check("m.room.redaction", &["redacts", "reason"], &[("1 2 3 4 5 6 7 8 9 10", ""), ("11 12", "redacts")]);
    check("m.room.message", &["body"], &[("1 6 11 12", "")]);
}

#[test]
fn third_party_invites_keep_what_was_signed() {
    let content = object(json!({
        "membership": "invite",
        "third_party_invite": { "display_name": "x", "signed": { "token": "t" } },
    }));
    let kept = |version| event::redact_content(rules(version), "m.room.member", &content);
    assert!(!kept("10").contains_key("third_party_invite"));
    let expected = json!({ "membership": "invite", "third_party_invite": { "signed": { "token": "t" } } });
    assert_eq!(kept("11"), object(expected));
    let content = object(json!({ "third_party_invite": { "display_name": "x" } }));
    let kept = event::redact_content(rules("11"), "m.room.member", &content);
    assert_eq!(kept, object(json!({ "third_party_invite": {} })));
    let content = object(json!({ "third_party_invite": "x" }));
    assert!(event::redact_content(rules("11"), "m.room.member", &content).is_empty());
}

#[test]
fn redacting_twice_changes_nothing() {
    for seed in seeds(200) {
        let mut rng = Rng(seed);
        let event = random_event(&mut rng);
        for version in SUPPORTED_VERSIONS {
            let once = redact(rules(version), &event);
            assert_eq!(redact(rules(version), &once), once);
        }
    }
}

/// SEC-redaction.
#[test]
fn rv2_agrees_with_ruma() {
    for seed in seeds(400) {
        let mut rng = Rng(seed);
        let event = random_event(&mut rng);
        for version in SUPPORTED_VERSIONS {
            let theirs = ruma_common::canonical_json::redact(canonical(&event), &ruma_rules(version).redaction, None);
            let ours = canonical(&redact(rules(version), &event));
            assert_eq!(ours, theirs.unwrap(), "seed {seed}, version {version}: {event:?}");
        }
    }
}

/// An event with a random choice of keys of all tables.
pub fn random_event(rng: &mut Rng) -> Object {
    const TYPES: &[&str] = &[
        "m.room.member",
        "m.room.create",
        "m.room.join_rules",
        "m.room.power_levels",
        "m.room.history_visibility",
        "m.room.aliases",
        "m.room.redaction",
        "m.room.message",
    ];
    const CONTENT: &[&str] = &[
        "membership",
        "join_authorised_via_users_server",
        "creator",
        "join_rule",
        "allow",
        "ban",
        "events",
        "events_default",
        "invite",
        "kick",
        "redact",
        "state_default",
        "users",
        "users_default",
        "notifications",
        "history_visibility",
        "aliases",
        "redacts",
        "body",
    ];
    let mut content = Object::new();
    for key in CONTENT {
        if rng.one_in(2) {
            content.insert((*key).to_owned(), Json::Int(rng.below(100).try_into().unwrap()));
        }
    }
    if rng.one_in(2) {
        let invites = [
            json!({ "display_name": "x", "signed": { "mxid": "@a:b", "token": "t" } }),
            json!({ "display_name": "x", "signed": null }),
            json!({ "display_name": "x" }),
        ];
        let invite = rng.pick(&invites).clone();
        content.insert("third_party_invite".to_owned(), invite.into());
    }
    let mut event = Object::new();
    for key in KEYS {
        if rng.one_in(2) {
            event.insert((*key).to_owned(), Json::from(format!("ü\n{}", rng.below(100))));
        }
    }
    event.insert("type".to_owned(), Json::from(*rng.pick(TYPES)));
    event.insert("content".to_owned(), Json::Object(content));
    event
}
