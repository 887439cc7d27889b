//! What other servers ask.

mod access;
mod queries;
