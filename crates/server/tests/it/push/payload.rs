//! What gateways are told, and of what (behaviours CP4, CP6).

use http::Method;
use serde_json::{Value, json};
use testkit::encoded;

use super::gateway::{Gateway, unread};
use super::world::World;

#[tokio::test]
async fn cp4_a_gateway_is_told_all_of_an_event() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob, carol] = world.people(["alice", "bob", "carol"]).await;
    world.put(&bob, &format!("profile/{}/displayname", encoded(&bob.user)), json!({ "displayname": "Bobby" })).await;
    let options = json!({ "name": "Tea room", "room_alias_name": "tea" });
    let room = world.room(&[&carol, &alice, &bob], options).await;
    let before_s = store::Clock::now_ms(&*world.clock) / 1_000;
    world.set_pusher(&alice, &gateway.url(), json!({ "data": { "brand": "x", "deep": { "url": "stays" } } })).await;
    let event = world.say(&bob, &room, "hello").await;
    let mut told = gateway.next().await;
    let at_s = told["devices"][0]["pushkey_ts"].take().as_i64().unwrap();
    assert!((before_s..before_s + 5).contains(&at_s), "{at_s} in seconds");
    let device = json!({
        "app_id": "org.example.app", "pushkey": "alice", "pushkey_ts": null,
        "data": { "brand": "x", "deep": { "url": "stays" } }, "tweaks": {},
    });
    let expected = json!({
        "event_id": event, "room_id": room, "type": "m.room.message", "sender": bob.user, "sender_display_name": "Bobby",
        "room_name": "Tea room", "room_alias": "#tea:hearth.test", "prio": "low",
        "content": { "msgtype": "m.text", "body": "hello" }, "counts": { "unread": 1 }, "devices": [device],
    });
    assert_eq!(told, expected);

    // What names her is urgent.
    let named = json!({ "msgtype": "m.text", "body": "Alice!", "m.mentions": { "user_ids": [alice.user] } });
    world.send(&bob, &room, "m.room.message", named).await;
    let told = gateway.next().await;
    assert_eq!(told["devices"][0]["tweaks"], json!({ "highlight": true, "sound": "default" }));
    assert_eq!(told["prio"], "high");
}

#[tokio::test]
async fn cp4_invites_calls_and_encrypted_messages_push() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    world.put(&bob, &format!("profile/{}/displayname", encoded(&bob.user)), json!({ "displayname": "Bobby" })).await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    let room = world.room(&[&bob], json!({ "name": "Two", "invite": [alice.user] })).await;
    let told = gateway.next().await;
    assert_eq!((&told["type"], &told["user_is_target"]), (&json!("m.room.member"), &json!(true)), "{told}");
    assert_eq!((&told["content"]["membership"], &told["room_name"]), (&json!("invite"), &json!("Two")));
    assert_eq!((&told["room_id"], &told["sender"], unread(&told)), (&json!(room), &json!(bob.user), 1));
    assert_eq!((&told["sender_display_name"], &told["prio"]), (&json!("Bobby"), &json!("high")));
    assert_eq!(told["devices"][0]["tweaks"], json!({ "sound": "default" }));

    world.post(&alice, &format!("join/{}", encoded(&room)), json!({})).await;
    assert_eq!(gateway.next_number().await, 0, "the invite waits no more");
    let call = json!({ "call_id": "c", "lifetime": 60_000, "offer": { "type": "offer", "sdp": "x" }, "version": "1" });
    world.send(&bob, &room, "m.call.invite", call).await;
    let told = gateway.next().await;
    assert_eq!((&told["type"], &told["prio"]), (&json!("m.call.invite"), &json!("high")));
    assert_eq!(told["devices"][0]["tweaks"], json!({ "sound": "ring" }));
    assert!(told.get("user_is_target").is_none());
    world
        .send(&bob, &room, "m.room.encrypted", json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x" }))
        .await;
    let told = gateway.next().await;
    assert_eq!((&told["type"], &told["prio"]), (&json!("m.room.encrypted"), &json!("high")));
    assert_eq!(told["devices"][0]["tweaks"], json!({ "sound": "default" }), "the two are alone");

    // A room without a name is named after who else is in it.
    let room = world.room(&[&bob, &alice], json!({})).await;
    world.say(&bob, &room, "psst").await;
    assert_eq!(gateway.next().await["room_name"], "Bobby");
}

#[tokio::test]
async fn cp4_what_does_not_concern_a_user_pushes_nothing() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob, carol] = world.people(["alice", "bob", "carol"]).await;
    let room = world.room(&[&bob, &alice, &carol], json!({})).await;
    let muted = world.room(&[&bob, &alice], json!({})).await;
    let left = world.room(&[&bob, &alice], json!({})).await;
    let strange = world.room(&[&bob, &carol], json!({})).await;
    world.say(&bob, &room, "before there was a pusher").await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    world.put(&alice, &format!("pushrules/global/room/{}", encoded(&muted)), json!({ "actions": [] })).await;
    let ignored = json!({ "ignored_users": { &carol.user: {} } });
    let path = format!("user/{}/account_data/m.ignored_user_list", encoded(&alice.user));
    world.put(&alice, &path, ignored).await;
    world.post(&alice, &format!("rooms/{}/leave", encoded(&left)), json!({})).await;

    world.say(&alice, &room, "her own").await;
    world.say(&bob, &muted, "in a muted room").await;
    world.say(&bob, &left, "in a room that she has left").await;
    world.say(&bob, &strange, "in a room of others").await;
    world.say(&carol, &room, "of one whom she ignores").await;
    world.post(&carol, "createRoom", json!({ "invite": [alice.user] })).await;
    world.send(&bob, &room, "m.room.message", json!({ "msgtype": "m.notice", "body": "a notice" })).await;
    let named = world.send(&bob, &room, "m.reaction", json!({ "m.relates_to": {} })).await;
    world.put(&bob, &format!("rooms/{}/state/m.room.topic", encoded(&room)), json!({ "topic": "tea" })).await;
    world.say(&bob, &room, "at last").await;
    let told = gateway.next().await;
    assert_eq!((&told["content"]["body"], unread(&told)), (&json!("at last"), 1), "and {named} is not told of");
    assert_eq!(gateway.rest(), [] as [Value; 0]);
}

