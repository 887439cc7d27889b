//! How pushers come, change and go (behaviours CP7, CP8).

use http::Method;
use serde_json::{Value, json};
use store::tables::users::DeviceRow;
use store::{Clock as _, CommitBatch};

use super::gateway::Gateway;
use super::world::World;

#[tokio::test]
async fn cp7_a_rejected_pusher_is_removed() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let room = world.room(&[&bob, &alice], json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({ "pushkey": "other" })).await;
    // What others' gateways say of keys that they were not asked about means nothing.
    gateway.answers(200, "{\"rejected\":[\"other\",\"bob\"]}");
    world.say(&bob, &room, "one").await;
    let mut told = [gateway.next().await, gateway.next().await].map(|told| told["devices"][0]["pushkey"].clone());
    told.sort_by_key(Value::to_string);
    assert_eq!(told, [json!("alice"), json!("other")]);
    gateway.is_fine();
    for text in ["two", "three"] {
        world.say(&bob, &room, text).await;
        let told = gateway.next().await;
        assert_eq!((&told["devices"][0]["pushkey"], &told["content"]["body"]), (&json!("alice"), &json!(text)));
    }
    assert_eq!(world.pushkeys(&alice).await, ["alice"]);
    let report = world.running.push.as_ref().unwrap().report();
    assert_eq!((report.pushers, report.rejected, report.failing), (1, 1, 0));
    // It may come again.
    world.set_pusher(&alice, &gateway.url(), json!({ "pushkey": "other" })).await;
    world.say(&bob, &room, "four").await;
    assert_eq!([gateway.next_body().await, gateway.next_body().await], ["four", "four"]);
}

#[tokio::test]
async fn cp8_a_gateway_that_answers_garbage_has_taken_the_push() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let room = world.room(&[&bob, &alice], json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    for (n, body) in
        ["", "{}", "<html>", "{\"rejected\":\"alice\"}", "[[[[", "{\"rejected\":[1,null]}"].iter().enumerate()
    {
        gateway.answers(200, body);
        world.say(&bob, &room, &n.to_string()).await;
        assert_eq!(gateway.next_body().await, n.to_string());
    }
    assert_eq!(world.pushkeys(&alice).await, ["alice"]);
}

#[tokio::test]
async fn cp7_a_pusher_is_unique_by_app_and_key_unless_appended() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob, carol] = world.people(["alice", "bob", "carol"]).await;
    let room = world.room(&[&carol, &alice, &bob], json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({ "pushkey": "phone" })).await;
    world.set_pusher(&bob, &gateway.url(), json!({ "pushkey": "phone", "append": true })).await;
    world.say(&carol, &room, "both").await;
    assert_eq!([gateway.next_body().await, gateway.next_body().await], ["both", "both"]);
    // The phone is Bob's alone from here on; and Bob sets it again, with something new.
    world.set_pusher(&bob, &gateway.url(), json!({ "pushkey": "phone", "data": { "new": true } })).await;
    assert_eq!((world.pushkeys(&alice).await.len(), world.pushkeys(&bob).await.len()), (0, 1));
    for text in ["one", "two"] {
        world.say(&carol, &room, text).await;
        let told = gateway.next().await;
        assert_eq!((&told["content"]["body"], &told["devices"][0]["data"]), (&json!(text), &json!({ "new": true })));
    }
}

#[tokio::test]
async fn cp7_a_pusher_dies_with_its_device() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let laptop = world.login(&alice, "LAPTOP").await;
    let room = world.room(&[&bob, &alice], json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({ "pushkey": "phone" })).await;
    world.set_pusher(&laptop, &gateway.url(), json!({ "pushkey": "laptop" })).await;
    gateway.waits();
    world.say(&bob, &room, "one").await;
    drop([gateway.next().await, gateway.next().await]);
    // More waits for both when the phone is logged out.
    world.say(&bob, &room, "two").await;
    world.post(&alice, "logout", json!({})).await;
    assert_eq!(world.pushkeys(&laptop).await, ["laptop"]);
    gateway.is_fine();
    for text in ["two", "three"] {
        if text == "three" {
            world.say(&bob, &room, text).await;
        }
        let told = gateway.next().await;
        assert_eq!((&told["devices"][0]["pushkey"], &told["content"]["body"]), (&json!("laptop"), &json!(text)));
    }
    assert_eq!(gateway.rest(), [] as [Value; 0]);
}

