//! The authorization rules as tables, per room version.

use std::sync::Arc;

use event::auth_rules::{AuthEvent, auth_types, check, check_against_auth_events};
use event::{Pdu, SUPPORTED_VERSIONS, SigningKey, Template};
use serde_json::{Value, json};

use crate::room::{ALICE, BOB, CAROL, State, merge};
use crate::support::{object, pdu, rules};

/// The memberships that a state can hold; `none` is no event at all.
const MEMBERSHIPS: [&str; 6] = ["none", "invite", "join", "leave", "ban", "knock"];

fn with_membership(state: &State, user: &str, membership: &str) -> State {
    let mut state = state.clone();
    if membership != "none" {
        state.member(user, membership);
    }
    state
}

/// The current memberships from which a step is allowed.
fn allowed_from(state: &State, user: &str, step: impl Fn(&mut State) -> &'static str) -> String {
    let allowed = |membership: &&str| step(&mut with_membership(state, user, membership)) == "ok";
    MEMBERSHIPS.into_iter().filter(allowed).collect::<Vec<_>>().join(" ")
}

/// SEC-unknown-rules.
#[test]
fn joining_by_join_rule_and_membership() {
    let check = |versions: &str, join_rule: Option<&str>, expected: &str| {
        for version in versions.split(' ') {
            let mut state = State::public(version);
            state.entries.remove(&("m.room.join_rules".to_owned(), String::new()));
            if let Some(join_rule) = join_rule {
                state.join_rule(join_rule);
            }
            let allowed = allowed_from(&state, CAROL, |state| state.membership(CAROL, CAROL, "join"));
            assert_eq!(allowed, expected, "{join_rule:?} in version {version}");
        }
    };
    let all = "1 2 3 4 5 6 7 8 9 10 11 12";
    check(all, Some("public"), "none invite join leave knock");
    check(all, Some("invite"), "invite join");
    check(all, None, "invite join");
    check(all, Some("private"), "");
    check(all, Some("x.custom"), "");
    check("1 2 3 4 5 6", Some("knock"), "");
    check("7 8 9 10 11 12", Some("knock"), "invite join");
    check("1 2 3 4 5 6 7", Some("restricted"), "");
    check("8 9 10 11 12", Some("restricted"), "invite join");
    check("1 2 3 4 5 6 7 8 9", Some("knock_restricted"), "");
    check("10 11 12", Some("knock_restricted"), "invite join");
}

#[test]
fn rv5_the_creator_joins_first_and_only_right_after_create() {
    for version in SUPPORTED_VERSIONS {
        let mut state = State::new(version);
        let first = |state: &mut State, user: &str, prev: Value| {
            let mut join = state.event(user, "m.room.member", Some(user), json!({ "membership": "join" }));
            join["prev_events"] = prev;
            state.check_json(join).map_or_else(|denied| denied.rule, |()| "ok")
        };
        let create = state.create.event_id.to_string();
        let after_create = state.edges(&[&create]);
        assert_eq!(first(&mut state, ALICE, after_create.clone()), "ok");
        assert_eq!(first(&mut state, BOB, after_create.clone()), "5.3.7");
        let two = state.edges(&[&create, "$other"]);
        assert_eq!(first(&mut state, ALICE, two), "5.3.7");
        let later = state.edges(&["$other"]);
        assert_eq!(first(&mut state, ALICE, later), "5.3.7");
        state.member(ALICE, "ban");
        assert_eq!(first(&mut state, ALICE, after_create), "ok");
    }
}

#[test]
fn the_creator_who_joins_first_is_named_in_content_until_version_10() {
    for version in SUPPORTED_VERSIONS {
        let mut state = State::with_create(version, json!({ "creator": BOB }));
        let create = state.create.event_id.to_string();
        let mut verdict = |user: &str| {
            let mut join = state.event(user, "m.room.member", Some(user), json!({ "membership": "join" }));
            join["prev_events"] = state.edges(&[&create]);
            state.check_json(join).is_ok()
        };
        let by_content = !rules(version).creator_is_sender;
        assert_eq!((verdict(ALICE), verdict(BOB)), (!by_content, by_content), "version {version}");
    }
}

