//! Rooms with a policy server: what it does not sign is neither sent nor shown (behaviour FE2).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use event::policy::POLICY_KEY_ID;
use event::{Pdu, Rules, SigningKey, redact};
use parking_lot::Mutex;
use rooms::delayed::Outcome;
use rooms::{Accepted, Delayed, Error, NewDelayed, NewEvent, Options, PolicyRefusal, PolicyServers, flags};
use ruma_common::OwnedEventId;
use serde_json::json;
use store::UserId;
use store::model::Model;
use tokio::sync::Semaphore;

use crate::harness::{content, rooms_with, text};
use crate::remote::{Server, join};

const VERSION: &str = "11";

/// A policy server that does what the event says.
#[derive(Debug)]
struct Policy {
    key: SigningKey,
    /// Servers and types that were asked about.
    asked: Mutex<Vec<(String, String)>>,
    /// Opened for what waits.
    gate: Semaphore,
}

impl Policy {
    fn new() -> Arc<Self> {
        let seed = SigningKey::generate(&[9; 32]).seed_b64();
        let key = SigningKey::from_seed_b64(POLICY_KEY_ID, &seed).unwrap();
        Arc::new(Self { key, asked: Mutex::default(), gate: Semaphore::new(0) })
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock()).into_iter().map(|(_, kind)| kind).collect()
    }
}

#[async_trait]
impl PolicyServers for Policy {
    async fn sign(&self, server: &str, event: &Pdu) -> Result<String, PolicyRefusal> {
        self.asked.lock().push((server.to_owned(), event.kind.clone()));
        match event.content_str("body") {
            Some("spam") => return Err(PolicyRefusal::Refused("that is spam".to_owned())),
            Some("away") => return Err(PolicyRefusal::Away("nobody there".to_owned())),
            Some("wrong") => return Ok("AAAA".to_owned()),
            Some("slow") => self.gate.acquire().await.unwrap().forget(),
            _ => {}
        }
        let mut redacted = redact(Rules::of(VERSION).unwrap(), &event.object());
        self.key.sign_json(&mut redacted, server);
        let signature = redacted["signatures"].get(server).unwrap().get(POLICY_KEY_ID).unwrap();
        Ok(signature.as_str().unwrap().to_owned())
    }
}

/// `one.test` with a room that `@bob:two.test` has joined, and what it asks.
async fn world() -> (Server, Server, Arc<Policy>, String) {
    let policy = Policy::new();
    let servers = Some(Arc::clone(&policy) as Arc<dyn PolicyServers>);
    let engine: Arc<dyn store::Engine> = Arc::new(Model::new());
    let options = Options { policy_servers: servers, ..Options::new("one.test") };
    let one = Server { rooms: rooms_with(Arc::clone(&engine), options, 1).await, engine };
    let two = Server::new("two.test").await;
    let room_id = one.create(VERSION).await;
    join(&two, &one, &room_id, "bob").await.unwrap();
    assert_eq!(policy.asked(), Vec::<String>::new(), "there is none yet");
    (one, two, policy, room_id)
}

async fn set(
    server: &Server,
    room_id: &str,
    kind: &str,
    key: &str,
    value: serde_json::Value,
) -> Result<OwnedEventId, Error> {
    server.rooms.send(room_id, NewEvent::state(&server.user("alice"), kind, key, content(value))).await
}

async fn name_policy(one: &Server, policy: &Policy, room_id: &str) {
    let named = json!({ "via": "two.test", "public_keys": { "ed25519": policy.key.public_b64() } });
    set(one, room_id, "m.room.policy", "", named).await.unwrap();
}

async fn say(server: &Server, room_id: &str, body: &str) -> Result<OwnedEventId, Error> {
    server.rooms.send(room_id, text(&server.user("alice"), body)).await
}

async fn has_signature(server: &Server, room_id: &str, id: &OwnedEventId) -> bool {
    let object = server.get(room_id, id).await.pdu.object();
    object["signatures"].get("two.test").is_some_and(|keys| keys.get(POLICY_KEY_ID).is_some())
}