/// What is redacted, read or left while its push waits is not pushed any more.
#[tokio::test]
async fn cp4_what_is_gone_before_the_push_leaves_is_not_pushed() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let [room, read, left] = [
        world.room(&[&bob, &alice], json!({})).await,
        world.room(&[&bob, &alice], json!({})).await,
        world.room(&[&bob, &alice], json!({})).await,
    ];
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    gateway.waits();
    world.say(&bob, &room, "first").await;
    assert_eq!(gateway.next_body().await, "first");
    // As long as the gateway has not answered, all else waits.
    let gone = world.say(&bob, &room, "redacted").await;
    let path = format!("rooms/{}/redact/{}/t", encoded(&room), encoded(&gone));
    world.put(&bob, &path, json!({})).await;
    let seen = world.say(&bob, &read, "read elsewhere").await;
    world.read(&alice, &read, &seen).await;
    world.say(&bob, &left, "left").await;
    world.post(&alice, &format!("rooms/{}/leave", encoded(&left)), json!({})).await;
    world.say(&bob, &room, "second").await;
    gateway.is_fine();
    let told = gateway.next().await;
    assert_eq!((&told["content"]["body"], unread(&told)), (&json!("second"), 1), "one room has something unread");
    world.say(&bob, &room, "third").await;
    assert_eq!(gateway.next_body().await, "third");
}

#[tokio::test]
async fn cp4_threads_are_read_by_themselves() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let room = world.room(&[&bob, &alice], json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    let root = world.say(&bob, &room, "root").await;
    assert_eq!(gateway.next_body().await, "root");
    gateway.waits();
    world.say(&bob, &room, "blocks").await;
    assert_eq!(gateway.next_body().await, "blocks");
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    let reply = json!({ "msgtype": "m.text", "body": "in a thread", "m.relates_to": relation });
    let reply = world.send(&bob, &room, "m.room.message", reply).await;
    let main = world.say(&bob, &room, "beside it").await;
    let receipt = |event: &str| format!("rooms/{}/receipt/m.read/{}", encoded(&room), encoded(event));
    // The main timeline is read, and the thread is not.
    world.post(&alice, &receipt(&main), json!({ "thread_id": "main" })).await;
    gateway.is_fine();
    assert_eq!(gateway.next_body().await, "in a thread");
    world.post(&alice, &receipt(&reply), json!({ "thread_id": root })).await;
    assert_eq!(gateway.next_number().await, 0);
}

#[tokio::test]
async fn cp6_event_id_only_tells_ids_counts_and_devices() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let room = world.room(&[&bob, &alice], json!({ "name": "Secret" })).await;
    let data = json!({ "data": { "format": "event_id_only", "default_payload": { "aps": { "alert": "x" } } } });
    world.set_pusher(&alice, &gateway.url(), data).await;
    let event = world.say(&bob, &room, "secret").await;
    let mut told = gateway.next().await;
    told["devices"][0]["pushkey_ts"].take();
    let device = json!({
        "app_id": "org.example.app", "pushkey": "alice", "pushkey_ts": null, "tweaks": { "sound": "default" },
        "data": { "format": "event_id_only", "default_payload": { "aps": { "alert": "x" } } },
    });
    let expected = json!({ "event_id": event, "room_id": room, "counts": { "unread": 1 }, "devices": [device] });
    assert_eq!(told, expected);
    world.read(&alice, &room, &event).await;
    let told = gateway.next().await;
    let members: Vec<&str> = told.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!((members, unread(&told)), (vec!["counts", "devices"], 0));
}

/// An administrator may decide that gateways learn ids alone.
#[tokio::test]
async fn cp6_content_can_be_kept_from_all_gateways() {
    let (world, gateway) = (World::and(&["push.include_content=false"]).await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let room = world.room(&[&bob, &alice], json!({ "name": "Secret" })).await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    world.say(&bob, &room, "secret").await;
    let told = gateway.next().await;
    assert_eq!(told["room_id"], room);
    assert!(!told.to_string().to_lowercase().contains("secret") && told.get("sender").is_none(), "{told}");
}

#[tokio::test]
async fn cp4_no_pushers_are_served_where_pushing_is_switched_off() {
    let (world, gateway) = (World::and(&["push.enabled=false"]).await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let room = world.room(&[&bob, &alice], json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    world.say(&bob, &room, "hello").await;
    assert!(world.running.push.is_none());
    assert_eq!(world.try_ask(&alice, Method::GET, "pushers", Value::Null).await.0, 200);
}
