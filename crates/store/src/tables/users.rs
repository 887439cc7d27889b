//! Tables of accounts, sessions, devices and what users keep.

use crate::Table;

/// The tables of this file.
pub const TABLES: &[&Table] = &[];
