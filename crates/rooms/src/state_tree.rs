//! The state of a room at every event, as a persistent radix tree.
//!
//! Each (type, state key) pair of a room has a dense number, its [`KeyId`]. A snapshot
//! maps keys to event numbers and is a tree with sixteen-fold branching: a leaf holds
//! the values of sixteen neighboring keys, an inner node points to sixteen subtrees.
//! A new snapshot shares all nodes with the one it was made from but those on the paths
//! to changed keys, which are written together as one *segment*: one row of a few
//! hundred bytes, that never changes. The shape of a tree depends on its keys alone.
//!
//! Everything here is pure and synchronous. Segments come from a [`Segments`], and what
//! is not in memory is reported as [`TreeError::Missing`], all that one pass can find
//! at once. [`with_segments`] does the loading around that.
//!
//! *Checkpoints*: a head that has been changed a few thousand times lies scattered over
//! as many segments. When [`needs_checkpoint`] says so it is rewritten into consecutive
//! segments of up to 64 KiB, after which older segments are no longer reached from it.
//!
//! *Purging*: a delayed branch may share nodes of any age, so age alone says nothing.
//! Each row carries the lowest segment that it reaches; [`Tree::lowest_reached`] tells
//! what can go, and [`Tree::move_above`] first copies what is still reached.

mod load;
mod root;
mod segment;
mod walk;
mod write;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub use load::{LOAD_ROUNDS_MAX, SEGMENTS_PER_LOAD_MAX, SegmentCache, SegmentLoader, with_segments};
pub use root::{ROOT_BYTES_MAX, Root};
pub use segment::{SEGMENT_BYTES_MAX, Segment, SegmentRow};
pub use write::{CHECKPOINT_BYTES_MIN, CHECKPOINT_FACTOR, Moved, Written, build, needs_checkpoint};

use segment::Place;
use walk::Walk;

/// The dense number of a (type, state key) pair within its room.
pub type KeyId = u32;

/// The number of the event that is the state at a key.
pub type Value = i64;

/// The number of a segment within its room. Later segments have higher numbers.
pub type SegNo = u64;

/// The highest number that a segment may have; a root then fits in 16 bytes.
pub const SEGMENT_NUMBER_MAX: SegNo = (1 << 48) - 1;

/// How many children a node has at most.
const FAN_OUT: usize = 16;

/// The height that has a place for every key of 32 bits.
const HEIGHT_MAX: u8 = 8;

/// The most entries that memory is set aside for before they have been seen.
const RESERVE_MAX: usize = 1 << 20;

/// Why an operation on a tree could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// These segments are needed and not in memory: load them and try again.
    #[error("{} segments of the room's state are not in memory", .0.len())]
    Missing(Vec<SegNo>),
    /// A segment's bytes are not what was once written.
    #[error("segment {segment} of the room's state is corrupt: {what}")]
    Corrupt {
        /// The segment.
        segment: SegNo,
        /// What is wrong, as a clause.
        what: &'static str,
    },
    /// The bytes of a root are not what was once written.
    #[error("a root of the room's state is corrupt")]
    CorruptRoot,
    /// A segment that a snapshot reaches is not in the storage.
    #[error("segment {segment} of the room's state is lost")]
    Lost {
        /// The segment.
        segment: SegNo,
    },
    /// A new segment would not have the highest number of all.
    #[error("segment number {segment} is out of order")]
    Order {
        /// The number that was to be used.
        segment: SegNo,
    },
    /// Loading did not come to an end within [`LOAD_ROUNDS_MAX`] rounds.
    #[error("the room's state could not be loaded in {LOAD_ROUNDS_MAX} rounds")]
    Rounds,
}

/// The segments of one room that are in memory.
pub trait Segments {
    /// The segment; `None` when it is not in memory.
    fn segment(&self, segment: SegNo) -> Option<Arc<Segment>>;
}

impl Segments for BTreeMap<SegNo, Arc<Segment>> {
    fn segment(&self, segment: SegNo) -> Option<Arc<Segment>> {
        self.get(&segment).cloned()
    }
}

impl Segments for HashMap<SegNo, Arc<Segment>> {
    fn segment(&self, segment: SegNo) -> Option<Arc<Segment>> {
        self.get(&segment).cloned()
    }
}

/// A key and its new value, or `None` to remove it.
pub type Change = (KeyId, Option<Value>);

