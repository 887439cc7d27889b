//! What can go wrong.

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was given as `next_batch` is none of ours.
    #[error("`next_batch` is no token of a search")]
    BadToken,
    /// The search term is too long.
    #[error("`search_term` may have {0} bytes")]
    TooLong(usize),
    /// The filter names too many rooms.
    #[error("`filter.rooms` may have {0} entries")]
    TooManyRooms(usize),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The room engine.
    #[error(transparent)]
    Rooms(#[from] rooms::Error),
}

impl Error {
    /// Whether the error lies in the store as a whole, which may be back in a moment, rather than in what was asked of it.
    pub(crate) fn will_pass(&self) -> bool {
        match self {
            Self::Store(error) | Self::Rooms(rooms::Error::Store(error)) => {
                !matches!(error, store::Error::Corrupt { .. })
            }
            _ => false,
        }
    }
}