#[test]
fn restricted_joins_need_somebody_who_may_invite() {
    for version in ["8", "9", "10", "11", "12"] {
        let rules_with = |join_rule: &str, invite: i64| {
            let mut state = State::public(version);
            state.join_rule(join_rule);
            state.power_levels(json!({ "users": { BOB: 10 }, "invite": invite }));
            state
        };
        let verdict = |mut state: State, via: Value| {
            let content = json!({ "membership": "join", "join_authorised_via_users_server": via });
            state.verdict(CAROL, "m.room.member", Some(CAROL), content)
        };
        assert_eq!(verdict(rules_with("restricted", 10), json!(BOB)), "ok");
        assert_eq!(verdict(rules_with("restricted", 11), json!(BOB)), "5.3.5.2");
        assert_eq!(verdict(rules_with("restricted", 0), json!("@dan:d.example")), "5.3.5.2");
        assert_eq!(verdict(rules_with("restricted", 0), json!(7)), "5.3.5.2");
        assert_eq!(verdict(rules_with("invite", 0), json!(BOB)), "5.3.7");
        let mut banned = rules_with("restricted", 0);
        banned.member(CAROL, "ban");
        assert_eq!(verdict(banned, json!(BOB)), "5.3.3");
        let both = if matches!(version, "8" | "9") { "5.3.7" } else { "ok" };
        assert_eq!(verdict(rules_with("knock_restricted", 0), json!(BOB)), both);
    }
}

#[test]
fn nobody_joins_or_knocks_for_another() {
    for version in SUPPORTED_VERSIONS {
        let mut state = State::public(version);
        assert_eq!(state.membership(ALICE, CAROL, "join"), "5.3.2");
        state.join_rule("knock");
        let expected = if rules(version).knock { "5.7.2" } else { "5.8" };
        assert_eq!(state.membership(ALICE, CAROL, "knock"), expected);
    }
}

#[test]
fn knocking_by_join_rule_and_membership() {
    let check = |versions: &str, join_rule: &str, expected: &str| {
        for version in versions.split(' ') {
            let mut state = State::public(version);
            state.join_rule(join_rule);
            let allowed = allowed_from(&state, CAROL, |state| state.membership(CAROL, CAROL, "knock"));
            assert_eq!(allowed, expected, "{join_rule} in version {version}");
        }
    };
    check("1 2 3 4 5 6", "knock", "");
    check("7 8 9 10 11 12", "knock", "none leave knock");
    check("7 8 9", "knock_restricted", "");
    check("10 11 12", "knock_restricted", "none leave knock");
    check("7 8 9 10 11 12", "public", "");
    check("8 9 10 11 12", "restricted", "");
}

#[test]
fn leaving() {
    for version in SUPPORTED_VERSIONS {
        let state = State::public(version);
        let allowed = allowed_from(&state, CAROL, |state| state.membership(CAROL, CAROL, "leave"));
        let expected = if rules(version).knock { "invite join knock" } else { "invite join" };
        assert_eq!(allowed, expected, "version {version}");
    }
}

/// Kick, ban, unban and invite by Bob at each level against Carol at 10.
#[test]
fn acting_on_others_by_level() {
    let levels = json!({ "kick": 20, "ban": 30, "invite": 15 });
    for version in SUPPORTED_VERSIONS {
        let verdict = |level: i64, target_level: i64, current: &str, membership: &str| {
            let mut state = State::public(version);
            let mut content = json!({ "users": { BOB: level, CAROL: target_level } });
            merge(&mut content, levels.clone());
            state.power_levels(content);
            with_membership(&state, CAROL, current).membership(BOB, CAROL, membership)
        };
        for current in ["none", "invite", "join", "leave", "knock"] {
            assert_eq!(verdict(20, 10, current, "leave"), "ok", "kick from {current}");
        }
        assert_eq!(verdict(19, 10, "join", "leave"), "5.5.5");
        assert_eq!(verdict(20, 20, "join", "leave"), "5.5.5", "equals cannot kick");
        assert_eq!(verdict(20, 10, "ban", "leave"), "5.5.3", "unban needs the ban level too");
        assert_eq!(verdict(30, 10, "ban", "leave"), "ok");
        assert_eq!(verdict(30, 30, "ban", "leave"), "5.5.5");
        for current in MEMBERSHIPS {
            assert_eq!(verdict(30, 10, current, "ban"), "ok", "ban from {current}");
            assert_eq!(verdict(29, 10, current, "ban"), "5.6.3");
            assert_eq!(verdict(30, 30, current, "ban"), "5.6.3");
            let may_invite = if matches!(current, "join" | "ban") { "5.4.3" } else { "ok" };
            assert_eq!(verdict(15, 99, current, "invite"), may_invite, "invite from {current}");
        }
        assert_eq!(verdict(14, 0, "none", "invite"), "5.4.5");
    }
}

