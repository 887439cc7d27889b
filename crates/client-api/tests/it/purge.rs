//! Rooms and messages that are removed for good.

use client_api::room::purging;
use rooms::timeline::Place;
use serde_json::json;
use store::tables::core::JobRow;
use store::tables::rooms::{
    AliasRow, EventBytesRow, EventRow, MembershipRow, RelationRow, RoomHeadRow, RoomRow, StateEventRow, StateKeyRow,
    StateSegmentRow, ThreadRow,
};
use store::tables::users::{AccountDataRow, ReceiptRow, ThreadSubscriptionRow};
use store::{CommitBatch, Read, Row};

use testkit::{Client, Server, each, encoded};

/// How many rows each table of rooms has.
async fn rows(server: &Server) -> Vec<(&'static str, usize)> {
    async fn count<R: Row>(server: &Server) -> (&'static str, usize) {
        let rows: Vec<R> = server.state.store.all(Read::prefix::<R>(Vec::new())).await.unwrap();
        (R::TABLE.name, rows.len())
    }
    vec![
        count::<RoomRow>(server).await,
        count::<EventRow>(server).await,
        count::<EventBytesRow>(server).await,
        count::<StateEventRow>(server).await,
        count::<StateKeyRow>(server).await,
        count::<StateSegmentRow>(server).await,
        count::<RoomHeadRow>(server).await,
        count::<MembershipRow>(server).await,
        count::<RelationRow>(server).await,
        count::<ThreadRow>(server).await,
        count::<AliasRow>(server).await,
    ]
}

async fn thread(client: &Client, room: &str, root: &str) -> String {
    let relation = json!({ "body": "reply", "m.relates_to": { "rel_type": "m.thread", "event_id": root } });
    client.send(room, "m.room.message", relation).await
}

#[tokio::test]
async fn a_purged_room_leaves_nothing_behind() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let kept = alice.public_room().await;
    let before = rows(&server).await;
    let body = json!({ "visibility": "public", "room_alias_name": "here" });
    let room = alice.create_room(body).await;
    bob.join(&room).await;
    for number in 0..600 {
        alice.say(&room, &number.to_string()).await;
    }
    let root = alice.say(&room, "root").await;
    thread(&bob, &room, &root).await;
    server.state.rooms.purge_room(&room).await.unwrap();
    assert_eq!(rows(&server).await, before);
    alice.get(&format!("/rooms/{room}/state")).await.refused(403, "M_FORBIDDEN");
    alice.try_send(&room, "m.room.message", json!({})).await.refused(403, "M_FORBIDDEN");
    bob.post(&format!("/rooms/{room}/join"), json!({})).await.refused(403, "M_FORBIDDEN");
    alice.get(&format!("/directory/room/{}", encoded("#here:example.org"))).await.refused(404, "M_NOT_FOUND");
    assert_eq!(alice.get("/joined_rooms").await.ok()["joined_rooms"], json!([kept]));
    assert_eq!(alice.get("/publicRooms").await.ok()["chunk"], json!([]));
    alice.say(&kept, "still here").await;
    alice.sync("").await;
}

#[tokio::test]
async fn an_interrupted_purge_goes_on_after_a_restart() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let before = rows(&server).await;
    let room = alice.public_room().await;
    let stored = server.state.rooms.room(&room).await.unwrap().unwrap();
    assert_eq!(server.state.rooms.resume_purges().await.unwrap(), 0);
    // As it stands in the store after the first step.
    let mut batch = CommitBatch::new();
    batch.delete::<RoomRow>(vec![stored.num.into()]);
    batch.put(JobRow {
        kind: "purge_room".to_owned(),
        name: stored.num.to_string(),
        cursor: String::new(),
        due_ms: 0,
        failures: 0,
    });
    server.state.store.commit(batch).await.unwrap();
    assert_eq!(server.state.rooms.resume_purges().await.unwrap(), 1);
    assert_eq!(rows(&server).await, before);
    assert_eq!(server.state.rooms.resume_purges().await.unwrap(), 0);
}

