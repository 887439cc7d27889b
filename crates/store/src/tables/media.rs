//! Tables of the media store.

use crate::Table;

/// The tables of this file.
pub const TABLES: &[&Table] = &[];
