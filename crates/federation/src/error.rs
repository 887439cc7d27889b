//! What can go wrong between servers.

use event::VerifyError;
use http::StatusCode;

use crate::transport::TransportError;

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a piece of federation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The other server cannot be reached, or did not answer in time.
    #[error("{server}: {error}")]
    Unreachable {
        /// The other server.
        server: String,
        /// Why.
        error: TransportError,
    },
    /// The other server answered with an error.
    #[error("{server} answered {status} {errcode}: {message}")]
    Remote {
        /// The other server.
        server: String,
        /// The status.
        status: StatusCode,
        /// `errcode` of the answer; empty if it had none.
        errcode: String,
        /// `error` of the answer.
        message: String,
        /// The whole answer, for members such as `room_version`.
        body: serde_json::Value,
    },
    /// The other server's answer is not what the specification says.
    #[error("{server} gave a malformed answer: {reason}")]
    Malformed {
        /// The other server.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An event of another server does not verify.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Federation with this server is off by configuration or by the room's ACL.
    #[error("{0} is not allowed here")]
    Denied(String),
    /// No server was left to ask.
    #[error("no other server could help: {0}")]
    Exhausted(String),
    /// The room engine refused.
    #[error(transparent)]
    Rooms(#[from] rooms::Error),
    /// The users' side refused.
    #[error(transparent)]
    Users(#[from] users::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}
