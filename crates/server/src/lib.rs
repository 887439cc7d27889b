//! The program: configuration, boot order, listeners, commands.

pub mod boot;
pub mod commands;
pub mod config;
pub mod health;
pub mod keys;
pub mod listeners;
pub mod metrics;
pub mod resources;
pub mod sessions;
pub mod world;

pub use boot::{Running, build};
