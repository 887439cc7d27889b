//! The observable behaviours that each have a test named by their id: `CB1` by `cb1_…`.

use std::collections::{BTreeMap, BTreeSet};

/// The behaviours that this server promises: of the client-server API, between servers, and of room versions.
pub const IDS: &[&str] = &[
    "CB1", "CB2", "CB3", "CB4", "CB5", "CB6", "CB7", "CB8", "CB9", "CB10", "CB11", "CB12", "CB13", "CB14", "CA1",
    "CA2", "CA3", "CA4", "CA5", "CA6", "CA7", "CA8", "CA9", "CA10", "CA12", "CA13", "CA14", "CA19", "CR1", "CR2",
    "CR3", "CR4", "CR5", "CR6", "CR8", "CR9", "CR10", "CR11", "CR13", "CR14", "CR15", "CR16", "CR17", "CR21", "CR24",
    "CR25", "CR29", "CR30", "CR31", "CR32", "CY1", "CY2", "CY3", "CY4", "CY5", "CY6", "CY7", "CY8", "CY9", "CY10",
    "CY11", "CY12", "CY13", "CY14", "CY15", "CY16", "CY17", "CY18", "CM1", "CM3", "CM4", "CM7", "CM8", "CM9", "CP1",
    "CP2", "CP3", "FA1", "FA2", "FA3", "FA4", "FA5", "FA6", "FA7", "FA8", "FA9", "FA10", "FA11", "FA12", "FA13",
    "FA14", "FE1", "FE2", "FE3", "FE4", "FE5", "FE6", "FE7", "FE8", "FE9", "FE10", "FE11", "FE12", "FE13", "FE14",
    "FE15", "FE16", "FJ1", "FJ2", "FJ3", "FJ4", "FJ5", "FJ6", "FJ7", "FJ8", "FJ9", "FJ10", "FJ11", "FJ12", "FJ13",
    "FJ14", "FQ1", "FQ2", "FQ3", "FQ4", "FQ5", "FQ6", "FQ7", "FQ8", "FQ9", "FQ10", "RV1", "RV2", "RV3", "RV4", "RV5",
    "RV6", "RV7", "RV8", "RV9", "RV10",
];

/// The ids without a test, but for those that `excused` gives a reason for.
pub fn without_test(tests: &BTreeSet<String>, excused: &BTreeMap<String, String>) -> Vec<String> {
    let covered: BTreeSet<String> = tests.iter().flat_map(|name| ids_of(name)).collect();
    IDS.iter().filter(|id| !covered.contains(**id) && !excused.contains_key(**id)).map(|id| (*id).to_owned()).collect()
}

/// The ids that a test's name starts with; a test may show several: `cr4_cr31_…`.
fn ids_of(name: &str) -> Vec<String> {
    name.split('_').map(str::to_uppercase).take_while(|part| IDS.contains(&part.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_start_with_ids() {
        assert_eq!(ids_of("cr13_members_at_a_token"), ["CR13"]);
        assert_eq!(ids_of("cr4_cr31_twice_is_once"), ["CR4", "CR31"]);
        assert_eq!(ids_of("members_cr13"), [""; 0]);
        assert_eq!(ids_of("cr130_x"), [""; 0]);
    }

    #[test]
    fn a_behaviour_without_its_test_is_listed() {
        let tests: BTreeSet<String> =
            IDS.iter().filter(|id| **id != "CB5").map(|id| format!("{}_x", id.to_lowercase())).collect();
        assert_eq!(without_test(&tests, &BTreeMap::new()), ["CB5"]);
        let excused = BTreeMap::from([("CB5".to_owned(), "later".to_owned())]);
        assert_eq!(without_test(&tests, &excused), [""; 0]);
    }
}
