//! The format check of whole events.

use bytes::Bytes;
use event::{EdgeLimits, FormatError, MAX_PDU_BYTES, Pdu, SUPPORTED_VERSIONS, canonical_json};
use serde_json::{Value, json};

use crate::room::merge;
use crate::support::{Rng, canonical, object, rules, ruma_rules, seeds};

/// A well-formed message for a room version with some keys replaced; `null`
/// removes a key.
fn message(version: &str, replace: Value) -> Bytes {
    let mut event = json!({
        "type": "m.room.message", "sender": "@a:x", "room_id": "!r:x", "content": { "body": "hi" },
        "origin_server_ts": 5, "depth": 7, "prev_events": [], "auth_events": [],
        "hashes": { "sha256": "" }, "signatures": {},
    });
    if !rules(version).event_id_is_hash() {
        event["event_id"] = "$id:x".into();
    }
    merge(&mut event, replace);
    if let Value::Object(event) = &mut event {
        event.retain(|_, value| !value.is_null());
    }
    Bytes::from(event.to_string())
}

fn parse(version: &str, replace: Value) -> Result<Pdu, FormatError> {
    Pdu::parse(rules(version), message(version, replace))
}

#[test]
fn a_message_is_read_in_every_version() {
    for version in SUPPORTED_VERSIONS {
        let pdu = parse(version, json!({ "state_key": "k", "unsigned": { "age": 1 } })).unwrap();
        assert_eq!(pdu.kind, "m.room.message");
        assert_eq!(pdu.sender, "@a:x");
        assert_eq!(pdu.room_id, "!r:x");
        assert_eq!(pdu.state_key.as_deref(), Some("k"));
        assert_eq!((pdu.depth, pdu.origin_server_ts), (7, 5));
        assert_eq!(pdu.unsigned.unwrap()["age"].as_i64(), Some(1));
        let id = pdu.event_id.as_str();
        match *version {
            "1" | "2" => assert_eq!(id, "$id:x"),
            _ => assert_eq!(id.len(), 44, "{id}"),
        }
    }
}

#[test]
fn required_keys() {
    for version in ["1", "6", "12"] {
        for key in [
            "type",
            "sender",
            "room_id",
            "content",
            "origin_server_ts",
            "prev_events",
            "auth_events",
            "hashes",
            "signatures",
        ] {
            assert_eq!(parse(version, json!({ key: null })).unwrap_err(), FormatError::Invalid(key));
            assert!(parse(version, json!({ key: 1.5 })).is_err(), "{key}");
        }
        assert_eq!(parse(version, json!({ "depth": null })).unwrap_err(), FormatError::Depth);
        assert!(parse(version, json!({ "state_key": 1 })).is_err());
        assert!(parse(version, json!({ "content": [] })).is_err());
    }
    assert_eq!(parse("2", json!({ "event_id": null })).unwrap_err(), FormatError::Invalid("event_id"));
    assert_eq!(parse("2", json!({ "event_id": "$x" })).unwrap_err(), FormatError::Invalid("event_id"));
}

#[test]
fn lengths_are_counted_in_bytes() {
    let check = |key: &str, make: &dyn Fn(usize) -> String| {
        for version in ["1", "5", "11"] {
            assert!(parse(version, json!({ key: make(255) })).is_ok(), "{key} in {version}");
            let error = parse(version, json!({ key: make(256) })).unwrap_err();
            assert!(matches!(error, FormatError::TooLong(_)), "{key} in {version}: {error}");
        }
    };
    check("type", &|n| "t".repeat(n));
    check("state_key", &|n| "é".repeat(n / 2) + &"x".repeat(n % 2));
    check("sender", &|n| format!("@{}:x", "u".repeat(n - 3)));
    check("room_id", &|n| format!("!{}:x", "r".repeat(n - 3)));
    let id = |n: usize| format!("${}:x", "i".repeat(n - 3));
    assert!(parse("1", json!({ "event_id": id(255) })).is_ok());
    assert!(parse("1", json!({ "event_id": id(256) })).is_err());
}

#[test]
fn senders_may_be_historical() {
    for sender in ["@:x", "@Ünï códé!:x", "@a\u{1}:x", "@a:x:8448", "@a:[::1]:1", "@A/B=:1.2.3.4"] {
        assert!(parse("11", json!({ "sender": sender })).is_ok(), "{sender}");
    }
    for sender in ["", "a:x", "@a", "@a:", "@a\0:x", "@a:x y", "@a:x:port", "@a:b:c:d"] {
        assert!(parse("11", json!({ "sender": sender })).is_err(), "{sender}");
    }
}

