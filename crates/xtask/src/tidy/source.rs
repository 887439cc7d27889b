//! One Rust file as the laws see it: code without comments and strings, the
//! strings apart, and which lines are tests.

use std::path::Path;

/// A Rust file, split into what the checks look at. Line numbers start at 0.
#[derive(Debug)]
pub struct Source {
    /// Path below the repository's root, with `/` between its parts.
    pub path: String,
    /// Name of the crate the file belongs to.
    pub package: String,
    /// The lines as they stand in the file.
    pub raw: Vec<String>,
    /// The lines with comments and the insides of strings blanked out.
    pub code: Vec<String>,
    /// String literals, each with the line on which it starts.
    pub strings: Vec<(usize, String)>,
    /// Whether a line belongs to a test: a `#[cfg(test)]` item, or a file below `tests/`,
    /// `benches/` or `fuzz/`.
    pub test: Vec<bool>,
}

impl Source {
    /// Splits `text`, the contents of the file at `path` in crate `package`.
    #[must_use]
    pub fn parse(path: &Path, package: &str, text: &str) -> Self {
        let path = path.to_string_lossy().replace('\\', "/");
        let (code, strings) = blank(text);
        let code: Vec<String> = code.lines().map(str::to_owned).collect();
        let outside = ["/tests/", "/benches/", "/fuzz/", "/examples/"].iter().any(|dir| path.contains(dir))
            || path.ends_with("/tests.rs");
        let test = if outside { vec![true; code.len()] } else { test_lines(&code) };
        Self { package: package.to_owned(), raw: text.lines().map(str::to_owned).collect(), code, strings, test, path }
    }

    /// The numbered lines of code that are no test code.
    pub fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.iter().enumerate().filter(|(n, _)| !self.test[*n]).map(|(n, line)| (n, line.as_str()))
    }
}

/// What the scanner is inside of.
enum State {
    Code,
    LineComment,
    BlockComment(usize),
    Str { raw_hashes: Option<usize> },
}

/// Replaces comments and the insides of strings and characters by spaces, keeping line breaks, and
/// returns the strings beside.
// Long: one scanner over one state; its arms are short and share the position.
fn blank(text: &str) -> (String, Vec<(usize, String)>) {
    let chars: Vec<char> = text.chars().collect();
    let (mut out, mut strings) = (String::with_capacity(text.len()), Vec::new());
    let (mut state, mut line, mut at) = (State::Code, 0, 0);
    let (mut literal, mut literal_line) = (String::new(), 0);
    while at < chars.len() {
        let (c, next) = (chars[at], chars.get(at + 1).copied());
        if c == '\n' {
            line += 1;
            if matches!(state, State::LineComment) {
                state = State::Code;
            }
            if matches!(state, State::Str { .. }) {
                literal.push('\n');
            }
            out.push('\n');
            at += 1;
            continue;
        }
        match state {
            State::LineComment => out.push(' '),
            State::BlockComment(depth) => {
                out.push(' ');
                if (c, next) == ('/', Some('*')) {
                    state = State::BlockComment(depth + 1);
                    out.push(' ');
                    at += 1;
                } else if (c, next) == ('*', Some('/')) {
                    state = if depth == 1 { State::Code } else { State::BlockComment(depth - 1) };
                    out.push(' ');
                    at += 1;
                }
            }
            State::Str { raw_hashes } => {
                if raw_hashes.is_none() && c == '\\' && next.is_some_and(|n| n != '\n') {
                    literal.push(c);
                    literal.extend(next);
                    out.push_str("  ");
                    at += 1;
                } else if c == '"' && closes(&chars, at, raw_hashes.unwrap_or(0)) {
                    out.push('"');
                    strings.push((literal_line, std::mem::take(&mut literal)));
                    let hashes = raw_hashes.unwrap_or(0);
                    out.extend(std::iter::repeat_n('#', hashes));
                    at += hashes;
                    state = State::Code;
                } else {
                    literal.push(c);
                    out.push(' ');
                }
            }
            State::Code => {
                if (c, next) == ('/', Some('/')) {
                    state = State::LineComment;
                    out.push(' ');
                } else if (c, next) == ('/', Some('*')) {
                    state = State::BlockComment(1);
                    out.push_str("  ");
                    at += 1;
                } else if c == '"' {
                    literal_line = line;
                    state = State::Str { raw_hashes: raw_hashes(&chars, at) };
                    out.push('"');
                } else if c == '\'' {
                    let len = char_literal_len(&chars, at);
                    out.push('\'');
                    out.extend(std::iter::repeat_n(' ', len));
                    at += len;
                } else {
                    out.push(c);
                }
            }
        }
        at += 1;
    }
    (out, strings)
}

