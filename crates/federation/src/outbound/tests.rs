//! Tests of the queues against a peer that is told to fail.