#[test]
fn depth_is_bounded_per_version() {
    let depth = |version: &str, depth: Value| parse(version, json!({ "depth": depth })).is_ok();
    for version in SUPPORTED_VERSIONS {
        let strict = rules(version).strict_canonical_json;
        assert!(depth(version, json!(0)));
        assert!(depth(version, json!((1_i64 << 53) - 1)));
        assert_eq!(depth(version, json!(1_i64 << 53)), !strict, "version {version}");
        assert_eq!(depth(version, json!(i64::MAX)), !strict, "version {version}");
        assert!(!depth(version, json!(u64::MAX)));
        assert!(!depth(version, json!(-1)));
        assert!(!depth(version, json!(1.0)));
    }
}

#[test]
fn edges_are_bounded_unless_lifted() {
    let edges =
        |n: usize| -> Value { (0..n).map(|i| format!("$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{i:02}")).collect() };
    assert!(parse("11", json!({ "prev_events": edges(20), "auth_events": edges(10) })).is_ok());
    for (key, n) in [("prev_events", 21), ("auth_events", 11)] {
        let bytes = message("11", json!({ key: edges(n) }));
        let error = Pdu::parse(rules("11"), bytes.clone()).unwrap_err();
        assert_eq!(error, FormatError::TooManyEdges(key));
        assert!(Pdu::parse_with(rules("11"), bytes, EdgeLimits::Lifted).is_ok());
    }
}

#[test]
fn edges_have_the_form_of_the_version() {
    let plain = json!(["$a:x"]);
    let pairs = json!([["$a:x", { "sha256": "abc" }]]);
    for version in SUPPORTED_VERSIONS {
        let paired = matches!(*version, "1" | "2");
        assert_eq!(parse(version, json!({ "prev_events": plain })).is_ok(), !paired);
        assert_eq!(parse(version, json!({ "auth_events": pairs })).is_ok(), paired);
    }
    assert!(parse("1", json!({ "auth_events": [["$a:x"]] })).is_err());
    assert!(parse("3", json!({ "auth_events": ["no sigil"] })).is_err());
}

#[test]
fn the_size_is_that_of_canonical_json() {
    let of_size = |size: usize, pretty: bool| {
        let empty = object(serde_json::from_slice(&message("11", json!({ "content": { "body": "" } }))).unwrap());
        let rest = canonical_json::to_bytes(&empty).len();
        let bytes = message("11", json!({ "content": { "body": "x".repeat(size - rest) } }));
        match pretty {
            false => bytes,
            true => {
                let value: Value = serde_json::from_slice(&bytes).unwrap();
                Bytes::from(serde_json::to_string_pretty(&value).unwrap().replace("xx", "x\\u0078"))
            }
        }
    };
    for pretty in [false, true] {
        assert!(Pdu::parse(rules("11"), of_size(MAX_PDU_BYTES, pretty)).is_ok());
        let error = Pdu::parse(rules("11"), of_size(MAX_PDU_BYTES + 1, pretty)).unwrap_err();
        assert_eq!(error, FormatError::TooLarge);
    }
}

#[test]
fn rv3_canonical_json_is_enforced_on_the_whole_event_from_version_6() {
    for version in SUPPORTED_VERSIONS {
        let strict = rules(version).strict_canonical_json;
        for replace in [
            json!({ "content": { "a": [{ "b": 1.5 }] } }),
            json!({ "unsigned": { "age": 9_007_199_254_740_992_i64 } }),
            json!({ "extra": 1e30 }),
            json!({ "hashes": { "x": -0.0 } }),
            json!({ "origin_server_ts": 9_007_199_254_740_992_i64 }),
        ] {
            let result = parse(version, replace.clone());
            assert_eq!(result.is_ok(), !strict, "version {version}: {replace}");
        }
    }
}

