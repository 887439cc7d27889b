//! What the room engine refuses, in its own words.

/// Why a request on a room was not carried out. Nothing of it was written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// There is no such room, or the requester may not know of it: the two look alike.
    #[error("you are not in this room, or it does not exist")]
    NotInRoom,
    /// The event does not exist or may not be seen.
    #[error("the event was not found")]
    EventNotFound,
    /// There is no such state event, alias or other thing.
    #[error("{0}")]
    NotFound(String),
    /// The auth rules or the requester's power do not allow it.
    #[error("{0}")]
    Forbidden(String),
    /// A member of the request has a bad value.
    #[error("{0}")]
    Invalid(String),
    /// The content is not an acceptable event content.
    #[error("{0}")]
    BadContent(String),
    /// The event is larger than the specification allows.
    #[error("{0}")]
    TooLarge(String),
    /// The room version is not known here.
    #[error("room version {0} is not supported")]
    UnsupportedVersion(String),
    /// The implied state of a new room fails the auth rules.
    #[error("{0}")]
    InvalidRoomState(String),
    /// The alias is taken.
    #[error("the room alias is taken already")]
    AliasTaken,
    /// A canonical alias does not point to this room.
    #[error("{0}")]
    BadAlias(String),
    /// The same annotation was sent before.
    #[error("you have sent the same reaction already")]
    DuplicateAnnotation,
    /// A thread cannot start here.
    #[error("a thread cannot start from an event that itself relates to another")]
    BadThreadRoot,
    /// The room's policy server does not recommend the event; in its words.
    #[error("{0}")]
    NotRecommended(String),
    /// The room's policy server cannot be asked.
    #[error("the policy server of the room cannot be asked: {0}")]
    PolicyServerAway(String),
    /// An event may not be delayed for so long; the longest delay, in milliseconds.
    #[error("an event may be delayed by {0} ms at most")]
    DelayTooLong(i64),
    /// The user has as many scheduled events as are allowed; the next one is sent in so many milliseconds.
    #[error("the maximum number of delayed events has been reached")]
    TooManyDelayed(u64),
    /// The invited user blocks invites.
    #[error("the user does not accept invites")]
    InviteBlocked,
    /// The room or user belongs to another server, and that cannot be done from here.
    #[error("{0}")]
    Remote(String),
    /// A token of another form or of a lost future.
    #[error("the token {0:?} is not one of this server's")]
    BadToken(String),
    /// The room was joined with part of its state, and the rest is needed for this and has not come yet (MSC3902).
    #[error("not all members of the room are known yet, try again later")]
    PartialState,
    /// The room is under so much contention that the decision could not be placed; trying again later may help.
    #[error("the room is too busy, try again")]
    Busy,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The result of most of the engine's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
