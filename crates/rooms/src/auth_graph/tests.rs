//! The graph against its definitions by brute force, and what answers cost at most.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Auth = BTreeMap<i64, Vec<i64>>;

/// Numbers that repeat: a small generator with a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % below
    }
}

fn graph(auth: &Auth) -> AuthGraph {
    let mut graph = AuthGraph::new();
    for (&event, cited) in auth {
        graph.insert(event, cited).unwrap();
    }
    graph.set_complete(true);
    graph
}

/// The events and all that they reach.
fn chain(auth: &Auth, events: impl IntoIterator<Item = i64>) -> BTreeSet<i64> {
    let mut chain = BTreeSet::new();
    let mut stack: Vec<i64> = events.into_iter().collect();
    while let Some(event) = stack.pop() {
        if chain.insert(event) {
            stack.extend(&auth[&event]);
        }
    }
    chain
}

fn expected_difference(auth: &Auth, sides: &[&[i64]], shared: &BTreeSet<i64>) -> Vec<i64> {
    let states = sides.iter().map(|side| shared.iter().chain(side.iter()).copied());
    let chains: Vec<BTreeSet<i64>> = states.map(|state| chain(auth, state)).collect();
    let all: BTreeSet<i64> = chains.iter().flatten().copied().collect();
    all.into_iter().filter(|event| !chains.iter().all(|chain| chain.contains(event))).collect()
}

fn expected_subgraph(auth: &Auth, conflicted: &[i64]) -> Vec<i64> {
    let reached = chain(auth, conflicted.iter().copied());
    let reaches = |&event: &i64| conflicted.iter().any(|c| chain(auth, [event]).contains(c));
    reached.into_iter().filter(reaches).collect()
}

fn expected_auth_chain(auth: &Auth, events: &[i64]) -> Vec<i64> {
    chain(auth, events.iter().flat_map(|event| auth[event].clone())).into_iter().collect()
}

/// A random graph of `n` events; `near` makes them cite recent events. Event numbers are
/// in the order of the graph unless `shuffled`.
fn random_auth(dice: &mut Dice, n: usize, near: bool, shuffled: bool) -> Auth {
    let mut numbers: Vec<i64> = (0..n as i64).map(|number| number * 3 + 1).collect();
    if shuffled {
        for place in (1..n).rev() {
            numbers.swap(place, dice.roll(place + 1));
        }
    }
    let mut auth = Auth::new();
    for event in 0..n {
        let window = if near { event.min(6) } else { event };
        let n_cited = if window == 0 { 0 } else { 1 + dice.roll(4) };
        let cited = (0..n_cited).map(|_| numbers[event - 1 - dice.roll(window)]).collect();
        auth.insert(numbers[event], cited);
    }
    auth
}

