//! Servers that share rooms while everything around them fails: a seed decides what their users do, what the network does
//! to each request and when a server loses power.
//!
//! Each server is the program as `server::boot` builds it, on the real SQLite store, without sockets: requests go to its
//! router. Time is tokio's paused clock, so that hours cost nothing; the network ([`network`]) loses, repeats, delays and
//! cuts; disks ([`disk`]) forget what was not synced. The store's threads are waited for at each step, and all else runs
//! on one thread, so a seed does the same each time.
//!
//! When the faults are over, [`checks`] says what must be true then.

pub mod chance;
pub mod checks;
pub mod deeds;
pub mod disk;
pub mod forgery;
pub mod network;
pub mod node;
pub mod people;
pub mod settling;
pub mod story;
