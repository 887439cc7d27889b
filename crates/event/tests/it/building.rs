//! Building, verifying and co-signing events.

use bytes::Bytes;
use event::{
    BuildError, FormatError, Json, KEY_VALIDITY_MS_MAX, MAX_PDU_BYTES, Object, SigningKey, Template, VerifyError,
    build, canonical_json, co_sign, required_servers, verify,
};
use serde_json::{Value, json};

use crate::support::{AllKeys, key_of, object, rules};

fn template(kind: &str, content: Value) -> Template {
    Template {
        room_id: Some("!r:a.example".try_into().unwrap()),
        sender: "@alice:a.example".to_owned(),
        kind: kind.to_owned(),
        content: object(content),
        depth: 3,
        origin_server_ts: 1_000_000,
        ..Template::default()
    }
}

fn built(version: &str, template: Template) -> Result<event::Verified, BuildError> {
    build(rules(version), template, &key_of("a.example"), "a.example")
}

fn verified(version: &str, event: &Object) -> Result<event::Verified, VerifyError> {
    let bytes = Bytes::from(canonical_json::to_bytes(event));
    verify(rules(version), bytes, &AllKeys::FOREVER, 0)
}

#[test]
fn templates_that_are_not_signed() {
    let mut foreign = template("m.room.message", json!({}));
    foreign.sender = "@mallory:b.example".to_owned();
    assert_eq!(built("11", foreign).unwrap_err(), BuildError::ForeignSender);

    for version in ["1", "5", "11"] {
        let float = template("m.room.message", json!({ "a": 0.5 }));
        assert!(matches!(built(version, float).unwrap_err(), BuildError::Canonical(_)));
        let big = template("m.room.message", json!({ "a": 1_i64 << 53 }));
        assert!(matches!(built(version, big).unwrap_err(), BuildError::Canonical(_)));
    }

    let mut long = template("m.room.message", json!({}));
    long.state_key = Some("x".repeat(256));
    let error = built("11", long).unwrap_err();
    assert_eq!(error, BuildError::Format(FormatError::TooLong("state_key")));

    assert_eq!(built("12", template("m.room.create", json!({}))).unwrap_err(), BuildError::RoomId);
    let mut roomless = template("m.room.message", json!({}));
    roomless.room_id = None;
    assert_eq!(built("12", roomless).unwrap_err(), BuildError::RoomId);
}

/// So many levels of arrays in an object.
fn nested(levels: usize) -> Value {
    let inner = (1..levels).fold(json!("x"), |inner, _| json!([inner]));
    json!({ "a": inner })
}

#[test]
fn what_is_built_can_be_read_wherever_it_stands() {
    let deepest = event::MAX_CONTENT_DEPTH;
    for version in ["1", "12"] {
        let built = built(version, template("m.room.message", nested(deepest))).unwrap();
        let bytes = built.pdu().bytes.clone();
        assert_eq!(event::Pdu::parse(rules(version), bytes.clone()).unwrap().content, built.pdu().content);
        // In a transaction, and in what a client gets.
        let mut within = String::from_utf8(bytes.to_vec()).unwrap();
        for _ in 0..16 {
            within = format!("[{within}]");
        }
        assert!(Json::from_slice(within.as_bytes()).is_ok());
        serde_json::from_str::<Value>(&within).unwrap();
        for levels in [deepest + 1, 127, 128, 1_000] {
            let refused = self::built(version, template("m.room.message", nested(levels))).unwrap_err();
            assert_eq!(refused, BuildError::Canonical(canonical_json::CanonicalJsonError::TooDeep), "{levels} levels");
        }
    }
}

#[test]
fn what_was_stored_is_read_even_if_it_is_deeper_than_what_is_let_in() {
    let bytes = |levels: usize| {
        let mut event = value_of(&built("11", template("m.room.message", json!({}))).unwrap());
        event["content"] = nested(levels);
        Bytes::from(event.to_string())
    };
    let id = built("11", template("m.room.message", json!({}))).unwrap().pdu().event_id.clone();
    for levels in [126, 127, 130] {
        let stored = event::Pdu::stored(rules("11"), id.clone(), bytes(levels)).unwrap();
        assert!(stored.object().contains_key("content"), "{levels} levels");
        assert_eq!(event::Pdu::parse(rules("11"), bytes(levels)).is_ok(), levels == 126, "{levels} levels");
    }
}

fn value_of(event: &event::Verified) -> Value {
    serde_json::from_slice(&event.pdu().bytes).unwrap()
}

