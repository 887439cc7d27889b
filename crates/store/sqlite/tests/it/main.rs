//! The SQLite engine against the contract, against crashes and against what operators do.
#![expect(clippy::unwrap_used, reason = "tests")]

mod contract;
mod disk;
mod files;
mod kill;
mod operation;
mod plans;
mod support;
