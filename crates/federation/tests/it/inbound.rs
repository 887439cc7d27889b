//! What other servers ask.

mod access;
mod events;
mod memberships;
mod nonsense;
mod queries;