#[test]
fn those_who_act_must_be_joined() {
    for version in SUPPORTED_VERSIONS {
        for current in ["none", "invite", "leave", "ban", "knock"] {
            let mut state = State::new(version);
            state.member(ALICE, "join").join_rule("public");
            let mut state = with_membership(&state, BOB, current);
            assert_eq!(state.membership(BOB, CAROL, "invite"), "5.4.2");
            assert_eq!(state.membership(BOB, CAROL, "leave"), "5.5.2");
            assert_eq!(state.membership(BOB, CAROL, "ban"), "5.6.1");
            assert_eq!(state.verdict(BOB, "m.room.message", None, json!({})), "6");
            assert_eq!(state.verdict(BOB, "m.room.third_party_invite", Some("t"), json!({})), "6");
        }
    }
}

#[test]
fn malformed_memberships() {
    for version in SUPPORTED_VERSIONS {
        let mut state = State::public(version);
        let mut member = |state_key, content| state.verdict(BOB, "m.room.member", state_key, content);
        assert_eq!(member(None, json!({ "membership": "join" })), "5.1");
        assert_eq!(member(Some(BOB), json!({})), "5.1");
        assert_eq!(member(Some(BOB), json!({ "membership": 1 })), "5.1");
        assert_eq!(member(Some(BOB), json!({ "membership": "visitor" })), "5.8");
        assert_eq!(member(Some("bob"), json!({ "membership": "join" })), "5.1");
    }
}

#[test]
fn required_levels_and_foreign_state_keys() {
    for version in SUPPORTED_VERSIONS {
        let mut state = State::public(version);
        state.power_levels(json!({
            "users": { BOB: 20 }, "events": { "x.high": 21, "x.own": 20 }, "state_default": 20,
            "events_default": 5,
        }));
        let mut send = |kind, state_key| state.verdict(BOB, kind, state_key, json!({}));
        assert_eq!(send("x.high", None), "8");
        assert_eq!(send("x.high", Some("")), "8");
        assert_eq!(send("x.own", None), "ok");
        assert_eq!(send("x.any", Some("")), "ok");
        assert_eq!(send("x.any", Some(BOB)), "ok");
        assert_eq!(send("x.any", Some(ALICE)), "9");
        assert_eq!(send("x.any", Some("@")), "9");
        state.member(CAROL, "join");
        assert_eq!(state.verdict(CAROL, "x.any", None, json!({})), "8");
    }
}

#[test]
fn third_party_invites_of_the_room_need_the_invite_level() {
    for version in SUPPORTED_VERSIONS {
        let mut state = State::public(version);
        let mut verdict = |level: i64| {
            state.power_levels(json!({ "users": { BOB: level }, "invite": 10, "state_default": 99 }));
            state.verdict(BOB, "m.room.third_party_invite", Some("token"), json!({}))
        };
        assert_eq!((verdict(10), verdict(9)), ("ok", "7.1"));
    }
}

