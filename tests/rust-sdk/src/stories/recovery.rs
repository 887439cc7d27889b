//! Nothing is lost and nothing doubled: when the server dies and comes back, when an answer is lost, when the position is
//! unknown since another process took the connection, and when the server goes on from a backup.

use matrix_sdk::Room;
use matrix_sdk::reqwest::Method;
use matrix_sdk::ruma::{OwnedEventId, OwnedRoomId};
use matrix_sdk_ui::sync_service::{State, SyncService};
use serde_json::json;

use crate::checks::{Checks, Fallible, ensure, same};
use crate::front::Exchange;
use crate::phone::{self, ENCRYPTION, Phone, ROOM_LIST, View, has_event, in_state, is_running};
use crate::world::World;

/// More than the first range holds, so that all have to be found again.
const ROOMS: usize = 25;

/// The type of a message to a device.
const PING: &str = "test.hearth.ping";

/// What the parts of the story share.
struct Scene<'a> {
    world: World,
    phone: &'a Phone,
    service: &'a SyncService,
    view: View<'a>,
    room: Room,
    /// The rooms as they should be shown.
    order: Vec<OwnedRoomId>,
    /// What was said in the room.
    said: Vec<OwnedEventId>,
}

pub async fn story(world: World, checks: &mut Checks) -> Fallible {
    let rooms = world.alice.create_rooms(ROOMS, &[&world.bob]).await?;
    let talk = rooms[0].clone();
    world.bob.join(&talk).await?;
    let said = vec![world.bob.say(&talk, "at first").await?];
    let phone = world.phone().await?;
    let service = phone.service().await?;
    let list = service.room_list_service().all_rooms().await?;
    let mut view = View::of(&list);
    service.start().await;
    view.until("all rooms", |shown| shown.len() == ROOMS).await?;
    is_running(&service.room_list_service()).await?;
    let mut order: Vec<OwnedRoomId> = rooms.into_iter().skip(1).rev().collect();
    order.insert(0, talk.clone());
    let room = phone.room(&talk)?;
    let mut scene = Scene { world, phone: &phone, service: &service, view, room, order, said };
    checks.held("all rooms are there", scene.is_whole().await)?;
    scene.dies(checks).await?;
    scene.loses_an_answer(checks).await?;
    scene.loses_its_position(checks).await?;
    scene.loses_the_position_of_keys(checks).await?;
    scene.goes_on_from_a_backup(checks).await?;
    service.stop().await;
    Ok(())
}

