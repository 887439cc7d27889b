//! Rooms: every route whose subject is a room, one file per thing that the specification names.

mod access;
mod create_room;
mod inviting;
mod joining;
mod leaving;
mod list_joined_rooms;
mod message_pagination;
mod people;
mod redaction;
mod room_send;
mod room_state;

use axum::Router;

use crate::State;

/// The routes of all files.
pub fn routes() -> Router<State> {
    let all = [
        create_room::routes(),
        inviting::routes(),
        joining::routes(),
        leaving::routes(),
        list_joined_rooms::routes(),
        message_pagination::routes(),
        redaction::routes(),
        room_send::routes(),
        room_state::routes(),
    ];
    all.into_iter().fold(Router::new(), Router::merge)
}
