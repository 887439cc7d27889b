//! A room in the words of MSC4186 as accepted.

use crate::json::{Object, array, quote};
use crate::sliding::answer::RoomAnswer;

/// The room as JSON.
pub(crate) fn room(answer: &RoomAnswer) -> Object {
    let mut room = answer.common();
    room.text("membership", &answer.membership);
    if let Some(is_dm) = answer.is_dm {
        room.boolean("is_dm", is_dm);
    }
    if answer.expanded {
        room.boolean("expanded_timeline", true);
    }
    let gone = |(kind, state_key): &(String, String)| {
        format!("{{\"type\":{},\"state_key\":{}}}", quote(kind), quote(state_key))
    };
    let state: Vec<String> = answer.state.iter().cloned().chain(answer.gone.iter().map(gone)).collect();
    if !state.is_empty() {
        room.raw("required_state", &array(&state));
    }
    if let Some(stripped) = &answer.stripped {
        room.raw("stripped_state", stripped);
    }
    if !answer.lists.is_empty() {
        let lists: Vec<String> = answer.lists.iter().map(|list| quote(list)).collect();
        room.raw("lists", &array(&lists));
    }
    room
}