impl Scene<'_> {
    /// Bob says something.
    async fn say(&mut self, text: &str) -> Fallible<OwnedEventId> {
        let event_id = self.world.bob.say(self.room.room_id(), text).await?;
        self.said.push(event_id.clone());
        Ok(event_id)
    }

    /// Bob says something, and it comes.
    async fn hear(&mut self, text: &str) -> Fallible {
        let event_id = self.say(text).await?;
        has_event(&self.room, &event_id).await
    }

    /// All rooms are shown in order, and all messages once.
    async fn is_whole(&mut self) -> Fallible {
        let order = self.order.clone();
        self.view.until("all rooms in order", |shown| phone::ids(shown) == order).await?;
        phone::shows_messages(&self.room, &self.said, None).await
    }

    /// The server is killed while something is said, and comes back.
    async fn dies(&mut self, checks: &mut Checks) -> Fallible {
        self.hear("before the end").await?;
        let held = self.phone.front.syncs(ROOM_LIST, 0).iter().filter(|e| e.status == 200).count();
        ensure(held > 0, || "nothing was answered".to_owned())?;
        let before = self.phone.front.count();
        self.say("at the end").await?;
        self.world.hearth.kill().await?;
        let offline = in_state(self.service, "the service without a server", |state| matches!(state, State::Offline));
        checks.held("without a server the SDK waits", offline.await)?;
        self.world.hearth.start().await?;
        checks.held("with it it goes on", running(self.service).await)?;
        checks.held("what is said then comes", self.hear("after the end").await)?;
        checks.held("with what was said at the end, and all once", self.is_whole().await)?;
        let after: Vec<Exchange> = self.phone.front.syncs(ROOM_LIST, before);
        let unknown = after.iter().filter(|e| e.status == 400).count();
        let named = after.iter().filter(|e| e.status == 200).all(|e| e.pos.is_some());
        checks.held("its connection is the same", ensure(unknown == 0 && named, || format!("{unknown} unknown")))?;
        let anew = after.iter().any(|e| e.answered["rooms"].to_string().contains("\"initial\":true"));
        checks.held("no room came from the beginning", ensure(!anew, || "a room came anew".to_owned()))
    }

    /// An answer breaks off; the server believes that it was sent.
    async fn loses_an_answer(&mut self, checks: &mut Checks) -> Fallible {
        let before = self.phone.front.count();
        self.phone.front.break_off_next(ROOM_LIST);
        let event_id = self.say("half an answer").await?;
        let broken = self.phone.front.until("a broken answer", before, |e| e.broken).await?;
        let again = |e: &Exchange| e.is_sync(ROOM_LIST) && e.status == 200 && e.pos == broken.pos;
        let repeated = self.phone.front.until("the same position again", broken.number + 1, again).await?;
        let holds = repeated.answered["rooms"].to_string().contains(event_id.as_str());
        checks.held("an answer that was lost comes again", ensure(holds, || "another answer".to_owned()))?;
        checks.held("it is heard", has_event(&self.room, &event_id).await)?;
        running(self.service).await?;
        self.hear("and on").await?;
        checks.held("and nothing is lost or doubled", self.is_whole().await)
    }

    /// Another process of the app begins the connection anew.
    async fn loses_its_position(&mut self, checks: &mut Checks) -> Fallible {
        let before = self.phone.front.count();
        self.take_connection(ROOM_LIST).await?;
        let event_id = self.say("behind an unknown position").await?;
        checks.held("the server does not know the position", self.unknown(ROOM_LIST, before).await)?;
        checks.held("the SDK begins anew", self.begins_anew(ROOM_LIST, before).await)?;
        checks.held("what was said comes", has_event(&self.room, &event_id).await)?;
        running(self.service).await?;
        self.hear("on the new connection").await?;
        checks.held("and nothing is lost or doubled", self.is_whole().await)
    }

    /// The same happens to the connection of keys.
    async fn loses_the_position_of_keys(&mut self, checks: &mut Checks) -> Fallible {
        let before = self.phone.front.count();
        self.take_connection(ENCRYPTION).await?;
        let device = self.phone.client.device_id().ok_or("no device")?;
        let messages = json!({ "messages": { self.world.alice.id.as_str(): { device.as_str(): { "n": 1 } } } });
        let path = format!("v3/sendToDevice/{PING}/ping");
        self.world.bob.ask(Method::PUT, &path, &messages).await?;
        checks.held("the position of keys is unknown, too", self.unknown(ENCRYPTION, before).await)?;
        checks.held("that connection begins anew", self.begins_anew(ENCRYPTION, before).await)?;
        let pings = |e: &Exchange| e.answered["extensions"]["to_device"].to_string().matches(PING).count();
        let came = self.phone.front.until("the message", before, |e| e.is_sync(ENCRYPTION) && pings(e) == 1).await;
        checks.held("a message to the device comes", came.map(drop))?;
        running(self.service).await?;
        self.hear("after the keys").await?;
        let next = |e: &Exchange| e.is_sync(ENCRYPTION) && e.status == 200 && e.pos.is_some();
        self.phone.front.until("the next answer", before, next).await?;
        let times: usize = self.phone.front.syncs(ENCRYPTION, before).iter().map(pings).sum();
        checks.held("once", same(times, 1))?;
        checks.held("and nothing is lost or doubled", self.is_whole().await)
    }

    /// The server forgets what happened since a backup, and the positions that it gave since then.
    async fn goes_on_from_a_backup(&mut self, checks: &mut Checks) -> Fallible {
        let backup = self.world.hearth.back_up().await?;
        let forgotten = self.say("never to be heard again").await?;
        has_event(&self.room, &forgotten).await?;
        let before = self.phone.front.count();
        self.world.hearth.kill().await?;
        self.world.hearth.restore(&backup).await?;
        self.world.hearth.start().await?;
        self.said.retain(|event_id| *event_id != forgotten);
        checks.held("positions of a lost future are unknown", self.unknown(ROOM_LIST, before).await)?;
        checks.held("the SDK begins anew after a backup", self.begins_anew(ROOM_LIST, before).await)?;
        running(self.service).await?;
        checks.held("what is said after a backup comes", self.hear("after the backup").await)?;
        let order = self.order.clone();
        let all = self.view.until("all rooms in order", |shown| phone::ids(shown) == order).await;
        checks.held("with all rooms in order", all)?;
        let heard = phone::shows_messages(&self.room, &self.said, Some(&forgotten)).await;
        checks.held("and all that is not forgotten, once", heard)
    }

    /// Begins a connection anew without the SDK.
    async fn take_connection(&self, conn_id: &str) -> Fallible {
        let other = self.phone.other_process(&self.world.alice)?;
        let body = json!({ "conn_id": conn_id, "lists": {} });
        other.ask(Method::POST, "unstable/org.matrix.simplified_msc3575/sync?timeout=0", &body).await.map(drop)
    }

    /// Waits for the answer that a position is unknown.
    async fn unknown(&self, conn_id: &str, from: usize) -> Fallible {
        let is_unknown = |e: &Exchange| e.is_sync(conn_id) && e.answered["errcode"] == "M_UNKNOWN_POS";
        let refused = self.phone.front.until("an unknown position", from, is_unknown).await?;
        same(refused.status, 400)
    }

    /// Waits for a request without a position, and its answer.
    async fn begins_anew(&self, conn_id: &str, from: usize) -> Fallible {
        let anew = |e: &Exchange| e.is_sync(conn_id) && e.pos.is_none() && e.status == 200;
        self.phone.front.until("a new connection", from, anew).await.map(drop)
    }
}

/// Waits until the service syncs.
async fn running(service: &SyncService) -> Fallible {
    in_state(service, "the service with a server", |state| matches!(state, State::Running)).await
}
