//! What a hostile peer may send: nothing panics, nothing unbounded.

use std::cell::Cell;
use std::sync::Arc;

use bytes::Bytes;
use event::state_res::{Events, auth_difference, conflicted_subgraph, resolve_all};
use event::{Json, Pdu, SUPPORTED_VERSIONS, Template, auth_rules, build, redact, reference_hash};
use proptest::prelude::*;
use ruma_common::{EventId, OwnedEventId};
use serde_json::json;

use crate::room::State;
use crate::support::{AllKeys, key_of, object, pdu, rules};

/// A strange value.
fn odd() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        Just(json!(null)),
        Just(json!([])),
        Just(json!({})),
        Just(json!("")),
        Just(json!("@a:x")),
        Just(json!("m.room.create")),
        Just(json!("m.room.member")),
        Just(json!("m.room.power_levels")),
        Just(json!("m.room.aliases")),
        Just(json!("$a:x")),
        Just(json!([["$a:x", {}]])),
        Just(json!(["$a"])),
        Just(json!({ "users": { "@a:x": " 7 " }, "events": 1, "membership": "invite",
            "third_party_invite": { "signed": { "signatures": [], "mxid": "@a:x", "token": "" } } })),
        Just(json!({ "x": { "ed25519:1": 1 } })),
        any::<i64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        any::<String>().prop_map(|text| json!(text)),
    ]
}

const KEYS: [&str; 15] = [
    "type",
    "sender",
    "room_id",
    "event_id",
    "state_key",
    "content",
    "depth",
    "origin_server_ts",
    "prev_events",
    "auth_events",
    "hashes",
    "signatures",
    "unsigned",
    "redacts",
    "extra",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn odd_events_do_not_panic(
        changes in prop::collection::vec((0..KEYS.len(), odd()), 0..6),
        version in prop::sample::select(SUPPORTED_VERSIONS),
    ) {
        let rules = rules(version);
        let mut state = State::public(version);
        let mut event = state.event("@bob:b.example", "m.room.message", None, json!({}));
        event["hashes"] = json!({ "sha256": "" });
        event["signatures"] = json!({});
        for (key, value) in changes {
            event[KEYS[key]] = value;
        }
        let bytes = Bytes::from(event.to_string());
        let _ = event::verify(rules, bytes.clone(), &AllKeys::FOREVER, 0);
        let as_object = object(event);
        let _ = reference_hash(rules, &redact(rules, &as_object));
        if let Ok(pdu) = Pdu::parse(rules, bytes) {
            let _ = auth_rules::check(rules, &pdu, &state.entries, &state.create);
            let _ = auth_rules::check_against_auth_events(rules, &pdu, &[], &state.create);
            prop_assert_eq!(Pdu::parse(rules, pdu.bytes.clone()).unwrap(), pdu);
        }
    }

    #[test]
    fn odd_states_do_not_panic(
        entries in prop::collection::vec((0..5_usize, odd()), 0..6),
        version in prop::sample::select(SUPPORTED_VERSIONS),
        sent in 0..5_usize,
    ) {
        const KINDS: [(&str, &str); 5] = [
            ("m.room.power_levels", ""), ("m.room.join_rules", ""), ("m.room.member", "@bob:b.example"),
            ("m.room.third_party_invite", ""), ("m.room.topic", ""),
        ];
        let mut state = State::public(version);
        for (at, content) in entries {
            let (kind, state_key) = KINDS[at];
            let content = if content.is_object() { content } else { json!({ "ban": content }) };
            if rules(version).strict_canonical_json && content.to_string().contains(['.', 'e']) {
                continue;
            }
            let bytes = Json::from(content.clone());
            if event::canonical_json::check_strict(&bytes).is_ok() {
                state.other(kind, state_key, content);
            }
        }
        let (kind, state_key) = KINDS[sent];
        let content = json!({ "membership": "join", "users": {} });
        let _ = state.verdict("@bob:b.example", kind, Some(state_key), content);
    }
}

/// A room of version 2 whose events are made when asked for: `$n:a.example` is
/// the join of user n, which cites the create event and the join rules; the
/// last two are topics on two forks.
struct LargeRoom {
    n_members: u64,
    n_read: Cell<u64>,
    with_generations: bool,
}

const CREATE: u64 = 0;
const ALICE_JOIN: u64 = 1;
const POWER_LEVELS: u64 = 2;
const JOIN_RULES: u64 = 3;
const FIRST_MEMBER: u64 = 4;

fn id(n: u64) -> OwnedEventId {
    format!("${n}:a.example").try_into().unwrap()
}

impl LargeRoom {
    fn topics(&self) -> [u64; 2] {
        [FIRST_MEMBER + self.n_members, FIRST_MEMBER + self.n_members + 1]
    }

    fn auth_of(&self, n: u64) -> Vec<u64> {
        match n {
            CREATE => vec![],
            ALICE_JOIN => vec![CREATE],
            POWER_LEVELS => vec![CREATE, ALICE_JOIN],
            JOIN_RULES => vec![CREATE, ALICE_JOIN, POWER_LEVELS],
            n if self.topics().contains(&n) => vec![CREATE, POWER_LEVELS, ALICE_JOIN],
            _ => vec![CREATE, POWER_LEVELS, JOIN_RULES],
        }
    }

    fn generation_of(&self, n: u64) -> u64 {
        self.auth_of(n).into_iter().map(|auth| self.generation_of(auth) + 1).max().unwrap_or(0)
    }
}