#[test]
fn third_party_invites_are_signed_by_a_key_of_the_room() {
    let identity_server = SigningKey::generate(&[3; 32]);
    let key = identity_server.public_b64();
    let signed = |mxid: &str, token: &str| {
        let mut signed = object(json!({ "mxid": mxid, "token": token }));
        identity_server.sign_json(&mut signed, "id.example");
        serde_json::to_value(signed).unwrap()
    };
    for version in SUPPORTED_VERSIONS {
        let verdict = |offer: Value, signed: Value, sender: &str, carol: &str| {
            let mut state = with_membership(&State::public(version), CAROL, carol);
            state.other("m.room.third_party_invite", "token", offer);
            let invite = json!({ "membership": "invite", "third_party_invite": { "signed": signed } });
            state.verdict(sender, "m.room.member", Some(CAROL), invite)
        };
        let good = signed(CAROL, "token");
        let single = json!({ "public_key": key });
        assert_eq!(verdict(single.clone(), good.clone(), ALICE, "none"), "ok");
        assert_eq!(verdict(single.clone(), good.clone(), ALICE, "ban"), "5.4.1.1");
        let listed = json!({ "public_key": "AAAA", "public_keys": [{}, { "public_key": key }] });
        assert_eq!(verdict(listed, good.clone(), ALICE, "none"), "ok");
        assert_eq!(verdict(json!({}), good.clone(), ALICE, "none"), "5.4.1.8");
        assert_eq!(verdict(single.clone(), good.clone(), BOB, "none"), "5.4.1.6");
        assert_eq!(verdict(single.clone(), json!("x"), ALICE, "none"), "5.4.1.2");
        assert_eq!(verdict(single.clone(), json!({ "token": "token" }), ALICE, "none"), "5.4.1.3");
        assert_eq!(verdict(single.clone(), signed(BOB, "token"), ALICE, "none"), "5.4.1.4");
        assert_eq!(verdict(single.clone(), signed(CAROL, "other"), ALICE, "none"), "5.4.1.5");
        let mut forged = good.clone();
        forged["extra"] = json!(1);
        assert_eq!(verdict(single.clone(), forged, ALICE, "none"), "5.4.1.8");
        let mut unsigned = good.clone();
        unsigned["signatures"] = json!({});
        assert_eq!(verdict(single, unsigned, ALICE, "none"), "5.4.1.8");
    }
}

#[test]
fn rv9_rooms_that_do_not_federate() {
    for version in SUPPORTED_VERSIONS {
        let mut state = State::with_create(version, json!({ "m.federate": false }));
        state.join_rule("public");
        assert_eq!(state.membership(BOB, BOB, "join"), "4");
        assert_eq!(state.membership("@eve:a.example", "@eve:a.example", "join"), "ok");
        assert_eq!(state.membership("@eve:A.example", "@eve:A.example", "join"), "4");
    }
}

#[test]
fn rv10_aliases_have_a_rule_of_their_own_until_version_5() {
    for version in SUPPORTED_VERSIONS {
        let mut state = State::public(version);
        let special = rules(version).special_aliases;
        let mut verdict = |sender: &str, state_key| state.verdict(sender, "m.room.aliases", state_key, json!({}));
        let (own, other) = if special { ("ok", "m.room.aliases") } else { ("8", "8") };
        assert_eq!(verdict(BOB, Some("b.example")), own, "version {version}");
        assert_eq!(verdict(BOB, Some("a.example")), other);
        assert_eq!(verdict(BOB, None), if special { "m.room.aliases" } else { "ok" });
        assert_eq!(verdict(CAROL, Some("c.example")), if special { "ok" } else { "6" });
    }
}

#[test]
fn redactions_have_a_rule_until_version_2() {
    for version in SUPPORTED_VERSIONS {
        let mut state = State::public(version);
        state.power_levels(json!({ "users": { BOB: 49 } }));
        let mut verdict = |redacts: &str| {
            let mut event = state.event(BOB, "m.room.redaction", None, json!({}));
            event["redacts"] = redacts.into();
            state.check_json(event).map_or_else(|denied| denied.rule, |()| "ok")
        };
        assert_eq!(verdict("$x:b.example"), "ok");
        let expected = if rules(version).redaction_auth_rule { "m.room.redaction" } else { "ok" };
        assert_eq!(verdict("$x:a.example"), expected, "version {version}");
        let redacted = state.event(BOB, "m.room.redaction", None, json!({}));
        assert_eq!(state.check_json(redacted), Ok(()), "version {version}");
        state.power_levels(json!({ "users": { BOB: 50 } }));
        let mut event = state.event(BOB, "m.room.redaction", None, json!({}));
        event["redacts"] = "$x:a.example".into();
        assert_eq!(state.check_json(event), Ok(()));
    }
}