#[tokio::test]
async fn fe2_our_events_are_signed_before_they_are_sent() {
    let (one, _, policy, room_id) = world().await;
    name_policy(&one, &policy, &room_id).await;
    assert_eq!(policy.asked(), Vec::<String>::new(), "that event is exempt");
    let id = say(&one, &room_id, "hello").await.unwrap();
    assert!(has_signature(&one, &room_id, &id).await);
    assert!(one.get(&room_id, &id).await.shown());
    set(&one, &room_id, "m.room.topic", "", json!({ "topic": "x" })).await.unwrap();
    set(&one, &room_id, "m.room.policy", "x", json!({})).await.unwrap();
    assert_eq!(policy.asked(), ["m.room.message", "m.room.topic", "m.room.policy"]);
    assert_eq!(*policy.asked.lock(), vec![]);
    // The same state again is nothing new.
    set(&one, &room_id, "m.room.topic", "", json!({ "topic": "x" })).await.unwrap();
    assert_eq!(policy.asked(), Vec::<String>::new());
    let carol = UserId::from("@carol:three.test");
    let invite = one.rooms.build_invite(&room_id, &one.user("alice"), &carol, None, content(json!({}))).await;
    let invite = invite.unwrap().unwrap().pdu().object();
    assert!(invite["signatures"].get("two.test").is_some(), "before another server sees it");
}

#[tokio::test]
async fn fe2_what_the_policy_server_refuses_is_not_sent() {
    let (one, _, policy, room_id) = world().await;
    name_policy(&one, &policy, &room_id).await;
    let before = one.room(&room_id).await.head().row.version;
    let refused = say(&one, &room_id, "spam").await;
    assert!(matches!(&refused, Err(Error::NotRecommended(reason)) if reason == "that is spam"), "{refused:?}");
    for body in ["away", "wrong"] {
        let failed = say(&one, &room_id, body).await;
        assert!(matches!(failed, Err(Error::PolicyServerAway(_))), "{failed:?}");
    }
    assert_eq!(one.room(&room_id).await.head().row.version, before, "nothing was written");
    assert!(say(&one, &room_id, "hello").await.is_ok());
}

#[tokio::test]
async fn a_room_does_not_wait_for_its_policy_server() {
    let (one, _, policy, room_id) = world().await;
    name_policy(&one, &policy, &room_id).await;
    let others = async {
        let fast = say(&one, &room_id, "fast").await.unwrap();
        policy.gate.add_permits(1);
        fast
    };
    let both = async { tokio::join!(say(&one, &room_id, "slow"), others) };
    let (slow, fast) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
    for id in [slow.unwrap(), fast] {
        assert!(one.get(&room_id, &id).await.shown());
    }
}

