//! The auth difference: the events that are in the full auth chain of some of the
//! states that are to be resolved, and not of all.
//!
//! A full auth chain is taken here to have the state's own events in it. By the letter
//! of the specification (room version 2, "Auth difference") it has not, which makes no
//! difference for conflicted events, as those are in the full conflicted set anyway; an
//! event that all the states share stays out of that set this way, as in the servers
//! that are in use.

use super::{Answer, AuthError, AuthGraph, Effort, Missing, NO_EDGE, PROBES_MAX, STEPS_MAX};

/// How many events are asked about at once: one read of the state for all of them.
const PROBES_AT_ONCE: usize = 32;

/// The state that all sides agree on.
pub trait Unconflicted {
    /// The caller's error; the graph's own errors are passed on through it.
    type Error: From<AuthError>;

    /// For each event, whether it is in the unconflicted state.
    fn contains(&mut self, events: &[i64]) -> Result<Vec<bool>, Self::Error>;

    /// All events of the unconflicted state. Asked for at most once, for a sweep.
    fn all(&mut self) -> Result<Vec<i64>, Self::Error>;
}

/// A set of events that is at hand.
impl Unconflicted for std::collections::BTreeSet<i64> {
    type Error = AuthError;

    fn contains(&mut self, events: &[i64]) -> Result<Vec<bool>, AuthError> {
        Ok(events.iter().map(|event| (*self).contains(event)).collect())
    }

    fn all(&mut self) -> Result<Vec<i64>, AuthError> {
        Ok(self.iter().copied().collect())
    }
}

impl AuthGraph {
    /// The auth difference of states whose conflicted events are `sides`, one list for
    /// each state (an empty one too: a key that a state lacks is conflicted), and which
    /// share the state `unconflicted`.
    ///
    /// Walks when the graph [is complete](AuthGraph::set_complete) and sweeps otherwise,
    /// or when the walk gets too long; the events are the same. Fails with
    /// [`AuthError::Missing`] and with the errors of `unconflicted`.
    pub fn auth_difference<U: Unconflicted>(&self, sides: &[&[i64]], unconflicted: &mut U) -> Result<Answer, U::Error> {
        let mut search = Search::new(self);
        let heads: Vec<Vec<u32>> = sides.iter().map(|side| self.indices(side, &mut search.missing)).collect();
        if self.complete && search.missing.0.is_empty() {
            if let Some(events) = search.differing(&heads, Some(unconflicted))? {
                return Ok(search.finish(events)?);
            }
            search.start_again();
        }
        search.effort.swept = true;
        search.sweep(&unconflicted.all()?);
        let events = search.differing::<U>(&heads, None)?.unwrap_or_default();
        Ok(search.finish(events)?)
    }
}

/// What is known about an event. Numbers, as a vector of them is zeroed for nothing.
mod status {
    /// Nothing.
    pub const UNKNOWN: u8 = 0;
    /// It is not in the unconflicted state; its descendants were not looked at.
    pub const ASKED: u8 = 1;
    /// The same, and its descendants are being looked at.
    pub const OPEN: u8 = 2;
    /// It is in the full auth chain of the unconflicted state, so of every state.
    pub const COMMON: u8 = 3;
    /// It is not.
    pub const OWN: u8 = 4;
}

/// An event whose descendants are being looked at: first every child is asked about,
/// then one child after the other is gone into.
struct Frame {
    index: u32,
    to_ask: u32,
    to_enter: u32,
}

struct Search<'g> {
    graph: &'g AuthGraph,
    status: Vec<u8>,
    effort: Effort,
    missing: Missing,
}

impl<'g> Search<'g> {
    fn new(graph: &'g AuthGraph) -> Self {
        Self {
            graph,
            status: vec![status::UNKNOWN; graph.len()],
            effort: Effort::default(),
            missing: Missing::default(),
        }
    }

    fn start_again(&mut self) {
        self.status.fill(status::UNKNOWN);
        self.missing = Missing::default();
    }

    fn finish(self, events: Vec<u32>) -> Result<Answer, AuthError> {
        let answer = self.graph.answer(events, self.effort);
        self.missing.or(answer)
    }

    fn is_over_budget(&self) -> bool {
        !self.effort.swept && (self.effort.probes > PROBES_MAX || self.effort.steps > STEPS_MAX)
    }

    /// The events that some sides reach and not all, over events that are not common.
    /// `None` when the walk got too long.
    fn differing<U: Unconflicted>(
        &mut self,
        sides: &[Vec<u32>],
        mut unconflicted: Option<&mut U>,
    ) -> Result<Option<Vec<u32>>, U::Error> {
        // For each event the last side that came by, counted from one, and how many did.
        let mut last_side = vec![0u32; self.graph.len()];
        let mut n_sides = vec![0u32; self.graph.len()];
        let mut reached = Vec::new();
        for (side, heads) in (1u32..).zip(sides) {
            let mut stack = heads.clone();
            while let Some(index) = stack.pop() {
                if std::mem::replace(&mut last_side[index as usize], side) == side {
                    continue;
                }
                if let Some(unconflicted) = unconflicted.as_deref_mut() {
                    self.settle(index, unconflicted)?;
                }
                if self.is_over_budget() {
                    return Ok(None);
                }
                if self.status[index as usize] == status::COMMON {
                    continue;
                }
                if n_sides[index as usize] == 0 {
                    reached.push(index);
                }
                n_sides[index as usize] += 1;
                let parents = self.graph.parents(index, &mut self.missing);
                self.effort.steps += parents.len();
                stack.extend(parents.iter().map(|edge| edge.parent));
                if let Some(unconflicted) = unconflicted.as_deref_mut() {
                    let parents = parents.iter().map(|edge| edge.parent).collect();
                    self.ask(parents, unconflicted)?;
                }
            }
        }
        reached.retain(|&index| (n_sides[index as usize] as usize) < sides.len());
        Ok(Some(reached))
    }

