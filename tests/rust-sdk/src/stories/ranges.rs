//! A list comes in parts: the SDK asks for the first rooms, then for ever more, and gets each once.

use std::collections::BTreeSet;
use std::future::ready;

use futures_util::StreamExt;
use matrix_sdk::ruma::OwnedRoomId;
use matrix_sdk::{Client, SlidingSyncList, SlidingSyncMode};
use matrix_sdk_ui::RoomListService;
use serde_json::json;

use crate::checks::{Checks, Fallible, ensure, same, within};
use crate::front::Exchange;
use crate::phone::{Phone, ROOM_LIST};
use crate::world::World;

/// More than the SDK asks for with its first two requests.
const ROOMS: usize = 130;

/// How many rooms the client has after each answer, as the SDK lets its range grow.
const GROWTH: [usize; 3] = [20, 100, ROOMS];

pub async fn story(world: World, checks: &mut Checks) -> Fallible {
    let rooms = world.alice.create_rooms(ROOMS, &[]).await?;
    let newest: Vec<OwnedRoomId> = rooms.into_iter().rev().collect();
    let phone = world.phone().await?;
    let service = RoomListService::new(phone.client.clone()).await?;
    {
        let mut answers = Box::pin(service.sync());
        for (n, have) in GROWTH.into_iter().enumerate() {
            let answered = within("an answer", answers.next()).await?.ok_or("the list ended")?;
            answered?;
            let exchange = last_sync(&phone, ROOM_LIST)?;
            let asked = &exchange.asked["lists"]["all_rooms"]["ranges"];
            checks.held(&format!("request {n} asks for {have} rooms"), same(asked, &json!([[0, have - 1]])))?;
            let before = n.checked_sub(1).map_or(0, |before| GROWTH[before]);
            let told = same(told(&exchange), set(&newest[before..have]));
            checks.held("it gets those of them that it does not have", told)?;
            let count = &exchange.answered["lists"]["all_rooms"]["count"];
            checks.held("and how many there are", same(count, &json!(ROOMS)))?;
            checks.held("the client has these", same(known(&phone.client), set(&newest[..have])))?;
        }
        let last = newest.last().ok_or("no rooms")?;
        world.alice.say(last, "news").await?;
        let answered = within("news", answers.next()).await?.ok_or("the list ended")?;
        answered?;
        let told = same(told(&last_sync(&phone, ROOM_LIST)?), set(std::slice::from_ref(last)));
        checks.held("then only what is new comes", told)?;
    }
    windows(&world, &phone, &newest, checks).await
}

/// Two windows into a list. The room of the last message is at the top by now.
async fn windows(world: &World, phone: &Phone, newest: &[OwnedRoomId], checks: &mut Checks) -> Fallible {
    let mut order = newest.to_vec();
    order.rotate_right(1);
    let last = order.last().ok_or("no rooms")?;
    let (two, grown) = (SlidingSyncMode::new_selective(), SlidingSyncMode::new_selective());
    let list = SlidingSyncList::builder("two").timeline_limit(1).sync_mode(two.add_range(3..=5).add_range(10..=11));
    let windows = phone.client.sliding_sync("windows")?.add_list(list).build().await?;
    let next = async || Fallible::Ok(within("an answer", windows.sync_once()).await??.rooms.into_iter().collect());
    let rooms = |places: &[usize]| places.iter().map(|place| order[*place].clone()).collect::<BTreeSet<_>>();

    checks.held("two windows hold what stands in them", same(next().await?, rooms(&[3, 4, 5, 10, 11])))?;
    let grow = |list: &SlidingSyncList| {
        list.set_sync_mode(grown.add_range(2..=6).add_range(10..=11));
        ready(())
    };
    windows.on_list("two", grow).await.ok_or("no such list")?;
    checks.held("one that grows gets what it lacks", same(next().await?, rooms(&[2, 6])))?;
    world.alice.say(last, "from below").await?;
    checks.held("what rises pushes others into them", same(next().await?, rooms(&[1, 9])))?;
    let missed = world.alice.say(&order[1], "on the way out of the window").await?;
    checks.held("what rises out of one is not told", same(next().await?, rooms(&[0])))?;
    world.alice.say(&order[0], "above").await?;
    checks.held("others come in its place", same(next().await?, [last.clone()].into()))?;
    world.alice.say(last, "above that").await?;
    checks.held("what comes back is told", same(next().await?, rooms(&[1])))?;
    let told = &last_sync(phone, "windows")?.answered["rooms"][order[1].as_str()];
    let events = told["timeline"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ids: Vec<_> = events.iter().map(|event| event["event_id"].as_str().unwrap_or_default()).collect();
    checks.held("with what was missed", same(ids, vec![missed.as_str()]))?;
    let initial = told["initial"].as_bool().unwrap_or_default();
    checks.held("and not from the beginning", ensure(!initial, || "it is initial".to_owned()))
}

/// The newest exchange of a connection.
fn last_sync(phone: &Phone, conn_id: &str) -> Fallible<Exchange> {
    Ok(phone.front.syncs(conn_id, 0).pop().ok_or("nothing was asked")?)
}

/// The rooms that an answer tells of.
fn told(exchange: &Exchange) -> BTreeSet<String> {
    exchange.rooms().into_iter().map(str::to_owned).collect()
}

fn known(client: &Client) -> BTreeSet<String> {
    client.rooms().iter().map(|room| room.room_id().to_string()).collect()
}

fn set(rooms: &[OwnedRoomId]) -> BTreeSet<String> {
    rooms.iter().map(ToString::to_string).collect()
}
