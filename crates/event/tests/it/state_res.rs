//! State resolution on random rooms: against `ruma-state-res`, and against
//! itself with everything in another order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use event::auth_rules::{self, AuthEvent, auth_types};
use event::state_res::{
    self, Events, ResolveError, StateMap, UnconflictedState, auth_chain, auth_difference, conflicted_subgraph,
    resolve_all, resolve_conflicted, split,
};
use event::{Pdu, Rules};
use ruma_common::{EventId, OwnedEventId};
use ruma_state_res::utils::event_id_set::EventIdSet;
use serde_json::{Value, json};

use crate::room::{ALICE, BOB, CAROL, State};
use crate::support::{Rng, Store, oracle_event, pdu, rules, ruma_rules, seeds, seeds_of};

const USERS: [&str; 6] = [ALICE, BOB, CAROL, "@dan:a.example", "@eve:b.example", "@frank:c.example"];

/// The versions with an algorithm or rules of their own that the oracle has.
const VERSIONS: [&str; 6] = ["2", "6", "8", "10", "11", "12"];

/// The same by algorithm: version 2, and 2.1.
const FAMILIES: [&[&str]; 2] = [&["2", "6", "8", "10", "11"], &["12"]];

/// A room graph in which every event carries the state after it.
pub struct Graph {
    pub rules: &'static Rules,
    pub create: Arc<Pdu>,
    pub store: Store,
    pub rejected: BTreeSet<OwnedEventId>,
    after: BTreeMap<OwnedEventId, StateMap<OwnedEventId>>,
    generations: BTreeMap<OwnedEventId, u64>,
    /// In the order in which they were made.
    pub order: Vec<OwnedEventId>,
    helper: State,
}

impl Events for Graph {
    fn event(&self, id: &EventId) -> Option<Arc<Pdu>> {
        self.store.get(id).cloned()
    }

    fn rejected(&self, id: &EventId) -> bool {
        self.rejected.contains(id)
    }
}

/// The same events, with generations, so that walks stop early.
struct WithGenerations<'a>(&'a Graph);

impl Events for WithGenerations<'_> {
    fn event(&self, id: &EventId) -> Option<Arc<Pdu>> {
        self.0.event(id)
    }

    fn rejected(&self, id: &EventId) -> bool {
        self.0.rejected(id)
    }

    fn generation(&self, id: &EventId) -> Option<u64> {
        self.0.generations.get(id).copied()
    }
}

/// A state as the authorization rules see it.
pub struct View<'a>(pub &'a Graph, pub &'a StateMap<OwnedEventId>);

impl auth_rules::StateView for View<'_> {
    fn get(&self, kind: &str, state_key: &str) -> Option<Arc<Pdu>> {
        self.0.event(&UnconflictedState::get(self.1, kind, state_key)?)
    }
}

impl Graph {
    fn new(version: &str, extra: Value) -> Graph {
        let helper = State::with_create(version, extra);
        let create = helper.create.clone();
        let mut graph = Graph {
            rules: helper.rules,
            create: create.clone(),
            store: Store::new(),
            rejected: BTreeSet::new(),
            after: BTreeMap::new(),
            generations: BTreeMap::new(),
            order: Vec::new(),
            helper,
        };
        graph.insert(&create, false, StateMap::new());
        graph
    }

    fn insert(&mut self, event: &Arc<Pdu>, rejected: bool, before: StateMap<OwnedEventId>) {
        let mut after = before;
        if let (Some((kind, state_key)), false) = (event.state_entry(), rejected) {
            after.insert((kind.to_owned(), state_key.to_owned()), event.event_id.clone());
        }
        if rejected {
            self.rejected.insert(event.event_id.clone());
        }
        let above = event.auth_events.iter().map(|id| self.generations[id] + 1).max();
        self.generations.insert(event.event_id.clone(), above.unwrap_or(0));
        self.order.push(event.event_id.clone());
        self.after.insert(event.event_id.clone(), after);
        self.store.insert(event.event_id.clone(), event.clone());
    }

