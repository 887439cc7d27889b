//! What can go wrong below the network: gateways that fail are no error here.

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The room engine.
    #[error(transparent)]
    Rooms(#[from] rooms::Error),
    /// Accounts.
    #[error(transparent)]
    Users(#[from] users::Error),
}

impl Error {
    /// Whether the error lies in the store as a whole, which may be back in a moment, rather than in what was asked of it.
    pub(crate) fn will_pass(&self) -> bool {
        let (Self::Store(error) | Self::Rooms(rooms::Error::Store(error)) | Self::Users(users::Error::Store(error))) =
            self
        else {
            return false;
        };
        !matches!(error, store::Error::Corrupt { .. })
    }
}
