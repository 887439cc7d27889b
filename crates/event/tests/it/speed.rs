//! Measurements, not checks: `cargo test --release -p event speed -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::Instant;

use event::{Pdu, Template, build, verify};
use serde_json::json;

use crate::room::State;
use crate::support::{AllKeys, key_of, object, rules};

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
