//! The unconflicted state read from a room's trees, for the auth difference.

use std::collections::BTreeSet;

use super::{Answer, AuthError, AuthGraph, Unconflicted};
use crate::state_tree::{KeyId, Root, Tree, TreeError};

/// What goes wrong between the graph and the trees.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SharedError {
    /// See [`TreeError`].
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// See [`AuthError`].
    #[error(transparent)]
    Auth(#[from] AuthError),
}

/// The state that all sides of a resolution share: any one of them, without the keys at
/// which they conflict.
pub struct SharedState<'a, K> {
    tree: &'a Tree<'a>,
    roots: &'a [Root],
    conflicted: &'a BTreeSet<KeyId>,
    key_of: K,
}

impl<'a, K: Fn(i64) -> Option<KeyId>> SharedState<'a, K> {
    /// `roots` are the trees of one side, with no key in more than one of them;
    /// `conflicted` has the keys at which the sides differ; `key_of` knows at which key an
    /// event of the auth graph would be state, and must know it for all state events.
    pub fn new(tree: &'a Tree<'a>, roots: &'a [Root], conflicted: &'a BTreeSet<KeyId>, key_of: K) -> Self {
        Self { tree, roots, conflicted, key_of }
    }

    /// [`AuthGraph::auth_difference`] with this state, in the form in which an operation
    /// of [`with_segments`](crate::state_tree::with_segments) returns it: what the tree
    /// misses outside, what the graph misses inside.
    pub fn auth_difference(
        &mut self,
        graph: &AuthGraph,
        sides: &[&[i64]],
    ) -> Result<Result<Answer, AuthError>, TreeError> {
        match graph.auth_difference(sides, self) {
            Ok(answer) => Ok(Ok(answer)),
            Err(SharedError::Auth(error)) => Ok(Err(error)),
            Err(SharedError::Tree(error)) => Err(error),
        }
    }

    /// Finds the values, one by one where they are in memory. A state that is cold is
    /// asked for as a whole: one read for each probe would be many more.
    fn values(&self, root: &Root, keys: &[KeyId]) -> Result<Vec<Option<i64>>, TreeError> {
        match self.tree.get_many(root, keys) {
            Err(TreeError::Missing(missing)) => match self.tree.entries(root) {
                Err(error) => Err(error),
                // A cache has dropped it in between.
                Ok(_) => Err(TreeError::Missing(missing)),
            },
            found => found,
        }
    }
}

impl<K: Fn(i64) -> Option<KeyId>> Unconflicted for SharedState<'_, K> {
    type Error = SharedError;

    fn contains(&mut self, events: &[i64]) -> Result<Vec<bool>, SharedError> {
        let mut contained = vec![false; events.len()];
        let mut places = Vec::with_capacity(events.len());
        let mut keys = Vec::with_capacity(events.len());
        for (place, &event) in events.iter().enumerate() {
            if let Some(key) = (self.key_of)(event).filter(|key| !self.conflicted.contains(key)) {
                places.push(place);
                keys.push(key);
            }
        }
        for root in self.roots {
            for (&place, value) in places.iter().zip(self.values(root, &keys)?) {
                contained[place] |= value == Some(events[place]);
            }
        }
        Ok(contained)
    }

    fn all(&mut self) -> Result<Vec<i64>, SharedError> {
        let mut events = Vec::new();
        for root in self.roots {
            let entries = self.tree.entries(root)?.into_iter();
            let shared = entries.filter(|(key, _)| !self.conflicted.contains(key));
            events.extend(shared.map(|(_, event)| event));
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;
    use crate::state_tree::{SegNo, SegmentLoader, SegmentRow, build, with_segments};

    struct Rows {
        rows: BTreeMap<SegNo, SegmentRow>,
        n_loads: Mutex<usize>,
    }

    impl SegmentLoader for Rows {
        type Error = TreeError;

        async fn load(&self, segments: &[SegNo]) -> Result<Vec<SegmentRow>, TreeError> {
            *self.n_loads.lock().unwrap() += 1;
            Ok(segments.iter().filter_map(|segment| self.rows.get(segment).cloned()).collect())
        }
    }

    /// Key `n` has event `n` as its state, each citing 0 and event n / 100; at the
    /// last key two states differ.
    #[tokio::test]
    async fn the_trees_answer_for_the_state() {
        let n = 3_000i64;
        let mut graph = AuthGraph::new();
        graph.insert(0, &[]).unwrap();
        for event in 1..n + 1 {
            graph.insert(event, &[0, event / 100]).unwrap();
        }
        let state = |root: u32, first| build((root..n as u32).step_by(2).map(|key| (key, i64::from(key))), first);
        let even = state(0, 1).unwrap();
        let odd = state(1, even.segments.last().unwrap().segment + 1).unwrap();
        let roots = [even.root, odd.root];
        let all = even.segments.into_iter().chain(odd.segments);
        let rows = Rows { rows: all.map(|row| (row.segment, row)).collect(), n_loads: Mutex::default() };
        let conflicted = BTreeSet::from([n as KeyId - 1]);
        let key_of = |event: i64| KeyId::try_from(event.min(n - 1)).ok();
        for complete in [true, false] {
            graph.set_complete(complete);
            let answer = with_segments(&rows, &(), |tree| {
                SharedState::new(tree, &roots, &conflicted, key_of).auth_difference(&graph, &[&[n - 1], &[n]])
            });
            let answer = answer.await.unwrap().unwrap();
            assert_eq!(answer.events, [n - 1, n]);
            assert_eq!(answer.effort.swept, !complete);
        }
        assert!(*rows.n_loads.lock().unwrap() <= 2 * 8);
        let unknown = with_segments(&rows, &(), |tree| {
            SharedState::new(tree, &roots, &conflicted, key_of).auth_difference(&graph, &[&[n - 1], &[n + 7]])
        });
        assert_eq!(unknown.await.unwrap(), Err(AuthError::Missing(vec![n + 7])));
    }
}