    /// Makes an event on top of others, with auth events from a given state,
    /// and judges it as a server would.
    fn send(&mut self, ts: i64, prev: &[OwnedEventId], cited: &StateMap<OwnedEventId>, made: Made) -> OwnedEventId {
        let mut event = self.helper.event(made.sender, made.kind, made.state_key.as_deref(), made.content);
        event["origin_server_ts"] = ts.into();
        event["depth"] = (prev.iter().map(|id| self.store[id].depth).max().unwrap() + 1).into();
        let edges = |ids: Vec<&OwnedEventId>| self.helper.edges(&ids.iter().map(|id| id.as_str()).collect::<Vec<_>>());
        event["prev_events"] = edges(prev.iter().collect());
        let first = pdu(self.rules, event.clone());
        let types = auth_types(self.rules, &first.sender, &first.kind, first.state_key.as_deref(), &first.content);
        let auth: Vec<OwnedEventId> = types.iter().filter_map(|entry| cited.get(entry)).cloned().collect();
        event["auth_events"] = edges(auth.iter().collect());
        let event = pdu(self.rules, event);
        let before = self.state_before(prev);
        let auth: Vec<AuthEvent> = auth
            .iter()
            .map(|id| AuthEvent { pdu: self.store[id].clone(), rejected: self.rejected.contains(id) })
            .collect();
        let allowed = auth_rules::check_against_auth_events(self.rules, &event, &auth, &self.create)
            .and_then(|()| auth_rules::check(self.rules, &event, &View(self, &before), &self.create));
        self.insert(&event, allowed.is_err(), before);
        event.event_id.clone()
    }

    /// The state before an event on top of these.
    pub fn state_before(&self, prev: &[OwnedEventId]) -> StateMap<OwnedEventId> {
        let states: Vec<_> = prev.iter().map(|id| self.after[id].clone()).collect();
        resolve_all(self.rules, &states, self).unwrap()
    }
}

/// What an event says.
struct Made {
    sender: &'static str,
    kind: &'static str,
    state_key: Option<String>,
    content: Value,
}

fn made(sender: &'static str, kind: &'static str, state_key: &str, content: Value) -> Made {
    Made { sender, kind, state_key: Some(state_key.to_owned()), content }
}

fn random_made(rng: &mut Rng, creators: &[&str]) -> Made {
    let n_senders = if rng.one_in(2) { 2 } else { 6 };
    let sender = *rng.pick(&USERS[..n_senders]);
    let target = *rng.pick(&USERS);
    match rng.below(12) {
        0..2 => made(sender, "m.room.member", sender, json!({ "membership": "join" })),
        2 => made(sender, "m.room.member", sender, json!({ "membership": "leave" })),
        3..5 => {
            let membership = *rng.pick(&["ban", "leave", "invite"]);
            made(sender, "m.room.member", target, json!({ "membership": membership }))
        }
        5..7 => {
            let mut users = json!({});
            for user in USERS.iter().filter(|user| !creators.contains(user)) {
                if rng.one_in(2) {
                    users[user] = (*rng.pick(&[0, 50, 50, 100])).into();
                }
            }
            if !creators.contains(&ALICE) {
                users[ALICE] = 100.into();
            }
            let mut content = json!({ "users": users, "ban": 50, "kick": 50, "state_default": 50 });
            if rng.one_in(3) {
                content["users_default"] = (*rng.pick(&[0, 50])).into();
            }
            made(sender, "m.room.power_levels", "", content)
        }
        7 => {
            let join_rule = *rng.pick(&["public", "public", "invite", "restricted"]);
            made(sender, "m.room.join_rules", "", json!({ "join_rule": join_rule }))
        }
        8 => {
            let kind = *rng.pick(&["m.room.power_levels", "m.room.join_rules"]);
            made(sender, kind, "odd", json!({ "users": {}, "join_rule": "public" }))
        }
        _ => {
            let kind = *rng.pick(&["m.room.topic", "m.room.name", "x.one", "x.two"]);
            let state_key = *rng.pick(&["", "a", "b"]);
            made(sender, kind, state_key, json!({ "n": rng.below(1000) }))
        }
    }
}

