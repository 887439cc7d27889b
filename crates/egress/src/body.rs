//! The body of an answer: ends with an error where it breaks its bound of size or time, and gives the connection back
//! when it was read to its end.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::Error;
use crate::pool::Lease;

/// The body of an answer.
pub struct Body {
    incoming: Incoming,
    left: usize,
    deadline: Pin<Box<Sleep>>,
    lease: Option<Lease>,
    ended: bool,
}

impl Body {
    pub(crate) fn new(incoming: Incoming, bytes_max: usize, deadline: Instant, lease: Lease) -> Self {
        let mut body = Self {
            left: bytes_max,
            deadline: Box::pin(sleep_until(deadline)),
            lease: Some(lease),
            ended: false,
            incoming,
        };
        if body.incoming.is_end_stream() {
            body.end();
        }
        body
    }

    /// The connection may be used again.
    fn end(&mut self) {
        self.ended = true;
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    /// The connection is of no use any more.
    fn fail(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.ended = true;
        self.lease = None;
        Poll::Ready(Some(Err(error)))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.deadline.as_mut().poll(context).is_ready() {
            return self.fail(Error::Timeout);
        }
        match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => self.fail(Error::Connection(error.to_string())),
            Poll::Ready(Some(Ok(frame))) => {
                let size = frame.data_ref().map_or(0, Bytes::len);
                let Some(left) = self.left.checked_sub(size) else { return self.fail(Error::TooLarge) };
                self.left = left;
                if self.incoming.is_end_stream() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        if self.ended { SizeHint::with_exact(0) } else { self.incoming.size_hint() }
    }
}
