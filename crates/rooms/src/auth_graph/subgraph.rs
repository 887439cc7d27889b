//! The conflicted state subgraph: the events on auth paths between conflicted events
//! (room version 12, MSC4297).

use super::{Answer, AuthError, AuthGraph, Effort, Missing};

/// What is known about an event.
mod status {
    pub const UNKNOWN: u8 = 0;
    pub const OPEN: u8 = 1;
    /// A conflicted event is in its auth chain, or it is one.
    pub const BETWEEN: u8 = 2;
    /// None is.
    pub const OUTSIDE: u8 = 3;
}

/// An event whose auth events are being gone through.
struct Frame {
    index: u32,
    next: usize,
    between: bool,
}

impl AuthGraph {
    /// The conflicted state subgraph of the conflicted events: every event on a path over
    /// auth events from one of them to another. The conflicted events are always in it,
    /// also those on no path: they belong to the full conflicted set anyway.
    ///
    /// Each event is looked at once. In a [complete](AuthGraph::set_complete) graph, while
    /// every auth event has a smaller number than what cites it, nothing below the smallest
    /// conflicted event is looked at. Fails with [`AuthError::Missing`].
    pub fn conflicted_subgraph(&self, conflicted: &[i64]) -> Result<Answer, AuthError> {
        let mut missing = Missing::default();
        let heads = self.indices(conflicted, &mut missing);
        let smallest = conflicted.iter().copied().min().unwrap_or(i64::MIN);
        // Edges that are not loaded could lead upward, so a graph in part has no order.
        let ordered = self.complete && self.ordered;
        let lowest = if ordered { smallest } else { i64::MIN };
        let mut climb = Climb {
            graph: self,
            lowest,
            status: vec![status::UNKNOWN; self.len()],
            conflicted: vec![false; self.len()],
            effort: Effort::default(),
            missing,
            between: Vec::new(),
        };
        for &head in &heads {
            climb.conflicted[head as usize] = true;
        }
        for head in heads {
            if climb.status[head as usize] == status::UNKNOWN {
                climb.climb(head);
            }
        }
        let answer = self.answer(climb.between, climb.effort);
        climb.missing.or(answer)
    }
}

struct Climb<'g> {
    graph: &'g AuthGraph,
    lowest: i64,
    status: Vec<u8>,
    conflicted: Vec<bool>,
    effort: Effort,
    missing: Missing,
    between: Vec<u32>,
}

impl Climb<'_> {
    /// Decides about everything that `head` reaches: what is reached from a conflicted
    /// event and itself reaches one lies between the two. With a stack of its own, as
    /// chains can be as long as the room.
    fn climb(&mut self, head: u32) {
        let mut frames = vec![self.open(head)];
        while let Some(mut frame) = frames.pop() {
            match self.next_undecided(&mut frame) {
                Some(parent) => {
                    frames.push(frame);
                    frames.push(self.open(parent));
                }
                None => {
                    self.close(&frame);
                    if let Some(child) = frames.last_mut() {
                        child.between |= frame.between;
                    }
                }
            }
        }
    }

    fn open(&mut self, index: u32) -> Frame {
        self.status[index as usize] = status::OPEN;
        Frame { index, next: 0, between: self.conflicted[index as usize] }
    }

    fn close(&mut self, frame: &Frame) {
        let decided = if frame.between { status::BETWEEN } else { status::OUTSIDE };
        self.status[frame.index as usize] = decided;
        if frame.between {
            self.between.push(frame.index);
        }
    }

    /// The next auth event about which nothing is known yet.
    fn next_undecided(&mut self, frame: &mut Frame) -> Option<u32> {
        // What cannot reach anything above the lowest needs no edges. The lowest
        // conflicted event itself reaches no other.
        if self.graph.number(frame.index) <= self.lowest {
            return None;
        }
        let parents = self.graph.parents(frame.index, &mut self.missing);
        while let Some(edge) = parents.get(frame.next) {
            frame.next += 1;
            self.effort.steps += 1;
            match self.status[edge.parent as usize] {
                status::UNKNOWN if self.graph.number(edge.parent) >= self.lowest => {
                    return Some(edge.parent);
                }
                status::BETWEEN => frame.between = true,
                _ => {}
            }
        }
        None
    }
}