/// A room of some seventy events with forks, merges, ties of time, events that
/// cite old auth events, and events without power levels.
pub fn random_graph(seed: u64, version: &str) -> Graph {
    let mut rng = Rng(seed);
    let creators: Vec<&str> = if rules(version).privileged_creators {
        if rng.one_in(2) { vec![ALICE] } else { vec![ALICE, BOB] }
    } else {
        vec![]
    };
    let mut graph = Graph::new(version, json!({ "additional_creators": creators.get(1..).unwrap_or_default() }));
    let mut tip = graph.create.event_id.clone();
    let extend = |graph: &mut Graph, tip: &mut OwnedEventId, made: Made| {
        let state = graph.after[tip].clone();
        let ts = i64::try_from(graph.order.len()).unwrap();
        *tip = graph.send(ts, std::slice::from_ref(&*tip), &state, made);
    };
    extend(&mut graph, &mut tip, made(ALICE, "m.room.member", ALICE, json!({ "membership": "join" })));
    if !rng.one_in(4) {
        let users = if creators.is_empty() { json!({ ALICE: 100, BOB: 50 }) } else { json!({ CAROL: 50 }) };
        extend(&mut graph, &mut tip, made(ALICE, "m.room.power_levels", "", json!({ "users": users })));
    }
    extend(&mut graph, &mut tip, made(ALICE, "m.room.join_rules", "", json!({ "join_rule": "public" })));
    for user in &USERS[1..] {
        extend(&mut graph, &mut tip, made(user, "m.room.member", user, json!({ "membership": "join" })));
    }
    // Forks: each starts anywhere and grows; some merges join several.
    let deep = rng.one_in(3);
    let mut tips = vec![tip];
    for _ in 0..60 {
        if tips.len() < 6 && rng.one_in(if deep { 8 } else { 3 }) {
            let from = if rng.one_in(2) { rng.pick(&graph.order).clone() } else { rng.pick(&tips).clone() };
            tips.push(from);
        }
        let at = rng.below(tips.len());
        let mut prev = vec![tips[at].clone()];
        if rng.one_in(5) {
            prev.extend((0..rng.below(3)).map(|_| rng.pick(&tips).clone()));
            prev.sort();
            prev.dedup();
        }
        let cited = if rng.one_in(6) { graph.after[rng.pick(&graph.order)].clone() } else { graph.state_before(&prev) };
        // Few values, so that ties are common.
        let ts = i64::try_from(100 + rng.below(4)).unwrap();
        let made = random_made(&mut rng, &creators);
        tips[at] = graph.send(ts, &prev, &cited, made);
    }
    graph
}

/// Random choices of two to six states of the graph.
pub fn state_sets(graph: &Graph, rng: &mut Rng) -> Vec<StateMap<OwnedEventId>> {
    let recent = &graph.order[graph.order.len() / 3..];
    (0..2 + rng.below(5)).map(|_| graph.after[rng.pick(recent)].clone()).collect()
}

fn oracle(graph: &Graph, sets: &[StateMap<OwnedEventId>], rejected: &BTreeSet<OwnedEventId>) -> StateMap<OwnedEventId> {
    let rules = ruma_rules(graph.rules.version());
    let maps: Vec<ruma_state_res::StateMap<OwnedEventId>> = sets
        .iter()
        .map(|set| set.iter().map(|((kind, key), id)| ((kind.as_str().into(), key.clone()), id.clone())).collect())
        .collect();
    let chains =
        sets.iter().map(|set| naive_chain(graph, set.values()).into_iter().collect::<EventIdSet<_>>()).collect();
    let resolved = ruma_state_res::resolve(
        &rules.authorization,
        rules.state_res.v2_rules().unwrap(),
        &maps,
        chains,
        |id| oracle_event(&graph.store, id, rejected.contains(id)),
        |conflicted| {
            let conflicted = conflicted.values().flatten().cloned().collect();
            Some(naive_subgraph(graph, &conflicted).into_iter().collect())
        },
    );
    resolved.unwrap().into_iter().map(|((kind, key), id)| ((kind.to_string(), key), id)).collect()
}

fn naive_chain<'a>(graph: &Graph, ids: impl Iterator<Item = &'a OwnedEventId>) -> BTreeSet<OwnedEventId> {
    let mut chain = BTreeSet::new();
    let mut pending: Vec<OwnedEventId> = ids.cloned().collect();
    while let Some(id) = pending.pop() {
        for auth_id in &graph.store[&id].auth_events {
            if chain.insert(auth_id.clone()) {
                pending.push(auth_id.clone());
            }
        }
    }
    chain
}

