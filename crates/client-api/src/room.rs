//! Rooms: every route whose subject is a room, one file per thing that the specification names.

pub(crate) mod access;
mod banning;
mod create_room;
pub mod delayed_events;
mod directory;
pub(crate) mod event_context;
mod inviting;
mod joining;
mod kicking;
mod knocking;
mod leaving;
mod list_joined_rooms;
mod list_public_rooms;
mod members;
pub(crate) mod message_pagination;
pub(crate) mod mutual_rooms;
pub mod people;
pub mod purging;
mod redaction;
mod relations;
mod room_event_by_timestamp;
mod room_initial_sync;
mod room_send;
mod room_state;
mod room_summary;
mod room_upgrades;
pub(crate) mod rooms;
mod space_hierarchy;
mod summary;
mod thread_subscriptions;
mod threads_list;

use axum::Router;

use crate::State;

/// The routes of all files.
pub fn routes() -> Router<State> {
    let all = [
        banning::routes(),
        create_room::routes(),
        delayed_events::routes(),
        directory::routes(),
        event_context::routes(),
        inviting::routes(),
        joining::routes(),
        kicking::routes(),
        knocking::routes(),
        leaving::routes(),
        list_joined_rooms::routes(),
        list_public_rooms::routes(),
        members::routes(),
        message_pagination::routes(),
        mutual_rooms::routes(),
        redaction::routes(),
        relations::routes(),
        room_event_by_timestamp::routes(),
        room_initial_sync::routes(),
        room_send::routes(),
        room_state::routes(),
        room_summary::routes(),
        room_upgrades::routes(),
        rooms::routes(),
        space_hierarchy::routes(),
        thread_subscriptions::routes(),
        threads_list::routes(),
    ];
    all.into_iter().fold(Router::new(), Router::merge)
}
