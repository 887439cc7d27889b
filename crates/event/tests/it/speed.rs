//! Measurements, not checks: `cargo test --release -p event speed -- --ignored --nocapture`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use event::state_res::{Events, StateMap, resolve_all};
use event::{Pdu, Template, build, verify};
use ruma_common::EventId;
use serde_json::json;

use crate::room::{ALICE, State};
use crate::support::{AllKeys, Store, key_of, object, pdu, rules};

fn measure(name: &str, mut step: impl FnMut()) {
    const N: u32 = 5000;
    for _ in 0..100 {
        step();
    }
    let start = Instant::now();
    for _ in 0..N {
        step();
    }
    println!("{name}: {:?} each", start.elapsed() / N);
}

#[test]
#[ignore = "measures, for a release build"]
fn events() {
    let rules = rules("11");
    let key = key_of("a.example");
    let edge = |n: u32| format!("$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{n:02}").try_into().unwrap();
    let template = Template {
        room_id: Some("!room:a.example".try_into().unwrap()),
        sender: "@alice:a.example".to_owned(),
        kind: "m.room.message".to_owned(),
        content: object(json!({ "msgtype": "m.text", "body": "Good morning. ".repeat(10) })),
        prev_events: vec![edge(1)],
        auth_events: vec![edge(2), edge(3), edge(4)],
        depth: 1000,
        origin_server_ts: 1_700_000_000_000,
        ..Template::default()
    };
    let built = build(rules, template.clone(), &key, "a.example").unwrap();
    let bytes = built.pdu().bytes.clone();
    measure("build", || drop(black_box(build(rules, template.clone(), &key, "a.example"))));
    measure("parse", || drop(black_box(Pdu::parse(rules, bytes.clone()))));
    let id = built.pdu().event_id.clone();
    measure("read from the store", || drop(black_box(Pdu::stored(rules, id.clone(), bytes.clone()))));
    measure("verify", || drop(black_box(verify(rules, bytes.clone(), &AllKeys::FOREVER, 0))));
    let mut state = State::public("11");
    let event = state.event("@bob:b.example", "m.room.message", None, json!({}));
    let event = crate::support::pdu(rules, event);
    measure("authorize", || {
        drop(black_box(event::auth_rules::check(rules, &event, &state.entries, &state.create)));
    });
}

struct Stored(Store);

impl Events for Stored {
    fn event(&self, id: &EventId) -> Option<Arc<Pdu>> {
        self.0.get(id).cloned()
    }
}

/// Two sides that disagree on 5,000 members: on one they joined, on the other
/// Alice kicked them.
#[test]
#[ignore = "measures, for a release build"]
fn a_large_conflict() {
    let mut room = State::public("11");
    let cited = ["m.room.power_levels", "m.room.join_rules"].map(|kind| room.get(kind).unwrap().event_id.to_string());
    let (create, alice) = (room.create.event_id.to_string(), ("m.room.member".to_owned(), ALICE.to_owned()));
    let alice = room.entries[&alice].event_id.to_string();
    let mut store: Store = room.entries.values().map(|pdu| (pdu.event_id.clone(), pdu.clone())).collect();
    let base: StateMap<_> = room.entries.iter().map(|(entry, pdu)| (entry.clone(), pdu.event_id.clone())).collect();
    let mut sets = [base.clone(), base];
    for n in 0..5000 {
        let user = format!("@u{n}:b.example");
        let entry = ("m.room.member".to_owned(), user.clone());
        let mut join = room.event(&user, "m.room.member", Some(&user), json!({ "membership": "join" }));
        join["auth_events"] = room.edges(&[&create, &cited[0], &cited[1]]);
        let join = pdu(room.rules, join);
        let mut kick = room.event(ALICE, "m.room.member", Some(&user), json!({ "membership": "leave" }));
        kick["auth_events"] = room.edges(&[&create, &cited[0], &alice, join.event_id.as_str()]);
        let kick = pdu(room.rules, kick);
        for (set, event) in sets.iter_mut().zip([join, kick]) {
            set.insert(entry.clone(), event.event_id.clone());
            store.insert(event.event_id.clone(), event);
        }
    }
    let store = Stored(store);
    let start = Instant::now();
    let resolved = resolve_all(room.rules, &sets, &store).unwrap();
    println!("10,000 conflicting events: {:?}", start.elapsed());
    assert_eq!(resolved, sets[1]);
}
