//! Tables of federation.

use crate::Table;

/// The tables of this file.
pub const TABLES: &[&Table] = &[];
