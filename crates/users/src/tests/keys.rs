//! Keys of devices and users, and the key backup. Signatures are real ones.

use std::collections::BTreeMap;

use event::SigningKey;
use serde_json::{Map, Value as Json, json};
use store::{DeviceId, UserId};

use super::{Bench, user};
use crate::Error;
use crate::keys::ByUser;
use crate::keys::backup::BackupKey;
use crate::keys::cross_signing::CrossSigningKeys;
use crate::keys::device_keys::Queried;
use crate::keys::upload::Upload;
use crate::login::LoggedIn;

/// The object with a signature by `key` under the id `ed25519:<name>`.
fn signed(object: &Json, signer: &UserId, key: &SigningKey, name: &str) -> Json {
    let mut parsed = event::Json::object_from_slice(object.to_string().as_bytes()).unwrap();
    key.sign_json(&mut parsed, signer.as_str());
    let mut object: Json = serde_json::from_str(&event::canonical_json::to_string(&parsed)).unwrap();
    let made = object["signatures"][signer.as_str()][key.key_id()].take();
    object["signatures"] = json!({ signer.as_str(): { format!("ed25519:{name}"): made } });
    object
}

fn key(seed: u8) -> SigningKey {
    SigningKey::generate(&[seed; 32])
}

fn device_keys(login: &LoggedIn, seed: u8) -> Json {
    let (user, device) = (&login.user, login.device.as_str());
    let object = json!({
        "user_id": user.as_str(),
        "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { format!("ed25519:{device}"): key(seed).public_b64(), format!("curve25519:{device}"): "x" },
    });
    signed(&object, user, &key(seed), device)
}

fn cross_key(user: &UserId, usage: &str, seed: u8) -> Json {
    let public = key(seed).public_b64();
    json!({ "user_id": user.as_str(), "usage": [usage], "keys": { format!("ed25519:{public}"): public } })
}

fn cross_keys(user: &UserId, master: u8) -> CrossSigningKeys {
    let sign = |object: Json| signed(&object, user, &key(master), &key(master).public_b64());
    CrossSigningKeys {
        master: Some(cross_key(user, "master", master)),
        self_signing: Some(sign(cross_key(user, "self_signing", master + 1))),
        user_signing: Some(sign(cross_key(user, "user_signing", master + 2))),
    }
}

#[tokio::test]
async fn ce1_device_keys_belong_to_the_device_and_are_signed_by_it() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    let put = |keys: Json| {
        let (users, login) = (&bench.users, &login);
        async move { users.put_device_keys(&login.user, &login.device, &keys).await }
    };
    let good = device_keys(&login, 1);
    let mut other_user = good.clone();
    other_user["user_id"] = "@bob:example.org".into();
    let mut other_device = good.clone();
    other_device["device_id"] = "OTHER".into();
    let mut changed = good.clone();
    changed["algorithms"] = json!(["changed"]);
    assert!(matches!(put(other_user).await, Err(Error::InvalidParam(_))));
    assert!(matches!(put(other_device).await, Err(Error::InvalidParam(_))));
    assert!(matches!(put(changed).await, Err(Error::InvalidSignature(_))));
    put(good.clone()).await.unwrap();
    let after = bench.store.watermark();
    put(good).await.unwrap();
    assert_eq!(bench.store.watermark(), after, "the same keys change nothing");
}

