//! The number on an app's icon (behaviour CP5).

use serde_json::json;
use store::tables::push::PushRow;
use store::tables::rooms::RoomRow;
use store::{CommitBatch, Read};
use testkit::encoded;

use super::gateway::{Gateway, unread};
use super::world::World;

#[tokio::test]
async fn cp5_the_number_counts_rooms_and_follows_what_is_read() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let one = world.room(&[&bob, &alice], json!({})).await;
    let two = world.room(&[&bob, &alice], json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    let mut last = String::new();
    for (room, number) in [(&one, 1), (&one, 1), (&two, 2)] {
        last = world.say(&bob, room, "hello").await;
        assert_eq!(unread(&gateway.next().await), number);
    }
    world.read(&alice, &two, &last).await;
    let told = gateway.next().await;
    assert_eq!((unread(&told), &told["prio"], told.get("event_id")), (1, &json!("low"), None));
    assert_eq!(told["devices"][0]["pushkey"], "alice");
    // Who answers has read.
    world.say(&alice, &one, "hello yourself").await;
    let told = gateway.next().await;
    assert_eq!(told["counts"], json!({}), "a count of zero is left out");
    // What changes nothing is not told.
    world.read(&alice, &one, &world.say(&alice, &one, "and more").await).await;
    let third = world.say(&bob, &two, "third").await;
    assert_eq!(unread(&gateway.next().await), 1);
    let path = format!("rooms/{}/redact/{}/t", encoded(&two), encoded(&third));
    world.put(&bob, &path, json!({})).await;
    assert_eq!(gateway.next_number().await, 0, "what was redacted is not unread");
    // A room that one leaves has nothing to read.
    world.say(&bob, &two, "fourth").await;
    assert_eq!(unread(&gateway.next().await), 1);
    world.post(&alice, &format!("rooms/{}/leave", encoded(&two)), json!({})).await;
    assert_eq!(gateway.next_number().await, 0);
}

