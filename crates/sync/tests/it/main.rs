//! The sync engine on a store, without HTTP.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod bench;
mod lazy;
mod wakes;
