//! Registration, login, tokens, devices, deactivation.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use store::tables::users::{
    CrossSigningKeyRow, DeviceKeysRow, FallbackKeyRow, KeySignatureRow, OneTimeKeyRow, TABLES, ToDeviceRow,
};
use store::{CommitBatch, DeviceId, Read, Row, StreamKind, StreamPosition, Value};

use super::{Bench, user};
use crate::jobs::Job;
use crate::keys::backup::BackupKey;
use crate::login::NewDevice;
use crate::registration::{NewAccount, SharedSecretProof};
use crate::{Error, SessionKind, TokenError, secret};

fn new(name: &str) -> NewAccount {
    NewAccount { localpart: Some(name.to_owned()), password: Some("secret".to_owned()), ..NewAccount::default() }
}

fn device(id: &str) -> NewDevice {
    NewDevice { id: Some(DeviceId::from(id)), ..NewDevice::default() }
}

#[tokio::test]
async fn ca3_names_are_lower_cased_and_checked() {
    let bench = Bench::new().await;
    assert_eq!(bench.users.register(new("Alice")).await.unwrap().user, user("alice"));
    assert!(matches!(bench.users.register(new("aLICE")).await, Err(Error::UserInUse)));
    assert!(matches!(bench.users.available("alice").await, Err(Error::UserInUse)));
    assert_eq!(bench.users.available("b.o_b=-/+1").await.unwrap(), user("b.o_b=-/+1"));
    for bad in ["", "al ice", "älice", "a:b", "@alice", "a!", &"x".repeat(250)] {
        assert!(matches!(bench.users.available(bad).await, Err(Error::InvalidUsername(_))), "{bad}");
    }
    let longest = "x".repeat(255 - "@:example.org".len());
    assert!(bench.users.available(&longest).await.is_ok());
}

#[tokio::test]
async fn ca3_inhibit_login_makes_no_device() {
    let bench = Bench::new().await;
    let registered = bench.users.register(new("alice")).await.unwrap();
    assert!(registered.login.is_none());
    assert!(bench.users.devices(&user("alice")).await.unwrap().is_empty());
    let with_device = NewAccount { login: Some(device("PHONE")), ..new("bob") };
    assert_eq!(bench.users.register(with_device).await.unwrap().login.unwrap().device.as_str(), "PHONE");
}

#[tokio::test]
async fn ca4_login_by_any_case_and_without_telling_who_exists() {
    let bench = Bench::new().await;
    bench.users.register(new("alice")).await.unwrap();
    for name in ["alice", "ALICE", "@alice:example.org", "@Alice:Example.org"] {
        let login = bench.users.login_by_password(name, "secret", NewDevice::default()).await.unwrap();
        assert_eq!(login.user, user("alice"), "{name}");
    }
    for (name, password) in
        [("alice", "wrong"), ("nobody", "secret"), ("@alice:elsewhere.org", "secret"), ("", ""), ("@", "x")]
    {
        let refused = bench.users.login_by_password(name, password, NewDevice::default()).await;
        assert!(matches!(refused, Err(Error::WrongCredentials)), "{name}");
    }
}

#[tokio::test]
async fn ca4_who_cannot_log_in_costs_a_hash_like_a_wrong_password() {
    let bench = Bench::new().await;
    bench.join("alice").await;
    bench.users.register(NewAccount { password: None, ..new("passwordless") }).await.unwrap();
    bench.join("gone").await;
    bench.users.deactivate(&user("gone"), false).await.unwrap();
    let attempt = |name: &'static str| bench.users.login_by_password(name, "wrong", NewDevice::default());
    attempt("nobody").await.unwrap_err();
    bench.hashing.take();
    for name in ["alice", "nobody", "passwordless", "gone", "@alice:elsewhere.org", ""] {
        assert!(matches!(attempt(name).await, Err(Error::WrongCredentials)), "{name}");
        assert_eq!(bench.hashing.take(), 1, "{name}");
    }
}

