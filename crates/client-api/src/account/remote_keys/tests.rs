//! Keys of users of servers that answer, lie, refuse or never answer.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use event::SigningKey;
use federation::client::{Client, Reach};
use federation::transport::{Incoming, Outgoing, Transport, TransportError};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use store::UserId;
use tokio::time::Instant;
use users::keys::ByUser;
use users::keys::device_keys::Queried;

const OWN: &str = "one.test";
const BOB: &str = "@bob:two.test";

/// `two.test` answers this, `three.test` refuses, `four.test` never answers.
struct Net(Value);

#[async_trait]
impl Transport for Net {
    async fn send(&self, request: Outgoing) -> Result<Incoming, TransportError> {
        let (status, body) = match request.destination.as_str() {
            "two.test" => (200, self.0.clone()),
            "three.test" => (500, json!({ "errcode": "M_UNKNOWN", "error": "no" })),
            _ => std::future::pending().await,
        };
        let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
        Ok(Incoming { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body })
    }
}

fn client(answer: Value) -> Client {
    Client::new(OWN, Arc::new(SigningKey::generate(&[1; 32])), Arc::new(Net(answer)), Reach::default())
}

/// Whoever answers at all answers at once, before it is looked at the time.
fn soon() -> Instant {
    Instant::now()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

fn device(user: &str, id: &str) -> Value {
    json!({ "user_id": user, "device_id": id, "keys": { format!("ed25519:{id}"): "k" } })
}

#[tokio::test]
async fn ce3_keys_of_other_servers_are_asked_for_there_and_failures_are_named() {
    let client = client(json!({
        "device_keys": {
            BOB: { "PHONE": device(BOB, "PHONE"), "LIAR": device("@eve:two.test", "LIAR"), "OTHER": device(BOB, "TV") },
            "@alice:one.test": { "FAKE": device("@alice:one.test", "FAKE") },
            "@carol:two.test": { "UNASKED": device("@carol:two.test", "UNASKED") },
        },
        "master_keys": { BOB: { "user_id": BOB }, "@alice:one.test": { "user_id": "@alice:one.test" } },
        "self_signing_keys": { BOB: { "user_id": "@eve:two.test" } },
        "user_signing_keys": { BOB: { "user_id": BOB } },
    }));
    let users = [BOB, "@dan:three.test", "@erin:four.test", "@alice:one.test", "nonsense", "@x:not a name"];
    let wanted: BTreeMap<UserId, Vec<String>> = users.iter().map(|user| (UserId::from(*user), Vec::new())).collect();
    let mut found = Queried::default();
    let failures = super::ask(Some(&client), OWN, wanted, soon(), &mut found).await;
    assert_eq!(failures, set(&["four.test", "three.test"]));
    let bob = UserId::from(BOB);
    assert_eq!(found.device_keys.keys().collect::<Vec<_>>(), [&bob]);
    assert_eq!(found.device_keys[&bob].keys().collect::<Vec<_>>(), ["PHONE"]);
    let key: Value = serde_json::from_str(found.device_keys[&bob]["PHONE"].get()).unwrap();
    assert_eq!(key, device(BOB, "PHONE"));
    assert_eq!(found.master_keys.keys().collect::<Vec<_>>(), [&bob]);
    assert!(found.self_signing_keys.is_empty() && found.user_signing_keys.is_empty());
}

#[tokio::test]
async fn ce3_only_the_devices_that_were_asked_for_are_taken() {
    let client = client(json!({ "device_keys": { BOB: { "PHONE": device(BOB, "PHONE"), "TV": device(BOB, "TV") } } }));
    let wanted = BTreeMap::from([(UserId::from(BOB), vec!["TV".to_owned()])]);
    let mut found = Queried::default();
    assert!(super::ask(Some(&client), OWN, wanted, soon(), &mut found).await.is_empty());
    assert_eq!(found.device_keys[&UserId::from(BOB)].keys().collect::<Vec<_>>(), ["TV"]);
}

#[tokio::test]
async fn ce2_one_time_keys_are_claimed_from_other_servers() {
    let client = client(json!({ "one_time_keys": {
        BOB: {
            "PHONE": { "signed_curve25519:A": { "key": "k" }, "other:A": { "key": "k" } },
            "TV": { "signed_curve25519:B": { "key": "k" } },
        },
        "@alice:one.test": { "DEVICE": { "signed_curve25519:C": { "key": "k" } } },
    } }));
    let one = |device: &str| BTreeMap::from([(device.to_owned(), "signed_curve25519".to_owned())]);
    let wanted: ByUser<String> = BTreeMap::from([
        (UserId::from(BOB), one("PHONE")),
        (UserId::from("@alice:one.test"), one("DEVICE")),
        (UserId::from("@erin:four.test"), one("DEVICE")),
    ]);
    let mut claimed = ByUser::new();
    let failures = super::claim(Some(&client), OWN, wanted.clone(), soon(), &mut claimed).await;
    assert_eq!(failures, set(&["four.test"]));
    assert_eq!(
        serde_json::to_value(&claimed).unwrap(),
        json!({ BOB: { "PHONE": { "signed_curve25519:A": { "key": "k" } } } })
    );
    let failures = super::claim(None, OWN, wanted, soon(), &mut claimed).await;
    assert_eq!(failures, set(&["four.test", "two.test"]), "without federation none can be asked");
}

#[test]
fn a_request_to_one_server_is_split_where_it_names_many() {
    let wanted = (0..super::USERS_PER_REQUEST * 2 + 1).map(|n| (UserId::from(format!("@u{n}:two.test")), ())).collect();
    let sizes: Vec<usize> = super::requests(super::by_server(OWN, wanted)).map(|(_, users)| users.len()).collect();
    assert_eq!(sizes, [super::USERS_PER_REQUEST, super::USERS_PER_REQUEST, 1]);
}
