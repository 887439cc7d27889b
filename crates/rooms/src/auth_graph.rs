//! The auth graph of one room in memory, and the two questions that state resolution
//! asks of it: the auth difference (version 2) and the conflicted state subgraph
//! (version 2.1, from room version 12).
//!
//! Events are known by local 32-bit indices, edges can be followed both ways, and an
//! event takes about 60 bytes with the usual three or four auth events. The graph is
//! filled from the packed edges beside the events and may be filled in part: a question
//! that meets an event whose edges are not there fails with [`AuthError::Missing`] and
//! names all such events it can know of, to be loaded at once.
//!
//! The cost follows the conflict and not the room. The auth difference walks back from
//! the conflicted events and stops at whatever the unconflicted state has in its auth
//! chain. Whether it has is found by looking forward, newest events first, for an event
//! that is unconflicted state, which is nearly always the first one asked for. A hostile
//! graph can make that search long, so it is given up after [`PROBES_MAX`] and
//! [`STEPS_MAX`] for one sweep over the graph, backward from the unconflicted state.

mod difference;
mod shared;
mod subgraph;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

pub use difference::Unconflicted;
pub use shared::{SharedError, SharedState};

/// After how many questions to [`Unconflicted::contains`] the walk gives way to a sweep.
pub const PROBES_MAX: usize = 4_096;

/// After how many edges the walk gives way to a sweep.
pub const STEPS_MAX: usize = 65_536;

/// How many auth events one event may have: more than fit in a PDU.
pub const AUTH_EVENTS_MAX: usize = crate::packed::EDGES_MAX;

/// The most events, and the most edges, that one graph holds.
const GRAPH_MAX: usize = u32::MAX as usize - 1;

/// Stands for no edge at the end of a list of children.
const NO_EDGE: u32 = u32::MAX;

/// Stands for the number of auth events of an event whose edges are not loaded.
const NOT_LOADED: u32 = u32::MAX;

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The auth events of these events are needed: insert them and ask again. An event
    /// that the server does not have is inserted without auth events.
    #[error("the auth events of {} events are not in memory", .0.len())]
    Missing(Vec<i64>),
    /// The graph, or the list of auth events, is larger than any that is allowed.
    #[error("the auth graph is too large")]
    TooLarge,
}

/// What an answer has cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Effort {
    /// Events about which the unconflicted state was asked.
    pub probes: usize,
    /// Edges that were looked at.
    pub steps: usize,
    /// Whether the walk was given up for a sweep over the graph.
    pub swept: bool,
}

/// The events that answer a question, ascending, and what the answer has cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Event numbers, ascending, without repetition.
    pub events: Vec<i64>,
    /// What it has cost.
    pub effort: Effort,
}

/// The auth edges of one room's events.
#[derive(Debug, Clone)]
pub struct AuthGraph {
    /// The number of every event; its place here is its local index.
    numbers: Vec<i64>,
    vertices: Vec<Vertex>,
    edges: Vec<Edge>,
    /// How many of `numbers`, from the start, ascend and can be searched by halving.
    ascending: usize,
    /// The indices of all others.
    late: HashMap<i64, u32>,
    /// Whether every auth event has a smaller number than the event that cites it.
    ordered: bool,
    complete: bool,
}

impl Default for AuthGraph {
    fn default() -> Self {
        Self::new()
    }
}

/// The edges of one event: those to its auth events lie side by side, those from the
/// events that cite it form a list, the newest first.
#[derive(Debug, Clone, Copy)]
struct Vertex {
    first_edge: u32,
    n_edges: u32,
    newest_child: u32,
}

#[derive(Debug, Clone, Copy)]
struct Edge {
    parent: u32,
    child: u32,
    next_child: u32,
}

impl AuthGraph {
    /// A graph without events.
    pub fn new() -> Self {
        Self {
            numbers: Vec::new(),
            vertices: Vec::new(),
            edges: Vec::new(),
            ascending: 0,
            late: HashMap::new(),
            ordered: true,
            complete: false,
        }
    }

    /// Sets memory aside for about `n_events` events before they are inserted. Inserting
    /// in ascending order of the numbers takes the least memory.
    pub fn reserve(&mut self, n_events: usize) {
        self.numbers.reserve_exact(n_events);
        self.vertices.reserve_exact(n_events);
        self.edges.reserve_exact(n_events.saturating_mul(7) / 2);
    }

    /// Adds an event with its auth events, in any order of events. Auth events are
    /// immutable: inserting an event again changes nothing. An edge from an event to
    /// itself is left out. Fails with [`AuthError::TooLarge`].
    pub fn insert(&mut self, event: i64, auth: &[i64]) -> Result<(), AuthError> {
        if self.is_loaded(event) {
            return Ok(());
        }
        let full = |len: usize| len.saturating_add(auth.len()) >= GRAPH_MAX;
        if auth.len() > AUTH_EVENTS_MAX || full(self.numbers.len()) || full(self.edges.len()) {
            return Err(AuthError::TooLarge);
        }
        let auth: BTreeSet<i64> = auth.iter().copied().filter(|&cited| cited != event).collect();
        self.ordered &= auth.last().is_none_or(|&last| last < event);
        // Ascending, so that a graph which is filled in order stays in order.
        let parents: Vec<u32> = auth.into_iter().map(|cited| self.index_or_new(cited)).collect();
        let child = self.index_or_new(event);
        let vertex = &mut self.vertices[child as usize];
        vertex.first_edge = self.edges.len() as u32;
        vertex.n_edges = parents.len() as u32;
        for parent in parents {
            let edge = self.edges.len() as u32;
            let newest = &mut self.vertices[parent as usize].newest_child;
            let next_child = std::mem::replace(newest, edge);
            self.edges.push(Edge { parent, child, next_child });
        }
        Ok(())
    }

