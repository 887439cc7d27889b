//! Other servers: finding and trusting them, what they ask, what is sent to them (server-server API).
//!
//! [`transport`] is the door to the network, [`client`] signs what goes through it, [`key_ring`] knows whose keys are
//! whose.

pub mod client;
pub mod discovery;
pub mod error;
pub mod https;
pub mod key_ring;
mod locks;
pub mod transport;
pub mod verify;
pub mod x_matrix;

pub use error::{Error, Result};