/// A key at which two snapshots differ, with the value in the one and in the other.
pub type Changed = (KeyId, Option<Value>, Option<Value>);

/// A key at which snapshots differ, with the value in each of them.
pub type Difference = (KeyId, Vec<Option<Value>>);

/// The operations on the snapshots of one room. All of them fail with
/// [`TreeError::Missing`] until the segments they need are in memory, and with
/// [`TreeError::Corrupt`] when a segment is damaged.
pub struct Tree<'a> {
    segments: &'a dyn Segments,
}

impl<'a> Tree<'a> {
    /// The trees over these segments.
    pub fn new(segments: &'a dyn Segments) -> Self {
        Self { segments }
    }

    /// The value of a key.
    pub fn get(&self, root: &Root, key: KeyId) -> Result<Option<Value>, TreeError> {
        Ok(self.get_many(root, &[key])?.first().copied().flatten())
    }

    /// The values of keys, in the order of the keys.
    pub fn get_many(&self, root: &Root, keys: &[KeyId]) -> Result<Vec<Option<Value>>, TreeError> {
        let mut sorted: Vec<(KeyId, usize)> = keys.iter().enumerate().map(|(place, &key)| (key, place)).collect();
        sorted.sort_unstable();
        // Keys that the tree is too low for have no value.
        sorted.truncate(sorted.partition_point(|&(key, _)| root::height_for(key) <= root.height));
        let mut values = vec![None; keys.len()];
        let mut walk = Walk::new(self.segments);
        if let Some(sub) = root.sub() {
            collect(&mut walk, sub, &sorted, &mut values)?;
        }
        walk.finish(values)
    }

    /// The whole state in ascending order of the keys.
    pub fn entries(&self, root: &Root) -> Result<Vec<(KeyId, Value)>, TreeError> {
        let mut entries = Vec::with_capacity((root.count as usize).min(RESERVE_MAX));
        let mut walk = Walk::new(self.segments);
        if let Some(sub) = root.sub() {
            collect_all(&mut walk, sub, 0, &mut entries)?;
        }
        walk.finish(entries)
    }

    /// The keys at which two snapshots differ, ascending, with the value in `a` and in
    /// `b`. The cost follows the number of differences: shared nodes are not read.
    pub fn diff(&self, a: &Root, b: &Root) -> Result<Vec<Changed>, TreeError> {
        let differences = self.compare(&[*a, *b])?;
        Ok(differences.into_iter().map(|(key, values)| (key, values[0], values[1])).collect())
    }

    /// The keys at which not all of the snapshots agree, ascending, with the value in
    /// each snapshot: the conflicted keys of a state resolution. Costs as [`Tree::diff`].
    pub fn compare(&self, roots: &[Root]) -> Result<Vec<Difference>, TreeError> {
        let height = roots.iter().map(|root| root.height).max().unwrap_or(0);
        let mut differences = Vec::new();
        let mut walk = Walk::new(self.segments);
        let sorts = Sorts::of(roots.iter().map(Root::sub));
        if height > 0 && sorts.distinct.len() > 1 {
            compare_subs(&mut walk, &sorts, height, 0, &mut differences)?;
        }
        walk.finish(differences)
    }
}

/// A subtree: where its topmost node lies, and its height.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Sub {
    segment: SegNo,
    index: u16,
    height: u8,
}

impl Sub {
    fn new(place: Place, height: u8) -> Self {
        Self { segment: place.segment, index: place.index, height }
    }

    fn place(&self) -> Place {
        Place { segment: self.segment, index: self.index }
    }
}

/// Which slot of a node of `height` a key belongs in.
fn slot_of(key: KeyId, height: u8) -> usize {
    (key >> (4 * (u32::from(height) - 1))) as usize % FAN_OUT
}

/// The first key below a slot of a node of `height` that begins at `first`.
fn first_key(first: KeyId, slot: usize, height: u8) -> KeyId {
    first | ((slot as KeyId) << (4 * (u32::from(height) - 1)))
}

