//! The names of all tests in the tree.

use std::collections::BTreeSet;

use crate::tidy::{Source, Tree};

/// Names of the test functions, and paths of the end-to-end scripts (`tests/e2e/chat.mjs`).
pub fn tests(tree: &Tree) -> BTreeSet<String> {
    let functions = tree.sources.iter().flat_map(test_functions);
    let scripts = tree.texts.iter().map(|(path, _)| path.clone());
    functions.chain(scripts.filter(|path| path.starts_with("tests/") && path.ends_with(".mjs"))).collect()
}

/// Whether an attribute makes a test of its function.
pub fn is_test_attribute(line: &str) -> bool {
    let name = line.trim_start_matches("#[").split(['(', ']']).next().unwrap_or_default();
    name == "test" || name.ends_with("::test")
}

/// The functions of a file that stand under an attribute which makes them a test.
fn test_functions(source: &Source) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in source.code.iter().map(|line| line.trim()) {
        if line.starts_with("#[") {
            is_test |= is_test_attribute(line);
        } else if let Some(name) = line.split("fn ").nth(1).filter(|_| is_test) {
            let end = name.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(name.len());
            names.push(name[..end].to_owned());
            is_test = false;
        } else if line.ends_with('}') || line.ends_with(';') {
            is_test = false;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn only_tests_are_found() {
        let text = "fn cb1_no() {}\n#[test]\nfn cb1_yes() {}\n#[tokio::test(start_paused = true)]\n\
                    #[should_panic]\nasync fn cb2_yes() {}\n#[inline]\nfn cb3_no() {}\n";
        let source = Source::parse(Path::new("crates/rooms/tests/it/main.rs"), "rooms", text);
        assert_eq!(test_functions(&source), ["cb1_yes", "cb2_yes"]);
    }
}