    /// Asks about those of the events of which nothing is known. Whether any is common.
    fn ask<U: Unconflicted>(&mut self, mut indices: Vec<u32>, unconflicted: &mut U) -> Result<bool, U::Error> {
        indices.retain(|&index| self.status[index as usize] == status::UNKNOWN);
        let mut any = false;
        for indices in indices.chunks(PROBES_AT_ONCE) {
            let events: Vec<i64> = indices.iter().map(|&index| self.graph.number(index)).collect();
            self.effort.probes += events.len();
            let contained = unconflicted.contains(&events)?;
            for (&index, contained) in indices.iter().zip(contained) {
                any |= contained;
                let known = if contained { status::COMMON } else { status::ASKED };
                self.status[index as usize] = known;
            }
        }
        Ok(any)
    }

    /// Finds out whether an event is common: whether it, or any event that has it in its
    /// auth chain, is in the unconflicted state. What is learned on the way is kept, so
    /// that all calls together look at each event once. Leaves the event undecided when
    /// the walk got too long.
    fn settle<U: Unconflicted>(&mut self, index: u32, unconflicted: &mut U) -> Result<(), U::Error> {
        self.ask(vec![index], unconflicted)?;
        if self.status[index as usize] != status::ASKED {
            return Ok(());
        }
        let mut frames = vec![self.open(index)];
        while let Some(mut frame) = frames.pop() {
            if self.is_over_budget() {
                return Ok(());
            }
            if frame.to_ask != NO_EDGE {
                let found = self.ask_children(&mut frame, unconflicted)?;
                frames.push(frame);
                if found {
                    self.close_all(&frames);
                    return Ok(());
                }
                continue;
            }
            match self.enter_child(&mut frame) {
                Entered::Common => {
                    frames.push(frame);
                    self.close_all(&frames);
                    return Ok(());
                }
                Entered::Undecided(child) => {
                    frames.push(frame);
                    frames.push(self.open(child));
                }
                Entered::None => self.status[frame.index as usize] = status::OWN,
            }
        }
        Ok(())
    }

    fn open(&mut self, index: u32) -> Frame {
        self.status[index as usize] = status::OPEN;
        let newest = self.graph.vertex(index).newest_child;
        Frame { index, to_ask: newest, to_enter: newest }
    }

    /// All events that are gone into have the one that was found as a descendant.
    fn close_all(&mut self, frames: &[Frame]) {
        for frame in frames {
            self.status[frame.index as usize] = status::COMMON;
        }
    }

    /// Asks about the next few children. Whether a common one is among them.
    fn ask_children<U: Unconflicted>(&mut self, frame: &mut Frame, unconflicted: &mut U) -> Result<bool, U::Error> {
        let mut children = Vec::with_capacity(PROBES_AT_ONCE);
        for _ in 0..PROBES_AT_ONCE {
            let Some(edge) = self.graph.edges.get(frame.to_ask as usize) else {
                break;
            };
            frame.to_ask = edge.next_child;
            self.effort.steps += 1;
            if self.status[edge.child as usize] == status::COMMON {
                return Ok(true);
            }
            children.push(edge.child);
        }
        self.ask(children, unconflicted)
    }

    /// Goes on to the next child that says anything about its parent.
    fn enter_child(&mut self, frame: &mut Frame) -> Entered {
        while let Some(edge) = self.graph.edges.get(frame.to_enter as usize) {
            frame.to_enter = edge.next_child;
            self.effort.steps += 1;
            match self.status[edge.child as usize] {
                status::COMMON => return Entered::Common,
                status::ASKED => return Entered::Undecided(edge.child),
                // An open child is a loop, which no accepted event can be part of.
                _ => {}
            }
        }
        Entered::None
    }

    /// Marks the full auth chain of the unconflicted state.
    fn sweep(&mut self, unconflicted: &[i64]) {
        let mut stack = self.graph.indices(unconflicted, &mut self.missing);
        while let Some(index) = stack.pop() {
            if std::mem::replace(&mut self.status[index as usize], status::COMMON) == status::COMMON {
                continue;
            }
            let parents = self.graph.parents(index, &mut self.missing);
            self.effort.steps += parents.len();
            stack.extend(parents.iter().map(|edge| edge.parent));
        }
    }
}

enum Entered {
    Common,
    Undecided(u32),
    None,
}