#[tokio::test]
async fn fe2_a_policy_server_counts_while_it_is_named_and_in_the_room() {
    let (one, two, policy, room_id) = world().await;
    name_policy(&one, &policy, &room_id).await;
    set(&one, &room_id, "m.room.policy", "", json!({ "via": "two.test" })).await.unwrap();
    say(&one, &room_id, "spam").await.unwrap();
    name_policy(&one, &policy, &room_id).await;
    assert!(say(&one, &room_id, "spam").await.is_err());
    one.rooms.kick(&room_id, &one.user("alice"), &two.user("bob"), None).await.unwrap();
    policy.asked();
    say(&one, &room_id, "spam").await.unwrap();
    assert_eq!(policy.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn fe2_what_comes_in_is_asked_for_once_and_else_soft_failed() {
    let (one, two, policy, room_id) = world().await;
    // Their server has not learned of the policy server yet.
    let mut sent = Vec::new();
    for body in ["hello", "spam", "away", "wrong"] {
        let id = two.say(&room_id, "bob", body).await;
        sent.push(two.sent(&room_id, &id).await);
    }
    name_policy(&one, &policy, &room_id).await;
    for (event, good) in sent.into_iter().zip([true, false, false, false]) {
        let id = event.pdu().event_id.clone();
        let accepted = one.accept(event.clone()).await;
        let Accepted::Judged(judged) = accepted else { panic!("{accepted:?}") };
        assert_eq!((judged.has(flags::SOFT_FAILED), judged.shown()), (!good, good), "{:?}", judged.row.reason);
        assert_eq!(has_signature(&one, &room_id, &id).await, good);
        assert_eq!(policy.asked().len(), 1);
        // It comes again.
        assert!(matches!(one.accept(event).await, Accepted::Known(_)));
        assert_eq!(policy.asked(), Vec::<String>::new());
    }
    // Whoever joins does not know the policy server yet: the resident asks for the join.
    let three = Server::new("three.test").await;
    let joined = join(&three, &one, &room_id, "carol").await.unwrap();
    assert_eq!(policy.asked(), ["m.room.member"]);
    assert!(joined.shown() && has_signature(&one, &room_id, joined.id()).await);
}

/// Sends a delayed event, and does something while its policy server takes its time.
async fn send_while<T>(
    one: &Server,
    policy: &Policy,
    room_id: &str,
    delayed: &Delayed,
    deed: impl Future<Output = T>,
) -> Result<OwnedEventId, Error> {
    policy.asked();
    let new = text(&one.user("alice"), "slow");
    let sending = one.rooms.send(room_id, NewEvent { delayed: Some(Box::new(delayed.clone())), ..new });
    let meanwhile = async {
        while policy.asked.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        deed.await;
        policy.gate.add_permits(1);
    };
    tokio::join!(sending, meanwhile).0
}

/// What becomes of a delayed event while it is being sent decides, though it was due when that began.
#[tokio::test]
async fn msc4140_the_end_of_a_delay_and_its_event_are_one_decision() {
    let (one, _, policy, room_id) = world().await;
    name_policy(&one, &policy, &room_id).await;
    let schedule = async || {
        let delayed = NewDelayed {
            sender: one.user("alice"),
            room_id: room_id.clone(),
            kind: "m.room.message".to_owned(),
            state_key: None,
            content: content(json!({ "body": "slow" })),
            delay_ms: 1_000,
            sticky_ms: None,
            transaction: None,
        };
        let id = one.rooms.schedule(delayed).await.unwrap();
        one.rooms.delayed(&id).await.unwrap().unwrap()
    };
    let ends = async || {
        let room = one.rooms.room(&room_id).await.unwrap().unwrap();
        room.head().extremities.iter().map(|extremity| extremity.id.clone()).collect::<Vec<_>>()
    };
    let before = ends().await;

    let delayed = schedule().await;
    // The clock of these rooms stands still: this is a restart to another time all the same.
    let restart = one.rooms.postpone(&delayed, 60_000);
    let outcome = send_while(&one, &policy, &room_id, &delayed, restart).await;
    assert!(matches!(outcome, Err(Error::Busy)), "{outcome:?}");
    let cancel = one.rooms.delayed(&delayed.row.delay_id).await.unwrap().unwrap();
    assert!(cancel.timer.is_some() && cancel.row.event_id.is_none(), "{cancel:?}");
    let outcome = send_while(&one, &policy, &room_id, &cancel, one.rooms.cancel(cancel.clone())).await;
    assert!(matches!(outcome, Err(Error::NotFound(_))), "{outcome:?}");
    assert_eq!(ends().await, before, "nothing was sent");

    let delayed = schedule().await;
    let first = one.rooms.finalise(&delayed, Outcome::Sent(before[0].as_str()));
    let outcome = send_while(&one, &policy, &room_id, &delayed, first).await;
    assert_eq!(outcome.unwrap(), before[0], "what another node has sent");
    assert_eq!(ends().await, before, "and nothing besides");

    let delayed = schedule().await;
    let sent = send_while(&one, &policy, &room_id, &delayed, async {}).await.unwrap();
    assert_eq!(ends().await, std::slice::from_ref(&sent));
    let now = one.rooms.delayed(&delayed.row.delay_id).await.unwrap().unwrap();
    assert_eq!((now.timer, now.row.event_id), (None, Some(sent.to_string())));
}
