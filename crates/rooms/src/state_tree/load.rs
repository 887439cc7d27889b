//! The bridge from stored segments to the synchronous tree: run, load what was
//! missing in one read, run again.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use super::{SegNo, Segment, SegmentRow, Segments, Tree, TreeError};

/// How many segments one read asks the storage for at most.
pub const SEGMENTS_PER_LOAD_MAX: usize = 4_096;

/// How often one operation may come back for more. Each round goes at least one
/// level deeper, so an operation on one tree needs at most nine.
pub const LOAD_ROUNDS_MAX: usize = 128;

/// Reads the segments of one room from the storage.
pub trait SegmentLoader: Sync {
    /// The caller's error; the tree's own errors are passed on through it.
    type Error: From<TreeError>;

    /// Reads the rows of at most [`SEGMENTS_PER_LOAD_MAX`] segments, in any order.
    /// A segment that is not stored is left out.
    fn load(&self, segments: &[SegNo]) -> impl Future<Output = Result<Vec<SegmentRow>, Self::Error>> + Send;
}

/// A cache of the segments of one room. Segments never change, so an entry is
/// dropped only for its size, or when the room is purged.
pub trait SegmentCache: Sync {
    /// The segment, when it is in memory.
    fn get(&self, segment: SegNo) -> Option<Arc<Segment>>;
    /// Offers a segment that was just loaded.
    fn put(&self, segment: Arc<Segment>);
}

/// No cache.
impl SegmentCache for () {
    fn get(&self, _: SegNo) -> Option<Arc<Segment>> {
        None
    }

    fn put(&self, _: Arc<Segment>) {}
}

/// Runs `operation` until no segment is missing. It runs once per round of loading,
/// so it must have no effects of its own. What was loaded is held until the end,
/// whatever the cache drops meanwhile.
///
/// Fails with [`TreeError::Lost`] when the storage does not have a segment, with the
/// loader's errors, and with those of `operation`.
pub async fn with_segments<L, C, T, F>(loader: &L, cache: &C, mut operation: F) -> Result<T, L::Error>
where
    L: SegmentLoader,
    C: SegmentCache,
    F: FnMut(&Tree<'_>) -> Result<T, TreeError>,
{
    let mut held = Held { cache, loaded: HashMap::new() };
    for _ in 0..LOAD_ROUNDS_MAX {
        let outcome = operation(&Tree::new(&held));
        match outcome {
            Err(TreeError::Missing(missing)) => held.load(loader, &missing).await?,
            other => return other.map_err(L::Error::from),
        }
    }
    Err(TreeError::Rounds.into())
}

/// What one operation has loaded, over what the cache has.
struct Held<'a, C> {
    cache: &'a C,
    loaded: HashMap<SegNo, Arc<Segment>>,
}

impl<C: SegmentCache> Segments for Held<'_, C> {
    fn segment(&self, segment: SegNo) -> Option<Arc<Segment>> {
        self.loaded.get(&segment).cloned().or_else(|| self.cache.get(segment))
    }
}

impl<C: SegmentCache> Held<'_, C> {
    async fn load<L: SegmentLoader>(&mut self, loader: &L, missing: &[SegNo]) -> Result<(), L::Error> {
        for wanted in missing.chunks(SEGMENTS_PER_LOAD_MAX) {
            for row in loader.load(wanted).await? {
                let segment = Segment::decode(&row)?;
                self.cache.put(Arc::clone(&segment));
                self.loaded.insert(row.segment, segment);
            }
        }
        match missing.iter().find(|segment| !self.loaded.contains_key(segment)) {
            Some(&segment) => Err(TreeError::Lost { segment }.into()),
            None => Ok(()),
        }
    }
}
