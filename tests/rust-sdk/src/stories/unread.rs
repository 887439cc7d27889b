//! What is unread is counted, can be marked by hand, and is read by a receipt, on this device or another.

use matrix_sdk::Room;
use matrix_sdk::ruma::api::client::receipt::create_receipt::v3::ReceiptType;
use matrix_sdk::ruma::events::receipt::ReceiptThread;

use crate::checks::{Checks, Fallible, same};
use crate::phone::{Phone, View, is_running, room_until};
use crate::world::World;

pub async fn story(world: World, checks: &mut Checks) -> Fallible {
    let World { alice, bob, .. } = &world;
    let rooms = alice.create_rooms(2, &[bob]).await?;
    for room in &rooms {
        bob.join(room).await?;
    }
    let first = bob.say(&rooms[0], "one").await?;
    bob.say(&rooms[0], "two").await?;
    let mention = bob.mention(&rooms[0], &alice.id, "alice, look").await?;
    let phone = world.phone().await?;
    let service = phone.service().await?;
    let list = service.room_list_service().all_rooms().await?;
    let mut view = View::of(&list);
    service.start().await;
    view.until("both rooms", |shown| shown.len() == 2).await?;
    is_running(&service.room_list_service()).await?;
    let (room, quiet) = (phone.room(&rooms[0])?, phone.room(&rooms[1])?);
    checks.held("what came before is counted, with what calls her", counted(&room, 3, 1).await)?;
    checks.held("a room with nothing new counts nothing", same(counts_of(&quiet), (0, 0)))?;

    let last = bob.say(&rooms[0], "four").await?;
    checks.held("a message counts", counted(&room, 4, 1).await)?;
    room.send_single_receipt(ReceiptType::Read, ReceiptThread::Unthreaded, first).await?;
    checks.held("a receipt in the middle leaves the rest", counted(&room, 3, 1).await)?;
    alice.read(&rooms[0], &mention).await?;
    checks.held("a receipt of another device counts", counted(&room, 1, 0).await)?;
    room.send_single_receipt(ReceiptType::ReadPrivate, ReceiptThread::Unthreaded, last).await?;
    checks.held("a private one too", counted(&room, 0, 0).await)?;
    bob.mention(&rooms[0], &alice.id, "alice, again").await?;
    checks.held("counting begins anew", counted(&room, 1, 1).await)?;
    let own = alice.say(&rooms[0], "yes").await?;
    checks.held("who answers has read", counted(&room, 0, 0).await)?;

    room.set_unread_flag(true).await?;
    checks.held("a room can be marked unread", flagged(&room, true).await)?;
    room.send_single_receipt(ReceiptType::Read, ReceiptThread::Unthreaded, own).await?;
    checks.held("a receipt takes the mark away", flagged(&room, false).await)?;
    alice.mark_unread(&rooms[1], true).await?;
    checks.held("a mark of another device comes", flagged(&quiet, true).await)?;
    checks.held("and is not a message", same(counts_of(&quiet), (0, 0)))?;
    alice.mark_unread(&rooms[1], false).await?;
    checks.held("it goes as it came", flagged(&quiet, false).await)?;

    let again = Phone::sign_in(&world.hearth, alice, "TABLET").await?;
    bob.say(&rooms[1], "to all devices").await?;
    alice.mark_unread(&rooms[0], true).await?;
    let tablet = again.service().await?;
    let tablet_list = tablet.room_list_service().all_rooms().await?;
    let mut tablet_view = View::of(&tablet_list);
    tablet.start().await;
    tablet_view.until("both rooms", |shown| shown.len() == 2).await?;
    checks.held("a new device sees the mark", flagged(&again.room(&rooms[0])?, true).await)?;
    checks.held("and what is unread", counted(&again.room(&rooms[1])?, 1, 0).await)?;
    tablet.stop().await;
    service.stop().await;
    Ok(())
}

/// Notifications and highlights, as the server counts them.
fn counts_of(room: &Room) -> (u64, u64) {
    let counts = room.unread_notification_counts();
    (counts.notification_count, counts.highlight_count)
}

/// Waits until that many notifications and highlights are counted.
async fn counted(room: &Room, notifications: u64, highlights: u64) -> Fallible {
    let expected = (notifications, highlights);
    let counted = room_until(room, "the counts", |room| counts_of(room) == expected).await;
    counted.map_err(|error| format!("{error}: {:?} instead of {expected:?}", counts_of(room)).into())
}

/// Waits until the mark is there, or is not.
async fn flagged(room: &Room, unread: bool) -> Fallible {
    room_until(room, "the mark", |room| room.is_marked_unread() == unread).await
}
