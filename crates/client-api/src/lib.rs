//! The client-server API: one thin file per thing that the specification's `data/api/client-server` names.
//!
//! A file holds a route's parameters, its handler and its answer; decisions are made in the rooms below. Each file has a
//! `routes()`, and [`router`] merges them all.

pub mod account;
pub mod capabilities;
pub mod discovery;
pub mod error_map;
pub mod json_text;
pub mod media;
pub mod old_sync;
pub mod remote;
pub mod room;
pub mod routes;
pub mod rtc;
pub mod search;
pub mod sliding_sync;
pub mod state;
pub mod sync;
pub mod third_party;
pub mod user_directory;
pub mod versions;

pub use routes::Routes;
pub use state::{Options, State, SupportContact};

use axum::Router;

/// Every route of the client-server API.
pub fn router(state: State) -> Router {
    let all = [
        account::routes(),
        versions::routes(),
        capabilities::routes(),
        discovery::routes(),
        media::routes(),
        media::previews::routes(),
        room::routes(),
        rtc::routes(),
        search::routes(),
        sliding_sync::routes(),
        old_sync::routes(),
        sync::routes(),
        third_party::routes(),
        user_directory::routes(),
    ];
    all.into_iter().fold(Router::new(), Router::merge).with_state(state)
}
