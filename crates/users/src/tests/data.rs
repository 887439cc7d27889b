//! Profiles, account data, tags, filters, receipts, to-device messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use store::tables::core::StreamRow;
use store::tables::federation::OutboundEduRow;
use store::{DeviceId, EventNum, Read, RoomNum, StreamKind, StreamPosition, UserId};

use super::{Bench, user};
use crate::Error;
use crate::push_rules::{NewRule, Place, RuleKind};
use crate::receipts::{ReadUpTo, ReceiptType};
use crate::reports::{REASON_BYTES_MAX, REPORTS_MAX, Reported};
use crate::to_device::Messages;

#[tokio::test]
async fn profiles_keep_to_their_limits() {
    let bench = Bench::new().await;
    bench.join("alice").await;
    let alice = user("alice");
    let put = |field: &'static str, value: Json| bench.users.put_profile_field(&alice, field, value);
    assert!(put("displayname", "Alice".into()).await.unwrap());
    assert!(!put("displayname", "Alice".into()).await.unwrap(), "the same value changes nothing");
    assert!(put("org.example.field", json!({ "any": [1, null] })).await.unwrap());
    assert!(put("m.tz", "Europe/Berlin".into()).await.unwrap());
    for (field, value) in
        [("displayname", json!(1)), ("Upper.Case", json!(1)), ("nodots", json!(1)), ("a..b", json!(1))]
    {
        assert!(matches!(put(field, value).await, Err(Error::InvalidParam(_))), "{field}");
    }
    let long: &'static str = Box::leak(format!("a.{}", "x".repeat(254)).into_boxed_str());
    assert!(matches!(put(long, json!(1)).await, Err(Error::KeyTooLarge)));
    assert!(matches!(put("a.b", "x".repeat(65_536).into()).await, Err(Error::ProfileTooLarge)));
    assert_eq!(bench.users.display_name(&alice).await.unwrap().as_deref(), Some("Alice"));
    assert!(put("displayname", "".into()).await.unwrap());
    assert_eq!(bench.users.display_name(&alice).await.unwrap(), None);
    assert!(!bench.users.delete_profile_field(&alice, "avatar_url").await.unwrap());
    assert_eq!(bench.users.profile(&user("nobody")).await.unwrap(), None);
}

#[tokio::test]
async fn cr25_server_controlled_types_cannot_be_written() {
    let bench = Bench::new().await;
    for kind in ["m.push_rules", "m.fully_read"] {
        let refused = bench.users.put_account_data(&user("alice"), "!r:x", kind, "{}".to_owned()).await;
        assert!(matches!(refused, Err(Error::ServerControlled(_))), "{kind}");
    }
}

