//! Invites stand in the list, and leave it when they are accepted, rejected or taken back.

use matrix_sdk::RoomState;
use matrix_sdk::ruma::OwnedRoomId;
use serde_json::json;

use crate::checks::{Checks, Fallible, same};
use crate::front::Exchange;
use crate::phone::{ROOM_LIST, View, counts, has_event, ids, is_running, room_until, shows, shows_messages};
use crate::world::World;

pub async fn story(world: World, checks: &mut Checks) -> Fallible {
    let World { alice, bob, .. } = &world;
    let own = alice.create_rooms(1, &[]).await?;
    let early = bob.create_rooms(1, &[alice]).await?;
    let phone = world.phone().await?;
    let service = phone.service().await?;
    let list = service.room_list_service().all_rooms().await?;
    let mut view = View::of(&list);
    service.start().await;
    view.until("a room and an invite", |shown| shown.len() == 2).await?;
    let shown = view.until("an earlier invite", |shown| shows(shown, &early[0], RoomState::Invited)).await;
    checks.held("an invite from before stands in the list", shown)?;
    is_running(&service.room_list_service()).await?;

    let offers: Vec<OwnedRoomId> = bob.create_rooms(3, &[]).await?;
    let said = bob.say(&offers[0], "before you came").await?;
    for room in &offers {
        bob.invite(room, &alice.id).await?;
        let came = view.until("an invite", |shown| shows(shown, room, RoomState::Invited)).await;
        checks.held("an invite comes", came)?;
    }
    checks.held("invites are counted", counts(&list, 5).await)?;
    let invite = phone.room(&offers[1])?;
    checks.held("it tells the room's name", same(invite.name().as_deref(), Some("01")))?;
    let details = invite.invite_details().await?;
    let inviter = details.inviter.map(|inviter| inviter.user_id().to_owned());
    checks.held("and who invites", same(inviter, Some(bob.id.clone())))?;

    phone.room(&offers[0])?.join().await?;
    let joined = view.until("the joined room", |shown| shows(shown, &offers[0], RoomState::Joined)).await;
    checks.held("an accepted invite is a room", joined)?;
    let answer = bob.say(&offers[0], "welcome").await?;
    let room = phone.room(&offers[0])?;
    checks.held("with its messages", has_event(&room, &answer).await)?;
    checks.held("also those from before", shows_messages(&room, &[said, answer], None).await)?;

    let before = phone.front.count();
    phone.room(&offers[1])?.leave().await?;
    checks.held(
        "a rejected invite goes",
        view.until("no rejected invite", |shown| !ids(shown).contains(&offers[1])).await,
    )?;
    bob.uninvite(&offers[2], &alice.id).await?;
    checks
        .held("one taken back goes", view.until("no taken invite", |shown| !ids(shown).contains(&offers[2])).await)?;
    for (room, count) in [(&offers[1], 4), (&offers[2], 3)] {
        let tells = |e: &Exchange| e.is_sync(ROOM_LIST) && e.rooms().contains(&room.as_str());
        let told = phone.front.until("the end of an invite", before, tells).await?;
        let counted = &told.answered["lists"]["all_rooms"]["count"];
        checks.held("the answer that tells it counts it no more", same(counted, &json!(count)))?;
    }
    checks.held("nor does the list", counts(&list, 3).await)?;
    bob.invite(&offers[1], &alice.id).await?;
    let again = view.until("the invite again", |shown| shows(shown, &offers[1], RoomState::Invited)).await;
    checks.held("a second invite comes", again)?;
    // Another device of hers accepts it.
    alice.join(&early[0]).await?;
    let elsewhere = view.until("a join elsewhere", |shown| shows(shown, &early[0], RoomState::Joined)).await;
    checks.held("an invite accepted elsewhere is a room", elsewhere)?;
    let left = phone.room(&own[0])?;
    left.leave().await?;
    checks
        .held("a room that was left goes", view.until("no left room", |shown| !ids(shown).contains(&own[0])).await)?;
    checks.held("and is known as left", room_until(&left, "left", |room| room.state() == RoomState::Left).await)?;
    service.stop().await;
    Ok(())
}
