//! The operations that make new nodes: apply, build, checkpoint, move.

use std::collections::HashMap;

use super::root::height_for;
use super::segment::{Node, Place, SegmentWriter};
use super::walk::Walk;
use super::{Change, FAN_OUT, KeyId, Root, SegNo, SegmentRow, Segments, Sub, Tree, TreeError, Value, slot_of};

/// A checkpoint is due when this many times the head's size was written since the
/// last one: whole-state reads then stay near the size of the state, for about a
/// quarter more bytes.
pub const CHECKPOINT_FACTOR: u64 = 4;

/// Below this size a head is never rewritten for its own sake, in bytes.
pub const CHECKPOINT_BYTES_MIN: u64 = 16 * 1024;

/// Whether the head should be rewritten: `bytes_since` were written in segments
/// since the last checkpoint, `head_bytes` is [`Root::bytes_estimate`] of the head.
pub fn needs_checkpoint(bytes_since: u64, head_bytes: u64) -> bool {
    bytes_since > head_bytes.max(CHECKPOINT_BYTES_MIN).saturating_mul(CHECKPOINT_FACTOR)
}

/// A new snapshot and the rows that must be stored for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The new snapshot.
    pub root: Root,
    /// The rows, numbered one after the other; one for a change of ordinary size,
    /// none when nothing changed.
    pub segments: Vec<SegmentRow>,
}

/// Snapshots that were moved out of segments which are about to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The roots that take the place of those given, in the same order.
    pub roots: Vec<Root>,
    /// The rows that must be stored before anything is deleted.
    pub segments: Vec<SegmentRow>,
}

/// Writes a whole state, in segments of bounded size numbered from `first` on. They
/// can be stored one by one ahead of the decision that refers to the root. Keys may
/// come in any order; the last value of a key counts.
pub fn build(entries: impl IntoIterator<Item = (KeyId, Value)>, first: SegNo) -> Result<Written, TreeError> {
    let changes: Vec<_> = entries.into_iter().map(|(key, value)| (key, Some(value))).collect();
    Tree::new(&Nothing).apply(&Root::EMPTY, &changes, first)
}

/// What a tree is built from when there is nothing before it.
struct Nothing;

impl Segments for Nothing {
    fn segment(&self, _: SegNo) -> Option<std::sync::Arc<super::Segment>> {
        None
    }
}

