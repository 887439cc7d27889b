//! What went wrong in other servers and must not here: each row of `security.tsv` by tests that name its id in their
//! comment, as `SEC-invite-signing`.

use std::collections::BTreeMap;

use super::tests_found::is_test_attribute;
use crate::tidy::{Source, Tree};

/// How ids begin.
const PREFIX: &str = "SEC-";

/// The ids of the rows; the first line names the columns.
pub fn ids(tsv: &str) -> Vec<&str> {
    tsv.lines().skip(1).filter_map(|line| line.split('\t').next()).filter(|id| !id.is_empty()).collect()
}

/// The tests that name each id, and where ids stand above no test.
pub fn named(tree: &Tree) -> (BTreeMap<String, Vec<String>>, Vec<String>) {
    let (mut tests, mut wrong) = (BTreeMap::new(), Vec::new());
    for source in tree.sources.iter().filter(|source| source.package != "xtask") {
        named_in(source, &mut tests, &mut wrong);
    }
    (tests, wrong)
}

fn named_in(source: &Source, tests: &mut BTreeMap<String, Vec<String>>, wrong: &mut Vec<String>) {
    let (mut pending, mut is_test) = (Vec::new(), false);
    for line in source.raw.iter().map(|line| line.trim()) {
        if line.starts_with("///") {
            pending.extend(ids_in(line));
        } else if line.starts_with("#[") {
            is_test |= is_test_attribute(line);
        } else {
            let name = line.split("fn ").nth(1).filter(|_| is_test).and_then(|rest| rest.split('(').next());
            for id in pending.drain(..) {
                match name {
                    Some(name) => tests.entry(id).or_default().push(name.to_owned()),
                    None => wrong.push(format!("{}: {id} stands above no test", source.path)),
                }
            }
            is_test = false;
        }
    }
}

fn ids_in(line: &str) -> Vec<String> {
    let ends = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    let names = line.split(PREFIX).skip(1).filter_map(|rest| rest.split(ends).next());
    names.map(|name| format!("{PREFIX}{}", name.trim_end_matches('-'))).collect()
}

/// Ids that tests name and the table does not have.
pub fn unknown(ids: &[&str], tests: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let unknown = tests.iter().filter(|(id, _)| !ids.contains(&id.as_str()));
    unknown.map(|(id, tests)| format!("{id} is no row of security.tsv: {}", tests.join(" "))).collect()
}

/// Rows without a test.
pub fn without_test<'a>(ids: &[&'a str], tests: &BTreeMap<String, Vec<String>>) -> Vec<&'a str> {
    ids.iter().copied().filter(|id| !tests.contains_key(*id)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn ids_stand_above_their_tests() {
        let text = "/// SEC-a-b, SEC-c: so it is.\n#[tokio::test]\nasync fn one() {}\n/// SEC-c.\n#[test]\n#[ignore]\n\
                    fn two() {}\n/// SEC-d\nfn three() {}\n// SEC-e\n#[test]\nfn four() {}\n";
        let source = Source::parse(Path::new("crates/rooms/tests/it/main.rs"), "rooms", text);
        let (mut tests, mut wrong) = (BTreeMap::new(), Vec::new());
        named_in(&source, &mut tests, &mut wrong);
        let named = |id: &str| tests.get(id).map(|names| names.join(" ")).unwrap_or_default();
        assert_eq!([named("SEC-a-b"), named("SEC-c"), named("SEC-e")], ["one", "one two", ""]);
        assert_eq!(wrong, ["crates/rooms/tests/it/main.rs: SEC-d stands above no test"]);
        let rows = ids("id\tfrom\twhat\nSEC-a-b\tx\ty\nSEC-f\tx\ty\n");
        assert_eq!(without_test(&rows, &tests), ["SEC-f"]);
        assert_eq!(unknown(&rows, &tests), ["SEC-c is no row of security.tsv: one two"]);
    }
}
