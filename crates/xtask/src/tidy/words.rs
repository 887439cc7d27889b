//! File headers, file names, and words that do not belong in the tree.

use super::{Source, Tree, Violation};

/// Leftovers, looked for in code alone.
const CODE_WORDS: &[&str] = &["todo!(", "dbg!(", "unimplemented!(", "#[allow(", "#![allow(", "#[ignore]"];

/// Checks names, headers and words.
pub fn check(tree: &Tree, found: &mut Vec<Violation>) {
    for source in &tree.sources {
        check_header(source, found);
        check_code_words(source, found);
    }
    for (path, text) in &tree.texts {
        if path.ends_with("/mod.rs") {
            let message = "name it `foo.rs` beside `foo/`".to_owned();
            found.push(Violation { path: path.clone(), line: 0, law: "file-name", message });
        }
        check_text(path, text, found);
    }
}

fn check_header(source: &Source, found: &mut Vec<Violation>) {
    // A test file may start with the attributes that its words follow.
    let opens = |line: &&String| !line.trim().is_empty() && !line.starts_with("#![");
    let first = source.raw.iter().find(opens);
    let says = first.is_some_and(|line| line.strip_prefix("//!").is_some_and(|rest| rest.trim().len() >= 10));
    if !says {
        let message = "the file opens with `//!` and says what it is for".to_owned();
        found.push(Violation { path: source.path.clone(), line: 1, law: "header", message });
    }
}

fn check_code_words(source: &Source, found: &mut Vec<Violation>) {
    for (n, line) in source.code.iter().enumerate() {
        if let Some(word) = CODE_WORDS.iter().find(|w| line.contains(*w)) {
            let message = format!("`{word}` is a leftover; for a lint use `#[expect(…, reason = …)]`");
            found.push(Violation { path: source.path.clone(), line: n + 1, law: "word", message });
        }
    }
}

/// Words that no file holds: marks of unfinished work, paths of one machine, hosts of registries.
/// They are put together here so that this file does not hold them either.
fn text_words() -> Vec<String> {
    let joined = [
        ["FIX", "ME"],
        ["XX", "X"],
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["/tmp/bash_", "jobs"],
        ["/tmp/no", "tes"],
        ["registry.np", "mjs.org"],
        ["registry.yar", "npkg.com"],
        ["pypi.", "org"],
        ["pythonhosted", ".org"],
        ["static.crates", ".io"],
        ["index.crates", ".io"],
        ["deb.debian", ".org"],
    ];
    joined.iter().map(|parts| parts.concat()).collect()
}

fn check_text(path: &str, text: &str, found: &mut Vec<Violation>) {
    let words = text_words();
    for (n, line) in text.lines().enumerate() {
        for word in words.iter().filter(|word| holds(line, word)) {
            let message = format!("`{word}` does not belong in the repository");
            found.push(Violation { path: path.to_owned(), line: n + 1, law: "word", message });
        }
    }
}

/// Whether `line` holds `word`, and not as part of a longer word (checksums hold every three letters).
fn holds(line: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '+' || c == '=';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(is_word);
        let after = line[at + word.len()..].chars().next().is_some_and(is_word);
        !(before || (after && !word.ends_with('/')))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn laws(path: &str, text: &str) -> Vec<&'static str> {
        let sources = vec![Source::parse(Path::new(path), "rooms", text)];
        let tree = Tree { sources, texts: vec![(path.to_owned(), text.to_owned())], ..Tree::default() };
        let mut found = Vec::new();
        check(&tree, &mut found);
        found.into_iter().map(|v| v.law).collect()
    }

    #[test]
    fn headers_and_names() {
        assert_eq!(laws("crates/rooms/src/send.rs", "//! Sends a message into a room.\n"), [""; 0]);
        assert_eq!(laws("crates/rooms/src/send.rs", "fn f() {}\n"), ["header"]);
        assert_eq!(laws("crates/rooms/src/send.rs", "//!\nfn f() {}\n"), ["header"]);
        assert_eq!(laws("crates/rooms/src/send/mod.rs", "//! Sends a message into a room.\n"), ["file-name"]);
    }

    #[test]
    fn leftovers_in_code_are_caught_and_in_strings_are_not() {
        let header = "//! Sends a message into a room.\n";
        for word in CODE_WORDS {
            assert_eq!(laws("crates/rooms/src/send.rs", &format!("{header}{word}x)]\n")), ["word"], "{word}");
            assert_eq!(laws("crates/rooms/src/send.rs", &format!("{header}f(\"{word}\");\n")), [""; 0], "{word}");
        }
    }

    #[test]
    fn words_that_no_file_holds_are_caught_in_comments_too() {
        for word in text_words() {
            let text = format!("//! Sends a message into a room.\n// See {word} there.\n");
            assert_eq!(laws("crates/rooms/src/send.rs", &text), ["word"], "{word}");
        }
        let checksum = format!("//! The sum is a{}b.\n", ["XX", "X"].concat());
        assert_eq!(laws("crates/rooms/src/send.rs", &checksum), [""; 0]);
    }
}
