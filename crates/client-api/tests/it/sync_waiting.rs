//! `/sync`: waiting, waking, and what is volatile (behaviours CY9, CY14, CY16, CR24).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Client, Server, encoded};
use users::push_rules::RuleKind;
use users::receipts::ReceiptType;

use crate::sync::{bodies, events, joined, of_type, read};

/// Longest that a test waits for what must happen at once, on a busy machine: shorter than any sync asks to wait.
const PATIENCE: Duration = Duration::from_secs(50);

/// Begins to wait, runs `act`, and returns the answer of the wait.
async fn woken_by<F: Future<Output = ()>>(client: &Client, since: &Value, act: F) -> Value {
    let (waiter, since) = (client.clone(), since.clone());
    let waiting = tokio::spawn(async move { waiter.sync_since(&since, "timeout=60000&set_presence=offline").await });
    while client.state.sync.waker().n_waiting() == 0 {
        tokio::task::yield_now().await;
    }
    // Lets the waiter find nothing and fall asleep.
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished(), "nothing was new");
    act.await;
    tokio::time::timeout(PATIENCE, waiting).await.expect("the sync stayed asleep").unwrap()
}

// Long: one list of everything that wakes a waiting sync, each with the sync that it wakes.
#[tokio::test]
async fn cy9_everything_wakes_at_once() {
    let server = Server::new().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.public_room().await;
    bob.join(&room).await;
    let message = alice.say(&room, "x").await;
    let held = server.state.rooms.room(&room).await.unwrap().unwrap();
    let users = &server.state.users;
    let quiet = "set_presence=offline";
    let start = bob.sync_with(quiet).await;

    let answer = woken_by(&bob, &start, async { drop(alice.say(&room, "hi").await) }).await;
    assert_eq!(bodies(events(joined(&answer, &room), "timeline")), ["hi"]);

    let answer = woken_by(&bob, &answer, async { users.set_typing(held.num, &alice.id(), Some(30_000)) }).await;
    let typing = of_type(events(joined(&answer, &room), "ephemeral"), "m.typing").unwrap();
    assert_eq!(typing["content"]["user_ids"], json!([alice.user]));
    assert!(typing.get("room_id").is_none(), "CR24");

    let answer = woken_by(&bob, &answer, async {
        server.clock.advance(31_000);
        users.tick();
    })
    .await;
    let typing = of_type(events(joined(&answer, &room), "ephemeral"), "m.typing").unwrap();
    assert_eq!(typing["content"]["user_ids"], json!([]), "it ends by itself");

    let answer = woken_by(&bob, &answer, read(&alice, &room, &message, ReceiptType::Read)).await;
    let receipt = of_type(events(joined(&answer, &room), "ephemeral"), "m.receipt").unwrap();
    assert!(receipt["content"][&message]["m.read"].get(alice.user.as_str()).is_some(), "{receipt}");
    assert!(receipt.get("room_id").is_none(), "CR24");

    let answer = woken_by(&bob, &answer, read(&bob, &room, &message, ReceiptType::ReadPrivate)).await;
    let receipt = of_type(events(joined(&answer, &room), "ephemeral"), "m.receipt").unwrap();
    assert!(receipt["content"][&message]["m.read.private"].get(bob.user.as_str()).is_some(), "{receipt}");

    let answer = woken_by(&bob, &answer, async {
        users.put_account_data(&bob.id(), "", "x.global", "{\"a\":1}".to_owned()).await.unwrap();
    })
    .await;
    assert_eq!(of_type(events(&answer, "account_data"), "x.global").unwrap()["content"], json!({ "a": 1 }));

    let answer = woken_by(&bob, &answer, async {
        users.put_tag(&bob.id(), &room, "m.favourite", json!({})).await.unwrap();
    })
    .await;
    assert!(of_type(events(joined(&answer, &room), "account_data"), "m.tag").is_some(), "{answer}");

    let answer = woken_by(&bob, &answer, async {
        users.enable_push_rule(&bob.id(), RuleKind::Override, ".m.rule.master", true).await.unwrap();
    })
    .await;
    assert!(of_type(events(&answer, "account_data"), "m.push_rules").is_some(), "{answer}");

    let answer = woken_by(&bob, &answer, async {
        let contents = BTreeMap::from([("*".to_owned(), "{\"b\":2}".to_owned())]);
        let messages = BTreeMap::from([(bob.id(), contents)]);
        users.send_to_device(&alice.id(), "x.y", None, &messages).await.unwrap();
    })
    .await;
    assert_eq!(events(&answer, "to_device")[0]["content"], json!({ "b": 2 }));

    let answer = woken_by(&bob, &answer, async { drop(alice.login("NEW").await) }).await;
    assert_eq!(answer["device_lists"]["changed"], json!([alice.user]));

    let answer = woken_by(&bob, &answer, async {
        users.set_presence(&alice.id(), users::presence::PresenceState::Online, Some("here".to_owned())).unwrap();
    })
    .await;
    let presence = of_type(events(&answer, "presence"), "m.presence").unwrap();
    assert_eq!((&presence["sender"], &presence["content"]["status_msg"]), (&json!(alice.user), &json!("here")));

    let answer = woken_by(&bob, &answer, async {
        alice.create_room(json!({ "invite": [bob.user] })).await;
    })
    .await;
    assert_eq!(answer["rooms"]["invite"].as_object().unwrap().len(), 1);

    let answer = woken_by(&bob, &answer, async {
        alice.post(&format!("/rooms/{}/kick", encoded(&room)), json!({ "user_id": bob.user })).await.ok();
    })
    .await;
    assert!(answer["rooms"]["leave"].get(&room).is_some());
}

