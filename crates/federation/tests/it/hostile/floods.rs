//! Much of everything: what a peer can make this server keep and do is bounded (docs: security, "bounded everything").

use http::{Method, StatusCode};
use serde_json::{Value, json};
use store::tables::federation::InboundPduRow;

use super::{EVENT, EVIL, GOOD, MISSING, STATE_IDS};
use crate::harness::{Peer, Sketch, World, encoded, id, value};

const SEND: &str = "/_matrix/federation/v1/send/";

/// CVE-2024-31208: auth chains that branch at every step, so that there are 2^100 ways through them.
/// SEC-auth-chain-cost.
#[tokio::test]
async fn an_auth_chain_of_many_ways_is_walked_once() {
    let world = World::new().await;
    let room = world.room("10").await;
    let evil = Peer::new(EVIL);
    let join = evil.join(&world, &room, "mallory").await;
    let mallory = evil.user("mallory");
    let mut member = join;
    for number in 0..100 {
        let content = json!({ "membership": "join", "displayname": number.to_string() });
        let next = evil.event(&world, &room, Sketch { content, ..Sketch::member(&mallory, "join") }).await;
        evil.transact(&world, &format!("t{number}"), &[&next], &[]).await;
        world.federation.receive_due().await;
        assert_eq!(world.fate(&room, &id(&next)).await, None);
        member = next;
    }
    let path = format!("/_matrix/federation/v1/event_auth/{}/{}", encoded(&room.id), encoded(&id(&member)));
    let (status, answer) = evil.get(&world, &path).await;
    assert_eq!(status, 200);
    let chain = answer["auth_chain"].as_array().unwrap();
    assert!(chain.len() <= 110, "each is there once: {}", chain.len());
}

/// SEC-gap-cost.
#[tokio::test]
async fn fe1_a_peer_that_sends_more_than_is_taken_in_is_told_to_wait() {
    let world = World::new().await;
    let room = world.room("10").await;
    let (two, evil) = (Peer::new(GOOD), Peer::new(EVIL));
    two.join(&world, &room, "bob").await;
    evil.join(&world, &room, "mallory").await;
    let base = evil.message(&world, &room, "mallory", "base").await;
    let mallory = evil.user("mallory");
    let mut refused = None;
    for number in 0..110 {
        let events: Vec<Value> = (0..50)
            .map(|n| value(&evil.after(&world, room.rules, &base, Sketch::message(&mallory, &format!("{number} {n}")))))
            .collect();
        let body = json!({ "pdus": events, "edus": [] });
        let (status, answer) = evil.ask(&world, Method::PUT, &format!("{SEND}f{number}"), Some(body)).await;
        if status != 200 {
            refused = Some((number, status, answer));
            break;
        }
    }
    let (number, status, answer) = refused.unwrap();
    assert_eq!((number, status, &answer["errcode"]), (100, StatusCode::TOO_MANY_REQUESTS, &json!("M_LIMIT_EXCEEDED")));
    assert_eq!(world.engine_rows().await, 5_000);
    // Others are heard, and so are EDUs of the same peer.
    let message = two.message(&world, &room, "bob", "hello").await;
    assert_eq!(two.transact(&world, "t1", &[&message], &[]).await[id(&message)], json!({}));
    evil.transact(&world, "t1", &[], &[json!({ "edu_type": "m.typing", "content": {} })]).await;
}

impl World {
    /// How many events are queued.
    async fn engine_rows(&self) -> usize {
        self.store.all::<InboundPduRow>(store::Read::prefix::<InboundPduRow>(vec![])).await.unwrap().len()
    }
}