/// Puts the values of `keys` (sorted) where their places say.
fn collect(
    walk: &mut Walk<'_>,
    sub: Sub,
    keys: &[(KeyId, usize)],
    values: &mut [Option<Value>],
) -> Result<(), TreeError> {
    if keys.is_empty() {
        return Ok(());
    }
    if sub.height == 1 {
        if let Some(slots) = walk.leaf(Some(sub))? {
            for &(key, place) in keys {
                values[place] = slots[slot_of(key, 1)];
            }
        }
        return Ok(());
    }
    let Some(children) = walk.children(Some(sub), sub.height)? else {
        return Ok(());
    };
    let mut rest = keys;
    while let Some(&(key, _)) = rest.first() {
        let slot = slot_of(key, sub.height);
        let same = rest.partition_point(|&(key, _)| slot_of(key, sub.height) == slot);
        let (group, after) = rest.split_at(same);
        rest = after;
        if let Some(child) = children[slot] {
            collect(walk, child, group, values)?;
        }
    }
    Ok(())
}

fn collect_all(
    walk: &mut Walk<'_>,
    sub: Sub,
    first: KeyId,
    entries: &mut Vec<(KeyId, Value)>,
) -> Result<(), TreeError> {
    if sub.height == 1 {
        let slots = walk.leaf(Some(sub))?.unwrap_or_default();
        let present = slots.into_iter().enumerate();
        entries.extend(present.filter_map(|(slot, value)| Some((first | slot as KeyId, value?))));
        return Ok(());
    }
    let children = walk.children(Some(sub), sub.height)?.unwrap_or_default();
    for (slot, child) in children.into_iter().enumerate() {
        if let Some(child) = child {
            collect_all(walk, child, first_key(first, slot, sub.height), entries)?;
        }
    }
    Ok(())
}

/// The subtrees that stand at one place of several trees: each of them once, and which of them each tree has there. Many
/// trees have few: each of them is read once, however many trees share it.
struct Sorts {
    distinct: Vec<Option<Sub>>,
    of_tree: Vec<u32>,
}

impl Sorts {
    fn of(subs: impl Iterator<Item = Option<Sub>>) -> Self {
        let mut places = HashMap::new();
        let mut distinct = Vec::new();
        let of_tree = subs.map(|sub| sort_of(&mut places, &mut distinct, sub)).collect();
        Self { distinct, of_tree }
    }

    /// What stands one level below, where the distinct subtrees have these children; `None` if all have the same.
    fn below(&self, children: impl Iterator<Item = Option<Sub>> + Clone) -> Option<Self> {
        let mut others = children.clone();
        let first = others.next();
        if others.all(|child| Some(child) == first) {
            return None;
        }
        let below = Self::of(children);
        let of_tree = self.of_tree.iter().map(|sort| below.of_tree[*sort as usize]).collect();
        Some(Self { distinct: below.distinct, of_tree })
    }
}

fn sort_of(places: &mut HashMap<Option<Sub>, u32>, distinct: &mut Vec<Option<Sub>>, sub: Option<Sub>) -> u32 {
    *places.entry(sub).or_insert_with(|| {
        distinct.push(sub);
        distinct.len() as u32 - 1
    })
}

fn compare_subs(
    walk: &mut Walk<'_>,
    sorts: &Sorts,
    height: u8,
    first: KeyId,
    differences: &mut Vec<Difference>,
) -> Result<(), TreeError> {
    if height == 1 {
        if let Some(leaves) = all_present(sorts.distinct.iter().map(|&sub| walk.leaf(sub)))? {
            for slot in 0..FAN_OUT {
                if leaves.iter().any(|leaf| leaf[slot] != leaves[0][slot]) {
                    let values = sorts.of_tree.iter().map(|sort| leaves[*sort as usize][slot]).collect();
                    differences.push((first | slot as KeyId, values));
                }
            }
        }
        return Ok(());
    }
    let Some(nodes) = all_present(sorts.distinct.iter().map(|&sub| walk.children(sub, height)))? else {
        return Ok(());
    };
    for slot in 0..FAN_OUT {
        if let Some(below) = sorts.below(nodes.iter().map(|node| node[slot])) {
            compare_subs(walk, &below, height - 1, first_key(first, slot, height), differences)?;
        }
    }
    Ok(())
}

/// All of the nodes, or `None` when one is missing. Asks for every one of them first,
/// so that all missing segments are noted.
fn all_present<T>(nodes: impl Iterator<Item = Result<Option<T>, TreeError>>) -> Result<Option<Vec<T>>, TreeError> {
    let nodes: Vec<Option<T>> = nodes.collect::<Result<_, _>>()?;
    Ok(nodes.into_iter().collect())
}
