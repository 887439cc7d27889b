//! Opening a connection: TCP to one of the addresses that may be reached, TLS, and the handshake of HTTP/1.1 or 2.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::addresses::AddressFilter;
use crate::route::Endpoint;
use crate::{Error, Route};

/// After so long the next address is tried beside the one that has not answered yet (RFC 8305, section 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(300);
/// Largest head of an answer over HTTP/1.1, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Largest headers of an answer over HTTP/2, in bytes.
const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;
/// How often an HTTP/2 connection is asked whether it lives, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// What is sent.
pub(crate) type Outgoing = http::Request<Full<Bytes>>;

/// An open connection.
pub(crate) enum Connection {
    /// HTTP/1.1: one request at a time.
    One(http1::SendRequest<Full<Bytes>>),
    /// HTTP/2: many.
    Two(http2::SendRequest<Full<Bytes>>),
}

/// How connections are opened.
pub(crate) struct Connector {
    pub(crate) filter: AddressFilter,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) connect_timeout: Duration,
}

impl Connector {
    /// Connects to the first endpoint that can be reached.
    pub(crate) async fn connect(&self, route: &Route) -> Result<Connection, Error> {
        let mut failure = Error::NotFound(route.host.clone());
        for endpoint in route.endpoints.iter().take(crate::route::ENDPOINTS_MAX) {
            match self.connect_endpoint(endpoint, route).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Tries the addresses of an endpoint: each a moment after the one before it, or when that one has failed.
    async fn connect_endpoint(&self, endpoint: &Endpoint, route: &Route) -> Result<Connection, Error> {
        let permitted: Vec<SocketAddr> =
            endpoint.sockets().filter(|address| address.port() != 0 && self.filter.permits(address.ip())).collect();
        let mut failure = match endpoint.addresses.first() {
            Some(address) if permitted.is_empty() => Error::Forbidden(address.to_string()),
            _ => Error::NotFound(route.host.clone()),
        };
        let mut waiting = permitted.into_iter();
        let mut attempts = FuturesUnordered::new();
        attempts.extend(waiting.next().map(|address| self.connect_address(address, route)));
        while !attempts.is_empty() {
            tokio::select! {
                outcome = attempts.next() => match outcome {
                    Some(Ok(connection)) => return Ok(connection),
                    Some(Err(error)) => failure = error,
                    None => break,
                },
                () = sleep(NEXT_ADDRESS_AFTER), if waiting.len() > 0 => {}
            }
            attempts.extend(waiting.next().map(|address| self.connect_address(address, route)));
        }
        Err(failure)
    }

    async fn connect_address(&self, address: SocketAddr, route: &Route) -> Result<Connection, Error> {
        let connection = async {
            let failed = |error: io::Error| Error::Connection(format!("{address}: {error}"));
            let tcp = TcpStream::connect(address).await.map_err(failed)?;
            tcp.set_nodelay(true).map_err(failed)?;
            match &route.certificate {
                Some(name) => self.secure(tcp, name).await,
                None => handshake(tcp, false).await,
            }
        };
        timeout(self.connect_timeout, connection).await.unwrap_or(Err(Error::Timeout))
    }

    async fn secure(&self, tcp: TcpStream, name: &ServerName<'static>) -> Result<Connection, Error> {
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let tls = connector.connect(name.clone(), tcp).await.map_err(|error| tls_error(&error))?;
        let two = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        handshake(tls, two).await
    }
}

/// Begins HTTP and lets a task of its own drive the connection until either side closes it.
async fn handshake<S>(stream: S, two: bool) -> Result<Connection, Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed = |error: hyper::Error| Error::Connection(error.to_string());
    if two {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
        let (sender, driver) = builder.handshake(TokioIo::new(stream)).await.map_err(failed)?;
        tokio::spawn(async move { end(driver.await) });
        return Ok(Connection::Two(sender));
    }
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let (sender, driver) = builder.handshake(TokioIo::new(stream)).await.map_err(failed)?;
    tokio::spawn(async move { end(driver.await) });
    Ok(Connection::One(sender))
}

fn end(outcome: hyper::Result<()>) {
    if let Err(error) = outcome {
        tracing::trace!(%error, "a connection ended");
    }
}

fn tls_error(error: &io::Error) -> Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(reason)) => Error::Certificate(reason.to_string()),
        _ => Error::Connection(format!("TLS: {error}")),
    }
}
