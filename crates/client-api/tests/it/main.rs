//! Stories over HTTP on a whole server in memory: what clients see, by the numbers of the behaviours.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod harness;

mod create_room;
mod directory;
mod events;
mod history;
mod membership;
mod relations;
mod upgrade;
