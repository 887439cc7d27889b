//! What is shown, each in a file.

pub mod encryption;
pub mod invites;
pub mod list;
pub mod ranges;
pub mod recovery;
pub mod subscriptions;
pub mod unread;
