//! The rooms' own errors as what other servers are told.

use endpoint::Error;
use http::StatusCode;

/// What other servers are told to wait while a room is contended, in milliseconds.
const BUSY_RETRY_MS: u64 = 1_000;

/// The room engine's error as an answer.
pub(crate) fn rooms(error: ::rooms::Error) -> Error {
    use ::rooms::Error as E;
    let text = error.to_string();
    match error {
        E::EventNotFound | E::NotFound(_) => Error::not_found(text),
        E::Invalid(_) | E::BadToken(_) | E::BadContent(_) | E::BadAlias(_) => Error::invalid_param(text),
        E::TooLarge(_) => Error::too_large(text),
        E::UnsupportedVersion(version) => Error::incompatible_room_version(&version),
        E::InviteBlocked => Error::invite_blocked(),
        E::PartialState => Error::unable_due_to_partial_state(),
        E::Busy => Error::limit_exceeded(BUSY_RETRY_MS),
        E::PolicyServerAway(_) => Error::unavailable(text),
        E::Store(error) => error.into(),
        _ => Error::forbidden(text),
    }
}

/// The accounts' error as an answer.
pub(crate) fn users(error: ::users::Error) -> Error {
    use ::users::Error as E;
    let text = error.to_string();
    match error {
        E::Store(error) => error.into(),
        E::Conflict => Error::unavailable("Too many others change the same thing: try again."),
        E::NotFound(_) => Error::not_found(text),
        E::TooLarge(_) => Error::too_large(text),
        _ => Error::invalid_param(text),
    }
}

/// The media store's error as an answer.
pub(crate) fn media(error: ::media::Error) -> Error {
    use ::media::Error as E;
    match error {
        E::BadAddress | E::NotFound | E::RemoteFailed | E::RemoteTooLarge => {
            Error::not_found("There is no such media.")
        }
        E::NotYetUploaded => Error::not_yet_uploaded(),
        E::BadSize => Error::invalid_param("`width` and `height` must be greater than zero."),
        E::NotThumbnailable => Error::unknown(StatusCode::BAD_REQUEST, "No thumbnail can be made of this content."),
        E::ImageTooLarge => Error::too_large("The image is too large for a thumbnail."),
        E::Store(error) => error.into(),
        other => Error::internal(other),
    }
}