#[tokio::test]
async fn cy9_account_data_and_tags_take_a_position_each() {
    let bench = Bench::new().await;
    let (alice, room) = (user("alice"), "!r:example.org");
    let since = bench.store.watermark();
    bench.users.put_account_data(&alice, "", "m.direct", r#"{"a":1}"#.to_owned()).await.unwrap();
    bench.users.put_tag(&alice, room, "m.favourite", json!({ "order": 0.5 })).await.unwrap();
    bench.users.put_tag(&alice, room, "m.favourite", json!({ "order": 0.5 })).await.unwrap();
    bench.users.put_tag(&alice, room, "u.work", json!({})).await.unwrap();
    assert_eq!(bench.store.watermark().0, since.0 + 3);
    let changed = bench.users.account_data_since(&alice, since, bench.store.watermark()).await.unwrap();
    let kinds: Vec<(&str, &str)> = changed.iter().map(|one| (one.room_id.as_str(), one.kind.as_str())).collect();
    assert_eq!(kinds, [("", "m.direct"), (room, "m.tag")]);
    let tags: Json = serde_json::from_str(&changed[1].content).unwrap();
    assert_eq!(tags, json!({ "tags": { "m.favourite": { "order": 0.5 }, "u.work": {} } }));
    bench.users.delete_tag(&alice, room, "u.work").await.unwrap();
    assert_eq!(bench.users.tags(&alice, room).await.unwrap().len(), 1);
    let all = bench.users.all_account_data(&alice).await.unwrap();
    assert!(all.iter().any(|one| one.kind == "m.push_rules" && one.content.contains(".m.rule.master")));
    assert!(bench.users.all_account_data(&user("bob")).await.unwrap().len() == 1);
}

#[tokio::test]
async fn cr21_an_upgrade_takes_tags_direct_and_room_rules_along() {
    let bench = Bench::new().await;
    let alice = user("alice");
    bench.users.put_tag(&alice, "!old", "u.a", json!({})).await.unwrap();
    bench.users.put_account_data(&alice, "", "m.direct", r#"{"@b:x":["!old"]}"#.to_owned()).await.unwrap();
    let rule = NewRule { actions: vec![json!("notify")], ..NewRule::default() };
    bench.users.put_push_rule(&alice, RuleKind::Room, "!old", rule, &Place::default()).await.unwrap();
    bench.users.follow_upgrade(&alice, "!old", "!new").await.unwrap();
    bench.users.follow_upgrade(&alice, "!old", "!new").await.unwrap();
    assert_eq!(bench.users.tags(&alice, "!new").await.unwrap().len(), 1);
    let direct = bench.users.account_data(&alice, "", "m.direct").await.unwrap().unwrap();
    assert_eq!(direct, r#"{"@b:x":["!old","!new"]}"#);
    let rules = bench.users.push_rules_for(&alice).await.unwrap();
    assert!(rules.get(&alice, RuleKind::Room, "!new").is_some());
}

#[tokio::test]
async fn the_same_filter_is_stored_once() {
    let bench = Bench::new().await;
    let id = bench.users.put_filter(&user("alice"), r#"{"room":{}}"#.to_owned()).await.unwrap();
    assert_eq!(bench.users.put_filter(&user("alice"), r#"{"room":{}}"#.to_owned()).await.unwrap(), id);
    assert_eq!(bench.users.filter(&user("alice"), &id).await.unwrap().as_deref(), Some(r#"{"room":{}}"#));
    assert_eq!(bench.users.filter(&user("bob"), &id).await.unwrap(), None);
    assert!(!id.starts_with('{'));
}

fn up_to(event: i64) -> ReadUpTo {
    ReadUpTo {
        event_id: format!("$e{event}"),
        event: Some(EventNum(event)),
        pos: StreamPosition(event),
        messages: event,
    }
}

#[tokio::test]
async fn cr25_receipts_go_forward_apart_by_thread_and_private_ones_stay_private() {
    let bench = Bench::new().await;
    let (room, alice, bob) = (RoomNum(7), user("alice"), user("bob"));
    let set = |kind, thread: &'static str, event| {
        let target = up_to(event);
        let (users, alice) = (&bench.users, &alice);
        async move { users.set_receipt(room, "!r", alice, kind, thread, &target).await.unwrap() }
    };
    assert!(set(ReceiptType::Read, "", 5).await);
    assert!(!set(ReceiptType::Read, "", 4).await, "receipts do not go back");
    assert!(!set(ReceiptType::Read, "", 5).await);
    assert!(set(ReceiptType::Read, "$root", 3).await, "threads are apart");
    assert!(set(ReceiptType::ReadPrivate, "", 9).await);
    assert!(set(ReceiptType::FullyRead, "", 6).await);
    let all = bench.store.watermark();
    let seen = |viewer: UserId| {
        let users = &bench.users;
        async move {
            let rows = users.receipts_since(room, StreamPosition::ZERO, all, &viewer).await.unwrap();
            rows.into_iter().map(|row| (row.receipt_type, row.thread, row.event_id)).collect::<Vec<_>>()
        }
    };
    let read = |thread: &str, id: &str| ("m.read".to_owned(), thread.to_owned(), id.to_owned());
    assert_eq!(seen(bob.clone()).await, [read("", "$e5"), read("$root", "$e3")]);
    assert_eq!(seen(alice.clone()).await.len(), 3);
    let marker = bench.users.account_data(&alice, "!r", "m.fully_read").await.unwrap().unwrap();
    assert_eq!(marker, r#"{"event_id":"$e6"}"#);
    assert_eq!(bench.users.receipts_of(room, &alice).await.unwrap().len(), 4);
}

fn to(user: &UserId, device: &str, n: i64) -> Messages {
    let content = json!({ "n": n }).to_string();
    BTreeMap::from([(user.clone(), BTreeMap::from([(device.to_owned(), content)]))])
}

#[tokio::test]
async fn ce10_cy12_to_device_messages_wait_in_order_until_synced_past() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    let (alice, bob, phone) = (user("alice"), user("bob"), login.device.clone());
    for n in 0..150 {
        bench.users.send_to_device(&bob, "m.test", None, &to(&alice, phone.as_str(), n)).await.unwrap();
    }
    bench.users.send_to_device(&bob, "m.test", None, &to(&alice, "UNKNOWN", 0)).await.unwrap();
    let all = bench.store.watermark();
    let first = bench.users.to_device(&alice, &phone, StreamPosition::ZERO, all, 100).await.unwrap();
    let numbers: Vec<String> = first.iter().map(|row| row.content.clone()).collect();
    assert_eq!(numbers, (0..100).map(|n| json!({ "n": n }).to_string()).collect::<Vec<_>>());
    let again = bench.users.to_device(&alice, &phone, StreamPosition::ZERO, all, 100).await.unwrap();
    assert_eq!(again, first, "repeated until the client syncs past them");
    let last = first.last().unwrap().pos;
    bench.users.delete_to_device(&alice, &phone, last).await.unwrap();
    let rest = bench.users.to_device(&alice, &phone, StreamPosition::ZERO, all, 100).await.unwrap();
    assert_eq!(rest.len(), 50);
    assert!(rest.iter().all(|row| row.pos > last));
}

#[tokio::test]
async fn ce10_a_transaction_is_sent_once_and_a_star_reaches_all_devices() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    let (alice, tablet) = (user("alice"), DeviceId::from("TABLET"));
    bench.users.put_device(&alice, &tablet, None, true).await.unwrap();
    let send = || bench.users.send_to_device(&alice, "m.test", Some((&login.device, "t1")), &STAR);
    static STAR: std::sync::LazyLock<Messages> = std::sync::LazyLock::new(|| to(&user("alice"), "*", 1));
    assert!(send().await.unwrap());
    assert!(!send().await.unwrap());
    for device in [&login.device, &tablet] {
        let waiting = bench.users.to_device(&alice, device, StreamPosition::ZERO, bench.store.watermark(), 9).await;
        assert_eq!(waiting.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn ce10_messages_to_other_servers_are_stored_for_them_once_and_in_portions() {
    let bench = Bench::new().await;
    let login = bench.join("alice").await;
    let alice = user("alice");
    let large = json!({ "text": "x".repeat(40_000) }).to_string();
    let devices: BTreeMap<String, String> = ["A", "B", "C"].map(|device| (device.to_owned(), large.clone())).into();
    let mut messages: Messages = BTreeMap::from([("@bob:two.test".into(), devices)]);
    messages.extend(to(&"@carol:three.test".into(), "*", 1));
    messages.extend(to(&"@dan:no server".into(), "*", 1));
    let before = bench.store.watermark();
    for sent in [true, false] {
        let transaction = Some((&login.device, "t1"));
        assert_eq!(bench.users.send_to_device(&alice, "m.test", transaction, &messages).await.unwrap(), sent);
    }
    let rows: Vec<OutboundEduRow> = bench.store.all(Read::prefix::<OutboundEduRow>(vec![])).await.unwrap();
    let places: Vec<_> = rows.iter().map(|row| (row.server.as_str(), row.number)).collect();
    assert_eq!(places, [("three.test", 0), ("two.test", 0), ("two.test", 1)]);
    let edus: Vec<Json> = rows.iter().map(|row| serde_json::from_str(&row.edu).unwrap()).collect();
    assert_eq!(edus[0]["edu_type"], "m.direct_to_device");
    let content = &edus[0]["content"];
    assert_eq!((&content["sender"], &content["type"]), (&json!(alice.as_str()), &json!("m.test")));
    assert_eq!(content["messages"], json!({ "@carol:three.test": { "*": { "n": 1 } } }));
    let devices = |edu: &Json| edu["content"]["messages"]["@bob:two.test"].as_object().unwrap().len();
    assert_eq!((devices(&edus[1]), devices(&edus[2])), (2, 1));
    let ids: Vec<&str> = edus.iter().map(|edu| edu["content"]["message_id"].as_str().unwrap()).collect();
    assert!(ids.iter().all(|id| (1..=32).contains(&id.len())) && ids[1] != ids[2], "{ids:?}");
    let entries: Vec<StreamRow> = bench.store.all(Read::prefix::<StreamRow>(vec![]).after(before)).await.unwrap();
    let told = entries.iter().filter(|row| row.kind == StreamKind::ToDevice as i64);
    let told: Vec<_> = told.map(|row| (row.pos, row.user_id.as_ref().unwrap().server_name())).collect();
    assert_eq!(told, [(rows[0].pos, "three.test"), (rows[1].pos, "two.test")], "which wakes the queues");
}

/// SEC-poison-uploads.
#[tokio::test]
async fn ce10_a_message_that_cannot_be_signed_is_refused() {
    let bench = Bench::new().await;
    let content = BTreeMap::from([("*".to_owned(), json!({ "n": 1.5 }).to_string())]);
    let messages = BTreeMap::from([(UserId::from("@bob:two.test"), content)]);
    let refused = bench.users.send_to_device(&user("alice"), "m.test", None, &messages).await;
    assert!(matches!(refused, Err(Error::InvalidParam(_))), "{refused:?}");
}

#[tokio::test]
async fn cy15_ignored_users_are_read_from_account_data() {
    let bench = Bench::new().await;
    let content = json!({ "ignored_users": { "@bob:example.org": {} } }).to_string();
    bench.users.put_account_data(&user("alice"), "", "m.ignored_user_list", content).await.unwrap();
    assert!(bench.users.ignored(&user("alice")).await.unwrap().contains(&user("bob")));
    assert!(bench.users.ignored(&user("bob")).await.unwrap().is_empty());
}

#[tokio::test]
async fn reports_are_kept_for_administrators() {
    let bench = Bench::new().await;
    let alice = user("alice");
    let event = Reported::Event { room_id: "!r:x", event_id: "$e", sender: "@bob:x", json: "{}" };
    bench.users.report(&alice, event, "rude").await.unwrap();
    bench.users.report(&alice, Reported::Room { room_id: "!r:x" }, "").await.unwrap();
    bench.users.report(&alice, Reported::User { user: &user("bob") }, "spam").await.unwrap();
    let all = bench.users.reports(None, 10).await.unwrap();
    let about: Vec<&str> = all.iter().map(|report| report.about.as_str()).collect();
    assert_eq!(about, ["user", "room", "event"], "newest first");
    let rest = bench.users.reports(Some(all[1].number), 10).await.unwrap();
    assert_eq!(rest.len(), 1);
    assert_eq!((rest[0].event_id.as_deref(), rest[0].reason.as_str(), rest[0].at_ms), (Some("$e"), "rude", 1_000_000));
    assert_eq!((&rest[0].reporter, &rest[0].user_id), (&alice, &Some(UserId::from("@bob:x"))));
    let long = "x".repeat(REASON_BYTES_MAX + 1);
    let refused = bench.users.report(&alice, Reported::Room { room_id: "!r:x" }, &long).await;
    assert!(matches!(refused, Err(Error::TooLarge(_))));
}

#[tokio::test]
async fn reports_are_closed_bounded_and_removed_in_time() {
    let bench = Bench::with(|options| options.reports_kept_ms = 10_000).await;
    let (alice, bob, room) = (user("alice"), user("bob"), Reported::Room { room_id: "!r:x" });
    let event = Reported::Event { room_id: "!r:x", event_id: "$e", sender: "@bob:x", json: r#"{"body":"rude"}"# };
    bench.users.report(&bob, event, "rude").await.unwrap();
    let first = bench.users.reports(None, 10).await.unwrap().remove(0);
    assert_eq!((first.event.as_deref(), first.closed_ms), (Some(r#"{"body":"rude"}"#), None));
    bench.users.close_report(first.number).await.unwrap();
    bench.clock.advance(1_000);
    bench.users.close_report(first.number).await.unwrap();
    assert_eq!(
        bench.users.kept_report(first.number).await.unwrap().closed_ms,
        Some(1_000_000),
        "the first time counts"
    );
    assert!(matches!(bench.users.close_report(first.number + 1).await, Err(Error::NotFound(_))));
    for n in 0..=REPORTS_MAX {
        bench.users.report(&alice, room, &n.to_string()).await.unwrap();
    }
    let all = bench.users.reports(None, 1_000).await.unwrap();
    let (of_alice, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|report| report.reporter == alice);
    assert_eq!((of_alice.len(), others.len()), (REPORTS_MAX as usize, 1), "only the reporter's own reports go");
    assert_eq!(of_alice.last().map(|report| report.reason.as_str()), Some("1"), "the oldest went");
    bench.clock.advance(9_000);
    bench.users.prune().await.unwrap();
    assert!(bench.users.kept_report(first.number).await.is_ok(), "its time is not over yet");
    bench.clock.advance(1);
    bench.users.prune().await.unwrap();
    assert!(matches!(bench.users.kept_report(first.number).await, Err(Error::NotFound(_))));
    assert_eq!(bench.users.reports(None, 1_000).await.unwrap().len(), REPORTS_MAX as usize);
}

#[tokio::test]
async fn tags_and_push_rules_put_at_the_same_moment_are_all_kept() {
    let bench = Bench::racing().await;
    bench.join("alice").await;
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..40 {
        let users = Arc::clone(&bench.users);
        asked.spawn(async move { users.put_tag(&user("alice"), "!room", &format!("u.{number}"), json!({})).await });
        let users = Arc::clone(&bench.users);
        asked.spawn(async move {
            let (rule, id) = (NewRule::default(), format!("!{number}"));
            users.put_push_rule(&user("alice"), RuleKind::Room, &id, rule, &Place::default()).await
        });
    }
    for outcome in asked.join_all().await {
        outcome.unwrap();
    }
    let alice = user("alice");
    assert_eq!(bench.users.tags(&alice, "!room").await.unwrap().len(), 40);
    let rules = bench.users.push_rules_for(&alice).await.unwrap();
    for number in 0..40 {
        assert!(rules.get(&alice, RuleKind::Room, &format!("!{number}")).is_some(), "rule {number}");
    }
}
