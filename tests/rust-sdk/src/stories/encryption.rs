//! Keys and encrypted messages come on a connection of their own, and the list shows what they say.

use matrix_sdk::deserialized_responses::TimelineEventKind;
use matrix_sdk::latest_events::LatestEventValue;
use matrix_sdk::ruma::events::room::message::RoomMessageEventContent;
use matrix_sdk::{Room, RoomState};
use serde_json::{Value, json};

use crate::checks::{Checks, Fallible, ensure, same};
use crate::front::Exchange;
use crate::phone::{ENCRYPTION, Phone, ROOM_LIST, View, has_event, room_until, shows};
use crate::world::World;

const SECRET: &str = "only for her eyes";

pub async fn story(world: World, checks: &mut Checks) -> Fallible {
    let encryption = json!({ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } });
    let body = json!({ "preset": "private_chat", "invite": [world.alice.id], "initial_state": [encryption] });
    let room_id = world.bob.create_room(&body).await?;
    let phone = world.phone().await?;
    let service = phone.service().await?;
    let list = service.room_list_service().all_rooms().await?;
    let mut view = View::of(&list);
    service.start().await;
    view.until("the invite", |shown| shows(shown, &room_id, RoomState::Invited)).await?;
    let keys = |e: &Exchange| e.path.ends_with("/keys/upload") && e.status == 200 && e.asked["device_keys"].is_object();
    checks.held("a device's keys are uploaded", phone.front.until("keys", 0, keys).await.map(drop))?;
    phone.room(&room_id)?.join().await?;
    view.until("the joined room", |shown| shows(shown, &room_id, RoomState::Joined)).await?;
    service.room_list_service().subscribe_to_rooms(&[&room_id]).await;
    let room = phone.room(&room_id)?;
    checks.held("the list knows that a room is encrypted", encrypted(&room).await)?;

    let sender = Phone::sign_in(&world.hearth, &world.bob, "BOBS").await?;
    let sender_service = sender.service().await?;
    let sender_list = sender_service.room_list_service().all_rooms().await?;
    let mut sender_view = View::of(&sender_list);
    sender_service.start().await;
    sender_view.until("the room", |shown| shows(shown, &room_id, RoomState::Joined)).await?;
    let sender_room = sender.room(&room_id)?;
    encrypted(&sender_room).await?;
    let sent = sender_room.send(RoomMessageEventContent::text_plain(SECRET)).await?;
    let event_id = sent.response.event_id;

    let is_it = |room: &Room| latest_body(room).as_deref() == Some(SECRET);
    checks.held("the list shows what an encrypted message says", room_until(&room, "the message", is_it).await)?;
    let came = |e: &Exchange| e.is_sync(ENCRYPTION) && is_room_key(&e.answered);
    checks.held("its key came to the device", phone.front.until("a room key", 0, came).await.map(drop))?;
    let carried = |e: &Exchange| e.is_sync(ROOM_LIST) && carries(&e.answered, room_id.as_str(), event_id.as_str());
    let told = phone.front.until("the event", 0, carried).await?;
    let clear = told.answered.to_string().contains(SECRET);
    checks.held("the server saw it encrypted", ensure(!clear, || "it is in clear".to_owned()))?;
    let reply = room.send(RoomMessageEventContent::text_plain("and for his")).await?;
    let devices = sender.client.encryption().get_user_devices(&world.alice.id).await?.devices().count();
    checks.held("the sender knows her device", same(devices, 1))?;
    checks.held("an answer comes", has_event(&sender_room, &reply.response.event_id).await)?;
    // Each message to a device is told until it is acknowledged, and not after.
    let keys: usize = phone.front.syncs(ENCRYPTION, 0).iter().map(|e| room_keys(&e.answered)).sum();
    checks.held("no key came twice", same(keys, 1))?;
    service.stop().await;
    sender_service.stop().await;
    Ok(())
}

/// Waits until the room is known as encrypted.
async fn encrypted(room: &Room) -> Fallible {
    room_until(room, "encryption", |room| room.encryption_state().is_encrypted()).await
}

/// What the latest event of a room says, if it was decrypted.
fn latest_body(room: &Room) -> Option<String> {
    let LatestEventValue::Remote(event) = room.latest_event() else { return None };
    let TimelineEventKind::Decrypted(decrypted) = &event.kind else { return None };
    let event: Value = serde_json::from_str(decrypted.event.json().get()).ok()?;
    Some(event["content"]["body"].as_str()?.to_owned())
}

/// The encrypted messages to the device in an answer, which are those with room keys.
fn room_keys(answered: &Value) -> usize {
    let events = answered["extensions"]["to_device"]["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().filter(|event| event["type"] == "m.room.encrypted").count()
}

fn is_room_key(answered: &Value) -> bool {
    room_keys(answered) > 0
}

fn carries(answered: &Value, room: &str, event_id: &str) -> bool {
    let events = answered["rooms"][room]["timeline"].as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().any(|event| event["event_id"] == event_id && event["type"] == "m.room.encrypted")
}