impl Events for LargeRoom {
    fn event(&self, event_id: &EventId) -> Option<Arc<Pdu>> {
        self.n_read.set(self.n_read.get() + 1);
        let n: u64 = event_id.as_str().strip_prefix('$')?.split_once(':')?.0.parse().ok()?;
        let (kind, state_key, content) = match n {
            CREATE => ("m.room.create", String::new(), json!({ "creator": "@alice:a.example" })),
            POWER_LEVELS => ("m.room.power_levels", String::new(), json!({ "users": { "@alice:a.example": 100 } })),
            JOIN_RULES => ("m.room.join_rules", String::new(), json!({ "join_rule": "public" })),
            n if self.topics().contains(&n) => ("m.room.topic", String::new(), json!({ "n": n })),
            ALICE_JOIN => ("m.room.member", "@alice:a.example".to_owned(), json!({ "membership": "join" })),
            n => ("m.room.member", format!("@u{n}:a.example"), json!({ "membership": "join" })),
        };
        let sender = if state_key.is_empty() { "@alice:a.example" } else { &state_key };
        let edges: serde_json::Value = self.auth_of(n).into_iter().map(|auth| json!([id(auth), {}])).collect();
        Some(pdu(
            rules("2"),
            json!({
                "type": kind, "state_key": state_key, "sender": sender, "content": content,
                "room_id": "!r:a.example", "event_id": event_id, "origin_server_ts": n, "depth": n,
                "prev_events": [], "auth_events": edges,
            }),
        ))
    }

    fn generation(&self, event_id: &EventId) -> Option<u64> {
        let n: u64 = event_id.as_str().strip_prefix('$')?.split_once(':')?.0.parse().ok()?;
        self.with_generations.then(|| self.generation_of(n))
    }
}

#[test]
fn rv8_a_small_fork_of_a_large_room_costs_little() {
    let room = LargeRoom { n_members: 100_000, n_read: Cell::new(0), with_generations: true };
    let [one, two] = room.topics().map(id);
    let unasked = |_| panic!("the states differ in nothing that the members could matter for");
    let difference = auth_difference(&[vec![one.clone()], vec![two.clone()]], unasked, &room);
    assert!(difference.is_empty());
    assert!(room.n_read.get() < 20, "{} events read", room.n_read.get());

    room.n_read.set(0);
    let conflicted = [one.clone(), two.clone()].into();
    assert!(conflicted_subgraph(&conflicted, &room).is_empty());
    let shared = LargeState;
    let resolved = event::state_res::resolve_conflicted(rules("2"), &shared, conflicted, &room).unwrap();
    assert_eq!(resolved.into_values().collect::<Vec<_>>(), [two]);
    assert!(room.n_read.get() < 60, "{} events read", room.n_read.get());
}

/// What both forks share, without a map of it.
struct LargeState;

impl event::state_res::UnconflictedState for LargeState {
    fn get(&self, kind: &str, state_key: &str) -> Option<OwnedEventId> {
        match (kind, state_key) {
            ("m.room.create", "") => Some(id(CREATE)),
            ("m.room.power_levels", "") => Some(id(POWER_LEVELS)),
            ("m.room.join_rules", "") => Some(id(JOIN_RULES)),
            ("m.room.member", "@alice:a.example") => Some(id(ALICE_JOIN)),
            _ => None,
        }
    }
}

/// SEC-loops.
#[test]
fn chosen_ids_that_cite_each_other_in_a_circle_end() {
    struct Circle;
    impl Events for Circle {
        fn event(&self, event_id: &EventId) -> Option<Arc<Pdu>> {
            let n: u64 = event_id.as_str().strip_prefix('$')?.split_once(':')?.0.parse().ok()?;
            let kind = if n == 0 { "m.room.create" } else { "m.room.power_levels" };
            let cited = if n == 0 { json!([]) } else { json!([[id(n % 3 + 1), {}], [id(0), {}]]) };
            Some(pdu(
                rules("2"),
                json!({
                    "type": kind, "state_key": "", "sender": "@a:a.example",
                    "content": { "creator": "@a:a.example", "users": { "@a:a.example": 100 } },
                    "room_id": "!r:a.example", "event_id": event_id, "origin_server_ts": 1, "depth": 1,
                    "prev_events": [], "auth_events": cited,
                }),
            ))
        }
    }
    let state = |n: u64| {
        [
            (("m.room.power_levels".to_owned(), String::new()), id(n)),
            (("m.room.create".to_owned(), String::new()), id(0)),
        ]
        .into()
    };
    for version in ["1", "2"] {
        assert!(resolve_all(rules(version), &[state(1), state(2)], &Circle).is_ok());
    }
}

#[test]
fn users_maps_of_the_greatest_size_are_checked_quickly() {
    let users: serde_json::Value =
        (0..2000).map(|n| (format!("@u{n}:a.example"), json!(1))).collect::<serde_json::Map<_, _>>().into();
    let template = Template {
        room_id: Some("!r:a.example".try_into().unwrap()),
        sender: "@a:a.example".to_owned(),
        kind: "m.room.power_levels".to_owned(),
        state_key: Some(String::new()),
        content: object(json!({ "users": users })),
        ..Template::default()
    };
    assert!(build(rules("11"), template, &key_of("a.example"), "a.example").is_ok());
}
