//! Tests of the whole crate on the in-memory store.
