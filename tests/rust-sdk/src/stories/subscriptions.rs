//! A room that is looked at gives more than the list shows of it: a longer timeline, more state, receipts.

use matrix_sdk::ruma::events::AnySyncEphemeralRoomEvent;
use matrix_sdk::ruma::{EventId, RoomId, UserId};
use matrix_sdk::sync::RoomUpdate;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;

use crate::checks::{Checks, Fallible, ensure, same, within};
use crate::phone::{ROOM_LIST, View, has_event, is_running, messages_held, room_until};
use crate::world::World;

const ROOMS: usize = 3;

/// The events that the SDK asks for with a subscription.
const SUBSCRIBED: usize = 20;

/// Fewer than these; with what made the room there are more.
const MESSAGES: usize = 15;

pub async fn story(world: World, checks: &mut Checks) -> Fallible {
    let World { alice, bob, .. } = &world;
    let rooms = alice.create_rooms(ROOMS, &[bob]).await?;
    let (looked_at, other) = (&rooms[0], &rooms[1]);
    let mut said = Vec::new();
    for room in [looked_at, other] {
        bob.join(room).await?;
    }
    for n in 0..MESSAGES {
        said.push(bob.say(looked_at, &format!("message {n}")).await?);
    }
    alice.set_state(looked_at, "m.room.pinned_events", &json!({ "pinned": [said[3]] })).await?;
    bob.say(other, "a message").await?;

    let phone = world.phone().await?;
    let service = phone.service().await?;
    let (rooms_service, list) = (service.room_list_service(), service.room_list_service().all_rooms().await?);
    let mut view = View::of(&list);
    service.start().await;
    view.until("all rooms", |shown| shown.len() == ROOMS).await?;
    is_running(&rooms_service).await?;
    let (room, pinned) = (phone.room(looked_at)?, Some(vec![said[3].clone()]));
    let held = messages_held(&room).await?.len();
    checks.held("the list gives one event of a room", ensure(held <= 1, || format!("{held} messages")))?;
    checks.held("and not what is pinned", same(room.pinned_event_ids(), None))?;
    let speaker = phone.room(other)?.get_member_no_sync(&bob.id).await?;
    checks.held("who spoke last is known", ensure(speaker.is_some(), || "bob is no member".to_owned()))?;

    let before = phone.front.count();
    rooms_service.subscribe_to_rooms(&[looked_at]).await;
    let asks = |asked: &Value| asked["room_subscriptions"].get(looked_at.as_str()).is_some();
    let subscribed = phone.front.until("a subscription", before, |e| e.is_sync(ROOM_LIST) && asks(&e.asked)).await?;
    checks.held("a subscription gives its room alone", same(subscribed.rooms(), vec![looked_at.as_str()]))?;
    checks.held("with a longer timeline", same(timeline(&subscribed.answered, looked_at), SUBSCRIBED))?;
    room_until(&room, "what is pinned", |room| room.pinned_event_ids() == pinned).await?;
    has_event(&room, &said[0]).await?;
    checks.held("it gives the messages, in order and each once", same(messages_held(&room).await?, said.clone()))?;

    let before = phone.front.count();
    said.push(bob.say(looked_at, "one more").await?);
    has_event(&room, &said[MESSAGES]).await?;
    checks.held("the next message comes once", same(messages_held(&room).await?, said.clone()))?;
    let told: usize = phone.front.syncs(ROOM_LIST, before).iter().map(|e| timeline(&e.answered, looked_at)).sum();
    checks.held("and alone", same(told, 1))?;
    let elsewhere = bob.say(other, "elsewhere").await?;
    checks.held("rooms without a subscription go on", has_event(&phone.room(other)?, &elsewhere).await)?;

    let mut updates = room.subscribe_to_updates();
    alice.read(looked_at, &said[2]).await?;
    bob.read(looked_at, &said[4]).await?;
    checks.held("receipts come", receipt(&mut updates, &bob.id, &said[4]).await)?;
    let (_typing_ends, mut typing) = room.subscribe_to_typing_notifications();
    bob.type_in(looked_at).await?;
    let types = within("who types", typing.recv()).await??;
    checks.held("and who types", same(types, vec![bob.id.clone()]))?;

    rooms_service.subscribe_to_rooms(&[other]).await;
    let before = phone.front.count();
    let last = bob.say(looked_at, "behind your back").await?;
    checks.held("what is no longer looked at goes on", has_event(&room, &last).await)?;
    said.push(last);
    checks.held("without anything twice", same(messages_held(&room).await?, said))?;
    let whole = phone.front.syncs(ROOM_LIST, before).iter().any(|e| timeline(&e.answered, looked_at) > 1);
    checks.held("or told again", ensure(!whole, || "the timeline came again".to_owned()))?;
    service.stop().await;
    Ok(())
}

/// How many events of a room are in an answer.
fn timeline(answered: &Value, room: &RoomId) -> usize {
    answered["rooms"][room.as_str()]["timeline"].as_array().map_or(0, Vec::len)
}

/// Waits for somebody's receipt at an event.
async fn receipt(updates: &mut Receiver<RoomUpdate>, user: &UserId, event: &EventId) -> Fallible {
    let holds = |raw: &AnySyncEphemeralRoomEvent| match raw {
        AnySyncEphemeralRoomEvent::Receipt(receipts) => {
            receipts.content.get(event).is_some_and(|receipts| receipts.values().any(|users| users.contains_key(user)))
        }
        _ => false,
    };
    let came = async {
        loop {
            if let RoomUpdate::Joined { updates, .. } = updates.recv().await?
                && updates.ephemeral.iter().any(|raw| raw.deserialize().is_ok_and(|event| holds(&event)))
            {
                return Fallible::Ok(());
            }
        }
    };
    within("a receipt", came).await?
}