/// By definition: what is between two conflicted events, ends included.
pub fn naive_subgraph(graph: &Graph, conflicted: &BTreeSet<OwnedEventId>) -> BTreeSet<OwnedEventId> {
    let mut subgraph = BTreeSet::new();
    for from in conflicted {
        for to in conflicted {
            let below = naive_chain(graph, std::iter::once(from));
            if !below.contains(to) {
                continue;
            }
            let between = |id: &&OwnedEventId| naive_chain(graph, std::iter::once(*id)).contains(to);
            subgraph.extend(below.iter().filter(between).cloned());
            subgraph.extend([from.clone(), to.clone()]);
        }
    }
    subgraph
}

pub fn difference_by_definition(graph: &Graph, sets: &[StateMap<OwnedEventId>]) -> BTreeSet<OwnedEventId> {
    let chains: Vec<_> = sets.iter().map(|set| naive_chain(graph, set.values())).collect();
    let union: BTreeSet<OwnedEventId> = chains.iter().flatten().cloned().collect();
    union.into_iter().filter(|id| !chains.iter().all(|chain| chain.contains(id))).collect()
}

/// Whether the oracle can judge these states: it denies every join where there
/// are no join rules, instead of taking the join rule for `invite`. Joins that
/// cite accepted join rules never come to that.
fn is_comparable(graph: &Graph, sets: &[StateMap<OwnedEventId>]) -> bool {
    let conflicted: BTreeSet<_> = split(graph.rules, sets).conflicted.into_values().flatten().collect();
    let mut full = difference_by_definition(graph, sets);
    full.extend(naive_subgraph(graph, &conflicted));
    full.extend(conflicted);
    full.iter().map(|id| &graph.store[id]).filter(|pdu| pdu.membership() == Some("join")).all(|join| {
        let first = join.prev_events == [graph.create.event_id.clone()];
        let accepted = |id: &&OwnedEventId| !graph.rejected.contains(*id);
        first || join.auth_events.iter().filter(accepted).any(|id| graph.store[id].kind == "m.room.join_rules")
    })
}

/// SEC-state-resolution.
#[test]
fn rv6_resolution_agrees_with_ruma() {
    let (mut conflicts, mut entries, mut unlike_any, mut skipped, mut compared) = (0, 0, 0, 0, 0);
    for seed in seeds_of("EVENT_STATE_SEEDS", 2_000) {
        for family in FAMILIES {
            let mut rng = Rng(seed ^ 0xABCD);
            let version = rng.pick(family);
            let graph = random_graph(seed, version);
            for _ in 0..3 {
                let sets = state_sets(&graph, &mut rng);
                let ours = resolve_all(graph.rules, &sets, &graph).unwrap();
                if !is_comparable(&graph, &sets) {
                    skipped += 1;
                    continue;
                }
                compared += 1;
                let theirs = oracle(&graph, &sets, &graph.rejected);
                assert_eq!(ours, theirs, "seed {seed}, version {version}");
                conflicts += split(graph.rules, &sets).conflicted.len();
                entries += ours.len();
                unlike_any += usize::from(!sets.contains(&ours));
            }
        }
    }
    assert!(conflicts * 3 > entries, "{conflicts} conflicts in {entries} entries: too tame");
    assert!(unlike_any * 20 > compared, "{unlike_any} resolutions of {compared} are new states: too tame");
    assert!(skipped * 5 < compared, "{skipped} skipped, {compared} compared");
    println!("figures: {compared} resolutions as ruma has them");
}

