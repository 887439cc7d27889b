//! Listeners: plain, TLS and Unix sockets, HTTP/1.1 and 2, bounded in number and time, drained at the end.

pub mod tls;
mod unread;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use endpoint::PeerAddress;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::config::{Address, Listener, Resource};
use crate::draining::Stopping;
use crate::resources::Served;

/// Connections that a listener has at a time; further ones wait in the system's queue.
const CONNECTIONS_MAX: usize = 20_000;
/// Open files that are left for database, media and what the server itself connects to, however many clients there are.
const FILES_KEPT: u64 = 256;
/// Seconds that the head of a request, and a TLS handshake, may take.
const HEAD_S_MAX: u64 = 30;
const HANDSHAKE_S_MAX: u64 = 10;
/// Streams of an HTTP/2 connection.
const STREAMS_MAX: u32 = 250;
/// Seconds between signs of life on a silent HTTP/2 connection.
const KEEP_ALIVE_S: u64 = 60;
/// Bytes of the headers of an HTTP/2 request.
const HEADER_BYTES_MAX: u32 = 32 * 1024;
/// Seconds that requests in progress get when the server stops.
const DRAIN_S_MAX: u64 = 9;
/// How often it is looked whether a certificate has been renewed.
const CERTIFICATE_EVERY: Duration = Duration::from_secs(60);
/// How long to wait when no connection can be taken, mostly for want of file descriptors.
const ACCEPT_PAUSE_MS: u64 = 100;

/// Why a listener cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// The address.
        address: String,
        /// What the system says.
        error: io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("{0}")]
    Tls(#[from] tls::Error),
}

/// `http` or `https`, as the client sees this listener; put into each request.
#[derive(Clone, Copy, Debug)]
pub struct Scheme(pub &'static str);

/// The router that serves now. It is replaced when the first-account page names the server.
pub struct Switch(RwLock<Router>);

impl Switch {
    /// A switch that leads to this router.
    pub fn new(router: Router) -> Self {
        Self(RwLock::new(router))
    }

    /// The router for the next request.
    pub fn current(&self) -> Router {
        self.0.read().clone()
    }

    /// Leads all further requests to another router.
    pub fn turn(&self, router: Router) {
        *self.0.write() = router;
    }
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A listener that holds its address and does not serve yet.
pub struct Bound {
    socket: Socket,
    tls: Option<(TlsAcceptor, Arc<tls::Certificate>)>,
    served: Served,
}

impl Bound {
    /// Takes the address of a listener.
    ///
    /// # Errors
    /// If it is taken, or the certificate cannot be used.
    pub async fn new(listener: &Listener) -> Result<Self, Error> {
        let failed = |address: String| move |error| Error::Bind { address, error };
        let tls = match &listener.tls {
            Some(files) => {
                let certificate = tls::Certificate::read(files)?;
                Some((certificate.acceptor()?, certificate))
            }
            None => None,
        };
        let socket = match &listener.address {
            Address::Tcp(address) => {
                Socket::Tcp(TcpListener::bind(address).await.map_err(failed(address.to_string()))?)
            }
            Address::Unix(path) => {
                let shown = path.display().to_string();
                remove_stale(path).await.map_err(failed(shown.clone()))?;
                Socket::Unix(UnixListener::bind(path).map_err(failed(shown))?, path.clone())
            }
        };
        Ok(Self { socket, tls, served: Served(listener.resources.clone().into()) })
    }

    /// The address, with the port that was really taken where 0 was asked for. `None` for a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(..) => None,
        }
    }

    /// The address as a person would type it.
    pub fn url(&self) -> Option<String> {
        let scheme = self.scheme().0;
        self.address().map(|mut address| {
            // "Every address" is nothing that one can open in a browser.
            match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
                _ => {}
            }
            format!("{scheme}://{address}")
        })
    }

    fn scheme(&self) -> Scheme {
        Scheme(if self.tls.is_some() { "https" } else { "http" })
    }

    /// Whether a part of the server is served here.
    pub fn serves(&self, resource: Resource) -> bool {
        self.served.0.contains(&resource)
    }

    /// Serves until `stop` becomes true; then ends idle connections at once, and the others as soon as they have their
    /// answer, or after some seconds.
    pub async fn serve(self, switch: Arc<Switch>, mut stop: watch::Receiver<bool>) {
        let connections = Arc::new(Semaphore::new(connections_max(rlimit::Resource::NOFILE.get_soft().ok())));
        let graceful = GracefulShutdown::new();
        let mut refresh = tokio::time::interval(CERTIFICATE_EVERY);
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&connections).acquire_owned() => permit,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                _ = refresh.tick() => {
                    self.refresh_certificate();
                    continue;
                }
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let Some((stream, peer)) = accepted else { continue };
            let connection = Connection {
                switch: Arc::clone(&switch),
                served: self.served.clone(),
                peer: PeerAddress(peer),
                scheme: self.scheme(),
                stopping: Stopping(stop.clone()),
                tls: self.tls.as_ref().map(|(acceptor, _)| acceptor.clone()),
            };
            let watcher = graceful.watcher();
            tokio::spawn(async move {
                connection.run(stream, watcher).await;
                drop(permit);
            });
        }
        let path = match self.socket {
            Socket::Unix(_, path) => Some(path),
            Socket::Tcp(_) => None,
        };
        if let Some(path) = path {
            // Gone already, or not ours to delete: either way nothing is to be done.
            drop(std::fs::remove_file(path));
        }
        if tokio::time::timeout(Duration::from_secs(DRAIN_S_MAX), graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests were still in progress when the server stopped");
        }
    }

    fn refresh_certificate(&self) {
        if let Some((_, certificate)) = &self.tls {
            certificate.refresh();
        }
    }

    async fn accept(&self) -> Option<(Box<dyn Stream>, Option<SocketAddr>)> {
        let accepted = match &self.socket {
            Socket::Tcp(listener) => listener.accept().await.map(|(stream, peer)| {
                // Without it, small answers wait for the peer's acknowledgement. A failure costs speed alone.
                drop(stream.set_nodelay(true));
                (Box::new(stream) as Box<dyn Stream>, Some(peer))
            }),
            Socket::Unix(listener, _) => {
                listener.accept().await.map(|(stream, _)| (Box::new(stream) as Box<dyn Stream>, None))
            }
        };
        match accepted {
            Ok(accepted) => Some(accepted),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                None
            }
        }
    }
}

