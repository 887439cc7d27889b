//! State resolution on stored states: finds where the states differ, loads what the algorithm reads, and writes the
//! resolved keys. The cost follows the conflict, not the room.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ::event::state_res::{self, Events, ResolveError, UnconflictedState};
use ::event::{Pdu, StateRes, auth_rules};
use parking_lot::Mutex;
use ruma_common::{EventId, OwnedEventId};
use store::tables::rooms::{StateEventRow, StateKeyRow};
use store::{EventNum, Read};

use crate::auth_graph::{AuthError, AuthGraph, SharedState};
use crate::draft::Draft;
use crate::event::Event;
use crate::state::{Roots, TypeKey, key_id, type_key};
use crate::state_tree::KeyId;
use crate::{Error, Result, flags, packed};

/// How often a resolution may come back for more events: each round goes at least one step along the auth chains.
const ROUNDS_MAX: usize = 10_000;

/// The auth graph of a room, with the key of each state event.
pub(crate) struct Graph {
    edges: AuthGraph,
    keys: HashMap<i64, KeyId>,
}

impl Graph {
    /// Adds a state event.
    pub fn insert(&mut self, event: EventNum, key: KeyId, auth: &[i64]) -> Result<()> {
        self.keys.insert(event.0, key);
        self.edges.insert(event.0, auth).map_err(graph_error)
    }
}

fn graph_error(error: AuthError) -> Error {
    Error::Store(store::Error::Corrupt { table: "state_events", detail: error.to_string() })
}

/// The states to be resolved, compared.
struct Conflict {
    states: Vec<Roots>,
    /// Per conflicted key: the event of each state.
    keys: BTreeMap<KeyId, Vec<Option<EventNum>>>,
}

impl Conflict {
    /// The conflicted events of each state.
    fn sides(&self) -> Vec<Vec<i64>> {
        let of = |place: usize| {
            self.keys.values().filter_map(|values| values.get(place).copied().flatten()).map(|num| num.0).collect()
        };
        (0..self.states.len()).map(of).collect()
    }

    fn events(&self) -> BTreeSet<i64> {
        // Many states have few events at a key, and neighbors often the same: not each is worth a look into the set.
        let mut events = BTreeSet::new();
        for values in self.keys.values() {
            let mut last = None;
            for value in values {
                if *value != last {
                    last = *value;
                    events.extend(value.map(|num| num.0));
                }
            }
        }
        events
    }
}

