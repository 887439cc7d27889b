//! Events of other servers become [`Verified`]: many of them in chunks, each read, then provided with the keys that it
//! needs, then checked, on all cores and elsewhere than on the threads that serve requests.

use std::collections::BTreeMap;

use bytes::Bytes;
use event::{EdgeLimits, Rules, Unverified, Verified, VerifyError};
use futures_util::{StreamExt, TryStreamExt, stream};
use store::Error;

use crate::key_ring::{KeyRing, Wanted};

/// Events that one piece of work reads or checks: some milliseconds.
pub(crate) const EVENTS_PER_CHUNK: usize = 100;
/// So few events are checked where they are: moving them costs more.
const EVENTS_INLINE_MAX: usize = 2;
/// Chunks that are under way at a time. While keys of some are fetched, the others go on.
pub(crate) const CHUNKS_AT_ONCE: usize = 32;

/// What became of the events of a chunk, in their order.
pub type Chunk = Vec<Result<Verified, VerifyError>>;

/// Checks format, signatures and content hashes of events; the results stand in the order of the events.
///
/// Keys that are not known are fetched, those of a chunk at once. An event that fails says why and does not concern the
/// others.
///
/// # Errors
/// As the store says.
pub async fn pdus(
    ring: &KeyRing,
    rules: &'static Rules,
    pdus: Vec<Bytes>,
    limits: EdgeLimits,
) -> Result<Vec<Result<Verified, VerifyError>>, Error> {
    let chunks: Vec<Vec<Bytes>> = pdus.chunks(EVENTS_PER_CHUNK).map(<[Bytes]>::to_vec).collect();
    let checked = stream::iter(chunks).map(|some| chunk(ring, rules, some, limits)).buffered(CHUNKS_AT_ONCE);
    let checked: Vec<Chunk> = checked.try_collect().await?;
    Ok(checked.into_iter().flatten().collect())
}

/// Checks one event; see [`pdus`].
///
/// # Errors
/// As [`pdus`]; within, why the event is to be dropped.
pub async fn pdu(
    ring: &KeyRing,
    rules: &'static Rules,
    pdu: Bytes,
    limits: EdgeLimits,
) -> Result<Result<Verified, VerifyError>, Error> {
    let mut results = chunk(ring, rules, vec![pdu], limits).await?;
    results.pop().ok_or(Error::Closed)
}

/// Checks the events of one chunk; see [`pdus`].
///
/// # Errors
/// As the store says.
pub(crate) async fn chunk(
    ring: &KeyRing,
    rules: &'static Rules,
    pdus: Vec<Bytes>,
    limits: EdgeLimits,
) -> Result<Chunk, Error> {
    let (now_ms, count) = (ring.now_ms(), pdus.len());
    let read = aside(ring, count, move || {
        let events = pdus.into_iter().map(|pdu| Unverified::read(rules, pdu, limits));
        let events: Vec<Result<Unverified, VerifyError>> = events.collect();
        // Of one key the latest time for which it must vouch.
        let mut wanted: BTreeMap<(String, String), u64> = BTreeMap::new();
        for event in events.iter().flatten() {
            for one in Wanted::of_unverified(rules, event, now_ms) {
                let until = wanted.entry((one.server, one.key_id)).or_default();
                *until = one.minimum_valid_until_ts.max(*until);
            }
        }
        (events, wanted)
    });
    let (events, wanted) = read.await?;
    let wanted: Vec<Wanted> = wanted
        .into_iter()
        .map(|((server, key_id), minimum_valid_until_ts)| Wanted { server, key_id, minimum_valid_until_ts })
        .collect();
    let keys = ring.keys_for(&wanted).await?;
    let now_ms = ring.now_ms();
    aside(ring, count, move || {
        events.into_iter().map(|event| event.and_then(|event| event.verify(rules, &keys, now_ms))).collect()
    })
    .await
}

/// Runs work on this many events elsewhere, unless they are few.
async fn aside<T: Send + 'static>(
    ring: &KeyRing,
    events: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    if events <= EVENTS_INLINE_MAX {
        return Ok(work());
    }
    // Work is lost when the server shuts down.
    ring.aside(work).await.ok_or(Error::Closed)
}
