//! Reading nodes while taking note of the segments that are not in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::segment::Node;
use super::{FAN_OUT, SegNo, Segment, Segments, Sub, TreeError, Value};

/// One pass of an operation over the tree. It goes on past what is missing, so that
/// one pass names all the segments that can be known to be needed.
pub(super) struct Walk<'a> {
    segments: &'a dyn Segments,
    missing: BTreeSet<SegNo>,
}

impl<'a> Walk<'a> {
    pub fn new(segments: &'a dyn Segments) -> Self {
        Self { segments, missing: BTreeSet::new() }
    }

    /// The outcome of the pass, unless anything was missing.
    pub fn finish<T>(self, outcome: T) -> Result<T, TreeError> {
        if self.missing.is_empty() { Ok(outcome) } else { Err(TreeError::Missing(self.missing.into_iter().collect())) }
    }

    /// The segment; `None` when it is missing, which is noted.
    pub fn segment(&mut self, number: SegNo) -> Option<Arc<Segment>> {
        let segment = self.segments.segment(number);
        if segment.is_none() {
            self.missing.insert(number);
        }
        segment
    }

    /// The values of a leaf; `None` when its segment is missing.
    pub fn leaf(&mut self, sub: Option<Sub>) -> Result<Option<[Option<Value>; FAN_OUT]>, TreeError> {
        let Some(sub) = sub else {
            return Ok(Some([None; FAN_OUT]));
        };
        let Some(segment) = self.segment(sub.segment) else {
            return Ok(None);
        };
        match segment.node(sub.index)? {
            Node::Leaf(slots) => Ok(Some(slots)),
            Node::Inner(_) => Err(wrong_kind(sub)),
        }
    }

    /// The children of `sub` seen as a subtree of `height`; `None` when its segment is
    /// missing. A lower tree is the first child of a higher one that has no others.
    pub fn children(&mut self, sub: Option<Sub>, height: u8) -> Result<Option<[Option<Sub>; FAN_OUT]>, TreeError> {
        let mut slots = [None; FAN_OUT];
        let Some(sub) = sub else {
            return Ok(Some(slots));
        };
        if sub.height < height {
            slots[0] = Some(sub);
            return Ok(Some(slots));
        }
        let Some(segment) = self.segment(sub.segment) else {
            return Ok(None);
        };
        match segment.node(sub.index)? {
            Node::Inner(places) => {
                let children = places.map(|place| place.map(|place| Sub::new(place, height - 1)));
                Ok(Some(children))
            }
            Node::Leaf(_) => Err(wrong_kind(sub)),
        }
    }

    /// As [`Walk::leaf`], where to go on makes no sense without it.
    pub fn must_leaf(&mut self, sub: Option<Sub>) -> Result<[Option<Value>; FAN_OUT], TreeError> {
        self.leaf(sub)?.ok_or_else(|| self.missing())
    }

    /// As [`Walk::children`], where to go on makes no sense without them.
    pub fn must_children(&mut self, sub: Option<Sub>, height: u8) -> Result<[Option<Sub>; FAN_OUT], TreeError> {
        self.children(sub, height)?.ok_or_else(|| self.missing())
    }

    fn missing(&self) -> TreeError {
        TreeError::Missing(self.missing.iter().copied().collect())
    }
}

fn wrong_kind(sub: Sub) -> TreeError {
    TreeError::Corrupt { segment: sub.segment, what: "a node is at the wrong height" }
}
