//! The room engine without HTTP and without a network: on the in-memory store, on SQLite, and, where
//! `HEARTH_TEST_POSTGRES` names a server whose user may create databases, on PostgreSQL.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../../../store/postgres/tests/it/database.rs"]
#[expect(dead_code, reason = "shared with the tests of the PostgreSQL engine, which use more of it")]
mod database;
mod graphs;
mod harness;
mod local;
mod mutants;
mod muting;
mod nodes;
mod pipeline;
mod policy;
#[path = "../../../store/postgres/tests/it/proxy.rs"]
#[expect(dead_code, reason = "shared with the tests of the PostgreSQL engine, which use more of it")]
mod proxy;
mod remote;
mod unread;
mod upkeep;
mod visibility;
