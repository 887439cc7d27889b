//! No function longer than a screen without a reason.

use super::source::item_end;
use super::{Source, Tree, Violation};

/// Lines that fit on a screen.
const FUNCTION_LINES_MAX: usize = 70;

/// How the reason starts, in the comment above the function.
const REASON: &str = "// Long: ";

/// A reason shorter than this says nothing.
const REASON_CHARS_MIN: usize = 15;

/// Checks every function, tests included.
pub fn check(tree: &Tree, found: &mut Vec<Violation>) {
    for source in &tree.sources {
        for (n, line) in source.code.iter().enumerate() {
            let Some(name) = function_name(line) else { continue };
            let lines = item_end(&source.code, n) - n + 1;
            if lines > FUNCTION_LINES_MAX && !has_reason(source, n) {
                let message = format!(
                    "`{name}` has {lines} lines, more than {FUNCTION_LINES_MAX}: move straight-line work \
                     down, or give the reason above it as `{REASON}…`"
                );
                found.push(Violation { path: source.path.clone(), line: n + 1, law: "long", message });
            }
        }
    }
}

/// The name of the function that starts on this line.
fn function_name(line: &str) -> Option<&str> {
    let at = line.match_indices("fn ").map(|(at, _)| at).find(|at| {
        let before = line[..*at].chars().next_back();
        before.is_none_or(|c| c == ' ')
    })?;
    let rest = &line[at + 3..];
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'))?;
    (end > 0).then(|| &rest[..end])
}

/// Whether a reason stands in the comments and attributes above line `n`.
fn has_reason(source: &Source, n: usize) -> bool {
    source.raw[..n]
        .iter()
        .rev()
        .map(|line| line.trim())
        .take_while(|line| line.starts_with("//") || line.starts_with("#[") || line.ends_with(")]"))
        .any(|line| line.strip_prefix(REASON).is_some_and(|reason| reason.len() >= REASON_CHARS_MIN))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The lines of the functions that are too long in a file of `before`, a function of `lines`
    /// lines, and a short one.
    fn long(before: &str, lines: usize) -> Vec<usize> {
        let body = "    call();\n".repeat(lines - 2);
        let text = format!("{before}pub async fn f(x: u8) -> u8 {{\n{body}}}\nfn g() {{}}\n");
        let tree = Tree {
            sources: vec![Source::parse(Path::new("crates/rooms/src/send.rs"), "rooms", &text)],
            ..Tree::default()
        };
        let mut found = Vec::new();
        check(&tree, &mut found);
        found.into_iter().map(|v| v.line).collect()
    }

    #[test]
    fn a_long_function_needs_a_reason() {
        assert_eq!(long("", 70), [0; 0]);
        assert_eq!(long("", 71), [1]);
        assert_eq!(long("// Long: one table of routes.\n#[must_use]\n", 71), [0; 0]);
        assert_eq!(long("// Long: yes.\n", 71), [2]);
        assert_eq!(long("// Long: one table of routes.\nfn h() {}\n", 71), [3]);
    }

    #[test]
    fn names_are_found() {
        assert_eq!(function_name("    pub(crate) async fn send_event<T>("), Some("send_event"));
        assert_eq!(function_name("type F = fn (u8);"), None);
        assert_eq!(function_name("let often = 1;"), None);
    }
}
