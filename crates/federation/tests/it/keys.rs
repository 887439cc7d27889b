//! Whose keys are whose: fetched, believed only if they are signed, kept, published, vouched for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use event::{Json, Keys, Object, SigningKey, VerifyKey};
use federation::client::Reach;
use federation::key_ring::{Criteria, retire};
use serde_json::json;
use store::model::Model;
use store::read::Rows;
use store::{CommitBatch, Engine, Notifier, Read, Table, Ticket, Value};
use tokio::sync::Notify;

use crate::harness::{key, object};
use crate::trust::{NOW_MS, Net, QUERY_PATH, Trust, US, response, response_with, wanted};

const THEM: &str = "two.test";
const NOTARY: &str = "notary.test";
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Knows one key, whoever asks.
struct One(SigningKey);

impl Keys for One {
    fn key(&self, _: &str, _: &str) -> Option<VerifyKey> {
        VerifyKey::from_b64(&self.0.public_b64(), u64::MAX, None)
    }
}

fn signed_by(object: &Object, server: &str) -> bool {
    event::verify_json(object, server, &One(key(server))).is_ok()
}

fn number(object: &Object, member: &str) -> u64 {
    u64::try_from(object.get(member).and_then(Json::as_i64).unwrap()).unwrap()
}

#[tokio::test]
async fn fa6_a_key_counts_if_it_has_signed_the_response() {
    let trust = Trust::new(Net::default()).await;
    let refused = |change: &dyn Fn(&mut Object)| {
        let mut changed = response(THEM, &key(THEM), NOW_MS + DAY_MS);
        change(&mut changed);
        changed
    };
    let other = key("some other key");
    let cases = [
        refused(&|response| drop(response.insert("valid_until_ts".to_owned(), Json::Int(1)))),
        refused(&|response| drop(response.remove("signatures"))),
        refused(&|response| drop(response.remove("valid_until_ts"))),
        // A response of somebody else, though well signed.
        response("three.test", &key(THEM), NOW_MS + DAY_MS),
        // Signed by a key that it does not list.
        {
            let mut changed = response(THEM, &key(THEM), NOW_MS + DAY_MS);
            changed.remove("signatures");
            other.sign_json(&mut changed, THEM);
            changed
        },
        object(json!({ "errcode": "M_UNKNOWN" })),
    ];
    for (number, case) in cases.into_iter().enumerate() {
        trust.net.publish(THEM, case);
        assert!(!trust.has(THEM, &key(THEM), NOW_MS).await, "case {number}");
        trust.clock.advance(11 * 60 * 1000);
    }
    // A key that is listed and has not signed is not theirs: it may be anybody's.
    let mut claims = response(THEM, &key(THEM), NOW_MS + DAY_MS);
    claims.remove("signatures");
    let keys = claims.get_mut("verify_keys").and_then(Json::as_object_mut).unwrap();
    keys.insert(other.key_id().to_owned(), Json::from(object(json!({ "key": other.public_b64() }))));
    key(THEM).sign_json(&mut claims, THEM);
    trust.net.publish(THEM, claims);
    assert!(trust.has(THEM, &key(THEM), NOW_MS).await);
    assert!(!trust.has(THEM, &other, 0).await);
}

#[tokio::test]
async fn fa6_a_key_is_trusted_for_seven_days_at_most() {
    let net = Net::default();
    net.publish(THEM, response(THEM, &key(THEM), NOW_MS + 1_000 * DAY_MS));
    let trust = Trust::new(net).await;
    let keys = trust.ring.keys_for(&[wanted(THEM, key(THEM).key_id(), NOW_MS)]).await.unwrap();
    assert_eq!(keys.key(THEM, key(THEM).key_id()).unwrap().valid_until_ts, NOW_MS + 7 * DAY_MS);
    // Then the server is asked again, and no request is taken if it does not answer.
    trust.net.leave(THEM);
    trust.clock.advance(i64::try_from(7 * DAY_MS + 1).unwrap());
    let now_ms = trust.ring.now_ms();
    let keys = trust.ring.keys_for(&[wanted(THEM, key(THEM).key_id(), now_ms)]).await.unwrap();
    assert_eq!(trust.net.count(THEM), 2);
    assert!(keys.current(now_ms).key(THEM, key(THEM).key_id()).is_none());
    // Events of its time are still verified.
    assert!(keys.key(THEM, key(THEM).key_id()).is_some());
}

