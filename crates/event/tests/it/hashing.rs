//! Hashes, event IDs, signing and verifying against `ruma-signatures`.

use std::collections::BTreeMap;

use bytes::Bytes;
use event::{SUPPORTED_VERSIONS, Template, build, canonical_json, content_hash, reference_hash};
use ruma_common::serde::Base64;
use ruma_common::serde::base64::{Standard, UrlSafe};
use ruma_signatures::Ed25519KeyPair;
use serde_json::json;

use crate::redaction::random_event;
use crate::support::{AllKeys, Rng, canonical, key_of, object, rules, ruma_rules, seeds};

#[test]
fn rv1_hashes_agree_with_ruma() {
    for seed in seeds(200) {
        let event = random_event(&mut Rng(seed));
        for version in SUPPORTED_VERSIONS {
            let theirs = ruma_signatures::content_hash(&canonical(&event)).unwrap();
            assert_eq!(theirs.as_bytes(), &content_hash(&event), "seed {seed}");
            let ours = reference_hash(rules(version), &event);
            let ours = match *version {
                "1" | "2" | "3" => Base64::<Standard, _>::new(ours).encode(),
                _ => Base64::<UrlSafe, _>::new(ours).encode(),
            };
            let theirs = ruma_signatures::reference_hash(&canonical(&event), &ruma_rules(version)).unwrap();
            assert_eq!(ours, theirs, "seed {seed}, version {version}");
        }
    }
}

/// A random event of ours for a room version.
fn random_template(rng: &mut Rng, version: &str) -> Template {
    let kind = *rng.pick(&["m.room.message", "m.room.topic", "m.room.member", "m.room.redaction"]);
    let edge = |n: usize| match version {
        "1" | "2" => format!("${n}:a.example"),
        _ => format!("$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{n:02}"),
    };
    let edges = |n: usize| (0..n).map(|n| edge(n).try_into().unwrap()).collect();
    Template {
        room_id: Some("!room:a.example".try_into().unwrap()),
        sender: "@alice:a.example".to_owned(),
        kind: kind.to_owned(),
        state_key: rng.one_in(2).then(|| "@alice:a.example".to_owned()),
        content: object(json!({ "membership": "join", "body": "ü\u{1}\"", "n": rng.below(99) })),
        redacts: (kind == "m.room.redaction").then(|| edge(7).try_into().unwrap()),
        prev_events: edges(rng.below(4)),
        auth_events: edges(rng.below(5)),
        depth: i64::try_from(rng.below(1000)).unwrap(),
        origin_server_ts: i64::try_from(rng.below(1000)).unwrap(),
        sticky_ms: rng.one_in(4).then_some(60_000),
        unsigned: rng.one_in(2).then(|| object(json!({ "age": 4 }))),
        opaque_id: rng.one_in(2).then(|| format!("x{}", rng.next())),
        edge_hashes: BTreeMap::new(),
    }
}

/// The same key for the other implementation.
fn ruma_key(seed_b64: &str, version: &str) -> Ed25519KeyPair {
    let seed = Base64::<Standard>::parse(seed_b64).unwrap().into_inner();
    // PKCS#8 version 1 around an Ed25519 seed (RFC 8410).
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend(seed);
    Ed25519KeyPair::from_der(&der, version.to_owned()).unwrap()
}

#[test]
fn what_we_build_is_what_ruma_signs_and_verifies() {
    let key = key_of("a.example");
    let version_of_key = key.key_id().strip_prefix("ed25519:").unwrap();
    let their_key = ruma_key(&key.seed_b64(), version_of_key);
    let public = Base64::parse(key.public_b64()).unwrap();
    let public_keys = BTreeMap::from([("a.example".to_owned(), BTreeMap::from([(key.key_id().to_owned(), public)]))]);
    for seed in seeds(100) {
        let mut rng = Rng(seed);
        for version in SUPPORTED_VERSIONS {
            let template = random_template(&mut rng, version);
            let built = build(rules(version), template, &key, "a.example").unwrap();
            let event = canonical(&built.pdu().object());
            let verdict = ruma_signatures::verify_event(&public_keys, &event, &ruma_rules(version));
            assert_eq!(verdict.unwrap(), ruma_signatures::Verified::All);

            let mut again = event.clone();
            again.remove("signatures");
            again.remove("hashes");
            ruma_signatures::hash_and_sign_event("a.example", &their_key, &mut again, &ruma_rules(version).redaction)
                .unwrap();
            assert_eq!(again, event, "seed {seed}, version {version}");
            if rules(version).event_id_is_hash() {
                let hash = ruma_signatures::reference_hash(&event, &ruma_rules(version)).unwrap();
                assert_eq!(built.pdu().event_id.as_str(), format!("${hash}"));
            }
            assert_eq!(built.pdu().bytes, canonical_json::to_bytes(&built.pdu().object()), "the bytes are canonical");
        }
    }
}

#[test]
fn what_we_build_we_verify() {
    for seed in seeds(50) {
        let mut rng = Rng(seed);
        for version in SUPPORTED_VERSIONS {
            let template = random_template(&mut rng, version);
            let built = build(rules(version), template, &key_of("a.example"), "a.example").unwrap();
            let bytes = Bytes::clone(&built.pdu().bytes);
            let verified = event::verify(rules(version), bytes, &AllKeys::FOREVER, 0).unwrap();
            assert_eq!(verified.pdu(), built.pdu());
            assert!(!verified.redacted());
        }
    }
}
