//! Rooms of another server in sync: invites without a room, joins through that server, and gaps in the timeline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use event::{Json, Keys, Object, Rules, SigningKey, Verified, VerifyKey};
use rooms::remote::partial::Partial;
use rooms::remote::{Import, RemoteMembership};
use rooms::{CreateRoom, MessagesCount, NewEvent, Preset, Rooms};
use serde_json::{Value, json};
use store::model::Model;
use store::{Clock, Entropy, Store, UserId};

use crate::bench::{Bench, user};

const OTHER: &str = "two.test";

struct Ticking(AtomicI64);

impl Clock for Ticking {
    fn now_ms(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = (self.0.fetch_add(0x9E37_79B9, Ordering::Relaxed) >> 13).to_le_bytes()[0];
        }
    }
}

/// The keys of both servers: `one.test` has that of the bench.
struct Both(BTreeMap<&'static str, SigningKey>);

impl Keys for Both {
    fn key(&self, server: &str, key_id: &str) -> Option<VerifyKey> {
        let key = self.0.get(server).filter(|key| key.key_id() == key_id)?;
        VerifyKey::from_b64(&key.public_b64(), u64::MAX, None)
    }
}

/// An event as the other server receives it.
pub fn received(event: &event::Pdu) -> Verified {
    let keys = [("one.test", SigningKey::generate(&[7; 32])), (OTHER, SigningKey::generate(&[9; 32]))];
    let rules = Rules::of("11").unwrap();
    event::verify(rules, event.bytes.clone(), &Both(keys.into()), 1_700_000_100_000).unwrap()
}

/// The other server, with a room of bob's.
pub async fn other() -> (Arc<Rooms>, UserId, String) {
    let store = Store::new(Arc::new(Model::new())).await.unwrap();
    let clock = Arc::new(Ticking(AtomicI64::new(1_700_000_000_000)));
    let key = Arc::new(SigningKey::generate(&[9; 32]));
    let entropy = Arc::new(Counting(AtomicU64::new(77)));
    let rooms = Rooms::new(store, clock, entropy, key, Arc::new(MessagesCount), rooms::Options::new(OTHER));
    let bob = UserId::from("@bob:two.test");
    let room_id = room_of(&rooms, &bob).await;
    (rooms, bob, room_id)
}

/// A room of a user of the other server.
pub async fn room_of(rooms: &Rooms, creator: &UserId) -> String {
    let request = CreateRoom {
        creator: creator.clone(),
        version: Some("11".to_owned()),
        preset: Preset::PublicChat,
        published: false,
        alias_localpart: None,
        name: Some("elsewhere".to_owned()),
        topic: None,
        invite: Vec::new(),
        creation_content: Object::new(),
        initial_state: Vec::new(),
        is_direct: false,
        power_level_content_override: None,
        creator_profile: Object::new(),
        predecessor: None,
    };
    rooms.create_room(&request).await.unwrap()
}

pub async fn join(bench: &Bench, other: &Rooms, room_id: &str, who: &UserId) {
    bench.rooms.import_join(answer_to_join(bench, other, room_id, who).await).await.unwrap();
}

/// What the other server answers to a join.
async fn answer_to_join(bench: &Bench, other: &Rooms, room_id: &str, who: &UserId) -> Import {
    let template = other.member_template(room_id, who, "join").await.unwrap();
    let completed = bench.rooms.complete_template(template.rules, room_id, who, "join", &template.event, Object::new());
    let join = received(completed.unwrap().pdu());
    other.accept(join.clone()).await.unwrap();
    let state = other.state_before(room_id, &join.pdu().event_id).await.unwrap();
    let state = state.iter().map(|event| received(&event.pdu)).collect();
    Import { rules: template.rules, join, state, auth_chain: Vec::new(), partial: None, left_out: Vec::new() }
}

/// A join whose answer leaves members out. Returns what was left out.
async fn join_partly(bench: &Bench, other: &Rooms, room_id: &str, who: &UserId) -> Vec<Verified> {
    let mut import = answer_to_join(bench, other, room_id, who).await;
    let is_member = |event: &Verified| event.pdu().kind == "m.room.member";
    let (members, rest): (Vec<Verified>, Vec<Verified>) = import.state.into_iter().partition(is_member);
    let creator: Vec<Verified> =
        members.iter().filter(|event| event.pdu().sender.starts_with("@bob:")).cloned().collect();
    (import.state, import.auth_chain) = (rest, creator);
    import.partial = Some(Partial { resident: OTHER.to_owned(), servers: vec![OTHER.to_owned()] });
    bench.rooms.import_join(import).await.unwrap();
    members
}

/// The members come: the room is whole.
async fn complete(bench: &Bench, other: &Rooms, room_id: &str, members: Vec<Verified>) {
    let partial = bench.rooms.partial_room(room_id).await.unwrap().unwrap();
    bench.rooms.accept_outliers(room_id, members).await.unwrap();
    let state = other.state_before(room_id, &partial.join).await.unwrap();
    let ids: Vec<_> = state.iter().map(|event| event.id().clone()).collect();
    bench.rooms.complete_state(room_id, &ids, &[]).await.unwrap();
}

/// The member events in a list, by user.
fn members(events: &Value) -> Vec<&str> {
    let events = events.as_array().into_iter().flatten().filter(|event| event["type"] == "m.room.member");
    let mut members: Vec<&str> = events.map(|event| event["state_key"].as_str().unwrap()).collect();
    members.sort_unstable();
    members
}

fn types(events: &Value) -> Vec<&str> {
    let mut types: Vec<&str> = events.as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    types.sort_unstable();
    types
}

#[tokio::test]
async fn an_invite_to_a_room_elsewhere_comes_and_goes() {
    let bench = Bench::new(Arc::new(Model::new()), |follower| follower).await;
    let (other, bob, room_id) = other().await;
    let alice = user("alice");
    let first = bench.sync(&alice, None, Duration::ZERO).await;
    let invite = other.build_invite(&room_id, &bob, &alice, None, Object::new()).await.unwrap().unwrap();
    let rules = Rules::of("11").unwrap();
    let signed = bench.rooms.co_sign_invite(rules, &room_id, &received(invite.pdu())).unwrap();
    other.accept(signed.clone()).await.unwrap();
    let name = json!({ "type": "m.room.name", "state_key": "", "sender": bob, "content": { "name": "elsewhere" } });
    let set = RemoteMembership {
        room_id: room_id.clone(),
        rules,
        user: alice.clone(),
        membership: "invite".to_owned(),
        sender: bob,
        event: Some(signed),
        stripped: vec![Json::from(name)],
    };
    bench.rooms.set_remote_membership(&set).await.unwrap();
    let since = first["next_batch"].as_str();
    for since in [since, None] {
        let answer = bench.sync(&alice, since, Duration::ZERO).await;
        let events = &answer["rooms"]["invite"][&room_id]["invite_state"]["events"];
        assert_eq!(types(events), ["m.room.member", "m.room.name"], "{answer}");
    }
    let second = bench.sync(&alice, since, Duration::ZERO).await;
    bench.rooms.leave(&room_id, &alice, None).await.unwrap();
    let third = bench.sync(&alice, second["next_batch"].as_str(), Duration::ZERO).await;
    assert!(third["rooms"]["leave"].get(&room_id).is_some(), "{third}");
    let whole = bench.sync(&alice, None, Duration::ZERO).await;
    assert!(!whole.to_string().contains(&room_id), "{whole}");
    join(&bench, &other, &room_id, &alice).await;
    let fourth = bench.sync(&alice, third["next_batch"].as_str(), Duration::ZERO).await;
    assert!(fourth["rooms"]["join"].get(&room_id).is_some(), "{fourth}");
}

#[tokio::test]
async fn a_room_joined_elsewhere_comes_with_its_state() {
    let bench = Bench::new(Arc::new(Model::new()), |follower| follower).await;
    let (other, _, room_id) = other().await;
    let alice = user("alice");
    let first = bench.sync(&alice, None, Duration::ZERO).await;
    join(&bench, &other, &room_id, &alice).await;
    for since in [first["next_batch"].as_str(), None] {
        let answer = bench.sync(&alice, since, Duration::ZERO).await;
        let room = &answer["rooms"]["join"][&room_id];
        let expected = [
            "m.room.create",
            "m.room.guest_access",
            "m.room.history_visibility",
            "m.room.join_rules",
            "m.room.member",
            "m.room.name",
            "m.room.power_levels",
        ];
        assert_eq!(types(&room["state"]["events"]), expected, "the state before the join: {answer}");
        let timeline = room["timeline"]["events"].as_array().unwrap();
        assert_eq!(timeline.len(), 1);
        assert_eq!(timeline[0]["state_key"], alice.as_str());
        assert_eq!(room["summary"]["m.joined_member_count"], 2);
    }
}

/// Between two stays something was said that this server has not seen: the timeline is limited, and does not run on into
/// what was before.
#[tokio::test]
async fn a_timeline_does_not_run_across_a_gap() {
    let bench = Bench::new(Arc::new(Model::new()), |follower| follower).await;
    let (other, bob, room_id) = other().await;
    let alice = user("alice");
    join(&bench, &other, &room_id, &alice).await;
    bench.say(&room_id, &alice, "before").await;
    let first = bench.sync(&alice, None, Duration::ZERO).await;
    bench.rooms.leave(&room_id, &alice, None).await.unwrap();
    let room = bench.rooms.room(&room_id).await.unwrap().unwrap();
    let mut sent = Vec::new();
    let mut next = vec![room.head().extremities[0].id.clone()];
    while sent.len() < 2 {
        let event = bench.rooms.event_by_id(&room, next[0].as_str()).await.unwrap().unwrap();
        next = event.pdu.prev_events.clone();
        sent.push(event);
    }
    for event in sent.iter().rev() {
        other.accept(received(&event.pdu)).await.unwrap();
    }
    let Json::Object(content) = Json::from(json!({ "msgtype": "m.text", "body": "unseen" })) else { panic!() };
    other.send(&room_id, NewEvent::message(&bob, "m.room.message", content)).await.unwrap();
    join(&bench, &other, &room_id, &alice).await;
    for since in [first["next_batch"].as_str(), None] {
        let answer = bench.sync(&alice, since, Duration::ZERO).await;
        let timeline = &answer["rooms"]["join"][&room_id]["timeline"];
        assert_eq!(types(&timeline["events"]), ["m.room.member"], "{answer}");
        assert_eq!(timeline["limited"], true);
    }
}

/// All that is new came after something that this server has not seen: nothing else tells the client to page.
#[tokio::test]
async fn a_timeline_that_begins_behind_a_gap_is_limited() {
    let bench = Bench::new(Arc::new(Model::new()), |follower| follower).await;
    let (other, bob, room_id) = other().await;
    let alice = user("alice");
    join(&bench, &other, &room_id, &alice).await;
    let first = bench.sync(&alice, None, Duration::ZERO).await;
    let say = async |body: &str| {
        let Json::Object(content) = Json::from(json!({ "msgtype": "m.text", "body": body })) else { panic!() };
        other.send(&room_id, NewEvent::message(&bob, "m.room.message", content)).await.unwrap()
    };
    say("unseen").await;
    let (seen, next) = (say("seen").await, say("next").await);
    let there = other.room(&room_id).await.unwrap().unwrap();
    let event = async |id: &ruma_common::OwnedEventId| other.event_by_id(&there, id.as_str()).await.unwrap().unwrap();
    let state = other.state_before(&room_id, &seen).await.unwrap();
    let ids: Vec<_> = state.iter().map(|event| event.id().clone()).collect();
    bench.rooms.accept_with_state(received(&event(&seen).await.pdu), ids).await.unwrap();
    let answer = bench.sync(&alice, first["next_batch"].as_str(), Duration::ZERO).await;
    let timeline = &answer["rooms"]["join"][&room_id]["timeline"];
    assert_eq!(types(&timeline["events"]), ["m.room.message"]);
    assert_eq!(timeline["limited"], true, "{answer}");
    bench.rooms.accept(received(&event(&next).await.pdu)).await.unwrap();
    let answer = bench.sync(&alice, answer["next_batch"].as_str(), Duration::ZERO).await;
    let timeline = &answer["rooms"]["join"][&room_id]["timeline"];
    assert_eq!(timeline["limited"], false, "the client has paged, or will: {answer}");
}

/// Members of the other server's room besides its creator and who joins.
const MEMBERS: usize = 30;
const LAZY: &str = r#"{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":100}}}"#;

#[tokio::test]
async fn clients_that_load_members_lazily_have_a_room_before_these_have_come() {
    let bench = Bench::new(Arc::new(Model::new()), |follower| follower).await;
    let (other, bob, room_id) = other().await;
    let alice = user("alice");
    for n in 0..MEMBERS {
        other.join(&room_id, &UserId::from(format!("@user{n}:two.test")), None, Object::new()).await.unwrap();
    }
    let lazy = async |since: Option<&str>| bench.sync_with(&alice, since, LAZY, Duration::ZERO).await;
    let before = lazy(None).await;
    let missing = join_partly(&bench, &other, &room_id, &alice).await;
    let first = lazy(before["next_batch"].as_str()).await;
    let room = &first["rooms"]["join"][&room_id];
    assert!(types(&room["state"]["events"]).contains(&"m.room.name"), "{first}");
    assert_eq!(members(&room["timeline"]["events"]), ["@alice:one.test"]);
    let eager = async |since: Option<&str>| bench.sync(&alice, since, Duration::ZERO).await;
    let hidden = eager(before["next_batch"].as_str()).await;
    assert!(hidden["rooms"]["join"].get(&room_id).is_none(), "{hidden}");

    // Somebody speaks of whom nothing was told but by what is said.
    let Json::Object(text) = Json::from(json!({ "msgtype": "m.text", "body": "hello" })) else { panic!() };
    let said = other.send(&room_id, NewEvent::message(&bob, "m.room.message", text)).await.unwrap();
    let there = other.room(&room_id).await.unwrap().unwrap();
    let said = other.event_by_id(&there, said.as_str()).await.unwrap().unwrap();
    bench.rooms.accept(received(&said.pdu)).await.unwrap();
    let second = lazy(first["next_batch"].as_str()).await;
    let room = &second["rooms"]["join"][&room_id];
    assert_eq!(types(&room["timeline"]["events"]), ["m.room.message"]);
    assert_eq!(members(&room["state"]["events"]), ["@bob:two.test"], "{second}");

    complete(&bench, &other, &room_id, missing).await;
    let third = lazy(second["next_batch"].as_str()).await;
    let room = &third["rooms"]["join"][&room_id];
    assert!(members(&room["state"]["events"]).is_empty(), "{third}");
    assert_eq!(room["summary"]["m.joined_member_count"], MEMBERS + 2);
    let shown = eager(hidden["next_batch"].as_str()).await;
    let room = &shown["rooms"]["join"][&room_id];
    assert_eq!(members(&room["state"]["events"]).len(), MEMBERS + 1, "{shown}");
    assert_eq!(types(&room["timeline"]["events"]), ["m.room.member", "m.room.message"]);
    let after = eager(shown["next_batch"].as_str()).await;
    assert!(after["rooms"]["join"].get(&room_id).is_none(), "once: {after}");
}