#[tokio::test]
async fn cy9_strangers_sleep_on() {
    let server = Server::new().await;
    let (alice, bob, carol) =
        (server.register("alice").await, server.register("bob").await, server.register("carol").await);
    let room = alice.public_room().await;
    let theirs = bob.public_room().await;
    carol.join(&theirs).await;
    let start = bob.sync_with("set_presence=offline").await;
    let answer = woken_by(&bob, &start, async {
        alice.say(&room, "not for bob").await;
        let held = server.state.rooms.room(&room).await.unwrap().unwrap();
        server.state.users.set_typing(held.num, &alice.id(), Some(30_000));
        server.state.users.set_presence(&alice.id(), users::presence::PresenceState::Online, None).unwrap();
        carol.say(&theirs, "for bob").await;
    })
    .await;
    assert_eq!(bodies(events(joined(&answer, &theirs), "timeline")), ["for bob"]);
    assert!(joined(&answer, &room).is_null());
    assert!(!answer.to_string().contains("@alice"), "{answer}");
}

#[tokio::test]
async fn cy14_full_state_does_not_wait_and_timeouts_hold() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "a" })).await;
    let start = alice.sync("").await;
    let full = tokio::time::timeout(PATIENCE, alice.sync_since(&start, "timeout=60000&full_state=true")).await.unwrap();
    let section = joined(&full, &room);
    let state = events(section, "state");
    for kind in ["m.room.create", "m.room.name", "m.room.member", "m.room.power_levels"] {
        assert!(of_type(state, kind).is_some(), "{kind}: {section}");
    }
    assert!(events(section, "timeline").is_empty());
    let from = std::time::Instant::now();
    let idle = alice.sync_since(&full, "timeout=120&set_presence=offline").await;
    assert!(from.elapsed() >= Duration::from_millis(120), "it waits as long as it is told");
    assert!(idle.get("rooms").is_none());
    let from = std::time::Instant::now();
    alice.sync_since(&idle, "set_presence=offline").await;
    assert!(from.elapsed() < PATIENCE, "no timeout is no wait");
}

#[tokio::test]
async fn cy14_set_presence_is_honored() {
    let server = Server::new().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.public_room().await;
    bob.join(&room).await;
    let mut seen = bob.sync_with("set_presence=offline").await;
    let table = [("offline", None), ("online", Some("online")), ("unavailable", None)];
    for (set, expected) in table {
        alice.sync_with(&format!("set_presence={set}")).await;
        seen = bob.sync_since(&seen, "set_presence=offline").await;
        let presence = of_type(events(&seen, "presence"), "m.presence");
        assert_eq!(presence.map(|presence| presence["content"]["presence"].as_str().unwrap()), expected, "{set}");
    }
    let answer = bob.get("/sync?set_presence=dancing").await;
    assert_eq!(answer.status, 400);
    let carol = server.register("carol").await;
    carol.join(&room).await;
    let seen = bob.sync_since(&seen, "set_presence=offline").await;
    carol.sync_with("set_presence=unavailable").await;
    let seen = bob.sync_since(&seen, "set_presence=offline").await;
    assert_eq!(events(&seen, "presence")[0]["content"]["presence"], "unavailable");
}

#[tokio::test]
async fn cy16_presence_of_who_joins_arrives() {
    let server = Server::new().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.public_room().await;
    server.state.users.set_presence(&bob.id(), users::presence::PresenceState::Online, Some("new".to_owned())).unwrap();
    let start = alice.sync_with("set_presence=offline").await;
    let idle = alice.sync_since(&start, "set_presence=offline").await;
    assert!(events(&idle, "presence").is_empty(), "bob is a stranger: {idle}");
    bob.join(&room).await;
    let answer = alice.sync_since(&idle, "set_presence=offline").await;
    let presence = of_type(events(&answer, "presence"), "m.presence").unwrap();
    assert_eq!((&presence["sender"], &presence["content"]["status_msg"]), (&json!(bob.user), &json!("new")));
    let carol = server.register("carol").await;
    let start = carol.sync_with("set_presence=offline").await;
    carol.join(&room).await;
    let answer = carol.sync_since(&start, "set_presence=offline").await;
    assert!(events(&answer, "presence").iter().any(|event| event["sender"] == json!(bob.user)), "{answer}");
}