/// How many connections may be open at a time, if the process may have so many open files.
fn connections_max(files: Option<u64>) -> usize {
    let Some(files) = files else { return CONNECTIONS_MAX };
    let left = files.saturating_sub(FILES_KEPT).max(files / 2).max(1);
    usize::try_from(left).unwrap_or(CONNECTIONS_MAX).min(CONNECTIONS_MAX)
}

/// A socket file that a killed process left behind would forbid the address for ever; a living one is left alone.
async fn remove_stale(path: &std::path::Path) -> io::Result<()> {
    match tokio::net::UnixStream::connect(path).await {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

/// Bytes in both directions.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What a connection's requests are given.
struct Connection {
    switch: Arc<Switch>,
    served: Served,
    peer: PeerAddress,
    scheme: Scheme,
    stopping: Stopping,
    tls: Option<TlsAcceptor>,
}

impl Connection {
    async fn run(self, stream: Box<dyn Stream>, watcher: Watcher) {
        let Some(tls) = self.tls.clone() else { return self.speak(stream, watcher).await };
        let handshake = tokio::time::timeout(Duration::from_secs(HANDSHAKE_S_MAX), tls.accept(stream));
        match handshake.await {
            Ok(Ok(stream)) => self.speak(stream, watcher).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn speak(self, stream: impl Stream + 'static, watcher: Watcher) {
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(self.peer);
            request.extensions_mut().insert(self.scheme);
            request.extensions_mut().insert(self.stopping.clone());
            request.extensions_mut().insert(self.served.clone());
            self.switch.current().oneshot(request.map(|body| Body::new(unread::Unread::new(body))))
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(HEAD_S_MAX));
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .keep_alive_interval(Duration::from_secs(KEEP_ALIVE_S));
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(error, "a connection broke");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_database() {
        let check = |files: Option<u64>, expect: usize| assert_eq!(connections_max(files), expect, "{files:?}");
        check(None, CONNECTIONS_MAX);
        check(Some(1_048_576), CONNECTIONS_MAX);
        check(Some(1_024), 768);
        check(Some(256), 128);
        check(Some(0), 1);
        check(Some(u64::MAX), CONNECTIONS_MAX);
    }
}
