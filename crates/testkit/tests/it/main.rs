//! Several servers at once, on a clock, a network and disks of the test.

#![expect(clippy::unwrap_used, reason = "tests")]

mod simulation;
mod simulations;
