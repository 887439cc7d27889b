//! Gateways that fail, and servers that end in the middle of it (behaviour CP7).

use serde_json::{Value, json};

use super::gateway::{Gateway, unread};
use super::world::World;

const MINUTE_MS: i64 = 60_000;

/// A gateway is away for an hour: it is tried again and again, ever more seldom, and when it is back it is told once of
/// everything that is still to be read.
#[tokio::test]
async fn cp7_an_outage_of_an_hour_loses_nothing_and_floods_nobody() {
    let (world, gateway, other) = (World::new().await, Gateway::start().await, Gateway::start().await);
    let [alice, bob, carol] = world.people(["alice", "bob", "carol"]).await;
    let [one, two] = [
        world.room(&[&bob, &alice, &carol], json!({ "name": "one" })).await,
        world.room(&[&bob, &alice], json!({ "name": "two" })).await,
    ];
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    world.set_pusher(&carol, &other.url(), json!({})).await;
    gateway.answers(502, "down");
    let mut last = String::new();
    let mut tries = Vec::new();
    for minute in 0..60 {
        world.say(&bob, &one, &format!("one {minute}")).await;
        assert_eq!(other.next_body().await, format!("one {minute}"), "others are not kept waiting");
        if minute < 10 {
            last = world.say(&bob, &two, &format!("two {minute}")).await;
        } else if minute < 20 {
            world.read(&alice, &two, &last).await;
        }
        // The first push of this minute's, or of the hour's, if it is tried.
        if minute == 0 {
            tries.push(gateway.next().await);
        }
        world.pass(MINUTE_MS).await;
        tries.extend(gateway.rest());
    }
    assert!((5..20).contains(&tries.len()), "{} tries in an hour", tries.len());
    assert!(tries.iter().all(|tried| tried["content"]["body"] == "one 0"), "in order");
    assert_eq!(world.running.push.as_ref().unwrap().report().failing, 1);

    gateway.is_fine();
    let mut bodies = Vec::new();
    while bodies.last().is_none_or(|last| last != "one 59") {
        let told = gateway.next_in_time(&world).await;
        assert_eq!(unread(&told), 1, "what was read is not counted");
        bodies.push(told["content"]["body"].as_str().unwrap().to_owned());
    }
    bodies.dedup();
    let expected: Vec<String> = (0..60).map(|minute| format!("one {minute}")).collect();
    assert_eq!(bodies, expected, "each once, in order, and nothing that was read");
    assert_eq!(world.running.push.as_ref().unwrap().report().failing, 0);
    world.say(&bob, &one, "after").await;
    assert_eq!(gateway.next_body().await, "after");
}

/// What waits and is read to the end leaves nothing but the number to tell, once.
#[tokio::test]
async fn cp7_what_was_read_during_an_outage_is_told_as_one_number() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let room = world.room(&[&bob, &alice], json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    world.say(&bob, &room, "told").await;
    assert_eq!(gateway.next_body().await, "told");
    gateway.answers(500, "");
    for n in 0..80 {
        let event = world.say(&bob, &room, &n.to_string()).await;
        world.read(&alice, &room, &event).await;
    }
    gateway.next_in_time(&world).await;
    gateway.is_fine();
    while unread(&gateway.next_in_time(&world).await) != 0 {}
    // Of all the rest nothing is left to tell.
    world.say(&bob, &room, "news").await;
    assert_eq!(gateway.next_body().await, "news");
}