#[tokio::test]
async fn old_messages_go_and_the_state_stays() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "first" })).await;
    let root = alice.say(&room, "root").await;
    let reply = thread(&alice, &room, &root).await;
    alice.set_state(&room, "m.room.name", json!({ "name": "second" })).await;
    let name = alice.set_state(&room, "m.room.topic", json!({ "topic": "rude" })).await;
    alice.put(&format!("/rooms/{room}/redact/{name}/1"), json!({})).await.ok();
    let kept = alice.say(&room, "kept").await;
    let late = thread(&alice, &room, &root).await;
    let stored = server.state.rooms.room(&room).await.unwrap().unwrap();
    let place = server.state.rooms.event_by_id(&stored, &kept).await.unwrap().unwrap();
    let place = Place::before(&place).unwrap();
    assert_eq!(server.state.rooms.purge_history(&room, place).await.unwrap(), 2);
    assert_eq!(server.state.rooms.purge_history(&room, place).await.unwrap(), 0);
    assert_eq!(alice.bodies(&room).await, ["kept", "reply"]);
    for gone in [&root, &reply] {
        alice.get(&format!("/rooms/{room}/event/{gone}")).await.refused(404, "M_NOT_FOUND");
    }
    alice.get(&format!("/rooms/{room}/event/{late}")).await.ok();
    alice.get(&format!("/rooms/{room}/context/{kept}")).await.ok();
    alice.get(&format!("/_matrix/client/v1/rooms/{room}/threads")).await.ok();
    assert_eq!(alice.state(&room, "m.room.name").await["name"], "second");
    bob.join(&room).await;
    bob.say(&room, "new").await;
    assert_eq!(bob.bodies(&room).await, ["kept", "reply", "new"]);
    alice.sync("").await;
    let everything = Place { idx: i64::MAX, ..place };
    server.state.rooms.purge_history(&room, everything).await.unwrap();
    // What the next event is built on stays.
    assert_eq!(bob.bodies(&room).await, ["new"]);
    alice.say(&room, "newer").await;
    assert_eq!(bob.bodies(&room).await, ["new", "newer"]);
}

/// How many rows users keep about rooms.
async fn kept_by_users(server: &Server) -> [usize; 3] {
    let store = &server.state.store;
    let receipts: Vec<ReceiptRow> = store.all(Read::prefix::<ReceiptRow>(Vec::new())).await.unwrap();
    let data: Vec<AccountDataRow> = store.all(Read::prefix::<AccountDataRow>(Vec::new())).await.unwrap();
    let threads: Vec<ThreadSubscriptionRow> =
        store.all(Read::prefix::<ThreadSubscriptionRow>(Vec::new())).await.unwrap();
    [receipts.len(), data.iter().filter(|row| !row.room_id.is_empty()).count(), threads.len()]
}

/// Tags a room, sets data and a push rule about it, follows a thread, and reads it to its end.
async fn keep_all(client: &Client, room: &str) {
    let (room, user) = (encoded(room), client.user.clone());
    let event = client.say(&room, "here").await;
    client.put(&format!("/user/{user}/rooms/{room}/tags/u.a"), json!({})).await.ok();
    client.put(&format!("/user/{user}/rooms/{room}/account_data/org.example.x"), json!({ "a": 1 })).await.ok();
    client.put(&format!("/pushrules/global/room/{room}"), json!({ "actions": [] })).await.ok();
    let thread = format!("unstable/io.element.msc4306/rooms/{room}/thread/{event}/subscription");
    client.put(&format!("/_matrix/client/{thread}"), json!({})).await.ok();
    let markers = json!({ "m.fully_read": event, "m.read": event, "m.read.private": event });
    client.post(&format!("/rooms/{room}/read_markers"), markers).await.ok();
}

async fn room_rules(client: &Client) -> Vec<String> {
    each(&client.get("/pushrules/global/").await.ok()["room"], "rule_id")
}

#[tokio::test]
async fn what_users_keep_about_a_room_goes_with_it() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let (kept, gone) = (alice.public_room().await, alice.public_room().await);
    bob.join(&gone).await;
    keep_all(&alice, &kept).await;
    let before = kept_by_users(&server).await;
    keep_all(&alice, &gone).await;
    keep_all(&bob, &gone).await;
    bob.leave(&gone).await;
    let (users, rooms) = (&server.state.users, &server.state.rooms);
    purging::purge_room(users, rooms, &gone).await.unwrap();
    assert_eq!(kept_by_users(&server).await, before);
    assert_eq!((room_rules(&alice).await, room_rules(&bob).await), (vec![kept], Vec::new()));
    assert_eq!(users.to_be_forgotten().await.unwrap(), []);
}

#[tokio::test]
async fn what_users_keep_goes_also_when_a_purge_was_cut_short() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    let room = alice.public_room().await;
    keep_all(&alice, &room).await;
    let (users, rooms) = (&server.state.users, &server.state.rooms);
    let num = rooms.room(&room).await.unwrap().unwrap().num;
    users.begin_forgetting(num, &room).await.unwrap();
    purging::resume(users, rooms).await.unwrap();
    assert_ne!(kept_by_users(&server).await, [0, 0, 0], "the room is still there");
    rooms.purge_room(&room).await.unwrap();
    purging::resume(users, rooms).await.unwrap();
    assert_eq!(kept_by_users(&server).await, [0, 0, 0]);
    assert_eq!(users.to_be_forgotten().await.unwrap(), []);
}