#[tokio::test]
async fn ca4_deactivated_and_locked_are_said_only_with_the_password() {
    let bench = Bench::new().await;
    bench.join("alice").await;
    bench.join("root").await;
    bench.users.set_locked(&user("root"), &user("alice"), true).await.unwrap();
    let attempt = |password: &'static str| bench.users.login_by_password("alice", password, NewDevice::default());
    assert!(matches!(attempt("secret").await, Err(Error::Locked)));
    assert!(matches!(attempt("wrong").await, Err(Error::WrongCredentials)));
    bench.users.deactivate(&user("alice"), false).await.unwrap();
    assert!(matches!(attempt("secret").await, Err(Error::WrongCredentials)));
    assert!(matches!(bench.users.available("alice").await, Err(Error::UserInUse)), "the id stays reserved (CA8)");
}

#[tokio::test]
async fn cb3_tokens_are_known_or_not() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    let session = bench.users.authenticate(&login.access_token).await.unwrap();
    assert_eq!((session.user.clone(), session.device.clone()), (user("alice"), login.device));
    assert!(!session.guest && !session.admin && !session.locked && !session.suspended);
    for bad in ["", "x", &login.access_token[1..], &"x".repeat(5_000)] {
        assert!(matches!(bench.users.authenticate(bad).await, Err(TokenError::Unknown)), "{bad}");
    }
}

#[tokio::test]
async fn ca5_an_existing_device_loses_its_tokens_and_keeps_its_keys() {
    let bench = Bench::new().await;
    bench.join("alice").await;
    let login = |id: &'static str| bench.users.login_by_password("alice", "secret", device(id));
    let first = login("PHONE").await.unwrap();
    assert!(bench.works(&first.access_token).await);
    equip(&bench, "PHONE").await;
    let second = login("PHONE").await.unwrap();
    assert!(!bench.works(&first.access_token).await, "the cached session is dropped");
    assert!(bench.works(&second.access_token).await);
    assert_eq!(belongings(&bench, "PHONE").await, [1; 4]);
    assert_eq!(bench.users.devices(&user("alice")).await.unwrap().len(), 2);
}

#[tokio::test]
async fn ca5_of_logins_at_once_with_one_device_one_lives() {
    let bench = Bench::new().await;
    bench.join("alice").await;
    let alice = user("alice");
    let logins = (0..8).map(|_| bench.users.login(&alice, device("PHONE")));
    let mut alive = 0;
    for login in futures_util::future::join_all(logins).await {
        alive += usize::from(bench.works(&login.unwrap().access_token).await);
    }
    assert_eq!(alive, 1);
}

/// Gives a device of Alice's identity keys, a one-time key, a fallback key and a message that waits for it.
async fn equip(bench: &Bench, device: &str) {
    let (user_id, device_id) = (user("alice"), DeviceId::from(device));
    let (algorithm, key_id) = ("signed_curve25519".to_owned(), "AAAA".to_owned());
    let mut batch = CommitBatch::new();
    let (user, device) = (user_id.clone(), device_id.clone());
    batch.put(DeviceKeysRow { user_id: user, device_id: device, keys: "{}".to_owned() });
    let (user, device, key) = (user_id.clone(), device_id.clone(), "{}".to_owned());
    let (kind, id) = (algorithm.clone(), key_id.clone());
    batch.put(OneTimeKeyRow { user_id: user, device_id: device, algorithm: kind, number: 1, key_id: id, key });
    let (user, device, key) = (user_id.clone(), device_id.clone(), "{}".to_owned());
    batch.put(FallbackKeyRow { user_id: user, device_id: device, algorithm, key_id, key, used: false });
    bench.store.commit(batch).await.unwrap();
    let message = BTreeMap::from([(device_id.to_string(), "{}".to_owned())]);
    let messages = BTreeMap::from([(user_id.clone(), message)]);
    assert!(bench.users.send_to_device(&user_id, "org.example", None, &messages).await.unwrap());
}

/// A message to a device of Alice's that is there no more.
async fn leave_message(bench: &Bench, device: &str) {
    let mut batch = CommitBatch::new();
    let pos = batch.announce(StreamKind::ToDevice, None, Some(user("alice")), None);
    let (device_id, kind, content) = (device.into(), "org.example".to_owned(), "{}".to_owned());
    batch.put(ToDeviceRow { user_id: user("alice"), device_id, pos, sender: user("bob"), kind, content });
    bench.store.commit(batch).await.unwrap();
}

