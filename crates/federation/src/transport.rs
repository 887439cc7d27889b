//! How a signed request leaves for another server: over the network in the program, through a simulated one in tests.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;

/// Bounds on one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the call to the end of the body.
    pub timeout: Duration,
    /// Most bytes of the answer's body.
    pub body_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), body_bytes_max: 10 << 20 }
    }
}

/// A request that is ready to leave.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The server name it is for, as in user ids; whoever carries the request finds the address.
    pub destination: String,
    /// The method.
    pub method: Method,
    /// Path and query, exactly as signed.
    pub path_and_query: String,
    /// Headers, `Authorization` among them; not `Host`.
    pub headers: HeaderMap,
    /// The JSON body, exactly as signed.
    pub body: Option<Bytes>,
    /// Bounds.
    pub limits: Limits,
}

/// The body of an answer, piece by piece.
pub type AnswerBody = UnsyncBoxBody<Bytes, TransportError>;

/// The answer to an [`Outgoing`].
pub struct Incoming {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; it ends with an error where it breaks a bound.
    pub body: AnswerBody,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Incoming").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The server name leads nowhere: no address, or only forbidden ones.
    #[error("it cannot be found: {0}")]
    NotFound(String),
    /// No connection, or it broke.
    #[error("the connection failed: {0}")]
    Connection(String),
    /// Its certificate is not for its name.
    #[error("its certificate is not valid: {0}")]
    Certificate(String),
    /// No answer in time.
    #[error("it did not answer in time")]
    Timeout,
    /// The answer's body is larger than allowed.
    #[error("its answer is too large")]
    TooLarge,
}

/// Carries requests to other servers.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends one request and waits for the head of its answer.
    ///
    /// # Errors
    /// As [`TransportError`] says; a Matrix error is an answer.
    async fn send(&self, request: Outgoing) -> Result<Incoming, TransportError>;

    /// Fetches what another server says stands at a URL, which may be anywhere: no signature goes there, and no credentials.
    ///
    /// # Errors
    /// As [`TransportError`] says; any status is an answer.
    async fn fetch(&self, url: &str, _limits: Limits) -> Result<Incoming, TransportError> {
        Err(TransportError::NotFound(url.to_owned()))
    }

    /// Forgets how this server was found: its address may have changed.
    fn forget(&self, _server: &str) {}
}