/// Whether the quote at `at` is followed by the `hashes` that close a raw string.
fn closes(chars: &[char], at: usize, hashes: usize) -> bool {
    (1..=hashes).all(|n| chars.get(at + n) == Some(&'#'))
}

/// How many hashes open the raw string whose quote stands at `at`; `None` for a plain string.
fn raw_hashes(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[..at].iter().rev().take_while(|c| **c == '#').count();
    let before: Vec<char> = chars[..at - hashes].iter().rev().take(3).copied().collect();
    let raw = match before.as_slice() {
        ['r', 'b' | 'c', before, ..] | ['r', before, ..] => !is_word(*before),
        ['r', ..] => true,
        _ => false,
    };
    // `br"` at the very start of a file has no third character to look at.
    let short = before.first() == Some(&'r') && before.len() < 3;
    (raw || short).then_some(hashes)
}

/// Letters that a name is made of.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The number of characters after the quote at `at` that belong to a character literal; 0 where the
/// quote opens a lifetime.
fn char_literal_len(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), Some(_)) => {
            let rest = &chars[(at + 3).min(chars.len())..];
            rest.iter().position(|c| *c == '\'').map_or(0, |end| end + 3)
        }
        (Some(c), Some('\'')) if *c != '\'' => 2,
        _ => 0,
    }
}

/// Marks the lines of every item that stands under `#[cfg(test)]`.
fn test_lines(code: &[String]) -> Vec<bool> {
    let mut test = vec![false; code.len()];
    let mut n = 0;
    while n < code.len() {
        if code[n].contains("#![cfg(test)]") {
            return vec![true; code.len()];
        }
        if !code[n].contains("#[cfg(test)]") && !code[n].contains("#[cfg(any(test") {
            n += 1;
            continue;
        }
        let end = item_end(code, n);
        test[n..=end].fill(true);
        n = end + 1;
    }
    test
}

/// The last line of the item that starts at line `start`: where its braces close, or its semicolon.
pub fn item_end(code: &[String], start: usize) -> usize {
    let mut depth = 0_i32;
    let mut brackets = 0_i32;
    for (n, line) in code.iter().enumerate().skip(start) {
        for c in line.chars() {
            match c {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets -= 1,
                '{' => depth += 1,
                '}' => {
                    depth -= 1;
                    if depth == 0 && brackets == 0 {
                        return n;
                    }
                }
                ';' if depth == 0 && brackets == 0 => return n,
                _ => {}
            }
        }
    }
    code.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::parse(Path::new("crates/rooms/src/send.rs"), "rooms", text)
    }

    #[test]
    fn strings_and_comments_are_no_code() {
        let s = source("let a = \"dbg!(\"; // dbg!(\nlet b = r#\"x \" dbg!(\"#; /* dbg!( /* */ */ call();\n");
        assert!(s.code.iter().all(|line| !line.contains("dbg")), "{:?}", s.code);
        assert!(s.code[1].contains("call()"), "{:?}", s.code);
        assert_eq!(s.strings, vec![(0, "dbg!(".to_owned()), (1, "x \" dbg!(".to_owned())]);
    }

    #[test]
    fn lifetimes_and_characters_are_told_apart() {
        let s = source("fn f<'a>(x: &'a str) { g('\"', '\\'', b'{', \"s\") }\n");
        assert_eq!(s.strings, vec![(0, "s".to_owned())]);
        assert_eq!(item_end(&s.code, 0), 0, "the brace in a character literal counts: {:?}", s.code);
    }

    #[test]
    fn test_modules_are_marked_to_their_closing_brace() {
        let s = source("fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n");
        assert_eq!(s.test, vec![false, true, true, true, true, false]);
    }

    #[test]
    fn a_string_over_several_lines_keeps_line_numbers() {
        let s = source("let q = \"SELECT\n 1\";\nlet z = 1;\n");
        assert_eq!(s.strings, vec![(0, "SELECT\n 1".to_owned())]);
        assert_eq!(s.code[2], "let z = 1;");
    }
}