/// How many identity keys, one-time keys, fallback keys and waiting messages a device of Alice's has.
async fn belongings(bench: &Bench, device: &str) -> [usize; 4] {
    async fn count<R: Row>(bench: &Bench, device: &str) -> usize {
        let key = vec![Value::from(&user("alice")), Value::from(device)];
        bench.store.all::<R>(Read::prefix::<R>(key)).await.unwrap().len()
    }
    [
        count::<DeviceKeysRow>(bench, device).await,
        count::<OneTimeKeyRow>(bench, device).await,
        count::<FallbackKeyRow>(bench, device).await,
        count::<ToDeviceRow>(bench, device).await,
    ]
}

async fn pushkeys(bench: &Bench) -> Vec<String> {
    let pushers = bench.users.pushers(&user("alice")).await.unwrap();
    pushers.into_iter().map(|pusher| pusher.pushkey).collect()
}

/// Those whose devices changed after a position.
async fn changed_since(bench: &Bench, since: StreamPosition) -> Vec<store::UserId> {
    let changes = bench.users.device_changes(since, bench.store.watermark()).await.unwrap();
    changes.into_iter().map(|(user, _)| user).collect()
}

#[tokio::test]
async fn ca6_logout_takes_the_device_along_and_says_so() {
    let bench = Bench::new().await;
    let other = bench.join("alice").await;
    let login = bench.users.login_by_password("alice", "secret", device("PHONE")).await.unwrap();
    equip(&bench, "PHONE").await;
    equip(&bench, other.device.as_str()).await;
    bench.users.put_pusher(&user("alice"), &login.device, "app", "key", "{}".to_owned(), false).await.unwrap();
    bench.users.put_pusher(&user("alice"), &other.device, "app", "other", "{}".to_owned(), false).await.unwrap();
    let before = bench.store.watermark();
    let session = bench.users.authenticate(&login.access_token).await.unwrap();
    bench.users.logout(&session).await.unwrap();
    assert!(!bench.works(&login.access_token).await);
    assert!(bench.works(&other.access_token).await);
    assert!(bench.users.device(&user("alice"), &login.device).await.unwrap().is_none());
    assert_eq!(pushkeys(&bench).await, ["other"]);
    assert_eq!(changed_since(&bench, before).await, [user("alice")]);
    bench.users.login_by_password("alice", "secret", device("PHONE")).await.unwrap();
    assert_eq!(belongings(&bench, "PHONE").await, [0; 4], "a device of the same id begins anew");
    assert_eq!(belongings(&bench, other.device.as_str()).await, [1; 4]);
}

#[tokio::test]
async fn ca6_what_comes_too_late_for_a_device_is_not_there_for_the_next_of_its_id() {
    let bench = Bench::new().await;
    bench.join("alice").await;
    let phone = bench.users.login_by_password("alice", "secret", device("PHONE")).await.unwrap();
    bench.users.logout(&bench.users.authenticate(&phone.access_token).await.unwrap()).await.unwrap();
    leave_message(&bench, "PHONE").await;
    let late = bench.users.put_pusher(&user("alice"), &phone.device, "app", "late", "{}".to_owned(), false).await;
    assert!(matches!(late, Err(Error::Conflict)), "{late:?}");
    bench.users.login_by_password("alice", "secret", device("PHONE")).await.unwrap();
    assert_eq!(belongings(&bench, "PHONE").await, [0; 4]);
}

#[tokio::test]
async fn ca6_logging_out_everywhere_takes_all_devices_along_and_says_so() {
    let bench = Bench::new().await;
    let first = bench.join("alice").await;
    let second = bench.users.login_by_password("alice", "secret", device("PHONE")).await.unwrap();
    let bob = bench.join("bob").await;
    for login in [&first, &second] {
        let device = &login.device;
        equip(&bench, device.as_str()).await;
        bench.users.put_pusher(&user("alice"), device, "app", device.as_str(), "{}".to_owned(), false).await.unwrap();
    }
    let before = bench.store.watermark();
    bench.users.logout_all(&user("alice")).await.unwrap();
    for login in [&first, &second] {
        assert!(!bench.works(&login.access_token).await);
        assert_eq!(belongings(&bench, login.device.as_str()).await, [0; 4]);
    }
    assert!(bench.users.devices(&user("alice")).await.unwrap().is_empty());
    assert_eq!(pushkeys(&bench).await, [""; 0]);
    assert_eq!(changed_since(&bench, before).await, [user("alice")]);
    assert!(bench.works(&bob.access_token).await);
}