    /// Whether the auth events of an event are in the graph.
    pub fn is_loaded(&self, event: i64) -> bool {
        self.index(event).is_some_and(|index| self.vertex(index).n_edges != NOT_LOADED)
    }

    /// Says whether all state events that the room has, and will have, are inserted:
    /// everything that can be in the unconflicted state or in its auth chain. Only then
    /// can the absence of an event that cites another be trusted, and only then is the
    /// auth difference found by walking; otherwise it always sweeps.
    pub fn set_complete(&mut self, complete: bool) {
        self.complete = complete;
    }

    /// See [`AuthGraph::set_complete`].
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// How many events the graph knows of, those not loaded included.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether the graph knows of no event.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// About how many bytes of memory the graph takes: its weight in a cache.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.numbers.capacity() * size_of::<i64>()
            + self.vertices.capacity() * size_of::<Vertex>()
            + self.edges.capacity() * size_of::<Edge>()
            // An entry and its control byte, at the load that the map keeps.
            + self.late.capacity() * (size_of::<(i64, u32)>() + 1) * 8 / 7
    }

    /// The auth chain of `events`: all that is reached from them over auth events, without
    /// the events themselves unless another reaches them. Fails with
    /// [`AuthError::Missing`].
    pub fn auth_chain(&self, events: &[i64]) -> Result<Answer, AuthError> {
        let mut missing = Missing::default();
        let mut effort = Effort::default();
        let mut stack = self.indices(events, &mut missing);
        let mut seen = vec![false; self.len()];
        let mut expanded = vec![false; self.len()];
        let mut chain = Vec::new();
        while let Some(index) = stack.pop() {
            if std::mem::replace(&mut expanded[index as usize], true) {
                continue;
            }
            for edge in self.parents(index, &mut missing) {
                effort.steps += 1;
                if !std::mem::replace(&mut seen[edge.parent as usize], true) {
                    chain.push(edge.parent);
                    stack.push(edge.parent);
                }
            }
        }
        missing.or(self.answer(chain, effort))
    }

    fn answer(&self, indices: Vec<u32>, effort: Effort) -> Answer {
        let mut events: Vec<i64> = indices.into_iter().map(|index| self.number(index)).collect();
        events.sort_unstable();
        events.dedup();
        Answer { events, effort }
    }

    fn index(&self, event: i64) -> Option<u32> {
        let place = self.numbers[..self.ascending].binary_search(&event).ok();
        place.map(|place| place as u32).or_else(|| self.late.get(&event).copied())
    }

    fn index_or_new(&mut self, event: i64) -> u32 {
        if let Some(index) = self.index(event) {
            return index;
        }
        let index = self.numbers.len();
        if self.ascending == index && self.numbers.last().is_none_or(|&last| last < event) {
            self.ascending += 1;
        } else {
            self.late.insert(event, index as u32);
        }
        self.numbers.push(event);
        self.vertices.push(Vertex { first_edge: 0, n_edges: NOT_LOADED, newest_child: NO_EDGE });
        index as u32
    }

    fn number(&self, index: u32) -> i64 {
        self.numbers[index as usize]
    }

    fn vertex(&self, index: u32) -> &Vertex {
        &self.vertices[index as usize]
    }

    /// The indices of events; those that the graph does not know are noted as missing.
    fn indices(&self, events: &[i64], missing: &mut Missing) -> Vec<u32> {
        let mut indices = Vec::with_capacity(events.len());
        for &event in events {
            match self.index(event) {
                Some(index) => indices.push(index),
                None => missing.note(event),
            }
        }
        indices
    }

    /// The edges to the auth events of an event. When they are not loaded that is noted,
    /// and there are none.
    fn parents(&self, index: u32, missing: &mut Missing) -> &[Edge] {
        let vertex = self.vertex(index);
        if vertex.n_edges == NOT_LOADED {
            missing.note(self.number(index));
            return &[];
        }
        let first = vertex.first_edge as usize;
        &self.edges[first..first + vertex.n_edges as usize]
    }
}

/// The events whose auth events were needed and are not loaded.
#[derive(Debug, Default)]
struct Missing(BTreeSet<i64>);

impl Missing {
    fn note(&mut self, event: i64) {
        self.0.insert(event);
    }

    /// The outcome, unless anything was missing.
    fn or<T>(self, outcome: T) -> Result<T, AuthError> {
        if self.0.is_empty() { Ok(outcome) } else { Err(AuthError::Missing(self.0.into_iter().collect())) }
    }
}