/// Some states over a graph: what they share, and what each has of its own.
fn random_states(dice: &mut Dice, auth: &Auth) -> (BTreeSet<i64>, Vec<Vec<i64>>) {
    let numbers: Vec<i64> = auth.keys().copied().collect();
    let n_shared = dice.roll(8);
    let shared = (0..n_shared).map(|_| numbers[dice.roll(numbers.len())]).collect();
    let n_sides = 1 + dice.roll(4);
    let mut side = || {
        let n = dice.roll(5);
        (0..n).map(|_| numbers[dice.roll(numbers.len())]).collect()
    };
    let sides = (0..n_sides).map(|_| side()).collect();
    (shared, sides)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn answers_are_what_the_definitions_say(seed: u64, n in 1usize..60, near: bool, shuffled: bool) {
        let mut dice = Dice(seed);
        let auth = random_auth(&mut dice, n, near, shuffled);
        let (mut shared, sides) = random_states(&mut dice, &auth);
        let sides: Vec<&[i64]> = sides.iter().map(Vec::as_slice).collect();
        let mut graph = graph(&auth);

        let expect = expected_difference(&auth, &sides, &shared);
        let walked = graph.auth_difference(&sides, &mut shared).unwrap();
        prop_assert_eq!(&walked.events, &expect);
        prop_assert!(!walked.effort.swept);
        // Each event is asked about once at most.
        prop_assert!(walked.effort.probes <= n);
        graph.set_complete(false);
        let swept = graph.auth_difference(&sides, &mut shared).unwrap();
        prop_assert_eq!(&swept.events, &expect);
        prop_assert!(swept.effort.swept && swept.effort.probes == 0);

        let conflicted: Vec<i64> = sides.concat();
        for complete in [false, true] {
            graph.set_complete(complete);
            let subgraph = graph.conflicted_subgraph(&conflicted).unwrap();
            prop_assert_eq!(subgraph.events, expected_subgraph(&auth, &conflicted));
        }
        let chain = graph.auth_chain(&conflicted).unwrap();
        prop_assert_eq!(chain.events, expected_auth_chain(&auth, &conflicted));
    }

    /// Starting from nothing, loading only what is asked for comes to the same answers.
    #[test]
    fn a_graph_loads_what_it_needs(seed: u64, n in 1usize..60, near: bool, shuffled: bool) {
        let mut dice = Dice(seed);
        let auth = random_auth(&mut dice, n, near, shuffled);
        let (mut shared, sides) = random_states(&mut dice, &auth);
        let sides: Vec<&[i64]> = sides.iter().map(Vec::as_slice).collect();
        let conflicted: Vec<i64> = sides.concat();

        let subgraph = load_and_ask(&auth, |graph| graph.conflicted_subgraph(&conflicted));
        prop_assert_eq!(subgraph.events, expected_subgraph(&auth, &conflicted));
        let difference = load_and_ask(&auth, |graph| graph.auth_difference(&sides, &mut shared));
        prop_assert_eq!(difference.events, expected_difference(&auth, &sides, &shared));
        let chain = load_and_ask(&auth, |graph| graph.auth_chain(&conflicted));
        prop_assert_eq!(chain.events, expected_auth_chain(&auth, &conflicted));
    }
}

