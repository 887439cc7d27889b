//! Removing a room with everything that the rooms below keep about it.

use endpoint::Error;
use rooms::Rooms;
use users::Users;

use crate::error_map;

/// Removes a room: its events and state, and what users keep about it. What a crash cuts short is finished by
/// [`resume`] and [`Rooms::resume_purges`].
///
/// # Errors
/// `M_FORBIDDEN` for an unknown room; when the store fails.
pub async fn purge_room(users: &Users, rooms: &Rooms, room_id: &str) -> Result<(), Error> {
    let room = rooms.room(room_id).await.map_err(error_map::rooms)?;
    let room = room.ok_or(rooms::Error::NotInRoom).map_err(error_map::rooms)?;
    users.begin_forgetting(room.num, room_id).await.map_err(error_map::users)?;
    rooms.purge_room(room_id).await.map_err(error_map::rooms)?;
    users.forget_room(room.num, room_id).await.map_err(error_map::users)
}

/// Forgets rooms that have been purged since it was noted; to be called every few minutes.
///
/// # Errors
/// When the store fails.
pub async fn resume(users: &Users, rooms: &Rooms) -> Result<(), Error> {
    for (num, room_id) in users.to_be_forgotten().await.map_err(error_map::users)? {
        if rooms.room_by_num(num).await.map_err(error_map::rooms)?.is_none() {
            users.forget_room(num, &room_id).await.map_err(error_map::users)?;
        }
    }
    Ok(())
}