#[test]
fn the_size_limit_is_met_exactly() {
    let size = |n: usize| {
        built("11", template("m.room.message", json!({ "body": "x".repeat(n) }))).map(|event| event.pdu().bytes.len())
    };
    let rest = size(0).unwrap();
    assert_eq!(size(MAX_PDU_BYTES - rest), Ok(MAX_PDU_BYTES));
    assert_eq!(size(MAX_PDU_BYTES - rest + 1), Err(BuildError::TooLarge));
}

#[test]
fn event_ids_of_old_rooms() {
    let mut chosen = template("m.room.message", json!({}));
    chosen.opaque_id = Some("local".to_owned());
    assert_eq!(built("1", chosen.clone()).unwrap().pdu().event_id, "$local:a.example");
    assert!(!built("3", chosen.clone()).unwrap().pdu().object().contains_key("event_id"));
    chosen.opaque_id = None;
    let first = built("2", chosen.clone()).unwrap();
    chosen.origin_server_ts += 1;
    let second = built("2", chosen).unwrap();
    assert_ne!(first.pdu().event_id, second.pdu().event_id);
}

#[test]
fn a_room_of_version_12_begins() {
    let mut create = template("m.room.create", json!({ "room_version": "12" }));
    create.room_id = None;
    create.state_key = Some(String::new());
    let create = built("12", create).unwrap();
    let room_id = create.pdu().room_id.as_str();
    assert_eq!(room_id[1..], create.pdu().event_id.as_str()[1..]);
}

#[test]
fn what_hashes_do_not_cover_falls_off() {
    for version in ["1", "4", "11"] {
        let event = built(version, template("m.room.message", json!({ "body": "hi" }))).unwrap();
        let mut object = event.pdu().object();
        object.insert("content".to_owned(), json!({ "body": "forged" }).into());
        let redacted = verified(version, &object).unwrap();
        assert!(redacted.redacted());
        assert!(redacted.pdu().content.is_empty());
        assert_eq!(redacted.pdu().event_id, event.pdu().event_id);
        assert!(!String::from_utf8_lossy(&redacted.pdu().bytes).contains("forged"));

        let mut object = event.pdu().object();
        object.insert("extra".to_owned(), 1.into());
        assert!(verified(version, &object).unwrap().redacted());
        let mut object = event.pdu().object();
        object.insert("unsigned".to_owned(), json!({ "age": 5 }).into());
        assert!(!verified(version, &object).unwrap().redacted());
    }
}

#[test]
fn signatures_cover_what_redaction_keeps() {
    let event = built("11", template("m.room.message", json!({ "body": "hi" }))).unwrap();
    for (key, value) in [
        ("depth", json!(4)),
        ("sender", json!("@bob:a.example")),
        ("room_id", json!("!other:a.example")),
        ("type", json!("m.room.topic")),
        ("state_key", json!("")),
        ("prev_events", json!(["$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"])),
        ("hashes", json!({ "sha256": "" })),
        ("origin_server_ts", json!(0)),
    ] {
        let mut object = event.pdu().object();
        object.insert(key.to_owned(), value.into());
        let error = verified("11", &object).unwrap_err();
        assert!(matches!(error, VerifyError::BadSignature { .. }), "{key}: {error}");
    }
}

#[test]
fn every_known_signature_must_be_valid() {
    let event = built("11", template("m.room.message", json!({}))).unwrap();
    let with_signatures = |signatures: Value| {
        let mut object = event.pdu().object();
        object.insert("signatures".to_owned(), signatures.into());
        verified("11", &object)
    };
    let ours = serde_json::to_value(event.pdu().object()["signatures"].get("a.example")).unwrap();
    let (key_id, signature) = ours.as_object().unwrap().iter().next().unwrap();

    assert_eq!(with_signatures(json!({})).unwrap_err(), VerifyError::NotSigned("a.example".into()));
    let other_algorithm = json!({ "a.example": { "rsa:1": signature } });
    assert!(matches!(with_signatures(other_algorithm).unwrap_err(), VerifyError::NotSigned(_)));
    let unknown = json!({ "a.example": { "ed25519:old": signature } });
    let error = with_signatures(unknown).unwrap_err();
    let expected =
        VerifyError::NoUsableKey { server: "a.example".into(), unknown: vec!["ed25519:old".into()], expired: vec![] };
    assert_eq!(error, expected);
    let with_policy_key = json!({ "a.example": { key_id: signature, "ed25519:policy_server": "x" } });
    assert!(with_signatures(with_policy_key).is_ok());
    for bad in ["", "AAAA", "!!", &signature.as_str().unwrap().replace(char::is_uppercase, "a")] {
        let bad = json!({ "a.example": { key_id: bad } });
        assert!(matches!(with_signatures(bad).unwrap_err(), VerifyError::BadSignature { .. }));
    }
    let foreign = json!({ "b.example": { key_id: signature } });
    assert!(matches!(with_signatures(foreign).unwrap_err(), VerifyError::NotSigned(_)));
}