/// Whatever a peer says it lacks, it is not fetched without end.
/// SEC-gap-cost.
#[tokio::test]
async fn fe6_a_state_of_made_up_events_is_fetched_within_bounds() {
    let world = World::new().await;
    let room = world.room("10").await;
    let evil = Peer::new(EVIL);
    evil.join(&world, &room, "mallory").await;
    let mallory = evil.user("mallory");
    let first = evil.message(&world, &room, "mallory", "0").await;
    let second = evil.after(&world, room.rules, &first, Sketch::message(&mallory, "1"));
    let made_up = |n: usize| -> Vec<String> { (0..n).map(|n| format!("$made-up-{n}")).collect() };
    for n in [40, 100_000] {
        world.net.clear(EVIL, "/");
        world.net.answer(EVIL, MISSING, 200, json!({ "events": [] }));
        world.net.answer(EVIL, STATE_IDS, 200, json!({ "pdu_ids": made_up(n), "auth_chain_ids": made_up(n) }));
        world.net.answer(EVIL, EVENT, 404, json!({ "errcode": "M_NOT_FOUND" }));
        world.net.answer(EVIL, "/_matrix/federation/v1/state/", 200, json!({ "pdus": [], "auth_chain": [] }));
        world.net.asked.lock().clear();
        evil.transact(&world, &format!("t{n}"), &[&second], &[]).await;
        world.clock.advance(60 * 60_000);
        world.federation.receive_due().await;
        let asked = world.net.asked.lock().len();
        assert!((3..=60).contains(&asked), "{n}: {asked} requests");
        assert!(world.fate(&room, &id(&second)).await.is_some());
    }
}

/// Fifty events and a hundred EDUs are a transaction; one more is none, and is told so.
#[tokio::test]
async fn fe1_a_transaction_of_the_greatest_size_is_taken() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new(GOOD);
    two.join(&world, &room, "bob").await;
    let base = two.message(&world, &room, "bob", "base").await;
    let bob = two.user("bob");
    let large = "x".repeat(60_000);
    let events: Vec<_> = (0..50)
        .map(|n| {
            let pdu = base.pdu();
            let sketch = Sketch::message(&bob, &format!("{n} {large}"));
            let (prev, auth) = (pdu.prev_events.clone(), pdu.auth_events.clone());
            two.build(&world, room.rules, &room.id, sketch, prev, auth, pdu.depth)
        })
        .collect();
    let edu = json!({ "edu_type": "m.made.up", "content": { "x": "x".repeat(10_000) } });
    let answer = two.transact(&world, "t1", &events.iter().collect::<Vec<_>>(), &vec![edu; 100]).await;
    assert_eq!(answer.as_object().unwrap().len(), 50);
    world.federation.receive_due().await;
    for event in &events {
        assert_eq!(world.fate(&room, &id(event)).await, None);
    }
    // What is larger than any transaction is refused before it is read to its end.
    let body = json!({ "pdus": [], "edus": [], "x": "x".repeat(17 << 20) });
    let (status, answer) = two.ask(&world, Method::PUT, &format!("{SEND}t2"), Some(body)).await;
    assert_eq!((status.as_u16(), &answer["errcode"]), (413, &json!("M_TOO_LARGE")));
}

/// FE1: an id that is used again says the same again; what else is in it counts for nothing. Other servers' ids are
/// others.
#[tokio::test]
async fn fe1_a_transaction_id_with_another_content_is_the_old_transaction() {
    let world = World::new().await;
    let room = world.room("10").await;
    let evil = Peer::new(EVIL);
    evil.join(&world, &room, "mallory").await;
    let first = evil.message(&world, &room, "mallory", "first").await;
    let second = evil.message(&world, &room, "mallory", "second").await;
    let answer = evil.transact(&world, "t1", &[&first], &[]).await;
    assert_eq!(evil.transact(&world, "t1", &[&second], &[]).await, answer);
    world.federation.receive_due().await;
    assert_eq!(world.fate(&room, &id(&first)).await, None);
    assert_eq!(world.fate(&room, &id(&second)).await.as_deref(), Some("unknown"));
    for txn_id in ["", ".", "..", "%2F", "t%00", "%F0%9F%98%80", "a+b", &"t".repeat(255)] {
        let path = format!("{SEND}{txn_id}");
        let (status, _) = evil.ask(&world, Method::PUT, &path, Some(json!({ "pdus": [], "edus": [] }))).await;
        assert!(matches!(status.as_u16(), 200 | 400 | 404 | 405), "{txn_id:?}: {status}");
    }
}
