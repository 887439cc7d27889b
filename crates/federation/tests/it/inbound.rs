//! What other servers ask.

mod access;
mod bad_input;
mod events;
mod memberships;
mod nonsense;
mod queries;
mod third_party_invites;