impl Tree<'_> {
    /// The snapshot after `changes` (`None` removes a key), written into segments
    /// numbered from `next` on, which must be higher than any in the room: only the
    /// nodes on changed paths, in one segment unless they exceed its limit. When a key
    /// comes twice the last change counts; changes to what is there already cost
    /// nothing, and when none is left the same root comes back without segments.
    ///
    /// Fails with [`TreeError::Missing`] or [`TreeError::Order`].
    pub fn apply(&self, root: &Root, changes: &[Change], next: SegNo) -> Result<Written, TreeError> {
        let (changes, count) = self.real_changes(root, changes)?;
        if changes.is_empty() {
            return Ok(Written { root: *root, segments: Vec::new() });
        }
        let lowest = self.check_next(std::slice::from_ref(root), next)?.unwrap_or(next);
        let set = changes.iter().filter(|(_, value)| value.is_some());
        let highest = set.map(|&(key, _)| height_for(key)).max().unwrap_or(1);
        let mut walk = Walk::new(self.segments);
        let mut pen = Pen { walk: &mut walk, writer: SegmentWriter::new(next, lowest) };
        let top = pen.write(root.sub(), root.height.max(highest), &changes, true)?;
        let segments = pen.writer.finish();
        walk.finish(Written { root: Root::from_sub(top, count), segments })
    }

    /// The same snapshot rewritten into consecutive segments from `first` on, which
    /// reach nothing before them.
    pub fn checkpoint(&self, root: &Root, first: SegNo) -> Result<Written, TreeError> {
        self.check_next(std::slice::from_ref(root), first)?;
        build(self.entries(root)?, first)
    }

    /// A segment below which none of these snapshots reaches: all that lie lower can be
    /// deleted when `roots` are all that the room retains. The bound costs one segment
    /// per root and may be lower than need be. `None` when all are empty.
    pub fn lowest_reached(&self, roots: &[Root]) -> Result<Option<SegNo>, TreeError> {
        let mut walk = Walk::new(self.segments);
        let mut lowest: Option<SegNo> = None;
        for segment in roots.iter().filter_map(Root::segment) {
            if let Some(segment) = walk.segment(segment) {
                lowest = Some(lowest.map_or(segment.lowest(), |low| low.min(segment.lowest())));
            }
        }
        walk.finish(lowest)
    }

    /// Copies what `roots` reach in segments below `bound`, and the nodes above it, into
    /// segments numbered from `next` on. What comes back reaches nothing below `bound`,
    /// so that those segments can be deleted once all retained snapshots were moved.
    /// Nodes that several snapshots share are copied once and stay shared.
    pub fn move_above(&self, roots: &[Root], bound: SegNo, next: SegNo) -> Result<Moved, TreeError> {
        self.check_next(roots, next)?;
        if bound > next {
            return Err(TreeError::Order { segment: next });
        }
        let mut walk = Walk::new(self.segments);
        let mut mover =
            Mover { walk: &mut walk, writer: SegmentWriter::new(next, bound), bound, moved: HashMap::new() };
        let mut moved = Vec::with_capacity(roots.len());
        for root in roots {
            let Some(sub) = root.sub() else {
                moved.push(Root::EMPTY);
                continue;
            };
            if let Some(sub) = mover.relocate(sub)? {
                moved.push(Root::from_sub(Some(sub), root.count));
            }
        }
        let segments = mover.writer.finish();
        walk.finish(Moved { roots: moved, segments })
    }

    /// Sorts the changes, drops those that change nothing, and counts the keys after.
    fn real_changes(&self, root: &Root, changes: &[Change]) -> Result<(Vec<Change>, u32), TreeError> {
        let mut sorted = changes.to_vec();
        sorted.reverse();
        // The sort is stable: the last change of a key stands first and is kept.
        sorted.sort_by_key(|&(key, _)| key);
        sorted.dedup_by_key(|&mut (key, _)| key);
        let keys: Vec<KeyId> = sorted.iter().map(|&(key, _)| key).collect();
        let before = self.get_many(root, &keys)?;
        let mut count = root.count;
        let mut real = Vec::with_capacity(sorted.len());
        for (change, before) in sorted.into_iter().zip(before) {
            if change.1 == before {
                continue;
            }
            match (before, change.1) {
                // Saturating: the count of a damaged root must not bring anything down.
                (None, Some(_)) => count = count.saturating_add(1),
                (Some(_), None) => count = count.saturating_sub(1),
                _ => {}
            }
            real.push(change);
        }
        Ok((real, count))
    }

    /// Checks that `next` lies behind all of `roots`; the lowest segment they reach.
    fn check_next(&self, roots: &[Root], next: SegNo) -> Result<Option<SegNo>, TreeError> {
        if roots.iter().filter_map(Root::segment).any(|segment| segment >= next) {
            return Err(TreeError::Order { segment: next });
        }
        self.lowest_reached(roots)
    }
}

/// Writes the nodes on changed paths.
struct Pen<'w, 'a> {
    walk: &'w mut Walk<'a>,
    writer: SegmentWriter,
}

impl Pen<'_, '_> {
    /// The subtree `old` after `changes` (sorted, without repetition), as a subtree of
    /// `height`. A subtree at the `top` comes back as low as its keys allow, so that the
    /// shape of a tree depends on its keys alone.
    fn write(&mut self, old: Option<Sub>, height: u8, changes: &[Change], top: bool) -> Result<Option<Sub>, TreeError> {
        match old {
            None if changes.is_empty() => return Ok(None),
            Some(sub) if changes.is_empty() && top => return self.shrink(sub).map(Some),
            Some(sub) if changes.is_empty() => return self.lift(sub, height).map(Some),
            _ if height == 1 => return self.write_leaf(old, changes),
            _ => {}
        }
        let mut slots = self.walk.must_children(old, height)?;
        let mut first = changes;
        let mut rest = changes;
        while let Some(&(key, _)) = rest.first() {
            let slot = slot_of(key, height);
            let (group, after) = rest.split_at(rest.partition_point(|c| slot_of(c.0, height) == slot));
            rest = after;
            if slot != 0 {
                slots[slot] = self.write(slots[slot], height - 1, group, false)?;
            }
        }
        first = &first[..first.partition_point(|change| slot_of(change.0, height) == 0)];
        // The first slot is written last: only now it is known whether it stands alone.
        let alone = top && slots[1..].iter().all(Option::is_none);
        slots[0] = self.write(slots[0], height - 1, first, alone)?;
        if alone {
            return Ok(slots[0]);
        }
        self.push_inner(slots, height)
    }

