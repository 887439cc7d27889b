//! The room engine on the in-memory store, without HTTP and without a network.
#![expect(clippy::unwrap_used, reason = "tests")]

mod graphs;
mod harness;
mod local;
