//! What a changed account does to its rooms, and a changed room to accounts: done at once by whoever made the change, and
//! taken up again by [`resume`] where that was cut short.

use endpoint::Error;
use event::{Json, Object};
use rooms::{NewEvent, Rooms};
use store::UserId;
use users::Users;
use users::jobs::Job;
use users::profile::{AVATAR_URL, DISPLAY_NAME};
use users::registration::GUEST;

use crate::error_map;
use crate::room::purging;

/// What the leaves of guests say.
const GUESTS_LEAVE: &str = "Guests may not be in this room any more.";

/// Takes up what was not finished, also of purged rooms; to be called every few minutes.
///
/// # Errors
/// When the store fails.
pub async fn resume(users: &Users, rooms: &Rooms) -> Result<(), Error> {
    for user in users.overdue(Job::LeaveRooms).await.map_err(error_map::users)? {
        leave_rooms(users, rooms, &user).await?;
    }
    for user in users.overdue(Job::TellProfile).await.map_err(error_map::users)? {
        tell_profile(users, rooms, &user).await?;
    }
    part_with_guests(users, rooms).await?;
    purging::resume(users, rooms).await
}

/// Guests leave the rooms that have closed to them (CA14); to be called when [`Rooms::has_closed_to_guests`] says so, and
/// every few minutes for what a restart cut short.
///
/// # Errors
/// When the store fails; what is left to do stays noted.
pub async fn part_with_guests(users: &Users, rooms: &Rooms) -> Result<(), Error> {
    for closed in rooms.closed_to_guests().await.map_err(error_map::rooms)? {
        if let Some(room) = &closed.room
            && !rooms.takes_guests(room).await.map_err(error_map::rooms)?
        {
            for user in room.head().local.iter() {
                let account = users.account(user).await.map_err(error_map::users)?;
                if account.is_some_and(|account| account.kind == GUEST) {
                    keep_on(rooms.leave(&room.id, user, Some(GUESTS_LEAVE)).await, &room.id)?;
                }
            }
        }
        rooms.guests_have_left(closed).await.map_err(error_map::rooms)?;
    }
    Ok(())
}

/// A deactivated user leaves every room and rejects every invite (CA8), and what the user had scheduled is forgotten.
///
/// # Errors
/// When the store fails; the job stays.
pub async fn leave_rooms(users: &Users, rooms: &Rooms, user: &UserId) -> Result<(), Error> {
    let memberships = rooms.memberships(user).await.map_err(error_map::rooms)?;
    let open = |membership: &str| matches!(membership, "join" | "invite" | "knock");
    for row in memberships.into_iter().filter(|row| open(&row.membership)) {
        let Some(room) = rooms.room_by_num(row.room).await.map_err(error_map::rooms)? else { continue };
        keep_on(rooms.leave(&room.id, user, None).await, &room.id)?;
    }
    rooms.forget_delayed(user).await.map_err(error_map::rooms)?;
    users.finish(Job::LeaveRooms, user).await.map_err(error_map::users)
}

/// Writes a user's name and avatar to its member event of every joined room (CR26).
///
/// # Errors
/// When the store fails; the job stays.
pub async fn tell_profile(users: &Users, rooms: &Rooms, user: &UserId) -> Result<(), Error> {
    let mut content = Object::new();
    content.insert("membership".to_owned(), Json::String("join".to_owned()));
    let name = users.display_name(user).await.map_err(error_map::users)?;
    let avatar = users.avatar_url(user).await.map_err(error_map::users)?;
    for (field, value) in [(DISPLAY_NAME, name), (AVATAR_URL, avatar)] {
        content.extend(value.map(|value| (field.to_owned(), Json::String(value))));
    }
    for room_id in rooms.joined_room_ids(user).await.map_err(error_map::rooms)? {
        let member = NewEvent::state(user, "m.room.member", user.as_str(), content.clone());
        keep_on(rooms.send(&room_id, member).await, &room_id)?;
    }
    users.finish(Job::TellProfile, user).await.map_err(error_map::users)
}

/// One room that refuses does not keep the others from learning; a store that fails does.
fn keep_on<T>(outcome: Result<T, rooms::Error>, room_id: &str) -> Result<(), Error> {
    match outcome {
        Ok(_) => Ok(()),
        Err(rooms::Error::Store(error)) => Err(error.into()),
        Err(cause) => {
            tracing::warn!(%cause, room_id, "a changed account could not be told to a room");
            Ok(())
        }
    }
}