/// SEC-key-validity.
#[tokio::test]
async fn fa6_old_keys_sign_no_requests_and_keep_their_end() {
    let net = Net::default();
    let old = key("their old key");
    net.publish(THEM, response_with(THEM, &key(THEM), NOW_MS + DAY_MS, &[(&old, NOW_MS - DAY_MS)]));
    let trust = Trust::new(net).await;
    let keys = trust.ring.keys_for(&[wanted(THEM, old.key_id(), NOW_MS - 2 * DAY_MS)]).await.unwrap();
    assert_eq!(keys.key(THEM, old.key_id()).unwrap().expired_ts, Some(NOW_MS - DAY_MS));
    assert!(keys.current(NOW_MS).key(THEM, old.key_id()).is_none());
    assert!(keys.current(NOW_MS).key(THEM, key(THEM).key_id()).is_some());
    let mut claim = object(json!({ "x": 1 }));
    old.sign_json(&mut claim, THEM);
    assert!(trust.ring.verify_json(&claim, THEM).await.is_err());
    key(THEM).sign_json(&mut claim, THEM);
    assert!(trust.ring.verify_json(&claim, THEM).await.is_ok());
}

#[tokio::test]
async fn fa6_keys_of_dead_servers_stay_usable_for_old_events() {
    let net = Net::default();
    net.publish(THEM, response(THEM, &key(THEM), NOW_MS + DAY_MS));
    let trust = Trust::new(net).await;
    assert!(trust.has(THEM, &key(THEM), 0).await);
    trust.net.leave(THEM);
    trust.clock.advance(i64::try_from(1_000 * DAY_MS).unwrap());
    let trust = trust.restarted().await;
    assert!(trust.has(THEM, &key(THEM), NOW_MS).await);
    assert_eq!(trust.net.count(THEM), 1, "what is known is not asked for");
    assert!(!trust.has(THEM, &key(THEM), NOW_MS + 2 * DAY_MS).await);
}

#[tokio::test]
async fn fa6_a_key_that_vanished_from_the_response_is_kept() {
    let net = Net::default();
    let (first, second) = (key("first"), key("second"));
    net.publish(THEM, response(THEM, &first, NOW_MS + HOUR_MS));
    let trust = Trust::new(net).await;
    assert!(trust.has(THEM, &first, NOW_MS).await);
    trust.clock.advance(60_000);
    trust.net.publish(THEM, response(THEM, &second, NOW_MS + DAY_MS));
    assert!(trust.has(THEM, &second, NOW_MS).await);
    assert!(trust.has(THEM, &first, NOW_MS).await);
    assert!(!trust.has(THEM, &first, NOW_MS + 2 * HOUR_MS).await);
    // And then it comes back as an old one.
    trust.clock.advance(60 * 60_000);
    trust.net.publish(THEM, response_with(THEM, &second, NOW_MS + 2 * DAY_MS, &[(&first, NOW_MS + 1)]));
    let keys = trust.ring.keys_for(&[wanted(THEM, second.key_id(), NOW_MS + 2 * DAY_MS)]).await.unwrap();
    assert_eq!(keys.key(THEM, first.key_id()).unwrap().expired_ts, Some(NOW_MS + 1));
}

#[tokio::test]
async fn fa6_those_who_want_keys_of_one_server_at_once_ask_once() {
    let net = Net::default();
    net.publish(THEM, response(THEM, &key(THEM), NOW_MS + DAY_MS));
    let trust = Trust::new(net).await;
    let server_key = key(THEM);
    let askers = (0..50).map(|_| trust.has(THEM, &server_key, NOW_MS));
    let found = futures_util::future::join_all(askers).await;
    assert!(found.into_iter().all(|found| found));
    assert_eq!(trust.net.count(THEM), 1);
    // Of those whose server does not answer, the first has asked for all.
    let askers = (0..50).map(|_| trust.has("three.test", &server_key, NOW_MS));
    assert!(futures_util::future::join_all(askers).await.into_iter().all(|found| !found));
    assert_eq!(trust.net.count("three.test"), 1);
}