#[test]
fn keys_are_valid_at_the_time_of_the_event() {
    let check = |version: &str, keys: AllKeys, now_ms: u64| {
        let event = built(version, template("m.room.message", json!({}))).unwrap();
        verify(rules(version), event.pdu().bytes.clone(), &keys, now_ms).is_ok()
    };
    let until = |valid_until_ts| AllKeys { valid_until_ts, expired_ts: None };
    let expired = |ts| AllKeys { valid_until_ts: u64::MAX, expired_ts: Some(ts) };
    // The event is of 1,000,000 ms.
    for version in ["4", "5", "11"] {
        let enforced = version != "4";
        assert!(check(version, until(1_000_000), 0));
        assert_eq!(check(version, until(999_999), 0), !enforced);
        assert!(check(version, expired(1_000_000), 0));
        assert!(!check(version, expired(999_999), 0));
    }
    // No key is trusted for more than seven days ahead.
    let mut late = template("m.room.message", json!({}));
    late.origin_server_ts = i64::try_from(KEY_VALIDITY_MS_MAX + 1).unwrap();
    let late = built("11", late).unwrap();
    let at = |now_ms| verify(rules("11"), late.pdu().bytes.clone(), &until(u64::MAX), now_ms).is_ok();
    assert!(at(1));
    assert!(!at(0));
}

#[test]
fn whose_signatures_are_required() {
    let check = |version: &str, event: Value, expected: &[&str]| {
        assert_eq!(required_servers(rules(version), &object(event)).unwrap(), expected, "{version}");
    };
    let message = json!({ "type": "m.room.message", "sender": "@a:one", "event_id": "$e:two", "content": {} });
    check("1", message.clone(), &["one", "two"]);
    check("2", message.clone(), &["one", "two"]);
    check("3", message, &["one"]);
    let join = json!({ "type": "m.room.member", "sender": "@a:one", "content": {
        "membership": "join", "join_authorised_via_users_server": "@b:two" } });
    check("7", join.clone(), &["one"]);
    check("8", join.clone(), &["one", "two"]);
    check("12", join, &["one", "two"]);
    let invite = json!({ "type": "m.room.member", "sender": "@a:one", "content": {
        "membership": "invite", "third_party_invite": {} } });
    check("11", invite, &[]);
    let trap = json!({ "type": "m.room.message", "sender": "@a:one", "content": {
        "membership": "invite", "third_party_invite": {} } });
    check("11", trap, &["one"]);
    let trap = json!({ "type": "m.room.member", "sender": "@a:one", "content": {
        "membership": "join", "third_party_invite": {} } });
    check("11", trap, &["one"]);
    let malformed = json!({ "type": "m.room.member", "sender": "@a:one", "content": {
        "membership": "join", "join_authorised_via_users_server": 7 } });
    assert!(required_servers(rules("11"), &object(malformed)).is_err());
}

/// SEC-join-signing.
#[test]
fn co_signing_is_for_invites_and_restricted_joins_of_our_users() {
    let event = |content: Value, target: &str| {
        let mut template = template("m.room.member", content);
        template.state_key = Some(target.to_owned());
        built("11", template).unwrap()
    };
    let invite = json!({ "membership": "invite" });
    let restricted = json!({ "membership": "join", "join_authorised_via_users_server": "@bob:b.example" });
    let key = key_of("b.example");
    let sign = |event: &event::Verified| co_sign(rules("11"), event, &key, "b.example");

    let signed = sign(&event(invite.clone(), "@bob:b.example")).unwrap();
    let again = verified("11", &signed.pdu().object()).unwrap();
    assert_eq!(again.pdu(), signed.pdu());
    let signatures = signed.pdu().object().remove("signatures").unwrap();
    assert_eq!(signatures.as_object().unwrap().len(), 2, "the inviter's stays");

    let join = event(restricted.clone(), "@alice:a.example");
    assert!(verified("11", &join.pdu().object()).is_err(), "not signed by b.example yet");
    let signed = sign(&join).unwrap();
    assert!(verified("11", &signed.pdu().object()).is_ok());

    for refused in [
        event(invite, "@eve:c.example"),
        event(json!({ "membership": "join" }), "@bob:b.example"),
        event(json!({ "membership": "leave" }), "@bob:b.example"),
        built("11", template("m.room.message", restricted)).unwrap(),
        built("11", template("m.room.power_levels", json!({}))).unwrap(),
    ] {
        assert!(sign(&refused).is_none());
    }
}

