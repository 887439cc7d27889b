//! Text of pages as clients may show it: one line, without what is invisible or changes the direction of what follows.

/// Text without line breaks, control characters and repeated spaces, of at most `chars_max` characters; `None` if nothing
/// is left of it.
pub(crate) fn clean(text: &str, chars_max: usize) -> Option<String> {
    let mut line = String::new();
    let mut chars = 0;
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        let word: String = word.chars().filter(|c| !is_deceptive(*c)).collect();
        if word.is_empty() {
            continue;
        }
        let space = usize::from(!line.is_empty());
        let length = word.chars().count() + space;
        if chars + length > chars_max {
            let fits: String = word.chars().take(chars_max.saturating_sub(chars + space + 1)).collect();
            if space > 0 && !fits.is_empty() {
                line.push(' ');
            }
            line.push_str(&fits);
            line.push('…');
            return Some(line);
        }
        if space > 0 {
            line.push(' ');
        }
        line.push_str(&word);
        chars += length;
    }
    (!line.is_empty()).then_some(line)
}

/// Marks that turn the direction of text around (overrides, embeddings, isolates) and marks that are no characters at all.
fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cm11_text_is_one_plain_line() {
        let check = |text: &str, expected: Option<&str>| assert_eq!(clean(text, 10).as_deref(), expected, "{text:?}");
        check("  a\n\t b\u{a0}c ", Some("a b c"));
        check("\u{0}\u{1b}[1m", Some("[1m"));
        check("a\u{202e}cod.exe", Some("acod.exe"));
        check(" \n ", None);
        check("", None);
        check("0123456789", Some("0123456789"));
        check("0123456789a", Some("012345678…"));
        check("01234 56789", Some("01234 567…"));
        check("01234567 9ab", Some("01234567…"));
        check("👩‍👩‍👧", Some("👩‍👩‍👧"));
    }
}
