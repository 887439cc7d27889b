//! The vectors of the specification's appendices, and its canonical JSON examples.

use bytes::Bytes;
use event::{Json, Object, SigningKey, canonical_json, content_hash, redact};
use serde_json::json;

use crate::support::{object, rules};

const SEED: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1";

fn signing_key() -> SigningKey {
    SigningKey::from_seed_b64("ed25519:1", SEED).unwrap()
}

fn signature_of(object: &Object) -> &str {
    object["signatures"].get("domain").unwrap().get("ed25519:1").unwrap().as_str().unwrap()
}

#[test]
fn canonical_json_examples() {
    let check = |text: &str, expected: &str| {
        let object = Json::object_from_slice(text.as_bytes()).unwrap();
        assert_eq!(canonical_json::to_string(&object), expected);
    };
    check("{}", "{}");
    check(r#"{ "one": 1, "two": "Two" }"#, r#"{"one":1,"two":"Two"}"#);
    check(r#"{ "b": "2", "a": "1" }"#, r#"{"a":"1","b":"2"}"#);
    check(r#"{"b":"2","a":"1"}"#, r#"{"a":"1","b":"2"}"#);
    check(
        r#"{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {
            "display_name": "John Doe", "three_pids": [
            {"medium": "email", "address": "john.doe@example.org"},
            {"medium": "msisdn", "address": "123456789"}]}}}"#,
        concat!(
            r#"{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","#,
            r#""three_pids":[{"address":"john.doe@example.org","medium":"email"},"#,
            r#"{"address":"123456789","medium":"msisdn"}]},"success":true}}"#
        ),
    );
    check(r#"{"a": "日本語"}"#, r#"{"a":"日本語"}"#);
    check(r#"{"本": 2, "日": 1}"#, r#"{"日":1,"本":2}"#);
    check(r#"{"a": "\u65E5"}"#, r#"{"a":"日"}"#);
    check(r#"{"a": null}"#, r#"{"a":null}"#);
    check(r#"{"a": -0, "b": 1e10}"#, r#"{"a":0,"b":10000000000}"#);
}

#[test]
fn json_signing() {
    let mut empty = Object::new();
    signing_key().sign_json(&mut empty, "domain");
    assert_eq!(
        signature_of(&empty),
        "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"
    );
    let mut values = object(json!({ "one": 1, "two": "Two" }));
    signing_key().sign_json(&mut values, "domain");
    assert_eq!(
        signature_of(&values),
        "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"
    );
}

/// Hash and signature of an event as the vectors give them: over the redacted
/// event, whose signature is the same as that of the full one.
fn check_event(mut event: Object, hash: &str, signature: &str) {
    let hash_json = object(json!({ "sha256": hash }));
    let computed = content_hash(&event);
    event.insert("hashes".to_owned(), Json::Object(hash_json));
    assert_eq!(computed.as_slice(), decode(hash));
    let mut redacted = redact(rules("1"), &event);
    signing_key().sign_json(&mut redacted, "domain");
    assert_eq!(signature_of(&redacted), signature);
}

fn decode(text: &str) -> Vec<u8> {
    use ruma_common::serde::{Base64, base64::Standard};
    Base64::<Standard>::parse(text).unwrap().into_inner()
}

#[test]
fn minimal_event() {
    let event = object(json!({
        "room_id": "!x:domain", "sender": "@a:domain", "origin": "domain",
        "origin_server_ts": 1000000, "signatures": {}, "hashes": {}, "type": "X", "content": {},
        "prev_events": [], "auth_events": [], "depth": 3, "unsigned": { "age_ts": 1000000 },
    }));
    check_event(
        event,
        "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
        "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
    );
}

#[test]
fn event_with_redactable_content() {
    let event = object(json!({
        "content": { "body": "Here is the message content" }, "event_id": "$0:domain",
        "origin": "domain", "origin_server_ts": 1000000, "type": "m.room.message",
        "room_id": "!r:domain", "sender": "@u:domain", "signatures": {},
        "unsigned": { "age_ts": 1000000 },
    }));
    check_event(
        event,
        "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
        "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
    );
}

#[test]
fn the_vector_event_is_verified() {
    let event = json!({
        "auth_events": [], "content": {}, "depth": 3,
        "hashes": { "sha256": "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos" },
        "origin": "domain", "origin_server_ts": 1000000, "prev_events": [],
        "room_id": "!x:domain", "sender": "@a:domain",
        "signatures": { "domain": { "ed25519:1":
            "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"
        } },
        "type": "X", "unsigned": { "age_ts": 1000000 },
    });
    struct VectorKey;
    impl event::Keys for VectorKey {
        fn key(&self, server: &str, key_id: &str) -> Option<event::VerifyKey> {
            let known = server == "domain" && key_id == "ed25519:1";
            known.then(|| event::VerifyKey::from_b64(&signing_key().public_b64(), u64::MAX, None))?
        }
    }
    let bytes = Bytes::from(event.to_string());
    let verified = event::verify(rules("6"), bytes, &VectorKey, 0).unwrap();
    assert!(!verified.redacted());
}