#[tokio::test]
async fn ca7_a_new_password_ends_the_other_sessions() {
    let bench = Bench::new().await;
    let other = bench.join("alice").await;
    let own = bench.users.login_by_password("alice", "secret", device("PHONE")).await.unwrap();
    bench.users.put_pusher(&user("alice"), &own.device, "app", "own", "{}".to_owned(), false).await.unwrap();
    bench.users.put_pusher(&user("alice"), &other.device, "app", "other", "{}".to_owned(), false).await.unwrap();
    bench.users.change_password(&user("alice"), "new", false, Some(&own.device)).await.unwrap();
    assert!(bench.works(&other.access_token).await);
    assert_eq!(pushkeys(&bench).await, ["other", "own"]);
    bench.users.change_password(&user("alice"), "newer", true, Some(&own.device)).await.unwrap();
    assert!(!bench.works(&other.access_token).await);
    assert!(bench.works(&own.access_token).await);
    assert_eq!(pushkeys(&bench).await, ["own"]);
    assert!(bench.users.login_by_password("alice", "secret", NewDevice::default()).await.is_err());
    assert!(bench.users.login_by_password("alice", "newer", NewDevice::default()).await.is_ok());
}

#[tokio::test]
async fn ca8_deactivation_takes_everything() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    bench.users.put_profile_field(&user("alice"), "displayname", "A".into()).await.unwrap();
    bench.users.put_account_data(&user("alice"), "", "org.example", "{}".to_owned()).await.unwrap();
    bench.users.deactivate(&user("alice"), true).await.unwrap();
    assert!(!bench.works(&login.access_token).await);
    assert_eq!(bench.users.profile(&user("alice")).await.unwrap(), None);
    assert_eq!(bench.users.account_data(&user("alice"), "", "org.example").await.unwrap(), None);
    let account = bench.users.account(&user("alice")).await.unwrap().unwrap();
    assert!(account.deactivated && account.erased && account.password_hash.is_none());
    assert!(matches!(bench.users.login(&user("alice"), NewDevice::default()).await, Err(Error::Deactivated)));
}

