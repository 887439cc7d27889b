//! The HTTP door: who asks, may they, is the request well-formed, and what an error looks like on the wire.
//!
//! [`Error`] is the only place where Matrix error codes stand. The extractors ([`Requester`], [`JsonBody`], [`Path`],
//! [`Query`] …) turn a request into typed values or into an [`Error`]; [`layers`] wraps a whole router with what every
//! answer has: CORS headers, a request id in the log, and an answer even where a handler panicked.

pub mod address;
pub mod body;
pub mod door;
pub mod error;
pub mod layers;
pub mod page;
pub mod path;
pub mod query;
pub mod rate_limit;
pub mod requester;

pub use address::{ClientAddress, Network, PeerAddress};
pub use body::{JsonBody, OptionalBody, RawBody, read_body};
pub use door::{Door, Options};
pub use error::Error;
pub use path::Path;
pub use query::{Query, parse_query};
pub use rate_limit::{RateClass, RateLimiter, RateLimits};
pub use requester::{AnyRequester, GuestRequester, Lookup, OptionalRequester, Requester, Session, Sessions};

#[cfg(test)]
mod tests;
