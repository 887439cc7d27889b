//! Whole servers in one process, on a clock that tests move: what the tests of behavior are told with.
//!
//! A [`Server`] has the accounts, rooms, sync and media of the program behind the program's own HTTP layers, without
//! sockets: a [`Client`] hands its requests to the router. Time and chance are the test's ([`FakeClock`],
//! [`SeededEntropy`]), so that each run is the same. The store is in memory, or SQLite in a temporary folder where the
//! environment says `HEARTH_TEST_STORE=sqlite`.

#![expect(clippy::unwrap_used, reason = "a test whose server cannot be set up has failed")]

mod client;
mod json;
mod letters;
mod sockets;
mod whole;
mod world;

pub use client::{Answer, Client};
pub use json::{each, encoded, list, next_batch, text};
pub use letters::Letters;
pub use sockets::{Listening, Panics, RawAnswer, RawPeer};
pub use whole::{Restarted, SERVER, Server, signing_key};
pub use world::{FakeClock, SeededEntropy};
