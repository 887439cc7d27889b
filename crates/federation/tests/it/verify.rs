//! Events of other servers, verified in large batches.

use std::sync::Arc;

use bytes::Bytes;
use event::{EdgeLimits, Json, Object, Rules, SigningKey, Template, VerifyError, build, canonical_json};
use federation::client::{Client, Reach};
use federation::key_ring::{KeyRing, OwnKeys, Parts};
use federation::transport::Transport;
use federation::verify;
use ruma_common::OwnedRoomId;
use serde_json::json;
use store::model::Model;
use store::{Clock, Store};

use crate::harness::{key, object};
use crate::trust::{NOW_MS, Net, StandingClock, Trust, US, response, response_with};

const THEM: &str = "two.test";
const DAY_MS: u64 = 86_400_000;

/// Runs jobs on threads of their own.
struct Threads;

impl users::Blocking for Threads {
    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        tokio::task::spawn_blocking(work);
    }
}

fn rules(version: &str) -> &'static Rules {
    Rules::of(version).unwrap()
}

/// A message of a user of `server`, signed with its key, as of a time.
fn message(version: &str, server: &str, key: &SigningKey, text: &str, sent: u64) -> Bytes {
    let template = Template {
        room_id: Some(OwnedRoomId::try_from("!room:two.test").unwrap()),
        sender: format!("@alice:{server}"),
        kind: "m.room.message".to_owned(),
        content: object(json!({ "body": text })),
        depth: 5,
        origin_server_ts: i64::try_from(sent).unwrap(),
        ..Template::default()
    };
    build(rules(version), template, key, server).unwrap().pdu().bytes.clone()
}

fn changed(pdu: &Bytes, change: impl Fn(&mut Object)) -> Bytes {
    let mut object = Json::object_from_slice(pdu).unwrap();
    change(&mut object);
    Bytes::from(canonical_json::to_bytes(&object))
}

fn signatures<'a>(object: &'a mut Object, server: &str) -> &'a mut Object {
    let all = object.get_mut("signatures").and_then(Json::as_object_mut).unwrap();
    all.get_mut(server).and_then(Json::as_object_mut).unwrap()
}

/// SEC-verified-events.
#[tokio::test(flavor = "multi_thread")]
async fn fa7_of_ten_thousand_events_each_bad_one_alone_is_refused() {
    let net = Arc::new(Net::default());
    let names: Vec<String> = (0..50).map(|number| format!("server{number}.test")).collect();
    for name in &names {
        net.publish(name, response(name, &key(name), NOW_MS + DAY_MS));
    }
    let store = Store::new(Arc::new(Model::new())).await.unwrap();
    let own = Arc::new(key(US));
    let ring = KeyRing::new(Parts {
        client: Client::new(US, Arc::clone(&own), Arc::clone(&net) as Arc<dyn Transport>, Reach::default()),
        clock: StandingClock::new() as Arc<dyn Clock>,
        own: OwnKeys::load(&store, US, own).await.unwrap(),
        store,
        notaries: Vec::new(),
        blocking: Arc::new(Threads),
        cores: 4,
    });
    let keys: Vec<SigningKey> = names.iter().map(|name| key(name)).collect();
    let mut pdus: Vec<Bytes> = (0..10_000)
        .map(|number: usize| {
            let from = number % names.len();
            message("11", &names[from], &keys[from], &format!("message {number}"), NOW_MS)
        })
        .collect();
    let bad = [0, 99, 100, 5_000, 9_999];
    pdus[0] = changed(&pdus[0], |event| drop(event.insert("depth".to_owned(), Json::Int(6))));
    pdus[99] = Bytes::from_static(b"no event");
    pdus[100] = changed(&pdus[100], |event| drop(event.remove("signatures")));
    pdus[5_000] = message("11", &names[0], &keys[1], "signed with a key of another server", NOW_MS);
    pdus[9_999] = message("11", "unreachable.test", &key("unreachable.test"), "nobody has the key", NOW_MS);
    // What is wrong with the content alone leaves a redacted event.
    pdus[7] = changed(&pdus[7], |event| drop(event.insert("content".to_owned(), Json::from(Object::new()))));
    let results = verify::pdus(&ring, rules("11"), pdus.clone(), EdgeLimits::Enforced).await.unwrap();
    assert_eq!(results.len(), pdus.len());
    for (number, (result, pdu)) in results.iter().zip(&pdus).enumerate() {
        match result {
            Err(error) => assert!(bad.contains(&number), "{number}: {error}"),
            Ok(verified) => {
                assert!(!bad.contains(&number), "{number} passed");
                assert_eq!(verified.redacted(), number == 7, "{number}");
                assert!(number == 7 || verified.pdu().bytes == *pdu, "{number} is out of order");
            }
        }
    }
    // The keys of all of them were asked for once.
    assert!(names.iter().all(|name| net.count(name) == 1));
    assert_eq!(net.count("unreachable.test"), 1);
}