/// Cross-signing keys of Alice's with Bob's signature, a message for a device that is gone, a backup with one key.
async fn leave_things(bench: &Bench) {
    let alice = user("alice");
    let mut batch = CommitBatch::new();
    let usage = "master".to_owned();
    batch.put(CrossSigningKeyRow { user_id: alice.clone(), usage, key: r#"{"keys":{"ed25519:M":"M"}}"#.to_owned() });
    let (target, signer_key, signature) = ("M".to_owned(), "ed25519:B".to_owned(), "s".to_owned());
    batch.put(KeySignatureRow { user_id: alice.clone(), target, signer: user("bob"), signer_key, signature });
    bench.store.commit(batch).await.unwrap();
    leave_message(bench, "GONE").await;
    let version = bench.users.create_backup(&alice, "m.a", &json!({})).await.unwrap();
    let key = BackupKey {
        room_id: "!r:x".to_owned(),
        session_id: "s".to_owned(),
        first_message_index: 1,
        forwarded_count: 0,
        is_verified: true,
        session_data: json!({}),
    };
    bench.users.put_backup_keys(&alice, version, &[key]).await.unwrap();
}

/// The tables in which some row names Alice, by their names.
async fn tables_with_alice(bench: &Bench) -> Vec<&'static str> {
    use std::collections::Bound::Unbounded;
    let reads = TABLES.iter().map(|table| Read {
        table,
        index: None,
        prefix: vec![],
        lower: Unbounded,
        upper: Unbounded,
        reverse: false,
        limit: 1_000,
    });
    let rows = bench.store.read(reads.collect()).await.unwrap();
    let tables = TABLES.iter().zip(rows).filter(|(_, rows)| format!("{rows:?}").contains("@alice:example.org"));
    let mut names: Vec<_> = tables.map(|(table, _)| table.name).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn ca8_of_a_deactivated_account_nothing_is_left_but_the_reserved_id() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    equip(&bench, login.device.as_str()).await;
    leave_things(&bench).await;
    bench.users.put_pusher(&user("alice"), &login.device, "app", "key", "{}".to_owned(), false).await.unwrap();
    bench.users.put_profile_field(&user("alice"), "displayname", "A".into()).await.unwrap();
    let (openid, _) = bench.users.openid_token(&user("alice")).await.unwrap();
    let held = tables_with_alice(&bench).await;
    for table in ["backup_keys", "backup_versions", "cross_signing_keys", "device_keys", "key_signatures", "pushers"] {
        assert!(held.contains(&table), "{table} is not among {held:?}");
    }
    let before = bench.store.watermark();
    bench.users.deactivate(&user("alice"), false).await.unwrap();
    assert_eq!(bench.users.openid_user(&openid).await.unwrap(), None, "the token names nobody any more");
    assert_eq!(changed_since(&bench, before).await, [user("alice")]);
    bench.clock.advance(2 * 60 * 60_000);
    bench.users.prune().await.unwrap();
    assert_eq!(tables_with_alice(&bench).await, ["accounts", "device_changes"]);
}

#[tokio::test]
async fn ca9_the_old_refresh_token_lives_until_the_new_ones_are_used() {
    let bench = Bench::new().await;
    bench.join("alice").await;
    let refreshing = NewDevice { refresh: true, ..NewDevice::default() };
    let login = bench.users.login_by_password("alice", "secret", refreshing).await.unwrap();
    let first = login.refresh_token.unwrap();
    bench.clock.advance(login.expires_in_ms.unwrap());
    assert!(matches!(bench.users.authenticate(&login.access_token).await, Err(TokenError::Expired)));

    let lost = bench.users.refresh(&first, SessionKind::Legacy).await.unwrap();
    let kept = bench.users.refresh(&first, SessionKind::Legacy).await.unwrap();
    assert!(!bench.works(&lost.access_token).await, "an answer that was asked for again counts as lost");
    assert!(matches!(bench.users.refresh(&lost.refresh_token, SessionKind::Legacy).await, Err(Error::UnknownToken)));
    assert!(bench.works(&kept.access_token).await);
    assert!(
        matches!(bench.users.refresh(&first, SessionKind::Legacy).await, Err(Error::UnknownToken)),
        "used: the old one is dead"
    );

    let third = bench.users.refresh(&kept.refresh_token, SessionKind::Legacy).await.unwrap();
    let fourth = bench.users.refresh(&third.refresh_token, SessionKind::Legacy).await.unwrap();
    assert!(matches!(bench.users.refresh(&kept.refresh_token, SessionKind::Legacy).await, Err(Error::UnknownToken)));
    assert!(!bench.works(&kept.access_token).await);
    assert!(bench.works(&fourth.access_token).await);
    let session = bench.users.authenticate(&fourth.access_token).await.unwrap();
    assert_eq!(session.device, login.device, "tokens stay bound to the device");
    bench.users.logout(&session).await.unwrap();
    assert!(matches!(bench.users.refresh(&fourth.refresh_token, SessionKind::Legacy).await, Err(Error::UnknownToken)));
}

#[tokio::test]
async fn ca10_login_tokens_are_used_once_and_soon() {
    let bench = Bench::new().await;
    bench.join("alice").await;
    let (token, lifetime) = bench.users.login_token(&user("alice")).await.unwrap();
    let login = bench.users.login_by_token(&token, NewDevice::default()).await.unwrap();
    assert_eq!(login.user, user("alice"));
    let again = bench.users.login_by_token(&token, NewDevice::default()).await;
    assert!(matches!(again, Err(Error::UnknownToken)));
    let (token, _) = bench.users.login_token(&user("alice")).await.unwrap();
    bench.clock.advance(lifetime);
    let late = bench.users.login_by_token(&token, NewDevice::default()).await;
    assert!(matches!(late, Err(Error::UnknownToken)));
}

#[tokio::test]
async fn ca13_locked_sessions_live_on() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    bench.join("root").await;
    bench.users.set_admin(&user("root"), true).await.unwrap();
    let (root, alice) = (user("root"), user("alice"));
    assert!(bench.works(&login.access_token).await);
    bench.users.set_locked(&root, &alice, true).await.unwrap();
    assert!(bench.users.authenticate(&login.access_token).await.unwrap().locked);
    bench.users.set_locked(&root, &alice, false).await.unwrap();
    bench.users.set_suspended(&root, &alice, true).await.unwrap();
    let session = bench.users.authenticate(&login.access_token).await.unwrap();
    assert!(!session.locked && session.suspended);
    for target in [&root, &user("nobody"), &"@x:elsewhere.org".into()] {
        assert!(bench.users.set_locked(&root, target, true).await.is_err(), "{target}");
    }
}