#[tokio::test]
async fn fa6_who_does_not_answer_is_left_alone_for_growing_pauses() {
    let trust = Trust::new(Net::default()).await;
    let mut asked_at_minutes = Vec::new();
    for minute in 0..60 {
        let before = trust.net.count(THEM);
        assert!(!trust.has(THEM, &key(THEM), NOW_MS).await);
        if trust.net.count(THEM) > before {
            asked_at_minutes.push(minute);
        }
        trust.clock.advance(60_000);
    }
    assert_eq!(asked_at_minutes, [0, 1, 3, 7, 15, 25, 35, 45, 55]);
    // Once it answers, all is well.
    trust.net.publish(THEM, response(THEM, &key(THEM), NOW_MS + DAY_MS));
    trust.clock.advance(600_000);
    assert!(trust.has(THEM, &key(THEM), NOW_MS).await);
}

#[tokio::test]
async fn fa6_made_up_key_ids_do_not_make_us_ask_over_and_over() {
    let net = Net::default();
    net.publish(THEM, response(THEM, &key(THEM), NOW_MS + DAY_MS));
    let trust = Trust::new(net).await;
    for number in 0..100 {
        let keys = trust.ring.keys_for(&[wanted(THEM, &format!("ed25519:a{number}"), NOW_MS)]).await.unwrap();
        assert!(keys.key(THEM, &format!("ed25519:a{number}")).is_none());
    }
    assert_eq!(trust.net.count(THEM), 1);
    // A key that came into use since is found after a moment nevertheless.
    let new = key("their new key");
    trust.net.publish(THEM, response(THEM, &new, NOW_MS + DAY_MS));
    trust.clock.advance(10_001);
    assert!(trust.has(THEM, &new, NOW_MS).await);
}

/// An answer of a notary, signed by it.
fn notary_answer(responses: &[Object], notary: &SigningKey) -> Object {
    let responses = responses.iter().map(|response| {
        let mut response = response.clone();
        notary.sign_json(&mut response, NOTARY);
        Json::Object(response)
    });
    Object::from([("server_keys".to_owned(), Json::Array(responses.collect()))])
}

#[tokio::test]
async fn fa6_notaries_are_asked_in_one_batch_for_what_the_origins_do_not_give() {
    let net = Net::default();
    let names: Vec<String> = (0..120).map(|number| format!("dead{number}.test")).collect();
    let responses: Vec<Object> =
        names.iter().map(|name| response(name, &key(name), NOW_MS + DAY_MS)).take(119).collect();
    net.publish(NOTARY, response(NOTARY, &key(NOTARY), NOW_MS + DAY_MS));
    net.publish(THEM, response(THEM, &key(THEM), NOW_MS + DAY_MS));
    net.answer(NOTARY, QUERY_PATH, notary_answer(&responses, &key(NOTARY)));
    let trust = Trust::with(net, Reach::default(), &[NOTARY]).await;
    let mut all: Vec<_> = names.iter().map(|name| wanted(name, key(name).key_id(), NOW_MS)).collect();
    all.push(wanted(THEM, key(THEM).key_id(), NOW_MS));
    let keys = trust.ring.keys_for(&all).await.unwrap();
    let found = all.iter().filter(|want| keys.key(&want.server, &want.key_id).is_some()).count();
    assert_eq!(found, 120, "all but the last, which nobody has");
    // Each origin first; then the notary's own keys and three batches.
    assert!(names.iter().all(|name| trust.net.count(name) == 1));
    let queries: Vec<Object> = {
        let seen = trust.net.seen.lock();
        let queries = seen.iter().filter(|request| request.path_and_query == QUERY_PATH);
        queries.map(|request| Json::object_from_slice(request.body.as_ref().unwrap()).unwrap()).collect()
    };
    assert_eq!(queries.len(), 3);
    let asked: Vec<String> = queries
        .iter()
        .flat_map(|query| query.get("server_keys").and_then(Json::as_object).unwrap().keys().cloned())
        .collect();
    assert_eq!(asked.len(), 120);
    assert!(!asked.contains(&THEM.to_owned()), "what the origin gave is not asked for");
}

