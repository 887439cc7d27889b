//! State resolution and the authorization rules against Synapse itself, on random rooms, where
//! `HEARTH_TEST_SYNAPSE` names a Python environment in which it is installed.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use event::Pdu;
use event::auth_rules;
use event::state_res::{StateMap, resolve_all, split};
use ruma_common::OwnedEventId;
use serde_json::{Value, json};

use crate::state_res::{Graph, View, difference_by_definition, naive_subgraph, random_graph, state_sets};
use crate::support::{Rng, seeds_of};

/// Versions of each family, with rules of their own.
const FAMILIES: [&[&str]; 3] = [&["1"], &["2", "5", "6", "8", "9", "10", "11"], &["12"]];

/// Resolutions in each room.
const CASES: usize = 4;

/// A Synapse that answers.
struct Synapse {
    process: Child,
    asked: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Synapse {
    fn start(environment: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/synapse_state.py");
        let mut command = Command::new(environment.join("bin/python"));
        let mut process = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (asked, answers) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self { process, asked, answers: BufReader::new(answers) }
    }

    fn ask(&mut self, room: &Value) -> Value {
        writeln!(self.asked, "{room}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("Synapse has ended: {error}"))
    }

    fn end(self) {
        let Self { mut process, asked, .. } = self;
        drop(asked);
        assert!(process.wait().unwrap().success());
    }
}

fn entries(state: &StateMap<OwnedEventId>) -> Value {
    state.iter().map(|((kind, key), id)| json!([kind, key, id.as_str()])).collect()
}

/// Whether Synapse goes its own way with an event: power levels with a state key it compares with those of the same state
/// key, not with the room's.
fn is_odd(event: &Pdu) -> bool {
    event.kind == "m.room.power_levels" && event.state_key.as_deref() != Some("")
}

/// Whether Synapse can judge these states by the specification. No state holds a rejected event, and where these do, it
/// takes the state to lack it. It never lets a rejected event into the resolved state,
/// also where it passes against that. And to the auth chain of a state it counts the events of the state themselves: what
/// is in all states, and cited in one of them alone, is then not in the auth difference.
fn is_comparable(graph: &Graph, sets: &[StateMap<OwnedEventId>]) -> bool {
    if sets.iter().flat_map(StateMap::values).any(|id| graph.rejected.contains(id)) {
        return false;
    }
    let conflicted: BTreeSet<_> = split(graph.rules, sets).conflicted.into_values().flatten().collect();
    let in_all = |id: &OwnedEventId| sets.iter().all(|set| set.values().any(|other| other == id));
    let mut full = conflicted.clone();
    if graph.rules.version() == "12" {
        full.extend(naive_subgraph(graph, &conflicted));
    }
    if graph.rules.version() != "1" {
        let difference = difference_by_definition(graph, sets);
        if difference.iter().any(|id| !full.contains(id) && in_all(id)) {
            return false;
        }
        full.extend(difference);
    }
    full.iter().all(|id| !graph.rejected.contains(id) && !is_odd(&graph.store[id]))
}

/// Marks some events as rejected that are not themselves in question.
fn reject_some(graph: &mut Graph, sets: &[StateMap<OwnedEventId>], rng: &mut Rng) {
    let conflicted = split(graph.rules, sets).conflicted.into_values().flatten().collect();
    let mut spared = difference_by_definition(graph, sets);
    spared.extend(naive_subgraph(graph, &conflicted));
    spared.extend(sets.iter().flat_map(StateMap::values).cloned());
    spared.insert(graph.create.event_id.clone());
    let outside: Vec<OwnedEventId> = graph.order.iter().filter(|id| !spared.contains(*id)).cloned().collect();
    if !outside.is_empty() {
        graph.rejected.extend((0..3).map(|_| rng.pick(&outside).clone()));
    }
}

/// A room as Synapse is asked about it.
fn question(graph: &Graph, cases: &[Vec<StateMap<OwnedEventId>>]) -> Value {
    let event = |id: &OwnedEventId| {
        let pdu: Value = serde_json::from_slice(&graph.store[id].bytes).unwrap();
        json!({ "id": id.as_str(), "pdu": pdu, "rejected": graph.rejected.contains(id) })
    };
    let check = |id: &OwnedEventId| {
        let before = graph.state_before(&graph.store[id].prev_events);
        json!({ "event": id.as_str(), "state": entries(&before) })
    };
    json!({
        "version": graph.rules.version(),
        "events": graph.order.iter().map(event).collect::<Value>(),
        "cases": cases.iter().map(|sets| sets.iter().map(entries).collect::<Value>()).collect::<Value>(),
        "checks": graph.order.iter().skip(1).map(check).collect::<Value>(),
    })
}

/// What we deny of the events, given the states before them.
fn denied(graph: &Graph) -> Value {
    let is_denied = |id: &&OwnedEventId| {
        let event = &graph.store[*id];
        let before = graph.state_before(&event.prev_events);
        auth_rules::check(graph.rules, event, &View(graph, &before), &graph.create).is_err()
    };
    graph.order.iter().skip(1).filter(is_denied).map(|id| json!(id.as_str())).collect()
}

/// What came of the comparison of some rooms.
#[derive(Clone, Copy, Default)]
struct Figures {
    compared: usize,
    skipped: usize,
    refused: usize,
}

impl std::ops::AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.compared += other.compared;
        self.skipped += other.skipped;
        self.refused += other.refused;
    }
}

