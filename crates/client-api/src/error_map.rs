//! The rooms' own errors as what leaves the server: the one place where each gets its Matrix code.

use endpoint::Error;
use http::StatusCode;

/// What clients are told to wait while a room is contended, in milliseconds.
const BUSY_RETRY_MS: u64 = 1_000;

/// The room engine's error as an answer.
pub fn rooms(error: ::rooms::Error) -> Error {
    use ::rooms::Error as E;
    let text = error.to_string();
    match error {
        E::NotInRoom | E::Forbidden(_) => Error::forbidden(text),
        E::EventNotFound | E::NotFound(_) => Error::not_found(text),
        E::Invalid(_) | E::BadToken(_) => Error::invalid_param(text),
        E::BadContent(_) => Error::bad_json(text),
        E::TooLarge(_) => Error::too_large(text),
        E::UnsupportedVersion(_) => Error::unsupported_room_version(),
        E::InvalidRoomState(_) => Error::invalid_room_state(text),
        E::AliasTaken => Error::room_in_use(),
        E::BadAlias(_) => Error::bad_alias(text),
        E::DuplicateAnnotation => Error::duplicate_annotation(),
        E::BadThreadRoot => Error::unknown(StatusCode::BAD_REQUEST, text),
        E::InviteBlocked => Error::invite_blocked(),
        E::Remote(_) => Error::forbidden(text),
        E::Busy => Error::limit_exceeded(BUSY_RETRY_MS),
        E::Store(error) => Error::internal(error),
    }
}

/// The sync engine's error as an answer.
pub fn sync(error: ::sync::Error) -> Error {
    use ::sync::Error as E;
    let text = error.to_string();
    match error {
        E::BadToken(_) | E::BadFilter(_) | E::UnknownFilter(_) => Error::invalid_param(text),
        E::Rooms(error) => rooms(error),
        E::Users(users::Error::Store(error)) | E::Store(error) => Error::internal(error),
        E::Users(_) => Error::unknown(StatusCode::INTERNAL_SERVER_ERROR, text),
    }
}
