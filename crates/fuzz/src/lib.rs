//! Fuzz targets for every parser of foreign bytes, and what drives them on a stable compiler.
//!
//! A target takes bytes and answers what the parser made of them. Answers guide the search: an input
//! with an answer that was not seen before is kept and changed further. A panic, or a property that
//! does not hold (what is read and written again is the same), fails the target's test; the input is
//! then in `target/fuzz-failures/`, and goes into the target's seeds with the repair.
//!
//! Each target is a test that runs for `HEARTH_FUZZ_SECONDS` (one second where that is not set) on inputs
//! that follow from `HEARTH_FUZZ_SEED` (1 where that is not set).

mod drive;
mod mutate;
mod targets;

pub use drive::{Outcome, drive};
pub use targets::{TARGETS, Target};
