//! Why a request has no answer.

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The name has no address, or cannot be looked up.
    #[error("{0} cannot be found")]
    NotFound(String),
    /// All addresses lie in ranges that may not be reached.
    #[error("{0} is an address that may not be reached")]
    Forbidden(String),
    /// No connection, or it broke.
    #[error("{0}")]
    Connection(String),
    /// The certificate is not trusted, or not for the name.
    #[error("the certificate is not valid: {0}")]
    Certificate(String),
    /// Not done in time.
    #[error("no answer in time")]
    Timeout,
    /// The body of the answer is larger than allowed.
    #[error("the answer is too large")]
    TooLarge,
    /// The request cannot be sent as it is: its URL is not one that is fetched, or a header is malformed.
    #[error("the request is not possible: {0}")]
    Request(String),
    /// More redirections than allowed, or to where none is followed.
    #[error("redirected {0}")]
    Redirect(&'static str),
}
