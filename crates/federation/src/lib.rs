//! Other servers: finding and trusting them, what they ask, what is sent to them (server-server API).
//!
//! [`transport`] is the door to the network, [`client`] signs what goes through it, [`key_ring`] knows whose keys are
//! whose.

pub mod error;
pub mod transport;

pub use error::{Error, Result};