/// SEC-poison-uploads: other servers are told of devices and keys; what they could not read, and would refuse, does not get
/// there.
#[tokio::test]
async fn ce1_keys_that_others_cannot_read_are_refused() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    let with = |place: &str, value: Json| {
        let mut keys = device_keys(&login, 1);
        keys.as_object_mut().unwrap().remove("signatures");
        keys[place] = value;
        signed(&keys, &login.user, &key(1), login.device.as_str())
    };
    let ed25519 = format!("ed25519:{}", login.device);
    let mut own = json!({});
    own[ed25519] = key(1).public_b64().into();
    for (place, value) in [
        ("keys", json!([])),
        ("keys", json!("x")),
        ("algorithms", json!("x")),
        ("algorithms", json!({})),
        ("algorithms", json!([5])),
        ("m.number", json!(1.5)),
        ("m.number", json!(1_u64 << 53)),
        ("m.number", json!({ "deep": [-1e300] })),
        ("user_id", json!(5)),
        ("device_id", Json::Null),
    ] {
        let keys = with(place, value.clone());
        let refused = bench.users.put_device_keys(&login.user, &login.device, &keys).await;
        assert!(refused.is_err(), "{place}: {value}");
    }
    let one_time = json!({ "signed_curve25519:A": { "key": "x", "number": 1.5 } });
    let one_time = one_time.as_object().unwrap();
    assert!(bench.users.put_one_time_keys(&login.user, &login.device, one_time, &Map::new()).await.is_err());
    let queried =
        bench.users.query_keys(&login.user, &BTreeMap::from([(login.user.clone(), Vec::new())])).await.unwrap();
    assert!(queried.device_keys.get(&login.user).is_none_or(BTreeMap::is_empty), "{:?}", queried.device_keys);
}

fn one_time(ids: &[&str]) -> Map<String, Json> {
    ids.iter().map(|id| (format!("signed_curve25519:{id}"), json!({ "key": id }))).collect()
}

fn wanted(login: &LoggedIn) -> ByUser<String> {
    let device = BTreeMap::from([(login.device.to_string(), "signed_curve25519".to_owned())]);
    BTreeMap::from([(login.user.clone(), device)])
}

async fn claim(bench: &Bench, login: &LoggedIn) -> Option<String> {
    let claimed = bench.users.claim_keys(&wanted(login)).await.unwrap();
    let keys = claimed.get(&login.user)?.get(login.device.as_str())?;
    keys.keys().next().map(|id| id.strip_prefix("signed_curve25519:").unwrap().to_owned())
}

#[tokio::test]
async fn ce2_one_time_keys_go_oldest_first_and_once_then_the_fallback_key() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    let put = |one_time: Map<String, Json>, fallback: Map<String, Json>| {
        let (users, login) = (&bench.users, &login);
        async move { users.put_one_time_keys(&login.user, &login.device, &one_time, &fallback).await }
    };
    put(one_time(&["Z"]), one_time(&["F"])).await.unwrap();
    put(one_time(&["A"]), Map::new()).await.unwrap();
    put(one_time(&["A", "Z"]), Map::new()).await.unwrap();
    let counts = bench.users.one_time_key_counts(&login.user, &login.device).await.unwrap();
    assert_eq!(counts["signed_curve25519"], 2);
    let other = Map::from_iter([("signed_curve25519:A".to_owned(), json!({ "key": "other" }))]);
    assert!(matches!(put(other, Map::new()).await, Err(Error::InvalidParam(_))));
    assert!(matches!(
        put(Map::from_iter([("nocolon".to_owned(), json!("x"))]), Map::new()).await,
        Err(Error::InvalidParam(_))
    ));
    let unused = || bench.users.unused_fallback_keys(&login.user, &login.device);
    assert_eq!(unused().await.unwrap(), ["signed_curve25519"]);
    let (first, second) = tokio::join!(claim(&bench, &login), claim(&bench, &login));
    assert_eq!((first.as_deref(), second.as_deref()), (Some("Z"), Some("A")));
    for _ in 0..2 {
        assert_eq!(claim(&bench, &login).await.as_deref(), Some("F"));
    }
    assert!(unused().await.unwrap().is_empty());
    put(Map::new(), one_time(&["G"])).await.unwrap();
    assert_eq!(unused().await.unwrap().len(), 1);
    let counts = bench.users.one_time_key_counts(&login.user, &login.device).await.unwrap();
    assert_eq!(counts["signed_curve25519"], 0, "zero is said (CY13)");
}