#[tokio::test]
async fn fa6_a_notary_is_believed_only_under_its_signature_and_takes_nothing_back() {
    let old = key("their old key");
    let check = async |answer: Object| {
        let net = Net::default();
        net.publish(NOTARY, response(NOTARY, &key(NOTARY), NOW_MS + DAY_MS));
        net.answer(NOTARY, QUERY_PATH, answer);
        let trust = Trust::with(net, Reach::default(), &[NOTARY]).await;
        trust.has(THEM, &key(THEM), NOW_MS).await
    };
    let theirs = response(THEM, &key(THEM), NOW_MS + DAY_MS);
    assert!(check(notary_answer(std::slice::from_ref(&theirs), &key(NOTARY))).await);
    assert!(!check(notary_answer(&[theirs], &key("not the notary"))).await);
    let mut forged = response(THEM, &key(THEM), NOW_MS + DAY_MS);
    forged.remove("signatures");
    assert!(!check(notary_answer(&[forged], &key(NOTARY))).await, "the notary's signature alone is not enough");

    // We know that a key has expired; a notary that holds the response from before does not revive it.
    let net = Net::default();
    net.publish(THEM, response_with(THEM, &key(THEM), NOW_MS + HOUR_MS, &[(&old, NOW_MS - DAY_MS)]));
    net.publish(NOTARY, response(NOTARY, &key(NOTARY), NOW_MS + DAY_MS));
    let before = response(THEM, &old, NOW_MS + 9 * DAY_MS);
    net.answer(NOTARY, QUERY_PATH, notary_answer(&[before], &key(NOTARY)));
    let trust = Trust::with(net, Reach::default(), &[NOTARY]).await;
    assert!(trust.has(THEM, &old, NOW_MS).await);
    trust.net.leave(THEM);
    trust.clock.advance(i64::try_from(2 * HOUR_MS).unwrap());
    let keys = trust.ring.keys_for(&[wanted(THEM, key(THEM).key_id(), NOW_MS + 2 * HOUR_MS)]).await.unwrap();
    assert!(trust.net.count(NOTARY) > 0);
    assert_eq!(keys.key(THEM, old.key_id()).unwrap().expired_ts, Some(NOW_MS - DAY_MS));
}

#[tokio::test]
async fn fa8_our_keys_are_signed_by_themselves_and_name_the_old_ones() {
    let trust = Trust::new(Net::default()).await;
    let before = key("our first key");
    let mut batch = CommitBatch::new();
    retire(&mut batch, before.key_id(), &before.public_b64(), 1_600_000_000_000);
    trust.store.commit(batch).await.unwrap();
    let trust = trust.restarted().await;
    let ours = trust.ring.own().response(NOW_MS);
    assert!(signed_by(&ours, US));
    assert_eq!(ours.get("server_name"), Some(&Json::from(US)));
    // Long enough not to be asked again at once, short enough that a stolen key is soon distrusted.
    assert!((NOW_MS + HOUR_MS..=NOW_MS + 7 * DAY_MS).contains(&number(&ours, "valid_until_ts")));
    let current = json!({ key(US).key_id(): { "key": key(US).public_b64() } });
    assert_eq!(serde_json::Value::from(ours.get("verify_keys").unwrap().clone()), current);
    let old = json!({ before.key_id(): { "key": before.public_b64(), "expired_ts": 1_600_000_000_000_u64 } });
    assert_eq!(serde_json::Value::from(ours.get("old_verify_keys").unwrap().clone()), old);
    // We believe ourselves without asking anybody.
    let keys = trust.ring.keys_for(&[wanted(US, before.key_id(), 0)]).await.unwrap();
    assert_eq!(keys.key(US, before.key_id()).unwrap().expired_ts, Some(1_600_000_000_000));
    assert!(keys.current(NOW_MS).key(US, key(US).key_id()).is_some());
    assert!(trust.net.seen.lock().is_empty());
}

fn all_of(server: &str) -> Criteria {
    BTreeMap::from([(server.to_owned(), BTreeMap::new())])
}

