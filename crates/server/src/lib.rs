//! The program: configuration, boot order, listeners, commands.

pub mod boot;
pub mod commands;
pub mod config;
pub mod control;
pub mod copies;
pub mod draining;
pub mod federation;
pub mod first_account;
pub mod gateways;
pub mod health;
pub mod keys;
pub mod listeners;
pub mod mailer;
pub mod metrics;
pub mod neighbors;
pub mod nodes;
pub mod notify;
pub mod outgoing;
pub mod previews;
pub mod readers;
pub mod resources;
pub mod sessions;
pub mod transfer;
pub mod world;

pub use boot::{Running, build};