#[tokio::test]
async fn ca9_refreshes_at_the_same_moment_all_get_an_answer_and_one_lives() {
    let bench = Bench::racing().await;
    bench.join("alice").await;
    let refreshing = NewDevice { refresh: true, ..NewDevice::default() };
    let login = bench.users.login_by_password("alice", "secret", refreshing).await.unwrap();
    let token = login.refresh_token.unwrap();
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (users, token) = (Arc::clone(&bench.users), token.clone());
        asked.spawn(async move { users.refresh(&token, SessionKind::Legacy).await });
    }
    let answers: Vec<_> = asked.join_all().await.into_iter().map(Result::unwrap).collect();
    assert!(bench.works(&login.access_token).await, "nothing new was used yet");
    let mut living = 0;
    for answer in &answers {
        living += usize::from(bench.works(&answer.access_token).await);
    }
    assert_eq!(living, 1);
    assert!(matches!(bench.users.refresh(&token, SessionKind::Legacy).await, Err(Error::UnknownToken)));
}

#[tokio::test]
async fn ca17_registration_tokens_count_pending_and_completed_uses() {
    let bench = Bench::new().await;
    bench.join("first").await;
    bench.users.set_registration_token(Some("abc".to_owned()), Some(1), None).await.unwrap();
    assert!(bench.users.registration_token_is_valid("abc").await.unwrap());
    assert!(!bench.users.registration_token_is_valid("abd").await.unwrap());
    bench.users.set_registration_token(Some("old".to_owned()), None, Some(1)).await.unwrap();
    assert!(!bench.users.registration_token_is_valid("old").await.unwrap());
    assert!(bench.users.set_registration_token(Some("a b".to_owned()), None, None).await.is_err());
    let again = bench.users.set_registration_token(Some("abc".to_owned()), None, None).await;
    assert!(matches!(again, Err(Error::InvalidParam(message)) if message.contains("abc exists")));
    assert_eq!(bench.users.registration_token("abc").await.unwrap().unwrap().uses_allowed, Some(1));
    for uses in [0, -1] {
        assert!(bench.users.set_registration_token(Some("none".to_owned()), Some(uses), None).await.is_err());
    }
    assert!(bench.users.registration_token("none").await.unwrap().is_none());
    assert!(bench.users.delete_registration_token("abc").await.unwrap());
    assert!(!bench.users.delete_registration_token("abc").await.unwrap());
}

#[tokio::test]
async fn ca19_devices_are_named_made_and_deleted() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    let (alice, phone) = (user("alice"), DeviceId::from("PHONE"));
    let put = |create| bench.users.put_device(&alice, &phone, Some("Phone".to_owned()), create);
    assert!(matches!(put(false).await, Err(Error::NotFound(_))));
    assert!(put(true).await.unwrap());
    assert!(!put(true).await.unwrap());
    let found = bench.users.device(&alice, &phone).await.unwrap().unwrap();
    assert_eq!(found.display_name.as_deref(), Some("Phone"));
    bench.users.delete_devices(&alice, &[phone.clone(), "UNKNOWN".into()]).await.unwrap();
    bench.users.delete_devices(&alice, &[phone]).await.unwrap();
    let left: Vec<DeviceId> = bench.users.devices(&alice).await.unwrap().into_iter().map(|one| one.id).collect();
    assert_eq!(left, [login.device]);
}