#[test]
fn rv3_big_numbers_survive_in_old_rooms() {
    let text = String::from_utf8(message("5", json!({ "content": { "n": 0 } })).to_vec()).unwrap();
    let text = text.replace("\"n\":0", "\"n\":123456789012345678901234567890.5");
    let pdu = Pdu::parse(rules("5"), Bytes::from(text)).unwrap();
    let content = canonical_json::to_string(&pdu.content);
    assert_eq!(content, r#"{"n":123456789012345678901234567890.5}"#);
}

#[test]
fn the_room_of_version_12_is_its_create_event() {
    let create = parse("12", json!({ "type": "m.room.create", "state_key": "", "room_id": null })).unwrap();
    assert_eq!(create.room_id.as_str()[1..], create.event_id.as_str()[1..]);
    assert!(!create.names_room());
    assert!(parse("12", json!({ "room_id": null })).is_err());
    assert!(parse("11", json!({ "type": "m.room.create", "room_id": null })).is_err());
}

#[test]
fn the_target_of_a_redaction_is_where_the_version_puts_it() {
    for version in SUPPORTED_VERSIONS {
        let top = parse(version, json!({ "type": "m.room.redaction", "redacts": "$t:x" })).unwrap();
        let content = json!({ "type": "m.room.redaction", "content": { "redacts": "$t:x" } });
        let inside = parse(version, content).unwrap();
        let in_content = rules(version).redacts_in_content;
        assert_eq!(top.redacts.is_some(), !in_content, "version {version}");
        assert_eq!(inside.redacts.is_some(), in_content, "version {version}");
    }
    let other = parse("4", json!({ "redacts": "$t:x" })).unwrap();
    assert_eq!(other.redacts, None, "not a redaction");
}

#[test]
fn rv1_redacted_events_keep_their_id() {
    for version in SUPPORTED_VERSIONS {
        let pdu = parse(version, json!({ "unsigned": { "age": 1 } })).unwrap();
        let redacted = pdu.redacted(rules(version)).unwrap();
        assert!(redacted.content.is_empty() && redacted.unsigned.is_none());
        let again = Pdu::parse(rules(version), redacted.bytes.clone()).unwrap();
        assert_eq!(again.event_id, pdu.event_id, "version {version}");
        assert_eq!(again, redacted);
        let stored = Pdu::stored(rules(version), pdu.event_id.clone(), pdu.bytes.clone());
        assert_eq!(stored.unwrap(), pdu);
    }
}

#[test]
fn limits_agree_with_ruma() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in seeds(400) {
        for version in SUPPORTED_VERSIONS {
            let mut rng = Rng(seed);
            let event = random_sizes(&mut rng, version);
            let bytes = message(version, event);
            let as_object = object(serde_json::from_slice(&bytes).unwrap());
            let theirs = ruma_state_res::check_pdu_format(&canonical(&as_object), &ruma_rules(version).event_format);
            let ours = Pdu::parse(rules(version), bytes);
            assert_eq!(ours.is_ok(), theirs.is_ok(), "seed {seed}, version {version}: {ours:?} but {theirs:?}");
            *if ours.is_ok() { &mut accepted } else { &mut refused } += 1;
        }
    }
    assert!(accepted > 100 && refused > 100, "{accepted} accepted, {refused} refused");
}

/// Replacements that are all at or one beyond a limit, or a key missing.
fn random_sizes(rng: &mut Rng, version: &str) -> Value {
    let mut replace = json!({});
    let paired = !rules(version).event_id_is_hash();
    let edges = |n: usize| -> Value {
        (0..n).map(|i| if paired { json!([format!("$e{i}:x"), {}]) } else { json!(format!("$e{i}")) }).collect()
    };
    for key in ["type", "state_key", "sender", "room_id", "prev_events", "auth_events", "depth"] {
        if !rng.one_in(3) {
            continue;
        }
        let n = if rng.one_in(4) { 256 } else { 255 };
        replace[key] = match key {
            "sender" => json!(format!("@{}:x", "u".repeat(n - 3))),
            "room_id" => json!(format!("!{}:x", "r".repeat(n - 3))),
            "prev_events" => edges(n - 235),
            "auth_events" => edges(n - 245),
            "depth" => json!(if n == 256 { -1 } else { (1_i64 << 53) - 1 }),
            _ => json!("é".repeat(n / 2) + &"x".repeat(n % 2)),
        };
    }
    if rng.one_in(5) {
        let required = ["type", "sender", "room_id", "prev_events", "auth_events", "depth"];
        replace[*rng.pick(&required)] = Value::Null;
    }
    replace
}
