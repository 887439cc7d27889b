//! What SQLite's errors mean for the store.

use rusqlite::ErrorCode;
use store::Error;

/// The store's error for one of SQLite.
pub(crate) fn engine(error: rusqlite::Error) -> Error {
    match code(&error) {
        Some(ErrorCode::DiskFull) => Error::DiskFull,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::Unusable(format!(
            "the database file is damaged ({error}): stop the server and restore the last backup, or rescue what is \
             left with `sqlite3 FILE .recover`"
        )),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Error::Engine(format!("another program is writing to the database file ({error})"))
        }
        Some(ErrorCode::OperationInterrupted) => {
            Error::Engine("a read took too long and was cut, since it kept the log from being emptied".to_owned())
        }
        _ => Error::Engine(error.to_string()),
    }
}

/// SQLite's primary result code.
pub(crate) fn code(error: &rusqlite::Error) -> Option<ErrorCode> {
    error.sqlite_error_code()
}

/// Whether a row broke a constraint: the fault of its batch, not of the database.
pub(crate) fn is_constraint(error: &rusqlite::Error) -> bool {
    matches!(code(error), Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig))
}

/// The store's error for one of the file system.
pub(crate) fn io(what: &str, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Error::DiskFull,
        _ => Error::Unusable(format!("cannot {what}: {error}")),
    }
}
