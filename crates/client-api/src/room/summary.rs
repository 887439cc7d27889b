//! Which users may know of a room that is described to them.

use endpoint::Error;
use federation::descriptions::Description;
use rooms::summary::Summary;
use store::UserId;

use crate::{State, error_map};

/// Whether a user (or nobody in particular) may know of the room: those in it or invited, and those who could join or
/// knock, and everyone if it is world-readable.
///
/// # Errors
/// `M_UNKNOWN` when the store fails.
pub async fn is_accessible(state: &State, summary: &Summary<'_>, user: Option<&UserId>) -> Result<bool, Error> {
    let open = summary.open_to_all();
    let Some(user) = user else { return Ok(open || summary.world_readable()) };
    let row = state.rooms.membership_row(summary.room().num, user).await.map_err(error_map::rooms)?;
    match row.as_ref().map(|row| row.membership.as_str()) {
        Some("join" | "invite") => return Ok(true),
        Some("ban") => return Ok(summary.world_readable()),
        _ if open || summary.world_readable() => return Ok(true),
        _ => {}
    }
    Ok(is_in_any(state, summary.allowed_rooms().into_iter(), user).await)
}

async fn is_in_any(state: &State, allowed: impl Iterator<Item = &str>, user: &UserId) -> bool {
    for allowed in allowed {
        if state.rooms.joined_room(allowed, user).await.is_ok() {
            return true;
        }
    }
    false
}

/// The same of a room that another server describes: it does so for all users of this server.
///
/// # Errors
/// `M_UNKNOWN` when the store fails.
pub async fn is_accessible_elsewhere(state: &State, room: &Description, user: &UserId) -> Result<bool, Error> {
    let row = state.rooms.any_membership(room.room_id(), user).await.map_err(error_map::rooms)?;
    Ok(match row.as_ref().map(|row| row.membership.as_str()) {
        Some("join" | "invite") => true,
        Some("ban") => false,
        _ => room.is_open() || is_in_any(state, room.allowed_rooms(), user).await,
    })
}