impl Draft<'_> {
    /// Resolves states into one (server-server API, state resolution); the new state is written into the draft.
    pub async fn resolve(&mut self, states: &[Roots]) -> Result<Roots> {
        let Some((base, changes)) = self.resolution(states).await? else {
            return Ok(states.first().copied().unwrap_or(Roots::EMPTY));
        };
        self.set_state(base, &changes).await
    }

    /// The state to start from and the keys to change. `None` if all states are equal.
    async fn resolution(&self, states: &[Roots]) -> Result<Option<(Roots, Vec<(TypeKey, Option<EventNum>)>)>> {
        let mut seen = HashSet::new();
        let distinct: Vec<Roots> = states.iter().copied().filter(|state| seen.insert(*state)).collect();
        let Some(base) = distinct.first().copied() else { return Ok(None) };
        if distinct.len() == 1 {
            return Ok(None);
        }
        let mut conflict = self.compare(distinct).await?;
        let mut changes = Vec::new();
        if self.room.rules.state_res == StateRes::V1 {
            changes = self.take_agreed(&mut conflict).await?;
        }
        if !conflict.keys.is_empty() {
            let resolved = self.resolve_conflict(&conflict, &changes).await?;
            changes.extend(resolved);
        }
        Ok(Some((base, changes)))
    }

    async fn compare(&self, states: Vec<Roots>) -> Result<Conflict> {
        let mut keys = BTreeMap::new();
        let members: Vec<_> = states.iter().map(|state| state.members).collect();
        let rest: Vec<_> = states.iter().map(|state| state.rest).collect();
        for roots in [members, rest] {
            let differences = self.rooms.on_tree(self.room, Some(&self.overlay), |tree| tree.compare(&roots)).await?;
            for (key, values) in differences {
                keys.insert(key, values.into_iter().map(|value| value.map(EventNum)).collect());
            }
        }
        Ok(Conflict { states, keys })
    }

    /// Room version 1: a key on which all states that have it agree is not in conflict.
    async fn take_agreed(&self, conflict: &mut Conflict) -> Result<Vec<(TypeKey, Option<EventNum>)>> {
        let mut agreed = Vec::new();
        conflict.keys.retain(|key, values| {
            let distinct: BTreeSet<EventNum> = values.iter().flatten().copied().collect();
            let one = distinct.len() == 1;
            if one {
                agreed.push((*key, distinct.into_iter().next()));
            }
            !one
        });
        let pairs = self.pairs_of(&agreed.iter().map(|(key, _)| *key).collect::<Vec<_>>()).await?;
        Ok(pairs.into_iter().zip(agreed).map(|(pair, (_, value))| (pair, value)).collect())
    }

    /// The (type, state key) of dense keys.
    pub(crate) async fn pairs_of(&self, keys: &[KeyId]) -> Result<Vec<TypeKey>> {
        let unwritten: HashMap<KeyId, TypeKey> = {
            let room = self.room.unwritten.lock();
            let known = room.keys.iter().chain(&self.overlay.keys);
            known.map(|(pair, key)| (*key, pair.clone())).collect()
        };
        let stored: Vec<KeyId> = keys.iter().filter(|key| !unwritten.contains_key(key)).copied().collect();
        let reads = stored
            .iter()
            .map(|key| Read::get::<StateKeyRow>(vec![self.room.num.into(), i64::from(*key).into()]))
            .collect();
        let mut found: HashMap<KeyId, TypeKey> = unwritten;
        for rows in self.rooms.store.read(reads).await? {
            if let Some(row) = rows.one::<StateKeyRow>()? {
                found.insert(key_id(row.key_id)?, (row.kind, row.state_key));
            }
        }
        keys.iter()
            .map(|key| {
                found.get(key).cloned().ok_or_else(|| {
                    Error::Store(store::Error::Corrupt { table: "state_keys", detail: format!("key {key} is lost") })
                })
            })
            .collect()
    }

    /// `agreed`: what is not in conflict although not every state has it.
    async fn resolve_conflict(
        &self,
        conflict: &Conflict,
        agreed: &[(TypeKey, Option<EventNum>)],
    ) -> Result<Vec<(TypeKey, Option<EventNum>)>> {
        let full = self.full_conflicted_set(conflict).await?;
        let mut loaded = Loaded::default();
        let nums: Vec<EventNum> = full.iter().copied().map(EventNum).collect();
        loaded.add(self.rooms.events(self.room, Some(&self.overlay), &nums).await?);
        let full: Vec<OwnedEventId> = nums.iter().filter_map(|num| loaded.id_of(*num)).collect();
        self.load_agreed(&mut loaded, agreed).await?;
        self.load_neighborhood(&mut loaded, conflict).await?;
        for _ in 0..ROUNDS_MAX {
            let outcome = state_res::resolve_conflicted(self.room.rules, &loaded, full.iter().cloned(), &loaded);
            let (events, pairs) = loaded.take_misses();
            if events.is_empty() && pairs.is_empty() {
                let resolved = outcome.map_err(resolve_error)?;
                return self.changes(conflict, &loaded, &resolved).await;
            }
            self.load_misses(&mut loaded, conflict, events, pairs).await?;
        }
        Err(Error::Store(store::Error::Engine("state resolution did not come to an end".to_owned())))
    }

    /// The conflicted events, the auth difference and, in version 12, the conflicted state subgraph.
    async fn full_conflicted_set(&self, conflict: &Conflict) -> Result<BTreeSet<i64>> {
        let mut full = conflict.events();
        let state_res = self.room.rules.state_res;
        if state_res == StateRes::V1 {
            return Ok(full);
        }
        let mut graph = self.room.graph.lock().await;
        let graph = match graph.as_mut() {
            Some(graph) => graph,
            None => graph.insert(self.load_graph().await?),
        };
        let sides = conflict.sides();
        let sides: Vec<&[i64]> = sides.iter().map(Vec::as_slice).collect();
        let keys: BTreeSet<KeyId> = conflict.keys.keys().copied().collect();
        let base = conflict.states.first().copied().unwrap_or(Roots::EMPTY);
        let roots = [base.members, base.rest];
        let difference = self
            .rooms
            .on_tree(self.room, Some(&self.overlay), |tree| {
                SharedState::new(tree, &roots, &keys, |event| graph.keys.get(&event).copied())
                    .auth_difference(&graph.edges, &sides)
            })
            .await?
            .map_err(graph_error)?;
        full.extend(difference.events);
        if state_res == StateRes::V2_1 {
            let conflicted: Vec<i64> = conflict.events().into_iter().collect();
            full.extend(graph.edges.conflicted_subgraph(&conflicted).map_err(graph_error)?.events);
        }
        Ok(full)
    }

    /// The auth chain of state events: their auth events, the auth events of those, and so on.
    pub async fn auth_chain(&self, events: &[EventNum]) -> Result<Vec<EventNum>> {
        let mut graph = self.room.graph.lock().await;
        let graph = match graph.as_mut() {
            Some(graph) => graph,
            None => graph.insert(self.load_graph().await?),
        };
        let events: Vec<i64> = events.iter().map(|num| num.0).collect();
        let chain = graph.edges.auth_chain(&events).map_err(graph_error)?;
        Ok(chain.events.into_iter().map(EventNum).collect())
    }

    /// Reads the auth graph of the room: what is stored, what is not yet written, what this draft adds.
    async fn load_graph(&self) -> Result<Graph> {
        // First what is not yet written: it may be written while the rows are read.
        let mut fresh: Vec<Arc<Event>> = self.room.unwritten.lock().events.values().cloned().collect();
        fresh.extend(self.overlay.events.values().cloned());
        // The edges of a waiting event are not known yet, and the graph takes each event once.
        fresh.retain(|event| !event.has(flags::WAITING));
        fresh.sort_by_key(|event| event.num());
        let prefix = vec![self.room.num.into()];
        let rows: Vec<StateEventRow> = self.rooms.store.all(Read::prefix::<StateEventRow>(prefix)).await?;
        let mut graph = Graph { edges: AuthGraph::new(), keys: HashMap::with_capacity(rows.len()) };
        graph.edges.reserve(rows.len());
        for row in rows {
            let auth = packed::unpack(row.event.0, &row.auth)
                .map_err(|error| store::Error::Corrupt { table: "state_events", detail: error.to_string() })?;
            graph.insert(row.event, key_id(row.key_id)?, &auth)?;
        }
        for event in fresh {
            let Some(state_key) = &event.pdu.state_key else { continue };
            let pair = type_key(&event.pdu.kind, state_key);
            let key = self.rooms.key_ids(self.room, Some(&self.overlay), &[pair]).await?.into_iter().next().flatten();
            let auth = packed::unpack(event.num().0, &event.row.auth).unwrap_or_default();
            if let Some(key) = key {
                graph.insert(event.num(), key, &auth)?;
            }
        }
        graph.edges.set_complete(true);
        Ok(graph)
    }

    /// The algorithm sees these in what is not in conflict, whether or not the state that it begins with has them.
    async fn load_agreed(&self, loaded: &mut Loaded, agreed: &[(TypeKey, Option<EventNum>)]) -> Result<()> {
        let nums: Vec<EventNum> = agreed.iter().filter_map(|(_, num)| *num).collect();
        loaded.add(self.rooms.events(self.room, Some(&self.overlay), &nums).await?);
        for (pair, num) in agreed {
            let id = num.and_then(|num| loaded.id_of(num));
            loaded.unconflicted.insert(pair.clone(), id);
        }
        Ok(())
    }

    /// Loads what the algorithm surely reads: auth events, and the unconflicted state that the rules look at.
    async fn load_neighborhood(&self, loaded: &mut Loaded, conflict: &Conflict) -> Result<()> {
        let mut auth = BTreeSet::new();
        let mut pairs = BTreeSet::from([type_key("m.room.create", ""), type_key("m.room.power_levels", "")]);
        for event in loaded.events.values() {
            auth.extend(packed::unpack(event.num().0, &event.row.auth).unwrap_or_default().into_iter().map(EventNum));
            let pdu = &event.pdu;
            let state_key = pdu.state_key.as_deref();
            pairs.extend(auth_rules::auth_types(self.room.rules, &pdu.sender, &pdu.kind, state_key, &pdu.content));
        }
        let auth: Vec<EventNum> = auth.into_iter().filter(|num| loaded.id_of(*num).is_none()).collect();
        loaded.add(self.rooms.events(self.room, Some(&self.overlay), &auth).await?);
        self.load_misses(loaded, conflict, BTreeSet::new(), pairs).await
    }

    async fn load_misses(
        &self,
        loaded: &mut Loaded,
        conflict: &Conflict,
        events: BTreeSet<OwnedEventId>,
        pairs: BTreeSet<TypeKey>,
    ) -> Result<()> {
        let mut nums = Vec::with_capacity(events.len());
        for id in events {
            match self.num_of(&id).await? {
                Some(num) => nums.push(num),
                None => {
                    loaded.absent.insert(id);
                }
            }
        }
        loaded.add(self.rooms.events(self.room, Some(&self.overlay), &nums).await?);
        let pairs: Vec<TypeKey> = pairs.into_iter().filter(|pair| !loaded.unconflicted.contains_key(pair)).collect();
        let base = conflict.states.first().copied().unwrap_or(Roots::EMPTY);
        let ids = self.rooms.key_ids(self.room, Some(&self.overlay), &pairs).await?;
        let nums = self.rooms.state_nums(self.room, Some(&self.overlay), base, &pairs).await?;
        let unconflicted = |(num, id): (Option<EventNum>, Option<KeyId>)| {
            num.filter(|_| id.is_some_and(|id| !conflict.keys.contains_key(&id)))
        };
        let nums: Vec<Option<EventNum>> = nums.into_iter().zip(ids).map(unconflicted).collect();
        let wanted: Vec<EventNum> = nums.iter().flatten().copied().collect();
        let found = self.rooms.events(self.room, Some(&self.overlay), &wanted).await?;
        let mut ids = found.iter().map(|event| event.id().clone());
        for (pair, num) in pairs.into_iter().zip(nums) {
            loaded.unconflicted.insert(pair, num.and_then(|_| ids.next()));
        }
        drop(ids);
        loaded.add(found);
        Ok(())
    }

    /// What becomes of each conflicted key, and of keys that the resolution adds.
    async fn changes(
        &self,
        conflict: &Conflict,
        loaded: &Loaded,
        resolved: &state_res::StateMap<OwnedEventId>,
    ) -> Result<Vec<(TypeKey, Option<EventNum>)>> {
        let keys: Vec<KeyId> = conflict.keys.keys().copied().collect();
        let mut changes: BTreeMap<TypeKey, Option<EventNum>> =
            self.pairs_of(&keys).await?.into_iter().map(|pair| (pair, None)).collect();
        for (pair, id) in resolved {
            let num = loaded.by_id.get(id).map(|event| event.num());
            changes.insert(pair.clone(), num);
        }
        Ok(changes.into_iter().collect())
    }
}

