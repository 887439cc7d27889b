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
        E::NotInRoom | E::Forbidden(_) | E::DelayTooLong(_) | E::NotRecommended(_) => Error::forbidden(text),
        E::PolicyServerAway(_) => Error::unavailable("The policy server of this room cannot be asked: try again."),
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
        E::PartialState => Error::unavailable(text),
        E::TooManyDelayed(wait_ms) => Error::limit_exceeded(wait_ms),
        E::Busy => Error::limit_exceeded(BUSY_RETRY_MS),
        E::Store(error) => error.into(),
    }
}

/// The sync engine's error as an answer.
pub fn sync(error: ::sync::Error) -> Error {
    use ::sync::Error as E;
    let text = error.to_string();
    match error {
        E::UnknownPos => Error::unknown_pos(),
        E::BadToken(_) | E::BadFilter(_) | E::UnknownFilter(_) => Error::invalid_param(text),
        E::Rooms(error) => rooms(error),
        E::Users(users::Error::Store(error)) | E::Store(error) => error.into(),
        E::Users(_) => Error::unknown(StatusCode::INTERNAL_SERVER_ERROR, text),
    }
}

/// The search index's error as an answer.
pub fn search(error: ::search::Error) -> Error {
    use ::search::Error as E;
    let text = error.to_string();
    match error {
        E::BadToken | E::TooLong(_) | E::TooManyRooms(_) => Error::invalid_param(text),
        E::Rooms(error) => rooms(error),
        E::Store(error) => error.into(),
    }
}

/// The accounts' error as an answer.
pub fn users(error: ::users::Error) -> Error {
    use ::users::Error as E;
    let text = error.to_string();
    match error {
        E::InvalidUsername(_) => Error::invalid_username(text),
        E::UserInUse => Error::user_in_use(),
        E::RegistrationClosed
        | E::InvalidRegistrationToken
        | E::BadMac
        | E::WrongCredentials
        | E::NotYourIdentity
        | E::AccountPageOnly
        | E::Forbidden(_) => Error::forbidden(text),
        E::Deactivated => Error::user_deactivated(),
        E::Locked => Error::user_locked(),
        E::NoMail => Error::threepid_medium_not_supported(),
        E::AddressDenied => Error::threepid_denied(text),
        E::AddressInUse => Error::threepid_in_use(),
        E::AddressUnknown => Error::threepid_not_found(),
        E::EmailSessionUnknown | E::EmailNotProven => Error::threepid_auth_failed(),
        E::TooManyMails => Error::unavailable("Too many e-mails wait to be sent: try again later."),
        E::UnknownToken => Error::unknown_token(false),
        E::NotFound(_) => Error::not_found(text),
        E::InvalidParam(_) => Error::invalid_param(text),
        E::MissingParam(name) => Error::missing_param(name),
        E::ServerControlled(_) => Error::bad_json(text).status(StatusCode::METHOD_NOT_ALLOWED),
        E::TooLarge(_) => Error::too_large(text),
        E::KeyTooLarge => Error::key_too_large(),
        E::ProfileTooLarge => Error::profile_too_large(),
        E::RuleNotFound(_) => Error::unknown(StatusCode::BAD_REQUEST, text),
        E::InvalidSignature(_) => Error::invalid_signature(text),
        E::WrongBackupVersion(current) => Error::wrong_room_keys_version(&current),
        E::Conflict => Error::unavailable("Too many others change the same thing: try again."),
        E::Store(error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_as_such() {
        let full = || store::Error::DiskFull;
        let told = [
            rooms(::rooms::Error::Store(full())),
            sync(::sync::Error::Store(full())),
            sync(::sync::Error::Rooms(::rooms::Error::Store(full()))),
            search(::search::Error::Store(full())),
            users(::users::Error::Store(full())),
        ];
        for error in told {
            assert_eq!(error.status, StatusCode::INSUFFICIENT_STORAGE);
        }
    }
}