#[tokio::test]
async fn ce3_queries_honour_device_lists_and_hide_others_user_signing_keys() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    let alice = login.user.clone();
    bench.users.put_device(&alice, &login.device, Some("Laptop".to_owned()), false).await.unwrap();
    bench.users.put_device_keys(&alice, &login.device, &device_keys(&login, 1)).await.unwrap();
    bench.users.put_cross_signing_keys(&alice, &cross_keys(&alice, 10)).await.unwrap();
    let query = |asker: UserId, devices: Vec<String>| {
        let (users, alice) = (&bench.users, alice.clone());
        async move {
            let wanted = BTreeMap::from([(alice, devices), (user("nobody"), vec![])]);
            users.query_keys(&asker, &wanted).await.unwrap()
        }
    };
    let own = query(alice.clone(), vec![]).await;
    let key = &own.device_keys[&alice][login.device.as_str()];
    assert_eq!(key["unsigned"]["device_display_name"], "Laptop");
    assert!(own.master_keys.len() == 1 && own.self_signing_keys.len() == 1 && own.user_signing_keys.len() == 1);
    let bobs = query(user("bob"), vec![login.device.to_string()]).await;
    assert!(bobs.device_keys.contains_key(&alice) && bobs.user_signing_keys.is_empty());
    assert!(!bobs.device_keys.contains_key(&user("nobody")));
    assert!(query(user("bob"), vec!["OTHER".to_owned()]).await.device_keys.is_empty());
    bench.users.delete_devices(&alice, std::slice::from_ref(&login.device)).await.unwrap();
    assert!(query(alice.clone(), vec![]).await.device_keys.is_empty(), "keys go with their device (CE8)");
}

#[tokio::test]
async fn ce6_only_a_change_of_keys_needs_proof() {
    let bench = Bench::new().await;
    let alice = bench.join("alice").await.user;
    let keys = cross_keys(&alice, 10);
    assert!(!bench.users.cross_signing_needs_proof(&alice, &keys).await.unwrap());
    let without_master = CrossSigningKeys { master: None, ..keys.clone() };
    let missing = bench.users.put_cross_signing_keys(&alice, &without_master).await;
    assert!(matches!(missing, Err(Error::MissingParam(_))));
    bench.users.put_cross_signing_keys(&alice, &keys).await.unwrap();
    assert!(!bench.users.cross_signing_needs_proof(&alice, &keys).await.unwrap());
    assert!(!bench.users.cross_signing_needs_proof(&alice, &without_master).await.unwrap());
    assert!(bench.users.cross_signing_needs_proof(&alice, &cross_keys(&alice, 20)).await.unwrap());

    let unsigned = CrossSigningKeys { self_signing: Some(cross_key(&alice, "self_signing", 11)), ..keys.clone() };
    let refused = bench.users.put_cross_signing_keys(&alice, &unsigned).await;
    assert!(matches!(refused, Err(Error::InvalidSignature(_))));
    let mixed = CrossSigningKeys { self_signing: cross_keys(&alice, 20).self_signing, ..keys };
    let refused = bench.users.put_cross_signing_keys(&alice, &mixed).await;
    assert!(matches!(refused, Err(Error::InvalidSignature(_))), "signed by another master key");
}

/// SEC-device-ids.
#[tokio::test]
async fn ce6_ca4_keys_and_device_ids_differ() {
    let bench = Bench::new().await;
    let alice = bench.join("alice").await.user;
    let id = DeviceId::from(key(10).public_b64());
    bench.users.put_device(&alice, &id, None, true).await.unwrap();
    let refused = bench.users.put_cross_signing_keys(&alice, &cross_keys(&alice, 10)).await;
    assert!(matches!(refused, Err(Error::Forbidden(_))));
    bench.users.put_cross_signing_keys(&alice, &cross_keys(&alice, 20)).await.unwrap();
    let device =
        crate::login::NewDevice { id: Some(key(20).public_b64().into()), ..crate::login::NewDevice::default() };
    let refused = bench.users.login_by_password("alice", "secret", device).await;
    assert!(matches!(refused, Err(Error::InvalidParam(_))));
}