#[tokio::test]
async fn cp7_pushers_are_bounded_in_size_and_in_number_though_many_come_at_once() {
    let bench = Bench::racing().await;
    let (login, alice) = (bench.join("alice").await, user("alice"));
    let set = async |key: usize, pusher: String| {
        bench.users.put_pusher(&alice, &login.device, "app", &key.to_string(), pusher, true).await
    };
    let refused = set(0, "x".repeat((16 << 10) + 1)).await.unwrap_err();
    assert_eq!(refused.to_string(), "a pusher of more than 16 KiB is too large");
    set(0, "x".repeat(16 << 10)).await.unwrap();
    let sets = (1..=210).map(|key| set(key, "{}".to_owned()));
    let taken = futures_util::future::join_all(sets).await.iter().filter(|set| set.is_ok()).count();
    assert_eq!((taken, pushkeys(&bench).await.len()), (199, 200));
    set(0, "{}".to_owned()).await.unwrap();
}

/// Wherever in the deletion of its device a pusher is set, it is refused or goes.
#[tokio::test]
async fn ca19_no_pusher_outlives_its_device() {
    let bench = Bench::racing().await;
    bench.join("alice").await;
    let alice = user("alice");
    let (mut taken, mut refused) = (0, 0);
    for everywhere in [false, true] {
        for turns in 0..30 {
            let phone = bench.users.login(&alice, device("PHONE")).await.unwrap().device;
            let set = async {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                bench.users.put_pusher(&alice, &phone, "app", "key", "{}".to_owned(), false).await
            };
            let sign_out = async {
                match everywhere {
                    true => bench.users.logout_all(&alice).await,
                    false => bench.users.delete_devices(&alice, std::slice::from_ref(&phone)).await,
                }
            };
            let (set, signed_out) = tokio::join!(set, sign_out);
            signed_out.unwrap();
            *(if set.is_ok() { &mut taken } else { &mut refused }) += 1;
            assert_eq!(pushkeys(&bench).await, [] as [String; 0], "after {turns} turns");
        }
    }
    assert!(taken > 0 && refused > 0, "{taken} were taken, {refused} refused");
}

#[tokio::test]
async fn last_seen_is_noted_coarsely() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    let session = bench.users.authenticate(&login.access_token).await.unwrap();
    bench.users.saw(&session, "192.0.2.1", "test");
    bench.clock.advance(1_000);
    bench.users.saw(&session, "192.0.2.2", "test");
    let seen = bench.users.device(&user("alice"), &login.device).await.unwrap().unwrap().last_seen.unwrap();
    assert_eq!((seen.ip.as_str(), seen.ts), ("192.0.2.1", 1_000_000));
}

#[tokio::test]
async fn the_first_account_is_made_once_by_its_token() {
    let bench = Bench::new().await;
    let old = bench.users.first_account_token().await.unwrap().unwrap();
    let token = bench.users.first_account_token().await.unwrap().unwrap();
    assert!(matches!(bench.users.register_first(&old, new("root")).await, Err(Error::InvalidRegistrationToken)));
    let root = bench.users.register_first(&token, new("root")).await.unwrap().user;
    assert!(bench.users.account(&root).await.unwrap().unwrap().admin);
    let again = bench.users.register_first(&token, new("other")).await;
    assert!(matches!(again, Err(Error::InvalidRegistrationToken)));
    assert_eq!(bench.users.first_account_token().await.unwrap(), None);
}

