//! What is sent to other servers, about devices and to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use event::{Object, SigningKey};
use federation::outbound::Options;
use federation::transport::{Incoming, Outgoing, Transport, TransportError};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use store::{DeviceId, StreamPosition, UserId};
use tokio::sync::{mpsc, watch};
use users::keys::cross_signing::CrossSigningKeys;
use users::presence::PresenceState;
use users::receipts::{ReadUpTo, ReceiptType};

use crate::harness::{Peer, World, key, object};
use crate::sending::Sending;

/// Takes every transaction and shows its EDUs.
struct Wire(mpsc::UnboundedSender<(String, Value)>);

#[async_trait]
impl Transport for Wire {
    async fn send(&self, request: Outgoing) -> Result<Incoming, TransportError> {
        let body: Value = serde_json::from_slice(&request.body.unwrap_or_default()).unwrap_or_default();
        for edu in body["edus"].as_array().unwrap() {
            self.0.send((request.destination.clone(), edu.clone())).unwrap();
        }
        let body = Full::new(Bytes::from("{}")).map_err(|never| match never {}).boxed_unsync();
        Ok(Incoming { status: StatusCode::OK, headers: HeaderMap::new(), body })
    }
}

/// Refuses each transaction with poison in it, and shows what the others say. It begins to answer once it is let.
struct Picky(mpsc::UnboundedSender<String>, watch::Receiver<bool>);

#[async_trait]
impl Transport for Picky {
    async fn send(&self, request: Outgoing) -> Result<Incoming, TransportError> {
        self.1.clone().wait_for(|answers| *answers).await.unwrap();
        let body: Value = serde_json::from_slice(&request.body.unwrap_or_default()).unwrap_or_default();
        let poisoned = body.to_string().contains("poison");
        if !poisoned {
            for part in ["pdus", "edus"].iter().flat_map(|part| body[part].as_array().unwrap()) {
                self.0.send(part.to_string()).unwrap();
            }
        }
        let status = if poisoned { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        let body = Full::new(Bytes::from("{}")).map_err(|never| match never {}).boxed_unsync();
        Ok(Incoming { status, headers: HeaderMap::new(), body })
    }
}

/// The queues of a server, under way, and the EDUs that they send.
struct Telling {
    edus: mpsc::UnboundedReceiver<(String, Value)>,
    sending: Sending,
}

impl Telling {
    fn start(world: &World) -> Self {
        Self::with(world, Options::default())
    }

    fn with(world: &World, options: Options) -> Self {
        let (sender, edus) = mpsc::unbounded_channel();
        Self { edus, sending: Sending::start(world, Arc::new(Wire(sender)), options) }
    }

    /// The content of the next EDU, which is of this kind and for `two.test`.
    async fn next(&mut self, kind: &str) -> Value {
        let (server, mut edu) = self.edus.recv().await.unwrap();
        assert_eq!((server.as_str(), edu["edu_type"].as_str().unwrap()), ("two.test", kind), "{edu}");
        edu["content"].take()
    }

