//! Stories of other servers and this one, by the numbers of the behaviours: a server on the in-memory store, and peers
//! with keys of their own behind a simulated network.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod harness;
mod inbound;
mod receive;