fn one_of(server: &str, key: &SigningKey, minimum: Option<u64>) -> Criteria {
    BTreeMap::from([(server.to_owned(), BTreeMap::from([(key.key_id().to_owned(), minimum)]))])
}

#[tokio::test]
async fn fa13_as_a_notary_we_add_our_signature_to_the_servers_own() {
    let net = Net::default();
    net.publish(THEM, response(THEM, &key(THEM), NOW_MS + DAY_MS));
    let trust = Trust::new(net).await;
    let vouched = trust.ring.vouch(&all_of(THEM)).await.unwrap();
    let [one] = vouched.as_slice() else { panic!("{vouched:?}") };
    assert!(signed_by(one, US) && signed_by(one, THEM));
    assert_eq!(number(one, "valid_until_ts"), NOW_MS + DAY_MS);
    // Ourselves included, without asking.
    let ours = trust.ring.vouch(&all_of(US)).await.unwrap();
    assert!(signed_by(ours.first().unwrap(), US));
    assert_eq!(trust.net.seen.lock().len(), 1);
    assert!(trust.ring.vouch(&Criteria::new()).await.unwrap().is_empty());
}

#[tokio::test]
async fn fa13_what_is_offline_is_answered_from_memory_or_not_at_all() {
    let net = Net::default();
    net.publish(THEM, response(THEM, &key(THEM), NOW_MS + DAY_MS));
    let trust = Trust::new(net).await;
    assert!(trust.ring.vouch(&all_of("nobody.test")).await.unwrap().is_empty());
    assert!(trust.ring.vouch(&all_of("not a name")).await.unwrap().is_empty());
    assert_eq!(trust.ring.vouch(&all_of(THEM)).await.unwrap().len(), 1);
    trust.net.leave(THEM);
    trust.clock.advance(i64::try_from(30 * DAY_MS).unwrap());
    let trust = trust.restarted().await;
    let vouched = trust.ring.vouch(&one_of(THEM, &key(THEM), None)).await.unwrap();
    assert!(signed_by(vouched.first().unwrap(), THEM), "the last response that was received");
    assert_eq!(trust.net.count(THEM), 2, "the server was asked first");
}

#[tokio::test]
async fn fa13_the_server_is_asked_again_when_its_answer_is_not_valid_for_long_enough() {
    let net = Net::default();
    net.publish(THEM, response(THEM, &key(THEM), NOW_MS + 4 * HOUR_MS));
    let trust = Trust::new(net).await;
    let asked = async |criteria: Criteria| {
        let before = trust.net.count(THEM);
        assert_eq!(trust.ring.vouch(&criteria).await.unwrap().len(), 1);
        trust.net.count(THEM) - before
    };
    assert_eq!(asked(all_of(THEM)).await, 1);
    assert_eq!(asked(all_of(THEM)).await, 0);
    trust.clock.advance(i64::try_from(HOUR_MS).unwrap());
    assert_eq!(asked(one_of(THEM, &key(THEM), None)).await, 0, "without a minimum, now is enough");
    assert_eq!(asked(one_of(THEM, &key(THEM), Some(NOW_MS + 4 * HOUR_MS))).await, 0);
    assert_eq!(asked(one_of(THEM, &key(THEM), Some(NOW_MS + 5 * HOUR_MS))).await, 1);
    assert_eq!(asked(one_of(THEM, &key(THEM), Some(NOW_MS + 5 * HOUR_MS))).await, 0, "not over and over");
    // Half of its life is over: a notary asks again.
    trust.clock.advance(i64::try_from(2 * HOUR_MS).unwrap());
    assert_eq!(asked(all_of(THEM)).await, 1);
}

/// SEC-notary-signing.
#[tokio::test]
async fn fa13_nothing_is_signed_that_could_pass_for_something_else() {
    let net = Net::default();
    let mut odd = response(THEM, &key(THEM), NOW_MS + DAY_MS);
    odd.remove("signatures");
    odd.insert("method".to_owned(), Json::from("PUT"));
    odd.insert("origin".to_owned(), Json::from(US));
    key(THEM).sign_json(&mut odd, THEM);
    net.publish(THEM, odd);
    let trust = Trust::new(net).await;
    assert!(trust.ring.vouch(&all_of(THEM)).await.unwrap().is_empty());
    assert!(trust.has(THEM, &key(THEM), NOW_MS).await, "its keys are good all the same");
}