    async fn stop(self) {
        self.sending.stop().await;
    }
}

/// SEC-poison-queue: what a peer refuses is found out and given up alone; all else arrives.
#[tokio::test(start_paused = true)]
async fn ce11_what_a_peer_refuses_does_not_hold_up_the_rest() {
    let world = World::paused().await;
    let alice = world.register("alice").await;
    let room = world.room("10").await;
    Peer::new("two.test").join(&world, &room, "bob").await;
    let (sender, mut arrived) = mpsc::unbounded_channel();
    let (_answers, answers) = watch::channel(true);
    let sending = Sending::start(&world, Arc::new(Picky(sender, answers)), Options::default());
    let device = DeviceId::from("PHONE");
    let to_device = async |text: &str| {
        let content = BTreeMap::from([("*".to_owned(), json!({ "text": text }).to_string())]);
        let messages = BTreeMap::from([(UserId::from("@bob:two.test"), content)]);
        world.users.send_to_device(&alice, "m.test", Some((&device, text)), &messages).await.unwrap();
    };
    let begun = tokio::time::Instant::now();
    let mut expected = Vec::new();
    for n in 0..3 {
        to_device(&format!("message {n}")).await;
        to_device(&format!("poison {n}")).await;
        world.say(&room, &format!("event {n}")).await;
        world.say(&room, &format!("poison {n}")).await;
        expected.extend([format!("message {n}"), format!("event {n}")]);
    }
    while !expected.is_empty() {
        let part = arrived.recv().await.unwrap();
        let before = expected.len();
        expected.retain(|text| !part.contains(text.as_str()));
        assert!(expected.len() < before || part.contains("m.presence"), "it comes once: {part}");
    }
    assert!(begun.elapsed().as_secs() < 300, "it waited for {:?}", begun.elapsed());
    // What follows goes on as if nothing had been.
    to_device("after").await;
    world.say(&room, "and after").await;
    let last = [arrived.recv().await.unwrap(), arrived.recv().await.unwrap()];
    assert!(last.iter().all(|part| part.contains("after")), "{last:?}");
    sending.stop().await;
    let rows = store::Read::prefix::<store::tables::federation::OutboundEduRow>(vec![]);
    assert!(world.store.all::<store::tables::federation::OutboundEduRow>(rows).await.unwrap().is_empty());
}

/// SEC-poison-queue: what is kept nowhere but in the transaction that a peer refuses arrives too, unless something newer
/// has taken its place.
#[tokio::test(start_paused = true)]
async fn ce11_volatile_edus_arrive_that_stood_beside_what_a_peer_refuses() {
    let world = World::paused().await;
    let alice = world.register("alice").await;
    let room = world.room("10").await;
    Peer::new("two.test").join(&world, &room, "bob").await;
    let (sender, mut arrived) = mpsc::unbounded_channel();
    let (answer, answers) = watch::channel(false);
    let sending = Sending::start(&world, Arc::new(Picky(sender, answers)), Options::default());
    let soon = || tokio::time::sleep(std::time::Duration::from_secs(1));
    let read = async |event_id: &str, place: i64| {
        let target = ReadUpTo { event_id: event_id.to_owned(), event: None, pos: StreamPosition(place), messages: 0 };
        world.users.set_receipt(room.num, &room.id, &alice, ReceiptType::Read, "", &target).await.unwrap();
        world.users.set_receipt(room.num, &room.id, &alice, ReceiptType::Read, "main", &target).await.unwrap();
    };
    // One transaction is under way while what the next is made of gathers.
    world.say(&room, "first").await;
    soon().await;
    world.say(&room, "poison").await;
    read("$one", 1).await;
    world.users.set_typing(room.num, &alice, Some(600_000));
    world.users.set_presence(&alice, PresenceState::Online, Some("here".to_owned())).unwrap();
    soon().await;
    answer.send_replace(true);
    // The next has been refused once. Of one thread there is a newer receipt before its parts are sent.
    soon().await;
    let target = ReadUpTo { event_id: "$two".to_owned(), event: None, pos: StreamPosition(2), messages: 0 };
    world.users.set_receipt(room.num, &room.id, &alice, ReceiptType::Read, "main", &target).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(300)).await;
    let mut parts = Vec::new();
    while let Ok(part) = arrived.try_recv() {
        parts.push(part);
    }
    let count = |text: &str| parts.iter().filter(|part| part.contains(text)).count();
    let kinds = ["first", "m.typing", "\"here\"", "$one", "$two"];
    assert_eq!(kinds.map(count), [1; 5], "{parts:?}");
    sending.stop().await;
}

fn signed(content: Value, user: &UserId, signer: &SigningKey, name: &str) -> Value {
    let mut parsed = object(content.clone());
    signer.sign_json(&mut parsed, user.as_str());
    let mut made: Value = event::Json::Object(parsed).into();
    let signature = made["signatures"][user.as_str()][signer.key_id()].take();
    made["signatures"] = json!({ user.as_str(): { format!("ed25519:{name}"): signature } });
    made
}

