//! Bodies of signed requests, which must be read before anybody knows whose they are: small ones as they come, large ones
//! out of a common budget, so that they do not add up to more memory than there is.

use std::sync::Arc;

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
    /// `M_TOO_LARGE`; `M_LIMIT_EXCEEDED` while there are too many large ones; `M_UNKNOWN` when the connection broke.
    pub(super) async fn read(&self, mut body: Body) -> Result<Held, Error> {
        let size = body.size_hint();
        let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        check_size(bytes(size.lower()))?;
        let mut place = None;
        if bytes(size.lower()) > SMALL_BYTES_MAX {
            place = Some(self.place(size.upper().map_or(BODY_BYTES_MAX, bytes))?);
        }
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Error::unknown(StatusCode::BAD_REQUEST, "The request broke off."))?;
            let Ok(data) = frame.into_data() else { continue };
            let size = read.len() + data.len();
            check_size(size)?;
            // One that did not say how large it is.
            if size > SMALL_BYTES_MAX && place.is_none() {
                place = Some(self.place(BODY_BYTES_MAX)?);
            }
            read.extend_from_slice(&data);
        }
        Ok(Held { bytes: read.freeze(), place })
    }

    fn place(&self, bytes: usize) -> Result<Arc<OwnedSemaphorePermit>, Error> {
        let units = u32::try_from(bytes.min(BODY_BYTES_MAX).div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let place = Arc::clone(&self.0).try_acquire_many_owned(units);
        place.map(Arc::new).map_err(|_| Error::limit_exceeded(RETRY_MS))
    }
}

fn check_size(bytes: usize) -> Result<(), Error> {
    if bytes <= BODY_BYTES_MAX {
        return Ok(());
    }
    Err(Error::too_large(format!("A request of this kind may have {BODY_BYTES_MAX} bytes.")))
}
