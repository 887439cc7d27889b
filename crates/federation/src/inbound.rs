//! What other servers ask: one file per file of `data/api/server-server`.
//!
//! Nearly every request is signed; [`access`] says by whom, and who may ask about which room.

mod access;
mod backfill;
mod body;
mod content_repository;
pub(crate) mod error_map;
mod event_auth;
mod events;
mod events_body;
mod invites;
mod joins;
mod keys;
mod knocks;
mod leaving;
mod member_event;
mod openid;
mod public_rooms;
mod query;
mod space_hierarchy;
mod summary;
mod third_party_invite;
mod transactions;
mod user_devices;
mod user_keys;
mod version;
mod wellknown;

use std::sync::Arc;

use axum::Router;
use users::Users;

pub(crate) use self::body::Bodies;
use crate::Federation;

impl Federation {
    /// All server-server routes. Unknown paths and methods are for whoever serves the
    /// router: see [`endpoint::layers`].
    pub fn router(self: &Arc<Self>) -> Router {
        let routes = [
            backfill::routes(),
            content_repository::routes(),
            event_auth::routes(),
            events::routes(),
            invites::routes(),
            joins::routes(),
            keys::routes(),
            knocks::routes(),
            leaving::routes(),
            public_rooms::routes(),
            query::routes(),
            space_hierarchy::routes(),
            third_party_invite::routes(),
            transactions::routes(),
            user_devices::routes(),
            user_keys::routes(),
            version::routes(),
        ];
        let router = routes.into_iter().fold(Router::new(), Router::merge);
        let alone = router_alone(Arc::clone(&self.users), self.options.delegated_to.clone());
        router.with_state(Arc::clone(self)).merge(alone)
    }
}

/// The routes that are there even where this server speaks with no other. Services that are no servers, such as those that
/// let users into calls, look for this server as servers do, and have it confirm who a user is.
pub fn router_alone(users: Arc<Users>, delegated_to: Option<String>) -> Router {
    openid::router(users).merge(wellknown::router(delegated_to))
}