#[test]
fn create_events() {
    for version in SUPPORTED_VERSIONS {
        let rules = rules(version);
        let verdict = |replace: Value| {
            let mut event = State::new(version).event(ALICE, "m.room.create", Some(""), json!({ "creator": ALICE }));
            event["prev_events"] = json!([]);
            if rules.special_create {
                event.as_object_mut().unwrap().remove("room_id");
            }
            merge(&mut event, replace);
            let event = pdu(rules, event);
            check(rules, &event, &State::new(version).entries, &event).map_or_else(|denied| denied.rule, |()| "ok")
        };
        assert_eq!(verdict(json!({})), "ok");
        let prev = State::new(version).edges(&["$x"]);
        assert_eq!(verdict(json!({ "prev_events": prev })), "1.1");
        assert_eq!(verdict(json!({ "room_id": "!r:other.example" })), "1.2");
        let own = if rules.special_create { "1.2" } else { "ok" };
        assert_eq!(verdict(json!({ "room_id": "!r:a.example" })), own);
        let of = |room_version: Value| json!({ "content": { "creator": ALICE, "room_version": room_version } });
        assert_eq!(verdict(of(json!("7"))), "ok");
        assert_eq!(verdict(of(json!("org.unknown"))), "1.3");
        assert_eq!(verdict(of(json!(11))), "1.3");
        let nobody = if rules.creator_is_sender { "ok" } else { "create without creator" };
        assert_eq!(verdict(json!({ "content": {} })), nobody);
        for bad in [json!("@a:x"), json!(["a"]), json!([BOB, 1]), json!([{}])] {
            let content = json!({ "content": { "creator": ALICE, "additional_creators": bad } });
            let expected = if rules.privileged_creators { "1.4" } else { "ok" };
            assert_eq!(verdict(content), expected, "version {version}");
        }
        let content = json!({ "content": { "creator": ALICE, "additional_creators": [BOB, "@é:x"] } });
        assert_eq!(verdict(content), "ok");
    }
}

/// Bob, at level 50, replaces one `m.room.power_levels` content by another.
fn change(version: &str, old: Value, new: Value) -> &'static str {
    let mut state = State::public(version);
    let with_bob = |mut content: Value| {
        let mut users = json!({ BOB: 50 });
        merge(&mut users, content["users"].take());
        content["users"] = users;
        content
    };
    state.power_levels(with_bob(old));
    state.verdict(BOB, "m.room.power_levels", Some(""), with_bob(new))
}

#[test]
fn changing_levels() {
    for version in SUPPORTED_VERSIONS {
        let check = |old: Value, new: Value, expected: &str| {
            assert_eq!(change(version, old.clone(), new.clone()), expected, "{version}: {old} to {new}");
        };
        for name in ["users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"] {
            // `state_default` above his level would keep him from sending at all.
            let first = if name == "state_default" { "8" } else { "10.6" };
            check(json!({ name: 50 }), json!({ name: 40 }), "ok");
            check(json!({ name: 51 }), json!({ name: 40 }), first);
            check(json!({ name: 51 }), json!({ name: 51, "x": 1 }), if first == "8" { "8" } else { "ok" });
            check(json!({ name: 40 }), json!({ name: 51 }), "10.6");
            check(json!({}), json!({ name: 51 }), "10.6");
            check(json!({}), json!({ name: 50 }), "ok");
            check(json!({ name: 50 }), json!({}), "ok");
            check(json!({ name: 51 }), json!({}), first);
        }
        check(json!({ "events": { "x": 50 } }), json!({ "events": { "x": 50, "y": 50 } }), "ok");
        check(json!({ "events": { "x": 51 } }), json!({ "events": { "x": 51 } }), "ok");
        check(json!({ "events": { "x": 51 } }), json!({ "events": { "x": 50 } }), "10.7");
        check(json!({ "events": { "x": 51 } }), json!({}), "10.7");
        check(json!({}), json!({ "events": { "x": 51 } }), "10.7");
        let notifications = if rules(version).limit_notifications { "10.7" } else { "ok" };
        check(json!({ "notifications": { "room": 51 } }), json!({}), notifications);
        check(json!({}), json!({ "notifications": { "room": 51 } }), notifications);
    }
}