#[tokio::test]
async fn ce7_signatures_are_checked_one_by_one_and_seen_by_the_right_people() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    let (alice, bob) = (login.user.clone(), bench.join("bob").await.user);
    let keys = device_keys(&login, 1);
    bench.users.put_device_keys(&alice, &login.device, &keys).await.unwrap();
    bench.users.put_cross_signing_keys(&alice, &cross_keys(&alice, 10)).await.unwrap();
    bench.users.put_cross_signing_keys(&bob, &cross_keys(&bob, 20)).await.unwrap();

    let self_signed = signed(&keys, &alice, &key(11), &key(11).public_b64());
    let forged = signed(&keys, &alice, &key(12), &key(11).public_b64());
    let upload = |target: String, object: Json| ByUser::from([(alice.clone(), BTreeMap::from([(target, object)]))]);
    let device = login.device.to_string();
    let failed =
        bench.users.put_signatures(&alice, &upload(device.clone(), forged), &Queried::default()).await.unwrap();
    assert!(matches!(failed[&alice][&device], Error::InvalidSignature(_)));
    let failed = bench
        .users
        .put_signatures(&alice, &upload("NONE".to_owned(), self_signed.clone()), &Queried::default())
        .await
        .unwrap();
    assert!(matches!(failed[&alice]["NONE"], Error::NotFound(_)));
    assert!(
        bench
            .users
            .put_signatures(&alice, &upload(device.clone(), self_signed), &Queried::default())
            .await
            .unwrap()
            .is_empty()
    );

    let master = cross_key(&alice, "master", 10);
    let by_bob = signed(&master, &bob, &key(22), &key(22).public_b64());
    let target = key(10).public_b64();
    assert!(bench.users.put_signatures(&bob, &upload(target, by_bob), &Queried::default()).await.unwrap().is_empty());

    let wanted = BTreeMap::from([(alice.clone(), vec![])]);
    let seen = |asker: UserId| {
        let (users, wanted) = (&bench.users, wanted.clone());
        async move { users.query_keys(&asker, &wanted).await.unwrap() }
    };
    let bobs = seen(bob.clone()).await;
    let by = format!("ed25519:{}", key(11).public_b64());
    assert!(bobs.device_keys[&alice][&device]["signatures"][alice.as_str()][by].is_string());
    assert!(bobs.master_keys[&alice]["signatures"][bob.as_str()].is_object());
    let carols = seen(user("carol")).await;
    assert!(carols.master_keys[&alice]["signatures"][bob.as_str()].is_null(), "only for the signer's eyes");
}

fn backup_key(index: i64, verified: bool) -> BackupKey {
    BackupKey {
        room_id: "!r:x".to_owned(),
        session_id: "s".to_owned(),
        first_message_index: index,
        forwarded_count: 0,
        is_verified: verified,
        session_data: json!({ "index": index }),
    }
}

