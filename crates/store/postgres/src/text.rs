//! Text without NUL: PostgreSQL cannot store U+0000, so it is escaped, in a way that keeps the order of texts.
//!
//! U+0000 becomes U+0001 U+0001 and U+0001 becomes U+0001 U+0002. Every other character stands for itself. Texts compare
//! bytewise before and after in the same way, and a text is a prefix of another before exactly if it is after.

use std::borrow::Cow;

const ESCAPE: char = '\u{1}';
const NUL_MARK: char = '\u{1}';
const ESCAPE_MARK: char = '\u{2}';

/// The stored form of a text.
pub fn encode(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| byte <= 1) {
        return Cow::Borrowed(text);
    }
    let mut stored = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\0' => stored.extend([ESCAPE, NUL_MARK]),
            ESCAPE => stored.extend([ESCAPE, ESCAPE_MARK]),
            other => stored.push(other),
        }
    }
    Cow::Owned(stored)
}

/// The text of a stored form; `None` if no text has this stored form.
pub fn decode(stored: String) -> Option<String> {
    if !stored.contains(ESCAPE) {
        return Some(stored);
    }
    let mut text = String::with_capacity(stored.len());
    let mut characters = stored.chars();
    while let Some(character) = characters.next() {
        if character != ESCAPE {
            text.push(character);
            continue;
        }
        match characters.next()? {
            NUL_MARK => text.push('\0'),
            ESCAPE_MARK => text.push(ESCAPE),
            _ => return None,
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    const TEXTS: &[&str] = &[
        "",
        "\0",
        "\0\0",
        "\0\u{1}",
        "\0a",
        "\u{1}",
        "\u{1}\0",
        "\u{1}\u{1}",
        "\u{1}\u{2}",
        "\u{2}",
        "a",
        "a\0",
        "aa",
    ];

    #[test]
    fn every_text_comes_back() {
        for text in TEXTS {
            assert_eq!(decode(encode(text).into_owned()).as_deref(), Some(*text));
            assert!(!encode(text).contains('\0'));
        }
    }

    #[test]
    fn order_and_prefixes_stay() {
        for one in TEXTS {
            for other in TEXTS {
                assert_eq!(one.cmp(other), encode(one).cmp(&encode(other)), "{one:?} against {other:?}");
                assert_eq!(one.starts_with(other), encode(one).starts_with(&*encode(other)), "{one:?}, {other:?}");
            }
        }
    }

    #[test]
    fn a_broken_escape_is_no_text() {
        assert_eq!(decode("\u{1}".to_owned()), None);
        assert_eq!(decode("\u{1}x".to_owned()), None);
    }
}
