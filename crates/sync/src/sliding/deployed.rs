//! A room in the words of `org.matrix.simplified_msc3575`, which clients speak today.

use crate::json::{Object, array};
use crate::sliding::answer::RoomAnswer;

/// The room as JSON.
pub(crate) fn room(answer: &RoomAnswer) -> Object {
    let mut room = answer.common();
    if let Some(is_dm) = answer.is_dm {
        room.boolean("is_dm", is_dm);
    }
    if answer.expanded {
        room.boolean("unstable_expanded_timeline", true);
    }
    if !answer.state.is_empty() {
        room.raw("required_state", &array(&answer.state));
    }
    // Clients take a room without it for joined.
    if let Some(stripped) = &answer.stripped {
        room.raw("invite_state", stripped);
    }
    // Clients take absent counts for zero.
    room.number("notification_count", answer.unread.notifications);
    room.number("highlight_count", answer.unread.highlights);
    room
}
