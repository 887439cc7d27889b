//! The PostgreSQL engine against the contract, with several nodes on one database, and against cut connections.
//!
//! Runs where `HEARTH_TEST_POSTGRES` names a server (`postgres://user@host:port/database`) whose user may create
//! databases; each test makes its own and drops it. Without it, every test prints that it is skipped. Where
//! `HEARTH_TEST_POSTGRES_CRASH` holds a shell command that crashes and restarts that server, one more test runs by hand.
#![expect(clippy::unwrap_used, reason = "tests")]

mod contract;
mod cut;
mod database;
mod nodes;
mod opening;
mod proxy;
mod reads;
mod speed;
mod tls;
mod whispers;
mod work;
