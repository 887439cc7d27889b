//! Bodies of requests: those that nobody reads to their end, and those that never come to their end.
//!
//! A refusal is often decided before the body has come. If the server closed the connection then, the client would see it break while it still sends, and never read why. So
//! the rest is read and thrown away, within limits. And a client that falls silent in the middle is given up.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

/// Bytes of an unread body that are taken in before the connection is closed after all.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// Seconds that this may take.
const SECONDS_MAX: u64 = 30;

/// Seconds in which a client must bring something on, in the middle of a body.
const SILENCE_S_MAX: u64 = 60;

/// Bytes that are something: less of them, now and then, would keep a body waiting for ever.
const PROGRESS_BYTES: usize = 16 * 1024;

/// A body whose rest is read when its reader drops it.
pub struct Unread {
    body: Option<Incoming>,
    /// Runs while the reader waits for the client to bring something on.
    silence: Option<Pin<Box<Sleep>>>,
    /// Bytes that have come since it runs.
    brought: usize,
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection broke.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// The client fell silent, or nearly so.
    #[error("the client brought next to nothing for {SILENCE_S_MAX} seconds in the middle of a body")]
    Silent,
}

impl Unread {
    /// Wraps a body.
    pub fn new(body: Incoming) -> Self {
        Self { body: Some(body), silence: None, brought: 0 }
    }
}

impl Body for Unread {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(context) {
            if let Some(Ok(frame)) = &frame {
                self.brought += frame.data_ref().map_or(0, Bytes::len);
            }
            if self.brought >= PROGRESS_BYTES {
                (self.silence, self.brought) = (None, 0);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        let sleep = || Box::pin(tokio::time::sleep(Duration::from_secs(SILENCE_S_MAX)));
        ready!(self.silence.get_or_insert_with(sleep).as_mut().poll(context));
        self.body = None;
        Poll::Ready(Some(Err(Error::Silent)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        // A declared size beyond the limit is not even begun with.
        if body.size_hint().lower() > BYTES_MAX as u64 {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(Duration::from_secs(SECONDS_MAX), read_rest(body)));
        }
    }
}

async fn read_rest(mut body: Incoming) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > BYTES_MAX {
            return;
        }
    }
}