fn load_and_ask(auth: &Auth, mut ask: impl FnMut(&AuthGraph) -> Result<Answer, AuthError>) -> Answer {
    let mut graph = AuthGraph::new();
    for _ in 0..=auth.len() {
        match ask(&graph) {
            Ok(answer) => return answer,
            Err(AuthError::Missing(missing)) => {
                for event in missing {
                    assert!(!graph.is_loaded(event), "{event} was loaded and is asked for again");
                    graph.insert(event, &auth[&event]).unwrap();
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("loading does not come to an end");
}

/// A room as rooms are: one creator, many members, power levels that change now and then.
/// Returns the graph, its current state by key, and the latest power levels.
fn busy_room(n_members: i64) -> (AuthGraph, BTreeMap<i64, i64>, i64) {
    let mut graph = AuthGraph::new();
    let (create, creator, mut power, rule) = (1, 2, 3, 4);
    graph.insert(create, &[]).unwrap();
    graph.insert(creator, &[create]).unwrap();
    graph.insert(power, &[create, creator]).unwrap();
    graph.insert(rule, &[create, creator, power]).unwrap();
    let mut state = BTreeMap::from([(-1, create), (-2, creator), (-4, rule)]);
    let mut event = 5;
    for member in 0..n_members {
        graph.insert(event, &[create, power, rule]).unwrap();
        state.insert(member, event);
        event += 1;
        if member % 300 == 299 {
            graph.insert(event, &[create, creator, power]).unwrap();
            power = event;
            event += 1;
        }
    }
    state.insert(-3, power);
    graph.set_complete(true);
    (graph, state, event)
}

#[test]
fn the_cost_follows_the_conflict_and_not_the_room() {
    let mut efforts = Vec::new();
    for n_members in [1_000, 100_000] {
        let (mut graph, state, next) = busy_room(n_members);
        let power = state[&-3];
        // Both sides change the power levels, and then ten members each.
        let (left, right) = (next, next + 1);
        graph.insert(left, &[1, 2, power]).unwrap();
        graph.insert(right, &[1, 2, power]).unwrap();
        let mut sides = [vec![left], vec![right]];
        for n in 0..20 {
            let event = next + 2 + n;
            let side = usize::from(n % 2 == 0);
            graph.insert(event, &[1, sides[side][0], 4, state[&n]]).unwrap();
            sides[side].push(event);
        }
        let mut shared: BTreeSet<i64> = state
            .iter()
            .filter(|(key, _)| **key != -3 && **key >= 20 || **key < -3 || **key == -1)
            .map(|(_, &event)| event)
            .collect();
        shared.insert(2);
        let answer = graph.auth_difference(&[&sides[0], &sides[1]], &mut shared).unwrap();
        let mut swept = graph.clone();
        swept.set_complete(false);
        let expect = swept.auth_difference(&[&sides[0], &sides[1]], &mut shared).unwrap();
        assert_eq!(answer.events, expect.events);
        assert!(answer.events.len() >= 22 && !answer.effort.swept);
        assert!(answer.effort.probes < 400, "{:?}", answer.effort);
        assert!(answer.effort.steps < 2_000, "{:?}", answer.effort);
        let subgraph = graph.conflicted_subgraph(&sides.concat()).unwrap();
        assert!(subgraph.effort.steps < 200, "{:?}", subgraph.effort);
        efforts.push(answer.effort);
    }
    assert!(efforts[1].steps < efforts[0].steps * 2, "{efforts:?}");
}

/// What any answer may cost: the walk up to its limits, a sweep, and one pass for each side.
fn check_bound(graph: &AuthGraph, sides: &[&[i64]], shared: &BTreeSet<i64>, swept: bool) -> Answer {
    let mut shared = shared.clone();
    let answer = graph.auth_difference(sides, &mut shared).unwrap();
    let fan = 2 * AUTH_EVENTS_MAX;
    assert!(answer.effort.probes <= PROBES_MAX + fan, "{:?}", answer.effort);
    let steps = STEPS_MAX + fan + graph.edges.len() * (1 + sides.len());
    assert!(answer.effort.steps <= steps, "{:?}", answer.effort);
    assert_eq!(answer.effort.swept, swept, "{:?}", answer.effort);
    let mut partial = graph.clone();
    partial.set_complete(false);
    assert_eq!(partial.auth_difference(sides, &mut shared).unwrap().events, answer.events);
    let subgraph = graph.conflicted_subgraph(&sides.concat()).unwrap();
    assert!(subgraph.effort.steps <= graph.edges.len());
    answer
}

#[test]
fn long_chains_are_swept() {
    let mut graph = AuthGraph::new();
    graph.insert(0, &[]).unwrap();
    for event in 1..100_000 {
        graph.insert(event, &[event - 1]).unwrap();
    }
    graph.set_complete(true);
    // Nothing is shared: all of the longer chain is the difference.
    let answer = check_bound(&graph, &[&[99_999], &[10]], &BTreeSet::new(), true);
    assert_eq!(answer.events.len(), 99_989);
    // What is shared lies far ahead of the conflict.
    let answer = check_bound(&graph, &[&[5], &[10]], &BTreeSet::from([99_999]), true);
    assert!(answer.events.is_empty());
    // It lies just behind.
    let answer = check_bound(&graph, &[&[99_990], &[99_999]], &BTreeSet::from([99_980]), false);
    assert_eq!(answer.events, (99_991..100_000).collect::<Vec<_>>());
    assert!(answer.effort.steps < 100);
    assert_eq!(graph.conflicted_subgraph(&[3, 99_999]).unwrap().events.len(), 99_997);
    assert_eq!(graph.auth_chain(&[99_999]).unwrap().events.len(), 99_999);
}

#[test]
fn wide_graphs_are_swept() {
    let mut graph = AuthGraph::new();
    graph.insert(0, &[]).unwrap();
    for event in 1..100_000 {
        graph.insert(event, &[0]).unwrap();
    }
    graph.set_complete(true);
    // The one shared event that cites the first is the last to be asked about.
    let answer = check_bound(&graph, &[&[99_999], &[]], &BTreeSet::from([1]), true);
    assert_eq!(answer.events, [99_999]);
    let answer = check_bound(&graph, &[&[99_999], &[2]], &BTreeSet::from([99_998]), false);
    assert_eq!(answer.events, [2, 99_999]);
    assert!(answer.effort.probes < 100);
}

/// Layers in which everything cites the whole layer before: many edges, more paths.
#[test]
fn dense_layers_are_swept() {
    let (width, depth) = (100, 100);
    let mut graph = AuthGraph::new();
    for event in 0..width * depth {
        let layer = event / width;
        let cited: Vec<i64> = if layer == 0 { vec![] } else { ((layer - 1) * width..layer * width).collect() };
        graph.insert(event, &cited).unwrap();
    }
    graph.set_complete(true);
    let last = width * depth - 1;
    let answer = check_bound(&graph, &[&[last], &[last - 1], &[0]], &BTreeSet::new(), true);
    assert_eq!(answer.events.len() as i64, width * (depth - 1) - width + 2 + width - 1);
}

#[test]
fn a_seeded_graph_of_100_000_events_is_bounded() {
    for seed in 0..3 {
        let mut dice = Dice(seed);
        let auth = random_auth(&mut dice, 100_000, seed == 0, false);
        let graph = graph(&auth);
        let shared: BTreeSet<i64> = auth.keys().copied().filter(|_| dice.roll(10) == 0).collect();
        let numbers: Vec<i64> = auth.keys().copied().collect();
        let mut side = || -> Vec<i64> { (0..20).map(|_| numbers[dice.roll(numbers.len())]).collect() };
        let sides = [side(), side(), side()];
        let sides: Vec<&[i64]> = sides.iter().map(Vec::as_slice).collect();
        let mut set = shared.clone();
        let answer = graph.auth_difference(&sides, &mut set).unwrap();
        assert_eq!(answer.events, expected_difference(&auth, &sides, &shared));
        check_bound(&graph, &sides, &shared, answer.effort.swept);
    }
}

#[test]
fn an_event_takes_few_bytes() {
    let mut graph = AuthGraph::new();
    graph.reserve(100_000);
    for event in 0..100_000i64 {
        let cited: Vec<i64> = (1..=3).map(|back| event - back).filter(|&e| e >= 0).collect();
        graph.insert(event, &cited).unwrap();
    }
    assert!(graph.late.is_empty());
    let each = graph.memory_bytes() / graph.len();
    assert!(each <= 64, "{each} bytes for an event");
}

#[test]
fn a_loop_comes_to_an_end() {
    let mut graph = AuthGraph::new();
    graph.insert(1, &[3, 1]).unwrap();
    graph.insert(2, &[1, 1]).unwrap();
    graph.insert(3, &[2]).unwrap();
    graph.set_complete(true);
    let answer = graph.auth_difference(&[&[1], &[]], &mut BTreeSet::new()).unwrap();
    assert_eq!(answer.events, [1, 2, 3]);
    assert_eq!(graph.conflicted_subgraph(&[1]).unwrap().events, [1]);
    assert_eq!(graph.auth_chain(&[1]).unwrap().events, [1, 2, 3]);
}

#[test]
fn all_that_is_missing_is_named_at_once() {
    let mut graph = AuthGraph::new();
    graph.insert(10, &[4, 5, 6]).unwrap();
    graph.insert(11, &[5, 7]).unwrap();
    graph.insert(5, &[]).unwrap();
    let missing = |events: &[i64]| Err(AuthError::Missing(events.to_vec()));
    let mut shared = BTreeSet::from([20]);
    assert_eq!(graph.auth_difference(&[&[10, 12], &[11]], &mut shared), missing(&[4, 6, 7, 12, 20]));
    assert_eq!(graph.auth_chain(&[10, 13]), missing(&[4, 6, 13]));
    assert_eq!(graph.conflicted_subgraph(&[10, 11]), missing(&[4, 6, 7]));
    // A complete graph that is not: the heads are asked for, and what they cite.
    graph.set_complete(true);
    assert_eq!(graph.auth_difference(&[&[10], &[]], &mut BTreeSet::new()), missing(&[4, 6]));
    assert_eq!(graph.conflicted_subgraph(&[10, 5]), missing(&[6]));
}

#[test]
fn limits_are_kept() {
    let mut graph = AuthGraph::new();
    let many: Vec<i64> = (0..=AUTH_EVENTS_MAX as i64).collect();
    assert_eq!(graph.insert(99_999, &many), Err(AuthError::TooLarge));
    assert!(graph.is_empty());
    graph.insert(99_999, &many[1..]).unwrap();
    graph.insert(99_999, &[]).unwrap();
    assert_eq!(graph.edges.len(), AUTH_EVENTS_MAX);
}