#[test]
fn rv5_changing_levels_of_users() {
    for version in SUPPORTED_VERSIONS {
        let check = |old: Value, new: Value, expected: &str| {
            let verdict = change(version, json!({ "users": old }), json!({ "users": new }));
            assert_eq!(verdict, expected, "{version}: {old} to {new}");
        };
        check(json!({}), json!({ CAROL: 50 }), "ok");
        check(json!({}), json!({ CAROL: 51 }), "10.9");
        check(json!({ CAROL: 49 }), json!({ CAROL: 50 }), "ok");
        check(json!({ CAROL: 49 }), json!({}), "ok");
        check(json!({ CAROL: 50 }), json!({ CAROL: 49 }), "10.9");
        check(json!({ CAROL: 50 }), json!({}), "10.9");
        check(json!({ CAROL: 50 }), json!({ CAROL: 50 }), "ok");
        check(json!({ CAROL: 51 }), json!({ CAROL: 50 }), "10.9");
        check(json!({}), json!({ BOB: 10 }), "ok");
        check(json!({}), json!({ BOB: 51 }), "10.9");
    }
}

/// SEC-unknown-rules.
#[test]
fn rv10_values_that_are_no_levels() {
    for version in SUPPORTED_VERSIONS {
        let rules = rules(version);
        let check = |new: Value, expected: &str| {
            assert_eq!(change(version, json!({}), new.clone()), expected, "{version}: {new}");
        };
        let strings = |rule: &'static str| if rules.string_power_levels { "ok" } else { rule };
        check(json!({ "users": { CAROL: "10" } }), strings("10.3"));
        check(json!({ "ban": " +10 " }), strings("10.1"));
        check(json!({ "events": { "x": "1" } }), strings("10.2"));
        check(json!({ "notifications": { "room": "1" } }), strings("10.2"));
        check(json!({ "users": { CAROL: "1.0" } }), "10.3");
        check(json!({ "users": { CAROL: null } }), "10.3");
        check(json!({ "users": { "carol": 1 } }), "10.3");
        let malformed = |rule: &'static str| if rules.integer_power_levels { rule } else { "power levels" };
        check(json!({ "ban": null }), malformed("10.1"));
        check(json!({ "events": [] }), malformed("10.2"));
        check(json!({ "kick": true }), malformed("10.1"));
    }
}

#[test]
fn the_first_power_levels_are_free() {
    for version in SUPPORTED_VERSIONS {
        let mut state = State::new(version);
        state.member(ALICE, "join");
        let content = json!({ "users": { BOB: 500 }, "ban": 1000 });
        assert_eq!(state.verdict(ALICE, "m.room.power_levels", Some(""), content), "ok");
        state.member(BOB, "join");
        assert_eq!(state.verdict(BOB, "m.room.power_levels", Some(""), json!({})), "8");
    }
}

#[test]
fn creators_are_not_listed_in_version_12() {
    let listed = json!({ "users": { ALICE: 100 } });
    let mut state = State::with_create("12", json!({ "additional_creators": [BOB] }));
    state.member(ALICE, "join").member(BOB, "join");
    let mut verdict = |content: &Value| state.verdict(BOB, "m.room.power_levels", Some(""), content.clone());
    assert_eq!(verdict(&listed), "10.4");
    assert_eq!(verdict(&json!({ "users": { BOB: 1 } })), "10.4");
    assert_eq!(verdict(&json!({ "users": { CAROL: 1 } })), "ok");
    let mut state = State::public("11");
    assert_eq!(state.verdict(ALICE, "m.room.power_levels", Some(""), listed), "ok");
}