/// Compares what one room's states resolve to, and which of its events are denied.
fn compare(synapse: &mut Synapse, seed: u64, family: &[&'static str]) -> Figures {
    let mut rng = Rng(seed ^ 0x5A5A);
    let version = rng.pick(family);
    let mut graph = random_graph(seed, version);
    // One case with further rejected events, which are cited as auth events.
    let first = state_sets(&graph, &mut rng);
    reject_some(&mut graph, &first, &mut rng);
    let mut cases = vec![first];
    cases.extend((1..CASES).map(|_| state_sets(&graph, &mut rng)));
    cases.retain(|sets| is_comparable(&graph, sets));
    let answer = synapse.ask(&question(&graph, &cases));
    assert_eq!(answer["ids"], json!([]), "event ids, seed {seed}, version {version}");
    for (case, (sets, theirs)) in cases.iter().zip(answer["resolved"].as_array().unwrap()).enumerate() {
        let ours = entries(&resolve_all(graph.rules, sets, &graph).unwrap());
        assert_eq!(ours, *theirs, "state, seed {seed}, version {version}, case {case}");
    }
    let ours = denied(&graph);
    let theirs = answer["denied"].as_array().unwrap();
    for id in ours.as_array().unwrap().iter().chain(theirs) {
        let (we, they) = (ours.as_array().unwrap().contains(id), theirs.contains(id));
        let id = OwnedEventId::try_from(id.as_str().unwrap()).unwrap();
        if is_odd(&graph.store[&id]) {
            continue;
        }
        let event = String::from_utf8_lossy(&graph.store[&id].bytes);
        assert_eq!(we, they, "verdict, seed {seed}, version {version}: we and they deny {event}");
    }
    Figures { compared: cases.len(), skipped: CASES - cases.len(), refused: ours.as_array().unwrap().len() }
}

/// SEC-state-resolution.
#[test]
fn rv6_resolution_agrees_with_synapse() {
    let Some(environment) = std::env::var_os("HEARTH_TEST_SYNAPSE") else {
        println!("without Synapse (HEARTH_TEST_SYNAPSE), nothing is compared with it");
        return;
    };
    let environment = Path::new(&environment);
    let seeds: Vec<u64> = seeds_of("EVENT_SYNAPSE_SEEDS", 2_000).collect();
    let mut all = Figures::default();
    // While one Synapse thinks, the rooms for the other are made.
    std::thread::scope(|scope| {
        let halves = seeds.chunks(seeds.len().div_ceil(2).max(1));
        let started = halves.map(|seeds| {
            scope.spawn(move || {
                let (mut synapse, mut figures) = (Synapse::start(environment), Figures::default());
                for seed in seeds {
                    for family in FAMILIES {
                        figures += compare(&mut synapse, *seed, family);
                    }
                }
                synapse.end();
                figures
            })
        });
        for half in started.collect::<Vec<_>>() {
            all += half.join().unwrap();
        }
    });
    let Figures { compared, skipped, refused } = all;
    assert!(skipped < compared * 2 && refused > 0, "{skipped} skipped, {compared} compared, {refused} refused");
    println!("figures: {compared} resolutions as Synapse has them");
}