async fn check(trust: &Trust, version: &str, pdu: Bytes) -> Result<(), VerifyError> {
    verify::pdu(&trust.ring, rules(version), pdu, EdgeLimits::Enforced).await.unwrap().map(|_| ())
}

#[tokio::test]
async fn fa7_known_signatures_must_all_hold_and_unknown_ones_are_skipped() {
    let net = Net::default();
    let old = key("their old key");
    net.publish(THEM, response_with(THEM, &key(THEM), NOW_MS + DAY_MS, &[(&old, NOW_MS - DAY_MS)]));
    let trust = Trust::new(net).await;
    let good = message("11", THEM, &key(THEM), "good", NOW_MS);
    assert_eq!(check(&trust, "11", good.clone()).await, Ok(()));
    // A signature by a key that nobody knows, beside the good one.
    let beside = changed(&good, |event| {
        signatures(event, THEM).insert("ed25519:unknown".to_owned(), Json::from("AAAA"));
    });
    assert_eq!(check(&trust, "11", beside).await, Ok(()));
    let alone = changed(&good, |event| {
        let signatures = signatures(event, THEM);
        signatures.clear();
        signatures.insert("ed25519:unknown".to_owned(), Json::from("AAAA"));
    });
    assert!(matches!(check(&trust, "11", alone).await, Err(VerifyError::NoUsableKey { .. })));
    // An old key signs up to its end, and is no key after it.
    let in_time = message("11", THEM, &old, "in time", NOW_MS - DAY_MS);
    assert_eq!(check(&trust, "11", in_time.clone()).await, Ok(()));
    let too_late = message("11", THEM, &old, "too late", NOW_MS - DAY_MS + 1);
    assert!(matches!(check(&trust, "11", too_late).await, Err(VerifyError::NoUsableKey { .. })));
    // Two known keys of which one is wrong.
    let wrong = changed(&in_time, |event| {
        signatures(event, THEM).insert(key(THEM).key_id().to_owned(), Json::from("A".repeat(86)));
    });
    assert!(matches!(check(&trust, "11", wrong).await, Err(VerifyError::BadSignature { .. })));
}

/// SEC-key-validity.
#[tokio::test]
async fn fa7_how_long_a_key_is_valid_counts_from_room_version_5_on() {
    let net = Net::default();
    net.publish(THEM, response(THEM, &key(THEM), NOW_MS - DAY_MS));
    let trust = Trust::new(net).await;
    let since = |version| message(version, THEM, &key(THEM), "since", NOW_MS - 1);
    let before = |version| message(version, THEM, &key(THEM), "before", NOW_MS - DAY_MS);
    for version in ["3", "4"] {
        assert_eq!(check(&trust, version, since(version)).await, Ok(()), "{version}");
    }
    for version in ["5", "10", "12"] {
        assert_eq!(check(&trust, version, before(version)).await, Ok(()), "{version}");
        let refused = check(&trust, version, since(version)).await;
        assert!(matches!(refused, Err(VerifyError::NoUsableKey { .. })), "{version}: {refused:?}");
    }
}

#[tokio::test]
async fn fa14_historical_user_ids_are_accepted_in_events() {
    let net = Net::default();
    net.publish(THEM, response(THEM, &key(THEM), NOW_MS + DAY_MS));
    let trust = Trust::new(net).await;
    let from = |localpart: &str| {
        let template = Template {
            room_id: Some(OwnedRoomId::try_from("!room:two.test").unwrap()),
            sender: format!("@{localpart}:{THEM}"),
            kind: "m.room.message".to_owned(),
            origin_server_ts: i64::try_from(NOW_MS).unwrap(),
            ..Template::default()
        };
        build(rules("11"), template, &key(THEM), THEM).unwrap().pdu().bytes.clone()
    };
    for localpart in ["", "Älice", "with space", "a/b+c", "😀"] {
        assert_eq!(check(&trust, "11", from(localpart)).await, Ok(()), "{localpart}");
    }
    // The server's name counts as it is written.
    let shouted = message("11", "TWO.test", &key(THEM), "shouted", NOW_MS);
    assert!(check(&trust, "11", shouted).await.is_err());
}