#[test]
fn rv7_rejected_auth_events_are_not_used() {
    let mut differs = 0;
    for seed in seeds(30) {
        for version in VERSIONS {
            let mut graph = random_graph(seed, version);
            let mut rng = Rng(seed ^ 0x1234);
            for _ in 0..6 {
                let sets = state_sets(&graph, &mut rng);
                let before = resolve_all(graph.rules, &sets, &graph).unwrap();
                // Events that are in none of the states.
                let in_states: BTreeSet<_> = sets.iter().flat_map(StateMap::values).collect();
                let full: BTreeSet<_> = difference_by_definition(&graph, &sets);
                let outside: Vec<_> = sets
                    .iter()
                    .flat_map(|set| naive_chain(&graph, set.values()))
                    .filter(|id| !in_states.contains(id) && !full.contains(id) && *id != graph.create.event_id)
                    .collect();
                if outside.is_empty() {
                    continue;
                }
                let kept = graph.rejected.clone();
                graph.rejected.extend((0..3).map(|_| rng.pick(&outside).clone()));
                let ours = resolve_all(graph.rules, &sets, &graph).unwrap();
                let conflicted: BTreeSet<_> = split(graph.rules, &sets).conflicted.into_values().flatten().collect();
                let subgraph = naive_subgraph(&graph, &conflicted);
                // The oracle also disregards rejected events that were resolved
                // into the state; the specification does not.
                let resolvable = graph.rejected.is_disjoint(&subgraph) || graph.rules.version() != "12";
                if resolvable && is_comparable(&graph, &sets) {
                    assert_eq!(ours, oracle(&graph, &sets, &graph.rejected), "seed {seed}, version {version}");
                }
                differs += usize::from(ours != before);
                graph.rejected = kept;
            }
        }
    }
    assert!(differs > 0, "rejections never mattered");
}

/// A room of Alice's in which Bob and Carol are, Bob with level 50, and which is closed to others. Also its newest event.
fn closed_room(version: &str) -> (Graph, OwnedEventId) {
    let mut graph = Graph::new(version, json!({}));
    let mut tip = graph.create.event_id.clone();
    let join = |user: &'static str| made(user, "m.room.member", user, json!({ "membership": "join" }));
    let rule = |rule: &str| made(ALICE, "m.room.join_rules", "", json!({ "join_rule": rule }));
    let levels = made(ALICE, "m.room.power_levels", "", levels_of(version, 50, 0));
    for (ts, step) in (1..).zip([join(ALICE), levels, rule("public"), join(BOB), join(CAROL), rule("invite")]) {
        let cited = graph.after[&tip].clone();
        tip = graph.send(ts, std::slice::from_ref(&tip), &cited, step);
        assert!(!graph.rejected.contains(&tip));
    }
    (graph, tip)
}

/// Power levels in which Alice, if need be, has 100, and everybody may name the room.
fn levels_of(version: &str, bob: i64, carol: i64) -> Value {
    let mut users = if rules(version).privileged_creators { json!({}) } else { json!({ ALICE: 100 }) };
    users[BOB] = bob.into();
    users[CAROL] = carol.into();
    json!({ "users": users, "events": { "m.room.name": 0 } })
}

/// The resolution of a room's state with an event and of the same state without.
fn beside_none(graph: &Graph, state: &StateMap<OwnedEventId>, event: &OwnedEventId) -> StateMap<OwnedEventId> {
    let mut with_event = state.clone();
    with_event.insert((graph.store[event].kind.clone(), String::new()), event.clone());
    resolve_all(graph.rules, &[with_event, state.clone()], graph).unwrap()
}

#[test]
fn rv7_what_the_state_rejected_is_resolved_like_all_else() {
    for version in VERSIONS {
        let (mut graph, tip) = closed_room(version);
        let state = graph.after[&tip].clone();
        let demoted = graph.send(
            10,
            std::slice::from_ref(&tip),
            &state,
            made(ALICE, "m.room.power_levels", "", levels_of(version, 0, 0)),
        );
        // By what they cite Bob's events are allowed, by the state before them they are not.
        let topic = made(BOB, "m.room.topic", "", json!({ "topic": "Bob's" }));
        let topic = graph.send(11, std::slice::from_ref(&demoted), &state, topic);
        let raised = made(BOB, "m.room.power_levels", "", levels_of(version, 50, 50));
        let raised = graph.send(12, std::slice::from_ref(&demoted), &state, raised);
        assert!(graph.rejected.is_superset(&BTreeSet::from([topic.clone(), raised.clone()])), "{version}");
        let resolved = beside_none(&graph, &state, &topic);
        assert_eq!(UnconflictedState::get(&resolved, "m.room.topic", ""), Some(topic), "{version}: as an entry");
        // Carol's topic stands on the levels that Bob gave her: they are in the auth difference alone.
        let mut cited = state.clone();
        cited.insert(("m.room.power_levels".to_owned(), String::new()), raised.clone());
        let carols = made(CAROL, "m.room.topic", "", json!({ "topic": "Carol's" }));
        let carols = graph.send(13, std::slice::from_ref(&raised), &cited, carols);
        let resolved = beside_none(&graph, &state, &carols);
        assert_eq!(UnconflictedState::get(&resolved, "m.room.topic", ""), Some(carols), "{version}: in the difference");
        let levels = UnconflictedState::get(&resolved, "m.room.power_levels", "");
        assert_eq!(levels, UnconflictedState::get(&state, "m.room.power_levels", ""), "{version}");
    }
}