#[tokio::test]
async fn ce9_backups_keep_the_better_key_of_the_current_version() {
    let bench = Bench::new().await;
    let alice = user("alice");
    assert!(matches!(bench.users.backup(&alice, None).await, Err(Error::NotFound(_))));
    let first = bench.users.create_backup(&alice, "m.a", &json!({})).await.unwrap();
    let second = bench.users.create_backup(&alice, "m.a", &json!({})).await.unwrap();
    assert_eq!((first, second), (1, 2));
    let stale = bench.users.put_backup_keys(&alice, first, &[backup_key(1, false)]).await;
    assert!(matches!(stale, Err(Error::WrongBackupVersion(current)) if current == "2"));
    let put = |key: BackupKey| {
        let (users, alice) = (&bench.users, alice.clone());
        async move { users.put_backup_keys(&alice, second, &[key]).await.unwrap() }
    };
    let steps = [
        (backup_key(5, false), 1, 5),
        (backup_key(6, false), 1, 5),
        (backup_key(4, false), 2, 4),
        (backup_key(9, true), 3, 9),
        (backup_key(1, false), 3, 9),
    ];
    for (key, etag, index) in steps {
        let row = put(key.clone()).await;
        assert_eq!((row.etag, row.count), (etag, 1), "{key:?}");
        let stored = bench.users.backup_keys(&alice, second, Some("!r:x"), Some("s")).await.unwrap();
        assert_eq!(stored[0].first_message_index, index, "{key:?}");
    }
    let other = bench.users.update_backup(&alice, second, "m.b", &json!({})).await;
    assert!(matches!(other, Err(Error::InvalidParam(_))));
    let row = bench.users.delete_backup_keys(&alice, second, Some("!r:x"), None).await.unwrap();
    assert_eq!((row.etag, row.count), (4, 0));
    bench.users.delete_backup(&alice, second).await.unwrap();
    bench.users.delete_backup(&alice, second).await.unwrap();
    assert!(matches!(bench.users.backup(&alice, Some(second)).await, Err(Error::NotFound(_))));
    assert!(matches!(bench.users.delete_backup(&alice, 9).await, Err(Error::NotFound(_))));
    assert_eq!(bench.users.backup(&alice, None).await.unwrap().version, first);
    assert_eq!(bench.users.create_backup(&alice, "m.a", &json!({})).await.unwrap(), 3, "numbers are not given again");
}

#[tokio::test]
async fn ce1_an_upload_is_kept_whole_or_not_at_all() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    let (user, device) = (&login.user, &login.device);
    let one_time = json!({ "signed_curve25519:A": { "key": "a" }, "signed_curve25519:B": { "key": "b" } });
    let one_time = one_time.as_object();
    let keys = device_keys(&login, 1);
    let mut bad = keys.clone();
    bad["algorithms"] = json!([]);
    let upload = |keys| Upload { device_keys: Some(keys), one_time, fallback: None };
    let refused = bench.users.upload_keys(user, device, &upload(&bad)).await;
    assert!(matches!(refused, Err(Error::InvalidSignature(_))));
    let none = BTreeMap::from([("signed_curve25519".to_owned(), 0)]);
    assert_eq!(bench.users.one_time_key_counts(user, device).await.unwrap(), none);
    let counts = bench.users.upload_keys(user, device, &upload(&keys)).await.unwrap();
    assert_eq!(counts, BTreeMap::from([("signed_curve25519".to_owned(), 2)]));
    assert_eq!(bench.users.one_time_key_counts(user, device).await.unwrap(), counts);
    let written = bench.store.watermark();
    assert_eq!(bench.users.upload_keys(user, device, &upload(&keys)).await.unwrap(), counts);
    assert_eq!(bench.store.watermark(), written, "the same again changes nothing");
    let deep = (0..100).fold(json!("x"), |value, _| json!({ "key": value }));
    let deep = json!({ "signed_curve25519:C": deep });
    let refused = bench.users.put_one_time_keys(user, device, deep.as_object().unwrap(), &Map::new()).await;
    assert!(matches!(refused, Err(Error::InvalidParam(_))), "readers would choke on it");
}

#[tokio::test]
async fn ce2_keys_of_many_devices_are_claimed_at_once() {
    let bench = Bench::new().await;
    let mut wanted: ByUser<String> = BTreeMap::new();
    for number in 0..3 {
        let login = bench.join(&format!("user{number}")).await;
        let keys = json!({ "signed_curve25519:A": { "key": number }, "signed_curve25519:B": { "key": number } });
        let keys = keys.as_object().unwrap();
        bench.users.put_one_time_keys(&login.user, &login.device, keys, &Map::new()).await.unwrap();
        let devices = [(login.device.to_string(), "signed_curve25519".to_owned())];
        wanted.insert(login.user, devices.into_iter().collect());
    }
    let (first, second) = tokio::join!(bench.users.claim_keys(&wanted), bench.users.claim_keys(&wanted));
    let (first, second) = (first.unwrap(), second.unwrap());
    for user in wanted.keys() {
        let ids = |claimed: &ByUser<Map<String, Json>>| -> Vec<String> {
            claimed[user].values().flat_map(Map::keys).cloned().collect()
        };
        assert_eq!((ids(&first).len(), ids(&second).len()), (1, 1));
        assert_ne!(ids(&first), ids(&second), "no key goes to two");
    }
    assert_eq!(bench.users.claim_keys(&wanted).await.unwrap(), BTreeMap::new());
}

