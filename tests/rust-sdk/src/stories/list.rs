//! All rooms come, the one with the newest message first, and what is no message moves nothing.

use std::collections::BTreeSet;

use matrix_sdk::ruma::OwnedRoomId;
use serde_json::json;

use crate::checks::{Checks, Fallible, ensure, same};
use crate::phone::{View, counts, ids, is_running};
use crate::world::World;

const ROOMS: usize = 60;

pub async fn story(world: World, checks: &mut Checks) -> Fallible {
    let World { alice, bob, .. } = &world;
    let rooms = alice.create_rooms(ROOMS, &[bob]).await?;
    // Who comes later than all rooms were made moves none of them.
    for room in [&rooms[0], &rooms[5]] {
        bob.join(room).await?;
    }
    let phone = world.phone().await?;
    let service = phone.service().await?;
    let list = service.room_list_service().all_rooms().await?;
    let mut view = View::of(&list);
    service.start().await;

    let all = view.until("all rooms", |shown| shown.len() == ROOMS).await;
    checks.held("all rooms come", all)?;
    checks.held("the server tells how many there are", counts(&list, ROOMS as u32).await)?;
    checks.held(
        "the list gets to where it is kept up to date as a whole",
        is_running(&service.room_list_service()).await,
    )?;
    let distinct: BTreeSet<OwnedRoomId> = view.ids().into_iter().collect();
    checks.held("each comes once", same(distinct, rooms.iter().cloned().collect()))?;
    let mut expected: Vec<OwnedRoomId> = rooms.iter().rev().cloned().collect();
    let sorted = view.until("the newest first", |shown| ids(shown) == expected).await;
    checks.held("the newest comes first, and joins do not count", sorted)?;
    let name = phone.room(&rooms[7])?.name();
    checks.held("a room has its name", same(name.as_deref(), Some("07")))?;

    for (room, what) in [(&rooms[0], "the oldest"), (&rooms[5], "another"), (&rooms[0], "the oldest again")] {
        bob.say(room, what).await?;
        let first = view.until(what, |shown| shown.front().is_some_and(|first| first.room_id() == room)).await;
        checks.held(&format!("a message moves {what} to the top"), first)?;
        expected.retain(|other| other != room);
        expected.insert(0, room.clone());
        checks.held("the others stay in order", same(view.ids(), expected.clone()))?;
    }

    alice.set_state(&rooms[20], "m.room.topic", &json!({ "topic": "no message" })).await?;
    alice.say(&rooms[30], "a message").await?;
    let moved = view.until("a message behind a topic", |shown| ids(shown).first() == Some(&rooms[30])).await;
    checks.held("one's own message moves a room too", moved)?;
    expected.retain(|other| *other != rooms[30]);
    expected.insert(0, rooms[30].clone());
    let topic = phone.room(&rooms[20])?.topic();
    checks.held("a topic comes", same(topic.as_deref(), Some("no message")))?;
    checks.held("and moves nothing", same(view.ids(), expected))?;

    let late = alice.create_room(&json!({ "preset": "private_chat", "invite": [bob.id] })).await?;
    checks.held("a new room comes", view.until("a new room", |shown| ids(shown).contains(&late)).await)?;
    bob.join(&late).await?;
    alice.say(&late, "first").await?;
    let rose = view.until("its first message", |shown| ids(shown).first() == Some(&late)).await;
    checks.held("its first message moves it to the top", rose)?;
    let name = phone.room(&late)?.display_name().await?;
    checks.held("a room without a name is called by its people", same(name.to_string().as_str(), "bob"))?;
    checks.held("the count follows", counts(&list, ROOMS as u32 + 1).await)?;
    let shown = view.ids().len();
    checks.held("no room is doubled", ensure(shown == ROOMS + 1, || format!("{shown} rooms")))?;
    service.stop().await;
    Ok(())
}