/// The program ends after the gateway took a push and before that was noted: the push comes once more, by the same id, and
/// nothing behind it is lost.
#[tokio::test]
async fn cp7_pushes_survive_a_crash_between_sending_and_noting() {
    let (mut world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let room = world.room(&[&bob, &alice], json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    gateway.waits();
    let first = world.say(&bob, &room, "first").await;
    assert_eq!(gateway.next().await["event_id"], first);
    let second = world.say(&bob, &room, "second").await;
    world.end().await;
    // While nobody follows the stream.
    let third = world.say(&bob, &room, "third").await;
    gateway.is_fine();
    world.restart().await;
    for event in [&first, &second, &third] {
        assert_eq!(gateway.next().await["event_id"], **event);
    }
    world.until(|report| report.delivered == 3).await;
    world.restart().await;
    let fourth = world.say(&bob, &room, "fourth").await;
    assert_eq!(gateway.next().await["event_id"], fourth, "and what was noted does not come again");
    assert_eq!(gateway.rest(), [] as [Value; 0]);
}

/// A gateway may have heard a number that it did not confirm: what has become of it is told, though it is what was confirmed
/// last. The same holds where this server did not live to hear the confirmation.
#[tokio::test]
async fn cp7_a_number_that_was_not_confirmed_is_told_again() {
    let (mut world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let room = world.room(&[&bob, &alice], json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    gateway.answers(500, "");
    let event = world.say(&bob, &room, "one").await;
    assert_eq!(unread(&gateway.next().await), 1);
    world.until(|report| report.failed == 1).await;
    world.read(&alice, &room, &event).await;
    gateway.is_fine();
    let told = gateway.next_in_time(&world).await;
    assert_eq!((told.get("event_id"), unread(&told)), (None, 0));
    world.until(|report| report.delivered == 1).await;

    gateway.waits();
    let event = world.say(&bob, &room, "two").await;
    assert_eq!(unread(&gateway.next().await), 1);
    world.end().await;
    world.read(&alice, &room, &event).await;
    gateway.is_fine();
    world.restart().await;
    assert_eq!(gateway.next_number().await, 0);
}

/// Waiting outlives the program: a gateway that failed is not tried at once by the next one.
#[tokio::test]
async fn cp7_back_off_survives_a_restart() {
    let (mut world, gateway) = (World::new().await, Gateway::start().await);
    let other = Gateway::start().await;
    let [alice, bob, carol] = world.people(["alice", "bob", "carol"]).await;
    let room = world.room(&[&bob, &alice, &carol], json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    world.set_pusher(&carol, &other.url(), json!({})).await;
    gateway.answers(503, "");
    world.say(&bob, &room, "one").await;
    // After the eighth failure it is left alone for some minutes.
    for failures in 1..=8 {
        gateway.next_in_time(&world).await;
        world.until(|report| report.failed >= failures).await;
    }
    assert_eq!(other.next_body().await, "one");
    world.restart().await;
    gateway.is_fine();
    world.say(&bob, &room, "two").await;
    assert_eq!(other.next_body().await, "two");
    world.pass(1).await;
    world.say(&bob, &room, "three").await;
    assert_eq!(other.next_body().await, "three");
    assert_eq!(gateway.rest(), [] as [Value; 0]);
    for text in ["one", "two", "three"] {
        assert_eq!(gateway.next_in_time(&world).await["content"]["body"], text);
    }
}

/// A gateway that takes requests and never answers delays nobody but those who named it.
#[tokio::test]
async fn cp7_a_slow_gateway_delays_no_other() {
    let (world, slow, quick) = (World::new().await, Gateway::start().await, Gateway::start().await);
    let bob = world.person("bob").await;
    let mut people = vec![bob.clone()];
    for n in 0..40 {
        people.push(world.person(&format!("slow{n}")).await);
    }
    let alice = world.person("alice").await;
    people.push(alice.clone());
    let room = world.room(&people.iter().collect::<Vec<_>>(), json!({})).await;
    slow.waits();
    for person in &people[1..41] {
        world.set_pusher(person, &slow.url(), json!({})).await;
    }
    world.set_pusher(&alice, &quick.url(), json!({})).await;
    for text in ["one", "two", "three"] {
        world.say(&bob, &room, text).await;
        assert_eq!(quick.next_body().await, text);
    }
    // As many as may be under way to one gateway.
    for _ in 0..24 {
        assert_eq!(slow.next_body().await, "one");
    }
    assert_eq!(slow.rest(), [] as [Value; 0]);
}

/// What has waited for a day is of no use any more; the number still is.
#[tokio::test]
async fn cp7_old_pushes_are_not_sent() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let room = world.room(&[&bob, &alice], json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    gateway.answers(503, "");
    world.say(&bob, &room, "old").await;
    assert_eq!(gateway.next_body().await, "old");
    world.until(|report| report.failed == 1).await;
    world.pass(25 * 60 * MINUTE_MS).await;
    // Now it is the number alone that is tried.
    assert_eq!(gateway.next_number().await, 1);
    gateway.is_fine();
    let told = gateway.next_in_time(&world).await;
    assert_eq!((told.get("event_id"), unread(&told)), (None, 1));
    world.say(&bob, &room, "new").await;
    assert_eq!(gateway.next_body().await, "new");
}
