//! Everything that leaves the server over HTTP leaves here: one connector with a filter on addresses, bounds on time and
//! size, and extra certificate authorities.
//!
//! [`Egress::send`] takes a [`Route`] that somebody else has found; [`Egress::fetch`] takes a URL and follows
//! redirections. Either way the addresses are filtered right before the connection is made to exactly these, so DNS cannot
//! change its mind in between. Answers are never decompressed, so a small one stays small.

mod addresses;
mod body;
mod connection;
mod error;
mod fetch;
mod pool;
mod resolver;
mod route;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, USER_AGENT};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

pub use addresses::{AddressFilter, Range, RangeError, is_public};
pub use body::Body;
pub use error::Error;
pub use fetch::{Fetch, Schemes};
pub use resolver::{ADDRESSES_MAX, Resolver, SRV_RECORDS_MAX, Srv};
pub use route::{ENDPOINTS_MAX, Endpoint, Route};
pub use tls::{Trust, TrustError, machine_has_authorities};

use connection::{Connection, Connector, Outgoing};
use pool::{Key, Lease, Place, Pool};

/// The settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `User-Agent`.
    pub user_agent: String,
    /// Ranges of private addresses that may be reached.
    pub allowed_private_ranges: Vec<Range>,
    /// Whose certificates are trusted.
    pub trust: Trust,
    /// The name servers; those of the system if there are none.
    pub name_servers: Vec<SocketAddr>,
    /// Time for one address to take a connection, TLS included.
    pub connect_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            user_agent: concat!("Hearth/", env!("CARGO_PKG_VERSION")).to_owned(),
            allowed_private_ranges: Vec::new(),
            trust: Trust::default(),
            name_servers: Vec::new(),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The trust in certificates.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The resolver.
    #[error(transparent)]
    Resolver(#[from] Error),
    /// The `User-Agent` cannot stand in a header.
    #[error("`{0}` cannot be a User-Agent")]
    UserAgent(String),
}

/// Bounds on one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the call to the end of the body, redirections included.
    pub timeout: Duration,
    /// Most bytes of the body.
    pub body_bytes_max: usize,
}

/// When something has to be done.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// So long from now.
    pub fn after(timeout: Duration) -> Self {
        Self(Instant::now() + timeout)
    }

    /// Waits for an outcome until then.
    ///
    /// # Errors
    /// The outcome's own, or [`Error::Timeout`].
    pub async fn bound<T>(self, outcome: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        timeout_at(self.0, outcome).await.unwrap_or(Err(Error::Timeout))
    }
}

/// A request whose way is known.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where it goes.
    pub route: Route,
    /// The method.
    pub method: Method,
    /// Path and query, sent as they are.
    pub path_and_query: String,
    /// Headers but `Host` and `User-Agent`.
    pub headers: HeaderMap,
    /// The body.
    pub body: Option<Bytes>,
    /// Bounds.
    pub limits: Limits,
}

/// The answer.
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, within its bounds.
    pub body: Body,
}

/// The client. Cheap to clone. Must be made and used on a tokio runtime.
#[derive(Clone)]
pub struct Egress {
    inner: Arc<Inner>,
}

struct Inner {
    connector: Connector,
    pool: Pool,
    resolver: Resolver,
    user_agent: HeaderValue,
}

impl Egress {
    /// A client.
    ///
    /// # Errors
    /// See [`SetupError`].
    pub fn new(options: Options) -> Result<Self, SetupError> {
        let user_agent = HeaderValue::from_str(&options.user_agent);
        let connector = Connector {
            filter: AddressFilter::new(options.allowed_private_ranges),
            tls: Arc::new(options.trust.config()?),
            connect_timeout: options.connect_timeout,
        };
        let inner = Inner {
            connector,
            pool: Pool::new(),
            resolver: Resolver::new(&options.name_servers)?,
            user_agent: user_agent.map_err(|_| SetupError::UserAgent(options.user_agent))?,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Looks names up.
    pub fn resolver(&self) -> &Resolver {
        &self.inner.resolver
    }

    /// Sends a request and waits for the head of its answer. A redirection is an answer.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn send(&self, request: Request) -> Result<Response, Error> {
        let deadline = Deadline::after(request.limits.timeout);
        self.send_until(request, deadline).await
    }

    /// As [`Egress::send`], with the time counted from when the deadline was made.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn send_until(&self, request: Request, deadline: Deadline) -> Result<Response, Error> {
        let key = Key::of(&request.route);
        let exchange = async {
            let place = self.inner.pool.place(&key).await?;
            let (answer, sender) = self.exchange(&key, &request).await?;
            Ok::<_, Error>((answer, sender, place))
        };
        let (answer, sender, place) = deadline.bound(exchange).await?;
        self.respond(answer, (sender, place), key, request.limits, deadline)
    }