#[tokio::test]
async fn fa13_for_events_the_query_says_how_long_a_key_must_be_valid() {
    let rules = |version| event::Rules::of(version).unwrap();
    let sent = NOW_MS - HOUR_MS;
    let mut event = object(json!({
        "type": "m.room.message", "sender": "@a:two.test", "event_id": "$a:two.test", "origin_server_ts": sent,
        "signatures": { "two.test": { "ed25519:k": "x" } },
    }));
    let minimum = |event: &Object, version| {
        let wanted = federation::key_ring::Wanted::of_event(rules(version), event, NOW_MS).unwrap();
        wanted.first().unwrap().minimum_valid_until_ts
    };
    assert_eq!(minimum(&event, "4"), 0);
    assert_eq!(minimum(&event, "5"), sent);
    assert_eq!(minimum(&event, "12"), sent);
    event.insert("origin_server_ts".to_owned(), Json::Int(i64::MAX));
    assert_eq!(minimum(&event, "12"), NOW_MS, "an event from the future asks for no more than now");
}

#[tokio::test]
async fn a_server_cannot_fill_the_store_with_keys() {
    let trust = Trust::new(Net::default()).await;
    for number in 0..300_u64 {
        let one = key(&format!("key {number}"));
        trust.net.publish(THEM, response(THEM, &one, trust.ring.now_ms() + HOUR_MS));
        assert!(trust.has(THEM, &one, trust.ring.now_ms()).await);
        trust.clock.advance(60_000);
    }
    let rows: Vec<store::tables::federation::ServerKeyRow> =
        trust.store.all(store::Read::prefix::<store::tables::federation::ServerKeyRow>(Vec::new())).await.unwrap();
    assert_eq!(rows.len(), 256);
    let responses: Vec<store::tables::federation::ServerKeyResponseRow> = trust
        .store
        .all(store::Read::prefix::<store::tables::federation::ServerKeyResponseRow>(Vec::new()))
        .await
        .unwrap();
    assert_eq!(responses.len(), 256);
}

/// An engine that holds one answer back until it is told to go on.
struct Late {
    model: Model,
    /// Whether the next answer is held back.
    armed: AtomicBool,
    held: Notify,
    go_on: Notify,
}

#[async_trait]
impl Engine for Late {
    fn submit(&self, batch: CommitBatch) -> Ticket {
        self.model.submit(batch)
    }

    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Rows>, store::Error> {
        let found = self.model.read(reads).await;
        if self.armed.swap(false, Ordering::SeqCst) {
            self.held.notify_one();
            self.go_on.notified().await;
        }
        found
    }

    fn notifier(&self) -> &Notifier {
        self.model.notifier()
    }

    async fn import(&self, table: &'static Table, rows: Vec<Vec<Value>>) -> Result<(), store::Error> {
        self.model.import(table, rows).await
    }

    async fn close(&self) {
        self.model.close().await;
    }
}

#[tokio::test]
async fn fa7_a_key_that_came_for_another_while_one_looked_is_found() {
    let net = Net::default();
    net.publish(THEM, response(THEM, &key(THEM), NOW_MS + DAY_MS));
    let engine = Arc::new(Late {
        model: Model::new(),
        armed: AtomicBool::new(false),
        held: Notify::new(),
        go_on: Notify::new(),
    });
    let trust = Trust::over(Arc::clone(&engine) as Arc<dyn Engine>, net).await;
    let their_key = key(THEM);
    engine.armed.store(true, Ordering::SeqCst);
    let other = async {
        engine.held.notified().await;
        let found = trust.has(THEM, &their_key, NOW_MS).await;
        engine.go_on.notify_one();
        found
    };
    let (first, other) = tokio::join!(trust.has(THEM, &their_key, NOW_MS), other);
    assert!(other, "asked and answered");
    assert!(first, "it had looked before the answer, and must not ask again after it");
    assert_eq!(trust.net.count(THEM), 1);
}
