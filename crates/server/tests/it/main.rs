//! The program as an administrator meets it: configuration, listeners, restarts, commands.
#![expect(clippy::unwrap_used, reason = "tests")]

mod calls;
mod commands;
mod config;
mod discovery;
mod first_account;
mod full_disk;
mod in_process;
mod listeners;
mod outage;
mod postgres;
mod previews;
mod program;
mod push;
mod rendezvous;
mod restart;
mod search;
mod side_by_side;
mod two_nodes;
mod two_servers;