    fn write_leaf(&mut self, old: Option<Sub>, changes: &[Change]) -> Result<Option<Sub>, TreeError> {
        let mut slots = self.walk.must_leaf(old)?;
        for &(key, value) in changes {
            slots[slot_of(key, 1)] = value;
        }
        if slots.iter().all(Option::is_none) {
            return Ok(None);
        }
        let place = self.writer.push(&Node::Leaf(slots))?;
        Ok(Some(Sub::new(place, 1)))
    }

    fn push_inner(&mut self, slots: [Option<Sub>; FAN_OUT], height: u8) -> Result<Option<Sub>, TreeError> {
        if slots.iter().all(Option::is_none) {
            return Ok(None);
        }
        let places = slots.map(|slot| slot.map(|sub| sub.place()));
        let place = self.writer.push(&Node::Inner(places))?;
        Ok(Some(Sub::new(place, height)))
    }

    /// Puts nodes with only a first slot above a subtree until it has the height.
    fn lift(&mut self, mut sub: Sub, height: u8) -> Result<Sub, TreeError> {
        while sub.height < height {
            let mut places = [None; FAN_OUT];
            places[0] = Some(sub.place());
            sub = Sub::new(self.writer.push(&Node::Inner(places))?, sub.height + 1);
        }
        Ok(sub)
    }

    /// Takes nodes with only a first slot off the top of a subtree.
    fn shrink(&mut self, mut sub: Sub) -> Result<Sub, TreeError> {
        while sub.height > 1 {
            let slots = self.walk.must_children(Some(sub), sub.height)?;
            match slots[0] {
                Some(first) if slots[1..].iter().all(Option::is_none) => sub = first,
                _ => break,
            }
        }
        Ok(sub)
    }
}

/// Copies subtrees out of low segments.
struct Mover<'w, 'a> {
    walk: &'w mut Walk<'a>,
    writer: SegmentWriter,
    bound: SegNo,
    moved: HashMap<Sub, Sub>,
}

impl Mover<'_, '_> {
    /// The subtree that takes the place of `sub`; `None` when a segment is missing.
    fn relocate(&mut self, sub: Sub) -> Result<Option<Sub>, TreeError> {
        if let Some(&moved) = self.moved.get(&sub) {
            return Ok(Some(moved));
        }
        let Some(segment) = self.walk.segment(sub.segment) else {
            return Ok(None);
        };
        let low = sub.segment < self.bound;
        let moved = if !low && segment.lowest() >= self.bound {
            Some(sub)
        } else if sub.height == 1 {
            let slots = self.walk.must_leaf(Some(sub))?;
            let copied = if low { Some(self.writer.push(&Node::Leaf(slots))?) } else { None };
            Some(copied.map_or(sub, |place| Sub::new(place, 1)))
        } else {
            self.relocate_inner(sub, low)?
        };
        if let Some(moved) = moved {
            self.moved.insert(sub, moved);
        }
        Ok(moved)
    }

    fn relocate_inner(&mut self, sub: Sub, low: bool) -> Result<Option<Sub>, TreeError> {
        let before = self.walk.must_children(Some(sub), sub.height)?;
        let mut after: [Option<Place>; FAN_OUT] = [None; FAN_OUT];
        let mut changed = low;
        let mut whole = true;
        for (slot, child) in before.into_iter().enumerate() {
            let Some(child) = child else { continue };
            // Goes on over what is missing, so that one read brings all of it.
            match self.relocate(child)? {
                Some(moved) => {
                    changed |= moved != child;
                    after[slot] = Some(moved.place());
                }
                None => whole = false,
            }
        }
        if !whole {
            return Ok(None);
        }
        if !changed {
            return Ok(Some(sub));
        }
        let place = self.writer.push(&Node::Inner(after))?;
        Ok(Some(Sub::new(place, sub.height)))
    }
}
