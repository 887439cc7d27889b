//! Policy server signatures.

use event::policy::{POLICY_KEY_ID, PolicyServer, is_exempt};
use event::{Object, SigningKey, Template, Verified, build, redact, verify};
use serde_json::json;

use crate::support::{AllKeys, canonical, key_of, object, rules, ruma_rules};

fn policy_key() -> SigningKey {
    let seed = SigningKey::generate(&[9; 32]).seed_b64();
    SigningKey::from_seed_b64(POLICY_KEY_ID, &seed).unwrap()
}

fn content() -> Object {
    object(json!({ "via": "p.example", "public_keys": { "ed25519": policy_key().public_b64() } }))
}

fn message(kind: &str, state_key: Option<&str>) -> Verified {
    let template = Template {
        room_id: Some("!r:a.example".try_into().unwrap()),
        sender: "@alice:a.example".to_owned(),
        kind: kind.to_owned(),
        state_key: state_key.map(str::to_owned),
        content: object(json!({ "body": "hi" })),
        ..Template::default()
    };
    build(rules("11"), template, &key_of("a.example"), "a.example").unwrap()
}

/// What the policy server would answer.
fn signature(event: &Verified) -> String {
    let mut redacted = redact(rules("11"), &event.pdu().object());
    policy_key().sign_json(&mut redacted, "p.example");
    redacted["signatures"].get("p.example").unwrap().get(POLICY_KEY_ID).unwrap().as_str().unwrap().to_owned()
}

#[test]
fn a_signature_recommends() {
    let policy = PolicyServer::from_content(&content()).unwrap();
    let event = message("m.room.message", None);
    assert!(!policy.recommends(rules("11"), event.pdu()));
    let signed = policy.add_signature(rules("11"), &event, &signature(&event)).unwrap();
    assert!(policy.recommends(rules("11"), signed.pdu()));
    assert_eq!(signed.pdu().event_id, event.pdu().event_id);
    let bytes = signed.pdu().bytes.clone();
    assert!(verify(rules("11"), bytes, &AllKeys::FOREVER, 0).is_ok(), "the sender's signature stays");

    let theirs = serde_json::from_value(serde_json::to_value(content()).unwrap()).unwrap();
    let oracle = |event: &Verified| {
        let event = canonical(&event.pdu().object());
        ruma_signatures::verify_policy_server_signature(&theirs, &event, &ruma_rules("11")).is_ok()
    };
    assert!(oracle(&signed));
    assert!(!oracle(&event));
}

#[test]
fn other_signatures_do_not() {
    let policy = PolicyServer::from_content(&content()).unwrap();
    let (event, other) = (message("m.room.message", None), message("m.room.topic", Some("")));
    assert!(policy.add_signature(rules("11"), &event, &signature(&other)).is_none());
    assert!(policy.add_signature(rules("11"), &event, "").is_none());
    let mut moved = content();
    moved.insert("via".to_owned(), "q.example".into());
    let elsewhere = PolicyServer::from_content(&moved).unwrap();
    let signed = elsewhere.add_signature(rules("11"), &event, &signature(&event)).unwrap();
    assert!(!policy.recommends(rules("11"), signed.pdu()), "under another server's name");
}

#[test]
fn the_event_that_names_the_policy_server_needs_no_signature() {
    let policy = PolicyServer::from_content(&content()).unwrap();
    let check = |kind: &str, state_key: Option<&str>, expected: bool| {
        let event = message(kind, state_key);
        assert_eq!(is_exempt(event.pdu()), expected);
        assert_eq!(policy.recommends(rules("11"), event.pdu()), expected);
    };
    check("m.room.policy", Some(""), true);
    check("m.room.policy", Some("x"), false);
    check("m.room.policy", None, false);
    check("m.room.message", Some(""), false);
}

#[test]
fn contents_that_name_no_policy_server() {
    for content in [
        json!({}),
        json!({ "via": "p.example" }),
        json!({ "via": 1, "public_keys": { "ed25519": policy_key().public_b64() } }),
        json!({ "via": "p.example", "public_keys": { "ed25519": "AAAA" } }),
        json!({ "via": "p.example", "public_keys": { "rsa": policy_key().public_b64() } }),
        json!({ "via": "p.example", "public_keys": policy_key().public_b64() }),
    ] {
        assert_eq!(PolicyServer::from_content(&object(content)), None);
    }
}
