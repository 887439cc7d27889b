//! Copies of other servers' device lists, and what they are told (behaviour CE12).

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use store::UserId;

use super::{Bench, user};
use crate::keys::device_keys::Queried;
use crate::remote_devices::{RemoteDevice, RemoteList, RemoteUpdate};

const PHONE: &str = "PHONE";

fn bob() -> UserId {
    UserId::from("@bob:elsewhere.test")
}

/// A device whose key says which version of it is meant.
fn device(id: &str, version: u32) -> RemoteDevice {
    let keys = json!({ "user_id": bob(), "device_id": id, "keys": { "ed25519:x": version.to_string() } });
    RemoteDevice { keys: keys.to_string(), display_name: None }
}

fn list(stream_id: i64, devices: &[(&str, u32)]) -> RemoteList {
    let devices = devices.iter().map(|(id, version)| ((*id).to_owned(), device(id, *version))).collect();
    RemoteList { stream_id, devices, ..RemoteList::default() }
}

fn update(stream_id: i64, prev_ids: &[i64], id: &str, version: Option<u32>) -> RemoteUpdate {
    let device = version.map(|version| device(id, version));
    RemoteUpdate { stream_id, prev_ids: prev_ids.to_vec(), device_id: id.to_owned(), device }
}

impl Bench {
    async fn fetch(&self, list: &RemoteList) -> bool {
        let asked = self.users.before_remote_list(&bob()).await.unwrap();
        self.users.put_remote_list(&asked, list, false).await.unwrap()
    }

    /// The versions of bob's devices, if there is a copy that holds.
    async fn copy(&self) -> Option<BTreeMap<String, String>> {
        let wanted = BTreeMap::from([(bob(), Vec::new())]);
        let mut queried = Queried::default();
        self.users.add_remote_key_texts(&wanted, &mut queried).await.unwrap().pop()?;
        let devices = queried.device_keys.remove(&bob()).unwrap_or_default();
        let version = |key: &str| serde_json::from_str::<Json>(key).unwrap()["keys"]["ed25519:x"].clone();
        Some(devices.into_iter().map(|(id, key)| (id, version(key.get()).as_str().unwrap().to_owned())).collect())
    }

    async fn tell(&self, update: &RemoteUpdate) -> bool {
        self.users.remote_device_update(&bob(), update).await.unwrap()
    }
}

fn versions(devices: &[(&str, &str)]) -> Option<BTreeMap<String, String>> {
    Some(devices.iter().map(|(id, version)| ((*id).to_owned(), (*version).to_owned())).collect())
}

#[tokio::test]
async fn ce12_updates_that_follow_each_other_are_applied() {
    let bench = Bench::new().await;
    assert_eq!(bench.copy().await, None);
    assert!(!bench.tell(&update(1, &[], PHONE, Some(1))).await, "nobody asked: nothing is kept, nothing is due");
    assert_eq!(bench.copy().await, None);
    assert!(bench.fetch(&list(5, &[(PHONE, 5)])).await);
    assert!(!bench.tell(&update(4, &[3], PHONE, Some(4))).await);
    assert_eq!(bench.copy().await, versions(&[(PHONE, "5")]), "the list has it already");
    assert!(!bench.tell(&update(7, &[4], PHONE, Some(7))).await, "what was before the list is in it");
    assert!(!bench.tell(&update(7, &[4], "TV", Some(7))).await, "of one update, another device");
    assert!(!bench.tell(&update(8, &[7], PHONE, None)).await);
    assert_eq!(bench.copy().await, versions(&[("TV", "7")]));
    assert!(!bench.tell(&update(7, &[4], PHONE, Some(7))).await);
    assert_eq!(bench.copy().await, versions(&[("TV", "7")]), "an old one that comes again changes nothing");
    assert!(!bench.tell(&update(9, &[7, 8], PHONE, Some(9))).await);
    assert_eq!(bench.copy().await, versions(&[(PHONE, "9"), ("TV", "7")]));
}