#[test]
fn creators_cannot_be_kicked_or_banned_in_version_12() {
    let mut state = State::with_create("12", json!({ "additional_creators": [CAROL] }));
    state.member(ALICE, "join").member(CAROL, "join").member(BOB, "join");
    state.power_levels(json!({ "users": { BOB: 9_007_199_254_740_991_i64 } }));
    assert_eq!(state.membership(BOB, ALICE, "ban"), "5.6.3");
    assert_eq!(state.membership(BOB, CAROL, "leave"), "5.5.5");
    assert_eq!(state.membership(ALICE, CAROL, "leave"), "5.5.5", "creators are equals");
    assert_eq!(state.membership(CAROL, BOB, "ban"), "ok");
}

/// The auth events that the state provides for an event.
fn select(state: &State, event: &Pdu) -> Vec<AuthEvent> {
    auth_types(state.rules, &event.sender, &event.kind, event.state_key.as_deref(), &event.content)
        .iter()
        .filter_map(|entry| state.entries.get(entry))
        .map(|pdu| AuthEvent { pdu: pdu.clone(), rejected: false })
        .collect()
}

#[test]
fn auth_events_are_checked_themselves() {
    for version in SUPPORTED_VERSIONS {
        let mut state = State::public(version);
        let topic = state.event(ALICE, "m.room.topic", Some(""), json!({}));
        let auth = select(&state, &pdu(state.rules, topic.clone()));
        let mut other = state.clone();
        let verdict = |auth: &[AuthEvent], known: &[AuthEvent]| {
            let mut event = topic.clone();
            let ids: Vec<&str> = auth.iter().map(|auth| auth.pdu.event_id.as_str()).collect();
            event["auth_events"] = state.edges(&ids);
            let event = pdu(state.rules, event);
            check_against_auth_events(state.rules, &event, known, &state.create)
                .map_or_else(|denied| denied.rule, |()| "ok")
        };
        assert_eq!(verdict(&auth, &auth), "ok", "version {version}");
        assert_eq!(verdict(&auth, &auth[1..]), "3", "missing");

        let mut twice = auth.clone();
        twice.push(auth[0].clone());
        assert_eq!(verdict(&twice, &twice), "3.1");
        other.power_levels(json!({ "users": {} }));
        let mut twice = auth.clone();
        let power_levels = other.get("m.room.power_levels").unwrap().clone();
        twice.push(AuthEvent { pdu: power_levels, rejected: false });
        assert_eq!(verdict(&twice, &twice), "3.1");

        let mut irrelevant = auth.clone();
        let join_rules = state.get("m.room.join_rules").unwrap().clone();
        irrelevant.push(AuthEvent { pdu: join_rules, rejected: false });
        assert_eq!(verdict(&irrelevant, &irrelevant), "3.2");

        let mut rejected = auth.clone();
        rejected[1].rejected = true;
        assert_eq!(verdict(&rejected, &rejected), "3.3");

        let mut with_create = auth.clone();
        with_create.retain(|auth| auth.pdu.kind != "m.room.create");
        if state.rules.special_create {
            assert_eq!(with_create.len(), auth.len());
            with_create.push(AuthEvent { pdu: state.create.clone(), rejected: false });
            assert_eq!(verdict(&with_create, &with_create), "3.2");
        } else {
            assert_eq!(verdict(&with_create, &with_create), "3.4");
        }

        let foreign = State::with_create(version, json!({ "x": 1 }));
        let mut moved = auth.clone();
        let mut member = other.event(ALICE, "m.room.member", Some(ALICE), json!({ "membership": "join" }));
        member["room_id"] = if state.rules.special_create {
            serde_json::to_value(&foreign.create.room_id).unwrap()
        } else {
            json!("!other:a.example")
        };
        let position = moved.iter().position(|auth| auth.pdu.kind == "m.room.member").unwrap();
        moved[position].pdu = pdu(state.rules, member);
        assert_eq!(verdict(&moved, &moved), "3.5");
    }
}