#[test]
fn rv7_what_its_auth_events_rejected_lets_nobody_in() {
    const DAN: &str = USERS[3];
    for version in VERSIONS {
        let (mut graph, tip) = closed_room(version);
        let state = graph.after[&tip].clone();
        let join = made(DAN, "m.room.member", DAN, json!({ "membership": "join" }));
        let join = graph.send(10, std::slice::from_ref(&tip), &state, join);
        assert!(graph.rejected.contains(&join), "{version}");
        let mut cited = state.clone();
        cited.insert(("m.room.member".to_owned(), DAN.to_owned()), join.clone());
        let name = made(DAN, "m.room.name", "", json!({ "name": "Dan's" }));
        let name = graph.send(11, std::slice::from_ref(&join), &cited, name);
        let resolved = beside_none(&graph, &state, &name);
        assert_eq!(resolved, state, "{version}");
        // The same with a join that was not rejected: it is that alone that counts.
        graph.rejected.remove(&join);
        let resolved = beside_none(&graph, &state, &name);
        assert_eq!(UnconflictedState::get(&resolved, "m.room.name", ""), Some(name), "{version}");
    }
}

#[test]
fn order_does_not_matter() {
    for seed in seeds(40) {
        for version in ["1", "2", "6", "11", "12"] {
            let graph = random_graph(seed, version);
            let mut rng = Rng(seed ^ 0x77);
            for _ in 0..4 {
                let mut sets = state_sets(&graph, &mut rng);
                let first = resolve_all(graph.rules, &sets, &graph).unwrap();
                rng.shuffle(&mut sets);
                sets.push(sets[0].clone());
                let again = resolve_all(graph.rules, &sets, &WithGenerations(&graph)).unwrap();
                assert_eq!(again, first, "seed {seed}, version {version}");
            }
        }
    }
}

#[test]
fn any_arrival_order_gives_the_same_states() {
    for seed in seeds(20) {
        for version in ["1", "2", "11", "12"] {
            let graph = random_graph(seed, version);
            let mut rng = Rng(seed ^ 0x5555);
            let mut other = Graph::new(
                version,
                graph
                    .create
                    .content
                    .get("additional_creators")
                    .map_or(json!({}), |creators| json!({ "additional_creators": creators })),
            );
            assert_eq!(other.create, graph.create);
            let mut waiting = graph.order[1..].to_vec();
            rng.shuffle(&mut waiting);
            while !waiting.is_empty() {
                let ready = |id: &OwnedEventId| {
                    let event = &graph.store[id];
                    event.prev_events.iter().chain(&event.auth_events).all(|id| other.store.contains_key(id))
                };
                let at = waiting.iter().position(ready).unwrap();
                let event = graph.store[&waiting.remove(at)].clone();
                let before = other.state_before(&event.prev_events);
                let auth: Vec<AuthEvent> = event
                    .auth_events
                    .iter()
                    .map(|id| AuthEvent { pdu: other.store[id].clone(), rejected: other.rejected.contains(id) })
                    .collect();
                let allowed = auth_rules::check_against_auth_events(other.rules, &event, &auth, &other.create)
                    .and_then(|()| auth_rules::check(other.rules, &event, &View(&other, &before), &other.create));
                other.insert(&event, allowed.is_err(), before);
            }
            assert_eq!(other.rejected, graph.rejected, "seed {seed}, version {version}");
            assert_eq!(other.after, graph.after, "seed {seed}, version {version}");
        }
    }
}