#[tokio::test]
async fn shared_secret_registration_needs_a_fresh_nonce_and_the_mac() {
    let bench = Bench::with(|options| options.shared_secret = Some("key".to_owned())).await;
    // HMAC-SHA1 of RFC 2202, test case 2, checks the primitive; here it is computed over the protocol's text.
    let mac = |nonce: &str| {
        use hmac::{Hmac, KeyInit, Mac};
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(b"key").unwrap();
        mac.update(format!("{nonce}\0alice\0pw\0notadmin").as_bytes());
        secret::hex(&mac.finalize().into_bytes())
    };
    let check = |nonce: &str, mac: &str, admin: bool| {
        let (name, password) = ("alice", "pw");
        bench.users.check_shared_secret(&SharedSecretProof { nonce, mac, name, password, admin, user_type: None })
    };
    let nonce = bench.users.registration_nonce().unwrap();
    assert!(check(&nonce, &mac(&nonce), false).is_ok());
    assert!(check(&nonce, &mac(&nonce), false).is_err(), "a nonce is used once");
    let nonce = bench.users.registration_nonce().unwrap();
    assert!(check(&nonce, &mac(&nonce), true).is_err(), "the MAC covers the admin flag");
    let nonce = bench.users.registration_nonce().unwrap();
    bench.clock.advance(60_000);
    assert!(check(&nonce, &mac(&nonce), false).is_err(), "a nonce lives a minute");
    assert!(Bench::new().await.users.registration_nonce().is_none());
}

#[tokio::test]
async fn openid_tokens_name_their_user_for_an_hour() {
    let bench = Bench::new().await;
    bench.join("alice").await;
    let (token, lifetime) = bench.users.openid_token(&user("alice")).await.unwrap();
    assert_eq!(bench.users.openid_user(&token).await.unwrap(), Some(user("alice")));
    assert_eq!(bench.users.openid_user("x").await.unwrap(), None);
    bench.clock.advance(lifetime);
    assert_eq!(bench.users.openid_user(&token).await.unwrap(), None);
    bench.users.prune().await.unwrap();
}

#[tokio::test]
async fn no_secret_is_stored_as_it_is() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    let (login_token, _) = bench.users.login_token(&user("alice")).await.unwrap();
    for table in store::tables::users::TABLES {
        let read = Read {
            table,
            index: None,
            prefix: vec![],
            lower: std::collections::Bound::Unbounded,
            upper: std::collections::Bound::Unbounded,
            reverse: false,
            limit: 1_000,
        };
        let rows = format!("{:?}", bench.store.read(vec![read]).await.unwrap());
        for hidden in ["secret", &login.access_token, &login_token] {
            assert!(!rows.contains(hidden), "{} holds a secret", table.name);
        }
    }
    assert!(bench.store.watermark() > StreamPosition::ZERO);
}

#[tokio::test]
async fn ca8_cr26_work_on_rooms_is_taken_up_when_it_is_overdue() {
    let bench = Bench::new().await;
    bench.join("alice").await;
    let alice = user("alice");
    bench.users.put_profile_field(&alice, "org.example.x", 1.into()).await.unwrap();
    bench.clock.advance(10 * 60_000);
    assert!(bench.users.overdue(Job::TellProfile).await.unwrap().is_empty(), "rooms know nothing of other fields");
    bench.users.put_profile_field(&alice, "displayname", "A".into()).await.unwrap();
    bench.users.deactivate(&alice, false).await.unwrap();
    for job in [Job::TellProfile, Job::LeaveRooms] {
        assert!(bench.users.overdue(job).await.unwrap().is_empty(), "whoever made the change has its time");
    }
    bench.clock.advance(10 * 60_000);
    for job in [Job::TellProfile, Job::LeaveRooms] {
        assert_eq!(bench.users.overdue(job).await.unwrap(), vec![alice.clone()]);
        bench.users.finish(job, &alice).await.unwrap();
        assert!(bench.users.overdue(job).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn ca12_a_session_keeps_its_kind_and_its_refresh_tokens_to_itself() {
    let bench = Bench::new().await;
    bench.join("alice").await;
    let new = NewDevice { refresh: true, kind: SessionKind::OAuth, ..NewDevice::default() };
    let login = bench.users.login(&user("alice"), new).await.unwrap();
    assert_eq!(bench.users.authenticate(&login.access_token).await.unwrap().kind, SessionKind::OAuth);
    let token = login.refresh_token.unwrap();
    assert!(matches!(bench.users.refresh(&token, SessionKind::Legacy).await, Err(Error::UnknownToken)));
    let fresh = bench.users.refresh(&token, SessionKind::OAuth).await.unwrap();
    assert_eq!(bench.users.authenticate(&fresh.access_token).await.unwrap().kind, SessionKind::OAuth);
}