/// The user has a device with keys.
async fn add_device(world: &World, user: &UserId, id: &str) -> Value {
    let device = DeviceId::from(id);
    world.users.put_device(user, &device, None, true).await.unwrap();
    let keys = json!({
        "user_id": user.as_str(),
        "device_id": id,
        "algorithms": [],
        "keys": { format!("ed25519:{id}"): key(id).public_b64() },
    });
    let keys = signed(keys, user, &key(id), id);
    world.users.put_device_keys(user, &device, &keys).await.unwrap();
    keys
}

async fn stream_id(world: &World, peer: &Peer, user: &UserId) -> Value {
    let path = format!("/_matrix/federation/v1/user/devices/{}", crate::harness::encoded(user.as_str()));
    peer.get(world, &path).await.1["stream_id"].clone()
}

#[tokio::test]
async fn fq2_fq3_a_peer_learns_of_new_changed_and_deleted_devices_and_of_cross_signing_keys() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    let keys = add_device(&world, &alice, "PHONE").await;
    let mut sending = Telling::start(&world);
    let first = sending.next("m.device_list_update").await;
    assert_eq!((&first["user_id"], &first["device_id"]), (&json!(alice.as_str()), &json!("PHONE")));
    assert_eq!((&first["keys"], &first["prev_id"]), (&keys, &json!([])), "it knows none that came before");
    assert_eq!(first["stream_id"], stream_id(&world, &two, &alice).await, "as the whole list says");
    assert_eq!(first.get("device_display_name"), None);

    add_device(&world, &alice, "TABLET").await;
    let second = sending.next("m.device_list_update").await;
    assert_eq!((&second["device_id"], &second["prev_id"]), (&json!("TABLET"), &json!([first["stream_id"]])));

    world.users.delete_devices(&alice, &["PHONE".into()]).await.unwrap();
    let third = sending.next("m.device_list_update").await;
    assert_eq!((&third["device_id"], &third["deleted"]), (&json!("PHONE"), &json!(true)));
    assert_eq!(third["prev_id"], json!([second["stream_id"]]));

    let public = key("master").public_b64();
    let master = json!({
        "user_id": alice.as_str(), "usage": ["master"], "keys": { format!("ed25519:{public}"): public },
    });
    let cross = CrossSigningKeys { master: Some(master.clone()), ..CrossSigningKeys::default() };
    world.users.put_cross_signing_keys(&alice, &cross).await.unwrap();
    let update = sending.next("m.signing_key_update").await;
    assert_eq!(update, json!({ "user_id": alice.as_str(), "master_key": master }));
    sending.stop().await;
}

#[tokio::test]
async fn fq2_a_server_that_comes_to_share_a_room_is_told_of_the_devices() {
    let world = World::new().await;
    let dave = world.register("dave").await;
    let room = world.room("10").await;
    Peer::new("two.test").join(&world, &room, "bob").await;
    let mut sending = Telling::start(&world);
    let keys = add_device(&world, &dave, "PHONE").await;
    world.rooms.join(&room.id, &dave, None, Object::new()).await.unwrap();
    let first = sending.next("m.device_list_update").await;
    assert_eq!((&first["user_id"], &first["keys"], &first["prev_id"]), (&json!(dave.as_str()), &keys, &json!([])));
    world.rooms.leave(&room.id, &dave, None).await.unwrap();
    add_device(&world, &dave, "TABLET").await;
    world.rooms.join(&room.id, &dave, None, Object::new()).await.unwrap();
    let second = sending.next("m.device_list_update").await;
    assert_eq!((&second["device_id"], &second["prev_id"]), (&json!("TABLET"), &json!([first["stream_id"]])));
    sending.stop().await;
}

#[tokio::test]
async fn fq2_what_changed_while_nothing_was_sent_is_told_later() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = world.room("10").await;
    Peer::new("two.test").join(&world, &room, "bob").await;
    let mut sending = Telling::start(&world);
    add_device(&world, &alice, "PHONE").await;
    let first = sending.next("m.device_list_update").await;
    sending.stop().await;
    add_device(&world, &alice, "TABLET").await;
    let mut sending = Telling::start(&world);
    loop {
        let update = sending.next("m.device_list_update").await;
        // The first is told again if the process ended before it was written down that it had arrived.
        if update["device_id"] == "TABLET" {
            assert!(update["stream_id"].as_i64() > first["stream_id"].as_i64());
            break;
        }
    }
    sending.stop().await;
}

