//! Events of other servers become [`Verified`]: all keys that a batch needs are fetched at once, and the signatures are
//! checked on all cores, elsewhere than on the threads that serve requests.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use event::{EdgeLimits, Json, Rules, Verified, VerifyError};
use futures_util::{StreamExt, TryStreamExt, stream};
use store::Error;
use tokio::sync::oneshot;

use crate::key_ring::{KeyRing, KeySet, Wanted};

/// Events that one piece of work reads or checks: some ten milliseconds.
const EVENTS_PER_JOB: usize = 100;
/// So few events are checked where they are: moving them costs more.
const EVENTS_INLINE_MAX: usize = 2;

/// Checks format, signatures and content hashes of events; the results stand in the order of the events.
///
/// Keys that are not known are fetched, in one batch. An event that fails says why and does not concern the others.
///
/// # Errors
/// As the store says.
pub async fn pdus(
    ring: &KeyRing,
    rules: &'static Rules,
    pdus: Vec<Bytes>,
    limits: EdgeLimits,
) -> Result<Vec<Result<Verified, VerifyError>>, Error> {
    let now_ms = ring.now_ms();
    let chunks: Vec<Arc<[Bytes]>> = pdus.chunks(EVENTS_PER_JOB).map(Arc::from).collect();
    let wanted = on_all_cores(ring, pdus.len(), &chunks, move |chunk| wanted_of(rules, chunk, now_ms)).await?;
    let wanted: BTreeSet<Wanted> = wanted.into_iter().flatten().collect();
    let wanted: Vec<Wanted> = wanted.into_iter().collect();
    let keys: Arc<KeySet> = Arc::new(ring.keys_for(&wanted).await?);
    let now_ms = ring.now_ms();
    let verified = on_all_cores(ring, pdus.len(), &chunks, move |chunk| {
        chunk.iter().map(|pdu| event::verify_with(rules, pdu.clone(), &*keys, now_ms, limits)).collect::<Vec<_>>()
    });
    Ok(verified.await?.into_iter().flatten().collect())
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
    let mut results = pdus(ring, rules, vec![pdu], limits).await?;
    results.pop().ok_or(Error::Closed)
}

/// The keys that a chunk's events are signed with.
fn wanted_of(rules: &Rules, chunk: &[Bytes], now_ms: u64) -> BTreeSet<Wanted> {
    let of_event = |pdu: &Bytes| {
        let object = Json::object_from_slice(pdu).ok()?;
        Wanted::of_event(rules, &object, now_ms).ok()
    };
    chunk.iter().filter_map(of_event).flatten().collect()
}

/// Runs `work` on each chunk, as many at a time as there are cores; the results keep the order.
async fn on_all_cores<T: Send + 'static>(
    ring: &KeyRing,
    events: usize,
    chunks: &[Arc<[Bytes]>],
    work: impl Fn(&[Bytes]) -> T + Clone + Send + 'static,
) -> Result<Vec<T>, Error> {
    if events <= EVENTS_INLINE_MAX {
        return Ok(chunks.iter().map(|chunk| work(chunk)).collect());
    }
    stream::iter(chunks.to_vec())
        .map(|chunk| {
            let (sender, receiver) = oneshot::channel();
            let work = work.clone();
            let job = move || {
                // The asker may have gone.
                drop(sender.send(work(&chunk)));
            };
            async move {
                ring.blocking().run(Box::new(job));
                // A job is lost when the server shuts down.
                receiver.await.map_err(|_| Error::Closed)
            }
        })
        .buffered(ring.cores())
        .try_collect()
        .await
}
