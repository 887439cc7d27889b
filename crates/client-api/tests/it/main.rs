//! Stories over HTTP on a whole server in memory: what clients see, by the numbers of the behaviours.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod account;
mod account_routes;
mod create_room;
mod dehydrated_device;
mod delayed_events;
mod directory;
mod email;
mod events;
mod guests;
mod history;
mod membership;
mod notifications;
mod notifying;
mod old_sync;
mod purge;
mod rate_limits;
mod relations;
mod search;
mod sliding;
mod sliding_rooms;
mod spaces;
mod sticky_events;
mod sync;
mod sync_lazy;
mod sync_waiting;
mod thread_subscriptions;
mod unstable_names;
mod upgrade;
mod user_directory;