#[tokio::test]
async fn ce10_messages_to_devices_of_other_servers_are_sent_once() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let mut sending = Telling::start(&world);
    let device = DeviceId::from("PHONE");
    for (txn_id, n) in [("t1", 1), ("t1", 1), ("t2", 2)] {
        let content = BTreeMap::from([("*".to_owned(), json!({ "n": n }).to_string())]);
        let messages = BTreeMap::from([(UserId::from("@bob:two.test"), content)]);
        world.users.send_to_device(&alice, "m.test", Some((&device, txn_id)), &messages).await.unwrap();
    }
    for n in [1, 2] {
        let content = sending.next("m.direct_to_device").await;
        assert_eq!((&content["sender"], &content["type"]), (&json!(alice.as_str()), &json!("m.test")));
        assert_eq!(content["messages"], json!({ "@bob:two.test": { "*": { "n": n } } }));
    }
    sending.stop().await;
}

#[tokio::test]
async fn fe16_of_receipts_only_public_ones_leave_each_as_it_moves() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = world.room("10").await;
    Peer::new("two.test").join(&world, &room, "bob").await;
    let said = [world.say(&room, "one").await, world.say(&room, "two").await];
    let mut sending = Telling::start(&world);
    let read = async |kind: ReceiptType, thread: &str, event_id: &str, place: i64| {
        let event_id = event_id.to_owned();
        let target = ReadUpTo { event_id, event: None, pos: StreamPosition(place), messages: 0 };
        world.users.set_receipt(room.num, &room.id, &alice, kind, thread, &target).await.unwrap();
    };
    read(ReceiptType::ReadPrivate, "", said[1].as_str(), 9).await;
    read(ReceiptType::FullyRead, "", said[1].as_str(), 9).await;
    read(ReceiptType::Read, "", said[0].as_str(), 1).await;
    let told = |content: Value| content[&room.id].clone();
    let receipt = told(sending.next("m.receipt").await);
    assert_eq!(receipt.as_object().unwrap().keys().collect::<Vec<_>>(), ["m.read"]);
    assert_eq!(receipt["m.read"][alice.as_str()]["event_ids"], json!([said[0]]));
    read(ReceiptType::Read, "main", said[1].as_str(), 2).await;
    let receipt = told(sending.next("m.receipt").await);
    assert_eq!(receipt["m.read"][alice.as_str()]["data"]["thread_id"], "main");
    assert_eq!(receipt["m.read"].as_object().unwrap().len(), 1, "only what moved");
    sending.stop().await;
}

#[tokio::test]
async fn fq4_presence_is_for_servers_that_share_a_room_and_may_be_switched_off() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let carol = world.register("carol").await;
    let room = world.room("10").await;
    Peer::new("two.test").join(&world, &room, "bob").await;
    // Carol is in no room with anybody; her presence is nobody's business.
    let mut sending = Telling::start(&world);
    world.users.set_presence(&carol, PresenceState::Online, None).unwrap();
    world.users.set_presence(&alice, PresenceState::Online, Some("here".to_owned())).unwrap();
    let push = sending.next("m.presence").await["push"][0].clone();
    assert_eq!((&push["user_id"], &push["presence"]), (&json!(alice.as_str()), &json!("online")));
    assert_eq!((&push["status_msg"], &push["currently_active"]), (&json!("here"), &json!(true)));
    assert!(push["last_active_ago"].as_i64().unwrap() >= 0);
    sending.stop().await;
    let mut sending = Telling::with(&world, Options { presence: false, ..Options::default() });
    world.users.set_presence(&alice, PresenceState::Unavailable, None).unwrap();
    add_device(&world, &alice, "PHONE").await;
    sending.next("m.device_list_update").await;
    sending.stop().await;
}