#[test]
fn walks_agree_with_their_definitions() {
    for seed in seeds(30) {
        for version in ["2", "11", "12"] {
            let graph = random_graph(seed, version);
            let ordered = WithGenerations(&graph);
            let mut rng = Rng(seed ^ 0x99);
            for _ in 0..4 {
                let sets = state_sets(&graph, &mut rng);
                let expected = difference_by_definition(&graph, &sets);
                let parts = split(graph.rules, &sets);
                let conflicted: BTreeSet<OwnedEventId> = parts.conflicted.into_values().flatten().collect();
                let per_set: Vec<Vec<OwnedEventId>> = sets
                    .iter()
                    .map(|set| set.values().filter(|id| conflicted.contains(*id)).cloned().collect())
                    .collect();
                let shared: Vec<OwnedEventId> = parts.unconflicted.into_values().collect();
                for events in [&graph as &dyn Events, &ordered] {
                    let difference = auth_difference(&per_set, |_| shared.clone(), events);
                    assert_eq!(difference, expected, "seed {seed}, version {version}");
                    let subgraph = conflicted_subgraph(&conflicted, events);
                    assert_eq!(subgraph, naive_subgraph(&graph, &conflicted), "seed {seed}");
                    let chain = auth_chain(shared.clone(), events);
                    assert_eq!(chain, naive_chain(&graph, shared.iter()));
                }
                // Leaving out what cannot reach the difference changes nothing.
                let above = |floor: u64| shared.iter().filter(|id| graph.generations[*id] > floor).cloned().collect();
                assert_eq!(auth_difference(&per_set, above, &ordered), expected, "seed {seed}");
            }
        }
    }
}

#[test]
fn the_conflicted_part_alone_is_enough() {
    for seed in seeds(30) {
        for version in ["1", "2", "11", "12"] {
            let graph = random_graph(seed, version);
            let mut rng = Rng(seed ^ 0x42);
            let sets = state_sets(&graph, &mut rng);
            let whole = resolve_all(graph.rules, &sets, &graph).unwrap();
            let parts = split(graph.rules, &sets);
            let conflicted: BTreeSet<OwnedEventId> = parts.conflicted.values().flatten().cloned().collect();
            let mut full = conflicted.clone();
            if version != "1" && !conflicted.is_empty() {
                full.extend(difference_by_definition(&graph, &sets));
            }
            if version == "12" {
                full.extend(naive_subgraph(&graph, &conflicted));
            }
            let resolved = resolve_conflicted(graph.rules, &parts.unconflicted, full, &graph).unwrap();
            assert!(resolved.keys().all(|entry| !parts.unconflicted.contains_key(entry)));
            let mut joined = parts.unconflicted;
            joined.extend(resolved);
            assert_eq!(joined, whole, "seed {seed}, version {version}");
        }
    }
}

#[test]
fn missing_events_are_named() {
    let graph = random_graph(1, "11");
    let mut sets = vec![graph.after[&graph.order[8]].clone(), graph.after[&graph.order[9]].clone()];
    let missing: OwnedEventId = "$missing".try_into().unwrap();
    sets[0].insert(("x".to_owned(), String::new()), missing.clone());
    let error = resolve_all(graph.rules, &sets, &graph).unwrap_err();
    assert_eq!(error, ResolveError::MissingEvent(missing));
}

#[test]
fn what_is_in_conflict() {
    let id = |id: &str| OwnedEventId::try_from(id).unwrap();
    let entry = |key: &str| ("x".to_owned(), key.to_owned());
    let one = StateMap::from([(entry("same"), id("$a")), (entry("differs"), id("$b")), (entry("only"), id("$c"))]);
    let two = StateMap::from([(entry("same"), id("$a")), (entry("differs"), id("$d"))]);
    let keys = |version: &str| {
        let parts = split(rules(version), &[one.clone(), two.clone()]);
        let names = |map: Vec<&(String, String)>| map.iter().map(|entry| entry.1.clone()).collect::<Vec<_>>().join(" ");
        (names(parts.unconflicted.keys().collect()), names(parts.conflicted.keys().collect()))
    };
    assert_eq!(keys("1"), ("only same".to_owned(), "differs".to_owned()));
    for version in ["2", "11", "12"] {
        assert_eq!(keys(version), ("same".to_owned(), "differs only".to_owned()));
    }
    assert_eq!(state_res::split(rules("11"), &[]), state_res::Split::default());
}