#[tokio::test]
async fn cp5_the_number_can_count_messages() {
    let (world, gateway) = (World::and(&["push.badge=messages"]).await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let one = world.room(&[&bob, &alice], json!({})).await;
    let two = world.room(&[&bob, &alice], json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    let mut events = Vec::new();
    for (room, number) in [(&one, 1), (&one, 2), (&two, 3)] {
        events.push(world.say(&bob, room, "hello").await);
        assert_eq!(unread(&gateway.next().await), number);
    }
    let relation = json!({ "rel_type": "m.thread", "event_id": events[0] });
    let reply = json!({ "msgtype": "m.text", "body": "in a thread", "m.relates_to": relation });
    world.send(&bob, &one, "m.room.message", reply).await;
    assert_eq!(unread(&gateway.next().await), 4);
    // The thread stays unread.
    let path = format!("rooms/{}/receipt/m.read/{}", encoded(&one), encoded(&events[1]));
    world.post(&alice, &path, json!({ "thread_id": "main" })).await;
    assert_eq!(gateway.next_number().await, 2);
    world.read(&alice, &two, &events[2]).await;
    assert_eq!(gateway.next_number().await, 1);
}

/// What was said by somebody whom a user comes to ignore is not unread any more.
#[tokio::test]
async fn cp5_who_is_ignored_is_counted_no_more() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let room = world.room(&[&bob, &alice], json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    world.say(&bob, &room, "hello").await;
    assert_eq!(unread(&gateway.next().await), 1);
    let path = format!("user/{}/account_data/m.ignored_user_list", encoded(&alice.user));
    world.put(&alice, &path, json!({ "ignored_users": { &bob.user: {} } })).await;
    assert_eq!(gateway.next_number().await, 0);
}

/// The same holds for an invite.
#[tokio::test]
async fn cp5_an_invite_of_somebody_who_is_ignored_is_counted_no_more() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    world.post(&bob, "createRoom", json!({ "invite": [&alice.user] })).await;
    assert_eq!(unread(&gateway.next().await), 1);
    let path = format!("user/{}/account_data/m.ignored_user_list", encoded(&alice.user));
    world.put(&alice, &path, json!({ "ignored_users": { &bob.user: {} } })).await;
    assert_eq!(gateway.next_number().await, 0);
}

/// Of a room that cannot be read nothing is told or counted, and the others are told and counted as ever.
#[tokio::test]
async fn cp5_a_broken_room_silences_no_other() {
    let (mut world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let [broken, whole] = [world.room(&[&bob, &alice], json!({})).await, world.room(&[&bob, &alice], json!({})).await];
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    gateway.answers(503, "");
    world.say(&bob, &broken, "lost").await;
    assert_eq!(gateway.next_body().await, "lost");
    world.until(|report| report.failed == 1).await;
    let read = Read::along::<RoomRow>(RoomRow::BY_ID, vec![broken.as_str().into()]);
    let row = world.running.store.one::<RoomRow>(read).await.unwrap().unwrap();
    let mut batch = CommitBatch::new();
    batch.put(RoomRow { room_version: "org.example.lost".to_owned(), ..row });
    world.running.store.commit(batch).await.unwrap();
    world.restart().await;
    gateway.is_fine();
    world.say(&bob, &whole, "told").await;
    let told = gateway.next_in_time(&world).await;
    assert_eq!((&told["content"]["body"], unread(&told)), (&json!("told"), 1));
}

/// Who has read everything and goes on writing and reading has nothing to be told, and nothing is queued.
#[tokio::test]
async fn cp5_who_has_read_everything_costs_nothing() {
    let (world, gateway, other) = (World::new().await, Gateway::start().await, Gateway::start().await);
    let [alice, bob, carol] = world.people(["alice", "bob", "carol"]).await;
    let (room, second) =
        (world.room(&[&bob, &alice, &carol], json!({})).await, world.room(&[&bob, &alice], json!({})).await);
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    world.set_pusher(&carol, &other.url(), json!({})).await;
    let event = world.say(&bob, &room, "read").await;
    assert_eq!((gateway.next_body().await, other.next_body().await), ("read".to_owned(), "read".to_owned()));
    world.read(&alice, &room, &event).await;
    assert_eq!(gateway.next_number().await, 0);
    // Here something stays unread, and the gateway fails: what is queued from now on can be seen.
    gateway.answers(503, "");
    world.say(&bob, &second, "unread").await;
    assert_eq!(gateway.next_body().await, "unread");
    world.until(|report| report.failed == 1).await;
    let queued = async || {
        // The same words reach Carol when all is dispatched that came before.
        world.say(&alice, &room, "hers").await;
        assert_eq!(other.next_body().await, "hers");
        let rows = Read::prefix::<PushRow>(vec![(&alice.id()).into()]);
        world.running.store.all::<PushRow>(rows).await.unwrap().len()
    };
    assert_eq!(queued().await, 1);
    for n in 0..3 {
        let event = world.say(&alice, &room, &n.to_string()).await;
        assert_eq!(other.next_body().await, n.to_string());
        world.read(&alice, &room, &event).await;
    }
    assert_eq!(queued().await, 1);
    world.say(&bob, &room, "news").await;
    assert_eq!(other.next_body().await, "news");
    assert_eq!(queued().await, 3, "the news, and that her answer has read them");
}

/// Some gateways clear the number only if they are told so.
#[tokio::test]
async fn cp5_a_count_of_zero_can_be_told() {
    let (world, gateway) = (World::and(&["push.zero_counts=true"]).await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let room = world.room(&[&bob, &alice], json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    let event = world.say(&bob, &room, "hello").await;
    assert_eq!(gateway.next().await["counts"], json!({ "unread": 1 }));
    world.read(&alice, &room, &event).await;
    assert_eq!(gateway.next().await["counts"], json!({ "unread": 0 }));
}