#[tokio::test]
async fn ce2_many_claims_at_once_get_a_key_each_or_none() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    let keys = (0..30).map(|n| (format!("signed_curve25519:{n:02}"), json!({ "key": n })));
    bench.users.put_one_time_keys(&login.user, &login.device, &Map::from_iter(keys), &Map::new()).await.unwrap();
    let other = bench.join("bob").await;
    bench.users.put_one_time_keys(&other.user, &other.device, &one_time(&["B"]), &Map::new()).await.unwrap();
    let wanted = |login: &LoggedIn| {
        let devices = [(login.device.to_string(), "signed_curve25519".to_owned())];
        (login.user.clone(), devices.into_iter().collect())
    };
    let alone: ByUser<String> = [wanted(&login)].into();
    let both: ByUser<String> = [wanted(&login), wanted(&other)].into();
    let claims = (0..40).map(|n| bench.users.claim_keys(if n % 8 == 0 { &both } else { &alone }));
    let mut ids = Vec::new();
    for claimed in futures_util::future::join_all(claims).await {
        ids.extend(claimed.unwrap().into_values().flat_map(BTreeMap::into_values).flat_map(|keys| keys.into_iter()));
    }
    let count = ids.len();
    ids.sort_by(|a, b| a.0.cmp(&b.0));
    ids.dedup_by(|a, b| a.0 == b.0);
    assert_eq!((count, ids.len()), (31, 31), "every key once");
}

#[tokio::test]
async fn ce8_a_deleted_device_leaves_no_keys_and_no_signature() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    let (alice, device) = (login.user.clone(), login.device.clone());
    let keys = device_keys(&login, 1);
    bench.users.put_device_keys(&alice, &device, &keys).await.unwrap();
    bench.users.put_one_time_keys(&alice, &device, &one_time(&["A"]), &one_time(&["F"])).await.unwrap();
    bench.users.put_cross_signing_keys(&alice, &cross_keys(&alice, 10)).await.unwrap();
    let by_self_signing = signed(&keys, &alice, &key(11), &key(11).public_b64());
    let upload = ByUser::from([(alice.clone(), BTreeMap::from([(device.to_string(), by_self_signing)]))]);
    assert!(bench.users.put_signatures(&alice, &upload, &Queried::default()).await.unwrap().is_empty());
    let signer = format!("ed25519:{}", key(11).public_b64());
    let signatures = async || {
        let wanted = BTreeMap::from([(alice.clone(), vec![])]);
        let mut found = bench.users.query_keys(&user("bob"), &wanted).await.unwrap();
        let keys = found.device_keys.remove(&alice)?.remove(device.as_str())?;
        Some(keys["signatures"][alice.as_str()].clone())
    };
    assert!(signatures().await.unwrap()[&signer].is_string());
    bench.users.delete_devices(&alice, std::slice::from_ref(&device)).await.unwrap();
    assert_eq!(signatures().await, None);
    assert_eq!(claim(&bench, &login).await, None);
    let again = crate::login::NewDevice { id: Some(device.clone()), ..crate::login::NewDevice::default() };
    bench.users.login_by_password("alice", "secret", again).await.unwrap();
    bench.users.put_device_keys(&alice, &device, &keys).await.unwrap();
    let found = signatures().await.unwrap();
    assert!(found[&signer].is_null(), "a device of the same name has to be signed anew: {found}");
    assert_eq!(claim(&bench, &login).await, None);
    assert!(bench.users.unused_fallback_keys(&alice, &device).await.unwrap().is_empty());
}

