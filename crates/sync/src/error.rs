//! What sync refuses.

/// Why a sync got no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The token has another form or is of a lost future.
    #[error("the token {0:?} is not one of this server's")]
    BadToken(String),
    /// The position is not one that this connection of sliding sync can go on from.
    #[error("the connection does not know this position")]
    UnknownPos,
    /// The filter is not a filter.
    #[error("filter: {0}")]
    BadFilter(String),
    /// There is no filter with this id.
    #[error("there is no filter {0:?}")]
    UnknownFilter(String),
    /// Reading rooms failed.
    #[error(transparent)]
    Rooms(#[from] rooms::Error),
    /// Reading users failed.
    #[error(transparent)]
    Users(#[from] users::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}