    /// Closes the idle connections of a route: whoever answers there now may be somebody else.
    pub fn close(&self, route: &Route) {
        self.inner.pool.close(&Key::of(route));
    }

    fn respond(
        &self,
        answer: http::Response<Incoming>,
        (sender, place): (Option<Http1>, Place),
        key: Key,
        limits: Limits,
        deadline: Deadline,
    ) -> Result<Response, Error> {
        let (head, incoming) = answer.into_parts();
        let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let bytes_max = u64::try_from(limits.body_bytes_max).unwrap_or(u64::MAX);
        if length.is_some_and(|length| length > bytes_max) {
            return Err(Error::TooLarge);
        }
        let lease = Lease { pool: self.inner.pool.clone(), key, sender, place };
        let body = Body::new(incoming, limits.body_bytes_max, deadline.0, lease);
        Ok(Response { status: head.status, headers: head.headers, body })
    }

    /// Sends over an open connection, or a new one.
    async fn exchange(&self, key: &Key, request: &Request) -> Result<(http::Response<Incoming>, Option<Http1>), Error> {
        // A connection that was idle may have been closed just now by the other side. The next is tried then, if the
        // request did not leave or may come twice; each look at the pool takes one out, so this ends.
        while let Some(connection) = self.inner.pool.take(key) {
            let shared = matches!(connection, Connection::Two(_));
            match self.send_over(connection, request).await {
                Ok(answer) => return Ok(answer),
                Err(failure) if !failure.sent || is_idempotent(&request.method) => {
                    if shared {
                        self.inner.pool.close(key);
                    }
                }
                Err(failure) => return Err(failure.error),
            }
        }
        let connection = self.inner.connector.connect(&request.route).await?;
        if let Connection::Two(sender) = &connection {
            self.inner.pool.share(key, sender.clone());
        }
        self.send_over(connection, request).await.map_err(|failure| failure.error)
    }

    async fn send_over(
        &self,
        connection: Connection,
        request: &Request,
    ) -> Result<(http::Response<Incoming>, Option<Http1>), Failure> {
        let not_sent = |error: Error| Failure { error, sent: false };
        match connection {
            Connection::One(mut sender) => {
                sender.ready().await.map_err(|error| not_sent(broken(&error)))?;
                let outgoing = self.outgoing(request, false).map_err(not_sent)?;
                let answer = sender.try_send_request(outgoing).await.map_err(|mut error| Failure {
                    sent: error.take_message().is_none(),
                    error: broken(&error.into_error()),
                })?;
                Ok((answer, Some(sender)))
            }
            Connection::Two(mut sender) => {
                sender.ready().await.map_err(|error| not_sent(broken(&error)))?;
                let outgoing = self.outgoing(request, true).map_err(not_sent)?;
                let answer = sender.try_send_request(outgoing).await.map_err(|mut error| Failure {
                    sent: error.take_message().is_none(),
                    error: broken(&error.into_error()),
                })?;
                Ok((answer, None))
            }
        }
    }

    /// The request as HTTP/1.1 or 2 wants it: the authority stands in `Host` or in the URI.
    fn outgoing(&self, request: &Request, two: bool) -> Result<Outgoing, Error> {
        let wrong = |what: &str| Error::Request(format!("the {what} is malformed"));
        let path = PathAndQuery::try_from(request.path_and_query.as_str()).map_err(|_| wrong("path"))?;
        let host = &request.route.host;
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(path);
        if two {
            uri.scheme = Some(Scheme::HTTPS);
            uri.authority = Some(Authority::try_from(host.as_str()).map_err(|_| wrong("host"))?);
        }
        let uri = Uri::from_parts(uri).map_err(|_| wrong("path"))?;
        let mut outgoing = http::Request::new(Full::new(request.body.clone().unwrap_or_default()));
        *outgoing.method_mut() = request.method.clone();
        *outgoing.uri_mut() = uri;
        let headers = outgoing.headers_mut();
        headers.clone_from(&request.headers);
        headers.insert(USER_AGENT, self.inner.user_agent.clone());
        if !two {
            headers.insert(HOST, HeaderValue::from_str(host).map_err(|_| wrong("host"))?);
        }
        Ok(outgoing)
    }
}

type Http1 = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

/// Why a request over an open connection has no answer, and whether the other side may have got it.
struct Failure {
    error: Error,
    sent: bool,
}

fn broken(error: &hyper::Error) -> Error {
    Error::Connection(error.to_string())
}

/// Whether a request may come twice (RFC 9110, section 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS].contains(method)
}