fn resolve_error(error: ResolveError) -> Error {
    Error::Store(store::Error::Corrupt { table: "events", detail: error.to_string() })
}

/// What a resolution has in memory; notes what it was asked for in vain.
#[derive(Default)]
struct Loaded {
    events: HashMap<EventNum, Arc<Event>>,
    by_id: HashMap<OwnedEventId, Arc<Event>>,
    absent: BTreeSet<OwnedEventId>,
    unconflicted: BTreeMap<TypeKey, Option<OwnedEventId>>,
    missed_events: Mutex<BTreeSet<OwnedEventId>>,
    missed_pairs: Mutex<BTreeSet<TypeKey>>,
}

impl Loaded {
    fn add(&mut self, events: Vec<Arc<Event>>) {
        for event in events {
            self.by_id.insert(event.id().clone(), Arc::clone(&event));
            self.events.insert(event.num(), event);
        }
    }

    fn id_of(&self, num: EventNum) -> Option<OwnedEventId> {
        self.events.get(&num).map(|event| event.id().clone())
    }

    fn take_misses(&self) -> (BTreeSet<OwnedEventId>, BTreeSet<TypeKey>) {
        (std::mem::take(&mut self.missed_events.lock()), std::mem::take(&mut self.missed_pairs.lock()))
    }

    fn look(&self, id: &EventId) -> Option<&Arc<Event>> {
        let found = self.by_id.get(id);
        if found.is_none() && !self.absent.contains(id) {
            self.missed_events.lock().insert(id.to_owned());
        }
        found
    }
}

impl Events for Loaded {
    fn event(&self, id: &EventId) -> Option<Arc<Pdu>> {
        self.look(id).map(|event| Arc::clone(&event.pdu))
    }

    fn rejected(&self, id: &EventId) -> bool {
        self.look(id).is_some_and(|event| event.rejected())
    }
}

impl UnconflictedState for Loaded {
    fn get(&self, kind: &str, state_key: &str) -> Option<OwnedEventId> {
        let pair = type_key(kind, state_key);
        match self.unconflicted.get(&pair) {
            Some(found) => found.clone(),
            None => {
                self.missed_pairs.lock().insert(pair);
                None
            }
        }
    }
}