/// A ban and a concurrent demotion of the one who bans.
fn ban_against_demotion(version: &str) -> (Graph, [OwnedEventId; 3], StateMap<OwnedEventId>) {
    let mut graph = Graph::new(version, json!({}));
    let mut tip = graph.create.event_id.clone();
    let mut ts = 0;
    let mut send = |graph: &mut Graph, on: &OwnedEventId, made: Made| {
        ts += 1;
        let cited = graph.after[on].clone();
        graph.send(ts, std::slice::from_ref(on), &cited, made)
    };
    let alice = if rules(version).privileged_creators { json!({}) } else { json!({ ALICE: 100 }) };
    let levels = |bob: i64| {
        let mut users = alice.clone();
        users[BOB] = bob.into();
        json!({ "users": users })
    };
    let join = |user: &'static str| made(user, "m.room.member", user, json!({ "membership": "join" }));
    for step in [
        join(ALICE),
        made(ALICE, "m.room.power_levels", "", levels(50)),
        made(ALICE, "m.room.join_rules", "", json!({ "join_rule": "public" })),
        join(BOB),
        join(CAROL),
    ] {
        tip = send(&mut graph, &tip, step);
    }
    let ban = send(&mut graph, &tip, made(BOB, "m.room.member", CAROL, json!({ "membership": "ban" })));
    let demotion = send(&mut graph, &tip, made(ALICE, "m.room.power_levels", "", levels(0)));
    let topic = send(&mut graph, &tip, made(BOB, "m.room.topic", "", json!({ "topic": "x" })));
    let sets = [&ban, &demotion, &topic].map(|id| graph.after[id].clone());
    let resolved = resolve_all(graph.rules, &sets, &graph).unwrap();
    (graph, [ban, demotion, topic], resolved)
}

#[test]
fn a_demotion_beats_what_the_demoted_does_at_the_same_time() {
    for version in ["2", "6", "11", "12"] {
        let (graph, [_, demotion, _], resolved) = ban_against_demotion(version);
        let get = |kind: &str, key: &str| UnconflictedState::get(&resolved, kind, key);
        assert_eq!(get("m.room.power_levels", "").unwrap(), demotion, "version {version}");
        let carol = graph.event(&get("m.room.member", CAROL).unwrap()).unwrap();
        assert_eq!(carol.membership(), Some("join"), "version {version}");
        assert_eq!(get("m.room.topic", ""), None, "version {version}");
    }
}

#[test]
fn version_1_goes_by_depth() {
    let (_, [ban, demotion, topic], resolved) = ban_against_demotion("1");
    let get = |kind: &str, key: &str| UnconflictedState::get(&resolved, kind, key);
    // Power levels first: the deeper event is allowed. The ban is of Bob, who
    // has no power any more. The topic is in one state only, so not in conflict.
    assert_eq!(get("m.room.power_levels", "").unwrap(), demotion);
    assert_ne!(get("m.room.member", CAROL).unwrap(), ban);
    assert_eq!(get("m.room.topic", "").unwrap(), topic);
}

#[test]
fn ties_in_version_1_go_by_the_hash_of_the_id() {
    use sha1::{Digest, Sha1};
    let mut graph = Graph::new("1", json!({}));
    let create = graph.create.event_id.clone();
    let cited = graph.after[&create].clone();
    let join = made(ALICE, "m.room.member", ALICE, json!({ "membership": "join" }));
    let joined = graph.send(1, &[create], &cited, join);
    let cited = graph.after[&joined].clone();
    let topics: Vec<OwnedEventId> = (0..6)
        .map(|n| {
            let topic = made(ALICE, "m.room.topic", "", json!({ "n": n }));
            graph.send(2, std::slice::from_ref(&joined), &cited, topic)
        })
        .collect();
    let sets: Vec<_> = topics.iter().map(|id| graph.after[id].clone()).collect();
    let resolved = resolve_all(graph.rules, &sets, &graph).unwrap();
    let winner = topics.iter().min_by_key(|id| Sha1::digest(id.as_bytes())).unwrap();
    assert_eq!(UnconflictedState::get(&resolved, "m.room.topic", "").as_ref(), Some(winner));
}
