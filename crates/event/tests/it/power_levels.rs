//! How power levels are read, per room version.

use event::Json;
use event::power_levels::{Level, PowerLevels, creators};
use serde_json::json;

use crate::room::{ALICE, BOB, State};

/// The level of Bob when the room gives him this JSON.
fn level_of(version: &str, json: &str) -> Level {
    let mut state = State::new(version);
    state.power_levels(json!({ "users": {} }));
    let mut pdu = state.get("m.room.power_levels").unwrap().as_ref().clone();
    let level = Json::from_slice(json.as_bytes()).unwrap();
    let users = Json::Object([(BOB.to_owned(), level)].into());
    pdu.content.insert("users".to_owned(), users);
    PowerLevels::from_state(state.rules, Some(&pdu), &state.create).user(BOB)
}

/// SEC-power-levels.
#[test]
fn rv4_numbers_strings_and_floats() {
    let check = |versions: &[&str], json: &str, expected: i64| {
        for version in versions {
            assert_eq!(level_of(version, json), Level::Int(expected), "{json} in {version}");
        }
    };
    let v1_5: &[&str] = &["1", "2", "3", "4", "5"];
    let v1_9: &[&str] = &["1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let v6_up: &[&str] = &["6", "9", "10", "11", "12"];
    let v10_up: &[&str] = &["10", "11", "12"];
    let all: &[&str] = event::SUPPORTED_VERSIONS;
    check(all, "50", 50);
    check(all, "-7", -7);
    for (text, level) in [
        ("\"100\"", 100),
        ("\"000100\"", 100),
        ("\"+100\"", 100),
        ("\"-100\"", -100),
        ("\" 100 \"", 100),
        ("\" +100 \"", 100),
        ("\"\\t-00100\\n\"", -100),
    ] {
        check(v1_9, text, level);
        check(v10_up, text, 0);
    }
    for text in ["\"50.5\"", "\"\"", "\"+\"", "\"+-5\"", "\"5 0\"", "\"0x10\"", "\"1e3\"", "\"1_000\""] {
        check(all, text, 0);
    }
    for (text, level) in [("50.57", 50), ("-50.57", -50), ("5.114698E4", 51146), ("1e2", 100)] {
        check(v1_5, text, level);
        check(v6_up, text, 0);
    }
    check(v1_5, "1e999", 0);
    check(v1_5, "99999999999999999999", i64::MAX);
    check(all, "null", 0);
    check(all, "true", 0);
}

/// SEC-power-levels.
#[test]
fn rv4_defaults_hold_with_and_without_the_event() {
    for with_event in [false, true] {
        let mut state = State::new("11");
        if with_event {
            state.power_levels(json!({}));
        }
        let event = state.get("m.room.power_levels").cloned();
        let levels = PowerLevels::from_state(state.rules, event.as_deref(), &state.create);
        assert_eq!(levels.user(BOB), Level::Int(0));
        assert_eq!(levels.user(ALICE), Level::Int(if with_event { 0 } else { 100 }));
        assert_eq!(levels.required("m.room.message", false), Level::Int(0));
        assert_eq!(levels.required("m.room.topic", true), Level::Int(50));
        assert_eq!(levels.invite(), Level::Int(0));
        for level in [levels.ban(), levels.kick(), levels.redact(), levels.notification("room")] {
            assert_eq!(level, Level::Int(50));
        }
    }
}

#[test]
fn explicit_levels() {
    let mut state = State::new("11");
    state.power_levels(json!({
        "users": { ALICE: 90 }, "users_default": 1, "events": { "m.room.topic": 2, "x": 3 },
        "events_default": 4, "state_default": 5, "invite": 6, "kick": 7, "ban": 8, "redact": 9,
        "notifications": { "room": 10 },
    }));
    let event = state.get("m.room.power_levels").cloned();
    let levels = PowerLevels::from_state(state.rules, event.as_deref(), &state.create);
    assert_eq!((levels.user(ALICE), levels.user(BOB)), (Level::Int(90), Level::Int(1)));
    assert_eq!(levels.required("m.room.topic", true), Level::Int(2));
    assert_eq!(levels.required("x", false), Level::Int(3));
    assert_eq!(levels.required("y", false), Level::Int(4));
    assert_eq!(levels.required("y", true), Level::Int(5));
    assert_eq!((levels.invite(), levels.kick()), (Level::Int(6), Level::Int(7)));
    assert_eq!((levels.ban(), levels.redact()), (Level::Int(8), Level::Int(9)));
    assert_eq!(levels.notification("room"), Level::Int(10));
    assert_eq!(levels.users(), [(ALICE, 90)]);
}

#[test]
fn creators_per_version() {
    let by = |version: &str| {
        let extra = json!({ "creator": BOB, "additional_creators": ["@c:c", "@d:d"] });
        let state = State::with_create(version, extra);
        creators(state.rules, &state.create).join(" ")
    };
    assert_eq!(by("1"), BOB);
    assert_eq!(by("10"), BOB);
    assert_eq!(by("11"), ALICE);
    assert_eq!(by("12"), format!("{ALICE} @c:c @d:d"));
}

#[test]
fn creators_of_version_12_are_above_everybody() {
    let mut state = State::with_create("12", json!({ "additional_creators": [BOB] }));
    state.power_levels(json!({ "users": { BOB: -1 }, "ban": 9_007_199_254_740_991_i64 }));
    let event = state.get("m.room.power_levels").cloned();
    let levels = PowerLevels::from_state(state.rules, event.as_deref(), &state.create);
    for user in [ALICE, BOB] {
        assert_eq!(levels.user(user), Level::Infinite);
        assert!(levels.user(user) > levels.ban());
    }
}
