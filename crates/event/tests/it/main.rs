//! Tests of the crate `event` against the specification's vectors and against
//! independent implementations.

#![expect(clippy::unwrap_used, reason = "tests")]

mod auth_differential;
mod auth_rules;
mod building;
mod format;
mod hashing;
mod json;
mod policy;
mod power_levels;
mod redaction;
mod robustness;
mod room;
mod speed;
mod state_res;
mod support;
mod synapse;
mod vectors;
