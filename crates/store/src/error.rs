//! What can go wrong in the store.

/// A failed read or commit.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A stored row contradicts its declaration.
    #[error("the database contradicts itself in table {table}: {detail}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// What was found.
        detail: String,
    },
    /// The disk is full: nothing of the batch was written; reads go on.
    #[error("the disk that holds the database is full: free some space; nothing was half-written")]
    DiskFull,
    /// The database cannot be opened or used as it is; says what to do.
    #[error("{0}")]
    Unusable(String),
    /// The store is shutting down or its writer has ended.
    #[error("the store is closed")]
    Closed,
    /// The database cannot be reached, or is too busy, for now: nothing of this was done, and the same may succeed later.
    #[error("the database does not serve now: {0}")]
    Unavailable(String),
    /// The engine failed in another way.
    #[error("storage engine: {0}")]
    Engine(String),
}

/// Why a batch was not committed. Nothing of it was written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// This check (by place in the batch) did not hold.
    #[error("check {check} of the batch did not hold")]
    Conflict {
        /// Place of the first check that failed.
        check: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
}