#[test]
fn redacted_copies_are_not_co_signed() {
    let mut invite = template("m.room.member", json!({ "membership": "invite", "reason": "x" }));
    invite.state_key = Some("@bob:b.example".to_owned());
    let mut object = built("11", invite).unwrap().pdu().object();
    object.insert("content".to_owned(), json!({ "membership": "invite" }).into());
    let redacted = verified("11", &object).unwrap();
    assert!(redacted.redacted());
    assert!(co_sign(rules("11"), &redacted, &key_of("b.example"), "b.example").is_none());
}

#[test]
fn signing_keys() {
    let key = SigningKey::generate(&[1; 32]);
    let again = SigningKey::from_seed_b64(key.key_id(), &key.seed_b64()).unwrap();
    assert_eq!(again.public_b64(), key.public_b64());
    assert_ne!(SigningKey::generate(&[2; 32]).key_id(), key.key_id());
    assert!(!format!("{key:?}").contains(&key.seed_b64()));
    for id in ["", "ed25519:", "ed25519:a-b", "rsa:1", "ed25519:a:b"] {
        assert!(SigningKey::from_seed_b64(id, &key.seed_b64()).is_err(), "{id}");
    }
    for seed in ["", "AAAA", "not base64"] {
        assert!(SigningKey::from_seed_b64("ed25519:1", seed).is_err());
    }
}

#[test]
fn signed_json_is_checked() {
    let mut request = object(json!({ "method": "GET", "uri": "/", "unsigned": {} }));
    key_of("a.example").sign_json(&mut request, "a.example");
    let check = |object: &Object, entity: &str| event::verify_json(object, entity, &AllKeys::FOREVER);
    assert_eq!(check(&request, "a.example"), Ok(()));
    assert!(check(&request, "b.example").is_err());
    request.insert("unsigned".to_owned(), json!({ "x": 1 }).into());
    assert_eq!(check(&request, "a.example"), Ok(()), "`unsigned` is not covered");
    request.insert("method".to_owned(), "PUT".into());
    assert!(check(&request, "a.example").is_err());
}

#[test]
fn depth_is_one_more_than_the_greatest() {
    assert_eq!(Template::next_depth([]), 1);
    assert_eq!(Template::next_depth([3, 9, 4]), 10);
    assert_eq!(Template::next_depth([i64::MAX]), (1 << 53) - 1);
}

#[test]
fn msc4354_what_makes_an_event_sticky_is_signed_and_falls_to_redaction() {
    let sticky = Template { sticky_ms: Some(60_000), ..template("m.room.message", json!({ "body": "here" })) };
    let event = built("11", sticky).unwrap();
    assert_eq!(event.pdu().sticky_ms, Some(60_000));
    let object = event.pdu().object();
    assert_eq!(value_of(&event)["msc4354_sticky"], json!({ "duration_ms": 60_000 }));
    assert_eq!(verified("11", &object).unwrap().pdu().sticky_ms, Some(60_000));
    assert_eq!(event.pdu().redacted(rules("11")).unwrap().sticky_ms, None);
    // The content hash covers it: who changes it gets a redacted event.
    let mut longer = object;
    longer.insert("msc4354_sticky".to_owned(), json!({ "duration_ms": 3_600_000 }).into());
    assert_eq!(verified("11", &longer).unwrap().pdu().sticky_ms, None);
}

#[test]
fn msc4354_only_valid_durations_make_an_event_sticky() {
    let sticky = Template { sticky_ms: Some(0), ..template("m.room.message", json!({})) };
    let object = built("11", sticky).unwrap().pdu().object();
    for (value, expected) in [
        (json!({ "duration_ms": 0 }), Some(0)),
        (json!({ "duration_ms": 3_600_000 }), Some(3_600_000)),
        (json!({ "duration_ms": 3_600_001 }), None),
        (json!({ "duration_ms": -1 }), None),
        (json!({ "duration_ms": "60000" }), None),
        (json!({}), None),
        (json!(60_000), None),
    ] {
        let mut object = object.clone();
        object.insert("msc4354_sticky".to_owned(), value.clone().into());
        let bytes = Bytes::from(canonical_json::to_bytes(&object));
        assert_eq!(event::Pdu::parse(rules("11"), bytes).unwrap().sticky_ms, expected, "{value}");
    }
}
