//! A server behind the program's own listener on a loopback port, and a peer that writes to it whatever bytes it likes.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Once};

use axum::Router;
use axum::middleware::from_fn;
use endpoint::layers;
use server::config::{Address, Listener, Resource};
use server::listeners::{Bound, Switch};
use server::resources;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// A server that listens; it stops when this is dropped.
pub struct Listening {
    /// Where it listens.
    pub address: SocketAddr,
    _stop: watch::Sender<bool>,
}

impl Listening {
    /// Serves routes (with their fallbacks) as the program does: its listener, its limits, its outermost layers.
    pub async fn on_loopback(routes: Router) -> Self {
        let address = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let listener = Listener { address, tls: None, resources: Resource::ALL.to_vec() };
        let bound = Bound::new(&listener).await.unwrap();
        let address = bound.address().unwrap();
        let router = layers::wrap(routes.layer(from_fn(resources::only_served)));
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(bound.serve(Arc::new(Switch::new(router)), stopped));
        Self { address, _stop: stop }
    }
}

/// One connection of a peer that speaks HTTP by hand.
pub struct RawPeer {
    stream: TcpStream,
    read: Vec<u8>,
}

/// An answer over HTTP/1.1, as it came.
#[derive(Debug)]
pub struct RawAnswer {
    /// The status.
    pub status: u16,
    /// The head, from the status line on.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl RawPeer {
    /// A new connection.
    pub async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), read: Vec::new() }
    }

    /// Writes bytes. A server that has closed the connection makes this fail.
    ///
    /// # Errors
    /// The socket's.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Writes the same bytes over and over, as long as the server takes them and `bytes_max` is not reached; how many it
    /// took.
    pub async fn flood(&mut self, bytes: &[u8], bytes_max: usize) -> usize {
        let mut taken = 0;
        while taken < bytes_max && self.write(bytes).await.is_ok() {
            taken += bytes.len();
        }
        taken
    }

    /// Says that nothing more comes.
    pub async fn finish(&mut self) {
        // The server may have closed the connection before.
        drop(self.stream.shutdown().await);
    }

    /// The next answer; `None` if the connection ends before one is whole.
    pub async fn answer(&mut self) -> Option<RawAnswer> {
        let end = loop {
            match self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.more().await?,
            }
        };
        let head = String::from_utf8_lossy(&self.read[..end]).to_string();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let whole = end + length.unwrap_or(0);
        while self.read.len() < whole {
            self.more().await?;
        }
        let body = self.read[end..whole].to_vec();
        self.read.drain(..whole);
        Some(RawAnswer { status, head, body })
    }

    /// The statuses of all answers until the server closes the connection.
    pub async fn answers(&mut self) -> Vec<u16> {
        let mut statuses = Vec::new();
        while let Some(answer) = self.answer().await {
            statuses.push(answer.status);
        }
        statuses
    }

    /// Reads what there is until the server closes the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await.is_some() {}
        std::mem::take(&mut self.read)
    }

    async fn more(&mut self) -> Option<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        // A server that closes while it is still written to resets the connection: that is an end as well.
        let size = self.stream.read(&mut chunk).await.unwrap_or(0);
        self.read.extend_from_slice(&chunk[..size]);
        (size > 0).then_some(())
    }
}

thread_local! {
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// Counts panics on this thread from now on: also those that a task swallows. A test's runtime has one thread, so these are
/// the test's own.
pub struct Panics(usize);

impl Panics {
    /// Begins to count.
    pub fn watch() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                PANICS.set(PANICS.get() + 1);
                before(panic);
            }));
        });
        Self(PANICS.get())
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        PANICS.get() - self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_task_is_counted() {
        let panics = Panics::watch();
        let task = tokio::spawn(async { panic!("on purpose") });
        assert!(task.await.is_err());
        assert_eq!(panics.count(), 1);
    }

    #[tokio::test]
    async fn answers_are_told_apart() {
        let routes = Router::new().route("/health", axum::routing::get(|| async { "here" }));
        let server = Listening::on_loopback(layers::with_fallbacks(routes)).await;
        let mut peer = RawPeer::connect(server.address).await;
        peer.write("GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /none HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        peer.finish().await;
        let first = peer.answer().await.unwrap();
        assert_eq!((first.status, first.body.as_slice()), (200, &b"here"[..]));
        assert_eq!(peer.answers().await, [404]);
    }
}