#[tokio::test]
async fn ce12_after_a_gap_the_list_is_fetched_anew() {
    let bench = Bench::new().await;
    for (id, prev_ids) in [(9, vec![8]), (9, vec![]), (9, vec![5, 8])] {
        assert!(bench.fetch(&list(5, &[(PHONE, 5)])).await);
        assert!(bench.tell(&update(id, &prev_ids, PHONE, Some(9))).await, "{prev_ids:?}");
        assert_eq!(bench.copy().await, None, "what may be wrong is not handed out");
        assert!(!bench.tell(&update(10, &[9], PHONE, Some(10))).await, "it is due already");
        assert_eq!(bench.copy().await, None);
        assert!(bench.users.claim_remote_lists(10).await.unwrap().is_empty(), "not at once again");
        bench.clock.advance(10_000);
        assert_eq!(bench.users.claim_remote_lists(10).await.unwrap(), [bob()]);
        assert!(bench.users.claim_remote_lists(10).await.unwrap().is_empty(), "somebody is at it");
        assert!(bench.fetch(&list(10, &[(PHONE, 10)])).await);
        assert_eq!(bench.copy().await, versions(&[(PHONE, "10")]));
        bench.clock.advance(1_000_000);
        assert!(bench.users.claim_remote_lists(10).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn ce12_what_changes_while_a_list_is_fetched_is_not_lost() {
    let bench = Bench::new().await;
    let asked = bench.users.before_remote_list(&bob()).await.unwrap();
    bench.tell(&update(6, &[5], PHONE, Some(6))).await;
    assert!(!bench.users.put_remote_list(&asked, &list(5, &[(PHONE, 5)]), false).await.unwrap());
    assert_eq!(bench.copy().await, None);
}

#[tokio::test]
async fn ce12_cross_signing_keys_that_are_told_replace_those_of_the_copy() {
    let bench = Bench::new().await;
    assert!(bench.fetch(&RemoteList { master: Some("{\"a\":1}".to_owned()), ..list(5, &[]) }).await);
    assert!(!bench.users.remote_signing_update(&bob(), None, Some("{\"b\":2}")).await.unwrap());
    let keys = async || {
        let mut queried = Queried::default();
        bench.users.add_remote_key_texts(&BTreeMap::from([(bob(), Vec::new())]), &mut queried).await.unwrap();
        let text = |keys: &BTreeMap<UserId, crate::keys::Text>| keys.get(&bob()).map(|key| key.get().to_owned());
        (text(&queried.master_keys), text(&queried.self_signing_keys))
    };
    assert_eq!(keys().await, (Some("{\"a\":1}".to_owned()), Some("{\"b\":2}".to_owned())));
    assert!(bench.users.remote_signing_update(&bob(), None, None).await.unwrap(), "nothing is told of what changed");
    assert_eq!(keys().await, (None, None));
}

#[tokio::test]
async fn ce12_a_message_of_an_unknown_device_says_that_an_update_was_lost() {
    let bench = Bench::new().await;
    assert!(!bench.users.remote_device_named(&bob(), PHONE).await.unwrap(), "there is no copy");
    assert!(bench.fetch(&list(5, &[(PHONE, 5)])).await);
    bench.clock.advance(60_000);
    assert!(!bench.users.remote_device_named(&bob(), PHONE).await.unwrap());
    let before = bench.store.watermark();
    assert!(bench.users.remote_device_named(&bob(), "TV").await.unwrap());
    assert_eq!(bench.copy().await, None);
    let changed = bench.users.device_changes(before, bench.store.watermark()).await.unwrap();
    assert_eq!(changed.len(), 1, "clients ask for the keys");
    assert!(bench.fetch(&list(6, &[(PHONE, 5)])).await);
    assert!(!bench.users.remote_device_named(&bob(), "MADE-UP").await.unwrap(), "not again and again");
}

#[tokio::test]
async fn ce12_who_is_away_is_asked_ever_more_seldom_and_in_the_end_no_more() {
    let bench = Bench::new().await;
    assert!(bench.fetch(&list(5, &[(PHONE, 5)])).await);
    bench.users.remote_devices_changed(&bob()).await.unwrap();
    bench.clock.advance(10_000);
    let (mut tries, mut waited) = (0, 0);
    while waited < 100 {
        if bench.users.claim_remote_lists(10).await.unwrap().is_empty() {
            bench.clock.advance(3_600_000);
            waited += 1;
            continue;
        }
        bench.users.put_off_remote_list(&bob()).await.unwrap();
        tries += 1;
    }
    assert_eq!(tries, 31);
    assert!(bench.fetch(&list(6, &[])).await, "whoever needs it asks");
}

#[tokio::test]
async fn ce12_of_users_with_absurdly_many_devices_no_copy_is_kept() {
    let bench = Bench::new().await;
    let many: Vec<String> = (0..1_001).map(|n| format!("D{n}")).collect();
    let devices: Vec<(&str, u32)> = many.iter().map(|id| (id.as_str(), 1)).collect();
    assert!(!bench.fetch(&list(5, &devices)).await);
    assert_eq!(bench.copy().await, None);
    assert!(bench.fetch(&list(5, &devices[1..])).await);
    assert_eq!(bench.copy().await.unwrap().len(), 1_000);
    bench.users.remote_devices_changed(&user("alice")).await.unwrap();
    assert_eq!(bench.copy().await.unwrap().len(), 1_000, "that was about a local user");
}

#[tokio::test]
async fn ce12_what_is_told_makes_no_list_grow_without_end() {
    let bench = Bench::new().await;
    assert!(bench.fetch(&list(5, &[])).await);
    for id in 6..106 {
        assert!(!bench.tell(&update(id, &[id - 1], &id.to_string(), Some(1))).await);
    }
    assert_eq!(bench.copy().await.unwrap().len(), 100);
    assert!(bench.tell(&update(106, &[105], "106", Some(1))).await);
    assert_eq!(bench.copy().await, None);
}