#[tokio::test]
async fn ce7_an_upload_that_is_repeated_late_takes_no_signature_away() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    let (alice, device) = (login.user.clone(), login.device.clone());
    bench.users.put_cross_signing_keys(&alice, &cross_keys(&alice, 10)).await.unwrap();
    let signer = key(11).public_b64();
    let bare = device_keys(&login, 1);
    let mut both = signed(&bare, &alice, &key(11), &signer);
    for (id, signature) in bare["signatures"][alice.as_str()].as_object().unwrap() {
        both["signatures"][alice.as_str()][id] = signature.clone();
    }
    let found = async || {
        let wanted = BTreeMap::from([(alice.clone(), vec![])]);
        let found = bench.users.query_keys(&user("bob"), &wanted).await.unwrap();
        found.device_keys[&alice][device.as_str()]["signatures"][alice.as_str()].clone()
    };
    bench.users.put_device_keys(&alice, &device, &both).await.unwrap();
    bench.users.put_device_keys(&alice, &device, &bare).await.unwrap();
    assert!(found().await[format!("ed25519:{signer}")].is_string(), "the same keys keep it");
    let mut further = bare.clone();
    further.as_object_mut().unwrap().remove("signatures");
    further["dehydrated"] = true.into();
    bench.users.put_device_keys(&alice, &device, &further).await.unwrap();
    assert!(found().await.get(format!("ed25519:{signer}")).is_none(), "it does not cover what was added");
    bench.users.put_device_keys(&alice, &device, &both).await.unwrap();
    bench.users.put_device_keys(&alice, &device, &device_keys(&login, 2)).await.unwrap();
    assert!(found().await.get(format!("ed25519:{signer}")).is_none(), "it is none of other keys");
}

#[tokio::test]
async fn ce8_what_is_kept_of_keys_is_as_new_as_what_another_node_has_stored() {
    let here = Bench::new().await;
    let there = here.neighbor().await;
    let (login, alice) = (here.join("alice").await, user("alice"));
    let (device, bob) = (login.device.clone(), user("bob"));
    let wanted = BTreeMap::from([(alice.clone(), vec![])]);
    let told = async |asker: &UserId| there.query_keys(asker, &wanted).await.unwrap();
    assert!(told(&bob).await.device_keys.is_empty());
    here.users.put_device_keys(&alice, &device, &device_keys(&login, 1)).await.unwrap();
    let first = told(&bob).await.device_keys[&alice][device.as_str()].clone();
    assert_eq!(first["unsigned"], Json::Null);
    here.users.put_device(&alice, &device, Some("phone".to_owned()), false).await.unwrap();
    assert_eq!(told(&bob).await.device_keys[&alice][device.as_str()]["unsigned"]["device_display_name"], "phone");
    here.users.put_cross_signing_keys(&alice, &cross_keys(&alice, 10)).await.unwrap();
    assert_eq!(told(&bob).await.master_keys.len(), 1);
    assert_eq!((told(&bob).await.user_signing_keys.len(), told(&alice).await.user_signing_keys.len()), (0, 1));
    here.users.put_cross_signing_keys(&bob, &cross_keys(&bob, 20)).await.unwrap();
    let (master, signer) = (key(10).public_b64(), key(22).public_b64());
    let by_bob = signed(&told(&bob).await.master_keys[&alice], &bob, &key(22), &signer);
    let upload = BTreeMap::from([(alice.clone(), BTreeMap::from([(master, by_bob)]))]);
    assert!(here.users.put_signatures(&bob, &upload, &Queried::default()).await.unwrap().is_empty());
    let of_bob = |queried: Queried| queried.master_keys[&alice]["signatures"][bob.as_str()].clone();
    assert!(of_bob(told(&bob).await).is_object(), "who signed sees it");
    assert!(of_bob(told(&alice).await).is_null() && of_bob(told(&user("carol")).await).is_null(), "and nobody else");
    here.users.delete_devices(&alice, std::slice::from_ref(&device)).await.unwrap();
    assert!(told(&bob).await.device_keys.is_empty());
    here.users.deactivate(&alice, false).await.unwrap();
    assert!(told(&bob).await.master_keys.is_empty());
}