/// SEC-state-resets.
#[test]
fn events_of_another_room_are_denied() {
    for version in SUPPORTED_VERSIONS {
        let mut state = State::public(version);
        let mut event = state.event(ALICE, "m.room.topic", Some(""), json!({}));
        event["room_id"] = json!("!other:a.example");
        let event = pdu(state.rules, event);
        let denied = check_against_auth_events(state.rules, &event, &[], &state.create).unwrap_err();
        assert_eq!(denied.rule, "2");
    }
}

#[test]
fn selection_of_auth_events() {
    let check = |versions: &str, kind: &str, state_key: Option<&str>, content: Value, expected: &[&str]| {
        for version in versions.split(' ') {
            let selected = auth_types(rules(version), ALICE, kind, state_key, &object(content.clone()));
            let selected: Vec<String> =
                selected.into_iter().map(|(kind, key)| format!("{}|{key}", kind.replace("m.room.", ""))).collect();
            assert_eq!(selected, expected, "{kind} {content} in version {version}");
        }
    };
    let (old, all) = ("1 6 7 11", "1 2 3 4 5 6 7 8 9 10 11 12");
    let (create, levels, alice, join_rules) = ("create|", "power_levels|", "member|@alice:a.example", "join_rules|");
    let bob = "member|@bob:b.example";
    check(all, "m.room.create", Some(""), json!({}), &[]);
    check(old, "m.room.message", None, json!({}), &[create, levels, alice]);
    check("12", "m.room.message", None, json!({}), &[levels, alice]);
    for membership in ["join", "invite", "knock"] {
        let content = json!({ "membership": membership });
        check(old, "m.room.member", Some(ALICE), content.clone(), &[create, levels, alice, join_rules]);
        check("12", "m.room.member", Some(BOB), content, &[levels, alice, bob, join_rules]);
    }
    for membership in ["leave", "ban", "other"] {
        let content = json!({ "membership": membership });
        check(old, "m.room.member", Some(BOB), content, &[create, levels, alice, bob]);
    }
    let invite = json!({ "membership": "invite", "third_party_invite": { "signed": { "token": "tok" } } });
    let expected = [levels, alice, bob, join_rules, "third_party_invite|tok"];
    check("12", "m.room.member", Some(BOB), invite, &expected);
    let join = json!({ "membership": "join", "join_authorised_via_users_server": BOB });
    check("1 7", "m.room.member", Some(ALICE), join.clone(), &[create, levels, alice, join_rules]);
    check("8 11", "m.room.member", Some(ALICE), join.clone(), &[create, levels, alice, join_rules, bob]);
    check("12", "m.room.member", Some(ALICE), join, &[levels, alice, join_rules, bob]);
    let leave = json!({ "membership": "leave", "join_authorised_via_users_server": BOB });
    check("12", "m.room.member", Some(ALICE), leave, &[levels, alice]);
}

#[test]
fn templates_are_checked_like_events() {
    for version in SUPPORTED_VERSIONS {
        let state = State::public(version);
        let verdict = |sender: &str, kind: &str, state_key: Option<&str>| {
            let template = Template {
                room_id: Some(state.create.room_id.clone()),
                sender: sender.to_owned(),
                kind: kind.to_owned(),
                state_key: state_key.map(str::to_owned),
                ..Template::default()
            };
            check(state.rules, &template, &state.entries, &state.create).map_or_else(|denied| denied.rule, |()| "ok")
        };
        assert_eq!(verdict(BOB, "m.room.message", None), "ok");
        assert_eq!(verdict(BOB, "m.room.topic", Some("")), "8");
        assert_eq!(verdict(CAROL, "m.room.message", None), "6");
    }
}

#[test]
fn denials_are_readable() {
    let mut state = State::public("11");
    let event = state.event(BOB, "m.room.topic", Some(""), json!({}));
    let denied = state.check_json(event).unwrap_err();
    assert_eq!(denied.to_string(), "the sender may not send events of type m.room.topic (authorization rule 8)");
    let _: Arc<Pdu> = state.create;
}