/// A pusher whose device went without it, as when a process ended in the middle, does nothing.
#[tokio::test]
async fn cp7_a_pusher_without_its_device_does_nothing() {
    let (mut world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob, carol] = world.people(["alice", "bob", "carol"]).await;
    let room = world.room(&[&bob, &alice, &carol], json!({})).await;
    for person in [&alice, &carol] {
        world.set_pusher(person, &gateway.url(), json!({})).await;
    }
    let mut batch = CommitBatch::new();
    batch.delete::<DeviceRow>(vec![(&alice.id()).into(), "PHONE".into()]);
    world.running.store.commit(batch).await.unwrap();
    world.restart().await;
    for text in ["one", "two"] {
        world.say(&bob, &room, text).await;
        let told = gateway.next().await;
        assert_eq!((&told["devices"][0]["pushkey"], &told["content"]["body"]), (&json!("carol"), &json!(text)));
    }
    assert_eq!(world.running.push.as_ref().unwrap().report().pushers, 1);
}

#[tokio::test]
async fn cp4_locked_and_deactivated_users_get_no_pushes() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [root, alice, bob, carol] = world.people(["root", "alice", "bob", "carol"]).await;
    world.running.users.set_admin(&root.id(), true).await.unwrap();
    let room = world.room(&[&carol, &alice, &bob], json!({})).await;
    for person in [&alice, &bob] {
        world.set_pusher(person, &gateway.url(), json!({})).await;
    }
    world.running.users.set_locked(&root.id(), &alice.id(), true).await.unwrap();
    world.say(&carol, &room, "one").await;
    assert_eq!(gateway.next().await["devices"][0]["pushkey"], "bob");
    world.running.users.set_locked(&root.id(), &alice.id(), false).await.unwrap();
    world.running.users.deactivate(&bob.id(), false).await.unwrap();
    world.say(&carol, &room, "two").await;
    let told = gateway.next().await;
    assert_eq!((&told["devices"][0]["pushkey"], &told["content"]["body"]), (&json!("alice"), &json!("two")));
    world.say(&carol, &room, "three").await;
    assert_eq!(gateway.next().await["devices"][0]["pushkey"], "alice");
    assert_eq!(gateway.rest(), [] as [Value; 0]);
}

/// MSC3881: another device may switch a pusher off, and it stays the device's that set it.
#[tokio::test]
async fn cp7_a_pusher_can_be_switched_off_from_elsewhere() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let laptop = world.login(&alice, "LAPTOP").await;
    let room = world.room(&[&bob, &alice], json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({ "pushkey": "phone" })).await;
    world.set_pusher(&laptop, &gateway.url(), json!({ "pushkey": "laptop" })).await;
    let switch = json!({ "pushkey": "phone", "org.matrix.msc3881.enabled": false });
    world.set_pusher(&laptop, &gateway.url(), switch).await;
    let shown = world.get(&laptop, "pushers").await["pushers"].clone();
    let phone = shown.as_array().unwrap().iter().find(|pusher| pusher["pushkey"] == "phone").unwrap();
    assert_eq!((&phone["enabled"], &phone["device_id"]), (&json!(false), &json!("PHONE")), "{phone}");
    assert_eq!(phone["org.matrix.msc3881.enabled"], json!(false));
    world.say(&bob, &room, "one").await;
    assert_eq!(gateway.next().await["devices"][0]["pushkey"], "laptop");
    world.set_pusher(&laptop, &gateway.url(), json!({ "pushkey": "phone", "enabled": true })).await;
    world.say(&bob, &room, "two").await;
    let mut told = [gateway.next().await, gateway.next().await].map(|told| told["devices"][0]["pushkey"].clone());
    told.sort_by_key(Value::to_string);
    assert_eq!(told, [json!("laptop"), json!("phone")]);
    world.post(&alice, "logout", json!({})).await;
    assert_eq!(world.pushkeys(&laptop).await, ["laptop"]);
}

#[tokio::test]
async fn cp7_a_pusher_for_mail_is_refused() {
    let world = World::new().await;
    let alice = world.person("alice").await;
    let pusher = json!({
        "kind": "email", "app_id": "m.email", "pushkey": "alice@example.org", "app_display_name": "Mail",
        "device_display_name": "Mail", "lang": "en", "data": {},
    });
    let (status, answer) = world.try_ask(&alice, Method::POST, "pushers/set", pusher).await;
    assert_eq!((status, &answer["errcode"]), (400, &json!("M_INVALID_PARAM")));
    assert!(answer["error"].as_str().unwrap().contains("e-mail"), "{answer}");
    assert!(world.clock.now_ms() > 0 && world.pushkeys(&alice).await.is_empty());
}
