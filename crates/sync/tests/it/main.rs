//! The sync engine on a store, without HTTP.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod bench;
mod deliveries;
mod device_lists;
mod lazy;
mod remote;
mod restarted;
mod restored;
mod simulated;
mod sliding_model;
mod stepped;
mod wakes;
