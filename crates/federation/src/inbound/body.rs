//! Bodies of signed requests, which must be read before anybody knows whose they are: small ones as they come, large ones
//! out of a common budget, so that they do not add up to more memory than there is.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use bytes::{Bytes, BytesMut};
use endpoint::Error;
use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that a body may have: fifty events of the largest size, a hundred EDUs.
pub(super) const BODY_BYTES_MAX: usize = 16 << 20;
/// Bytes up to which a body is small; transactions mostly are.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Bytes of the large bodies that are held at a time. As JSON they take several times as much.
const LARGE_BYTES_MAX: usize = 64 << 20;
/// Bytes that are counted as one.
const UNIT_BYTES: usize = 1 << 10;
/// Seconds in which a body must have come: a large one holds a part of the budget for so long at most.
const BODY_S_MAX: u64 = 120;
/// What is told to wait who comes when there are too many, in milliseconds.
const RETRY_MS: u64 = 2_000;

/// What is left of the budget for large bodies.
pub(crate) struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LARGE_BYTES_MAX / UNIT_BYTES)))
    }
}

/// A body, and its part of the budget for as long as this is held.
pub(super) struct Held {
    pub bytes: Bytes,
    pub place: Option<Arc<OwnedSemaphorePermit>>,
}

impl Bodies {
    /// Reads a body.
    ///
    /// # Errors
    /// `M_TOO_LARGE`; `M_LIMIT_EXCEEDED` while there are too many large ones; `M_UNKNOWN` when the connection broke, or
    /// the body did not come in time.
    pub(super) async fn read(&self, body: Body) -> Result<Held, Error> {
        let least = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        check_size(least)?;
        let late = || Error::unknown(StatusCode::REQUEST_TIMEOUT, "The request took too long to come.");
        let read = tokio::time::timeout(Duration::from_secs(BODY_S_MAX), self.read_to_end(body));
        read.await.map_err(|_| late())?
    }

    /// The budget is taken as the bytes come: what is only announced takes nothing from others.
    async fn read_to_end(&self, mut body: Body) -> Result<Held, Error> {
        let (mut read, mut place) = (BytesMut::new(), None);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Error::unknown(StatusCode::BAD_REQUEST, "The request broke off."))?;
            let Ok(data) = frame.into_data() else { continue };
            let size = read.len() + data.len();
            check_size(size)?;
            if size > SMALL_BYTES_MAX {
                self.grow(&mut place, size)?;
            }
            read.extend_from_slice(&data);
        }
        Ok(Held { bytes: read.freeze(), place: place.map(Arc::new) })
    }

    /// Makes a body's part of the budget large enough for so many bytes.
    fn grow(&self, place: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), Error> {
        let held = place.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(UNIT_BYTES).saturating_sub(held);
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let more = Arc::clone(&self.0).try_acquire_many_owned(more).map_err(|_| Error::limit_exceeded(RETRY_MS))?;
        match place {
            Some(place) => place.merge(more),
            None => *place = Some(more),
        }
        Ok(())
    }
}

fn check_size(bytes: usize) -> Result<(), Error> {
    if bytes <= BODY_BYTES_MAX {
        return Ok(());
    }
    Err(Error::too_large(format!("A request of this kind may have {BODY_BYTES_MAX} bytes.")))
}
